"""The watcher: one more process beside the server, which takes what workers have put into rings, and makes it known.

Theory of operation
-------------------
It is forked before the jail, by whoever starts the server, and is in nobody's way: it never touches a client's
request, workers never wait for it, and where it is held up (a full pipe, a slow disk) or killed they go on, and count what is
lost. It ends with the server: `orders` is a pipe whose other end the server and its supervisor hold; each byte on it is an
order, its hang-up the end. Then it writes what is there still, and whoever started it waits for that, for a while, by the
hang-up of another pipe (`start.py`).

It looks at the rings every so often, oftener where something comes: a wake for each record would cost its worker more than all
the rest of the trace. What it reads there a worker has written, which may have been taken over: it believes no number.
"""

from __future__ import annotations

import os
from _signal import SIG_IGN, SIG_SETMASK, SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, alarm, pthread_sigmask, signal
from select import POLLIN, poll
from time import sleep

from gofer.jail import kernel
from gofer.watch import lines
from gofer.watch.hook import TELL_AGAIN
from gofer.watch.paths import Paths
from gofer.watch.record import LOST, MARK, START, VERSION, Sorter, Start, build, clocks, entry
from gofer.watch.ring import ON, entries

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import Any, Callable

    from gofer.log import Log
    from gofer.watch.control import Control
    from gofer.watch.counters import Page
    from gofer.watch.files import TraceFile
    from gofer.watch.ring import Rings

_OFTEN, _SELDOM = 10, 80  # milliseconds between two looks at the rings: where something comes, where nothing does
_ANSWER = 0.02  # seconds until workers have told who is connected: then it stands at the beginning of a new file
SUMMARY, SWITCH = b"12"  # orders: log what is counted; pause or resume the trace
_HOTTEST, _MOST_PATHS = 50, 10_000  # files that are told; that are remembered
_END = 8  # seconds that it may take for its own end


class Watcher:
    """rings, pages: one for each worker, or none. asks: pipes to these. out: a file of its records. wanted: which are shown as
    lines, on fd 2. listener, http: where who wants to know counters asks.
    """

    def __init__(
        self, log: Log, orders: int, asks: list[int], what: bytes, *, rings: list[Rings], out: TraceFile | None,
        wanted: lines.Filter | None, pages: list[Page], listener: socket | None, http: socket | None,
    ) -> None:  # fmt: skip
        self._log = log
        self._orders = orders
        self._rings = rings
        self._asks = asks
        self._out = out
        self._began = clocks()
        self._shown = Shown(wanted, what, self._began) if wanted is not None or pages and rings else None
        self._pause = _SELDOM
        self._ending = False
        self._poll = poll()
        self._poll.register(orders, POLLIN)
        self._control: Control | None = None
        self._listening: dict[int, tuple[socket, Callable[[socket], None]]] = {}
        if pages:
            from gofer.watch.control import Control, Metrics

            self._control = control = Control(pages, asks, what, self._shown.hottest if self._shown else list)
            if listener is not None:
                self._listening[listener.fileno()] = listener, control.serve
            if http is not None:
                self._listening[http.fileno()] = http, Metrics(http, control).serve
            for fd in self._listening:
                self._poll.register(fd, POLLIN)

    @property
    def fds(self) -> set[int]:
        return {self._orders, *self._asks, *self._log.fds, *self._listening, *(self._out.fds if self._out else ())}

    def run(self) -> None:
        kernel.set_parent_death_signal(SIGTERM)
        for number in (SIGHUP, SIGINT, SIGQUIT, SIGPIPE):  # a terminal's are for the server
            signal(number, SIG_IGN)
        signal(SIGTERM, self._hurry)
        pthread_sigmask(SIG_SETMASK, ())
        if self._out is not None and self._tracing:
            self._tell(self._out.begin(self._began))
        while True:
            for fd, _ in self._poll.poll(self._pause if self._tracing else None):
                self._on_event(fd)
            came = self._drain()
            self._pause = _OFTEN if came else min(2 * self._pause, _SELDOM)
            if self._ending and not came:
                break
        if self._out is not None:
            self._out.finish()

    @property
    def _tracing(self) -> bool:
        return any(rings.on for rings in self._rings)

    def _hurry(self, number: int, frame: object) -> None:
        """Whoever started this has gone: nothing is to hold it up for long."""
        alarm(_END)

    def _on_event(self, fd: int) -> None:
        if fd == self._orders:
            orders = os.read(fd, 64)
            if not orders:
                self._ending = True
                self._poll.unregister(fd)
            for order in orders:
                self._obey(order)
        elif fd in self._listening:
            listener, serve = self._listening[fd]
            try:
                serve(listener)
            except (OSError, ValueError, MemoryError) as error:
                self._log.limited("warning", "control", f"the control socket: {type(error).__name__}")

    def _obey(self, order: int) -> None:
        if order == SUMMARY:
            for line in self._control.summary() if self._control else ["nothing is counted: --control PATH does"]:
                self._log.info(line)
        elif order == SWITCH and self._out is not None:
            on = not self._tracing
            if on:
                self._tell(self._out.begin(clocks()))
            for rings in self._rings:
                rings.words[ON] = on
            self._ask(TELL_AGAIN)
            self._log.info(f"the trace {self._out.path} {'begins' if on else 'pauses'}")

    def _drain(self) -> bool:
        """Take what there is; whether there was any."""
        came, now = False, clocks()[1]
        for ring in [ring for rings in self._rings for ring in rings.rings]:
            if lost := ring.lost():
                self._lost(lost)
            for piece in ring.pieces():
                came = True
                if self._out is not None:
                    self._tell(self._out.put(piece))
                if self._shown is not None:
                    self._shown.put(piece)
                ring.take(len(piece))
        if came and self._out is not None:
            self._tell(self._out.put(memoryview(build(MARK, time=now))))
            self._tell(self._out.turn())
            if self._out.fresh:
                self._out.fresh = False
                self._ask(TELL_AGAIN)
                sleep(_ANSWER)
        if self._shown is not None:
            self._shown.show(None if self._ending else now)
        return came

    def _ask(self, what: bytes) -> None:
        for fd in self._asks:
            try:
                os.write(fd, what)
            except OSError:  # it has ended, or has been asked often enough
                pass

    def _lost(self, number: int) -> None:
        if self._out is not None:
            self._out.lost(number)
        if self._shown is not None:
            self._shown.lost(number)
        self._log.limited("warning", "lost", f"the trace has lost {number} records: they came faster than they could be written")

    def _tell(self, why: str) -> None:
        if why and self._out is not None:
            self._log.limited("warning", "trace", f"the trace loses records: {self._out.path}: {why}")


class Shown:
    """Records as lines on stderr (this process may wait for whoever reads there; nobody waits for this process), and which files
    they were about. wanted: None: no lines.
    """

    def __init__(self, wanted: lines.Filter | None, what: bytes, now: tuple[int, int]) -> None:
        self._wanted = wanted
        self._hot: dict[bytes, list[int]] = {}  # by path: requests, ns
        self._paths = Paths()
        self._clock = lines.Clock()
        self._sorter = Sorter()
        wall, clock = now
        first = build(START, body=Start.bytes(VERSION, wall, clock, 0) + bytes(2) + what, time=clock)
        start, _ = entry(first, 0, len(first))
        assert start is not None
        self._clock.start(start)
        if wanted is not None:
            _write(lines.other(start, None, self._clock))

    def hottest(self) -> list[dict[str, Any]]:
        found = sorted(self._hot.items(), key=lambda each: -each[1][1])[:_HOTTEST]
        return [{"path": lines.quoted(path), "count": count, "ns": ns} for path, (count, ns) in found]

    def _heat(self, path: bytes, ns: int) -> None:
        if len(self._hot) >= _MOST_PATHS and path not in self._hot:
            warm = sorted(self._hot.items(), key=lambda each: -each[1][1])[: _MOST_PATHS // 2]
            self._hot = dict(warm)
        heat = self._hot.setdefault(path, [0, 0])
        heat[0] += 1
        heat[1] += ns

    def put(self, piece: memoryview) -> None:
        for each in entries(piece):
            self._sorter.put(each)

    def show(self, until: int | None) -> None:
        """What was answered before that time; None: all there is."""
        text = []
        for each in self._sorter.until(until):
            seen = self._paths.read(each)
            if seen is not None and seen.paths:
                self._heat(seen.paths[0], each.took)
            if self._wanted is None:
                continue
            if seen is not None:
                if self._wanted.wants(seen):
                    text.append(lines.line(seen, self._clock))
            elif self._wanted.wants_all_of(each.conn):
                text.append(lines.other(each, self._paths.peers.get(each.conn), self._clock))
        _write("\n".join(filter(None, text)))

    def lost(self, number: int) -> None:
        lost, _ = entry(build(LOST, asked=number, time=clocks()[1]), 0, 1 << 20)
        if lost is not None and self._wanted is not None:
            _write(lines.other(lost, None, self._clock))


def _write(text: str) -> None:
    rest = memoryview(text.encode("utf-8", "backslashreplace") + b"\n") if text else memoryview(b"")
    while rest:
        try:
            rest = rest[os.write(2, rest) :]
        except BlockingIOError:
            room = poll()
            room.register(2)
            room.poll(100)
        except OSError:
            return
