"""Getdents64."""

import errno
import os
import socket
import stat as modes
import struct
from pathlib import Path

import pytest
from codec import MAX_MESSAGE, Mid, Reader
from conftest import Start
from hosts import Server, fails
from peer import Peer

INT32_MIN = -(2**31)


def fill(tree: Path, count: int, width: int = 0) -> set[bytes]:
    names = {f"{i:0{width}d}" for i in range(count)}
    for name in names:
        (tree / name).touch()
    return {os.fsencode(name) for name in names}


def test_a_listing_tells_every_entry_as_a_stat_would(peer: Peer, tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "file").touch()
    os.symlink("x", tree / "link")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "char", modes.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "sock"))
    entries = peer.listdir(peer.openat(peer.root).fd)
    assert {entry.name for entry in entries} == {b"dir", b"file", b"link", b"fifo", b"char", b"sock"}
    for entry in entries:
        host = os.lstat(os.path.join(os.fsencode(tree), entry.name))
        assert entry.ino == host.st_ino
        assert entry.dev == (os.major(host.st_dev), os.minor(host.st_dev))
        assert entry.type == host.st_mode >> 12
        (stat,) = peer.walkstat(peer.root, entry.name)
        assert (stat.ino, stat.dev) == (entry.ino, entry.dev)


def test_dot_and_dotdot_are_left_out_and_an_empty_directory_has_no_entries(peer: Peer) -> None:
    fd = peer.openat(peer.root).fd
    assert peer.getdents64(fd, -65536) == []
    assert peer.getdents64(fd, 65536) == []


def test_the_root_does_not_list_what_lies_above_it(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    entries = peer.listdir(peer.openat(peer.root).fd)
    assert os.stat(tree.parent).st_ino not in [entry.ino for entry in entries]
    assert [entry.name for entry in entries] == [b"file"]


@pytest.mark.parametrize("count", [48, 64, 300, 4096, 2**31 - 1])
def test_any_count_lists_every_entry_once(peer: Peer, tree: Path, count: int) -> None:
    names = fill(tree, 300)
    entries = peer.listdir(peer.openat(peer.root).fd, count)
    assert sorted(entry.name for entry in entries) == sorted(names)


def test_no_reply_holds_more_than_count_bytes_of_kernel_entries(peer: Peer, tree: Path) -> None:
    fill(tree, 300, 20)  # a struct linux_dirent64 of 40 bytes each
    fd = peer.openat(peer.root).fd
    first = peer.getdents64(fd, -4000)
    assert 0 < len(first) <= 100
    while more := peer.getdents64(fd, 4000):
        assert len(more) <= 100


def test_a_negative_count_starts_again(peer: Peer, tree: Path) -> None:
    names = fill(tree, 50)
    fd = peer.openat(peer.root).fd
    for count in (-512, -512, -65536):
        first = peer.getdents64(fd, count)
        assert first
    assert {entry.name for entry in first} == names
    assert peer.getdents64(fd, 65536) == []


def test_starting_again_shows_what_is_new(peer: Peer, tree: Path) -> None:
    fd = peer.openat(peer.root).fd
    assert peer.getdents64(fd, -65536) == []
    (tree / "new").touch()
    assert [entry.name for entry in peer.getdents64(fd, -65536)] == [b"new"]


@pytest.mark.parametrize("count", [0, 1, 18, -1, -18, INT32_MIN])
def test_a_count_that_holds_no_entry_is_einval_and_never_an_empty_success(peer: Peer, tree: Path, count: int) -> None:
    (tree / "file").touch()
    fd = peer.openat(peer.root).fd
    with fails(errno.EINVAL):
        peer.getdents64(fd, count)


@pytest.mark.parametrize("count", [24, 40, 200])
def test_a_count_too_small_for_the_next_entry_is_einval_and_loses_nothing(peer: Peer, tree: Path, count: int) -> None:
    (tree / ("n" * 255)).touch()  # 280 bytes in the kernel's form
    fd = peer.openat(peer.root).fd
    with fails(errno.EINVAL):
        peer.getdents64(fd, -count)
    with fails(errno.EINVAL):
        peer.getdents64(fd, count)
    assert [entry.name for entry in peer.getdents64(fd, 280)] == [b"n" * 255]


def test_two_open_fds_have_two_positions(peer: Peer, tree: Path) -> None:
    names = fill(tree, 20)
    one, two = peer.openat(peer.root).fd, peer.openat(peer.root).fd
    assert {entry.name for entry in peer.getdents64(one)} == names
    assert {entry.name for entry in peer.getdents64(two)} == names


def test_the_off_of_an_entry_is_the_position_behind_it(peer: Peer, tree: Path) -> None:
    fill(tree, 50)
    entries = peer.listdir(peer.openat(peer.root).fd)
    offsets = [entry.off for entry in entries]
    assert len(set(offsets)) == len(offsets)
    fd = os.open(tree, os.O_RDONLY)
    try:
        os.lseek(fd, entries[24].off, os.SEEK_SET)
        behind = set(os.listdir(fd))
    finally:
        os.close(fd)
    assert {os.fsdecode(entry.name) for entry in entries[25:]} <= behind


def test_names_of_any_bytes_and_of_the_longest_length(peer: Peer, tree: Path) -> None:
    odd = {bytes(set(range(1, 256)) - {0x2F}), b"\xff\xfe", b"n" * 255, b"\n"}
    for name in odd:
        with open(os.path.join(os.fsencode(tree), name), "w"):
            pass
    assert {entry.name for entry in peer.listdir(peer.openat(peer.root).fd)} == odd


def test_only_an_open_directory_lists(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    for fd, number in (
        (peer.root, errno.EINVAL),
        (peer.openat(peer.walk_to("file")).fd, errno.ENOTDIR),
        (777, errno.EBADF),
    ):
        with fails(number):
            peer.getdents64(fd)


def test_a_removed_directory_lists_nothing(peer: Peer, tree: Path) -> None:
    (tree / "dir").mkdir()
    fd = peer.openat(peer.walk_to("dir")).fd
    (tree / "dir").rmdir()
    try:
        assert peer.getdents64(fd) == []
    except OSError as e:
        assert e.errno == errno.ENOENT  # as the kernel says on most file systems


def test_entries_that_vanish_while_listing_are_never_an_error(peer: Peer, tree: Path) -> None:
    names = fill(tree, 400)
    fd = peer.openat(peer.root).fd
    seen = [entry.name for entry in peer.getdents64(fd, -1000)]
    for name in names:
        (tree / os.fsdecode(name)).unlink()
    while more := peer.getdents64(fd, 1000):
        seen += [entry.name for entry in more]
    assert set(seen) <= names and len(set(seen)) == len(seen)


def test_a_long_listing_comes_in_replies_below_the_largest_message(server: Server) -> None:
    names = fill(server.tree, 7700, 250)  # 27 + 250 bytes each on the wire: above one message
    with server.peer() as peer:
        fd = peer.openat(peer.root).fd
        seen: list[bytes] = []
        sizes = []
        count = -(2**31 - 1)
        while True:
            reply = peer.call(Mid.GETDENTS64, struct.pack("<Qi4x", fd, count))
            sizes.append(len(reply.payload))
            r = Reader(reply.payload)
            number = r.take("H")
            if not number:
                break
            for _ in range(number):
                r.take("QIIQB")
                seen.append(r.string())
            r.done()
            count = 2**31 - 1
        assert max(sizes) <= MAX_MESSAGE and len(sizes) > 2
    assert len(seen) == len(names) and set(seen) == names


@pytest.mark.slow
def test_a_directory_of_more_entries_than_a_u16_counts(server: Server) -> None:
    names = fill(server.tree, 70000)
    with server.peer("channel") as peer:
        seen = [entry.name for entry in peer.listdir(peer.openat(peer.root).fd, 2**31 - 1)]
    assert len(seen) == len(names) and set(seen) == names


def test_mount_points_in_the_listing_have_the_device_and_inode_a_stat_reports(start: Start) -> None:
    """`/` has mount points below it (proc, dev, sys) wherever this runs."""
    server = start("--read-only", tree=Path("/"))
    with server.peer() as peer:
        mounted = 0
        for entry in peer.listdir(peer.openat(peer.root).fd):
            try:
                (stat,) = peer.walkstat(peer.root, entry.name)
            except PermissionError:
                continue  # a block device
            assert (entry.dev, entry.ino) == (stat.dev, stat.ino) or os.path.ismount(b"/" + entry.name), entry.name
            assert entry.dev == stat.dev, entry.name
            mounted += stat.dev != peer.fstat(peer.root).dev
        assert mounted
