"""Counters: what each worker has served, kept by its threads without a lock, and shown to the watcher in a page of shared memory.

Theory of operation
-------------------
A thread counts in lists of its own, one for each message of its transport (`ROW`): three numbers are added to, in memory
that no other thread writes, so nothing is lost and nobody waits. Where somebody wants to know, the watcher asks the worker's
loop by a pipe, which adds the lists up and writes the sums to the page (`Page`); the generation, written last, tells that it has.
What a transport has counted stays when it ends: its lists are added to those of the transports before it.

The page has a fixed layout of words of 64 bits, and the watcher believes none of them further than as a number.
"""

from __future__ import annotations

import mmap
from array import array
from operator import add
from time import perf_counter_ns as clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from gofer.handlers import Handler
    from gofer.server.comm import Communicator

MESSAGES = 128  # ids below it are counted apart
# A row: ns in all, bytes of requests and replies, errors, since when one is under way (0: none), and how many took n bits of ns.
NS, BYTES, ERRORS, SINCE, TOOK = range(5)
BITS = 48
ROW = TOOK + BITS
_LAST = BITS - 1

_GENERATION, _CONNS, _UNDER_WAY, FDS, CHANNELS, VAIN, SLOW = range(7)
_HEAD = 16
CONN = ("number", "fileno", "pid", "uid", "count", "errors", "bytes", "ns", "fds", "channels")
CALL = ("connection", "fileno", "channel", "message", "ns", "thread")
_MOST = 512  # connections, and calls under way, that are told
_ROWS = _HEAD
_CONN_ROWS = _ROWS + MESSAGES * ROW
_CALL_ROWS = _CONN_ROWS + _MOST * len(CONN)
_WORDS = _CALL_ROWS + _MOST * len(CALL)


def new_row() -> list[int]:
    return [0] * ROW


def counted(handler: Handler, row: list[int]) -> Handler:
    """handler, counted in that row, by the one thread that calls it."""

    def call(comm: Communicator, req: memoryview, reply: memoryview) -> int:
        row[SINCE] = start = clock()
        try:
            size = handler(comm, req, reply)
        except Exception:
            row[ERRORS] += 1
            _count(row, clock() - start, len(req))
            raise
        took = clock() - start
        row[SINCE] = 0
        row[NS] += took
        row[BYTES] += size + len(req)
        row[TOOK + (took.bit_length() if took < 1 << 47 else _LAST)] += 1
        return size

    return call


def _count(row: list[int], took: int, size: int) -> None:
    row[SINCE] = 0
    row[NS] += took
    row[BYTES] += size
    row[TOOK + min(took.bit_length(), _LAST)] += 1


def add_to(total: list[int], row: list[int]) -> None:
    total[:] = map(add, total, row)
    total[SINCE] = 0


def totals(rows: dict[int, list[int]]) -> tuple[int, int, int, int]:
    """Requests, errors, bytes, ns."""
    each = [*rows.values()]
    return (
        sum(sum(row[TOOK:]) for row in each), sum(row[ERRORS] for row in each),
        sum(row[BYTES] for row in each), sum(row[NS] for row in each),
    )  # fmt: skip


class Page:
    """A worker's. Made before the fork."""

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, _WORDS * 8)).cast("Q")

    # The worker's side

    def publish(
        self, rows: dict[int, list[int]], conns: Iterable[tuple[int, ...]], calls: Iterable[tuple[int, ...]],
        numbers: dict[int, int],
    ) -> None:  # fmt: skip
        """rows: by message. conns, calls: as CONN and CALL say. numbers: by word of the head."""
        words = self._words
        for mid, row in rows.items():
            at = _ROWS + min(mid, MESSAGES - 1) * ROW
            words[at : at + ROW] = _packed(row)
        for start, word, table in ((_CONN_ROWS, _CONNS, conns), (_CALL_ROWS, _UNDER_WAY, calls)):
            count = 0
            for each in table:
                if count < _MOST:
                    at = start + count * len(each)
                    words[at : at + len(each)] = _packed(each)
                    count += 1
            words[word] = count
        for word, number in numbers.items():
            words[word] = number
        words[_GENERATION] += 1

    # The watcher's

    @property
    def generation(self) -> int:
        return self._words[_GENERATION]

    def rows(self) -> dict[int, list[int]]:
        """By message, of those that were asked for at all."""
        found = {}
        for mid in range(MESSAGES):
            row = self._words[_ROWS + mid * ROW : _ROWS + (mid + 1) * ROW].tolist()
            if any(row[TOOK:]):
                found[mid] = row
        return found

    def conns(self) -> list[dict[str, Any]]:
        return self._table(_CONN_ROWS, _CONNS, CONN)

    def calls(self) -> list[dict[str, Any]]:
        return self._table(_CALL_ROWS, _UNDER_WAY, CALL)

    def number(self, word: int) -> int:
        return self._words[word]

    def _table(self, start: int, word: int, names: tuple[str, ...]) -> list[dict[str, Any]]:
        size, found = len(names), []
        for index in range(min(self._words[word], _MOST)):
            at = start + index * size
            found.append(dict(zip(names, self._words[at : at + size].tolist())))
        return found


def _packed(numbers: Iterable[int]) -> memoryview:
    return memoryview(array("Q", [number & 0xFFFFFFFFFFFFFFFF for number in numbers]))
