"""What is in a message, for who wants to show it: the records of wire.py, and by the words of its notation what follows them.

A test compares this table with the notation. Payloads may be cut (a trace keeps no file data) or garbled (a client can send
anything): what is there is given, and `MORE` where something is missing or too much.
"""

from __future__ import annotations

import struct

from gofer import wire, wire2021

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    from gofer.wire import Record

    # name ("" for what the protocol gives none), value
    Field = tuple[str, Union[int, bytes, list[Any], "Data", "Stat"]]

MORE = "..."  # the name of a field that stands for what cannot be read

# message: the request's record, what follows; the reply's, what follows. "value": a str that is an attribute's, and not shown.
SHAPES: dict[int, tuple[str, str, str, str]] = {
    wire.ERROR: ("", "", "ErrorResp", ""),
    wire.MOUNT: ("", "", "MountResp", "u16*"),
    wire.CHANNEL: ("", "", "ChannelResp", ""),
    wire.FSTAT: ("FStatReq", "", "Statx", ""),
    wire.SETSTAT: ("SetStatReq", "", "SetStatResp", ""),
    wire.WALK: ("WalkReq", "str*", "WalkResp", "Inode..."),
    wire.WALKSTAT: ("WalkStatReq", "str*", "WalkStatResp", "Statx..."),
    wire.OPENAT: ("OpenAtReq", "", "OpenAtResp", ""),
    wire.OPENCREATEAT: ("OpenCreateAtReq", "str", "OpenCreateAtResp", ""),
    wire.CLOSE: ("", "FDID*", "", ""),
    wire.FSYNC: ("", "FDID*", "", ""),
    wire.PWRITE: ("PWriteReq", "data", "PWriteResp", ""),
    wire.PREAD: ("PReadReq", "", "PReadResp", "data"),
    wire.MKDIRAT: ("MkdirAtReq", "str", "Inode", ""),
    wire.MKNODAT: ("MknodAtReq", "str", "Inode", ""),
    wire.SYMLINKAT: ("SymlinkAtReq", "str str", "Inode", ""),
    wire.LINKAT: ("LinkAtReq", "str", "Inode", ""),
    wire.FSTATFS: ("FStatFSReq", "", "FStatFSResp", ""),
    wire.FALLOCATE: ("FAllocateReq", "", "", ""),
    wire.READLINKAT: ("ReadLinkAtReq", "", "", "str"),
    wire.FLUSH: ("FlushReq", "", "", ""),
    wire.CONNECT: ("ConnectReq", "", "", ""),
    wire.UNLINKAT: ("UnlinkAtReq", "str", "", ""),
    wire.RENAMEAT: ("RenameAtReq", "str str", "", ""),
    wire.GETDENTS64: ("Getdents64Req", "", "Getdents64Resp", "Dirent..."),
    wire.FGETXATTR: ("FGetXattrReq", "str", "", "value"),
    wire.FSETXATTR: ("FSetXattrReq", "str value", "", ""),
    wire.FLISTXATTR: ("FListXattrReq", "", "", "str*"),
    wire.FREMOVEXATTR: ("FRemoveXattrReq", "str", "", ""),
    wire.BINDAT: ("BindAtReq", "str", "BindAtResp", ""),
    wire.LISTEN: ("ListenReq", "", "", ""),
    wire.ACCEPT: ("AcceptReq", "", "", "str"),
    wire.CONNECTWITHCREDS: ("ConnectWithCredsReq", "", "", ""),
    wire.RENAMEAT2: ("RenameAt2Req", "str str flags[4]", "", ""),
    wire.DIRREAD: ("DirReadReq", "str*", "DirReadResp", "data"),
    wire.DIRWRITE: ("DirWriteReq", "data", "DirWriteResp", "data"),
    wire.DIRRENAME: ("DirRenameReq", "str*", "DirRenameResp", "data"),
    wire.DIRWALK: ("DirWalkReq", "str", "DirWalkResp", "data"),
    wire.DIRSTAT: ("DirStatReq", "", "DirStatResp", "DirStatEntry..."),
}
NAMES = {**wire.NAMES, **wire.OWN_NAMES}
# The dialect of 2021, where it is not the same words.
_SHAPES_2021 = {
    wire.MOUNT: ("", "str", "MountResp", "u16*"),
    wire.RENAMEAT: ("RenameAtReq", "str", "", ""),
    # Inode and the like have an FDID[4] pad[4] there, which reads as today's FDID[8].
}


class Data:
    """File data, or an attribute's value: how much, and what was kept of it."""

    __slots__ = ("kept", "size")

    def __init__(self, size: int, kept: bytes) -> None:
        self.size = size
        self.kept = kept


class Stat:
    """The 144 bytes of a Statx."""

    __slots__ = ("raw",)
    _READ = struct.Struct("<20xIIH10xQ").unpack_from  # stx_uid, stx_gid, stx_mode, stx_size

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @property
    def mode(self) -> int:
        return int(self._READ(self.raw)[2])

    @property
    def size(self) -> int:
        return int(self._READ(self.raw)[3])

    @property
    def owner(self) -> tuple[int, int]:
        uid, gid, _, _ = self._READ(self.raw)
        return uid, gid


def request(mid: int, payload: bytes, size: int, old: bool = False) -> list[Field]:
    """The fields of a request. payload: what was kept of its `size` bytes. old: in the dialect of 2021."""
    its = shape(mid, old)
    return _fields(its[0], its[1], payload, size, old) if its else [("", Data(size, payload))]


def reply(mid: int, payload: bytes, size: int, old: bool = False) -> list[Field]:
    """Those of the reply to it, which is no Error."""
    its = shape(mid, old)
    return _fields(its[2], its[3], payload, size, old) if its else [("", Data(size, payload))]


def shape(mid: int, old: bool) -> tuple[str, str, str, str] | None:
    """Its line of SHAPES, in that dialect."""
    return (_SHAPES_2021.get(mid) if old else None) or SHAPES.get(mid)


def record(name: str, old: bool) -> Record | None:
    """The record of that name, in that dialect."""
    found: Record | None = (getattr(wire2021, name, None) if old else None) or getattr(wire, name, None)
    return found


def _fields(name: str, rest: str, payload: bytes, size: int, old: bool) -> list[Field]:
    found: list[Field] = []
    first, at = record(name, old), 0
    try:
        if first is not None:
            for field, value in zip(first.fields, first.read(payload)):
                found.append((field, Stat(value) if field == "statx" else value))
            at = first.size
        reader = _Reader(payload, at, size, wire2021 if old else wire)
        for word in rest.split():
            found.append(reader.take(word))
        if reader.at != size:
            found.append((MORE, 0))
    except (struct.error, IndexError):
        found.append((MORE, 0))
    return found


class _Reader:
    """What follows a record. dialect: the module with its lengths."""

    def __init__(self, payload: bytes, at: int, size: int, dialect: Any) -> None:
        self._payload = payload
        self.at = at
        self._size = size
        self._dialect = dialect
        self._count = dialect.Count

    def take(self, word: str) -> Field:
        if word == "data":
            kept, self.at = self._payload[self.at :], self._size
            return "", Data(self._size - (len(self._payload) - len(kept)), kept)
        if word in ("str", "value"):
            text = self._str()
            return "", Data(len(text), text) if word == "value" else text
        if word == "flags[4]":
            return "flags", int(self._number(wire.U32Field))
        if word == "str*":
            return "", [self._str() for _ in range(self._number(self._count))]
        if word == "FDID*":
            return "", [self._number(self._dialect.FDID) for _ in range(self._number(self._count))]
        if word == "u16*":
            return "", [self._number(wire.Count) for _ in range(self._number(wire.Count))]
        if word in ("Dirent...", "DirStatEntry..."):
            return "", self._named(getattr(self._dialect, word[:-3]))
        record = wire.Inode if word == "Inode..." else wire.Statx
        found = []
        while self.at + record.size <= self._size:
            values = record.read(self._payload, self.at)
            found.append((values[0], Stat(values[1])) if len(values) == 2 else Stat(values[0]))
            self.at += record.size
        return "", found

    def _number(self, record: Record) -> int:
        (value,) = record.read(self._payload, self.at)
        self.at += record.size
        return int(value)

    def _str(self) -> bytes:
        text, self.at = self._dialect.take_str(self._payload, self.at)
        return bytes(text)

    def _named(self, record: Record) -> list[bytes]:
        """Names, each behind a record that ends with its length."""
        names = []
        while self.at < self._size:
            length = record.read(self._payload, self.at)[-1]
            start = self.at + record.size
            name = self._payload[start : start + length]
            if len(name) < length:
                raise struct.error("cut")
            names.append(name)
            self.at = start + length
        return names
