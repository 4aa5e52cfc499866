"""What is in a served file, piece by piece.

By the fd that the server donates, where it does: then nothing but the fd crosses the connection. Who donates may be an attacker,
so what comes is read as what was looked up: a FIFO in place of a regular file keeps nobody waiting, but is an error.
"""

from __future__ import annotations

import os
import select
import stat

from gofer.client.ahead import reads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from gofer.client.replies import Inode
    from gofer.client.tree import Tree

PIECE = 1 << 18  # fits the cache of a CPU; more at a time is not faster
_OVERHEAD = 64  # at most, of a reply beside its data
_WINDOW = 8  # MiB: a line of 400 MB/s that takes 20 ms


class Content:
    """An open file. Used in a with block, in which the node is still there."""

    def __init__(self, tree: Tree, node: Inode) -> None:
        self._tree = tree
        self._node = node
        self._ahead: Generator[memoryview, None, None] | None = None
        self._fd, self._host = tree.client.openat(node.fd, os.O_RDONLY)
        self._most = min(1 << 20, tree.client.max_message_size - _OVERHEAD)
        self.seekable = stat.S_ISREG(node.stat.mode)

    def __enter__(self) -> Content:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._ahead is not None:
            self._ahead.close()
        if self._host >= 0:
            os.close(self._host)
        self._tree.drop(self._fd)

    def read(self, offset: int, most: int = PIECE) -> bytes:
        """What is at that offset, at most so much; b"" at the end. Of a FIFO or a device what comes next, whatever the offset."""
        if self._host < 0:
            return self._tree.client.pread(self._fd, min(most, self._most), offset)
        if self.seekable:
            return os.pread(self._host, most, offset)
        while True:
            try:
                return os.read(self._host, most)
            except BlockingIOError:
                self._wait()

    def pieces(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """From the offset to the end, or as far as length."""
        if self._host >= 0 and not self.seekable:
            self._wait()  # a FIFO that nobody has opened yet is no empty one
        while length is None or length > 0:
            data = self.read(offset, PIECE if length is None else min(length, PIECE))
            if not data:
                return
            yield data
            offset += len(data)
            if length is not None:
                length -= len(data)

    def whole(self) -> Iterator[bytes | memoryview]:
        """All of it; a piece is good until the next one. Of another host's file as many are on their way as fill a long line: so
        nothing else is asked meanwhile, but by leaving the with block."""
        at, client = 0, self._tree.client
        if self._host < 0 and self.seekable and client.carrier:
            self._ahead = reads(client, self._fd, 0, self._node.stat.size, self._most, _WINDOW)
            for data in self._ahead:
                at += len(data)
                yield data
        yield from self.pieces(at)

    def size(self) -> int:
        """By now. Asked of the server even where its fd would tell: that it has ended is told, too."""
        return self._tree.client.fstat(self._node.fd).size

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._host, select.POLLIN)
        poll.poll()
