"""A server's side of a copy: directories and nodes are control FDs, many at a time, closed when nobody refers to them."""

from __future__ import annotations

import os
import stat as modes
from errno import EIO, ELOOP, ENODATA, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM

from gofer import sys, wire
from gofer.client.replies import Inode, stat_of
from gofer.client.transport import Lost, close_all
from gofer.copy.data import PIECE, SHORT
from gofer.copy.files import FD, RemoteFile, payload_of
from gofer.copy.messages import (
    everything,
    listing,
    name_of,
    named,
    names_in,
    none_kept,
    reading,
    set_all,
    setting,
    troubles_of,
    unwritten,
    walks,
)
from gofer.copy.settle import ACLS
from gofer.copy.sides import SET_ID, SMALL, Node
from gofer.copy.together import Together
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Callable

    from gofer.client.client import Client
    from gofer.client.replies import Stat
    from gofer.copy.posts import Batch, Outcome
    from gofer.copy.sides import Found, Listed, Xattrs

_OVERHEAD = 64  # at most, of a message beside its data
_MOST_NAMES = 1 << 26  # in one directory
_AT_ONCE = 65536  # bytes of kernel dirents
_inode = wire.Inode.read


class RemoteTree(Together):
    """See sides.Tree; a Directory is an FD. root: that of what is served."""

    lazy = False

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.here = not client.carrier
        self.disks: dict[int, bool] = {}  # by device: whether what a donated fd is on is one, see files.py
        self.root = Node(b"/", client.root.stat, FD(client.root.fd, []))
        self.piece = min(PIECE, client.max_message_size - _OVERHEAD)
        self._xattrs = wire.FLISTXATTR in client.supported
        self._shows: bool | None = None
        self._inherits: dict[int, bool] = {}

    def identity(self, directory: FD) -> tuple[int, tuple[int, int]]:
        stat = self.beside.fstat(directory.key)
        return stat.ino, stat.dev

    def look(self, directory: FD, names: Sequence[bytes]) -> list[Found]:
        return [self._found(name, outcome) for name, outcome in zip(names, self.ask(walks(directory, names)))]

    def looking(self, directory: FD, names: Sequence[bytes], contents: bool = False) -> Callable[[], list[Found]]:
        if contents and self._knows:
            return self._posted_read(directory, names)
        posted = self._post(walks(directory, names))
        return lambda: [self._found(name, outcome) for name, outcome in zip(names, posted())]

    def _found(self, name: bytes, outcome: Outcome) -> Found:
        if isinstance(outcome, OSError):
            return outcome
        payload, fds = outcome
        close_all(fds)
        _, count = wire.WalkResp.read(payload)
        if not count:
            return None
        fd, raw = _inode(payload, wire.WalkResp.size)
        return Node(name, stat_of(raw), FD(fd, self.trash))

    def names(self, directory: FD) -> Iterator[bytes]:
        """Of which each may be no name at all: see names.possible."""
        if not self._knows_dirwalk:
            return self._listing(directory, None)
        request = wire.DirWalkReq.bytes(directory.key, _AT_ONCE, 0) + name_of(b"")
        return self._listing(directory, self._post([(wire.DIRWALK, request)]))

    def _listing(self, directory: FD, posted: Batch | None) -> Iterator[bytes]:
        outcome = posted()[0] if posted else None
        listing, count = None, 0
        if isinstance(outcome, OSError):  # the messages that it stands for tell why
            self._knows_dirwalk = outcome.errno != EOPNOTSUPP
        elif outcome:
            payload = payload_of(outcome)
            _, opened, _, number, _ = wire.DirWalkResp.read(payload)
            names = payload[wire.DirWalkResp.size + number :].split(b"\0")
            if len(names) != number + 1 or names.pop():
                raise self._client.give_up("a DirWalk with another number of names than it says")
            yield from names
            if not opened:
                return
            listing = FD(opened, self.trash)
        if listing is None:
            (answer,) = self.ask([(wire.OPENAT, wire.OpenAtReq.bytes(directory.key, os.O_RDONLY))])
            listing = FD(wire.OpenAtResp.unpack(payload_of(answer))[0], self.trash)
        request = wire.Getdents64Req.bytes(listing.key, _AT_ONCE)
        while True:
            for outcome in self.ask([(wire.GETDENTS64, request)] * 2):  # most directories end with the second
                names = names_in(payload_of(outcome))
                yield from names
                count += len(names)
                if not names:
                    return
                if count > _MOST_NAMES:
                    raise OSError(EIO, "a directory without an end")

    def enter(self, directory: FD, node: Node) -> FD:
        found: FD = node.key
        if not modes.S_ISDIR(node.stat.mode):
            raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        return found

    def resolve(self, directory: FD, path: Sequence[bytes]) -> Node:
        status, inodes = self.client.walk(directory.key, path)
        owned = [FD(inode.fd, self.trash) for inode in inodes]
        if status == wire.WALK_MISSING:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
        if len(inodes) != len(path):
            raise OSError(ELOOP, os.strerror(ELOOP))
        return Node(path[-1], inodes[-1].stat, owned[-1])

    def target(self, directory: FD, node: Node) -> bytes:
        return self.client.readlinkat(node.key.key)

    def listed(self, directory: FD, nodes: Sequence[Node]) -> list[Listed]:
        """As `listing`; None where the server does not tell."""
        if not nodes or not self._tells(nodes[0]):
            return [None] * len(nodes)
        return [
            self._values(node, outcome)
            for node, outcome in zip(nodes, self.ask([listing(node) for node in nodes]))
        ]

    def _tells(self, node: Node) -> bool:
        """Whether it shows those of users: one that hides them says that there are none."""
        if self._shows is None:
            self._shows = self._xattrs
            try:
                if self._shows:
                    self.client.fgetxattr(node.key.key, b"user.gofer")
            except Lost:
                raise
            except OSError as error:
                self._shows = error.errno == ENODATA
        return self._shows

    def _values(self, node: Node, outcome: Outcome) -> Listed:
        try:
            names = wire.take_strs(payload_of(outcome), 0)
            return {name: self.client.fgetxattr(node.key.key, name) for name in names if named(name)}
        except Lost:
            raise
        except OSError as error:
            return None if error.errno == EOPNOTSUPP else error

    def open(self, directory: FD, nodes: Sequence[Node]) -> Callable[[], list[RemoteFile | OSError]]:
        known = self._keyed(directory, nodes)
        calls = [
            (wire.OPENAT, wire.OpenAtReq.bytes(node.key.key, os.O_RDONLY))
            for node in known
            if not isinstance(node, OSError)
        ]
        posted = self._post(calls, donating=True)

        def opened() -> list[RemoteFile | OSError]:
            outcomes = iter(posted())
            return [node if isinstance(node, OSError) else self._opened(node, next(outcomes), False) for node in known]

        return opened

    def _keyed(self, directory: FD, nodes: Sequence[Node]) -> list[Node | OSError]:
        """What has come with its contents has no FD yet."""
        without = [node.name for node in nodes if node.key is None]
        found = iter(self.look(directory, without) if without else ())
        known = [next(found) if node.key is None else node for node in nodes]
        return [node or FileNotFoundError(ENOENT, os.strerror(ENOENT)) for node in known]

    def _opened(self, node: Node, outcome: Outcome, writing: bool) -> RemoteFile | OSError:
        if isinstance(outcome, OSError):
            return outcome
        payload, fds = outcome
        return RemoteFile(self, wire.OpenAtResp.unpack(payload)[0], fds, node, writing)

    # Making

    def create(self, directory: FD, names: Sequence[bytes]) -> Callable[[], list[RemoteFile | OSError]]:
        inheriting = bool(names) and self._inheriting(directory)
        request = wire.OpenCreateAtReq.bytes(directory.key, NO_ID, NO_ID, 0o600, os.O_RDWR)
        calls = [(wire.OPENCREATEAT, request + name_of(name)) for name in names]
        posted = self._post(calls, donating=True)

        def made() -> list[RemoteFile | OSError]:
            files = [self._created(name, outcome) for name, outcome in zip(names, posted())]
            for file in files if inheriting else ():
                if not isinstance(file, OSError):
                    self._disinherit(file.node.key.key)
            return files

        return made

    def _created(self, name: bytes, outcome: Outcome) -> RemoteFile | OSError:
        if isinstance(outcome, OSError):
            return outcome
        payload, fds = outcome
        control, raw, opened = wire.OpenCreateAtResp.unpack(payload)
        return RemoteFile(self, opened, fds, Node(name, stat_of(raw), FD(control, self.trash)), True)

    def reopen(self, directory: FD, name: bytes) -> RemoteFile:
        node = self.resolve(directory, [name])
        if not modes.S_ISREG(node.stat.mode) or node.stat.nlink != 1 or node.stat.mode & 0o077:
            raise OSError(EPERM, "not what an interrupted copy leaves")
        opened = self._opened(
            node, self.client.exchange(wire.OPENAT, wire.OpenAtReq.bytes(node.key.key, os.O_RDWR)), True
        )
        if isinstance(opened, OSError):
            raise opened
        return opened

    def mkdir(self, directory: FD, name: bytes) -> FD:
        node = self._node(name, self.beside.mkdirat(directory.key, name, 0o700))
        made: FD = node.key
        made.device = node.stat.dev
        if self._inheriting(directory):
            self._disinherit(made.key)
        return made

    def _disinherit(self, fd: int) -> None:
        for acl in ACLS:
            try:
                self.client.fremovexattr(fd, acl.encode())
            except Lost:
                raise
            except OSError:  # it has none
                pass

    def _inheriting(self, directory: FD) -> bool:
        """Whether what is made in it gets an ACL by that."""
        if directory.key not in self._inherits:
            self._inherits.clear()  # of the last one only: FDs' numbers come again
            self._inherits[directory.key] = self._xattrs and b"system.posix_acl_default" in self._listed(directory.key)
        return self._inherits[directory.key]

    def _listed(self, fd: int) -> list[bytes]:
        try:
            return self.client.flistxattr(fd)
        except Lost:
            raise
        except OSError:
            return []

    def symlink(self, directory: FD, name: bytes, target: bytes) -> Node:
        return self._node(name, self.client.symlinkat(directory.key, name, target))

    def mknod(self, directory: FD, name: bytes, mode: int) -> Node:
        return self._node(name, self.client.mknodat(directory.key, name, modes.S_IFMT(mode) | 0o600))

    def link(self, root: FD, path: Sequence[bytes], directory: FD, name: bytes) -> None:
        self._node(name, self.client.linkat(directory.key, self.resolve(root, path).key.key, name))

    def _node(self, name: bytes, inode: Inode) -> Node:
        return Node(name, inode.stat, FD(inode.fd, self.trash))

    # Contents of small files

    def reading(self, files: Sequence[RemoteFile]) -> Callable[[], list[bytes | OSError | None]]:
        chosen = [file.host < 0 and file.size <= SMALL and not file.sparse for file in files]
        posted = self._post([reading(file) for file, one in zip(files, chosen) if one])

        def read() -> list[bytes | OSError | None]:
            outcomes = iter(posted())
            return [self._read(file, next(outcomes)) if one else None for file, one in zip(files, chosen)]

        return read

    def _read(self, file: RemoteFile, outcome: Outcome) -> bytes | OSError | None:
        if isinstance(outcome, OSError):
            return outcome
        payload = payload_of(outcome)
        size, data = wire.PReadResp.read(payload)[0], payload[wire.PReadResp.size :]
        if size != len(data) or size > (file.size or SMALL):
            raise self._client.give_up("a PRead with more data than was asked for, or less than it says")
        if data and not file.size:
            return None  # size 0, and something in it
        return data if size == file.size else OSError(EIO, SHORT)

    def listing(self, directory: FD, files: Sequence[tuple[Node, RemoteFile | None]]) -> Callable[[], list[Xattrs | OSError]]:
        """An fd tells that there are none, as nearly always; else the server tells what it shows."""
        asked = [self._xattrs and not (file and file.host >= 0 and none_kept(file.host)) for _, file in files]
        nodes = [file.node if file else node for node, file in files]
        posted = self._post([listing(node) for node, one in zip(nodes, asked) if one])

        def listed() -> list[Xattrs | OSError]:
            outcomes = iter(posted())
            return [self._values(node, next(outcomes)) or {} if one else {} for node, one in zip(nodes, asked)]

        return listed

    def writing(self, items: Sequence[tuple[RemoteFile, bytes]]) -> Callable[[], list[OSError | None]]:
        calls = [(wire.PWRITE, wire.PWriteReq.bytes(0, file.key, len(data)) + data) for file, data in items if data]
        posted = self._post(calls)

        def written() -> list[OSError | None]:
            outcomes = iter(posted())
            return [unwritten(next(outcomes), len(data)) if data else None for _, data in items]

        return written

    # Attributes

    def settle(self, items: Sequence[tuple[RemoteFile, Stat, Xattrs]]) -> Callable[[], list[list[OSError]]]:
        """Most need one message each; what has xattrs, or set-id bits, is done step by step."""
        plain = [not xattrs and not stat.mode & SET_ID for _, stat, xattrs in items]
        chosen = [(file, stat) for (file, stat, _), one in zip(items, plain) if one]
        calls = [(wire.SETSTAT, setting(file.node.key.key, stat, everything(stat))) for file, stat in chosen]
        posted = self._post(calls)

        def settled() -> list[list[OSError]]:
            answers = iter(posted())
            return [
                troubles_of(next(answers)) if one else set_all(self.client, file.node.key.key, file.node.stat, stat, xattrs)
                for (file, stat, xattrs), one in zip(items, plain)
            ]

        return settled

    def settle_node(
        self, directory: FD, node: Node, stat: Stat, xattrs: Xattrs | None, gone: Sequence[bytes] = ()
    ) -> list[OSError]:
        for name in gone:
            self.client.fremovexattr(node.key.key, name)
        return set_all(self.client, node.key.key, node.stat, stat, xattrs)

    def settle_directory(self, directory: FD, stat: Stat, xattrs: Xattrs) -> list[OSError]:
        return set_all(self.beside, directory.key, self.beside.fstat(directory.key), stat, xattrs)

    def remove(self, directory: FD, name: bytes, is_directory: bool) -> None:
        self.client.unlinkat(directory.key, name, sys.AT_REMOVEDIR if is_directory else 0)


