"""Counters: what each worker has served, kept by its threads without a lock, and shown to the watcher in a page of shared memory.

Theory of operation
-------------------
A thread counts in lists of its own, one for each message of its transport (`ROW`), in memory that no other thread writes, so
nothing is lost and nobody waits.

To time a request costs more than to count it. So where a message has come on a transport more often than ten thousand times a
second, as many as would then come in `_RUSH`, but `_SKIPPED` at most, are counted, with their errors and bytes, and not timed:
they are put down for as long as the one before them. The loop of the transport counts them (dispatch.Table), as to call one more
function would cost as much again. What is slow cannot come so often, and is timed each time but for the first ones after such a
rush; a single slow one in a rush is missed most times, but not where it hangs: whoever looks is told, though its age counts from
the first look.

Where somebody wants to know, the watcher asks the worker's
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
    from typing import Any, Callable

    from gofer.handlers import Handler
    from gofer.server.comm import Communicator
    from gofer.server.dispatch import Table

MESSAGES = 128  # ids below it are counted apart
# A row: ns in all, bytes of requests and replies, errors, since when one is under way (0: none), and how many took n bits of ns.
NS, BYTES, ERRORS, SINCE, TOOK = range(5)
BITS = 48
ROW = TOOK + BITS
_LAST = BITS - 1
UNKNOWN = 1  # as SINCE: one is under way that is not timed
_SKIPPED = 63
_DENSE = 100_000  # ns from one request to the next
_RUSH = 1_500_000  # ns

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


def counted(
    handler: Handler, mid: int, row: list[int], table: Table, leaves: bool
) -> tuple[Handler, Callable[[list[int]], None]]:  # fmt: skip
    """handler, timed and counted in that row by the one thread that calls it; and what adds to a copy of the row what stands
    beside it. leaves: whether it may leave requests to be counted by who serves by the table."""
    assert table.left is not None
    left, moved, now = table.left, table.moved, table.now
    most = _SKIPPED if leaves else 0
    skipped = 0  # how many were not timed, or shall not be, after the last that was
    last, took = TOOK, 0  # how long that one took, as an index of the row and in ns
    before = 0  # when it began

    def timed(comm: Communicator, req: memoryview, reply: memoryview) -> int:
        nonlocal skipped, last, took, before
        start, size = clock(), 0
        between = (start - before) // (1 + skipped)  # ns, as a mean since the last that was timed
        before = start
        row[last] += skipped
        row[NS] += skipped * took
        row[BYTES] += moved[mid]
        row[SINCE] = start
        skipped = moved[mid] = 0
        try:
            size = handler(comm, req, reply)
        except Exception:
            row[ERRORS] += 1
            raise
        finally:
            took = clock() - start
            last = TOOK + min(took.bit_length(), _LAST)
            row[SINCE] = 0
            row[last] += 1
            row[NS] += took
            row[BYTES] += size + len(req)
            if between < _DENSE:
                skipped = left[mid] = min(most, _RUSH // (between + 1))
        return size

    def add(total: list[int]) -> None:
        done = skipped - left[mid]
        total[last] += done
        total[NS] += done * took
        total[BYTES] += moved[mid]
        if now[0] == mid:
            total[SINCE] = UNKNOWN

    return timed, add


def untimed(row: list[int], asked: int) -> None:
    """One that no handler has served: there is none."""
    row[ERRORS] += 1
    row[BYTES] += asked
    row[TOOK] += 1


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
