"""Attributes as the kernel wants them: struct statx in, or a host's fd; what the kernel's protocol has for it out."""

from __future__ import annotations

import os
import struct

from gofer.fuse import kernel
from gofer.wire import NO_ID, STATX_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.fuse.node import Node
    from gofer.fuse.scan import Part
    from gofer.fuse.state import Options

_STATX = struct.Struct("<II8xIIIH2x8xQQ8x" + "qI4x" * 4 + "IIII")
_Told = struct.Struct("<" + "".join([*kernel.OutHeader.codes.values(), *kernel.EntryOut.codes.values()]))
_pack_told, _TOLD = _Told.pack, _Told.size
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_BLOCKS = frozenset(1 << bits for bits in range(9, 21))  # sizes that the kernel takes
_ATTR = kernel.Attr.size
# Where in struct statx the fields of struct fuse_attr are, in bytes; mode has two of them, and device numbers are put otherwise.
_PLACES = {
    "ino": 32, "size": 40, "blocks": 48, "atime": 64, "mtime": 112, "ctime": 96, "atimensec": 72, "mtimensec": 120,
    "ctimensec": 104, "nlink": 16, "uid": 20, "gid": 24, "blksize": 4,
}  # fmt: skip
_MODE, _BLKSIZE, _RDEV, _DEV = 28, 4, 128, 136
YEAR = 365 * 86400


def _words() -> tuple[list[tuple[int, int]], int]:
    """(where each word of a struct fuse_attr is, and where in a struct statx), and where the mode of a struct fuse_attr is."""
    at, words, mode = 0, [], 0
    for name, code in kernel.Attr.codes.items():
        size = struct.calcsize(code)
        words += [((at + i) // 4, (_PLACES[name] + i) // 4) for i in range(0, size, 4) if name in _PLACES]
        mode = at if name == "mode" else mode
        at += size
    return words, mode


_WORDS, _MODE_TO = _words()


class View:
    """valid: seconds that the kernel takes it for true. root: the struct statx of the tree's."""

    def __init__(self, options: Options, root: bytes) -> None:
        self.valid = {"none": 0, "auto": 1, "always": YEAR}[options.cache]
        self._uid, self._gid, self._mask = options.uid, options.gid, ~options.umask
        self._plain = options.uid == options.gid == NO_ID and not options.umask
        self._device = _U64.unpack_from(root, _DEV)[0]

    def _fields(self, ino: int, raw: Any) -> tuple[Any, ...]:
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
            ino, size, blocks, asec, msec, csec, ansec, mnsec, cnsec, mode & self._mask, nlink, uid, gid, device, blksize, 0,
        )  # fmt: skip

    def _attr(self, ino: int, raw: Any) -> bytes:
        return kernel.Attr.bytes(*self._fields(ino, raw))

    def entry(self, node: Node, raw: Any, left: float = 0) -> bytes:
        """struct fuse_entry_out. left: seconds below 1 that it is good for; 0: as long as others."""
        return self._entry(node, self._attr(node.ino, raw), left)

    def entry_at(self, node: Node, part: Part, index: int, left: float) -> bytes:
        """As `entry`, of one of those that came together."""
        return self._entry(node, self._attr_at(node.ino, part, index), left)

    def _entry(self, node: Node, attr: bytes, left: float) -> bytes:
        if left:
            nanoseconds = min(int(left * 1e9), 999_999_999)
            return kernel.EntryOut.bytes(node.id, 0, 0, 0, nanoseconds, nanoseconds, attr)
        return kernel.EntryOut.bytes(node.id, 0, self.valid, self.valid, 0, 0, attr)

    def told(self, unique: int, number: int, ino: int, part: Part, index: int, left: float) -> bytes:
        """The whole reply to a LOOKUP. number: the node's; left: seconds below 1 that it is good for."""
        nanoseconds, attrs = int(left * 1e9), part.attrs
        attr = attrs[index * _ATTR : (index + 1) * _ATTR] if attrs else self._attr_at(ino, part, index)
        return _pack_told(_TOLD, 0, unique, number, 0, 0, 0, nanoseconds, nanoseconds, attr)

    def _attr_at(self, ino: int, part: Part, index: int) -> bytes:
        if part.attrs is None:
            part.attrs = self.all_of(part.raws)
        if part.attrs:
            return part.attrs[index * _ATTR : (index + 1) * _ATTR]
        return self._attr(ino, part.raws[index * STATX_SIZE : (index + 1) * STATX_SIZE])

    def all_of(self, raws: bytes) -> bytes:
        """struct fuse_attr of each struct statx, a column at a time, which takes a tenth of the steps; b"" where one is not like
        the others: on another device, or a device itself, or with what is to be shown otherwise than it is.
        """
        if not self._plain:
            return b""
        given = memoryview(raws)
        halves, words, longs = given.cast("H"), given.cast("I"), given.cast("Q")
        every = STATX_SIZE // 4
        if (
            set(longs[_DEV // 8 :: every // 2].tolist()) != {self._device}
            or any(longs[_RDEV // 8 :: every // 2].tolist())
            or not _BLOCKS.issuperset(words[_BLKSIZE // 4 :: every].tolist())
        ):
            return b""
        made = memoryview(bytearray(len(raws) // STATX_SIZE * _ATTR))
        into = made.cast("I")
        for to, place in _WORDS:
            into[to :: _ATTR // 4] = words[place::every]
        made.cast("H")[_MODE_TO // 2 :: _ATTR // 2] = halves[_MODE // 2 :: every * 2]
        return bytes(made)

    def attr(self, node: Node, raw: Any, valid: int = YEAR) -> bytes:
        """struct fuse_attr_out. valid: seconds at most."""
        return kernel.AttrOut.bytes(min(self.valid, valid), 0, self._attr(node.ino, raw))

    def attr_of_host(self, node: Node, host: int) -> bytes:
        """As `attr`, of a donated fd: without the server."""
        found = os.fstat(host)
        (asec, ansec), (msec, mnsec), (csec, cnsec) = (
            divmod(each, 10**9) for each in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
        )
        uid = found.st_uid if self._uid == NO_ID else self._uid
        gid = found.st_gid if self._gid == NO_ID else self._gid
        blksize = found.st_blksize if found.st_blksize in _BLOCKS else 4096
        attr = kernel.Attr.bytes(
            node.ino, found.st_size, found.st_blocks, asec, msec, csec, ansec, mnsec, cnsec, found.st_mode & self._mask,
            found.st_nlink, uid, gid, 0, blksize, 0,
        )  # fmt: skip
        return kernel.AttrOut.bytes(self.valid, 0, attr)

    def statx(self, node: Node, raw: bytearray) -> None:
        """As `attr`, in a struct statx: what the options change."""
        if self._uid != NO_ID:
            _U32.pack_into(raw, 20, self._uid)
        if self._gid != NO_ID:
            _U32.pack_into(raw, 24, self._gid)
        raw[28] &= self._mask & 0xFF
        raw[29] &= self._mask >> 8 & 0xFF
        _U64.pack_into(raw, 32, node.ino)
