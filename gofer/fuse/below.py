"""Looking below, over a line: who goes down a tree asks for one directory after the other, and a far host answers each as late as
the first.

Whoever opens a directory that was just seen in the listing of another is taken for one who walks: that directory is asked for,
and behind it the next ones of that listing, and what he finds in it. How many are on their way doubles with each that was right,
and is halved by each that nobody wanted. What was asked so answers for `scan.FRESH` seconds, and not where that directory was
changed in the mount meanwhile.
"""

from __future__ import annotations

import _thread
import struct
from itertools import islice
from time import monotonic

from gofer import wire
from gofer.client.transport import Lost
from gofer.fuse import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from gofer.fuse.node import Node
    from gofer.fuse.scan import Part
    from gofer.fuse.state import FileSystem

_FEW, _MOST = 2, 32  # directories that are asked for ahead
_COUNT = 16384  # bytes of the kernel's dirents of each: some 500 entries, 100 KB
_PARENTS = 64  # listings of which it is known what was seen in them
_SEEN = 4000  # directories in one of them


class _Asked:
    """One that is on its way, or is here. at: when it was asked for."""

    __slots__ = ("call", "at")

    def __init__(self, call: Any) -> None:
        self.call = call
        self.at = monotonic()

    def is_old(self) -> bool:
        return monotonic() - self.at > scan.FRESH


class Below:
    """Of a file system over a line."""

    def __init__(self, fs: FileSystem) -> None:
        self._fs = fs
        self._lock = _thread.allocate_lock()
        self._asked: dict[Node, _Asked] = {}
        self._seen: dict[Node, dict[Node, None]] = {}  # by the directory: those in it that nobody has opened since
        self._walked: set[Node] = set()  # of these: those that a walk has come to
        self._window = _FEW

    def listed(self, directory: Node, found: list[Node]) -> None:
        """These directories were seen in it."""
        if not found or self._fs.behind is None or not self._fs.valid:
            return
        with self._lock:
            seen = self._seen.setdefault(directory, {})
            if len(seen) < _SEEN:
                seen.update(dict.fromkeys(found))
            if len(self._seen) > _PARENTS:
                first = next(iter(self._seen))
                del self._seen[first]
                self._walked.discard(first)
            if directory in self._walked:
                self._ask(found)

    def enter(self, node: Node) -> tuple[float, tuple[int, Part, bool]] | None:
        """(when it was asked for, as scan.begin), for who walks; None: ask."""
        stream, parent = self._fs.behind, node.parent
        if stream is None or parent is None or not self._fs.walks_in:
            return None
        with self._lock:
            seen = self._seen.get(parent)
            if seen is None or node not in seen:
                return None
            del seen[node]
            self._walked.add(node)
            if node in self._asked:
                self._window = min(2 * self._window, _MOST)
            self._ask([node, *islice(seen, self._window)])
            asked = self._asked.pop(node, None)
        if asked is None:
            return None
        try:
            payload = bytes(stream.end(wire.DIRWALK, asked.call))
        except Lost:
            raise
        except OSError:  # those who ask in order are told why
            return None
        if asked.at <= self._fs.changes.last(node.ino) or asked.is_old():
            self._discard(payload)
            return None
        return asked.at, scan.entered(self._fs, node, node.name, payload)

    def rest(self) -> None:
        """Give up what nobody wants."""
        if not self._asked:
            return
        with self._lock:
            late = [node for node, asked in self._asked.items() if asked.is_old() and asked.call.is_answered]
            gone = [self._asked.pop(node).call for node in late]
            if gone:
                self._window = max(self._window // 2, _FEW)
        for call in gone:
            try:
                assert self._fs.behind is not None
                self._discard(bytes(self._fs.behind.end(wire.DIRWALK, call)))
            except (OSError, struct.error):  # the latter: not what it should be
                pass

    def lost(self) -> None:
        """The connection, and the FDs with it."""
        with self._lock:
            self._asked, self._seen, self._walked = {}, {}, set()

    def _ask(self, nodes: Iterable[Node]) -> None:
        """Those of them that are not asked for yet. _lock is held."""
        stream = self._fs.behind
        assert stream is not None
        for node in nodes:
            parent, name = node.parent, node.name
            if len(self._asked) > self._window:
                break
            if parent is None or not parent.fd or node in self._asked:
                continue
            body = wire.DirWalkReq.bytes(parent.fd, _COUNT, 1) + wire.Count.bytes(len(name)) + name
            self._asked[node] = _Asked(stream.begin(wire.DIRWALK, body, keep=True))
        stream.push()

    def _discard(self, payload: bytes) -> None:
        for fd in wire.DirWalkResp.read(payload)[:2]:
            if fd:
                self._fs.nodes.close_later(fd)
