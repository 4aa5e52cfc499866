"""What a client with lanes speaks over: this process's own stdin and stdout, two pipes or a socket (commands/stdio.py).

Theory of operation
-------------------
Whoever is at the other end of them has them for other things as well: they are taken as they are, and made neither blocking nor
not. Until a client has said Lanes its bytes come and go by a socket, and a process that carries them. From then on there is
nobody between, and the socket tells only that all is over: that process has gone, or `Connection.close` has been called.

What is read of a file goes to stdout by splice(2), which hands on the page cache's own pages: not a byte is copied here. It is
spliced into a pipe of ours first, as the header before it says how much there is, and so that an error can still be told. That
pipe is one for all threads; who finds it in use, or a file that cannot be spliced, reads and writes as ever.

A pipe that is full wakes its writer for each page that is taken from it. So the writer waits until some are: by then there is
room for many, and a pipe of a mebibyte is not empty yet.
"""

from __future__ import annotations

import _thread
import os
import stat
from errno import EAGAIN, EINTR
from select import POLLIN, POLLOUT, poll
from time import sleep
from typing import NamedTuple

from gofer.cdata import byref, c_int, c_int64, c_size_t, c_ssize_t, c_uint, c_void_p
from gofer.sys import MAX_OFFSET, get_errno, libc
from gofer.wire import LaneHeader, PReadReq, PReadResp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

    from gofer.server.comm import Communicator

WIDE = 1 << 20  # bytes of a pipe, where it can have them
_LEAST = 1 << 16  # bytes of a read from which on three calls cost less than to copy it
_LINGER = 0.001  # seconds, in which a full pipe of that width does not run dry: not even at a gigabyte a second
_PAGE = 4096
_MOVE, _NONBLOCK = 1, 2  # SPLICE_F_*
_splice = libc["splice"]
_splice.argtypes = (c_int, c_void_p, c_int, c_void_p, c_size_t, c_uint)
_splice.restype = c_ssize_t


class Ends(NamedTuple):
    """The fds. reader, writer: of a pipe of ours, -1: there is none that is wide. wide: whether stdout is one."""

    stdin: int
    stdout: int
    reader: int = -1
    writer: int = -1
    wide: bool = False

    @property
    def fds(self) -> list[int]:
        return [fd for fd in self[:4] if fd >= 0]


class Pipes:
    def __init__(self, ends: Ends, over: socket) -> None:
        """over: at its end all is."""
        self._ends = ends
        self._come = poll()
        self._come.register(ends.stdin, POLLIN)
        self._come.register(over, POLLIN)
        self._room = poll()
        self._room.register(ends.stdout, POLLOUT)
        self._splices = ends.reader >= 0
        self._filling = _thread.allocate_lock()  # over the following, and what is in the pipe
        self._offset = c_int64()
        self._at = byref(self._offset)

    def receive(self, into: memoryview) -> int:
        """What has come, once something has; 0: it is over."""
        stdin = self._ends.stdin
        while True:
            if stdin not in [fd for fd, _ in self._come.poll()]:
                return 0
            try:
                return os.readv(stdin, [into])
            except BlockingIOError:  # somebody else has made it so, and was quicker
                pass

    def send(self, *parts: bytes | memoryview) -> None:
        """All of it; OSError: nobody takes it any more."""
        left = [part for part in parts if part]
        while left:
            try:
                sent = os.writev(self._ends.stdout, left)
            except BlockingIOError:
                self._room.poll()
                continue
            while left and sent >= len(left[0]):
                sent -= len(left.pop(0))
            if sent:
                left[0] = memoryview(left[0])[sent:]

    def fill(self, comm: Communicator, request: memoryview) -> int:
        """Put what a PRead asks for into the pipe, which is the caller's until he has called `send_filled`; returns how much.

        -1: its handler is to do it, and to tell what is wrong with it.
        """
        if not self._splices or len(request) != PReadReq.size:
            return -1
        offset, fdid, count = PReadReq.unpack(request)
        file = comm.opened.get(fdid)
        if file is None or not file.readable or not stat.S_ISREG(file.node.kind) or count < _LEAST:
            return -1
        if offset % _PAGE + count > WIDE or offset + count > MAX_OFFSET or not self._filling.acquire(False):
            return -1
        self._offset.value = offset
        done = 0
        while done < count:
            part = _splice(file.host, self._at, self._ends.writer, None, count - done, _NONBLOCK)
            if part > 0:
                done += part
            elif part == 0 or get_errno() != EINTR:  # what is wrong is told to who asks for the rest
                break
        if done:
            return done
        self._filling.release()
        return -1  # also at the end of a file: it is asked once more, and rarely

    def send_filled(self, kept: bytes, lane: int, mid: int, count: int) -> None:
        """The reply that `fill` has begun, behind what was kept back."""
        try:
            self.send(kept, LaneHeader.bytes(PReadResp.size + count, mid, lane) + PReadResp.bytes(count))
            while count:
                count -= self._move(count)
        except OSError:
            self._splices = False  # the rest of it is in there
            raise
        finally:
            self._filling.release()

    def _move(self, count: int) -> int:
        """Some of what is in the pipe."""
        reader, _, stdout = self._ends.reader, self._ends.writer, self._ends.stdout
        moved: int = _splice(reader, None, stdout, None, count, _MOVE | _NONBLOCK)
        if moved > 0:
            if moved < count and self._ends.wide:  # it is full
                sleep(_LINGER)
            return moved
        code = get_errno()
        if code == EAGAIN:
            self._room.poll()
        elif code != EINTR:  # a thing that takes no pages; or nobody takes anything, which the next write will tell
            self._splices = False
            data = os.read(reader, count)
            self.send(data)
            return len(data)
        return 0
