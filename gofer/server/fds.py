"""Host fds and who owns them: control FDs, open FDs, bound-socket FDs and the tables that number them.

Theory of operation
-------------------
Every host fd lives in exactly one object that closes it when the object's last reference goes. A running call
holds such a reference in a local variable, so a `Close` of the same FD on another channel only takes the table's
reference away: the fd number cannot be closed, and so not be reused, under the call. CPython's count is the
reference model; there is no lock here, and otherwise a `Close` frees the host fd at once (NFS and FUSE need that).
(A free-threaded CPython counts so for the thread that made the object alone: where another closes, the fd stays open until
the first runs again. So a connection's end closes by name, and the README does not promise such builds more.)

A control FD is an O_PATH fd: it pins an inode, grants nothing, and opens no device. Whatever needs more goes through
the fd's magic link in /proc/self/fd (procself.py): the kernel jumps to the pinned inode, no path is resolved a second time.

The fd limit is the process's, the clients share it. The kernel hands out the lowest free number, so the number
itself tells how full the table is, and `admit` needs no counter. From the bottom up: at first nobody counts; then a
connection may hold at most `_GREED` times as many as are still free, so that one client that opens all it can leaves
something of the rest to the next; then comes a quarter of the range where only who holds less than his share is given
one, so that each connection can have that, whatever the others do; then the numbers for connections; and the last few
for what an answer needs for a moment, and for turning clients away. Where there can be one client only, as in the stand-in
for `runsc gofer`, all of it is its, over however many connections.
"""

from __future__ import annotations

import os
import resource
import stat
from _functools import partial
from errno import EBADF, EINVAL, EMFILE

from gofer.procself import proc_paths, set_limit
from gofer.sys import AT_FDCWD, O_PATH, get_errno, openat, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from gofer.server.places import Places

LEAST = 80  # a limit below leaves nothing worth having
LAST = 16  # fd numbers that nothing may take which lasts
FAIR_FROM = 0.25  # below this part of the fd limit nobody counts
SHARES_FROM = 0.75  # above this one a connection may hold its share and no more
_GREED = 8  # a sandbox with many open files is the usual case, a second one beside it that wants as many is not
_CHANNELS = 4  # fds of a connection that are not FDs: its channels and their memfd

_ACCESS = (True, False), (False, True), (True, True), (False, False)  # by O_RDONLY, O_WRONLY, O_RDWR

_O_CLOEXEC_NOCTTY = os.O_CLOEXEC | os.O_NOCTTY

MARKS = [0, 0]  # the fd numbers from which `admit` counts, and from which it refuses; see set_fd_limit
_shares = [0, 0, 0]  # the fd number from which they count; how many FDs one is; the number from which nothing may last


class Owner:
    """Of one host fd, `host`; -1 where there is none. Whoever makes one sets it at once."""

    __slots__ = ("host",)
    host: int

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]  # bound early: runs at interpreter exit too
        if self.host >= 0:
            try:
                close(self.host)
            except OSError:  # a late write error; the fd is gone all the same, and fsync has told it before
                pass

    def shut(self) -> None:
        """Close it, by whoever knows that nobody uses it."""
        self.__del__()
        self.host = -1


class HostFD(Owner):
    """An fd that is of no kind."""

    __slots__ = ()

    def __init__(self, host: int) -> None:
        self.host = host


class ControlFD(Owner):
    """A file: an O_PATH fd and its type, `kind`: one of stat.S_IF*, and no other than these where it is safe to use as
    such; see kernelfs.py for what else.

    It has no __init__, which would cost more than all it does: a walk makes one for each component, and sets both.
    """

    __slots__ = ("kind",)
    kind: int


class MountPoint(ControlFD):
    """The root of the connection's tree, as Mount answers it; what is walked to, also by another way, is none.

    served: the O_PATH fd that the export is known by, whatever is mounted over it; borrowed.
    """

    __slots__ = ("served", "__weakref__")

    def __init__(self, host: int, kind: int, served: int) -> None:
        self.host = host
        self.kind = kind
        self.served = served


class OpenFD(Owner):
    """An opened file. node: the control FD it was opened from. A FIFO's or device's host fd was given away: -1."""

    __slots__ = ("node", "readable", "writable", "device")
    node: ControlFD
    readable: bool
    writable: bool
    device: bytes | None  # see handlers/directory.py


def opened_fd(host: int, node: ControlFD, flags: int) -> OpenFD:
    """The OpenFD that owns `host`. No __init__, as in a ControlFD: to be called by way of the class costs five times as much."""
    file = OpenFD()
    file.host = host
    file.node = node
    file.readable, file.writable = _ACCESS[flags & 3]
    file.device = None
    return file


class BoundSocketFD:
    """A bound socket, as a socket object; closing the FD closes the socket."""

    __slots__ = ("socket",)

    def __init__(self, sock: socket) -> None:
        self.socket = sock

    @property
    def host(self) -> int:
        return self.socket.fileno()

    def shut(self) -> None:
        self.socket.close()

    __del__ = shut


if TYPE_CHECKING:
    ControlMap = dict[int, ControlFD]
    OpenMap = dict[int, OpenFD]
    BoundMap = dict[int, BoundSocketFD]


class FDMap(dict):  # type: ignore[type-arg]
    """The FDs of one kind by id. Looking up another kind's id is EINVAL, an unknown one EBADF."""

    __slots__ = ("others",)

    def __init__(self) -> None:
        super().__init__()
        self.others: tuple[FDMap, ...] = ()

    def __missing__(self, fdid: int) -> None:
        if any(fdid in other for other in self.others):
            raise OSError(EINVAL, "FD of the wrong kind")
        raise OSError(EBADF, "no such FD")


class FDTable:
    """The FDs of one connection: three kinds in one id space. Ids count up from 1 and are never reused.

    closing: the connection is about to end; a call that goes on and on looks at it. places: see places.py; set where the
    client speaks the dialect of 2021, and only there.
    """

    __slots__ = ("control", "opened", "bound", "next_id", "closing", "places", "_maps")
    places: Places

    def __init__(self) -> None:
        self._maps = maps = FDMap(), FDMap(), FDMap()
        for each in maps:
            each.others = tuple(other for other in maps if other is not each)
        self.control: ControlMap = maps[0]
        self.opened: OpenMap = maps[1]
        self.bound: BoundMap = maps[2]
        self.next_id = partial(next, iter(range(1, 1 << 62)))  # cheaper than __next__; itertools.count takes a start 0.1 ms
        self.closing = False

    def close(self, fdid: int) -> None:
        """Forget an FD of any kind; an unknown id is ignored."""
        if self.control.pop(fdid, None) is None and self.opened.pop(fdid, None) is None:
            self.bound.pop(fdid, None)

    def held(self) -> int:
        return len(self.control) + len(self.opened) + len(self.bound)

    def clear(self) -> None:
        """Close every FD; no call may be running. By name: a free-threaded Python counts what other threads refer to later."""
        for each in self._maps:
            for fd in each.values():
                fd.shut()
            each.clear()
            each.others = ()  # the maps know each other: untie the cycle


def admit(host: int, table: FDTable, more: int = 0) -> None:
    """EMFILE where the connection must not keep one more FD, of which `host` is the newest fd; see the head of this file.

    more: how many it has that are not in its table yet.
    """
    floor, ceiling = MARKS
    if host < floor:
        return
    top, share, _ = _shares
    held = table.held() + more
    if host >= ceiling or (held >= share and held > _GREED * (top - host)):
        raise OSError(EMFILE, "this connection's share of the fd limit is used up")


def crowded(host: int) -> bool:
    """Whether the newest fd, host, is among the last numbers, which nothing may take that lasts."""
    return host >= _shares[2]


def set_fd_limit(limit: int | None = None, clients: int = 64) -> int:
    """Set RLIMIT_NOFILE to limit (None: the hard limit) and the marks of `admit`; returns the limit in force.

    clients: how many there may be, to share it, with a connection each. One has it all, over however many connections
    it has: what it closes on one is free for another at once.
    A limit above the hard one is cut to it where the process may not raise it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if limit is None else limit
    try:
        set_limit(resource.RLIMIT_NOFILE, wanted, max(hard, wanted))
    except OSError:
        wanted = hard
        set_limit(resource.RLIMIT_NOFILE, wanted, hard)
    last = max(wanted - LAST, 0)
    ceiling = max(last - clients, last * 3 // 4)
    top = int(ceiling * SHARES_FROM)
    # An FD can keep two fds open, its own and that of its control FD. A client must get as far as Mount.
    share = max(1, ((ceiling - top) // clients - _CHANNELS) // 2)
    MARKS[:] = int(ceiling * FAIR_FROM) if clients > 1 else ceiling, ceiling
    _shares[:] = top, share, last
    return wanted


def reopen(host: int, flags: int) -> int:
    """Open the inode of an fd anew with flags; returns the new fd. O_NOFOLLOW would refuse the magic link."""
    opened = openat(AT_FDCWD, proc_paths[host], flags | _O_CLOEXEC_NOCTTY)
    if opened < 0:
        raise_errno()
    return opened


def open_path(directory: int, name: bytes) -> int:
    """An O_PATH fd on a child, never following a symlink; name: one checked component."""
    host = openat(directory, name, O_PATH_FLAGS)
    if host < 0:
        raise_errno()
    return host


O_PATH_FLAGS = O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
WALKABLE = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR))

__all__ = [
    "MARKS", "WALKABLE", "BoundSocketFD", "ControlFD", "FDMap", "FDTable", "HostFD", "MountPoint", "OpenFD",
    "Owner", "admit", "crowded", "get_errno", "open_path", "opened_fd", "reopen", "set_fd_limit",
]  # fmt: skip
set_fd_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
