"""Attributes as the kernel wants them: struct statx in, or a host's fd; what the kernel's protocol has for it out."""

from __future__ import annotations

import os
import struct

from gofer.fuse import kernel
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.fuse.nodes import Node
    from gofer.fuse.state import Options

_STATX = struct.Struct("<II8xIIIH2x8xQQ8x" + "qI4x" * 4 + "IIII")
_ATTR = "".join(kernel.Attr.codes.values())
_ENTRY = "".join(code for code in kernel.EntryOut.codes.values() if code != kernel.ATTR) + _ATTR
_Entry, _Attr = struct.Struct("<" + _ENTRY), struct.Struct("<QI4x" + _ATTR)
_Told = struct.Struct("<" + "".join(kernel.OutHeader.codes.values()) + _ENTRY)
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_BLOCKS = frozenset(1 << bits for bits in range(9, 21))  # sizes that the kernel takes
YEAR = 365 * 86400


class View:
    """valid: seconds that the kernel takes it for true. lasting: what came a moment ago may be, too, for as long."""

    def __init__(self, options: Options) -> None:
        self.valid = {"none": 0, "auto": 1, "always": YEAR}[options.cache]
        self._uid, self._gid, self._mask = options.uid, options.gid, ~options.umask

    def _fields(self, node: Node, raw: Any) -> tuple[Any, ...]:
        (
            _, blksize, nlink, uid, gid, mode, size, blocks,
            asec, ansec, _, _, csec, cnsec, msec, mnsec, major, minor, _, _,
        ) = _STATX.unpack(raw)  # fmt: skip
        if self._uid != NO_ID:
            uid = self._uid
        if self._gid != NO_ID:
            gid = self._gid
        if blksize not in _BLOCKS:
            blksize = 4096
        device = kernel.device_number(major, minor) if major or minor else 0
        return (
            node.ino, size, blocks, asec, msec, csec, ansec, mnsec, cnsec, mode & self._mask, nlink, uid, gid, device, blksize, 0,
        )  # fmt: skip

    def entry(self, node: Node, raw: Any, left: float = 0) -> bytes:
        """struct fuse_entry_out. left: seconds below 1 that it is good for; 0: as long as others."""
        if left:
            nanoseconds = min(int(left * 1e9), 999_999_999)
            return _Entry.pack(node.id, 0, 0, 0, nanoseconds, nanoseconds, *self._fields(node, raw))
        valid = self.valid
        return _Entry.pack(node.id, 0, valid, valid, 0, 0, *self._fields(node, raw))

    def told(self, unique: int, node: Node, raw: Any, left: float) -> bytes:
        """The whole reply to a LOOKUP. left: seconds below 1 that it is good for."""
        nanoseconds = int(left * 1e9)
        return _Told.pack(_Told.size, 0, unique, node.id, 0, 0, 0, nanoseconds, nanoseconds, *self._fields(node, raw))

    def attr(self, node: Node, raw: Any, valid: int = YEAR) -> bytes:
        """struct fuse_attr_out. valid: seconds at most."""
        return _Attr.pack(min(self.valid, valid), 0, *self._fields(node, raw))

    def attr_of_host(self, node: Node, host: int) -> bytes:
        """As `attr`, of a donated fd: without the server."""
        found = os.fstat(host)
        (asec, ansec), (msec, mnsec), (csec, cnsec) = (
            divmod(each, 10**9) for each in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        )
        uid = found.st_uid if self._uid == NO_ID else self._uid
        gid = found.st_gid if self._gid == NO_ID else self._gid
        blksize = found.st_blksize if found.st_blksize in _BLOCKS else 4096
        return _Attr.pack(
            self.valid, 0, node.ino, found.st_size, found.st_blocks, asec, msec, csec, ansec, mnsec, cnsec,
            found.st_mode & self._mask, found.st_nlink, uid, gid, 0, blksize, 0,
        )  # fmt: skip

    def statx(self, node: Node, raw: bytearray) -> None:
        """As `attr`, in a struct statx: what the options change."""
        if self._uid != NO_ID:
            _U32.pack_into(raw, 20, self._uid)
        if self._gid != NO_ID:
            _U32.pack_into(raw, 24, self._gid)
        raw[28] &= self._mask & 0xFF
        raw[29] &= self._mask >> 8 & 0xFF
        _U64.pack_into(raw, 32, node.ino)
