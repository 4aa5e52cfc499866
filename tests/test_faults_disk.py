"""Disks that are full, read-only or broken: the client gets the kernel's errno, nothing is acknowledged that was not written, and
the server lives."""

import contextlib
import errno
import os
import stat as modes
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from disks import ext4, serving, tmpfs
from hosts import TRANSPORTS, Server, fails

from gofer.conform.codec import ATIME, GID, MODE, MTIME, SIZE, UID
from gofer.conform.peer import Peer

ALL = ("--host-uds", "all", "--xattrs", "all")
# Everything that makes a name.
MAKES: dict[str, Callable[[Peer], object]] = {
    "OpenCreateAt": lambda p: p.opencreateat(p.root, "new", uid=5, gid=6),
    "MkdirAt": lambda p: p.mkdirat(p.root, "new", uid=5, gid=6),
    "MknodAt": lambda p: p.mknodat(p.root, "new", uid=5, gid=6),
    "SymlinkAt": lambda p: p.symlinkat(p.root, "new", "x" * 2000, uid=5, gid=6),
    "BindAt": lambda p: p.bindat(p.root, "new", uid=5, gid=6),
}


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def works(server: Server) -> None:
    with server.peer() as peer:
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


def fill(peer: Peer, fd: int, piece: bytes) -> int:
    """Write until there is no room; -> the bytes that were acknowledged."""
    offset = 0
    with fails(errno.ENOSPC):
        while True:
            done = peer.pwrite(fd, offset, piece)
            assert 0 < done <= len(piece)
            offset += done
    return offset


@contextlib.contextmanager
def small(kind: str) -> Iterator[Path]:
    if kind == "tmpfs":
        with tmpfs("1M") as path:
            yield path
    else:
        with ext4(16) as disk:
            yield disk.path


# Full


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_full_disk_is_enospc_and_what_was_acknowledged_is_there(kind: str, transport: str) -> None:
    with small(kind) as tree, serving(tree) as server, server.peer(transport) as peer:
        created = peer.opencreateat(peer.root, "big")
        piece = bytes(range(251)) * 400
        written = fill(peer, created.fd, piece)
        expected = (piece * (written // len(piece) + 1))[:written]
        assert written > 500_000
        peer.fsync(created.fd)
        assert peer.fstat(created.inode.fd).size == written == os.stat(tree / "big").st_size
        assert (tree / "big").read_bytes() == expected
        with fails(errno.ENOSPC):
            peer.fallocate(created.fd, 0, written, 16 << 20)
        assert (tree / "big").read_bytes()[:written] == expected
        assert peer.setstat(created.inode.fd, SIZE, size=1000) == (0, 0)  # makes room
        assert peer.pwrite(created.fd, 1000, b"more") == 4
        assert (tree / "big").read_bytes() == expected[:1000] + b"more"


@pytest.mark.parametrize("message", MAKES)
def test_where_no_inode_is_left_nothing_half_made_stays(message: str, transport: str) -> None:
    with tmpfs("1M") as tree, serving(tree, *ALL) as server, server.peer(transport) as peer:
        for i in range(200):
            try:
                (tree / f"{i}").touch()
            except OSError:
                break
        before = sorted(os.listdir(tree))
        peer.fstat(peer.root)  # by now the server has closed its copies of what it donated
        held = len(server.open_fds())
        for _ in range(3):
            with fails(errno.ENOSPC):
                MAKES[message](peer)
        assert sorted(os.listdir(tree)) == before
        assert len(server.open_fds()) <= held
        (tree / "0").unlink()
        MAKES[message](peer)
        assert "new" in os.listdir(tree)


def test_a_full_disk_is_told_by_every_other_message_too(transport: str) -> None:
    with ext4(16) as disk, serving(disk.path, *ALL) as server, server.peer(transport) as peer:
        opened = peer.opencreateat(peer.root, "big").fd
        directory = peer.mkdirat(peer.root, "dir").fd
        node = peer.mknodat(peer.root, "node").fd
        fill(peer, opened, b"x" * 100_000)
        for call in (
            lambda i: peer.symlinkat(directory, f"link{i}", "x" * 2000), lambda i: peer.mkdirat(directory, f"dir{i}"),
            lambda i: peer.linkat(directory, node, f"{i:0200d}"), lambda i: peer.fsetxattr(node, "user.a", b"v" * 3000),
        ):  # fmt: skip
            with fails(errno.ENOSPC):  # the file system keeps a few blocks for itself, so not with the first
                for i in range(3000):
                    call(i)
        assert peer.flistxattr(node) == []
        assert peer.setstat(node, MODE | UID | ATIME, mode=0o600, uid=5) == (0, 0)
        peer.renameat(peer.root, "node", peer.root, "moved")
        peer.unlinkat(peer.root, "big")


def test_a_write_through_a_donated_fd_meets_the_same_end() -> None:
    with tmpfs("1M") as tree, serving(tree) as server, server.peer() as peer:
        created = peer.opencreateat(peer.root, "big")
        with pytest.raises(OSError) as caught:
            while os.write(created.donated[0], b"x" * 50_000):
                pass
        assert caught.value.errno == errno.ENOSPC
        with fails(errno.ENOSPC):
            peer.pwrite(created.fd, 2 << 20, b"x")
        works(server)


# Read-only


def refused_changes(peer: Peer, file: int, directory: int) -> dict[str, Callable[[], object]]:
    return {
        **{name: lambda make=make: make(peer) for name, make in MAKES.items()},  # type: ignore[misc]
        "LinkAt": lambda: peer.linkat(peer.root, file, "new"),
        "RenameAt": lambda: peer.renameat(peer.root, "file", peer.root, "new"),
        "RenameAt2": lambda: peer.renameat2(peer.root, "file", peer.root, "new", 1),
        "UnlinkAt": lambda: peer.unlinkat(peer.root, "file"),
        "UnlinkAt a directory": lambda: peer.unlinkat(peer.root, "dir", 0x200),
        "OpenAt for writing": lambda: peer.openat(file, os.O_RDWR),
        "OpenAt with O_TRUNC": lambda: peer.openat(file, os.O_TRUNC),
        "FSetXattr": lambda: peer.fsetxattr(file, "user.a", b"v"),
        "FRemoveXattr": lambda: peer.fremovexattr(file, "user.b"),
        "MkdirAt below": lambda: peer.mkdirat(directory, "new"),
    }


def test_a_disk_made_read_only_is_erofs_until_it_is_writable_again(transport: str) -> None:
    with ext4(16) as disk, serving(disk.path, *ALL) as server, server.peer(transport) as peer:
        created = peer.opencreateat(peer.root, "file")
        peer.pwrite(created.fd, 0, b"hello")
        file, directory = created.inode.fd, peer.mkdirat(peer.root, "dir").fd
        os.setxattr(disk.path / "file", "user.b", b"v")
        peer.close(created.fd)
        for fd in peer.disown(created.donated):
            os.close(fd)
        disk.remount("ro")
        for name, call in refused_changes(peer, file, directory).items():
            with fails(errno.EROFS):
                call()
                pytest.fail(f"{name} went through")
        everything = MODE | UID | GID | SIZE | ATIME | MTIME
        assert peer.setstat(file, everything, mode=0o600, uid=5, gid=6, size=1) == (everything, errno.EROFS)
        assert peer.pread(peer.openat(file).fd, 0, 10) == b"hello"
        assert peer.fgetxattr(file, "user.b") == b"v"
        assert sorted(entry.name for entry in peer.listdir(peer.openat(peer.root).fd)) == [b"dir", b"file"]
        disk.remount("rw")
        assert peer.pwrite(peer.openat(file, os.O_RDWR).fd, 0, b"HE") == 2
        MAKES["MkdirAt"](peer)


# Broken


def test_what_cannot_be_read_is_eio_and_the_rest_is_as_it_was(transport: str) -> None:
    """The image is cut off, so that the block layer cannot read what was behind the cut."""
    with ext4(16) as disk, serving(disk.path) as server, server.peer(transport) as peer:
        (disk.path / "kept").write_bytes(b"kept")
        data = os.urandom(4 << 20)
        (disk.path / "lost").write_bytes(data)
        os.sync()
        cut = disk.image.read_bytes().index(data[1 << 20 : (1 << 20) + 4096])
        os.truncate(disk.image, cut)
        forget_cache(disk.path / "lost")
        fd = peer.openat(peer.walk_to("lost")).fd
        assert peer.pread(fd, 0, 4096) == data[:4096]
        with fails(errno.EIO):
            peer.pread(fd, 2 << 20, 4096)
        assert peer.pread(peer.openat(peer.walk_to("kept")).fd, 0, 10) == b"kept"
        works(server)


def forget_cache(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def test_an_fsync_whose_data_did_not_get_to_the_device_fails(transport: str) -> None:
    """The image is sparse, and the tmpfs it lies on is full: the device takes no block that it does not have yet."""
    with tmpfs("8M") as place, ext4(16, place=place) as disk, serving(disk.path) as server:
        with server.peer(transport) as peer:
            created = peer.opencreateat(peer.root, "file")
            assert peer.pwrite(created.fd, 0, b"x" * 100_000) == 100_000
            peer.fsync(created.fd)
            with pytest.raises(OSError), open(place / "filler", "wb", buffering=0) as filler:
                while filler.write(b"x" * 100_000):
                    pass
            assert peer.pwrite(created.fd, 100_000, b"y" * 1_000_000) == 1_000_000  # to the cache: no promise yet
            with pytest.raises(OSError) as caught:
                peer.fsync(created.fd)
            assert caught.value.errno in (errno.EIO, errno.ENOSPC)
            works(server)


def test_everything_fails_with_eio_when_the_disk_is_gone_and_the_server_lives(transport: str) -> None:
    with ext4(16) as disk, serving(disk.path, *ALL) as server, server.peer(transport) as peer:
        created = peer.opencreateat(peer.root, "file")
        file, directory = created.inode.fd, peer.mkdirat(peer.root, "dir").fd
        peer.pwrite(created.fd, 0, b"hello")
        disk.cut_power()
        for name, call in refused_changes(peer, file, directory).items():
            try:
                call()
            except OSError as e:
                assert e.errno in (errno.EIO, errno.EROFS), f"{name}: {e}"
            else:
                assert name.startswith("OpenAt"), name
        for call in (
            lambda: peer.pwrite(created.fd, 0, b"HELLO"), lambda: peer.fsync(created.fd),
            lambda: peer.fallocate(created.fd, 0, 0, 100_000),
        ):  # fmt: skip
            with fails(errno.EIO):
                call()
        assert peer.setstat(file, MODE, mode=0o600) == (MODE, errno.EIO)
        works(server)
