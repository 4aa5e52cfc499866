"""A tree to a tar stream. Each entry is told of as it fails, and the stream stays a whole archive whatever happens to a file."""

from __future__ import annotations

import os
import stat as modes
from contextlib import closing
from errno import EIO
from itertools import islice

from gofer.copy.archive import header, padding
from gofer.copy.data import PIECE, SHORT
from gofer.copy.names import possible

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    from gofer.copy.sides import File, Node, Tree, Xattrs

    Steps = Iterator["Steps"]

_AT_ONCE = 32
_DEEPEST = 2000


class Pack:
    """write(bytes): to the stream; complain(shown, error, False): what an entry fails with; exclude(path in what is packed)."""

    def __init__(
        self, tree: Tree, write: Callable[[bytes], None], complain: Callable[[bytes, OSError, bool | None], None],
        exclude: Callable[[bytes], bool],
    ) -> None:  # fmt: skip
        self._tree, self._write, self._complain, self._exclude = tree, write, complain, exclude
        self._links: dict[tuple[int, tuple[int, int]], bytes] = {}

    def add(self, directory: Any, node: Node, name: bytes, shown: bytes) -> None:
        """name: in the archive; b"." for what is in a directory. Depth first, without Python's own stack."""
        stack = [self._steps(directory, node, name, b"", shown)]
        while stack:
            below = next(stack[-1], None)
            if below is None:
                stack.pop()
            elif len(stack) <= _DEEPEST:
                stack.append(below)
            else:
                error = OSError(EIO, f"more than {_DEEPEST} directories in each other: they may have no end")
                self._complain(shown, error, False)
        self._tree.rest()

    def _steps(self, directory: Any, node: Node, name: bytes, path: bytes, shown: bytes) -> Steps:
        try:
            self._member(directory, node, name, shown)
            if not modes.S_ISDIR(node.stat.mode):
                return
            inside = self._tree.enter(directory, node)
            names = self._tree.names(inside)
            while chunk := list(islice(names, _AT_ONCE)):
                chosen = [each for each in chunk if self._chosen(each, path, shown)]
                for each, found in zip(chosen, self._tree.look(inside, chosen)):
                    below = _below(shown, each)
                    if isinstance(found, OSError):
                        self._complain(below, found, False)
                    elif found:
                        yield self._steps(inside, found, name + b"/" + each, path + b"/" + each, below)
        except OSError as error:
            self._complain(shown, error, False)

    def _chosen(self, name: bytes, path: bytes, shown: bytes) -> bool:
        if not possible(name):
            self._complain(_below(shown, name), OSError(EIO, "a name that no file can have: left out"), False)
            return False
        return not self._exclude((path + b"/" + name)[1:])

    def _member(self, directory: Any, node: Node, name: bytes, shown: bytes) -> None:
        stat, kind = node.stat, modes.S_IFMT(node.stat.mode)
        regular, key = kind == modes.S_IFREG, (stat.ino, stat.dev)
        if regular and stat.nlink > 1 and key in self._links:
            self._write(header(name, stat, 0, {}, self._links[key], hard=True))
            return
        file, target = None, self._tree.target(directory, node) if kind == modes.S_IFLNK else b""
        if regular:
            (opened,) = self._tree.open(directory, [node])()
            if isinstance(opened, OSError):
                raise opened
            file = opened
        size = file.size if file else 0
        xattrs = self._xattrs(directory, node, file)
        self._write(header(name, stat, size, xattrs, target))
        if file:
            self._contents(file, size, shown)
        if regular and stat.nlink > 1:
            self._links[key] = name

    def _xattrs(self, directory: Any, node: Node, file: File | None) -> Xattrs:
        (found,) = self._tree.listing(directory, [(node, file)])()
        if isinstance(found, OSError):
            raise found
        return found

    def _contents(self, file: File, size: int, shown: bytes) -> None:
        """As many bytes as the header has told: zeros for holes, and for what has gone meanwhile."""
        at = 0
        try:
            if size:
                with closing(file.reads(0, size)) as pieces:
                    for begin, data in pieces:
                        self._zeros(begin - at)
                        self._write(data)
                        at = begin + len(data)
        except OSError as error:
            self._complain(shown, error, False)
        else:
            if file.host >= 0 and os.fstat(file.host).st_size < size:
                self._complain(shown, OSError(EIO, SHORT), False)
        self._zeros(size - at)
        self._write(padding(size))

    def _zeros(self, count: int) -> None:
        block = bytes(min(count, PIECE)) if count > 0 else b""
        while count > 0:
            self._write(block[:count])
            count -= PIECE


def _below(shown: bytes, name: bytes) -> bytes:
    return shown + name if shown.endswith(b"/") else shown + b"/" + name
