"""Where the FDs of a client of 2021 were last found: it renames a file by the file's own FD (RenameAt of wire2021.py).

Theory of operation
-------------------
A place is a directory, as a control FD, and a name in it. All FDs of a connection that were found to be the same file under
the same name of the same directory have one place, by whichever of the directory's FDs they were reached: a rename over
one of them moves all. What lies below a renamed directory needs no change, as its place names the directory and not a path.

A place only says where to look. Before anything is moved, the file that has the name is compared with the FD's own, which that
pins (handlers2021/names.py); what others do on the host, or over another connection, makes a place wrong and no more.

`lock` is held while a message looks names up, makes or moves them, so that no FD comes in with a place that a rename has just
made old; who waits for it is another channel of the same client. A place keeps its directory's host fd open when the client has
closed the directory: as an open FD keeps its file's, so that an FD has two fds at most (fds.set_fd_limit counts with that).
"""

from __future__ import annotations

import _thread
from errno import ENFILE

from gofer.sys import Statx
from gofer.wire2021 import MOST_FDID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.fds import ControlFD

_INODE = slice(Statx.stx_ino.offset, Statx.stx_ino.offset + 8)
_DEVICE = slice(Statx.stx_dev_major.offset, Statx.stx_dev_major.offset + 8)


def identity(statx: bytearray) -> bytes:
    """Device and inode number of a struct statx."""
    return bytes(statx[_INODE] + statx[_DEVICE])


class Place:
    """directory: None for the root. where, file: `identity` of the directory and of what was found; fdids: whose place it is."""

    __slots__ = ("directory", "where", "name", "file", "fdids")

    def __init__(self, directory: ControlFD | None, where: bytes, name: bytes, file: bytes) -> None:
        self.directory = directory
        self.where = where
        self.name = name
        self.file = file
        self.fdids: set[int] = set()


class Places:
    """Of one connection; `lock` is to be held for everything but next_id. mounted: whether there was a Mount."""

    def __init__(self, first: int = 1) -> None:
        self.lock = _thread.allocate_lock()
        self.mounted = False
        self._of: dict[int, Place] = {}  # by FDID
        self._known: dict[tuple[bytes, bytes, bytes], Place] = {}  # by where, name and file
        self._count = iter(range(first, 1 << 62)).__next__

    def next_id(self) -> int:
        """The next FDID; ENFILE where 32 bits hold no more, for ever: none is used twice."""
        fdid = self._count()
        if fdid > MOST_FDID:
            raise OSError(ENFILE, "FDs have run out")
        return fdid

    def __getitem__(self, fdid: int) -> Place:
        """Of an FD that is in the table."""
        return self._of[fdid]

    def __len__(self) -> int:
        return len(self._of)

    def add(self, fdid: int, directory: ControlFD | None, where: bytes, name: bytes, file: bytes) -> None:
        key = where, name, file
        place = self._known.get(key)
        if place is None:
            place = self._known[key] = Place(directory, where, name, file)
        place.fdids.add(fdid)
        self._of[fdid] = place

    def forget(self, fdid: int) -> None:
        place = self._of.pop(fdid, None)
        if place is not None:
            place.fdids.discard(fdid)
            if not place.fdids:
                self._known.pop((place.where, place.name, place.file))

    def move(self, place: Place, directory: ControlFD, where: bytes, name: bytes) -> None:
        """What was found at place is now in that directory under that name."""
        del self._known[place.where, place.name, place.file]
        place.directory, place.where, place.name = directory, where, name
        other = self._known.get((where, name, place.file))  # found there before, by FDs that have been wrong since
        if other is not None:
            for fdid in other.fdids:
                self._of[fdid] = place
            place.fdids |= other.fdids
        self._known[where, name, place.file] = place
