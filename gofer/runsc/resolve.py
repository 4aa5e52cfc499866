"""Following a path inside a root, without ever leaving it and without resolving anything twice.

Every component is opened by itself, relative to the one before, and not followed; a symlink is read through its own
fd. Whoever renames things meanwhile can change where the path ends, but not lead it out of the root.
"""

from __future__ import annotations

import os
import stat
from errno import ELOOP

from gofer.runsc.spec import clean

MAX_LINKS = 255

NODE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def resolve(root: int, path: str) -> Place:
    """Follow path from root (an O_PATH fd) as if root were "/": symlinks inside it, `..` stops there, 255 links at most.

    As the Go gofer does: what is missing is taken literally, and path and link targets are cleaned (path.Clean)
    before they are followed. OSError; the caller closes the Place.
    """
    place = Place(root)
    todo = clean(path).encode().split(b"/")[::-1]
    links = 0
    try:
        while todo:
            name = todo.pop()
            if name == b"..":
                place.up()
            elif name and name != b".":
                target = place.down(name)
                if target is None:
                    continue
                links += 1
                if links > MAX_LINKS:
                    raise OSError(ELOOP, os.strerror(ELOOP))
                if target.startswith(b"/"):
                    place.close()
                    place.names.clear()
                todo.extend(os.path.normpath(target).split(b"/")[::-1])
    except BaseException:
        place.close()
        raise
    return place


class Place:
    """Where a path ended inside a root: the names from the root down, free of symlinks, and an fd for each that exists."""

    def __init__(self, root: int) -> None:
        self.names: list[bytes] = []
        self._root = root
        self._fds: list[int] = []  # one per existing name; shorter than names where some are missing

    @property
    def path(self) -> str:
        return "/" + b"/".join(self.names).decode("utf-8", "replace")

    @property
    def fd(self) -> int | None:
        """An O_PATH fd on it, None if it does not exist. The Place owns it."""
        if len(self._fds) < len(self.names):
            return None
        return self._fds[-1] if self._fds else self._root

    def parent(self) -> int:
        """The directory that holds the last name (which exists); of the root, the root."""
        return self._fds[-2] if len(self._fds) > 1 else self._root

    def up(self) -> None:
        if self.names:
            self.names.pop()
            if len(self._fds) > len(self.names):
                os.close(self._fds.pop())

    def down(self, name: bytes) -> bytes | None:
        """One component further; returns the target if it is a symlink (and stays where it was)."""
        here = self.fd
        if here is not None:
            try:
                fd = os.open(name, NODE, dir_fd=here)
            except FileNotFoundError:
                pass
            else:
                if stat.S_ISLNK(os.fstat(fd).st_mode):
                    target = os.readlink(b"", dir_fd=fd)
                    os.close(fd)
                    return target
                self._fds.append(fd)
        self.names.append(name)
        return None

    def make(self, directory: bool, mode: int = 0o777) -> int:
        """Create what is missing, directories up to the last name and there a directory or an empty file; returns its fd."""
        here = self._fds[-1] if self._fds else self._root
        for name in self.names[len(self._fds) :]:
            last = len(self._fds) == len(self.names) - 1
            try:
                if directory or not last:
                    os.mkdir(name, mode, dir_fd=here)
                else:
                    create = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                    os.close(os.open(name, create, mode, dir_fd=here))
            except FileExistsError:
                pass
            here = os.open(name, NODE | (os.O_DIRECTORY if directory or not last else 0), dir_fd=here)
            self._fds.append(here)
        return here

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
