"""From options to somebody who looks on: memory, files, the fork of the watcher. Imported where an option asks for it."""

from __future__ import annotations

import os
from select import POLLIN, poll

from gofer import Failure
from gofer.jail import caps, kernel
from gofer.watch.counters import Page
from gofer.watch.files import TraceFile
from gofer.watch.hook import Watch
from gofer.watch.lines import Filter
from gofer.watch.ring import ON, SHOWN, Rings
from gofer.watch.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import Any

    from gofer.log import Log

# Rings of a worker, one for each transport, and bytes of each; with file data one record may be 4 MiB. What is used takes memory.
_RINGS, _RINGS_DATA = (129, 1 << 20), (65, 9 << 20)
_PATIENCE, _IMPATIENCE = 5.0, 0.5  # seconds for the watcher to write what there is, at an end in order and at any other
_SOCKET_PATH = 107  # bytes: struct sockaddr_un
_RIGHTS = frozenset((caps.DAC_OVERRIDE, caps.SYS_PTRACE))  # to begin another file; to see which system call a thread is in
_NAME = b"gofer-watch"


class Wish:
    """What options ask for."""

    def __init__(
        self, *, lines: str | None = None, out: str = "", data: bool = False, size: int = 0, keep: int = 1,
        control: str = "", http: str = "", on: bool = True,
    ) -> None:  # fmt: skip
        self.lines = lines
        self.out = out
        self.data = data
        self.size = size
        self.keep = keep
        self.control = control
        self.http = http
        self.on = on

    @classmethod
    def of(cls, options: Any) -> Wish:
        out, later = options.trace_out, options.trace_on_signal
        if later and (out or options.trace is not None):
            raise Failure("--trace and --trace-out are from the start, --trace-on-signal from a signal on; leave one out")
        if options.trace_data and not (out or later):
            raise Failure("--trace-data is for --trace-out FILE or --trace-on-signal FILE; give one of them")
        return cls(
            lines=options.trace, out=out or later or "", on=not later, data=options.trace_data, size=options.trace_size,
            keep=options.trace_keep, control=options.control or "", http=options.metrics_listen or "",
        )  # fmt: skip


class Onlooker:
    """The watcher, as who started it, and the workers, have it. Failure, OSError where it cannot be.

    keep: fds that whoever waits for its end needs. what: is served, for the trace's head.
    """

    def __init__(self, wish: Wish, log: Log, workers: int, what: bytes) -> None:
        wanted = None if wish.lines is None else Filter(wish.lines)
        out = TraceFile(wish.out, what, wish.data, wish.size, wish.keep) if wish.out else None
        self._rings = [Rings(*(_RINGS_DATA if wish.data else _RINGS)) for _ in range(workers)] if out or wanted else []
        for rings in self._rings:
            rings.words[ON], rings.words[SHOWN] = wish.on, wish.data
        counts = wish.control or wish.http
        self._pages = [Page() for _ in range(workers)] if counts else []
        path = os.path.abspath(wish.control) if wish.control else ""
        listener, http = _listening(path), _http_listening(wish.http)
        self._asked = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(workers)]
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        self._done, done = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._orders, False)
        watcher = Watcher(
            log, orders, [writer for _, writer in self._asked], what, rings=self._rings, out=out, wanted=wanted,
            pages=self._pages, listener=listener, http=http,
        )  # fmt: skip
        place = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if path else -1
        if os.fork() == 0:
            _become(watcher, os.path.basename(path), place, {0, 1, 2, done, place, *watcher.fds})
        if place >= 0:
            os.close(place)
        for fd in (orders, done, *(writer for _, writer in self._asked), *(out.fds if out else ())):
            os.close(fd)
        for sock in (listener, http):
            if sock is not None:
                sock.close()
        self.keep = self._orders, self._done

    def watch(self, worker: int) -> Watch:
        """What worker number so-and-so takes, in its process."""
        for number, (reader, _) in enumerate(self._asked):
            if number != worker:
                os.close(reader)
        rings = self._rings[worker] if self._rings else None
        page = self._pages[worker] if self._pages else None
        return Watch(rings, page, worker, len(self._asked), self._asked[worker][0])

    def order(self, what: bytes) -> None:
        try:
            os.write(self._orders, what)
        except OSError:  # it has ended, or does not come to it
            pass

    def finish(self, in_order: bool) -> None:
        """Let it write what there is, once the server has ended. Idempotent."""
        orders, self._orders = self._orders, -1
        if orders < 0:
            return
        os.close(orders)
        wait = poll()
        wait.register(self._done, POLLIN)
        wait.poll(1000 * (_PATIENCE if in_order else _IMPATIENCE))


def _listening(path: str) -> socket | None:
    if not path:
        return None
    from gofer.watch import control

    return control.listening(path)


def _http_listening(where: str) -> socket | None:
    if not where:
        return None
    from gofer.watch import control

    return control.http_listening(where)


def of_container(directory: str, name: str, log: Log) -> Onlooker:
    """For one container: DIRECTORY/NAME.trace, and NAME.control, where there is room for a socket's name. Failure, OSError."""
    from gofer.watch.control import abandoned

    for left in os.listdir(directory):  # by a gofer that was killed, as runsc ends each
        path = os.path.join(directory, left)
        if left.endswith(".control") and abandoned(path):
            os.unlink(path)
    number, base = 1, os.path.join(os.path.abspath(directory), name)
    while os.path.lexists(f"{base}.trace"):
        number += 1
        base = os.path.join(os.path.abspath(directory), f"{name}.{number}")
    control = f"{base}.control"
    control = control if len(os.fsencode(control)) <= _SOCKET_PATH else ""
    return Onlooker(Wish(out=f"{base}.trace", control=control), log, 1, os.fsencode(name))


def _become(watcher: Watcher, name: str, place: int, keep: set[int]) -> None:
    """The life of the watcher's process. name, place: of its socket, "": it has none."""
    try:
        kernel.set_name(_NAME)
        caps.limit(_RIGHTS)
        kernel.no_new_privs()
        os.chdir("/")
        for number in os.listdir("/proc/self/fd"):
            if int(number) not in keep:
                try:
                    os.close(int(number))
                except OSError:  # the listing's own
                    pass
        watcher.run()
    finally:
        if name:
            try:
                os.unlink(name, dir_fd=place)
            except OSError:
                pass
        os._exit(0)
