"""Getdents64, and our own DirStat."""

from __future__ import annotations

import os
import stat
import struct
from errno import EINVAL, EIO, ENOENT, ENOTDIR

from gofer import sys
from gofer.server import mounts
from gofer.server.fds import WALKABLE
from gofer.server.kernelfs import KIND
from gofer.sys import AT_SYMLINK_NOFOLLOW, get_errno, statx
from gofer.wire import MAX_MESSAGE_SIZE, STATX_SIZE, Count, Dirent, DirStatEntry, DirStatReq, Getdents64Req

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.server.comm import Communicator
    from gofer.server.fds import OpenFD
    from gofer.wire import Record

    Convert = Callable[[Communicator, OpenFD, bytes, memoryview, int, "Codes"], tuple[int, int]]

# struct linux_dirent64: ino[8] off[8] reclen[2] type[1] name, NUL, padded to 8. What only passes through stays bytes.
_KERNEL = struct.Struct("<8s8sHB")
_NAME = _KERNEL.size
_UNTOLD = struct.Struct("<28xH2x8s104x")  # stx_mode, stx_ino
_MAJOR, _MINOR = sys.Statx.stx_dev_major.offset, sys.Statx.stx_dev_minor.offset
_CHUNK = 32768  # bytes of one kernel read; fits the communicator's scratch memory
_LEAST, _LETTERS = 24, 4  # bytes that a kernel dirent takes at least, with a name of at most so many: on the wire it grows most
# Reads in a row that may bring no entry, but `.` and `..`, or what has vanished. A file system can go on like that for ever.
_VAIN = 1000


class Codes(dict):  # type: ignore[type-arg]
    """By length of the name: pack of a whole Dirent, of which head are the bytes before the name.

    most: bytes of kernel dirents that fit a message when converted, and are no more entries than today's u16 count can say.
    """

    __slots__ = ("_fields", "head", "most")

    def __init__(self, record: Record, fields: str = "8s8s8sB") -> None:  # ino, device, off...
        super().__init__()
        self.head = record.size
        self.most = min(65535, (MAX_MESSAGE_SIZE - 4) // (record.size + _LETTERS)) * _LEAST
        self._fields = fields + record.codes["name_len"]

    def __missing__(self, length: int) -> Callable[..., None]:
        pack = self[length] = struct.Struct(f"<{self._fields}{length}s").pack_into
        return pack


_codes = Codes(Dirent)
_stats = Codes(DirStatEntry, "8s144s")


def getdents64(
    comm: Communicator, req: memoryview, reply: memoryview,
    request: Record = Getdents64Req, answer: Record = Count, codes: Codes = _codes,
) -> int:  # fmt: skip
    """|count| bytes of kernel dirents, from the start where count < 0; `.` and `..` are left out. 0 entries: the end."""
    fdid, count = request.unpack(req)
    file = _rewound(comm, fdid, count)
    if file.device is None:
        file.device = _common_device(comm, file)
    return _listed(comm, file, count, reply, answer, codes, _convert)


def dirstat(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """As Getdents64, with what WalkStat tells of each entry: one message for what would be one for each name.

    An entry that WalkStat fails for has nothing but its type and inode number (and a mask of 0): the directory tells these.
    """
    fdid, count = DirStatReq.unpack(req)
    return _listed(comm, _rewound(comm, fdid, count), count, reply, Count, _stats, _convert_stats)


def _rewound(comm: Communicator, fdid: int, count: int) -> OpenFD:
    """The open directory, at its start where count < 0."""
    file = comm.opened[fdid]
    if file.node.kind & KIND != stat.S_IFDIR:
        raise OSError(ENOTDIR, "not a directory")
    if count == -(1 << 31):
        raise OSError(EINVAL, "count out of range")
    if count < 0:
        os.lseek(file.host, 0, os.SEEK_SET)
        file.device = None
    return file


def _listed(
    comm: Communicator, file: OpenFD, count: int, reply: memoryview, answer: Record, codes: Codes, convert: Convert
) -> int:  # fmt: skip
    """Kernel dirents, read and converted until the reply has what was asked for; returns its size."""
    count = min(abs(count), codes.most)
    buffer, found = comm.scratch()
    entries, at, read, vain = 0, answer.size, 0, 0
    while read < count or not entries:  # a read that held only `.` and `..` is not the end
        if vain > _VAIN or comm.table.closing:
            raise OSError(EIO, "a directory without an end")
        try:
            size = sys.getdents64(file.host, buffer, min(count - read if entries else count, _CHUNK))
        except OSError as e:
            if e.errno == EINVAL and entries:  # too small for the next entry: it comes next time
                break
            raise
        if not size:
            break
        made, at = convert(comm, file, bytes(found[:size]), reply, at, codes)
        entries += made
        vain = 0 if made else vain + 1
        read += size
    answer.pack(reply, 0, entries)
    return at


def _convert(
    comm: Communicator, file: OpenFD, raw: bytes, reply: memoryview, at: int, codes: Codes
) -> tuple[int, int]:  # fmt: skip

    """Write the kernel's dirents `raw` to the reply from `at`; returns how many, and the offset behind them."""
    read, find, end, name_at, head = _KERNEL.unpack_from, raw.index, len(raw), _NAME, codes.head
    common = device = file.device or b""
    entries = here = 0
    while here < end:
        ino, off, reclen, kind = read(raw, here)
        start = here + name_at
        name = raw[start : find(0, start)]
        here += reclen
        length = len(name)
        if length < 3 and (name == b"." or name == b".."):
            continue
        if not common:
            if statx(file.host, name, AT_SYMLINK_NOFOLLOW, 0, comm.statx_buffer):
                if get_errno() == ENOENT:  # vanished meanwhile
                    continue
                sys.raise_errno()
            device = _device(comm)
        codes[length](reply, at, ino, device, off, kind, length, name)
        at += head + length
        entries += 1
    return entries, at


def _convert_stats(
    comm: Communicator, file: OpenFD, raw: bytes, reply: memoryview, at: int, codes: Codes
) -> tuple[int, int]:  # fmt: skip
    """As `_convert`, for DirStat."""
    read, find, end, name_at, head = _KERNEL.unpack_from, raw.index, len(raw), _NAME, codes.head
    host, within, look, found = file.host, file.node.kind, comm.stat_child, comm.statx_bytes
    entries = here = 0
    while here < end:
        ino, off, reclen, kind = read(raw, here)
        start = here + name_at
        name = raw[start : find(0, start)]
        here += reclen
        length = len(name)
        if length < 3 and (name == b"." or name == b".."):
            continue
        told = look(host, name) if within == stat.S_IFDIR else _look_within(comm, file, name)
        if told < 0 and get_errno() == ENOENT:  # vanished meanwhile
            continue
        if told in WALKABLE:
            codes[length](reply, at, off, found[:STATX_SIZE], length, name)
        else:  # -1, or a block device, which is not served
            codes[length](reply, at, off, _untold(ino, kind), length, name)
        at += head + length
        entries += 1
    return entries, at


def _look_within(comm: Communicator, file: OpenFD, name: bytes) -> int:
    """`stat_child` in what is no ordinary directory; see kernelfs.py. 0 where nothing may be looked at there."""
    try:
        comm.enter(file.node.host, file.node.kind, name)
    except OSError:
        return 0
    return comm.stat_child(file.host, name)


def _untold(ino: bytes, kind: int) -> bytes:
    """A Statx without a mask: the type of a file, and its inode number."""
    return _UNTOLD.pack(kind << 12, ino)


def _common_device(comm: Communicator, file: OpenFD) -> bytes:
    """The device that every entry of the directory has, or b"" where each must be asked."""
    if not mounts.one_device(file.host, comm.export.root.host):
        return b""
    comm.stat(file.host)
    return _device(comm)


def _device(comm: Communicator) -> bytes:
    """Of the last statx, as on the wire: dev_minor[4] dev_major[4]."""
    found = comm.statx_bytes
    return bytes(found[_MINOR : _MINOR + 4] + found[_MAJOR : _MAJOR + 4])
