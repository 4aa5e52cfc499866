"""Plays a trace again, against any server: `gofer replay --against SERVER`, or `-- COMMAND`.

Each connection of the trace is one of ours, over its socket; its FDs are mapped to those that the server gives now. What differs
from the recorded reply is told, where it may not: not FDs, inode numbers, times and sizes of directories, which are the tree's.
"""

from __future__ import annotations

import stat
import struct
import time

from gofer import wire, wire2021
from gofer.client.transport import SocketTransport, close_all
from gofer.watch import messages
from gofer.watch.lines import error_name
from gofer.watch.messages import Data, Stat
from gofer.watch.paths import Paths, Seen
from gofer.watch.record import GONE, KNOWN, RPC, Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket
    from typing import Any, Callable

    from gofer.watch.messages import Field
    from gofer.wire import Record

_NOT_PLAYED = {wire.ACCEPT, wire.CHANNEL}  # waits for somebody else; what came over channels is played over the socket
_FDS = frozenset(("fd", "dir_fd", "open_fd", "bound_fd", "control_fd", "old_dir", "new_dir", "target_fd", "renamed_fd"))
_OF_THE_TREE = frozenset(("offset", "length", "type", "bsize", "blocks", "bfree", "bavail", "files", "ffree", "namelen"))
_CHANGING = {wire.MOUNT, wire.CHANNEL, wire.FSTATFS}


class Difference(Exception):
    """What was recorded, and what came now."""


class Unplayable(Exception):
    """It cannot be asked: one of its FDs was not given this time, or the trace does not say what it is."""


class Player:
    """connect: gives a connected socket, for each connection of the trace. timed: requests come when they came; else as fast as
    they are answered.
    """

    def __init__(self, connect: Callable[[], socket], timeout: float, timed: bool = False) -> None:
        self._connect, self._timeout, self._timed = connect, timeout, timed
        self._paths = Paths()
        self._conns: dict[int, _Connection] = {}
        self._began: tuple[int, float] | None = None
        self.played = self.differ = self.skipped = 0

    def play(self, entries: Iterator[Entry]) -> Iterator[tuple[Seen, str]]:
        """Each RPC whose reply differs, with what differs."""
        try:
            for entry in entries:
                if entry.kind == KNOWN:
                    self._connection(entry.conn).find(int.from_bytes(entry.request[:8], "little"), entry.request[8:])
                elif entry.kind == GONE and entry.conn in self._conns:
                    self._conns.pop(entry.conn).close()
                seen = self._paths.read(entry)
                if seen is not None and entry.kind == RPC:
                    why = self._one(seen)
                    if why:
                        self.differ += 1
                        yield seen, why
        finally:
            for conn in self._conns.values():
                conn.close()

    def _one(self, seen: Seen) -> str:
        if seen.entry.mid in _NOT_PLAYED:
            self.skipped += 1
            return ""
        if self._timed:
            self._wait(seen.entry.time)
        try:
            self._connection(seen.entry.conn).ask(seen)
        except Unplayable:
            self.skipped += 1
            return ""
        except Difference as difference:
            self.played += 1
            return str(difference)
        self.played += 1
        return ""

    def _wait(self, when: int) -> None:
        if self._began is None:
            self._began = when, time.monotonic()
        time.sleep(max(0.0, (when - self._began[0]) / 1e9 - (time.monotonic() - self._began[1])))

    def _connection(self, number: int) -> _Connection:
        conn = self._conns.get(number)
        if conn is None:
            conn = self._conns[number] = _Connection(SocketTransport(self._connect(), self._timeout))
        return conn


class _Connection:
    """fds: from those of the trace to those of now."""

    def __init__(self, transport: SocketTransport) -> None:
        self._transport = transport
        self._fds: dict[int, int] = {}

    def close(self) -> None:
        self._transport.close()

    def find(self, fd: int, path: bytes) -> None:
        """An FD that is older than the trace: the file of that path."""
        root = self._fds.get(0)
        if root is None:
            root = self._fds[0] = wire.MountResp.read(self._call(wire.MOUNT, b"")[1])[0]
        names = [name for name in path.split(b"/") if name]
        if not names:
            self._fds[fd] = root
            return
        words = b"".join(wire.Count.bytes(len(name)) + name for name in names)
        mid, payload = self._call(wire.WALK, wire.FDID.bytes(root) + wire.Count.bytes(len(names)) + words)
        if mid == wire.WALK and wire.WalkResp.read(payload)[1] == len(names):
            self._fds[fd] = wire.Inode.read(payload, wire.WalkResp.size + (len(names) - 1) * wire.Inode.size)[0]

    def ask(self, seen: Seen) -> None:
        """Difference, Unplayable."""
        entry = seen.entry
        mid, payload = self._call(entry.mid, self._request(seen))
        if mid == wire.ERROR:
            now = int.from_bytes(payload[:4], "little")
            if now != entry.errno:
                raise Difference(f"{error_name(entry.errno) if entry.errno else 'done'}, and now {error_name(now)}")
            return
        if entry.errno:
            raise Difference(f"{error_name(entry.errno)}, and now done")
        answer = messages.reply(entry.mid, payload, len(payload), seen.peer.old)
        self._learn(seen.answer, answer)
        if entry.mid not in _CHANGING:
            _compare(entry, seen.answer, answer)

    def _call(self, mid: int, request: bytes) -> tuple[int, bytes]:
        answer, payload, fds = self._transport.call(mid, request)
        close_all(fds)
        return answer, payload

    def _request(self, seen: Seen) -> bytes:
        """As it was, with today's FDs, and zeros where the trace has no data."""
        entry, old = seen.entry, seen.peer.old
        if entry.mid == wire.DIRWRITE and len(entry.request) < entry.asked:
            raise Unplayable  # the names are in what was left out
        made = bytearray(entry.request.ljust(entry.asked, b"\0"))
        dialect = wire2021 if old else wire
        if entry.mid in (wire.CLOSE, wire.FSYNC):
            at = dialect.Count.size
            while at + dialect.FDID.size <= len(made):
                self._map(made, at, dialect.FDID, may_miss=entry.mid == wire.CLOSE)
                at += dialect.FDID.size
            return bytes(made)
        shape = messages.shape(entry.mid, old)
        record = messages.record(shape[0], old) if shape else None
        if record is not None and len(made) >= record.size:
            at = 0
            for field, code in record.codes.items():
                if field in _FDS:
                    self._map(made, at, dialect.FDID, may_miss=bool(entry.errno))
                at += struct.calcsize("<" + code)
        return bytes(made)

    def _map(self, made: bytearray, at: int, record: Record, may_miss: bool) -> None:
        (fd,) = record.read(made, at)
        if fd not in self._fds and not may_miss:
            raise Unplayable
        record.pack(made, at, self._fds.get(fd, 0xFFFFFFFF))

    def _learn(self, before: list[Field], now: list[Field]) -> None:
        for (name, old), (_, new) in zip(before, now):
            if name in _FDS and isinstance(old, int) and isinstance(new, int):
                self._fds[old] = new
            elif isinstance(old, list) and isinstance(new, list):
                for one, other in zip(old, new):
                    if isinstance(one, tuple) and isinstance(other, tuple):
                        self._fds[one[0]] = other[0]


def _compare(entry: Entry, before: list[Field], now: list[Field]) -> None:
    old, new = (
        [_comparable(name, value) for name, value in fields if name not in _FDS | _OF_THE_TREE] for fields in (before, now)
    )
    if entry.mid in (wire.GETDENTS64, wire.DIRSTAT, wire.FLISTXATTR):  # in whatever order the file system has them
        old, new = ([sorted(each) if isinstance(each, list) else each for each in fields] for fields in (old, new))
    if entry.mid in (wire.DIRWALK, wire.DIRREAD, wire.DIRRENAME):  # the last renames what DirWrite made, which was not played
        old, new = old[:-1], new[:-1]
    if entry.mid in (wire.PREAD, wire.PWRITE) and not any(isinstance(value, Data) and value.kept for _, value in before):
        old, new = old[:1], new[:1]
    if old != new:
        raise Difference(f"{old}, and now {new}")


def _comparable(name: str, value: Any) -> Any:
    if isinstance(value, Stat):
        return f"{value.mode:o}", value.size if stat.S_ISREG(value.mode) else 0, value.owner
    if isinstance(value, Data):
        return value.size, value.kept
    if isinstance(value, tuple):
        return _comparable("", value[1])
    if isinstance(value, list):
        return [_comparable("", each) for each in value]
    return value
