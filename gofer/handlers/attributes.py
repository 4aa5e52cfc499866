"""FStat, SetStat, FStatFS."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, EISDIR, EOPNOTSUPP, EPERM
from stat import S_IFDIR, S_IFLNK, S_IFREG, S_ISGID

from gofer import sys
from gofer.server import attrs
from gofer.server.comm import MASKED, STATX_MASK
from gofer.server.fds import HostFD, reopen
from gofer.server.kernelfs import KIND
from gofer.sys import (
    AT_EMPTY_PATH,
    FCHMODAT2,
    STATX_ATIME,
    STATX_GID,
    STATX_MODE,
    STATX_MTIME,
    STATX_SIZE,
    STATX_UID,
    UTIME_OMIT,
    fstatfs_silent,
    statx_silent,
    syscall_silent,
    timespecs,
    utimensat_silent,
)
from gofer.wire import NO_ID, FStatFSReq, FStatFSResp, FStatReq, SetStatResp, Statx

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from gofer.server.comm import Communicator
    from gofer.server.fds import ControlFD
    from gofer.wire import Record

_NAMELEN = slice(sys.Statfs.f_namelen.offset, sys.Statfs.f_namelen.offset + 8)
_read_fdid, _pack_statx, _STATX = FStatReq.unpack, Statx.pack, Statx.size
_pack_failure, _FAILURE = SetStatResp.pack, SetStatResp.size
_pack_statfs, _STATFS = struct.Struct("<56s8s").pack_into, FStatFSResp.size
_OWNER = STATX_UID | STATX_GID
_TIMES = STATX_ATIME | STATX_MTIME
_OTHERS = 0xFFFFFFFF & ~(STATX_MODE | _TIMES)  # than what is set most
_SETTABLE = STATX_MODE | _OWNER | STATX_SIZE | _TIMES
_OMIT = timespecs(0, UTIME_OMIT, 0, 0)[:16]
# SetStatReq with both times as utimensat(2) takes them.
_read_setstat = struct.Struct("<QIIIIQ32s").unpack


def fstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Of a control FD, or of an open FD: then of the file it was opened from, as a FIFO's own fd was given away."""
    (fdid,) = _read_fdid(req)
    node = comm.control.get(fdid)
    if node is None:
        node = comm.opened[fdid].node
    if statx_silent(node.host, b"", AT_EMPTY_PATH, STATX_MASK, comm.statx_buffer):  # `comm.stat`, without a call
        comm.stat(node.host)
    found = comm.statx_bytes
    found[1] = MASKED[found[1]]
    _pack_statx(reply, 0, found)
    return _STATX


def setstat(comm: Communicator, req: memoryview, reply: memoryview, read: Callable[..., Any] = _read_setstat) -> int:
    """Each change is tried; what fails is told in the reply, with the last errno. The message itself succeeds."""
    if comm.read_only:
        comm.must_write()
    fdid, mask, mode, uid, gid, size, times = read(req)
    node = comm.control.get(fdid)
    if node is None or node.kind > KIND:
        node = comm.changeable(fdid)
    # The most frequent system calls are made here, without errno; where one fails, by functions that make it again.
    # The owner before the mode, as chown clears set-id bits; times last, as a truncation sets them.
    failed, errno = _set_others(comm, node, mask, uid, gid, size) if mask & _OTHERS else (0, 0)
    if mask & STATX_MODE:
        try:
            if node.kind == S_IFLNK:
                raise OSError(EOPNOTSUPP, "a symlink has no mode")
            if mode & S_ISGID or syscall_silent(FCHMODAT2, node.host, b"", mode & 0o7777, AT_EMPTY_PATH):
                attrs.chmod(node.host, mode & 0o7777)
        except OSError as e:
            failed, errno = failed | STATX_MODE, e.errno
    if mask & _TIMES:
        try:
            if mask & _TIMES != _TIMES:
                times = times[:16] + _OMIT if mask & STATX_ATIME else _OMIT + times[16:]
            if utimensat_silent(node.host, b"", times, AT_EMPTY_PATH):
                attrs.set_timespecs(node.host, times)
        except OSError as e:
            failed, errno = failed | mask & _TIMES, e.errno
    _pack_failure(reply, 0, failed, errno or 0)
    return _FAILURE


def _set_others(
    comm: Communicator, node: ControlFD, mask: int, uid: int, gid: int, size: int
) -> tuple[int, int | None]:  # fmt: skip
    """Size and owner; returns which have failed, and the last errno. EPERM where more is asked for, that cannot be set."""
    if mask | _SETTABLE != _SETTABLE:
        raise OSError(EPERM, "SetStat of an attribute that cannot be set")
    failed = 0
    errno: int | None = 0
    if mask & STATX_SIZE:
        try:
            _truncate(comm, node, size)
        except OSError as e:
            failed, errno = STATX_SIZE, e.errno
    if mask & _OWNER:
        try:
            attrs.chown(node.host, uid if mask & STATX_UID else NO_ID, gid if mask & STATX_GID else NO_ID)
        except OSError as e:
            failed, errno = failed | mask & _OWNER, e.errno
    return failed, errno


def _truncate(comm: Communicator, node: ControlFD, size: int) -> None:
    """Through an fd opened for it: truncate(2) of a path would wait for a lease by itself, for as long as it likes."""
    if node.kind == S_IFDIR:
        raise OSError(EISDIR, "a directory has no size to set")
    if node.kind != S_IFREG or size > sys.MAX_OFFSET:
        raise OSError(EINVAL, "not a size this file can have")
    try:
        writer = HostFD(_open_writer(comm, node))
    except PermissionError:
        # A file may be open for writing and its mode forbid to open it again; ftruncate(2) of that fd is allowed.
        for opened in list(comm.opened.values()):
            if opened.node is node and opened.writable:
                os.ftruncate(opened.host, size)
                return
        raise
    os.ftruncate(writer.host, size)


def _open_writer(comm: Communicator, node: ControlFD) -> int:
    try:
        return reopen(node.host, os.O_WRONLY | os.O_NONBLOCK)
    except BlockingIOError:
        return comm.open_leased(node.host, os.O_WRONLY | os.O_NONBLOCK)


def fstatfs(comm: Communicator, req: memoryview, reply: memoryview, request: Record = FStatFSReq) -> int:
    """struct statfs begins with the seven numbers of the reply, in its order; the name length follows the fsid."""
    (fdid,) = request.unpack(req)
    node = comm.control.get(fdid) or comm.control[fdid]
    if fstatfs_silent(node.host, comm.statfs_buffer) and sys.fstatfs(node.host, comm.statfs_buffer):
        sys.raise_errno()
    found = comm.statfs_bytes
    _pack_statfs(reply, 0, found, found[_NAMELEN])
    return _STATFS
