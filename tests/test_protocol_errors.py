"""Requests that are no requests: unknown ids, wrong lengths, wrong FDs; and that the connection goes on."""

import errno
import os
import stat as modes
from pathlib import Path

import pytest
from codec import MAX_MESSAGE, Mid
from hosts import Server, fails
from looks import names_in
from peer import Peer, over_socket
from transport import HEADER, SocketTransport
from vectors import REQUESTS, Vector

# Requests whose one field is a length of its own, so that a shorter one can be well-formed: none with this property
# exists but PWrite, whose data may be any number of bytes - and it says that number.


def test_message_id_zero_is_einval(peer: Peer) -> None:
    for payload in (b"", b"\0\0\0\0", b"x" * 100):
        with fails(errno.EINVAL):
            peer.call(Mid.ERROR, payload)


@pytest.mark.parametrize("mid", [34, 35, 70, 72, 99, 255, 256, 0x7FFF, 0x8000, 0xFFFF])
def test_an_unknown_message_id_is_eopnotsupp(peer: Peer, mid: int) -> None:
    for payload in (b"", b"x" * 4096):
        with fails(errno.EOPNOTSUPP):
            peer.call(mid, payload)
    assert modes.S_ISDIR(peer.fstat(peer.root).mode)


@pytest.mark.serve("--host-uds", "all", "--xattrs", "all")
@pytest.mark.parametrize("vector", REQUESTS, ids=lambda vector: vector.message)
def test_a_request_cut_at_any_length_is_eio(peer: Peer, tree: Path, vector: Vector) -> None:
    """0fd9b69d5, 70afab3c9: a short message was read past its end, or crashed the server."""
    for length in range(len(vector.raw)):
        with fails(errno.EIO):
            peer.call(vector.mid, vector.raw[:length])
    assert names_in(tree) == []


@pytest.mark.serve("--host-uds", "all", "--xattrs", "all")
@pytest.mark.parametrize("vector", REQUESTS, ids=lambda vector: vector.message)
def test_a_request_with_bytes_behind_its_end_is_eio(peer: Peer, tree: Path, vector: Vector) -> None:
    for more in (b"\0", b"x" * 7, b"\0" * 65536):
        with fails(errno.EIO):
            peer.call(vector.mid, vector.raw + more)
    assert names_in(tree) == []


@pytest.mark.parametrize("mid", [Mid.MOUNT, Mid.CHANNEL])
def test_a_request_that_has_no_fields_takes_none(peer: Peer, mid: Mid) -> None:
    """A Mount with a path is the dialect of 2021, in which the client chose it."""
    for payload in (b"\0", b"\x01\x00\x00\x00/"):
        with fails(errno.EIO):
            peer.call(mid, payload)


@pytest.mark.parametrize("vector", REQUESTS, ids=lambda vector: vector.message)
def test_a_request_for_an_unknown_fd_is_ebadf(server: Server, vector: Vector) -> None:
    """All vectors name FDs from 1 on; here every one is closed. Close and flags that are checked first are told apart."""
    with server.peer() as peer:
        peer.close(peer.root)
        if vector.mid == Mid.CLOSE:
            peer.call(vector.mid, vector.raw)
        else:
            with fails(errno.EBADF):
                peer.call(vector.mid, vector.raw)


def test_before_mount_there_is_no_fd(server: Server) -> None:
    sock = server.connect()
    peer = Peer(SocketTransport(sock))
    try:
        for fd in (0, 1, 2):
            with fails(errno.EBADF):
                peer.fstat(fd)
        assert peer.mount().root.fd == 1
    finally:
        peer.disconnect()


def test_the_largest_message_is_taken_and_one_byte_more_ends_the_connection(server: Server) -> None:
    peer = over_socket(server.connect())
    try:
        with fails(errno.EIO):
            peer.call(Mid.FSTAT, b"\0" * MAX_MESSAGE)
        transport = peer.transport
        assert isinstance(transport, SocketTransport)
        transport.send(HEADER.pack(MAX_MESSAGE + 1, Mid.FSTAT, 0))
        assert transport.ended()
    finally:
        peer.disconnect()


def test_the_reserved_bytes_of_the_header_are_ignored(server: Server) -> None:
    with server.peer() as peer:
        assert isinstance(peer.transport, SocketTransport)
        peer.transport.send(HEADER.pack(8, Mid.FSTAT, 0xFFFF) + peer.root.to_bytes(8, "little"))
        reply = Peer.check(Mid.FSTAT, peer.transport.receive())
        assert len(reply.payload) == 144


def test_a_request_may_come_byte_by_byte(server: Server) -> None:
    request = HEADER.pack(8, Mid.FSTAT, 0) + (1).to_bytes(8, "little")
    with server.peer() as peer:
        assert isinstance(peer.transport, SocketTransport)
        for i in range(len(request)):
            peer.transport.send(request[i : i + 1])
        assert len(Peer.check(Mid.FSTAT, peer.transport.receive()).payload) == 144


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 15])
def test_a_request_may_come_in_two_halves_and_others_are_served_between(server: Server, cut: int) -> None:
    request = HEADER.pack(8, Mid.FSTAT, 0) + (1).to_bytes(8, "little")
    with server.peer() as peer, server.peer() as other:
        assert isinstance(peer.transport, SocketTransport)
        peer.transport.send(request[:cut])
        assert modes.S_ISDIR(other.fstat(other.root).mode)
        peer.transport.send(request[cut:])
        assert len(Peer.check(Mid.FSTAT, peer.transport.receive()).payload) == 144


def test_requests_sent_ahead_are_answered_in_order(server: Server) -> None:
    """Strictly request, reply is what clients do; sending ahead must still never mix replies up."""
    with server.peer() as peer:
        transport = peer.transport
        assert isinstance(transport, SocketTransport)
        fstat = HEADER.pack(8, Mid.FSTAT, 0) + (1).to_bytes(8, "little")
        transport.send((fstat + HEADER.pack(0, 99, 0)) * 50)
        for _ in range(50):
            assert len(Peer.check(Mid.FSTAT, transport.receive()).payload) == 144
            with fails(errno.EOPNOTSUPP):
                Peer.check(99, transport.receive())


def test_a_client_that_takes_no_replies_holds_up_nobody_and_loses_none(server: Server) -> None:
    (server.tree / "file").write_bytes(os.urandom(1 << 20))
    data = (server.tree / "file").read_bytes()
    with server.peer() as slow, server.peer() as other:
        fd = slow.openat(slow.walk_to("file")).fd
        transport = slow.transport
        assert isinstance(transport, SocketTransport)
        read = (0).to_bytes(8, "little") + fd.to_bytes(8, "little") + (1 << 20).to_bytes(4, "little") + bytes(4)
        transport.send((HEADER.pack(len(read), Mid.PREAD, 0) + read) * 8)
        for _ in range(20):
            assert modes.S_ISDIR(other.fstat(other.root).mode)
        for _ in range(8):
            assert Peer.check(Mid.PREAD, transport.receive()).payload[8:] == data


def test_the_error_reply_is_one_u32_and_the_connection_goes_on(peer: Peer, tree: Path) -> None:
    for _ in range(100):
        reply = peer.exchange(Mid.FSTAT, b"")
        assert (reply.mid, reply.payload, reply.zero) == (Mid.ERROR, errno.EIO.to_bytes(4, "little"), 0)
    assert modes.S_ISDIR(peer.fstat(peer.root).mode)
