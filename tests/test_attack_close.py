"""FDs closed on one transport of a connection while another uses them.

The host's fd number is free for the next file at once, and that may be anybody's. The call under way must hold what it has
looked up, not only the number; it ends with the file it began with.
"""

import contextlib
import errno
import os
import socket
import struct
import threading
from typing import Callable

import pytest
from hosts import Server, wait_until
from watch import leased

from gofer.conform.codec import Mid
from gofer.conform.peer import Peer, over_channel
from gofer.conform.transport import CHANNEL_HEADER, SERVER_ACTIVE, ChannelTransport


def of(peer: Peer) -> ChannelTransport:
    assert isinstance(peer.transport, ChannelTransport)
    return peer.transport


def test_an_fd_closed_while_another_channel_uses_it_never_becomes_another_file(server: Server) -> None:
    """Its number is free for the next file at once; the call under way keeps the file it began with."""
    for letter in b"ab":
        (server.tree / chr(letter)).write_bytes(bytes((letter,)) * 100_000)
    outcomes = {"read": 0, "refused": 0}
    errors: list[BaseException] = []
    target = 0
    done = threading.Event()

    def reads(peer: Peer) -> None:
        try:
            while not done.is_set():
                try:
                    data = peer.pread(target, 0, 100_000)
                    assert data == b"a" * 100_000
                    outcomes["read"] += 1
                except OSError as e:
                    assert e.errno == errno.EBADF
                    outcomes["refused"] += 1
        except BaseException as e:
            errors.append(e)

    with server.peer() as base:
        channels = [over_channel(base) for _ in range(2)]
        a, b = base.walk_to("a"), base.walk_to("b")
        target = base.openat(a).fd
        threads = [threading.Thread(target=reads, args=(peer,)) for peer in channels]
        for thread in threads:
            thread.start()
        rounds = 0
        while not errors and (outcomes["read"] < 50 or outcomes["refused"] < 5 or rounds < 500):
            rounds += 1
            old, target = target, base.openat(a).fd
            base.close(old)  # and at once take its number
            others = [base.openat(b).fd for _ in range(3)]
            base.close(*others)
            for fd in base.disown(base.owned[2:]):
                os.close(fd)
        done.set()
        for thread in threads:
            thread.join()
        for peer in channels:
            peer.disconnect()
    assert errors == []


# What a client does with a directory; each is to happen in "a", whatever becomes of the FD on it meanwhile.
IN_A_DIRECTORY: dict[str, Callable[[Peer, int, int], object]] = {
    "Walk": lambda p, a, file: p.close(*(inode.fd for inode in p.walk(a, "sub")[1])),
    "WalkStat": lambda p, a, file: p.walkstat(a, "sub"),
    "OpenCreateAt": lambda p, a, file: p.opencreateat(a, "new").donated,
    "MkdirAt": lambda p, a, file: p.mkdirat(a, "new"),
    "MknodAt": lambda p, a, file: p.mknodat(a, "new"),
    "SymlinkAt": lambda p, a, file: p.symlinkat(a, "new", "x"),
    "LinkAt": lambda p, a, file: p.linkat(a, file, "new"),
    "UnlinkAt": lambda p, a, file: p.unlinkat(a, "victim"),
    "RenameAt": lambda p, a, file: p.renameat(a, "victim", a, "moved"),
    "RenameAt2": lambda p, a, file: p.renameat2(a, "victim", a, "moved", 1),
    "BindAt": lambda p, a, file: p.bindat(a, "new"),
}


@pytest.mark.serve("--host-uds", "all")
@pytest.mark.parametrize("message", IN_A_DIRECTORY)
def test_a_directory_closed_under_a_call_never_becomes_another(server: Server, message: str) -> None:
    """The call must hold what it has looked up, not only its number: the next to get that may be anybody's."""
    for name in "ab":
        (server.tree / name / "sub").mkdir(parents=True)
        (server.tree / name / "victim").touch()
    errors: list[BaseException] = []
    target = 0
    done = threading.Event()

    def act(peer: Peer, file: int) -> None:
        try:
            while not done.is_set():
                try:
                    IN_A_DIRECTORY[message](peer, target, file)
                except OSError as e:
                    assert e.errno in (errno.EBADF, errno.EEXIST, errno.ENOENT, errno.EADDRINUSE), e
                for fd in peer.disown(peer.owned[:]):
                    os.close(fd)
        except BaseException as e:
            errors.append(e)

    with server.peer() as base:
        file, target = base.walk_to("a", "victim"), base.walk_to("a")
        channels = [over_channel(base) for _ in range(2)]
        threads = [threading.Thread(target=act, args=(peer, file)) for peer in channels]
        for thread in threads:
            thread.start()
        for _ in range(400):
            old, target = target, base.walk_to("a")
            base.close(old)
            base.close(*(base.walk_to("b") for _ in range(3)))
        done.set()
        for thread in threads:
            thread.join()
        for peer in channels:
            peer.disconnect()
    assert errors == []
    assert sorted(os.listdir(server.tree / "b")) == ["sub", "victim"]


@pytest.mark.serve("--host-uds", "all")
@pytest.mark.parametrize("message", ["Connect", "ConnectWithCreds"])
def test_a_socket_closed_under_a_call_never_becomes_another(server: Server, message: str) -> None:
    errors: list[BaseException] = []
    target = 0
    done = threading.Event()

    def act(peer: Peer) -> None:
        try:
            while not done.is_set():
                try:
                    peer.connect(target) if message == "Connect" else peer.connectwithcreds(target, 5, 6)
                except OSError as e:
                    assert e.errno in (errno.EBADF, errno.EAGAIN), e
                for fd in peer.disown(peer.owned[:]):
                    os.close(fd)
        except BaseException as e:
            errors.append(e)

    with contextlib.ExitStack() as stack:
        a, b = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in "ab")
        for sock, name in ((a, "a"), (b, "b")):
            sock.bind(str(server.tree / name))
            os.chmod(server.tree / name, 0o777)
            sock.listen(100)
            sock.setblocking(False)
        base = stack.enter_context(server.peer())
        target = base.walk_to("a")
        channels = [over_channel(base) for _ in range(2)]
        threads = [threading.Thread(target=act, args=(peer,)) for peer in channels]
        for thread in threads:
            thread.start()
        accepted = 0
        while not errors and accepted < 100:
            old, target = target, base.walk_to("a")
            base.close(old)
            base.close(*(base.walk_to("b") for _ in range(3)))
            with contextlib.suppress(BlockingIOError):
                while True:
                    a.accept()[0].close()
                    accepted += 1
        done.set()
        for thread in threads:
            thread.join()
        for peer in channels:
            peer.disconnect()
        with pytest.raises(BlockingIOError):
            b.accept()[0].close()
    assert errors == []


def test_everything_is_closed_while_calls_wait_and_they_end_as_they_began(server: Server) -> None:
    (server.tree / "file").write_bytes(b"hello")
    with server.peer() as base:
        peer = over_channel(base)
        fd = base.walk_to("file")
        with leased(server.tree / "file") as awaited:
            of(peer).hand_over(CHANNEL_HEADER.pack(Mid.OPENAT, 0, 0) + struct.pack("<QI4x", fd, os.O_RDWR))
            wait_until(awaited, "the server opens the file")
            base.close(*range(1, 50))
            assert of(peer).state == SERVER_ACTIVE
        reply = Peer.check(Mid.OPENAT, of(peer).receive())
        assert os.pread(reply.fds[0], 5, 0) == b"hello"
        os.close(reply.fds[0])
        peer.disconnect()
