"""OpenAt, OpenCreateAt and Close, and the host fds they donate."""

from __future__ import annotations

import errno
import fcntl
import os
import stat as modes

from gofer.conform.case import expect, fails, refuses, same, semantics, wire
from gofer.conform.looks import make_device
from gofer.conform.stand import Stand

ACCESS = {"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR}
WRITING = {
    "write": os.O_WRONLY, "both": os.O_RDWR, "truncate": os.O_RDONLY | os.O_TRUNC, "write-truncate": os.O_WRONLY | os.O_TRUNC,
}  # fmt: skip


def _donated(fds: list[int]) -> int:
    same(len(fds), 1, "donated fds")
    return fds[0]


@semantics(needs="writable donates", each=ACCESS)
def a_regular_file_opens_and_donates_its_host_fd(t: Stand, access: int) -> None:
    t.ground.file("file", b"hello")
    opened = t.peer.openat(t.walk("file"), access)
    donated = _donated(opened.donated)
    same(os.fstat(donated).st_ino, t.peer.fstat(opened.fd).ino, "inode")
    same(fcntl.fcntl(donated, fcntl.F_GETFL) & os.O_ACCMODE, access, "access mode")
    t.ground.expect_stat(t.peer.fstat(opened.fd), "file")


@semantics(needs="writable donates")
def the_donated_fd_stays_when_the_open_fd_is_closed(t: Stand) -> None:
    t.ground.file("file", b"hello")
    opened = t.peer.openat(t.walk("file"))
    t.peer.close(opened.fd)
    same(os.pread(_donated(opened.donated), 10, 0), b"hello")


@semantics(needs="writable no-donates")
def without_donation_a_file_is_read_and_written_by_messages(t: Stand) -> None:
    t.ground.file("file", b"hello")
    opened = t.peer.openat(t.walk("file"), os.O_RDWR)
    same(opened.donated, [])
    same(t.peer.pread(opened.fd, 0, 10), b"hello")
    same(t.peer.pwrite(opened.fd, 0, b"J"), 1)
    same(t.peer.opencreateat(t.dir, "new").donated, [])


@semantics(needs="writable donates")
def only_access_mode_and_truncation_are_taken_from_the_flags(t: Stand) -> None:
    t.ground.file("file", b"hello")
    others = os.O_APPEND | os.O_DIRECT | os.O_SYNC | os.O_CREAT | os.O_EXCL | os.O_DIRECTORY | os.O_PATH | os.O_NOCTTY | 1 << 31
    donated = _donated(t.peer.openat(t.walk("file"), os.O_RDWR | others).donated)
    flags = fcntl.fcntl(donated, fcntl.F_GETFL)
    same(flags & (os.O_APPEND | os.O_DIRECT | os.O_SYNC | os.O_PATH | os.O_ACCMODE), os.O_RDWR, "flags")
    same(t.ground.contents("file"), b"hello")


@semantics(needs="writable")
def truncation_empties_the_file(t: Stand) -> None:
    t.ground.file("file", b"hello")
    t.peer.openat(t.walk("file"), os.O_WRONLY | os.O_TRUNC)
    same(t.ground.contents("file"), b"")


@semantics(needs="writable", each=WRITING)
def a_directory_does_not_open_for_writing(t: Stand, flags: int) -> None:
    t.ground.mkdir("dir")
    fd = t.walk("dir")
    with fails(errno.EISDIR):
        t.peer.openat(fd, flags)


@semantics(needs="writable")
def a_directory_opens_for_reading_and_is_not_donated(t: Stand) -> None:
    t.ground.mkdir("dir")
    same(t.peer.openat(t.walk("dir"), os.O_RDONLY | os.O_DIRECTORY).donated, [])


@semantics(needs="writable")
def a_symlink_does_not_open(t: Stand) -> None:
    t.ground.file("file")
    t.ground.symlink("file", "link")
    fd = t.walk("link")
    with fails(errno.EINVAL):
        t.peer.openat(fd)


@semantics(needs="writable")
def an_access_mode_of_three_opens_nothing(t: Stand) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    with fails(errno.EINVAL):
        t.peer.openat(fd, 3)


@wire(needs="writable")
def an_open_fd_where_a_control_fd_is_meant_is_einval(t: Stand) -> None:
    t.ground.file("file")
    opened = t.open("file")
    with fails(errno.EINVAL):
        t.peer.openat(opened)


@wire(each={"zero": 0, "unused": 99999999, "largest": -1})
def an_unknown_fd_is_ebadf(t: Stand, fd: int) -> None:
    with fails(errno.EBADF):
        t.peer.openat(fd if fd >= 0 else t.peer.largest_fd)


@semantics(needs="writable")
def a_file_opens_after_it_was_unlinked(t: Stand) -> None:
    t.ground.file("file", b"hello")
    fd = t.walk("file")
    t.ground.remove("file")
    same(t.peer.pread(t.peer.openat(fd, os.O_RDWR).fd, 0, 10), b"hello")


@semantics(needs="writable fifos host")
def a_fifo_opens_without_waiting_and_is_donated(t: Stand) -> None:
    """38d2b048f, 22a0b4acb: FIFOs and devices block: an open donates an fd, or fails."""
    os.mkfifo(t.tree / "fifo")
    fd = t.walk("fifo")
    with fails(errno.ENXIO):
        t.peer.openat(fd, os.O_WRONLY)  # nobody reads
    reader = _donated(t.peer.openat(fd, os.O_RDONLY).donated)
    writer = _donated(t.peer.openat(fd, os.O_WRONLY).donated)
    os.write(writer, b"through")
    same(os.read(reader, 100), b"through")


@semantics(needs="writable devices host")
def a_character_device_opens_and_is_donated(t: Stand) -> None:
    make_device(t, "null", 1, 3)
    donated = _donated(t.peer.openat(t.walk("null"), os.O_RDWR).donated)
    same((os.write(donated, b"gone"), os.read(donated, 1)), (4, b""))


@semantics(needs="writable no-donates host", each=("fifo", "null"))
def what_waits_and_cannot_be_donated_does_not_open(t: Stand, name: str) -> None:
    if name == "fifo":
        os.mkfifo(t.tree / name)
    else:
        make_device(t, name, 1, 3)
    fd = t.walk(name)
    with refuses():
        t.peer.openat(fd, os.O_RDONLY)


@semantics(needs="writable", each=ACCESS)
def create_makes_a_file_opens_it_and_tells_its_stat(t: Stand, access: int) -> None:
    created = t.peer.opencreateat(t.dir, "new", flags=access, mode=0o640)
    t.ground.expect_stat(created.inode.stat, "new")
    same(modes.S_IMODE(created.inode.stat.mode), 0o640, "mode")
    t.ground.expect_stat(t.peer.fstat(created.inode.fd), "new")
    t.ground.expect_stat(t.peer.fstat(created.fd), "new")


@semantics(needs="writable donates", each=ACCESS)
def create_donates_an_fd_with_the_access_that_was_asked_for(t: Stand, access: int) -> None:
    donated = _donated(t.peer.opencreateat(t.dir, "new", flags=access).donated)
    same(fcntl.fcntl(donated, fcntl.F_GETFL) & os.O_ACCMODE, access, "access mode")


@semantics(needs="writable")
def what_create_opened_reads_and_writes_by_its_access_mode(t: Stand) -> None:
    writer = t.peer.opencreateat(t.dir, "w", flags=os.O_WRONLY).fd
    same(t.peer.pwrite(writer, 0, b"abc"), 3)
    with fails(errno.EBADF):
        t.peer.pread(writer, 0, 3)
    reader = t.peer.opencreateat(t.dir, "r", flags=os.O_RDONLY).fd
    same(t.peer.pread(reader, 0, 3), b"")
    with fails(errno.EBADF):
        t.peer.pwrite(reader, 0, b"abc")


@semantics(needs="writable", each=("file", "link", "dir"))
def create_is_exclusive(t: Stand, name: str) -> None:
    t.ground.file("file", b"kept")
    t.ground.symlink("nowhere", "link")
    t.ground.mkdir("dir")
    with fails(errno.EEXIST):
        t.peer.opencreateat(t.dir, name, flags=os.O_RDWR | os.O_TRUNC)
    same(t.ground.contents("file"), b"kept")
    same(t.ground.names(), ["dir", "file", "link"])


@semantics(needs="writable")
def create_ignores_the_umask(t: Stand) -> None:
    same(modes.S_IMODE(t.peer.opencreateat(t.dir, "new", mode=0o666).inode.stat.mode), 0o666, "mode")


@semantics(needs="writable owners")
def create_sets_the_owner(t: Stand) -> None:
    stat = t.peer.opencreateat(t.dir, "new", mode=0o666, uid=1234, gid=5678).inode.stat
    same((stat.uid, stat.gid), (1234, 5678), "owner")


@semantics(needs="writable")
def create_below_what_is_not_a_directory_is_enotdir(t: Stand) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    with fails(errno.ENOTDIR):
        t.peer.opencreateat(fd, "new")


@semantics(needs="writable")
def close_frees_every_kind_of_fd_and_ignores_unknown_ones(t: Stand) -> None:
    t.ground.file("file")
    control = t.walk("file")
    opened = t.peer.openat(control).fd
    t.peer.close(control, 0, 99999999, opened, opened, t.peer.largest_fd)
    for fd in (control, opened):
        with fails(errno.EBADF):
            t.peer.fstat(fd)
    t.peer.close()


@semantics(needs="writable")
def an_open_fd_outlives_its_control_fd(t: Stand) -> None:
    t.ground.file("file", b"hello")
    control = t.walk("file")
    opened = t.peer.openat(control).fd
    t.peer.close(control)
    same(t.peer.pread(opened, 0, 10), b"hello")
    same(t.peer.fstat(opened).size, 5, "size")


@wire()
def close_takes_as_many_fds_as_a_u16_counts(t: Stand) -> None:
    start = 90000000
    t.peer.close(*range(start, start + 65535))
    expect(modes.S_ISDIR(t.peer.fstat(t.dir).mode), "the connection does not go on")
