"""File systems that the kernel makes up: their files are the kernel itself, and whichever process opens them.

`proc/PID/mem` of the server, opened by the server, is the server's memory, and no right that it gives up changes that:
a process is always let at its own. A cgroup, a sysfs, debugfs or configfs attribute, a namespace: what is written there
is done to the host, with the server's rights. So none of it is data below PATH, even where it is mounted there.

How they are told from others: by the file system of the pinned inode, never by a name. What stores nothing counts no
blocks and no inodes in its statfs(2) (the kernel's simple_statfs); those that count none and store all the same are
known. It is asked where a walk comes upon the root of a mount, which statx(2) tells with what it tells anyway: in between
nothing becomes another file system, so an ordinary tree is never asked, and no answer is kept that could grow stale.
"""

from __future__ import annotations

import struct
from errno import EACCES, EPERM
from stat import S_IFDIR, S_IFLNK, S_IFREG

from gofer.cdata import byref
from gofer.sys import AT_EMPTY_PATH, AT_FDCWD, STATX_BASIC_STATS, Statfs, Statx, fstatfs, get_errno, raise_errno, statx

KIND = 0xF000  # of a ControlFD's `kind`, the type of the inode; where the kernel has made that up, one of these stands beside:
CLOSED = 0x10000  # its attributes may be looked at, nothing else
READABLE = 0x20000  # it may be read, listed, walked (--kernel-files=read)

PROC = 0x9FA0
_READABLE = frozenset((PROC, 0x62656572, 0x27E0EB, 0x63677270))  # and sysfs, cgroup, cgroup2
# These hold files, and yet may count none: tmpfs, ramfs, hugetlbfs, overlayfs (as its upper file system does), autofs,
# devpts, and what a server somewhere answers for: FUSE, NFS, 9p, CIFS by either number, SMB2, AFS, Coda.
_STORES = frozenset((
    0x01021994, 0x858458F6, 0x958458F6, 0x794C7630, 0x0187, 0x1CD1,
    0x65735546, 0x6969, 0x01021997, 0xFF534D42, 0x517B, 0xFE534D42, 0x5346414F, 0x73757245,
))  # fmt: skip
_EFIVARFS = 0xDE5E81E4  # the firmware's variables, which newer kernels count
_PROC_ROOT = 1  # the inode number of the root directory of a procfs

_usage = struct.Struct("=q8xQQQQQ").unpack_from  # f_type, f_blocks, f_bfree, f_bavail, f_files, f_ffree
_MODE, _INO, _ATTRIBUTES = Statx.stx_mode.offset, Statx.stx_ino.offset, Statx.stx_attributes.offset
_mode = struct.Struct("=H").unpack_from
_ino = struct.Struct("=Q").unpack_from
_MOUNT_ROOT = 0x2000  # STATX_ATTR_MOUNT_ROOT


def _mount_root() -> tuple[int, int]:
    """The index of a byte in struct statx, and the bits in it, one of which is set where an inode is the root of a mount.

    Before Linux 5.8 none is: then those of the type, so that every inode is asked.
    """
    found = Statx()
    if not statx(AT_FDCWD, b"/", 0, 0, byref(found)) and found.stx_attributes_mask & _MOUNT_ROOT:
        return _ATTRIBUTES + 1, _MOUNT_ROOT >> 8
    return _MODE + 1, KIND >> 8


ROOT_BYTE, ROOT_BITS = _mount_root()


def file_system(statfs: bytearray) -> int:
    """f_type of a struct statfs."""
    number: int = _usage(statfs)[0]
    return number


def judge(statfs: bytearray, statx: bytearray, within: int, read: bool) -> int:
    """CLOSED or READABLE for an inode that the kernel makes up, 0 for any other.

    within: the `kind` of the directory in which it was found. read: what may be read is to be readable.
    """
    number, *counts = _usage(statfs)
    if number in _STORES or any(counts) and number != _EFIVARFS:
        return 0
    if not read or number not in _READABLE:
        return CLOSED
    inside = within & READABLE and not statx[ROOT_BYTE] & ROOT_BITS
    if number == PROC and not inside and _ino(statx, _INO)[0] != _PROC_ROOT:
        return CLOSED  # something in a procfs that is mounted by itself: it may be a process's
    (mode,) = _mode(statx, _MODE)
    shown = mode & 0o004 and mode & KIND in (S_IFREG, S_IFDIR, S_IFLNK)  # what everybody may read, not only the server
    return READABLE if shown else CLOSED


def judge_root(host: int, read: bool) -> int:
    """`judge` of the inode of an O_PATH fd that no walk has led to."""
    usage, found = Statfs(), Statx()
    if statx(host, b"", AT_EMPTY_PATH, STATX_BASIC_STATS, byref(found)):
        raise_errno()
    if fstatfs(host, byref(usage)):
        return untold(get_errno())
    return judge(bytearray(usage), bytearray(found), 0, read)


def untold(errno: int) -> int:
    """`judge` where statfs(2) failed with this errno: the kernel's own never do by themselves, FUSE and NFS do."""
    return CLOSED if errno in (EACCES, EPERM) else 0  # refused by a security module


def of_a_process(name: bytes) -> bool:
    """Whether the name, in a procfs, stands for a process or thread: its memory, its files, its links to anywhere."""
    return name.isdigit() or name in (b"self", b"thread-self")
