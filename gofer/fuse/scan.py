"""A directory of the server's, read a part at a time with the attributes of each entry: for listings, and for looking ahead.

By messages of our own: DirWalk goes into a directory and brings its beginning, which is all of most; DirStat brings what follows.
A server that knows neither is asked what any server is.
"""

from __future__ import annotations

import os
import struct
from errno import EOPNOTSUPP
from time import monotonic

from gofer import wire
from gofer.client.replies import raw_dirstats_of
from gofer.client.transport import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Any

    from gofer.client.stream import Stream
    from gofer.fuse.node import Held, Node
    from gofer.fuse.state import FileSystem

    Coming = deque[tuple[float, Any]]

FRESH = 1.0  # seconds in which what was read is good, from when it was asked for
_COMING = 8  # parts of one directory that are on their way from a far server
STATX_SIZE = wire.STATX_SIZE


class Part:
    """Entries as they came: their names, and behind one another the struct statx of each: one without a mask tells nothing but
    type and inode number. attrs: the same as the kernel has it, once somebody wants it: view.py.
    """

    __slots__ = ("names", "raws", "attrs")

    def __init__(self, names: list[bytes], raws: bytes) -> None:
        self.names = names
        self.raws = raws
        self.attrs: bytes | None = None


def begin(fs: FileSystem, node: Node, held: Held, count: int) -> tuple[int, Part, bool]:
    """(open FD, 0: none; the beginning, some `count` bytes of the kernel's dirents; whether that is all).

    What DirWalk fails for, the messages that it stands for tell why.
    """
    if fs.walks_in:
        fd, name = fs.nodes.way_into(node, held)
        try:
            payload, _ = fs.exchange(wire.DIRWALK, wire.DirWalkReq.bytes(fd, count, 1) + wire.Count.bytes(len(name)) + name)
        except OSError as error:
            if error.errno is None:  # Lost
                raise
            if error.errno == EOPNOTSUPP:
                fs.walks_in = False
        else:
            return entered(fs, node, name, payload)
    return opened(fs, node, held), Part([], b""), False


def opened(fs: FileSystem, node: Node, held: Held) -> int:
    """An open FD on a directory."""
    payload, fds = fs.exchange(wire.OPENAT, wire.OpenAtReq.bytes(fs.nodes.fd(node, held), os.O_RDONLY))
    close_all(fds)
    (fdid,) = wire.OpenAtResp.unpack(payload)
    return int(fdid)


def entered(fs: FileSystem, node: Node, name: bytes, payload: bytes) -> tuple[int, Part, bool]:
    """What DirWalk has brought, asked for by that name, b"" for the directory itself."""
    control, fdid, raw, entries, size = wire.DirWalkResp.read(payload)
    try:
        if name:
            fs.nodes.found(node, control, raw)
        at = wire.DirWalkResp.size
        end = at + entries * STATX_SIZE
        names = payload[end : at + size].split(b"\0")
        if len(names) != entries + 1 or names.pop():
            raise struct.error("another number of names than it says")
    except BaseException:
        if fdid:
            fs.nodes.close_later(fdid)
        raise
    return fdid, Part(names, payload[at:end]), not fdid


def go_on(fs: FileSystem, fdid: int, count: int) -> Part | None:
    """What follows, nothing at the end; count < 0: from the beginning. None where the server has no such message."""
    try:
        payload = fs.pool.ask(wire.DIRSTAT, wire.DirStatReq.bytes(fdid, count))
    except OSError as error:
        if error.errno != EOPNOTSUPP:
            raise
        fs.lists_stats = False
        return None
    return _part(payload)


def ask_ahead(stream: Stream, fdid: int, count: int, coming: Coming) -> None:
    """Have the next parts of a far directory sent; count < 0: from its beginning.

    coming: those that are on their way, and when each was asked for.
    """
    now = monotonic()
    if count < 0:
        coming.clear()
        coming.append((now, stream.begin(wire.DIRSTAT, wire.DirStatReq.bytes(fdid, count), keep=True)))
    more = wire.DirStatReq.bytes(fdid, abs(count))
    while len(coming) < _COMING:
        coming.append((now, stream.begin(wire.DIRSTAT, more, keep=True)))
    stream.push()


def take(stream: Stream, coming: Coming) -> tuple[float, Part]:
    """The next of them: (when it was asked for, as `go_on`)."""
    asked, call = coming.popleft()
    return asked, _part(bytes(stream.end(wire.DIRSTAT, call)))


def _part(payload: bytes) -> Part:
    told = raw_dirstats_of(payload)
    return Part([name for name, _ in told], b"".join([raw for _, raw in told]))
