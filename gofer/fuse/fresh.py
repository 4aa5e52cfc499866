"""What is known of what was made here a moment ago, without asking: who unpacks an archive looks for each name before he makes
it, and says whose it is and how old when he has written it.

A directory that was made here is empty but for what was made in it since, for as long as the kernel takes names for true: what
it does not have need not be looked for. A file that was made here and is open is its maker's, and its attributes are what was
told of it and what was done to it since: to change times or mode, or to give it to whom it belongs, is sent as writes are, and
not waited for.
"""

from __future__ import annotations

from errno import EIO
from struct import Struct
from time import monotonic, time

from gofer import sys, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.node import Node
    from gofer.fuse.state import FileSystem, Handle

_MOST = 64  # directories
_SURE = sys.STATX_MODE | sys.STATX_UID | sys.STATX_GID | sys.STATX_ATIME | sys.STATX_MTIME
_OWNER, _MODE, _SIZE, _TIME = Struct("<II"), Struct("<H"), Struct("<Q"), Struct("<qI")
_AT_OWNER, _AT_MODE, _AT_SIZE, _AT_ATIME, _AT_MTIME = 20, 28, 40, 64, 112  # in struct statx
UTIME_NOW = (1 << 30) - 1


class Fresh:
    """Directories that were made here."""

    def __init__(self, seconds: float) -> None:
        """seconds: how long names are taken for true."""
        self._seconds = seconds
        self._known: dict[Node, tuple[float, set[bytes]]] = {}

    def made(self, node: Node) -> None:
        if self._seconds:
            if len(self._known) >= _MOST:
                self._known.pop(next(iter(self._known)), None)
            self._known[node] = monotonic() + self._seconds, set()

    def gets(self, parent: Node, name: bytes) -> None:
        """Before it is asked for: from now on, nobody knows."""
        known = self._known.get(parent)
        if known is not None:
            known[1].add(name)

    def lacks(self, parent: Node, name: bytes) -> bool:
        known = self._known.get(parent)
        if known is None:
            return False
        if known[0] < monotonic():
            self._known.pop(parent, None)
            return False
        return name not in known[1]

    def lost(self) -> None:
        self._known.clear()


class Made:
    """A file that was made here and is open as it was then. raw: its struct statx."""

    __slots__ = ("handle", "raw")

    def __init__(self, handle: Handle, raw: bytes) -> None:
        self.handle = handle
        self.raw = bytearray(raw)

    def wrote(self, end: int) -> None:
        if end > _SIZE.unpack_from(self.raw, _AT_SIZE)[0]:
            _SIZE.pack_into(self.raw, _AT_SIZE, end)

    def set(
        self, fs: FileSystem, fd: int, mask: int, mode: int, uid: int, gid: int, atime: tuple[int, int], mtime: tuple[int, int]
    ) -> bytes:  # fmt: skip
        """struct fuse_attr_out of what it will be like, good for no time; b"" where that has to be waited for."""
        owner = _OWNER.unpack_from(self.raw, _AT_OWNER)
        if fs.behind is None or mask & ~_SURE or uid not in (wire.NO_ID, owner[0]) or gid not in (wire.NO_ID, owner[1]):
            return b""
        handle = self.handle

        def done(outcome: bytes | OSError) -> None:
            failed, code = (1, outcome.errno) if isinstance(outcome, OSError) else wire.SetStatResp.unpack(outcome)
            if failed:
                handle.trouble = code or EIO

        handle.behind = True
        fs.posting.add(handle)
        fs.behind.post(wire.SETSTAT, wire.SetStatReq.bytes(fd, mask, mode, uid, gid, 0, *atime, *mtime), done)
        if mask & sys.STATX_MODE:
            _MODE.pack_into(self.raw, _AT_MODE, _MODE.unpack_from(self.raw, _AT_MODE)[0] & 0o170000 | mode)
        for bit, at, value in ((sys.STATX_ATIME, _AT_ATIME, atime), (sys.STATX_MTIME, _AT_MTIME, mtime)):
            if mask & bit:
                _TIME.pack_into(self.raw, at, *((int(time()), 0) if value[1] == UTIME_NOW else value))
        return fs.view.attr(handle.node, self.raw, 0)
