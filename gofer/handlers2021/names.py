"""What looks names up, makes, moves or removes them: all that places (places.py) are kept for."""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY
from stat import S_IFDIR

from gofer import sys
from gofer.handlers import create
from gofer.handlers import walk as todays_walk
from gofer.handlers.names import remove
from gofer.server.comm import check_name, directory
from gofer.server.fds import HostFD
from gofer.server.kernelfs import KIND
from gofer.server.places import identity
from gofer.wire import STATX_SIZE, expect_end
from gofer.wire2021 import (
    Count,
    Inode,
    LinkAtReq,
    MkdirAtReq,
    MknodAtReq,
    OpenCreateAtReq,
    RenameAtReq,
    SymlinkAtReq,
    UnlinkAtReq,
    WalkReq,
    WalkResp,
    take_last,
    take_str,
    take_strs,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator
    from gofer.server.fds import ControlFD


def walk(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    (dir_fd,) = WalkReq.read(req)
    names, places = take_strs(req, WalkReq.size), comm.table.places
    found: dict[int, ControlFD] = {}
    with places.lock:
        node = comm.control[dir_fd]
        size = todays_walk.along(comm, node, names, reply, WalkResp, found)
        where = places[dir_fd].file
        for name, (fdid, child) in zip(names, found.items()):
            comm.stat(child.host)  # from the reply it cannot be read back: the client may write there
            file = identity(comm.statx_bytes)
            places.add(fdid, node, where, name, file)
            node, where = child, file
        comm.control.update(found)
    return size


def walkstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    (dir_fd,) = WalkReq.read(req)
    names = take_strs(req, WalkReq.size)
    count = todays_walk.stat_along(comm, comm.control[dir_fd], names, reply, Count.size)
    Count.pack(reply, 0, count)
    return Count.size + count * STATX_SIZE


# Making. FDIDs are drawn first: where they have run out, nothing is made.


def opencreateat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, mode, uid, gid, flags = OpenCreateAtReq.read(req)
    name = _last_name(req, OpenCreateAtReq.size)
    control_id, open_id = comm.next_id(), comm.next_id()
    with comm.table.places.lock:
        parent = directory(comm.control[dir_fd])
        file = create.open_new(comm, parent, name, flags, mode, uid, gid)
        _place(comm, control_id, dir_fd, parent, name)
        return create.answer_new(comm, file, control_id, open_id, reply)


def mkdirat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, mode, uid, gid = MkdirAtReq.read(req)
    name = _last_name(req, MkdirAtReq.size)
    fdid = comm.next_id()
    with comm.table.places.lock:
        parent = directory(comm.control[dir_fd])
        node = create.make_directory(comm, parent, name, mode, uid, gid)
        return _answer(comm, reply, fdid, node, dir_fd, parent, name)


def mknodat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, mode, uid, gid, minor, major = MknodAtReq.read(req)
    name = _last_name(req, MknodAtReq.size)
    fdid = comm.next_id()
    with comm.table.places.lock:
        parent = directory(comm.control[dir_fd])
        node = create.make_node(comm, parent, name, mode, minor, major, uid, gid)
        return _answer(comm, reply, fdid, node, dir_fd, parent, name)


def symlinkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, uid, gid = SymlinkAtReq.read(req)
    name, at = take_str(req, SymlinkAtReq.size)
    target, at = take_str(req, at)
    expect_end(req, at)
    check_name(name)
    fdid = comm.next_id()
    with comm.table.places.lock:
        parent = directory(comm.control[dir_fd])
        node = create.make_symlink(comm, parent, name, target, uid, gid)
        return _answer(comm, reply, fdid, node, dir_fd, parent, name)


def linkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, target_fd = LinkAtReq.read(req)
    name = _last_name(req, LinkAtReq.size)
    fdid = comm.next_id()
    with comm.table.places.lock:
        parent = directory(comm.control[dir_fd])
        node = create.make_link(comm, parent, target_fd, name)
        return _answer(comm, reply, fdid, node, dir_fd, parent, name)


def _answer(
    comm: Communicator, reply: memoryview, fdid: int, node: ControlFD, dir_fd: int, parent: ControlFD, name: bytes
) -> int:  # fmt: skip
    """As `comm.answer_inode`, with a place."""
    _place(comm, fdid, dir_fd, parent, name)
    Inode.pack(reply, 0, fdid, comm.statx_bytes)
    comm.control[fdid] = node
    return Inode.size


def _place(comm: Communicator, fdid: int, dir_fd: int, parent: ControlFD, name: bytes) -> None:
    """Where the file of the last `stat` has just been made."""
    places = comm.table.places
    places.add(fdid, parent, places[dir_fd].file, name, identity(comm.statx_bytes))


# Removing and moving


def unlinkat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    comm.must_write()
    dir_fd, flags = UnlinkAtReq.read(req)
    name = _last_name(req, UnlinkAtReq.size)
    return remove(directory(comm.control[dir_fd]), name, flags)


def renameat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """ENOENT where the FD's place holds another file, or none, by now: what moves is the FD's own file, or nothing."""
    comm.must_write()
    fdid, new_dir = RenameAtReq.read(req)
    new_name, places = _last_name(req, RenameAtReq.size), comm.table.places
    with places.lock:
        node, target = comm.control[fdid], comm.control[new_dir]
        place, where = places[fdid], places[new_dir].file
        if place.directory is None:
            raise OSError(EBUSY, "the root of a mount")
        new = directory(target)
        old = directory(place.directory)
        if not _holds(comm, old, place.name, node):
            raise OSError(ENOENT, "no longer where it was found")
        if _holds(comm, new, new_name, node):  # there already, or another link to it: rename(2) leaves both
            return 0
        _check_target(comm, old, node, new, new_name)
        _move(comm, old, place.name, new, new_name, node)
        places.move(place, new, where, new_name)
    return 0


def _holds(comm: Communicator, parent: ControlFD, name: bytes, node: ControlFD) -> bool:
    """Whether that name is node's file. Asked anew each time: on an overlay, numbers change when a file is first written to."""
    if comm.stat_child(parent.host, name) < 0:
        return False
    found = identity(comm.statx_bytes)
    comm.stat(node.host)
    return found == identity(comm.statx_bytes)


def _check_target(comm: Communicator, old: ControlFD, node: ControlFD, new: ControlFD, new_name: bytes) -> None:
    """What rename(2) would refuse to replace: told before anything has moved, as that would show in the times of directories;
    and the directory that node is in would be found empty, with node on its way.
    """
    there = comm.stat_child(new.host, new_name)
    if there < 0:
        return
    target = identity(comm.statx_bytes)
    moves_directory = node.kind & KIND == S_IFDIR
    if there != S_IFDIR:
        refusal: tuple[int, str] | None = (ENOTDIR, "a directory in place of a file") if moves_directory else None
    elif not moves_directory:
        refusal = (EISDIR, "a file in place of a directory")
    else:
        refusal = (ENOTEMPTY, "in place of a directory with entries") if _has_entries(new, new_name) else None
    if refusal:
        comm.stat(node.host)  # the kernel looks first at what is above what
        if _leads_up_to(comm, new, identity(comm.statx_bytes)):
            raise OSError(EINVAL, "a directory below itself")
        if _leads_up_to(comm, old, target):
            raise OSError(ENOTEMPTY, "in place of a directory that it is in")
        raise OSError(*refusal)


def _leads_up_to(comm: Communicator, directory: ControlFD, above: bytes) -> bool:
    """Whether that is the directory or above it. The server's own way up, for an errno; nothing is opened or kept."""
    way, last = b".", b""
    while comm.stat_child(directory.host, way) >= 0:
        found = identity(comm.statx_bytes)
        if found in (above, last):  # the root is above itself
            return found == above
        way, last = way + b"/..", found
    return False


def _has_entries(parent: ControlFD, name: bytes) -> bool:
    host = HostFD(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.host))
    with os.scandir(host.host) as entries:
        return any(True for _ in entries)


def _move(comm: Communicator, old: ControlFD, name: bytes, new: ControlFD, new_name: bytes, node: ControlFD) -> None:
    """Rename by way of a name that nobody else knows, where it is looked at what has been moved: the kernel renames whatever
    has the name at that moment, and puts it in the place of another. Goes back where it is not node's file, or cannot go on.
    """
    between = b".gofer-" + os.urandom(8).hex().encode()
    _rename_to_new(old, name, new, between)
    try:
        if not _holds(comm, new, between, node):
            raise OSError(ENOENT, "replaced while it was renamed")
        os.rename(between, new_name, src_dir_fd=new.host, dst_dir_fd=new.host)
    except OSError:
        try:
            _rename_to_new(new, between, old, name)
        except OSError:  # its name was given to another meanwhile; nothing is to be lost
            comm.warn("a file that was replaced while it was renamed is now called .gofer-*, in the directory it was to go to")
        raise


def _rename_to_new(old: ControlFD, name: bytes, new: ControlFD, new_name: bytes) -> None:
    """EEXIST where that name is taken, as far as the file system can tell."""
    try:
        sys.renameat2(old.host, name, new.host, new_name, sys.RENAME_NOREPLACE)
    except OSError as e:
        if e.errno != EINVAL:  # NFS and others know no flags
            raise
        os.rename(name, new_name, src_dir_fd=old.host, dst_dir_fd=new.host)


def _last_name(req: memoryview, at: int) -> bytes:
    name = take_last(req, at)
    check_name(name)
    return name
