"""An independent client for LISAFS as of 2021-09 to 2022-01, written from that protocol's page alone; see peer.py, whose
transports and checks of replies it shares. Where the two dialects differ, what differs is here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Sequence

from gofer.conform.codec import (
    NO_ID,
    Created,
    Inode,
    Mid,
    Mounted,
    Name,
    Opened,
    Reader,
    Stat,
    StatFS,
    expect,
)
from gofer.conform.peer import Peer

LAST = Mid.FREMOVEXATTR  # what came later does not exist


class Reader2021(Reader):
    count, wide = "I", "I"

    def string(self) -> bytes:
        return bytes(self.take(f"{self.take('I')}s"))

    def inode(self) -> Inode:
        fd, pad = self.take("II")
        expect(pad == 0, "a pad is not zero")
        return Inode(fd, self.stat())


def string(value: Name) -> bytes:
    raw = os.fsencode(value)
    return struct.pack("<I", len(raw)) + raw


def strings(values: Iterable[Name]) -> bytes:
    raw = [string(value) for value in values]
    return struct.pack("<I", len(raw)) + b"".join(raw)


def fdids(fds: Sequence[int]) -> bytes:
    return struct.pack(f"<I{len(fds)}I", len(fds), *fds)


def create(dir_fd: int, mode: int, uid: int, gid: int) -> bytes:
    return struct.pack("<IHHII", dir_fd, mode, 0, uid, gid)


class Peer2021(Peer):
    """One client over one transport."""

    last_mid = LAST
    reader = Reader2021
    largest_fd = 2**32 - 1
    pread_head, pwrite_head = 4, 16
    count = "<I"

    @staticmethod
    def raw_fd(fd: int) -> bytes:
        return struct.pack("<I", fd)

    @staticmethod
    def raw_pwrite(offset: int, fd: int, num_bytes: int) -> bytes:
        return struct.pack("<QII", offset, fd, num_bytes)

    @staticmethod
    def raw_getdents(fd: int, count: int) -> bytes:
        return struct.pack("<Ii", fd, count)

    # Mount: str mount_path -> Inode max_message_size[4] n[2] mids[2*n]
    def mount(self, path: Name = "/") -> Mounted:
        reply = self.call(Mid.MOUNT, string(path))
        r = Reader2021(reply.payload)
        root, size, count = r.inode(), r.take("I"), r.take("H")
        supported = [r.take("H") for _ in range(count)]
        r.done()
        self.root = root.fd
        return Mounted(root, size, supported, reply.fds)

    # FStat: fd[4] -> Statx
    def fstat(self, fd: int) -> Stat:
        r = self.read(Mid.FSTAT, struct.pack("<I", fd))
        stat = r.stat()
        r.done()
        return stat

    # SetStat: fd[4] pad[4] mask[4] mode[4] uid[4] gid[4] size[8] atime(sec[8] nsec[8]) mtime(sec[8] nsec[8])
    #          -> failure_mask[4] failure_errno[4]
    def setstat(
        self,
        fd: int,
        mask: int,
        mode: int = 0,
        uid: int = NO_ID,
        gid: int = NO_ID,
        size: int = 0,
        atime: tuple[int, int] = (0, 0),
        mtime: tuple[int, int] = (0, 0),
    ) -> tuple[int, int]:
        r = self.read(Mid.SETSTAT, struct.pack("<IIIIIIQqqqq", fd, 0, mask, mode, uid, gid, size, *atime, *mtime))
        failure_mask, failure_errno = r.take("II")
        r.done()
        return failure_mask, failure_errno

    # Walk: dir_fd[4] str* path -> status[1] Inode*
    def walk(self, dir_fd: int, *path: Name) -> tuple[int, list[Inode]]:
        r = self.read(Mid.WALK, struct.pack("<I", dir_fd) + strings(path))
        status, count = r.take("B"), r.take("I")
        inodes = [r.inode() for _ in range(count)]
        r.done()
        expect(status in (0, 1, 2) and len(inodes) <= len(path), f"status {status}, {len(inodes)} inodes")
        return status, inodes

    # WalkStat: dir_fd[4] str* path -> Statx*
    def walkstat(self, dir_fd: int, *path: Name) -> list[Stat]:
        r = self.read(Mid.WALKSTAT, struct.pack("<I", dir_fd) + strings(path))
        stats = [r.stat() for _ in range(r.take("I"))]
        r.done()
        return stats

    # OpenAt: fd[4] flags[4] -> open_fd[4]
    def openat(self, fd: int, flags: int = os.O_RDONLY) -> Opened:
        reply = self.call(Mid.OPENAT, struct.pack("<II", fd, flags))
        r = Reader2021(reply.payload)
        opened = Opened(r.take("I"), reply.fds)
        r.done()
        return opened

    # OpenCreateAt: Create flags[4] str name -> Inode open_fd[4] pad[4]
    def opencreateat(
        self,
        dir_fd: int,
        name: Name,
        flags: int = os.O_RDWR,
        mode: int = 0o644,
        uid: int = NO_ID,
        gid: int = NO_ID,
    ) -> Created:
        reply = self.call(Mid.OPENCREATEAT, create(dir_fd, mode, uid, gid) + struct.pack("<I", flags) + string(name))
        r = Reader2021(reply.payload)
        inode, (fd, pad) = r.inode(), r.take("II")
        r.done()
        expect(pad == 0, "a pad is not zero")
        return Created(inode, fd, reply.fds)

    # Close: FDID* fds -> -
    def close(self, *fds: int) -> None:
        self.empty(Mid.CLOSE, fdids(fds))

    # FSync: FDID* fds -> -
    def fsync(self, *fds: int) -> None:
        self.empty(Mid.FSYNC, fdids(fds))

    # PWrite: offset[8] fd[4] num_bytes[4] data -> count[8]
    def pwrite(self, fd: int, offset: int, data: bytes) -> int:
        r = self.read(Mid.PWRITE, self.raw_pwrite(offset, fd, len(data)) + data)
        count = int(r.take("Q"))
        r.done()
        return count

    # PRead: offset[8] fd[4] count[4] -> num_bytes[4] data
    def pread(self, fd: int, offset: int, count: int) -> bytes:
        r = self.read(Mid.PREAD, struct.pack("<QII", offset, fd, count))
        num_bytes, data = r.take("I"), r.rest()
        expect(num_bytes == len(data) <= count, f"{len(data)} bytes for {num_bytes} told and {count} asked for")
        return data

    # MkdirAt: Create str name -> Inode
    def mkdirat(self, dir_fd: int, name: Name, mode: int = 0o755, uid: int = NO_ID, gid: int = NO_ID) -> Inode:
        return self._child(Mid.MKDIRAT, create(dir_fd, mode, uid, gid) + string(name))

    # MknodAt: Create minor[4] major[4] str name -> Inode
    def mknodat(
        self,
        dir_fd: int,
        name: Name,
        mode: int = 0o100644,
        major: int = 0,
        minor: int = 0,
        uid: int = NO_ID,
        gid: int = NO_ID,
    ) -> Inode:
        numbers = struct.pack("<II", minor, major)
        return self._child(Mid.MKNODAT, create(dir_fd, mode, uid, gid) + numbers + string(name))

    # SymlinkAt: dir_fd[4] uid[4] gid[4] str name str target -> Inode
    def symlinkat(self, dir_fd: int, name: Name, target: Name, uid: int = NO_ID, gid: int = NO_ID) -> Inode:
        return self._child(Mid.SYMLINKAT, struct.pack("<III", dir_fd, uid, gid) + string(name) + string(target))

    # LinkAt: dir_fd[4] target_fd[4] str name -> Inode
    def linkat(self, dir_fd: int, target_fd: int, name: Name) -> Inode:
        return self._child(Mid.LINKAT, struct.pack("<II", dir_fd, target_fd) + string(name))

    # FStatFS: fd[4] -> as today
    def fstatfs(self, fd: int) -> StatFS:
        r = self.read(Mid.FSTATFS, struct.pack("<I", fd))
        statfs = StatFS(*r.take("8Q"))
        r.done()
        return statfs

    # FAllocate: fd[4] pad[4] mode[8] offset[8] length[8] -> -
    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.empty(Mid.FALLOCATE, struct.pack("<IIQQQ", fd, 0, mode, offset, length))

    # ReadLinkAt: fd[4] -> str target
    def readlinkat(self, fd: int) -> bytes:
        r = self.read(Mid.READLINKAT, struct.pack("<I", fd))
        target = r.string()
        r.done()
        return target

    # Flush: fd[4] -> -
    def flush(self, fd: int) -> None:
        self.empty(Mid.FLUSH, struct.pack("<I", fd))

    # Connect: fd[4] sock_type[4] -> -                          donates [socket]
    def connect(self, fd: int, sock_type: int = socket.SOCK_STREAM) -> list[int]:
        return self.empty(Mid.CONNECT, struct.pack("<II", fd, sock_type))

    # UnlinkAt: dir_fd[4] flags[4] str name -> -
    def unlinkat(self, dir_fd: int, name: Name, flags: int = 0) -> None:
        self.empty(Mid.UNLINKAT, struct.pack("<II", dir_fd, flags) + string(name))

    # RenameAt: renamed_fd[4] new_dir[4] str new_name -> -
    def rename_fd(self, renamed_fd: int, new_dir: int, new_name: Name) -> None:
        self.empty(Mid.RENAMEAT, struct.pack("<II", renamed_fd, new_dir) + string(new_name))

    def renameat(self, old_dir: int, old_name: Name, new_dir: int, new_name: Name) -> None:
        """As today's, which knows no FD of the file: one is walked to, once it is known that both are directories."""
        self.walk(old_dir)
        self.walk(new_dir)
        fd = self.walked(old_dir, old_name)
        try:
            self.rename_fd(fd, new_dir, new_name)
        finally:
            self.close(fd)

    def walked(self, dir_fd: int, name: Name) -> int:
        """Not a message: the control FD of one name, which must be there."""
        found = self.walk(dir_fd, name)[1]
        if not found:
            raise FileNotFoundError(2, os.strerror(2))
        return found[0].fd

    # Getdents64: open_fd[4] count[4, signed] -> dirent*
    #             dirent: ino[8] dev_minor[4] dev_major[4] off[8] type[1] str name

    # FGetXattr: fd[4] size[4] str name -> str value
    def fgetxattr(self, fd: int, name: Name, size: int = 0) -> bytes:
        r = self.read(Mid.FGETXATTR, struct.pack("<II", fd, size) + string(name))
        value = r.string()
        r.done()
        return value

    # FSetXattr: fd[4] flags[4] str name str value -> -
    def fsetxattr(self, fd: int, name: Name, value: bytes, flags: int = 0) -> None:
        self.empty(Mid.FSETXATTR, struct.pack("<II", fd, flags) + string(name) + string(value))

    # FListXattr: fd[4] pad[4] size[8] -> str* names
    def flistxattr(self, fd: int, size: int = 0) -> list[bytes]:
        r = self.read(Mid.FLISTXATTR, struct.pack("<IIQ", fd, 0, size))
        names = [r.string() for _ in range(r.take("I"))]
        r.done()
        return names

    # FRemoveXattr: fd[4] str name -> -
    def fremovexattr(self, fd: int, name: Name) -> None:
        self.empty(Mid.FREMOVEXATTR, struct.pack("<I", fd) + string(name))
