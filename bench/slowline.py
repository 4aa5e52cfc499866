"""A long line on one machine: a relay of TCP that hands each byte on so many milliseconds after it came, as many as come.

Each direction has a thread that takes bytes, with the time at which they are due, and one that waits until then. It runs in a
process of its own, so that whoever measures shares no interpreter with it.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator

_AT_ONCE = 1 << 18
_HELD = 32 << 20  # bytes of one direction: more than a line of a gigabyte a second has on its way in 20 ms


@contextlib.contextmanager
def slow_line(port: int, milliseconds: float, turns: memoryview | None = None) -> Iterator[int]:
    """A port on 127.0.0.1 that leads to that one, so many milliseconds away, each way.

    turns: memory that processes share; its first item counts how often the near side has sent something while nothing was on its
    way in either direction.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near: int = listener.getsockname()[1]
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_accept, args=(listener, port, milliseconds / 1000, turns), daemon=True)
        process.start()
    try:
        yield near
    finally:
        process.terminate()
        process.join()


def _accept(listener: socket.socket, port: int, seconds: float, turns: memoryview | None) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        there, back = _Direction(near, far, seconds), _Direction(far, near, seconds)
        there.back, there.turns = back, turns
        for each in (there, back):
            threading.Thread(target=each.take, daemon=True).start()


class _Direction:
    def __init__(self, source: socket.socket, target: socket.socket, seconds: float) -> None:
        self._source, self._target, self._seconds = source, target, seconds
        self._due: collections.deque[tuple[float, bytes]] = collections.deque()
        self._held = 0
        self._changed = threading.Condition()
        self.back: _Direction | None = None
        self.turns: memoryview | None = None

    def take(self) -> None:
        threading.Thread(target=self._hand_on, daemon=True).start()
        data = b"-"
        while data:
            try:
                data = self._source.recv(_AT_ONCE)
            except OSError:
                data = b""
            with self._changed:
                while self._held > _HELD:
                    self._changed.wait()
                if self.turns is not None and self.back is not None and not self._held and not self.back._held:
                    self.turns[0] += 1
                self._due.append((time.monotonic() + self._seconds, data))
                self._held += len(data)
                self._changed.notify()

    def _hand_on(self) -> None:
        data = b"-"
        while data:
            with self._changed:
                while not self._due:
                    self._changed.wait()
                due, data = self._due[0]
            time.sleep(max(due - time.monotonic(), 0))
            with contextlib.suppress(OSError):  # whoever was there has hung up, which the other direction tells
                self._target.sendall(data)
            with self._changed:
                self._due.popleft()
                self._held -= len(data)
                self._changed.notify()
        with contextlib.suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)
