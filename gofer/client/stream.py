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
from gofer.client.client import checked
from gofer.client.pool import Pool
from gofer.client.transport import HungUp, Lost, SocketTransport
from gofer.wire import MAX_MESSAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

MOST = 32  # requests that it pays to have on their way at once


class _Call:
    """One that is on its way. bell: released when it is answered, or never will be."""

    __slots__ = ("bell", "answer")

    def __init__(self) -> None:
        self.bell = _thread.allocate_lock()
        self.bell.acquire()
        self.answer: tuple[int, bytes, list[int]] | Lost = HungUp("the server closed the connection")


class Stream(Pool):
    """As Pool, of a connection that can have no channel, and over which no fd comes."""

    def __init__(self, sock: socket.socket, timeout: float = 0) -> None:
        self._sending = _thread.allocate_lock()
        self._due: collections.deque[_Call] = collections.deque()
        super().__init__(sock, channel=False, timeout=timeout)
        assert isinstance(self.transport, SocketTransport)
        self._line = self.transport
        self.peer_uid = -1
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
        message = wire.SocketHeader.bytes(len(request), mid) + request
        try:
            with self._sending:
                if self.lost:
                    raise self.lost
                self._due.append(call)
                self._line.send(message)
            call.bell.acquire()
            if isinstance(call.answer, Lost):
                raise call.answer
            return checked(mid, *call.answer)
        except Lost as lost:
            self.lost = self.lost or lost
            raise

    def _read(self) -> None:
        """The thread that takes replies, until there are no more; whoever still waits is told."""
        try:
            while True:
                answer = self._line.answer()
                call = self._due.popleft()  # IndexError: a reply to nothing
                call.answer = answer
                call.bell.release()
        except Exception as error:
            lost = error if isinstance(error, Lost) else HungUp("the server closed the connection")
            self.lost = self.lost or lost
        self._line.end()  # who waits for room to send
        with self._sending:
            while self._due:
                call = self._due.popleft()
                call.answer = self.lost
                call.bell.release()

    def close(self) -> None:
        if self.shared:
            self._line.end()
        super().close()
