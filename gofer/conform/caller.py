"""What all messages of the independent client have in common: a request, a reply that is checked, the fds that come along."""

from __future__ import annotations

import os
import struct

from gofer.conform.codec import Dirent, Mid, NotOffered, Reader, expect
from gofer.conform.transport import ChannelTransport, Reply, SocketTransport

_MESSAGES = frozenset(Mid) - {Mid.ERROR, Mid.FLUSH}  # Flush may be answered without being offered, as it does nothing


class Caller:
    """One client over one transport."""

    last_mid = Mid.RENAMEAT2  # of the messages there are
    reader = Reader
    offered: frozenset[int] | None = None  # where it is set, no other message is sent

    def __init__(self, transport: SocketTransport | ChannelTransport) -> None:
        self.transport = transport
        self.owned: list[int] = []  # donated fds
        self.root = 0  # the control FD, once `mount` was called
        self.channels: list[ChannelTransport] = []

    def exchange(self, mid: int, payload: bytes = b"") -> Reply:
        """One request, one reply of whatever kind."""
        if self.offered is not None and mid not in self.offered and mid in _MESSAGES:
            raise NotOffered(Mid(mid).name)
        reply = self.transport.exchange(mid, payload)
        self.owned += reply.fds
        return reply

    def call(self, mid: int, payload: bytes = b"") -> Reply:
        """One request and its reply; an Error reply is raised as OSError."""
        return self.check(mid, self.exchange(mid, payload))

    @staticmethod
    def check(mid: int, reply: Reply) -> Reply:
        expect(reply.zero == 0, "the header's reserved bytes are not zero")
        if reply.mid == Mid.ERROR:
            expect(len(reply.payload) == 4, "an Error reply is one u32")
            expect(not reply.fds, "an Error reply donates nothing")
            number = struct.unpack("<I", reply.payload)[0]
            expect(0 < number < 4096, f"{number} is no errno")
            raise OSError(number, os.strerror(number))
        expect(reply.mid == mid, f"asked {mid}, answered {reply.mid}")
        return reply

    def empty(self, mid: int, payload: bytes) -> list[int]:
        """A call whose reply has no payload; -> what it donated."""
        reply = self.call(mid, payload)
        expect(reply.payload == b"", f"{len(reply.payload)} bytes in a reply that has none")
        return reply.fds

    def read(self, mid: int, payload: bytes) -> Reader:
        return self.reader(self.call(mid, payload).payload)

    largest_fd = 2**64 - 1
    pread_head, pwrite_head = 8, 20  # bytes of a reply and of a request beside the data
    count = "<H"  # how a count, and the length of a string, are written

    @staticmethod
    def raw_fd(fd: int) -> bytes:
        return struct.pack("<Q", fd)

    @staticmethod
    def raw_pwrite(offset: int, fd: int, num_bytes: int) -> bytes:
        return struct.pack("<QQI", offset, fd, num_bytes)

    @staticmethod
    def raw_getdents(fd: int, count: int) -> bytes:
        return struct.pack("<Qi4x", fd, count)

    def dirents(self, payload: bytes) -> list[Dirent]:
        """Of a Getdents64's reply."""
        r = self.reader(payload)
        entries = []
        for _ in range(r.take(r.count)):
            ino, minor, major, off, kind = r.take("QIIQB")
            entries.append(Dirent(ino, (major, minor), off, kind, r.string()))
        r.done()
        return entries

    def raw_count(self, number: int) -> bytes:
        return struct.pack(self.count, number)

    def raw_string(self, value: bytes) -> bytes:
        return self.raw_count(len(value)) + value

    def disconnect(self) -> None:
        for channel in self.channels:
            channel.close()
        self.transport.close()
        for fd in self.owned:
            os.close(fd)
        self.owned, self.channels = [], []

    def disown(self, fds: list[int]) -> list[int]:
        """The caller closes these donated fds."""
        for fd in fds:
            self.owned.remove(fd)
        return fds
