"""Can a directory hold entries of more than one device? What Getdents64 must know to leave out a stat per entry.

It cannot where the file system gives all its files one device number (ext, xfs and tmpfs do; overlayfs and btrfs do
not) and nothing is mounted below the served root. The kernel marks an fd on mountinfo when the mount table changes
(proc(5)), so the table is read again only then.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import select
from errno import ENOENT

from gofer import sys
from gofer.fds import open_mountinfo, proc_path

_ONE_DEVICE = frozenset((0xEF53, 0x58465342, 0x01021994))  # statfs(2): ext2/3/4, xfs, tmpfs

_lock = _thread.allocate_lock()
_mountinfo = -1
_points: list[bytes] = []


def one_device(directory: int, root: int) -> bool:
    """True where no entry of directory can be on another device than the directory; root: the export's root fd."""
    buffer = sys.Statfs()
    if sys.fstatfs(directory, ctypes.byref(buffer)):
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
