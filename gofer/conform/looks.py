"""What many cases lay out, and the names that no message may take."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
import socket
import stat as modes
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from gofer.conform.case import Skipped
from gofer.conform.codec import Unexpected, expect
from gofer.conform.peer import Peer
from gofer.conform.stand import Stand

BAD_NAMES = {
    "empty": (b"", errno.EINVAL),
    "dot": (b".", errno.EINVAL),
    "dotdot": (b"..", errno.EINVAL),
    "slash": (b"/", errno.EINVAL),
    "absolute": (b"/etc", errno.EINVAL),
    "two": (b"a/b", errno.EINVAL),
    "up": (b"../x", errno.EINVAL),
    "trailing-slash": (b"a/", errno.EINVAL),
    "nul": (b"\0", errno.EINVAL),
    "inner-nul": (b"a\0b", errno.EINVAL),
    "dotdot-nul": (b"..\0", errno.EINVAL),
    "256": (b"n" * 256, errno.ENAMETOOLONG),
    "65535": (b"n" * 65535, errno.ENAMETOOLONG),
}


def plant(t: Stand) -> None:
    """dir/sub/file, file, and a symlink to dir."""
    t.ground.mkdir("dir")
    t.ground.mkdir("dir", "sub")
    t.ground.file("dir/sub/file" if t.ground.tree else "deep", b"deep")
    if not t.ground.tree:
        sub = t.base.walk(t.dir, "dir", "sub")[1][-1].fd
        t.base.renameat(t.dir, "deep", sub, "file")
    t.ground.file("file", b"hello")
    t.ground.symlink("dir", "link")


def plant_all(t: Stand) -> None:
    """The same, a FIFO, a character device and a socket."""
    plant(t)
    os.mkfifo(t.tree / "fifo")
    bound(t, "sock").close()
    make_device(t, "char", 1, 3)


def make_device(t: Stand, name: str, major: int, minor: int, kind: int = modes.S_IFCHR) -> None:
    try:
        os.mknod(t.tree / name, kind | 0o666, os.makedev(major, minor))
    except PermissionError:
        raise Skipped("no device can be made: not as root") from None


def bound(t: Stand, name: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A socket of the host's in the tree, however long its path is."""
    sock = t.keep(socket.socket(socket.AF_UNIX, kind))
    directory = os.open(t.tree, os.O_PATH)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{name}")
    finally:
        os.close(directory)
    return sock


def alive(peer: Peer) -> None:
    """It answers, and rightly."""
    expect(modes.S_ISDIR(peer.fstat(peer.root).mode), "the root is no directory any more")


@contextlib.contextmanager
def leased(path: Path) -> Iterator[Callable[[], bool]]:
    """Hold a write lease: every other process's open(2) of path waits until the body ends (fcntl(2), F_SETLEASE), or until the
    kernel has waited for 45 seconds. Gives a function that says whether one waits."""
    fd = os.open(path, os.O_RDWR)
    asked: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: asked.append(number))
    try:
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            raise Skipped("the server has the file open, so no lease can make it wait") from None
        yield lambda: bool(asked)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    finally:
        os.close(fd)  # which gives a lease back as well
        signal.signal(signal.SIGIO, before)


def await_(condition: Callable[[], bool], patience: float, what: str) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise Unexpected(f"never happened: {what}")
        time.sleep(0.002)


class Opens:
    """Counts how often a path is opened, by anybody (inotify(7)). An O_PATH open is none: it touches no device or FIFO."""

    def __init__(self, path: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        expect(self.fd >= 0 and libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_OPEN) >= 0, "no inotify(7)")

    def seen(self) -> int:
        try:
            return len(os.read(self.fd, 65536)) // _EVENT.size
        except BlockingIOError:
            return 0

    def __enter__(self) -> Opens:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


_IN_OPEN, _EVENT = 0x20, struct.Struct("iIII")
