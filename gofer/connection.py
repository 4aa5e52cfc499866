"""One client: its FDs, its socket, its channels; the one place where errors become replies.

Theory of operation
-------------------
The server's loop calls `on_readable` when the socket has bytes. Requests are served there and then, one after the other;
what has come of an unfinished one is kept, and a reply the client is too slow to take is kept, until the loop says that there
is more, or room. While a reply waits nothing more is read, so a client can make nothing grow beyond one message each way.
`half_since` tells the loop since when a message, or a reply, has been under way, and the loop ends what takes too long.

The two 2 MiB buffers (one to read into, one for the reply) are borrowed from the server's pool, and kept only by
a connection in the middle of a message: idle clients cost no memory. recvmsg(2) is never asked for control data, so the kernel
closes whatever fds a client sends.

FSync can take long and has a thread of its own here (where there is one to be had): the connection is not read meanwhile, the
others are. Every channel has a thread anyway (channel.py). `close` only starts the end of a connection: it ends when its
last thread has.
"""

from __future__ import annotations

import _thread
import mmap
import os
import time
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RD, SOCK_CLOEXEC, SOCK_SEQPACKET, socket, socketpair
from ctypes import addressof, c_char
from errno import EMFILE, ENFILE, ENOMEM, ETOOMANYREFS

from gofer import dispatch, sys
from gofer.channel import Channel, Windows
from gofer.comm import Communicator, Export, Options
from gofer.fds import FDTable, HostFD, admit
from gofer.wire import FSYNC, MAX_MESSAGE_SIZE, SocketHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.log import Log

_HEAD = SocketHeader.size
_FIRST_READ = 65536  # of an unknown message: a flood of small ones is served in portions of this size
BUFFER_SIZE = MAX_MESSAGE_SIZE + _HEAD

__all__ = ["Connection", "Export", "Options", "Pool"]


class Buffer:
    """One message's memory: view is all of it, address where it lies, for sendmsg."""

    __slots__ = ("view", "address", "_memory")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BUFFER_SIZE)
        self.view = memoryview(self._memory)
        self.address = addressof(c_char.from_buffer(self._memory))


class Pool:
    """Buffers between uses. Not for threads: the loop's own."""

    def __init__(self) -> None:
        self._spare: list[Buffer] = []

    def take(self) -> Buffer:
        return self._spare.pop() if self._spare else Buffer()

    def give(self, buffer: Buffer) -> None:
        if len(self._spare) < 2:  # the loop itself needs two; what slow clients borrowed beyond goes back to the kernel
            self._spare.append(buffer)


class Connection:
    """fileno: of its socket, its name in the logs. Not to be reused after `finish`."""

    def __init__(self, sock: socket, export: Export, log: Log, pool: Pool, wake: Callable[[], None]) -> None:
        """wake(): called by a thread of the connection that has ended or has a reply ready."""
        sock.setblocking(False)
        self.socket = sock
        self.fileno = sock.fileno()
        self.export = export
        self.log = log
        self.table = FDTable()
        self.closing = False
        self.half_since = 0.0  # when what is half in, or half out, began (time.monotonic()); 0: there is nothing
        self.busy = False  # a request is in a thread's hands
        self.done = False  # that thread has written the reply
        self._pool = pool
        self._wake = wake
        self._sender = sys.FDSender(8)
        self._comm = self.communicator(may_block=False)
        self._in: Buffer | None = None  # holds _have bytes of unserved requests from _at
        self._at = self._have = 0
        self._out: Buffer | None = None  # holds the reply's bytes from _sent to _size
        self._sent = self._size = 0
        self._warned: set[str] = set()
        self._windows: Windows | None = None
        self._channels: list[Channel] = []
        self._lock = _thread.allocate_lock()  # over _channels: a channel can ask for the next one

    def communicator(self, may_block: bool) -> Communicator:
        return Communicator(self.table, self.export, may_block, self._warn, self.make_channel)

    # The socket

    def on_readable(self) -> None:
        """Read what there is and serve what is complete. The connection is `closing` afterwards where the client has gone."""
        buffer = self._in
        if buffer is None:
            buffer = self._in = self._pool.take()
        end = self._at + self._have
        most = min(BUFFER_SIZE, max(self._wanted(), _FIRST_READ) + self._at)
        try:
            got = self.socket.recv_into(buffer.view[end:most])
        except BlockingIOError:
            got = -1
        except OSError:
            got = 0
        if got == 0:
            self.close()
            return
        self._have += max(got, 0)
        self.serve()

    def on_writable(self) -> None:
        """Send what waits; then serve what came before it was all out."""
        self._send()
        if not self.blocked:
            self.half_since = 0.0
        self.serve()

    @property
    def blocked(self) -> bool:
        """A reply waits for room in the client's socket."""
        return self._out is not None and self._sent < self._size and not self.busy

    def serve(self) -> None:
        """Serve every complete request that was read, until one has to wait for its reply to go out."""
        while not (self.closing or self.blocked or self.busy) and self._have >= _HEAD:
            assert self._in is not None
            size, mid = SocketHeader.read(self._in.view, self._at)
            if size > MAX_MESSAGE_SIZE:
                self.drop("too long", f"a message of {size} bytes: {MAX_MESSAGE_SIZE} are the most")
                return
            if self._have < _HEAD + size:
                break
            self.half_since = 0.0
            start = self._at + _HEAD
            self._at, self._have = start + size, self._have - _HEAD - size
            request = self._in.view[start : start + size]
            self._out = self._out or self._pool.take()
            if mid == FSYNC and self._start_thread(mid, request):
                break
            self._answer(mid, request)
            self._send()
        self._tidy()

    def _wanted(self) -> int:
        """Bytes of the message that has begun, header included; 0 where its header is not there yet."""
        if self._in is None or self._have < _HEAD:
            return 0
        size: int = SocketHeader.read(self._in.view, self._at)[0]
        return _HEAD + size

    def _tidy(self) -> None:
        """Give back the buffers not needed until the next bytes come; make room in the one that is."""
        if self.busy:
            return
        if self._in is not None:
            if self._have == 0:
                self._pool.give(self._in)
                self._in, self._at = None, 0
            elif self._at:
                view = self._in.view
                view[: self._have] = view[self._at : self._at + self._have]
                self._at = 0
        blocked = self.blocked
        if self._out is not None and not blocked:
            self._pool.give(self._out)
            self._out = None
        if (self._have or blocked) and not self.half_since:
            self.half_since = time.monotonic()

    def _answer(self, mid: int, request: memoryview) -> None:
        """Serve one request; the reply lies in _out afterwards, ready to send."""
        assert self._out is not None
        mid, size = dispatch.serve(self._comm, mid, request, self._out.view[_HEAD:], self.log, self.fileno)
        SocketHeader.pack(self._out.view, 0, size, mid)
        self._sent, self._size = 0, _HEAD + size

    def _start_thread(self, mid: int, request: memoryview) -> bool:
        """Let a thread answer; False where the system gives none."""
        self.busy = True
        try:
            _thread.start_new_thread(self._answer_in_thread, (mid, request))
        except RuntimeError:
            self.busy = False
        return self.busy

    def _answer_in_thread(self, mid: int, request: memoryview) -> None:
        try:
            self._answer(mid, request)
        finally:
            self.done = True
            self._wake()

    def resume(self) -> None:
        """The thread is done: send its reply, go on with what came meanwhile."""
        self.busy = self.done = False
        if self.closing:
            self._release_buffers()
        else:
            self.on_writable()

    def _send(self) -> None:
        """Send what the socket takes of the reply; what is donated rides on its first byte."""
        out, donated = self._out, self._comm.donated
        if out is None:
            return
        try:
            if donated and not self._sent:
                fds = tuple([each.host for each in donated])
                self._sent = self._sender.send(self.fileno, out.address, self._size, fds, MSG_DONTWAIT | MSG_NOSIGNAL)
                donated.clear()
            else:
                self._sent += self.socket.send(out.view[self._sent : self._size], MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError as e:
            if e.errno == ETOOMANYREFS and donated:  # too many fds in flight: the reply still counts, as on a channel
                donated.clear()
                self._send()
            else:
                self.close()

    # Channels

    def make_channel(self) -> tuple[int, int, HostFD, HostFD]:
        """Start a channel. Returns its window's offset and length, and what to donate: the memfd, the client's fd socket.

        ENOMEM beyond the export's number of channels, and where there is no room for one: clients take that, and no other
        errno, for "go on with fewer".
        """
        with self._lock:
            if self.closing or len(self._channels) >= self.export.options.channels:
                raise OSError(ENOMEM, "no more channels for this connection")
            try:
                return self._make_channel()
            except RuntimeError:
                raise OSError(ENOMEM, "no more threads") from None
            except OSError as e:
                if e.errno in (EMFILE, ENFILE):
                    raise OSError(ENOMEM, "no more fds") from None
                raise

    def _make_channel(self) -> tuple[int, int, HostFD, HostFD]:
        if self._windows is None:
            self._windows = Windows(self.export.options.channels)
        ends = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        ours, client_end = ends[0], HostFD(ends[1].detach())
        try:
            admit(ours.fileno(), self.table, len(self._channels))
            # A client can send fds here, and nobody reads: they would stay open in the socket's queue.
            ours.shutdown(SHUT_RD)
            memfd = HostFD(os.dup(self._windows.memfd.host))
            comm = self.communicator(may_block=True)
            channel = Channel(self._windows, len(self._channels), ours, comm, self.log, self.fileno, self._wake)
            channel.start()
        except BaseException:
            ours.close()
            raise
        self._channels.append(channel)
        return channel.offset, channel.length, memfd, client_end

    # The end

    def close(self) -> None:
        """Take no more requests; those in a channel's hands are finished. Idempotent; `finish` follows when `ended`."""
        if not self.closing:
            self.closing = True
            if not self.busy:
                self._release_buffers()
        for channel in self._channels:
            channel.shut_down()

    def drop(self, kind: str, why: str) -> None:
        """`close`, for a reason that is told; kind: see Log.limited."""
        self.log.limited("warning", kind, f"client {self.fileno}: dropped: {why}")
        self.close()

    @property
    def ended(self) -> bool:
        """No thread of the connection runs any more."""
        return self.closing and not self.busy and all(channel.ended for channel in self._channels)

    def finish(self) -> None:
        """Close every FD. The socket goes last: its hang-up is how the client learns that all is closed."""
        self.table.clear()
        self._channels.clear()
        self._windows = None
        del self._comm  # it knows our methods: untie the cycle
        self.socket.close()

    def _release_buffers(self) -> None:
        for buffer in (self._in, self._out):
            if buffer is not None:
                self._pool.give(buffer)
        self._in = self._out = None
        self._have = self._at = self._sent = self._size = 0
        self.half_since = 0.0

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self.log.limited("warning", message, message)
