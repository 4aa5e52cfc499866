"""What a client gets back: the structures of replies, as named tuples. (Typing's would cost each command 4 ms.)"""

from __future__ import annotations

import struct
from collections import namedtuple

from gofer import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.wire import Record


class Stat(namedtuple("Stat", (
    "mask", "blksize", "attributes", "nlink", "uid", "gid", "mode", "ino", "size", "blocks", "attributes_mask",
    "atime", "btime", "ctime", "mtime", "rdev", "dev",
))):  # fmt: skip
    """struct statx (statx(2)); times are (seconds, nanoseconds), devices (major, minor)."""

    __slots__ = ()
    mask: int
    blksize: int
    attributes: int
    nlink: int
    uid: int
    gid: int
    mode: int
    ino: int
    size: int
    blocks: int
    attributes_mask: int
    atime: tuple[int, int]
    btime: tuple[int, int]
    ctime: tuple[int, int]
    mtime: tuple[int, int]
    rdev: tuple[int, int]
    dev: tuple[int, int]


class Inode(namedtuple("Inode", "fd stat")):
    """fd: the control FD."""

    __slots__ = ()
    fd: int
    stat: Stat


class Dirent(namedtuple("Dirent", "ino dev off type name")):
    """dev: (major, minor); off: where the next entry begins; type: DT_* (readdir(3))."""

    __slots__ = ()
    ino: int
    dev: tuple[int, int]
    off: int
    type: int
    name: bytes


class StatFS(namedtuple("StatFS", "type bsize blocks bfree bavail files ffree namelen")):
    """statfs(2)."""

    __slots__ = ()
    type: int
    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    namelen: int


class DirWalk(namedtuple("DirWalk", "node opened names types stats")):
    """opened: the open FD where there is more, 0 where that is all. types: DT_* of each name, unless stats were asked for."""

    __slots__ = ()
    node: Inode
    opened: int
    names: list[bytes]
    types: bytes
    stats: list[Stat]


_STATX = struct.Struct("<IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII")


def stat_of(raw: Any) -> Stat:
    return _made(_STATX.unpack(raw))


def stat_at(raw: Any, at: int) -> Stat:
    return _made(_STATX.unpack_from(raw, at))


def stats_of(raw: Any) -> list[Stat]:
    """Of one statx after the other."""
    return [*map(_made, _STATX.iter_unpack(raw))]


def _made(v: tuple[Any, ...]) -> Stat:
    return _new(Stat, (*v[:11], v[11:13], v[13:15], v[15:17], v[17:19], v[19:21], v[21:23]))


_new = tuple.__new__  # as Stat._make, without its checks: there are thousands


def dirents_of(payload: bytes, count: Record = wire.Count, dirent: Record = wire.Dirent) -> list[Dirent]:
    """Of the answer to a Getdents64. count, dirent: as its dialect has them."""
    (entries,) = count.read(payload)
    found, at = [], count.size
    for _ in range(entries):
        ino, minor, major, off, kind, size = dirent.read(payload, at)
        at += dirent.size
        found.append(Dirent(ino, (major, minor), off, kind, payload[at : at + size]))
        at += size
    return found


def names_and_types_of(payload: bytes) -> tuple[list[bytes], bytes] | None:
    """Of the answer to a Getdents64, what nearly all want of it; None where it has no entry."""
    (count,) = wire.Count.read(payload)
    at, head, read = wire.Count.size, wire.Dirent.size, _TYPE_AND_LENGTH.unpack_from
    names, types = [], bytearray()
    for _ in range(count):
        kind, size = read(payload, at)
        at += head
        names.append(payload[at : at + size])
        types.append(kind)
        at += size
    return (names, bytes(types)) if names else None


_TYPE_AND_LENGTH = struct.Struct("<24xBH")  # of a Dirent


def dirstats_of(payload: bytes) -> list[tuple[bytes, Stat]]:
    """Of the answer to a DirStat."""
    return [(name, stat_of(raw)) for name, raw in raw_dirstats_of(payload)]


def raw_dirstats_of(payload: bytes) -> list[tuple[bytes, bytes]]:
    """As `dirstats_of`, each struct statx as it came. struct.error where the answer is cut off."""
    (entries,) = wire.Count.read(payload)
    found = []
    at, read, head = wire.Count.size, wire.DirStatEntry.read, wire.DirStatEntry.size
    for _ in range(entries):
        _, raw, size = read(payload, at)
        at += head + size
        name = payload[at - size : at]
        if len(name) != size:
            raise struct.error("a name that is cut off")
        found.append((name, raw))
    return found
