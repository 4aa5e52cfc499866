"""Looking ahead: who looks at many names of one directory, one after the other, will look at more.

Each LOOKUP is a message, and most of what it costs is waking the server up. From the `_FROM`th on in one directory, without a
pause between them, it is listed with attributes by our own messages (scan.py), some entries for each name that was asked and
found, so that who wants but a few of a large directory does not wait for all of it. What was read so answers for `scan.FRESH`
seconds, which is how long the kernel takes it for true, too: it is told what is left of them. A directory whose FD would have to
be walked to is listed at once: that is one message, in place of two.

Nothing that has changed through this mount is answered from here: each change, and each close of a file that was written,
takes all of it away, and what is being read meanwhile with it (`age`). A file that is open is always asked about, as the
kernel may write to it by itself.
"""

from __future__ import annotations

import _thread
from time import monotonic

from gofer.fuse import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.nodes import Node
    from gofer.fuse.state import FileSystem, Request

_FROM = 3
_EACH = 32  # entries that are read ahead for each name asked, at most
_FIRST, _BATCH = 4096, 32768  # bytes of the kernel's dirents in the first message, and at most: some 100 and 1000 entries
_KEPT = 50_000  # entries that were read and not asked for, some 400 bytes each
_PAUSE = 0.25  # seconds without a question, after which it is somebody else who asks
_MOST = 8  # directories: several threads of one program look at one each


class _Directory:
    """How far one is read. age: see Ahead. fdid: an open FD, 0: none. names: what was read and not asked for yet."""

    __slots__ = ("lock", "fdid", "age", "asked", "got", "last", "began", "count", "ended", "names")

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()
        self.fdid = 0
        self.last = 0.0
        self.begin(0)

    def begin(self, age: int) -> None:
        self.age = age
        self.began = monotonic()
        self.asked = self.got = 0  # who looks and changes by turns is not to have it read each time
        self.count = -_FIRST  # negative: from its beginning
        self.ended = False
        self.names: dict[bytes, tuple[float, bytes]] = {}


class Ahead:
    """What is read of the directories that somebody looks at."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self.age = 1  # of what is known: what was read before the last change is not good any more
        self._directories: dict[Node, _Directory] = {}

    def find(self, request: Request, parent: Node, name: bytes) -> tuple[float, bytes] | None:
        """(seconds that it is good for, struct statx) of a name; None: ask."""
        it = self._directories.get(parent) or self._add(parent)
        if not it.lock.acquire(False):  # somebody reads: who asks need not wait for that
            return None
        try:
            now, age = monotonic(), self.age
            if self._directories.get(parent) is not it:  # another has just taken its place
                return None
            if it.age != age or now - it.last > _PAUSE:
                it.begin(age)
            it.last = now
            it.asked = it.asked + 1 if parent.fd else max(it.asked + 1, _FROM)
            if it.asked < _FROM or not self._fs.lists_stats:
                return None
            found = it.names.pop(name, None)
            if found is None and it.ended and now - it.began > scan.FRESH:  # all was asked for, and now it is once more
                it.begin(age)
            while found is None and not it.ended and it.got < _EACH * it.asked:
                if not self._read(request, parent, it):
                    return None
                found = it.names.pop(name, None)
        finally:
            it.lock.release()
        if found is None or age != self.age or found[0] < now:
            return None
        return None if self._fs.nodes.in_use(found[1]) else (found[0] - now, found[1])

    def lacks(self, parent: Node) -> None:
        """What was looked for is not there: who looks for one thing in many places need not have them read."""
        it = self._directories.get(parent)
        if it is not None:
            it.asked -= 1

    def changed(self) -> None:
        """Something has, or may have: nothing that was read before is good any more."""
        self.age += 1

    def rest(self) -> None:
        """Give up what nobody asks for any more."""
        for node, it in list(self._directories.items()):
            if monotonic() - it.last > scan.FRESH and it.lock.acquire(False):
                self._directories.pop(node, None)
                self._leave(it)
                it.lock.release()

    def lost(self) -> None:
        """The connection, and the FDs with it."""
        for it in self._directories.values():
            it.fdid = 0
        self._directories = {}
        self.changed()

    def _add(self, parent: Node) -> _Directory:
        if len(self._directories) >= _MOST:
            try:
                first = next(iter(self._directories))
                old = self._directories.pop(first)
            except (KeyError, RuntimeError, StopIteration):  # another thread was quicker
                pass
            else:
                if old.lock.acquire(False):
                    self._leave(old)
                    old.lock.release()
                else:  # it is being read, and stays
                    self._directories[first] = old
        return self._directories.setdefault(parent, _Directory())

    def _leave(self, it: _Directory) -> None:
        """Its FD. it.lock is held."""
        if it.fdid:
            self._fs.nodes.close_later(it.fdid)
            it.fdid = 0

    def _read(self, request: Request, parent: Node, it: _Directory) -> bool:
        """One batch more; False where it cannot be had, or something has changed meanwhile."""
        until = monotonic() + scan.FRESH
        try:
            if it.fdid:
                told = scan.go_on(self._fs, it.fdid, it.count)
                it.ended = not told
            else:
                it.fdid, told, it.ended = scan.begin(self._fs, parent, request.held, _FIRST)
        except OSError:
            told, it.ended = None, True
        if told is None:
            return False
        it.count = min(2 * abs(it.count), _BATCH)
        found = it.names
        for name, raw in told:
            if raw[0]:
                found[name] = until, raw
        if len(found) > _KEPT:  # who asks in another order than they come in would have all of a directory here
            it.names = dict(list(found.items())[-_KEPT // 2 :])
        it.got += len(told)
        return it.age == self.age
