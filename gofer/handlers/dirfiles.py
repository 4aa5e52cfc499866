"""Our own DirRead, DirWrite, DirRename: many small files of one directory are read, made, or given their names, in one message.

Each file is its own affair: what one fails with is told in its place, and the others go on. It is looked at, opened, made and
moved by the rules of Walk, OpenAt, PRead, OpenCreateAt, PWrite, SetStat and RenameAt, of each of which it would take one. No
FD is made, and of one file alone anything is open at a time.
"""

from __future__ import annotations

import os
import struct
from errno import EINVAL, EIO, EOPNOTSUPP
from os import preadv, pwrite
from stat import S_IFREG

from gofer import sys
from gofer.procself import proc_path
from gofer.server.attrs import chmod, chown, set_times, shows_xattr
from gofer.server.comm import MAX_MESSAGE_SIZE, SCRATCH_SIZE, check_name, directory
from gofer.server.fds import HostFD, open_path
from gofer.sys import (
    AT_FDCWD,
    STATX_ATIME,
    STATX_GID,
    STATX_MODE,
    STATX_MTIME,
    STATX_UID,
    openat,
    raise_errno,
)
from gofer.wire import (
    STATX_SIZE,
    UNTOLD,
    DirReadEntry,
    DirReadReq,
    DirReadResp,
    DirRenameReq,
    DirWriteDone,
    DirWriteEntry,
    DirWriteReq,
    take_strs,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator
    from gofer.server.fds import ControlFD

_read_extent = struct.Struct("=16xI20xQQ").unpack_from  # stx_nlink, stx_size, stx_blocks
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # with the magic link of an fd; see fds.reopen
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_SYNC = 1  # flags of DirWrite
_OWNER = STATX_UID | STATX_GID
_TIMES = STATX_ATIME | STATX_MTIME
_NO_STATX = bytes(STATX_SIZE)
_ERRNO = struct.Struct("<I")


def dirread(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Attributes of each name; and the contents of what is a regular file of one name, without holes and xattrs, of at most
    `each` bytes, as long as there are at most `most` in all. What else there is, or fails, other messages look at closer."""
    dir_fd, each, most = DirReadReq.read(req)
    names = take_strs(req, DirReadReq.size)
    for name in names:
        check_name(name)
    parent = directory(comm.control[dir_fd])
    at, entry = DirReadResp.size, DirReadEntry.size
    end = at + len(names) * entry
    if end > MAX_MESSAGE_SIZE:
        raise OSError(EIO, "the reply would exceed the message size")
    room = end + min(most, MAX_MESSAGE_SIZE - end)
    for name in names:
        if comm.table.closing:
            raise OSError(EIO, "hung up")
        try:
            size = _read(comm, parent, name, reply[end : min(end + each, room)])
            DirReadEntry.pack(reply, at, 0, UNTOLD if size < 0 else size, comm.statx_bytes)
            end += max(size, 0)
        except OSError as e:
            DirReadEntry.pack(reply, at, e.errno or EIO, UNTOLD, _NO_STATX)
        at += entry
    DirReadResp.pack(reply, 0, len(names), end - DirReadResp.size)
    return end


def _read(comm: Communicator, parent: ControlFD, name: bytes, into: memoryview) -> int:
    """The size of what was read into that memory, -1 where it is not to be; `comm.statx_bytes` are of the file."""
    node = comm.adopt(open_path(parent.host, name))
    if node.kind != S_IFREG:
        return -1
    links, size, blocks = _read_extent(comm.statx_bytes)
    if links != 1 or size > len(into) or blocks * 512 < size:
        return -1
    if not size:  # it may have something in it all the same
        into = memoryview(bytearray(1))
    host = openat(AT_FDCWD, b"%d" % node.host, _READ)
    if host < 0:  # leased, or not to be opened: OpenAt waits, or tells why
        return -1
    try:
        return int(size) if preadv(host, (into[: size or 1],), 0) == size and _bare(comm, host) else -1
    finally:
        os.close(host)


def _bare(comm: Communicator, host: int) -> bool:
    """Whether a file has no xattrs that FListXattr would show."""
    if comm.options.xattrs == "none":
        return True
    buffer, found = comm.scratch()
    try:
        length = sys.listxattr(proc_path(host), buffer, SCRATCH_SIZE)
    except OSError as e:
        if e.errno == EOPNOTSUPP:
            return True
        raise
    return not any(shows_xattr(comm.options, name) for name in bytes(found[:length]).split(b"\0")[:-1])


def dirwrite(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Make files, each of which has all that it is to have when it is told as done; what fails before that leaves none.

    Owner, mode and times that cannot be set are told as SetStat tells them.
    """
    comm.must_write()
    dir_fd, flags, count, size = DirWriteReq.read(req)
    if flags & ~_SYNC:
        raise OSError(EINVAL, "DirWrite flags")
    if size != len(req) - DirWriteReq.size or count * DirWriteEntry.size > size:
        raise OSError(EIO, "DirWrite lies about its length")
    at = DirWriteReq.size
    heads = [DirWriteEntry.read(req, at + i * DirWriteEntry.size) for i in range(count)]
    at += count * DirWriteEntry.size
    if at + sum(head[-1] + head[3] for head in heads) != len(req):
        raise OSError(EIO, "DirWrite lies about the length of a file or a name")
    names = []
    for head in heads:
        names.append(bytes(req[at : at + head[-1]]))
        at += head[-1]
        check_name(names[-1])
    parent = directory(comm.control[dir_fd])
    told = []
    for name, head in zip(names, heads):
        if comm.table.closing:
            raise OSError(EIO, "hung up")
        try:
            failed, errno = _make(parent, name, head, req[at : at + head[3]], flags)
            told.append((0, failed, errno))
        except OSError as e:
            told.append((e.errno or EIO, 0, 0))
        at += head[3]
    for i, done in enumerate(told):  # the request is read: the reply may be the same memory
        DirWriteDone.pack(reply, DirReadResp.size + i * DirWriteDone.size, *done)
    DirReadResp.pack(reply, 0, count, count * DirWriteDone.size)
    return int(DirReadResp.size + count * DirWriteDone.size)


def _make(parent: ControlFD, name: bytes, head: tuple[int, ...], data: memoryview, flags: int) -> tuple[int, int]:
    """SetStat's failure_mask and failure_errno; an OSError where there is no such file now."""
    mode = head[0] & 0o7777
    # Whoever's it is at first, and is given to then, nobody can open it who may not open it in the end.
    exact = not mode & 0o7000 and not mode >> 3 & ~mode & 0o7
    host = openat(parent.host, name, _NEW, mode if exact else 0o600)
    if host < 0:
        raise_errno()
    file = HostFD(host)
    try:
        done = 0
        while done < len(data):
            done += pwrite(host, data[done:], done)
        failed = _settle(host, head, None if exact else mode)
        if flags & _SYNC:
            os.fsync(host)
        return failed
    except BaseException:
        os.unlink(name, dir_fd=parent.host)
        raise
    finally:
        file.shut()


def _settle(host: int, head: tuple[int, ...], mode: int | None) -> tuple[int, int]:
    """Owner, mode (None: it has it already) and times, in that order, as in SetStat."""
    _, uid, gid, _, *times, _ = head
    failed, errno = 0, 0
    try:
        chown(host, uid, gid)
    except OSError as e:
        failed, errno = _OWNER, e.errno or EIO
        mode = mode and mode & 0o1777
    try:
        if mode is not None:
            chmod(host, mode)
    except OSError as e:
        failed, errno = failed | STATX_MODE, e.errno or EIO
    try:
        set_times(host, *times)
    except OSError as e:
        failed, errno = failed | _TIMES, e.errno or EIO
    return failed, errno


def dirrename(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Old name and new, again and again, of one directory; as RenameAt."""
    comm.must_write()
    (dir_fd,) = DirRenameReq.read(req)
    names = take_strs(req, DirRenameReq.size)
    if len(names) % 2:
        raise OSError(EINVAL, "an old name without a new one")
    for name in names:
        check_name(name)
    host = (parent := directory(comm.control[dir_fd])).host
    told = []
    for old, new in zip(names[::2], names[1::2]):
        if comm.table.closing:
            raise OSError(EIO, "hung up")
        try:
            os.rename(old, new, src_dir_fd=host, dst_dir_fd=host)
            told.append(0)
        except OSError as e:
            told.append(e.errno or EIO)
    del parent  # which holds its fd up to here
    size = len(told) * _ERRNO.size
    reply[DirReadResp.size : DirReadResp.size + size] = struct.pack(f"<{len(told)}I", *told)
    DirReadResp.pack(reply, 0, len(told), size)
    return DirReadResp.size + size
