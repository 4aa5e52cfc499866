"""The two LISAFS transports, seen from the client; written from the protocol page, not from the server.

Both offer `exchange(mid, payload) -> Reply` and know nothing about messages. Nothing here waits longer than its
`patience`: a server that hangs is a TimeoutError, and stops nothing. A server that ends the connection is a ConnectionError on
either transport. A reply that cannot be one is Unexpected.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import select
import socket
import struct
import time
from typing import NamedTuple

from gofer.conform.codec import expect

# Seconds until what ought to happen at once counts as never, where nobody says another number.
PATIENCE = 40.0  # below 45, after which the kernel ends a lease
HEADER = struct.Struct("<IHH")  # payload_len, mid, zero
WINDOW = struct.Struct("<II8x")  # state, data_len, reserved
CHANNEL_HEADER = struct.Struct("<HBB")  # mid, num_fds, zero
DATA = WINDOW.size  # where `data` starts in a window
CLIENT_ACTIVE, SERVER_ACTIVE, SHUT_DOWN = 0, 1, 2

_CLOSED, _SILENT = "the server closed the connection", "the server does not answer"

_FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98}[platform.machine()]
_WAIT, _WAKE, _WAKE_OP, _OP_OR = 0, 1, 5, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Reply(NamedTuple):
    mid: int
    payload: bytes
    fds: list[int]  # donated; the caller owns them
    zero: int = 0  # the reserved bytes of the header


class SocketTransport:
    """Requests over the AF_UNIX stream socket."""

    def __init__(self, sock: socket.socket, patience: float = PATIENCE) -> None:
        self.sock = sock
        self.patience = patience
        sock.settimeout(patience)

    def be_patient(self, seconds: float) -> None:
        self.patience = seconds
        self.sock.settimeout(seconds)

    def exchange(self, mid: int, payload: bytes = b"") -> Reply:
        self.send(HEADER.pack(len(payload), mid, 0) + payload)
        return self.receive()

    def send(self, data: bytes) -> None:
        """Any bytes at all."""
        try:
            self.sock.sendall(data)
        except socket.timeout:
            raise TimeoutError("the server takes no request") from None
        except (BrokenPipeError, ConnectionResetError):
            raise ConnectionResetError(_CLOSED) from None

    def receive(self) -> Reply:
        """One reply; donated fds ride on its first byte."""
        space = socket.CMSG_SPACE(8 * 4)
        try:
            first, ancillary, flags, _ = self.sock.recvmsg(HEADER.size, space, socket.MSG_CMSG_CLOEXEC)
        except socket.timeout:
            raise TimeoutError(_SILENT) from None
        except ConnectionResetError:
            raise ConnectionResetError(_CLOSED) from None
        fds = rights(ancillary)
        try:
            expect(not flags & socket.MSG_CTRUNC, "more fds than any message may donate")
            length, mid, zero = HEADER.unpack(first + self._exactly(HEADER.size - len(first)))
            return Reply(mid, self._exactly(length), fds, zero)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self.sock.recv(count)
            except socket.timeout:
                raise TimeoutError(_SILENT) from None
            except ConnectionResetError:
                part = b""
            if not part:
                raise ConnectionResetError(_CLOSED)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def ended(self) -> bool:
        """Wait for the server to end the connection; False when it says something instead."""
        try:
            return self.sock.recv(1) == b""
        except socket.timeout:
            raise TimeoutError("the server does not end the connection") from None
        except ConnectionError:
            return True

    def close(self) -> None:
        self.sock.close()


class ChannelTransport:
    """Requests through one window of shared memory. Owns sock and its mapping; memfd stays the caller's."""

    def __init__(
        self, memfd: int, sock: socket.socket, offset: int, length: int, patience: float = PATIENCE
    ) -> None:
        self.sock = sock
        self.patience = patience
        self.length = length
        self.window = mmap.mmap(memfd, length, offset=offset)
        self._base: ctypes.c_char | None = ctypes.c_char.from_buffer(self.window)
        self.address = ctypes.addressof(self._base)

    def be_patient(self, seconds: float) -> None:
        self.patience = seconds

    def handshake(self, hello: bytes = b"{}\n") -> bytes:
        """The first exchange: JSON text, without a channel header."""
        self.hand_over(hello)
        return self.take_back()

    def exchange(self, mid: int, payload: bytes = b"") -> Reply:
        self.hand_over(CHANNEL_HEADER.pack(mid, 0, 0) + payload)
        return self.receive()

    def receive(self) -> Reply:
        data = self.take_back()
        mid, num_fds, zero = CHANNEL_HEADER.unpack_from(data)
        fds: list[int] = []
        try:
            for _ in range(num_fds):
                fds += self.donation()
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return Reply(mid, data[CHANNEL_HEADER.size :], fds, zero)

    def hand_over(self, data: bytes, data_len: int | None = None) -> None:
        """Write data, claim that it is data_len bytes, and make the server active."""
        self.window[DATA : DATA + len(data)] = data
        struct.pack_into("<I", self.window, 4, len(data) if data_len is None else data_len)
        self.flip()

    def flip(self) -> None:
        """Make the server active and wake it in one call: 0 becomes 1; a shutdown (2) becomes 3: seen."""
        self._futex(_WAKE_OP, 1, 0, self.address, _OP_OR << 28 | 1 << 12)

    def take_back(self) -> bytes:
        """Wait until the server hands control back; -> the data it wrote."""
        while True:
            state, data_len = WINDOW.unpack_from(self.window)
            if state == CLIENT_ACTIVE:
                expect(data_len <= self.length - DATA, "the server claims more data than the window holds")
                return self.window[DATA : DATA + data_len]
            if state != SERVER_ACTIVE:
                raise ConnectionResetError("the channel is shut down")
            if not self._wait(SERVER_ACTIVE):
                raise TimeoutError("the server does not answer on the channel")

    def donation(self) -> list[int]:
        """The fds of one message on the channel's socket; they must be there already."""
        body, ancillary, _, _ = self.sock.recvmsg(
            1, socket.CMSG_SPACE(16), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
        )
        fds = rights(ancillary)
        expect(body == b"" and len(fds) == 1, f"one fd and no body was to come, not {len(fds)} and {body!r}")
        return fds

    @property
    def state(self) -> int:
        return int(WINDOW.unpack_from(self.window)[0])

    @state.setter
    def state(self, value: int) -> None:
        struct.pack_into("<I", self.window, 0, value)
        self._futex(_WAKE, 1)

    def ended(self) -> bool:
        """Wait for the server to shut the channel down; False when it hands control back instead."""
        try:
            self.take_back()
            return False
        except ConnectionError:
            return True

    def close(self) -> None:
        self.state = SHUT_DOWN
        self._base = None  # lets go of the buffer, or close() refuses
        self.window.close()
        self.sock.close()

    def _wait(self, value: int) -> bool:
        """FUTEX_WAIT while the state is value, as long as the server lives; False when the patience is over."""
        deadline = time.monotonic() + self.patience
        piece = ctypes.create_string_buffer(struct.pack("qq", 0, int(min(self.patience, 0.1) * 1e9)))
        while self._futex(_WAIT, value, ctypes.addressof(piece)) != 0 and ctypes.get_errno() == errno.ETIMEDOUT:
            if self._hung_up():
                raise ConnectionResetError(_CLOSED)
            if time.monotonic() > deadline:
                return False
        return True  # or EAGAIN and EINTR: look again

    def _hung_up(self) -> bool:
        if self.sock.fileno() < 0:  # a case has closed it
            return False
        poll = select.poll()
        poll.register(self.sock, 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0)) and self.state == SERVER_ACTIVE

    def _futex(self, op: int, value: int, fourth: int = 0, second_word: int = 0, value3: int = 0) -> int:
        """futex(2) on the state word. Shared, not PRIVATE: the other side is another process."""
        return int(
            _libc.syscall(
                ctypes.c_long(_FUTEX),
                ctypes.c_void_p(self.address),
                ctypes.c_int(op),
                ctypes.c_uint(value),
                ctypes.c_void_p(fourth),
                ctypes.c_void_p(second_word),
                ctypes.c_uint(value3),
            )
        )


def rights(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    fds: list[int] = []
    for level, kind, data in ancillary:
        expect((level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS), "ancillary data that are no fds")
        fds += struct.unpack(f"{len(data) // 4}i", data[: len(data) // 4 * 4])
    return fds
