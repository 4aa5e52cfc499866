"""A server that serves read-only: every message that changes anything is EROFS, before anything else is looked at."""

from __future__ import annotations

import errno
import os
from typing import Any, Callable

from gofer.conform.case import expect, fails, refuses, safety, same, semantics
from gofer.conform.codec import MODE
from gofer.conform.looks import bound
from gofer.conform.peer import Peer
from gofer.conform.stand import Stand

READ_ONLY = "no-writable host"
GONE = 99999999  # no FD at all: read-only must be found first
CHANGES: dict[str, Callable[[Peer, int], Any]] = {
    "SetStat": lambda p, fd: p.setstat(fd, MODE, mode=0o777),
    "SetStat-of-nothing": lambda p, fd: p.setstat(fd, 0),
    "OpenAt-write": lambda p, fd: p.openat(fd, os.O_WRONLY),
    "OpenAt-both": lambda p, fd: p.openat(fd, os.O_RDWR),
    "OpenAt-truncate": lambda p, fd: p.openat(fd, os.O_RDONLY | os.O_TRUNC),
    "OpenCreateAt": lambda p, fd: p.opencreateat(fd, "new", flags=os.O_RDONLY),
    "OpenCreateAt-of-a-bad-name": lambda p, fd: p.opencreateat(fd, ".."),
    "PWrite": lambda p, fd: p.pwrite(fd, 0, b"x"),
    "PWrite-of-nothing": lambda p, fd: p.pwrite(fd, 0, b""),
    "MkdirAt": lambda p, fd: p.mkdirat(fd, "new"),
    "MknodAt": lambda p, fd: p.mknodat(fd, "new"),
    "SymlinkAt": lambda p, fd: p.symlinkat(fd, "new", "target"),
    "LinkAt": lambda p, fd: p.linkat(fd, fd, "new"),
    "FAllocate": lambda p, fd: p.fallocate(fd, 0, 0, 10),
    "UnlinkAt": lambda p, fd: p.unlinkat(fd, "file"),
    "UnlinkAt-rmdir": lambda p, fd: p.unlinkat(fd, "dir", 0x200),
    "RenameAt": lambda p, fd: p.renameat(fd, "file", fd, "new"),
    "RenameAt2": lambda p, fd: p.renameat2(fd, "file", fd, "new"),
    "FSetXattr": lambda p, fd: p.fsetxattr(fd, "user.b", b"1"),
    "FRemoveXattr": lambda p, fd: p.fremovexattr(fd, "user.a"),
    "BindAt": lambda p, fd: p.bindat(fd, "new"),
}
TODAY = ("today",)


def _planted(t: Stand) -> None:
    t.ground.mkdir("dir")
    t.ground.file("file", b"hello")
    os.setxattr(t.tree / "file", "user.a", b"1")


@safety(needs=READ_ONLY, dialects=TODAY, each=CHANGES)
def a_change_is_erofs_whatever_it_is_asked_of(t: Stand, change: Callable[[Peer, int], Any]) -> None:
    """64785c867: BindAt once skipped the check."""
    _planted(t)
    before = os.stat(t.tree / "file")
    for fd in (t.dir, t.walk("file"), t.open("file"), GONE):
        with fails(errno.EROFS):
            change(t.peer, fd)
    same(t.ground.names(), ["dir", "file"])
    same(os.stat(t.tree / "file")[:9], before[:9])
    same(os.listxattr(t.tree / "file"), ["user.a"])


@safety(needs=READ_ONLY, dialects=("2021",))
def a_rename_of_2021_is_erofs(t: Stand) -> None:
    _planted(t)
    fd = t.walk("file")
    with fails(errno.EROFS):
        t.old.rename_fd(fd, t.dir, "x")
    for call in (lambda: t.peer.openat(fd, os.O_RDWR), lambda: t.peer.setstat(fd, MODE), lambda: t.peer.mkdirat(t.dir, "x")):
        with fails(errno.EROFS):
            call()


@semantics(needs=READ_ONLY)
def reading_works(t: Stand) -> None:
    _planted(t)
    fd = t.walk("file")
    opened = t.peer.openat(fd)
    same(t.peer.pread(opened.fd, 0, 10), b"hello")
    same(sorted(entry.name for entry in t.peer.listdir(t.peer.openat(t.dir).fd)), [b"dir", b"file"])
    t.peer.fsync(opened.fd)


@safety(needs=READ_ONLY)
def a_donated_fd_does_not_write(t: Stand) -> None:
    _planted(t)
    for fd in t.peer.openat(t.walk("file")).donated:
        try:
            os.write(fd, b"x")
            expect(False, "it does")
        except OSError:
            pass
        try:
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY))
            expect(False, "opened anew it does")
        except OSError as error:
            expect(error.errno in (errno.EROFS, errno.EACCES, errno.EPERM), f"{error}")


@semantics(needs=READ_ONLY)
def connecting_to_a_socket_is_no_change(t: Stand) -> None:
    bound(t, "sock").listen()
    fd = t.walk("sock")
    try:
        same(len(t.peer.connect(fd)), 1, "donated fds")
    except OSError as error:
        expect(error.errno != errno.EROFS, "EROFS")
    with refuses():
        t.peer.connect(GONE)
