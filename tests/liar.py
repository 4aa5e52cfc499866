"""A server of the tests that lies: what it says to each message can be set."""

import contextlib
import errno
import socket
import stat as modes
import struct
import threading
from pathlib import Path
from typing import Any, Optional

MOUNT, CHANNEL, FSTAT, WALK, WALKSTAT, OPENAT, CLOSE, PREAD, READLINK, GETDENTS = 1, 2, 3, 5, 6, 7, 9, 12, 19, 24
DIRWALK, DIRSTAT = 70, 71
DIR, FILE, LINK = modes.S_IFDIR | 0o755, modes.S_IFREG | 0o644, modes.S_IFLNK | 0o777


def statx(mode: int, ino: int, size: int = 0, nlink: int = 1, blksize: int = 4096) -> bytes:
    head = struct.pack("<IIQIIIHHQQQQ", 0x7FF, blksize, 0, nlink, 0, 0, mode, 0, ino, size, 0, 0)
    return head + bytes(64) + struct.pack("<IIII", 0, 0, 8, 1)


def entry(name: bytes, raw: bytes) -> bytes:
    return struct.pack("<Q", 1) + raw + struct.pack("<H", len(name)) + name


class Liar:
    """A server of one client, over the socket. answers: what it says to a message, bytes, an errno, or a function of the request.

    Until it is told otherwise there is `file`, `dir` and `link` in it.
    """

    def __init__(self, path: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.answers: dict[int, Any] = {}
        self.donates: Optional[int] = None
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        sock, _ = self.listener.accept()
        with sock, contextlib.suppress(OSError):
            while head := sock.recv(8, socket.MSG_WAITALL):
                size, mid = struct.unpack("<IH2x", head)
                request = sock.recv(size, socket.MSG_WAITALL) if size else b""
                said = self.answers.get(mid, getattr(self, f"_{mid}", errno.EOPNOTSUPP))
                said = said(request) if callable(said) else said
                answer, payload = (0, struct.pack("<I", said)) if isinstance(said, int) else (mid, said)
                whole = struct.pack("<IH2x", len(payload), answer) + payload
                if mid == OPENAT and self.donates is not None and answer:
                    socket.send_fds(sock, [whole], [self.donates])
                else:
                    sock.sendall(whole)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()

    def named(self, name: bytes) -> bytes:
        return {b"dir": statx(DIR, 3), b"link": statx(LINK, 4)}.get(name, statx(FILE, 2, 5))

    _1 = struct.pack("<Q", 1) + statx(DIR, 1) + struct.pack("<IHH", 2093056, 1, FSTAT)
    _7 = struct.pack("<Q", 50)
    _9 = b""
    _19 = struct.pack("<H", 4) + b"file"
    _24 = _71 = struct.pack("<H", 0)

    def _12(self, request: bytes) -> bytes:
        offset = struct.unpack_from("<Q", request)[0]
        return struct.pack("<Q", len(b"hello"[offset:])) + b"hello"[offset:]

    def _3(self, request: bytes) -> bytes:
        return {1: statx(DIR, 1), 12: statx(DIR, 3)}.get(struct.unpack("<Q", request)[0], statx(FILE, 2, 5))

    def _5(self, request: bytes) -> bytes:
        return struct.pack("<BHQ", 0, 1, 11) + self.named(request[12:])

    def _6(self, request: bytes) -> bytes:
        return struct.pack("<H", 1) + self.named(request[12:])
