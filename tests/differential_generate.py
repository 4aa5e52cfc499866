"""The seeded generator of steps: every message, arguments valid and not, FDs live, closed, of the wrong kind, of nobody.

It knows the FDs by the model and picks with that what is interesting, and what must not be sent: what would hang or kill
a Go gofer (see `_connect`, `_fallocate`, `_bindat`), and changes that would go to another file there than here
(where Go goes by a path that has become another file's), as the trees would part for good.
"""

import itertools
import os
import random
import stat
from collections.abc import Sequence
from typing import Any, Callable, Optional

from differential_model import FD, Model, Operand, Ref, Step
from differential_servers import CONNECTIONS, FIFO, LISTENING, LONG_PATH, READ_ONLY, SILENT, TRANSPORTS, Release, Side

from gofer.conform.codec import ATIME, GID, MODE, MTIME, NO_ID, OWN, SIZE, UID, Mid

NAMES = [b"a", b"b", b"c", b"d", b"e", b"f", b"l", b"s", b"new", b"with space", b"\xff\xfe\x80", b"n" * 255]
TOP = [b"big", b"many", b"setid", FIFO, b"null", b"block", LISTENING, SILENT, b"missing"]
BAD_NAMES = [b"", b".", b"..", b"a/b", b"/", b"a\0b", b"l" * 256, b"l" * 65535]
TARGETS = [b"a", b"../d", b"/etc/passwd", b"nowhere", b"t" * 200, b"", b"\xff", b"t" * 4095, b"t" * 4096, b"a\0b"]
IDS = [0, 0, 100, 1000, 65534, NO_ID, NO_ID, NO_ID]
MODES = [0o644, 0o600, 0o755, 0o000, 0o777, 0o1777, 0o2775, 0o4755, 0o6711, 0o7777]
OFFSETS = [0, 0, 1, 100, 4095, 4096, 10000, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
SIZES = [0, 1, 10, 4096, 12345, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
COUNTS = [0, 1, 100, 4096, 70000, 2093048 - 8, 2093048 - 7, 1 << 31]
SECONDS, NANOSECONDS = [0, 1, 10**8, 10**9, -1], [0, 1, 999_999_999, 10**9, 0x3FFFFFFF, 0x3FFFFFFE, -1]
HARMLESS = ("fstat", "walkstat", "fstatfs", "readlinkat", "pread", "fsync")  # these may be sent with too many bytes
MOST_FDS, MOST_DEPTH = 40, 4
AT_REMOVEDIR = 0x200


class Generator:
    """without: messages that are not to be sent. most: the largest FDID there can be."""

    def __init__(
        self,
        seed: int,
        model: Model,
        go: Side,
        release: Release,
        without: Sequence[str] = (),
        most: int = (1 << 64) - 1,
    ) -> None:
        self.release = release
        self.most = most
        self.random = random.Random(seed)
        self.model = model
        self.go = go
        self.queue: list[tuple[str, dict[str, Any]]] = []  # what must follow the last step
        self.last: Optional[Step] = None
        self._kinds = [kind for kind, weight in WEIGHTS.items() if kind not in without for _ in range(weight)]

    def step(self, number: int) -> Step:
        if self.queue:
            assert self.last
            self.last = Step(number, self.last.connection, self.last.transport, *self.queue.pop())
            return self.last
        if number <= CONNECTIONS:
            return Step(number, number - 1, "socket", "mount", {})
        self.connection = self.random.choices(range(CONNECTIONS), (6, 3, 1))[0]
        self.live = self.model.live(self.connection)
        method, args = "close", self._many_fds() if len(self.live) > MOST_FDS else None
        while args is None:
            method = self.random.choice(self._kinds)
            maker: Callable[[], Optional[dict[str, Any]]] = getattr(self, "_" + method)
            args = maker()
            if args and self._mislaid(args.get("dir_fd", 0), args.get("old_dir", 0), args.get("new_dir", 0)):
                args = None if method not in ("walk", "walkstat") else args
        if self.random.random() < 0.01 and method not in ("unknown", "mount", "channel", "listing"):
            args["cut"] = self.random.choice((1, 2, 4))
        elif self.random.random() < 0.01 and method in HARMLESS:
            args["extra"] = self.random.choice((b"\0", b"extra bytes"))
        self.last = Step(number, self.connection, self.random.choice(TRANSPORTS), method, args)
        return self.last

    def done(self, step: Step, success: bool) -> None:
        if step.method == "bindat" and success:
            self.queue.append(("listen", {"bound_fd": Ref(step.number, 1), "backlog": 100}))

    # Arguments

    def _some(self, right: Callable[[FD], bool]) -> Operand:
        """An FD that is right, nearly always."""
        found = [fd for fd in self.live if right(fd)]
        dice = self.random.random()
        if found and dice < 0.93:
            # Half of the time one of the newest: what has just been made is what others have just used too.
            return self.random.choice(found[-6:] if dice < 0.45 else found).ref
        if dice < 0.98:
            recent = itertools.islice(reversed(self.model.fds.values()), 200)
            mine = [fd.ref for fd in recent if fd.connection == self.connection]
            return self.random.choice(mine) if mine else 0
        return self.random.choice((0, 10**9, self.most))

    def _of(self, operand: Operand) -> Optional[FD]:
        return self.model.fds.get(operand) if not isinstance(operand, int) else None

    def _control(self) -> Operand:
        return self._some(lambda fd: fd.kind == "control")

    def _directory(self) -> Operand:
        return self._some(lambda fd: fd.kind == "control" and fd.type == stat.S_IFDIR)

    def _file(self) -> Operand:
        return self._some(lambda fd: fd.kind == "open" and fd.type == stat.S_IFREG)

    def _open(self) -> Operand:
        return self._some(lambda fd: fd.kind == "open")

    def _bound(self) -> Operand:
        return self._some(lambda fd: fd.kind == "bound")

    def _name(self, bad: float = 0.04) -> bytes:
        return self.random.choice(BAD_NAMES if self.random.random() < bad else NAMES)

    def _known(self, directory: Operand) -> bytes:
        """Half of the time a name that Go knows of in there."""
        fd = self._of(directory)
        names = [name for name in fd.node.children if name not in TOP] if fd else []
        return self.random.choice(names) if names and self.random.random() < 0.5 else self._name()

    def _path(self) -> list[bytes]:
        names = [self.random.choice(TOP) if self.random.random() < 0.3 else self._name(0.02)]
        while self.random.random() < 0.3:
            names.append(self._name(0.02))
        return names

    def _new(self, directory: Operand) -> dict[str, Any]:
        pick = self.random.choice
        return {"dir_fd": directory, "name": self._name(), "mode": pick(MODES), "uid": pick(IDS), "gid": pick(IDS)}

    def _leads(self, fd: Optional[FD], strict: bool = False) -> bool:
        """Whether Go's path of the FD leads to its file; where not strict, also to nothing at all."""
        if fd is None or fd.node.deleted:
            return not strict or fd is None
        try:
            return os.lstat(os.fsencode(self.go.tree) + fd.node.path()).st_ino == fd.inos[0]
        except OSError:  # not there, below what is no directory now, or the path has become too long
            return not strict

    def _mislaid(self, *directories: Operand) -> bool:
        """Whether Go takes one for removed that is not: what was renamed onto itself by two nodes of one directory."""
        for fd in filter(None, map(self._of, directories)):
            if fd.node.deleted and self.go.has(fd.inos[0]):
                return True
        return False

    # One method a message: its arguments, or None where there is nothing that could be sent now

    def _mount(self) -> dict[str, Any]:
        return {}

    def _channel(self) -> dict[str, Any]:
        return {}

    def _fstat(self) -> dict[str, Any]:
        return {"fd": self._some(lambda fd: True)}

    def _setstat(self) -> Optional[dict[str, Any]]:
        pick, bits = self.random.choice, (MODE, UID, GID, SIZE, ATIME, MTIME)
        mask = sum(bit for bit in bits if self.random.random() < 0.3)
        if self.random.random() < 0.02:
            mask |= pick((1, 4, 0x80, 0x400, 0x800, 1 << 31))
        operand = self._control()
        args: dict[str, Any] = {"fd": operand, "mask": mask, "mode": pick(MODES) | pick((0, 0, 0o100000, 0o170000))}
        args.update(uid=pick(IDS), gid=pick(IDS), size=pick(SIZES))
        args.update(atime=(pick(SECONDS), pick(NANOSECONDS)), mtime=(pick(SECONDS), pick(NANOSECONDS)))
        fd = self._of(operand)
        by_path = fd and fd.type in (stat.S_IFSOCK, stat.S_IFLNK)
        if fd and (fd.from_bind or by_path and not self._leads(fd, strict=True)):
            return None
        return args

    def _walk(self) -> dict[str, Any]:
        return {"dir_fd": self._directory(), "path": self._path()}

    def _walkstat(self) -> dict[str, Any]:
        if self.random.random() < 0.3:
            return {"dir_fd": self._control(), "path": [b""]}
        return {"dir_fd": self._directory(), "path": [b""] * (self.random.random() < 0.3) + self._path()}

    def _openat(self) -> Optional[dict[str, Any]]:
        fd = self._control()
        flags = self.random.choices((0, 1, 2, 3), (6, 3, 6, 0.2))[0] | self.random.choices((0, os.O_TRUNC), (8, 1))[0]
        if self.random.random() < 0.1:
            flags |= self.random.choice((os.O_APPEND, os.O_CREAT | os.O_EXCL, os.O_DIRECTORY, 1 << 31))
        found = self._of(fd)
        if flags & os.O_TRUNC and (found and found.node.deleted or flags & os.O_ACCMODE == os.O_ACCMODE):
            return None  # only one server does it, and another hard link may show it
        return {"fd": fd, "flags": flags}

    def _opencreateat(self) -> dict[str, Any]:
        flags = self.random.choice((0, 1, 2, 2, 2, os.O_TRUNC | 2, os.O_APPEND | 1, os.O_EXCL | 2))
        return {**self._new(self._directory()), "flags": flags}

    def _close(self) -> Optional[dict[str, Any]]:
        return self._many_fds() if self.random.random() < 0.2 else {"fds": self._spare(1)}

    def _many_fds(self) -> dict[str, Any]:
        return {"fds": self._spare(self.random.randrange(1, 20)) + [10**9] * (self.random.random() < 0.1)}

    def _spare(self, count: int) -> list[Operand]:
        """Any but the first, the root, which everything starts from."""
        spare = self.live[1:]
        found = self.random.sample(spare, min(count, len(spare)))
        # Go leaves a closed bound socket to the garbage collector, and the control FD with an fd that is another's then.
        found += [fd.control for fd in found if fd.kind == "bound" and fd.control and fd.control not in found]
        return [fd.ref for fd in found]

    def _fsync(self) -> dict[str, Any]:
        return {"fds": [self._open() for _ in range(self.random.randrange(4))]}

    def _pwrite(self) -> dict[str, Any]:
        data = self.random.randbytes(8) * self.random.choice((0, 1, 10, 1000))
        return {"fd": self._file(), "offset": self.random.choice(OFFSETS), "data": data}

    def _pread(self) -> dict[str, Any]:
        return {"fd": self._file(), "offset": self.random.choice(OFFSETS), "count": self.random.choice(COUNTS)}

    def _mkdirat(self) -> Optional[dict[str, Any]]:
        args = self._new(self._directory())
        fd = self._of(args["dir_fd"])
        return None if fd and fd.node.depth() >= MOST_DEPTH else args

    def _mknodat(self) -> dict[str, Any]:
        args = self._new(self._directory())
        others = (0, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR, stat.S_IFSOCK)
        args["mode"] |= self.random.choice((stat.S_IFREG,) * 6 + others)
        if self.random.random() < 0.3:
            args.update(major=1, minor=3)
        return args

    def _symlinkat(self) -> dict[str, Any]:
        args = self._new(self._directory())
        del args["mode"]
        return {**args, "target": self.random.choice(TARGETS)}

    def _linkat(self) -> Optional[dict[str, Any]]:
        target = self._control()
        fd = self._of(target)
        if fd and (fd.from_bind or self.release.links_by_path and not self._leads(fd)):
            return None
        return {"dir_fd": self._directory(), "target_fd": target, "name": self._name()}

    def _fstatfs(self) -> dict[str, Any]:
        return {"fd": self._control()}

    def _fallocate(self) -> dict[str, Any]:
        """Always mode 0: Go's seccomp filter kills it for another."""
        pick = self.random.choice
        args = {"mode": 0, "offset": pick((0, 1, 5000, (1 << 63) - 1, 1 << 63)), "length": pick((0, 1, 9999, 1 << 63))}
        return {"fd": self._file(), **args}

    def _readlinkat(self) -> dict[str, Any]:
        return {"fd": self._some(lambda fd: fd.kind == "control" and fd.type == stat.S_IFLNK)}

    def _connect(self) -> Optional[dict[str, Any]]:
        """Only where somebody's backlog has room: Go would wait."""
        args: dict[str, Any] = {"fd": self._some(lambda fd: fd.kind == "control" and fd.type == stat.S_IFSOCK)}
        args["sock_type"] = self.random.choice((1, 1, 1, 1, 2, 5, 0, 3, 1 << 31))
        fd = self._of(args["fd"])
        if fd is None:
            return args
        found = self.model.sockets.get(fd.inos[0])
        if found is None:
            return args if self._leads(fd) else None
        # Who waits to be accepted must be the same on both sides.
        reached = self._leads(fd, strict=True) and len(fd.node.path()) < LONG_PATH
        return args if reached and found.waiting < found.backlog else None

    def _unlinkat(self) -> dict[str, Any]:
        flags = self.random.choices((0, AT_REMOVEDIR, 1, AT_REMOVEDIR | 1, 1 << 31), (12, 6, 1, 1, 1))[0]
        directory = self._directory()
        return {"dir_fd": directory, "name": self._known(directory), "flags": flags}

    def _renameat(self) -> dict[str, Any]:
        old, new = self._directory(), self._directory()
        return {"old_dir": old, "old_name": self._known(old), "new_dir": new, "new_name": self._name()}

    def _listing(self) -> dict[str, Any]:
        count = self.random.choice((400, 1000, 8192, 65536, 1 << 20))
        return {"open_fd": self._some(lambda fd: fd.kind == "open" and fd.type == stat.S_IFDIR), "count": count}

    def _page(self) -> dict[str, Any]:
        """Too small a count, or from the start: how far a larger one gets is not the same."""
        counts = (0, 1, 20, -1, -20, -100, -(1 << 31), -4096)
        fd = self._some(lambda fd: fd.kind == "open" and fd.type == stat.S_IFDIR)
        return {"open_fd": fd, "count": self.random.choice(counts)}

    def _fgetxattr(self) -> dict[str, Any]:
        name = self.random.choice((b"user.x", b"trusted.differential", b"security.x"))
        return {"fd": self._control(), "name": name, "size": self.random.choice((0, 1, 65535))}

    def _fsetxattr(self) -> dict[str, Any]:
        return {"fd": self._control(), "name": b"user.x", "value": b"value", "flags": self.random.choice((0, 1, 2))}

    def _bindat(self) -> Optional[dict[str, Any]]:
        """A Listen follows at once: Go closes a bound socket twice, the second time some other fd, unless that (or an
        Accept) has made it forget to close it at all. Not on the read-only connection: Go makes the socket."""
        args = {**self._new(self._directory()), "sock_type": self.random.choice((1, 1, 1, 2, 5, 0, 3))}
        if self.connection == READ_ONLY or not self._leads(self._of(args["dir_fd"])) or b"\0" in args["name"]:
            return None
        return args

    def _listen(self) -> dict[str, Any]:
        return {"bound_fd": self._bound(), "backlog": self.random.choice((8, 100, -1, 0, 1 << 30))}

    def _accept(self) -> dict[str, Any]:
        return {"bound_fd": self._bound()}

    def _unknown(self) -> dict[str, Any]:
        return {"mid": self.random.choice((0, 34, 100, 65535)), "payload": self.random.choice((b"", b"payload"))}


# How often each message is sent, in parts of the sum.
WEIGHTS = {
    **dict.fromkeys(("walk",), 24),
    **dict.fromkeys(("openat", "unlinkat"), 16),
    **dict.fromkeys(("opencreateat", "renameat", "setstat", "pwrite"), 12),
    **dict.fromkeys(("fstat", "walkstat", "pread", "mkdirat", "symlinkat", "linkat", "close"), 8),
    **dict.fromkeys(("mknodat", "readlinkat", "connect", "listing", "page", "bindat", "accept", "fallocate"), 4),
    **dict.fromkeys(("fsync", "fstatfs", "listen", "fgetxattr", "fsetxattr", "unknown"), 2),
    **dict.fromkeys(("mount", "channel"), 1),
}
assert {Mid[name.upper()] for name in WEIGHTS if name.upper() in Mid.__members__} >= set(Mid) - {
    *(Mid.ERROR, Mid.GETDENTS64, Mid.FLUSH, Mid.FLISTXATTR, Mid.FREMOVEXATTR, Mid.CONNECTWITHCREDS, Mid.RENAMEAT2),
    *OWN,
}, "a message is never sent"
