"""gofer.wire2021 against the golden vectors of 2021, in both directions, and against its own comments.

A structure is a record, then what follows it: `fields` are the vector's in the record's order, `tail` what follows.
"""

import re
import struct
from pathlib import Path
from typing import Any, Callable

import pytest
from test_peer import Capture, Captured
from test_wire import FDIDS, STR, STRS, encoded, fields_of, fixed
from vectors import BY_NAME_2021, VECTORS_2021, Vector, number

from gofer import wire, wire2021
from gofer.conform.peer2021 import Peer2021
from gofer.wire import Record

DATA, INODES, STATS, DIRENTS, MIDS = "data", "Inode*", "Statx*", "dirent*", "mids"
TIME = "atime mtime"
Shape = tuple[Record, str, list[tuple[str, str]]]
NOTHING = Record("Nothing")
SHAPES: dict[str, Shape] = {
    "Statx": (wire2021.Statx, "statx", []),
    "Inode": (wire2021.Inode, "control_fd statx", []),
    "ErrorResp": (wire.ErrorResp, "errno", []),
    "MountReq": (NOTHING, "", [(STR, "mount_path")]),
    "MountResp": (wire2021.MountResp, "root max_message_size", [(MIDS, "supported")]),
    "ChannelResp": (wire2021.ChannelResp, "offset length", []),
    "StatReq": (wire2021.FStatReq, "fd", []),
    "SetStatReq": (wire2021.SetStatReq, f"fd mask mode uid gid size {TIME}", []),
    "SetStatResp": (wire2021.SetStatResp, "failure_mask failure_errno", []),
    "WalkReq": (wire2021.WalkReq, "dir_fd", [(STRS, "path")]),
    "WalkResp": (wire2021.WalkResp, "status len:inodes", [(INODES, "inodes")]),
    "WalkStatResp": (wire2021.WalkStatResp, "len:stats", [(STATS, "stats")]),
    "OpenAtReq": (wire2021.OpenAtReq, "fd flags", []),
    "OpenAtResp": (wire2021.OpenAtResp, "open_fd", []),
    "OpenCreateAtReq": (wire2021.OpenCreateAtReq, "dir_fd mode uid gid flags", [(STR, "name")]),
    "OpenCreateAtResp": (wire2021.OpenCreateAtResp, "child open_fd", []),
    "CloseReq": (wire2021.Count, "len:fds", [(FDIDS, "fds")]),
    "FsyncReq": (wire2021.Count, "len:fds", [(FDIDS, "fds")]),
    "PWriteReq": (wire2021.PWriteReq, "offset fd num_bytes", [(DATA, "data")]),
    "PWriteResp": (wire2021.PWriteResp, "count", []),
    "PReadReq": (wire2021.PReadReq, "offset fd count", []),
    "PReadResp": (wire2021.PReadResp, "num_bytes", [(DATA, "data")]),
    "MkdirAtReq": (wire2021.MkdirAtReq, "dir_fd mode uid gid", [(STR, "name")]),
    "MkdirAtResp": (wire2021.Inode, "child", []),
    "MknodAtReq": (wire2021.MknodAtReq, "dir_fd mode uid gid minor major", [(STR, "name")]),
    "MknodAtResp": (wire2021.Inode, "child", []),
    "SymlinkAtReq": (wire2021.SymlinkAtReq, "dir_fd uid gid", [(STR, "name"), (STR, "target")]),
    "SymlinkAtResp": (wire2021.Inode, "symlink", []),
    "LinkAtReq": (wire2021.LinkAtReq, "dir_fd target_fd", [(STR, "name")]),
    "LinkAtResp": (wire2021.Inode, "link", []),
    "FStatFSReq": (wire2021.FStatFSReq, "fd", []),
    "StatFS": (wire2021.FStatFSResp, "type bsize blocks bfree bavail files ffree namelen", []),
    "FAllocateReq": (wire2021.FAllocateReq, "fd mode offset length", []),
    "ReadLinkAtReq": (wire2021.ReadLinkAtReq, "fd", []),
    "ReadLinkAtResp": (NOTHING, "", [(STR, "target")]),
    "FlushReq": (wire2021.FlushReq, "fd", []),
    "ConnectReq": (wire2021.ConnectReq, "fd sock_type", []),
    "UnlinkAtReq": (wire2021.UnlinkAtReq, "dir_fd flags", [(STR, "name")]),
    "RenameAtReq": (wire2021.RenameAtReq, "renamed_fd new_dir", [(STR, "new_name")]),
    "Getdents64Req": (wire2021.Getdents64Req, "open_fd count", []),
    "Getdents64Resp": (wire2021.Getdents64Resp, "len:dirents", [(DIRENTS, "dirents")]),
    "FGetXattrReq": (wire2021.FGetXattrReq, "fd size", [(STR, "name")]),
    "FGetXattrResp": (NOTHING, "", [(STR, "value")]),
    "FSetXattrReq": (wire2021.FSetXattrReq, "fd flags", [(STR, "name"), (STR, "value")]),
    "FListXattrReq": (wire2021.FListXattrReq, "fd size", []),
    "FListXattrResp": (NOTHING, "", [(STRS, "names")]),
    "FRemoveXattrReq": (wire2021.FRemoveXattrReq, "fd", [(STR, "name")]),
}
STATX = BY_NAME_2021["Statx"].raw
DIRENT = "ino dev_minor dev_major off type"


def values_of(vector: Vector, names: str) -> list[Any]:
    """The vector's fixed fields in the record's order; a time becomes two, an inode its FD and its statx."""
    values: list[Any] = []
    for name in names.split():
        field = vector.fields.get(name)
        if name == "statx":
            values.append(STATX)
        elif name.startswith("len:"):
            values.append(len(vector.fields[name[4:]]))
        elif isinstance(field, list):
            values += field
        elif isinstance(field, dict):
            values += [field["control_fd"], STATX]
        else:
            values.append(number(field))
    return values


def whole(raw: bytes, at: int, record: Record, count: int) -> tuple[list[Any], int]:
    found = []
    for _ in range(count):
        found.append(record.read(raw, at))
        at += record.size
    return found, at


def take(kind: str, raw: bytes, at: int, count: int) -> tuple[Any, int]:
    """What follows a record; count: what its last field said."""
    if kind == STR:
        return wire2021.take_str(raw, at)
    if kind == STRS:
        return wire2021.take_strs(raw, at), len(raw)
    if kind == FDIDS:
        return list(wire2021.take_fdids(raw)), len(raw)
    if kind == INODES:
        return whole(raw, at, wire2021.Inode, count)
    if kind == STATS:
        return whole(raw, at, wire2021.Statx, count)
    if kind == MIDS:
        (count,) = wire.Count.read(raw, at)
        return [mid for (mid,) in whole(raw, at + 2, wire.Count, count)[0]], at + 2 + 2 * count
    if kind == DATA:
        if at + count > len(raw):
            raise struct.error("data runs past the end")
        return raw[at : at + count], at + count
    found = []
    for _ in range(count):
        *fields, size = wire2021.Dirent.read(raw, at)
        at += wire2021.Dirent.size
        if at + size > len(raw):
            raise struct.error("a name runs past the end")
        found.append((fields, raw[at : at + size]))
        at += size
    return found, at


def parse(shape: Shape, raw: bytes) -> tuple[list[Any], dict[str, Any]]:
    """Take a structure apart with the readers of gofer.wire2021, to its very end."""
    record, _, tail = shape
    values, at, found = list(record.read(raw, 0)), record.size, {}
    for kind, name in tail:
        found[name], at = take(kind, raw, at, values[-1] if values else 0)
    wire.expect_end(raw, at)
    return values, found


def expected(kind: str, field: Any) -> Any:
    if kind == INODES:
        return [(each["control_fd"], STATX) for each in field]
    if kind == STATS:
        return [(STATX,) for _ in field]
    if kind == DIRENTS:
        return [([each[name] for name in DIRENT.split()], each["name"].encode()) for each in field]
    return encoded(field)


def packed(kind: str, value: Any) -> bytes:
    """What `take` found, written again."""
    if kind in (STR, STRS):
        buffer, at = bytearray(100), 0
        if kind == STRS:
            wire2021.Count.pack(buffer, at, len(value))
            at += 4
        for each in value if kind == STRS else [value]:
            at = wire2021.pack_str(buffer, at, each)
        return bytes(buffer[:at])
    if kind == FDIDS:
        return b"".join(map(wire2021.FDID.bytes, value))
    if kind == DATA:
        return bytes(value)
    if kind == MIDS:
        return b"".join(map(wire.Count.bytes, [len(value), *value]))
    if kind == DIRENTS:
        return b"".join(wire2021.Dirent.bytes(*fields, len(name)) + name for fields, name in value)
    record = wire2021.Inode if kind == INODES else wire2021.Statx
    return b"".join(record.bytes(*each) for each in value)


@pytest.mark.parametrize("name", SHAPES)
def test_the_readers_find_in_the_golden_bytes_what_the_go_code_put_there(name: str) -> None:
    shape, vector = SHAPES[name], BY_NAME_2021[name]
    values, tail = parse(shape, vector.raw)
    assert values == values_of(vector, shape[1])
    assert tail == {field: expected(kind, vector.fields[field]) for kind, field in shape[2]}


@pytest.mark.parametrize("name", SHAPES)
def test_packing_the_fields_gives_the_golden_bytes(name: str) -> None:
    (record, names, tail), vector = SHAPES[name], BY_NAME_2021[name]
    buffer = bytearray(b"\xff" * record.size)  # pads must be written, not left
    record.pack(buffer, 0, *values_of(vector, names))
    for kind, field in tail:
        buffer += packed(kind, expected(kind, vector.fields[field]))
    assert bytes(buffer) == vector.raw


@pytest.mark.parametrize("name", SHAPES)
def test_a_message_cut_at_any_length_or_followed_by_a_byte_is_refused(name: str) -> None:
    raw = BY_NAME_2021[name].raw
    for wrong in [raw[:cut] for cut in range(len(raw))] + [raw + b"\0"]:
        with pytest.raises(struct.error):
            parse(SHAPES[name], wrong)


def test_every_golden_structure_has_a_shape_here() -> None:
    assert {vector.message for vector in VECTORS_2021} == set(SHAPES)


@pytest.mark.parametrize(
    "take",
    [lambda raw: wire2021.take_strs(raw, 0), wire2021.take_fdids, lambda raw: wire2021.take_str(raw, 0)],
    ids=["str*", "FDID*", "str"],
)
@pytest.mark.parametrize("count", [1, 0x7FFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_count_or_length_that_claims_more_than_is_there_is_refused_at_once(take: Callable[[bytes], Any], count: int) -> None:
    for rest in (b"", b"\0\0\0"):
        with pytest.raises(struct.error):
            take(struct.pack("<I", count) + rest[: count - 1])


# What the comments say.

NOTATION = re.compile(r"^# (\w+) +(.*->.*)$")


def notation() -> dict[str, tuple[list[str], list[str]]]:
    found = {}
    for line in Path(wire2021.__file__).read_text().splitlines():
        match = NOTATION.match(line)
        if match:
            request, _, reply = match[2].partition("->")
            found[match[1]] = (request.split(), reply.split())
    return found


def test_every_message_has_one_line_of_notation() -> None:
    assert list(notation()) == [name for mid, name in sorted(wire.NAMES.items()) if 1 <= mid <= wire.FREMOVEXATTR]


@pytest.mark.parametrize("name", [name for mid, name in wire.NAMES.items() if 1 <= mid <= wire.FREMOVEXATTR])
def test_the_notation_of_a_message_says_what_its_records_say(name: str) -> None:
    for tokens, record in zip(notation()[name], (getattr(wire2021, name + end, None) for end in ("Req", "Resp"))):
        inode = tokens[:3] == ["control_fd[4]", "pad[4]", "statx[144]"]
        assert record or inode or not fixed(tokens) or tokens[0] == "statx[144]", f"no record for {tokens}"
        if record:
            sizes = [size for _, size in fixed(tokens)]
            assert sum(sizes) == record.size + (2 if record is wire2021.MountResp else 0)  # n[2]
            named = [(field, size) for field, size in fixed(tokens) if field not in ("n", "pad", "control_fd", "open_fd")]
            ours = [(field, size) for field, size in fields_of(record) if field not in ("n", "pad", "control_fd", "open_fd")]
            assert named == ours or record in (wire2021.FDID, wire2021.Count)


# The peer that judges the server is judged first.

CREATE = {"uid": 1000, "gid": 1001}
CALLS: dict[str, Callable[[Peer2021], Any]] = {
    "MountReq": lambda p: p.mount("/srv/data"),
    "StatReq": lambda p: p.fstat(42),
    "SetStatReq": lambda p: p.setstat(42, 634, mode=420, size=77, atime=(1, 2), mtime=(3, 4), **CREATE),
    "WalkReq": lambda p: p.walk(42, "usr", "lib"),
    "OpenAtReq": lambda p: p.openat(42, 513),
    "OpenCreateAtReq": lambda p: p.opencreateat(42, "new", flags=2, mode=493, **CREATE),
    "CloseReq": lambda p: p.close(42, 43),
    "FsyncReq": lambda p: p.fsync(44),
    "PWriteReq": lambda p: p.pwrite(44, 4096, b"hello"),
    "PReadReq": lambda p: p.pread(44, 4096, 5),
    "MkdirAtReq": lambda p: p.mkdirat(42, "d", mode=493, **CREATE),
    "MknodAtReq": lambda p: p.mknodat(42, "n", mode=493, major=1, minor=3, **CREATE),
    "SymlinkAtReq": lambda p: p.symlinkat(42, "l", "../x", **CREATE),
    "LinkAtReq": lambda p: p.linkat(42, 43, "h"),
    "FStatFSReq": lambda p: p.fstatfs(42),
    "FAllocateReq": lambda p: p.fallocate(44, 1, 4096, 8192),
    "ReadLinkAtReq": lambda p: p.readlinkat(42),
    "FlushReq": lambda p: p.flush(44),
    "ConnectReq": lambda p: p.connect(42, 1),
    "UnlinkAtReq": lambda p: p.unlinkat(42, "d", 512),
    "RenameAtReq": lambda p: p.rename_fd(43, 42, "moved"),
    "Getdents64Req": lambda p: p.getdents64(44, -65536),
    "FGetXattrReq": lambda p: p.fgetxattr(42, "user.merkle.size", 64),
    "FSetXattrReq": lambda p: p.fsetxattr(42, "user.merkle.size", b"v", 1),
    "FListXattrReq": lambda p: p.flistxattr(42, 64),
    "FRemoveXattrReq": lambda p: p.fremovexattr(42, "user.a"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_the_peer_sends_the_golden_bytes(name: str) -> None:
    capture = Capture()
    with pytest.raises(Captured):
        CALLS[name](Peer2021(capture))
    assert (capture.mid, capture.payload) == (BY_NAME_2021[name].mid, BY_NAME_2021[name].raw)


def test_every_golden_request_is_sent_by_some_call() -> None:
    assert {vector.message for vector in VECTORS_2021 if vector.is_request} == set(CALLS)


def test_the_peer_reads_golden_replies() -> None:
    def replied(name: str) -> Peer2021:
        return Peer2021(Capture(BY_NAME_2021[name].raw, stop=False))

    mounted = replied("MountResp").mount()
    assert (mounted.root.fd, mounted.max_message_size, mounted.supported) == (42, 2093056, [1, 2, 3, 26])
    status, inodes = replied("WalkResp").walk(1, "a", "b")
    assert status == 2 and [(inode.fd, inode.stat.uid) for inode in inodes] == [(42, 1000), (43, 1000)]
    assert len(replied("WalkStatResp").walkstat(1, "a", "b")) == 2
    assert replied("SetStatResp").setstat(7, 45) == (2, 1)
    assert replied("OpenAtResp").openat(7).fd == 44
    assert replied("OpenCreateAtResp").opencreateat(1, "a").fd == 44
    assert replied("PReadResp").pread(9, 0, 5) == b"hello"
    assert replied("PWriteResp").pwrite(9, 0, b"hello") == 5
    assert replied("ReadLinkAtResp").readlinkat(7) == b"../x"
    assert replied("FGetXattrResp").fgetxattr(7, "user.a") == b"v"
    assert replied("FListXattrResp").flistxattr(7) == [b"user.a", b"user.b"]
    assert replied("StatFS").fstatfs(7) == (0xEF53, 4096, 5, 4, 3, 2, 1, 255)
    assert replied("MkdirAtResp").mkdirat(1, "a").fd == 42
    assert replied("ChannelResp").channel() == (2097152, 2097152, [])
    names = [(entry.name, entry.type, entry.dev, entry.off) for entry in replied("Getdents64Resp").getdents64(9)]
    assert names == [(b"a", 8, (7, 8), 100), (b"sub", 4, (7, 8), 200)]
