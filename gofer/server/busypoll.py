"""What a channel's thread does about a cpu that sleeps: it looks for its next request for a while, or goes where its client is.

Theory of operation
-------------------
**Busy polling.** A thread that sleeps has to be woken, and a cpu that has gone idle for it takes longer over that than most RPCs
do. A thread that still looks when the next request comes serves it at once. It pays with cpu time that others may want, and
with the interpreter's lock, which it holds meanwhile. So it does not look

*   on one cpu, where no client can run meanwhile;
*   where another thread of this process has served since it did: they would hold each other up by that lock;
*   for a number of waits after it has looked in vain, or has lost its cpu to somebody else (a hole in the time it sees):
    twice as many each time, up to `_REST`, and half as many after each look that finds something.

**Going to the client.** The kernel wakes a thread where it ran last, if that cpu is idle. So two threads that take turns and
once were on one cpu stay there, and their hand-over costs 2 microseconds; once apart they stay apart, both cpus go idle between
any two requests, and each hand-over costs 23 (a virtual machine's, which leave the guest for it). A request for which the
thread slept, and whose reply woke the client, is how it looks apart; but so it may look on one cpu, and where somebody else
keeps the other one busy, which is woken at no such price. What tells is what it costs the waker: so after `APART` in a row
that look so the next wake is timed, by the clock of what the thread itself has used, and if it was `dear` the thread goes to
the other cpu; where that did not help, ever more seldom. With more cpus than two nobody can tell it where.
"""

from __future__ import annotations

import os
from time import monotonic as now
from time import thread_time as used

from gofer.sys import sched_getcpu

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

DEFAULT = 150  # microseconds; docs/performance.md says what others gave
_HOLE = 15e-6  # seconds between two looks, which are a tenth of a microsecond apart where nobody else has the cpu
_REST = 1023
APART, _MOST_APART = 2, 4096
_DEAR = 12e-6  # seconds: a cpu that sleeps takes 16 to 40 microseconds of the waker's, another that is busy 4 to 10
NEVER = 1 << 29  # requests: what a C long has room for

vain: list[float] = [0.0]  # seconds that threads of this process have looked in vain
last: list[Any] = [None]  # the BusyPoll of the channel that has served last in this process; None: something else did


def microseconds(asked: int | None) -> int:
    """How long to look: as asked, or else DEFAULT; 0, never, where there is one cpu."""
    if len(os.sched_getaffinity(0)) < 2:
        return 0
    return DEFAULT if asked is None else asked


def apart() -> int:
    """How many requests in a row that look as if the client were on another cpu make a thread find out, and go there."""
    return APART if len(os.sched_getaffinity(0)) == 2 else NEVER


def dear(wake: Callable[..., int], args: tuple[Any, ...]) -> bool:
    """Call it. Whether somebody was woken, on another cpu that slept: on this one he may run before the call returns, at his
    own expense."""
    before = used()
    return wake(*args) > 0 and used() - before > _DEAR


def change_cpu(apart: int) -> int:
    """Have this thread go on on the other of two cpus, and be woken there; returns what `apart` is from now on."""
    try:
        cpus = os.sched_getaffinity(0)  # anew: somebody may have changed it
        if len(cpus) != 2:
            return NEVER
        os.sched_setaffinity(0, cpus - {sched_getcpu()} or cpus)
        os.sched_setaffinity(0, cpus)
    except OSError:  # a cpu was taken away meanwhile
        return NEVER
    return min(2 * apart, _MOST_APART)


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
