"""This host's side of a copy: directories are fds, opened one below the other without following a link (openat(2), O_NOFOLLOW).

So whoever swaps a directory for a link while the copy runs, or a server that names one thing twice, leads it nowhere else. What
has no fd that could be changed by (a link, a FIFO, a file that stays as it is) is pinned by an O_PATH fd and changed through
its magic link.
"""

from __future__ import annotations

import os
import stat as modes
from errno import EINVAL, ENODATA, ENOENT, EOPNOTSUPP, EPERM, ESTALE

from gofer import sys
from gofer.client.replies import Stat
from gofer.copy.data import PIECE, extents
from gofer.copy.sides import SET_ID, Node
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from gofer.copy.sides import Found, Listed, Xattrs

_CLOEXEC = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | _CLOEXEC
FEW = 8  # files that are synced one by one; of more the file system is, in one call
ACLS = ("system.posix_acl_access", "system.posix_acl_default")
_libc_syncfs = sys.libc["syncfs"]


class Fd:
    """The owner of one fd, `key`."""

    __slots__ = ("key",)

    def __init__(self, key: int) -> None:
        self.key = key

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
        for begin, stop in extents(self.host, start, end):
            while begin < stop:
                data = os.pread(self.host, min(PIECE, stop - begin), begin)
                if not data:
                    return
                yield begin, data
                begin += len(data)

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

    def look(self, directory: Fd, names: Sequence[bytes]) -> list[Found]:
        return [_look(directory.key, name) for name in names]

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

    def xattrs(self, directory: Fd, node: Node, file: LocalFile | None = None) -> Xattrs:
        """Those that a copy keeps."""
        if file:
            where: int | str = file.host
        else:
            pin = _pin(directory.key, node)
            where = f"/proc/self/fd/{pin.key}"
        try:
            names = os.listxattr(where)
            return {os.fsencode(name): os.getxattr(where, name) for name in names if kept(os.fsencode(name))}
        except OSError as error:
            if error.errno in (EOPNOTSUPP, ENODATA):
                return {}
            raise

    def listed(self, directory: Fd, nodes: Sequence[Node]) -> list[Listed]:
        """As `xattrs` of regular files that nothing was opened of; None where the file system has none."""
        return [_listed(f"/proc/self/fd/{directory.key}/{os.fsdecode(node.name)}") for node in nodes]

    def open(self, directory: Fd, nodes: Sequence[Node]) -> list[LocalFile | OSError]:
        """O_NONBLOCK: what has become a FIFO meanwhile is not waited for."""
        return [_open(directory.key, node.name, os.O_RDONLY | os.O_NONBLOCK) for node in nodes]

    def create(self, directory: Fd, names: Sequence[bytes]) -> list[LocalFile | OSError]:
        return [_open(directory.key, name, os.O_RDWR | os.O_CREAT | os.O_EXCL) for name in names]

    def reopen(self, directory: Fd, name: bytes) -> LocalFile:
        """To go on with it; one that others have an eye on, or a name for, is not."""
        found = os.stat(name, dir_fd=directory.key, follow_symlinks=False)
        if found.st_uid != os.geteuid() or found.st_nlink != 1 or found.st_mode & 0o077:
            raise OSError(EPERM, "not what an interrupted copy leaves")
        opened = _open(directory.key, name, os.O_RDWR | os.O_NONBLOCK)
        if isinstance(opened, OSError):
            raise opened
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

    def settle(self, items: Sequence[tuple[LocalFile, Stat, Xattrs]]) -> list[list[OSError]]:
        return [_settle(file.key, stat, xattrs) for file, stat, xattrs in items]

    def settle_node(
        self, directory: Fd, node: Node, stat: Stat, xattrs: Xattrs | None, gone: Sequence[bytes] = ()
    ) -> list[OSError]:
        pin = _pin(directory.key, node)
        return _settle_pinned(pin.key, node.stat, stat, xattrs, gone)

    def settle_directory(self, directory: Fd, stat: Stat, xattrs: Xattrs) -> list[OSError]:
        return _settle(directory.key, stat, xattrs)

    def sync(self, files: Sequence[LocalFile]) -> list[OSError | None]:
        if len(files) <= FEW:
            return [_failure(os.fsync, file.key) for file in files]
        return sync_systems([file.key for file in files])

    def rename(self, moves: Sequence[tuple[Fd, bytes, bytes]]) -> list[OSError | None]:
        return [_failure(_rename, directory.key, old, new) for directory, old, new in moves]

    def remove(self, directory: Fd, name: bytes, is_directory: bool) -> None:
        (os.rmdir if is_directory else os.unlink)(name, dir_fd=directory.key)


def sync_systems(fds: Sequence[int]) -> list[OSError | None]:
    """The file systems that they are on; for each what has failed."""
    devices = [os.fstat(fd).st_dev for fd in fds]
    failed = {device: _failure(_syncfs, fd) for device, fd in dict(zip(devices, fds)).items()}
    return [failed[device] for device in devices]


def kept(name: bytes) -> bool:
    """Whether a copy keeps an xattr of that name; labels of the host's own policy are not."""
    return name.startswith((b"user.", b"trusted.", b"system.posix_acl_")) or name == b"security.capability"


def privileged(name: bytes) -> bool:
    """Whether who sets it gives somebody rights of its own."""
    return name.startswith((b"trusted.", b"security."))


def local_stat(found: os.stat_result) -> Stat:
    device, special = found.st_dev, found.st_rdev
    return Stat(
        sys.STATX_BASIC_STATS, found.st_blksize, 0, found.st_nlink, found.st_uid, found.st_gid, found.st_mode,
        found.st_ino, found.st_size, found.st_blocks, 0, divmod(found.st_atime_ns, 10**9), (0, 0),
        divmod(found.st_ctime_ns, 10**9), divmod(found.st_mtime_ns, 10**9),
        (os.major(special), os.minor(special)), (os.major(device), os.minor(device)),
    )  # fmt: skip


def _listed(path: str) -> Listed:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names if kept(os.fsencode(name))}
    except OSError as error:
        return None if error.errno == EOPNOTSUPP else error


def _look(directory: int, name: bytes) -> Found:
    try:
        return Node(name, local_stat(os.stat(name, dir_fd=directory, follow_symlinks=False)))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error


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


def _failure(call, *args) -> OSError | None:  # type: ignore[no-untyped-def]
    try:
        call(*args)
    except OSError as error:
        return error
    return None


def _syncfs(fd: int) -> None:
    if _libc_syncfs(fd):
        sys.raise_errno()


def _rename(directory: int, old: bytes, new: bytes) -> None:
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)


def _settle(fd: int, stat: Stat, xattrs: Xattrs) -> list[OSError]:
    """Owner, xattrs, mode, times, in that order: a change of the first takes away what the next two may hold."""
    now = os.fstat(fd)
    troubles: list[OSError] = []
    mode = stat.mode & 0o7777
    if (now.st_uid, now.st_gid) != (stat.uid, stat.gid):
        mode &= ~_unowned(lambda uid, gid: os.chown(fd, uid, gid), now.st_uid, stat, troubles)
    _set_xattrs(fd, xattrs, troubles)
    try:
        os.fchmod(fd, mode)
        os.utime(fd, ns=(_nanoseconds(stat.atime), _nanoseconds(stat.mtime)))
    except OSError as error:
        troubles.append(error)
    return troubles


def _settle_pinned(pin: int, now: Stat, stat: Stat, xattrs: Xattrs | None, gone: Sequence[bytes]) -> list[OSError]:
    """The same of what has no other fd. xattrs None: they, and the times, are as they should be. gone: those to be removed."""
    troubles: list[OSError] = []
    mode, link = stat.mode & 0o7777, modes.S_ISLNK(now.mode)
    magic = b"/proc/self/fd/%d" % pin
    if (now.uid, now.gid) != (stat.uid, stat.gid):
        flags = sys.AT_EMPTY_PATH | sys.AT_SYMLINK_NOFOLLOW
        mode &= ~_unowned(lambda uid, gid: sys.fchownat(pin, b"", uid, gid, flags), now.uid, stat, troubles)
    try:
        if xattrs is not None:
            for name in gone:
                os.removexattr(magic, name)
            _set_xattrs(os.fsdecode(magic), xattrs, troubles)
        if not link and mode != now.mode & 0o7777:
            os.chmod(magic, mode)
        times = sys.timespecs(*stat.atime, *stat.mtime)
        if xattrs is not None and sys.utimensat(pin, b"", times, sys.AT_EMPTY_PATH):
            if sys.get_errno() != EINVAL or sys.utimensat(sys.AT_FDCWD, magic, times, 0):  # Linux before 5.8
                sys.raise_errno()
    except OSError as error:
        troubles.append(error)
    return troubles


def _unowned(chown, uid: int, stat: Stat, troubles: list[OSError]) -> int:  # type: ignore[no-untyped-def]
    """Give it its owner and group, or its group, where we may; returns the mode's bits that it must not have without."""
    uid_wanted, group = (-1 if number == NO_ID else number for number in (stat.uid, stat.gid))
    try:
        chown(uid_wanted, group)
        return 0
    except OSError as error:
        if error.errno not in (EPERM, EINVAL):  # EINVAL: no such id in this user namespace
            troubles.append(error)
            return SET_ID
    try:
        chown(-1, group)
    except OSError:
        return SET_ID
    return 0 if uid == stat.uid else modes.S_ISUID


def _set_xattrs(where: int | str, xattrs: Xattrs, troubles: list[OSError]) -> None:
    """As they are to be: what was inherited goes."""
    try:
        there = os.listxattr(where)
    except OSError as error:
        there = []
        if xattrs:
            troubles.append(error)
            return
    for name in there:
        if name in ACLS and os.fsencode(name) not in xattrs:
            os.removexattr(where, name)
    for key, value in xattrs.items():
        try:
            os.setxattr(where, key, value)
        except OSError as error:
            troubles.append(OSError(error.errno, f"xattr {os.fsdecode(key)}: {error.strerror}"))


def _nanoseconds(when: tuple[int, int]) -> int:
    seconds, nanoseconds = when
    if not 0 <= nanoseconds < 10**9:
        raise OSError(EINVAL, "a time that is none")
    return seconds * 10**9 + nanoseconds
