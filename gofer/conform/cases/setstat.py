"""SetStat."""

from __future__ import annotations

import errno
import os
import socket
import stat as modes
import time

from gofer.conform.case import expect, fails, same, semantics, wire
from gofer.conform.codec import ATIME, GID, MODE, MTIME, NO_ID, SIZE, UID, Stat
from gofer.conform.looks import bound, make_device
from gofer.conform.stand import Stand

EVERYTHING = MODE | UID | GID | SIZE | ATIME | MTIME
OWNED = "writable owners"
DONE = (0, 0)


def _told(t: Stand, name: str) -> Stat:
    """By WalkStat, which says the same of what lies on the host (walk.py)."""
    (stat,) = t.base.walkstat(t.dir, name)
    return stat


@semantics(needs=OWNED)
def every_attribute_can_be_set_at_once(t: Stand) -> None:
    t.ground.file("file", b"hello")
    fd = t.walk("file")
    done = t.peer.setstat(
        fd, EVERYTHING, mode=0o640, uid=1234, gid=5678, size=3, atime=(1, 2), mtime=(1700000000, 999_999_999)
    )
    same(done, DONE, "failure_mask, failure_errno")
    stat = t.peer.fstat(fd)
    t.ground.expect_stat(stat, "file")
    same((modes.S_IMODE(stat.mode), stat.uid, stat.gid, stat.size), (0o640, 1234, 5678, 3))
    same((stat.atime, stat.mtime), ((1, 2), (1700000000, 999_999_999)))


BITS = {"mode": MODE, "uid": UID, "gid": GID, "size": SIZE, "atime": ATIME, "mtime": MTIME}


@semantics(needs=OWNED, each={name: (name, bit) for name, bit in BITS.items()})
def what_the_mask_does_not_name_stays(t: Stand, name: str, mask: int) -> None:
    t.ground.file("file", b"hello")
    fd = t.walk("file")
    same(t.peer.setstat(fd, MODE | ATIME | MTIME, mode=0o600, atime=(100, 0), mtime=(200, 0)), DONE)
    before = t.peer.fstat(fd)
    same(t.peer.setstat(fd, mask, mode=0o755, uid=11, gid=22, size=9, atime=(33, 0), mtime=(44, 0)), DONE)
    after = t.peer.fstat(fd)
    looked_at = set(BITS) - ({"mtime"} if name == "size" else set())  # which a new size moves: that is Linux's doing
    same({field for field in looked_at if getattr(before, field) != getattr(after, field)}, {name}, "what changed")


@semantics(needs="writable")
def an_empty_mask_changes_nothing(t: Stand) -> None:
    t.ground.file("file")
    before = _told(t, "file")
    same(t.peer.setstat(t.walk("file"), 0, mode=0o777, uid=1, gid=1, size=5), DONE)
    same(_told(t, "file"), before)


@semantics(needs="writable", each={f"{bit:#x}": bit for bit in (0x1, 0x4, 0x80, 0x100, 0x400, 0x800, 1 << 31)})
def another_bit_in_the_mask_is_eperm_and_changes_nothing(t: Stand, bit: int) -> None:
    t.ground.file("file")
    before = _told(t, "file")
    fd = t.walk("file")
    with fails(errno.EPERM):
        t.peer.setstat(fd, MODE | bit, mode=0o777)
    same(_told(t, "file"), before)


@semantics(needs=OWNED, each={f"{mode:o}": mode for mode in (0, 0o777, 0o1777, 0o4755, 0o2755, 0o6755)})
def owner_and_mode_together_keep_the_set_id_bits(t: Stand, mode: int) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    same(t.peer.setstat(fd, MODE | UID | GID, mode=mode, uid=1234, gid=5678), DONE)
    stat = _told(t, "file")
    same((f"{modes.S_IMODE(stat.mode):o}", stat.uid, stat.gid), (f"{mode:o}", 1234, 5678))


@semantics(needs="writable")
def file_type_bits_in_the_mode_are_ignored(t: Stand) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    same(t.peer.setstat(fd, MODE, mode=modes.S_IFREG | 0o751), DONE)
    same(t.peer.fstat(fd).mode, modes.S_IFREG | 0o751, "mode")


@semantics(needs=OWNED, each={"both": (NO_ID, NO_ID), "gid": (77, NO_ID), "uid": (NO_ID, 88)})
def an_id_of_minus_one_is_left_alone(t: Stand, uid: int, gid: int) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    same(t.peer.setstat(fd, UID | GID, uid=1234, gid=5678), DONE)
    same(t.peer.setstat(fd, UID | GID, uid=uid, gid=gid), DONE)
    stat = t.peer.fstat(fd)
    same((stat.uid, stat.gid), (1234 if uid == NO_ID else uid, 5678 if gid == NO_ID else gid))


@semantics(needs=OWNED)
def two_unset_ids_change_no_owner_and_clear_no_set_id_bits(t: Stand) -> None:
    """84670a4fc: 0xffffffff is -1, not 4294967295; and a chown would have cleared the set-id bits."""
    t.ground.file("file")
    fd = t.walk("file")
    same(t.peer.setstat(fd, UID | GID, uid=12, gid=34), DONE)
    same(t.peer.setstat(fd, MODE, mode=0o4755), DONE)
    same(t.peer.setstat(fd, UID | GID, uid=NO_ID, gid=NO_ID), DONE)
    stat = t.peer.fstat(fd)
    same((stat.uid, stat.gid, f"{modes.S_IMODE(stat.mode):o}"), (12, 34, "4755"))


@semantics(needs=OWNED)
def it_works_on_an_unlinked_file(t: Stand) -> None:
    t.ground.file("file", b"hello")
    fd = t.walk("file")
    t.ground.remove("file")
    same(t.peer.setstat(fd, EVERYTHING, mode=0o604, uid=9, gid=9, size=1, atime=(5, 5), mtime=(6, 6)), DONE)
    stat = t.peer.fstat(fd)
    same((modes.S_IMODE(stat.mode), stat.uid, stat.gid, stat.size, stat.nlink), (0o604, 9, 9, 1, 0))
    same((stat.atime, stat.mtime), ((5, 5), (6, 6)))


@semantics(needs=OWNED)
def it_works_on_a_removed_directory(t: Stand) -> None:
    t.ground.mkdir("dir")
    fd = t.walk("dir")
    t.ground.remove("dir")
    same(t.peer.setstat(fd, MODE | UID | MTIME, mode=0o711, uid=9, mtime=(7, 7)), DONE)
    same(modes.S_IMODE(t.peer.fstat(fd).mode), 0o711, "mode")


@semantics(needs="writable owners host", each=("fifo", "sock", "dir", "char"))
def owner_mode_and_times_of_other_types_can_be_set(t: Stand, name: str) -> None:
    if name == "fifo":
        os.mkfifo(t.tree / name)
    elif name == "dir":
        t.ground.mkdir(name)
    elif name == "char":
        make_device(t, name, 1, 3)
    else:
        bound(t, name)
    fd = t.walk(name)
    mask = MODE | UID | GID | ATIME | MTIME
    same(t.peer.setstat(fd, mask, mode=0o700, uid=5, gid=6, atime=(7, 8), mtime=(9, 10)), DONE)
    stat = t.peer.fstat(fd)
    t.ground.expect_stat(stat, name)
    same((modes.S_IMODE(stat.mode), stat.uid, stat.gid, stat.atime, stat.mtime), (0o700, 5, 6, (7, 8), (9, 10)))


@semantics(needs=OWNED)
def a_symlink_takes_owner_and_times(t: Stand) -> None:
    t.ground.file("file")
    t.ground.symlink("file", "link")
    before = _told(t, "file")
    fd = t.walk("link")
    same(t.peer.setstat(fd, UID | GID | MTIME, uid=5, gid=6, mtime=(9, 10)), DONE)
    stat = t.peer.fstat(fd)
    same((stat.uid, stat.gid, stat.mtime), (5, 6, (9, 10)))
    same(_told(t, "file"), before, "what it leads to")


@semantics(needs=OWNED)
def a_symlink_takes_no_mode_nor_does_what_it_leads_to(t: Stand) -> None:
    """1a02bb22b: EOPNOTSUPP."""
    t.ground.file("file")
    t.ground.symlink("file", "link")
    before = _told(t, "file")
    fd = t.walk("link")
    same(t.peer.setstat(fd, MODE | UID, mode=0o600, uid=7), (MODE, errno.EOPNOTSUPP))
    same(t.peer.fstat(fd).uid, 7, "uid")
    same(_told(t, "file"), before, "what it leads to")


@semantics(needs=OWNED, each=("dir", "link", "fifo"))
def the_size_of_what_has_none_is_a_failure_in_the_mask(t: Stand, name: str) -> None:
    t.ground.mkdir("dir")
    t.ground.file("file", b"kept")
    t.ground.symlink("file", "link")
    if name == "fifo":
        os.mkfifo(t.tree / name)
    fd = t.walk(name)
    mask, number = t.peer.setstat(fd, SIZE | UID, size=0, uid=5)
    same(mask, SIZE, "failure_mask")
    expect(number in (errno.EISDIR, errno.EINVAL), f"failure_errno {number}")
    same(t.peer.fstat(fd).uid, 5, "uid")
    same(t.ground.contents("file"), b"kept")


@semantics(needs="writable", each={"2^63": 2**63, "2^64-1": 2**64 - 1})
def a_size_above_the_largest_fails_and_never_wraps(t: Stand, size: int) -> None:
    t.ground.file("file", b"hello")
    fd = t.walk("file")
    same(t.peer.setstat(fd, SIZE | MODE, size=size, mode=0o600), (SIZE, errno.EINVAL))
    stat = t.peer.fstat(fd)
    same((stat.size, modes.S_IMODE(stat.mode)), (5, 0o600))


@semantics(needs="writable")
def a_file_grows_and_shrinks(t: Stand) -> None:
    t.ground.file("file", b"hello")
    fd = t.walk("file")
    same(t.peer.setstat(fd, SIZE, size=1 << 30), DONE)
    same(_told(t, "file").size, 1 << 30, "size")
    same(t.peer.setstat(fd, SIZE, size=2), DONE)
    same(t.ground.contents("file"), b"he")


@semantics(needs="writable")
def utime_now_and_utime_omit_mean_what_they_mean_to_linux(t: Stand) -> None:
    """utimensat(2). A sandbox that shares the tree with others sends UTIME_NOW, so that the host's clock decides."""
    t.ground.file("file")
    fd = t.walk("file")
    same(t.peer.setstat(fd, ATIME | MTIME, atime=(100, 0), mtime=(200, 0)), DONE)
    same(t.peer.setstat(fd, ATIME | MTIME, atime=(5, 2**30 - 2), mtime=(5, 2**30 - 1)), DONE)
    stat = t.peer.fstat(fd)
    same(stat.atime, (100, 0), "atime, which was to stay")
    expect(abs(stat.mtime[0] - time.time()) < 3600, f"mtime {stat.mtime}, which was to be now")


@semantics(needs="writable", each={"10^9": 10**9, "2^30": 2**30, "2^31": 2**31, "2^62": 2**62})
def nanoseconds_that_are_none_fail(t: Stand, nsec: int) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    same(t.peer.setstat(fd, MTIME, mtime=(200, 0)), DONE)
    same(t.peer.setstat(fd, MTIME, mtime=(5, nsec)), (MTIME, errno.EINVAL))
    same(t.peer.fstat(fd).mtime, (200, 0), "mtime")


@semantics(needs="writable host", each={"long-ago": -(2**40), "-1": -1, "0": 0, "2^33": 2**33})
def seconds_before_the_epoch_and_beyond_2038_are_passed_on(t: Stand, sec: int) -> None:
    for name in ("file", "native"):
        t.ground.file(name)
    os.utime(t.tree / "native", ns=(sec * 10**9, sec * 10**9))  # what this file system makes of it
    same(t.peer.setstat(t.walk("file"), MTIME | ATIME, atime=(sec, 0), mtime=(sec, 0)), DONE)
    same(os.stat(t.tree / "file").st_mtime_ns, os.stat(t.tree / "native").st_mtime_ns, "mtime")


@wire(needs="writable")
def it_needs_a_control_fd(t: Stand) -> None:
    t.ground.file("file")
    opened = t.open("file")
    with fails(errno.EINVAL):
        t.peer.setstat(opened, MODE, mode=0o600)
    with fails(errno.EBADF):
        t.peer.setstat(99999999, MODE, mode=0o600)


@semantics(needs="writable owners bind", dialects=("today",), each={
    "stream": socket.SOCK_STREAM, "datagram": socket.SOCK_DGRAM, "seqpacket": socket.SOCK_SEQPACKET,
})  # fmt: skip
def a_bound_socket_has_mode_and_owner_and_can_be_given_others(t: Stand, kind: int) -> None:
    """68fd6aba4, f841b2511, 0ec88b757, 6ac829ca1."""
    created = t.peer.bindat(t.dir, "sock", kind, mode=modes.S_IFSOCK | 0o712, uid=12, gid=34)
    stat = created.inode.stat
    same((f"{stat.mode:o}", stat.uid, stat.gid), (f"{modes.S_IFSOCK | 0o712:o}", 12, 34))
    same(t.peer.setstat(created.inode.fd, MODE, mode=0o640), DONE)
    same(f"{_told(t, 'sock').mode:o}", f"{modes.S_IFSOCK | 0o640:o}", "mode")
