"""DirWalk: our own message, into a directory and what is in it."""

import errno
import os
import stat as modes
import struct
from pathlib import Path
from typing import Any

import disks
import faulty
import pytest
from conftest import Start
from disks import serving
from hosts import TRANSPORTS, WAYS_2021, Server, fails
from looks import assert_stat_is, one_of_each

from gofer.client.address import parse
from gofer.client.client import Client
from gofer.client.tree import served
from gofer.conform.codec import Mid, Stat, string


@pytest.mark.parametrize("way", TRANSPORTS)
def test_it_tells_what_the_messages_that_it_stands_for_tell(server: Server, way: str) -> None:
    one_of_each(server.tree / "dir")
    with server.peer(way) as peer:
        fd, opened, own, entries = peer.dirwalk(peer.root, "dir")
        assert opened == 0
        assert own._replace(atime=(0, 0)) == peer.fstat(fd)._replace(atime=(0, 0))
        assert own.ino == os.stat(server.tree / "dir").st_ino
        listed = peer.getdents64(peer.openat(fd).fd)
        assert dict(entries) == {entry.name: entry.type for entry in listed} and len(entries) == len(listed) == 7
        for name, stat in peer.dirwalk(peer.root, "dir", stats=1)[3]:
            assert isinstance(stat, Stat)
            assert_stat_is(stat, server.tree / "dir" / os.fsdecode(name))
        again, opened, own, entries = peer.dirwalk(fd)
        assert (again, opened, len(entries)) == (fd, 0, 7)


def test_what_is_all_there_leaves_one_fd_open_and_what_is_not_two(server: Server) -> None:
    (server.tree / "small").mkdir()
    (server.tree / "large").mkdir()
    for number in range(400):
        (server.tree / "large" / str(number)).touch()
    with server.peer() as peer:
        peer.fstat(peer.root)
        before = len(server.open_fds())
        for stats in (0, 1):
            small, opened, _, entries = peer.dirwalk(peer.root, "small", stats=stats)
            assert (opened, entries, len(server.open_fds())) == (0, [], before + 1)
            large, opened, _, entries = peer.dirwalk(peer.root, "large", count=4096, stats=stats)
            assert opened and 0 < len(entries) < 400 and len(server.open_fds()) == before + 3
            rest: list[Any] = []
            while more := peer.dirstat(opened, 4096) if stats else peer.getdents64(opened, 4096):
                rest += more
            assert sorted([name for name, _ in entries] + [each[0] if stats else each.name for each in rest]) == sorted(
                b"%d" % number for number in range(400)
            )
            peer.close(small, large, opened)
            assert len(server.open_fds()) == before


@pytest.mark.parametrize("count", [280, 32768, 2**32 - 1])
def test_the_longest_reply_fits_its_message(server: Server, count: int) -> None:
    for i in range(14000):
        os.mknod(server.tree / format(i, "x"))
    with server.peer() as peer:
        for stats in (0, 1):
            _, opened, _, entries = peer.dirwalk(peer.root, count=count, stats=stats)
            assert opened and len(entries) == len({name for name, _ in entries})
            rest = 0
            while more := peer.getdents64(opened):
                rest += len(more)
            assert len(entries) + rest == 14000
            peer.close(opened)


def test_what_cannot_be_gone_into_is_an_error_and_leaves_nothing(server: Server) -> None:
    one_of_each(server.tree / "dir")
    os.mknod(server.tree / "block", modes.S_IFBLK | 0o600, os.makedev(7, 0))
    with server.peer() as peer:
        file = peer.walk(peer.root, "dir", "file")[1][1].fd
        before = len(server.open_fds())
        for fd, name, code in (
            (peer.root, "none", errno.ENOENT), (peer.root, "block", errno.EPERM), (peer.root, "dir/sub", errno.EINVAL),
            (peer.root, "..", errno.EINVAL), (peer.root, ".", errno.EINVAL), (peer.root, "n" * 256, errno.ENAMETOOLONG),
            (peer.root, "a\0b", errno.EINVAL), (file, "", errno.ENOTDIR), (file, "x", errno.ENOTDIR), (777, "", errno.EBADF),
        ):  # fmt: skip
            with fails(code):
                peer.dirwalk(fd, name)
        (sub,) = peer.walk(peer.root, "dir")[1]
        for name in ("file", "link", "fifo", "char", "sock"):
            with fails(errno.ENOTDIR):
                peer.dirwalk(sub.fd, name)
        for count, what in ((0, 0), (279, 0), (4096, 2), (4096, 2**32 - 1)):
            with fails(errno.EINVAL):
                peer.dirwalk(peer.root, "dir", count, what)
        head = struct.pack("<QII", peer.root, 4096, 0)
        for payload in (b"", bytes(15), head, head + string("dir") + b"x"):
            with fails(errno.EIO):
                peer.read(Mid.DIRWALK, payload)
        assert len(server.open_fds()) == before + 1


def test_it_takes_no_more_fds_than_the_connection_may_have(start: Start) -> None:
    server = start("--fd-limit", "128", "--workers", "1")
    (server.tree / "dir").mkdir()
    for number in range(300):
        (server.tree / "dir" / str(number)).touch()
    with server.peer() as peer:
        with fails(errno.EMFILE):
            for _ in range(200):
                peer.dirwalk(peer.root, "dir", count=280)
        assert peer.fstat(peer.root)


def test_of_a_dead_mount_and_a_block_device_only_the_type_is_told(spot: Path) -> None:
    os.mknod(spot / "block", modes.S_IFBLK | 0o600, os.makedev(7, 0))
    with faulty.faulty(spot) as dead, serving(spot) as server, server.peer() as peer:
        dead.vanish()
        found: dict[bytes, Any] = dict(peer.dirwalk(peer.root, stats=1)[3])
    for name, kind in (("block", modes.S_IFBLK), (dead.path.name, modes.S_IFDIR)):
        assert (found[os.fsencode(name)].mask, found[os.fsencode(name)].mode) == (0, kind) and found[os.fsencode(name)].ino


def test_a_mounted_directory_is_the_mounted_one(spot: Path) -> None:
    with disks.tmpfs("1M") as place, serving(place.parent) as server, server.peer() as peer:
        (place / "inside").touch()
        _, _, own, entries = peer.dirwalk(peer.root, place.name)
        assert own.ino == os.stat(place).st_ino and [name for name, _ in entries] == [b"inside"]


def test_what_the_kernel_makes_up_is_not_gone_into() -> None:
    with serving(Path("/proc"), "--kernel-files=read") as server, server.peer() as peer:
        for name in ("", "sys", "self"):
            with fails(errno.EPERM):
                peer.dirwalk(peer.root, name)
        with served(parse(str(server.path)), 30) as tree:
            assert b"meminfo" in [name for name, _ in tree.kinds(tree.root.fd)]  # by the other messages


@pytest.mark.parametrize("way", WAYS_2021)
def test_who_speaks_the_dialect_of_2021_has_no_such_message(server: Server, way: str) -> None:
    with server.peer(way) as peer, fails(errno.EOPNOTSUPP):
        peer.dirwalk(1)


def test_our_client_asks_once_for_a_directory(server: Server) -> None:
    one_of_each(server.tree / "dir")
    with served(parse(str(server.path)), 30) as tree:
        asked: list[int] = []
        ask = Client.ask
        tree.client.ask = lambda mid, request=b"": (asked.append(mid), ask(tree.client, mid, request))[1]  # type: ignore
        assert sorted(name for name, _ in tree.kinds(tree.root.fd)) == [b"dir"]
        found = tree.enter(tree.root.fd, b"dir", stats=True)
        assert {name: stat.size for name, stat, _ in tree.stats(found.node.fd, first=found)}[b"file"] == 8
        assert asked == [Mid.DIRWALK, Mid.DIRWALK]
