"""Which directories the kernel has listed whole, and may list again without us (FOPEN_CACHE_DIR).

Theory of operation
-------------------
The kernel records what we answer to one who reads a directory from its beginning to its end. Who opens it later with
FOPEN_KEEP_CACHE is served from that record; who opens it without has the record's pages dropped first. It looks whether the
directory has changed, by what was done in the mount and by its time of change, only at the beginning of a listing. As that time
is as coarse as the server's file system has it, a listing is kept no longer than names are taken for true, which is from when it
was begun: the names that came with it are as old.

It goes on recording where another has left off, and takes a record away while somebody is in the middle of it, who then asks us
for what follows. We count entries, so what two saw at two times would be put together, and a name that was there all the time
could come twice, or not at all. Hence each reading has a number, which is in its offsets: no record goes on with what another
reading has brought. And what a reading has told is kept here, too, for who was in the middle: as long as the kernel may have it.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from gofer.fuse import kernel, notices
from gofer.fuse.kernel import padded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gofer.fuse.node import Node, Use
    from gofer.fuse.state import FileSystem, Handle

MOST = 50_000  # entries of a listing that is kept, some 40 bytes each
_READINGS = 3  # of one open directory: who is in the middle of an older one may miss or see again what moves meanwhile
_HEAD = kernel.Dirent.size


class Reading:
    """What somebody who has read a directory was told. parts: (number of its first entry, kernel dirents)."""

    __slots__ = ("number", "began", "parts", "count", "whole")

    def __init__(self, number: int, began: float) -> None:
        self.number = number
        self.began = began
        self.parts: list[tuple[int, bytes]] = []
        self.count = 0
        self.whole = False

    def add(self, first: int, dirents: list[bytes]) -> None:
        if first == self.count and first < MOST:
            self.parts.append((first, b"".join(dirents)))
            self.count += len(dirents)

    def entries(self, index: int) -> Iterator[tuple[int, int, bytes]]:
        """(inode number, type, name) of those behind the first `index`."""
        for first, dirents in self.parts:
            at = 0
            while at < len(dirents):
                ino, _, length, kind = kernel.Dirent.read(dirents, at)
                at += _HEAD
                if first >= index:
                    yield ino, kind, dirents[at : at + length]
                at += len(padded(dirents[at : at + length]))
                first += 1


class Kept:
    """Directories that the kernel has whole: `node.reading`."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._whole: deque[tuple[Node, Reading]] = deque()
        self.expired: list[Node] = []

    def has(self, node: Node) -> Reading | None:
        """The reading by which the kernel may serve who opens it now."""
        reading = node.reading
        if reading is not None and monotonic() - reading.began < self._fs.valid:
            return reading
        node.reading = None
        return None

    def begins(self, use: Use, asked: float) -> Reading:
        """Somebody reads the beginning of a directory that is open. asked: when the server was asked for it."""
        reading = Reading(1 + use.readings[-1].number if use.readings else 0, asked)
        if self._fs.valid:
            self.goes_on(use, reading)
        return reading

    def goes_on(self, use: Use, reading: Reading) -> None:
        """Who is in the middle of it may ask us for what follows."""
        if reading not in use.readings:
            use.readings = [*use.readings[1 - _READINGS :], reading]

    def find(self, use: Use, number: int) -> Reading | None:
        return next((reading for reading in use.readings if reading.number == number), None)

    def ends(self, handle: Handle, reading: Reading, index: int) -> None:
        """It has come to the end of that many entries."""
        if index != reading.count or not self._fs.valid:
            return
        reading.whole = True
        handle.node.reading = reading
        if self._fs.options.cache == "auto":
            self._whole.append((handle.node, reading))

    # As time goes by

    @property
    def pending(self) -> bool:
        return bool(self._whole)

    def rest(self, now: float) -> None:
        """Whoever has one open, and begins again, is to have it read anew."""
        while self._whole and now - self._whole[0][1].began > self._fs.valid:
            node, reading = self._whole.popleft()
            if node.reading is reading:
                node.reading = None
                if node.use is not None:
                    self.expired.append(node)

    def drop(self) -> None:
        """What is expired. It may have to wait for who reads that record at this moment."""
        while self.expired:
            notices.drop_listing(self._fs.device, self.expired.pop())
