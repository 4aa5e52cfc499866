"""What a file is known by: its inode number as the kernel gets it, its time of birth, its mode."""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    Identity = tuple[int, int, int]

_SEEN = struct.Struct("<I24xH2xQ40xqI44xQ")  # of struct statx: mask, mode, ino, btime, dev
_HAS_BTIME = 0x800
_BORN = (1 << 60) - 1  # nanoseconds, of 36 years: what is larger takes half as much memory again


class Identities:
    """Of one tree."""

    def __init__(self) -> None:
        self._modes: dict[int, int] = {}  # so that each is one object
        self._devices: dict[int, int] = {}

    def of(self, raws: bytes | memoryview, at: int = 0) -> Identity:
        """Of the struct statx that is there."""
        mask, mode, ino, seconds, nanoseconds, on = _SEEN.unpack_from(raws, at)
        device = self._devices.get(on)
        if device is None:
            device = self._devices.setdefault(on, len(self._devices))
        if device:  # so that two files on two devices are not taken for two names of one
            ino = ino ^ device << 48 & 0xFFFFFFFFFFFFFFFF
        born = seconds * 10**9 + nanoseconds & _BORN if mask & _HAS_BTIME else 0
        return ino, born, self._modes.setdefault(mode, mode)
