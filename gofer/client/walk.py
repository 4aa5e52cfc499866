"""All that is below a directory, one entry after the other, in memory that does not grow with the tree.

    walk = Walk(tree, node, b"/srv", bad)
    for path, kind, attributes, depth, leaving in walk:
        ...                     # walk.skip() here leaves out what is in the directory that has just come

What is listed is read as it is walked: a directory of any size stays at the server, but for one message full of it. Each
directory on the way down takes two FDs there, which bounds how deep a walk goes; a hostile server's tree has no end.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR
from itertools import chain, repeat

from gofer.client.address import below
from gofer.client.transport import Lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable, Optional

    from gofer.client.replies import DirWalk, Inode, Stat
    from gofer.client.tree import Tree

    # path below the root of the walk, from the / on; S_IFMT bits; None where nobody asked, or it cannot be looked at; how far
    # down; whether all that is in the directory has come
    Found = tuple[bytes, int, Optional[Stat], int, bool]
    Entry = tuple[bytes, int, Optional[Stat]]

DEEPEST = 1000  # directories in each other
_AT_ONCE = 65536  # bytes of dirents in a message; far down less, so that all of them together stay small
_SHALLOW = 16
_KIND = 0o170000


class _Level:
    """A directory that is being listed."""

    __slots__ = ("path", "fd", "attributes", "parts", "entries", "fds")

    def __init__(self, path: bytes, node: Inode, parts: Iterator[Iterable[Entry]], fds: tuple[int, ...]) -> None:
        """parts: the entries of a message each; fds: what is to be dropped with it."""
        self.path = path
        self.fd, self.attributes = node
        self.parts = parts
        self.entries = chain.from_iterable(parts)
        self.fds = fds


class Walk:
    """Iterated over once. root: what has the path `served`: the first entry, under the path b""; its FD goes with the walk.

    bad(path, error): is told of what cannot be looked at; what is known of it comes all the same. stats: attributes of each
    entry, not only its type. leaving: directories come once more when all that is in them has. follow: symbolic links below the
    root, too. one_device: nothing on other file systems. deepest: how far down. in_order: the entries of each directory by
    name, without stats.
    """

    def __init__(
        self, tree: Tree, root: Inode, served: bytes, bad: Callable[[bytes, OSError], None], *,
        stats: bool = False, leaving: bool = False, follow: bool = False, one_device: bool = False, deepest: int = 1 << 30,
        in_order: bool = False,
    ) -> None:  # fmt: skip
        self._tree = tree
        self._root = root
        self._served = served
        self._bad = bad
        self._stats = stats or follow
        self._leaving = leaving
        self._follow = follow
        self._one_device = one_device
        self._deepest = deepest
        self._in_order = in_order
        self._skip = False
        self._levels: list[_Level] = []

    def skip(self) -> None:
        """Do not go into what was the last to come."""
        self._skip = True

    @property
    def directory(self) -> int:
        """The control FD of the one that the last to come stands in. There is none for the root."""
        return int(self._levels[-1].fd)

    def __iter__(self) -> Iterator[Found]:
        root, self._skip = self._root, False
        kind = stat.S_IFMT(root.stat.mode)
        yield b"", kind, root.stat, 0, False
        if kind != stat.S_IFDIR:
            self._tree.drop(root.fd)
            return
        try:
            if self._opens(0, b"", root):
                yield from self._below()
            elif self._leaving:
                yield b"", kind, root.stat, 0, True
        finally:
            for level in self._levels:
                level.parts.close()  # type: ignore[attr-defined]
                self._tree.drop(*level.fds)

    def _below(self) -> Iterator[Found]:
        levels, leaving, follow = self._levels, self._leaving, self._follow
        while levels:
            level, depth = levels[-1], len(levels)
            head = level.path + b"/"
            for name, kind, attributes in level.entries:
                path, followed = head + name, None
                if follow:
                    if kind == stat.S_IFLNK:
                        try:
                            followed = self._target(path)
                        except OSError as error:
                            self._tell(path, error)
                            continue
                    if followed:
                        kind, attributes = stat.S_IFMT(followed.stat.mode), followed.stat
                    if kind == stat.S_IFDIR and attributes and self._is_above(attributes):
                        self._tree.drop(*([followed.fd] if followed else []))
                        self._bad(path, _loop())
                        continue
                if kind != stat.S_IFDIR:
                    if followed:
                        self._tree.drop(followed.fd)
                    yield path, kind, attributes, depth, False
                    continue
                self._skip = False
                yield path, kind, attributes, depth, False
                if self._opens(depth, path, followed, name):
                    break
                if leaving:
                    yield path, kind, attributes, depth, True
            else:
                levels.pop()
                self._tree.drop(*level.fds)
                if leaving:
                    yield level.path, stat.S_IFDIR, level.attributes, depth - 1, True

    def _tell(self, path: bytes, error: OSError) -> None:
        if isinstance(error, Lost):
            raise error
        self._bad(path, error)

    def _target(self, path: bytes) -> Inode | None:
        """What a symbolic link leads to; nothing where that is nothing: then it is a link like any file."""
        try:
            return self._tree.resolve(below(self._served, path[1:]))
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                return None
            raise

    def _opens(self, depth: int, path: bytes, node: Inode | None, name: bytes = b"") -> bool:
        """Whether that directory, whose entries are so far down, is one to go into: then it is the last of the levels."""
        first: DirWalk | None = None
        try:
            if not self._skip and depth < self._deepest:
                at_once = _AT_ONCE if depth < _SHALLOW else _AT_ONCE // 16
                if node is None and self._one_device:  # what is not gone into is not opened
                    node = self._tree.child(self._levels[-1].fd, name)
                elif node is None:
                    first = self._tree.enter(self._levels[-1].fd, name, at_once, self._stats)
                    node = first.node
                if self._is_new(depth, node):
                    self._levels.append(_Level(path, node, self._parts(node.fd, path, at_once, first), _fds(node, first)))
                    return True
        except OSError as error:
            self._tell(path, error)
        if node:
            self._tree.drop(*_fds(node, first))
        return False

    def _is_new(self, depth: int, node: Inode) -> bool:
        """Whether it is to be gone into; an error where it cannot be."""
        found = node.stat
        if not stat.S_ISDIR(found.mode):
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        if self._is_above(found):
            raise _loop()
        if depth >= DEEPEST:
            raise OSError(ENAMETOOLONG, f"more than {DEEPEST} directories in each other: not gone into")
        return not self._one_device or found.dev == self._root.stat.dev

    def _is_above(self, found: Stat) -> bool:
        return any((level.attributes.ino, level.attributes.dev) == (found.ino, found.dev) for level in self._levels)

    def _parts(self, fd: int, path: bytes, at_once: int, first: DirWalk | None) -> Iterator[Iterable[Entry]]:
        """What is in the directory, a message at a time."""
        try:
            if self._stats:
                for names, stats in self._tree.stat_parts(fd, at_once, first):
                    if all(attributes.mask for attributes in stats):
                        yield zip(names, [attributes.mode & _KIND for attributes in stats], stats)
                    else:
                        yield [*self._asked(fd, path, names, stats)]
            elif self._in_order:
                yield [(name, kind, None) for name, kind in self._tree.sorted(fd, first)]
            else:
                for names, kinds in self._tree.kind_parts(fd, at_once, first):
                    yield zip(names, kinds, repeat(None))
        except OSError as error:
            self._tell(path, error)

    def _asked(self, fd: int, path: bytes, names: list[bytes], stats: list[Stat]) -> Iterator[Entry]:
        """Where not all could be looked at with the directory: one after the other, and what goes wrong is told."""
        for name, attributes in zip(names, stats):
            if attributes.mask:
                yield name, attributes.mode & _KIND, attributes
                continue
            for _, found, error in self._tree.ask(fd, name, attributes):
                if error:
                    self._bad(path + b"/" + name, error)
                yield name, found.mode & _KIND, found if found.mask else None


def _fds(node: Inode, first: DirWalk | None) -> tuple[int, ...]:
    return (node.fd, first.opened) if first and first.opened > 0 else (node.fd,)


def _loop() -> OSError:
    return OSError(ELOOP, "it is a directory that it is itself in: not gone into again")
