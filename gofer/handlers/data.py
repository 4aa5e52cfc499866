"""PRead, PWrite, FSync, FAllocate, Flush: the contents of open FDs."""

from __future__ import annotations

from errno import EBADF, EINTR, EINVAL, EIO, ENOBUFS
from os import fsync as _fsync
from os import preadv
from os import pwrite as _pwrite

from gofer import sys
from gofer.server.comm import MAX_MESSAGE_SIZE
from gofer.sys import MAX_OFFSET
from gofer.wire import FAllocateReq, FlushReq, PReadReq, PReadResp, PWriteReq, PWriteResp, take_fdids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from gofer.server.comm import Communicator
    from gofer.wire import Record

_C_INT = 1 << 31  # what is below goes through ctypes as it is


def pread(
    comm: Communicator, req: memoryview, reply: memoryview, request: Record = PReadReq, answer: Record = PReadResp
) -> int:  # fmt: skip
    """The kernel reads straight into the reply. num_bytes 0: end of file."""
    offset, fdid, count = request.unpack(req)
    file = comm.opened.get(fdid) or comm.opened[fdid]
    if not file.readable:
        raise OSError(EBADF, "not open for reading")
    head = answer.size
    if count > MAX_MESSAGE_SIZE - head:
        raise OSError(ENOBUFS, "the reply would exceed the message size")
    if offset > MAX_OFFSET:
        raise OSError(EINVAL, "offset above 2^63-1")
    done = -1
    if reply is comm.window and offset < _C_INT and answer is PReadResp:
        done = sys.pread(file.host, comm.read_to, count, offset)
        if done < 0 and sys.get_errno() != EINTR:
            sys.raise_errno()
    if done < 0:  # it was interrupted, or is not for ctypes
        done = preadv(file.host, (reply[head : head + count],), offset)
    answer.pack(reply, 0, done)
    return head + done


def pwrite(comm: Communicator, req: memoryview, reply: memoryview, request: Record = PWriteReq) -> int:
    """The kernel writes straight from the request; short only where the kernel is."""
    if comm.read_only:
        comm.must_write()
    offset, fdid, count = request.read(req)
    body = request.size
    if count != len(req) - body:
        raise OSError(EIO, "PWrite lies about its length")
    file = comm.opened.get(fdid) or comm.opened[fdid]
    if not file.writable:
        raise OSError(EBADF, "not open for writing")
    if offset > MAX_OFFSET:
        raise OSError(EINVAL, "offset above 2^63-1")
    PWriteResp.pack(reply, 0, _pwrite(file.host, req[body:], offset))
    return PWriteResp.size


def fsync(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return sync(comm, take_fdids(req))


def sync(comm: Communicator, fdids: Iterable[int]) -> int:
    """Sync them all, then raise the first error."""
    first = 0  # not the exception: its traceback holds this frame, and the frame would hold it and the file
    for fdid in fdids:
        try:
            file = comm.opened[fdid]
            if file.host >= 0:  # a FIFO or device was given away: nothing of it is here to sync
                _fsync(file.host)
        except OSError as e:
            first = first or e.errno or EIO
    if first:
        raise OSError(first, "fsync")
    return 0


def fallocate(comm: Communicator, req: memoryview, reply: memoryview, request: Record = FAllocateReq) -> int:
    comm.must_write()
    fdid, mode, offset, length = request.unpack(req)
    file = comm.opened[fdid]
    if not file.writable:
        raise OSError(EBADF, "not open for writing")
    if mode > 0x7FFFFFFF or offset > MAX_OFFSET or length > MAX_OFFSET:
        raise OSError(EINVAL, "out of range")
    sys.fallocate(file.host, mode, offset, length)
    return 0


def flush(comm: Communicator, req: memoryview, reply: memoryview, request: Record = FlushReq) -> int:
    """Nothing is buffered here, so nothing is to be done."""
    (fdid,) = request.unpack(req)
    comm.opened[fdid]
    return 0
