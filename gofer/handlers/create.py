"""OpenCreateAt, MkdirAt, MknodAt, SymlinkAt, LinkAt: make a name, exclusively; on a failure after that, remove it."""

from __future__ import annotations

import os
import stat
from errno import EINVAL, EPERM

from gofer import sys
from gofer.procself import kept_path, proc_path, proc_paths
from gofer.server.attrs import settle
from gofer.server.comm import check_last, check_name, directory, last_name
from gofer.server.fds import MARKS, O_PATH_FLAGS, admit, open_path, opened_fd, reopen
from gofer.sys import AT_FDCWD, AT_SYMLINK_FOLLOW, O_ACCMODE, O_PATH, openat, openat_silent, raise_errno
from gofer.wire import (
    MAKE_DIR_HEAD,
    OPEN_CREATE_HEAD,
    LinkAtReq,
    MknodAtReq,
    OpenCreateAtResp,
    SymlinkAtReq,
    expect_end,
    make_dir,
    open_create,
    take_str,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.server.comm import Communicator
    from gofer.server.fds import ControlFD, OpenFD

_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_AGAIN = O_PATH | os.O_CLOEXEC  # with the magic link of an fd; see fds.reopen
_FLAGS = O_ACCMODE | os.O_TRUNC
_PERMISSIONS = 0o1777  # set-id bits come after the owner: see attrs.settle


def opencreateat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    if comm.read_only:
        comm.must_write()
    raw = req.tobytes()
    dir_fd, uid, gid, mode, flags, size = open_create(raw)
    name = raw[OPEN_CREATE_HEAD:]
    if not name.isalnum() or len(name) != size or size > 255:
        check_last(name, size)
    parent = comm.control.get(dir_fd) or comm.control[dir_fd]
    if parent.kind != stat.S_IFDIR:
        directory(parent)
    file = open_new(comm, parent, name, flags, mode, uid, gid)
    return answer_new(comm, file, comm.next_id(), comm.next_id(), reply)


def open_new(
    comm: Communicator, parent: ControlFD, name: bytes, flags: int, mode: int, uid: int, gid: int
) -> OpenFD:  # fmt: skip
    """Make a regular file and open it; its control FD is `file.node`."""
    flags &= _FLAGS
    if flags & O_ACCMODE == O_ACCMODE:
        raise OSError(EINVAL, "neither reading nor writing")
    made = openat_silent(parent.host, name, flags | _NEW, mode & _PERMISSIONS)
    if made < 0:  # again, for its errno
        made = openat(parent.host, name, flags | _NEW, mode & _PERMISSIONS)
        if made < 0:
            raise_errno()
    file = opened_fd(made, parent, flags)  # its owner from here on; what it is the opened file of comes next
    try:
        again = openat_silent(AT_FDCWD, kept_path(made) or proc_paths[made], _AGAIN)
        if again < 0:
            again = reopen(made, O_PATH)
        file.node = node = comm.adopt(again)
        if made >= MARKS[0]:
            admit(made, comm.table)
        settle(comm, node, mode, uid, gid)
    except BaseException:
        _discard(os.unlink, name, parent)
        raise
    return file


def answer_new(comm: Communicator, file: OpenFD, control_id: int, open_id: int, reply: memoryview) -> int:
    """Number what `open_new` has made, and donate it."""
    if comm.options.donate:
        comm.donated.append(file)
    OpenCreateAtResp.pack(reply, 0, control_id, comm.statx_bytes, open_id)
    comm.control[control_id] = file.node
    comm.opened[open_id] = file
    return OpenCreateAtResp.size


def mkdirat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    if comm.read_only:
        comm.must_write()
    raw = req.tobytes()
    dir_fd, uid, gid, mode, size = make_dir(raw)
    name = raw[MAKE_DIR_HEAD:]
    if not name.isalnum() or len(name) != size or size > 255:
        check_last(name, size)
    parent = comm.control.get(dir_fd) or comm.control[dir_fd]
    if parent.kind != stat.S_IFDIR:
        directory(parent)
    return comm.answer_inode(make_directory(comm, parent, name, mode, uid, gid), reply)


def make_directory(comm: Communicator, parent: ControlFD, name: bytes, mode: int, uid: int, gid: int) -> ControlFD:
    if sys.mkdirat_silent(parent.host, name, mode & 0o7777):
        os.mkdir(name, mode & 0o7777, dir_fd=parent.host)
    return _settled(comm, parent, name, stat.S_IFDIR, mode, uid, gid, os.rmdir)


def mknodat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, uid, gid, mode, minor, major = MknodAtReq.read(req)
    name = last_name(req, MknodAtReq.size)
    parent = directory(comm.control[dir_fd])
    return comm.answer_inode(make_node(comm, parent, name, mode, minor, major, uid, gid), reply)


def make_node(
    comm: Communicator, parent: ControlFD, name: bytes, mode: int, minor: int, major: int, uid: int, gid: int
) -> ControlFD:  # fmt: skip
    """Regular files, and the overlay whiteout (character device 0:0), which needs no privilege."""
    kind = stat.S_IFMT(mode)
    if kind != stat.S_IFREG and (kind, minor, major) != (stat.S_IFCHR, 0, 0):
        raise OSError(EPERM, "only regular files and overlay whiteouts can be made")
    os.mknod(name, kind | mode & _PERMISSIONS, 0, dir_fd=parent.host)
    return _settled(comm, parent, name, kind, mode, uid, gid, os.unlink)


def symlinkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, uid, gid = SymlinkAtReq.read(req)
    name, at = take_str(req, SymlinkAtReq.size)
    target, at = take_str(req, at)
    expect_end(req, at)
    check_name(name)
    parent = directory(comm.control[dir_fd])
    return comm.answer_inode(make_symlink(comm, parent, name, target, uid, gid), reply)


def make_symlink(
    comm: Communicator, parent: ControlFD, name: bytes, target: bytes, uid: int, gid: int
) -> ControlFD:  # fmt: skip
    if 0 in target:
        raise OSError(EINVAL, "NUL in a symlink's target")
    os.symlink(target, name, dir_fd=parent.host)
    return _settled(comm, parent, name, stat.S_IFLNK, 0, uid, gid, os.unlink)


def linkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, target_fd = LinkAtReq.read(req)
    name = last_name(req, LinkAtReq.size)
    parent = directory(comm.control[dir_fd])
    return comm.answer_inode(make_link(comm, parent, target_fd, name), reply)


def make_link(comm: Communicator, parent: ControlFD, target_fd: int, name: bytes) -> ControlFD:
    """By the magic link: AT_EMPTY_PATH asks for a capability in the first user namespace."""
    target = comm.changeable(target_fd)
    if target.kind == stat.S_IFDIR:
        raise OSError(EPERM, "hard link to a directory")
    sys.linkat(AT_FDCWD, proc_path(target.host), parent.host, name, AT_SYMLINK_FOLLOW)
    try:
        return comm.adopt(open_path(parent.host, name))
    except BaseException:
        _discard(os.unlink, name, parent)
        raise


def _settled(
    comm: Communicator, parent: ControlFD, name: bytes, kind: int, mode: int, uid: int, gid: int,
    remove: Callable[..., None],
) -> ControlFD:  # fmt: skip
    """The file just made under name, with the owner and mode that it is to have."""
    try:
        host = openat_silent(parent.host, name, O_PATH_FLAGS)
        node = comm.adopt(host if host >= 0 else open_path(parent.host, name))
        if node.kind != kind:
            raise OSError(EINVAL, "replaced while it was made")
        settle(comm, node, mode, uid, gid)
    except BaseException:
        _discard(remove, name, parent)
        raise
    return node


def _discard(remove: Callable[..., None], name: bytes, parent: ControlFD) -> None:
    try:
        remove(name, dir_fd=parent.host)
    except OSError:  # gone already, or the file system no longer takes changes: the first error is the one to tell
        pass
