"""Looking ahead: who looks at many names of one directory, one after the other, will look at more.

Each LOOKUP is a message, and most of what it costs is waking the server up. From the `_FROM`th on in one directory, without a
pause between them, it is listed with attributes by our own messages (scan.py), some entries for each name that was asked and
found, so that who wants but a few of a large directory does not wait for all of it. What was read so answers for `scan.FRESH`
seconds, which is how long the kernel takes it for true, too: it is told what is left of them. A directory whose FD would have to
be walked to is listed at once: that is one message, in place of two.

Nothing that has changed through this mount is answered from here (changes.py), nor an open file, as the kernel may write to it by
itself. A directory that came in one message whole is told from here, too, to who opens it soon after: git(1) looks at each file
that it knows of, and then for those that it does not know.
"""

from __future__ import annotations

import _thread
import struct
from time import monotonic

from gofer.fuse import kernel, scan
from gofer.fuse.scan import STATX_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container

    from gofer.fuse.node import Node
    from gofer.fuse.scan import Part
    from gofer.fuse.state import FileSystem, Request

    Seen = tuple[float, Part, Container[bytes]]

_FROM = 3
_EACH = 32  # entries that are read ahead for each name asked, at most
_FIRST, _BATCH = 4096, 32768  # bytes of the kernel's dirents in the first message, and at most: some 100 and 1000 entries
_KEPT = 50_000  # entries of one directory that are kept for who asks for them, some 400 bytes each
_PAUSE = 0.25  # seconds without a question, after which it is somebody else who asks
_MOST = 128  # directories: who looks at many comes back to those above, and lists them when he has looked
_YOUNG = scan.FRESH / 2  # seconds for which a directory is told from here: later, little would be left of it
_lookup = struct.Struct("<8xQQ").unpack_from  # unique, nodeid
_NAME = kernel.InHeader.size  # where it begins
_MODE, _IS_DIR = 29, 0x40  # of struct statx: the byte of the mode that tells the type


class _Batch:
    """What one message brought. untold: where in it the names are that were not asked for yet."""

    __slots__ = ("part", "untold", "until")

    def __init__(self, part: Part, until: float) -> None:
        self.part = part
        self.until = until
        if 0 in part.raws[::STATX_SIZE]:  # one of which nothing is told
            self.untold = {name: i for i, name in enumerate(part.names) if part.raws[i * STATX_SIZE]}
        else:
            self.untold = dict(zip(part.names, range(len(part.names))))


class _Directory:
    """How far one is read. fdid: an open FD, 0: none. batches: those that have names that were not told yet; the latest is first.
    whole: it came in one.
    """

    __slots__ = ("lock", "fdid", "asked", "got", "last", "began", "count", "ended", "batches", "whole")

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()
        self.fdid = 0
        self.last = 0.0
        self.begin()

    def begin(self) -> None:
        self.began = monotonic()
        self.asked = self.got = 0  # who looks and removes by turns is not to have it read each time
        self.count = -_FIRST  # negative: from its beginning
        self.ended = False
        self.batches: list[_Batch] = []
        self.whole = False

    def find(self, name: bytes) -> tuple[_Batch, int] | None:
        for batch in self.batches:
            index = batch.untold.get(name)
            if index is not None:
                return batch, index
        return None


class Ahead:
    """What is read of the directories that somebody looks at."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._directories: dict[Node, _Directory] = {}

    def at_once(self, message: memoryview) -> tuple[int, bytes] | None:
        """A LOOKUP that takes no message: the number of what is told of, and the reply; None: ask.

        Most of a walk is this, and it is answered in a third of the steps that others take.
        """
        fs = self._fs
        unique, nodeid = _lookup(message)
        parent = fs.nodes.by_id(nodeid)
        it = self._directories.get(parent)
        if it is None:
            return None
        name = message[_NAME:-1].tobytes()
        found = it.find(name)
        if found is None:
            return None
        batch, index = found
        now, until, part = monotonic(), batch.until, batch.part
        identity = fs.nodes.identity(part.raws, index * STATX_SIZE)
        if until <= now or until - scan.FRESH <= fs.changes.latest and not fs.is_so(identity[0], until - scan.FRESH):
            return None
        number = fs.nodes.tell(parent, name, identity)
        if not number:
            return None
        batch.untold.pop(name, None)
        it.asked += 1
        it.last = now
        return number, fs.view.told(unique, number, identity[0], part, index, until - now)

    def find(self, request: Request, parent: Node, name: bytes) -> tuple[float, bytes] | None:
        """(seconds that it is good for, struct statx) of a name; None: ask."""
        it = self._directories.get(parent) or self._add(parent)
        if not it.lock.acquire(False):  # somebody reads: who asks need not wait for that
            return None
        try:
            now = monotonic()
            if self._directories.get(parent) is not it:  # another has just taken its place
                return None
            if it.began <= self._fs.changes.of_anything or now - it.last > _PAUSE:
                it.begin()
            it.last = now
            it.asked = it.asked + 1 if parent.fd else max(it.asked + 1, _FROM)
            if it.asked < _FROM or not self._fs.lists_stats:
                return None
            found = it.find(name)
            if found is None and it.ended and now - it.began > scan.FRESH:  # all was asked for, and now it is once more
                it.begin()
            while found is None and not it.ended and it.got < _EACH * it.asked:
                if not self._read(request, parent, it):
                    return None
                found = it.find(name)
        finally:
            it.lock.release()
        if found is None:
            return None
        batch, index = found
        batch.untold.pop(name, None)
        raw = batch.part.raws[index * STATX_SIZE : (index + 1) * STATX_SIZE]
        if batch.until <= now or not self._fs.is_so(self._fs.nodes.identity(raw)[0], batch.until - scan.FRESH):
            return None
        return batch.until - now, raw

    def listing(self, node: Node) -> Seen | None:
        """Of a directory: (when it was asked for, all that is in it, those names that were not told yet)."""
        it = self._directories.get(node)
        if it is None or monotonic() - it.began > _YOUNG or it.began <= self._fs.changes.last(node.ino):
            return None
        batches = it.batches
        return (it.began, batches[0].part, batches[0].untold) if it.whole and batches else None

    def lacks(self, parent: Node) -> None:
        """What was looked for is not there: who looks for one thing in many places need not have them read."""
        it = self._directories.get(parent)
        if it is not None:
            it.asked -= 1

    @property
    def pending(self) -> bool:
        return bool(self._directories)

    def rest(self) -> None:
        """Give up what nobody asks for any more."""
        for node, it in list(self._directories.items()):
            if monotonic() - it.last > scan.FRESH:
                self._give_up(node, it)

    def lost(self) -> None:
        """The connection, and the FDs with it."""
        for it in self._directories.values():
            it.fdid = 0
        self._directories = {}

    def _add(self, parent: Node) -> _Directory:
        if len(self._directories) >= _MOST:
            for node, it in sorted(self._directories.items(), key=_last)[: _MOST // 4]:
                self._give_up(node, it)
        return self._directories.setdefault(parent, _Directory())

    def _give_up(self, node: Node, it: _Directory) -> None:
        """Unless it is being read."""
        if it.lock.acquire(False):
            self._directories.pop(node, None)
            if it.fdid:
                self._fs.nodes.close_later(it.fdid)
                it.fdid = 0
            it.lock.release()

    def _read(self, request: Request, parent: Node, it: _Directory) -> bool:
        """One batch more; False where it cannot be had."""
        until = monotonic() + scan.FRESH
        part: Part | None
        try:
            if it.fdid:
                part = scan.go_on(self._fs, it.fdid, it.count)
                it.ended = part is None or not part.names
            else:
                part, until = self._begin(request, parent, it, until)
        except OSError:
            part, it.ended = None, True
        if part is None:
            return False
        it.count = min(2 * abs(it.count), _BATCH)
        it.got += len(part.names)
        batches = [_Batch(part, until), *it.batches] if part.names else it.batches
        if not it.whole:
            batches = [batch for batch in batches if batch.untold]
        while sum([len(batch.part.names) for batch in batches]) > _KEPT:  # asked for in another order than they come in
            batches.pop()
        it.batches = batches
        return True

    def _begin(self, request: Request, parent: Node, it: _Directory, until: float) -> tuple[Part, float]:
        """Its first batch, and until when that is good."""
        before = self._fs.below.enter(parent)
        if before is None:
            it.fdid, part, it.ended = scan.begin(self._fs, parent, request.held, _FIRST)
        else:
            asked, (it.fdid, part, it.ended) = before
            it.began, until = min(it.began, asked), asked + scan.FRESH
        it.whole = it.ended
        if it.whole:
            self._fs.below.listed(parent, _directories(part))
        return part, until


def _directories(part: Part) -> list[bytes]:
    return [name for name, mode in zip(part.names, part.raws[_MODE::STATX_SIZE]) if mode & 0xF0 == _IS_DIR]


def _last(one: tuple[Node, _Directory]) -> float:
    return one[1].last
