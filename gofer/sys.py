"""System calls the standard library lacks, or offers more slowly, bound from libc with ctypes (cdata.py).

No policy here: prototypes, three-line wrappers and kernel constants. Everything returns what the
kernel returned or raises OSError; the man page of the same name documents the arguments.

Two kinds of binding:

*   `_bind` declares its argument types, so ctypes checks their kinds (but masks integers silently:
    the caller has checked their range) and converts them.
*   `_hot` declares none. ctypes then passes an int as a C int, bytes as a pointer and a ctypes object
    as itself, without a converter per argument: half a microsecond less per call. Only ints known to fit
    a C int (fds, flags) may go there, never one from the wire; a Structure goes by byref. The caller tests the result itself and
    then asks `get_errno`, so that an expected miss costs no exception.

ctypes cuts bytes at the first NUL: whoever passes a name has checked it.
A function the C library lacks (older glibc, musl) is called by number through syscall(2).
"""

from __future__ import annotations

import os
import struct
from _functools import partial

from gofer.cdata import (
    FUNCFLAG_CDECL,
    FUNCFLAG_PYTHONAPI,
    FUNCFLAG_USE_ERRNO,
    Library,
    Structure,
    byref,
    c_char_p,
    c_int,
    c_int64,
    c_long,
    c_size_t,
    c_ssize_t,
    c_uint,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    get_errno,
)

TYPE_CHECKING = False  # importing `typing` costs 5 ms of start-up: only the type checker does
if TYPE_CHECKING:
    from typing import Any, Callable, NoReturn

__all__ = ["get_errno"]  # and every name below; this one is only passed on

libc = Library(None, FUNCFLAG_CDECL | FUNCFLAG_USE_ERRNO)
_silent = Library(None, FUNCFLAG_CDECL)  # keeps no errno: 0.1 us less
plain_call = _silent["syscall"]
_unlocked = Library(None, FUNCFLAG_CDECL | FUNCFLAG_PYTHONAPI)
unlocked_call, counting_call = _unlocked["syscall"], _unlocked["syscall"]  # the second returns the call's result
sched_getcpu = _unlocked["sched_getcpu"]
plain_call.restype = unlocked_call.restype = None

MACHINE = os.uname().machine

# syscall numbers: (x86_64, and the generic table that aarch64 and riscv64 share)
_NUMBERS: dict[str, tuple[int, int]] = {
    "capget": (125, 90),
    "capset": (126, 91),
    "fchmodat2": (452, 452),
    "futex": (202, 98),
    "getdents64": (217, 61),
    "openat2": (437, 437),
    "renameat2": (316, 276),
    "setgroups": (116, 159),
    "setresgid": (119, 149),
    "setresuid": (117, 147),
    "statx": (332, 291),
    "tgkill": (234, 131),
}


def _number(name: str) -> int:
    if MACHINE not in ("x86_64", "aarch64", "riscv64"):
        raise OSError(f"gofer: no system call table for {MACHINE}: x86_64, aarch64 and riscv64 are supported")
    return _NUMBERS[name][MACHINE != "x86_64"]


def futex_number() -> int:
    """The number of futex(2), which no C library wraps."""
    return _number("futex")


def _function(name: str, prefer_libc: bool = True) -> tuple[Any, tuple[Any, ...]]:
    """A fresh function object, and the words that stand before its arguments (the number, or nothing)."""
    if prefer_libc:
        try:
            return libc[name], ()
        except AttributeError:
            pass
    function = libc["syscall"]
    function.restype = c_long
    return function, (c_long(_number(name)),)


def _bind(name: str, *argtypes: Any, restype: Any = c_int, prefer_libc: bool = True) -> Callable[..., int]:
    """A checked call: raises OSError where the C function returns -1."""
    function, first = _function(name, prefer_libc)
    if first:
        function.argtypes = (c_long, *argtypes)
    else:
        function.argtypes, function.restype = argtypes, restype

    def call(*args: Any) -> int:
        result: int = function(*first, *args)
        if result == -1:
            raise_errno()
        return result

    call.__name__ = call.__qualname__ = name
    return call


def _hot(name: str, restype: Any = c_int, prefer_libc: bool = True) -> Callable[..., int]:
    """An unchecked call without converters; see the head of this file."""
    function, first = _function(name, prefer_libc)
    if first:
        call: Callable[..., int] = partial(function, _number(name))
        return call
    function.restype = restype
    hot: Callable[..., int] = function
    return hot


def raise_errno() -> NoReturn:
    """Raise the OSError of the call that has just failed."""
    code = get_errno()
    raise OSError(code, os.strerror(code))


CAP_FSETID = 4

AT_EMPTY_PATH = 0x1000
AT_FDCWD = -100 & 0xFFFFFFFF  # the same C int: at a negative one ctypes first fails, by an exception that it drops again
AT_NO_AUTOMOUNT = 0x800
AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_SYMLINK_NOFOLLOW = 0x100

F_ADD_SEALS = 1033
F_SEAL_SEAL = 0x1
F_SEAL_SHRINK = 0x2

FUTEX_OP_ANDN = 3
FUTEX_OP_OR = 2
FUTEX_OP_SET = 0
FUTEX_WAIT = 0
FUTEX_WAKE = 1
FUTEX_WAKE_OP = 5

MAX_OFFSET = (1 << 63) - 1

O_ACCMODE = 0o3
O_PATH = 0o10000000

RENAME_EXCHANGE = 2
RENAME_NOREPLACE = 1
RENAME_WHITEOUT = 4

RESOLVE_IN_ROOT = 0x10

STATX_MODE = 0x2
STATX_UID = 0x8
STATX_GID = 0x10
STATX_ATIME = 0x20
STATX_MTIME = 0x40
STATX_SIZE = 0x200
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800

UTIME_OMIT = (1 << 30) - 2


class Statx(Structure):
    """struct statx(2), 256 bytes. The first 144 are the protocol's Statx; only some fields are named here."""

    _fields_ = [
        ("stx_mask", c_uint32),
        ("stx_blksize", c_uint32),
        ("stx_attributes", c_uint64),
        ("stx_nlink", c_uint32),
        ("stx_uid", c_uint32),
        ("stx_gid", c_uint32),
        ("stx_mode", c_uint16),
        ("_pad1", c_uint16),
        ("stx_ino", c_uint64),
        ("stx_size", c_uint64),
        ("stx_blocks", c_uint64),
        ("stx_attributes_mask", c_uint64),
        ("stx_times", c_uint64 * 8),
        ("stx_rdev_major", c_uint32),
        ("stx_rdev_minor", c_uint32),
        ("stx_dev_major", c_uint32),
        ("stx_dev_minor", c_uint32),
        ("stx_mnt_id", c_uint64),
        ("_spare", c_uint64 * 13),
    ]


class Statfs(Structure):
    """struct statfs(2) of a 64-bit kernel, 120 bytes."""

    _fields_ = [
        ("f_type", c_long),
        ("f_bsize", c_long),
        ("f_blocks", c_uint64),
        ("f_bfree", c_uint64),
        ("f_bavail", c_uint64),
        ("f_files", c_uint64),
        ("f_ffree", c_uint64),
        ("f_fsid", c_int * 2),
        ("f_namelen", c_long),
        ("f_frsize", c_long),
        ("f_flags", c_long),
        ("f_spare", c_long * 4),
    ]


class CapHeader(Structure):
    """struct __user_cap_header_struct; pid 0 is the calling thread."""

    _fields_ = [("version", c_uint32), ("pid", c_int)]


class CapData(Structure):
    """struct __user_cap_data_struct; version 3 takes two, for capabilities 0-31 and 32-63."""

    _fields_ = [("effective", c_uint32), ("permitted", c_uint32), ("inheritable", c_uint32)]


# two struct timespec of a 64-bit kernel: seconds and nanoseconds of the access, then of the modification time
timespecs = struct.Struct("@qqqq").pack

# Hot: the result is tested by the caller. Interrupted calls are not made again, as Python's own are.
accept4 = _hot("accept4")
_fchmodat = _hot("fchmodat")
syscall = libc["syscall"]
syscall.restype = c_long
FCHMODAT2 = _number("fchmodat2")  # of syscall's first argument: a call less than by `fchmodat2`
syscall_silent = _silent["syscall"]  # as `openat_silent`
fchmodat2 = partial(syscall, FCHMODAT2)
fstatfs = _hot("fstatfs")
fstatfs_silent = _silent["fstatfs"]
getxattr = _hot("getxattr", c_ssize_t)
openat = _hot("openat")
openat_silent = _silent["openat"]  # keeps no errno: where it fails, it is to be called again
mkdirat_silent = _silent["mkdirat"]
pread = libc["pread"]  # of less than 2 GiB, at an offset below them; with its errno, as what a disk says is said once
readlinkat_silent = _silent["readlinkat"]
sendmsg = _hot("sendmsg", c_ssize_t)
sendmsg_silent = _silent["sendmsg"]
statx = _hot("statx")
statx_silent = statx if type(statx) is partial else _silent["statx"]
utimensat = _hot("utimensat")  # its times: see `timespecs`
utimensat_silent = _silent["utimensat"]

# Checked.
_capget = _bind("capget", c_void_p, c_void_p, prefer_libc=False)
_capset = _bind("capset", c_void_p, c_void_p, prefer_libc=False)
_fallocate = _bind("fallocate", c_int, c_int, c_int64, c_int64)
_fchownat = _bind("fchownat", c_int, c_char_p, c_uint, c_uint, c_int)
_getdents64 = _bind("getdents64", c_int, c_void_p, c_size_t, restype=c_ssize_t)
_linkat = _bind("linkat", c_int, c_char_p, c_int, c_char_p, c_int)
_openat2 = _bind("openat2", c_int, c_char_p, c_void_p, c_size_t, prefer_libc=False)
_listxattr = _bind("listxattr", c_char_p, c_void_p, c_size_t, restype=c_ssize_t)
_removexattr = _bind("removexattr", c_char_p, c_char_p)
_renameat2 = _bind("renameat2", c_int, c_char_p, c_int, c_char_p, c_uint)
_setxattr = _bind("setxattr", c_char_p, c_char_p, c_char_p, c_size_t, c_int)
# glibc's own functions of these names change every thread of the process; the plain system calls only the caller's.
_setgroups = _bind("setgroups", c_size_t, c_void_p, prefer_libc=False)
_setresgid = _bind("setresgid", c_uint32, c_uint32, c_uint32, prefer_libc=False)
_setresuid = _bind("setresuid", c_uint32, c_uint32, c_uint32, prefer_libc=False)
_tgkill = _bind("tgkill", c_int, c_int, c_int, prefer_libc=False)


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _fallocate(fd, mode, offset, length)


def fchmodat(dirfd: int, path: bytes, mode: int) -> None:
    """The system call has no flags: it follows a symlink at the end of path, which is what a magic link needs."""
    if _fchmodat(dirfd, path, mode, 0):
        raise_errno()


def fchownat(dirfd: int, path: bytes, uid: int, gid: int, flags: int) -> None:
    """uid, gid: -1 leaves that id as it is."""
    _fchownat(dirfd, path, uid & 0xFFFFFFFF, gid & 0xFFFFFFFF, flags)


def getdents64(fd: int, buffer: Any, size: int) -> int:
    """Fill size bytes at buffer (a byref) with struct linux_dirent64; returns the bytes used, 0 at the end."""
    return _getdents64(fd, buffer, size)


def linkat(olddirfd: int, oldpath: bytes, newdirfd: int, newpath: bytes, flags: int) -> None:
    _linkat(olddirfd, oldpath, newdirfd, newpath, flags)


def listxattr(path: bytes, buffer: Any, size: int) -> int:
    """Names, each ended by NUL, to buffer (a byref); returns their total length, also where size is 0."""
    return _listxattr(path, buffer, size)


def openat2(dirfd: int, path: bytes, flags: int, resolve: int) -> int:
    """A new fd; resolve: RESOLVE_*, how the path may be walked. Linux 5.6."""
    how = struct.pack("@QQQ", flags, 0, resolve)
    return _openat2(dirfd, path, how, len(how))


def removexattr(path: bytes, name: bytes) -> None:
    _removexattr(path, name)


def renameat2(olddirfd: int, oldpath: bytes, newdirfd: int, newpath: bytes, flags: int) -> None:
    _renameat2(olddirfd, oldpath, newdirfd, newpath, flags)


def setxattr(path: bytes, name: bytes, value: bytes, flags: int) -> None:
    """value may hold NULs: its length goes with it."""
    _setxattr(path, name, value, len(value), flags)


def thread_setgroups(groups: tuple[int, ...]) -> None:
    """setgroups(2) for the calling thread alone."""
    _setgroups(len(groups), (c_uint32 * len(groups))(*groups))


def thread_setresgid(rgid: int, egid: int, sgid: int) -> None:
    """setresgid(2) for the calling thread alone; -1 leaves an id as it is."""
    _setresgid(rgid & 0xFFFFFFFF, egid & 0xFFFFFFFF, sgid & 0xFFFFFFFF)


def thread_setresuid(ruid: int, euid: int, suid: int) -> None:
    """setresuid(2) for the calling thread alone; -1 leaves an id as it is."""
    _setresuid(ruid & 0xFFFFFFFF, euid & 0xFFFFFFFF, suid & 0xFFFFFFFF)


def tgkill(pid: int, tid: int, signal: int) -> None:
    """Signal one thread. ESRCH where it has ended; unlike pthread_kill(3), which may then do anything."""
    _tgkill(pid, tid, signal)


def thread_set_effective(capability: int, on: bool) -> bool:
    """Raise or lower one effective capability (capabilities(7)) of the calling thread; returns whether it was raised before.

    Raising one that is not permitted is EPERM.
    """
    header, data = CapHeader(0x20080522, 0), (CapData * 2)()
    _capget(byref(header), byref(data))
    word, bit = data[capability // 32], 1 << capability % 32
    before = bool(word.effective & bit)
    if before != on:
        word.effective ^= bit
        _capset(byref(header), byref(data))
    return before
