"""Our own DirWalk: go into a directory. One message for the Walk, the OpenAt and, of most directories, all of the Getdents64."""

from __future__ import annotations

import os
import struct
from errno import EINVAL, EIO, ENOENT, ENOTDIR
from stat import S_IFDIR

from gofer import sys
from gofer.server.comm import check_name, directory
from gofer.server.fds import MARKS, WALKABLE, admit, open_path, opened_fd, reopen
from gofer.sys import get_errno
from gofer.wire import STATX_SIZE, DirWalkReq, DirWalkResp, take_last

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator

    Listed = tuple[list[bytes], list[bytes], bool]  # names, their types or statx, whether that is all

# struct linux_dirent64, as in directory.py
_KERNEL = struct.Struct("<8s8xHc")
_NAME = _KERNEL.size
_CHUNK = 32768  # bytes of one kernel read
_LEAST = 280  # what the longest name takes
# Bytes of kernel dirents in one message: of the shortest, 24 bytes, 12,288 with a chunk more; with statx these are 1.8 MB.
_MOST = 1 << 18
_VAIN = 1000  # reads in a row without an entry
_UNTOLD = struct.Struct("<28xH2x8s104x")  # stx_mode, stx_ino


def dirwalk(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """The directory of that name (none: dir_fd's own), opened, and |count| bytes of kernel dirents of it or a few more.

    open_fd is 0, and none is left open, where that is all. EPERM of what the kernel makes up: other messages look at it closer.
    """
    dir_fd, count, what = DirWalkReq.read(req)
    name = take_last(req, DirWalkReq.size)
    if count < _LEAST or what > 1:
        raise OSError(EINVAL, "not even one entry, or of unknown form")
    node = directory(comm.control[dir_fd])
    if name:
        check_name(name)
        node = comm.adopt(open_path(node.host, name))
        if node.kind != S_IFDIR:
            raise OSError(ENOTDIR, "not a directory")
    else:
        comm.stat(node.host)
    found = bytes(comm.statx_bytes[:STATX_SIZE])
    file = opened_fd(reopen(node.host, os.O_RDONLY | os.O_NONBLOCK), node, os.O_RDONLY)
    if file.host >= MARKS[0]:
        admit(file.host, comm.table, 1)
    names, told, ended = _listed(comm, file.host, min(count, _MOST), what == 1)
    opened = 0
    if not ended:
        opened = comm.next_id()
        comm.opened[opened] = file
    if name:
        dir_fd = comm.next_id()
        comm.control[dir_fd] = node
    names.append(b"")
    data = b"".join(told) + b"\0".join(names)
    end = DirWalkResp.size + len(data)
    DirWalkResp.pack(reply, 0, dir_fd, opened, found, len(told), len(data))
    reply[DirWalkResp.size : end] = data
    return end


def _listed(comm: Communicator, host: int, count: int, with_stats: bool) -> Listed:
    names: list[bytes] = []
    told: list[bytes] = []
    buffer, found = comm.scratch()
    read = vain = 0
    while read < count:
        if vain > _VAIN or comm.table.closing:
            raise OSError(EIO, "a directory without an end")
        size = sys.getdents64(host, buffer, min(count, _CHUNK))
        if not size:
            return names, told, True
        before = len(names)
        (_add_stats if with_stats else _add)(comm, host, bytes(found[:size]), names, told)
        vain = 0 if len(names) > before else vain + 1
        read += size
    return names, told, False


def _add(comm: Communicator, host: int, raw: bytes, names: list[bytes], told: list[bytes]) -> None:
    read, find, end, name_at = _KERNEL.unpack_from, raw.index, len(raw), _NAME
    here = 0
    while here < end:
        _, reclen, kind = read(raw, here)
        start = here + name_at
        name = raw[start : find(0, start)]
        here += reclen
        if name != b"." and name != b"..":
            names.append(name)
            told.append(kind)


def _add_stats(comm: Communicator, host: int, raw: bytes, names: list[bytes], told: list[bytes]) -> None:
    read, find, end, name_at = _KERNEL.unpack_from, raw.index, len(raw), _NAME
    look, found = comm.stat_child, comm.statx_bytes
    here = 0
    while here < end:
        ino, reclen, kind = read(raw, here)
        start = here + name_at
        name = raw[start : find(0, start)]
        here += reclen
        if name == b"." or name == b"..":
            continue
        known = look(host, name)
        if known < 0 and get_errno() == ENOENT:  # vanished meanwhile
            continue
        names.append(name)
        told.append(bytes(found[:STATX_SIZE]) if known in WALKABLE else _UNTOLD.pack(kind[0] << 12, ino))
