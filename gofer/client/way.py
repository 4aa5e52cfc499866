"""A path on its way through a served tree: see tree.py, which is what others use."""

from __future__ import annotations

import os
import stat
from errno import ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR

from gofer import wire
from gofer.client.transport import Lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from gofer.client.replies import Inode
    from gofer.client.tree import Tree

MOST_LINKS = 40  # as in Linux
LONGEST_TARGET = 4096  # of a symbolic link: PATH_MAX
_STEPS = 256  # components of one Walk: a server makes an fd of each


class Way:
    """nodes: where it is, below the root; names: of these, and of what is missing at the end; left: what is still to go, the next
    one last. missing: how many components at the end need not exist; -1: none need."""

    def __init__(self, tree: Tree, path: bytes, follow: bool, missing: int = 0) -> None:
        self._tree = tree
        self._nodes: list[Inode] = []
        self._links = 0
        self._follow = follow
        self._missing = missing
        self.names: list[bytes] = []
        self.left = _components(path)

    def end(self) -> Inode:
        """Go all of it; returns what is there, or as near to it as something is."""
        while self.left:
            self._go()
        here = self._here()
        self._tree.drop(*(node.fd for node in self._nodes[:-1]))
        return here

    def _go(self) -> None:
        """Some components further."""
        names: list[bytes] = []
        most = 1 if self._missing < 0 else _STEPS  # or nobody knows which of them is no directory
        while self.left and len(names) < most and self.left[-1] not in (b".", b".."):
            names.append(self.left.pop())
        if names:
            self._walk(names)
        elif not stat.S_ISDIR(self._here().stat.mode):
            self._fail(ENOTDIR)
        elif self.left.pop() == b".." and self._nodes:
            self._tree.drop(self._nodes.pop().fd)
            self.names.pop()

    def _here(self) -> Inode:
        return self._nodes[-1] if self._nodes else self._tree.root

    def _walk(self, names: list[bytes]) -> None:
        try:
            status, inodes = self._tree.walk(self._here().fd, names)
        except OSError as error:
            if error.errno == ENOTDIR and self._missing < 0 and not isinstance(error, Lost):
                return self._end_in_vain(names)
            self._tree.drop(*(node.fd for node in self._nodes))
            raise
        self._nodes += inodes
        self.names += names[: len(inodes)]
        if status == wire.WALK_MISSING:
            return self._end_in_vain(names[len(inodes) :])
        self.left += reversed(names[len(inodes) :])
        if inodes and stat.S_ISLNK(inodes[-1].stat.mode):
            if self.left or self._follow:
                self._enter_link()
        elif status == wire.WALK_SYMLINK:
            raise self._tree.client.give_up("a Walk that stops at a symbolic link where there is none")

    def _end_in_vain(self, names: list[bytes]) -> None:
        """The first of these is not there: the path goes on in words, or not at all."""
        rest = [name for name in names + self.left[::-1] if name != b"."]
        self.left = []
        if 0 <= self._missing < len(rest):
            self._fail(ENOENT)
        for name in rest:
            if name != b"..":
                self.names.append(name)
            elif self.names:
                self.names.pop()

    def _enter_link(self) -> None:
        link = self._nodes.pop()
        self.names.pop()
        try:
            target = self._tree.target(link)
        finally:
            self._tree.drop(link.fd)
        self._links += 1
        if self._links > MOST_LINKS:
            self._fail(ELOOP)
        if not target:  # which Linux does not allow
            self._fail(ENOENT)
        if target.startswith(b"/"):
            self._tree.drop(*(node.fd for node in self._nodes))
            self._nodes, self.names = [], []
        self.left += _components(target)
        if len(self.left) > 2 * LONGEST_TARGET:
            self._fail(ENAMETOOLONG)

    def _fail(self, code: int) -> NoReturn:
        self._tree.drop(*(node.fd for node in self._nodes))
        raise OSError(code, os.strerror(code))


def _components(path: bytes) -> list[bytes]:
    """From the last to the first. A `/` at the end is a `.`: what is before it is a directory, or a link to one."""
    names = [name for name in path.split(b"/") if name]
    if names and path.endswith(b"/"):
        names.append(b".")
    return names[::-1]
