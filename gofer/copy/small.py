"""This host's side of small files: read as they are looked at, and made with all that they are to have, in as few calls as do."""

from __future__ import annotations

import os
import stat as modes
from errno import EINVAL

from gofer.copy.settle import settle, xattrs_at
from gofer.copy.sides import SMALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.copy.sides import New

_CLOEXEC = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
_READ = os.O_RDONLY | os.O_NONBLOCK | _CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _CLOEXEC




def small(found: os.stat_result, room: int) -> bool:
    """Whether that is a file of one name and without holes, whose contents are to come along."""
    size = found.st_size
    return (
        modes.S_ISREG(found.st_mode) and size <= SMALL and size <= room and found.st_nlink == 1 and found.st_blocks * 512 >= size
    )


def read(directory: int, name: bytes, found: os.stat_result) -> bytes | None:
    """All that a small file has beside its attributes; None where it has more, or is another now: other calls copy it."""
    try:
        fd = os.open(name, _READ, dir_fd=directory)
    except OSError:
        return None
    try:
        data = os.pread(fd, found.st_size or 1, 0)
        now = os.fstat(fd)
        same = now.st_ino == found.st_ino and now.st_dev == found.st_dev and now.st_mtime_ns == found.st_mtime_ns
        return data if same and now.st_size == len(data) and not xattrs_at(fd) else None
    except OSError:
        return None
    finally:
        os.close(fd)


def made(directory: int, new: New, inside: tuple[int, int, int] | None) -> tuple[int, list[OSError], tuple[int, int, int]]:
    """The fd of a new file that has all it is to have, what of that is not, and what it was at first: owner, group, device.

    inside: what another was that was made there before. Where it fails the file is not there, or a beginning of it is.
    """
    stat = new.stat
    mode = stat.mode & 0o7777
    # Nobody may open it, before it has its owner, who may not open it in the end.
    exact = not mode & (_umask | 0o7000) and not mode >> 3 & ~mode & 0o7
    fd = os.open(new.name, _NEW, mode if exact else 0o600, dir_fd=directory)
    try:
        at = os.write(fd, new.content) if new.content else 0
        while at < len(new.content):
            at += os.write(fd, new.content[at:])
        if inside is None:
            found = os.fstat(fd)
            inside = found.st_uid, found.st_gid, found.st_dev
        if inside[0] != stat.uid or inside[1] != stat.gid:
            return fd, settle(fd, stat, {}), inside
        return fd, _settled(fd, stat.atime, stat.mtime, None if exact else mode), inside
    except BaseException:
        os.close(fd)
        raise


def _settled(fd: int, atime: tuple[int, int], mtime: tuple[int, int], mode: int | None) -> list[OSError]:
    """As settle.settle, of what has its owner already and no xattrs."""
    try:
        if mode is not None:
            os.fchmod(fd, mode)
        if not (0 <= atime[1] < 10**9 and 0 <= mtime[1] < 10**9):
            raise OSError(EINVAL, "a time that is none")
        os.utime(fd, ns=(atime[0] * 10**9 + atime[1], mtime[0] * 10**9 + mtime[1]))
    except OSError as error:
        return [error]
    return []


def _own_umask() -> int:
    mask = os.umask(0o77)
    os.umask(mask)
    return mask


_umask = _own_umask()
