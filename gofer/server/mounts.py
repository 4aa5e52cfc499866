"""What the mount table says of the served tree.

Can a directory hold entries of more than one device? Getdents64 must know, to leave out a stat per entry. It cannot where the
file system gives all its files one device number (ext, xfs and tmpfs do; overlayfs and btrfs do not) and nothing is mounted
below the served root. The kernel marks an fd on mountinfo when the mount table changes (proc(5)), so the table is read again
only then.

And what is a served directory, once the host has mounted something over it? An fd on the directory stays below that for good.
A client's root goes with the host: `top` finds what is on top, and `follow` puts that under the number of the fd which
clients' roots have (dup2(2) does so at once for all threads). FDs that a client has walked to stay what they are.
"""

from __future__ import annotations

import _thread
import os
import select
from _weakref import ref
from errno import ENOENT
from stat import S_IFDIR

from gofer import sys
from gofer.cdata import byref
from gofer.procself import open_mountinfo, proc_path
from gofer.server import kernelfs
from gofer.server.fds import MountPoint, reopen

_ONE_DEVICE = frozenset((0xEF53, 0x58465342, 0x01021994))  # statfs(2): ext2/3/4, xfs, tmpfs

_lock = _thread.allocate_lock()
_mountinfo = -1
_points: list[bytes] = []
_roots: dict[int, ref[MountPoint]] = {}  # by their id(): those of all clients
_changes = 0  # of which `follow` was told
_turn = _thread.allocate_lock()
_waiting = False  # whether somebody waits for it


def one_device(directory: int, root: int) -> bool:
    """True where no entry of directory can be on another device than the directory; root: the export's root fd."""
    buffer = sys.Statfs()
    if sys.fstatfs(directory, byref(buffer)):
        sys.raise_errno()
    if buffer.f_type not in _ONE_DEVICE:
        return False
    path = os.readlink(proc_path(root))
    if not path.startswith(b"/") or path.endswith(b" (deleted)"):  # not in this mount namespace, or without a name
        return False
    below = path.rstrip(b"/") + b"/"
    try:
        return not any(point.startswith(below) and point != below for point in _mount_points())
    except OSError:  # no mountinfo to be had: anything may be mounted
        return False


def top(served: int) -> int:
    """A new O_PATH fd on what is mounted over the directory that the fd `served` is on, or on that directory itself.

    `..` in a walk that has this directory for its root stays there, and then goes up what is mounted on it: no name is
    looked up, and nothing but such a mount can be reached. Before Linux 5.6, and of a file, it is what it was. Likewise
    where we may not look into it: on its way up from there Landlock passes over what is covered, and where that is the root of
    all there is nothing above to grant it.
    """
    try:
        found = sys.openat2(served, b"..", sys.O_PATH | os.O_CLOEXEC, sys.RESOLVE_IN_ROOT)
    except OSError:
        return reopen(served, sys.O_PATH)
    try:
        os.close(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=found))
    except OSError:
        os.close(found)
        return reopen(served, sys.O_PATH)
    return found


def changes() -> int:
    """For `goes_with_the_host`, asked before `top`."""
    return _changes


def goes_with_the_host(root: MountPoint, since: int) -> None:
    """From now on `follow` sees to it. since: `changes` when it was made."""
    key = id(root)

    def forget(_: ref[MountPoint]) -> None:
        _roots.pop(key, None)

    _roots[key] = ref(root, forget)
    if since != _changes:
        follow()


def watch() -> int:
    """An fd that has POLLPRI once when `follow` is due; -1: there is none to be had."""
    try:
        return open_mountinfo(watch=True)
    except OSError:
        return -1


def follow() -> None:
    """Let each client's root be what is now on top of the served directory. On a thread: it may be a file system that hangs."""
    global _changes, _waiting
    _changes += 1
    if not _waiting:
        _waiting = True
        try:
            _thread.start_new_thread(_follow, ())
        except RuntimeError:  # none to be had: at the next change
            _waiting = False


def _follow() -> None:
    """In turn, or one that had looked earlier could have the last word: one at work, and one that waits to look again."""
    global _waiting
    with _turn:
        _waiting = False
        for root in [found for each in list(_roots.values()) if (found := each()) is not None]:
            _update(root)


def _update(root: MountPoint) -> None:
    try:
        now = top(root.served)
    except OSError:  # no fd to be had, or the way is closed to us
        return
    try:
        if root.kind == S_IFDIR and not kernelfs.judge_root(now, read=False):
            os.dup2(now, root.host, inheritable=False)  # the number is the root's as long as we have a reference
    except OSError:
        pass
    os.close(now)


def open_table() -> None:
    """Open mountinfo, once the root is what it will stay; without /proc every entry is asked for its device."""
    global _mountinfo
    with _lock:
        try:
            if _mountinfo >= 0:
                os.close(_mountinfo)
            _mountinfo = open_mountinfo()
            _points.clear()
        except OSError:
            _mountinfo = -1


def _mount_points() -> list[bytes]:
    global _points
    with _lock:
        if _mountinfo < 0:
            raise OSError(ENOENT, "no mountinfo")
        first = not _points
        poll = select.poll()
        poll.register(_mountinfo, select.POLLPRI | select.POLLERR)
        if poll.poll(0) or first:
            _points = [_unescape(line.split(b" ")[4]) for line in _read_all(_mountinfo).splitlines()]
        return _points


def _read_all(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    parts = []
    while part := os.read(fd, 65536):
        parts.append(part)
    return b"".join(parts)


def _unescape(path: bytes) -> bytes:
    """mountinfo writes blank, tab, newline and backslash as octal (proc(5))."""
    for char in b" \t\n\\":
        path = path.replace(b"\\%03o" % char, bytes((char,)))
    return path
