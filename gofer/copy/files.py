"""Open files and FDs of a server; see sides.File.

An fd that the server donates is used where it is what it has to be, for the contents of a file and its holes, and for nothing
else: mode, owner and times are set by the server, with its rights. Who is given an fd on another file than he thinks would
change that with his own.
"""

from __future__ import annotations

import fcntl
import os
import stat as modes
from errno import EIO

from gofer import sys, wire
from gofer.cdata import byref
from gofer.client.ahead import many
from gofer.client.transport import close_all
from gofer.copy.data import ENDLESS, SHORT, UNSIZED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from gofer.copy.remote import RemoteTree
    from gofer.copy.sides import Node

_AHEAD = 4  # pieces of 1 MiB on their way
_LEAST_HOLE = 1 << 16
# File systems that make things up, or ask another process (FUSE), which may let us wait for ever: by messages there is --timeout.
_NO_DISK = frozenset((0x9FA0, 0x62656572, 0x27E0EB, 0x63677270, 0x64626720, 0x74726163, 0x73636673, 0x62656570, 0x65735546,
                      0xCAFE4A11, 0xDE5E81E4, 0x6E736673))  # fmt: skip


_statfs = sys.Statfs()
_reference = byref(_statfs)


class FD:
    """The owner of one FD of a connection, `key`; the next message takes it back. device: of a directory that we have made."""

    __slots__ = ("key", "device", "_trash")
    device: tuple[int, int]

    def __init__(self, key: int, trash: list[int]) -> None:
        self.key, self._trash = key, trash

    def __del__(self) -> None:
        self._trash.append(self.key)


class RemoteFile(FD):
    """See sides.File. node: what it was opened from."""

    __slots__ = ("host", "size", "sparse", "node", "_tree")

    def __init__(self, tree: RemoteTree, key: int, fds: list[int], node: Node, writing: bool) -> None:
        super().__init__(key, tree.trash)
        self._tree, self.node = tree, node
        self.size, self.sparse = node.stat.size, node.stat.blocks * 512 < node.stat.size
        self.host, found = _usable(fds, self.size, writing, tree.disks)
        if found and not writing:
            self.size, self.sparse = found.st_size, found.st_blocks * 512 < found.st_size

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]
        if getattr(self, "host", -1) >= 0:
            close(self.host)
        super().__del__()

    def reads(self, start: int, end: int) -> Generator[tuple[int, bytes], None, None]:
        """Where the size is 0 what there is, as the kernel's own files have none."""
        tree, at, step = self._tree, start, self._tree.piece
        until = end if self.size else UNSIZED
        spans = ((begin, min(step, until - begin)) for begin in range(start, until, step))
        calls = ((wire.PREAD, wire.PReadReq.bytes(begin, self.key, count)) for begin, count in spans)
        for outcome in many(tree.client, calls, _AHEAD if self.size else 1):
            payload = payload_of(outcome)
            data = payload[wire.PReadResp.size :]
            expected = min(step, until - at)
            if wire.PReadResp.read(payload)[0] != len(data) or len(data) > expected:
                raise tree.client.give_up("a PRead with more data than was asked for, or less than it says")
            if self.sparse:
                yield from _without_holes(at, data)
                yield at + len(data), b""  # so far it is, whether there was anything or not
            else:
                yield at, data
            at += len(data)
            if len(data) < expected:
                break
        if at < until and self.size:
            raise OSError(EIO, SHORT)
        if not self.size:
            if at == UNSIZED:
                raise OSError(EIO, ENDLESS)
            self.size = at

    def writes(self, pieces: Iterable[tuple[int, bytes]]) -> Generator[int, None, None]:
        ends: list[int] = []
        sizes: list[int] = []

        def calls() -> Iterator[tuple[int, bytes]]:
            for at, data in pieces:
                for part in range(0, len(data), self._tree.piece):
                    chunk = data[part : part + self._tree.piece]
                    ends.append(at + part + len(chunk))
                    sizes.append(len(chunk))
                    yield wire.PWRITE, wire.PWriteReq.bytes(at + part, self.key, len(chunk)) + chunk

        for done, outcome in enumerate(many(self._tree.client, calls(), _AHEAD)):
            written(outcome, sizes[done])
            yield ends[done]

    def truncate(self, size: int) -> None:
        failed, code = self._tree.client.setstat(self.node.key.key, sys.STATX_SIZE, size=size)
        if failed:
            raise OSError(code, os.strerror(code))


def _usable(fds: list[int], size: int, writing: bool, disks: dict[int, bool]) -> tuple[int, os.stat_result | None]:
    """The first of these, if it is open as it should be, on a regular file of a disk; else -1. All others are closed."""
    close_all(fds[1:])
    if not fds:
        return -1, None
    fd = fds[0]
    access = fcntl.fcntl(fd, fcntl.F_GETFL) & (sys.O_ACCMODE | sys.O_PATH | os.O_APPEND)
    found = os.fstat(fd)
    right = modes.S_ISREG(found.st_mode) and (found.st_size == size or not writing)
    allowed = (os.O_RDWR,) if writing else (os.O_RDONLY, os.O_RDWR)
    if right and access in allowed:
        if found.st_dev not in disks:
            disks[found.st_dev] = not sys.fstatfs(fd, _reference) and _statfs.f_type not in _NO_DISK
        if disks[found.st_dev]:
            return fd, found
    os.close(fd)
    return -1, None


def _without_holes(at: int, data: bytes) -> Iterator[tuple[int, bytes]]:
    """Messages do not tell where a sparse file has nothing: what is all zeros is taken for a hole."""
    begin = 0
    for end in range(_LEAST_HOLE, len(data) + _LEAST_HOLE, _LEAST_HOLE):
        if not data[end - _LEAST_HOLE : end].strip(b"\0"):
            if begin < end - _LEAST_HOLE:
                yield at + begin, data[begin : end - _LEAST_HOLE]
            begin = end
    if begin < len(data):
        yield at + begin, data[begin:]


def written(outcome: tuple[bytes, list[int]] | OSError, size: int) -> None:
    """A disk that is full takes the first of what it gets."""
    (done,) = wire.PWriteResp.unpack(payload_of(outcome))
    if done != size:
        raise OSError(EIO, "it was not written to its end: is there room for it?")


def payload_of(outcome: tuple[bytes, list[int]] | OSError) -> bytes:
    if isinstance(outcome, OSError):
        raise outcome
    close_all(outcome[1])
    return outcome[0]
