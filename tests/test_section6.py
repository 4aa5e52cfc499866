"""What the Go gofer of 2022 gets wrong on the wire, item by item of the protocol page's section 6, and we do not."""

import errno
import os
import socket
import stat as modes
from pathlib import Path

import pytest
from conftest import Start
from hosts import Server, fails
from watch import opens_of

from gofer.conform.codec import GID, MODE, UID, Mid
from gofer.conform.peer import Peer, over_socket
from gofer.conform.transport import HEADER, SocketTransport

ALL = pytest.mark.serve("--host-uds", "all")


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x00200000])
def test_1_a_header_that_claims_gigabytes_costs_its_sender_the_connection_and_nobody_memory(
    server: Server, length: int
) -> None:
    with server.peer() as bystander:
        before = server.rss()
        victim = over_socket(server.connect())
        assert isinstance(victim.transport, SocketTransport)
        victim.transport.send(HEADER.pack(length, Mid.FSTAT, 0))
        assert victim.transport.ended()
        victim.disconnect()
        assert modes.S_ISDIR(bystander.fstat(bystander.root).mode)
        assert server.rss() < before + 4096


def test_2_a_pread_of_four_gigabytes_is_enobufs(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = peer.openat(peer.walk_to("file")).fd
    for count in (2**32 - 1, 2**32 - 8, 2**31):
        with fails(errno.ENOBUFS):
            peer.pread(fd, 0, count)


def test_3_the_target_of_an_unlinked_symlink_can_still_be_read(peer: Peer, tree: Path) -> None:
    os.symlink("target", tree / "link")
    fd = peer.walk_to("link")
    (tree / "link").unlink()
    assert peer.readlinkat(fd) == b"target"


def test_3_an_error_of_flistxattr_is_told(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    os.setxattr(tree / "file", "user.name", b"")
    fd = peer.walk_to("file")
    with fails(errno.ERANGE):
        peer.flistxattr(fd, 3)


def test_4_a_rename_of_a_missing_name_onto_itself_is_enoent(peer: Peer) -> None:
    with fails(errno.ENOENT):
        peer.renameat(peer.root, "missing", peer.root, "missing")
    with fails(errno.ENOENT):
        peer.renameat2(peer.root, "missing", peer.root, "missing")


def test_5_set_id_bits_survive_create_and_setstat(peer: Peer) -> None:
    created = peer.opencreateat(peer.root, "made", mode=0o4755, uid=1234, gid=5678)
    assert created.inode.stat.mode & 0o7777 == 0o4755
    assert peer.setstat(created.inode.fd, MODE | UID | GID, mode=0o6755, uid=4321, gid=8765) == (0, 0)
    assert peer.fstat(created.inode.fd).mode & 0o7777 == 0o6755


@ALL
def test_6_a_bound_socket_is_gone_when_both_its_fds_are_closed(server: Server) -> None:
    with server.peer() as peer:
        before = len(server.open_fds())
        created = peer.bindat(peer.root, "sock")
        peer.listen(created.fd)
        for fd in peer.disown(created.donated):
            os.close(fd)
        peer.close(created.inode.fd, created.fd)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(server.tree / "sock"))
        assert len(server.open_fds()) == before


@ALL
def test_7_fstat_of_a_bound_socket_fd_is_einval(peer: Peer) -> None:
    bound = peer.bindat(peer.root, "sock").fd
    with fails(errno.EINVAL):
        peer.fstat(bound)


def test_8_a_getdents_count_below_one_entry_is_einval(peer: Peer, tree: Path) -> None:
    (tree / "name").touch()
    fd = peer.openat(peer.root).fd
    for count in (-1, -20, 1, 20):
        with fails(errno.EINVAL):
            peer.getdents64(fd, count)


@pytest.mark.serve("--xattrs", "all")
def test_9_an_xattr_too_long_for_its_length_field_is_e2big(start: Start) -> None:
    """Few file systems hold 65,536 bytes; tmpfs does."""
    with open("/proc/self/mounts") as mounts:
        assert any(line.split()[1:3] == ["/dev/shm", "tmpfs"] for line in mounts)
    place = Path(f"/dev/shm/gofer-test-{os.getpid()}")
    place.mkdir()
    try:
        (place / "file").touch()
        os.setxattr(place / "file", "trusted.long", b"x" * 65536)
        os.setxattr(place / "file", "trusted.fits", b"y" * 65535)
        server = start("--xattrs", "all", tree=place)
        with server.peer() as peer:
            fd = peer.walk_to("file")
            for size in (0, 65536, 2**32 - 1):
                with fails(errno.E2BIG):
                    peer.fgetxattr(fd, "trusted.long", size)
            assert peer.fgetxattr(fd, "trusted.fits") == b"y" * 65535
    finally:
        for left in place.iterdir():
            left.unlink()
        place.rmdir()


@ALL
def test_10_connect_with_ids_that_cannot_be_taken_fails_and_connects_as_nobody(start: Start, spot: Path) -> None:
    """In a user namespace that maps only id 0, no other id can be taken on."""
    server = start("--host-uds", "all", wrap=("unshare", "--user", "--map-root-user"))
    with socket.socket(socket.AF_UNIX) as listener, server.peer() as peer:
        listener.bind(str(spot / "sock"))
        listener.listen()
        listener.setblocking(False)
        os.chmod(spot / "sock", 0o777)
        fd = peer.walk_to("sock")
        for uid, gid in ((1234, 1234), (0, 1234), (1234, 0)):
            with pytest.raises(OSError):
                peer.connectwithcreds(fd, uid, gid)
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert peer.opencreateat(peer.root, "after").inode.stat.uid == 0  # still who it was
        assert len(peer.connect(fd)) == 1


def test_11_walk_and_stat_open_nothing(peer: Peer, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", modes.S_IFCHR | 0o666, os.makedev(1, 3))
    (tree / "file").touch()
    with opens_of(tree / "fifo", tree / "null", tree / "file") as opens:
        for name in ("fifo", "null", "file"):
            fd = peer.walk_to(name)
            peer.fstat(fd)
            peer.walkstat(peer.root, name)
            peer.walkstat(fd, "")
            peer.setstat(fd, MODE, mode=0o600)
        assert opens.seen() == 0
        peer.openat(peer.walk_to("file"))
        assert opens.seen() >= 1  # the witness can see


@ALL
def test_12_a_connect_that_would_block_is_eagain_at_once(server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as listener, server.peer() as peer, server.peer() as other:
        listener.bind(str(server.tree / "sock"))
        listener.listen(0)
        fd = peer.walk_to("sock")
        with fails(errno.EAGAIN):
            for _ in range(10):
                peer.connect(fd)
        assert other.walk(other.root, "sock")[0] == 0


@ALL
def test_13_sockets_below_paths_of_any_length_can_be_bound_and_connected_to(peer: Peer, tree: Path) -> None:
    fd = peer.root
    path = tree
    for _ in range(3):
        path = path / ("d" * 200)
        fd = peer.mkdirat(fd, "d" * 200).fd
    name = "s" * 255
    created = peer.bindat(fd, name)
    peer.listen(created.fd)
    assert modes.S_ISSOCK(os.lstat(path / name).st_mode)
    assert os.listdir(path) == [name]
    assert len(peer.connect(created.inode.fd)) == 1
    assert len(peer.accept(created.fd)[1]) == 1
