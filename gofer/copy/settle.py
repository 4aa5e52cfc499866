"""What a file of this host has beside its contents: owner, xattrs, mode, times."""

from __future__ import annotations

import os
import stat as modes
from errno import EINVAL, ENODATA, EOPNOTSUPP, EPERM

from gofer import sys
from gofer.copy.sides import SET_ID
from gofer.output import printable
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

    from gofer.client.replies import Stat
    from gofer.copy.sides import Listed, Xattrs

ACLS = ("system.posix_acl_access", "system.posix_acl_default")


def settle(fd: int, stat: Stat, xattrs: Xattrs) -> list[OSError]:
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


def settle_pinned(pin: int, now: Stat, stat: Stat, xattrs: Xattrs | None, gone: Sequence[bytes]) -> list[OSError]:
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
            troubles.append(OSError(error.errno, f"xattr {printable(key)}: {error.strerror}"))


def _nanoseconds(when: tuple[int, int]) -> int:
    seconds, nanoseconds = when
    if not 0 <= nanoseconds < 10**9:
        raise OSError(EINVAL, "a time that is none")
    return seconds * 10**9 + nanoseconds


def kept(name: bytes) -> bool:
    """Whether a copy keeps an xattr of that name; labels of the host's own policy are not."""
    return name.startswith((b"user.", b"trusted.", b"system.posix_acl_")) or name == b"security.capability"


def privileged(name: bytes) -> bool:
    """Whether who sets it gives somebody rights of its own."""
    return name.startswith((b"trusted.", b"security."))


def xattrs_at(where: int | str) -> Xattrs:
    try:
        names = os.listxattr(where)
        return {os.fsencode(name): os.getxattr(where, name) for name in names if kept(os.fsencode(name))}
    except OSError as error:
        if error.errno in (EOPNOTSUPP, ENODATA):
            return {}
        raise


def listed_at(path: str) -> Listed:
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names if kept(os.fsencode(name))}
    except OSError as error:
        return None if error.errno == EOPNOTSUPP else error


def value(call: Callable[..., Xattrs], *args: Any) -> Xattrs | OSError:
    try:
        return call(*args)
    except OSError as error:
        return error


def failure(call, *args) -> OSError | None:  # type: ignore[no-untyped-def]
    try:
        call(*args)
    except OSError as error:
        return error
    return None
