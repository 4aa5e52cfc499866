"""Getdents64."""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from errno import EINVAL, ENOENT, ENOTDIR

from gofer import mounts, sys
from gofer.sys import AT_SYMLINK_NOFOLLOW, get_errno, statx
from gofer.wire import Count, Dirent, Getdents64Req

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.comm import Communicator
    from gofer.fds import OpenFD

# struct linux_dirent64: ino[8] off[8] reclen[2] type[1] name, NUL, padded to 8
_KERNEL = struct.Struct("<QqHB")
_NAME = _KERNEL.size
_DEVICE, _DEVICE_OFFSET = struct.Struct("<II"), sys.Statx.stx_dev_major.offset
_CHUNK = 32768  # bytes of one kernel read; fits the communicator's scratch memory
# A kernel dirent takes 24 bytes or more, on the wire one of 24 takes 28: so at most 65535 entries, which the u16 count
# can say, and less than the message size.
_MOST = 65535 * 24

_codes: dict[int, Callable[..., None]] = {}  # by name length: pack of a whole Dirent


def getdents64(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """|count| bytes of kernel dirents, from the start where count < 0; `.` and `..` are left out. 0 entries: the end."""
    fdid, count = Getdents64Req.unpack(req)
    file = comm.opened[fdid]
    if file.node.kind != stat.S_IFDIR:
        raise OSError(ENOTDIR, "not a directory")
    if count == -(1 << 31):
        raise OSError(EINVAL, "count out of range")
    if count < 0:
        os.lseek(file.host, 0, os.SEEK_SET)
        file.device = None
        count = -count
    if file.device is None:
        file.device = _common_device(comm, file)
    count = min(count, _MOST)
    buffer = comm.scratch()
    address = ctypes.addressof(buffer)
    entries, at, read = 0, Count.size, 0
    while read < count or not entries:  # a read that held only `.` and `..` is not the end
        try:
            size = sys.getdents64(file.host, address, min(count - read if entries else count, _CHUNK))
        except OSError as e:
            if e.errno == EINVAL and entries:  # too small for the next entry: it comes next time
                break
            raise
        if not size:
            break
        made, at = _convert(comm, file, ctypes.string_at(buffer, size), reply, at)
        entries += made
        read += size
    Count.pack(reply, 0, entries)
    return at


def _convert(comm: Communicator, file: OpenFD, raw: bytes, reply: memoryview, at: int) -> tuple[int, int]:
    """Write the kernel's dirents `raw` to the reply from `at`; returns how many, and the offset behind them."""
    read, find, codes, end = _KERNEL.unpack_from, raw.index, _codes, len(raw)
    device = file.device
    major, minor = device or (0, 0)
    entries = here = 0
    while here < end:
        ino, off, reclen, kind = read(raw, here)
        start = here + _NAME
        name = raw[start : find(0, start)]
        here += reclen
        if name == b"." or name == b"..":
            continue
        if not device:
            if statx(file.host, name, AT_SYMLINK_NOFOLLOW, 0, comm.statx_buffer):
                if get_errno() == ENOENT:  # vanished meanwhile
                    continue
                sys.raise_errno()
            major, minor = _DEVICE.unpack_from(comm.statx_bytes, _DEVICE_OFFSET)
        length = len(name)
        pack = codes.get(length)
        if pack is None:
            pack = codes[length] = struct.Struct(f"<QIIQBH{length}s").pack_into
        pack(reply, at, ino, minor, major, off, kind, length, name)
        at += Dirent.size + length
        entries += 1
    return entries, at


def _common_device(comm: Communicator, file: OpenFD) -> tuple[int, ...]:
    """(major, minor) that every entry of the directory has, or () where each must be asked."""
    if not mounts.one_device(file.host, comm.export.root.host):
        return ()
    comm.stat(file.host)
    return _DEVICE.unpack_from(comm.statx_bytes, _DEVICE_OFFSET)
