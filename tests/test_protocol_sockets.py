"""What --host-uds lets through, and what becomes of sockets; the messages are in gofer/conform/cases/sockets.py."""

import errno
import fcntl
import os
import socket
import stat as modes
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import TRANSPORTS, Server
from looks import names_in

from gofer.conform.peer import Peer

TYPES = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]
ALL = pytest.mark.serve("--host-uds", "all")
OPEN = pytest.mark.serve("--host-uds", "open")
CREATE = pytest.mark.serve("--host-uds", "create")


@pytest.fixture
def listener(tree: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(tree / "sock"))
        sock.listen()
        yield sock


def adopt(peer: Peer, fds: list[int]) -> socket.socket:
    """The socket that was donated, to be closed by the caller."""
    (fd,) = peer.disown(fds)
    return socket.socket(fileno=fd)


def credentials(sock: socket.socket) -> tuple[int, int, int]:
    pid, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid, gid


@ALL
@pytest.mark.parametrize("kind", TYPES)
def test_connect_donates_a_connected_non_blocking_socket(peer: Peer, tree: Path, kind: int) -> None:
    with socket.socket(socket.AF_UNIX, kind) as host:
        host.bind(str(tree / "sock"))
        host.listen()
        with adopt(peer, peer.connect(peer.walk_to("sock"), kind)) as client, host.accept()[0] as served:
            assert client.type == kind
            client.send(b"ping")
            assert served.recv(10) == b"ping"
            served.send(b"pong")
            assert client.recv(10) == b"pong"
            assert fcntl.fcntl(client, fcntl.F_GETFL) & os.O_NONBLOCK


@ALL
def test_the_socket_of_a_lost_client_is_closed(server: Server) -> None:
    with server.peer() as peer:
        peer.listen(peer.bindat(peer.root, "new").fd)
    server.check_idle()
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(str(server.tree / "new"))


# What each setting of --host-uds lets through.


def attempts(peer: Peer) -> set[str]:
    """Which of the messages that touch host sockets are let through."""
    done = set()
    fd = peer.walk_to("sock")
    for name, call in (
        ("connect", lambda: peer.connect(fd)),
        ("creds", lambda: peer.connectwithcreds(fd, 0, 0)),
        ("bind", lambda: peer.bindat(peer.root, "new")),
    ):
        try:
            call()
            done.add(name)
        except OSError as e:
            assert e.errno == errno.EPERM
    return done


def check(server: Server, expected: set[str]) -> None:
    for transport in TRANSPORTS:
        with server.peer(transport) as peer:
            assert attempts(peer) == expected
            assert modes.S_ISSOCK(peer.fstat(peer.walk_to("sock")).mode)  # looking is always allowed
        (server.tree / "new").unlink(missing_ok=True)


def test_none_refuses_all_of_it(server: Server, listener: socket.socket) -> None:
    check(server, set())
    assert names_in(server.tree) == ["sock"]


@OPEN
def test_open_lets_connect_through(server: Server, listener: socket.socket) -> None:
    check(server, {"connect", "creds"})


@CREATE
def test_create_lets_bind_through(server: Server, listener: socket.socket) -> None:
    check(server, {"bind"})


@ALL
def test_all_lets_everything_through(server: Server, listener: socket.socket) -> None:
    check(server, {"connect", "creds", "bind"})

