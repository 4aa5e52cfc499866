"""The client's ends of the two transports: a socket, a shared-memory channel. The server's are connection.py and channel.py.

Neither waits for ever: `timeout` is how many seconds an answer may take to come (0: any time). What ends a connection is a Lost,
of which there are three kinds; whatever else is raised has left the connection as it was.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import select
import socket
import struct
import time
from errno import EMFILE

from gofer import sys, wire
from gofer.cdata import addressof, byref, c_char, c_int, c_long, c_ulong, c_void_p
from gofer.client.look import Look, pays
from gofer.wire import ERROR, MAX_MESSAGE_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar, Union

    Payload = TypeVar("Payload", bound=Union[bytes, memoryview])

_MOST_FDS = 8
_AT_ONCE = 16384  # bytes of one read of replies: some thirty that tell of a file
_DATA, _PAYLOAD = 16, 20  # offsets in a window: the data, and what is behind a message's header in it
_STATE, _LENGTH, _HEAD = 0, 1, 4  # words of it: state, data_len, and mid with num_fds (little-endian, as the wire is)
_LOOK_EVERY = 0.1  # seconds of sleep on the futex between two looks at the socket
_MAX_ERRNO = 4096  # as in the kernel


class Lost(ConnectionError):
    """Nothing more comes over this connection. Has no errno: one that a server gave is a plain OSError."""


class HungUp(Lost):
    """The server has closed it, or shut the channel down; or there is no server any more."""


class Silent(Lost):
    """No answer in time. A later one could not be told from that to another question."""


class Garbled(Lost):
    """What came is not what the protocol has there."""


def set_timeout(sock: socket.socket, timeout: float) -> None:
    """Blocking calls on it fail with EAGAIN after so many seconds; 0: never. In the kernel: no poll(2) around each call."""
    value = struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6) or int(0 < timeout < 1))
    sock.setblocking(True)
    for direction in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, direction, value)


_WIDE = 1 << 20


class SocketTransport:
    """One connected AF_UNIX stream socket, of which it is the owner.

    Requests may be sent ahead of their answers, which come in their order: `send`, then `answer` for each. What has come is read
    many replies at a time. The kernel ends a read behind a message with fds, so they belong to the last reply of what was read.
    """

    def __init__(self, sock: socket.socket, timeout: float = 0) -> None:
        self._socket = sock
        self._timeout = timeout
        self._came = b""  # and was not asked for yet
        self._at = 0  # where the next reply begins in it
        self._fds: list[int] = []  # those of the reply that the last byte of it belongs to
        self.dropped = False  # whether fds came for which this process had no place
        set_timeout(sock, timeout)

    def set_timeout(self, timeout: float) -> None:
        self._timeout = timeout
        set_timeout(self._socket, timeout)

    def widen(self) -> None:
        """Take large requests without waiting until the server has taken them: as much as the host lets have who is not root."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WIDE)

    def call(self, mid: int, request: bytes) -> tuple[int, bytes, list[int]]:
        """One request; returns the reply's message id, payload and donated fds."""
        self.send(wire.SocketHeader.bytes(len(request), mid) + request)
        return self.answer()

    lend = call  # what comes is the caller's own

    def send(self, requests: bytes) -> None:
        """Whole messages, headers and all. Ask for answers before more is sent than the socket holds."""
        try:
            self._socket.sendall(requests)
        except OSError as error:
            raise self._lost(error) from None

    def end(self) -> None:
        """Hang up, from whatever thread: whoever reads or sends is told so. `close` is still to come."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it is over already
            pass

    def answer(self, room: bytearray | None = None) -> tuple[int, Any, list[int]]:
        """The next reply: its message id, payload and donated fds. room: where a large payload may lie, which then is a view."""
        head, fds = wire.SocketHeader.size, []
        try:
            while len(self._came) - self._at < head:
                fds += self._receive()
            size, answer = wire.SocketHeader.read(self._came, self._at)
            if size > MAX_MESSAGE_SIZE:
                raise Garbled("a reply that exceeds the message size")
            start = self._at + head
            missing = start + size - len(self._came)
            if missing > 0:
                fds += self._last_fds()
                payload = self._take(self._came[start:], size, room)
                self._came, self._at = b"", 0
            else:
                self._at = start + size
                payload = self._came[start : self._at]
                if self._at == len(self._came):
                    fds += self._last_fds()
            return answer, payload, fds
        except BaseException as error:
            close_all(fds)
            if isinstance(error, OSError) and not isinstance(error, Lost):
                raise self._lost(error) from None
            raise

    def _lost(self, error: OSError) -> Lost:
        if isinstance(error, BlockingIOError):
            return Silent(f"no answer within {self._timeout:g} s")
        return HungUp("the server closed the connection")

    def _receive(self) -> list[int]:
        """More of what comes, behind less than a header. Returns the fds of what was there before."""
        fds = self._last_fds()
        space, cloexec = socket.CMSG_SPACE(4 * _MOST_FDS), socket.MSG_CMSG_CLOEXEC
        try:
            part, ancillary, flags, _ = self._socket.recvmsg(_AT_ONCE, space, cloexec)
        except BaseException:
            close_all(fds)
            raise
        self._fds = _rights(ancillary)
        if flags & socket.MSG_CTRUNC:
            self.dropped = True
        if not part:
            close_all(fds)
            raise HungUp("the server closed the connection")
        self._came, self._at = self._came[self._at :] + part, 0
        return fds

    def _last_fds(self) -> list[int]:
        fds, self._fds = self._fds, []
        return fds

    def _take(self, begun: bytes, size: int, room: bytearray | None) -> bytes | memoryview:
        parts = bytearray(size) if room is None or len(room) < size else room
        parts[: len(begun)] = begun
        rest = memoryview(parts)[len(begun) : size]
        while rest:
            count = self._socket.recv_into(rest)
            if not count:
                raise HungUp("the server closed the connection")
            rest = rest[count:]
        return bytes(parts) if parts is not room else memoryview(parts)[:size]

    def close(self) -> None:
        close_all(self._last_fds())
        self._socket.close()


class ChannelTransport:
    """The client's side of a shared-memory channel; see channel.py for how it works.

    A server that is killed writes nothing to the window and wakes nobody, but its end of the channel's socket is closed: so the
    sleep on the futex is broken off now and then, to look whether it is.
    """

    def __init__(self, memfd: int, offset: int, length: int, fd_socket: int, timeout: float = 0) -> None:
        """memfd, fd_socket: as donated; both are owned from now on."""
        self._timeout = timeout
        self._fd_socket = socket.socket(fileno=fd_socket)
        try:
            self._map = _window(memfd, offset, length)
            self._view = memoryview(self._map)
            self._words = self._view[:_PAYLOAD].cast("I")
            self._look = Look() if pays() else None
            self._hang_up = select.poll()
            self._hang_up.register(fd_socket, 0)  # that it is gone is told all the same
            self._prepare(c_void_p(addressof(c_char.from_buffer(self._view))))
            self._view[_DATA : _DATA + 3] = b"{}\n"
            self._hand_over(3)
            self._wait()
        except BaseException:
            self._fd_socket.close()
            raise
        finally:
            os.close(memfd)

    def _prepare(self, address: c_void_p) -> None:
        """The futex calls, with arguments made once."""
        number, op = c_long(sys.futex_number()), c_int(sys.FUTEX_WAKE_OP)
        pause = (c_long * 2)(0, int(_LOOK_EVERY * 1e9))
        self._wait_args = (number, address, c_int(sys.FUTEX_WAIT), c_int(1), byref(pause), None, c_int(0))
        # 0 becomes 1; a 2 that came meanwhile becomes 3, which is as good as 2 to either side
        set_bit0, set_two = c_int(sys.FUTEX_OP_OR << 28 | 1 << 12), c_int(sys.FUTEX_OP_SET << 28 | 2 << 12)
        self._flip_args = (number, address, op, c_int(1), c_ulong(0), address, set_bit0)
        self._end_args = (number, address, op, c_int(1 << 30), c_ulong(0), address, set_two)

    def _hand_over(self, data_len: int) -> None:
        self._words[_LENGTH] = data_len
        sys.unlocked_call(*self._flip_args)  # which cannot block

    def _wait(self) -> int:
        """Until it is handed back; the length of what came."""
        words = self._words
        if words[_STATE]:
            if self._look is not None:
                self._look.while_one(words)
            if words[_STATE]:
                self._sleep(words)
        return words[_LENGTH]

    def _sleep(self, words: memoryview) -> None:
        """Until the answer is there."""
        began, gone = 0.0, False
        while True:
            state = words[_STATE]
            if state == 0:
                return
            if state != 1:
                raise HungUp("the server shut the channel down")
            if gone:
                raise HungUp("the server closed the connection")
            now = time.monotonic()
            began = began or now
            if self._timeout and now - began > self._timeout:
                raise Silent(f"no answer within {self._timeout:g} s")
            sys.plain_call(*self._wait_args)
            # Where it has gone, it may have answered before: one more look at the state.
            gone = now - began > _LOOK_EVERY / 2 and bool(self._hang_up.poll(0))

    def set_timeout(self, timeout: float) -> None:
        self._timeout = timeout

    def call(self, mid: int, request: bytes) -> tuple[int, bytes, list[int]]:
        """As SocketTransport.call."""
        answer, payload, fds = self.lend(mid, request)
        return answer, bytes(payload), fds

    def begin(self, mid: int, request: bytes) -> None:
        """The first half of a call; `end` is the other."""
        view, size = self._view, len(request)
        self._words[_HEAD] = mid
        view[_PAYLOAD : _PAYLOAD + size] = request
        self._hand_over(_PAYLOAD - _DATA + size)

    @property
    def is_answered(self) -> bool:
        """Whether `end` would not wait."""
        return self._words[_STATE] != 1

    def lend(self, mid: int, request: bytes) -> tuple[int, memoryview, list[int]]:
        """As `call`, the payload where it lies: until the next call, and as long as the server leaves it as it is."""
        self.begin(mid, request)
        return self.end()

    def end(self) -> tuple[int, memoryview, list[int]]:
        view, size = self._view, self._wait()
        head = self._words[_HEAD]
        if not _PAYLOAD - _DATA <= size <= len(view) - _DATA:
            raise Garbled("a reply that does not fit its channel")
        fds = self._donated(head >> 16 & 0xFF) if head > 0xFFFF else []
        return head & 0xFFFF, view[_PAYLOAD : _DATA + size], fds

    def _donated(self, count: int) -> list[int]:
        """One fd a message, all of which are there when the reply is."""
        fds: list[int] = []
        try:
            for _ in range(count):
                flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
                fds += _rights(self._fd_socket.recvmsg(1, socket.CMSG_SPACE(4), flags)[1])
        except OSError:
            close_all(fds)
            raise Garbled("a reply without the fds that it names") from None
        return fds

    def close(self) -> None:
        if self._map.closed:
            return
        sys.plain_call(*self._end_args)
        self._fd_socket.close()
        self._words.release()
        self._view.release()
        self._map.close()  # it has an fd of its own on the memory


def _window(memfd: int, offset: int, length: int) -> mmap.mmap:
    """The window, mapped; of memory that nobody can take away again, which would be a fatal signal at the next access."""
    try:
        if length < _PAYLOAD + 4 or not fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise ValueError
        return mmap.mmap(memfd, length, offset=offset)
    except (OSError, OverflowError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == EMFILE:  # it has an fd of its own on the memory
            raise
        raise Garbled("a channel that cannot be mapped") from None


def _rights(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The fds of a message."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return list(fds)


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def connected(path: str | bytes, timeout: float = 0) -> socket.socket:
    """A socket that is connected to that file's; EAGAIN where the server has not made room for it in time."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        set_timeout(sock, timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def checked(mid: int, answer: int, payload: Payload, fds: list[int]) -> tuple[Payload, list[int]]:
    """The payload and fds of an answer to that message; raises the OSError that an Error reply tells."""
    if answer == mid:
        return payload, fds
    close_all(fds)
    code = int.from_bytes(payload, "little") if answer == ERROR else 0
    if not 0 < code < _MAX_ERRNO:
        raise Garbled(f"message {answer} in answer to {wire.NAMES.get(mid, mid)}")
    raise OSError(code, os.strerror(code))


def one(fds: list[int]) -> int:
    """The first donated fd, -1 where none came; more than one is not to be expected, and closed."""
    close_all(fds[1:])
    return fds[0] if fds else -1
