"""What a file is known by: its inode number as the kernel gets it, its time of birth, its mode."""

from __future__ import annotations

import struct

from gofer.wire import STATX_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    Identity = tuple[int, int, int]

_SEEN = struct.Struct("<I24xH2xQ40xqI44xQ")  # of struct statx: mask, mode, ino, btime, dev
_MODE, _INO, _BTIME, _BTIME_NSEC, _DEV = 28, 32, 80, 88, 136  # where these are, in bytes
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
        device = self._device(on)
        if device:  # so that two files on two devices are not taken for two names of one
            ino = ino ^ device << 48 & 0xFFFFFFFFFFFFFFFF
        born = seconds * 10**9 + nanoseconds & _BORN if mask & _HAS_BTIME else 0
        return ino, born, self._modes.setdefault(mode, mode)

    def of_all(self, raws: bytes) -> list[Identity]:
        """The same of each, a column at a time where they are alike."""
        given, every = memoryview(raws), STATX_SIZE
        words, longs = given.cast("I"), given.cast("Q")
        devices = set(longs[_DEV // 8 :: every // 8].tolist())
        if any(map(self._device, devices)) or not all(mask & _HAS_BTIME for mask in words[:: every // 4].tolist()):
            return [self.of(raws, at) for at in range(0, len(raws), every)]
        numbers, modes = longs[_INO // 8 :: every // 8].tolist(), given.cast("H")[_MODE // 2 :: every // 2].tolist()
        seconds = given.cast("q")[_BTIME // 8 :: every // 8].tolist()
        nanoseconds, intern = words[_BTIME_NSEC // 4 :: every // 4].tolist(), self._modes.setdefault
        return [
            (ino, second * 10**9 + nanosecond & _BORN, intern(mode, mode))
            for ino, second, nanosecond, mode in zip(numbers, seconds, nanoseconds, modes)
        ]

    def _device(self, on: int) -> int:
        device = self._devices.get(on)
        return self._devices.setdefault(on, len(self._devices)) if device is None else device
