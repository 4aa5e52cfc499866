"""A server's side of a copy: directories and nodes are control FDs, many at a time, closed when nobody refers to them."""

from __future__ import annotations

import os
import stat as modes
import struct
from errno import EINVAL, EIO, ELOOP, ENODATA, ENOENT, ENOTDIR, EOPNOTSUPP, EPERM

from gofer import sys, wire
from gofer.client.ahead import many
from gofer.client.replies import Inode, stat_of
from gofer.client.transport import Lost, close_all
from gofer.copy.data import PIECE
from gofer.copy.files import FD, RemoteFile, payload_of
from gofer.copy.local import ACLS, FEW, kept, sync_systems
from gofer.copy.names import possible
from gofer.copy.sides import SET_ID, Node
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gofer.client.client import Client
    from gofer.client.replies import Stat
    from gofer.copy.sides import Found, Listed, Xattrs

_OWNER = sys.STATX_UID | sys.STATX_GID
_NOT_OURS = (EPERM, EINVAL)  # what an owner is that one may not set; EINVAL: none of this user namespace
_TIMES = sys.STATX_ATIME | sys.STATX_MTIME
_OVERHEAD = 64  # at most, of a message beside its data
_MOST_NAMES = 1 << 26  # in one directory
_inode = wire.Inode.read


class RemoteTree:
    """See sides.Tree; a Directory is an FD. root: that of what is served."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.trash: list[int] = []
        self.disks: dict[int, bool] = {}  # by device: whether what a donated fd is on is one, see files.py
        self.root = Node(b"/", client.root.stat, FD(client.root.fd, []))
        self.piece = min(PIECE, client.max_message_size - _OVERHEAD)
        self._xattrs = wire.FLISTXATTR in client.supported
        self._shows: bool | None = None
        self._inherits: dict[int, bool] = {}

    def ask(self, calls: Sequence[tuple[int, bytes]]) -> list[tuple[bytes, list[int]] | OSError]:
        """All at once; FDs that nobody has use for any more are closed before."""
        if len(self.trash) < 32:
            return list(many(self.client, calls))
        closing, self.trash[:] = self.trash[:], []
        request = struct.pack(f"<H{len(closing)}Q", len(closing), *closing)
        return list(many(self.client, [(wire.CLOSE, request), *calls]))[1:]

    def look(self, directory: FD, names: Sequence[bytes]) -> list[Found]:
        head = wire.FDID.bytes(directory.key)
        calls = [(wire.WALK, head + _names(name)) for name in names]
        return [self._found(name, outcome) for name, outcome in zip(names, self.ask(calls))]

    def _found(self, name: bytes, outcome: tuple[bytes, list[int]] | OSError) -> Found:
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
        opened, host = self.client.openat(directory.key, os.O_RDONLY)
        if host >= 0:
            os.close(host)
        listing, count = FD(opened, self.trash), 0
        while entries := self.client.getdents64(listing.key, 65536):
            for entry in entries:
                yield entry.name
            count += len(entries)
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

    def xattrs(self, directory: FD, node: Node, file: RemoteFile | None = None) -> Xattrs:
        """Those that a copy keeps: an fd tells that there are none, as nearly always; else the server tells what it shows."""
        if not self._xattrs:
            return {}
        try:
            if file and file.host >= 0 and not any(kept(os.fsencode(name)) for name in os.listxattr(file.host)):
                return {}
            names = self.client.flistxattr(node.key.key)
            return {name: self.client.fgetxattr(node.key.key, name) for name in names if _named(name)}
        except OSError as error:
            if error.errno == EOPNOTSUPP:
                return {}
            raise

    def listed(self, directory: FD, nodes: Sequence[Node]) -> list[Listed]:
        """As `xattrs` of many; None where the server does not tell."""
        if not nodes or not self._tells(nodes[0]):
            return [None] * len(nodes)
        return [
            self._values(node, outcome)
            for node, outcome in zip(
                nodes, self.ask([(wire.FLISTXATTR, wire.FListXattrReq.bytes(node.key.key, 0)) for node in nodes])
            )
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

    def _values(self, node: Node, outcome: tuple[bytes, list[int]] | OSError) -> Listed:
        try:
            names = wire.take_strs(payload_of(outcome), 0)
            return {name: self.client.fgetxattr(node.key.key, name) for name in names if _named(name)}
        except Lost:
            raise
        except OSError as error:
            return None if error.errno == EOPNOTSUPP else error

    def open(self, directory: FD, nodes: Sequence[Node]) -> list[RemoteFile | OSError]:
        calls = [(wire.OPENAT, wire.OpenAtReq.bytes(node.key.key, os.O_RDONLY)) for node in nodes]
        return [self._opened(node, outcome, False) for node, outcome in zip(nodes, self.ask(calls))]

    def _opened(self, node: Node, outcome: tuple[bytes, list[int]] | OSError, writing: bool) -> RemoteFile | OSError:
        if isinstance(outcome, OSError):
            return outcome
        payload, fds = outcome
        return RemoteFile(self, wire.OpenAtResp.unpack(payload)[0], fds, node, writing)

    # Making

    def create(self, directory: FD, names: Sequence[bytes]) -> list[RemoteFile | OSError]:
        request = wire.OpenCreateAtReq.bytes(directory.key, NO_ID, NO_ID, 0o600, os.O_RDWR)
        calls = [(wire.OPENCREATEAT, request + _name(name)) for name in names]
        made = [self._created(name, outcome) for name, outcome in zip(names, self.ask(calls))]
        if names and self._inheriting(directory):
            for file in made:
                if not isinstance(file, OSError):
                    self._disinherit(file.node.key.key)
        return made

    def _created(self, name: bytes, outcome: tuple[bytes, list[int]] | OSError) -> RemoteFile | OSError:
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
        made: FD = self._node(name, self.client.mkdirat(directory.key, name, 0o700)).key
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

    # Attributes

    def settle(self, items: Sequence[tuple[RemoteFile, Stat, Xattrs]]) -> list[list[OSError]]:
        """Most need one message each; what has xattrs, or set-id bits, is done step by step."""
        plain = [not xattrs and not stat.mode & SET_ID for _, stat, xattrs in items]
        chosen = [(file, stat) for (file, stat, _), one in zip(items, plain) if one]
        calls = [(wire.SETSTAT, _setting(file.node.key.key, stat, _all(stat))) for file, stat in chosen]
        answers = iter(self.ask(calls))
        return [
            _troubles(next(answers)) if one else self._settle(file.node.key.key, file.node.stat, stat, xattrs)
            for (file, stat, xattrs), one in zip(items, plain)
        ]

    def settle_node(
        self, directory: FD, node: Node, stat: Stat, xattrs: Xattrs | None, gone: Sequence[bytes] = ()
    ) -> list[OSError]:
        for name in gone:
            self.client.fremovexattr(node.key.key, name)
        return self._settle(node.key.key, node.stat, stat, xattrs)

    def settle_directory(self, directory: FD, stat: Stat, xattrs: Xattrs) -> list[OSError]:
        return self._settle(directory.key, self.client.fstat(directory.key), stat, xattrs)

    def _settle(self, fd: int, now: Stat, stat: Stat, xattrs: Xattrs | None) -> list[OSError]:
        """As local._settle: owner, xattrs, mode, times."""
        troubles: list[OSError] = []
        if (now.uid, now.gid) != (stat.uid, stat.gid):
            failed, code = self.client.setstat(fd, _OWNER, uid=stat.uid, gid=stat.gid)
            if failed:
                stat = stat._replace(mode=stat.mode & ~SET_ID)
                troubles += [] if code in _NOT_OURS else [OSError(code, os.strerror(code))]
        for name, value in (xattrs or {}).items():
            try:
                self.client.fsetxattr(fd, name, value)
            except Lost:
                raise
            except OSError as error:
                troubles.append(OSError(error.errno, f"xattr {os.fsdecode(name)}: {error.strerror}"))
        mask = (0 if modes.S_ISLNK(now.mode) else sys.STATX_MODE) | (0 if xattrs is None else _TIMES)
        if mask:
            troubles += _troubles(self.ask([(wire.SETSTAT, _setting(fd, stat, mask))])[0])
        return troubles

    # Names

    def sync(self, files: Sequence[RemoteFile]) -> list[OSError | None]:
        if len(files) > FEW and all(file.host >= 0 for file in files):  # it is on this machine
            return sync_systems([file.host for file in files])
        calls = [(wire.FSYNC, struct.pack("<HQ", 1, file.key)) for file in files]
        return [outcome if isinstance(outcome, OSError) else None for outcome in self.ask(calls)]

    def rename(self, moves: Sequence[tuple[FD, bytes, bytes]]) -> list[OSError | None]:
        calls = [
            (wire.RENAMEAT, wire.RenameAtReq.bytes(directory.key, directory.key) + _name(old) + _name(new))
            for directory, old, new in moves
        ]
        return [outcome if isinstance(outcome, OSError) else None for outcome in self.ask(calls)]

    def remove(self, directory: FD, name: bytes, is_directory: bool) -> None:
        self.client.unlinkat(directory.key, name, sys.AT_REMOVEDIR if is_directory else 0)


def _all(stat: Stat) -> int:
    return sys.STATX_MODE | _OWNER | _TIMES


def _setting(fd: int, stat: Stat, mask: int) -> bytes:
    if (stat.uid, stat.gid) == (NO_ID, NO_ID):
        mask &= ~_OWNER
    mode = stat.mode & 0o7777
    return wire.SetStatReq.bytes(fd, mask, mode, stat.uid, stat.gid, 0, *stat.atime, *stat.mtime)


def _troubles(outcome: tuple[bytes, list[int]] | OSError) -> list[OSError]:
    """What was to be set and is not; an owner may stay another."""
    try:
        failed, code = wire.SetStatResp.unpack(payload_of(outcome))
    except OSError as error:
        return [error]
    if failed & ~_OWNER or failed and code not in _NOT_OURS:
        return [OSError(code, os.strerror(code))]
    return []


def _named(name: bytes) -> bool:
    return kept(name) and possible(name)


def _name(name: bytes) -> bytes:
    return wire.Count.bytes(len(name)) + name


def _names(name: bytes) -> bytes:
    return b"\1\0" + wire.Count.bytes(len(name)) + name
