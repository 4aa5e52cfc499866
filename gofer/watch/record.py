"""What a trace is made of, in the ring and in the file: records, each with a head of fixed size. docs/trace-format.md tells.

A file may end in the middle of a record (a full disk, a kill), and a ring's other end may be a worker that was taken over: a
reader believes no length.
"""

from __future__ import annotations

from time import perf_counter_ns, time_ns

from gofer.wire import U8, U16, U32, U64, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Head       size[4] kind[1] transport[1] mid[2] conn[4] errno[2] fds[2] asked[4] answered[4] kept[4] time[8] took[8] -> -
Head = Record(
    "Head", size=U32, kind=U8, transport=U8, mid=U16, conn=U32, errno=U16, fds=U16,
    asked=U32, answered=U32, kept=U32, time=U64, took=U64,
)  # fmt: skip
# The same, with what most records of a transport's message have in common in one piece: `What`, errno[2], fds[2].
Packed = Record("Packed", size=U32, what="12s", asked=U32, answered=U32, kept=U32, time=U64, took=U64)
What = Record("What", kind=U8, transport=U8, mid=U16, conn=U32)
# Start      version[4] pad[4] wall[8] clock[8] data[1] str
Start = Record("Start", version=U32, _pad="4x", wall=U64, clock=U64, data=U8)
# Client     fileno[4] pid[4] uid[4] worker[2] dialect[2]
Client = Record("Client", fileno=U32, pid=U32, uid=U32, worker=U16, dialect=U16)

FILL, START, RPC, CLIENT, GONE, LOST, KNOWN, MARK = range(8)
VERSION = 1
MAGIC = b"gofer trace\n"
MOST = 5 << 20  # bytes of a record: a request and a reply of the largest size


class Entry:
    """One record, read. body: the kept bytes of the request, then those of the reply."""

    __slots__ = ("kind", "transport", "mid", "conn", "errno", "fds", "asked", "answered", "time", "took", "request", "reply")

    def __init__(self, values: tuple[int, ...], body: bytes) -> None:
        (
            _, self.kind, self.transport, self.mid, self.conn, self.errno, self.fds,
            self.asked, self.answered, kept, self.time, self.took,
        ) = values  # fmt: skip
        self.request = body[:kept]
        self.reply = body[kept:]

    @property
    def end(self) -> int:
        """When it was answered."""
        return self.time + self.took


class Sorter:
    """Brings records into the order in which they were answered, from the rings of several threads that were read in turn.

    What was answered before a MARK's time is there when the MARK comes: so far it can be sorted; the rest waits for the next.
    """

    def __init__(self) -> None:
        self._waiting: list[Entry] = []

    def put(self, one: Entry) -> None:
        self._waiting.append(one)

    def until(self, time: int | None) -> list[Entry]:
        """What comes before that time; None: all."""
        self._waiting.sort(key=_order)  # stable: what a thread says stays in its order
        count = len(self._waiting)
        if time is not None:
            count = sum(_order(one) <= time for one in self._waiting)
        ready, self._waiting = self._waiting[:count], self._waiting[count:]
        return ready


def _order(one: Entry) -> int:
    """KNOWN goes first: that an FD is such a file is no less true before, as none is ever used again."""
    return 0 if one.kind == KNOWN else one.end


class Broken(Exception):
    """What follows is no record."""


def entry(memory: bytes | memoryview, at: int, end: int) -> tuple[Entry | None, int]:
    """The record at that place, and where the next one is; None for what only fills. Broken where there is none."""
    if end - at < 4:
        raise Broken
    size = int.from_bytes(memory[at : at + 4], "little")
    if size < Head.size or size > MOST or at + size > end:
        raise Broken
    values = Head.read(memory, at)
    if values[1] == FILL:
        return None, at + size
    return Entry(values, bytes(memory[at + Head.size : at + size])), at + size


def clocks() -> tuple[int, int]:
    """The time of day, and the clock of records, at the same moment."""
    return time_ns(), perf_counter_ns()


def build(kind: int, conn: int = 0, body: bytes = b"", time: int = 0, *, asked: int = 0, mid: int = 0) -> bytes:
    """A record that is no RPC."""
    head = Head.bytes(Head.size + len(body), kind, 0, mid, conn, 0, 0, asked, 0, len(body), time, 0)
    return head + body


def read_file(read: Callable[[int], bytes]) -> Iterator[Entry]:
    """Every record of a file, in order; what is cut off at its end is left out. Broken where it is no trace."""
    if not MAGIC.startswith(read(len(MAGIC))):  # less of it: a file that has just been begun
        raise Broken
    sorter = Sorter()
    for one in _records(read):
        if one.kind == MARK:
            yield from sorter.until(one.time)
        elif one.kind == START:
            yield from sorter.until(None)
            yield one
        else:
            sorter.put(one)
    yield from sorter.until(None)


def _records(read: Callable[[int], bytes]) -> Iterator[Entry]:
    while True:
        head = read(Head.size)
        if len(head) < Head.size:
            return
        values = Head.unpack(head)
        size = values[0] - Head.size
        if not 0 <= size <= MOST:
            return  # what follows is none: a crash of the host may leave zeros
        body = read(size)
        if len(body) < size:
            return
        if values[1] != FILL:
            yield Entry(values, body)
