"""LISAFS messages: every structure declared once, Plan 9 notation above it. No I/O; imports nothing of ours.

Little-endian, packed. `name[bytes]` is a number (or a fixed structure), `str` is len[2] and that many bytes,
`T*` is n[2] and n times T, `data[n]` is as many bytes as the field n said. A request must be exactly as long
as its fields say: what is short, long or lies about a length raises struct.error, which dispatch turns into EIO.

A Record is fixed in size. `unpack` takes a buffer of exactly that size and returns a tuple in the order of
the fields, pads left out; `read(buffer)` takes a longer one and leaves the rest, which the readers at the end
(`take_str`, `take_strs`) then go through.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # importing `typing` costs 5 ms of start-up: only the type checker does
if TYPE_CHECKING:
    from typing import Any, Union

    Buffer = Union[bytes, bytearray, memoryview]

U8, U16, U32, U64, I32, I64 = "B", "H", "I", "Q", "i", "q"
PAD4, PAD6 = "4x", "6x"
STATX = "144s"
STATX_SIZE = 144

MAX_MESSAGE_SIZE = (2 << 20) - 4096
NO_ID = 0xFFFFFFFF  # a uid or gid to leave as it is


class Record:
    """A fixed structure: field names and struct codes, compiled once.

    size: in bytes. pack(buffer, offset, *values), unpack(buffer) and read(buffer, offset=0) are those of struct.Struct.
    """

    __slots__ = ("name", "fields", "codes", "size", "pack", "unpack", "read", "bytes")

    def __init__(self, name: str, **codes: str) -> None:
        compiled = struct.Struct("<" + "".join(codes.values()))
        self.name = name
        self.codes = codes
        self.fields = tuple(field for field in codes if not field.startswith("_"))
        self.size = compiled.size
        self.pack = compiled.pack_into
        self.unpack = compiled.unpack
        self.read = compiled.unpack_from
        self.bytes = compiled.pack

    def __repr__(self) -> str:
        return f"<{self.name} {self.size} bytes: {' '.join(self.fields)}>"


# Header     payload_len[4] mid[2] zero[2]
SocketHeader = Record("SocketHeader", payload_len=U32, mid=U16, _zero="2x")

# Window     state[4] data_len[4] reserved[8] mid[2] num_fds[1] zero[1]
ChannelHeader = Record("ChannelHeader", state=U32, data_len=U32, _reserved="8x", mid=U16, num_fds=U8, _zero="x")

# Statx      statx[144]
Statx = Record("Statx", statx=STATX)

# Inode      control_fd[8] statx[144]
Inode = Record("Inode", control_fd=U64, statx=STATX)

# Dirent     ino[8] dev_minor[4] dev_major[4] off[8] type[1] name_len[2]
Dirent = Record("Dirent", ino=U64, dev_minor=U32, dev_major=U32, off=U64, type=U8, name_len=U16)

# Count      n[2]
Count = Record("Count", n=U16)

# FDID       fd[8]
FDID = Record("FDID", fd=U64)

# Error      -> errno[4]
ERROR = 0
ErrorResp = Record("ErrorResp", errno=U32)

# Mount      -> control_fd[8] statx[144] max_message_size[4] u16*
MOUNT = 1
MountResp = Record("MountResp", control_fd=U64, statx=STATX, max_message_size=U32)

# Channel    -> offset[8] length[8]
CHANNEL = 2
ChannelResp = Record("ChannelResp", offset=I64, length=U64)

# FStat      fd[8] -> statx[144]
FSTAT = 3
FStatReq = FDID

# SetStat    fd[8] mask[4] mode[4] uid[4] gid[4] size[8] atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8] -> failure_mask[4] failure_errno[4]
SETSTAT = 4
SetStatReq = Record(
    "SetStatReq", fd=U64, mask=U32, mode=U32, uid=U32, gid=U32, size=U64,
    atime_sec=I64, atime_nsec=I64, mtime_sec=I64, mtime_nsec=I64,
)  # fmt: skip
SetStatResp = Record("SetStatResp", failure_mask=U32, failure_errno=U32)

# Walk       dir_fd[8] str* -> status[1] count[2] Inode...
WALK = 5
WalkReq = Record("WalkReq", dir_fd=U64)
WalkResp = Record("WalkResp", status=U8, count=U16)
WALK_SUCCESS, WALK_MISSING, WALK_SYMLINK = 0, 1, 2

# WalkStat   dir_fd[8] str* -> count[2] Statx...
WALKSTAT = 6
WalkStatReq = WalkReq
WalkStatResp = Count

# OpenAt     fd[8] flags[4] pad[4] -> open_fd[8]
OPENAT = 7
OpenAtReq = Record("OpenAtReq", fd=U64, flags=U32, _pad=PAD4)
OpenAtResp = Record("OpenAtResp", open_fd=U64)

# OpenCreateAt dir_fd[8] uid[4] gid[4] mode[2] pad[6] flags[4] str -> control_fd[8] statx[144] open_fd[8]
OPENCREATEAT = 8
OpenCreateAtReq = Record("OpenCreateAtReq", dir_fd=U64, uid=U32, gid=U32, mode=U16, _pad=PAD6, flags=U32)
OpenCreateAtResp = Record("OpenCreateAtResp", control_fd=U64, statx=STATX, open_fd=U64)

# Close      FDID* -> -
CLOSE = 9

# FSync      FDID* -> -
FSYNC = 10

# PWrite     offset[8] fd[8] num_bytes[4] data[num_bytes] -> count[8]
PWRITE = 11
PWriteReq = Record("PWriteReq", offset=U64, fd=U64, num_bytes=U32)
PWriteResp = Record("PWriteResp", count=U64)

# PRead      offset[8] fd[8] count[4] pad[4] -> num_bytes[8] data[num_bytes]
PREAD = 12
PReadReq = Record("PReadReq", offset=U64, fd=U64, count=U32, _pad=PAD4)
PReadResp = Record("PReadResp", num_bytes=U64)

# MkdirAt    dir_fd[8] uid[4] gid[4] mode[2] pad[6] str -> control_fd[8] statx[144]
MKDIRAT = 13
CreateReq = Record("CreateReq", dir_fd=U64, uid=U32, gid=U32, mode=U16, _pad=PAD6)
MkdirAtReq = CreateReq

# MknodAt    dir_fd[8] uid[4] gid[4] mode[2] pad[6] minor[4] major[4] str -> control_fd[8] statx[144]
MKNODAT = 14
MknodAtReq = Record("MknodAtReq", dir_fd=U64, uid=U32, gid=U32, mode=U16, _pad=PAD6, minor=U32, major=U32)

# SymlinkAt  dir_fd[8] uid[4] gid[4] str str -> control_fd[8] statx[144]
SYMLINKAT = 15
SymlinkAtReq = Record("SymlinkAtReq", dir_fd=U64, uid=U32, gid=U32)

# LinkAt     dir_fd[8] target_fd[8] str -> control_fd[8] statx[144]
LINKAT = 16
LinkAtReq = Record("LinkAtReq", dir_fd=U64, target_fd=U64)

# FStatFS    fd[8] -> type[8] bsize[8] blocks[8] bfree[8] bavail[8] files[8] ffree[8] namelen[8]
FSTATFS = 17
FStatFSReq = FDID
FStatFSResp = Record(
    "FStatFSResp", type=U64, bsize=I64, blocks=U64, bfree=U64, bavail=U64, files=U64, ffree=U64, namelen=U64
)

# FAllocate  fd[8] mode[8] offset[8] length[8] -> -
FALLOCATE = 18
FAllocateReq = Record("FAllocateReq", fd=U64, mode=U64, offset=U64, length=U64)

# ReadLinkAt fd[8] -> str
READLINKAT = 19
ReadLinkAtReq = FDID

# Flush      fd[8] -> -
FLUSH = 20
FlushReq = FDID

# Connect    fd[8] sock_type[4] pad[4] -> -
CONNECT = 21
ConnectReq = Record("ConnectReq", fd=U64, sock_type=U32, _pad=PAD4)

# UnlinkAt   dir_fd[8] flags[4] str -> -
UNLINKAT = 22
UnlinkAtReq = Record("UnlinkAtReq", dir_fd=U64, flags=U32)

# RenameAt   old_dir[8] new_dir[8] str str -> -
RENAMEAT = 23
RenameAtReq = Record("RenameAtReq", old_dir=U64, new_dir=U64)

# Getdents64 open_fd[8] count[4] pad[4] -> count[2] Dirent...
GETDENTS64 = 24
Getdents64Req = Record("Getdents64Req", open_fd=U64, count=I32, _pad=PAD4)
Getdents64Resp = Count

# FGetXattr  fd[8] size[4] str -> str
FGETXATTR = 25
FGetXattrReq = Record("FGetXattrReq", fd=U64, size=U32)

# FSetXattr  fd[8] flags[4] str str -> -
FSETXATTR = 26
FSetXattrReq = Record("FSetXattrReq", fd=U64, flags=U32)

# FListXattr fd[8] size[8] -> str*
FLISTXATTR = 27
FListXattrReq = Record("FListXattrReq", fd=U64, size=U64)

# FRemoveXattr fd[8] str -> -
FREMOVEXATTR = 28
FRemoveXattrReq = FDID

# BindAt     dir_fd[8] uid[4] gid[4] mode[2] pad[6] sock_type[4] str -> control_fd[8] statx[144] bound_fd[8]
BINDAT = 29
BindAtReq = Record("BindAtReq", dir_fd=U64, uid=U32, gid=U32, mode=U16, _pad=PAD6, sock_type=U32)
BindAtResp = Record("BindAtResp", control_fd=U64, statx=STATX, bound_fd=U64)

# Listen     bound_fd[8] backlog[4] pad[4] -> -
LISTEN = 30
ListenReq = Record("ListenReq", bound_fd=U64, backlog=I32, _pad=PAD4)

# Accept     bound_fd[8] -> str
ACCEPT = 31
AcceptReq = FDID

# ConnectWithCreds fd[8] sock_type[4] pad[4] uid[4] gid[4] -> -
CONNECTWITHCREDS = 32
ConnectWithCredsReq = Record("ConnectWithCredsReq", fd=U64, sock_type=U32, _pad=PAD4, uid=U32, gid=U32)

# RenameAt2  old_dir[8] new_dir[8] str str flags[4] -> -
RENAMEAT2 = 33
RenameAt2Req = RenameAtReq
U32Field = Record("U32Field", value=U32)

# Messages of our own. Their ids are beyond the protocol's, and Mount does not offer them, so that no other client sees one; who
# asks all the same takes EOPNOTSUPP for no.

# DirRead    dir_fd[8] each[4] most[4] str* -> n[4] num_bytes[4] data[num_bytes]
# data: of each name a DirReadEntry, and then the contents of each of which there are. size 0xffffffff: they are not told
DIRREAD = 67
DirReadReq = Record("DirReadReq", dir_fd=U64, each=U32, most=U32)
DirReadResp = Record("DirReadResp", n=U32, num_bytes=U32)
# DirReadEntry errno[4] size[4] statx[144]
DirReadEntry = Record("DirReadEntry", errno=U32, size=U32, statx=STATX)
UNTOLD = 0xFFFFFFFF

# DirWrite   dir_fd[8] flags[4] n[4] num_bytes[4] data[num_bytes] -> n[4] num_bytes[4] data[num_bytes]
# data: n times DirWriteEntry, then the names, then the contents; of the reply: n times DirWriteDone. flags 1: all is on the disk
DIRWRITE = 68
DirWriteReq = Record("DirWriteReq", dir_fd=U64, flags=U32, n=U32, num_bytes=U32)
DirWriteResp = DirReadResp
# DirWriteEntry mode[4] uid[4] gid[4] size[4] atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8] name_len[2]
DirWriteEntry = Record(
    "DirWriteEntry", mode=U32, uid=U32, gid=U32, size=U32,
    atime_sec=I64, atime_nsec=I64, mtime_sec=I64, mtime_nsec=I64, name_len=U16,
)  # fmt: skip
# DirWriteDone errno[4] failure_mask[4] failure_errno[4]
DirWriteDone = Record("DirWriteDone", errno=U32, failure_mask=U32, failure_errno=U32)

# DirRename  dir_fd[8] str* -> n[4] num_bytes[4] data[num_bytes]
# str*: an old name and its new one, and so on; data: of each errno[4]
DIRRENAME = 69
DirRenameReq = WalkReq
DirRenameResp = DirReadResp

# DirWalk    dir_fd[8] count[4] what[4] str -> control_fd[8] open_fd[8] statx[144] n[4] num_bytes[4] data[num_bytes]
# data: of each of n entries its type (DT_*, a byte) or, where what is 1, its statx as in DirStat; then their names, each with a NUL
DIRWALK = 70
DirWalkReq = Record("DirWalkReq", dir_fd=U64, count=U32, what=U32)
DirWalkResp = Record("DirWalkResp", control_fd=U64, open_fd=U64, statx=STATX, n=U32, num_bytes=U32)

# DirStat    open_fd[8] count[4] pad[4] -> count[2] DirStatEntry...
DIRSTAT = 71
DirStatReq = Getdents64Req
DirStatResp = Count
# DirStatEntry off[8] statx[144] name_len[2], and the name. stx_mask 0: of statx, nothing but type and inode number is told
DirStatEntry = Record("DirStatEntry", off=U64, statx=STATX, name_len=U16)

# Lanes, as the first message of a client over stdin and stdout: -> count[2], how many lanes can be worked on at once. Then the
# reserved bytes of a header are the lane, and answers keep to the order of the requests in their lane alone (server/lanes.py).
LANES = 72
# LaneHeader payload_len[4] mid[2] lane[2]
LaneHeader = Record("LaneHeader", payload_len=U32, mid=U16, lane=U16)

_u16 = Count.read
ONE_FDID = 10
one_fdid = struct.Struct("<HQ").unpack  # a FDID* of that many bytes: how many there are, and the one
_TWO_FDIDS = 18
_two_fdids = struct.Struct("<HQQ").unpack
WALK_OF_ONE = 12
walk_of_one = struct.Struct("<QHH").unpack_from  # dir_fd, the number of names, and the length of the first, which begins then
_walk = struct.Struct("<QH").unpack_from
# What stands before the name that ends a message, the name's length as well; and how many bytes that is.
open_create, OPEN_CREATE_HEAD = struct.Struct("<QIIH6xIH").unpack_from, OpenCreateAtReq.size + 2
make_dir, MAKE_DIR_HEAD = struct.Struct("<QIIH6xH").unpack_from, MkdirAtReq.size + 2
unlink_at, UNLINK_HEAD = struct.Struct("<QIH").unpack_from, UnlinkAtReq.size + 2
_rename = struct.Struct("<QQH").unpack_from


def take_str(buffer: Buffer, at: int) -> tuple[bytes, int]:
    """The str at offset `at`, copied out, and the offset behind it."""
    (size,) = _u16(buffer, at)
    end = at + 2 + size
    if end > len(buffer):
        raise struct.error("str runs past the end of the message")
    return bytes(buffer[at + 2 : end]), end


def take_last(buffer: memoryview, at: int) -> bytes:
    """The str at offset `at` that must end the message, copied out."""
    raw = buffer.tobytes()  # half the price of bytes(buffer); and a slice of bytes costs two thirds of a memoryview's
    (size,) = _u16(raw, at)
    value = raw[at + 2 :]
    if len(value) != size:
        raise struct.error("the str does not end where the message does")
    return value


def take_strs(buffer: Buffer, at: int) -> list[bytes]:
    """The str* that must fill the buffer from `at` to its end."""
    raw = bytes(buffer)
    (count,) = _u16(raw, at)
    return _strs(raw, at + 2, count)


def _strs(raw: bytes, at: int, count: int) -> list[bytes]:
    found = []
    while count:  # for the few there are, a range costs more than what they are
        count -= 1
        (size,) = _u16(raw, at)
        start = at + 2
        at = start + size
        found.append(raw[start:at])
    if at != len(raw):  # a str that runs past the end comes to this as well
        raise struct.error("the strings do not end where the message does")
    return found


def take_walk(raw: bytes) -> tuple[int, list[bytes]]:
    """dir_fd and the names of a Walk or WalkStat, all of it copied out."""
    dir_fd, count = _walk(raw)
    return dir_fd, _strs(raw, 10, count)


def take_rename(buffer: memoryview) -> tuple[int, int, bytes, bytes]:
    """All of a RenameAt."""
    raw = buffer.tobytes()
    old_dir, new_dir, size = _rename(raw)
    at = RenameAtReq.size + 2 + size
    old_name = raw[RenameAtReq.size + 2 : at]
    (size,) = _u16(raw, at)
    new_name = raw[at + 2 :]
    if len(new_name) != size:
        raise struct.error("the strings do not end where the message does")
    return old_dir, new_dir, old_name, new_name


def take_fdids(buffer: Buffer) -> tuple[int, ...]:
    """The FDID* that is the whole message."""
    if len(buffer) == _TWO_FDIDS:
        count, first, second = _two_fdids(buffer)
        if count == 2:
            return first, second
    (count,) = _u16(buffer, 0)
    if count == 1:
        return one_fdid(buffer)[1:]
    fdids: tuple[int, ...] = struct.unpack(f"<2x{count}Q", buffer)
    return fdids


def expect_end(buffer: Buffer, at: int) -> None:
    """Refuse what follows the last field."""
    if at != len(buffer):
        raise struct.error("bytes after the end of the message")


def pack_str(buffer: Any, at: int, value: Buffer) -> int:
    """Write a str at `at`; returns the offset behind it. value: at most 65535 bytes."""
    Count.pack(buffer, at, len(value))
    end = at + 2 + len(value)
    buffer[at + 2 : end] = value
    return end


# Every message of the protocol by id: its name there.
NAMES = {
    ERROR: "Error", MOUNT: "Mount", CHANNEL: "Channel", FSTAT: "FStat", SETSTAT: "SetStat", WALK: "Walk",
    WALKSTAT: "WalkStat", OPENAT: "OpenAt", OPENCREATEAT: "OpenCreateAt", CLOSE: "Close", FSYNC: "FSync",
    PWRITE: "PWrite", PREAD: "PRead", MKDIRAT: "MkdirAt", MKNODAT: "MknodAt", SYMLINKAT: "SymlinkAt",
    LINKAT: "LinkAt", FSTATFS: "FStatFS", FALLOCATE: "FAllocate", READLINKAT: "ReadLinkAt", FLUSH: "Flush",
    CONNECT: "Connect", UNLINKAT: "UnlinkAt", RENAMEAT: "RenameAt", GETDENTS64: "Getdents64",
    FGETXATTR: "FGetXattr", FSETXATTR: "FSetXattr", FLISTXATTR: "FListXattr", FREMOVEXATTR: "FRemoveXattr",
    BINDAT: "BindAt", LISTEN: "Listen", ACCEPT: "Accept", CONNECTWITHCREDS: "ConnectWithCreds",
    RENAMEAT2: "RenameAt2",
}  # fmt: skip
OWN_NAMES = {
    DIRREAD: "DirRead", DIRWRITE: "DirWrite", DIRRENAME: "DirRename", DIRWALK: "DirWalk", DIRSTAT: "DirStat",
}  # fmt: skip
