"""Looking ahead: who looks at many names of one directory, one after the other, will look at more.

Each LOOKUP is a message, and most of what it costs is waking the server up. From the `_FROM`th on in one directory, without a
pause between them, it is listed with attributes by our own message (DirStat), some entries for each name that was asked, so
that who wants but a few of a large directory does not wait for all of it. What was read so answers for `_FRESH` seconds,
which is how long the kernel takes it for true, too: it is told what is left of them.

Nothing that has changed through this mount is answered from here: each change, and each close of a file that was written,
takes all of it away, and what is being read meanwhile with it (`_age`). A file that is open is always asked about, as the
kernel may write to it by itself.
"""

from __future__ import annotations

import _thread
import os
from errno import EOPNOTSUPP
from time import monotonic

from gofer import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.nodes import Node
    from gofer.fuse.state import FileSystem, Request

_FROM = 16
_EACH = 32  # entries that are read ahead for each name asked, at most
_BATCH = 32768  # bytes of the kernel's dirents in one message: some 1000 entries
_FRESH = 1.0
_PAUSE = 0.25  # seconds without a question, after which it is somebody else who asks


class Ahead:
    """What is read of one directory at a time. node: which; None: nobody asks much."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._lock = _thread.allocate_lock()
        self._age = 0
        self._node: Node | None = None
        self._fdid = self._asked = self._got = 0
        self._last = 0.0
        self._begun = self._ended = False
        self._names: dict[bytes, tuple[float, bytes]] = {}

    def find(self, request: Request, parent: Node, name: bytes) -> tuple[float, bytes] | None:
        """(seconds that it is good for, struct statx) of a name; None: ask."""
        now = monotonic()
        if not self._lock.acquire(False):  # somebody reads: who asks need not wait for that
            return None
        try:
            if self._node is not parent or now - self._last > _PAUSE:
                self._begin(parent)
            self._last = now
            self._asked += 1
            if self._asked < _FROM or not self._fs.lists_stats:
                return None
            found = self._names.pop(name, None)
            while found is None and not self._ended and self._got < _EACH * self._asked:
                if not self._read(request, parent):
                    return None
                found = self._names.pop(name, None)
        finally:
            self._lock.release()
        if found is None:
            return None
        if found[0] < now:
            self.changed()
            return None
        return None if self._fs.nodes.in_use(found[1]) else (found[0] - now, found[1])

    def changed(self) -> None:
        """Something has, or may have: nothing that was read before is good any more."""
        self._age += 1
        self._names = {}
        self._got = self._asked = 0  # who looks and changes by turns is not to have it read each time
        self._begun = self._ended = False

    def rest(self) -> None:
        """Give up what nobody asks for any more."""
        if self._node is not None and monotonic() - self._last > _FRESH and self._lock.acquire(False):
            self._begin(None)
            self._lock.release()

    def lost(self) -> None:
        """The connection, and the FD with it."""
        self._fdid = 0
        self._node = None
        self.changed()

    def _begin(self, node: Node | None) -> None:
        if self._fdid:
            self._fs.nodes.close_later(self._fdid)
        self._node, self._fdid = node, 0
        self.changed()

    def _read(self, request: Request, parent: Node) -> bool:
        """One batch more; False where it cannot be had, or something has changed meanwhile."""
        age, until = self._age, monotonic() + _FRESH
        try:
            if not self._fdid:
                directory = self._fs.nodes.fd(parent, request.held)
                payload, fds = self._fs.exchange(wire.OPENAT, wire.OpenAtReq.bytes(directory, os.O_RDONLY))
                for fd in fds:
                    os.close(fd)
                (self._fdid,) = wire.OpenAtResp.unpack(payload)
            count = _BATCH if self._begun else -_BATCH
            self._begun = True
            payload = self._fs.pool.ask(wire.DIRSTAT, wire.DirStatReq.bytes(self._fdid, count))
        except OSError as error:
            if error.errno == EOPNOTSUPP:
                self._fs.lists_stats = False
            self._ended = True
            return False
        (entries,) = wire.Count.read(payload)
        found: dict[bytes, tuple[float, bytes]] = {}
        at, read, head = wire.Count.size, wire.DirStatEntry.read, wire.DirStatEntry.size
        for _ in range(entries):
            _, raw, length = read(payload, at)
            at += head + length
            if raw[0]:
                found[payload[at - length : at]] = until, raw
        if self._age != age:
            return False
        self._names.update(found)
        self._got += entries
        self._ended = not entries
        return True
