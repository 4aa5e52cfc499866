"""PRead, PWrite, FSync, Flush, FAllocate, FStatFS and ReadLinkAt."""

import errno
import os
import struct
from pathlib import Path

import pytest
from codec import MAX_MESSAGE, Mid
from hosts import fails
from peer import Peer

TOO_FAR = [2**63, 2**64 - 1]


def opened(peer: Peer, name: str, flags: int = os.O_RDWR) -> int:
    return peer.openat(peer.walk_to(name), flags).fd


def test_pread_returns_what_the_file_holds_at_the_offset(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(bytes(range(256)) * 64)
    fd = opened(peer, "file", os.O_RDONLY)
    assert peer.pread(fd, 0, 16384) == bytes(range(256)) * 64
    assert peer.pread(fd, 255, 3) == b"\xff\x00\x01"
    assert peer.pread(fd, 0, 0) == b""


def test_pread_is_short_at_the_end_and_empty_past_it(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = opened(peer, "file")
    assert peer.pread(fd, 3, 100) == b"lo"
    assert peer.pread(fd, 5, 100) == b""
    assert peer.pread(fd, 2**62, 100) == b""


def test_pread_fills_a_reply_to_the_brim_and_refuses_more(peer: Peer, tree: Path) -> None:
    data = os.urandom(4096) * 512
    (tree / "file").write_bytes(data)
    fd = opened(peer, "file")
    assert peer.pread(fd, 0, MAX_MESSAGE - 8) == data[: MAX_MESSAGE - 8]
    for count in (MAX_MESSAGE - 7, MAX_MESSAGE, 2**31, 2**32 - 1):
        with fails(errno.ENOBUFS):
            peer.pread(fd, 0, count)


def test_pwrite_writes_at_the_offset_and_tells_the_count(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello world")
    fd = opened(peer, "file")
    assert peer.pwrite(fd, 6, b"there") == 5
    assert peer.pwrite(fd, 20, b"!") == 1
    assert peer.pwrite(fd, 3, b"") == 0
    assert (tree / "file").read_bytes() == b"hello there" + b"\0" * 9 + b"!"


def test_pwrite_of_the_largest_message_is_complete(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    data = os.urandom(MAX_MESSAGE - 20)
    assert peer.pwrite(opened(peer, "file"), 0, data) == len(data)
    assert (tree / "file").read_bytes() == data


def test_access_is_by_the_mode_of_the_open_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    reader, writer = opened(peer, "file", os.O_RDONLY), opened(peer, "file", os.O_WRONLY)
    with fails(errno.EBADF):
        peer.pwrite(reader, 0, b"x")
    with fails(errno.EBADF):
        peer.pread(writer, 0, 1)
    with fails(errno.EBADF):
        peer.fallocate(reader, 0, 0, 10)
    assert (tree / "file").read_bytes() == b"hello"


@pytest.mark.parametrize("offset", TOO_FAR)
def test_an_offset_above_the_largest_is_einval_and_never_wraps(peer: Peer, tree: Path, offset: int) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = opened(peer, "file")
    with fails(errno.EINVAL):
        peer.pread(fd, offset, 1)
    with fails(errno.EINVAL):
        peer.pwrite(fd, offset, b"x")
    with fails(errno.EINVAL):
        peer.fallocate(fd, 0, offset, 1)
    with fails(errno.EINVAL):
        peer.fallocate(fd, 0, 0, offset)
    assert (tree / "file").read_bytes() == b"hello"


def test_an_offset_the_file_system_cannot_hold_is_its_own_error(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    fd = opened(peer, "file")
    with pytest.raises(OSError) as native, open(tree / "file", "r+b") as file:
        os.pwrite(file.fileno(), b"x", 2**63 - 2)
    with fails(native.value.errno or 0):
        peer.pwrite(fd, 2**63 - 2, b"x")


@pytest.mark.parametrize("claimed", [0, 4, 6, 2**31, 2**32 - 1])
def test_a_pwrite_whose_count_is_not_its_data_is_eio_and_writes_nothing(peer: Peer, tree: Path, claimed: int) -> None:
    """2a62f4379: 32-bit lengths overflowed checks; here they are compared with what is really there."""
    (tree / "file").write_bytes(b"hello")
    fd = opened(peer, "file")
    with fails(errno.EIO):
        peer.call(Mid.PWRITE, struct.pack("<QQI", 0, fd, claimed) + b"01234")
    assert (tree / "file").read_bytes() == b"hello"


def test_data_needs_an_open_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    control = peer.walk_to("file")
    directory = peer.openat(peer.root).fd
    for wrong, number in ((control, errno.EINVAL), (0, errno.EBADF), (777, errno.EBADF)):
        with fails(number):
            peer.pread(wrong, 0, 1)
        with fails(number):
            peer.pwrite(wrong, 0, b"x")
        with fails(number):
            peer.fallocate(wrong, 0, 0, 1)
        with fails(number):
            peer.fsync(wrong)
    with fails(errno.EISDIR):
        peer.pread(directory, 0, 1)


def test_fsync_takes_many_fds_files_and_directories(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    (tree / "other").touch()
    peer.fsync(opened(peer, "file"), opened(peer, "other", os.O_RDONLY), peer.openat(peer.root).fd)
    peer.fsync()


def test_fsync_tells_the_first_error(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    fd, control = opened(peer, "file"), peer.walk_to("file")
    with fails(errno.EBADF):
        peer.fsync(fd, 777, control)
    with fails(errno.EINVAL):
        peer.fsync(fd, control, 777)


def test_flush_succeeds_on_an_open_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    peer.flush(opened(peer, "file"))
    with fails(errno.EBADF):
        peer.flush(777)


def test_fallocate_grows_the_file_or_keeps_its_size(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = opened(peer, "file")
    peer.fallocate(fd, 0, 0, 10000)
    assert os.stat(tree / "file").st_size == 10000
    peer.fallocate(fd, 1, 10000, 1 << 20)  # FALLOC_FL_KEEP_SIZE
    assert os.stat(tree / "file").st_size == 10000
    assert os.stat(tree / "file").st_blocks * 512 >= 1 << 20
    peer.fallocate(fd, 3, 0, 4096)  # PUNCH_HOLE | KEEP_SIZE
    assert (tree / "file").read_bytes()[:5] == b"\0" * 5


@pytest.mark.parametrize("mode", [1 << 20, 1 << 31, 1 << 32, 2**64 - 1])
def test_fallocate_refuses_a_mode_the_kernel_does_not_know(peer: Peer, tree: Path, mode: int) -> None:
    (tree / "file").touch()
    fd = opened(peer, "file")
    with pytest.raises(OSError) as caught:
        peer.fallocate(fd, mode, 0, 4096)
    assert caught.value.errno in (errno.EOPNOTSUPP, errno.EINVAL)
    assert os.stat(tree / "file").st_size == 0


def test_fallocate_of_nothing_is_einval(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    with fails(errno.EINVAL):
        peer.fallocate(opened(peer, "file"), 0, 0, 0)


def test_fstatfs_tells_the_host_file_system(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    host = os.statvfs(tree)
    for fd in (peer.root, peer.walk_to("file")):
        told = peer.fstatfs(fd)
        assert (told.bsize, told.blocks, told.files) == (host.f_bsize, host.f_blocks, host.f_files)
        assert told.namelen == host.f_namemax
        assert abs(told.bfree - host.f_bfree) * told.bsize < 1 << 30  # others write to the disk too
        assert told.bavail <= told.bfree <= told.blocks and told.ffree <= told.files
        assert told.type != 0
    with fails(errno.EBADF):
        peer.fstatfs(777)


@pytest.mark.parametrize("target", [b"x", b"../../etc/passwd", b"/" * 4095, bytes(set(range(1, 256)))])
def test_readlink_returns_the_target_byte_for_byte(peer: Peer, tree: Path, target: bytes) -> None:
    os.symlink(target, os.path.join(os.fsencode(tree), b"link"))
    assert peer.readlinkat(peer.walk_to("link")) == target


def test_readlink_of_anything_else_is_einval(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    os.mkfifo(tree / "fifo")
    for fd in (peer.root, peer.walk_to("file"), peer.walk_to("fifo")):
        with fails(errno.EINVAL):
            peer.readlinkat(fd)
