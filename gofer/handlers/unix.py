"""Connect, ConnectWithCreds, BindAt, Listen, Accept: Unix sockets of the host, only where the export allows it.

The core `_socket` of the `socket` module is enough here, and half of that module's import time is its enums.
connect(2) and bind(2) take a path of at most 107 bytes. Ours begins with the magic link of the O_PATH fd, so the
length of the host's path does not matter.
"""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_SEQPACKET, SOCK_STREAM, socket
from errno import EADDRINUSE, EEXIST, EINVAL, ENOTSOCK, ENXIO, EPERM

from gofer import sys
from gofer.procself import proc_path
from gofer.server import attrs
from gofer.server.attrs import settle
from gofer.server.comm import directory, last_name
from gofer.server.fds import BoundSocketFD, HostFD, admit, open_path
from gofer.wire import (
    AcceptReq,
    BindAtReq,
    BindAtResp,
    ConnectReq,
    ConnectWithCredsReq,
    ListenReq,
    pack_str,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator
    from gofer.server.fds import ControlFD
    from gofer.wire import Record

_TYPES = frozenset((SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET))
_PATH_MOST = 107  # sun_path less its NUL


def connect(
    comm: Communicator, req: memoryview, reply: memoryview, request: Record = ConnectReq, refusal: int = EPERM
) -> int:  # fmt: skip
    """refusal: the errno where no host socket may be connected to."""
    fdid, sock_type = request.unpack(req)
    node = _connectable(comm, fdid, sock_type, refusal)
    comm.donated.append(_connected(node, sock_type))
    return 0


def connectwithcreds(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """As Connect, but the peer sees uid and gid, and no supplementary groups (unix(7), SO_PEERCRED)."""
    fdid, sock_type, uid, gid = ConnectWithCredsReq.unpack(req)
    node = _connectable(comm, fdid, sock_type, EPERM)
    if 0xFFFFFFFF in (uid, gid):
        raise OSError(EINVAL, "-1 is not an id")
    back = _become(uid, gid)
    try:
        sock = _connected(node, sock_type)
    finally:
        _restore(back)
    comm.donated.append(sock)
    return 0


def _connectable(comm: Communicator, fdid: int, sock_type: int, refusal: int) -> ControlFD:
    node = comm.control[fdid]
    if node.kind != stat.S_IFSOCK:
        raise OSError(ENOTSOCK, "not a socket")
    if not comm.options.uds_open:
        comm.warn("refused to connect to a Unix socket of the host: --host-uds=open would allow it")
        raise OSError(refusal, "needs --host-uds=open")
    _check_type(sock_type)
    return node


def _check_type(sock_type: int) -> None:
    if sock_type not in _TYPES:
        raise OSError(ENXIO, "socket type")


def _connected(node: ControlFD, sock_type: int) -> HostFD:
    """Non-blocking: a full backlog is EAGAIN, and holds up nobody."""
    sock = socket(AF_UNIX, sock_type | SOCK_NONBLOCK)
    sock.connect(proc_path(node.host))
    return HostFD(sock.detach())


def _become(uid: int, gid: int) -> tuple[int, int, tuple[int, ...]]:
    """Give the calling thread these ids, groups first as each step takes away the right to the one before.

    Returns what `_restore` needs. Raises OSError, with everything restored, where one id cannot be taken.
    """
    back = os.geteuid(), os.getegid(), tuple(os.getgroups())
    try:
        if set(back[2]) - {gid}:
            sys.thread_setgroups(())
        if gid != back[1]:
            sys.thread_setresgid(-1, gid, -1)
        if uid != back[0]:
            sys.thread_setresuid(-1, uid, -1)
    except OSError as e:
        _restore(back)
        raise OSError(EPERM, "cannot take on these ids") from e
    return back


def _restore(back: tuple[int, int, tuple[int, ...]]) -> None:
    """Undo `_become`. A thread that stays somebody else would serve everything after as somebody else: give up then."""
    uid, gid, groups = back
    try:
        if os.geteuid() != uid:
            sys.thread_setresuid(-1, uid, -1)
        if os.getegid() != gid:
            sys.thread_setresgid(-1, gid, -1)
        if tuple(os.getgroups()) != groups:
            sys.thread_setgroups(groups)
    except OSError:
        os.abort()
    attrs.drop_fsetid()  # becoming root again raised every permitted capability


def bindat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """The socket's own mode, set before bind(2), is the mode its name is made with."""
    comm.must_write()
    dir_fd, uid, gid, mode, sock_type = BindAtReq.read(req)
    name = last_name(req, BindAtReq.size)
    parent = directory(comm.control[dir_fd])
    if not comm.options.uds_create:
        comm.warn("refused to make a Unix socket on the host: --host-uds=create would allow it")
        raise OSError(EPERM, "needs --host-uds=create")
    _check_type(sock_type)
    bound = BoundSocketFD(socket(AF_UNIX, sock_type | SOCK_NONBLOCK))
    admit(bound.host, comm.table)
    os.fchmod(bound.host, mode & 0o7777)
    _bind(bound.socket, parent.host, name)
    try:
        node = comm.adopt(open_path(parent.host, name))
        if node.kind != stat.S_IFSOCK:
            raise OSError(EINVAL, "replaced while it was made")
        settle(comm, node, mode, uid, gid)
    except BaseException:
        os.unlink(name, dir_fd=parent.host)
        raise
    control_id, bound_id = comm.next_id(), comm.next_id()
    BindAtResp.pack(reply, 0, control_id, comm.statx_bytes, bound_id)
    comm.control[control_id], comm.bound[bound_id] = node, bound
    comm.donated.append(bound)
    return BindAtResp.size


def _bind(sock: socket, parent: int, name: bytes) -> None:
    path = proc_path(parent) + b"/" + name
    if len(path) <= _PATH_MOST:
        sock.bind(path)
        return
    short = b".gofer-" + os.urandom(8).hex().encode()
    sock.bind(proc_path(parent) + b"/" + short)
    try:
        sys.renameat2(parent, short, parent, name, sys.RENAME_NOREPLACE)
    except OSError as e:
        os.unlink(short, dir_fd=parent)
        if e.errno == EEXIST:  # as bind(2) says it
            raise OSError(EADDRINUSE, "the name exists") from None
        raise


def listen(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    bound_id, backlog = ListenReq.unpack(req)
    bound = comm.bound[bound_id]  # held: its end closes the socket
    # The kernel takes a negative backlog for the longest, the socket module for none.
    bound.socket.listen(backlog if backlog >= 0 else 0x7FFFFFFF)
    return 0


def accept(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """EAGAIN where nobody waits. The peer's address stays empty: it would tell a path of the host.

    The client has the very socket, too, and may have made it wait: then it waits, on a thread that is its own, until it hangs up
    and the thread gets a signal (EINTR).
    """
    (bound_id,) = AcceptReq.unpack(req)
    bound = comm.bound[bound_id]  # held: its end closes the socket
    host = sys.accept4(bound.host, None, None, SOCK_CLOEXEC | SOCK_NONBLOCK)
    if host < 0:
        sys.raise_errno()
    comm.donated.append(HostFD(host))
    return pack_str(reply, 0, b"")
