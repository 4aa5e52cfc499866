"""What the tests look at, and compare."""

import os
import socket
import stat as modes
from pathlib import Path

from gofer.conform.codec import Stat


def assert_stat_is(stat: Stat, path: Path, atime: bool = False) -> None:
    """stat is what lstat(path) says now. atime only on request: looking may change it."""
    host = os.lstat(path)
    assert stat.ino == host.st_ino
    assert stat.mode == host.st_mode
    assert (stat.uid, stat.gid, stat.nlink, stat.size) == (host.st_uid, host.st_gid, host.st_nlink, host.st_size)
    assert (stat.blocks, stat.blksize) == (host.st_blocks, host.st_blksize)
    assert stat.dev == (os.major(host.st_dev), os.minor(host.st_dev))
    assert stat.rdev == (os.major(host.st_rdev), os.minor(host.st_rdev))
    assert stat.mtime == divmod(host.st_mtime_ns, 10**9)
    assert stat.ctime == divmod(host.st_ctime_ns, 10**9)
    assert not atime or stat.atime == divmod(host.st_atime_ns, 10**9)
    assert stat.mask & 0x7FF == 0x7FF
    assert not any(stat.pads)


def names_in(path: Path) -> list[str]:
    return sorted(os.listdir(path))


def one_of_each(tree: Path) -> None:
    """A directory, sub, a file, link, fifo, char and sock, and a name that is no text, in tree; it may be there already."""
    (tree / "sub").mkdir(parents=True)
    (tree / "file").write_bytes(b"contents")
    os.symlink("x", tree / "link")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "char", modes.S_IFCHR | 0o600, os.makedev(1, 3))
    with open(os.path.join(os.fsencode(tree), b"\xff\n"), "w"), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "sock"))
