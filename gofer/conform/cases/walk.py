"""Walk, WalkStat and FStat."""

from __future__ import annotations

import errno
import os
import stat as modes
import struct

from gofer.conform.case import expect, fails, may_fail, safety, same, semantics, wire
from gofer.conform.codec import Mid
from gofer.conform.looks import BAD_NAMES, plant, plant_all
from gofer.conform.stand import Stand

WALKABLE = ("dir", "file", "link", "fifo", "char", "sock")
EASY = ("dir", "file", "link")  # what messages can make


def _plant(t: Stand, name: str) -> None:
    if name in EASY:
        plant(t)
    else:
        plant_all(t)


@semantics(needs="writable", each=WALKABLE)
def finds_a_child_of_every_type_and_tells_its_stat(t: Stand, name: str) -> None:
    _plant(t, name)
    status, inodes = t.peer.walk(t.dir, name)
    same((status, len(inodes)), (0, 1), "status, inodes")
    t.ground.expect_stat(inodes[0].stat, name)
    t.ground.expect_stat(t.peer.fstat(inodes[0].fd), name)


@semantics(needs="writable")
def of_several_components_returns_an_inode_for_each(t: Stand) -> None:
    plant(t)
    status, inodes = t.peer.walk(t.dir, "dir", "sub", "file")
    same((status, len(inodes)), (0, 3), "status, inodes")
    for inode, path in zip(inodes, (("dir",), ("dir", "sub"), ("dir", "sub", "file"))):
        t.ground.expect_stat(inode.stat, *path)
    same(len({inode.fd for inode in inodes}), 3, "different FDs")


@semantics()
def of_nothing_succeeds_with_nothing(t: Stand) -> None:
    same(t.peer.walk(t.dir), (0, []))


@semantics(needs="writable")
def stops_with_status_one_where_a_component_is_missing(t: Stand) -> None:
    plant(t)
    status, inodes = t.peer.walk(t.dir, "dir", "missing", "file")
    same((status, len(inodes)), (1, 1), "status, inodes")
    t.ground.expect_stat(inodes[0].stat, "dir")
    same(t.peer.walk(t.dir, "missing"), (1, []))


@semantics(needs="writable")
def stops_with_status_two_after_a_symlink(t: Stand) -> None:
    plant(t)
    status, inodes = t.peer.walk(t.dir, "link", "sub", "file")
    same((status, len(inodes)), (2, 1), "status, inodes")
    t.ground.expect_stat(inodes[0].stat, "link")


@semantics(needs="writable")
def to_a_symlink_as_the_last_component_is_complete(t: Stand) -> None:
    plant(t)
    status, inodes = t.peer.walk(t.dir, "link")
    same(status, 0, "status")
    expect(modes.S_ISLNK(inodes[0].stat.mode), "no symlink")


@semantics(needs="writable", each=("file", "link", "fifo", "char", "sock"))
def from_what_is_not_a_directory_is_enotdir(t: Stand, name: str) -> None:
    _plant(t, name)
    fd = t.walk(name)
    with fails(errno.ENOTDIR):
        t.peer.walk(fd, "x")
    with fails(errno.ENOTDIR):
        t.peer.walk(fd)


@safety(needs="writable", each=("file", "fifo", "sock"))
def through_what_is_not_a_directory_is_enotdir_and_keeps_no_fd(t: Stand, name: str) -> None:
    _plant(t, name)
    with fails(errno.ENOTDIR):
        t.peer.walk(t.dir, name, "x")
    behind = t.walk("dir")
    with fails(errno.EBADF):
        t.peer.fstat(behind - 1)


@safety(needs="writable", each=BAD_NAMES)
def refuses_a_name_that_is_not_one_component(t: Stand, name: bytes, number: int) -> None:
    plant(t)
    for path in ([name], ["dir", name], ["dir", name, "file"]):
        with fails(number):
            t.peer.walk(t.dir, *path)


@safety(needs="writable", each=BAD_NAMES)
def walkstat_refuses_a_name_that_is_not_one_component(t: Stand, name: bytes, number: int) -> None:
    plant(t)
    if name:  # a first one may be empty
        with fails(number):
            t.peer.walkstat(t.dir, name)
    with fails(number):
        t.peer.walkstat(t.dir, "dir", name)


@semantics(needs="writable")
def names_may_be_any_bytes_but_nul_and_slash(t: Stand) -> None:
    for name in (bytes(sorted(set(range(1, 256)) - {0x2F})), b"n" * 255):
        t.peer.opencreateat(t.dir, name)
        status, inodes = t.peer.walk(t.dir, name)
        same(status, 0, "status")
        expect(modes.S_ISREG(inodes[0].stat.mode), "no regular file")


@wire()
def of_more_than_could_fit_one_reply_is_eio_or_finds_nothing(t: Stand) -> None:
    """846f4055e: replies were bounded by 4 GiB. Whether there is so much is not known before."""
    with may_fail(errno.EIO):
        same(t.peer.walk(t.dir, *["d"] * 13800), (1, []))  # 13,800 inodes of 152 bytes


@semantics(needs="writable")
def a_removed_directory_has_no_children(t: Stand) -> None:
    plant(t)
    fd = t.walk("dir", "sub")
    t.ground.remove("dir", "sub", "file")
    t.ground.remove("dir", "sub")
    same(t.peer.walk(fd, "file"), (1, []))
    same(t.peer.fstat(fd).nlink, 0, "nlink")


@semantics(needs="writable")
def follows_a_rename_of_the_directory_it_starts_from(t: Stand) -> None:
    plant(t)
    fd = t.walk("dir")
    t.ground.rename("dir", "moved")
    same(t.peer.walk(fd, "sub")[0], 0, "status")


@semantics(needs="writable")
def walkstat_tells_every_component_without_making_fds(t: Stand) -> None:
    plant(t)
    before = t.walk("file")
    stats = t.peer.walkstat(t.dir, "dir", "sub", "file")
    same(len(stats), 3, "stats")
    for stat, path in zip(stats, (("dir",), ("dir", "sub"), ("dir", "sub", "file"))):
        t.ground.expect_stat(stat, *path)
    same(t.walk("file"), before + 1, "the next FD")


@semantics(needs="writable")
def walkstat_with_a_leading_empty_name_also_tells_the_start(t: Stand) -> None:
    plant(t)
    stats = t.peer.walkstat(t.dir, "", "dir")
    same(len(stats), 2, "stats")
    t.ground.expect_stat(stats[0])
    t.ground.expect_stat(stats[1], "dir")


@semantics(needs="writable", each=WALKABLE)
def walkstat_of_the_empty_name_alone_works_on_any_type(t: Stand, name: str) -> None:
    _plant(t, name)
    stats = t.peer.walkstat(t.walk(name), "")
    same(len(stats), 1, "stats")
    t.ground.expect_stat(stats[0], name)


@semantics(needs="writable")
def walkstat_below_what_is_not_a_directory_is_enotdir(t: Stand) -> None:
    plant(t)
    for name in ("file", "link"):
        fd = t.walk(name)
        for path in (["x"], ["", "x"]):
            with fails(errno.ENOTDIR):
                t.peer.walkstat(fd, *path)
    with fails(errno.ENOTDIR):
        t.peer.walkstat(t.dir, "file", "x")


@semantics(needs="writable")
def walkstat_ends_at_a_missing_component_and_at_a_symlink(t: Stand) -> None:
    plant(t)
    same(len(t.peer.walkstat(t.dir, "dir", "missing", "x")), 1, "stats")
    stats = t.peer.walkstat(t.dir, "link", "sub")
    same(len(stats), 1, "stats")
    t.ground.expect_stat(stats[0], "link")


@semantics()
def walkstat_of_nothing_returns_nothing(t: Stand) -> None:
    same(t.peer.walkstat(t.dir), [])


@wire()
def walkstat_of_more_than_could_fit_one_reply_is_eio_or_finds_nothing(t: Stand) -> None:
    with may_fail(errno.EIO):
        same(t.peer.walkstat(t.dir, *["d"] * 14600), [])


LIES = {"a-second": (2, 1), "65535": (0xFFFF, 0), "none": (0, 1)}


@wire(each={f"{mid.name}-{label}": (mid, *lie) for mid in (Mid.WALK, Mid.WALKSTAT) for label, lie in LIES.items()})
def a_path_that_claims_another_number_of_names_than_it_has_is_eio(t: Stand, mid: Mid, count: int, names: int) -> None:
    with fails(errno.EIO):
        t.peer.call(mid, t.peer.raw_fd(t.dir) + t.peer.raw_count(count) + t.peer.raw_string(b"a") * names)


@wire(each=(Mid.WALK, Mid.WALKSTAT))
def a_name_that_claims_more_bytes_than_there_are_is_eio(t: Stand, mid: Mid) -> None:
    with fails(errno.EIO):
        t.peer.call(mid, t.peer.raw_fd(t.dir) + t.peer.raw_count(1) + struct.pack(t.peer.count, 0xFFFF) + b"a")


@semantics(needs="writable")
def fstat_works_on_open_fds_and_on_unlinked_files(t: Stand) -> None:
    t.ground.file("file", b"hello")
    control = t.walk("file")
    opened = t.peer.openat(control).fd
    t.ground.expect_stat(t.peer.fstat(opened), "file")
    t.ground.remove("file")
    same((t.peer.fstat(opened).nlink, t.peer.fstat(control).nlink), (0, 0), "nlink")
    same(t.peer.fstat(control).size, 5, "size")


@semantics(needs="writable host")
def the_mask_has_a_birth_time_where_the_file_system_has_one(t: Stand) -> None:
    """4c569980d: there was none; and the mask must not claim what is not there."""
    t.ground.file("file")
    stat = t.peer.fstat(t.walk("file"))
    if stat.mask & 0x800:
        expect(0 < stat.btime[0] <= stat.ctime[0], f"born at {stat.btime}, changed at {stat.ctime}")
    else:
        same(stat.btime, (0, 0), "the time of birth, which the mask says is not there")
    expect(bool(stat.mask & 0x800) or os.uname().sysname != "Linux" or not _tells_birth(t), "the file system has one")


def _tells_birth(t: Stand) -> bool:
    """Whether stat(1) knows a time of birth here."""
    import subprocess

    done = subprocess.run(["stat", "--format=%W", str(t.tree / "file")], stdout=subprocess.PIPE, check=True)
    return int(done.stdout) > 0
