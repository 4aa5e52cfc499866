"""Requests that are not answered yet. A request that was read is answered, whatever happens, or whoever waits for it could not
even be killed: with EIO when it has taken `timeout` seconds, with EINTR soon after the kernel has told that its process was
interrupted. Who takes a request from here answers it; what comes of it later is of no use to the kernel any more.
"""

from __future__ import annotations

import os
from errno import EINTR, EIO

from gofer.fuse import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.state import Reply

_SOON = 3.0  # seconds after an interruption until a request is answered that does not end: most are only slow
_Header = kernel.OutHeader.bytes


class Pending:
    """device: where answers go."""

    def __init__(self, device: int, timeout: float) -> None:
        self._device = device
        self._timeout = timeout
        self._waiting: dict[int, float] = {}
        self._interrupted: dict[int, float] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._waiting or self._interrupted)

    def __contains__(self, unique: int) -> bool:
        return unique in self._waiting

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def begin(self, unique: int, now: float) -> None:
        self._waiting[unique] = now

    def interrupt(self, unique: int, now: float) -> None:
        self._interrupted[unique] = now

    def answer(self, unique: int, code: int, reply: Reply) -> bool:
        """Whether the kernel has it, and no error."""
        if self._waiting.pop(unique, None) is None:  # it was answered in our place
            return False
        if code:
            self.write([_Header(kernel.OutHeader.size, -code, unique)])
            return False
        if isinstance(reply, list):
            size = kernel.OutHeader.size + sum(map(len, reply))
            parts = reply if len(reply) < 64 else [b"".join(reply)]
            return self.write([_Header(size, 0, unique), *parts])
        assert isinstance(reply, bytes)
        return self.write([_Header(kernel.OutHeader.size + len(reply), 0, unique), reply])

    def write(self, parts: list[bytes]) -> bool:
        """False where the kernel does not want it any more."""
        try:
            os.writev(self._device, parts)
        except OSError:
            return False
        return True

    def look(self, now: float) -> None:
        """Answer what has taken too long."""
        for unique, began in list(self._waiting.items()):
            told = self._interrupted.get(unique)
            if told is not None and now - told > _SOON:
                self._give_up(unique, EINTR)
            elif self._timeout and now - began > self._timeout:
                self._give_up(unique, EIO)
        for unique, told in list(self._interrupted.items()):
            if unique not in self._waiting and now - told > _SOON:  # also one that was told of before it was read
                self._interrupted.pop(unique, None)

    def _give_up(self, unique: int, code: int) -> None:
        if self._waiting.pop(unique, None) is not None:
            self.write([_Header(kernel.OutHeader.size, -code, unique)])
