"""What a client gets back: the structures of replies, as named tuples."""

from __future__ import annotations

import struct
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Stat(NamedTuple):
    """struct statx (statx(2)); times are (seconds, nanoseconds), devices (major, minor)."""

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


class Inode(NamedTuple):
    """fd: the control FD."""

    fd: int
    stat: Stat


class Dirent(NamedTuple):
    """dev: (major, minor); off: where the next entry begins; type: DT_* (readdir(3))."""

    ino: int
    dev: tuple[int, int]
    off: int
    type: int
    name: bytes


class StatFS(NamedTuple):
    """statfs(2)."""

    type: int
    bsize: int
    blocks: int
    bfree: int
    bavail: int
    files: int
    ffree: int
    namelen: int


_STATX = struct.Struct("<IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII")


def stat_of(raw: Any) -> Stat:
    v: tuple[Any, ...] = _STATX.unpack(raw)
    return Stat._make((*v[:11], *zip(v[11:19:2], v[12:19:2]), v[19:21], v[21:23]))
