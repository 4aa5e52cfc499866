"""This process in its own /proc: the magic links of its fds, its mount table; and its limits.

The bare number of an fd is the path of its magic link, because `enter_proc` makes /proc/self/fd the working directory. After
the root has changed there is no /proc to name, so `pin_proc` keeps an fd on it from before. A client never gets that
fd, nor one from which `..` could reach it.
"""

from __future__ import annotations

import os
import resource
from errno import ENODEV, EPERM
from fcntl import F_DUPFD_CLOEXEC, fcntl

from gofer.cdata import byref
from gofer.sys import Statfs, fstatfs

_PROC_SUPER_MAGIC = 0x9FA0  # statfs(2)
_KEPT = 1024
_ROOM = 4096  # fds: 32 KiB of the kernel's memory
_proc_fd = -1
_mountinfo = _mountwatch = -1


def set_limit(which: int, soft: int, hard: int) -> None:
    """setrlimit(2); also where it may not be an OSError, of which Python makes a ValueError."""
    try:
        resource.setrlimit(which, (soft, hard))
    except ValueError as e:
        raise OSError(EPERM, f"a limit cannot be set: {e}") from None


def make_room(fd: int) -> None:
    """Have the kernel's table of this process's fds hold `_ROOM` at once, before there is a second thread. fd: any.

    It doubles the table when that is full, and in a process of several threads whoever opens that file waits until all cpus have
    seen the new one (synchronize_rcu): some 10 ms, at the 65th, 257th, 513th, ...
    """
    try:
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        os.close(fcntl(fd, F_DUPFD_CLOEXEC, min(_ROOM, soft) - 1))
    except OSError:  # then it waits
        pass


def pin_proc(proc: int = -1, mountinfo: int = -1) -> None:
    """Keep an fd on /proc/self/fd, for after the root has changed: one opened now, unless there is one already.

    proc, mountinfo: fds that whoever changed the root has opened instead, owned here from now on.
    """
    global _proc_fd, _mountinfo, _mountwatch
    if proc >= 0:
        if _proc_fd >= 0:
            os.close(_proc_fd)
        _proc_fd, _mountinfo = proc, mountinfo
    if mountinfo >= 0:
        _mountwatch = os.open(b"%d" % mountinfo, os.O_RDONLY | os.O_CLOEXEC, dir_fd=_proc_fd)
    if _proc_fd < 0:
        _proc_fd = open_proc()


def open_proc() -> int:
    """An fd on /proc/self/fd; OSError also where something else is mounted over /proc."""
    proc = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    found = Statfs()
    if fstatfs(proc, byref(found)) != 0 or found.f_type != _PROC_SUPER_MAGIC:
        os.close(proc)
        raise OSError(ENODEV, "something else is mounted there")
    return proc


def enter_proc() -> None:
    """Make the pinned /proc/self/fd the working directory, which `proc_path` and `reopen` ask for."""
    os.fchdir(_proc_fd)


def open_mountinfo(watch: bool = False) -> int:
    """An fd on this process's mountinfo, as seen from its present root (proc(5)).

    watch: another one. Each tells once that the table has changed, to whoever polls it first.
    """
    pinned = _mountwatch if watch else _mountinfo
    if pinned >= 0:
        return pinned
    if _proc_fd < 0:
        return os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
    return os.open("../mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=_proc_fd)


class _Paths(dict):  # type: ignore[type-arg]
    """By fd, those of the low ones kept: to write a number costs four times the look."""

    __slots__ = ()

    def __missing__(self, host: int) -> bytes:
        path = b"%d" % host
        if host < _KEPT:
            self[host] = path
        return path


proc_paths = _Paths()
kept_path = proc_paths.get  # None where it is not kept; to ask so first is cheaper: a [] looks `__getitem__` up by its name


def proc_path(host: int) -> bytes:
    """A path that leads to the inode of an fd by its magic link, whatever the fd's access mode is; see `enter_proc`."""
    path: bytes = proc_paths[host]
    return path
