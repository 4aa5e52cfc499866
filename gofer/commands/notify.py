"""What a service manager hears of a server: sd_notify(3). Imported only where NOTIFY_SOCKET says that somebody listens.

Theory of operation
-------------------
systemd believes the process that it has started, which is the supervisor where there is a jail. Only the server knows when it
serves, and that its loop still turns. It says so through a pipe, a letter at a time, and the supervisor turns letters into
the messages that stand here: a server that was taken over can say nothing else, and not often. Without a jail the two are one
process, and there is no pipe between.

The socket is connected before the root changes. Nobody waits for a manager that does not read: what it has no room for is lost.
"""

from __future__ import annotations

import os
from _socket import AF_UNIX, MSG_DONTWAIT, MSG_NOSIGNAL, SOCK_CLOEXEC, SOCK_DGRAM, socket
from time import monotonic

from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.log import Log

READY, ALIVE, STOPPING = b"r", b"a", b"s"
_MOST = 1024  # bytes of a status


class Notifier:
    """status: what it does, for people. every: seconds between two signs of life; 0: nobody waits for them."""

    def __init__(self, status: str, log: Log) -> None:
        address = os.fsencode(os.environ.pop("NOTIFY_SOCKET"))
        self.every = _watchdog() / 2
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._direct = True
        self._said: set[bytes] = set()
        self._alive_at = 0.0
        text = printable(os.fsencode(status)).encode("utf-8", "backslashreplace")[:_MOST]
        self._messages = {
            READY: b"READY=1\nSTATUS=" + text,
            ALIVE: b"WATCHDOG=1",
            STOPPING: b"STOPPING=1\nSTATUS=finishing what is being served",
        }
        self._socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            self._socket.connect(b"\0" + address[1:] if address.startswith(b"@") else address)
        except OSError as error:
            log.warning(f"NOTIFY_SOCKET={printable(address)} leads nowhere ({error.strerror}): the service manager hears nothing")
        self.fds = (self._reader, self._socket.fileno())  # the supervisor's
        self.watched = self._reader

    def in_server(self) -> None:
        """Called in the server where another process is the supervisor."""
        self._direct = False
        os.close(self._reader)
        self._socket.close()

    def in_other_worker(self) -> None:
        """The first speaks for all."""
        os.close(self._writer)

    def ready(self) -> None:
        self._say(READY)

    def alive(self) -> None:
        self._say(ALIVE)

    def stopping(self) -> None:
        self._say(STOPPING)

    def _say(self, letter: bytes) -> None:
        if self._direct:
            self._send(letter)
            return
        try:
            os.write(self._writer, letter)
        except OSError:  # full, or the supervisor is gone
            pass

    def heard(self) -> bool:
        """In the supervisor, when there is something to read; whether there may be more."""
        letters = os.read(self._reader, 64)
        for letter in self._messages:
            if letter in letters:
                self._send(letter)
        return bool(letters)

    def _send(self, letter: bytes) -> None:
        now = monotonic()
        if letter == ALIVE:
            if now < self._alive_at:
                return
            self._alive_at = now + self.every / 4
        elif letter in self._said:
            return
        self._said.add(letter)
        try:
            self._socket.send(self._messages[letter], MSG_DONTWAIT | MSG_NOSIGNAL)
        except OSError:
            pass


def _watchdog() -> float:
    """Seconds after which the manager takes a silent server for dead; 0: it does not look (sd_watchdog_enabled(3))."""
    text, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    mine = not pid or pid == str(os.getpid())
    return int(text[:18]) / 1e6 if mine and text.isascii() and text.isdigit() else 0.0
