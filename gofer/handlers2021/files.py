"""What is asked about one FD: attributes, contents, links, sockets, extended attributes."""

from __future__ import annotations

import struct
from errno import ECONNREFUSED

from gofer.handlers import attributes, data, directory, names, open, unix, xattr
from gofer.wire import expect_end
from gofer.wire2021 import (
    ConnectReq,
    Count,
    Dirent,
    FAllocateReq,
    FGetXattrReq,
    FListXattrReq,
    FlushReq,
    FRemoveXattrReq,
    FSetXattrReq,
    FStatFSReq,
    FStatReq,
    Getdents64Req,
    OpenAtReq,
    OpenAtResp,
    PReadReq,
    PReadResp,
    PWriteReq,
    ReadLinkAtReq,
    Statx,
    pack_str,
    take_fdids,
    take_last,
    take_str,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator

_codes = directory.Codes(Dirent)
_read_setstat = struct.Struct("<I4xIIIIQ32s").unpack  # as attributes.py has it


def fstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    (fdid,) = FStatReq.unpack(req)
    comm.stat((comm.control.get(fdid) or comm.opened[fdid].node).host)
    Statx.pack(reply, 0, comm.statx_bytes)
    return Statx.size


def setstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return attributes.setstat(comm, req, reply, _read_setstat)


def fstatfs(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return attributes.fstatfs(comm, req, reply, FStatFSReq)


def openat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return open.openat(comm, req, reply, OpenAtReq, OpenAtResp)


def pread(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return data.pread(comm, req, reply, PReadReq, PReadResp)


def pwrite(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return data.pwrite(comm, req, reply, PWriteReq)


def fsync(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return data.sync(comm, take_fdids(req))


def fallocate(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return data.fallocate(comm, req, reply, FAllocateReq)


def flush(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return data.flush(comm, req, reply, FlushReq)


def readlinkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    (fdid,) = ReadLinkAtReq.unpack(req)
    return pack_str(reply, 0, names.target_of(comm.control[fdid]))


def connect(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return unix.connect(comm, req, reply, ConnectReq, ECONNREFUSED)


def getdents64(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    return directory.getdents64(comm, req, reply, Getdents64Req, Count, _codes)


def fgetxattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    fdid, size = FGetXattrReq.read(req)
    return pack_str(reply, 0, xattr.value_of(comm, fdid, take_last(req, FGetXattrReq.size), size))


def fsetxattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    fdid, flags = FSetXattrReq.read(req)
    name, at = take_str(req, FSetXattrReq.size)
    value, at = take_str(req, at)
    expect_end(req, at)
    return xattr.set_value(comm, fdid, name, value, flags)


def flistxattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    fdid, size = FListXattrReq.unpack(req)
    found = xattr.names_of(comm, fdid, size)
    Count.pack(reply, 0, len(found))
    at = Count.size
    for name in found:
        at = pack_str(reply, at, name)
    return at


def fremovexattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    (fdid,) = FRemoveXattrReq.read(req)
    return xattr.remove(comm, fdid, take_last(req, FRemoveXattrReq.size))
