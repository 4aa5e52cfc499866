"""SetStat."""

import errno
import os
import socket
import stat as modes
import time
from pathlib import Path

import pytest
from codec import ATIME, GID, MODE, MTIME, NO_ID, SIZE, UID
from hosts import fails
from looks import assert_stat_is
from peer import Peer

EVERYTHING = MODE | UID | GID | SIZE | ATIME | MTIME


def test_every_attribute_can_be_set_at_once(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = peer.walk_to("file")
    done = peer.setstat(
        fd, EVERYTHING, mode=0o640, uid=1234, gid=5678, size=3, atime=(1, 2), mtime=(1700000000, 999_999_999)
    )
    assert done == (0, 0)
    assert_stat_is(peer.fstat(fd), tree / "file", atime=True)
    host = os.stat(tree / "file")
    assert (modes.S_IMODE(host.st_mode), host.st_uid, host.st_gid, host.st_size) == (0o640, 1234, 5678, 3)
    assert (host.st_atime_ns, host.st_mtime_ns) == (1_000_000_002, 1_700_000_000_999_999_999)


@pytest.mark.parametrize("mask", [MODE, UID, GID, SIZE, ATIME, MTIME])
def test_what_the_mask_does_not_name_stays(peer: Peer, tree: Path, mask: int) -> None:
    path = tree / "file"
    path.write_bytes(b"hello")
    os.utime(path, (100, 200))
    os.chmod(path, 0o600)
    before = os.stat(path)
    fd = peer.walk_to("file")
    assert peer.setstat(fd, mask, mode=0o755, uid=11, gid=22, size=9, atime=(33, 0), mtime=(44, 0)) == (0, 0)
    after = os.stat(path)
    # setting the size also moves the modification time: that is Linux's doing
    looked_at = {MODE: "st_mode", UID: "st_uid", GID: "st_gid", SIZE: "st_size", ATIME: "st_atime"}
    if mask != SIZE:
        looked_at[MTIME] = "st_mtime"
    changed = {bit for bit, name in looked_at.items() if getattr(before, name) != getattr(after, name)}
    assert changed == {mask}


def test_an_empty_mask_changes_nothing(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    before = os.stat(tree / "file")
    assert peer.setstat(peer.walk_to("file"), 0, mode=0o777, uid=1, gid=1, size=5) == (0, 0)
    assert os.stat(tree / "file") == before


@pytest.mark.parametrize("bit", [0x1, 0x4, 0x80, 0x100, 0x400, 0x800, 1 << 31])
def test_another_bit_in_the_mask_is_eperm_and_changes_nothing(peer: Peer, tree: Path, bit: int) -> None:
    (tree / "file").touch()
    before = os.stat(tree / "file")
    fd = peer.walk_to("file")
    with fails(errno.EPERM):
        peer.setstat(fd, MODE | bit, mode=0o777)
    assert os.stat(tree / "file") == before


@pytest.mark.parametrize("mode", [0, 0o777, 0o1777, 0o4755, 0o2755, 0o6755])
def test_owner_and_mode_together_keep_the_set_id_bits(peer: Peer, tree: Path, mode: int) -> None:
    (tree / "file").touch()
    fd = peer.walk_to("file")
    assert peer.setstat(fd, MODE | UID | GID, mode=mode, uid=1234, gid=5678) == (0, 0)
    host = os.stat(tree / "file")
    assert (modes.S_IMODE(host.st_mode), host.st_uid, host.st_gid) == (mode, 1234, 5678)


def test_file_type_bits_in_the_mode_are_ignored(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    fd = peer.walk_to("file")
    assert peer.setstat(fd, MODE, mode=modes.S_IFREG | 0o751) == (0, 0)
    assert modes.S_IMODE(peer.fstat(fd).mode) == 0o751


@pytest.mark.parametrize("uid,gid", [(NO_ID, NO_ID), (77, NO_ID), (NO_ID, 88)])
def test_an_id_of_minus_one_is_left_alone(peer: Peer, tree: Path, uid: int, gid: int) -> None:
    (tree / "file").touch()
    os.chown(tree / "file", 1234, 5678)
    fd = peer.walk_to("file")
    assert peer.setstat(fd, UID | GID, uid=uid, gid=gid) == (0, 0)
    stat = peer.fstat(fd)
    assert (stat.uid, stat.gid) == (1234 if uid == NO_ID else uid, 5678 if gid == NO_ID else gid)


def test_it_works_on_unlinked_files_and_directories(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    (tree / "dir").mkdir()
    fd, directory = peer.walk_to("file"), peer.walk_to("dir")
    (tree / "file").unlink()
    (tree / "dir").rmdir()
    assert peer.setstat(fd, EVERYTHING, mode=0o604, uid=9, gid=9, size=1, atime=(5, 5), mtime=(6, 6)) == (0, 0)
    stat = peer.fstat(fd)
    assert (stat.mode & 0o7777, stat.uid, stat.gid, stat.size, stat.nlink) == (0o604, 9, 9, 1, 0)
    assert (stat.atime, stat.mtime) == ((5, 5), (6, 6))
    assert peer.setstat(directory, MODE | UID | MTIME, mode=0o711, uid=9, mtime=(7, 7)) == (0, 0)
    assert peer.fstat(directory).mode & 0o7777 == 0o711


@pytest.mark.parametrize("name", ["fifo", "sock", "dir", "char"])
def test_owner_mode_and_times_of_other_types_can_be_set(peer: Peer, tree: Path, name: str) -> None:
    os.mkfifo(tree / "fifo")
    (tree / "dir").mkdir()
    os.mknod(tree / "char", modes.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "sock"))
    fd = peer.walk_to(name)
    mask = MODE | UID | GID | ATIME | MTIME
    assert peer.setstat(fd, mask, mode=0o700, uid=5, gid=6, atime=(7, 8), mtime=(9, 10)) == (0, 0)
    assert_stat_is(peer.fstat(fd), tree / name, atime=True)
    stat = peer.fstat(fd)
    assert (stat.mode & 0o7777, stat.uid, stat.gid, stat.atime, stat.mtime) == (0o700, 5, 6, (7, 8), (9, 10))


def test_a_symlink_takes_owner_and_times_but_no_mode(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    os.symlink("file", tree / "link")
    before = os.stat(tree / "file")
    fd = peer.walk_to("link")
    assert peer.setstat(fd, UID | GID | MTIME, uid=5, gid=6, mtime=(9, 10)) == (0, 0)
    stat = peer.fstat(fd)
    assert (stat.uid, stat.gid, stat.mtime) == (5, 6, (9, 10))
    assert peer.setstat(fd, MODE | UID, mode=0o600, uid=7) == (MODE, errno.EOPNOTSUPP)
    assert peer.fstat(fd).uid == 7
    assert os.stat(tree / "file") == before


@pytest.mark.parametrize("name,number", [("dir", errno.EISDIR), ("fifo", errno.EINVAL), ("link", errno.EINVAL)])
def test_the_size_of_what_has_none_is_a_failure_in_the_mask(peer: Peer, tree: Path, name: str, number: int) -> None:
    (tree / "dir").mkdir()
    (tree / "file").write_bytes(b"kept")
    os.symlink("file", tree / "link")
    os.mkfifo(tree / "fifo")
    fd = peer.walk_to(name)
    mask, code = peer.setstat(fd, SIZE | UID, size=0, uid=5)
    assert mask == SIZE and code in (number, errno.EINVAL)
    assert peer.fstat(fd).uid == 5
    assert (tree / "file").read_bytes() == b"kept"


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_a_size_above_the_largest_fails_and_never_wraps(peer: Peer, tree: Path, size: int) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = peer.walk_to("file")
    mask, code = peer.setstat(fd, SIZE | MODE, size=size, mode=0o600)
    assert (mask, code) == (SIZE, errno.EINVAL)
    assert peer.fstat(fd).size == 5 and peer.fstat(fd).mode & 0o7777 == 0o600


def test_a_file_grows_and_shrinks(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = peer.walk_to("file")
    assert peer.setstat(fd, SIZE, size=1 << 40) == (0, 0)
    assert os.stat(tree / "file").st_size == 1 << 40
    assert peer.setstat(fd, SIZE, size=2) == (0, 0)
    assert (tree / "file").read_bytes() == b"he"


def test_utime_now_and_utime_omit_mean_what_they_mean_to_linux(peer: Peer, tree: Path) -> None:
    """utimensat(2). A sandbox that shares the tree with others sends UTIME_NOW, so that the host's clock decides."""
    (tree / "file").touch()
    os.utime(tree / "file", (100, 200))
    fd = peer.walk_to("file")
    assert peer.setstat(fd, ATIME | MTIME, atime=(5, 2**30 - 2), mtime=(5, 2**30 - 1)) == (0, 0)
    host = os.stat(tree / "file")
    assert host.st_atime == 100 and abs(host.st_mtime - time.time()) < 10


@pytest.mark.parametrize("nsec", [10**9, 2**30, 2**31, 2**62])
def test_nanoseconds_that_are_none_fail(peer: Peer, tree: Path, nsec: int) -> None:
    (tree / "file").touch()
    os.utime(tree / "file", (100, 200))
    fd = peer.walk_to("file")
    assert peer.setstat(fd, MTIME, mtime=(5, nsec)) == (MTIME, errno.EINVAL)
    assert os.stat(tree / "file").st_mtime == 200


@pytest.mark.parametrize("sec", [-(2**40), -1, 0, 2**33])
def test_seconds_before_the_epoch_and_beyond_2038_are_passed_on(peer: Peer, tree: Path, sec: int) -> None:
    (tree / "file").touch()
    (tree / "native").touch()
    os.utime(tree / "native", ns=(sec * 10**9, sec * 10**9))  # what this file system makes of it
    assert peer.setstat(peer.walk_to("file"), MTIME | ATIME, atime=(sec, 0), mtime=(sec, 0)) == (0, 0)
    assert os.stat(tree / "file").st_mtime_ns == os.stat(tree / "native").st_mtime_ns


def test_it_needs_a_control_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    opened = peer.openat(peer.walk_to("file")).fd
    with fails(errno.EINVAL):
        peer.setstat(opened, MODE, mode=0o600)
    with fails(errno.EBADF):
        peer.setstat(777, MODE, mode=0o600)
