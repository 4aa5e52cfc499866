"""One client: its FDs, its socket, its channels.

Theory of operation
-------------------
A connection has one thread for its socket and one for each channel (channel.py). Whatever a call waits for, a slow disk or a
lock that another holds, it holds up its own client alone; between threads that all have work the interpreter's lock goes round
every so often (`__main__.py` sets how often).

The thread reads a request, serves it, sends the reply, and only then reads on: a client can make nothing grow beyond one message
each way. A request that comes whole and alone, as nearly all do, is one recv(2), one send(2). Requests that came together are
served one after the other. Who leaves a message half, or a reply half taken, or has connected and then says nothing, is dropped
after `patience` seconds. recvmsg(2) is never asked for control data, so the kernel closes whatever fds a client sends; where it
knows SO_PASSRIGHTS (Linux 6.16) they cannot be sent at all (admission.refuse_fds).

The two buffers of 2 MiB take memory where they have been written to: a second after a large message, the larger part of it is
given back.

`close` may be called by any thread; the socket's thread then ends the channels, closes what the client held, which may take long
where a file system flushes, and is the last to go. Its slot is free when it has ended, and not before.
"""

from __future__ import annotations

import _thread
import mmap
import os
from _socket import (
    AF_UNIX,
    MSG_DONTWAIT,
    MSG_NOSIGNAL,
    SHUT_RD,
    SOCK_CLOEXEC,
    SOCK_SEQPACKET,
    socket,
    socketpair,
)
from errno import EMFILE, ENFILE, ENOMEM, ETOOMANYREFS
from select import POLLIN, POLLOUT, poll
from time import monotonic

from gofer import sys
from gofer.cdata import addressof, c_char
from gofer.server import busypoll, dispatch
from gofer.server.admission import closes_at_once
from gofer.server.channel import SIGNAL, Channel, Windows
from gofer.server.comm import Communicator, Export, Options
from gofer.server.donation import FLAGS, Donor, can_do_without, errno_without, most_unread
from gofer.server.fds import FDTable, HostFD, admit
from gofer.server.places import Places
from gofer.wire import CHANNEL, ERROR, LANES, MAX_MESSAGE_SIZE, ErrorResp, SocketHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.log import Log
    from gofer.server.lanes import Lanes
    from gofer.server.pipes import Ends
    from gofer.watch.hook import Watch

_HEAD, _read_header, _pack_header = SocketHeader.size, SocketHeader.read, SocketHeader.pack
_FIRST_READ = 65536  # of an unknown message: a flood of small ones is served in portions of this size
BUFFER_SIZE = MAX_MESSAGE_SIZE + _HEAD
_KEEP_LARGE = 1.0  # seconds

__all__ = ["Connection", "Export", "Options"]


class Buffers:
    """Memory for one message each way, its pages taken only where they are written to.

    first: the part of `request` that a read of an unknown message goes to. payload: `reply` behind the header. address:
    where the reply lies, for sendmsg.
    """

    __slots__ = ("request", "first", "reply", "payload", "address", "_memory")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, BUFFER_SIZE), mmap.mmap(-1, BUFFER_SIZE)
        self.request, self.reply = memoryview(self._memory[0]), memoryview(self._memory[1])
        self.first = self.request[:_FIRST_READ]
        self.payload = self.reply[_HEAD:]
        self.address = addressof(c_char.from_buffer(self._memory[1]))

    def give_back(self) -> None:
        """Give the kernel back what only large messages use. The maps are shared memory: MADV_DONTNEED would keep it."""
        for memory in self._memory:
            memory.madvise(mmap.MADV_REMOVE, _FIRST_READ)


class Connection:
    """fileno: of its socket, its name in the logs. met_9p: whether the client turned out to speak that.

    on_end(connection): called on its last thread when nothing of it is left, but for its socket where that then closes at once.
    patience: seconds for the rest of a message, or for taking that of a reply; 0: any time. first_patience: for the first one.
    watch: who looks on.
    """

    def __init__(
        self,
        sock: socket,
        export: Export,
        log: Log,
        on_end: Callable[[Connection], None],
        patience: float = 0.0,
        first_patience: float = 0.0,
        watch: Watch | None = None,
    ) -> None:
        self.socket = sock
        self.fileno = sock.fileno()
        self.export = export
        self.log = log
        self.table = FDTable()
        self._on_end = on_end
        self._patience = patience
        self._first_patience = first_patience
        self._watch = watch
        self._donor = Donor(self.fileno, 8)
        self.met_9p = False
        self._handlers = dispatch.HANDLERS
        self._comm = self.communicator()
        self._thread = self._ident = 0  # its ids, the kernel's and the interpreter's, once it runs
        self._warned: set[str] = set()
        self._windows: Windows | None = None
        self._lanes: Lanes | None = None
        self._channels: list[Channel] = []
        self._lock = _thread.allocate_lock()  # over _channels: a channel can ask for the next one
        sock.setblocking(True)

    def start(self) -> None:
        """Serve from now on, on a thread of its own. RuntimeError where the system gives none."""
        _thread.start_new_thread(self._run, ())

    def interrupt(self) -> None:
        """If the client has hung up: break off the call that its thread is in, where the kernel does so for a signal."""
        if self._lanes is not None and self._gone():
            self._lanes.interrupt()
        elif self._thread and self._gone():
            try:
                sys.tgkill(os.getpid(), self._thread, SIGNAL)
            except OSError:  # it has just ended
                pass

    def communicator(self) -> Communicator:
        return Communicator(self.table, self.export, self._warn, self.make_channel, self.wait)

    # The socket

    def _gone(self) -> bool:
        return self._ready(0, 0)

    def _run(self) -> None:
        self._thread, self._ident = _thread.get_native_id(), _thread.get_ident()
        try:
            if self._first_patience and not self._ready(POLLIN, self._first_patience):
                self.drop("silent", f"nothing sent for {self._first_patience:g} s (--idle-message-timeout)")
            else:
                self._serve(Buffers())
        except Exception as error:  # not a handler's, dispatch has those: no memory for a buffer
            self.drop("failed", type(error).__name__)
        finally:
            self._end()

    def _serve(self, buffers: Buffers) -> None:
        """Until the client has gone, or has to go. Written out in one piece, as channel.py's loop is, and for the same reason."""
        request, first, reply, payload = buffers.request, buffers.first, buffers.reply, buffers.payload
        comm, receive, send, fds = self._comm, self.socket.recv_into, self.socket.send, self.table
        last_served, idle = busypoll.last, dispatch.IDLE
        at, have = 0, self._first(buffers)  # `request` holds `have` bytes of unserved requests from `at`
        most = have  # bytes of the largest message since the memory was given back
        table = self.table_for(0)
        handlers, refuse, left, plain, moved, now = (
            table.handlers, table.refuse, table.left, table.plain, table.moved, table.now,
        )  # fmt: skip
        while not fds.closing:
            if not have:
                if most > _FIRST_READ:
                    most = 0
                    if not self._ready(POLLIN, _KEEP_LARGE):
                        buffers.give_back()
                try:
                    have = receive(first)
                except BlockingIOError:  # whoever made this socket has another fd on it, and changed its mode
                    self._ready(POLLIN, None)
                    continue
                except OSError:
                    return
                at = 0
                if not have:
                    return
            size, mid = _read_header(request, at) if have >= _HEAD else (MAX_MESSAGE_SIZE, ERROR)
            end = size + _HEAD
            if have < end:
                at, have = 0, self._rest(buffers, at, have)
                if not have:
                    return
                size, mid = _read_header(request, 0)
                end = size + _HEAD
                most = max(most, end)
            last_served[0] = None
            message = request[at + _HEAD : at + end]
            try:
                if left is None or not left[mid]:
                    size = handlers[mid](comm, message, payload)
                else:  # dispatch.Table says what
                    now[0], asked = mid, size
                    size = plain[mid](comm, message, payload)
                    left[mid] -= 1
                    moved[mid] += size + asked
                    now[0] = idle
            except Exception as error:
                size = refuse(comm, mid, error, message, payload, self.log, self.fileno)
                mid = ERROR
            at += end
            have -= end
            _pack_header(reply, 0, size, mid)
            size += _HEAD
            try:
                if comm.donated:
                    sent, size = self._send_donating(buffers, size, mid)
                else:
                    sent = send(reply[:size], MSG_NOSIGNAL | MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent != size and not self._send_rest(buffers, sent, size, mid):
                return
            if size > _FIRST_READ:
                most = size

    def _first(self, buffers: Buffers) -> int:
        """Read until the first message has begun, and pick the table of handlers by it; returns the bytes read, 0: it is over."""
        while True:
            try:
                have = self.socket.recv_into(buffers.first)
                break
            except BlockingIOError:  # as in _serve
                self._ready(POLLIN, None)
            except OSError:
                return 0
        if 0 < have < _HEAD:
            have = self._rest(buffers, 0, have)
        if not have:
            return 0
        size, mid = _read_header(buffers.request, 0)
        if mid == LANES and self.export.options.lanes is not None:
            self._serve_lanes(buffers, have, self.export.options.lanes)
            return 0
        if dispatch.speaks_9p(bytes(buffers.request[: min(have, 32)])):
            self.met_9p = True
            self.log.met_9p(self.fileno)
            self.close()
            return 0
        if dispatch.speaks_2021(size, mid):
            self.table.places = Places()
            self.table.next_id = self._comm.next_id = self.table.places.next_id
            self._handlers = dispatch.HANDLERS_2021
        return have

    def _serve_lanes(self, buffers: Buffers, have: int, ends: Ends) -> None:
        from gofer.server.lanes import Lanes

        self._lanes = Lanes(self, buffers, have, ends)
        self._lanes.run()

    def table_for(self, transport: int, counts: bool = True) -> dispatch.Table:
        """What one transport serves by, 0: the socket. counts: whether its loop does as dispatch.Table says."""
        if self._watch is None:
            return dispatch.Table(self._handlers)
        return self._watch.table(self, transport, self._handlers, counts)

    def _rest(self, buffers: Buffers, at: int, have: int) -> int:
        """Read until the message that has begun at `at` is there, at the front; returns the bytes then read, 0: it is over."""
        request = buffers.request
        if at:
            request[:have] = request[at : at + have]
        until = monotonic() + self._patience
        wanted = _HEAD
        while True:
            if have >= _HEAD:
                size = _read_header(request, 0)[0]
                if size > MAX_MESSAGE_SIZE:
                    self.drop("too long", f"a message of {size} bytes: {MAX_MESSAGE_SIZE} are the most")
                    return 0
                wanted = size + _HEAD
                if have >= wanted:
                    return have
            if not self._wait_until(POLLIN, until):
                return 0
            try:
                got = self.socket.recv_into(request[have : max(wanted, _FIRST_READ)], 0, MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                return 0
            if not got or self.table.closing:
                return 0
            have += got

    def _send_rest(self, buffers: Buffers, sent: int, size: int, mid: int) -> bool:
        """Send what is left of a reply as the client takes it; False where it does not."""
        until = monotonic() + self._patience
        while sent < size:
            if not self._wait_until(POLLOUT, until):
                return False
            try:
                if self._comm.donated:
                    sent, size = self._send_donating(buffers, size, mid)
                else:
                    sent += self.socket.send(buffers.reply[sent:size], MSG_NOSIGNAL | MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                return False
        return True

    def _send_donating(self, buffers: Buffers, size: int, mid: int) -> tuple[int, int]:
        """Send a reply with what it donates on its first byte; returns the bytes sent, and its size: where it would be of no use
        without, and cannot have it, it becomes an error."""
        donated, donor = self._comm.donated, self._donor
        try:
            if donor.unread >= most_unread[0]:
                donor.look()
            sent = donor.send(donor.fileno, buffers.address, size, tuple([each.host for each in donated]), FLAGS)
            donor.unread += 1
        except OSError as e:
            if e.errno != ETOOMANYREFS:
                raise
            if not can_do_without(donated):
                ErrorResp.pack(buffers.payload, 0, errno_without(mid == CHANNEL))
                size = ErrorResp.size + _HEAD
                _pack_header(buffers.reply, 0, ErrorResp.size, ERROR)
            sent = 0
        donated.clear()
        return sent, size

    def _wait_until(self, event: int, until: float) -> bool:
        """Wait for the client to go on with a message or reply; drop it where it has not by then."""
        if not self._patience or self._ready(event, max(0.0, until - monotonic())):
            return True
        self.drop("half", f"half a message or reply for {self._patience:g} s (--idle-message-timeout)")
        return False

    def wait(self, seconds: float) -> bool:
        """Sleep, on the thread of a call in work; False where the client has gone: nobody wants its reply any more."""
        return not self._ready(0, seconds)

    def _ready(self, event: int, seconds: float | None) -> bool:
        """Whether the socket can be read from (POLLIN) or written to (POLLOUT), or has hung up, within that time; None: any."""
        look = poll()
        look.register(self.fileno, event)
        return bool(look.poll(None if seconds is None else seconds * 1000))

    # Channels

    def make_channel(self) -> tuple[int, int, HostFD, HostFD]:
        """Start a channel. Returns its window's offset and length, and what to donate: the memfd, the client's fd socket.

        ENOMEM beyond the export's number of channels, and where there is no room for one: clients take that, and no other
        errno, for "go on with fewer".
        """
        with self._lock:
            if self.table.closing or len(self._channels) >= self.export.options.channels:
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
            channel = Channel(
                self._windows, len(self._channels), ours, self.communicator(), self.log, self.fileno, options.busy_poll,
                self.table_for(len(self._channels) + 1),
            )  # fmt: skip
            channel.start()
        except BaseException:
            ours.close()
            raise
        self._channels.append(channel)
        return channel.offset, channel.length, memfd, client_end

    def holds(self) -> tuple[int, int]:
        """Its FDs, its channels."""
        return self.table.held(), len(self._channels)

    def threads(self) -> list[tuple[int, int, int]]:
        """Of each that runs: the interpreter's id, the kernel's, our name in the logs."""
        channels = [(channel.ident, channel.thread, self.fileno) for channel in [*self._channels] if not channel.ended]
        lanes = [(worker.ident, worker.thread, self.fileno) for worker in self._lanes.workers[1:]] if self._lanes else []
        return [each for each in [(self._ident, self._thread, self.fileno), *channels, *lanes] if each[1]]

    # The end

    def close(self) -> None:
        """Take no more requests; what is being served is finished. From any thread, idempotent."""
        with self._lock:
            self.table.closing = True
        try:
            self.socket.shutdown(SHUT_RD)  # ends the thread's recv; what the client still sends is refused
        except OSError:  # not connected any more
            pass

    def cut_off(self) -> None:
        """The process ends: clients who wait at a channel's futex would not see that. (A socket's hang-up they do.)"""
        for channel in self._channels:
            channel.cut_off()

    def drop(self, kind: str, why: str) -> None:
        """`close`, for a reason that is told; kind: see Log.limited."""
        self.log.limited("warning", kind, f"client {self.fileno}: dropped: {why}")
        self.close()

    def _end(self) -> None:
        """Close everything. The socket goes last: its hang-up is how the client learns that all is closed. Where it closes at
        once the slot is free before, as whoever sees the hang-up may come again at once."""
        self.close()
        for channel in self._channels:
            channel.shut_down()
        for channel in self._channels:
            channel.join(self._gone)
        self._thread = 0  # nothing to be broken off any more
        self._channels.clear()
        if self._watch is not None:
            self._watch.ended(self)
        self.table.clear()
        if self._windows is not None:
            self._windows.close()
        del self._comm  # it knows our methods: untie the cycle
        self._lanes = None
        if closes_at_once(self.socket):
            self._on_end(self)
            self.socket.close()
        else:
            self.socket.close()
            self._on_end(self)

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            self.log.limited("warning", message, message)
