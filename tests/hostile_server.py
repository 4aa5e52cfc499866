"""A server that lies: it speaks the protocol, and says of a made-up tree whatever a test wants.

    root = Node(entries={b"file": Node(data=b"contents"), b"../x": Node()})
    with Hostile(path, root) as server: ...

What a Node has is answered as it stands, true or not: `size` for the size, `fds` for what an OpenAt donates. `answers[mid]`
takes a function (payload) -> (payload, fds), or an errno to raise, for a whole message.
"""

import contextlib
import itertools
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, Optional

from hosts import PATIENCE

from gofer.conform.codec import Mid

_HEADER = struct.Struct("<IH2x")
_STATX = struct.Struct("<IIQIIIH2xQQQQ" + "qI4x" * 4 + "IIII")
_MASK = 0x7FF
Answer = tuple[bytes, list[int]]


class Node:
    """mode: of a regular file, of a directory where there are entries, unless it is said. entries: nodes by name; or what makes
    names, maybe without an end, all of which mean `every`."""

    def __init__(
        self, data: bytes = b"", entries: "Any" = None, mode: int = 0, target: bytes = b"", size: Optional[int] = None,
        fds: "Callable[[], list[int]]" = list, xattrs: "Optional[dict[bytes, bytes]]" = None, uid: int = 0, gid: int = 0,
        mtime: "tuple[int, int]" = (1_000_000_000, 5), nlink: int = 1, ino: int = 0, rdev: "tuple[int, int]" = (0, 0),
    ) -> None:  # fmt: skip
        kind = stat.S_IFLNK if target else stat.S_IFDIR if entries is not None else stat.S_IFREG
        self.mode = mode or kind | 0o755
        self.data, self.entries, self.target, self.fds, self.xattrs = data, entries, target, fds, xattrs or {}
        self.size = len(data) if size is None else size
        self.blocks = -(-self.size // 512)
        self.uid, self.gid, self.mtime, self.nlink, self.rdev = uid, gid, mtime, nlink, rdev
        self.ino = ino or id(self)

    def statx(self) -> bytes:
        times = (*self.mtime, 0, 0, *self.mtime, *self.mtime)
        head = (_MASK, 4096, 0, self.nlink, self.uid, self.gid, self.mode, self.ino, self.size, self.blocks, 0)
        return _STATX.pack(*head, *times, *self.rdev, 0, 1)

    def names(self) -> Iterator[bytes]:
        return iter(self.entries() if callable(self.entries) else self.entries or ())

    def child(self, name: bytes) -> "Optional[Node]":
        if callable(self.entries):
            return self.every
        found: Optional[Node] = (self.entries or {}).get(name)
        return found

    every: "Optional[Node]" = None


class Hostile:
    """Serves root on a socket file; one thread a client, until the body of the with block ends."""

    def __init__(self, path: Path, root: Node) -> None:
        self.path, self.root = path, root
        self.answers: dict[int, Any] = {}
        self.asked: list[int] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Hostile":
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)
        self._listener.close()

    def _start(self, what: "Callable[..., None]", *args: Any) -> None:
        thread = threading.Thread(target=what, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(_Client(self, self._listener.accept()[0]).serve)


class _Client:
    def __init__(self, server: Hostile, sock: socket.socket) -> None:
        self._server, self._sock = server, sock
        self._ids = itertools.count(1)
        self._nodes: dict[int, Node] = {}
        self._listing: dict[int, Iterator[bytes]] = {}

    def serve(self) -> None:
        with self._sock, contextlib.suppress(ConnectionError):
            while head := self._sock.recv(_HEADER.size, socket.MSG_WAITALL):
                size, mid = _HEADER.unpack(head)
                payload = self._sock.recv(size, socket.MSG_WAITALL) if size else b""
                self._server.asked.append(mid)
                try:
                    answer, fds = self._answer(mid, payload)
                except OSError as error:
                    mid, answer, fds = 0, struct.pack("<I", error.errno or 5), []
                message = _HEADER.pack(len(answer), mid) + answer
                if fds:
                    socket.send_fds(self._sock, [message], fds)
                    for fd in fds:
                        os.close(fd)
                else:
                    self._sock.sendall(message)

    def _answer(self, mid: int, payload: bytes) -> Answer:
        special = self._server.answers.get(mid)
        if isinstance(special, int):
            raise OSError(special, os.strerror(special))
        if special:
            found: Answer = special(payload)
            return found
        method: Optional[Callable[[bytes], bytes | Answer]] = getattr(self, f"_{Mid(mid).name.lower()}", None)
        if not method:
            raise OSError(95, "Operation not supported")
        answer = method(payload)
        return answer if isinstance(answer, tuple) else (answer, [])

    def _new(self, node: Node) -> int:
        fd = next(self._ids)
        self._nodes[fd] = node
        return fd

    def _mount(self, payload: bytes) -> bytes:
        mids = [int(mid) for mid in Mid if mid]
        root = self._server.root
        return struct.pack(f"<Q144sIH{len(mids)}H", self._new(root), root.statx(), 1 << 20, len(mids), *mids)

    def _close(self, payload: bytes) -> bytes:
        return b""

    def _walk(self, payload: bytes) -> bytes:
        (fd, count), names, at = struct.unpack_from("<QH", payload), [], 10
        for _ in range(count):
            (size,) = struct.unpack_from("<H", payload, at)
            names.append(payload[at + 2 : at + 2 + size])
            at += 2 + size
        node, found = self._nodes[fd], b""
        for index, name in enumerate(names):
            child = node.child(name)
            if child is None or stat.S_ISLNK(node.mode):
                return struct.pack("<BH", 1 if child is None else 2, index) + found
            node = child
            found += struct.pack("<Q", self._new(node)) + node.statx()
        return struct.pack("<BH", 0, len(names)) + found

    def _fstat(self, payload: bytes) -> bytes:
        return self._nodes[struct.unpack("<Q", payload)[0]].statx()

    def _openat(self, payload: bytes) -> Answer:
        node = self._nodes[struct.unpack_from("<Q", payload)[0]]
        fd = self._new(node)
        self._listing[fd] = node.names()
        return struct.pack("<Q", fd), node.fds()

    def _getdents64(self, payload: bytes) -> bytes:
        names: Iterable[bytes] = itertools.islice(self._listing[struct.unpack_from("<Q", payload)[0]], 100)
        entries = [struct.pack("<QIIQBH", 1, 0, 1, 1, 0, len(name)) + name for name in names]
        return struct.pack("<H", len(entries)) + b"".join(entries)

    def _pread(self, payload: bytes) -> bytes:
        offset, fd, count = struct.unpack_from("<QQI", payload)
        data = self._nodes[fd].data[offset : offset + count]
        return struct.pack("<Q", len(data)) + data

    def _readlinkat(self, payload: bytes) -> bytes:
        target = self._nodes[struct.unpack("<Q", payload)[0]].target
        return struct.pack("<H", len(target)) + target

    def _flistxattr(self, payload: bytes) -> bytes:
        names = list(self._nodes[struct.unpack_from("<Q", payload)[0]].xattrs)
        return struct.pack("<H", len(names)) + b"".join(struct.pack("<H", len(name)) + name for name in names)

    def _fgetxattr(self, payload: bytes) -> bytes:
        fd, _, size = struct.unpack_from("<QIH", payload)
        value = self._nodes[fd].xattrs.get(payload[14 : 14 + size])
        if value is None:
            raise OSError(61, "No data available")
        return struct.pack("<H", len(value)) + value
