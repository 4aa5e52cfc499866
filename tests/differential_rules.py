"""Predicates that the table of allowed differences is made of, and what to do so that the two trees stay equal.

A predicate takes a Case and a Difference in it. As narrow as can be: it looks at what was asked, of what kind of FD, and
at what both servers answered.
"""

import errno
import os
import stat
from collections.abc import Callable
from typing import Any, NamedTuple

from differential_compare import Difference, Outcome
from differential_model import FD, Model, Step
from differential_servers import LONG_PATH, Release, Side

from gofer.conform.codec import ATIME, GID, MAX_MESSAGE, MODE, MTIME, NO_ID, SIZE, UID

SET_ID = 0o6000
CREATES = ("opencreateat", "mkdirat", "mknodat", "symlinkat", "bindat")
BY_PATH = (stat.S_IFSOCK, stat.S_IFLNK)  # types for which Go lacks a host fd that serves all
GIVEN_AWAY = (stat.S_IFIFO, stat.S_IFCHR)
# What BindAt and Connect answer where the path does not matter.
UNIX = (0, errno.EADDRINUSE, errno.ECONNREFUSED, errno.EPROTOTYPE, errno.ENXIO)
ONE_ENTRY = 280  # bytes of the largest kernel dirent
NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)  # what a path answers that was once right
# What getting or setting an xattr answers, where there are any.
XATTRS = (0, errno.ENODATA, errno.ERANGE, errno.EEXIST, errno.EPERM)
# What each message answers about a file or directory that has no name left, where it works by the file alone.
NAMELESS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys((*CREATES, "unlinkat", "renameat"), (errno.ENOENT,)),
    **dict.fromkeys(("listing", "page"), (0, errno.ENOENT)),
    **dict.fromkeys(("fgetxattr", "fsetxattr"), (errno.EOPNOTSUPP, *XATTRS)),
    "mknodat": (errno.ENOENT, errno.EPERM),
    "bindat": (errno.ENOENT, errno.ENXIO),
    "linkat": (0, errno.ENOENT, errno.EEXIST),
    "openat": (0, errno.EINVAL, errno.ENXIO),
    "connect": (0, errno.ECONNREFUSED, errno.EPROTOTYPE, errno.ENXIO),
    "listen": (0, errno.EOPNOTSUPP),
    "accept": (0, errno.EAGAIN, errno.EINVAL, errno.EOPNOTSUPP),
}


class Case(NamedTuple):
    """A step, and what came of it on both servers."""

    step: Step
    fds: list[FD]  # those the step names, in its order; numbers of no FD are left out
    go: Outcome
    ours: Outcome
    model: Model
    sides: list[Side]
    release: Release

    @property
    def args(self) -> dict[str, Any]:
        return self.step.args

    @property
    def fd(self) -> FD:
        return self.fds[0]


Predicate = Callable[[Case, Difference], bool]


class _Any:
    """Any value; for errnos and values."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


ANY: Any = _Any()


def both(*predicates: Predicate) -> Predicate:
    return lambda case, difference: all(predicate(case, difference) for predicate in predicates)


def sent(*methods: str) -> Predicate:
    """One of these was sent, of whatever FD."""
    return lambda case, difference: case.step.method in methods


def message(*methods: str) -> Predicate:
    """One of these was sent, of an FD that is or was one."""
    return lambda case, difference: case.step.method in methods and bool(case.fds)


def values(go: Any, ours: Any) -> Predicate:
    return lambda case, difference: (difference.go, difference.ours) == (go, ours)


def errnos(go: Any, ours: Any) -> Predicate:
    """Each an errno, 0 for success, a tuple of them, or ANY."""

    def allows(wanted: Any, got: Any) -> bool:
        return got in wanted if isinstance(wanted, tuple) else bool(wanted == got)

    return lambda case, difference: allows(go, difference.go) and allows(ours, difference.ours)


def go_zero(case: Case, difference: Difference) -> bool:
    return difference.go in (0, (0, 0))


def go_fewer(case: Case, difference: Difference) -> bool:
    return bool(difference.go < difference.ours)


def of_type(*types: int) -> Predicate:
    return lambda case, difference: bool(case.fds) and case.fd.type in types


# What was asked


def onto_itself(case: Case, difference: Difference) -> bool:
    old, new = case.fds
    return old.node is new.node and case.args["old_name"] == case.args["new_name"]


def sets(bits: int) -> Predicate:
    """A SetStat of any of bits."""
    return lambda case, difference: bool(case.args["mask"] & bits)


def chowns_nothing(case: Case, difference: Difference) -> bool:
    ids = [case.args[name] for name, bit in (("uid", UID), ("gid", GID)) if case.args["mask"] & bit]
    return bool(ids) and set(ids) == {NO_ID}


def owner_and_mode(case: Case, difference: Difference) -> bool:
    mask = case.args["mask"] if case.step.method == "setstat" else 0
    return case.step.method in CREATES or bool(mask & MODE and mask & (UID | GID))


def writes(case: Case, difference: Difference) -> bool:
    """The contents or size of a regular file."""
    changes = case.step.method in ("pwrite", "fallocate", "openat") or bool(case.args.get("mask", 0) & SIZE)
    return changes and bool(case.fds) and case.fd.type == stat.S_IFREG


def no_access(case: Case, difference: Difference) -> bool:
    return case.step.method in ("openat", "opencreateat") and case.args["flags"] & os.O_ACCMODE == os.O_ACCMODE


def no_bytes(case: Case, difference: Difference) -> bool:
    return not case.args["count"] if case.step.method == "pread" else not case.args["data"]


def below_one_entry(case: Case, difference: Difference) -> bool:
    return bool(abs(case.args["count"]) < ONE_ENTRY)


def walks_far(case: Case, difference: Difference) -> bool:
    return len(case.args["path"]) * 144 > MAX_MESSAGE


def whiteout(case: Case, difference: Difference) -> bool:
    return stat.S_ISCHR(case.args["mode"]) and not case.args.get("major") and not case.args.get("minor")


def any_name(test: Callable[[bytes], bool]) -> Predicate:
    """A name or symlink target of the request is so."""

    def allows(case: Case, difference: Difference) -> bool:
        single = (case.args[key] for key in ("name", "old_name", "new_name", "target") if key in case.args)
        return any(test(name) for name in (*case.args.get("path", ()), *single))

    return allows


# What the FDs are


def nameless(case: Case, difference: Difference) -> bool:
    """To Go, one of the FDs is of a name that is gone; the kernel's answer is one that fits."""
    return difference.ours in NAMELESS.get(case.step.method, ()) and any(fd.node.deleted for fd in case.fds)


def no_control_fd(case: Case, difference: Difference) -> bool:
    return not case.fds or case.fd.closed or case.fd.kind != "control"


def listener_closed(case: Case, difference: Difference) -> bool:
    found = case.model.sockets.get(case.fd.inos[0])
    return found is not None and found.closed


def given_away(case: Case, difference: Difference) -> bool:
    return any(fd.kind == "open" and fd.type in GIVEN_AWAY for fd in case.fds)


def lost_path(case: Case, difference: Difference) -> bool:
    """Go looks for the file where it is not."""
    return _lost(case, case.fd)


def lost_target(case: Case, difference: Difference) -> bool:
    return _lost(case, case.fds[1])


def _lost(case: Case, fd: FD) -> bool:
    try:
        return os.lstat(os.fsencode(case.sides[0].tree) + fd.node.path()).st_ino != fd.inos[0]
    except OSError:
        return True


def long_path(case: Case, difference: Difference) -> bool:
    name = b"/" + case.args["name"] if "name" in case.args else b""
    return len(case.fd.node.path() + name) >= LONG_PATH


# What was answered


def go_lacks(bits: int) -> Predicate:
    """Go's mode is ours less some of bits."""
    return lambda case, difference: (
        difference.go | bits == difference.ours | bits and difference.go & ~difference.ours == 0
    )


def ours_lacks(bits: int) -> Predicate:
    return lambda case, difference: go_lacks(bits)(case, Difference("", difference.ours, difference.go))


def asked_for(case: Case, difference: Difference) -> bool:
    """The bits of the mode in which they differ."""
    return bool((difference.go ^ difference.ours) & ~case.args.get("mode", 0) == 0)


def failed(mask: int) -> Predicate:
    """Of a SetStat's changes just this one failed."""
    return lambda case, difference: bool(case.ours.value.failure_mask == mask)


def several_failed(case: Case, difference: Difference) -> bool:
    groups = (SIZE, UID | GID, MODE, ATIME | MTIME)
    return sum(bool(case.ours.value.failure_mask & group) for group in groups) > 1


# So that the trees stay equal


def copy_mode(case: Case, difference: Difference) -> None:
    """Give the file the mode on Go's side that it has on ours."""
    inode = getattr(case.go.value, "inode", case.go.value)
    ino = inode.stat.ino if hasattr(inode, "stat") else case.fd.inos[0]
    os.chmod(case.sides[0].held(ino), stat.S_IMODE(difference.ours))


def copy_times(case: Case, difference: Difference) -> None:
    """And these times, where a SetStat set them on our side only."""
    if case.ours.after:
        atime, mtime = (sec * 10**9 + nsec for sec, nsec in (case.ours.after.atime, case.ours.after.mtime))
        os.utime(case.sides[0].held(case.fd.inos[0]), ns=(atime, mtime))


def remove_xattr(case: Case, difference: Difference) -> None:
    """What only ours has set, if that was asked for."""
    if case.step.method == "fsetxattr" and not case.ours.errno:
        os.removexattr(case.sides[1].held(case.fd.inos[1]), case.args["name"])


def touch_directory(case: Case, difference: Difference) -> None:
    """Where a failed BindAt of ours has made and removed something."""
    for side, ino in zip(case.sides, case.fd.inos):
        os.utime(side.held(ino))
