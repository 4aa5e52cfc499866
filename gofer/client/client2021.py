"""The client in the dialect of 2021 (wire2021.py): a Client whose messages are those, with the same methods.

    with Client2021.connect("/run/gofer.sock") as client: ...

What came later (`renameat2`, `connect_with_creds`, `bindat` and what follows it) is EOPNOTSUPP, as the server says.
"""

from __future__ import annotations

import os
import struct
from errno import ENOENT

from gofer import wire, wire2021
from gofer.client.client import Client
from gofer.client.replies import Dirent, Inode, Stat, StatFS, dirents_of, stat_of
from gofer.client.transport import one
from gofer.wire import NO_ID, STATX_SIZE
from gofer.wire2021 import FDID, take_str

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence


class Client2021(Client):
    """path: what to mount, as a name inside what is served."""

    def __init__(self, sock: socket.socket, channel: bool = False, timeout: float = 0, path: bytes = b"/") -> None:
        self._path = path
        super().__init__(sock, channel, timeout)

    def _mount_request(self) -> bytes:
        return _str(self._path)

    def close_fds(self, *fds: int) -> None:
        self.ask(wire.CLOSE, _fdids(fds))

    # Attributes

    def fstat(self, fd: int) -> Stat:
        return stat_of(self.ask(wire.FSTAT, FDID.bytes(fd)))

    def setstat(
        self, fd: int, mask: int, mode: int = 0, uid: int = NO_ID, gid: int = NO_ID, size: int = 0,
        atime: tuple[int, int] = (0, 0), mtime: tuple[int, int] = (0, 0),
    ) -> tuple[int, int]:  # fmt: skip
        request = wire2021.SetStatReq.bytes(fd, mask, mode, uid, gid, size, *atime, *mtime)
        failed, code = wire2021.SetStatResp.unpack(self.ask(wire.SETSTAT, request))
        return failed, code

    def fstatfs(self, fd: int) -> StatFS:
        return StatFS(*wire2021.FStatFSResp.unpack(self.ask(wire.FSTATFS, FDID.bytes(fd))))

    # Names

    def walk(self, fd: int, names: Sequence[bytes]) -> tuple[int, list[Inode]]:
        payload, head = self.ask(wire.WALK, FDID.bytes(fd) + _strs(names)), wire2021.WalkResp
        status, count = head.read(payload)
        found = [wire2021.Inode.read(payload, head.size + i * wire2021.Inode.size) for i in range(count)]
        return status, [Inode(fdid, stat_of(raw)) for fdid, raw in found]

    def walkstat(self, fd: int, names: Sequence[bytes]) -> list[Stat]:
        payload = self.ask(wire.WALKSTAT, FDID.bytes(fd) + _strs(names))
        return [stat_of(payload[at : at + STATX_SIZE]) for at in range(4, len(payload), STATX_SIZE)]

    def readlinkat(self, fd: int) -> bytes:
        return take_str(self.ask(wire.READLINKAT, FDID.bytes(fd)), 0)[0]

    def unlinkat(self, fd: int, name: bytes, flags: int = 0) -> None:
        self.ask(wire.UNLINKAT, wire2021.UnlinkAtReq.bytes(fd, flags) + _str(name))

    def rename_fd(self, fd: int, new_dir: int, new_name: bytes) -> None:
        """RenameAt: the file that fd is, wherever the server has last found it for that."""
        self.ask(wire.RENAMEAT, wire2021.RenameAtReq.bytes(fd, new_dir) + _str(new_name))

    def renameat(self, old_dir: int, old_name: bytes, new_dir: int, new_name: bytes) -> None:
        """By an FD that is walked to."""
        _, found = self.walk(old_dir, [old_name])
        if not found:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
        try:
            self.rename_fd(found[0].fd, new_dir, new_name)
        finally:
            if not self.lost:
                self.close_fds(found[0].fd)

    # Making

    def opencreateat(
        self, fd: int, name: bytes, flags: int, mode: int, uid: int = NO_ID, gid: int = NO_ID
    ) -> tuple[Inode, int, int]:
        request = wire2021.OpenCreateAtReq.bytes(fd, mode, uid, gid, flags) + _str(name)
        payload, fds = self.exchange(wire.OPENCREATEAT, request)
        control, raw, opened = wire2021.OpenCreateAtResp.unpack(payload)
        return Inode(control, stat_of(raw)), opened, one(fds)

    def mkdirat(self, fd: int, name: bytes, mode: int, uid: int = NO_ID, gid: int = NO_ID) -> Inode:
        return self._inode(wire.MKDIRAT, wire2021.MkdirAtReq.bytes(fd, mode, uid, gid) + _str(name))

    def mknodat(
        self, fd: int, name: bytes, mode: int, uid: int = NO_ID, gid: int = NO_ID, minor: int = 0, major: int = 0
    ) -> Inode:  # fmt: skip
        request = wire2021.MknodAtReq.bytes(fd, mode, uid, gid, minor, major) + _str(name)
        return self._inode(wire.MKNODAT, request)

    def symlinkat(self, fd: int, name: bytes, target: bytes, uid: int = NO_ID, gid: int = NO_ID) -> Inode:
        request = wire2021.SymlinkAtReq.bytes(fd, uid, gid) + _str(name) + _str(target)
        return self._inode(wire.SYMLINKAT, request)

    def linkat(self, fd: int, target: int, name: bytes) -> Inode:
        return self._inode(wire.LINKAT, wire2021.LinkAtReq.bytes(fd, target) + _str(name))

    # Contents

    def openat(self, fd: int, flags: int) -> tuple[int, int]:
        payload, fds = self.exchange(wire.OPENAT, wire2021.OpenAtReq.bytes(fd, flags))
        (opened,) = wire2021.OpenAtResp.unpack(payload)
        return opened, one(fds)

    def pread(self, fd: int, count: int, offset: int) -> bytes:
        return self.ask(wire.PREAD, wire2021.PReadReq.bytes(offset, fd, count))[wire2021.PReadResp.size :]

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        payload = self.ask(wire.PWRITE, wire2021.PWriteReq.bytes(offset, fd, len(data)) + data)
        return int(wire2021.PWriteResp.unpack(payload)[0])

    def fsync(self, *fds: int) -> None:
        self.ask(wire.FSYNC, _fdids(fds))

    def flush(self, fd: int) -> None:
        self.ask(wire.FLUSH, FDID.bytes(fd))

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.ask(wire.FALLOCATE, wire2021.FAllocateReq.bytes(fd, mode, offset, length))

    def getdents64(self, fd: int, count: int) -> list[Dirent]:
        payload = self.ask(wire.GETDENTS64, wire2021.Getdents64Req.bytes(fd, count))
        return dirents_of(payload, wire2021.Count, wire2021.Dirent)

    # Extended attributes

    def fgetxattr(self, fd: int, name: bytes, size: int = 0) -> bytes:
        return take_str(self.ask(wire.FGETXATTR, wire2021.FGetXattrReq.bytes(fd, size) + _str(name)), 0)[0]

    def fsetxattr(self, fd: int, name: bytes, value: bytes, flags: int = 0) -> None:
        self.ask(wire.FSETXATTR, wire2021.FSetXattrReq.bytes(fd, flags) + _str(name) + _str(value))

    def flistxattr(self, fd: int, size: int = 0) -> list[bytes]:
        return wire2021.take_strs(self.ask(wire.FLISTXATTR, wire2021.FListXattrReq.bytes(fd, size)), 0)

    def fremovexattr(self, fd: int, name: bytes) -> None:
        self.ask(wire.FREMOVEXATTR, FDID.bytes(fd) + _str(name))

    def connect_socket(self, fd: int, sock_type: int) -> int:
        return one(self.exchange(wire.CONNECT, wire2021.ConnectReq.bytes(fd, sock_type))[1])


def _str(value: bytes) -> bytes:
    return wire2021.Count.bytes(len(value)) + value


def _strs(values: Sequence[bytes]) -> bytes:
    return wire2021.Count.bytes(len(values)) + b"".join(map(_str, values))


def _fdids(fds: Sequence[int]) -> bytes:
    return struct.pack(f"<I{len(fds)}I", len(fds), *fds)
