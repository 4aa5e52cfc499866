"""Connect, ConnectWithCreds, BindAt, Listen and Accept."""

import errno
import fcntl
import os
import socket
import stat as modes
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from codec import Mid
from hosts import TRANSPORTS, Server, fails
from looks import assert_stat_is, names_in
from peer import Peer

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
def test_connect_to_a_datagram_socket(peer: Peer, tree: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as host:
        host.bind(str(tree / "sock"))
        with adopt(peer, peer.connect(peer.walk_to("sock"), socket.SOCK_DGRAM)) as client:
            client.send(b"ping")
            assert host.recv(10) == b"ping"


@ALL
def test_connect_has_the_errors_of_the_kernel(peer: Peer, tree: Path, listener: socket.socket) -> None:
    (tree / "file").touch()
    fd = peer.walk_to("sock")
    with fails(errno.EPROTOTYPE):
        peer.connect(fd, socket.SOCK_DGRAM)
    for kind in (0, 3, 4, 6, 7, 1 | socket.SOCK_NONBLOCK, 1 | socket.SOCK_CLOEXEC, 2**32 - 1):
        with fails(errno.ENXIO):
            peer.connect(fd, kind)
    with fails(errno.ENOTSOCK):
        peer.connect(peer.walk_to("file"))
    with fails(errno.EBADF):
        peer.connect(777)
    listener.close()
    with fails(errno.ECONNREFUSED):
        peer.connect(fd)


@ALL
def test_connect_to_an_unlinked_socket_still_works(peer: Peer, tree: Path, listener: socket.socket) -> None:
    fd = peer.walk_to("sock")
    (tree / "sock").unlink()
    with adopt(peer, peer.connect(fd)), listener.accept()[0]:
        pass


@ALL
def test_connect_never_goes_through_a_symlink(peer: Peer, tree: Path, listener: socket.socket) -> None:
    os.symlink("sock", tree / "link")
    fd = peer.walk_to("link")
    with fails(errno.ENOTSOCK):
        peer.connect(fd)


@ALL
@pytest.mark.parametrize("uid,gid", [(1234, 5678), (0, 5678), (1234, 0), (0, 0)])
def test_connect_with_creds_shows_the_host_those_ids(
    peer: Peer, tree: Path, listener: socket.socket, uid: int, gid: int
) -> None:
    """c4f686f4e (#11291): a peer on a Unix socket saw root."""
    os.chmod(tree / "sock", 0o777)
    fd = peer.walk_to("sock")
    with adopt(peer, peer.connectwithcreds(fd, uid, gid)), listener.accept()[0] as served:
        assert credentials(served)[1:] == (uid, gid)
        groups = served.getsockopt(socket.SOL_SOCKET, 59, 400)  # SO_PEERGROUPS
        assert set(struct.unpack(f"{len(groups) // 4}I", groups)) <= {gid}
    with adopt(peer, peer.connect(fd)), listener.accept()[0] as served:
        assert credentials(served)[1:] == (os.getuid(), os.getgid())


@ALL
def test_connect_with_creds_has_the_rights_of_those_ids(peer: Peer, tree: Path, listener: socket.socket) -> None:
    os.chown(tree / "sock", 1234, 5678)
    os.chmod(tree / "sock", 0o700)
    fd = peer.walk_to("sock")
    with fails(errno.EACCES):
        peer.connectwithcreds(fd, 4321, 5678)
    with adopt(peer, peer.connectwithcreds(fd, 1234, 1)), listener.accept()[0]:
        pass
    created = peer.opencreateat(peer.root, "after")
    assert (created.inode.stat.uid, created.inode.stat.gid) == (os.getuid(), os.getgid())


@ALL
@pytest.mark.parametrize("uid,gid", [(2**32 - 1, 0), (0, 2**32 - 1), (2**32 - 1, 2**32 - 1)])
def test_connect_with_an_id_that_is_none_fails_and_never_connects_as_root(
    peer: Peer, listener: socket.socket, uid: int, gid: int
) -> None:
    fd = peer.walk_to("sock")
    with pytest.raises(OSError):
        peer.connectwithcreds(fd, uid, gid)
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()


@ALL
@pytest.mark.parametrize("kind", TYPES)
def test_bind_listen_accept_and_speak(peer: Peer, tree: Path, kind: int) -> None:
    created = peer.bindat(peer.root, "new", kind)
    assert modes.S_ISSOCK(created.inode.stat.mode)
    assert_stat_is(created.inode.stat, tree / "new")
    assert len(created.donated) == 1
    peer.listen(created.fd, 5)
    with fails(errno.EAGAIN):
        peer.accept(created.fd)
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(str(tree / "new"))
        address, fds = peer.accept(created.fd)
        assert address == b""
        with adopt(peer, fds) as served:
            client.send(b"ping")
            assert served.recv(10) == b"ping"
    with fails(errno.EAGAIN):
        peer.accept(created.fd)


@ALL
@pytest.mark.parametrize("name", ["short", "l" * 255])
def test_a_bind_to_a_name_that_exists_is_eaddrinuse_whatever_its_length(peer: Peer, tree: Path, name: str) -> None:
    (tree / name).write_bytes(b"kept")
    with fails(errno.EADDRINUSE):
        peer.bindat(peer.root, name)
    assert (tree / name).read_bytes() == b"kept"
    assert os.listdir(tree) == [name]


@ALL
def test_a_bound_datagram_socket_receives_by_the_donated_fd(peer: Peer, tree: Path) -> None:
    created = peer.bindat(peer.root, "new", socket.SOCK_DGRAM)
    with adopt(peer, created.donated) as bound, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"ping", str(tree / "new"))
        assert bound.recv(10) == b"ping"


@ALL
def test_the_address_of_a_client_is_never_told(peer: Peer, tree: Path, spot: Path) -> None:
    bound = peer.bindat(peer.root, "new").fd
    peer.listen(bound)
    with socket.socket(socket.AF_UNIX) as client:
        client.bind(str(spot / "secret-path"))
        client.connect(str(tree / "new"))
        assert peer.accept(bound)[0] == b""


@ALL
def test_connect_to_what_was_bound_here(peer: Peer) -> None:
    created = peer.bindat(peer.root, "new")
    with fails(errno.ECONNREFUSED):
        peer.connect(created.inode.fd)
    peer.listen(created.fd)
    with adopt(peer, peer.connect(created.inode.fd)) as client, adopt(peer, peer.accept(created.fd)[1]) as served:
        client.send(b"ping")
        assert served.recv(10) == b"ping"


@ALL
@pytest.mark.parametrize("kind", [0, 3, 4, 6, 1 | socket.SOCK_NONBLOCK, 2**32 - 1])
def test_another_socket_type_is_enxio_and_makes_nothing(peer: Peer, tree: Path, kind: int) -> None:
    with fails(errno.ENXIO):
        peer.bindat(peer.root, "new", kind)
    assert names_in(tree) == []


@ALL
@pytest.mark.parametrize("backlog", [-1, 0, 1, 2**31 - 1, -(2**31)])
def test_any_backlog_is_taken_as_the_kernel_takes_it(peer: Peer, tree: Path, backlog: int) -> None:
    bound = peer.bindat(peer.root, "new").fd
    peer.listen(bound, backlog)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tree / "new"))


@ALL
def test_listen_and_accept_need_a_bound_socket(peer: Peer, tree: Path) -> None:
    created = peer.bindat(peer.root, "new")
    opened = peer.openat(peer.root).fd
    for wrong, number in ((created.inode.fd, errno.EINVAL), (opened, errno.EINVAL), (777, errno.EBADF)):
        with fails(number):
            peer.listen(wrong)
        with fails(number):
            peer.accept(wrong)
    with fails(errno.EINVAL):
        peer.accept(created.fd)  # does not listen
    for call in (peer.openat, peer.readlinkat, peer.connect):
        with fails(errno.EINVAL):
            call(created.fd)


@ALL
def test_closing_the_bound_fd_closes_the_socket(server: Server) -> None:
    with server.peer() as peer:
        created = peer.bindat(peer.root, "new")
        peer.listen(created.fd)
        for fd in peer.disown(created.donated):
            os.close(fd)
        peer.close(created.fd)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(server.tree / "new"))
        with fails(errno.EBADF):
            peer.listen(created.fd)
        assert modes.S_ISSOCK(peer.fstat(created.inode.fd).mode)


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


@ALL
def test_opening_a_socket_never_gives_an_open_fd(peer: Peer, listener: socket.socket) -> None:
    fd = peer.walk_to("sock")
    with fails(errno.ENXIO):
        peer.openat(fd, os.O_RDONLY)


@ALL
def test_a_bind_with_a_lying_name_is_eio(peer: Peer, tree: Path) -> None:
    head = struct.pack("<QIIH6xI", peer.root, 0, 0, 0o755, 1)
    for tail in (b"", b"\x05\x00new", b"\x03\x00newer"):
        with fails(errno.EIO):
            peer.call(Mid.BINDAT, head + tail)
    assert names_in(tree) == []
