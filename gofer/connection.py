"""One client: its FDs, its socket, its channels; the one place where errors become replies.

Theory of operation
-------------------
The server's loop calls `on_readable` when the socket has bytes. Requests are served there and then, one after the other;
what has come of an unfinished one is kept, and a reply the client is too slow to take is kept, until the loop says that there
is more, or room. While a reply waits nothing more is read, so a client can make nothing grow beyond one message each way.
`half_since` tells the loop since when a message, or a reply, has been under way, and the loop ends what takes too long.

The two 2 MiB buffers (one to read into, one for the reply) are borrowed from the server's pool, and kept only by
a connection in the middle of a message: idle clients cost no memory. A request that comes whole and alone, as nearly all do, is
one recv(2), one send(2), and no buffer kept. recvmsg(2) is never asked for control data, so the kernel closes whatever fds a
client sends.

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
from gofer.wire import ERROR, FSYNC, MAX_MESSAGE_SIZE, SocketHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.log import Log

_HEAD, _read_header, _pack_header = SocketHeader.size, SocketHeader.read, SocketHeader.pack
_FIRST_READ = 65536  # of an unknown message: a flood of small ones is served in portions of this size
BUFFER_SIZE = MAX_MESSAGE_SIZE + _HEAD

__all__ = ["Connection", "Export", "Options", "Pool"]


class Buffers:
    """Memory for one message each way, its pages taken only where they are written to.

    first: the part of `request` that a read of an unknown message goes to. payload: `reply` behind the header. address:
    where the reply lies, for sendmsg.
    """

    __slots__ = ("request", "first", "reply", "payload", "address")

    def __init__(self) -> None:
        self.request = memoryview(mmap.mmap(-1, BUFFER_SIZE))
        self.first = self.request[:_FIRST_READ]
        memory = mmap.mmap(-1, BUFFER_SIZE)
        self.reply = memoryview(memory)
        self.payload = self.reply[_HEAD:]
        self.address = addressof(c_char.from_buffer(memory))


class Pool:
    """Buffers between uses. Not for threads: the loop's own."""

    def __init__(self) -> None:
        self._spare: list[Buffers] = []

    def take(self) -> Buffers:
        return self._spare.pop() if self._spare else Buffers()

    def give(self, buffers: Buffers) -> None:
        if not self._spare:  # the loop itself needs one; what slow clients borrowed beyond goes back to the kernel
            self._spare.append(buffers)


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
        self.blocked = False  # a reply waits for room in the client's socket
        self.busy = False  # a request is in a thread's hands
        self.done = False  # that thread has written the reply
        self._pool = pool
        self._wake = wake
        self._transmit = sock.send
        self._sender = sys.FDSender(8)
        self._comm = self.communicator(may_block=False)
        self._buffers: Buffers | None = None
        self._at = self._have = 0  # `request` holds _have bytes of unserved requests from _at
        self._sent = self._size = 0  # `reply` holds the reply's bytes from _sent to _size
        self._warned: set[str] = set()
        self._windows: Windows | None = None
        self._channels: list[Channel] = []
        self._lock = _thread.allocate_lock()  # over _channels: a channel can ask for the next one

    def communicator(self, may_block: bool) -> Communicator:
        return Communicator(self.table, self.export, may_block, self._warn, self.make_channel)

    # The socket

    def on_readable(self) -> bool:
        """Read what there is and serve what is complete; True where nothing is left over and all is as it was before."""
        buffers = self._buffers
        if buffers is None:
            buffers = self._buffers = self._pool.take()
            room = buffers.first
        else:
            room = buffers.request[
                self._at + self._have : min(BUFFER_SIZE, self._at + max(self._wanted(), _FIRST_READ))
            ]
        try:
            got = self.socket.recv_into(room)
        except BlockingIOError:
            return self._serve(buffers, self._have)
        except OSError:
            got = 0
        if got:
            return self._serve(buffers, self._have + got)
        self.close()
        return False

    def on_writable(self) -> None:
        """Send what waits; then serve what came before it was all out."""
        self._send()
        if not self.blocked:
            self.half_since = 0.0
        if self._buffers is not None and not self.closing:
            self._serve(self._buffers, self._have)

    def _serve(self, buffers: Buffers, have: int) -> bool:
        """Serve what is complete of the `have` bytes read, until a reply has to wait to go out; see on_readable.

        Written out in one piece, as channel.py's loop is, and for the same reason.
        """
        at, request, reply, comm = self._at, buffers.request, buffers.reply, self._comm
        while have >= _HEAD and not self.blocked:
            size, mid = _read_header(request, at)
            if size > MAX_MESSAGE_SIZE:
                self.drop("too long", f"a message of {size} bytes: {MAX_MESSAGE_SIZE} are the most")
                return False
            size += _HEAD
            if have < size:
                break
            body = request[at + _HEAD : at + size]
            at += size
            have -= size
            if mid == FSYNC:
                self._at, self._have, self.half_since = at, have, 0.0
                if self._start_thread(body):
                    return False
            try:
                size = dispatch.HANDLERS[mid](comm, body, buffers.payload) + _HEAD
            except Exception as error:
                size = dispatch.refuse(comm, mid, error, buffers.payload, self.log, self.fileno) + _HEAD
                mid = ERROR
            _pack_header(reply, 0, size - _HEAD, mid)
            self.half_since = 0.0
            try:
                sent = 0 if comm.donated else self._transmit(reply[:size], MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.close()
                return False
            if sent != size:
                self._sent, self._size = sent, size
                self._send()
                if self.closing:
                    return False
        self._at, self._have = at, have
        if have or self.blocked:
            self._make_room(buffers)
            return False
        self._pool.give(buffers)
        self._buffers, self._at = None, 0
        return True

    def _wanted(self) -> int:
        """Bytes of the message that has begun, header included; 0 where its header is not there yet."""
        if self._buffers is None or self._have < _HEAD:
            return 0
        size: int = _read_header(self._buffers.request, self._at)[0]
        return _HEAD + size

    def _make_room(self, buffers: Buffers) -> None:
        """Move what is left to the front, and note since when it has been there."""
        if self._at:
            buffers.request[: self._have] = buffers.request[self._at : self._at + self._have]
            self._at = 0
        if not self.half_since:
            self.half_since = time.monotonic()

    def _start_thread(self, request: memoryview) -> bool:
        """Let a thread answer the FSync; False where the system gives none."""
        self.busy = True
        try:
            _thread.start_new_thread(self._sync, (request,))
        except RuntimeError:
            self.busy = False
        return self.busy

    def _sync(self, request: memoryview) -> None:
        """Of a thread: answer; the reply lies in the buffer afterwards, ready to send."""
        buffers = self._buffers
        assert buffers is not None
        try:
            mid, size = dispatch.serve(self._comm, FSYNC, request, buffers.payload, self.log, self.fileno)
            _pack_header(buffers.reply, 0, size, mid)
            self._sent, self._size = 0, _HEAD + size
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
        buffers, donated = self._buffers, self._comm.donated
        if buffers is None:
            return
        try:
            if donated and not self._sent:
                fds = tuple([each.host for each in donated])
                self._sent = self._sender.send(
                    self.fileno, buffers.address, self._size, fds, MSG_DONTWAIT | MSG_NOSIGNAL
                )
                donated.clear()
            else:
                self._sent += self.socket.send(buffers.reply[self._sent : self._size], MSG_NOSIGNAL)
        except BlockingIOError:
            pass
        except OSError as e:
            if e.errno == ETOOMANYREFS and donated:  # too many fds in flight: the reply still counts, as on a channel
                donated.clear()
                self._send()
            else:
                self.close()
            return
        self.blocked = self._sent < self._size

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
        options = self.export.options
        if self._windows is None:
            self._windows = Windows(options.channels)
        ends = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
        ours, client_end = ends[0], HostFD(ends[1].detach())
        try:
            admit(ours.fileno(), self.table, len(self._channels))
            # A client can send fds here, and nobody reads: they would stay open in the socket's queue.
            ours.shutdown(SHUT_RD)
            memfd = HostFD(os.dup(self._windows.memfd.host))
            comm = self.communicator(may_block=True)
            channel = Channel(
                self._windows, len(self._channels), ours, comm, self.log, self.fileno, options.busy_poll, self._wake
            )
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
        if self._buffers is not None:
            self._pool.give(self._buffers)
            self._buffers = None
        self._have = self._at = self._sent = self._size = 0
        self.blocked = False
        self.half_since = 0.0

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self.log.limited("warning", message, message)
