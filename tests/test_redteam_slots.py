"""What a client takes up is given back, and there is always some of it left for the others: slots, threads, fds in flight."""

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import socket
import struct
import termios
from pathlib import Path

import pytest
from conftest import Start
from hosts import PATIENCE, Server, fails, wait_until

from gofer.conform.codec import NO_ID, Mid, create, string
from gofer.conform.peer import Peer, over_channel, over_socket
from gofer.conform.transport import CHANNEL_HEADER, HEADER, ChannelTransport

_libc = ctypes.CDLL(None, use_errno=True)
_FUTEX, _REQUEUE = (202 if os.uname().machine == "x86_64" else 98), 3
DROPPED = "nothing sent for"


def threads(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.pid}/task"))


def moved_away(channel: ChannelTransport, elsewhere: int) -> bool:
    """FUTEX_REQUEUE: wake nobody at the channel's word, let all its waiters wait at `elsewhere`; whether there were any."""
    words = ctypes.c_void_p(channel.address), ctypes.c_void_p(elsewhere)
    most = ctypes.c_void_p(0x7FFFFFFF)
    return int(_libc.syscall(_FUTEX, words[0], ctypes.c_int(_REQUEUE), ctypes.c_int(0), most, words[1])) > 0


@pytest.mark.serve("--busy-poll", "0")
def test_threads_that_a_client_has_moved_to_a_futex_of_its_own_end_with_it(server: Server) -> None:
    """No wake at the word reaches them any more; the slots, threads and fds are free all the same."""
    before = threads(server)
    own = mmap.mmap(-1, mmap.PAGESIZE)
    base = ctypes.c_char.from_buffer(own)
    for _ in range(20):
        with server.peer("channel") as peer:
            move = functools.partial(moved_away, peer.transport, ctypes.addressof(base))
            wait_until(move, "the thread sleeps, and is moved")
    wait_until(lambda: threads(server) == before, "their threads end")
    del base
    own.close()


def connected(server: Server, most: int) -> "list[Peer]":
    """Connections of this process, until it gets no more."""
    peers: list[Peer] = []
    for _ in range(most):
        try:
            peers.append(over_socket(server.connect()))
        except ConnectionError:
            break
    return peers


def in_another_process(server: Server) -> int:
    """How many of four connections another process gets."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.write(writer, bytes([len(connected(server, 4))]))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    os.waitpid(pid, 0)
    return said[0]


@pytest.mark.parametrize("options", [(), ("--workers", "3"), ("--jail", "off")])
def test_one_process_takes_three_quarters_of_the_slots_and_no_more(start: Start, options: "tuple[str, ...]") -> None:
    server = start("--max-connections", "16", *options)
    peers = connected(server, 20)
    assert len(peers) == 12
    assert in_another_process(server) == 4
    assert "its process has 12, one's share (--max-connections)" in server.said()
    for peer in peers:
        peer.disconnect()


def test_one_user_takes_three_quarters_where_others_may_connect(start: Start) -> None:
    server = start("--max-connections", "16", "--allow-uid", "0", "--allow-uid", "65534", "--mode", "0666")
    os.chmod(server.place, 0o755)
    peers = connected(server, 11)
    assert in_another_process(server) == 1  # root has 12 with it
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.setuid(65534)
            os._exit(len(connected(server, 5)))
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    for peer in peers:
        peer.disconnect()


def test_who_connects_and_says_nothing_does_not_keep_the_slot(start: Start) -> None:
    server = start("--max-connections", "4", "--idle-message-timeout", "0.3")
    silent = [server.connect() for _ in range(4)]
    for sock in silent:
        sock.settimeout(PATIENCE)
        assert sock.recv(1) == b""
        sock.close()
    assert server.said().count(DROPPED) == 4
    with server.peer() as peer:
        peer.fstat(peer.root)


def test_whoever_has_said_something_may_be_silent_for_any_time(start: Start) -> None:
    server = start("--idle-message-timeout", "0.1")
    with server.peer() as peer, server.connect() as silent:
        assert silent.recv(1) == b""
        peer.fstat(peer.root)


# Fds in flight

OPEN = struct.pack("<QI4x", 2, os.O_RDONLY)
UNREAD = 16  # donation.py's


def ask_much(peer: Peer, times: int) -> "list[int]":
    """OpenAt, so many times, without taking what is donated; -> how many fds each reply says there are."""
    assert isinstance(peer.transport, ChannelTransport)
    counts = []
    for _ in range(times):
        peer.transport.hand_over(CHANNEL_HEADER.pack(Mid.OPENAT, 0, 0) + OPEN)
        mid, count, _ = CHANNEL_HEADER.unpack_from(peer.transport.take_back())
        assert mid == Mid.OPENAT
        counts.append(count)
    return counts


def waiting(peer: Peer) -> int:
    """Bytes that the server has sent and the client not read."""
    sock = peer.transport.sock
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), "little")


def test_what_a_client_leaves_unread_is_bounded_over_a_channel(server: Server, tree: Path) -> None:
    (tree / "file").touch()
    with server.peer("channel") as peer:
        assert peer.walk_to("file") == 2
        assert ask_much(peer, 40) == [1] * UNREAD + [0] * (40 - UNREAD)
        transport = peer.transport
        assert isinstance(transport, ChannelTransport)
        for _ in range(UNREAD):
            peer.owned += transport.donation()
        assert ask_much(peer, 2) == [1, 1]  # who reads gets more
        for _ in range(2):
            peer.owned += transport.donation()


def test_what_a_client_leaves_unread_is_bounded_over_its_socket(server: Server, tree: Path) -> None:
    (tree / "file").touch()
    with server.peer() as peer:
        assert peer.walk_to("file") == 2
        peer.transport.send((HEADER.pack(len(OPEN), Mid.OPENAT, 0) + OPEN) * 40)  # type: ignore[union-attr]
        wait_until(lambda: waiting(peer) == 40 * 16, "all 40 are served")
        replies = [peer.transport.receive() for _ in range(40)]
        counts = [len(reply.fds) for reply in replies]
        for reply in replies:
            peer.owned += reply.fds
        assert counts[:UNREAD] == [1] * UNREAD and counts.count(0) >= 40 - UNREAD - 2
        assert len(peer.openat(2).donated) == 1


@pytest.mark.serve("--host-uds", "all")
@pytest.mark.parametrize("transport", ["socket", "channel"])
def test_a_reply_that_is_of_no_use_without_its_fd_is_an_error(server: Server, tree: Path, transport: str) -> None:
    (tree / "file").touch()
    with server.peer(transport) as peer:
        assert peer.walk_to("file") == 2
        name = create(1, 0o600, NO_ID, NO_ID) + struct.pack("<I", socket.SOCK_STREAM) + string("sock")
        if isinstance(peer.transport, ChannelTransport):
            ask_much(peer, UNREAD)
            with fails(errno.ETOOMANYREFS):
                peer.call(Mid.BINDAT, name)
            with fails(errno.ENOMEM):  # what clients take for "go on with fewer"
                peer.channel()
            return
        requests = [(Mid.OPENAT, OPEN)] * UNREAD + [(Mid.BINDAT, name), (Mid.CHANNEL, b"")]
        peer.transport.send(b"".join(HEADER.pack(len(text), mid, 0) + text for mid, text in requests))
        wait_until(lambda: waiting(peer) == UNREAD * 16 + 2 * 12, "they are served")
        replies = [peer.transport.receive() for _ in requests]
        for reply in replies:
            peer.owned += reply.fds
        for reply, number in zip(replies[UNREAD:], (errno.ETOOMANYREFS, errno.ENOMEM)):
            with fails(number):
                Peer.check(0, reply)


def test_clients_that_leave_fds_unread_do_not_use_up_the_others(start: Start, spot: Path) -> None:
    """The kernel counts what is in flight by user, against RLIMIT_NOFILE: these leave as much as they can."""
    (spot / "file").touch()
    server = start("--fd-limit", "400", "--max-connections", "8", "--channels", "1")
    with contextlib.ExitStack() as stack:
        bystander = stack.enter_context(server.peer())
        for _ in range(5):
            attacker = stack.enter_context(server.peer("channel"))
            assert attacker.walk_to("file") == 2
            assert 0 in ask_much(attacker, 8)
        channel = over_channel(bystander)
        assert len(channel.openat(channel.walk_to("file")).donated) == 1
        channel.disconnect()
