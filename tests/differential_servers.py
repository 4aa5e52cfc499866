"""A `runsc gofer` of Debian's and ours, side by side: two copies of one tree, three connections to each, both transports.

Connections 0 and 1 may write, connection 2 is read-only. Nothing here needs pytest: differential.py runs by hand.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import newer
from hosts import children

from gofer.conform.codec import Mounted, Name
from gofer.conform.peer import Peer, over_channel
from gofer.conform.peer2021 import Peer2021
from gofer.conform.transport import PATIENCE, SocketTransport

CHECKOUT = Path(__file__).resolve().parent.parent
# What a Go gofer always opens, ours must be told.
OURS = ["--host-uds=all", "--host-fifo=open", "--char-devices=open", "--quiet"]
OURS += [f"--channels={min(4, max(2, len(os.sched_getaffinity(0))))}"]  # as Go's runtime counts CPUs
RUNSC = ["--TESTONLY-unsafe-nonroot", "--network=none", "--host-uds=all", "--host-fifo=open"]
CONNECTIONS, READ_ONLY = 3, 2
TRANSPORTS = ("socket", "channel")
FIFO, LISTENING, SILENT = b"fifo", b"listening", b"silent"  # what is special at the top of the tree
MANY = 700  # names in a directory that takes several reads
LONG_PATH = 108  # bytes of a path that the Go gofer cannot bind or connect to
FAULTS = re.compile("Traceback|fault in|channel failed|panic")


class Release(NamedTuple):
    """A runsc whose own gofer is driven here, and how it differs from the others in what it is told, and in what it does."""

    year: str
    program: str
    flags: tuple[str, ...]  # before the word gofer
    words: tuple[str, ...]  # after it
    ours: tuple[str, ...]  # what our gofer is told beside it
    links_by_path: bool  # LinkAt looks for its target where the name was; before, it kept a reference to it for ever


OLDER = Release("2022", "runsc", (), (), ("--xattrs=none",), False)
NO_OVERLAYS = f"--gofer-mount-confs={','.join(['lisafs:none'] * CONNECTIONS)}"
NEWER = Release("2024", str(newer.RUNSC), ("--directfs=false",), (NO_OVERLAYS,), ("--xattrs=all",), True)
RELEASES = {release.year: release for release in (OLDER, NEWER)}


class Probe(Peer):
    """A peer that can also say what no client would: cut or lengthened requests, unknown messages."""

    cut = 0  # bytes to take from the end of each payload
    extra = b""  # bytes to put there

    def call(self, mid: int, payload: bytes = b"") -> Any:
        return super().call(mid, payload[: len(payload) - self.cut] + self.extra)

    def unknown(self, mid: int, payload: bytes) -> None:
        self.call(mid, payload)

    def listing(self, open_fd: int, count: int) -> frozenset[tuple[bytes, int, tuple[int, int]]]:
        """The whole directory, `count` bytes at a time; {(name, type, device)}. In what order it comes is its own affair."""
        entries = self.getdents64(open_fd, -count)
        more = entries
        while more:
            more = self.getdents64(open_fd, count)
            entries += more
        names = [entry.name for entry in entries]
        assert len(set(names)) == len(names), "an entry came twice"
        assert not {b".", b".."} & set(names)
        return frozenset((entry.name, entry.type, entry.dev) for entry in entries)

    def page(self, open_fd: int, count: int) -> bool:
        """One Getdents64, wherever the directory's position is: whether there was anything."""
        return bool(self.getdents64(open_fd, count))


class Probe2021(Probe, Peer2021):
    """The same, in that dialect."""

    mounted: Optional[Mounted] = None

    def mount(self, path: Name = "/") -> Mounted:
        """There is one."""
        self.mounted = self.mounted or super().mount(path)._replace(supported=[*range(1, 34)])  # 29 to 33: test_2021.py
        return self.mounted

    def renameat(self, old_dir: int, old_name: Any, new_dir: int, new_name: Any) -> None:
        """By an FD of the file, which is walked to; what is wrong is told in the order in which today's RenameAt tells it."""
        try:
            self.rename_fd(0, new_dir, new_name)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        self.cut, self.extra = 0, b""
        found = self.walk(old_dir, old_name)[1]
        try:
            self.walk(new_dir)
            if not found:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self.rename_fd(found[0].fd, new_dir, new_name)
        finally:
            self.close(*(inode.fd for inode in found))


class Match(NamedTuple):
    """Who is compared with whom: the release of Go's gofer, and what is spoken with ours."""

    release: Release = OLDER
    ours: type[Probe] = Probe


class Side:
    """One of the two servers, the tree it serves, and our connections to it, [connection][transport]."""

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        self.tree = place / name
        self.log = place / (name + ".log")
        self.processes: list[subprocess.Popen[bytes]] = []
        self.peers: list[dict[str, Probe]] = []
        self._kept: list[int] = []  # fds that hold FIFOs and sockets of the tree alive
        self._sockets: list[socket.socket] = []
        make_tree(self.tree)
        self._keep_alive()

    def connect(self, ends: Sequence[socket.socket], kind: type[Probe] = Probe) -> None:
        """Mount each connection, and open one channel beside it."""
        for end in ends:
            base = kind(SocketTransport(end))
            self.peers.append({"socket": base})
            base.mount()
            other = over_channel(base)
            self.peers[-1]["channel"] = other  # type: ignore[assignment]

    def spawn(self, argv: Sequence[str], fds: Sequence[int]) -> None:
        with open(self.log, "ab") as log:
            self.processes.append(
                subprocess.Popen(argv, pass_fds=fds, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def close(self) -> None:
        """Hang up; the servers then end by themselves, with status 0."""
        try:
            for peers in reversed(self.peers):
                for transport in reversed(TRANSPORTS):
                    if transport in peers:
                        peers[transport].disconnect()
            self.peers.clear()
            statuses = [process.wait(PATIENCE) for process in self.processes]
            assert not any(statuses), f"{self.name} ended with {statuses}: {self.said()}"
            assert self.name == "go" or not FAULTS.search(self.said()), self.said()
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            for fd in self._kept:
                os.close(fd)
            for sock in self._sockets:
                sock.close()

    def said(self) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-4000:]

    def find(self, ino: int) -> Path:
        """A path that leads to an inode of the tree, by search."""
        if os.stat(self.tree).st_ino == ino:
            return self.tree
        for base, directories, files in os.walk(self.tree):
            for name in (*directories, *files):
                if os.lstat(os.path.join(base, name)).st_ino == ino:
                    return Path(base, name)
        raise AssertionError(f"{self.name}: nothing in the tree is inode {ino}")

    def has(self, ino: int) -> bool:
        """Whether it still has a name."""
        try:
            return bool(self.find(ino))
        except AssertionError:
            return False

    def held(self, ino: int) -> str:
        """A path that leads to a file which the server holds open, whether it has a name or not."""
        wanted = os.stat(self.tree).st_dev, ino
        for pid in self._pids():
            for fd in os.listdir(f"/proc/{pid}/fd"):
                path = f"/proc/{pid}/fd/{fd}"
                try:
                    found = os.stat(path)
                    if (found.st_dev, found.st_ino) == wanted:
                        return path
                except FileNotFoundError:
                    pass
        raise AssertionError(f"{self.name} does not hold inode {ino}")

    def accept_all(self) -> None:
        """Make room for the next: a connect(2) that waits would hang the Go gofer (section 6, item 12)."""
        for listener in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    listener.accept()[0].close()

    def _pids(self) -> list[int]:
        """Of the processes started, each followed by all below it: ours serves in children, and read-only in the last."""
        found = [process.pid for process in self.processes]
        for at, pid in enumerate(found):
            found[at + 1 : at + 1] = children(pid)
        return found

    def _keep_alive(self) -> None:
        """Both ends of the FIFO, so that no open(2) of it waits, a listener, and a socket that nobody listens on."""
        self._kept.append(os.open(self.tree / os.fsdecode(FIFO), os.O_RDWR))
        for name in (LISTENING, SILENT):
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(str(self.tree / os.fsdecode(name)))
            if name == LISTENING:
                sock.listen(100)
                sock.setblocking(False)
                self._sockets.append(sock)
            else:
                sock.close()


class Pair:
    """Both servers, started on equal trees; a context manager that leaves nothing behind."""

    def __init__(self, match: Match) -> None:
        # A tmpfs: its inode numbers are not used again, so that the two servers' can be matched one to one.
        self.place = Path(tempfile.mkdtemp(prefix="gofer-differential-", dir="/dev/shm"))
        self.sides: list[Side] = []
        try:
            self.sides = [Side("go", self.place), Side("ours", self.place)]
            ends = [spawn_go(self.sides[0], self.place, match.release), spawn_ours(self.sides[1], match.release)]
            for side, sockets, kind in zip(self.sides, ends, (Probe, match.ours)):
                side.connect(sockets, kind)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self._end()
            return
        try:
            self._end()
        except (AssertionError, subprocess.TimeoutExpired):
            pass  # what the body raised says more

    def _end(self) -> None:
        try:
            for side in self.sides:
                side.close()
        finally:
            shutil.rmtree(self.place)


def spawn_go(side: Side, place: Path, release: Release) -> list[socket.socket]:
    """`runsc gofer` as runsc would start it, short of namespaces. Bind mounts on "/" serve the same tree once more."""
    ends, theirs = _socketpairs()
    mounts = [{"destination": "/", "type": "bind", "source": str(side.tree), "options": [how]} for how in ("rw", "ro")]
    root = {"path": str(side.tree)}
    spec = {"ociVersion": "1.0.0", "process": {"args": ["true"], "cwd": "/"}, "root": root, "mounts": mounts}
    (place / "config.json").write_text(json.dumps(spec))
    with open(place / "config.json", "rb") as config, open(os.devnull, "wb") as null:
        argv = [release.program, *release.flags, *RUNSC, "gofer", f"--bundle={place}", *release.words]
        argv += ["--setup-root=false", "--apply-caps=false"]
        argv += [f"--spec-fd={config.fileno()}", f"--mounts-fd={null.fileno()}", *(f"--io-fds={fd}" for fd in theirs)]
        side.spawn(argv, [*theirs, config.fileno(), null.fileno()])
    _close(theirs)
    return ends


def spawn_ours(side: Side, release: Release) -> list[socket.socket]:
    """Two processes, as `--read-only` is for all connections of one."""
    ends, theirs = _socketpairs()
    for fds, more in ((theirs[:READ_ONLY], []), (theirs[READ_ONLY:], ["--read-only"])):
        argv = [sys.executable, str(CHECKOUT), "serve", str(side.tree), *OURS, *release.ours, *more]
        side.spawn([*argv, *(f"--fd={fd}" for fd in fds)], fds)
    _close(theirs)
    return ends


def _socketpairs() -> tuple[list[socket.socket], list[int]]:
    pairs = [socket.socketpair() for _ in range(CONNECTIONS)]
    return [mine for mine, _ in pairs], [theirs.detach() for _, theirs in pairs]


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def make_tree(tree: Path) -> None:
    """A little of everything; the same each time."""
    tree.mkdir()
    for name, mode, gid in (
        ("d", 0o755, 0),
        ("e", 0o2775, 100),
        ("f", 0o1777, 0),
        ("d/d", 0o700, 0),
        ("many", 0o755, 0),
    ):
        (tree / name).mkdir()
        os.chown(tree / name, 0, gid)
        os.chmod(tree / name, mode)
    for i in range(MANY):
        (tree / "many" / f"entry-{i:04}{'x' * (i % 90)}").touch()
    (tree / "a").write_bytes(bytes(range(256)) * 40)
    os.link(tree / "a", tree / "d/a")
    (tree / "b").touch()
    (tree / "big").write_bytes(b"0123456789abcdef" * 20000)
    (tree / "setid").write_bytes(b"#!")
    os.chmod(tree / "setid", 0o6755)
    for name, target in (("l", "a"), ("d/l", "../e"), ("e/l", "nowhere/at/all")):
        os.symlink(target, tree / name)
    os.mkfifo(tree / os.fsdecode(FIFO), 0o644)
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(tree / "block", stat.S_IFBLK | 0o600, os.makedev(240, 1))  # a number for local use: no driver behind it
    os.setxattr(tree / "a", "trusted.differential", b"kept")
