"""File descriptors that a client sends to the server (SCM_RIGHTS): it wants none, and keeps none open.

The witness is a pipe: its write end is sent and closed here, so its read end tells of the end of file when the server, or the
kernel in its place, has closed the copy as well.
"""

import array
import os
import select
import socket
import struct
import time
from collections.abc import Iterator

import pytest
from hosts import PATIENCE, Server, wait_until

from gofer.conform.codec import Mid
from gofer.conform.peer import Peer, open_channel, over_socket
from gofer.conform.transport import HEADER, SocketTransport

MOST = 253  # SCM_MAX_FD
FSTAT = HEADER.pack(8, Mid.FSTAT, 0) + struct.pack("<Q", 1)


def kernel_can_refuse() -> bool:
    """Whether it knows SO_PASSRIGHTS, as Linux does from 6.16 on."""
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, 83, 0)
            return True
        except OSError:
            return False


KERNEL_CAN_REFUSE = kernel_can_refuse()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The read end, and a write end that the test is to close."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)


def rights(*fds: int) -> list[tuple[int, int, array.array]]:  # type: ignore[type-arg]
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]


def sock_of(peer: Peer) -> socket.socket:
    assert isinstance(peer.transport, SocketTransport)
    return peer.transport.sock


def sent(peer: Peer, data: bytes, *fds: int) -> bool:
    """Send data with these fds, or without where the kernel refuses them on the server's behalf; whether they went."""
    try:
        sock_of(peer).sendmsg([data], rights(*fds))
        return True
    except PermissionError:
        assert KERNEL_CAN_REFUSE
        sock_of(peer).sendall(data)
        return False


def all_closed(reader: int, patience: float = PATIENCE) -> bool:
    """Whether nobody has a write end of the pipe any more."""
    return bool(select.select([reader], [], [], patience)[0]) and os.read(reader, 1) == b""


def test_where_the_kernel_can_refuse_them_it_does(server: Server, pipe: tuple[int, int]) -> None:
    """Not even a dead file's close(2), which may take as long as its owner likes, is the server's then."""
    with server.peer() as peer:
        assert sent(peer, FSTAT, pipe[1]) != KERNEL_CAN_REFUSE
        assert peer.transport.receive().mid == Mid.FSTAT  # type: ignore[union-attr]
    os.close(pipe[1])


@pytest.mark.parametrize("count", [1, 2, 8, 9, MOST])
@pytest.mark.parametrize("cut", [1, 8, len(FSTAT)])
def test_fds_that_come_with_a_request_are_closed_at_once(
    server: Server, pipe: tuple[int, int], count: int, cut: int
) -> None:
    """The server asks recvmsg(2) for no control data, so the kernel closes them, however many, as if MSG_CTRUNC."""
    reader, writer = pipe
    with server.peer() as peer:
        before = len(server.open_fds())
        sent(peer, FSTAT[:cut], *[writer] * count)
        os.close(writer)
        assert all_closed(reader)
        assert len(server.open_fds()) <= before
        sock_of(peer).sendall(FSTAT[cut:])
        assert peer.transport.receive().mid == Mid.FSTAT  # type: ignore[union-attr]


def test_a_flood_of_fds_leaves_none(server: Server, pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with server.peer() as peer, server.peer() as other:
        before = len(server.open_fds())
        for _ in range(300):
            sent(peer, FSTAT, *[writer] * MOST)
            assert peer.transport.receive().mid == Mid.FSTAT  # type: ignore[union-attr]
        os.close(writer)
        assert all_closed(reader)
        assert len(server.open_fds()) <= before
        assert other.fstat(other.root)


def test_fds_that_wait_behind_replies_nobody_reads_end_with_the_connection(
    server: Server, pipe: tuple[int, int]
) -> None:
    """The server reads nothing meanwhile, so they stay in the client's own socket; the kernel counts them to the client."""
    (server.tree / "file").write_bytes(b"x" * (1 << 20))
    reader, writer = pipe
    with server.peer() as peer:
        opened = peer.openat(peer.walk_to("file")).fd
        sock_of(peer).sendall((HEADER.pack(24, Mid.PREAD, 0) + struct.pack("<QQI4x", 0, opened, 1 << 20)) * 4)
        time.sleep(0.1)
        before = len(server.open_fds())
        went = [sent(peer, FSTAT, writer) for _ in range(5)]
        os.close(writer)
        assert len(server.open_fds()) <= before
        assert all_closed(reader, 0.1) == (not any(went))
    assert all_closed(reader)


def test_the_socket_of_a_channel_takes_no_fds(server: Server, pipe: tuple[int, int]) -> None:
    """Nobody reads it on the server's side, so nothing may be put there: it is shut down for that direction."""
    reader, writer = pipe
    (server.tree / "file").touch()
    with server.peer() as peer:
        channel, _ = open_channel(peer)
        for count in (1, MOST):
            with pytest.raises(BrokenPipeError):
                channel.sock.sendmsg([b"x"], rights(*[writer] * count))
            with pytest.raises(BrokenPipeError):
                channel.sock.sendmsg([], rights(writer))
        os.close(writer)
        assert all_closed(reader)
        assert channel.handshake() == b"{}\n"
        fd = peer.walk_to("file")
        for _ in range(3):  # the other direction works
            reply = channel.exchange(Mid.OPENAT, struct.pack("<QI4x", fd, os.O_RDWR))
            assert reply.mid == Mid.OPENAT and len(reply.fds) == 1
            os.close(reply.fds[0])


def test_a_client_that_sends_its_own_connection_and_dies_leaves_nothing(server: Server) -> None:
    """A socket that travels inside itself. (Where the server is not reading: test_bounds.py.)"""
    for _ in range(20):
        peer = over_socket(server.connect())
        sock = sock_of(peer)
        sent(peer, FSTAT[:3], sock.fileno())
        peer.disconnect()
    wait_until(lambda: len(server.open_fds()) <= server.fds, "the server sees that they are gone")


def test_what_a_client_gets_donated_and_sends_back_is_closed(server: Server) -> None:
    (server.tree / "file").touch()
    with server.peer() as peer:
        opened = peer.openat(peer.walk_to("file"), os.O_RDWR)
        before = len(server.open_fds())
        for _ in range(50):
            sent(peer, FSTAT, *opened.donated)
            assert peer.transport.receive().mid == Mid.FSTAT  # type: ignore[union-attr]
        assert len(server.open_fds()) <= before
