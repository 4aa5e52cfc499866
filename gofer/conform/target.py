"""The server that is judged: one that listens already, or a command that is started for it, and again when it has ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from gofer import Failure
from gofer.conform.case import Skipped

FIRST_FD = 3
_LAST_WORDS = 300  # bytes of what a server said before it ended


class Listening:
    """A server with a socket to connect to. tree: the directory it serves, where that is at hand."""

    several = True

    def __init__(self, path: str, tree: Path | None) -> None:
        self.path, self.tree = path, tree

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(self.path)
        except OSError as error:
            sock.close()
            raise Failure(f"cannot connect to {self.path}: {error.strerror}; is a server there?") from None
        return sock

    def renew(self) -> None:
        """All connections are closed: the next may be of another server."""

    def last_words(self) -> str:
        """Why there is no server any more, as far as one can tell."""
        return ""

    def end(self) -> None:
        """Nothing is left of what was started."""


class Started:
    """A command with a fresh directory to serve in place of the word DIR, and connected sockets from fd 3 on."""

    def __init__(self, command: Sequence[str], connections: int, patience: float) -> None:
        self.several = connections > 1
        self.patience = patience
        self._place = Path(tempfile.mkdtemp(prefix="gofer-conform-"))
        os.chmod(self._place, 0o755)
        served = self._place / "served"
        served.mkdir()
        self.tree: Path | None = served if any(_names_directory(word) for word in command) else None
        self.command = [_replaced(word, str(served)) for word in command]
        self._connections = connections
        self._pid = 0
        self._status: int | None = None
        self._unused: list[socket.socket] = []
        self._said: IO[bytes] = tempfile.TemporaryFile()

    def connect(self) -> socket.socket:
        if not self._pid:
            self._start()
        if not self._unused:
            raise Skipped("there are not so many connections (--connections)")
        return self._unused.pop(0)

    def renew(self) -> None:
        """The server is to end by itself, as nobody is connected; it is killed when it does not."""
        for sock in self._unused:
            sock.close()
        self._unused = []
        if self._pid:
            self._wait(min(self.patience, 2))
            self._kill()

    def last_words(self) -> str:
        status = self._wait(0.5)
        if status is None:
            return ""
        how = f"signal {-status}" if status < 0 else f"exit status {status}"
        lines = self._tail().strip().splitlines()
        return f"the server ended with {how}" + (f": {lines[-1].strip()}" if lines else "")

    def end(self) -> None:
        self.renew()
        self._said.close()
        shutil.rmtree(self._place)

    def _start(self) -> None:
        pairs = [socket.socketpair() for _ in range(self._connections)]
        self._unused = [ours for ours, _ in pairs]
        self._began = os.fstat(self._said.fileno()).st_size
        try:
            self._pid = _spawn(self.command, [sock.fileno() for _, sock in pairs], self._said.fileno())
            self._status = None
        except OSError as error:
            raise Failure(f"cannot start {self.command[0]}: {error.strerror}; give a command and its arguments") from None
        finally:
            for _, sock in pairs:
                sock.close()

    def _wait(self, seconds: float) -> int | None:
        """The exit status, minus the number of a signal; None while it runs."""
        deadline = time.monotonic() + seconds
        while self._pid and self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > deadline:
                break
            else:
                time.sleep(0.002)
        return self._status

    def _kill(self) -> None:
        """It and what it has started: they have a session of their own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        if self._status is None:
            os.waitpid(self._pid, 0)
        self._pid, self._status = 0, None

    def _tail(self) -> str:
        size = os.fstat(self._said.fileno()).st_size
        start = max(self._began, size - _LAST_WORDS)
        return os.pread(self._said.fileno(), _LAST_WORDS, start).decode(errors="backslashreplace")


def _spawn(command: Sequence[str], fds: Sequence[int], output: int) -> int:
    """With fds as 3, 4, ..., its output to one place; returns its pid."""
    high = FIRST_FD + len(fds)
    spare = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, high) for fd in fds]  # or one would take the number of another
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    moves = [(null, 0), (output, 1), (output, 2), *((fd, FIRST_FD + at) for at, fd in enumerate(spare))]
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in moves]
    try:
        return os.posix_spawnp(command[0], [*command], os.environ, file_actions=actions, setsid=True)
    finally:
        for fd in (*spare, null):
            os.close(fd)


def _names_directory(word: str) -> bool:
    return word == "DIR" or word.endswith("=DIR")


def _replaced(word: str, path: str) -> str:
    return word[: -len("DIR")] + path if _names_directory(word) else word
