"""One request to one server, what came of it, and the fields in which two such outcomes differ.

What is never compared, because two servers cannot be equal in it: FD ids and inode numbers (they are matched one to one
instead), times that nobody set (ctime, and what is later than EPOCH), blocks, free space, sizes of directories.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional

from differential_servers import Probe

from gofer.conform.codec import ATIME, Stat

EPOCH = 1 << 30  # the generator sets only times before 2004: what is later came from the clock
STAR = {"walk": "path", "walkstat": "path", "close": "fds", "fsync": "fds"}  # arguments that a peer takes as *args
_UNTOLD = ("blocks", "ctime", "fd", "donated", "bfree", "bavail", "ffree")


class Outcome(NamedTuple):
    """errno 0: the reply's value, and (type, size of a regular file, status flags) of each fd donated with it.

    after: how the file then was, where the request changes it and the reply does not tell."""

    errno: int
    value: Any
    fds: list[tuple[str, int, str]]
    after: Optional[Stat] = None

    def __repr__(self) -> str:
        if self.errno:
            return errno.errorcode.get(self.errno, str(self.errno))
        return f"{self.value!r}{' donating ' + repr(self.fds) if self.fds else ''}"


class Changed(NamedTuple):
    """What SetStat answers."""

    failure_mask: int
    failure_errno: int


class Difference(NamedTuple):
    """field: its path in the reply, as in ".inode.stat.mode"; "errno" where one server refuses or both do otherwise."""

    field: str
    go: Any
    ours: Any

    @property
    def leaf(self) -> str:
        return self.field.rpartition(".")[2]


def perform(peer: Probe, method: str, args: dict[str, Any]) -> Outcome:
    """Send it. A malformed reply is an AssertionError, a server that went away a ConnectionError."""
    args = dict(args)
    peer.cut, peer.extra = args.pop("cut", 0), args.pop("extra", b"")
    before = len(peer.owned)
    try:
        star = args.pop(STAR[method]) if method in STAR else ()
        value = getattr(peer, method)(*_leading(method, args), *star, **args)
        outcome = Outcome(0, _told(method, value), [])
    except OSError as error:
        if isinstance(error, ConnectionError) and error.errno is None or isinstance(error, TimeoutError):
            raise
        outcome = Outcome(error.errno or -1, None, [])
    finally:
        peer.cut, peer.extra = 0, b""
        donated = peer.disown(peer.owned[before:])
        described = [_describe(fd) for fd in donated]
        for fd in donated:
            os.close(fd)
    return outcome._replace(fds=described)


def changes(method: str, args: dict[str, Any]) -> bool:
    """Whether the request changes a file without telling how it then is: a stat of it follows at once."""
    return method in ("setstat", "pwrite", "fallocate") or method == "openat" and bool(args["flags"] & os.O_TRUNC)


def _leading(method: str, args: dict[str, Any]) -> tuple[Any, ...]:
    return (args.pop("fd" if "fd" in args else "dir_fd"),) if method in ("walk", "walkstat") else ()


def _told(method: str, value: Any) -> Any:
    """What the peer returns, less the donated fds."""
    if method == "connect":
        return None
    if method == "setstat":
        return Changed(*value)
    return value[:2] if method == "channel" else value[0] if method == "accept" else value


def _describe(fd: int) -> tuple[str, int, str]:
    found, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
    size = found.st_size if stat.S_ISREG(found.st_mode) else 0
    return stat.filemode(found.st_mode)[0], size, oct(flags & (os.O_ACCMODE | os.O_NONBLOCK | os.O_APPEND | os.O_PATH))


class Inodes:
    """Which inode of Go's tree is which of ours."""

    def __init__(self) -> None:
        self._ours: dict[int, int] = {}
        self._gos: dict[int, int] = {}

    def match(self, go: Any, ours: Any) -> bool:
        return bool(self._ours.setdefault(go, ours) == ours and self._gos.setdefault(ours, go) == go)


def differences(go: Outcome, ours: Outcome, args: dict[str, Any], inodes: Inodes) -> list[Difference]:
    """args: the request's."""
    if go.errno or ours.errno:
        return [Difference("errno", go.errno, ours.errno)] if go.errno != ours.errno else []
    found = []
    if go.fds != ours.fds:
        found.append(Difference("fds", go.fds, ours.fds))
    theirs, mine = ({**dict(_fields("", each.value)), **dict(_fields("after", each.after))} for each in (go, ours))
    untold = () if sets_atime(args, ours) else ("atime",)
    for field in {**theirs, **mine}:
        one, other = theirs.get(field), mine.get(field)
        leaf = field.rpartition(".")[2]
        if one == other or leaf in untold or leaf == "ino" and inodes.match(one, other):
            continue
        found.append(Difference(field, one, other))
    return found


def sets_atime(args: dict[str, Any], outcome: Outcome) -> bool:
    """Only then, and at once, it is the same: reads change it, and the two servers read where the other does not."""
    done = isinstance(outcome.value, Changed) and not outcome.value.failure_mask
    return done and bool(args["mask"] & ATIME) and args["atime"][1] < 10**9


def _fields(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What is compared of a reply: (path, value) of each leaf."""
    if isinstance(value, Stat) or hasattr(value, "_fields"):
        for field, below in value._asdict().items():
            if field not in _UNTOLD and not (field == "size" and stat.S_ISDIR(value.mode)):
                yield from _fields(f"{name}.{field}", _told_time(below) if field in ("atime", "mtime") else below)
    elif isinstance(value, (list, tuple)) and any(hasattr(each, "_fields") or isinstance(each, list) for each in value):
        yield f"{name}.count", len(value)
        for index, each in enumerate(value):
            yield from _fields(f"{name}.{index}", each)
    else:
        yield name, frozenset(value) if isinstance(value, list) else value


def _told_time(time: tuple[int, int]) -> Any:
    return time if time[0] < EPOCH else "now"


def compare_trees(go: "os.PathLike[str]", ours: "os.PathLike[str]") -> list[str]:
    """Names, types, modes, owners, sizes, contents, links, xattrs, targets, devices, times that were set."""
    first, second = _read_tree(os.fsencode(go)), _read_tree(os.fsencode(ours))
    return [
        f"{name!r}: go {first.get(name)}, ours {second.get(name)}"
        for name in sorted({**first, **second})
        if first.get(name) != second.get(name)
    ]


def _read_tree(tree: bytes) -> dict[bytes, Any]:
    found: dict[bytes, Any] = {}
    links: dict[int, bytes] = {}  # the first name of each inode
    for base, directories, files in os.walk(tree):
        directories.sort()
        for name in sorted([*directories, *files]) + ([b"."] if base == tree else []):
            path = os.path.join(base, name)
            found[os.path.relpath(path, tree)] = _read_file(path, links, os.path.relpath(path, tree))
    return found


def _read_file(path: bytes, links: dict[int, bytes], name: bytes) -> dict[str, Any]:
    st = os.lstat(path)
    told: dict[str, Any] = {"mode": stat.filemode(st.st_mode), "owner": (st.st_uid, st.st_gid), "links": st.st_nlink}
    told["xattrs"] = {x: os.getxattr(path, x, follow_symlinks=False) for x in os.listxattr(path, follow_symlinks=False)}
    told["mtime"] = st.st_mtime_ns if st.st_mtime < EPOCH else "now"
    told["same as"] = links.setdefault(st.st_ino, name)
    if stat.S_ISREG(st.st_mode):
        told["size"], told["data"] = st.st_size, hash(_data(path))
    elif stat.S_ISLNK(st.st_mode):
        told["target"] = os.readlink(path)
    elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
        told["device"] = st.st_rdev
    return told


def _data(path: bytes) -> tuple[tuple[int, bytes], ...]:
    """What is not zero, in pages: a file may be 2^63-1 bytes of hole, and what is a hole differs."""
    pages: list[tuple[int, bytes]] = []
    with open(path, "rb") as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # ENXIO: no more
                return tuple(pages)
            at -= at % 4096
            data = os.pread(file.fileno(), 4096, at)
            if data.strip(b"\0"):
                pages.append((at, data.rstrip(b"\0")))
            at += 4096
