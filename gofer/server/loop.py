"""The server: one epoll loop over listening sockets, signals and a wake-up pipe, which serves nobody itself.

Theory of operation
-------------------
Each connection has threads of its own (connection.py); the loop only starts them. So whatever a client, or a file system, makes
a call wait for, connections are accepted, signals acted upon, and the end comes.

The loop watches the connections for one thing: their hang-up. A thread that waits in a call does not see it, and the slot of
a client that has gone would stay taken, if its thread did not get a signal then (Connection.interrupt).

What the loop does never waits for a client either: a refused connection may hold, in what its client has sent already, fds that
take long to close. Where they cannot be kept out (admission.refuse_fds), a few threads close such sockets (`Closer`).

`stop` takes the listening sockets away and has each connection answer what it has begun to serve, and end; whoever takes longer
than `_PATIENCE` for that is cut off: `run` returns, and its threads end with the process.

Where several workers serve (workers.py), each runs such a loop over listening sockets that are the same for all, and is told
of each new connection (hence EPOLLET). Whoever has no more connections than any other takes it; the rest look again
`_GIVE_WAY` seconds later, and take what is still there: a worker that is held up keeps nobody waiting for long.
"""

from __future__ import annotations

import os
import time
from _signal import signal
from _socket import socket
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from select import EPOLLET, EPOLLIN, EPOLLONESHOT, EPOLLPRI, epoll

from gofer.procself import make_room
from gofer.server import attrs, mounts
from gofer.server.admission import Admission, Closer, closes_at_once, credentials, peer, refuse_fds
from gofer.server.channel import SIGNAL
from gofer.server.connection import Connection, Export
from gofer.server.fds import crowded
from gofer.server.slots import process_of
from gofer.server.slow import Slow
from gofer.server.workers import Crew

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.log import Log
    from gofer.watch.hook import Watch

_NAG = 0.25  # seconds that a thread has after its client's hang-up, and then between two signals
_PAUSE = 0.25  # seconds without listening, where connections cannot be taken now
_GIVE_WAY = 0.1  # far more than a worker takes that is not held up, also on a busy machine
_AT_ONCE = 16  # connections accepted before signals are looked at again
_PATIENCE = 5.0


class Server:
    """Serves exports to clients until `stop`, or until no listening socket and no connection is left.

    idle_message_timeout: seconds a client may take for its first message, to send the rest of one, or to take that of a reply,
    before it is dropped; 0: any time. crew: the workers, of which this is one; the first of them runs until the others have
    ended too. Its slots are for the connections: a peer that can have none is accepted, logged and closed. watch: who looks on.
    slow: seconds after which a request that hangs is warned of; 0: it is not.
    """

    def __init__(
        self, log: Log, *, idle_message_timeout: float = 60.0, crew: Crew | None = None, watch: Watch | None = None,
        slow: float = 0.0,
    ) -> None:  # fmt: skip
        self._log = log
        self._onlooker = watch
        self._slow = Slow(log, slow, self._threads) if slow else None
        self._crew = crew or Crew()
        self._slots = self._crew.slots
        self._patience = idle_message_timeout
        self._epoll = epoll()
        self._anonymous = os.fstat(self._epoll.fileno()).st_dev
        self._listeners: dict[int, tuple[socket, Export, Admission | None]] = {}
        self._connections: set[Connection] = set()
        self._by_fd: dict[int, Connection] = {}  # the watched ones
        self._hung_up: list[Connection] = []
        self._nag_at = 0.0  # 0: there are none
        self._closer = Closer()
        self._paused_until = 0.0  # not listening until then; 0: listening
        self._late_at = 0.0  # when to take what other workers have left; 0: they were left nothing
        self._slow_at = 0.0  # when to begin to look for slow requests; 0: that is so, or there is no client
        self._listen_mask = EPOLLIN | EPOLLET if self._crew.size > 1 else EPOLLIN
        self._beat: Callable[[], None] | None = None
        self._beat_every = self._beat_at = 0.0
        self._stop_at: float | None = None  # when patience ends, once stopping
        self.met_9p = False  # of a client that has gone
        self._refused = False  # connections are being refused, and that was logged
        self._mounts = -1
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._wake_read, EPOLLIN)
        if self._crew.lifeline >= 0:
            self._epoll.register(self._crew.lifeline, 0)  # for its hang-up, which is told in any case
        if self._crew.turns >= 0:
            self._epoll.register(self._crew.turns, EPOLLIN)
        if watch is not None:
            self._epoll.register(watch.fileno, EPOLLIN)

    @property
    def wake_fd(self) -> int:
        """The fd for signal.set_wakeup_fd."""
        return self._wake_write

    def listen(self, sock: socket, export: Export, admission: Admission | None = None) -> None:
        """Accept connections from a listening socket, of which the server becomes the owner.

        admission: who may connect; None: anyone.
        """
        sock.setblocking(False)
        refuse_fds(sock)
        self._listeners[sock.fileno()] = sock, export, admission
        self._epoll.register(sock.fileno(), self._listen_mask)

    def beat(self, call: Callable[[], None], every: float) -> None:
        """While the loop turns, call this every so many seconds; 0: never."""
        self._beat, self._beat_every = call, every
        self._beat_at = time.monotonic() if every else 0.0

    def add(self, sock: socket, export: Export) -> None:
        """Serve a connected AF_UNIX stream socket, of which the server becomes the owner, from `run` on.

        Who is not confined yet calls admission.refuse_fds with it first; the filter would not allow that any more.
        """
        conn = Connection(sock, export, self._log, self._ended, self._patience, watch=self._onlooker)
        self._slots.take(conn)
        self._connections.add(conn)

    def stop(self) -> None:
        """End `run` as soon as what is being served is answered. For signal handlers and other threads; idempotent."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + _PATIENCE
        self._crew.dismiss()
        self._wake()

    def run(self) -> None:
        """Serve; see the class. Failure where another worker was lost."""
        attrs.drop_fsetid()  # and so in every thread that this one starts
        make_room(self._wake_read)
        mounts.open_table()
        self._mounts = mounts.watch()
        if self._mounts >= 0:
            self._epoll.register(self._mounts, EPOLLPRI)
        signal(SIGNAL, lambda number, frame: None)
        self._crew.begin()
        poll = self._epoll.poll
        try:
            for conn in list(self._connections):
                self._watch(conn)
                conn.start()
            if self._connections:
                self._look_later()
            while True:
                if self._stop_at is not None and self._drained(self._stop_at):
                    break
                if not (self._listeners or self._connections or self._crew.look()):
                    break
                for fd, _ in poll(self._longest_turn()):
                    self._on_event(fd)
                if self._late_at or self._paused_until or self._nag_at or self._beat_at or self._slow_at:
                    self._tend()
        finally:
            self._close()

    def _longest_turn(self) -> float:
        """Seconds for which the loop may sleep; -1: until somebody wakes it."""
        times = self._late_at, self._paused_until, self._nag_at, self._beat_at, self._slow_at, self._stop_at
        due = [when for when in times if when]
        return max(0.0, min(due) - time.monotonic()) if due else -1

    def _tend(self) -> None:
        """What is due at a time."""
        now = time.monotonic()
        if 0 < self._late_at <= now:
            self._late_at = 0.0
            for fd in self._listeners:
                self._accept(fd, give_way=False)
        if 0 < self._paused_until <= now:
            self._paused_until = 0.0
            for fd in self._listeners:
                self._epoll.register(fd, self._listen_mask)
        if 0 < self._nag_at <= now:
            self._hung_up = [conn for conn in self._hung_up if conn in self._connections]
            for conn in self._hung_up:
                conn.interrupt()
            self._nag_at = now + _NAG if self._hung_up else 0.0
        if self._slow and 0 < self._slow_at <= now:
            self._slow_at = 0.0
            if self._connections:
                self._slow.rouse()
        if self._beat and 0 < self._beat_at <= now:
            self._beat_at = now + self._beat_every
            self._beat()

    def _watch(self, conn: Connection) -> None:
        """For its hang-up, which epoll(7) tells in any case."""
        self._epoll.register(conn.fileno, EPOLLET | EPOLLONESHOT)
        self._by_fd[conn.fileno] = conn

    def _on_event(self, fd: int) -> None:
        if fd == self._wake_read:
            try:
                os.read(fd, 4096)
            except BlockingIOError:
                pass
            self._crew.look()
        elif fd == self._mounts:
            mounts.follow()
        elif self._onlooker is not None and fd == self._onlooker.fileno:
            if not self._onlooker.answer():
                self._epoll.unregister(fd)
        elif fd == self._crew.lifeline:
            self._epoll.unregister(fd)
            self.stop()
        elif fd == self._crew.turns:
            os.read(fd, 4096)
            for listener in self._listeners:
                self._accept(listener)
        elif fd in self._listeners:
            self._accept(fd)
        elif fd in self._by_fd:
            self._hung_up.append(self._by_fd[fd])
            self._nag_at = self._nag_at or time.monotonic() + _NAG

    def _accept(self, fd: int, give_way: bool = True) -> None:
        """Accept a connection; where there are more workers, all that are there and not another's turn."""
        if self._crew.size == 1:
            self._accept_one(fd)
            return
        for _ in range(_AT_ONCE):
            if give_way and self._slots.busiest():
                self._late_at = self._late_at or time.monotonic() + _GIVE_WAY
                return
            if not self._accept_one(fd):
                return
            self._crew.poke()
        self._late_at = time.monotonic()  # there may be more: at the next turn, after the signals

    def _accept_one(self, fd: int) -> bool:
        """False where there was none to accept, or none could be."""
        listener, export, admission = self._listeners[fd]
        try:
            host, _ = listener._accept()  # type: ignore[attr-defined]  # accept4 with CLOEXEC; `socket.accept` wraps it
        except OSError as e:
            if e.errno in (EMFILE, ENFILE, ENOMEM, ENOBUFS):  # it stays in the queue, so epoll would call again at once
                self._refuse(f"cannot accept a connection now: {e.strerror}")
                self._pause()
            return False
        sock = socket(fileno=host)
        try:
            if admission is not None and (why := admission.refusal(sock)):
                self._log.limited("warning", "user", why)
            elif crowded(host):
                self._refuse("refused a connection: too few file descriptors are left (--fd-limit)")
            elif why := self._admit(sock, export, admission is not None and admission.one_user):
                self._refuse(f"refused a connection: {why} (--max-connections)")
            else:
                return True
        except (OSError, MemoryError) as error:
            self._refuse(
                f"refused a connection: {error.strerror if isinstance(error, OSError) else type(error).__name__}"
            )
        except RuntimeError:
            self._refuse("refused a connection: no thread can be started (ulimit -u, or the cgroup's pids.max)")
        self._discard(sock)
        return True

    def _admit(self, sock: socket, export: Export, one_user: bool) -> str:
        """Serve it; returns why there is no slot for it, "" if there is one."""
        pid, user, _ = credentials(sock)
        process = process_of(sock, pid, self._anonymous)
        why = self._slots.refusal(user, process, one_user)
        if why:
            return why
        conn = Connection(sock, export, self._log, self._ended, self._patience, self._patience, self._onlooker)
        self._slots.take(conn, user, process)
        self._connections.add(conn)
        if self._log.debugging:
            self._log.debug(f"client {conn.fileno}: {peer(sock)}")
        try:
            self._watch(conn)
            conn.start()  # from now on the socket is its thread's: it may be closed at any time
        except BaseException:
            self._by_fd.pop(conn.fileno, None)
            self._connections.discard(conn)
            self._slots.free(conn)
            raise
        self._look_later()
        self._refused = False
        return ""

    def _ended(self, conn: Connection) -> None:
        """Called on the connection's thread."""
        self._log.debug(f"client {conn.fileno}: gone")
        self._connections.discard(conn)
        if self._slow and not self._connections:
            self._slow.dismiss()
        self.met_9p |= conn.met_9p
        if self._by_fd.get(conn.fileno) is conn:
            del self._by_fd[conn.fileno]
        self._slots.free(conn)
        self._wake()

    def _look_later(self) -> None:
        """For slow requests: a client that is gone by then, or a start, shall not pay for a thread."""
        if self._slow and not self._slow_at:
            self._slow_at = time.monotonic() + self._slow.pause

    def _threads(self) -> list[tuple[int, int, int]] | None:
        """Those that serve; None: there is no client."""
        connections = [*self._connections]
        return [thread for conn in connections for thread in conn.threads()] if connections else None

    def _refuse(self, why: str) -> None:
        """Say so once, until a connection is accepted again."""
        if not self._refused:
            self._refused = True
            self._log.limited("warning", "refused", why)

    def _discard(self, sock: socket) -> None:
        if closes_at_once(sock):
            sock.close()
        elif not self._closer.close(sock):
            self._refuse("refused connections do not close, as fds that their clients sent take long to: not listening")
            self._pause()

    def _pause(self) -> None:
        """Do not look at the listening sockets for a while."""
        if not self._paused_until:
            for fd in self._listeners:
                self._epoll.unregister(fd)
        self._paused_until = time.monotonic() + _PAUSE

    def _drained(self, stop_at: float) -> bool:
        """Once stopping: end what there is. True where nothing is left, or patience is at its end."""
        self._stop_listening()
        for conn in list(self._connections):
            conn.close()
        return time.monotonic() > stop_at

    def _stop_listening(self) -> None:
        for fd, (sock, _, _) in self._listeners.items():
            if not self._paused_until:
                self._epoll.unregister(fd)
            self._closer.close(sock)  # with whoever waits in its queue, and the fds these have sent
        self._paused_until = self._late_at = 0.0
        self._listeners.clear()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except OSError:  # full: the loop will look anyway
            pass

    def _close(self) -> None:
        self._stop_listening()
        for conn in list(self._connections):
            conn.cut_off()
        self._epoll.close()  # not the wake-up pipe: a signal may come yet, and Python says so where it cannot write there
