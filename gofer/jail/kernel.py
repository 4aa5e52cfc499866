"""The system calls that building a root file system takes. Bindings and constants, no policy; as gofer/sys.py.

They stand apart from gofer/sys.py because serving needs none of them. `open_tree`, `move_mount` and `mount_setattr` have one
number on every architecture and are called by it: C libraries before 2022 lack them.
"""

from __future__ import annotations

import os

from gofer.cdata import byref, c_char_p, c_int, c_long, c_size_t, c_uint, c_uint64, c_ulong, c_void_p, sizeof
from gofer.sys import AT_EMPTY_PATH, libc, raise_errno

CLONE_NEWNS = 0x20000

MNT_DETACH = 2
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MS_BIND = 4096
MS_DIRSYNC = 128
MS_I_VERSION = 1 << 23
MS_MANDLOCK = 64
MS_NOATIME = 1024
MS_NODEV = 4
MS_NODIRATIME = 2048
MS_NOEXEC = 8
MS_NOSUID = 2
MS_POSIXACL = 1 << 16
MS_PRIVATE = 1 << 18
MS_RDONLY = 1
MS_REC = 16384
MS_RELATIME = 1 << 21
MS_REMOUNT = 32
MS_SILENT = 32768
MS_SLAVE = 1 << 19
MS_STRICTATIME = 1 << 24
MS_SYNCHRONOUS = 16
MS_UNBINDABLE = 1 << 17
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
OPEN_TREE_CLONE = 1
PR_GET_PDEATHSIG = 2
PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38
PR_SET_PDEATHSIG = 1
ST_NOATIME = 0x400
ST_NODEV = 0x4
ST_NODIRATIME = 0x800
ST_NOEXEC = 0x8
ST_RDONLY = 0x1
ST_RELATIME = 0x1000

FUSE_SUPER_MAGIC = 0x65735546
NFS_SUPER_MAGIC = 0x6969
OVERLAYFS_SUPER_MAGIC = 0x794C7630

_AT_RECURSIVE = 0x8000
_MOUNT_ATTR_RDONLY = 1
_MOUNT_SETATTR = 442
_MOVE_MOUNT = 429
_OPEN_TREE = 428


def mount(source: bytes, target: bytes, fstype: bytes, flags: int) -> None:
    """mount(2) without data; OSError."""
    function = libc["mount"]
    function.argtypes = (c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
    if function(source, target, fstype, flags, None) != 0:
        raise_errno()


def umount2(target: bytes, flags: int) -> None:
    function = libc["umount2"]
    function.argtypes = (c_char_p, c_int)
    if function(target, flags) != 0:
        raise_errno()


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    function = libc["pivot_root"]
    function.argtypes = (c_char_p, c_char_p)
    if function(new_root, put_old) != 0:
        raise_errno()


def unshare(flags: int) -> None:
    function = libc["unshare"]
    function.argtypes = (c_int,)
    if function(flags) != 0:
        raise_errno()


def setns(fd: int, kind: int) -> None:
    function = libc["setns"]
    function.argtypes = (c_int, c_int)
    if function(fd, kind) != 0:
        raise_errno()


def open_tree(path: bytes, flags: int) -> int:
    """An O_PATH fd on a copy of the mount at path that hangs nowhere: `..` from its root leads nowhere. Linux 5.2."""
    function = libc["syscall"]
    function.argtypes, function.restype = (c_long, c_int, c_char_p, c_uint), c_long
    fd: int = function(_OPEN_TREE, -100, path, flags | OPEN_TREE_CLOEXEC)
    if fd == -1:
        raise_errno()
    return fd


def move_mount(tree: int, target: int) -> None:
    """Hang the detached mount `tree` on the directory or file that `target` (an O_PATH fd) is. Linux 5.2."""
    function = libc["syscall"]
    function.argtypes, function.restype = (c_long, c_int, c_char_p, c_int, c_char_p, c_uint), c_long
    if function(_MOVE_MOUNT, tree, b"", target, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) != 0:
        raise_errno()


def read_only_below(mount: int) -> None:
    """The mount whose root that O_PATH fd is on becomes read-only, and so do all below it: mount_setattr(2), Linux 5.12."""
    function = libc["syscall"]
    function.argtypes, function.restype = (c_long, c_int, c_char_p, c_uint, c_void_p, c_size_t), c_long
    attributes = (c_uint64 * 4)(_MOUNT_ATTR_RDONLY)
    flags = AT_EMPTY_PATH | _AT_RECURSIVE
    if function(_MOUNT_SETATTR, mount, b"", flags, byref(attributes), sizeof(attributes)) != 0:
        raise_errno()


def parent_death_signal() -> int:
    """The signal this process gets when its parent ends; 0: none."""
    function = libc["prctl"]
    number = c_int()
    if function(c_int(PR_GET_PDEATHSIG), byref(number)) != 0:
        raise_errno()
    return number.value


def set_parent_death_signal(number: int) -> None:
    if libc["prctl"](c_int(PR_SET_PDEATHSIG), c_ulong(number)) != 0:
        raise_errno()


def set_name(name: bytes) -> None:
    """What ps(1) calls this process; 15 bytes at most."""
    libc["prctl"](c_int(PR_SET_NAME), c_char_p(name))


def no_new_privs() -> None:
    """No program that this process executes gets rights by its file."""
    if libc["prctl"](c_int(PR_SET_NO_NEW_PRIVS), c_ulong(1), c_ulong(0), c_ulong(0), c_ulong(0)) != 0:
        raise_errno()
