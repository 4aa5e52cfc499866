"""The worker's side of looking on: tables of handlers that write down what they are asked and answer.

Theory of operation
-------------------
A connection picks what it serves by once for each of its transports (connection.py). Where somebody looks on it gets a table of
its own here, in which each handler is wrapped as it is first used. Where nobody does, it has the plain handlers, and this
module is not imported.

A table can be switched while it is in use (SIGUSR2): its entries are made anew. A call that is under way goes on as it began.
"""

from __future__ import annotations

import _thread
import os
from _functools import partial
from time import perf_counter_ns as clock

from gofer import wire
from gofer.server import busypoll, dispatch
from gofer.server.admission import credentials
from gofer.server.dispatch import IDLE
from gofer.watch.counters import (
    CHANNELS,
    ERRORS,
    FDS,
    MESSAGES,
    SINCE,
    TOOK,
    UNKNOWN,
    VAIN,
    Page,
    add_to,
    counted,
    new_row,
    totals,
    untimed,
)
from gofer.watch.record import CLIENT, GONE, KNOWN, RPC, Client, What
from gofer.watch.ring import SHOWN, tracer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.handlers import Handler
    from gofer.log import Log
    from gofer.server.comm import Communicator
    from gofer.server.connection import Connection
    from gofer.watch.ring import Ring, Rings

TELL_AGAIN, COUNTERS = b"t", b"c"  # what the watcher asks for: who is connected, with which FDs; the page
_MOST_KNOWN = 20000  # FDs told of one connection, where a trace starts in the middle
_DATA_AFTER = {  # where data begins, which a trace leaves out: in the request, in the reply; by dialect
    False: (
        {wire.PWRITE: wire.PWriteReq.size, wire.DIRWRITE: wire.DirWriteReq.size},
        {wire.PREAD: wire.PReadResp.size, wire.DIRREAD: wire.DirReadResp.size},
    ),
    True: ({wire.PWRITE: 16}, {wire.PREAD: 4}),  # as wire2021.py has them, which a test compares
}


class Watch:
    """What a worker writes down. rings: None without a trace. page: for counters, if any. worker, size: its number, of how many.

    fileno: what the watcher asks for comes here; -1: it never does.
    """

    def __init__(
        self, rings: Rings | None, page: Page | None = None, worker: int = 0, size: int = 1, fileno: int = -1
    ) -> None:  # fmt: skip
        self.rings = rings
        self.page = page
        self._before: dict[int, list[int]] = {}  # by message: what transports have counted that have ended
        self.fileno = fileno
        self.lock = _thread.allocate_lock()
        self.on = rings is not None and rings.on
        self.seen: dict[Connection, Seen] = {}
        self._free = sorted(rings.rings[1:], key=lambda ring: -ring.word) if rings is not None else []
        self._worker = worker
        self._step = size
        self._next = worker + 1

    def table(self, conn: Connection, transport: int, handlers: tuple[Handler, ...], counts: bool) -> Table:
        """For one transport: 0 is the socket, and the first to be asked for, others are channels. counts: see Table."""
        with self.lock:
            seen = self.seen.get(conn)
            if seen is None:
                seen = self.seen[conn] = Seen(conn, self._next, handlers is dispatch.HANDLERS_2021)
                self._next += self._step
                if self.on:
                    self._tell(seen)
            table = Table(self, seen, transport, handlers, self._free.pop() if self._free else None, counts)
            seen.tables.append(table)
        return table

    def ended(self, conn: Connection) -> None:
        with self.lock:
            seen = self.seen.pop(conn, None)
            if seen is None:
                return
            if self.on:
                self._put(GONE, seen.number, b"")
            for table in seen.tables:
                _sum(self._before, table.told())
                table.drop()  # and the views of its reply's memory with it
                if table.ring is not None:
                    self._free.append(table.ring)
            self._free.sort(key=lambda ring: -ring.word)

    def answer(self) -> bool:
        """The watcher has asked for something (`fileno` can be read from): do as the ring's words now say. False: it has gone.

        A trace that begins in the middle, or a new file, is told who is there, with which FDs.
        """
        try:
            asked = os.read(self.fileno, 64)
        except BlockingIOError:
            return True
        with self.lock:
            if COUNTERS in asked:
                self._publish()
            if TELL_AGAIN not in asked:
                return bool(asked)
            self.on = self.rings is not None and self.rings.on
            for seen in self.seen.values():
                if self.on:
                    self._tell(seen)
                    self._tell_known(seen)
                for table in seen.tables:
                    table.switch()
        return True

    def _publish(self) -> None:
        if self.page is None:
            return
        now, rows, conns, calls = clock(), {mid: [*row] for mid, row in self._before.items()}, [], []
        for seen in self.seen.values():
            of_conn: dict[int, list[int]] = {}
            for table in seen.tables:
                told = table.told()
                _sum(of_conn, told)
                for mid, row in told.items():
                    since = table.since(mid, row, now)
                    if since:
                        calls.append((seen.number, seen.conn.fileno, table.transport, mid, max(0, now - since), table.thread))
            _sum(rows, of_conn)
            conns.append((seen.number, seen.conn.fileno, seen.pid, seen.uid, *totals(of_conn), *seen.conn.holds()))
        numbers = {FDS: sum(conn[-2] for conn in conns), CHANNELS: sum(conn[-1] for conn in conns)}
        self.page.publish(rows, conns, calls, {**numbers, VAIN: int(busypoll.vain[0] * 1e9)})

    def _tell(self, seen: Seen) -> None:
        who = Client.bytes(seen.conn.fileno, seen.pid, seen.uid, self._worker, 2021 if seen.old else 0)
        self._put(CLIENT, seen.number, who)

    def _tell_known(self, seen: Seen) -> None:
        """The paths of the FDs there are, as the kernel knows them now; the root's comes first."""
        table, root = seen.conn.table, _path_of(seen.conn.export.root.host)
        for fdid, fd in [*table.control.items(), *table.opened.items()][:_MOST_KNOWN]:
            path = _path_of(getattr(fd, "node", fd).host)
            if path is not None and root is not None:
                inside = path[len(root) :] if path.startswith(root) else path
                self._put(KNOWN, seen.number, fdid.to_bytes(8, "little") + b"/" + inside.lstrip(b"/"))

    def _put(self, kind: int, conn: int, body: bytes) -> None:
        assert self.rings is not None
        self.rings.rings[0].put(What.bytes(kind, 0, 0, conn) + bytes(4), body)


class Seen:
    """A connection as those who look on know it. number: of no other of this server. old: it speaks the dialect of 2021."""

    def __init__(self, conn: Connection, number: int, old: bool) -> None:
        self.conn = conn
        self.number = number
        self.old = old
        self.tables: list[Table] = []
        try:
            self.pid, self.uid, _ = credentials(conn.socket)
        except OSError:  # it has gone
            self.pid = self.uid = 0


class Table(dispatch.Table):
    """What one transport serves by, which has that ring; None: there were no more, and what it does is lost. counts: whether its
    loop counts what it is told to."""

    __slots__ = (
        "_beside", "_counts", "_handlers", "_looks", "_rows", "_seen", "_trace", "_used", "_watch", "ring", "thread", "transport",
    )  # fmt: skip
    handlers: list[Handler]
    plain: list[Handler]

    def __init__(
        self, watch: Watch, seen: Seen, transport: int, handlers: tuple[Handler, ...], ring: Ring | None, counts: bool
    ) -> None:  # fmt: skip
        super().__init__([partial(self._first, mid) for mid in range(len(handlers))])
        self.plain = [*handlers]
        self.refuse = self._refuse
        if watch.page is not None:
            self.left, self.moved = [0] * len(handlers), [0] * len(handlers)
        self.ring = ring
        self._watch = watch
        self._seen = seen
        self._counts = counts
        self.transport = min(transport, 255)
        self._rows: dict[int, list[int]] = {}  # by message; only ever added to
        self._beside: dict[int, Callable[[list[int]], None]] = {}  # what adds what is counted and not there yet
        self._used: dict[int, Handler] = {}  # the handlers that were asked for, with what times them
        self._looks: dict[int, tuple[int, int]] = {}  # by message under way, not timed: how many before it, first seen when
        self.thread = 0  # that serves it, once it does
        self._handlers = handlers
        self._trace = tracer(ring) if ring is not None else None

    def _first(self, mid: int, comm: Communicator, req: memoryview, reply: memoryview) -> int:
        """The first request of its kind."""
        with self._watch.lock:
            self._used[mid] = self._handlers[mid]
            if self._watch.page is not None:
                self.thread = _thread.get_native_id()
                row = self._rows[mid] = new_row()
                self._used[mid], self._beside[mid] = counted(self._handlers[mid], mid, row, self, self._counts)
            self._make(mid)
        return self.handlers[mid](comm, req, reply)

    def _make(self, mid: int) -> None:
        self.handlers[mid], self.plain[mid] = self._traced(mid, self._used[mid]), self._traced(mid, self._handlers[mid])

    def switch(self) -> None:
        """A trace begins or ends. The watch's lock is held."""
        for mid in self._used:
            self._make(mid)

    def drop(self) -> None:
        """It serves nobody any more."""
        self.handlers.clear()
        self.plain.clear()
        self._used.clear()
        self.refuse = dispatch.refuse  # and knows itself no more

    def _traced(self, mid: int, handler: Handler) -> Handler:
        rings = self._watch.rings
        if rings is None or not self._watch.on:
            return handler
        if self._trace is None:
            return losing(handler, rings)
        what = What.bytes(RPC, self.transport, mid, self._seen.number)
        keep: tuple[dict[int, int], dict[int, int]] = ({}, {}) if rings.words[SHOWN] else _DATA_AFTER[self._seen.old]
        return self._trace(handler, what, mid, keep[0].get(mid), keep[1].get(mid))

    def _refuse(
        self, comm: Communicator, mid: int, error: Exception, request: memoryview, reply: memoryview, log: Log, client: int
    ) -> int:
        """As dispatch.refuse, and count what nobody else has: what the loop was to count, and what is no message."""
        if self.now[0] != IDLE:
            assert self.left is not None
            self._rows[mid][ERRORS] += 1
            self.moved[mid] += len(request)
            self.left[mid] -= 1
            self.now[0] = IDLE
        elif mid >= len(self._handlers) and isinstance(error, IndexError):
            if self.left is not None:
                with self._watch.lock:
                    untimed(self._rows.setdefault(MESSAGES - 1, new_row()), len(request))
            try:
                self._traced(mid, _unknown)(comm, request, reply)  # not kept: a client can make up 65536 of them
            except IndexError:
                pass
        return dispatch.refuse(comm, mid, error, request, reply, log, client)

    def told(self) -> dict[int, list[int]]:
        """Rows by message, of now. The watch's lock is held."""
        found = {mid: [*row] for mid, row in self._rows.items()}
        for mid, add in self._beside.items():
            add(found[mid])
        return found

    def since(self, mid: int, row: list[int], now: int) -> int:
        """Since when a call of the message is under way; 0: none is. Of one that is not timed: since it was first seen."""
        if row[SINCE] != UNKNOWN:
            self._looks.pop(mid, None)
            return row[SINCE]
        count = sum(row[TOOK:])
        if self._looks.get(mid, (-1, 0))[0] != count:
            self._looks[mid] = count, now
        return self._looks[mid][1]


def _unknown(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    raise IndexError  # as the plain table does


def _sum(total: dict[int, list[int]], rows: dict[int, list[int]]) -> None:
    for mid, row in rows.items():
        add_to(total.setdefault(mid, new_row()), row)


def losing(handler: Handler, rings: Rings) -> Handler:
    """Of a transport without a ring."""

    def call(comm: Communicator, req: memoryview, reply: memoryview) -> int:
        rings.rings[0].lose()
        return handler(comm, req, reply)

    return call


def _path_of(host: int) -> bytes | None:
    """As the kernel calls it; the working directory is /proc/self/fd (procself.py)."""
    try:
        return os.readlink(b"%d" % host)
    except OSError:
        return None


