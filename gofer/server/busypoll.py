"""Busy polling: a channel's thread looks for its next request for a while before it sleeps.

Theory of operation
-------------------
A thread that sleeps has to be woken, and a cpu that has gone idle for it takes longer over that than most RPCs do. A thread
that still looks when the next request comes serves it at once. It pays with cpu time that others may want, and with the
interpreter's lock, which it holds meanwhile. So it does not look

*   on one cpu, where no client can run meanwhile;
*   where another thread of this process has served since it did: they would hold each other up by that lock;
*   for a number of waits after it has looked in vain, or has lost its cpu to somebody else (a hole in the time it sees):
    twice as many each time, up to `_REST`, and half as many after each look that finds something.
"""

from __future__ import annotations

import os
from time import monotonic as now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT = 150  # microseconds; docs/performance.md says what others gave
_HOLE = 15e-6  # seconds between two looks, which are a tenth of a microsecond apart where nobody else has the cpu
_REST = 1023

vain: list[float] = [0.0]  # seconds that threads of this process have looked in vain
last: list[Any] = [None]  # the BusyPoll of the channel that has served last in this process; None: something else did


def microseconds(asked: int | None) -> int:
    """How long to look: as asked, or else DEFAULT; 0, never, where there is one cpu."""
    if len(os.sched_getaffinity(0)) < 2:
        return 0
    return DEFAULT if asked is None else asked


class BusyPoll:
    """One channel's. most: microseconds to look before one wait."""

    __slots__ = ("_most", "_rest", "_vain")

    def __init__(self, most: int) -> None:
        self._most = most / 1e6
        self._rest = 0  # waits to come without a look
        self._vain = 0  # how many of these the last look in vain was worth

    def look(self, words: memoryview) -> bool:
        """Whether words[0] is other than 0, once it is, or it is time to sleep."""
        if last[0] is not self:
            last[0] = self
            return False
        if self._rest:
            self._rest -= 1
            return False
        before = start = now()
        until = before + self._most
        while not words[0]:
            time = now()
            if time > until or time - before > _HOLE:
                break
            before = time
        else:
            if now() - before < _HOLE:
                self._vain >>= 1
                return True
        vain[0] += now() - start
        self._vain = self._rest = min(2 * self._vain + 1, _REST)
        return False
