"""How a case lays out what it asks for, and looks at what became of it: on the host, or where only the server sees its
directory, by the server's own messages over its socket.
"""

from __future__ import annotations

import os
import shutil
import stat as modes
from pathlib import Path
from typing import Protocol

from gofer.conform.codec import Stat, expect
from gofer.conform.peer import Peer

REMOVEDIR = 0x200


class Ground(Protocol):
    """The directory of one case."""

    @property
    def tree(self) -> Path | None:
        """On the host."""

    def mkdir(self, *path: str) -> None: ...
    def file(self, name: str, data: bytes = b"") -> None: ...
    def symlink(self, target: str, name: str) -> None: ...
    def remove(self, *path: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def chmod(self, name: str, mode: int) -> None: ...
    def contents(self, name: str) -> bytes: ...
    def names(self, *path: str) -> list[str]: ...
    def expect_stat(self, stat: Stat, *path: str) -> None: ...
    def clear(self) -> None: ...


class HostGround:
    """The served directory is at hand."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def mkdir(self, *path: str) -> None:
        self.tree.joinpath(*path).mkdir()

    def file(self, name: str, data: bytes = b"") -> None:
        (self.tree / name).write_bytes(data)

    def symlink(self, target: str, name: str) -> None:
        os.symlink(target, self.tree / name)

    def remove(self, *path: str) -> None:
        """A name: a directory must be empty."""
        whole = self.tree.joinpath(*path)
        if modes.S_ISDIR(os.lstat(whole).st_mode):
            whole.rmdir()
        else:
            whole.unlink()

    def rename(self, old: str, new: str) -> None:
        os.rename(self.tree / old, self.tree / new)

    def chmod(self, name: str, mode: int) -> None:
        os.chmod(self.tree / name, mode)

    def contents(self, name: str) -> bytes:
        return (self.tree / name).read_bytes()

    def names(self, *path: str) -> list[str]:
        return sorted(os.listdir(self.tree.joinpath(*path)))

    def expect_stat(self, stat: Stat, *path: str) -> None:
        """stat is what lstat(2) says now. Not atime: looking may change it."""
        host = os.lstat(self.tree.joinpath(*path))
        for name, told, is_so in (
            ("ino", stat.ino, host.st_ino),
            ("mode", stat.mode, host.st_mode),
            ("uid", stat.uid, host.st_uid),
            ("gid", stat.gid, host.st_gid),
            ("nlink", stat.nlink, host.st_nlink),
            ("size", stat.size, host.st_size),
            ("blocks", stat.blocks, host.st_blocks),
            ("blksize", stat.blksize, host.st_blksize),
            ("dev", stat.dev, (os.major(host.st_dev), os.minor(host.st_dev))),
            ("rdev", stat.rdev, (os.major(host.st_rdev), os.minor(host.st_rdev))),
            ("mtime", stat.mtime, divmod(host.st_mtime_ns, 10**9)),
            ("ctime", stat.ctime, divmod(host.st_ctime_ns, 10**9)),
        ):
            expect(told == is_so, f"{name}: {told!r}, where lstat(2) says {is_so!r}")
        _expect_form(stat)

    def clear(self) -> None:
        shutil.rmtree(self.tree)


class ServedGround:
    """Nobody but the server knows the directory. peer: over a socket; parent, name: where it is; no name: not ours to remove."""

    tree = None

    def __init__(self, peer: Peer, parent: int, name: str, fd: int) -> None:
        self.peer, self.parent, self.name, self.fd = peer, parent, name, fd

    def mkdir(self, *path: str) -> None:
        self.peer.close(self.peer.mkdirat(self._walk(*path[:-1]), path[-1]).fd)

    def file(self, name: str, data: bytes = b"") -> None:
        made = self.peer.opencreateat(self.fd, name)
        if data:
            expect(self.peer.pwrite(made.fd, 0, data) == len(data), "a short write")
        self.peer.close(made.fd, made.inode.fd)

    def symlink(self, target: str, name: str) -> None:
        self.peer.close(self.peer.symlinkat(self.fd, name, target).fd)

    def remove(self, *path: str) -> None:
        directory = self._walk(*path[:-1])
        (stat,) = self.peer.walkstat(directory, path[-1])
        self.peer.unlinkat(directory, path[-1], REMOVEDIR if modes.S_ISDIR(stat.mode) else 0)

    def rename(self, old: str, new: str) -> None:
        self.peer.renameat(self.fd, old, self.fd, new)

    def chmod(self, name: str, mode: int) -> None:
        expect(self.peer.setstat(self._walk(name), 0x2, mode=mode) == (0, 0), "the mode cannot be set")

    def contents(self, name: str) -> bytes:
        opened = self.peer.openat(self._walk(name)).fd
        data = b""
        while piece := self.peer.pread(opened, len(data), 1 << 20):
            data += piece
        return data

    def names(self, *path: str) -> list[str]:
        opened = self.peer.openat(self._walk(*path)).fd
        return sorted(os.fsdecode(entry.name) for entry in self.peer.listdir(opened))

    def expect_stat(self, stat: Stat, *path: str) -> None:
        """stat is what WalkStat says now, the time of access apart."""
        told = self.peer.walkstat(self.fd, *path or ("",))[-1]
        for name in ("ino", "mode", "uid", "gid", "nlink", "size", "dev", "rdev", "mtime", "ctime"):
            got, is_so = getattr(stat, name), getattr(told, name)
            expect(got == is_so, f"{name}: {got!r}, where WalkStat says {is_so!r}")
        _expect_form(stat)

    def clear(self) -> None:
        if self.name:
            _remove_all(self.peer, self.parent, self.name)

    def _walk(self, *path: str) -> int:
        if not path:
            return self.fd
        _, inodes = self.peer.walk(self.fd, *path)
        expect(len(inodes) == len(path), f"{'/'.join(path)} is not there")
        return inodes[-1].fd


def _remove_all(peer: Peer, parent: int, name: str | bytes) -> None:
    """`rm -r` by messages."""
    _, inodes = peer.walk(parent, name)
    if not inodes:
        return
    kind = modes.S_IFMT(inodes[0].stat.mode)
    if kind == modes.S_IFDIR:
        opened = peer.openat(inodes[0].fd).fd
        for entry in peer.listdir(opened):
            _remove_all(peer, inodes[0].fd, entry.name)
        peer.close(opened)
    peer.close(inodes[0].fd)
    peer.unlinkat(parent, name, REMOVEDIR if kind == modes.S_IFDIR else 0)


def _expect_form(stat: Stat) -> None:
    expect(stat.mask & 0x7FF == 0x7FF, f"the mask is {stat.mask:#x}: not all of STATX_BASIC_STATS")
    expect(not any(stat.pads), f"pads are not zero: {stat.pads}")
