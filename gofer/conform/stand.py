"""Where a case stands: a connection, a directory of its own, and what is known of the server (its features).

A feature is found out by asking for it once, and is the opposite of its `no-` form: a server that opens no FIFOs must
refuse them, and one that does must open them without waiting.

    host            the directory is at hand: what no message makes can be put there
    connections     there can be more than one at a time
    writable        (no-writable: a read-only mount)
    owners          files can be given away, as root
    donates         OpenAt of a regular file gives an fd on it
    fifos devices connect bind      these are opened, connected to, made
    xattrs          user.* are there;  all-xattrs: trusted.* as well
    channels        one can be made
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat as modes
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from gofer.conform.case import Skipped
from gofer.conform.codec import NO_ID, UID, NotOffered, Unexpected, expect
from gofer.conform.ground import Ground, HostGround, ServedGround
from gofer.conform.peer import Peer, over_channel
from gofer.conform.peer2021 import Peer2021
from gofer.conform.transport import ChannelTransport, SocketTransport

KINDS: dict[str, type[Peer]] = {"today": Peer, "2021": Peer2021}
FEATURES = (
    "host connections writable owners donates fifos devices connect bind xattrs all-xattrs channels".split()
)


class Stand:
    """For one case. peer: by the way under test; base: the same connection's socket. dir: an empty directory, its own."""

    def __init__(
        self,
        connect: Callable[[bool], Peer],
        base: Peer,
        peer: Peer,
        way: str,
        dialect: str,
        features: frozenset[str],
        host: Path | None,
        name: str,
    ) -> None:
        self._connect, self._more = connect, contextlib.ExitStack()
        self.base, self.peer, self.way, self.dialect, self.features = base, peer, way, dialect, features
        self.patience = peer.transport.patience
        self.name = name
        self.ground: Ground
        if host is not None:
            os.mkdir(host / name)
            os.chmod(host / name, 0o755)
            self.ground = HostGround(host / name)
            self.dir = walked(base, base.root, name)
        else:
            self._make(base, name)

    def _make(self, base: Peer, name: str) -> None:
        try:
            self.dir = base.mkdirat(base.root, name).fd
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            self.dir, name = base.root, ""  # what is there must do
        self.ground = ServedGround(base, base.root, name, self.dir)

    @property
    def root(self) -> int:
        return self.peer.root

    @property
    def tree(self) -> Path:
        """`dir` on the host."""
        if self.ground.tree is None:
            raise Skipped("the served directory is not at hand (--tree)")
        return self.ground.tree

    @property
    def old(self) -> Peer2021:
        """peer, where the dialect is that of 2021."""
        expect(isinstance(self.peer, Peer2021), "this case is for the dialect of 2021")
        return self.peer  # type: ignore[return-value]

    def need(self, feature: str) -> None:
        """For what only some of a case's values ask for."""
        if lack := lacking((feature,), self.features):
            raise Skipped(lack)

    def walk(self, *path: str | bytes) -> int:
        """The control FD of a path from `dir`."""
        return walked(self.peer, self.dir, *path)

    def open(self, name: str, flags: int = os.O_RDONLY) -> int:
        return self.peer.openat(self.walk(name), flags).fd

    def connect(self, way: str = "socket") -> Peer:
        """One more connection, mounted."""
        if "connections" not in self.features:
            raise Skipped("there is only one connection (--connections)")
        peer = self._connect(True)
        self._more.callback(peer.disconnect)
        return peer if way == "socket" else self.channel(peer)

    def unmounted(self) -> Peer:
        """One more connection, on which nothing was said."""
        if "connections" not in self.features:
            raise Skipped("there is only one connection (--connections)")
        peer = self._connect(False)
        self._more.callback(peer.disconnect)
        return peer

    def channel(self, base: Peer | None = None) -> Peer:
        """One more channel."""
        peer = over_channel(base or self.base)
        self._more.callback(peer.disconnect)
        return peer

    def during(self, work: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """A process that does work again and again while the body runs."""
        return _during(work)

    def keep(self, sock: socket.socket) -> socket.socket:
        """It is closed with the case, and waits no longer than anything here."""
        sock.settimeout(self.patience)
        self._more.callback(sock.close)
        return sock

    def clear(self) -> None:
        """What the case has made goes: connections, sockets; its directory too."""
        with contextlib.ExitStack() as last:
            last.callback(self.ground.clear)
            self._more.close()


@contextlib.contextmanager
def _during(work: Callable[[], None]) -> Iterator[None]:
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    try:
        yield
        gone, _ = os.waitpid(pid, os.WNOHANG)
        expect(not gone, "what was to happen meanwhile came to an end")
    finally:
        with contextlib.suppress(ChildProcessError):
            os.kill(pid, 9)
            os.waitpid(pid, 0)


def walked(peer: Peer, start: int, *path: str | bytes) -> int:
    """The FD at the end of a path, which must be there; those on the way are closed."""
    status, inodes = peer.walk(start, *path)
    expect(len(inodes) == len(path), f"a walk to {path!r} stopped with status {status}")
    if len(inodes) > 1:
        peer.close(*(inode.fd for inode in inodes[:-1]))
    return inodes[-1].fd


def socket_of(peer: Peer) -> SocketTransport:
    expect(isinstance(peer.transport, SocketTransport), "this case is for the socket")
    return peer.transport  # type: ignore[return-value]


def channel_of(peer: Peer) -> ChannelTransport:
    expect(isinstance(peer.transport, ChannelTransport), "this case is for a channel")
    return peer.transport  # type: ignore[return-value]


def unmounted_2021(stand: Stand) -> Peer2021:
    peer = stand.unmounted()
    expect(isinstance(peer, Peer2021), "this case is for the dialect of 2021")
    return peer  # type: ignore[return-value]


def probed(stand: Stand) -> frozenset[str]:
    """The features, but for host, connections and channels, which the runner knows."""
    peer = stand.base
    found: set[str] = set()
    try:
        made = peer.opencreateat(stand.dir, "probe")
    except OSError as error:
        if error.errno is None:
            raise
        return frozenset()
    found.add("writable")
    if made.donated:
        found.add("donates")
    file = made.inode.fd

    def attempt(feature: str, work: Callable[[], object]) -> None:
        with contextlib.suppress(NotOffered):
            try:
                work()
                found.add(feature)
            except OSError as error:
                if error.errno is None:
                    raise

    attempt("xattrs", lambda: peer.fsetxattr(file, "user.probe", b"1"))
    attempt("all-xattrs", lambda: peer.fsetxattr(file, "trusted.probe", b"1"))
    attempt("bind", lambda: peer.bindat(stand.dir, "bound"))
    if peer.setstat(file, UID, uid=1234) == (0, 0) and peer.setstat(file, UID, uid=os.getuid(), gid=NO_ID) == (0, 0):
        found.add("owners")
    if stand.ground.tree is not None:
        _probe_host(stand, attempt)
    return frozenset(found)


def _probe_host(stand: Stand, attempt: Callable[[str, Callable[[], object]], None]) -> None:
    tree, peer = stand.tree, stand.base
    os.mkfifo(tree / "fifo")
    both_ends = os.open(tree / "fifo", os.O_RDWR)  # a server may wait for the other one: that is for a case to find out
    try:
        attempt("fifos", lambda: peer.openat(walked(peer, stand.dir, "fifo")))
    finally:
        os.close(both_ends)
    with contextlib.suppress(PermissionError):
        os.mknod(tree / "null", modes.S_IFCHR | 0o666, os.makedev(1, 3))
        attempt("devices", lambda: peer.openat(walked(peer, stand.dir, "null")))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "sock"))
        listener.listen()
        attempt("connect", lambda: peer.connect(walked(peer, stand.dir, "sock")))


def lacking(needs: tuple[str, ...], features: frozenset[str]) -> str:
    """Why a case cannot be asked of this server; "" where it can."""
    for need in needs:
        if need.startswith("no-"):
            if need[3:] in features:
                return f"the server has {need[3:]}"
        elif need not in features:
            return _LACK.get(need, f"the server has no {need}")
        if need.removeprefix("no-") not in FEATURES:
            raise Unexpected(f"{need} is no feature")
    return ""


_LACK = {
    "host": "the served directory is not at hand (--tree, or DIR in the command)",
    "connections": "there is only one connection (--connections)",
    "writable": "the server serves read-only",
    "owners": "files cannot be given away: not as root",
}
