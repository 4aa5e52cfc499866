"""The client's ends of the two transports: a socket, a shared-memory channel. The server's are connection.py and channel.py."""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from ctypes import addressof, c_char, c_int, c_long, c_ulong, c_void_p

from gofer import sys, wire
from gofer.wire import MAX_MESSAGE_SIZE

_MOST_FDS = 8


class SocketTransport:
    """One connected AF_UNIX stream socket, of which it is the owner."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def call(self, mid: int, request: bytes) -> tuple[int, bytes, list[int]]:
        """One request; returns the reply's message id, payload and donated fds."""
        self._socket.sendall(wire.SocketHeader.bytes(len(request), mid) + request)
        head, ancillary, _, _ = self._socket.recvmsg(wire.SocketHeader.size, socket.CMSG_SPACE(4 * _MOST_FDS))
        fds = array.array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        head += self._take(wire.SocketHeader.size - len(head))
        size, answer = wire.SocketHeader.unpack(head)
        if size > MAX_MESSAGE_SIZE:
            raise ConnectionError("the server's reply exceeds the message size")
        return answer, self._take(size), list(fds)

    def _take(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            part = self._socket.recv(size - len(parts))
            if not part:
                raise ConnectionError("the server closed the connection")
            parts += part
        return bytes(parts)

    def close(self) -> None:
        self._socket.close()


class ChannelTransport:
    """The client's side of a shared-memory channel; see channel.py for how it works."""

    def __init__(self, memfd: int, offset: int, length: int, fd_socket: int) -> None:
        """memfd, fd_socket: as donated; both are owned from now on."""
        self._fd_socket = socket.socket(fileno=fd_socket)
        self._view = memoryview(mmap.mmap(memfd, length, offset=offset))
        os.close(memfd)
        address = c_void_p(addressof(c_char.from_buffer(self._view)))
        number, op = c_long(sys.futex_number()), c_int(sys.FUTEX_WAKE_OP)
        self._wait_args = (number, address, c_int(sys.FUTEX_WAIT), c_int(1), None, None, c_int(0))
        # 0 becomes 1; a 2 that came meanwhile becomes 3, which is as good as 2 to either side
        set_bit0, set_two = c_int(sys.FUTEX_OP_OR << 28 | 1 << 12), c_int(sys.FUTEX_OP_SET << 28 | 2 << 12)
        self._flip_args = (number, address, op, c_int(1), c_ulong(0), address, set_bit0)
        self._end_args = (number, address, op, c_int(1 << 30), c_ulong(0), address, set_two)
        self._futex = sys.libc["syscall"]
        self._view[16:19] = b"{}\n"
        self._exchange(3)

    def _exchange(self, data_len: int) -> int:
        """Hand data_len bytes over; returns the length of what came back."""
        struct.pack_into("<I", self._view, 4, data_len)
        self._futex(*self._flip_args)
        while True:
            state, size = struct.unpack_from("<II", self._view)
            if state == 0:
                return int(size)
            if state != 1:
                raise ConnectionError("the server shut the channel down")
            self._futex(*self._wait_args)

    def call(self, mid: int, request: bytes) -> tuple[int, bytes, list[int]]:
        """As SocketTransport.call."""
        wire.ChannelHeader.pack(self._view, 0, 0, 0, mid, 0)
        self._view[20 : 20 + len(request)] = request
        size = self._exchange(4 + len(request))
        _, _, answer, count = wire.ChannelHeader.read(self._view)
        if not 4 <= size <= len(self._view) - 16:
            raise ConnectionError("the server's reply does not fit its channel")
        fds: list[int] = []
        for _ in range(count):
            fds += socket.recv_fds(self._fd_socket, 1, 1, socket.MSG_DONTWAIT)[1]
        return answer, bytes(self._view[20 : 16 + size]), fds

    def close(self) -> None:
        self._futex(*self._end_args)
        self._fd_socket.close()
