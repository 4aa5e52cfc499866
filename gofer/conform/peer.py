"""A second, independent LISAFS codec and client, written from the protocol page alone.

It shares no line with `gofer.wire` or `gofer.client.client`, so that a mistake made in both directions there cannot
pass here. One method per request message, under the protocol's name, below the page's notation for it.
An Error reply is raised as OSError. A malformed reply (short, long, another MID) is Unexpected.
Names may be str or bytes. Donated fds are returned, and closed with the peer.
"""

from __future__ import annotations

import os
import socket
import struct

from gofer.conform.codec import (
    NO_ID,
    Created,
    Dirent,
    Inode,
    Mid,
    Mounted,
    Name,
    Opened,
    Reader,
    Stat,
    StatFS,
    create,
    expect,
    fdids,
    string,
    strings,
)
from gofer.conform.many import Many
from gofer.conform.transport import ChannelTransport, SocketTransport


class Peer(Many):
    """Mount and Channel work over either transport."""

    # Mount: -> Inode max_message_size[4] u16* supported_mids
    def mount(self) -> Mounted:
        reply = self.call(Mid.MOUNT)
        r = Reader(reply.payload)
        root, size, count = r.inode(), r.take("I"), r.take("H")
        supported = [r.take("H") for _ in range(count)]
        r.done()
        self.root = root.fd
        return Mounted(root, size, supported, reply.fds)

    # Channel: -> offset[8, signed] length[8]
    def channel(self) -> tuple[int, int, list[int]]:
        reply = self.call(Mid.CHANNEL)
        r = Reader(reply.payload)
        offset, length = r.take("qQ")
        r.done()
        return offset, length, reply.fds

    # FStat: fd[8] -> Statx
    def fstat(self, fd: int) -> Stat:
        r = self.read(Mid.FSTAT, struct.pack("<Q", fd))
        stat = r.stat()
        r.done()
        return stat

    # SetStat: fd[8] mask[4] mode[4] uid[4] gid[4] size[8] atime(sec[8] nsec[8]) mtime(sec[8] nsec[8])
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
        r = self.read(Mid.SETSTAT, struct.pack("<QIIIIQqqqq", fd, mask, mode, uid, gid, size, *atime, *mtime))
        failure_mask, failure_errno = r.take("II")
        r.done()
        return failure_mask, failure_errno

    # Walk: dir_fd[8] str* path -> status[1] Inode*
    def walk(self, dir_fd: int, *path: Name) -> tuple[int, list[Inode]]:
        r = self.read(Mid.WALK, struct.pack("<Q", dir_fd) + strings(path))
        status, count = r.take("B"), r.take("H")
        inodes = [r.inode() for _ in range(count)]
        r.done()
        expect(status in (0, 1, 2) and len(inodes) <= len(path), f"status {status}, {len(inodes)} inodes")
        return status, inodes

    def walk_to(self, *path: Name) -> int:
        """Not a message: the control FD of a path from the root; what lies between is closed."""
        status, inodes = self.walk(self.root, *path)
        if len(inodes) != len(path):
            raise FileNotFoundError(2, f"walk stopped with status {status}")
        self.close(*(inode.fd for inode in inodes[:-1]))
        return inodes[-1].fd

    # WalkStat: dir_fd[8] str* path -> Statx*
    def walkstat(self, dir_fd: int, *path: Name) -> list[Stat]:
        r = self.read(Mid.WALKSTAT, struct.pack("<Q", dir_fd) + strings(path))
        stats = [r.stat() for _ in range(r.take("H"))]
        r.done()
        return stats

    # OpenAt: fd[8] flags[4] pad[4] -> open_fd[8]
    def openat(self, fd: int, flags: int = os.O_RDONLY) -> Opened:
        reply = self.call(Mid.OPENAT, struct.pack("<QI4x", fd, flags))
        r = Reader(reply.payload)
        opened = Opened(r.take("Q"), reply.fds)
        r.done()
        return opened

    # OpenCreateAt: Create flags[4] str name -> Inode open_fd[8]
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
        r = Reader(reply.payload)
        created = Created(r.inode(), r.take("Q"), reply.fds)
        r.done()
        return created

    # Close: FDID* fds -> -
    def close(self, *fds: int) -> None:
        self.empty(Mid.CLOSE, fdids(fds))

    # FSync: FDID* fds -> -
    def fsync(self, *fds: int) -> None:
        self.empty(Mid.FSYNC, fdids(fds))

    # PWrite: offset[8] fd[8] num_bytes[4] data -> count[8]
    def pwrite(self, fd: int, offset: int, data: bytes) -> int:
        r = self.read(Mid.PWRITE, self.raw_pwrite(offset, fd, len(data)) + data)
        count = int(r.take("Q"))
        r.done()
        return count

    # PRead: offset[8] fd[8] count[4] pad[4] -> num_bytes[8] data
    def pread(self, fd: int, offset: int, count: int) -> bytes:
        r = self.read(Mid.PREAD, struct.pack("<QQI4x", offset, fd, count))
        num_bytes, data = r.take("Q"), r.rest()
        expect(num_bytes == len(data) <= count, f"{len(data)} bytes for {num_bytes} told and {count} asked for")
        return data

    def _child(self, mid: int, payload: bytes) -> Inode:
        r = self.read(mid, payload)
        inode = r.inode()
        r.done()
        return inode

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
        return self._child(
            Mid.MKNODAT, create(dir_fd, mode, uid, gid) + struct.pack("<II", minor, major) + string(name)
        )

    # SymlinkAt: dir_fd[8] uid[4] gid[4] str name str target -> Inode
    def symlinkat(self, dir_fd: int, name: Name, target: Name, uid: int = NO_ID, gid: int = NO_ID) -> Inode:
        return self._child(Mid.SYMLINKAT, struct.pack("<QII", dir_fd, uid, gid) + string(name) + string(target))

    # LinkAt: dir_fd[8] target_fd[8] str name -> Inode
    def linkat(self, dir_fd: int, target_fd: int, name: Name) -> Inode:
        return self._child(Mid.LINKAT, struct.pack("<QQ", dir_fd, target_fd) + string(name))

    # FStatFS: fd[8] -> type[8] bsize[8] blocks[8] bfree[8] bavail[8] files[8] ffree[8] namelen[8]
    def fstatfs(self, fd: int) -> StatFS:
        r = self.read(Mid.FSTATFS, struct.pack("<Q", fd))
        statfs = StatFS(*r.take("8Q"))
        r.done()
        return statfs

    # FAllocate: fd[8] mode[8] offset[8] length[8] -> -
    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.empty(Mid.FALLOCATE, struct.pack("<QQQQ", fd, mode, offset, length))

    # ReadLinkAt: fd[8] -> str target
    def readlinkat(self, fd: int) -> bytes:
        r = self.read(Mid.READLINKAT, struct.pack("<Q", fd))
        target = r.string()
        r.done()
        return target

    # Flush: fd[8] -> -
    def flush(self, fd: int) -> None:
        self.empty(Mid.FLUSH, struct.pack("<Q", fd))

    # Connect: fd[8] sock_type[4] pad[4] -> -                   donates [socket]
    def connect(self, fd: int, sock_type: int = socket.SOCK_STREAM) -> list[int]:
        return self.empty(Mid.CONNECT, struct.pack("<QI4x", fd, sock_type))

    # UnlinkAt: dir_fd[8] flags[4] str name -> -
    def unlinkat(self, dir_fd: int, name: Name, flags: int = 0) -> None:
        self.empty(Mid.UNLINKAT, struct.pack("<QI", dir_fd, flags) + string(name))

    # RenameAt: old_dir[8] new_dir[8] str old_name str new_name -> -
    def renameat(self, old_dir: int, old_name: Name, new_dir: int, new_name: Name) -> None:
        self.empty(Mid.RENAMEAT, struct.pack("<QQ", old_dir, new_dir) + string(old_name) + string(new_name))

    # Getdents64: open_fd[8] count[4, signed] pad[4] -> dirent*
    #             dirent: ino[8] dev_minor[4] dev_major[4] off[8] type[1] str name
    def getdents64(self, open_fd: int, count: int = 65536) -> list[Dirent]:
        return self.dirents(self.call(Mid.GETDENTS64, self.raw_getdents(open_fd, count)).payload)

    # DirStat: open_fd[8] count[4, signed] pad[4] -> n[2] and n times off[8] Statx str name
    def dirstat(self, open_fd: int, count: int = 65536) -> list[tuple[bytes, Stat]]:
        r = self.read(Mid.DIRSTAT, self.raw_getdents(open_fd, count))
        entries = []
        for _ in range(r.take("H")):
            r.take("Q")
            stat = r.stat()
            entries.append((r.string(), stat))
        r.done()
        return entries

    # DirWalk: dir_fd[8] count[4] what[4] str name -> control_fd[8] open_fd[8] Statx n[4] size[4], n types or Statx, n names, NULs
    def dirwalk(
        self, dir_fd: int, name: Name = b"", count: int = 65536, stats: int = 0
    ) -> tuple[int, int, Stat, list[tuple[bytes, int | Stat]]]:
        """The control FD, the open FD, the directory's own Stat, and of each entry the name and its type or Stat."""
        r = self.read(Mid.DIRWALK, struct.pack("<QII", dir_fd, count, stats) + string(name))
        fd, opened = r.take("QQ")
        own = r.stat()
        entries, size = r.take("II")
        begin = r.at
        told = [r.stat() if stats else r.take("B") for _ in range(entries)]
        expect(r.at + len(rest := r.rest()) == begin + size, "data of another length than told")
        names = bytes(rest).split(b"\0")
        expect(len(names) == entries + 1 and not names.pop(), "another number of names than told")
        return fd, opened, own, list(zip(names, told))

    def listdir(self, open_fd: int, count: int = 65536) -> list[Dirent]:
        """Not a message: rewind, then Getdents64 until the end."""
        entries = more = self.getdents64(open_fd, -count)
        while more:
            more = self.getdents64(open_fd, count)
            entries = entries + more
        return entries

    # FGetXattr: fd[8] size[4] str name -> str value
    def fgetxattr(self, fd: int, name: Name, size: int = 0) -> bytes:
        r = self.read(Mid.FGETXATTR, struct.pack("<QI", fd, size) + string(name))
        value = r.string()
        r.done()
        return value

    # FSetXattr: fd[8] flags[4] str name str value -> -
    def fsetxattr(self, fd: int, name: Name, value: bytes, flags: int = 0) -> None:
        self.empty(Mid.FSETXATTR, struct.pack("<QI", fd, flags) + string(name) + string(value))

    # FListXattr: fd[8] size[8] -> str* names
    def flistxattr(self, fd: int, size: int = 0) -> list[bytes]:
        r = self.read(Mid.FLISTXATTR, struct.pack("<QQ", fd, size))
        names = [r.string() for _ in range(r.take("H"))]
        r.done()
        return names

    # FRemoveXattr: fd[8] str name -> -
    def fremovexattr(self, fd: int, name: Name) -> None:
        self.empty(Mid.FREMOVEXATTR, struct.pack("<Q", fd) + string(name))

    # BindAt: Create sock_type[4] str name -> Inode bound_fd[8]  donates [socket]
    def bindat(
        self,
        dir_fd: int,
        name: Name,
        sock_type: int = socket.SOCK_STREAM,
        mode: int = 0o140755,
        uid: int = NO_ID,
        gid: int = NO_ID,
    ) -> Created:
        reply = self.call(Mid.BINDAT, create(dir_fd, mode, uid, gid) + struct.pack("<I", sock_type) + string(name))
        r = Reader(reply.payload)
        created = Created(r.inode(), r.take("Q"), reply.fds)
        r.done()
        return created

    # Listen: bound_fd[8] backlog[4, signed] pad[4] -> -
    def listen(self, bound_fd: int, backlog: int = 8) -> None:
        self.empty(Mid.LISTEN, struct.pack("<Qi4x", bound_fd, backlog))

    # Accept: bound_fd[8] -> str peer                           donates [connection]
    def accept(self, bound_fd: int) -> tuple[bytes, list[int]]:
        reply = self.call(Mid.ACCEPT, struct.pack("<Q", bound_fd))
        r = Reader(reply.payload)
        address = r.string()
        r.done()
        return address, reply.fds

    # ConnectWithCreds: fd[8] sock_type[4] pad[4] uid[4] gid[4] -> -  donates [socket]
    def connectwithcreds(self, fd: int, uid: int, gid: int, sock_type: int = socket.SOCK_STREAM) -> list[int]:
        return self.empty(Mid.CONNECTWITHCREDS, struct.pack("<QI4xII", fd, sock_type, uid, gid))

    # RenameAt2: as RenameAt, then flags[4]
    def renameat2(self, old_dir: int, old_name: Name, new_dir: int, new_name: Name, flags: int = 0) -> None:
        self.empty(
            Mid.RENAMEAT2,
            struct.pack("<QQ", old_dir, new_dir) + string(old_name) + string(new_name) + struct.pack("<I", flags),
        )


def over_socket(sock: socket.socket, kind: type[Peer] = Peer) -> Peer:
    """A mounted peer on a connected stream socket, which it owns."""
    peer = kind(SocketTransport(sock))
    try:
        peer.mount()
    except BaseException:
        peer.disconnect()
        raise
    return peer


def open_channel(peer: Peer) -> tuple[ChannelTransport, int]:
    """One more channel of peer's connection, before its handshake; -> it, and the memfd, which peer owns."""
    offset, length, fds = peer.channel()
    expect(len(fds) == 2, f"Channel donates a memfd and a socket, not {len(fds)} fds")
    memfd, fd_socket = fds
    peer.disown([fd_socket])
    channel = ChannelTransport(memfd, socket.socket(fileno=fd_socket), offset, length, peer.transport.patience)
    peer.channels.append(channel)
    return channel, memfd


def over_channel(peer: Peer) -> Peer:
    """A second peer, whose requests travel over a new channel of peer's connection. Close peer last."""
    channel, _ = open_channel(peer)
    hello = channel.handshake()
    expect(hello == b"{}\n", f"the handshake was answered with {hello!r}")
    peer.channels.remove(channel)
    other = type(peer)(channel)
    other.root, other.offered = peer.root, peer.offered
    return other
