"""Real witnesses from the kernel: who opened what (inotify), opens that wait (leases), a server's calls (strace)."""

import contextlib
import ctypes
import fcntl
import os
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from hosts import Server

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("iIII")
IN_OPEN, IN_ALL_EVENTS, IN_NONBLOCK = 0x20, 0xFFF, 0o4000


class Opens:
    """Counts how often paths are opened, by anybody. An O_PATH open is none: it touches no file, device or FIFO."""

    def __init__(self, *paths: Path) -> None:
        self.fd = _libc.inotify_init1(IN_NONBLOCK | 0o2000000)
        assert self.fd >= 0
        for path in paths:
            assert _libc.inotify_add_watch(self.fd, os.fsencode(path), IN_OPEN) >= 0, path

    def seen(self) -> int:
        """How many opens there were since the last call."""
        try:
            raw = os.read(self.fd, 65536)
        except BlockingIOError:
            return 0
        count = at = 0
        while at < len(raw):
            _, mask, _, name_len = _EVENT.unpack_from(raw, at)
            at += _EVENT.size + name_len
            count += bool(mask & IN_OPEN)
        return count


class Events(Opens):
    """All that happens to paths, and to the entries of those that are directories."""

    def __init__(self, *paths: Path) -> None:
        super().__init__()
        for path in paths:
            assert _libc.inotify_add_watch(self.fd, os.fsencode(path), IN_ALL_EVENTS) >= 0, path

    def seen(self) -> list[str]:  # type: ignore[override]
        """What there was since the last call."""
        try:
            raw = os.read(self.fd, 65536)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(raw):
            watch, mask, _, name_len = _EVENT.unpack_from(raw, at)
            name = raw[at + _EVENT.size : at + _EVENT.size + name_len].rstrip(b"\0")
            found.append(f"watch {watch}: {mask:#x} {name!r}")
            at += _EVENT.size + name_len
        return found


@contextlib.contextmanager
def events_of(*paths: Path) -> Iterator[Events]:
    events = Events(*paths)
    try:
        yield events
    finally:
        os.close(events.fd)


@contextlib.contextmanager
def opens_of(*paths: Path) -> Iterator[Opens]:
    opens = Opens(*paths)
    try:
        yield opens
    finally:
        os.close(opens.fd)


@contextlib.contextmanager
def leased(path: Path) -> Iterator[Callable[[], bool]]:
    """Hold a write lease: every other process's open(2) of path waits until the body ends (fcntl(2), F_SETLEASE), or until the
    kernel has waited for 45 seconds (/proc/sys/fs/lease-break-time). Gives a function that says whether one waits."""
    fd = os.open(path, os.O_RDWR)
    asked: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: asked.append(number))  # give the lease back; not yet
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield lambda: bool(asked)
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        signal.signal(signal.SIGIO, before)
        os.close(fd)


@contextlib.contextmanager
def traced(server: Server, log: Path, calls: str) -> Iterator[None]:
    """strace on all threads of the server, those to come included: what it writes of these calls, with commas between them."""
    argv = ["strace", "-f", "-yy", "-e", f"trace={calls}", "-o", str(log), "-p", str(server.pid)]
    strace = subprocess.Popen(argv, stderr=subprocess.PIPE)
    assert strace.stderr is not None
    try:
        assert b"attached" in strace.stderr.readline()
        yield
    finally:
        strace.send_signal(signal.SIGINT)
        strace.wait()
        strace.stderr.close()
