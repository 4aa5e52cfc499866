"""UnlinkAt, RenameAt, RenameAt2, ReadLinkAt."""

from __future__ import annotations

import os
import stat
from errno import EINVAL

from gofer import sys
from gofer.server.comm import check_last, check_name, directory
from gofer.server.kernelfs import KIND
from gofer.sys import readlinkat_silent
from gofer.wire import (
    UNLINK_HEAD,
    Count,
    ReadLinkAtReq,
    RenameAtReq,
    U32Field,
    expect_end,
    pack_str,
    take_rename,
    take_str,
    unlink_at,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator
    from gofer.server.fds import ControlFD

_LONGEST = 4096  # PATH_MAX: no target is as long
_RENAME_FLAGS = sys.RENAME_NOREPLACE | sys.RENAME_EXCHANGE | sys.RENAME_WHITEOUT


def unlinkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    if comm.read_only:
        comm.must_write()
    raw = req.tobytes()
    dir_fd, flags, size = unlink_at(raw)
    name = raw[UNLINK_HEAD:]
    if not name.isalnum() or len(name) != size or size > 255:
        check_last(name, size)
    parent = comm.control.get(dir_fd) or comm.control[dir_fd]
    if parent.kind != stat.S_IFDIR:
        directory(parent)
    return remove(parent, name, flags)


def remove(parent: ControlFD, name: bytes, flags: int) -> int:
    if flags == sys.AT_REMOVEDIR:
        os.rmdir(name, dir_fd=parent.host)
    elif flags == 0:
        os.unlink(name, dir_fd=parent.host)
    else:
        raise OSError(EINVAL, "UnlinkAt flags")
    return 0


def renameat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    if comm.read_only:
        comm.must_write()
    old_dir, new_dir, old_name, new_name = take_rename(req)
    if not (old_name.isalnum() and new_name.isalnum()) or len(old_name) > 255 or len(new_name) > 255:  # most are no more
        check_name(new_name)
        check_name(old_name)
    old = comm.control.get(old_dir) or comm.control[old_dir]
    new = old if new_dir == old_dir else comm.control[new_dir]
    if old.kind != stat.S_IFDIR or new.kind != stat.S_IFDIR:
        directory(old)
        directory(new)
    os.rename(old_name, new_name, src_dir_fd=old.host, dst_dir_fd=new.host)
    return 0


def renameat2(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    old_dir, new_dir = RenameAtReq.read(req)
    old_name, at = take_str(req, RenameAtReq.size)
    new_name, at = take_str(req, at)
    (flags,) = U32Field.read(req, at)
    expect_end(req, at + U32Field.size)
    check_name(old_name)
    check_name(new_name)
    old, new = directory(comm.control[old_dir]), directory(comm.control[new_dir])
    if flags & ~_RENAME_FLAGS:
        raise OSError(EINVAL, "RenameAt2 flags")
    sys.renameat2(old.host, old_name, new.host, new_name, flags)
    return 0


def readlinkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    (fdid,) = ReadLinkAtReq.unpack(req)
    node = comm.control.get(fdid) or comm.control[fdid]
    if reply is comm.window and node.kind == stat.S_IFLNK:
        size: int = readlinkat_silent(node.host, b"", comm.link_to, _LONGEST)
        if 0 <= size < _LONGEST:
            Count.pack(reply, 0, size)
            return Count.size + size
    return pack_str(reply, 0, os.readlink(b"", dir_fd=node.host) if node.kind == stat.S_IFLNK else target_of(node))


def target_of(node: ControlFD) -> bytes:
    if node.kind & KIND != stat.S_IFLNK:
        raise OSError(EINVAL, "not a symlink")
    return os.readlink(b"", dir_fd=node.host)
