"""OpenAt: the only message that opens an existing file; what is not a regular file or directory needs an option."""

from __future__ import annotations

import os
import struct
from errno import EAGAIN, EINVAL, EISDIR, ENXIO, EPERM, EROFS
from stat import S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, S_IFSOCK

from gofer.procself import kept_path, proc_paths
from gofer.server.fds import MARKS, ControlFD, HostFD, MountPoint, admit, opened_fd
from gofer.server.kernelfs import KIND, READABLE
from gofer.sys import AT_FDCWD, O_ACCMODE, Statx, get_errno, openat_silent, raise_errno
from gofer.sys import openat as open_at
from gofer.wire import OpenAtReq, OpenAtResp

_FLAGS = O_ACCMODE | os.O_TRUNC
_REOPEN = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY  # with the magic link of an fd; see fds.reopen
_DEVICE = slice(Statx.stx_rdev_major.offset, Statx.stx_rdev_minor.offset + 4)
_CONTROLLING_TERMINAL = struct.pack("=II", 5, 0)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator
    from gofer.wire import Record


def openat(
    comm: Communicator, req: memoryview, reply: memoryview, request: Record = OpenAtReq, answer: Record = OpenAtResp
) -> int:  # fmt: skip
    fdid, flags = request.unpack(req)
    flags &= _FLAGS
    if comm.read_only and flags:
        raise OSError(EROFS, "served read-only")
    if flags & O_ACCMODE == O_ACCMODE:
        raise OSError(EINVAL, "neither reading nor writing")
    node = comm.control.get(fdid)
    if node is None:
        node = comm.control[fdid]  # raises what is to be said; asked so each time, it costs a call more
    kind = node.kind
    if kind == S_IFREG:
        pass
    elif kind != S_IFDIR:
        _permit(comm, node, flags)
    elif flags:
        raise OSError(EISDIR, "a directory opens for reading only")
    # `_open`, without a call. What it opened is closed by its owner from the next line on.
    host = openat_silent(AT_FDCWD, kept_path(node.host) or proc_paths[node.host], flags | _REOPEN)
    file = opened_fd(host if host >= 0 else _open(comm, node, flags), node, flags)
    if file.host >= MARKS[0]:
        admit(file.host, comm.table)
    if kind == S_IFREG:
        if comm.options.donate and (not comm.read_only or comm.may_donate(file.host)):
            comm.donated.append(file)
    elif kind & KIND == S_IFDIR:
        if comm.options.donate_root and type(node) is MountPoint:  # a directfs client opens all others itself
            # Opened once more: the client's seeks must not move the offset that Getdents64 reads at.
            comm.donated.append(HostFD(_open(comm, node, flags)))
    elif kind <= KIND:
        # The client reads and writes these itself: a call of ours could block, and an fd kept here would hold
        # the far end of a FIFO open. The FD itself counts as if it had one, or there would be no end of them.
        admit(comm.table.held(), comm.table)
        comm.donated.append(HostFD(file.host))
        file.host = -1
        file.readable = file.writable = False
    fdid = comm.next_id()
    answer.pack(reply, 0, fdid)
    comm.opened[fdid] = file
    return answer.size


def _permit(comm: Communicator, node: ControlFD, flags: int) -> None:
    """EINVAL for a symlink, EPERM and a warning that names the option for what the export does not open."""
    kind, options = node.kind, comm.options
    if kind & KIND == S_IFLNK:
        raise OSError(EINVAL, "a symlink cannot be opened")
    if kind > KIND:
        if not kind & READABLE:
            comm.refuse_kernel_file()
        if flags:
            raise OSError(EPERM, "what the kernel makes up is read, if at all")
        return
    if kind == S_IFIFO:
        allowed, option = options.host_fifo == "open", "--host-fifo=open"
    elif kind == S_IFSOCK:
        allowed, option = options.uds_open, "--host-uds=open"
    else:
        allowed, option = options.char_devices == "open", "--char-devices=open"
    if not (allowed and options.donate):
        option = option if not allowed else "--donate=yes"  # these are of use only to who holds the host's fd
        comm.warn(f"refused to open a FIFO, socket or device of the host: {option} would allow it")
        raise OSError(EPERM, f"needs {option}")
    if not comm.may_donate(node.host):
        comm.warn("refused to open a FIFO, socket or device of the host: with --read-only its mount must be read-only")
        raise OSError(EPERM, "needs a read-only mount")
    if kind == S_IFCHR and comm.stat(node.host) and comm.statx_bytes[_DEVICE] == _CONTROLLING_TERMINAL:
        raise OSError(ENXIO, "/dev/tty is whatever terminal the server was started on")


def _open(comm: Communicator, node: ControlFD, flags: int) -> int:
    """Non-blocking: a FIFO must not wait for its peer."""
    host = open_at(AT_FDCWD, proc_paths[node.host], flags | _REOPEN)
    return host if host >= 0 else _open_leased(comm, node, flags)


def _open_leased(comm: Communicator, node: ControlFD, flags: int) -> int:
    """Where that has failed."""
    if get_errno() != EAGAIN or node.kind != S_IFREG:
        raise_errno()
    return comm.open_leased(node.host, flags | os.O_NONBLOCK)
