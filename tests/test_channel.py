"""What our server does with channels beyond what any must (gofer/conform/cases/channel.py): options, threads, their end."""

import errno
import os
import socket
import stat as modes
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Start
from hosts import CHECKOUT, PATIENCE, Server, fails, wait_until
from watch import leased

from gofer.conform.codec import MAX_MESSAGE, Mid
from gofer.conform.corpus import session
from gofer.conform.peer import Peer, open_channel, over_channel, over_socket
from gofer.conform.transport import CHANNEL_HEADER, SERVER_ACTIVE, SHUT_DOWN, ChannelTransport

LIMIT = min(4, max(2, os.cpu_count() or 2))
F_GET_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK = 1034, 1, 2


def of(peer: Peer) -> ChannelTransport:
    assert isinstance(peer.transport, ChannelTransport)
    return peer.transport


def threads(server: Server) -> int:
    """Of channels, where one client is connected: it has one for its socket, beside the server's own."""
    return len(os.listdir(f"/proc/{server.pid}/task")) - 2


def request(mid: Mid, payload: bytes) -> bytes:
    return CHANNEL_HEADER.pack(mid, 0, 0) + payload


def fstat(fd: int) -> bytes:
    return request(Mid.FSTAT, struct.pack("<Q", fd))


@pytest.mark.serve("--channels", "0")
def test_without_channels_the_socket_serves_alone(server: Server) -> None:
    with server.peer() as peer:
        with fails(errno.ENOMEM):
            peer.channel()
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


@pytest.mark.serve("--channels", "7")
def test_the_number_of_channels_is_an_option(server: Server) -> None:
    with server.peer() as peer:
        for _ in range(7):
            open_channel(peer)
        with fails(errno.ENOMEM):
            peer.channel()


def test_a_call_that_waits_holds_up_neither_other_channels_nor_the_socket_nor_others(server: Server) -> None:
    """Another process's lease makes open(2) wait: real, and for exactly as long as we say."""
    path = server.tree / "file"
    path.write_bytes(b"hello")
    with server.peer() as base, server.peer("channel") as stranger:
        slow, quick = over_channel(base), over_channel(base)
        fd = base.walk_to("file")
        with leased(path) as awaited:
            of(slow).hand_over(request(Mid.OPENAT, struct.pack("<QI4x", fd, os.O_RDWR)))
            wait_until(awaited, "the server opens the file")
            for peer in (quick, base, stranger):
                for _ in range(20):
                    assert modes.S_ISDIR(peer.fstat(peer.root).mode)
                    assert peer.walk(peer.root, "file")[0] == 0
            assert of(slow).state == SERVER_ACTIVE, "they were not answered before it"
        reply = Peer.check(Mid.OPENAT, of(slow).receive())
        opened = struct.unpack("<Q", reply.payload)[0]
        for donated in reply.fds:
            os.close(donated)
        assert quick.pread(opened, 0, 5) == b"hello"
        slow.disconnect()
        quick.disconnect()


def test_when_the_client_shuts_down_an_idle_channel_its_thread_ends(server: Server) -> None:
    with server.peer() as base:
        peer = over_channel(base)
        assert threads(server) == 1
        of(peer).state = SHUT_DOWN
        wait_until(lambda: threads(server) == 0, "the channel's thread ends")
        assert of(peer).state == SHUT_DOWN
        assert modes.S_ISDIR(base.fstat(base.root).mode)
        peer.disconnect()


def test_a_shutdown_while_the_server_works_is_never_overwritten(server: Server) -> None:
    path = server.tree / "file"
    path.touch()
    with server.peer() as base:
        peer = over_channel(base)
        fd = base.walk_to("file")
        with leased(path) as awaited:
            of(peer).hand_over(request(Mid.OPENAT, struct.pack("<QI4x", fd, os.O_RDWR)))
            wait_until(awaited, "the server opens the file")
            of(peer).state = SHUT_DOWN
        wait_until(lambda: threads(server) == 0, "the channel's thread ends")
        assert of(peer).state == SHUT_DOWN
        assert modes.S_ISDIR(base.fstat(base.root).mode)
        peer.disconnect()


def test_a_race_of_shutdown_and_reply_always_ends_the_channel(start: Start) -> None:
    server = start("--channels", "100")
    with server.peer() as base:
        for i in range(60):
            peer = over_channel(base)
            of(peer).hand_over(fstat(base.root))
            for _ in range(i * 7):
                pass
            of(peer).state = SHUT_DOWN
            assert of(peer).ended()
            peer.disconnect()
        wait_until(lambda: threads(server) == 0, "all channels' threads end")


@pytest.mark.parametrize("state", [3, 4, 5, 7, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_state_that_is_none_ends_that_channel_only(server: Server, state: int) -> None:
    with server.peer() as base:
        bad, good = over_channel(base), over_channel(base)
        of(bad).state = state
        wait_until(lambda: threads(server) == 1, "the channel's thread ends")
        assert of(bad).state not in (0, SERVER_ACTIVE)
        assert modes.S_ISDIR(good.fstat(base.root).mode)
        bad.disconnect()
        good.disconnect()


def test_a_channel_that_was_shut_down_does_not_come_back(server: Server) -> None:
    with server.peer() as base:
        peer = over_channel(base)
        of(peer).state = SHUT_DOWN
        wait_until(lambda: threads(server) == 0, "the channel's thread ends")
        of(peer).state = 0
        of(peer).hand_over(fstat(base.root))
        time.sleep(0.05)
        assert of(peer).state == SERVER_ACTIVE  # nobody is there to answer
        peer.disconnect()


@pytest.mark.parametrize("length", [0, 1, 3, 4, 11, 13, MAX_MESSAGE + 5, 2**21, 2**31, 2**32 - 1])
def test_a_data_len_that_lies_is_eio_and_the_channel_goes_on(server: Server, length: int) -> None:
    with server.peer("channel") as peer:
        of(peer).hand_over(fstat(peer.root), length)
        with fails(errno.EIO):
            Peer.check(Mid.FSTAT, of(peer).receive())
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


def test_what_the_kernel_puts_into_the_window_itself_is_what_it_answers_anybody(server: Server, tree: Path) -> None:
    places = [2**31 - 4, 2**31 - 2, 2**31, 2**32, 2**32 + 2, 2**40]  # on both sides of what a C int holds
    with (tree / "sparse").open("wb") as sparse:
        for number, at in enumerate(places):
            os.pwrite(sparse.fileno(), b"%02d" % number, at)
    longest = b"t" * 4095
    os.symlink(longest, tree / "longest")
    with server.peer("channel") as peer:
        fd = peer.openat(peer.walk_to("sparse")).fd
        assert [peer.pread(fd, at, 2) for at in places] == [b"%02d" % number for number in range(len(places))]
        assert peer.pread(fd, 2**40, 4096) == b"05"
        assert peer.pread(fd, 2**40 + 2, 4096) == b""
        with fails(errno.EISDIR):
            peer.pread(peer.openat(peer.root).fd, 0, 10)
        assert peer.readlinkat(peer.walk_to("longest")) == longest


def test_the_end_of_the_connection_ends_its_channels(server: Server) -> None:
    with server.peer() as base:
        peer = over_channel(base)
        base.transport.close()
        wait_until(lambda: of(peer).state == SHUT_DOWN, "the channel is shut down")
        peer.disconnect()


def test_a_client_that_dies_in_a_call_takes_nothing_with_it(server: Server, tree: Path) -> None:
    (tree / "file").write_bytes(b"x" * 65536)
    pid = os.fork()
    if pid == 0:
        try:
            with server.peer("channel") as peer:
                fd = peer.openat(peer.walk_to("file")).fd
                of(peer).hand_over(request(Mid.PREAD, struct.pack("<QQI4x", 0, fd, 65536)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    with server.peer("channel") as peer:
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)
    server.check_idle()


def test_a_word_written_without_a_wake_keeps_no_channel_alive(server: Server) -> None:
    """The server's thread sleeps then, while the word says that it is at work. `server` sees that it ends."""
    with server.peer("channel") as peer:
        peer.fstat(peer.root)
        wait_until(lambda: asleep(server), "the channel's thread sleeps")
        struct.pack_into("<I", of(peer).window, 0, SERVER_ACTIVE)


def asleep(server: Server) -> bool:
    """Whether a thread of the server waits for a futex."""
    return any("futex" in (task / "wchan").read_text() for task in Path(f"/proc/{server.pid}/task").iterdir())


def test_where_loads_may_overtake_each_other_every_message_is_served_all_the_same(spot: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        options = ["serve", str(spot), "--quiet", "--host-uds=all", "--xattrs=all", f"--fd={theirs.fileno()}"]
        code = (
            f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
            "from gofer import cli; from gofer.server import channel\n"
            "channel._LOADS_IN_ORDER = False\n"
            f"sys.exit(cli.main({options!r}))"
        )
        process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
    base = over_socket(ours)
    peer = over_channel(base)
    session(peer)
    peer.disconnect()
    base.disconnect()
    assert process.wait(PATIENCE) == 0
