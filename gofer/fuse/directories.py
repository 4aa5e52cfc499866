"""OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

A directory is read as the server lists it, a batch at a time, and the kernel's offsets count its entries: 0 is before `.`; see
kept.py for what else is in an offset. The kernel may ask again for what did not fit into the buffer of who reads, so the last two
batches are kept, so that a listing takes the same memory however long it is; whoever goes further back has what he was told
before, or else starts the listing anew.

With the names come attributes, as of when the batch was read. Where something has been done in the mount since, they may be older
than what the kernel knows, so it gets the names alone then, and asks for what it needs.
"""

from __future__ import annotations

import _thread
import stat
import struct
from collections import deque
from time import monotonic

from gofer.fuse import kernel, scan
from gofer.fuse.kept import MOST
from gofer.fuse.scan import STATX_SIZE, Part
from gofer.fuse.state import NONE, Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any, Callable

    from gofer.fuse.ahead import Seen
    from gofer.fuse.kept import Reading
    from gofer.fuse.node import Held, Node
    from gofer.fuse.state import FileSystem, Reply, Request

    Entry = tuple[int, int, bytes, int]  # inode number, type, name; where in its part, -1: its attributes are not to be told

_FIRST = 4096  # bytes of the kernel's dirents that come with an open: who opens a directory may want no more of it
_LEAST, _MOST = 2048, 32768  # of those that are asked for at once: up to some 1000 entries
_SOON = 0.02  # seconds in which who opens a directory begins to read it
_SHORTEST = 24  # bytes of one of the kernel's dirents
_HEAD = kernel.Dirent.size
_PLUS = kernel.EntryOut.size + _HEAD
_NOTHING = bytes(kernel.EntryOut.size)
_KIND = struct.Struct("<B27xH2xQ104x")  # of struct statx: something of its mask, mode, ino
_HEADS = "".join(kernel.Dirent.codes.values())
_DIRENTS = [struct.Struct(f"<{_HEADS}{8 * eights}s").pack for eights in range(33)]  # with names of so many times 8 bytes


class Batch:
    """Entries. part: their attributes; asked: when the server was asked for them."""

    __slots__ = ("entries", "part", "asked", "until")

    def __init__(self, entries: list[Entry], part: Part, asked: float) -> None:
        self.entries = entries
        self.part = part
        self.asked = asked
        self.until = asked + scan.FRESH


class Listing:
    """Where an open directory is read. reading: None as long as nobody has asked. soon: until when what came with the open is
    new. first: the number of the first entry of `batches`, of which there are two at most. batch: bytes of dirents that the
    kernel takes at once. asked: when the server was asked for its beginning. coming: what of it was asked for ahead. left:
    seconds for which the attributes that come next are good, 0: as long as others. fresh: whether they were read just now.
    """

    __slots__ = ("lock", "reading", "soon", "first", "batches", "batch", "ended", "asked", "coming", "left", "fresh")

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()  # the kernel asks for one thing at a time, unless it is somebody else
        self.batch = _MOST
        self.restart()

    def restart(self) -> None:
        self.reading: Reading | None = None
        self.soon = 0.0
        self.first = 2  # behind `.` and `..`
        self.batches: list[Batch] = []
        self.ended = False
        self.asked = monotonic()
        self.left = 0.0
        self.fresh = False
        self.coming: deque[tuple[float, Any]] = deque()

    @property
    def next(self) -> int:
        return self.first + sum([len(batch.entries) for batch in self.batches])


def opendir(fs: FileSystem, request: Request) -> Reply:
    node = fs.nodes.by_id(request.nodeid)
    handle = Handle(node, NONE, -1, 0)
    handle.listing = Listing()
    kept = fs.kept.has(node)
    if kept is None:
        _begin(fs, request.held, handle, fs.ahead.listing(node))
        handle.listing.soon = monotonic() + _SOON
    fs.pass_through(handle)
    fh = fs.opened(request, handle)
    if kept is not None and node.use is not None:
        fs.kept.goes_on(node.use, kept)
        return kernel.OpenOut.bytes(fh, kernel.FOPEN_CACHE_DIR | kernel.FOPEN_KEEP_CACHE, 0)
    return kernel.OpenOut.bytes(fh, kernel.FOPEN_CACHE_DIR if fs.valid else 0, 0)


def releasedir(fs: FileSystem, request: Request) -> Reply:
    fs.released(kernel.ReleaseIn.read(request.body)[0])
    return b""


def fsyncdir(fs: FileSystem, request: Request) -> Reply:
    handle = fs.handle(kernel.FsyncIn.read(request.body)[0])
    request.aside()
    with handle.listing.lock:
        if handle.fdid == NONE:
            handle.fdid = scan.opened(fs, handle.node, request.held)
    fs.pool.fsync(handle.fdid)
    return b""


def readdir(fs: FileSystem, request: Request) -> Reply:
    fh, offset, size, *_ = kernel.ReadIn.read(request.body)
    handle = fs.handle(fh)
    with handle.listing.lock:
        handle.listing.batch = size * 3 // 4
        by, index, entries, _ = _from(fs, request, handle, offset)
        dirents: list[bytes] = []
        for ino, kind, name, _ in entries:
            size -= _HEAD + len(name) + (-len(name) % 8)
            if size < 0:
                break
            dirents.append(_dirent(by, index + len(dirents), ino, kind, name))
        _told(fs, handle, by, index, dirents)
    return dirents or b""


def readdirplus(fs: FileSystem, request: Request) -> Reply:
    """With what LOOKUP would tell of each; the kernel knows of those nodes from then on."""
    fh, offset, size, *_ = kernel.ReadIn.read(request.body)
    handle = fs.handle(fh)
    parts: list[bytes] = []
    nodes: list[Node] = []
    request.undo.append(lambda: fs.nodes.forget_all(nodes))
    with handle.listing.lock:
        handle.listing.batch = size * _SHORTEST // (_PLUS + 8)
        by, index, entries, batch = _from(fs, request, handle, offset)
        tell = _teller(fs, handle, batch)
        dirents: list[bytes] = []
        for ino, kind, name, i in entries:
            size -= _PLUS + len(name) + (-len(name) % 8)
            if size < 0:
                break
            at = index + len(dirents)
            node = tell(name, i) if i >= 0 and at < MOST else None  # who lists a million may want no more than the names
            dirent = _dirent(by, at, ino if node is None else node.ino, kind, name)
            dirents.append(dirent)
            if node is None:
                parts.append(_NOTHING + dirent)
            else:
                nodes.append(node)
                assert batch is not None
                parts.append(fs.view.entry_at(node, batch.part, i, handle.listing.left) + dirent)
        fs.below.listed(handle.node, [node.name for node in nodes if stat.S_ISDIR(node.mode)])
        _told(fs, handle, by, index, dirents)
    return parts or b""


def _teller(fs: FileSystem, handle: Handle, batch: Batch | None) -> Callable[[bytes, int], Node | None]:
    """What makes a node known by its name and place in that batch; None: what was read of it may not be so any more."""
    if batch is None:
        return lambda name, index: None
    seen_as, identity, directory, raws = fs.nodes.seen_as, fs.nodes.identity, handle.node, batch.part.raws
    if handle.listing.fresh:
        return lambda name, index: seen_as(directory, name, identity(raws, index * STATX_SIZE))
    asked = batch.asked

    def tell(name: bytes, index: int) -> Node | None:
        found = identity(raws, index * STATX_SIZE)
        return seen_as(directory, name, found) if fs.is_so(found[0], asked) else None

    return tell


def _dirent(by: Reading, index: int, ino: int, kind: int, name: bytes) -> bytes:
    size = len(name)
    return _DIRENTS[size + 7 >> 3](ino, (by.number << 32) + index + 1, size, kind, name)


def _told(fs: FileSystem, handle: Handle, by: Reading, index: int, dirents: list[bytes]) -> None:
    if by is not handle.listing.reading:
        return
    if dirents:
        by.add(index, dirents)
    else:
        fs.kept.ends(handle, by, index)


def _from(fs: FileSystem, request: Request, handle: Handle, offset: int) -> tuple[Reading, int, list[Entry], Batch | None]:
    """(the reading that the offset is of; the number of an entry; it and those behind it as far as there are some at once; what
    has their attributes).
    """
    listing, use = handle.listing, handle.node.use
    assert use is not None
    number, index = offset >> 32, offset & 0xFFFFFFFF
    if not offset:
        if listing.reading is not None or listing.soon < monotonic() or _is_old(fs, handle):
            _begin(fs, request.held, handle)  # rewinddir(3) shows what is new
        listing.reading = fs.kept.begins(use, listing.asked)
    elif listing.reading is None or listing.reading.number != number or max(index, 2) < listing.first:
        before = fs.kept.find(use, number)
        if before is not None and (index < before.count or before.whole):
            return before, index, [(*entry, -1) for entry in before.entries(index)], None
        _begin(fs, request.held, handle)
        listing.reading = fs.kept.begins(use, listing.asked)
    fresh = None
    while index >= listing.next and not listing.ended:
        fresh = _more(fs, handle)
        if fs.behind is not None:  # it was asked for ahead
            fresh = None
    return (listing.reading, index, *_entries(fs, handle, index, fresh))


def _is_old(fs: FileSystem, handle: Handle) -> bool:
    changed = fs.changes.last(handle.node.ino)
    return any(batch.asked <= changed for batch in handle.listing.batches)


def _entries(fs: FileSystem, handle: Handle, index: int, fresh: Batch | None) -> tuple[list[Entry], Batch | None]:
    """From that one up to the end of its batch, and that. fresh: one that was read just now."""
    node, listing = handle.node, handle.listing
    dots: list[Entry] = []
    if index < 2:
        above = node.parent or node
        dots = [(node.ino, 4, b".", -1), (above.ino, 4, b"..", -1)][index:]
        index = 2
    at = listing.first
    for batch in listing.batches:
        if index < at + len(batch.entries):
            left = batch.until - monotonic()
            listing.fresh = batch is fresh
            listing.left = 0 if batch is fresh or fs.options.cache != "auto" else left
            return dots + batch.entries[index - at :], batch if batch is fresh or left > 0 else None
        at += len(batch.entries)
    return dots, None


def _begin(fs: FileSystem, held: Held, handle: Handle, seen: Seen | None = None) -> None:
    """From the beginning. One that is open goes on being read, whatever became of the right to open it.

    seen: what was read of it a moment ago, for who opens it.
    """
    listing = handle.listing
    listing.restart()
    if seen is not None:
        listing.asked, part, untold = seen
        listing.ended = True
        listing.batches.append(_batch_of(part, listing.asked, untold))
        return
    if handle.fdid != NONE:
        _take(fs, handle, _batch(fs, handle, -1))
        return
    ahead = fs.below.enter(handle.node)
    if ahead is not None:
        listing.asked, came = ahead
    else:
        came = scan.begin(fs, handle.node, held, _FIRST if fs.behind is None else _MOST)
    fdid, part, listing.ended = came
    handle.fdid = fdid or NONE
    if part.names and fdid and fs.behind is not None:
        scan.ask_ahead(fs.behind, fdid, _MOST, listing.coming)
    if part.names:
        listing.batches.append(_batch_of(part, listing.asked))


def _more(fs: FileSystem, handle: Handle) -> Batch:
    batch = _batch(fs, handle, 1)
    _take(fs, handle, batch)
    return batch


def _take(fs: FileSystem, handle: Handle, batch: Batch) -> None:
    listing = handle.listing
    listing.ended = not batch.entries
    if len(listing.batches) == 2:
        listing.first += len(listing.batches.pop(0).entries)
    listing.batches.append(batch)


def _batch(fs: FileSystem, handle: Handle, sign: int) -> Batch:
    """sign -1: from the beginning. No more than the kernel takes at once, so that all of it is new; more of a far server."""
    count = sign * (_MOST if fs.behind is not None else min(max(handle.listing.batch, _LEAST), _MOST))
    asked = monotonic()
    if fs.behind is not None and fs.lists_stats and fs.walks_in:
        scan.ask_ahead(fs.behind, handle.fdid, count, handle.listing.coming)
        asked, came = scan.take(fs.behind, handle.listing.coming)
        return _batch_of(came, asked)
    part = scan.go_on(fs, handle.fdid, count) if fs.lists_stats else None
    if part is not None:
        return _batch_of(part, asked)
    entries = fs.pool.getdents64(handle.fdid, count)
    return Batch([(each.ino, each.type, each.name, -1) for each in entries if _is_name(each.name)], Part([], b""), asked)


def _batch_of(part: Part, asked: float, untold: Container[bytes] | None = None) -> Batch:
    """untold: the names whose attributes the kernel does not know; None: of all."""
    entries: list[Entry] = [
        (ino, mode >> 12, name, i if mask and (untold is None or name in untold) else -1)
        for i, (name, (mask, mode, ino)) in enumerate(zip(part.names, _KIND.iter_unpack(part.raws)))
    ]
    if not _are_names(part.names):
        entries = [entry for entry in entries if _is_name(entry[2])]
    return Batch(entries, part, asked)


def _are_names(names: list[bytes]) -> bool:
    joined = b"/".join(names)
    odd = joined.count(b"/") != len(names) - 1 or b"\0" in joined or any(map(names.count, (b"", b".", b"..")))
    return not odd and len(max(names, key=len)) <= 255


def _is_name(name: bytes) -> bool:
    """The kernel takes a name with a slash, or a listing with an empty one, for a broken file system: EIO for all of it."""
    return 0 < len(name) <= 255 and 47 not in name and 0 not in name and name not in (b".", b"..")
