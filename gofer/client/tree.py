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
import struct
from errno import EFBIG, EINVAL, ENOENT, ENOTDIR, EOPNOTSUPP

from gofer import wire
from gofer.client.reach import reach
from gofer.client.replies import Stat
from gofer.client.transport import Lost
from gofer.client.way import LONGEST_TARGET, Way

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

    from gofer.client.address import Address
    from gofer.client.client import Client
    from gofer.client.remote import SSH
    from gofer.client.replies import Dirent, Inode

MOST = 1 << 22  # entries of a directory that are sorted: a hostile server's has no end
_NO_NAMES = frozenset((b"", b".", b".."))
_TYPE_AND_LENGTH = struct.Struct("<24xBH")  # of a Dirent
_DROPPED = 64  # FDs that wait for one Close message: each is an fd of the server's


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
        return Way(self, path, follow).end()

    def canonical(self, path: bytes, missing: int = 1) -> bytes:
        """The path without symbolic links, `.` and `..`. missing: how many at its end need not exist; -1: none need."""
        way = Way(self, path, True, missing)
        self.drop(way.end().fd)
        return b"/" + b"/".join(way.names)

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
                for entry in entries:
                    yield entry if entry.type else self._typed(directory, entry)

    def kinds(self, directory: int, at_once: int = 65536) -> Iterator[tuple[bytes, int]]:
        """As `entries`: the name and the S_IFMT bits of each, and for a third of the price."""
        with self._listed(directory) as opened:
            request = wire.Getdents64Req.bytes(opened, at_once)
            while found := _names_and_types(self.client.ask(wire.GETDENTS64, request)):
                self._check([name for name, _ in found])
                for name, kind in found:
                    yield name, kind << 12 or self._kind(directory, name)

    def sorted(self, directory: int) -> list[tuple[bytes, int]]:
        """What `kinds` tells, by name. EFBIG where there are more than anybody can want to hold."""
        found = []
        for entry in self.kinds(directory):
            found.append(entry)
            if len(found) > MOST:
                raise OSError(EFBIG, f"more than {MOST} entries, which are not sorted")
        found.sort()
        return found

    def _typed(self, directory: int, entry: Dirent) -> Dirent:
        """With its type, which some file systems do not tell in the directory; as it is where it cannot be looked at."""
        return entry._replace(type=self._kind(directory, entry.name) >> 12)

    def _kind(self, directory: int, name: bytes) -> int:
        """0 where it cannot be looked at."""
        try:
            return next((stat.S_IFMT(found.mode) for found in self.client.walkstat(directory, [name])), 0)
        except Lost:
            raise
        except OSError:
            return 0

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
        if not _can_be(names):
            raise self.client.give_up("a directory entry with a name that none can have")


def _can_be(names: list[bytes]) -> bool:
    """Whether each can be the name of an entry. All at once, as a name at a time costs as much as the rest of it."""
    together = b"\0".join(names)
    right = b"/" not in together and together.count(b"\0") == len(names) - 1 and _NO_NAMES.isdisjoint(names)
    return not names or right and max(map(len, names)) < 256


def _names_and_types(payload: bytes) -> list[tuple[bytes, int]]:
    """Of the answer to a Getdents64, what nearly all want of it."""
    (count,) = wire.Count.read(payload)
    found, at, head, read = [], wire.Count.size, wire.Dirent.size, _TYPE_AND_LENGTH.unpack_from
    for _ in range(count):
        kind, size = read(payload, at)
        at += head
        found.append((payload[at : at + size], kind))
        at += size
    return found


def _untold(entry: Dirent) -> Stat:
    """With the type, as the directory tells it."""
    none = (0, 0)
    return Stat(0, 0, 0, 0, 0, 0, entry.type << 12, entry.ino, 0, 0, 0, none, none, none, none, none, none)


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))
