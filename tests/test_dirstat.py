"""DirStat: our own message, a directory's entries with the attributes of each."""

import errno
import os
import stat as modes
from pathlib import Path

import disks
import faulty
import pytest
from disks import serving
from hosts import WAYS_2021, Server, fails
from looks import assert_stat_is, one_of_each

from gofer.client.client import Client
from gofer.conform.codec import Stat
from gofer.conform.peer import Peer

INT32_MIN = -(2**31)


def listed(peer: Peer, fd: int, count: int = 65536) -> list[tuple[bytes, Stat]]:
    entries = more = peer.dirstat(fd, -count)
    while more:
        more = peer.dirstat(fd, count)
        entries = entries + more
    return entries


def test_it_tells_of_every_entry_what_a_stat_of_it_tells(peer: Peer, tree: Path) -> None:
    one_of_each(tree)
    entries = listed(peer, peer.openat(peer.root).fd)
    assert sorted(name for name, _ in entries) == sorted(map(os.fsencode, os.listdir(tree)))
    for name, stat in entries:
        assert_stat_is(stat, tree / os.fsdecode(name))
        assert stat == peer.walkstat(peer.root, name)[0]


def test_it_makes_no_fds(peer: Peer, tree: Path, server: Server) -> None:
    for i in range(200):
        (tree / str(i)).touch()
    fd = peer.openat(peer.root).fd
    before = server.open_fds()
    assert len(listed(peer, fd)) == 200
    assert server.open_fds() == before


@pytest.mark.parametrize("count", [48, 300, 4096, 2**31 - 1])
def test_any_count_lists_every_entry_once(peer: Peer, tree: Path, count: int) -> None:
    for i in range(300):
        (tree / str(i)).touch()
    entries = listed(peer, peer.openat(peer.root).fd, count)
    assert sorted(name for name, _ in entries) == sorted(b"%d" % i for i in range(300))


def test_the_longest_reply_fits_its_message_with_the_shortest_names_and_the_longest(peer: Peer, tree: Path) -> None:
    """A kernel dirent of 24 bytes becomes 155 on the wire."""
    for i in range(14000):
        os.mknod(tree / format(i, "x"))
    fd = peer.openat(peer.root).fd
    first = peer.dirstat(fd, -(2**31 - 1))
    assert 13000 < len(first) < 14000
    assert len({name for name, _ in first + peer.dirstat(fd, 2**31 - 1)}) == 14000


def test_it_goes_on_where_getdents64_has_stopped_and_back(peer: Peer, tree: Path) -> None:
    for i in range(100):
        (tree / str(i)).touch()
    fd = peer.openat(peer.root).fd
    names = [entry.name for entry in peer.getdents64(fd, -800)]
    names += [name for name, _ in peer.dirstat(fd, 800)]
    while more := peer.getdents64(fd, 800):
        names += [entry.name for entry in more]
    assert sorted(names) == sorted(b"%d" % i for i in range(100))


@pytest.mark.parametrize("count", [0, 1, 18, -18, INT32_MIN])
def test_a_count_that_holds_no_entry_is_einval(peer: Peer, tree: Path, count: int) -> None:
    (tree / "file").touch()
    fd = peer.openat(peer.root).fd
    with fails(errno.EINVAL):
        peer.dirstat(fd, count)


def test_only_an_open_directory_lists(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    for fd, number in (
        (peer.root, errno.EINVAL),
        (peer.openat(peer.walk_to("file")).fd, errno.ENOTDIR),
        (777, errno.EBADF),
    ):
        with fails(number):
            peer.dirstat(fd)


def test_a_block_device_and_a_dead_mount_have_a_type_and_a_number_and_no_more(spot: Path) -> None:
    os.mknod(spot / "block", modes.S_IFBLK | 0o600, os.makedev(7, 0))
    (spot / "file").touch()
    with faulty.faulty(spot) as dead, serving(spot) as server, server.peer() as peer:
        dead.vanish()
        entries = dict(listed(peer, peer.openat(peer.root).fd))
    assert sorted(entries) == sorted([b"block", b"file", os.fsencode(dead.path.name)])
    for name, kind in (("block", modes.S_IFBLK), (dead.path.name, modes.S_IFDIR)):
        stat = entries[os.fsencode(name)]
        assert (stat.mask, stat.mode) == (0, kind) and stat.ino
        assert stat == stat._replace(size=0, nlink=0, uid=0, mtime=(0, 0), dev=(0, 0), rdev=(0, 0), blocks=0)
    assert entries[b"file"].mask


def test_what_is_mounted_in_the_directory_is_told_as_what_is_mounted(spot: Path) -> None:
    with disks.tmpfs("1M") as place, serving(place.parent) as server, server.peer() as peer:
        assert_stat_is(dict(listed(peer, peer.openat(peer.root).fd))[os.fsencode(place.name)], place)


def test_what_walkstat_refuses_in_a_kernel_made_directory_is_not_told_here() -> None:
    with serving(Path("/proc"), "--kernel-files=read") as server, server.peer() as peer:
        fd = peer.openat(peer.root).fd
        told = dict(listed(peer, fd))
        with fails(errno.EPERM):
            peer.walkstat(peer.root, "self")
        assert told[b"self"].mask == 0 and told[b"1"].mask == 0
        assert told[b"meminfo"].mask == peer.walkstat(peer.root, "meminfo")[0].mask


@pytest.mark.parametrize("way", WAYS_2021)
def test_who_speaks_the_dialect_of_2021_has_no_such_message(server: Server, way: str) -> None:
    with server.peer(way) as peer, fails(errno.EOPNOTSUPP):
        peer.dirstat(1)


def test_our_client_reads_a_directory_with_it(server: Server, tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "file").write_bytes(b"12345")
    with Client.connect(str(server.path)) as client, client.opened(client.root.fd) as fd:
        entries = dict(client.dirstat(fd, 4096))
        assert (entries[b"file"].size, modes.S_ISDIR(entries[b"dir"].mode)) == (5, True)
        assert entries[b"file"] == client.walkstat(client.root.fd, [b"file"])[0]
        assert client.dirstat(fd, 4096) == []
