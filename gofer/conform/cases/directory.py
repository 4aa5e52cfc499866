"""Getdents64."""

from __future__ import annotations

import errno
import os

from gofer.conform.case import expect, fails, may_fail, same, semantics, wire
from gofer.conform.codec import MAX_MESSAGE, Dirent, Mid
from gofer.conform.looks import plant, plant_all
from gofer.conform.stand import Stand

MANY = 300


def _fill(t: Stand, count: int, width: int = 0) -> list[bytes]:
    for number in range(count):
        t.ground.file(f"{number:0{width}d}")
    return sorted(f"{number:0{width}d}".encode() for number in range(count))


def _names(entries: list[Dirent]) -> list[bytes]:
    return sorted(entry.name for entry in entries)


def _opened(t: Stand) -> int:
    return t.peer.openat(t.dir).fd


def _as_walkstat_says(t: Stand, names: list[bytes]) -> None:
    entries = t.peer.listdir(_opened(t))
    same(_names(entries), names)
    for entry in entries:
        (stat,) = t.peer.walkstat(t.dir, entry.name)
        same((entry.ino, entry.dev, entry.type), (stat.ino, stat.dev, stat.mode >> 12), f"{entry.name!r}")


@semantics(needs="writable")
def a_listing_tells_every_entry_as_walkstat_does(t: Stand) -> None:
    plant(t)
    _as_walkstat_says(t, [b"dir", b"file", b"link"])


@semantics(needs="writable host")
def a_listing_tells_every_type_of_entry(t: Stand) -> None:
    plant_all(t)
    _as_walkstat_says(t, [b"char", b"dir", b"fifo", b"file", b"link", b"sock"])


@semantics(dialects=("today",))
def dot_and_dotdot_are_left_out_and_an_empty_directory_has_no_entries(t: Stand) -> None:
    fd = _opened(t)
    same(t.peer.getdents64(fd, -65536), [])
    same(t.peer.getdents64(fd, 65536), [])


@semantics(needs="writable", each=(48, 64, 300, 4096, 2**31 - 1))
def any_count_lists_every_entry_once(t: Stand, count: int) -> None:
    names = _fill(t, MANY)
    same(_names(t.peer.listdir(_opened(t), count)), names)


@semantics(needs="writable")
def no_reply_holds_more_than_count_bytes_of_kernel_entries(t: Stand) -> None:
    """de54e60f5: the count was taken as a number of entries."""
    _fill(t, MANY, 20)  # a struct linux_dirent64 of 40 bytes each
    fd = _opened(t)
    more = t.peer.getdents64(fd, -4000)
    while more:
        expect(len(more) <= 100, f"{len(more)} entries of 40 bytes, where 4000 were asked for")
        more = t.peer.getdents64(fd, 4000)


@semantics(needs="writable")
def a_negative_count_starts_again(t: Stand) -> None:
    names = _fill(t, 50)
    fd = _opened(t)
    for count in (-512, -512, -65536):
        first = t.peer.getdents64(fd, count)
        expect(first, "no entries")
    same(_names(first), names)
    same(t.peer.getdents64(fd, 65536), [])


@semantics(needs="writable")
def starting_again_shows_what_is_new(t: Stand) -> None:
    fd = _opened(t)
    same(t.peer.getdents64(fd, -65536), [])
    t.ground.file("new")
    same(_names(t.peer.getdents64(fd, -65536)), [b"new"])


@semantics(needs="writable", each=(0, 1, 18, -1, -18, -(2**31)))
def a_count_that_holds_no_entry_is_einval_and_never_an_empty_success(t: Stand, count: int) -> None:
    t.ground.file("file")
    fd = _opened(t)
    with fails(errno.EINVAL):
        t.peer.getdents64(fd, count)


@semantics(needs="writable", each=(24, 40, 200))
def a_count_too_small_for_the_next_entry_is_einval_and_loses_nothing(t: Stand, count: int) -> None:
    t.ground.file("n" * 255)  # 280 bytes in the kernel's form
    fd = _opened(t)
    for asked in (-count, count):
        with fails(errno.EINVAL):
            t.peer.getdents64(fd, asked)
    same(_names(t.peer.getdents64(fd, 280)), [b"n" * 255])


@semantics(needs="writable")
def two_open_fds_have_two_positions(t: Stand) -> None:
    names = _fill(t, 20)
    one, two = _opened(t), _opened(t)
    for fd in (one, two):
        same(_names(t.peer.getdents64(fd)), names)


@semantics(needs="writable host")
def the_off_of_an_entry_is_the_position_behind_it(t: Stand) -> None:
    _fill(t, 50)
    entries = t.peer.listdir(_opened(t))
    same(len({entry.off for entry in entries}), len(entries), "different offsets")
    fd = os.open(t.tree, os.O_RDONLY)
    try:
        os.lseek(fd, entries[24].off, os.SEEK_SET)
        behind = set(os.listdir(fd))
    finally:
        os.close(fd)
    expect({os.fsdecode(entry.name) for entry in entries[25:]} <= behind, "it is not")


@semantics(needs="writable")
def names_of_any_bytes_and_of_the_longest_length(t: Stand) -> None:
    odd = sorted([bytes(sorted(set(range(1, 256)) - {0x2F})), b"\xff\xfe", b"n" * 255, b"\n"])
    for name in odd:
        t.peer.opencreateat(t.dir, name)
    same(_names(t.peer.listdir(_opened(t))), odd)


@wire(needs="writable")
def only_an_open_directory_lists(t: Stand) -> None:
    t.ground.file("file")
    for fd, number in ((t.dir, errno.EINVAL), (t.open("file"), errno.ENOTDIR), (99999999, errno.EBADF)):
        with fails(number):
            t.peer.getdents64(fd)


@semantics(needs="writable", dialects=("today",))
def a_removed_directory_lists_nothing(t: Stand) -> None:
    t.ground.mkdir("dir")
    fd = t.open("dir")
    t.ground.remove("dir")
    with may_fail(errno.ENOENT):  # as the kernel says on most file systems
        same(t.peer.getdents64(fd), [])


@semantics(needs="writable", each=("files", "directories"))
def entries_that_vanish_while_listing_are_never_an_error(t: Stand, kind: str) -> None:
    """567ce6c89: one vanished entry failed a whole Getdents."""
    names = [f"{number}" for number in range(MANY)]
    for name in names:
        (t.ground.file if kind == "files" else t.ground.mkdir)(name)
    fd = _opened(t)
    seen = [entry.name for entry in t.peer.getdents64(fd, -1000)]
    for name in names:
        t.ground.remove(name)
    more = t.peer.getdents64(fd, 1000)
    while more:
        seen += [entry.name for entry in more]
        more = t.peer.getdents64(fd, 1000)
    same(len(set(seen)), len(seen), "different names")
    expect({os.fsdecode(name) for name in seen} <= set(names), "names that were not there")


@wire(needs="writable host")
def a_long_listing_comes_in_replies_below_the_largest_message(t: Stand) -> None:
    for number in range(7700):
        (t.tree / f"{number:0250d}").touch()  # 27 + 250 bytes each on the wire: above one message
    seen: set[bytes] = set()
    fd, count, replies = _opened(t), -(2**31 - 1), 0
    while True:
        reply = t.peer.call(Mid.GETDENTS64, t.peer.raw_getdents(fd, count))
        expect(len(reply.payload) <= MAX_MESSAGE, f"a reply of {len(reply.payload)} bytes")
        entries = t.peer.dirents(reply.payload)
        if not entries:
            break
        before = len(seen)
        seen |= {entry.name for entry in entries}
        same(len(seen) - before, len(entries), "new names")
        count, replies = 2**31 - 1, replies + 1
    same(len(seen), 7700, "names")
    expect(replies > 1, "one reply")


@semantics(needs="writable", dialects=("2021",))
def a_listing_of_2021_leaves_out_dot_and_dotdot_or_tells_both(t: Stand) -> None:
    """The servers of that year passed them on, and their clients skip them."""
    t.ground.file("file")
    names = {entry.name for entry in t.peer.listdir(_opened(t))}
    expect(names in ({b"file"}, {b"file", b".", b".."}), f"{names}")
