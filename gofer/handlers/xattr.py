"""FGetXattr, FSetXattr, FListXattr, FRemoveXattr, by the magic link: so they work for sockets and symlinks too."""

from __future__ import annotations

from errno import E2BIG, EINVAL, EOPNOTSUPP, ERANGE

from gofer import sys
from gofer.procself import proc_path
from gofer.server.attrs import shows_xattr
from gofer.server.comm import SCRATCH_SIZE
from gofer.wire import (
    Count,
    FGetXattrReq,
    FListXattrReq,
    FRemoveXattrReq,
    FSetXattrReq,
    expect_end,
    pack_str,
    take_last,
    take_str,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator

_MOST = 65535  # what the u16 before a value or list can say


def fgetxattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    fdid, size = FGetXattrReq.read(req)
    return pack_str(reply, 0, value_of(comm, fdid, take_last(req, FGetXattrReq.size), size))


def value_of(comm: Communicator, fdid: int, name: bytes, size: int) -> memoryview:
    """size 0: the whole value. ERANGE where it is longer than size, E2BIG above 65535 bytes."""
    _check_name(comm, name)
    node = comm.control[fdid]
    buffer, found = comm.scratch()
    length = sys.getxattr(proc_path(node.host), name, buffer, min(size, SCRATCH_SIZE) or SCRATCH_SIZE)
    if length < 0:
        sys.raise_errno()
    if length > _MOST:
        raise OSError(E2BIG, "xattr above 65535 bytes")
    return found[:length]


def fsetxattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    fdid, flags = FSetXattrReq.read(req)
    name, at = take_str(req, FSetXattrReq.size)
    value, at = take_str(req, at)
    expect_end(req, at)
    return set_value(comm, fdid, name, value, flags)


def set_value(comm: Communicator, fdid: int, name: bytes, value: bytes, flags: int) -> int:
    _check_name(comm, name)
    node = comm.changeable(fdid)
    if flags > 3:
        raise OSError(EINVAL, "FSetXattr flags")
    sys.setxattr(proc_path(node.host), name, value, flags)
    return 0


def flistxattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    fdid, size = FListXattrReq.unpack(req)
    names = names_of(comm, fdid, size)
    Count.pack(reply, 0, len(names))
    at = Count.size
    for name in names:
        at = pack_str(reply, at, name)
    return at


def names_of(comm: Communicator, fdid: int, size: int) -> list[bytes]:
    """size, in bytes with a NUL after each name; 0: all of them. ERANGE where the list is longer."""
    node = comm.control[fdid]
    buffer, found = comm.scratch()
    length = sys.listxattr(proc_path(node.host), buffer, SCRATCH_SIZE)
    names = [name for name in bytes(found[:length]).split(b"\0")[:-1] if shows_xattr(comm.options, name)]
    total = sum(len(name) + 1 for name in names)
    if total > _MOST:
        raise OSError(E2BIG, "list of xattrs above 65535 bytes")
    if size and total > size:
        raise OSError(ERANGE, "list of xattrs above the size asked for")
    return names


def fremovexattr(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    (fdid,) = FRemoveXattrReq.read(req)
    return remove(comm, fdid, take_last(req, FRemoveXattrReq.size))


def remove(comm: Communicator, fdid: int, name: bytes) -> int:
    _check_name(comm, name)
    node = comm.changeable(fdid)
    sys.removexattr(proc_path(node.host), name)
    return 0


def _check_name(comm: Communicator, name: bytes) -> None:
    """Whether the name may pass: ERANGE as xattr(7) for a length, EINVAL for a NUL, EOPNOTSUPP for what is switched off."""
    if not 0 < len(name) <= 255:
        raise OSError(ERANGE, "length of an xattr's name")
    if 0 in name:
        raise OSError(EINVAL, "NUL in an xattr's name")
    if not shows_xattr(comm.options, name):
        raise OSError(EOPNOTSUPP, "xattr not served: see --xattrs")
