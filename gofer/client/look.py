"""Looking for what is about to come for a while before sleeping on it: the client's side of what server/busypoll.py does.

Most answers are there within less time than it takes to fall asleep and to be woken. Looking costs cpu time, and the
interpreter's lock: so it is not done

*   on one cpu, where nobody else can run meanwhile, and on machines that may load the rest of a window before its first word;
*   where another channel of this process was asked since: two threads would hold each other up by that lock;
*   for a number of times after one look in vain, or after the cpu was lost to somebody else (a hole in the time it sees):
    twice as many each time, up to `_REST`, and half as many after each that found something.
"""

from __future__ import annotations

import os
from time import monotonic as now

from gofer.sys import MACHINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST = 100e-6  # seconds; most requests are answered within 20 to 60 microseconds
HOLE = 15e-6  # between two looks, which are a tenth of a microsecond apart where nobody else has the cpu
_REST = 1023

_last: list[Any] = [None]  # the Look of the channel that was asked last in this process


def pays() -> bool:
    return len(os.sched_getaffinity(0)) > 1 and MACHINE == "x86_64"


class Look:
    """At one thing, for `most` seconds."""

    __slots__ = ("most", "rest", "_vain")

    def __init__(self, most: float = MOST) -> None:
        self.most = most
        self.rest = 0  # times to come without a look
        self._vain = 0  # how many of these the last look in vain was worth

    def found(self) -> None:
        self._vain >>= 1

    def missed(self) -> None:
        self._vain = self.rest = min(2 * self._vain + 1, _REST)

    def while_one(self, words: memoryview) -> None:
        """Return as soon as words[0] is not 1 any more, or it is time to sleep."""
        if _last[0] is not self:
            _last[0] = self
            return
        if self.rest:
            self.rest -= 1
            return
        before = now()
        until = before + self.most
        while words[0] == 1:
            time = now()
            if time > until or time - before > HOLE:
                self.missed()
                return
            before = time
        self._vain >>= 1
