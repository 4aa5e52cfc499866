"""The messages of LISAFS as of 2021-09 to 2022-01, as wire.py has today's: FDIDs of 4 bytes, lengths and counts too.

`str` is len[4] and that many bytes, `T*` is n[4] and n times T; only the message ids in Mount's reply are counted in 2 bytes.
A structure that has the same bytes in both dialects is today's: an FDID[4] pad[4] is an FDID[8] whose upper half is zero.
"""

from __future__ import annotations

import struct

from gofer import wire
from gofer.wire import (
    I32,
    I64,
    PAD4,
    U8,
    U16,
    U32,
    U64,
    ChannelResp,
    FStatFSResp,
    Inode,
    MountResp,
    OpenCreateAtResp,
    PWriteResp,
    Record,
    SetStatResp,
    Statx,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.wire import Buffer

MOST_FDID = 0xFFFFFFFF
PAD2 = "2x"

# Count      n[4]
Count = Record("Count", n=U32)

# FDID       fd[4]
FDID = Record("FDID", fd=U32)

# Dirent     ino[8] dev_minor[4] dev_major[4] off[8] type[1] name_len[4]
Dirent = Record("Dirent", ino=U64, dev_minor=U32, dev_major=U32, off=U64, type=U8, name_len=U32)

# Mount      str -> control_fd[4] pad[4] statx[144] max_message_size[4] n[2] mids[2]...

# Channel    -> offset[8] length[8]

# FStat      fd[4] -> statx[144]
FStatReq = FDID

# SetStat    fd[4] pad[4] mask[4] mode[4] uid[4] gid[4] size[8] atime_sec[8] atime_nsec[8] mtime_sec[8] mtime_nsec[8] -> failure_mask[4] failure_errno[4]
SetStatReq = Record(
    "SetStatReq", fd=U32, _pad=PAD4, mask=U32, mode=U32, uid=U32, gid=U32, size=U64,
    atime_sec=I64, atime_nsec=I64, mtime_sec=I64, mtime_nsec=I64,
)  # fmt: skip

# Walk       dir_fd[4] str* -> status[1] count[4] Inode...
WalkReq = Record("WalkReq", dir_fd=U32)
WalkResp = Record("WalkResp", status=U8, count=U32)

# WalkStat   dir_fd[4] str* -> count[4] Statx...
WalkStatReq = WalkReq
WalkStatResp = Count

# OpenAt     fd[4] flags[4] -> open_fd[4]
OpenAtReq = Record("OpenAtReq", fd=U32, flags=U32)
OpenAtResp = Record("OpenAtResp", open_fd=U32)

# OpenCreateAt dir_fd[4] mode[2] pad[2] uid[4] gid[4] flags[4] str -> control_fd[4] pad[4] statx[144] open_fd[4] pad[4]
OpenCreateAtReq = Record("OpenCreateAtReq", dir_fd=U32, mode=U16, _pad=PAD2, uid=U32, gid=U32, flags=U32)

# Close      FDID* -> -

# FSync      FDID* -> -

# PWrite     offset[8] fd[4] num_bytes[4] data[num_bytes] -> count[8]
PWriteReq = Record("PWriteReq", offset=U64, fd=U32, num_bytes=U32)

# PRead      offset[8] fd[4] count[4] -> num_bytes[4] data[num_bytes]
PReadReq = Record("PReadReq", offset=U64, fd=U32, count=U32)
PReadResp = Record("PReadResp", num_bytes=U32)

# MkdirAt    dir_fd[4] mode[2] pad[2] uid[4] gid[4] str -> control_fd[4] pad[4] statx[144]
CreateReq = Record("CreateReq", dir_fd=U32, mode=U16, _pad=PAD2, uid=U32, gid=U32)
MkdirAtReq = CreateReq

# MknodAt    dir_fd[4] mode[2] pad[2] uid[4] gid[4] minor[4] major[4] str -> control_fd[4] pad[4] statx[144]
MknodAtReq = Record("MknodAtReq", dir_fd=U32, mode=U16, _pad=PAD2, uid=U32, gid=U32, minor=U32, major=U32)

# SymlinkAt  dir_fd[4] uid[4] gid[4] str str -> control_fd[4] pad[4] statx[144]
SymlinkAtReq = Record("SymlinkAtReq", dir_fd=U32, uid=U32, gid=U32)

# LinkAt     dir_fd[4] target_fd[4] str -> control_fd[4] pad[4] statx[144]
LinkAtReq = Record("LinkAtReq", dir_fd=U32, target_fd=U32)

# FStatFS    fd[4] -> type[8] bsize[8] blocks[8] bfree[8] bavail[8] files[8] ffree[8] namelen[8]
FStatFSReq = FDID

# FAllocate  fd[4] pad[4] mode[8] offset[8] length[8] -> -
FAllocateReq = Record("FAllocateReq", fd=U32, _pad=PAD4, mode=U64, offset=U64, length=U64)

# ReadLinkAt fd[4] -> str
ReadLinkAtReq = FDID

# Flush      fd[4] -> -
FlushReq = FDID

# Connect    fd[4] sock_type[4] -> -
ConnectReq = Record("ConnectReq", fd=U32, sock_type=U32)

# UnlinkAt   dir_fd[4] flags[4] str -> -
UnlinkAtReq = Record("UnlinkAtReq", dir_fd=U32, flags=U32)

# RenameAt   renamed_fd[4] new_dir[4] str -> -
RenameAtReq = Record("RenameAtReq", renamed_fd=U32, new_dir=U32)

# Getdents64 open_fd[4] count[4] -> count[4] Dirent...
Getdents64Req = Record("Getdents64Req", open_fd=U32, count=I32)
Getdents64Resp = Count

# FGetXattr  fd[4] size[4] str -> str
FGetXattrReq = Record("FGetXattrReq", fd=U32, size=U32)

# FSetXattr  fd[4] flags[4] str str -> -
FSetXattrReq = Record("FSetXattrReq", fd=U32, flags=U32)

# FListXattr fd[4] pad[4] size[8] -> str*
FListXattrReq = Record("FListXattrReq", fd=U32, _pad=PAD4, size=U64)

# FRemoveXattr fd[4] str -> -
FRemoveXattrReq = FDID

_u32 = Count.read


def take_str(buffer: Buffer, at: int) -> tuple[bytes, int]:
    """The str at offset `at`, copied out, and the offset behind it."""
    (size,) = _u32(buffer, at)
    end = at + 4 + size
    if end > len(buffer):
        raise struct.error("str runs past the end of the message")
    return bytes(buffer[at + 4 : end]), end


def take_last(buffer: Buffer, at: int) -> bytes:
    """The str at offset `at` that must end the message, copied out."""
    value, end = take_str(buffer, at)
    wire.expect_end(buffer, end)
    return value


def take_strs(buffer: Buffer, at: int) -> list[bytes]:
    """The str* that must fill the buffer from `at` to its end."""
    raw = bytes(buffer)  # read once: the client may be writing to it
    (count,) = _u32(raw, at)
    if count > (len(raw) - at) // 4:
        raise struct.error("more strings than there is room for")
    at += 4
    found = []
    for _ in range(count):
        value, at = take_str(raw, at)
        found.append(value)
    wire.expect_end(raw, at)
    return found


def take_fdids(buffer: Buffer) -> tuple[int, ...]:
    """The FDID* that is the whole message."""
    (count,) = _u32(buffer, 0)
    if len(buffer) != 4 + 4 * count:
        raise struct.error("the FDs do not end where the message does")
    fdids: tuple[int, ...] = struct.unpack_from(f"<{count}I", buffer, 4)
    return fdids


def pack_str(buffer: Any, at: int, value: Buffer) -> int:
    """Write a str at `at`; returns the offset behind it."""
    Count.pack(buffer, at, len(value))
    end = at + 4 + len(value)
    buffer[at + 4 : end] = value
    return end


__all__ = [
    "FDID", "MOST_FDID", "ChannelResp", "ConnectReq", "Count", "CreateReq", "Dirent", "FAllocateReq", "FGetXattrReq",
    "FListXattrReq", "FRemoveXattrReq", "FSetXattrReq", "FStatFSReq", "FStatFSResp", "FStatReq", "FlushReq",
    "Getdents64Req", "Getdents64Resp", "Inode", "LinkAtReq", "MkdirAtReq", "MknodAtReq", "MountResp", "OpenAtReq",
    "OpenAtResp", "OpenCreateAtReq", "OpenCreateAtResp", "PReadReq", "PReadResp", "PWriteReq", "PWriteResp",
    "ReadLinkAtReq", "RenameAtReq", "SetStatReq", "SetStatResp", "Statx", "SymlinkAtReq", "UnlinkAtReq", "WalkReq", "WalkResp",
    "WalkStatReq", "WalkStatResp", "pack_str", "take_fdids", "take_last", "take_str", "take_strs",
]  # fmt: skip
