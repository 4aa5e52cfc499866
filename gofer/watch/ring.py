"""Memory that a worker shares with the watcher: for each transport a ring of records, which one thread writes.

Theory of operation
-------------------
A ring has three words: how many bytes have been put in (`_HEAD`, written by the worker alone), how many have been taken out
(`_TAIL`, by the watcher alone), and how many records found no room (`_LOST`). A record lies in one piece: what does not fit
before the end of the ring goes to its beginning, and the gap is a record that only fills. Nobody waits for the other, and
there is no lock: where there is no room, the record is lost, and counted.

A request is copied to where its record will be before it is served, as its reply may be written over it; reply and head follow,
then the word that makes the record count. On machines that may show these stores to others in another order the watcher takes
what was there at its last look.

The first ring of a worker is for what is told of connections, under a lock. The rings of transports that end are others' later,
the lowest first: pages that nobody has written to take no memory.
"""

from __future__ import annotations

import mmap
from time import perf_counter_ns as clock

from gofer import sys
from gofer.server import dispatch
from gofer.watch.record import FILL, Broken, Entry, Head, Packed, entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.handlers import Handler
    from gofer.server.comm import Communicator

_HEAD, _TAIL, _LOST = range(3)
ON, SHOWN = 3, 4  # words of a worker's first ring: whether to trace, and whether data is kept
_WORDS = 8  # of a ring, a cache line
_PAGE = mmap.PAGESIZE
_IN_ORDER = sys.MACHINE == "x86_64"
_VIEWS = 64  # of a reply, by length, that are kept: most messages have one of few


class Rings:
    """A worker's. count: how many; size: bytes of records that may wait in each. Made before the fork."""

    def __init__(self, count: int, size: int) -> None:
        start = -(-count * _WORDS * 8 // _PAGE) * _PAGE
        self.memory = mmap.mmap(-1, start + count * size)
        self.words = memoryview(self.memory)[:start].cast("Q")
        self.rings = [Ring(self, number, start + number * size, size) for number in range(count)]

    @property
    def on(self) -> bool:
        return bool(self.words[ON])


class Ring:
    """start, size: in the rings' memory."""

    def __init__(self, rings: Rings, number: int, start: int, size: int) -> None:
        self.memory, self.words = rings.memory, rings.words
        self.word = number * _WORDS
        self.start, self.size = start, size
        self._settled = 0
        self._lost = 0

    # The worker's side

    def put(self, what: bytes, body: bytes) -> None:
        """A record that is no RPC."""
        size = Head.size + len(body)
        at, room, head = self.room(size)
        if size > room:
            self.lose()
            return
        Packed.pack(self.memory, at, size, what, len(body), 0, len(body), clock(), 0)
        self.memory[at + Head.size : at + size] = body
        self.words[self.word + _HEAD] = head + size

    def lose(self) -> None:
        self.words[self.word + _LOST] += 1

    def room(self, size: int) -> tuple[int, int, int]:
        """(where in the memory, how much in one piece, bytes put in) for a record of that size. Where it takes that, the end is
        filled, and it goes to the beginning."""
        head = self.words[self.word + _HEAD]
        free = self.size - (head - self.words[self.word + _TAIL])
        used = head % self.size
        to_end = self.size - used
        if size <= to_end or size > free - to_end:
            return self.start + used, min(free, to_end), head
        if to_end >= Head.size:  # else the reader knows: no head fits there
            Packed.pack(self.memory, self.start + used, to_end, bytes(12), 0, 0, 0, 0, 0)
        head += to_end
        self.words[self.word + _HEAD] = head
        return self.start, free - to_end, head

    # The watcher's

    def pieces(self) -> list[memoryview]:
        """What has been put in, in one piece or two, each of whole records. `take` gives it back."""
        head, tail = self.words[self.word + _HEAD], self.words[self.word + _TAIL]
        if not _IN_ORDER:
            head, self._settled = self._settled, head
        if head == tail or not 0 < head - tail <= self.size:
            return []
        view, start = memoryview(self.memory), self.start + tail % self.size
        end, stop = start + head - tail, self.start + self.size
        return [view[start:end]] if end <= stop else [view[start:stop], view[self.start : end - self.size]]

    def take(self, size: int) -> None:
        self.words[self.word + _TAIL] += size

    def lost(self) -> int:
        """How many more have found no room since it was last asked."""
        now = self.words[self.word + _LOST]
        new, self._lost = now - self._lost, now
        return max(0, new)


def tracer(ring: Ring) -> Callable[[Handler, bytes, int, int | None, int | None], Handler]:
    """trace(handler, what, mid, ask, answer): handler, with a record of each call. For the one thread that serves a transport.

    what: see record.What. ask, answer: how many bytes of request and reply are kept; None: all.
    """
    memory, words, pack, head_size = ring.memory, ring.words, Packed.pack, Head.size
    head_word, lost_word = ring.word + _HEAD, ring.word + _LOST
    # Where the next record goes, where its room ends, and what is to be added to a place for the bytes put in so far.
    at, stop, lead = ring.start, 0, 0

    def trace(handler: Handler, what: bytes, mid: int, ask: int | None, answer: int | None) -> Handler:
        plain = what + bytes(4)
        views: dict[int, memoryview] = {}

        def call(comm: Communicator, req: memoryview, reply: memoryview) -> int:
            nonlocal at
            start = clock()
            asked = kept = len(req)
            if ask is not None and kept > ask:
                kept = ask
                req_kept = req[:ask]
            else:
                req_kept = req
            body = at + head_size + kept
            if body > stop:
                if not more_room(head_size + kept, b""):
                    words[lost_word] += 1
                    return handler(comm, req, reply)
                body = at + head_size + kept
            memory[body - kept : body] = req_kept
            try:
                size = handler(comm, req, reply)
            except Exception as error:
                errno = dispatch.errno_of(mid, error).to_bytes(2, "little")
                pack(memory, at, body - at, what + errno + b"\0\0", asked, 0, kept, start, clock() - start)
                at = body
                words[head_word] = body + lead
                raise
            end = size if answer is None or size < answer else answer
            if body + end > stop:
                if not more_room(body + end - at, memory[at:body]):
                    words[lost_word] += 1
                    return size
                body = at + head_size + kept
            whole = body + end
            if end:
                memory[body:whole] = views.get(end) or view_of(reply, end, views)
            flags = plain if not comm.donated else what + b"\0\0" + len(comm.donated).to_bytes(2, "little")
            pack(memory, at, whole - at, flags, asked, size, kept, start, clock() - start)
            at = whole
            words[head_word] = whole + lead
            return size

        return call

    def more_room(size: int, begun: bytes) -> bool:
        """Go where there is room for that many bytes, with what there is of the record already."""
        nonlocal at, stop, lead
        at, room, head = ring.room(size)
        stop, lead = at + room, head - at
        if size > room:
            return False
        memory[at : at + len(begun)] = begun
        return True

    return trace


def view_of(reply: memoryview, size: int, views: dict[int, memoryview]) -> memoryview:
    """The first bytes of a transport's reply, which is the same memory each time."""
    view = reply[:size]
    if len(views) < _VIEWS:
        views[size] = view
    return view


def entries(piece: memoryview) -> list[Entry]:
    """The records of a piece, as far as they are some."""
    found, at, end = [], 0, len(piece)
    try:
        while end - at >= Head.size:
            one, at = entry(piece, at, end)
            if one is not None:
                found.append(one)
    except Broken:
        pass
    return found


__all__ = ["FILL", "ON", "SHOWN", "Ring", "Rings", "entries", "tracer"]
