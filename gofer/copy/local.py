"""This host's side of a copy: directories are fds, opened one below the other without following a link (openat(2), O_NOFOLLOW).

So whoever swaps a directory for a link while the copy runs, or a server that names one thing twice, leads it nowhere else. What
has no fd that could be changed by (a link, a FIFO, a file that stays as it is) is pinned by an O_PATH fd and changed through
its magic link.
"""

from __future__ import annotations

import os
import stat as modes
from errno import EIO, ENOENT, EPERM, ESTALE
from functools import partial
from os import rename

from gofer import sys
from gofer.client.replies import Stat
from gofer.copy.data import ENDLESS, PIECE, UNSIZED, extents
from gofer.copy.settle import ACLS, failure, listed_at, settle, settle_pinned, value, xattrs_at
from gofer.copy.sides import FAR, TOGETHER, Node
from gofer.copy.small import made, read, small

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from typing import Callable

    from gofer.copy.sides import Found, Listed, New, Xattrs

_CLOEXEC = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC
FEW = 8  # files that are synced one by one; of more the file system is, in one call
_libc_syncfs = sys.libc["syncfs"]


class Fd:
    """The owner of one fd, `key`. device: what it is on, -1 where that was not asked for; as: of a directory that we have made,
    owner, group and device of what is made in it.
    """

    __slots__ = ("key", "device", "inside")

    def __init__(self, key: int, device: int = -1) -> None:
        self.key, self.device = key, device
        self.inside: tuple[int, int, int] | None = None

    def __del__(self, close=os.close) -> None:  # type: ignore[no-untyped-def]  # bound early: runs at interpreter exit too
        if self.key >= 0:
            close(self.key)


class LocalFile(Fd):
    """See sides.File."""

    __slots__ = ("host", "size", "sparse")

    def __init__(self, key: int, new: bool = False) -> None:
        super().__init__(key)
        self.host, self.size, self.sparse = key, 0, False
        if new:
            return
        found = os.fstat(key)
        if not modes.S_ISREG(found.st_mode):
            raise OSError(ESTALE, "it was replaced meanwhile")
        self.size = found.st_size
        self.sparse = found.st_blocks * 512 < found.st_size

    def reads(self, start: int, end: int) -> Generator[tuple[int, bytes], None, None]:
        if not self.size:
            yield from self._unsized()
            return
        for begin, stop in extents(self.host, start, end):
            while begin < stop:
                data = os.pread(self.host, min(PIECE, stop - begin), begin)
                if not data:
                    return
                yield begin, data
                begin += len(data)

    def _unsized(self) -> Iterator[tuple[int, bytes]]:
        """What there is, as the kernel's own files have no size."""
        at = 0
        while data := os.pread(self.host, PIECE, at):
            yield at, data
            at += len(data)
            if at > UNSIZED:
                raise OSError(EIO, ENDLESS)
        self.size = at

    def writes(self, pieces: Iterable[tuple[int, bytes]]) -> Generator[int, None, None]:
        for at, data in pieces:
            while data:
                written = os.pwrite(self.host, data, at)
                at, data = at + written, data[written:]
            yield at

    def truncate(self, size: int) -> None:
        os.ftruncate(self.host, size)


class LocalTree:
    """See sides.Tree; a Directory is an Fd."""

    ahead = FAR
    lazy = True
    here = True

    def identity(self, directory: Fd) -> tuple[int, tuple[int, int]]:
        found = os.fstat(directory.key)
        return found.st_ino, (os.major(found.st_dev), os.minor(found.st_dev))

    def look(self, directory: Fd, names: Sequence[bytes]) -> list[Found]:
        return [_look(directory.key, name) for name in names]

    def looking(self, directory: Fd, names: Sequence[bytes], contents: bool = False) -> Callable[[], list[Found]]:
        return partial(_look_into if contents else self.look, directory, names)

    def names(self, directory: Fd) -> Iterator[bytes]:
        own = os.open(".", _DIRECTORY, dir_fd=directory.key)  # with an offset of its own
        try:
            with os.scandir(own) as entries:
                for entry in entries:
                    yield os.fsencode(entry.name)
        finally:
            os.close(own)

    def enter(self, directory: Fd, node: Node) -> Fd:
        return Fd(os.open(node.name, _DIRECTORY, dir_fd=directory.key))

    def resolve(self, directory: Fd, path: Sequence[bytes]) -> Node:
        parent = self._parent(directory, path)
        found = _look(parent.key, path[-1])
        if not isinstance(found, Node):
            raise found or FileNotFoundError(ENOENT, os.strerror(ENOENT))
        return found

    def _parent(self, directory: Fd, path: Sequence[bytes]) -> Fd:
        for name in path[:-1]:
            directory = Fd(os.open(name, _DIRECTORY, dir_fd=directory.key))
        return directory

    def target(self, directory: Fd, node: Node) -> bytes:
        return os.readlink(node.name, dir_fd=directory.key)

    def listing(self, directory: Fd, files: Sequence[tuple[Node, LocalFile | None]]) -> Callable[[], list[Xattrs | OSError]]:
        return lambda: [value(_xattrs, directory.key, node, file) for node, file in files]

    def listed(self, directory: Fd, nodes: Sequence[Node]) -> list[Listed]:
        """As `listing`, of regular files that nothing was opened of; None where the file system has none."""
        return [listed_at(f"/proc/self/fd/{directory.key}/{os.fsdecode(node.name)}") for node in nodes]

    def open(self, directory: Fd, nodes: Sequence[Node]) -> Callable[[], list[LocalFile | OSError]]:
        """O_NONBLOCK: what has become a FIFO meanwhile is not waited for."""
        return lambda: [_open(directory.key, node.name, os.O_RDONLY | os.O_NONBLOCK) for node in nodes]

    def create(self, directory: Fd, names: Sequence[bytes]) -> Callable[[], list[LocalFile | OSError]]:
        return lambda: [_open(directory.key, name, os.O_RDWR | os.O_CREAT | os.O_EXCL) for name in names]

    def make(
        self, directory: Fd, items: Sequence[New], sync: bool
    ) -> Callable[[], list[tuple[Fd | None, list[OSError]]]]:
        return lambda: [_made(directory, item) for item in items]

    def reopen(self, directory: Fd, name: bytes) -> LocalFile:
        """To go on with it; one that others have an eye on, or a name for, is not."""
        opened = _open(directory.key, name, os.O_RDWR | os.O_NONBLOCK)
        if isinstance(opened, OSError):
            raise opened
        found = os.fstat(opened.key)  # not before: in a directory of somebody else's the name may be another's by now
        if found.st_uid != os.geteuid() or found.st_nlink != 1 or found.st_mode & 0o077:
            raise OSError(EPERM, "not what an interrupted copy leaves")
        return opened

    def mkdir(self, directory: Fd, name: bytes) -> Fd:
        os.mkdir(name, 0o700, dir_fd=directory.key)
        made = Fd(os.open(name, _DIRECTORY, dir_fd=directory.key))
        for acl in ACLS:  # inherited, and to be inherited by what is made in it
            try:
                os.removexattr(made.key, acl)
            except OSError:
                pass
        return made

    def symlink(self, directory: Fd, name: bytes, target: bytes) -> Node:
        os.symlink(target, name, dir_fd=directory.key)
        return self.resolve(directory, [name])

    def mknod(self, directory: Fd, name: bytes, mode: int) -> Node:
        os.mknod(name, modes.S_IFMT(mode) | 0o600, 0, dir_fd=directory.key)
        return self.resolve(directory, [name])

    def link(self, root: Fd, path: Sequence[bytes], directory: Fd, name: bytes) -> None:
        parent = self._parent(root, path)
        os.link(path[-1], name, src_dir_fd=parent.key, dst_dir_fd=directory.key, follow_symlinks=False)

    def reading(self, files: Sequence[LocalFile]) -> Callable[[], list[bytes | OSError | None]]:
        return lambda: [None] * len(files)

    def writing(self, items: Sequence[tuple[LocalFile, bytes]]) -> Callable[[], list[OSError | None]]:
        return lambda: [failure(_write, file.key, data) for file, data in items]

    def settle(self, items: Sequence[tuple[LocalFile, Stat, Xattrs]]) -> Callable[[], list[list[OSError]]]:
        return lambda: [settle(file.key, stat, xattrs) for file, stat, xattrs in items]

    def settle_node(
        self, directory: Fd, node: Node, stat: Stat, xattrs: Xattrs | None, gone: Sequence[bytes] = ()
    ) -> list[OSError]:
        pin = _pin(directory.key, node)
        return settle_pinned(pin.key, node.stat, stat, xattrs, gone)

    def settle_directory(self, directory: Fd, stat: Stat, xattrs: Xattrs) -> list[OSError]:
        return settle(directory.key, stat, xattrs)

    def sync(self, files: Sequence[Fd]) -> list[OSError | None]:
        if len(files) <= FEW:
            return [failure(os.fsync, file.key) for file in files]
        return sync_systems([(file.key, file.device) for file in files])

    def renaming(self, moves: Sequence[tuple[Fd, bytes, bytes]]) -> Callable[[], list[OSError | None]]:
        """At once: whoever is killed later has so many more that are whole."""
        told: list[OSError | None] = []
        for directory, old, new in moves:
            try:
                rename(old, new, src_dir_fd=directory.key, dst_dir_fd=directory.key)
                told.append(None)
            except OSError as error:
                told.append(error)
        return lambda: told

    def remove(self, directory: Fd, name: bytes, is_directory: bool) -> None:
        (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory.key)

    def begin(self) -> None:
        """As `rest`."""

    def rest(self) -> None:
        """Nothing here is done later."""


def sync_systems(fds: Sequence[tuple[int, int]]) -> list[OSError | None]:
    """The file systems that they are on (with the device, or -1); for each what has failed."""
    devices = [os.fstat(fd).st_dev if device < 0 else device for fd, device in fds]
    failed = {device: failure(_syncfs, fd) for device, (fd, _) in dict(zip(devices, fds)).items()}
    return [failed[device] for device in devices]


def local_stat(found: os.stat_result) -> Stat:
    device, special = found.st_dev, found.st_rdev
    return Stat(
        sys.STATX_BASIC_STATS, found.st_blksize, 0, found.st_nlink, found.st_uid, found.st_gid, found.st_mode,
        found.st_ino, found.st_size, found.st_blocks, 0, divmod(found.st_atime_ns, 10**9), (0, 0),
        divmod(found.st_ctime_ns, 10**9), divmod(found.st_mtime_ns, 10**9),
        (os.major(special), os.minor(special)), (os.major(device), os.minor(device)),
    )  # fmt: skip


def _xattrs(directory: int, node: Node, file: LocalFile | None) -> Xattrs:
    if file:
        return xattrs_at(file.key)
    pin = _pin(directory, node)
    return xattrs_at(f"/proc/self/fd/{pin.key}")


def _look(directory: int, name: bytes) -> Found:
    try:
        return Node(name, local_stat(os.stat(name, dir_fd=directory, follow_symlinks=False)))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error


def _look_into(directory: Fd, names: Sequence[bytes]) -> list[Found]:
    found: list[Found] = []
    room = TOGETHER
    for name in names:
        try:
            status = os.stat(name, dir_fd=directory.key, follow_symlinks=False)
            content = read(directory.key, name, status) if small(status, room) else None
            room -= len(content or b"")
            found.append(Node(name, local_stat(status), None, content))
        except FileNotFoundError:
            found.append(None)
        except OSError as error:
            found.append(error)
    return found


def _made(directory: Fd, item: New) -> tuple[Fd | None, list[OSError]]:
    try:
        fd, troubles, directory.inside = made(directory.key, item, directory.inside)
    except OSError as error:
        return None, [error]
    return Fd(fd, directory.inside[2]), troubles


def _open(directory: int, name: bytes, flags: int) -> LocalFile | OSError:
    try:
        return LocalFile(os.open(name, flags | _CLOEXEC, 0o600, dir_fd=directory), bool(flags & os.O_EXCL))
    except OSError as error:
        return error


def _pin(directory: int, node: Node) -> Fd:
    pin = Fd(os.open(node.name, sys.O_PATH | _CLOEXEC, dir_fd=directory))
    if os.fstat(pin.key).st_ino != node.stat.ino:
        raise OSError(ESTALE, "it was replaced meanwhile")
    return pin


def _write(fd: int, data: bytes) -> None:
    at = 0
    while at < len(data):
        at += os.pwrite(fd, data[at:], at)


def _syncfs(fd: int) -> None:
    if _libc_syncfs(fd):
        sys.raise_errno()
