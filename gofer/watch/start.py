"""From options to somebody who looks on: memory, files, the fork of the watcher. Imported where an option asks for it."""

from __future__ import annotations

import os
from select import POLLIN, poll

from gofer import Failure
from gofer.jail import kernel
from gofer.watch.files import TraceFile
from gofer.watch.hook import Watch
from gofer.watch.lines import Filter
from gofer.watch.ring import ON, SHOWN, Rings
from gofer.watch.watcher import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.log import Log

# Rings of a worker, one for each transport, and bytes of each; with file data one record may be 4 MiB. What is used takes memory.
_RINGS, _RINGS_DATA = (129, 1 << 20), (65, 9 << 20)
_PATIENCE, _IMPATIENCE = 5.0, 0.5  # seconds for the watcher to write what there is, at an end in order and at any other
_NAME = b"gofer-watch"


class Wish:
    """What options ask for."""

    def __init__(
        self, *, lines: str | None = None, out: str = "", data: bool = False, size: int = 0, keep: int = 1,
    ) -> None:  # fmt: skip
        self.lines = lines
        self.out = out
        self.data = data
        self.size = size
        self.keep = keep

    @classmethod
    def of(cls, options: Any) -> Wish:
        if options.trace_data and not options.trace_out:
            raise Failure("--trace-data is for --trace-out FILE; give both")
        return cls(
            lines=options.trace, out=options.trace_out or "", data=options.trace_data, size=options.trace_size,
            keep=options.trace_keep,
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
            rings.words[ON], rings.words[SHOWN] = 1, wish.data
        self._asked = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(workers)]
        orders, self._orders = os.pipe2(os.O_CLOEXEC)
        self._done, done = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._orders, False)
        watcher = Watcher(log, orders, self._rings, [writer for _, writer in self._asked], out, wanted, what)
        if os.fork() == 0:
            _become(watcher, {0, 1, 2, done, *watcher.fds})
        for fd in (orders, done, *(writer for _, writer in self._asked), *(out.fds if out else ())):
            os.close(fd)
        self.keep = self._orders, self._done

    def watch(self, worker: int) -> Watch:
        """What worker number so-and-so takes, in its process."""
        for number, (reader, _) in enumerate(self._asked):
            if number != worker:
                os.close(reader)
        return Watch(self._rings[worker] if self._rings else None, worker, len(self._asked), self._asked[worker][0])

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


def _become(watcher: Watcher, keep: set[int]) -> None:
    """The life of the watcher's process."""
    try:
        kernel.set_name(_NAME)
        os.chdir("/")
        for name in os.listdir("/proc/self/fd"):
            if int(name) not in keep:
                try:
                    os.close(int(name))
                except OSError:  # the listing's own
                    pass
        watcher.run()
    finally:
        os._exit(0)
