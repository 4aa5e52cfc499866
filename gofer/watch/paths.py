"""Which file a request is about: paths of FDs, remembered from what a trace says, and only where one is read.

They are what the client called the files, from the root of its mount on: where the host, or another client, has moved a file
since, they are old. b"?" stands for what the trace does not tell.
"""

from __future__ import annotations

from gofer import wire
from gofer.watch import messages
from gofer.watch.record import CLIENT, GONE, KNOWN, RPC, START, Client, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.watch.messages import Field

UNKNOWN = b"?"
_MAKES = frozenset(
    (wire.OPENCREATEAT, wire.MKDIRAT, wire.MKNODAT, wire.SYMLINKAT, wire.LINKAT, wire.BINDAT, wire.UNLINKAT, wire.DIRWALK)
)
_NEW = ("control_fd", "open_fd", "bound_fd")  # of a reply: FDs on the file that the request is about
_MOST = 200_000  # FDs remembered of one connection: a trace may have lost their Close


class Peer:
    """A connection in a trace. fileno: its name in the logs."""

    __slots__ = ("fds", "fileno", "old", "pid", "uid", "worker")

    def __init__(self) -> None:
        self.fds: dict[int, bytes] = {}
        self.fileno = self.pid = self.uid = self.worker = -1
        self.old = False


class Seen:
    """An RPC, read. fields, answer: what was asked and answered; paths: the files it is about."""

    __slots__ = ("answer", "entry", "fields", "paths", "peer")

    def __init__(self, entry: Entry, peer: Peer) -> None:
        self.entry = entry
        self.peer = peer
        self.fields = messages.request(entry.mid, entry.request, entry.asked, peer.old)
        self.answer: list[Field] = []
        if not entry.errno:
            self.answer = messages.reply(entry.mid, entry.reply, entry.answered, peer.old)
        self.paths: list[bytes] = []

    @property
    def name(self) -> str:
        return messages.NAMES.get(self.entry.mid, f"message {self.entry.mid}")


class Paths:
    """Reads the records of a trace in their order."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}

    def read(self, entry: Entry) -> Seen | None:
        """What an RPC is about; None for a record that is none."""
        if entry.kind == RPC:
            peer = self.peers.get(entry.conn) or self.peers.setdefault(entry.conn, Peer())
            seen = Seen(entry, peer)
            seen.paths = _follow(seen, peer.fds)
            if len(peer.fds) > _MOST:
                peer.fds.clear()
            return seen
        if entry.kind == CLIENT and len(entry.request) == Client.size:
            peer = self.peers.setdefault(entry.conn, Peer())
            peer.fileno, peer.pid, peer.uid, peer.worker, dialect = Client.unpack(entry.request)
            peer.old = dialect == 2021
        elif entry.kind == KNOWN:
            self.peers.setdefault(entry.conn, Peer()).fds[int.from_bytes(entry.request[:8], "little")] = entry.request[8:]
        elif entry.kind == GONE:
            self.peers.pop(entry.conn, None)
        elif entry.kind == START:
            self.peers.clear()
        return None


def below(directory: bytes, *names: bytes) -> bytes:
    path = b"/".join((directory.rstrip(b"/"), *names)) if names else directory
    return path or b"/"


def _follow(seen: Seen, fds: dict[int, bytes]) -> list[bytes]:
    """The paths of the files that a request is about; fds becomes what it is after it."""
    mid, done = seen.entry.mid, not seen.entry.errno
    named: dict[str, Any] = {name: value for name, value in seen.fields if name}
    rest: list[Any] = [value for name, value in seen.fields if not name]
    if mid == wire.MOUNT:
        paths = [b"/"]
    elif mid == wire.CLOSE:
        return _forget(fds, rest) if done else []
    elif mid == wire.FSYNC:
        return [fds.get(fd, UNKNOWN) for fd in _listed(rest)]
    elif mid in (wire.RENAMEAT, wire.RENAMEAT2):
        return _rename(named, rest, fds, done)
    else:
        fd = next((value for name, value in named.items() if name.endswith("fd")), None)
        if not isinstance(fd, int):
            return []
        paths = [fds.get(fd, UNKNOWN)]
        if mid in (wire.WALK, wire.WALKSTAT):
            names = [name for name in _listed(rest) if name]
            if done and mid == wire.WALK:
                _walked(seen.answer, fds, paths[0], names)
            return [below(paths[0], *names)]
        if mid in _MAKES and rest and isinstance(rest[0], bytes) and rest[0]:
            paths = [below(paths[0], rest[0])]
    for name, value in seen.answer:
        if name in _NEW and isinstance(value, int) and value:
            fds[value] = paths[0]
    return paths


def _listed(rest: list[Any]) -> list[Any]:
    return rest[0] if rest and isinstance(rest[0], list) else []


def _forget(fds: dict[int, bytes], rest: list[Any]) -> list[bytes]:
    return [fds.pop(fd, UNKNOWN) for fd in _listed(rest)]


def _walked(answer: list[Field], fds: dict[int, bytes], path: bytes, names: list[bytes]) -> None:
    found = next((value for name, value in answer if not name), [])
    for name, (fd, _) in zip(names, found if isinstance(found, list) else ()):
        path = below(path, name)
        fds[fd] = path


def _rename(named: dict[str, Any], rest: list[Any], fds: dict[int, bytes], done: bool) -> list[bytes]:
    names = [name for name in rest if isinstance(name, bytes)]
    if "renamed_fd" in named and names:  # in 2021
        old = fds.get(named["renamed_fd"], UNKNOWN)
    elif len(names) > 1:
        old = below(fds.get(named.get("old_dir", 0), UNKNOWN), names[0])
    else:
        return []
    new = below(fds.get(named.get("new_dir", 0), UNKNOWN), names[-1])
    if done and UNKNOWN not in (old[:1], new[:1]):
        for fd, path in fds.items():
            if path == old or path.startswith(old + b"/"):
                fds[fd] = new + path[len(old) :]
    return [old, new]
