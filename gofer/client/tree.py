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
from errno import EFBIG, EINVAL, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM

from gofer import wire
from gofer.client.reach import reach
from gofer.client.replies import DirWalk as Part
from gofer.client.replies import Stat, names_and_types_of
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
LEAST = 280  # bytes of kernel dirents that a DirWalk is asked for: room for the longest name
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
        self._knows_dirstat = self._knows_dirwalk = True  # until the server says that it does not

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
            raise OSError(EINVAL, "the root of what is served, `.` and `..` are no names that something can get or give up")
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
        try:
            status, inodes = self.client.walk(directory, names)
        except OSError as error:
            raise _explained(error) from None
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

    def enter(self, directory: int, name: bytes, at_once: int = 65536, stats: bool = False) -> Part:
        """`child` of what should be a directory, with a first part of what is in it, where this server can tell both at once.

        For what lists it further. `opened` is then one more FD to drop, where it is above 0; below: nothing has come yet.
        """
        return self._begin(directory, name, at_once, stats) or Part(self.child(directory, name), -1, [], b"", [])

    def kinds(self, directory: int, at_once: int = 65536, first: Part | None = None) -> Iterator[tuple[bytes, int]]:
        """As `entries`: the name and the S_IFMT bits of each, and for a fraction of the price."""
        for names, kinds in self.kind_parts(directory, at_once, first):
            yield from zip(names, kinds)

    def kind_parts(
        self, directory: int, at_once: int = 65536, first: Part | None = None
    ) -> Iterator[tuple[list[bytes], list[int]]]:
        """The same by messages: names, and their types. first: what has come with the directory."""
        if first and not first.opened:  # most directories: that is all
            if first.names:
                yield first.names, self._types(directory, first.names, first.types)
            return
        with self._parts(directory, at_once, first, False) as (part, opened):
            if part and part.names:
                yield part.names, self._types(directory, part.names, part.types)
            if not opened:
                return
            request = wire.Getdents64Req.bytes(opened, at_once)
            while found := names_and_types_of(self.client.ask(wire.GETDENTS64, request)):
                names, types = found
                self._check(names)
                yield names, self._types(directory, names, types)

    def _types(self, directory: int, names: list[bytes], types: bytes) -> list[int]:
        kinds = [kind << 12 for kind in types]
        if 0 in types:  # some file systems do not tell
            kinds = [kind or self._kind(directory, name) for name, kind in zip(names, kinds)]
        return kinds

    def sorted(self, directory: int, first: Part | None = None) -> list[tuple[bytes, int]]:
        """What `kinds` tells, by name. EFBIG where there are more than anybody can want to hold."""
        found = []
        for entry in self.kinds(directory, first=first):
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

    def stats(
        self, directory: int, at_once: int = 65536, first: Part | None = None
    ) -> Iterator[tuple[bytes, Stat, OSError | None]]:
        """As `entries`, with the attributes of each; where they are not to be had, why, and a Stat with nothing but the type."""
        for names, stats in self.stat_parts(directory, at_once, first):
            for name, attributes in zip(names, stats):
                if attributes.mask:
                    yield name, attributes, None
                else:
                    yield from self.ask(directory, name, attributes)

    def stat_parts(
        self, directory: int, at_once: int = 65536, first: Part | None = None
    ) -> Iterator[tuple[list[bytes], list[Stat]]]:
        """The same by messages. Where a Stat has a mask of 0, it has nothing but the type: `ask` for it."""
        if first and not first.opened:
            if first.names:
                yield first.names, first.stats
            return
        with self._parts(directory, at_once, first, True) as (part, opened):
            if part and part.names:
                yield part.names, part.stats
            while opened and self._knows_dirstat:
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
                names = [name for name, _ in found]
                self._check(names)
                yield names, [attributes for _, attributes in found]
            while opened and (entries := self.some_entries(opened, at_once)):
                yield [entry.name for entry in entries], [_untold(entry) for entry in entries]

    @contextlib.contextmanager
    def _parts(self, directory: int, at_once: int, first: Part | None, stats: bool) -> Iterator[tuple[Part | None, int]]:
        """What has come already, and the open FD where there is more to come; 0: there is not."""
        if first and first.opened >= 0:
            yield first, first.opened
            return
        begun = None if first else self._begin(directory, b"", at_once, stats)
        if not begun:
            with self._listed(directory) as opened:
                yield None, opened
            return
        try:
            yield begun, begun.opened
        finally:
            if begun.opened:
                self.drop(begun.opened)

    def _begin(self, directory: int, name: bytes, at_once: int, stats: bool) -> Part | None:
        """None where the server has no such message, or it has failed: then the messages that it stands for tell why."""
        if not self._knows_dirwalk:
            return None
        try:
            found = self.client.dirwalk(directory, name, max(at_once, LEAST), stats)
        except Lost:
            raise
        except OSError as error:
            self._knows_dirwalk = error.errno != EOPNOTSUPP
            return None
        self._check(found.names)
        return found

    def ask(self, directory: int, name: bytes, untold: Stat) -> Iterator[tuple[bytes, Stat, OSError | None]]:
        """The attributes of one; nothing where it has vanished meanwhile."""
        try:
            for attributes in self.client.walkstat(directory, [name])[:1]:
                yield name, attributes, None
        except Lost:
            raise
        except OSError as error:
            yield name, untold, _explained(error)

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


def _untold(entry: Dirent) -> Stat:
    """With the type, as the directory tells it."""
    none = (0, 0)
    return Stat(0, 0, 0, 0, 0, 0, entry.type << 12, entry.ino, 0, 0, 0, none, none, none, none, none, none)


def _explained(error: OSError) -> OSError:
    """An error of a look, with what EPERM means there."""
    if isinstance(error, Lost) or error.errno != EPERM:
        return error
    why = "block devices are never served, and what the kernel makes up only with --kernel-files"
    return OSError(EPERM, f"{error.strerror}; {why}")


def _fail(code: int) -> NoReturn:
    raise OSError(code, os.strerror(code))
