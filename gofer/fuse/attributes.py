"""GETATTR, STATX, SETATTR, STATFS, ACCESS, and extended attributes."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EIO, EOPNOTSUPP, ERANGE, ESTALE

from gofer import sys, wire
from gofer.fuse import kernel
from gofer.fuse.fresh import UTIME_NOW
from gofer.fuse.state import NONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.client.stream import Stream
    from gofer.fuse.node import Node
    from gofer.fuse.state import FileSystem, Reply, Request

_MOST = 65535  # bytes of an xattr, or of a list of names, on the wire


def getattr(fs: FileSystem, request: Request) -> Reply:
    flags, fh = kernel.GetattrIn.read(request.body)
    node = fs.nodes.by_id(request.nodeid)
    if not flags & kernel.GETATTR_FH:
        fh = 0
    elif fs.keeps_ids and fs.handle(fh).host >= 0:
        return fs.attr_of_host(node, fs.handle(fh).host)
    return _attr_here(fs, node) or fs.view.attr(node, look(fs, request, node, fh))


def _attr_here(fs: FileSystem, node: Node) -> bytes:
    """Of a file that is open; b"" where the server is to be asked."""
    host = fs.host_of(node)
    if host < 0:
        return b""
    try:
        return fs.attr_of_host(node, host)
    finally:
        os.close(host)


def statx(fs: FileSystem, request: Request) -> Reply:
    flags, fh, _, _ = kernel.StatxIn.read(request.body)
    node = fs.nodes.by_id(request.nodeid)
    raw = bytearray(look(fs, request, node, fh if flags & kernel.GETATTR_FH else 0))
    fs.view.statx(node, raw)
    return kernel.StatxOut.bytes(fs.valid, 0, 0, raw)


def look(fs: FileSystem, request: Request, node: Node, fh: int = 0) -> bytes:
    """struct statx of a node. Without an FD at hand its directory is asked, which makes none."""
    if fh and fs.handle(fh).fdid != NONE:
        return fs.pool.ask(wire.FSTAT, wire.FDID.bytes(fs.handle(fh).fdid))
    parent = node.parent
    if node.fd or parent is None or not parent.fd:
        return fs.pool.ask(wire.FSTAT, wire.FDID.bytes(fs.fd(request, node.id)))
    name = node.name
    body = wire.FDID.bytes(fs.nodes.fd(parent, request.held)) + b"\1\0" + wire.Count.bytes(len(name)) + name
    raw = fs.pool.ask(wire.WALKSTAT, body)[2:]
    if len(raw) != wire.STATX_SIZE:
        raise OSError(ESTALE, "it is not there any more")
    ino, born, mode = fs.nodes.identity(raw)
    if ino != node.ino or born != node.born or (mode ^ node.mode) & 0o170000:
        raise OSError(ESTALE, "something else is there now")
    return raw


def access(fs: FileSystem, request: Request) -> Reply:
    """Asked where the kernel does not check permissions, so of who may do anything: but not run what nobody may."""
    (mask,) = kernel.AccessIn.read(request.body)
    node = fs.nodes.by_id(request.nodeid)
    if mask & os.X_OK and stat.S_ISREG(node.mode):
        mode = int.from_bytes(look(fs, request, node)[28:30], "little")
        if not mode & ~fs.options.umask & 0o111:
            raise OSError(EACCES, os.strerror(EACCES))
    return b""


def setattr(fs: FileSystem, request: Request) -> Reply:
    (
        valid, fh, size, _, atime, mtime, _, ansec, mnsec, _, mode, uid, gid,
    ) = kernel.SetattrIn.read(request.body)  # fmt: skip
    node, fd = fs.nodes.by_id(request.nodeid), fs.fd(request)
    mask = 0
    for bit, wanted in _MASKS:
        if valid & bit:
            mask |= wanted
    if valid & kernel.FATTR_ATIME_NOW:
        ansec = UTIME_NOW
    if valid & kernel.FATTR_MTIME_NOW:
        mnsec = UTIME_NOW
    uid = uid if valid & kernel.FATTR_UID else wire.NO_ID
    gid = gid if valid & kernel.FATTR_GID else wire.NO_ID
    if mask & sys.STATX_SIZE and valid & kernel.FATTR_FH and _truncated(fs, fh, size):
        mask &= ~sys.STATX_SIZE
    if node.use is not None and node.use.made is not None:
        soon: bytes = node.use.made.set(fs, fd, mask, mode & 0o7777, uid, gid, (atime, ansec), (mtime, mnsec))
        if soon:
            return soon
        node.use.made = None
    if mask:
        told = wire.SetStatReq.bytes(fd, mask, mode & 0o7777, uid, gid, size, atime, ansec, mtime, mnsec)
        if fs.behind is not None:
            return fs.view.attr(node, _set_and_look(fs.behind, fd, told))
        _judge(fs.pool.ask(wire.SETSTAT, told))
    return _attr_here(fs, node) or fs.view.attr(node, fs.pool.ask(wire.FSTAT, wire.FDID.bytes(fd)))


def _judge(payload: bytes) -> None:
    failed, code = wire.SetStatResp.unpack(payload)
    if failed:
        raise OSError(code or EIO, os.strerror(code or EIO))


def _set_and_look(stream: Stream, fd: int, told: bytes) -> bytes:
    """Both questions on the way at once; struct statx."""
    came: list[bytes | OSError] = []
    stream.post(wire.SETSTAT, told, came.append)
    raw = stream.ask(wire.FSTAT, wire.FDID.bytes(fd))  # of the same lane: the other answer is here
    if isinstance(came[0], OSError):
        raise came[0]
    _judge(came[0])
    return raw


_MASKS = (
    (kernel.FATTR_MODE, sys.STATX_MODE), (kernel.FATTR_UID, sys.STATX_UID), (kernel.FATTR_GID, sys.STATX_GID),
    (kernel.FATTR_SIZE, sys.STATX_SIZE), (kernel.FATTR_ATIME, sys.STATX_ATIME), (kernel.FATTR_MTIME, sys.STATX_MTIME),
)  # fmt: skip


def _truncated(fs: FileSystem, fh: int, size: int) -> bool:
    """ftruncate(2) of a file that is open for it: its mode may forbid to open it anew."""
    handle = fs.handle(fh)
    if handle.host < 0 or not handle.flags & os.O_ACCMODE:
        return False
    os.ftruncate(handle.host, size)
    return True


def statfs(fs: FileSystem, request: Request) -> Reply:
    found = fs.pool.fstatfs(fs.fd(request))
    size = found.bsize & 0xFFFFFFFF
    numbers = (found.blocks, found.bfree, found.bavail, found.files, found.ffree)
    return kernel.Kstatfs.bytes(*numbers, size, min(found.namelen, 255), size)


# Extended attributes. size 0 in a request asks how long the answer is.


def getxattr(fs: FileSystem, request: Request) -> Reply:
    (size,) = kernel.GetxattrIn.read(request.body)
    name = bytes(request.body[kernel.GetxattrIn.size : -1])
    if name.startswith(b"security.") and _hides_security(fs):
        raise OSError(EOPNOTSUPP, os.strerror(EOPNOTSUPP))
    return _sized(fs.pool.fgetxattr(fs.fd(request), name, _MOST), size)


def _hides_security(fs: FileSystem) -> bool:
    """Whether the server shows no security.* at all, as by default: the kernel asks for one at the first write to each file.

    Told by the root: where user.* could be had and security.* could not.
    """
    if fs.hides_security is None:
        said = []
        for name in (b"security.capability", b"user.gofer"):
            try:
                fs.pool.fgetxattr(fs.pool.root.fd, name, _MOST)
                said.append(0)
            except OSError as error:
                if error.errno is None:  # Lost
                    raise
                said.append(error.errno)
        fs.hides_security = said[0] == EOPNOTSUPP and said[1] != EOPNOTSUPP
    return fs.hides_security


def listxattr(fs: FileSystem, request: Request) -> Reply:
    (size,) = kernel.GetxattrIn.read(request.body)
    names = fs.pool.flistxattr(fs.fd(request), _MOST)
    return _sized(b"".join([name + b"\0" for name in names]), size)


def _sized(value: bytes, size: int) -> bytes:
    if not size:
        return kernel.GetxattrOut.bytes(len(value))
    if len(value) > size:
        raise OSError(ERANGE, os.strerror(ERANGE))
    return value


def setxattr(fs: FileSystem, request: Request) -> Reply:
    size, flags = kernel.SetxattrIn.read(request.body)
    name, _, rest = bytes(request.body[kernel.SetxattrIn.size :]).partition(b"\0")
    fs.pool.fsetxattr(fs.fd(request), name, rest[:size], flags)
    return b""


def removexattr(fs: FileSystem, request: Request) -> Reply:
    fs.pool.fremovexattr(fs.fd(request), bytes(request.body[:-1]))
    return b""
