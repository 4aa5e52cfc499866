"""Noticing requests that hang in a system call, at no cost to those that do not.

Theory of operation
-------------------
Nobody writes down when a request begins. A thread that looks every so often asks what is known anyway: the processor time of a
thread (clock_gettime(2)) stands still while it waits in the kernel, for its next request as in a call; and its stack tells which
it is: in a call there is a handler on it. A thread that has not run at all between two looks, and had that handler on its stack
both times, is in the same call. How long is counted from the look that saw it first.

The thread is there only while clients are, and not at once: the loop rouses it a `pause` after a client came, so that no start
waits for it (0.1 ms).

It has a thread of its own, not the loop's: to look at a stack is to hold what is on it for a moment, and where that is the last
to hold a file it has to close it, which may take as long as a file system likes.
"""

from __future__ import annotations

import _thread
import os
import time

from gofer import wire
from gofer.handlers import HANDLERS
from gofer.handlers2021 import HANDLERS as HANDLERS_2021

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any, Callable

    from gofer.log import Log

_LOOKS = 4  # in the time after which a request is slow
_LONGEST = 2.0  # seconds between two looks
_by_code: dict[CodeType, int] = {}  # filled at the first look
_frames = getattr(os, "sys")._current_frames  # noqa: B009  # only __main__.py imports the standard sys


class Slow:
    """after: seconds. threads(): who serves now, (thread's ident, its id for the kernel, the client's name in the logs); None:
    there is no client.
    """

    def __init__(self, log: Log, after: float, threads: Callable[[], list[tuple[int, int, int]] | None]) -> None:
        self._log = log
        self._after = after
        self.pause = min(after / _LOOKS, _LONGEST)
        self._threads = threads
        self._since: dict[int, tuple[float, int, float, bool]] = {}  # by ident: processor time, message, since when, told
        self._runs = False
        self._lock = _thread.allocate_lock()
        self._bell = _thread.allocate_lock()  # free: the last client has gone
        self._bell.acquire()

    def dismiss(self) -> None:
        """There is none any more, perhaps."""
        with self._lock:
            if self._runs and self._bell.locked():
                self._bell.release()

    def rouse(self) -> None:
        """There is a client."""
        with self._lock:
            if not self._runs:
                try:
                    _thread.start_new_thread(self._run, ())
                    self._runs = True
                except RuntimeError:  # none to be had: the next client's
                    pass

    def _run(self) -> None:
        while True:
            with self._lock:
                self._bell.acquire(False)
                threads = self._threads()
                if threads is None:
                    self._runs = False
                    self._since.clear()
                    return
            self._look(threads)
            self._bell.acquire(timeout=self.pause)

    def _look(self, threads: list[tuple[int, int, int]]) -> None:
        now, before, self._since = time.monotonic(), self._since, {}
        used = {ident: _processor_time(native) for ident, native, _ in threads}
        still = {ident for ident in used if ident in before and before[ident][0] == used[ident]}
        messages = _messages(still or used.keys())
        for ident, _, client in threads:
            mid = messages.get(ident, -1)
            _, last, since, told = before.get(ident, (0.0, -1, now, False))
            if ident not in still or last != mid:
                since, told = now, False
            if mid >= 0 and not told and now - since >= self._after:
                told = True
                self._log.limited(
                    "warning", "slow", f"client {client}: {wire.NAMES[mid]} has been in one system call for {now - since:.0f} s"
                )
            self._since[ident] = used[ident], mid, since, told


def _messages(idents: Any) -> dict[int, int]:
    """Which message each of these threads is at work on; none where it waits for one."""
    found: dict[int, int] = {}
    _by_code.update(() if _by_code else _codes())
    frames = _frames()
    for ident in idents:
        frame = frames.pop(ident, None)
        while frame is not None:
            mid = _by_code.get(frame.f_code)
            if mid is not None:
                found[ident] = mid
                frame = None
            else:
                frame = frame.f_back
    frames.clear()  # this function's own is among them: a circle, which would keep all that every thread now holds
    return found


def _codes() -> Iterator[tuple[CodeType, int]]:
    """Of each message's handler. Not of Accept: it waits for somebody else, as long as it takes."""
    for table in (HANDLERS_2021, HANDLERS):
        for mid, handler in enumerate(table):
            if mid in wire.NAMES and mid != wire.ACCEPT:
                yield handler.__code__, mid


def _processor_time(native: int) -> float:
    """Of a thread of ours, by the clock that the kernel has for each; -1: it has ended."""
    try:
        return time.clock_gettime(~native << 3 | 6)  # CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED
    except OSError:
        return -1.0
