"""For each line of the table, the few steps that show its difference."""

import os
import socket
import stat
from typing import Any, Callable

from differential import Run
from differential_model import Ref, Step
from differential_rules import Case
from differential_servers import FIFO, READ_ONLY, SILENT

from gofer.conform.codec import ATIME, MODE, MTIME, NO_ID, SIZE, UID

BOUND: dict[str, Any] = {"mode": 0o755, "uid": NO_ID, "gid": NO_ID, "sock_type": socket.SOCK_STREAM}


class Script:
    """Sends steps, on connection 0 over the socket unless said otherwise. root: the first FD of connection 0."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._number = 0
        self.root = self.made("mount")
        self.read_only = self.made("mount", connection=READ_ONLY)

    def send(self, method: str, connection: int = 0, transport: str = "socket", **args: Any) -> Case:
        self._number += 1
        case = self.run.do(Step(self._number, connection, transport, method, args))
        assert case, "a step names an FD that was never made"
        return case

    def made(self, method: str, connection: int = 0, **args: Any) -> Ref:
        """The first FD that it makes; Ref(ref.step, 1) is the second."""
        case = self.send(method, connection, **args)
        assert not case.go.errno and not case.ours.errno, f"{case.step}: go {case.go}, ours {case.ours}"
        return Ref(self._number, 0)

    def walk(self, *path: bytes) -> Ref:
        self.made("walk", dir_fd=self.root, path=list(path))
        return Ref(self._number, len(path) - 1)

    def file(self, name: bytes, mode: int = 0o644, uid: int = NO_ID) -> Ref:
        """A new file: its control FD; the open one follows it."""
        return self.made("opencreateat", dir_fd=self.root, name=name, mode=mode, uid=uid, gid=NO_ID, flags=os.O_RDWR)

    def directory(self, name: bytes) -> Ref:
        return self.made("mkdirat", dir_fd=self.root, name=name, mode=0o755, uid=NO_ID, gid=NO_ID)

    def setstat(self, fd: Ref, mask: int, **values: Any) -> Case:
        given = {"mode": 0, "uid": NO_ID, "gid": NO_ID, "size": 0, "atime": (1, 0), "mtime": (1, 0), **values}
        return self.send("setstat", fd=fd, mask=mask, **given)

    def bind(self, name: bytes) -> Ref:
        """A bound, listening socket: its control FD."""
        fd = self.made("bindat", dir_fd=self.root, name=name, **BOUND)
        self.send("listen", bound_fd=_second(fd), backlog=10)
        return fd


def _second(ref: Ref) -> Ref:
    return Ref(ref.step, 1)


def statx(script: Script) -> None:
    script.send("fstat", fd=script.root)


def messages(script: Script) -> None:
    script.send("mount")


def channel(script: Script) -> None:
    script.send("channel")


def lost_name(script: Script) -> None:
    fd = script.file(b"lost")
    script.send("unlinkat", dir_fd=script.root, name=b"lost", flags=0)
    script.made("fstat", fd=fd)
    assert script.send("openat", fd=fd, flags=os.O_RDWR).ours.errno == 0


def unlinked_symlink(script: Script) -> None:
    fd = script.walk(b"l")
    script.send("unlinkat", dir_fd=script.root, name=b"l", flags=0)
    assert script.send("readlinkat", fd=fd).ours.value == b"a"


def rename_missing(script: Script) -> None:
    root = script.root
    script.send("renameat", old_dir=root, old_name=b"missing", new_dir=root, new_name=b"missing")


def long_path(script: Script) -> None:
    script.send("bindat", dir_fd=script.root, name=b"n" * 107, **BOUND)


def moved(script: Script, make: Callable[[bytes], Ref], name: bytes) -> Ref:
    """The FD of a file that Go has lost: the end of an older one of its name takes it out of Go's tree."""
    first = make(name)
    how = 0x200 if make == script.directory else 0
    script.send("unlinkat", dir_fd=script.root, name=name, flags=how)
    second = make(name)
    script.send("close", fds=[first])
    script.send("renameat", old_dir=script.root, old_name=name, new_dir=script.root, new_name=name + b" moved")
    return second


def lost_directory(script: Script) -> None:
    fd = moved(script, script.directory, b"directory")
    script.send("bindat", dir_fd=fd, name=b"s", **BOUND)


def lost_symlink(script: Script) -> None:
    def make(name: bytes) -> Ref:
        return script.made("symlinkat", dir_fd=script.root, name=name, uid=NO_ID, gid=NO_ID, target=b"a")

    script.setstat(moved(script, make, b"symlink"), MTIME | ATIME, mtime=(2, 0))


def lost_target(script: Script) -> None:
    """A file that was renamed is looked for under its old name."""

    def make(name: bytes) -> Ref:
        made = {"mode": stat.S_IFREG | 0o644, "uid": NO_ID, "gid": NO_ID, "minor": 0, "major": 0}
        return script.made("mknodat", dir_fd=script.root, name=name, **made)

    fd = moved(script, make, b"target")
    assert script.send("linkat", dir_fd=script.root, target_fd=fd, name=b"linked").ours.errno == 0


def set_id(script: Script) -> None:
    made = script.send("opencreateat", dir_fd=script.root, name=b"suid", mode=0o6755, uid=1, gid=2, flags=os.O_RDWR)
    assert stat.S_IMODE(made.ours.value.inode.stat.mode) == 0o6755
    script.setstat(Ref(made.step.number, 0), UID | MODE, uid=3, mode=0o4711)


def chown_nothing(script: Script) -> None:
    script.setstat(script.walk(b"setid"), UID, uid=NO_ID)


def set_id_written(script: Script) -> None:
    fd = script.made("openat", fd=script.walk(b"setid"), flags=os.O_WRONLY)
    script.setstat(script.walk(b"setid"), MODE, mode=0o6755)
    after = script.send("pwrite", fd=fd, offset=0, data=b"changed").ours.after
    assert after and stat.S_IMODE(after.mode) == 0o755


def closed_listener(script: Script) -> None:
    script.bind(b"bound")
    listener = script.bind(b"closed")
    fd = script.walk(b"closed")
    script.send("close", fds=[listener, _second(listener)])
    script.send("connect", fd=fd, sock_type=socket.SOCK_STREAM)


def bound_fstat(script: Script) -> None:
    script.send("fstat", fd=_second(script.bind(b"bound 2")))


def bound_control(script: Script) -> None:
    script.send("fstat", fd=script.bind(b"bound 3"))


def bound_link(script: Script) -> None:
    script.send("linkat", dir_fd=script.root, target_fd=script.bind(b"bound 4"), name=b"hard")


def socket_times(script: Script) -> None:
    script.setstat(script.walk(SILENT), ATIME | MTIME, mtime=(3, 0))


def bound_xattr(script: Script) -> None:
    script.send("fgetxattr", fd=script.bind(b"bound 5"), name=b"trusted.x", size=0)


def set_xattr(script: Script) -> None:
    script.send("fsetxattr", fd=script.root, name=b"trusted.x", value=b"value", flags=0)


def symlink_xattr(script: Script) -> None:
    script.send("fgetxattr", fd=script.walk(b"d", b"l"), name=b"trusted.x", size=0)


def bind_read_only(script: Script) -> None:
    script.send("bindat", READ_ONLY, dir_fd=script.read_only, name=b"never", **BOUND)


def small_count(script: Script) -> None:
    script.send("page", open_fd=script.made("openat", fd=script.walk(b"many"), flags=0), count=-20)


def least_count(script: Script) -> None:
    script.send("page", open_fd=script.made("openat", fd=script.walk(b"many"), flags=0), count=-(1 << 31))


def no_bytes(script: Script) -> None:
    script.send("pread", fd=script.made("openat", fd=script.walk(b"a"), flags=0), offset=1 << 63, count=0)


def wide_mode(script: Script) -> None:
    fd = script.made("openat", fd=script.walk(b"big"), flags=os.O_RDWR)
    script.send("fallocate", fd=fd, mode=1 << 32, offset=0, length=4096)


def access_mode_3(script: Script) -> None:
    script.send("openat", fd=script.walk(b"a"), flags=3)


def far_walk(script: Script) -> None:
    """Over the socket: over a channel the Go gofer faults, and says EREMOTEIO."""
    script.send("walk", dir_fd=script.root, path=[b"missing"] * 15000)


def trailing_bytes(script: Script) -> None:
    script.send("fstat", fd=script.root, extra=b"more")


def device_read(script: Script) -> None:
    script.send("pread", fd=script.made("openat", fd=script.walk(b"null"), flags=0), offset=0, count=1)


def fifo_sync(script: Script) -> None:
    script.send("fsync", fds=[script.made("openat", fd=script.walk(FIFO), flags=0)])


def whiteout(script: Script) -> None:
    made: dict[str, Any] = {"mode": stat.S_IFCHR, "uid": NO_ID, "gid": NO_ID, "minor": 0, "major": 0}
    script.send("mknodat", dir_fd=script.root, name=b"whiteout", **made)


def symlink_size(script: Script) -> None:
    script.setstat(script.walk(b"d", b"l"), SIZE)


def symlink_mode(script: Script) -> None:
    script.setstat(script.walk(b"d", b"l"), MODE)


def symlink_both(script: Script) -> None:
    script.setstat(script.walk(b"d", b"l"), MODE | SIZE)


def long_name(script: Script) -> None:
    script.send("unlinkat", dir_fd=script.root, name=b"l" * 256, flags=1)


def nul(script: Script) -> None:
    script.send("linkat", dir_fd=script.root, target_fd=script.root, name=b"a\0b")


def xattr_of_nothing(script: Script) -> None:
    script.send("fgetxattr", fd=10**9, name=b"user.x", size=0)


# In the order of the table.
SEQUENCES: list[Callable[[Script], None]] = [
    *(statx, statx, messages, channel),
    *(lost_name, unlinked_symlink, rename_missing, long_path, lost_directory, lost_target, lost_symlink),
    *(set_id, chown_nothing, set_id_written),
    *(closed_listener, bound_fstat, bound_control, bound_link, bound_xattr, socket_times, bind_read_only),
    *(small_count, least_count, no_bytes, wide_mode, access_mode_3, far_walk, trailing_bytes),
    *(set_xattr, symlink_xattr),
    *(device_read, fifo_sync, whiteout),
    *(symlink_size, symlink_mode, symlink_both, long_name, nul),
    xattr_of_nothing,
]
