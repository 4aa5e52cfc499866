"""What many cases lay out, and the names that no message may take."""

from __future__ import annotations

import errno
import os
import socket
import stat as modes

from gofer.conform.case import Skipped
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
