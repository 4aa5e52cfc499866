"""A served tree, as commands see it: paths that follow symbolic links, directories of any size, FDs that go in batches.

    with served(parse("/run/gofer.sock:/etc"), timeout=30) as tree:
        node = tree.resolve(b"/etc/localtime")          # an Inode: the FD, and struct statx
        for entry in tree.entries(tree.resolve(b"/etc").fd):
            print(entry.name)

A server follows no symbolic link, so this does: an absolute target starts at the root of the tree, `..` there stays there, and
more than 40 are a loop, as in Linux. The server may be an attacker: what it names is one component of a path, or it is not heard
further (transport.Garbled); how much it says is bounded, or handed on as it comes.

FDs that are no longer needed are dropped: many go in one message, and what is still there goes with the connection.
"""

from __future__ import annotations

import contextlib
import os
import stat
from errno import EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EOPNOTSUPP

from gofer import wire
from gofer.client.reach import reach
from gofer.client.replies import Stat
from gofer.client.transport import Lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from gofer.client.address import Address
    from gofer.client.client import Client
    from gofer.client.remote import SSH
    from gofer.client.replies import Dirent, Inode

MOST_LINKS = 40  # as in Linux
LONGEST_TARGET = 4096  # of a symbolic link: PATH_MAX
_DROPPED = 64  # FDs that wait for one Close message: each is an fd of the server's
_STEPS = 256  # components of one Walk: a server makes an fd of each


@contextlib.contextmanager
def served(address: Address, timeout: float, ssh: SSH | None = None) -> Iterator[Tree]:
    """The tree that the address's server serves. Failure where there is none, or the connection ends meanwhile.

    ssh: how another host is reached. Of that, all is served: from its root, or from where ssh begins where the path is relative.
    """
    if address.remote:
        from gofer.client import remote

        root = "/" if address.path.startswith(b"/") else "."
        with remote.reach(address.server, root, timeout, ssh or remote.SSH()) as client:
            yield Tree(client)
        return
    with reach(address.server, timeout, channel=True) as client:
        yield Tree(client)


class Tree:
    """client: for every message of the protocol; it may be asked in between."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.root = client.root
        self._dropped: list[int] = []
        self._knows_dirstat = True  # until the server says that it does not

    def drop(self, *fds: int) -> None:
        """They are needed no more. Not at once, and not an error where the connection has ended. The root stays."""
        self._dropped += [fd for fd in fds if fd != self.root.fd]
        if len(self._dropped) >= _DROPPED:
            self.flush()

    def flush(self) -> None:
        """Close what has been dropped: for a server's fds, and before what is dropped is to be gone from its host."""
        fds, self._dropped = self._dropped, []
        if fds and not self.client.lost:
            self.client.close_fds(*fds)

    # Paths

    def resolve(self, path: bytes, follow: bool = True) -> Inode:
        """What has that path. follow: also where it is itself a symbolic link; a `/` at its end means that, too."""
        found = _Way(self, path, follow)
        while found.left:
            found.go()
        return found.end()

    def parent(self, path: bytes) -> tuple[Inode, bytes]:
        """The directory that the last component stands in, and that component, as it is to be looked up, made or removed there.

        EINVAL where there is none: the root, `.` and `..` have no name in a directory.
        """
        head, _, name = path.rstrip(b"/").rpartition(b"/")
        if name in (b"", b".", b".."):
            raise OSError(EINVAL, os.strerror(EINVAL))
        directory = self.resolve(head)
        if not stat.S_ISDIR(directory.stat.mode):
            self.drop(directory.fd)
            _fail(ENOTDIR)
        return directory, name

    def child(self, directory: int, name: bytes) -> Inode:
        """What has this one name, and may be a symbolic link."""
        status, inodes = self.walk(directory, [name])
        if not inodes:
            _fail(ENOENT if status == wire.WALK_MISSING else ENOTDIR)
        return inodes[0]

    def walk(self, directory: int, names: list[bytes]) -> tuple[int, list[Inode]]:
        """As Client.walk. Of what a server may say to that, nothing else gets through."""
        status, inodes = self.client.walk(directory, names)
        short = len(inodes) < len(names)
        if len(inodes) > len(names) or short != (status != wire.WALK_SUCCESS):
            raise self.client.give_up("a Walk that has found another number of names than it says")
        return status, inodes

    def target(self, node: Inode) -> bytes:
        """Of a symbolic link."""
        target = self.client.readlinkat(node.fd)
        if len(target) > LONGEST_TARGET or b"\0" in target:
            raise self.client.give_up("the target of a symbolic link that none can have")
        return target

    # Directories

    def some_entries(self, opened: int, count: int) -> list[Dirent]:
        """As Client.getdents64, of what has a name that an entry can have."""
        entries = self.client.getdents64(opened, count)
        self._check([entry.name for entry in entries])
        return entries

    def entries(self, directory: int, at_once: int = 65536) -> Iterator[Dirent]:
        """All that the directory with this control FD holds, as the server hands it over: unsorted, and some at a time.

        at_once: bytes of kernel dirents, of 24 at least.
        """
        with self._listed(directory) as opened:
            while entries := self.some_entries(opened, at_once):
                yield from entries

    def stats(self, directory: int, at_once: int = 65536) -> Iterator[tuple[bytes, Stat, OSError | None]]:
        """As `entries`, with the attributes of each; where they are not to be had, why, and a Stat with nothing but the type."""
        with self._listed(directory) as opened:
            while self._knows_dirstat:
                try:
                    found = self.client.dirstat(opened, at_once)
                except Lost:
                    raise
                except OSError as error:
                    if error.errno != EOPNOTSUPP:
                        raise
                    self._knows_dirstat = False
                    break
                if not found:
                    return
                self._check([name for name, _ in found])
                for name, attributes in found:
                    if attributes.mask:
                        yield name, attributes, None
                    else:
                        yield from self._ask(directory, name, attributes)
            while entries := self.some_entries(opened, at_once):
                for entry in entries:
                    yield from self._ask(directory, entry.name, _untold(entry))

    def _ask(self, directory: int, name: bytes, untold: Stat) -> Iterator[tuple[bytes, Stat, OSError | None]]:
        """The attributes of one; nothing where it has vanished meanwhile."""
        try:
            for attributes in self.client.walkstat(directory, [name])[:1]:
                yield name, attributes, None
        except Lost:
            raise
        except OSError as error:
            yield name, untold, error

    @contextlib.contextmanager
    def _listed(self, directory: int) -> Iterator[int]:
        opened, host = self.client.openat(directory, os.O_RDONLY)
        if host >= 0:
            os.close(host)
        try:
            yield opened
        finally:
            self.drop(opened)

    def _check(self, names: list[bytes]) -> None:
        if not all(map(_can_be, names)):
            raise self.client.give_up("a directory entry with a name that none can have")


class _Way:
    """One path on its way from the root. nodes: where it is, below the root; left: what is still to go, the next one last."""

    def __init__(self, tree: Tree, path: bytes, follow: bool) -> None:
        self._tree = tree
        self._nodes: list[Inode] = []
        self._links = 0
        self._follow = follow
        self.left = _components(path)

    def go(self) -> None:
        """Some components further."""
        names: list[bytes] = []
        while self.left and len(names) < _STEPS and self.left[-1] not in (b".", b".."):
            names.append(self.left.pop())
        if names:
            self._walk(names)
        elif not stat.S_ISDIR(self._here().stat.mode):
            self._fail(ENOTDIR)
        elif self.left.pop() == b".." and self._nodes:
            self._tree.drop(self._nodes.pop().fd)

    def end(self) -> Inode:
        here = self._here()
        self._tree.drop(*(node.fd for node in self._nodes[:-1]))
        return here

    def _here(self) -> Inode:
        return self._nodes[-1] if self._nodes else self._tree.root

    def _walk(self, names: list[bytes]) -> None:
        try:
            status, inodes = self._tree.walk(self._here().fd, names)
        except OSError:
            self._tree.drop(*(node.fd for node in self._nodes))
            raise
        self._nodes += inodes
        if status == wire.WALK_MISSING:
            self._fail(ENOENT)
        self.left += reversed(names[len(inodes) :])
        if inodes and stat.S_ISLNK(inodes[-1].stat.mode):
            if self.left or self._follow:
                self._enter_link()
        elif status == wire.WALK_SYMLINK:
            raise self._tree.client.give_up("a Walk that stops at a symbolic link where there is none")

    def _enter_link(self) -> None:
        link = self._nodes.pop()
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
            self._nodes = []
        self.left += _components(target)
        if len(self.left) > 2 * LONGEST_TARGET:
            self._fail(ENAMETOOLONG)

    def _fail(self, code: int) -> NoReturn:
        self._tree.drop(*(node.fd for node in self._nodes))
        _fail(code)


def _components(path: bytes) -> list[bytes]:
    """From the last to the first. A `/` at the end is a `.`: what is before it is a directory, or a link to one."""
    names = [name for name in path.split(b"/") if name]
    if names and path.endswith(b"/"):
        names.append(b".")
    return names[::-1]


def _can_be(name: bytes) -> bool:
    return 0 < len(name) < 256 and b"/" not in name and b"\0" not in name and name not in (b".", b"..")


def _untold(entry: Dirent) -> Stat:
    """With the type, as the directory tells it."""
    none = (0, 0)
    return Stat(0, 0, 0, 0, 0, 0, entry.type << 12, entry.ino, 0, 0, 0, none, none, none, none, none, none)


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))
