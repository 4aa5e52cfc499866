"""Walk, WalkStat: look up names one component at a time, never following a symlink."""

from __future__ import annotations

import struct
from errno import EIO, ENOENT, ENOTDIR, EPERM
from os import close
from stat import S_IFDIR, S_IFLNK

from gofer.server.comm import CHILD, MASKED, MAX_MESSAGE_SIZE, MODE_BYTE1, SERVED, STATX_MASK, check_name
from gofer.server.fds import MARKS, O_PATH_FLAGS, ControlFD
from gofer.server.kernelfs import KIND, ROOT_BYTE
from gofer.sys import AT_EMPTY_PATH, get_errno, openat, openat_silent, raise_errno, statx, statx_silent
from gofer.wire import (
    STATX_SIZE,
    WALK_MISSING,
    WALK_OF_ONE,
    WALK_SUCCESS,
    WALK_SYMLINK,
    Count,
    Inode,
    Statx,
    WalkResp,
    take_walk,
    walk_of_one,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator
    from gofer.wire import Record

_INODE, _pack_inode = Inode.size, Inode.pack
_pack_answer = WalkResp.pack
_Found = struct.Struct("<BHQ144s")  # WalkResp and an Inode
_pack_found, _FOUND = _Found.pack_into, _Found.size
_Stat = struct.Struct("<H144s")  # WalkStatResp and a Statx
_pack_stat, _STAT = _Stat.pack_into, _Stat.size
_MOST = (MAX_MESSAGE_SIZE - WalkResp.size) // _INODE  # the same number in either dialect


def walk(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """The FDs get into the table only when the whole walk is done: on an error the new ones just close.

    One name in an ordinary directory is what most are, and has a way of its own: what more may come costs as much again.
    """
    raw = req.tobytes()
    if len(raw) > WALK_OF_ONE:
        dir_fd, count, size = walk_of_one(raw)
        if count == 1 and size == len(raw) - WALK_OF_ONE:
            node = comm.control.get(dir_fd)
            if node is not None and node.kind == S_IFDIR:
                return _walk_one(comm, node, raw[WALK_OF_ONE:], reply)
    dir_fd, names = take_walk(raw)
    found: dict[int, ControlFD] = {}
    size = along(comm, comm.control[dir_fd], names, reply, WalkResp, found)
    comm.control.update(found)
    return size


def _walk_one(comm: Communicator, node: ControlFD, name: bytes, reply: memoryview) -> int:
    """`along`, for one name in an ordinary directory, and into the table."""
    if not name.isalnum() and (not name or name[0] == 46 or 47 in name or 0 in name) or len(name) > 255:
        check_name(name)  # most need no more than that look
    host = openat(node.host, name, O_PATH_FLAGS)
    if host < 0:
        if get_errno() != ENOENT:
            raise_errno()
        _pack_answer(reply, 0, WALK_MISSING, 0)
        return WalkResp.size
    node = ControlFD()  # `comm.adopt`, without a call
    node.host = host
    if statx_silent(host, b"", AT_EMPTY_PATH, STATX_MASK, comm.statx_buffer):
        comm.stat(host)
    found = comm.statx_bytes
    found[1] = MASKED[found[1]]
    node.kind = kind = SERVED[found[MODE_BYTE1]]
    if not kind or found[ROOT_BYTE] or host >= MARKS[0]:
        comm.check(node, 0, S_IFDIR)
    fdid = comm.next_id()
    _pack_found(reply, 0, WALK_SUCCESS, 1, fdid, found)
    comm.control[fdid] = node
    return _FOUND


def along(
    comm: Communicator, node: ControlFD, names: list[bytes], reply: memoryview, answer: Record,
    found: dict[int, ControlFD],
) -> int:  # fmt: skip
    """Look the names up one below the other, and add an FD for each to found; the reply begins with the dialect's WalkResp."""
    kind = node.kind
    if kind != S_IFDIR and kind & KIND != S_IFDIR:
        raise OSError(ENOTDIR, "not a directory")
    if len(names) > _MOST:
        raise OSError(EIO, "the reply would exceed the message size")
    at = answer.size
    status = WALK_SUCCESS
    host, mark = node.host, MARKS[0]
    statx, statx_buffer, next_id = comm.statx_bytes, comm.statx_buffer, comm.next_id
    for name in names:
        if not name.isalnum() and (not name or name[0] == 46 or 47 in name or 0 in name) or len(name) > 255:
            check_name(name)  # most need no more than that look
        within = kind
        if kind != S_IFDIR:
            if kind & KIND == S_IFLNK:
                status = WALK_SYMLINK
                break
            comm.enter(host, kind, name)
            mark = 0  # so that what is found there is looked at closer
        above, host = host, openat_silent(host, name, O_PATH_FLAGS)
        if host < 0:  # once more, for its errno
            host = openat(above, name, O_PATH_FLAGS)
            if host < 0:
                if get_errno() != ENOENT:
                    raise_errno()
                status = WALK_MISSING
                break
        # `comm.adopt`, without a call
        node = ControlFD()
        node.host = host
        if statx_silent(host, b"", AT_EMPTY_PATH, STATX_MASK, statx_buffer):
            comm.stat(host)
        statx[1] = MASKED[statx[1]]
        node.kind = kind = SERVED[statx[MODE_BYTE1]]
        if not kind or statx[ROOT_BYTE] or host >= mark:
            comm.check(node, len(found), within)
            kind = node.kind
        fdid = next_id()
        found[fdid] = node
        _pack_inode(reply, at, fdid, statx)
        at += _INODE
    answer.pack(reply, 0, status, len(found))
    return at


def walkstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """As Walk, without FDs. A leading empty name reports dir_fd itself, of whatever type where it stands alone."""
    raw = req.tobytes()
    if len(raw) > WALK_OF_ONE:
        dir_fd, count, size = walk_of_one(raw)
        if count == 1 and size == len(raw) - WALK_OF_ONE:
            node = comm.control.get(dir_fd)
            if node is not None and node.kind == S_IFDIR:
                return _stat_one(comm, node, raw[WALK_OF_ONE:], reply)
    dir_fd, names = take_walk(raw)
    count = stat_along(comm, comm.control[dir_fd], names, reply, Count.size)
    Count.pack(reply, 0, count)
    return Count.size + count * STATX_SIZE


def _stat_one(comm: Communicator, node: ControlFD, name: bytes, reply: memoryview) -> int:
    """`stat_along`, for one name in an ordinary directory."""
    if not name.isalnum() and (not name or name[0] == 46 or 47 in name or 0 in name) or len(name) > 255:
        check_name(name)
    if statx(node.host, name, CHILD, STATX_MASK, comm.statx_buffer):
        if get_errno() != ENOENT:
            raise_errno()
        Count.pack(reply, 0, 0)
        return Count.size
    found = comm.statx_bytes
    found[1] = MASKED[found[1]]
    if not SERVED[found[MODE_BYTE1]]:
        raise OSError(EPERM, "block devices are not served")
    _pack_stat(reply, 0, 1, found)
    return _STAT


def stat_along(comm: Communicator, node: ControlFD, names: list[bytes], reply: memoryview, head: int) -> int:
    """Write a Statx for each found to the reply behind `head` bytes; returns how many."""
    left = len(names)  # to be looked up
    if head + left * STATX_SIZE > MAX_MESSAGE_SIZE:
        raise OSError(EIO, "the reply would exceed the message size")
    at = head
    itself = names and not names[0]
    if itself:
        del names[0]
        left -= 1
    host, kind = node.host, node.kind
    if names and kind != S_IFDIR and kind & KIND != S_IFDIR:
        raise OSError(ENOTDIR, "not a directory")
    for name in names:
        if not name.isalnum() and (not name or name[0] == 46 or 47 in name or 0 in name) or len(name) > 255:
            check_name(name)
    pack, found, buffer = Statx.pack, comm.statx_bytes, comm.statx_buffer
    if itself:
        comm.stat(host)
        pack(reply, at, found)
        at += STATX_SIZE
    held = -1  # the fd of the directory that we are in, where it is ours. An object would cost as much as all of a step
    try:
        for name in names:
            if kind != S_IFDIR:
                if kind & KIND == S_IFLNK:
                    break
                comm.enter(host, kind, name)
            within = kind
            left -= 1
            if left:  # something is to be looked up in it: hold it, and look at what is held
                above, host = host, openat_silent(host, name, O_PATH_FLAGS)
                if host < 0:
                    host = openat(above, name, O_PATH_FLAGS)
                if held >= 0:
                    close(held)
                held = host
                if host >= 0 and statx_silent(host, b"", AT_EMPTY_PATH, STATX_MASK, buffer):
                    comm.stat(host)
            elif statx(host, name, CHILD, STATX_MASK, buffer):
                host = -1
            if host < 0:
                if get_errno() != ENOENT:
                    raise_errno()
                break
            found[1] = MASKED[found[1]]
            kind = SERVED[found[MODE_BYTE1]]
            if not kind:
                raise OSError(EPERM, "block devices are not served")
            if left and (found[ROOT_BYTE] or within != S_IFDIR):
                kind = comm.judge(host, kind, within)
            pack(reply, at, found)
            at += STATX_SIZE
    finally:
        if held >= 0:
            close(held)
    return (at - head) // STATX_SIZE
