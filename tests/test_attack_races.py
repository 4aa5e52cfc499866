"""Races that try to lead the server out of its tree, or to a file it must not open.

Two processes swap names all the time, one on the host and one through a connection of its own: a directory, a file and a
socket of the tree with symlinks to their like outside, a file with a FIFO and with a device. Meanwhile a client does
everything a client can do, over both transports. The server runs without a jail: it is not a root of its own that is tried
here, but that no name is resolved twice.

The witness is inotify: of what lies outside, nothing may be opened, read, changed, linked or listed, not even once.
"""

import contextlib
import ctypes
import errno
import os
import random
import signal
import socket
import stat as modes
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from conftest import Start
from hosts import TRANSPORTS
from watch import events_of, opens_of

from gofer.conform.codec import ATIME, GID, MODE, MTIME, SIZE, UID
from gofer.conform.peer import Peer

EXCHANGE = 2
SECRET, INSIDE = b"outside of the tree", b"inside"
# What is swapped with what: in the tree, and in its directory.
PAIRS = [
    ("dir", "to-dir"),
    ("file", "to-file"),
    ("sock", "to-sock"),
    ("file", "fifo"),
    ("file", "device"),
    ("dir", "file"),
]
DEEPER = [("sub", "to-sub"), ("file", "sub"), ("f", "to-sub")]
EXPECTED = {
    errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL, errno.ESTALE, errno.EPERM,
    errno.ENOTSOCK, errno.ECONNREFUSED, errno.EADDRINUSE, errno.EOPNOTSUPP, errno.ENODATA, errno.EXDEV, errno.EAGAIN,
    errno.EPROTOTYPE, errno.ELOOP, errno.EBUSY, errno.EACCES,
}  # fmt: skip
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def place(spot: Path) -> Iterator[Path]:
    """tree/ to be served, and outside/, which looks like it."""
    for name in ("tree", "outside"):
        (spot / name / "dir/sub").mkdir(parents=True)
        for file in ("file", "dir/file", "dir/f", "dir/sub/file"):
            (spot / name / file).write_bytes(INSIDE if name == "tree" else SECRET)
    outside = spot / "outside"
    for link, target in (("to-dir", "dir"), ("dir/to-sub", "dir/sub"), ("to-file", "file"), ("to-sock", "sock")):
        os.symlink(outside / target, spot / "tree" / link)
    os.mkfifo(spot / "tree/fifo")
    os.mknod(spot / "tree/device", modes.S_IFCHR | 0o666, os.makedev(1, 5))
    with socket.socket(socket.AF_UNIX) as inner, socket.socket(socket.AF_UNIX) as listener:
        inner.bind(str(spot / "tree/sock"))
        inner.listen(1)
        listener.bind(str(outside / "sock"))
        listener.listen(5)
        listener.setblocking(False)
        yield spot
        with pytest.raises(BlockingIOError):
            listener.accept()[0].close()


@contextlib.contextmanager
def forked(work: Callable[[], None]) -> Iterator[None]:
    """work in a loop in a process of its own, until the body ends."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    try:
        yield
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the attacker has failed"
    finally:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


@contextlib.contextmanager
def swaps_on_the_host(tree: Path) -> Iterator[None]:
    """By fds on the two directories: a path would lead this process itself through the links it makes."""
    here, below = os.open(tree, os.O_PATH), os.open(tree / "dir", os.O_PATH)
    swaps = [(here, a.encode(), b.encode()) for a, b in PAIRS] + [(below, a.encode(), b.encode()) for a, b in DEEPER]

    def work() -> None:
        for directory, one, other in swaps:
            _libc.renameat2(directory, one, directory, other, EXCHANGE)

    with forked(work):
        yield
    os.close(here)
    os.close(below)

    return work


def swaps_by_a_client(peer: Peer) -> Callable[[], None]:
    def work() -> None:
        for one, other in random.sample(PAIRS, 3):
            with contextlib.suppress(OSError):
                peer.renameat2(peer.root, one, peer.root, other, EXCHANGE)

    return work


class Explorer:
    """A client that takes whatever it is given, and uses it in every way there is."""

    def __init__(self, peer: Peer) -> None:
        self.peer, self.rng = peer, random.Random(1)
        self.found: dict[str, int] = {}

    def round(self) -> None:
        peer = self.peer
        for path in (["dir"], ["dir", "file"], ["dir", "sub", "file"], ["file"], ["sock"]):
            inodes = self.tried(lambda path=path: peer.walk(peer.root, *path)[1]) or []
            self.tried(lambda path=path: peer.walkstat(peer.root, *path))
            for inode in inodes:
                kind = modes.S_IFMT(inode.stat.mode)
                self.found[oct(kind)] = self.found.get(oct(kind), 0) + 1
                self.USES.get(kind, Explorer.link)(self, inode.fd)
                self.attributes(inode.fd)
            peer.close(*(inode.fd for inode in inodes))
        for fd in peer.disown(peer.owned[:]):
            os.close(fd)

    def tried(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except OSError as e:
            assert e.errno in EXPECTED, e
            return None

    def discard(self, made: object) -> None:
        """Close the FDs that a message has made."""
        for each in (getattr(made, "inode", None), made):
            if hasattr(each, "fd"):
                self.peer.close(each.fd)  # type: ignore[union-attr]

    def directory(self, fd: int) -> None:
        peer, new = self.peer, f"new{self.rng.randrange(3)}"
        opened = self.tried(lambda: peer.openat(fd).fd)
        if opened:
            assert b"outside" not in {entry.name for entry in peer.getdents64(opened)}
            peer.close(opened)
        for call in (
            lambda: peer.opencreateat(fd, new, uid=5, gid=6), lambda: peer.mkdirat(fd, new), lambda: peer.mknodat(fd, new),
            lambda: peer.symlinkat(fd, new, "/etc"), lambda: peer.bindat(fd, new), lambda: peer.unlinkat(fd, new),
            lambda: peer.renameat(fd, "file", fd, new), lambda: peer.renameat(fd, new, fd, "file"),
            lambda: peer.renameat2(fd, "sub", fd, "to-sub", EXCHANGE), lambda: peer.unlinkat(fd, new, 0x200),
        ):  # fmt: skip
            self.discard(self.tried(call))

    def file(self, fd: int) -> None:
        peer = self.peer
        opened = self.tried(lambda: peer.openat(fd, os.O_RDWR))
        if opened:
            assert SECRET not in peer.pread(opened.fd, 0, 100)  # type: ignore[attr-defined]
            for donated in opened.donated:  # type: ignore[attr-defined]
                assert SECRET not in os.pread(donated, 100, 0)
                os.pwrite(donated, INSIDE, 0)
            peer.pwrite(opened.fd, 0, INSIDE)  # type: ignore[attr-defined]
            peer.close(opened.fd)  # type: ignore[attr-defined]
        self.discard(self.tried(lambda: peer.linkat(peer.root, fd, "hard")))
        self.tried(lambda: peer.unlinkat(peer.root, "hard"))

    def socket(self, fd: int) -> None:
        self.tried(lambda: self.peer.connect(fd))
        self.tried(lambda: self.peer.connectwithcreds(fd, 5, 6))

    def link(self, fd: int) -> None:
        for call in (
            lambda: self.peer.readlinkat(fd), lambda: self.peer.openat(fd, os.O_RDWR), lambda: self.peer.walk(fd, "file"),
            lambda: self.peer.opencreateat(fd, "new"), lambda: self.peer.connect(fd),
            lambda: self.peer.linkat(self.peer.root, fd, "hard"), lambda: self.peer.unlinkat(self.peer.root, "hard"),
        ):  # fmt: skip
            self.discard(self.tried(call))

    def attributes(self, fd: int) -> None:
        everything = MODE | UID | GID | SIZE | ATIME | MTIME
        self.tried(lambda: self.peer.setstat(fd, everything, mode=0o777, uid=0, gid=0, size=len(INSIDE)))
        self.tried(lambda: self.peer.fsetxattr(fd, "user.a", b"value"))
        self.tried(lambda: self.peer.flistxattr(fd))

    USES = {modes.S_IFDIR: directory, modes.S_IFREG: file, modes.S_IFSOCK: socket}


def state_of(outside: Path) -> list[object]:
    """All but times of access, which looking changes."""
    state: list[object] = []
    for path in [outside, *sorted(outside.rglob("*"))]:
        s = os.lstat(path)
        state.append(
            (path, s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_nlink, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        )
    return state


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_no_race_reaches_anything_outside_or_opens_what_must_not_be(start: Start, place: Path, seconds: int) -> None:
    """CVE-2016-9602, CVE-2026-93834, 65a26689c, a7402ea5d, 573a9e73c."""
    outside, tree = place / "outside", place / "tree"
    server = start("--jail", "off", "--host-uds", "all", "--xattrs", "all", tree=tree)
    before = state_of(outside)
    explorers: list[Explorer] = []
    with contextlib.ExitStack() as stack:
        events = stack.enter_context(events_of(outside, *outside.rglob("*")))
        opens = stack.enter_context(opens_of(tree / "fifo", tree / "device"))
        other = stack.enter_context(server.peer("channel"))
        for transport in TRANSPORTS:
            explorers.append(Explorer(stack.enter_context(server.peer(transport))))
        stack.enter_context(swaps_on_the_host(tree))
        stack.enter_context(forked(swaps_by_a_client(other)))
        end = time.monotonic() + seconds
        while time.monotonic() < end or not raced(explorers):
            for explorer in explorers:
                explorer.round()
        assert events.seen() == []
        assert opens.seen() == 0
    assert state_of(outside) == before


def raced(explorers: "list[Explorer]") -> bool:
    """Whether each met each kind of file where another had been, however slow the machine."""
    kinds = {oct(modes.S_IFDIR), oct(modes.S_IFREG), oct(modes.S_IFLNK)}
    return all(kinds <= set(explorer.found) for explorer in explorers)


def test_the_witness_sees_what_it_is_to_see(place: Path) -> None:
    outside = place / "outside"
    for touch in (
        lambda: (outside / "file").read_bytes(), lambda: os.listdir(outside / "dir"), lambda: (outside / "new").touch(),
        lambda: os.link(outside / "file", place / "hard"), lambda: os.chmod(outside / "dir/sub", 0o700),
        lambda: (outside / "new").unlink(), lambda: os.utime(outside / "file"),
    ):  # fmt: skip
        with events_of(outside, *outside.rglob("*")) as events:
            touch()
            assert events.seen() != []


def test_files_that_turn_into_fifos_and_devices_are_never_opened(start: Start, place: Path) -> None:
    """As above, by itself and faster: between Walk and OpenAt the name changes what it means."""
    tree = place / "tree"
    server = start("--jail", "off", tree=tree)
    kinds: set[int] = set()

    def swap() -> None:
        for other in ("fifo", "device"):
            _libc.renameat2(-100, os.fsencode(tree / "file"), -100, os.fsencode(tree / other), EXCHANGE)

    with opens_of(tree / "fifo", tree / "device") as opens, server.peer("channel") as peer, forked(swap):
        rounds = 0
        while rounds < 1000 or len(kinds) < 3:
            rounds += 1
            _, inodes = peer.walk(peer.root, "file")
            kind = modes.S_IFMT(inodes[0].stat.mode)
            kinds.add(kind)
            try:
                peer.close(peer.openat(inodes[0].fd, os.O_RDWR).fd)
                assert kind == modes.S_IFREG
            except PermissionError:
                assert kind != modes.S_IFREG
            peer.close(inodes[0].fd)
            for fd in peer.disown(peer.owned[:]):
                os.close(fd)
        assert opens.seen() == 0
