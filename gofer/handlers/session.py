"""Error, Mount, Channel, Close: the connection itself."""

from __future__ import annotations

import os
import stat
from errno import EINVAL, EOPNOTSUPP

from gofer import wire
from gofer.server import mounts
from gofer.server.fds import HostFD, MountPoint, reopen
from gofer.sys import O_PATH
from gofer.wire import ONE_FDID, Count, MountResp, one_fdid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator


def error(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """Error is a reply only."""
    raise OSError(EINVAL, "Error is not a request")


def unknown(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """What is between the protocol's messages and our own."""
    raise OSError(EOPNOTSUPP, "no such message")


def mount(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """The root's Inode, and what this server can do. What is served was fixed at start: a client cannot name a path."""
    wire.expect_end(req, 0)
    served, since = comm.export.root.host, mounts.changes()
    node = comm.adopt(mounts.top(served), within=0)
    root, node.host = MountPoint(node.host, node.kind, served), -1
    if not comm.options.donate_root:  # else the client has its own fd on it, and the two are to be one directory
        mounts.goes_with_the_host(root, since)
    fdid = comm.next_id()
    # Flush is answered, but not offered: it does nothing here, and a client that knows of it sends one with every close.
    # Nor are messages of our own.
    mids = [mid for mid in wire.NAMES if mid not in (wire.ERROR, wire.FLUSH)]
    MountResp.pack(reply, 0, fdid, comm.statx_bytes, wire.MAX_MESSAGE_SIZE)
    Count.pack(reply, MountResp.size, len(mids))
    at = MountResp.size + Count.size
    for mid in mids:
        Count.pack(reply, at, mid)
        at += Count.size
    if comm.options.donate_root and comm.may_donate(root.host):
        comm.donated.append(_donation(comm, root))
    comm.control[fdid] = root
    return at


def _donation(comm: Communicator, root: MountPoint) -> HostFD:
    """What a directfs client works with in place of the root's control FD; it refuses a Mount without one.

    Open for reading, as fchmod(2) and fgetxattr(2) take no O_PATH fd: a FIFO where FIFOs are opened at all, as its reader
    is a peer of those who write to it. Never a device, which may do things when it is opened, nor what the kernel makes
    up for whoever opens it, which would be us.
    """
    readable = root.kind in (stat.S_IFDIR, stat.S_IFREG) or root.kind == stat.S_IFIFO and comm.options.host_fifo == "open"
    if readable:
        try:
            return HostFD(reopen(root.host, os.O_RDONLY | os.O_NONBLOCK))
        except OSError:  # not readable to us, or leased: the client can do without
            pass
    return HostFD(reopen(root.host, O_PATH))


def channel(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """One more shared-memory channel; donates the memfd and the client's end of the fd socket."""
    wire.expect_end(req, 0)
    offset, length, memfd, fd_socket = comm.make_channel()
    comm.donated += (memfd, fd_socket)
    wire.ChannelResp.pack(reply, 0, offset, length)
    return wire.ChannelResp.size


def close(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """An unknown id is ignored."""
    control, opened = comm.control.pop, comm.opened.pop
    if len(req) == ONE_FDID:
        count, fdid = one_fdid(req)
        if count == 1:
            if control(fdid, None) is None and opened(fdid, None) is None:
                comm.bound.pop(fdid, None)
            return 0
    for fdid in wire.take_fdids(req):
        if control(fdid, None) is None and opened(fdid, None) is None:
            comm.bound.pop(fdid, None)
    return 0
