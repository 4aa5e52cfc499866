"""The server: one synchronous epoll loop over listening sockets, connections and a wake-up pipe.

Theory of operation
-------------------
Requests on a connection's socket are served by the loop itself; channels and FSync have threads (connection.py), which only ever
write a byte to the wake-up pipe when the loop has to look. So does a signal, by way of set_wakeup_fd. The loop is the
only one that changes the set of connections.

A connection ends in two steps: it is told to close, and is forgotten when its last thread has ended. Until then the
loop turns every `_REAP` seconds and tells it again, because a hostile client can make one wake-up get lost (channel.py).

Whatever else the loop has to see to at a time (messages and replies that stay half, listening sockets that pause) it does between
two turns, in `_tend`; while there is any, it turns every `_TEND` seconds at least.

`stop` takes the listening sockets away, lets each connection answer what it has begun to serve, and then ends it; whoever
takes longer than `_PATIENCE` for that is cut off.

Where several workers serve (workers.py), each runs such a loop over listening sockets that are the same for all, and is told
of each new connection (hence EPOLLET). Whoever has no more connections than any other takes it; the rest look again
`_GIVE_WAY` seconds later, and take what is still there: a worker that is held up keeps nobody waiting for long.
"""

from __future__ import annotations

import os
import time
from _socket import socket
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from select import EPOLLET, EPOLLIN, EPOLLOUT, epoll

from gofer import attrs, busypoll, mounts
from gofer.admission import Admission, peer
from gofer.connection import Connection, Export, Pool
from gofer.fds import crowded
from gofer.workers import Crew

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.log import Log

_REAP = 0.02
_TEND = 0.25
_GIVE_WAY = 0.1  # far more than a worker takes that is not held up, also on a busy machine
_AT_ONCE = 16  # connections accepted before clients are served again
_PATIENCE = 5.0


class Server:
    """Serves exports to clients until `stop`, or until no listening socket and no connection is left.

    max_connections: clients at once, of all workers; one more is accepted, logged and closed. idle_message_timeout: seconds a
    client may take to send the rest of a message, or to take that of a reply, before it is dropped; 0: any time. crew: the
    workers, of which this is one; the first of them runs until the others have ended too.
    """

    def __init__(
        self, log: Log, *, max_connections: int = 64, idle_message_timeout: float = 60.0, crew: Crew | None = None
    ) -> None:
        self._log = log
        self._crew = crew or Crew()
        self._max = max_connections
        self._half_most = idle_message_timeout
        self._epoll = epoll()
        self._pool = Pool()
        self._listeners: dict[int, tuple[socket, Export, Admission | None]] = {}
        self._connections: dict[int, Connection] = {}
        self._watched: dict[int, int] = {}  # epoll mask by fd of a connection
        self._ending: list[Connection] = []
        self._half: set[Connection] = set()  # with half a message or reply, or so it was when they got in here
        self._paused = False  # not listening, for want of fds
        self._late_at = 0.0  # when to take what other workers have left; 0: they were left nothing
        self._listen_mask = EPOLLIN | EPOLLET if self._crew.size > 1 else EPOLLIN
        self._tend_at = 0.0  # when `_tend` is due
        self._stop_at: float | None = None  # when patience ends, once stopping
        self._refused = False  # connections are being refused, and that was logged
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll.register(self._wake_read, EPOLLIN)
        if self._crew.lifeline >= 0:
            self._epoll.register(self._crew.lifeline, 0)  # for its hang-up, which is told in any case
        if self._crew.turns >= 0:
            self._epoll.register(self._crew.turns, EPOLLIN)

    @property
    def wake_fd(self) -> int:
        """The fd for signal.set_wakeup_fd."""
        return self._wake_write

    def listen(self, sock: socket, export: Export, admission: Admission | None = None) -> None:
        """Accept connections from a listening socket, of which the server becomes the owner.

        admission: who may connect; None: anyone.
        """
        sock.setblocking(False)
        self._listeners[sock.fileno()] = sock, export, admission
        self._epoll.register(sock.fileno(), self._listen_mask)

    def add(self, sock: socket, export: Export) -> None:
        """Serve a connected AF_UNIX stream socket, of which the server becomes the owner."""
        conn = Connection(sock, export, self._log, self._pool, self._wake)
        self._epoll.register(conn.fileno, EPOLLIN)
        self._connections[conn.fileno] = conn
        self._watched[conn.fileno] = EPOLLIN
        self._count()

    def stop(self) -> None:
        """End `run` as soon as what is being served is answered. For signal handlers and other threads; idempotent."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + _PATIENCE
        self._crew.dismiss()
        self._wake()

    def run(self) -> None:
        """Serve; see the class. Everything the server owns is closed when it returns. Failure where another worker was lost."""
        attrs.drop_fsetid()
        mounts.open_table()
        self._crew.begin()
        poll, connections, last_served = self._epoll.poll, self._connections, busypoll.last
        try:
            while self._listeners or connections or self._ending or self._crew.look():
                for fd, _ in poll(self._longest_turn()):
                    last_served[0] = None
                    conn = connections.get(fd)
                    if conn is None:
                        self._on_other(fd)
                        continue
                    try:
                        if conn.blocked:
                            conn.on_writable()
                        elif conn.on_readable():
                            continue
                    except Exception as error:  # not a handler's: no memory for a buffer
                        conn.drop("failed", type(error).__name__)
                    self._watch(conn)
                if self._half or self._paused or self._late_at:
                    self._tend()
                if self._stop_at is not None and self._drained():
                    break
                if self._ending:
                    self._reap()
        finally:
            self._close()

    def _longest_turn(self) -> float:
        """Seconds for which the loop may sleep; -1: until somebody wakes it."""
        if self._ending or self._stop_at is not None:
            return _REAP
        if self._late_at:
            return max(0.0, self._late_at - time.monotonic())
        return _TEND if self._half or self._paused else -1

    def _tend(self) -> None:
        """What is due at a time; see the head of this file."""
        now = time.monotonic()
        if 0 < self._late_at <= now:
            self._late_at = 0.0
            for fd in self._listeners:
                self._accept(fd, give_way=False)
        if now < self._tend_at:
            return
        self._tend_at = now + _TEND
        if self._paused:
            self._paused = False
            for fd in self._listeners:
                self._epoll.register(fd, self._listen_mask)
        for conn in list(self._half):
            if not conn.half_since:
                self._half.remove(conn)
            elif now - conn.half_since > self._half_most:
                self._half.remove(conn)
                conn.drop("half", f"half a message or reply for {self._half_most:g} s (--idle-message-timeout)")
                self._watch(conn)

    def _on_other(self, fd: int) -> None:
        if fd == self._wake_read:
            try:
                os.read(fd, 4096)
            except BlockingIOError:
                pass
            self._crew.look()
            for conn in [conn for conn in self._connections.values() if conn.done]:
                try:
                    conn.resume()
                except Exception as error:
                    conn.drop("failed", type(error).__name__)
                self._watch(conn)
        elif fd == self._crew.lifeline:
            self._epoll.unregister(fd)
            self.stop()
        elif fd == self._crew.turns:
            os.read(fd, 4096)
            for listener in self._listeners:
                self._accept(listener)
        elif fd in self._listeners:
            self._accept(fd)

    def _watch(self, conn: Connection) -> None:
        """Watch for what the connection now waits for; nothing, where a thread of it will wake us."""
        fd = conn.fileno
        if conn.half_since and self._half_most:
            self._half.add(conn)
        if conn.closing:
            want = 0
            del self._connections[fd]
            self._ending.append(conn)
        else:
            want = 0 if conn.busy else EPOLLOUT if conn.blocked else EPOLLIN
        have = self._watched.get(fd, 0)
        if want == have:
            return
        if not have:
            self._epoll.register(fd, want)
        elif not want:
            self._epoll.unregister(fd)
        else:
            self._epoll.modify(fd, want)
        self._watched[fd] = want

    def _accept(self, fd: int, give_way: bool = True) -> None:
        """Accept a connection; where there are more workers, all that are there and not another's turn."""
        if self._crew.size == 1:
            self._accept_one(fd)
            return
        for _ in range(_AT_ONCE):
            if give_way and self._crew.busiest():
                self._late_at = self._late_at or time.monotonic() + _GIVE_WAY
                return
            if not self._accept_one(fd):
                return
            self._crew.poke()
        self._late_at = time.monotonic()  # there may be more: at the next turn, after the clients

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
        if admission is not None and (why := admission.refusal(sock)):
            self._log.limited("warning", "user", why)
        elif self._count(1) > self._max:
            self._refuse(f"refused a connection: {self._max} are open already (--max-connections)")
        elif crowded(host):
            self._refuse("refused a connection: too few file descriptors are left (--fd-limit)")
        else:
            try:
                self.add(sock, export)
            except (OSError, MemoryError) as error:
                self._refuse(f"refused a connection: {type(error).__name__}")
            else:
                self._refused = False
                if self._log.debugging:
                    self._log.debug(f"client {host}: {peer(sock)}")
                return True
        self._count()
        sock.close()
        return True

    def _count(self, coming: int = 0) -> int:
        """How many connections all workers have, with those about to be added here."""
        return self._crew.count(len(self._connections) + len(self._ending) + coming)

    def _refuse(self, why: str) -> None:
        """Say so once, until a connection is accepted again."""
        if not self._refused:
            self._refused = True
            self._log.limited("warning", "refused", why)

    def _pause(self) -> None:
        """Do not look at the listening sockets until `_tend` does."""
        if not self._paused:
            self._paused = True
            for fd in self._listeners:
                self._epoll.unregister(fd)

    def _reap(self) -> None:
        """Forget the connections whose last thread has ended; tell the others again."""
        for conn in self._ending[:]:
            if conn.done:
                conn.resume()
            if conn.ended:
                self._ending.remove(conn)
                self._watched.pop(conn.fileno, None)
                self._count()  # first: whoever sees the socket close may come again at once
                conn.finish()
                self._log.debug(f"client {conn.fileno}: gone")
            else:
                conn.close()

    def _drained(self) -> bool:
        """Once stopping: end what is idle. True where nothing is left, or patience is at its end."""
        self._stop_listening()
        for conn in list(self._connections.values()):
            if not (conn.busy or conn.blocked):
                conn.close()
                self._watch(conn)
        assert self._stop_at is not None
        return time.monotonic() > self._stop_at

    def _stop_listening(self) -> None:
        for fd, (sock, _, _) in self._listeners.items():
            if not self._paused:
                self._epoll.unregister(fd)
            sock.close()
        self._listeners.clear()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"\0")
        except OSError:  # full: the loop will look anyway; closed: there is no loop any more
            pass

    def _close(self) -> None:
        self._stop_listening()
        for conn in [*self._connections.values(), *self._ending]:
            conn.close()
            if conn.ended:
                conn.finish()
        self._connections.clear()
        self._epoll.close()
        os.close(self._wake_read)
        write, self._wake_write = self._wake_write, -1
        os.close(write)
