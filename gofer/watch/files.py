"""The file of a trace: whole records only, whatever the disk does; begun anew when it has become too large."""

from __future__ import annotations

import os

from gofer import failure
from gofer.watch.record import LOST, MAGIC, START, VERSION, Start, build, clocks
from gofer.watch.ring import entries
from gofer.wire import Count

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class TraceFile:
    """path: made, or begun anew. limit: bytes, after which it is called FILE.1 and so on, and another one begun; 0: none.

    keep: how many of these there may be. Failure where it cannot be opened. What is needed later is held open: behind another
    root the directory has no name.
    """

    def __init__(self, path: str, what: bytes, data: bool, limit: int = 0, keep: int = 1) -> None:
        self.path = path
        self.fresh = False  # another one has just been begun
        self._what, self._data = what, data
        self._limit, self._keep = limit, keep
        self._size = 0
        self._lost = 0
        self._directory, self._name = -1, os.path.basename(path)
        self._regular = True
        try:
            if limit:
                self._directory = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.fd = os.open(path, _FLAGS, 0o600)
            self._regular = os.path.isfile(self.fd)
            if self._regular:
                os.ftruncate(self.fd, 0)
            else:
                os.set_blocking(self.fd, True)
        except OSError as e:
            remedy = "give a file that you may write, in a directory that exists"
            raise failure(f"cannot write the trace {path}", e, remedy) from None

    @property
    def fds(self) -> set[int]:
        return {fd for fd in (self.fd, self._directory) if fd >= 0}

    def begin(self, now: tuple[int, int]) -> str:
        """Say when and what; returns why not. Again where a trace is resumed. now: `clocks()`."""
        wall, clock = now
        body = Start.bytes(VERSION, wall, clock, self._data) + Count.bytes(len(self._what)) + self._what
        return self._write(MAGIC * (not self._size) + build(START, body=body, time=clock))

    def put(self, piece: memoryview) -> str:
        """Write whole records; returns why they are lost, "" if they are not."""
        if self._lost:
            told, self._lost = self._lost, 0
            if self._write(build(LOST, asked=told, time=clocks()[1])):
                self._lost = told
        why = self._write(piece)
        if why:
            self._lost += len(entries(piece))
        return why

    def lost(self, number: int) -> None:
        """Records that have not come as far as here."""
        self._lost += number

    def finish(self) -> None:
        if self._lost:
            self.put(memoryview(b""))
        os.close(self.fd)
        self.fd = -1

    def _write(self, data: bytes | memoryview) -> str:
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self.fd, rest) :]
        except OSError as e:
            if self._regular and len(rest) < len(data):
                try:  # a half record would end what can be read
                    os.ftruncate(self.fd, os.fstat(self.fd).st_size - len(data) + len(rest))
                except OSError:
                    pass
            return e.strerror or str(e)
        self._size += len(data)
        return ""

    def turn(self) -> str:
        """Where it is large enough: FILE.1 becomes FILE.2, FILE becomes FILE.1; another FILE. Returns why not.

        `fresh` then says that the new one knows of nobody yet.
        """
        if not self._limit or self._size < self._limit:
            return ""
        names = [self._name, *(f"{self._name}.{number}" for number in range(1, self._keep + 1))]
        try:
            for old, new in reversed([*zip(names, names[1:])]):
                try:
                    os.rename(old, new, src_dir_fd=self._directory, dst_dir_fd=self._directory)
                except FileNotFoundError:
                    pass
            fd = os.open(self._name, _FLAGS | os.O_TRUNC, 0o600, dir_fd=self._directory)
        except OSError as e:
            return e.strerror or str(e)
        os.close(self.fd)
        self.fd, self._size, self.fresh = fd, 0, True
        return self.begin(clocks())

