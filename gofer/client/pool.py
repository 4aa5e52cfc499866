"""A client for many threads: each request goes over a channel that is free, FDs are one table for all.

The socket is used where no channel is free, and for what only it can do. A thread that waits for an answer holds up nobody
else, as long as there are others left: one more than the server's `--channels` can be waited for at once.
"""

from __future__ import annotations

import _thread
import struct
from _socket import SO_PEERCRED, SOL_SOCKET
from errno import EIO

from gofer import wire
from gofer.client.client import Client
from gofer.client.transport import ChannelTransport, Lost, SocketTransport, checked, close_all
from gofer.wire import MAX_MESSAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Union

    Transport = Union[SocketTransport, ChannelTransport]

MOST = 16  # channels; more threads than that would only wait for the interpreter
_TO_SPARE = 2  # transports that nobody uses, where one is asked over ahead of who needs the answer


class Pool(Client):
    """timeout: until `wait_for_ever`; from then on how long an answer may take is for who asks to see to.

    peer_uid: the user that the server runs as.
    """

    shared = False

    def __init__(self, sock: socket.socket, channel: bool = True, timeout: float = 0, most: int = MOST) -> None:
        self._free: list[Transport] = []
        self._waiting: list[_thread.LockType] = []
        super().__init__(sock, timeout=timeout)
        self._channels: list[ChannelTransport] = []
        try:
            while channel and len(self._channels) < most:
                self._channels.append(self.channel())
        except Lost:
            raise
        except OSError:  # the server gives no more, or we may have no more fds
            pass
        self.fileno = sock.fileno()
        _, self.peer_uid, _ = struct.unpack("=iII", sock.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
        self._free = [self.base, *self._channels]  # the socket last: a channel is faster
        self.shared = True

    @property
    def transports(self) -> int:
        return len(self._channels) + 1

    def wait_for_ever(self) -> None:
        self.base.set_timeout(0)
        for channel in self._channels:
            channel.set_timeout(0)

    def exchange(self, mid: int, request: bytes = b"") -> tuple[bytes, list[int]]:
        if len(request) > MAX_MESSAGE_SIZE:
            raise OSError(EIO, "request above the message size")
        transport = self._take()
        try:
            if self.lost:
                raise self.lost
            return checked(mid, *transport.call(mid, request))
        except Lost as lost:
            self.lost = lost
            raise
        finally:
            if self.shared:
                self.give_back(transport)

    def borrow(self, mid: int, request: bytes) -> tuple[bytes | memoryview, Transport | None]:
        """As `ask`, the payload where the channel has it, which is the caller's until he gives it back."""
        transport = self._take()
        try:
            if self.lost:
                raise self.lost
            payload, fds = checked(mid, *transport.lend(mid, request))
            close_all(fds)
        except BaseException as error:
            if isinstance(error, Lost):
                self.lost = error
            self.give_back(transport)
            raise
        return payload, transport

    def ask_ahead(self, mid: int, request: bytes) -> Any:
        """Ask, for whoever is to `take` the answer. None where there is no channel to spare for that.

        What it returns tells by `is_answered` whether he would have to wait.
        """
        if self.lost or len(self._free) < _TO_SPARE:
            return None
        transport = self._take()
        if not isinstance(transport, ChannelTransport):
            self.give_back(transport)
            return None
        transport.begin(mid, request)
        return transport

    def take(self, mid: int, asked: Any) -> bytes:
        """The answer, once; its fds are closed."""
        try:
            payload, fds = checked(mid, *asked.end())
            close_all(fds)
            return bytes(payload)
        except Lost as lost:
            self.lost = lost
            raise
        finally:
            self.give_back(asked)

    def _take(self) -> Transport:
        if not self.shared:  # the first messages
            return self.transport
        while True:
            try:
                return self._free.pop()
            except IndexError:
                pass
            bell = _thread.allocate_lock()
            bell.acquire()
            self._waiting.append(bell)
            if self._free:  # given back meanwhile, by somebody who may not have seen us
                try:
                    self._waiting.remove(bell)
                except ValueError:
                    pass
                continue
            bell.acquire()

    def give_back(self, transport: Transport) -> None:
        self._free.append(transport)
        if self._waiting:
            try:
                self._waiting.pop(0).release()
            except IndexError:
                pass

    def walk_raw(self, fd: int, names: list[bytes]) -> tuple[int, list[tuple[int, bytes]]]:
        """As `walk`, without taking attributes apart."""
        if len(names) == 1:
            request = _WALK_ONE.pack(fd, 1, len(names[0])) + names[0]
        else:
            request = wire.FDID.bytes(fd) + wire.Count.bytes(len(names))
            request += b"".join([wire.Count.bytes(len(name)) + name for name in names])
        payload = self.ask(wire.WALK, request)
        status, count = wire.WalkResp.read(payload)
        return status, [wire.Inode.read(payload, wire.WalkResp.size + i * wire.Inode.size) for i in range(count)]

    def close(self) -> None:
        for channel in getattr(self, "_channels", ()):
            channel.close()
        super().close()


_WALK_ONE = struct.Struct("<QHH")
