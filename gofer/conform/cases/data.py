"""PRead, PWrite, FSync, Flush, FAllocate, FStatFS and ReadLinkAt."""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import Callable

from gofer.conform.case import expect, fails, may_fail, same, semantics, wire
from gofer.conform.codec import MAX_MESSAGE, Mid
from gofer.conform.stand import Stand

ALPHABET = bytes(range(256)) * 64
NO_FD = 99999999


@semantics(needs="writable")
def pread_returns_what_the_file_holds_at_the_offset(t: Stand) -> None:
    t.ground.file("file", ALPHABET)
    fd = t.open("file")
    same(t.peer.pread(fd, 0, len(ALPHABET)), ALPHABET)
    same(t.peer.pread(fd, 255, 3), b"\xff\x00\x01")
    same(t.peer.pread(fd, 0, 0), b"")


@semantics(needs="writable")
def pread_is_short_at_the_end_and_empty_past_it(t: Stand) -> None:
    t.ground.file("file", b"hello")
    fd = t.open("file", os.O_RDWR)
    same(t.peer.pread(fd, 3, 100), b"lo")
    same(t.peer.pread(fd, 5, 100), b"")
    same(t.peer.pread(fd, 2**62, 100), b"")


@wire(needs="writable")
def pread_fills_a_reply_to_the_brim(t: Stand) -> None:
    head = t.peer.pread_head
    data = os.urandom(4096) * 512
    t.ground.file("file", data)
    fd = t.open("file")
    same(t.peer.pread(fd, 0, MAX_MESSAGE - head) == data[: MAX_MESSAGE - head], True, "the data")


@wire(needs="writable", each={"by-one": 1, "by-its-head": 8, "2^31": 2**31 - MAX_MESSAGE, "2^32-1": 2**32 - 1 - MAX_MESSAGE})
def pread_of_more_than_a_reply_holds_is_enobufs(t: Stand, beyond: int) -> None:
    t.ground.file("file", b"hello")
    fd = t.open("file")
    with fails(errno.ENOBUFS):
        t.peer.pread(fd, 0, MAX_MESSAGE - t.peer.pread_head + beyond)


@semantics(needs="writable")
def pwrite_writes_at_the_offset_and_tells_the_count(t: Stand) -> None:
    t.ground.file("file", b"hello world")
    fd = t.open("file", os.O_RDWR)
    same(t.peer.pwrite(fd, 6, b"there"), 5, "count")
    same(t.peer.pwrite(fd, 20, b"!"), 1, "count")
    same(t.peer.pwrite(fd, 3, b""), 0, "count")
    same(t.ground.contents("file"), b"hello there" + b"\0" * 9 + b"!")


@wire(needs="writable")
def pwrite_of_the_largest_message_is_complete(t: Stand) -> None:
    t.ground.file("file")
    data = os.urandom(MAX_MESSAGE - t.peer.pwrite_head)
    same(t.peer.pwrite(t.open("file", os.O_RDWR), 0, data), len(data), "count")
    expect(t.ground.contents("file") == data, "other data")


@semantics(needs="writable")
def access_is_by_the_mode_of_the_open_fd(t: Stand) -> None:
    t.ground.file("file", b"hello")
    reader, writer = t.open("file", os.O_RDONLY), t.open("file", os.O_WRONLY)
    with fails(errno.EBADF):
        t.peer.pwrite(reader, 0, b"x")
    with fails(errno.EBADF):
        t.peer.pread(writer, 0, 1)
    with fails(errno.EBADF):
        t.peer.fallocate(reader, 0, 0, 10)
    same(t.ground.contents("file"), b"hello")


FAR = {"2^63": 2**63, "2^64-1": 2**64 - 1}


@semantics(needs="writable", each=FAR)
def an_offset_above_the_largest_is_einval_and_never_wraps(t: Stand, offset: int) -> None:
    t.ground.file("file", b"hello")
    fd = t.open("file", os.O_RDWR)
    with fails(errno.EINVAL):
        t.peer.pread(fd, offset, 1)
    with fails(errno.EINVAL):
        t.peer.pwrite(fd, offset, b"x")
    same(t.ground.contents("file"), b"hello")


@semantics(needs="writable", each=FAR)
def an_fallocate_beyond_the_largest_offset_is_einval(t: Stand, offset: int) -> None:
    t.ground.file("file", b"hello")
    fd = t.open("file", os.O_RDWR)
    for start, length in ((offset, 1), (0, offset)):
        with fails(errno.EINVAL):
            t.peer.fallocate(fd, 0, start, length)
    same(t.ground.contents("file"), b"hello")


@semantics(needs="writable host")
def an_offset_the_file_system_cannot_hold_is_its_own_error(t: Stand) -> None:
    t.ground.file("file")
    fd = t.open("file", os.O_RDWR)
    number = 0
    with open(t.tree / "file", "r+b") as file:
        try:
            os.pwrite(file.fileno(), b"x", 2**63 - 2)
        except OSError as native:
            number = native.errno or 0
    with fails(number):
        t.peer.pwrite(fd, 2**63 - 2, b"x")


@wire(needs="writable", each=(0, 4, 6, 2**31, 2**32 - 1))
def a_pwrite_whose_count_is_not_its_data_is_eio_and_writes_nothing(t: Stand, claimed: int) -> None:
    """2a62f4379: 32-bit lengths overflowed checks; they are to be compared with what is really there."""
    t.ground.file("file", b"hello")
    fd = t.open("file", os.O_RDWR)
    request = t.peer.raw_pwrite(0, fd, claimed)
    with fails(errno.EIO):
        t.peer.call(Mid.PWRITE, request + b"01234")
    same(t.ground.contents("file"), b"hello")


WRONG = {"a-control-fd": errno.EINVAL, "zero": errno.EBADF, "unused": errno.EBADF}


@wire(needs="writable", each={label: (label, number) for label, number in WRONG.items()})
def data_needs_an_open_fd(t: Stand, label: str, number: int) -> None:
    t.ground.file("file")
    fd = {"a-control-fd": t.walk("file"), "zero": 0, "unused": NO_FD}[label]
    for call in (
        lambda: t.peer.pread(fd, 0, 1), lambda: t.peer.pwrite(fd, 0, b"x"), lambda: t.peer.fallocate(fd, 0, 0, 1),
        lambda: t.peer.fsync(fd),
    ):  # fmt: skip
        with fails(number):
            call()


@semantics(needs="writable")
def pread_of_a_directory_is_eisdir(t: Stand) -> None:
    fd = t.peer.openat(t.dir).fd
    with fails(errno.EISDIR):
        t.peer.pread(fd, 0, 1)


@semantics(needs="writable")
def fsync_takes_many_fds_files_and_directories(t: Stand) -> None:
    t.ground.file("file")
    t.ground.file("other")
    t.peer.fsync(t.open("file", os.O_RDWR), t.open("other"), t.peer.openat(t.dir).fd)
    t.peer.fsync()


@semantics(needs="writable")
def fsync_tells_the_first_error(t: Stand) -> None:
    t.ground.file("file")
    fd, control = t.open("file", os.O_RDWR), t.walk("file")
    with fails(errno.EBADF):
        t.peer.fsync(fd, NO_FD, control)
    with fails(errno.EINVAL):
        t.peer.fsync(fd, control, NO_FD)


@semantics(needs="writable")
def flush_succeeds_where_there_is_one(t: Stand) -> None:
    t.ground.file("file")
    fd = t.open("file", os.O_RDWR)
    unoffered = t.peer.offered is not None and Mid.FLUSH not in t.peer.offered
    with may_fail(*[errno.EOPNOTSUPP] * unoffered):
        t.peer.flush(fd)
    with fails(errno.EBADF, *[errno.EOPNOTSUPP] * unoffered):
        t.peer.flush(NO_FD)


@semantics(needs="writable")
def fallocate_grows_the_file(t: Stand) -> None:
    t.ground.file("file", b"hello")
    t.peer.fallocate(t.open("file", os.O_RDWR), 0, 0, 10000)
    same(t.peer.fstat(t.walk("file")).size, 10000, "size")


@semantics(needs="writable")
def fallocate_may_keep_the_size_and_punch_a_hole(t: Stand) -> None:
    t.ground.file("file", b"hello")
    fd, control = t.open("file", os.O_RDWR), t.walk("file")
    t.peer.fallocate(fd, 1, 10000, 1 << 20)  # FALLOC_FL_KEEP_SIZE
    stat = t.peer.fstat(control)
    same(stat.size, 5, "size")
    expect(stat.blocks * 512 >= 1 << 20, f"{stat.blocks} blocks")
    t.peer.fallocate(fd, 3, 0, 4096)  # PUNCH_HOLE | KEEP_SIZE
    same(t.ground.contents("file"), b"\0" * 5)


@semantics(needs="writable", each={"2^20": 1 << 20, "2^31": 1 << 31, "2^32": 1 << 32, "2^64-1": 2**64 - 1})
def fallocate_refuses_a_mode_that_linux_does_not_know(t: Stand, mode: int) -> None:
    t.ground.file("file")
    fd = t.open("file", os.O_RDWR)
    with fails(errno.EOPNOTSUPP, errno.EINVAL):
        t.peer.fallocate(fd, mode, 0, 4096)
    same(t.peer.fstat(fd).size, 0, "size")


@semantics(needs="writable")
def fallocate_of_nothing_is_einval(t: Stand) -> None:
    t.ground.file("file")
    fd = t.open("file", os.O_RDWR)
    with fails(errno.EINVAL):
        t.peer.fallocate(fd, 0, 0, 0)


@semantics(needs="writable")
def fstatfs_tells_of_the_same_file_system_everywhere(t: Stand) -> None:
    t.ground.file("file")
    start, file = t.peer.fstatfs(t.dir), t.peer.fstatfs(t.walk("file"))
    for told in (start, file):
        expect(told.bavail <= told.bfree <= told.blocks and told.ffree <= told.files, f"{told}")
        expect(told.type != 0 and told.bsize > 0 and told.namelen > 0, f"{told}")
    same((start.type, start.bsize, start.blocks, start.namelen), (file.type, file.bsize, file.blocks, file.namelen))
    with fails(errno.EBADF):
        t.peer.fstatfs(NO_FD)


@semantics(needs="host")
def fstatfs_tells_what_statfs_tells(t: Stand) -> None:
    host, told = os.statvfs(t.tree), t.peer.fstatfs(t.dir)
    same((told.bsize, told.blocks, told.files), (host.f_bsize, host.f_blocks, host.f_files))
    same(told.namelen, host.f_namemax, "namelen")
    expect(abs(told.bfree - host.f_bfree) * told.bsize < 1 << 30, "free blocks")  # others write to the disk too


TARGETS = {"short": b"x", "up": b"../../etc/passwd", "slashes": b"/" * 4095, "any-bytes": bytes(range(1, 256))}


@semantics(needs="writable host", each=TARGETS)
def readlink_returns_the_target_byte_for_byte(t: Stand, target: bytes) -> None:
    os.symlink(target, os.fsencode(t.tree / "link"))
    same(t.peer.readlinkat(t.walk("link")), target)


@semantics(needs="writable")
def readlink_of_an_unlinked_symlink_returns_its_target(t: Stand) -> None:
    t.ground.symlink("target", "link")
    fd = t.walk("link")
    t.ground.remove("link")
    same(t.peer.readlinkat(fd), b"target")


@semantics(needs="writable", each=("dir", "file", "fifo"))
def readlink_of_anything_else_is_einval(t: Stand, name: str) -> None:
    if name == "fifo":
        os.mkfifo(t.tree / name)
    elif name == "file":
        t.ground.file(name)
    else:
        t.ground.mkdir(name)
    fd = t.walk(name)
    with fails(errno.EINVAL):
        t.peer.readlinkat(fd)


@semantics(needs="writable")
def an_unlinked_file_can_be_truncated_and_allocated(t: Stand) -> None:
    """1e1d6b2be, de480b58c."""
    t.ground.file("file", b"hello")
    fd = t.walk("file")
    t.ground.remove("file")
    opened = t.peer.openat(fd, os.O_RDWR).fd
    same(t.peer.setstat(fd, 0x200, size=2), (0, 0), "failure_mask, failure_errno")
    t.peer.fallocate(opened, 0, 0, 5000)
    same(t.peer.fstat(fd).size, 5000, "size")
    same(t.peer.pread(opened, 0, 3), b"he\0")


@semantics(needs="writable")
def an_unlinked_file_keeps_working(t: Stand) -> None:
    t.ground.file("file", b"hello")
    control = t.walk("file")
    opened = t.peer.openat(control, os.O_RDWR).fd
    t.peer.unlinkat(t.dir, "file")
    same(t.peer.pread(opened, 0, 5), b"hello")
    same(t.peer.pwrite(opened, 5, b"!"), 1, "count")
    same(t.peer.fstat(control).size, 6, "size")


@semantics(needs="writable owners", each={"suid": 0o4755, "suid-sgid": 0o6755})
def set_id_bits_do_not_survive_a_change_of_the_contents(t: Stand, bits: int) -> None:
    """CVE-2021-20263 (virtiofsd): a set-user-id program could be rewritten and stay set-user-id."""
    changes: dict[str, Callable[[int], object]] = {
        "PWrite": lambda fd: t.peer.pwrite(t.peer.openat(fd, os.O_WRONLY).fd, 0, b"evil"),
        "SetStat": lambda fd: t.peer.setstat(fd, 0x200, size=3),
        "OpenAt": lambda fd: t.peer.openat(fd, os.O_WRONLY | os.O_TRUNC),
    }
    for name, change in changes.items():
        t.ground.file(name, b"program")
        t.ground.chmod(name, bits)
        fd = t.walk(name)
        change(fd)
        same(f"{modes.S_IMODE(t.peer.fstat(fd).mode):o}", "755", name)
