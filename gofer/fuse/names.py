"""LOOKUP, FORGET, READLINK, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, RENAME2, LINK."""

from __future__ import annotations

import os
import stat
import struct
from errno import EINVAL, ENOENT, EPERM

from gofer import sys, wire
from gofer.fuse import kernel
from gofer.fuse.state import name_of
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.node import Node
    from gofer.fuse.state import FileSystem, Reply, Request


def string(value: bytes) -> bytes:
    return wire.Count.bytes(len(value)) + value


def lookup(fs: FileSystem, request: Request) -> Reply:
    parent, name = fs.nodes.by_id(request.nodeid), name_of(request.body)
    if fs.fresh.lacks(parent, name):
        raise OSError(ENOENT, os.strerror(ENOENT))
    if fs.valid:
        ahead = fs.ahead.find(request, parent, name)
        if ahead:
            left, raw = ahead
            return fs.view.entry(fs.told(request, parent, name, raw), raw, left)
    body = wire.FDID.bytes(fs.fd(request)) + b"\1\0" + string(name)
    payload = fs.exchange(wire.WALK, body)[0]
    status, count = wire.WalkResp.read(payload)
    if not count:
        fs.ahead.lacks(parent)
        if status == wire.WALK_MISSING and fs.negative:
            return kernel.EntryOut.bytes(0, 0, fs.negative, 0, 0, 0, b"")
        raise OSError(ENOENT, os.strerror(ENOENT))
    fd, raw = wire.Inode.read(payload, wire.WalkResp.size)
    node = fs.told(request, parent, name, raw, fd)
    if fs.posting and node.use is not None:  # what was written behind may have been overtaken
        raw = fs.pool.ask(wire.FSTAT, wire.FDID.bytes(fs.fd(request, node.id)))
    return fs.view.entry(node, raw)


def forget(fs: FileSystem, request: Request) -> Reply:
    (times,) = kernel.ForgetIn.read(request.body)
    fs.nodes.forget_by_id(request.nodeid, times)
    return None


def batch_forget(fs: FileSystem, request: Request) -> Reply:
    (count,) = kernel.BatchForgetIn.read(request.body)
    one = kernel.ForgetOne
    for index in range(count):
        nodeid, times = one.read(request.body, kernel.BatchForgetIn.size + index * one.size)
        fs.nodes.forget_by_id(nodeid, times)
    return None


def readlink(fs: FileSystem, request: Request) -> Reply:
    target = fs.pool.readlinkat(fs.fd(request))
    if not target or 0 in target:  # the kernel would take what is before a NUL
        raise OSError(EINVAL, "not a target")
    return target


def owner(fs: FileSystem, request: Request, parent: Node) -> tuple[int, int]:
    """The ids that a new file gets: NO_ID leaves it to the server, as where the directory hands its group down."""
    if not fs.keeps_ids:
        return NO_ID, NO_ID
    return request.uid, NO_ID if parent.mode & stat.S_ISGID else request.gid


def _made(fs: FileSystem, request: Request, parent: Node, name: bytes, mid: int, body: bytes) -> Reply:
    fs.fresh.gets(parent, name)
    fd, raw = wire.Inode.unpack(fs.exchange(mid, body)[0])
    node = fs.told(request, parent, name, raw, fd)
    fs.changes.of(node)  # of a new one, too: what had its number before is not told of any more
    if mid == wire.MKDIRAT:
        fs.fresh.made(node)
    return fs.view.entry(node, raw)


def symlink(fs: FileSystem, request: Request) -> Reply:
    name, target, _ = bytes(request.body).split(b"\0", 2)
    parent = fs.nodes.by_id(request.nodeid)
    body = wire.SymlinkAtReq.bytes(fs.fd(request), *owner(fs, request, parent)) + string(name) + string(target)
    return _made(fs, request, parent, name, wire.SYMLINKAT, body)


def mknod(fs: FileSystem, request: Request) -> Reply:
    mode, device, _ = kernel.MknodIn.read(request.body)
    name, parent = name_of(request.body, kernel.MknodIn.size), fs.nodes.by_id(request.nodeid)
    if device and not stat.S_ISREG(mode):
        raise OSError(EPERM, "devices are not made")
    body = wire.MknodAtReq.bytes(fs.fd(request), *owner(fs, request, parent), mode & 0xFFFF, 0, 0) + string(name)
    return _made(fs, request, parent, name, wire.MKNODAT, body)


def mkdir(fs: FileSystem, request: Request) -> Reply:
    mode, _ = kernel.MkdirIn.read(request.body)
    name, parent = name_of(request.body, kernel.MkdirIn.size), fs.nodes.by_id(request.nodeid)
    body = wire.MkdirAtReq.bytes(fs.fd(request), *owner(fs, request, parent), mode & 0o7777) + string(name)
    return _made(fs, request, parent, name, wire.MKDIRAT, body)


def link(fs: FileSystem, request: Request) -> Reply:
    (old,) = kernel.LinkIn.read(request.body)
    name, parent = name_of(request.body, kernel.LinkIn.size), fs.nodes.by_id(request.nodeid)
    body = wire.LinkAtReq.bytes(fs.fd(request), fs.fd(request, old)) + string(name)
    return _made(fs, request, parent, name, wire.LINKAT, body)


def unlink(fs: FileSystem, request: Request, flags: int = 0) -> Reply:
    fs.pool.unlinkat(fs.fd(request), name_of(request.body), flags)
    return b""


def rmdir(fs: FileSystem, request: Request) -> Reply:
    return unlink(fs, request, sys.AT_REMOVEDIR)


def rename(fs: FileSystem, request: Request) -> Reply:
    (new,) = kernel.RenameIn.read(request.body)
    return _rename(fs, request, new, 0, bytes(request.body[kernel.RenameIn.size :]))


def rename2(fs: FileSystem, request: Request) -> Reply:
    new, flags = kernel.Rename2In.read(request.body)
    return _rename(fs, request, new, flags, bytes(request.body[kernel.Rename2In.size :]))


def _rename(fs: FileSystem, request: Request, new: int, flags: int, names: bytes) -> Reply:
    old_name, new_name, _ = names.split(b"\0", 2)
    from_fd, to_fd = fs.fd(request), fs.fd(request, new)
    fs.fresh.gets(fs.nodes.by_id(request.nodeid), old_name)
    fs.fresh.gets(fs.nodes.by_id(new), new_name)
    if flags:
        fs.pool.renameat2(from_fd, old_name, to_fd, new_name, flags)
    else:
        fs.pool.renameat(from_fd, old_name, to_fd, new_name)
    _has_moved(fs, new, to_fd, new_name)
    if flags & sys.RENAME_EXCHANGE:
        _has_moved(fs, request.nodeid, from_fd, old_name)
    return b""


def _has_moved(fs: FileSystem, directory: int, fd: int, name: bytes) -> None:
    """A node remembers where it was seen: tell it, if it is one. Where that fails it is stale once its FD is needed again."""
    try:
        payload = fs.pool.ask(wire.WALKSTAT, _ONE.pack(fd, 1, len(name)) + name)
        if len(payload) >= 2 + wire.STATX_SIZE:
            fs.nodes.moved(fs.nodes.by_id(directory), name, payload[2 : 2 + wire.STATX_SIZE])
    except OSError:
        pass


_ONE = struct.Struct("<QHH")
