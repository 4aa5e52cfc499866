"""PRead, PWrite, FSync, FAllocate, Flush: the contents of open FDs."""

from __future__ import annotations

from errno import EBADF, EINVAL, EIO, ENOBUFS
from os import fsync as _fsync
from os import preadv
from os import pwrite as _pwrite

from gofer import sys
from gofer.comm import MAX_MESSAGE_SIZE
from gofer.sys import MAX_OFFSET
from gofer.wire import FAllocateReq, FlushReq, PReadReq, PReadResp, PWriteReq, PWriteResp, take_fdids

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.comm import Communicator

_HEAD = PReadResp.size
_MOST = MAX_MESSAGE_SIZE - _HEAD
_BODY = PWriteReq.size


def pread(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """The kernel reads straight into the reply. num_bytes 0: end of file."""
    offset, fdid, count = PReadReq.unpack(req)
    file = comm.opened[fdid]
    if not file.readable:
        raise OSError(EBADF, "not open for reading")
    if count > _MOST:
        raise OSError(ENOBUFS, "the reply would exceed the message size")
    if offset > MAX_OFFSET:
        raise OSError(EINVAL, "offset above 2^63-1")
    done = preadv(file.host, (reply[_HEAD : _HEAD + count],), offset)
    PReadResp.pack(reply, 0, done)
    return _HEAD + done


def pwrite(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """The kernel writes straight from the request; short only where the kernel is."""
    comm.must_write()
    offset, fdid, count = PWriteReq.read(req)
    if count != len(req) - _BODY:
        raise OSError(EIO, "PWrite lies about its length")
    file = comm.opened[fdid]
    if not file.writable:
        raise OSError(EBADF, "not open for writing")
    if offset > MAX_OFFSET:
        raise OSError(EINVAL, "offset above 2^63-1")
    PWriteResp.pack(reply, 0, _pwrite(file.host, req[_BODY:], offset))
    return PWriteResp.size


def fsync(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Sync them all, then raise the first error."""
    first = 0  # not the exception: its traceback holds this frame, and the frame would hold it and the file
    for fdid in take_fdids(req):
        try:
            file = comm.opened[fdid]
            if file.host >= 0:  # a FIFO or device was given away: nothing of it is here to sync
                _fsync(file.host)
        except OSError as e:
            first = first or e.errno or EIO
    if first:
        raise OSError(first, "fsync")
    return 0


def fallocate(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    fdid, mode, offset, length = FAllocateReq.unpack(req)
    file = comm.opened[fdid]
    if not file.writable:
        raise OSError(EBADF, "not open for writing")
    if mode > 0x7FFFFFFF or offset > MAX_OFFSET or length > MAX_OFFSET:
        raise OSError(EINVAL, "out of range")
    sys.fallocate(file.host, mode, offset, length)
    return 0


def flush(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Nothing is buffered here, so nothing is to be done."""
    (fdid,) = FlushReq.unpack(req)
    comm.opened[fdid]
    return 0
