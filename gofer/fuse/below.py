"""Looking below: who goes down a tree asks for one directory after the other, and waits for each answer.

Whoever goes into a directory that was just seen in the listing of another, as it comes next there or next by name, is taken for
one who walks: that directory is asked for, and the next ones in that order, and what he finds in them. How many are on their way
doubles with each that was right, and is halved by each that nobody wanted. What was asked so answers for `scan.FRESH` seconds,
and not where that directory was changed in the mount meanwhile.

A far host answers each as late as the first, so that there the first is taken for a walk already, and many are asked for. A near
one is at work on the next while the kernel is told of what is in the last: one is enough.
"""

from __future__ import annotations

import _thread
import struct
from time import monotonic

from gofer import wire
from gofer.client.transport import Lost
from gofer.fuse import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.client.pool import Pool
    from gofer.fuse.node import Node
    from gofer.fuse.scan import Part
    from gofer.fuse.state import FileSystem

_FEW, _MOST = 2, 32  # directories that are asked for ahead of a far server
_NEAR = 8  # of a near one, for all who walk
_COUNT, _NEAR_COUNT = 16384, 4096  # bytes of the kernel's dirents of each: some 500 entries, 100 KB
_PARENTS = 64  # listings of which it is known what was seen in them
_SEEN = 2000  # directories in one of them
_WALKED = 1000  # directories that may still be listed
_LONGEST = 255  # bytes of a name


class _Asked:
    """One that is on its way, or is here. at: when it was asked for."""

    __slots__ = ("at", "_pool", "_call", "_payload")

    def __init__(self, pool: Pool, call: Any) -> None:
        self.at = monotonic()
        self._pool = pool
        self._call = call
        self._payload: bytes | None = b""  # None: none came

    def is_old(self) -> bool:
        return monotonic() - self.at > scan.FRESH

    def take_what_came(self) -> bool:
        """Without waiting; what it came by is free for others. Whether it is here."""
        if self._call is not None and self._call.is_answered:
            try:
                self.take()
            except Lost:  # which is told to who asks next
                pass
        return self._call is None

    def take(self) -> bytes | None:
        """The answer; None: an error, of which those who ask in order are told."""
        call, self._call = self._call, None
        if call is not None:
            self._payload = None
            try:
                self._payload = self._pool.take(wire.DIRWALK, call)
            except Lost:
                raise
            except OSError:
                pass
        return self._payload


class _Order:
    """Directories in one of the orders that they can be walked in. right: how often that was the order."""

    __slots__ = ("names", "places", "right")

    def __init__(self) -> None:
        self.names: list[bytes] = []
        self.places: dict[bytes, int] = {}
        self.right = 0

    def add(self, names: list[bytes]) -> None:
        for name in names:
            if self.places.setdefault(name, len(self.names)) == len(self.names):
                self.names.append(name)

    def comes_next(self, name: bytes, entered: set[bytes]) -> bool:
        place = self.places[name]
        if not place or self.names[place - 1] not in entered:
            return False
        self.right += 1
        return True

    def rest(self, name: bytes, entered: set[bytes]) -> list[bytes]:
        place = self.places[name] + 1
        return [each for each in self.names[place : place + _MOST] if each not in entered]


class _Seen:
    """What was seen in a directory. entered: those of them that somebody has gone into since."""

    __slots__ = ("listed", "entered", "_by_name")

    def __init__(self) -> None:
        self.listed = _Order()
        self.entered: set[bytes] = set()
        self._by_name: _Order | None = None

    def add(self, names: list[bytes]) -> None:
        self.listed.add(names)
        self.entered.difference_update(names)
        self._by_name = None

    def behind(self, name: bytes, far: bool) -> list[bytes]:
        """Those that a walk that has come to this one will come to next, the nearest first: [] where nobody walks."""
        if self._by_name is None:
            self._by_name = _Order()
            self._by_name.add(sorted(self.listed.names))
        orders = [order for order in (self.listed, self._by_name) if order.comes_next(name, self.entered)]
        if orders:
            return max(orders, key=_right).rest(name, self.entered)
        return self.listed.rest(name, self.entered) if far and not self.entered else []


def _right(order: _Order) -> int:
    return order.right


class Below:
    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._lock = _thread.allocate_lock()
        self._asked: dict[tuple[Node, bytes], _Asked] = {}  # by the directory and the name in it
        self._seen: dict[Node, _Seen] = {}
        self._walked: dict[Node, None] = {}  # those that a walk over a line has come to lately
        self._window = _FEW

    def listed(self, directory: Node, names: list[bytes]) -> None:
        """These directories were seen in it."""
        names = [name for name in names if len(name) <= _LONGEST]
        if not names or not self._fs.valid:
            return
        with self._lock:
            seen = self._seen.setdefault(directory, _Seen())
            if len(seen.listed.names) < _SEEN or names[0] in seen.listed.places:
                seen.add(names[:_SEEN])
            if len(self._seen) > _PARENTS:
                del self._seen[next(iter(self._seen))]
            if directory in self._walked and self._fs.behind is not None:
                self._ask(directory, names[: self._window])

    def enter(self, node: Node) -> tuple[float, tuple[int, Part, bool]] | None:
        """(when it was asked for, as scan.begin), for who walks; None: ask."""
        fs, parent, name = self._fs, node.parent, node.name
        if parent is None or not fs.walks_in:
            return None
        with self._lock:
            seen = self._seen.get(parent)
            if seen is None or name not in seen.listed.places or name in seen.entered:
                return None
            far = fs.behind is not None
            more = seen.behind(name, far)
            seen.entered.add(name)
            if more and far:
                self._walked[node] = None
                if len(self._walked) > _WALKED:
                    del self._walked[next(iter(self._walked))]
            if (parent, name) in self._asked:
                self._window = min(2 * self._window, _MOST)
            self._ask(parent, [name, *more[: self._window]] if far else more[:1])
            asked = self._asked.pop((parent, name), None)
        if asked is None:
            return None
        payload = asked.take()
        if payload is None:
            return None
        if asked.at <= fs.changes.last(node.ino) or asked.is_old():
            self._discard(payload)
            return None
        return asked.at, scan.entered(fs, node, name, payload)

    def rest(self) -> None:
        """Give up what nobody wants."""
        if not self._asked:
            return
        with self._lock:
            late = [key for key, asked in self._asked.items() if asked.is_old() and asked.take_what_came()]
            gone = [self._asked.pop(key) for key in late]
            if gone:
                self._window = max(self._window // 2, _FEW)
        for asked in gone:
            self._discard(asked.take())

    def lost(self) -> None:
        """The connection, and the FDs with it."""
        with self._lock:
            self._asked, self._seen, self._walked = {}, {}, {}

    def _ask(self, parent: Node, names: list[bytes]) -> None:
        """Those of them that are not asked for yet. _lock is held."""
        fs = self._fs
        most, count = self._window, _COUNT
        if fs.behind is None:
            most, count = _NEAR - 1, _NEAR_COUNT
            for asked in self._asked.values():
                asked.take_what_came()
        for name in names:
            if len(self._asked) > most or not parent.fd:
                break
            if (parent, name) in self._asked:
                continue
            body = wire.DirWalkReq.bytes(parent.fd, count, 1) + wire.Count.bytes(len(name)) + name
            call = fs.pool.ask_ahead(wire.DIRWALK, body)
            if call is None:
                break
            self._asked[parent, name] = _Asked(fs.pool, call)
        if fs.behind is not None:
            fs.behind.push()

    def _discard(self, payload: bytes | None) -> None:
        try:
            fds = wire.DirWalkResp.read(payload or b"")[:2]
        except struct.error:  # not what it should be
            return
        for fd in fds:
            if fd:
                self._fs.nodes.close_later(fd)
