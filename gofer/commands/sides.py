"""The two sides of `gofer diff`: a tree that is served, or one of this machine. Both answer the same questions."""

from __future__ import annotations

import contextlib
import os
import stat
from errno import ENOTDIR

from gofer.client.address import served
from gofer.client.content import Content
from gofer.client.replies import Stat
from gofer.client.transport import Lost
from gofer.commands.attrs import BILLION, FOUND

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Callable

    from gofer.client.address import Address
    from gofer.client.replies import Inode
    from gofer.client.tree import Tree
    from gofer.commands.common import Session

    Read = Callable[[int, int], bytes]


class Item:
    """What is compared, or the directory that it is in. node: at a server; path: here."""

    __slots__ = ("stat", "node", "path")

    def __init__(self, found: Stat, node: Inode | None = None, path: bytes = b"") -> None:
        self.stat = found
        self.node = node
        self.path = path

    @property
    def inode(self) -> Inode:
        assert self.node is not None
        return self.node


class Side:
    """Names are those of entries of `item`; None: item itself is meant."""

    served = False
    shown: bytes

    def root(self) -> Item:
        raise NotImplementedError

    def child(self, item: Item, name: bytes) -> Item:
        """A directory; ENOTDIR where it is none any more."""
        raise NotImplementedError

    def close(self, item: Item) -> None:
        """It is needed no more."""

    def entries(self, item: Item) -> Iterator[tuple[bytes, Stat, OSError | None]]:
        raise NotImplementedError

    def target(self, item: Item, name: bytes | None) -> bytes:
        raise NotImplementedError

    def reading(self, item: Item, name: bytes | None) -> contextlib.AbstractContextManager[Read]:
        """read(offset, count), as of Content."""
        raise NotImplementedError


def side_of(session: Session, word: str) -> Side:
    address = served(word)
    return Served(session.tree(address), address) if address else Local(os.fsencode(word))


class Served(Side):
    served = True

    def __init__(self, tree: Tree, address: Address) -> None:
        self._tree = tree
        self._address = address
        self.shown = address.shown[:-1] if address.shown.endswith(b"/") else address.shown

    def root(self) -> Item:
        node = self._tree.resolve(self._address.path)
        return Item(node.stat, node)

    def child(self, item: Item, name: bytes) -> Item:
        node = self._tree.child(item.inode.fd, name)
        if not stat.S_ISDIR(node.stat.mode):
            self._tree.drop(node.fd)
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        return Item(node.stat, node)

    def close(self, item: Item) -> None:
        self._tree.drop(item.inode.fd)

    def entries(self, item: Item) -> Iterator[tuple[bytes, Stat, OSError | None]]:
        return self._tree.stats(item.inode.fd)

    @contextlib.contextmanager
    def _node(self, item: Item, name: bytes | None) -> Iterator[Inode]:
        node = item.inode if name is None else self._tree.child(item.inode.fd, name)
        try:
            yield node
        finally:
            if name is not None:
                self._tree.drop(node.fd)

    def target(self, item: Item, name: bytes | None) -> bytes:
        with self._node(item, name) as node:
            return self._tree.target(node)

    @contextlib.contextmanager
    def reading(self, item: Item, name: bytes | None) -> Iterator[Read]:
        with self._node(item, name) as node, Content(self._tree, node) as content:
            yield content.read


class Local(Side):
    def __init__(self, path: bytes) -> None:
        self._path = path
        self.shown = path[:-1] if path.endswith(b"/") else path

    def root(self) -> Item:
        return Item(_stat(os.stat(self._path)), None, self._path)

    def child(self, item: Item, name: bytes) -> Item:
        path = os.path.join(item.path, name)
        found = _stat(os.lstat(path))
        if not stat.S_ISDIR(found.mode):
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        return Item(found, None, path)

    def entries(self, item: Item) -> Iterator[tuple[bytes, Stat, OSError | None]]:
        with os.scandir(item.path) as found:
            for entry in found:
                try:
                    yield entry.name, _stat(entry.stat(follow_symlinks=False)), None
                except FileNotFoundError:  # vanished meanwhile
                    pass

    def target(self, item: Item, name: bytes | None) -> bytes:
        return os.readlink(item.path if name is None else os.path.join(item.path, name))

    @contextlib.contextmanager
    def reading(self, item: Item, name: bytes | None) -> Iterator[Read]:
        path = item.path if name is None else os.path.join(item.path, name)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if name is not None else 0))
        try:
            yield lambda offset, count: os.pread(fd, count, offset)
        finally:
            os.close(fd)


class Trouble(Exception):
    """What goes wrong on one of the sides."""

    def __init__(self, side: Side, error: OSError) -> None:
        self.side = side
        self.error = error


@contextlib.contextmanager
def blamed(side: Side) -> Iterator[None]:
    """What goes wrong in the block is that side's Trouble, but for the end of the connection."""
    try:
        yield
    except Lost:
        raise
    except OSError as error:
        raise Trouble(side, error) from None


@contextlib.contextmanager
def both_open(sides: Iterable[tuple[Side, Item]], name: bytes | None) -> Iterator[list[Read]]:
    """The contents of either side."""
    with contextlib.ExitStack() as stack:
        reads = []
        for side, item in sides:
            with blamed(side):
                reads.append(_blaming(side, stack.enter_context(side.reading(item, name))))
        yield reads


def _blaming(side: Side, read: Read) -> Read:
    def call(offset: int, count: int) -> bytes:
        with blamed(side):
            return read(offset, count)

    return call


def _stat(found: os.stat_result) -> Stat:
    times = [divmod(when, BILLION) for when in (found.st_atime_ns, found.st_ctime_ns, found.st_mtime_ns)]
    rdev, dev = ((os.major(number), os.minor(number)) for number in (found.st_rdev, found.st_dev))
    return Stat(
        FOUND, found.st_blksize, 0, found.st_nlink, found.st_uid, found.st_gid, found.st_mode, found.st_ino, found.st_size,
        found.st_blocks, 0, times[0], (0, 0), times[1], times[2], rdev, dev,
    )  # fmt: skip
