"""A synchronous LISAFS client over both transports, used by `gofer ls|cat|stat` and the doctor.

In the dialect of 2021: client2021.py.

Errors are OSError with the errno that the server gave: that request failed. Where the server is gone, silent for `timeout`
seconds or speaks something else, it is transport.Lost, and for every later request as well. (struct.error: a reply too short for
what it is.) Host fds that the server donates are plain numbers the caller owns (-1: none came).

    with Client.connect("/run/gofer.sock") as client:
        node = client.lookup("etc/hostname")
        with client.opened(node.fd) as fd:
            print(client.pread(fd, 4096, 0))
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from errno import EIO, ELOOP, EMFILE, ENAMETOOLONG, ENOENT

from gofer import wire
from gofer.client.replies import Dirent, DirWalk, Inode, Stat, StatFS, dirents_of, dirstats_of, stat_of, stats_of
from gofer.client.transport import ChannelTransport, Garbled, Lost, SocketTransport, checked, close_all, connected, one
from gofer.wire import MAX_MESSAGE_SIZE, NO_ID, STATX_SIZE, take_str

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MOST = 0xFFFF  # what a length or a count on the wire can say


class Client:
    """A mounted connection. root: the Inode of what is served; supported: the message ids the server knows.

    channel: send everything over a shared-memory channel. timeout: seconds that an answer may take; 0: any time. carrier: the
    process that carries what is said to another host; 0: none.
    """

    carrier = 0

    def __init__(self, sock: socket.socket, channel: bool = False, timeout: float = 0) -> None:
        self._timeout = timeout
        self.base = SocketTransport(sock, timeout)  # which takes requests ahead of their answers: see ahead.py
        self.transport: SocketTransport | ChannelTransport = self.base
        self.lost: Lost | None = None
        try:
            payload, fds = self.exchange(wire.MOUNT, self._mount_request())
            fd, raw, self.max_message_size = wire.MountResp.read(payload)
            self.root = Inode(fd, stat_of(raw))
            (count,) = wire.Count.read(payload, wire.MountResp.size)
            self.supported = struct.unpack_from(f"<{count}H", payload, wire.MountResp.size + 2)
            self.root_fd = fds[0] if fds else -1
            if channel:
                self.transport = self.channel()
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(cls, path: str | bytes, channel: bool = False, timeout: float = 0) -> Client:
        """Connect to a server's socket file and mount."""
        return cls(connected(path, timeout), channel, timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _mount_request(self) -> bytes:
        return b""

    def close(self) -> None:
        """Hang up; the server then closes every FD of the connection."""
        self.transport.close()
        self.base.close()

    def exchange(self, mid: int, request: bytes = b"") -> tuple[bytes, list[int]]:
        """One request; returns payload and donated fds. Raises the OSError that an Error reply tells."""
        if len(request) > MAX_MESSAGE_SIZE:
            raise OSError(EIO, "request above the message size")
        if self.lost:
            raise self.lost
        try:
            return checked(mid, *self.transport.call(mid, request))
        except Lost as lost:
            self.lost = lost
            raise

    def ask(self, mid: int, request: bytes = b"") -> bytes:
        """One request with whose reply no fds come; returns the payload."""
        payload, fds = self.exchange(mid, request)
        close_all(fds)
        return payload

    def _inode(self, mid: int, request: bytes) -> Inode:
        fd, raw = wire.Inode.unpack(self.ask(mid, request))
        return Inode(fd, stat_of(raw))

    # Session

    def channel(self) -> ChannelTransport:
        """One more channel. ENOMEM where the server gives no more, EMFILE where this process may have no more fds."""
        payload, fds = self.exchange(wire.CHANNEL)
        if len(fds) != 2:
            close_all(fds)
            if len(fds) < 2 and self.base.dropped:
                raise OSError(EMFILE, os.strerror(EMFILE))
            raise Garbled("a channel without its two fds")
        offset, length = wire.ChannelResp.unpack(payload)
        return ChannelTransport(fds[0], offset, length, fds[1], self._timeout)

    def use_channel(self) -> bool:
        """Send everything over a channel from now on, where the server gives one."""
        try:
            self.transport = self.channel()
        except Lost:
            raise
        except OSError:  # --channels=0, one that is as old as 2021, all are taken, or we may have no more fds
            return False
        return True

    def give_up(self, why: str) -> Garbled:
        """What comes is not what a server says, as a caller has seen: the error to raise, now and at every later request."""
        self.lost = Garbled(why)
        return self.lost

    def close_fds(self, *fds: int) -> None:
        self.ask(wire.CLOSE, _fdids(fds))

    def lookup(self, path: str | bytes) -> Inode:
        """Walk from the root to what has that name, which may be a symlink. Nothing is followed on the way: ELOOP, and the link's
        path as the error's `filename`."""
        names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
        if not names:
            return self.root
        status, inodes = self.walk(self.root.fd, names)
        if len(inodes) > 1:
            self.close_fds(*(inode.fd for inode in inodes[:-1]))
        if status == wire.WALK_MISSING or len(inodes) < len(names):
            if inodes:
                self.close_fds(inodes[-1].fd)
            if status == wire.WALK_MISSING:
                raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
            raise OSError(ELOOP, os.strerror(ELOOP), b"/" + b"/".join(names[: len(inodes)]))
        return inodes[-1]

    @contextlib.contextmanager
    def opened(self, fd: int, flags: int = os.O_RDONLY) -> Iterator[int]:
        """An open FD for the time of a with block; a donated host fd is closed at once."""
        opened, host = self.openat(fd, flags)
        if host >= 0:
            os.close(host)
        try:
            yield opened
        finally:
            if not self.lost:
                self.close_fds(opened)

    # Attributes

    def fstat(self, fd: int) -> Stat:
        return stat_of(self.ask(wire.FSTAT, wire.FDID.bytes(fd)))

    def setstat(
        self, fd: int, mask: int, mode: int = 0, uid: int = NO_ID, gid: int = NO_ID, size: int = 0,
        atime: tuple[int, int] = (0, 0), mtime: tuple[int, int] = (0, 0),
    ) -> tuple[int, int]:  # fmt: skip
        """mask: of sys.STATX_*. Returns the mask of what failed, and the last errno."""
        request = wire.SetStatReq.bytes(fd, mask, mode, uid, gid, size, *atime, *mtime)
        failed, code = wire.SetStatResp.unpack(self.ask(wire.SETSTAT, request))
        return failed, code

    def fstatfs(self, fd: int) -> StatFS:
        return StatFS(*wire.FStatFSResp.unpack(self.ask(wire.FSTATFS, wire.FDID.bytes(fd))))

    # Names

    def walk(self, fd: int, names: Sequence[bytes]) -> tuple[int, list[Inode]]:
        """Returns the status (wire.WALK_*) and an Inode for each component found."""
        payload = self.ask(wire.WALK, wire.FDID.bytes(fd) + _strs(names))
        status, count = wire.WalkResp.read(payload)
        found = [wire.Inode.read(payload, wire.WalkResp.size + i * wire.Inode.size) for i in range(count)]
        return status, [Inode(fdid, stat_of(raw)) for fdid, raw in found]

    def walkstat(self, fd: int, names: Sequence[bytes]) -> list[Stat]:
        payload = self.ask(wire.WALKSTAT, wire.FDID.bytes(fd) + _strs(names))
        return [stat_of(payload[at : at + STATX_SIZE]) for at in range(2, len(payload), STATX_SIZE)]

    def readlinkat(self, fd: int) -> bytes:
        return take_str(self.ask(wire.READLINKAT, wire.FDID.bytes(fd)), 0)[0]

    def unlinkat(self, fd: int, name: bytes, flags: int = 0) -> None:
        self.ask(wire.UNLINKAT, wire.UnlinkAtReq.bytes(fd, flags) + _str(name))

    def renameat(self, old_dir: int, old_name: bytes, new_dir: int, new_name: bytes) -> None:
        self.ask(wire.RENAMEAT, wire.RenameAtReq.bytes(old_dir, new_dir) + _str(old_name) + _str(new_name))

    def renameat2(self, old_dir: int, old_name: bytes, new_dir: int, new_name: bytes, flags: int) -> None:
        names = _str(old_name) + _str(new_name)
        self.ask(wire.RENAMEAT2, wire.RenameAt2Req.bytes(old_dir, new_dir) + names + wire.U32Field.bytes(flags))

    # Making

    def opencreateat(
        self, fd: int, name: bytes, flags: int, mode: int, uid: int = NO_ID, gid: int = NO_ID
    ) -> tuple[Inode, int, int]:
        """Returns the Inode, the open FD and the donated host fd."""
        request = wire.OpenCreateAtReq.bytes(fd, uid, gid, mode, flags) + _str(name)
        payload, fds = self.exchange(wire.OPENCREATEAT, request)
        control, raw, opened = wire.OpenCreateAtResp.unpack(payload)
        return Inode(control, stat_of(raw)), opened, one(fds)

    def mkdirat(self, fd: int, name: bytes, mode: int, uid: int = NO_ID, gid: int = NO_ID) -> Inode:
        return self._inode(wire.MKDIRAT, wire.MkdirAtReq.bytes(fd, uid, gid, mode) + _str(name))

    def mknodat(
        self,
        fd: int,
        name: bytes,
        mode: int,
        uid: int = NO_ID,
        gid: int = NO_ID,
        minor: int = 0,
        major: int = 0,
    ) -> Inode:
        return self._inode(wire.MKNODAT, wire.MknodAtReq.bytes(fd, uid, gid, mode, minor, major) + _str(name))

    def symlinkat(self, fd: int, name: bytes, target: bytes, uid: int = NO_ID, gid: int = NO_ID) -> Inode:
        return self._inode(wire.SYMLINKAT, wire.SymlinkAtReq.bytes(fd, uid, gid) + _str(name) + _str(target))

    def linkat(self, fd: int, target: int, name: bytes) -> Inode:
        return self._inode(wire.LINKAT, wire.LinkAtReq.bytes(fd, target) + _str(name))

    # Contents

    def openat(self, fd: int, flags: int) -> tuple[int, int]:
        """Returns the open FD and the donated host fd."""
        payload, fds = self.exchange(wire.OPENAT, wire.OpenAtReq.bytes(fd, flags))
        (opened,) = wire.OpenAtResp.unpack(payload)
        return opened, one(fds)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        payload = self.ask(wire.PREAD, wire.PReadReq.bytes(offset, fd, count))
        return payload[wire.PReadResp.size :]

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        """Returns the bytes written."""
        payload = self.ask(wire.PWRITE, wire.PWriteReq.bytes(offset, fd, len(data)) + data)
        return int(wire.PWriteResp.unpack(payload)[0])

    def fsync(self, *fds: int) -> None:
        self.ask(wire.FSYNC, _fdids(fds))

    def flush(self, fd: int) -> None:
        self.ask(wire.FLUSH, wire.FDID.bytes(fd))

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.ask(wire.FALLOCATE, wire.FAllocateReq.bytes(fd, mode, offset, length))

    def getdents64(self, fd: int, count: int) -> list[Dirent]:
        """count: bytes of kernel dirents, negative: from the start again. An empty list is the end."""
        return dirents_of(self.ask(wire.GETDENTS64, wire.Getdents64Req.bytes(fd, count)))

    def dirstat(self, fd: int, count: int) -> list[tuple[bytes, Stat]]:
        """As getdents64, with the attributes of each entry, in one message of our own. A Stat with mask 0 has nothing but type
        and inode number: walkstat of that one fails. EOPNOTSUPP: this server does not know the message."""
        return dirstats_of(self.ask(wire.DIRSTAT, wire.DirStatReq.bytes(fd, count)))

    def dirwalk(self, fd: int, name: bytes, count: int, stats: bool = False) -> DirWalk:
        """Into the directory of that name, or fd's own where it is b"": Walk, OpenAt and Getdents64 in one message of our own.
        EOPNOTSUPP: this server does not know it."""
        payload = self.ask(wire.DIRWALK, wire.DirWalkReq.bytes(fd, count, stats) + _str(name))
        control, opened, raw, number, _ = wire.DirWalkResp.read(payload)
        at = wire.DirWalkResp.size
        behind = at + number * (STATX_SIZE if stats else 1)
        names = payload[behind:].split(b"\0")
        if len(payload) < behind or len(names) != number + 1 or names.pop():
            raise self.give_up("a DirWalk with another number of names than it says")
        told = payload[at:behind]
        return DirWalk(Inode(control, stat_of(raw)), opened, names, b"" if stats else told, stats_of(told) if stats else [])

    def listdir(self, fd: int) -> Iterator[Dirent]:
        """Every entry of the directory with control FD fd."""
        with self.opened(fd) as opened:
            while entries := self.getdents64(opened, 65536):
                yield from entries

    # Extended attributes

    def fgetxattr(self, fd: int, name: bytes, size: int = 0) -> bytes:
        return take_str(self.ask(wire.FGETXATTR, wire.FGetXattrReq.bytes(fd, size) + _str(name)), 0)[0]

    def fsetxattr(self, fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self.ask(wire.FSETXATTR, wire.FSetXattrReq.bytes(fd, flags) + _str(name) + _str(value))

    def flistxattr(self, fd: int, size: int = 0) -> list[bytes]:
        return wire.take_strs(self.ask(wire.FLISTXATTR, wire.FListXattrReq.bytes(fd, size)), 0)

    def fremovexattr(self, fd: int, name: bytes) -> None:
        self.ask(wire.FREMOVEXATTR, wire.FRemoveXattrReq.bytes(fd) + _str(name))

    # Unix sockets

    def connect_socket(self, fd: int, sock_type: int) -> int:
        """Connect. Returns the donated socket."""
        return one(self.exchange(wire.CONNECT, wire.ConnectReq.bytes(fd, sock_type))[1])

    def connect_with_creds(self, fd: int, sock_type: int, uid: int, gid: int) -> int:
        """ConnectWithCreds. Returns the donated socket."""
        request = wire.ConnectWithCredsReq.bytes(fd, sock_type, uid, gid)
        return one(self.exchange(wire.CONNECTWITHCREDS, request)[1])

    def bindat(
        self, fd: int, name: bytes, sock_type: int, mode: int, uid: int = NO_ID, gid: int = NO_ID
    ) -> tuple[Inode, int, int]:
        """Returns the Inode, the bound-socket FD and the donated socket."""
        payload, fds = self.exchange(wire.BINDAT, wire.BindAtReq.bytes(fd, uid, gid, mode, sock_type) + _str(name))
        control, raw, bound = wire.BindAtResp.unpack(payload)
        return Inode(control, stat_of(raw)), bound, one(fds)

    def listen(self, bound: int, backlog: int) -> None:
        self.ask(wire.LISTEN, wire.ListenReq.bytes(bound, backlog))

    def accept(self, bound: int) -> int:
        """Returns the donated connection."""
        return one(self.exchange(wire.ACCEPT, wire.AcceptReq.bytes(bound))[1])


def _str(value: bytes) -> bytes:
    if len(value) > _MOST:
        raise OSError(ENAMETOOLONG, os.strerror(ENAMETOOLONG))
    return wire.Count.bytes(len(value)) + value


def _strs(values: Sequence[bytes]) -> bytes:
    if len(values) > _MOST:
        raise OSError(ENAMETOOLONG, os.strerror(ENAMETOOLONG))
    return wire.Count.bytes(len(values)) + b"".join(map(_str, values))


def _fdids(fds: Sequence[int]) -> bytes:
    return struct.pack(f"<H{len(fds)}Q", len(fds), *fds)
