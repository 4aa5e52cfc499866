"""A client for many threads over one stream, where there are no channels: a server on another host.

Theory of operation
-------------------
A thread that asks need not wait until the line is free: it sends, remembers that it is to be answered, and sleeps. One thread
reads replies and wakes whose they are; it never sends, so that replies are taken while a request waits for room. As many requests
are on their way as there are threads that ask, and a line that takes 20 ms costs 20 ms, however many they are.

A server of ours does not keep to one order (server/lanes.py): each request has a lane, and what has the same is done in its
order. A lane is that of the control FD that is asked about; an open FD has that of the file it was opened from. So what is
asked about one file is done in the order in which it was sent, whoever waits for it, and what hangs holds up its own file. An
older server answers everything in order.

A large read of a mount's is asked `later`: its answer goes to the kernel from where it was received, and by the thread that
received it, so that no other has to be woken for it.

Nobody waits for a post, which is how writes are sent: what becomes of it is told to who asks later. Each message costs four
processes a turn, so small posts are kept back until something is sent that somebody waits for, there are many of them, or
`push` is called: by who has nothing to do, and every few milliseconds.

That nothing comes any more is noticed by a heartbeat: where nothing has come for a while, something is asked, on a lane of
its own, that needs no file system; of a server without lanes only when nothing else is asked, as it would have to wait. A line
on which nothing moves for `timeout` seconds, and for what is on its way may take, is Silent: that ends the connection for all.
"""

from __future__ import annotations

import _thread
import collections
import struct
from _socket import MSG_DONTWAIT
from errno import EAGAIN, EIO
from time import monotonic, sleep

from gofer import wire
from gofer.client.pool import Pool
from gofer.client.transport import Garbled, HungUp, Lost, Silent, SocketTransport, checked
from gofer.wire import MAX_MESSAGE_SIZE, LaneHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any, Callable, Union

    Answer = Union[tuple[int, Union[bytes, memoryview], list[int]], Lost]
    _Due = Union["_Call", "_Posted", "_Later"]

MOST = 32  # requests that it pays to have on their way at once
_BEAT_LANE = 0xFFFF
_LANES = 0xFFF0  # how many others there are
_AT_ONCE = 1 << 18  # bytes of one read
_NEXT = 1 << 12  # of those behind a large answer that are read with its last ones: the next one's head, as a rule
_SLOWEST = 1 << 16  # bytes a second that a line must take, of what we have sent
_SPARE = 16  # pieces of memory that large answers came in, and the next ones will
_KEPT = 1 << 15  # bytes of posts that are kept back
_HEAD = LaneHeader.size
_FD_AT = {wire.PREAD: 8, wire.PWRITE: 8, wire.FSYNC: wire.Count.size}  # else it is the first thing that a request says
_OF_NONE = (wire.CLOSE, wire.MOUNT)


class _Call:
    """One that is on its way. bell: released when it is answered, or never will be."""

    __slots__ = ("bell", "answer", "size")

    def __init__(self, size: int) -> None:
        self.bell = _thread.allocate_lock()
        self.bell.acquire()
        self.size = size
        self.answer: Answer = HungUp("the server closed the connection")

    def answered(self, answer: Answer) -> None:
        self.answer = answer
        self.bell.release()

    @property
    def is_answered(self) -> bool:
        return not self.bell.locked()


class _Posted:
    """One whose answer nobody waits for. done(outcome): called with it, the payload or an error, by the thread that reads."""

    __slots__ = ("_mid", "_done", "size")
    _taken: type = bytes

    def __init__(self, mid: int, size: int, done: Callable[[Any], None]) -> None:
        self._mid, self._done, self.size = mid, done, size

    def answered(self, answer: Answer) -> None:
        if isinstance(answer, Lost):
            self._done(answer)
            return
        try:
            outcome = self._taken(checked(self._mid, *answer)[0])
        except OSError as error:
            outcome = error
        self._done(outcome)


class _Later(_Posted):
    """One whose answer is wanted where it lies: a memoryview, good as long as `done` takes."""

    __slots__ = ()
    _taken: type = memoryview


class Stream(Pool):
    """As Pool, of a connection that can have no channel, and over which no fd comes.

    lanes: whether the server has them. timeout: seconds that an answer to the first messages may take, and of silence later on;
    0: any.
    """

    def __init__(self, sock: socket.socket, timeout: float = 0) -> None:
        self.lanes = False
        self._book = _thread.allocate_lock()  # over what is due
        self._sending = _thread.allocate_lock()
        self._due: dict[int, collections.deque[_Due]] = {}
        self._due_bytes = 0
        self._kept: list[bytes] = []  # what is to be sent before anything else
        self._kept_bytes = 0
        self._spare: list[bytearray] = []
        self._opened: dict[int, int] = {}  # lanes of open FDs
        self._moved = monotonic()  # when something last went over the line, either way
        super().__init__(sock, channel=False, timeout=timeout)
        assert isinstance(self.transport, SocketTransport)
        self._line = self.transport
        self._sock = sock
        self._silence = timeout
        self._ended = _thread.allocate_lock()
        self._ended.acquire()
        self.peer_uid = -1
        self.wait_for_ever()
        _thread.start_new_thread(self._read, ())
        if timeout:
            _thread.start_new_thread(self._beat, (timeout,))

    @property
    def transports(self) -> int:
        return MOST

    def exchange(self, mid: int, request: bytes = b"") -> tuple[bytes, list[int]]:
        if not self.shared:  # the first messages
            if mid == wire.MOUNT:
                self._ask_for_lanes()
            return super().exchange(mid, request)
        if len(request) > MAX_MESSAGE_SIZE:
            raise OSError(EIO, "request above the message size")
        payload = bytes(self.end(mid, self.begin(mid, request)))
        if mid == wire.OPENAT or mid == wire.OPENCREATEAT:
            self._has_opened(mid, self._lane(mid, request), payload)
        return payload, []

    def begin(self, mid: int, request: bytes, keep: bool = False) -> _Call:
        """Ask, for whoever takes the answer: `end`. keep: until `push`, as small posts are."""
        call = _Call(len(request))
        try:
            self._send(call, mid, self._lane(mid, request), request, b"", keep)
        except Lost as lost:
            self.lost = self.lost or lost
            raise
        return call

    def end(self, mid: int, call: _Call) -> bytes | memoryview:
        """The answer, once; what is read of a file in memory that may be given back."""
        call.bell.acquire()
        if isinstance(call.answer, Lost):
            self.lost = self.lost or call.answer
            raise call.answer
        try:
            return checked(mid, *call.answer)[0]
        except Lost as lost:
            self.lost = self.lost or lost
            raise

    def ask_ahead(self, mid: int, request: bytes) -> Any:
        return self.begin(mid, request, keep=True)

    def take(self, mid: int, asked: Any) -> bytes:
        return bytes(self.end(mid, asked))

    def borrow(self, mid: int, request: bytes) -> tuple[bytes | memoryview, Any]:
        payload = self.end(mid, self.begin(mid, request))
        return payload, payload.obj if isinstance(payload, memoryview) else None

    def give_back(self, lender: Any) -> None:
        """The memory that a payload came in."""
        if isinstance(lender, bytearray):
            if len(self._spare) < _SPARE:
                self._spare.append(lender)
        else:
            super().give_back(lender)

    def post(
        self, mid: int, request: bytes, done: Callable[[bytes | OSError], None], data: bytes | memoryview = b""
    ) -> None:  # fmt: skip
        """Send, and go on. What is asked about that file later is done later: who has its answer knows that this one is done.

        data: what follows the request; it is the caller's again afterwards.
        """
        size = len(request) + len(data)
        self._send(_Posted(mid, size, done), mid, self._lane(mid, request), request, data, size < _KEPT)

    def later(self, mid: int, request: bytes, done: Callable[[memoryview | OSError], None]) -> None:
        """Ask, at the next `push`; see _Later. For what is large: of a small one there is nothing to be saved."""
        try:
            self._send(_Later(mid, len(request), done), mid, self._lane(mid, request), request, b"", True)
        except Lost as lost:
            self.lost = self.lost or lost
            raise

    def push(self) -> None:
        """Send what is kept back; where somebody sends, he does. An end of the line is told to who asks."""
        if self._kept and self._sending.acquire(False):
            try:
                self._send_all([])
            except OSError:
                pass
            finally:
                self._sending.release()

    def close_fds(self, *fds: int) -> None:
        for fd in fds:
            self._opened.pop(fd, None)
        self.post(wire.CLOSE, struct.pack(f"<H{len(fds)}Q", len(fds), *fds), lambda outcome: None)

    def drain(self, seconds: float) -> None:
        """Wait until all is answered, or for so long."""
        self.push()
        until = monotonic() + seconds
        while self._due and not self.lost and monotonic() < until:
            sleep(0.002)

    # Lanes

    def _ask_for_lanes(self) -> None:
        try:
            super().exchange(wire.LANES)
            self.lanes = True
        except Lost:
            raise
        except OSError:  # a server that does not know of them
            pass

    def _lane(self, mid: int, request: bytes) -> int:
        if not self.lanes or mid in _OF_NONE or len(request) < wire.FDID.size:
            return 0
        (fd,) = wire.FDID.read(request, _FD_AT.get(mid, 0))
        return self._opened.get(fd) or 1 + int(fd) % _LANES

    def _has_opened(self, mid: int, lane: int, payload: bytes) -> None:
        if not self.lanes:
            return
        if mid == wire.OPENAT:
            (fd,) = wire.OpenAtResp.unpack(payload)
        else:
            control, _, fd = wire.OpenCreateAtResp.unpack(payload)
            lane = 1 + control % _LANES
        self._opened[fd] = lane

    # The line

    def _send(
        self, call: _Due, mid: int, lane: int, request: bytes, data: bytes | memoryview, keep: bool = False
    ) -> None:  # fmt: skip
        head = LaneHeader.bytes(call.size, mid, lane) + request
        with self._sending:
            with self._book:
                if self.lost:
                    raise self.lost
                self._due.setdefault(lane, collections.deque()).append(call)
                self._due_bytes += call.size
            try:
                if keep:
                    self._kept += head, bytes(data)
                    self._kept_bytes += _HEAD + call.size
                    if self._kept_bytes > _KEPT:
                        self._send_all([])
                else:
                    self._send_all([head, data])
            except OSError:
                raise self.lost or HungUp("the server closed the connection") from None

    def _send_all(self, parts: list[bytes | memoryview]) -> None:
        """What is kept, and parts. _sending is held."""
        if self._kept:
            parts = [b"".join(self._kept), *parts]
            self._kept, self._kept_bytes = [], 0
        while parts:
            sent = self._sock.sendmsg(parts)
            self._moved = monotonic()
            while parts and sent >= len(parts[0]):
                sent -= len(parts.pop(0))
            if parts:
                parts[0] = memoryview(parts[0])[sent:]

    def _read(self) -> None:
        """The thread that takes replies, until there are no more; whoever still waits is told."""
        buffer = memoryview(bytearray(_AT_ONCE))
        next_head = buffer[:_NEXT]
        at = have = 0
        lost: Lost = HungUp("the server closed the connection")
        try:
            while True:
                if have < _HEAD:
                    buffer[:have] = buffer[at : at + have]
                    have, at = have + self._receive(buffer[have:]), 0
                    continue
                size, mid, lane = LaneHeader.read(buffer, at)
                if size > MAX_MESSAGE_SIZE:
                    raise Garbled("a reply that exceeds the message size")
                at, have = at + _HEAD, have - _HEAD
                if size <= have:
                    payload: bytes | memoryview = bytes(buffer[at : at + size])
                    at, have = at + size, have - size
                    self._take_due(lane).answered((mid, payload, []))
                    continue
                payload, have = self._rest(buffer[at : at + have], size, next_head)
                at = 0
                call = self._take_due(lane)
                call.answered((mid, payload if mid == wire.PREAD else bytes(payload), []))
                if mid != wire.PREAD or isinstance(call, _Later):
                    self.give_back(payload.obj)
        except Lost as error:
            lost = error
        except OSError:
            pass
        except Exception:  # the faults of who is told
            lost = Garbled("an answer that cannot be taken")
        self._over(lost)

    def _take_due(self, lane: int) -> _Due:
        with self._book:
            queue = self._due.get(lane)
            if not queue:
                raise Garbled("a reply to nothing")
            call = queue.popleft()
            if not queue:
                del self._due[lane]
            self._due_bytes -= call.size
        return call

    def _receive(self, *into: memoryview) -> int:
        count = self._sock.recvmsg_into(into)[0] if len(into) > 1 else self._sock.recv_into(into[0])
        if not count:
            raise HungUp("the server closed the connection")
        self._moved = monotonic()
        return count

    def _rest(self, begun: memoryview, size: int, beyond: memoryview) -> tuple[memoryview, int]:
        """A payload, and how much of `beyond` has come behind it: little, as what is read to there has to be copied."""
        try:
            room = self._spare.pop()
        except IndexError:
            room = bytearray()
        if len(room) < size:
            room = bytearray(size)
        payload = memoryview(room)[:size]
        payload[: len(begun)] = begun
        rest = payload[len(begun) :]
        while True:
            count = self._receive(rest, beyond)
            if count >= len(rest):
                return payload, count - len(rest)
            rest = rest[count:]

    def _over(self, lost: Lost) -> None:
        with self._book:
            lost = self.lost = self.lost or lost
        self._line.end()  # who waits for room to send
        self._ended.release()
        with self._sending, self._book:
            due, self._due = self._due, {}
        for queue in due.values():
            for call in queue:
                call.answered(lost)

    # The heartbeat

    def _beat(self, timeout: float) -> None:
        pause = timeout / 8
        while not self._ended.acquire(timeout=pause):
            silent = monotonic() - self._moved
            if silent > timeout - pause + self._due_bytes / _SLOWEST and self._due:
                with self._book:
                    self.lost = self.lost or Silent(f"nothing has come for {timeout:g} s")
                self._line.end()
                return
            self.push()
            if silent > timeout / 3 and _BEAT_LANE not in self._due and (self.lanes or not self._due):
                self._ask_for_life()

    def _ask_for_life(self) -> None:
        """Close no FD at all. Where the line takes nothing, that it is silent is known without."""
        if not self._sending.acquire(False):
            return
        try:
            request, lane = wire.Count.bytes(0), _BEAT_LANE if self.lanes else 0
            with self._book:
                if self.lost:
                    return
                self._due.setdefault(lane, collections.deque()).append(_Posted(wire.CLOSE, 0, lambda outcome: None))
            self._sock.send(LaneHeader.bytes(len(request), wire.CLOSE, lane) + request, MSG_DONTWAIT)
        except OSError as error:
            if error.errno == EAGAIN:
                with self._book:
                    self._due[lane].pop()
                    if not self._due[lane]:
                        del self._due[lane]
        finally:
            self._sending.release()

    def close(self) -> None:
        if self.shared:
            self._line.end()
        super().close()
