"""OPENDIR, READDIR, READDIRPLUS, RELEASEDIR, FSYNCDIR.

A directory is read as the server lists it, a batch at a time, and the kernel's offsets count its entries: 0 is before `.`. It
may ask again for what did not fit into the buffer of who reads, so the last two batches are kept; whoever goes further back
starts the listing anew. So a listing takes the same memory however long it is.
"""

from __future__ import annotations

import _thread
import os
import stat
from errno import EOPNOTSUPP

from gofer import wire
from gofer.fuse import kernel
from gofer.fuse.kernel import padded
from gofer.fuse.state import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from gofer.fuse.state import FileSystem, Reply, Request

    Entry = tuple[int, int, bytes, bytes]  # inode number, type, name, struct statx: b"" where it is not told

_BATCH = 32768  # bytes of the kernel's dirents that are asked for at once: some 1000 entries
_MOST_KNOWN = 50_000  # entries of one listing that the kernel gets to know: who lists a million may want no more than the names
_HEAD = kernel.Dirent.size
_PLUS = kernel.EntryOut.size + _HEAD
_NOTHING = bytes(kernel.EntryOut.size)


class Listing:
    """Where an open directory is read. first: the number of the first entry of `batches`, of which there are two at most."""

    def __init__(self) -> None:
        self.lock = _thread.allocate_lock()  # the kernel asks for one thing at a time, unless it is somebody else
        self.restart()

    def restart(self) -> None:
        self.first = 2  # behind `.` and `..`
        self.batches: list[list[Entry]] = []
        self.begun = self.ended = False

    @property
    def next(self) -> int:
        return self.first + sum(map(len, self.batches))


def opendir(fs: FileSystem, request: Request) -> Reply:
    node = fs.nodes.by_id(request.nodeid)
    payload, fds = fs.exchange(wire.OPENAT, wire.OpenAtReq.bytes(fs.fd(request), os.O_RDONLY))
    for fd in fds:
        os.close(fd)
    (fdid,) = wire.OpenAtResp.unpack(payload)
    handle = Handle(node, fdid, -1, 0)
    handle.listing = Listing()
    fs.pass_through(handle)
    return kernel.OpenOut.bytes(fs.opened(request, handle), 0, 0)


def releasedir(fs: FileSystem, request: Request) -> Reply:
    fs.released(kernel.ReleaseIn.read(request.body)[0])
    return b""


def fsyncdir(fs: FileSystem, request: Request) -> Reply:
    request.aside()
    fs.pool.fsync(fs.handle(kernel.FsyncIn.read(request.body)[0]).fdid)
    return b""


def readdir(fs: FileSystem, request: Request) -> Reply:
    fh, offset, size, *_ = kernel.ReadIn.read(request.body)
    handle = fs.handle(fh)
    parts: list[bytes] = []
    with handle.listing.lock:
        for ino, kind, name, _ in _entries(fs, handle, offset):
            size -= _HEAD + len(name) + (-len(name) % 8)
            if size < 0:
                break
            offset += 1
            parts.append(kernel.Dirent.bytes(ino, offset, len(name), kind) + padded(name))
    return parts or b""


def readdirplus(fs: FileSystem, request: Request) -> Reply:
    """With what LOOKUP would tell of each; the kernel knows of those nodes from then on."""
    fh, offset, size, *_ = kernel.ReadIn.read(request.body)
    handle = fs.handle(fh)
    parts: list[bytes] = []
    with handle.listing.lock:
        for ino, kind, name, raw in _entries(fs, handle, offset):
            size -= _PLUS + len(name) + (-len(name) % 8)
            if size < 0:
                break
            offset += 1
            entry = _NOTHING
            if raw and offset < _MOST_KNOWN:
                node = fs.told(request, handle.node, name, raw)
                ino, entry = node.ino, fs.entry(node, raw)
            parts.append(entry + kernel.Dirent.bytes(ino, offset, len(name), kind) + padded(name))
    return parts or b""


def _entries(fs: FileSystem, handle: Handle, offset: int) -> Iterator[Entry]:
    """Those behind the first `offset`, up to the end of a batch."""
    node, listing = handle.node, handle.listing
    if offset < 2:
        above = node.parent or node
        yield from [(node.ino, 4, b".", b""), (above.ino, 4, b"..", b"")][offset:]
        if offset == 0 and listing.begun:  # rewinddir(3) shows what is new
            listing.restart()
        offset = 2
    if offset < listing.first:
        listing.restart()
    while offset >= listing.next and not listing.ended:
        _more(fs, handle)
    at = listing.first
    for batch in listing.batches:
        if offset < at + len(batch):
            yield from batch[offset - at :]
            return
        at += len(batch)


def _more(fs: FileSystem, handle: Handle) -> None:
    listing = handle.listing
    count = _BATCH if listing.begun else -_BATCH
    listing.begun = True
    batch = _with_stats(fs, handle, count) if fs.lists_stats else None
    if batch is None:
        batch = [
            (entry.ino, entry.type, entry.name, b"")
            for entry in fs.pool.getdents64(handle.fdid, count)
            if _is_name(entry.name)
        ]
    listing.ended = not batch
    if len(listing.batches) == 2:
        listing.first += len(listing.batches.pop(0))
    listing.batches.append(batch)


def _with_stats(fs: FileSystem, handle: Handle, count: int) -> list[Entry] | None:
    """By one message of our own; None where the server does not know it."""
    try:
        payload = fs.pool.ask(wire.DIRSTAT, wire.DirStatReq.bytes(handle.fdid, count))
    except OSError as error:
        if error.errno != EOPNOTSUPP:
            raise
        fs.lists_stats = False
        return None
    (entries,) = wire.Count.read(payload)
    found: list[Entry] = []
    at, read, head = wire.Count.size, wire.DirStatEntry.read, wire.DirStatEntry.size
    for _ in range(entries):
        _, raw, length = read(payload, at)
        at += head
        name = payload[at : at + length]
        at += length
        mode, ino = int.from_bytes(raw[28:30], "little"), int.from_bytes(raw[32:40], "little")
        if len(name) == length and _is_name(name):
            found.append((ino, stat.S_IFMT(mode) >> 12, name, raw if raw[0] else b""))
    return found


def _is_name(name: bytes) -> bool:
    """The kernel takes a name with a slash, or a listing with an empty one, for a broken file system: EIO for all of it."""
    return 0 < len(name) <= 255 and 47 not in name and 0 not in name and name not in (b".", b"..")
