"""FStat, SetStat, FStatFS."""

from __future__ import annotations

import os
import stat
from errno import EINVAL, EISDIR, EOPNOTSUPP, EPERM

from gofer import attrs, sys
from gofer.fds import HostFD, proc_path, reopen
from gofer.sys import AT_EMPTY_PATH, STATX_ATIME, STATX_GID, STATX_MODE, STATX_MTIME, STATX_SIZE, STATX_UID
from gofer.wire import NO_ID, FStatFSReq, FStatReq, SetStatReq, SetStatResp, Statx

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.comm import Communicator
    from gofer.fds import ControlFD

_NAMELEN = sys.Statfs.f_namelen.offset
_OWNER = STATX_UID | STATX_GID
_TIMES = STATX_ATIME | STATX_MTIME
_SUPPORTED = STATX_MODE | _OWNER | STATX_SIZE | _TIMES


def fstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Of a control FD, or of an open FD: then of the file it was opened from, as a FIFO's own fd was given away."""
    (fdid,) = FStatReq.unpack(req)
    node = comm.control.get(fdid) or comm.opened[fdid].node
    comm.stat(node.host)
    Statx.pack(reply, 0, comm.statx_bytes)
    return Statx.size


def setstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Each change is tried; what fails is told in the reply, with the last errno. The message itself succeeds."""
    comm.must_write()
    fdid, mask, mode, uid, gid, size, *times = SetStatReq.unpack(req)
    node = comm.control[fdid]
    if mask & ~_SUPPORTED:
        raise OSError(EPERM, "SetStat of an attribute that cannot be set")
    failed = 0
    errno: int | None = 0
    # The owner before the mode, as chown clears set-id bits; times last, as a truncation sets them.
    if mask & STATX_SIZE:
        try:
            _truncate(comm, node, size)
        except OSError as e:
            failed, errno = failed | STATX_SIZE, e.errno
    if mask & _OWNER:
        try:
            attrs.chown(node.host, uid if mask & STATX_UID else NO_ID, gid if mask & STATX_GID else NO_ID)
        except OSError as e:
            failed, errno = failed | mask & _OWNER, e.errno
    if mask & STATX_MODE:
        try:
            _chmod(node, mode)
        except OSError as e:
            failed, errno = failed | STATX_MODE, e.errno
    if mask & _TIMES:
        try:
            _set_times(node, mask, *times)
        except OSError as e:
            failed, errno = failed | mask & _TIMES, e.errno
    SetStatResp.pack(reply, 0, failed, errno or 0)
    return SetStatResp.size


def _truncate(comm: Communicator, node: ControlFD, size: int) -> None:
    """Through an fd opened for it: truncate(2) of a path would wait for a lease another process holds."""
    if node.kind == stat.S_IFDIR:
        raise OSError(EISDIR, "a directory has no size to set")
    if node.kind != stat.S_IFREG or size > sys.MAX_OFFSET:
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
    except BlockingIOError:  # leased to another process
        if not comm.may_block:
            raise
        return reopen(node.host, os.O_WRONLY)


def _chmod(node: ControlFD, mode: int) -> None:
    if node.kind == stat.S_IFLNK:
        raise OSError(EOPNOTSUPP, "a symlink has no mode")
    attrs.chmod(node.host, mode & 0o7777)


def _set_times(node: ControlFD, mask: int, asec: int, ansec: int, msec: int, mnsec: int) -> None:
    times = (
        asec,
        ansec if mask & STATX_ATIME else sys.UTIME_OMIT,
        msec,
        mnsec if mask & STATX_MTIME else sys.UTIME_OMIT,
    )
    try:
        sys.utimensat(node.host, b"", times, AT_EMPTY_PATH)
    except OSError as e:
        if e.errno != EINVAL:
            raise
        sys.utimensat(sys.AT_FDCWD, proc_path(node.host), times, 0)  # Linux before 5.8


def fstatfs(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """struct statfs begins with the seven numbers of the reply, in its order; the name length follows the fsid."""
    (fdid,) = FStatFSReq.unpack(req)
    node = comm.control[fdid]
    if sys.fstatfs(node.host, comm.statfs_buffer):
        sys.raise_errno()
    found = comm.statfs_bytes
    reply[:56] = found[:56]
    reply[56:64] = found[_NAMELEN : _NAMELEN + 8]
    return 64
