"""Getdents64."""

from __future__ import annotations

import os
import stat
import struct
from errno import EINVAL, EIO, ENOENT, ENOTDIR

from gofer import sys
from gofer.server import mounts
from gofer.server.kernelfs import KIND
from gofer.sys import AT_SYMLINK_NOFOLLOW, get_errno, statx
from gofer.wire import MAX_MESSAGE_SIZE, Count, Dirent, Getdents64Req

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.server.comm import Communicator
    from gofer.server.fds import OpenFD
    from gofer.wire import Record

# struct linux_dirent64: ino[8] off[8] reclen[2] type[1] name, NUL, padded to 8. What only passes through stays bytes.
_KERNEL = struct.Struct("<8s8sHB")
_NAME = _KERNEL.size
_MAJOR, _MINOR = sys.Statx.stx_dev_major.offset, sys.Statx.stx_dev_minor.offset
_CHUNK = 32768  # bytes of one kernel read; fits the communicator's scratch memory
_LEAST, _LETTERS = 24, 4  # bytes that a kernel dirent takes at least, with a name of at most so many: on the wire it grows most
# Reads in a row that may bring no entry, but `.` and `..`, or what has vanished. A file system can go on like that for ever.
_VAIN = 1000


class Codes(dict):  # type: ignore[type-arg]
    """By length of the name: pack of a whole Dirent, of which head are the bytes before the name.

    most: bytes of kernel dirents that fit a message when converted, and are no more entries than today's u16 count can say.
    """

    __slots__ = ("_length", "head", "most")

    def __init__(self, record: Record) -> None:
        super().__init__()
        self.head = record.size
        self.most = min(65535, (MAX_MESSAGE_SIZE - 4) // (record.size + _LETTERS)) * _LEAST
        self._length = record.codes["name_len"]

    def __missing__(self, length: int) -> Callable[..., None]:
        pack = self[length] = struct.Struct(f"<8s8s8sB{self._length}{length}s").pack_into  # ino, device, off...
        return pack


_codes = Codes(Dirent)


def getdents64(
    comm: Communicator, req: memoryview, reply: memoryview,
    request: Record = Getdents64Req, answer: Record = Count, codes: Codes = _codes,
) -> int:  # fmt: skip
    """|count| bytes of kernel dirents, from the start where count < 0; `.` and `..` are left out. 0 entries: the end."""
    fdid, count = request.unpack(req)
    file = comm.opened[fdid]
    if file.node.kind & KIND != stat.S_IFDIR:
        raise OSError(ENOTDIR, "not a directory")
    if count == -(1 << 31):
        raise OSError(EINVAL, "count out of range")
    if count < 0:
        os.lseek(file.host, 0, os.SEEK_SET)
        file.device = None
        count = -count
    if file.device is None:
        file.device = _common_device(comm, file)
    count = min(count, codes.most)
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
        made, at = _convert(comm, file, bytes(found[:size]), reply, at, codes)
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
