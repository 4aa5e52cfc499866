"""A client for many threads over one stream, where there are no channels: a server on another host.

Theory of operation
-------------------
A server answers a connection's requests in their order. So a thread that asks need not wait until the line is free: it sends,
remembers that it is the next to be answered, and sleeps. One thread reads replies and wakes who is next; it never sends, so
that replies are taken while a request waits for room. As many requests are on their way as there are threads that ask, and a
line that takes 20 ms costs 20 ms, however many they are. The price is the order: a request that takes long on the far side
holds up those behind it.

That nothing comes any more is for two to notice: ssh, which ends when its host is silent (`ServerAliveInterval`), and who waits.
"""

from __future__ import annotations

import _thread
import collections
from errno import EIO

from gofer import wire
from gofer.client.pool import Pool
from gofer.client.transport import HungUp, Lost, SocketTransport, checked
from gofer.wire import MAX_MESSAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Callable

MOST = 32  # requests that it pays to have on their way at once


class _Call:
    """One that is on its way. bell: released when it is answered, or never will be."""

    __slots__ = ("bell", "answer")

    def __init__(self) -> None:
        self.bell = _thread.allocate_lock()
        self.bell.acquire()
        self.answer: tuple[int, bytes, list[int]] | Lost = HungUp("the server closed the connection")

    def answered(self, answer: tuple[int, bytes, list[int]] | Lost) -> None:
        self.answer = answer
        self.bell.release()


class _Posted:
    """One whose answer nobody waits for. done(outcome): called with it, the payload or an error, by the thread that reads."""

    __slots__ = ("_mid", "_done")

    def __init__(self, mid: int, done: Callable[[bytes | OSError], None]) -> None:
        self._mid, self._done = mid, done

    def answered(self, answer: tuple[int, bytes, list[int]] | Lost) -> None:
        if isinstance(answer, Lost):
            self._done(answer)
            return
        try:
            outcome: bytes | OSError = checked(self._mid, *answer)[0]
        except OSError as error:
            outcome = error
        self._done(outcome)


class Stream(Pool):
    """As Pool, of a connection that can have no channel, and over which no fd comes."""

    def __init__(self, sock: socket.socket, timeout: float = 0) -> None:
        self._sending = _thread.allocate_lock()
        self._due: collections.deque[_Call | _Posted] = collections.deque()
        super().__init__(sock, channel=False, timeout=timeout)
        assert isinstance(self.transport, SocketTransport)
        self._line = self.transport
        self.peer_uid = -1
        self.wait_for_ever()
        _thread.start_new_thread(self._read, ())

    @property
    def transports(self) -> int:
        return MOST

    def exchange(self, mid: int, request: bytes = b"") -> tuple[bytes, list[int]]:
        if not self.shared:  # the first messages
            return super().exchange(mid, request)
        if len(request) > MAX_MESSAGE_SIZE:
            raise OSError(EIO, "request above the message size")
        call = _Call()
        try:
            self._send(call, mid, request)
            call.bell.acquire()
            if isinstance(call.answer, Lost):
                raise call.answer
            return checked(mid, *call.answer)
        except Lost as lost:
            self.lost = self.lost or lost
            raise

    def borrow(self, mid: int, request: bytes) -> tuple[bytes, None]:
        return self.ask(mid, request), None

    def post(self, mid: int, request: bytes, done: Callable[[bytes | OSError], None]) -> None:
        """Send, and go on. What is asked later is answered later: whoever waits for that knows that this one is done."""
        self._send(_Posted(mid, done), mid, request)

    def _send(self, call: _Call | _Posted, mid: int, request: bytes) -> None:
        with self._sending:
            if self.lost:
                raise self.lost
            self._due.append(call)
            self._line.send(wire.SocketHeader.bytes(len(request), mid) + request)

    def _read(self) -> None:
        """The thread that takes replies, until there are no more; whoever still waits is told."""
        try:
            while True:
                answer = self._line.answer()
                self._due.popleft().answered(answer)  # IndexError: a reply to nothing
        except Exception as error:
            lost = error if isinstance(error, Lost) else HungUp("the server closed the connection")
            self.lost = self.lost or lost
        self._line.end()  # who waits for room to send
        with self._sending:
            while self._due:
                self._due.popleft().answered(self.lost)

    def close(self) -> None:
        if self.shared:
            self._line.end()
        super().close()
