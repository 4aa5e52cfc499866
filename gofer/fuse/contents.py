"""OPEN, CREATE, READ, WRITE, RELEASE, FSYNC, FALLOCATE, LSEEK, COPY_FILE_RANGE."""

from __future__ import annotations

import _thread
import contextlib
import os
import stat
from errno import EAGAIN, EEXIST, EINVAL, EIO, ENXIO, EOPNOTSUPP
from functools import partial

from gofer import sys, wire
from gofer.fuse import kernel
from gofer.fuse.fresh import Made
from gofer.fuse.names import owner, string
from gofer.fuse.state import Handle, name_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.client.stream import Stream
    from gofer.fuse.node import Node
    from gofer.fuse.state import FileSystem, Finish, Reply, Request

_NOT_YET = os.RWF_NOWAIT if hasattr(os, "RWF_NOWAIT") else 0
_ASKED = os.O_ACCMODE | os.O_TRUNC
_MANY = 65536  # bytes of a read, of which a far server is asked for several at once
_READ_ROOM = wire.MAX_MESSAGE_SIZE - 64  # bytes of one PRead or PWrite


def open(fs: FileSystem, request: Request) -> Reply:
    flags, _ = kernel.OpenIn.read(request.body)
    node = fs.nodes.by_id(request.nodeid)
    return _open(fs, request, node, fs.fd(request), flags)


def _open(fs: FileSystem, request: Request, node: Node, fd: int, flags: int) -> bytes:
    """The server is asked for just this access: what is donated, and what the kernel then opens itself, is no more."""
    access = _access(fs, flags)
    try:
        payload, fds = fs.exchange(wire.OPENAT, wire.OpenAtReq.bytes(fd, access))
    except PermissionError:
        if access == flags & _ASKED:
            raise
        access = flags & _ASKED
        payload, fds = fs.exchange(wire.OPENAT, wire.OpenAtReq.bytes(fd, access))
    (fdid,) = wire.OpenAtResp.unpack(payload)
    if access:
        fs.changes.of(node)
    return opened(fs, request, Handle(node, fdid, _one(fds), access))


def _access(fs: FileSystem, flags: int) -> int:
    """Where the kernel writes whole pages later, it first reads what a program has not written of them."""
    if fs.options.writeback and flags & os.O_ACCMODE == os.O_WRONLY:
        return flags & os.O_TRUNC | os.O_RDWR
    return flags & _ASKED


def _one(fds: list[int]) -> int:
    for more in fds[1:]:
        os.close(more)
    return fds[0] if fds else -1


def opened(fs: FileSystem, request: Request, handle: Handle) -> bytes:
    try:
        backing = fs.pass_through(handle)
    except OSError:
        fs.discard(handle)
        raise
    fh = fs.opened(request, handle)
    if backing:
        handle.node.passed = True
        return kernel.OpenOut.bytes(fh, kernel.FOPEN_PASSTHROUGH, backing)
    return kernel.OpenOut.bytes(fh, fs.keep_cache(handle.node), 0)


def create(fs: FileSystem, request: Request) -> Reply:
    flags, mode, _, _ = kernel.CreateIn.read(request.body)
    name, parent = name_of(request.body, kernel.CreateIn.size), fs.nodes.by_id(request.nodeid)
    access, fd = _access(fs, flags), fs.fd(request)
    body = wire.OpenCreateAtReq.bytes(fd, *owner(fs, request, parent), mode & 0o7777, access) + string(name)
    fs.fresh.gets(parent, name)
    try:
        payload, fds = fs.exchange(wire.OPENCREATEAT, body)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return _open_existing(fs, request, parent, fd, name, flags)
    control, raw, fdid = wire.OpenCreateAtResp.unpack(payload)
    node = fs.told(request, parent, name, raw, control)
    fs.changes.of(node)
    handle = Handle(node, fdid, _one(fds), access)
    reply = fs.view.entry(node, raw) + opened(fs, request, handle)
    if fs.behind is not None and node.use is not None and node.use.opens == 1:
        node.use.made = Made(handle, raw)
    return reply


def _open_existing(fs: FileSystem, request: Request, parent: Node, fd: int, name: bytes, flags: int) -> bytes:
    """Somebody else has made it meanwhile."""
    _, found = fs.nodes.with_room(lambda: fs.pool.walk_raw(fd, [name]))
    if not found:
        raise OSError(EEXIST, os.strerror(EEXIST))
    control, raw = found[0]
    node = fs.told(request, parent, name, raw, control)
    if not stat.S_ISREG(node.mode):
        raise OSError(EEXIST, os.strerror(EEXIST))
    return fs.view.entry(node, raw) + _open(fs, request, node, fs.fd(request, node.id), flags)


def release(fs: FileSystem, request: Request) -> Reply:
    fh, flags, _, _ = kernel.ReleaseIn.read(request.body)
    with contextlib.suppress(OSError):  # it is over, or was told at the last close
        handle = fs.handle(fh)
        if handle.behind:  # written since, by the kernel: its FD must not be closed before
            _settle(fs, request, handle)
    node = fs.released(fh)
    if node is not None and flags & os.O_ACCMODE:  # it may have been written by the kernel itself
        fs.changes.of(node)
    return b""


def read(fs: FileSystem, request: Request) -> Reply:
    fh, offset, size, *_ = kernel.ReadIn.read(request.body)
    handle = fs.handle(fh)
    if handle.host >= 0:
        into = request.out[:size]
        return [into[: _from_host(request, handle.host, into, offset)]]
    if fs.behind is not None and _MANY <= size <= _READ_ROOM:  # others shall be on their way meanwhile
        body = wire.PReadReq.bytes(offset, handle.fdid, size)
        fs.behind.later(wire.PREAD, body, partial(_came, fs, request.finish, request.unique, fh, offset, size))
        return None
    done = 0
    while done < size:
        part, lender = _lent(fs, handle, min(size - done, _READ_ROOM), offset + done)
        if len(part) == size:  # as a rule: from the channel's memory straight to the kernel's
            request.lent = lender
            return [part]
        request.out[done : done + len(part)] = part
        if lender is not None:
            fs.pool.give_back(lender)
        if not part:
            break
        done += len(part)
    return [request.out[:done]]


def _came(
    fs: FileSystem, finish: Finish, unique: int, fh: int, offset: int, size: int, outcome: memoryview | OSError
) -> None:  # fmt: skip
    """What was asked for `later` goes to the kernel from where it was received, by the thread that received it."""

    def told() -> Reply:
        if isinstance(outcome, OSError):
            raise outcome
        return [outcome[wire.PReadResp.size : wire.PReadResp.size + size]]

    def rest() -> Reply:
        """Whether that was the end of the file only a further read tells, for which others shall not wait."""
        data = begun
        while len(data) < size:
            at, handle = len(data), fs.handle(fh)
            part, lender = _lent(fs, handle, size - at, offset + at)
            data += part
            if lender is not None:
                fs.pool.give_back(lender)
            if not part:
                break
        return [data]

    if isinstance(outcome, OSError) or len(outcome) in (wire.PReadResp.size, wire.PReadResp.size + size):
        finish(unique, told)
        return
    begun = bytes(outcome[wire.PReadResp.size :])
    try:
        _thread.start_new_thread(finish, (unique, rest))
    except RuntimeError:  # no thread
        outcome = OSError(EIO, os.strerror(EIO))
        finish(unique, told)


def _lent(fs: FileSystem, handle: Handle, count: int, offset: int) -> tuple[bytes | memoryview, Any]:
    payload, lender = fs.pool.borrow(wire.PREAD, wire.PReadReq.bytes(offset, handle.fdid, count))
    return payload[wire.PReadResp.size : wire.PReadResp.size + count], lender


def _from_host(request: Request, host: int, into: memoryview, offset: int) -> int:
    """What is in memory is taken at once; for the rest the next request need not wait."""
    done = 0
    if _NOT_YET:
        try:
            done = os.preadv(host, [into], offset, _NOT_YET)
            if done == len(into):
                return done
        except OSError as error:
            if error.errno not in (EAGAIN, EOPNOTSUPP):
                raise
    request.aside()
    while done < len(into):
        more = os.preadv(host, [into[done:]], offset + done)
        if not more:
            break
        done += more
    return done


def write(fs: FileSystem, request: Request) -> Reply:
    """Until all is written, or it fails: of what comes from its cache the kernel does not look how much was."""
    fh, offset, size, flags, *_ = kernel.WriteIn.read(request.body)
    data = request.body[kernel.WriteIn.size : kernel.WriteIn.size + size]
    handle = fs.handle(fh)
    if handle.host < 0 and fs.behind is not None and not handle.flags & os.O_SYNC:
        _write_behind(fs, fs.behind, handle, data, offset)
        return kernel.WriteOut.bytes(size)
    cached, done = flags & kernel.WRITE_CACHE, 0
    while done < size:
        try:
            wrote = _put(fs, handle, data[done:], offset + done)
        except OSError:
            if done and not cached:
                break
            raise
        if not wrote:
            if cached:
                raise OSError(EIO, os.strerror(EIO))
            break
        done += wrote
    return kernel.WriteOut.bytes(done)


def _put(fs: FileSystem, handle: Handle, data: memoryview, offset: int) -> int:
    """Some of it; returns how much."""
    if handle.host >= 0:
        return os.pwrite(handle.host, data, offset)
    part = data[:_READ_ROOM]
    body = b"".join((wire.PWriteReq.bytes(offset, handle.fdid, len(part)), part))
    wrote: int = wire.PWriteResp.unpack(fs.pool.ask(wire.PWRITE, body))[0]
    return min(len(part), wrote)


def _write_behind(fs: FileSystem, stream: Stream, handle: Handle, data: memoryview, offset: int) -> None:
    """Have it written, and do not wait: what goes wrong is told by the next write, fsync or close, as the page cache does."""
    _tell(handle)

    def done(count: int, outcome: bytes | OSError) -> None:
        if isinstance(outcome, OSError):
            handle.trouble = outcome.errno or EIO
        elif wire.PWriteResp.unpack(outcome)[0] != count:
            handle.trouble = EIO

    handle.behind = True
    fs.posting.add(handle)
    if handle.node.use is not None and handle.node.use.made is not None:
        handle.node.use.made.wrote(offset + len(data))
    for at in range(0, len(data), _READ_ROOM):
        part = data[at : at + _READ_ROOM]
        body = wire.PWriteReq.bytes(offset + at, handle.fdid, len(part))
        stream.post(wire.PWRITE, body, partial(done, len(part)), part)


def _tell(handle: Handle) -> None:
    """Raise what a write behind has met, once."""
    trouble, handle.trouble = handle.trouble, 0
    if trouble:
        raise OSError(trouble, os.strerror(trouble))


def flush(fs: FileSystem, request: Request) -> Reply:
    """At each close(2), where writes may be behind."""
    handle = fs.handle(kernel.FlushIn.read(request.body)[0])
    _settle(fs, request, handle)
    _tell(handle)
    return b""


def _settle(fs: FileSystem, request: Request, handle: Handle) -> None:
    """Wait for what is behind."""
    if handle.behind:
        request.aside()
        fs.pool.flush(handle.fdid)
        handle.behind = False
        fs.posting.discard(handle)


def fsync(fs: FileSystem, request: Request) -> Reply:
    fh, flags = kernel.FsyncIn.read(request.body)
    handle = fs.handle(fh)
    request.aside()
    if handle.host < 0:
        fs.pool.fsync(handle.fdid)
        _tell(handle)
    elif flags & kernel.FSYNC_FDATASYNC:
        os.fdatasync(handle.host)
    else:
        os.fsync(handle.host)
    return b""


def fallocate(fs: FileSystem, request: Request) -> Reply:
    fh, offset, length, mode = kernel.FallocateIn.read(request.body)
    handle = fs.handle(fh)
    if handle.node.use is not None:
        handle.node.use.made = None
    if handle.host >= 0:
        sys.fallocate(handle.host, mode, offset, length)
    else:
        fs.pool.fallocate(handle.fdid, mode, offset, length)
    return b""


def lseek(fs: FileSystem, request: Request) -> Reply:
    fh, offset, whence = kernel.LseekIn.read(request.body)
    handle = fs.handle(fh)
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise OSError(EINVAL, os.strerror(EINVAL))
    if handle.host >= 0:
        return kernel.LseekOut.bytes(os.lseek(handle.host, offset, whence))
    size = fs.pool.fstat(handle.fdid).size  # the protocol tells no holes: all is data, and the end is a hole
    if offset >= size:
        raise OSError(ENXIO, os.strerror(ENXIO))
    return kernel.LseekOut.bytes(offset if whence == os.SEEK_DATA else size)


def copy_file_range(fs: FileSystem, request: Request) -> Reply:
    fh_in, off_in, _, fh_out, off_out, length, flags = kernel.CopyFileRangeIn.read(request.body)
    source, target = fs.handle(fh_in), fs.handle(fh_out)
    if source.host < 0 or target.host < 0 or flags:
        raise OSError(EOPNOTSUPP, "the kernel reads and writes, then")
    request.aside()
    return kernel.WriteOut.bytes(
        os.copy_file_range(source.host, target.host, min(length, 1 << 30), off_in, off_out)
    )
