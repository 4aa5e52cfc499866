"""The codec of the independent client: records and layouts from the protocol page (docs/lisafs.md). No I/O; see peer.py."""

from __future__ import annotations

import enum
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Union

MAX_MESSAGE = (2 << 20) - 4096
NO_ID = 0xFFFFFFFF
# statx mask bits, as SetStat uses them
MODE, UID, GID, SIZE, ATIME, MTIME = 0x2, 0x8, 0x10, 0x200, 0x20, 0x40
Name = Union[str, bytes, "os.PathLike[str]"]


class Unexpected(AssertionError):
    """The server has done otherwise than the protocol says; the text tells what."""


class NotOffered(Exception):
    """The server has said at Mount that it has no such message; the text is the message's name."""


def expect(condition: object, what: str) -> None:
    """Not `assert`, which an interpreter may be told to leave out."""
    if not condition:
        raise Unexpected(what)


class Mid(enum.IntEnum):
    """The message ids."""

    ERROR = 0
    MOUNT = 1
    CHANNEL = 2
    FSTAT = 3
    SETSTAT = 4
    WALK = 5
    WALKSTAT = 6
    OPENAT = 7
    OPENCREATEAT = 8
    CLOSE = 9
    FSYNC = 10
    PWRITE = 11
    PREAD = 12
    MKDIRAT = 13
    MKNODAT = 14
    SYMLINKAT = 15
    LINKAT = 16
    FSTATFS = 17
    FALLOCATE = 18
    READLINKAT = 19
    FLUSH = 20
    CONNECT = 21
    UNLINKAT = 22
    RENAMEAT = 23
    GETDENTS64 = 24
    FGETXATTR = 25
    FSETXATTR = 26
    FLISTXATTR = 27
    FREMOVEXATTR = 28
    BINDAT = 29
    LISTEN = 30
    ACCEPT = 31
    CONNECTWITHCREDS = 32
    RENAMEAT2 = 33
    DIRREAD = 67  # gofer's own, as are all that follow
    DIRWRITE = 68
    DIRRENAME = 69
    DIRWALK = 70
    DIRSTAT = 71


OWN = frozenset(mid for mid in Mid if mid >= Mid.DIRREAD)


class Stat(NamedTuple):
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
    pads: tuple[int, ...]


class Inode(NamedTuple):
    fd: int
    stat: Stat


class Mounted(NamedTuple):
    root: Inode
    max_message_size: int
    supported: list[int]
    donated: list[int]


class Opened(NamedTuple):
    fd: int
    donated: list[int]


class Created(NamedTuple):
    inode: Inode
    fd: int
    donated: list[int]


class StatFS(NamedTuple):
    type: int
    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    namelen: int


class Dirent(NamedTuple):
    ino: int
    dev: tuple[int, int]
    off: int
    type: int
    name: bytes


class Reader:
    """Takes a reply apart. `done` insists that nothing is left over. count, wide: how counts, and FDs alone, are written."""

    count, wide = "H", "Q"

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> Any:
        layout = "<" + layout
        size = struct.calcsize(layout)
        expect(self.at + size <= len(self.data), f"the reply ends early: {len(self.data)} bytes")
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return values if len(values) > 1 else values[0]

    def string(self) -> bytes:
        return bytes(self.take(f"{self.take('H')}s"))

    def stat(self) -> Stat:
        mask, blksize, attributes, nlink, uid, gid, mode, pad = self.take("IIQIIIHH")
        ino, size, blocks, attributes_mask = self.take("QQQQ")
        atime, btime, ctime, mtime = (self.take("qII") for _ in range(4))
        rdev, dev = self.take("II"), self.take("II")
        pads = (pad, atime[2], btime[2], ctime[2], mtime[2])
        return Stat(
            mask,
            blksize,
            attributes,
            nlink,
            uid,
            gid,
            mode,
            ino,
            size,
            blocks,
            attributes_mask,
            atime[:2],
            btime[:2],
            ctime[:2],
            mtime[:2],
            rdev,
            dev,
            pads,
        )

    def inode(self) -> Inode:
        return Inode(self.take("Q"), self.stat())

    def rest(self) -> bytes:
        self.at, at = len(self.data), self.at
        return self.data[at:]

    def done(self) -> None:
        expect(self.at == len(self.data), f"{len(self.data) - self.at} bytes after the end of the reply")


def string(value: Name) -> bytes:
    raw = os.fsencode(value)
    return struct.pack("<H", len(raw)) + raw


def strings(values: Iterable[Name]) -> bytes:
    raw = [string(value) for value in values]
    return struct.pack("<H", len(raw)) + b"".join(raw)


def fdids(fds: Sequence[int]) -> bytes:
    return struct.pack(f"<H{len(fds)}Q", len(fds), *fds)


def create(dir_fd: int, mode: int, uid: int, gid: int) -> bytes:
    return struct.pack("<QIIH6x", dir_fd, uid, gid, mode)
