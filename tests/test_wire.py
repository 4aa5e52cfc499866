"""gofer.wire against the golden vectors, in both directions, and against its own comments."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from vectors import BY_NAME, VECTORS, Vector, number

from gofer import wire

Field = Any

# A message: its record, then what follows it. `*` names may follow fields whose count is derived from them.
STR, STRS, FDIDS, DATA = "str", "str*", "FDID*", "data"
# message: (record, the vector's field names in the record's order, [(kind, field)...])
SHAPES: dict[str, tuple[wire.Record, str, list[tuple[str, str]]]] = {
    "StatReq": (wire.FStatReq, "fd", []),
    "SetStatReq": (wire.SetStatReq, "fd mask mode uid gid size atime mtime", []),
    "SetStatResp": (wire.SetStatResp, "failure_mask failure_errno", []),
    "WalkReq": (wire.WalkReq, "dir_fd", [(STRS, "path")]),
    "OpenAtReq": (wire.OpenAtReq, "fd flags", []),
    "OpenAtResp": (wire.OpenAtResp, "open_fd", []),
    "OpenCreateAtReq": (wire.OpenCreateAtReq, "dir_fd uid gid mode flags", [(STR, "name")]),
    "CloseReq": (wire.Count, "len:fds", [(FDIDS, "fds")]),
    "FsyncReq": (wire.Count, "len:fds", [(FDIDS, "fds")]),
    "PReadReq": (wire.PReadReq, "offset fd count", []),
    "PReadResp": (wire.PReadResp, "num_bytes", [(DATA, "buf")]),
    "PWriteReq": (wire.PWriteReq, "offset fd num_bytes", [(DATA, "buf")]),
    "PWriteResp": (wire.PWriteResp, "count", []),
    "MkdirAtReq": (wire.MkdirAtReq, "dir_fd uid gid mode", [(STR, "name")]),
    "MknodAtReq": (wire.MknodAtReq, "dir_fd uid gid mode minor major", [(STR, "name")]),
    "SymlinkAtReq": (wire.SymlinkAtReq, "dir_fd uid gid", [(STR, "name"), (STR, "target")]),
    "LinkAtReq": (wire.LinkAtReq, "dir_fd target", [(STR, "name")]),
    "FStatFSReq": (wire.FStatFSReq, "fd", []),
    "StatFS": (
        wire.FStatFSResp,
        "type block_size blocks blocks_free blocks_available files files_free name_length",
        [],
    ),
    "FAllocateReq": (wire.FAllocateReq, "fd mode offset length", []),
    "ReadLinkAtReq": (wire.ReadLinkAtReq, "fd", []),
    "FlushReq": (wire.FlushReq, "fd", []),
    "ConnectReq": (wire.ConnectReq, "fd sock_type", []),
    "BindAtReq": (wire.BindAtReq, "dir_fd uid gid mode sock_type", [(STR, "name")]),
    "ListenReq": (wire.ListenReq, "fd backlog", []),
    "AcceptReq": (wire.AcceptReq, "fd", []),
    "UnlinkAtReq": (wire.UnlinkAtReq, "dir_fd flags", [(STR, "name")]),
    "RenameAtReq": (wire.RenameAtReq, "old_dir new_dir", [(STR, "old_name"), (STR, "new_name")]),
    "Getdents64Req": (wire.Getdents64Req, "dir_fd count", []),
    "FGetXattrReq": (wire.FGetXattrReq, "fd buf_size", [(STR, "name")]),
    "FSetXattrReq": (wire.FSetXattrReq, "fd flags", [(STR, "name"), (STR, "value")]),
    "FListXattrReq": (wire.FListXattrReq, "fd size", []),
    "FRemoveXattrReq": (wire.FRemoveXattrReq, "fd", [(STR, "name")]),
}
# Replies that hold Statx are told apart by their offsets: message -> where each piece is.
STATX_AT = {"Statx": [0], "Inode": [8], "WalkStatResp": [2, 146], "WalkResp": [11, 163]}
INODE_REPLIES = {
    "MkdirAtResp": "child_dir", "MknodAtResp": "child", "SymlinkAtResp": "symlink", "LinkAtResp": "link",
    "OpenCreateAtResp": "child", "BindAtResp": "child", "MountResp": "root",
}  # fmt: skip
STR_REPLIES = {"ReadLinkAtResp": "target", "AcceptResp": "peer_addr", "FGetXattrResp": "value"}


def values_of(vector: Vector, names: str) -> list[int]:
    """The vector's fixed fields in the record's order; a time becomes two numbers."""
    values: list[int] = []
    for name in names.split():
        if name.startswith("len:"):
            values.append(len(vector.fields[name[4:]]))
        elif isinstance(vector.fields[name], list):
            values += vector.fields[name]
        else:
            values.append(number(vector.fields[name]))
    return values


def parse(shape: tuple[wire.Record, str, list[tuple[str, str]]], raw: bytes) -> tuple[list[int], dict[str, Field]]:
    """Take a message apart with the readers of gofer.wire, to its very end."""
    record, _, tail = shape
    found: dict[str, Field] = {}
    values, at = list(record.read(raw, 0)), record.size
    for kind, name in tail:
        if kind == STR:
            found[name], at = wire.take_str(raw, at)
        elif kind == STRS:
            found[name], at = wire.take_strs(raw, at), len(raw)
        elif kind == FDIDS:
            found[name], at = list(wire.take_fdids(raw)), len(raw)
        else:
            found[name], at = raw[at : at + values[-1]], at + values[-1]
            if at > len(raw):
                raise struct.error("data runs past the end")
    wire.expect_end(raw, at)
    return values, found


def encoded(field: Field) -> Field:
    return (
        [encoded(item) for item in field]
        if isinstance(field, list)
        else field.encode()
        if isinstance(field, str)
        else field
    )


@pytest.mark.parametrize("name", SHAPES)
def test_the_readers_find_in_the_golden_bytes_what_the_go_code_put_there(name: str) -> None:
    shape, vector = SHAPES[name], BY_NAME[name]
    values, tail = parse(shape, vector.raw)
    assert values == values_of(vector, shape[1])
    assert tail == {field: encoded(vector.fields[field]) for _, field in shape[2]}


@pytest.mark.parametrize("name", SHAPES)
def test_packing_the_fields_gives_the_golden_bytes(name: str) -> None:
    (record, names, tail), vector = SHAPES[name], BY_NAME[name]
    buffer = bytearray(b"\xff" * len(vector.raw))  # pads must be written, not left
    record.pack(buffer, 0, *values_of(vector, names))
    at = record.size
    for kind, field in tail:
        value = encoded(vector.fields[field])
        if kind == STRS:
            wire.Count.pack(buffer, at, len(value))
            at += 2
            for item in value:
                at = wire.pack_str(buffer, at, item)
        elif kind == STR:
            at = wire.pack_str(buffer, at, value)
        elif kind == FDIDS:
            for item in value:
                wire.FDID.pack(buffer, at, item)
                at += wire.FDID.size
        else:
            buffer[at : at + len(value)] = value
            at += len(value)
    assert at == len(vector.raw)
    assert bytes(buffer) == vector.raw
    assert record.bytes(*values_of(vector, names)) == vector.raw[: record.size]


@pytest.mark.parametrize("name", SHAPES)
def test_a_message_cut_at_any_length_or_followed_by_a_byte_is_refused(name: str) -> None:
    raw = BY_NAME[name].raw
    for wrong in [raw[:cut] for cut in range(len(raw))] + [raw + b"\0"]:
        with pytest.raises(struct.error):
            parse(SHAPES[name], wrong)


def test_every_golden_request_has_a_shape_here() -> None:
    assert {vector.message for vector in VECTORS if vector.is_request} <= set(SHAPES)


@pytest.mark.parametrize("name", INODE_REPLIES)
def test_replies_with_an_inode_put_it_first(name: str) -> None:
    vector, field = BY_NAME[name], INODE_REPLIES[name]
    control_fd, statx = wire.Inode.read(vector.raw, 0)
    assert control_fd == vector.fields[field]["control_fd"]
    assert statx == BY_NAME["Statx"].raw
    record = getattr(wire, name, wire.Inode)
    last = {"OpenCreateAtResp": "new_fd", "BindAtResp": "bound_socket_fd", "MountResp": "max_message_size"}.get(name)
    assert record.read(vector.raw, 0)[2:] == ((vector.fields[last],) if last else ())


@pytest.mark.parametrize("name", STATX_AT)
def test_statx_stands_where_the_go_code_puts_it(name: str) -> None:
    for at in STATX_AT[name]:
        assert BY_NAME[name].raw[at : at + wire.STATX_SIZE] == BY_NAME["Statx"].raw
    assert len(BY_NAME[name].raw) == STATX_AT[name][-1] + wire.STATX_SIZE


def test_walk_and_walkstat_replies_start_with_status_and_count() -> None:
    walk, stats = BY_NAME["WalkResp"], BY_NAME["WalkStatResp"]
    assert wire.WalkResp.read(walk.raw, 0) == (walk.fields["status"], 2)
    assert wire.WalkStatResp.read(stats.raw, 0) == (2,)


def test_the_mount_reply_ends_with_the_supported_ids() -> None:
    vector = BY_NAME["MountResp"]
    assert struct.unpack_from("<H4H", vector.raw, wire.MountResp.size) == (4, *vector.fields["supported"])


@pytest.mark.parametrize("name", STR_REPLIES)
def test_replies_that_are_one_string(name: str) -> None:
    vector = BY_NAME[name]
    text = vector.fields[STR_REPLIES[name]].encode()
    assert wire.take_str(vector.raw, 0) == (text, len(vector.raw))
    buffer = bytearray(len(vector.raw))
    assert wire.pack_str(buffer, 0, text) == len(buffer) and bytes(buffer) == vector.raw


def test_the_xattr_list_reply_is_a_string_array() -> None:
    vector = BY_NAME["FListXattrResp"]
    assert wire.take_strs(vector.raw, 0) == encoded(vector.fields["xattrs"])


def test_dirents_are_packed_as_the_go_code_packs_them() -> None:
    vector = BY_NAME["Getdents64Resp"]
    raw = bytearray(len(vector.raw))
    wire.Getdents64Resp.pack(raw, 0, len(vector.fields["dirents"]))
    at = 2
    for entry in vector.fields["dirents"]:
        name = entry["name"].encode()
        fixed = [entry[field] for field in ("ino", "dev_minor", "dev_major", "off", "type")]
        wire.Dirent.pack(raw, at, *fixed, len(name))
        at += wire.Dirent.size
        raw[at : at + len(name)] = name
        at += len(name)
    assert bytes(raw) == vector.raw


@pytest.mark.parametrize("count", [1, 0x7FFF, 0xFFFF])
def test_a_string_array_that_claims_more_than_is_there_is_refused_at_once(count: int) -> None:
    with pytest.raises(struct.error):
        wire.take_strs(struct.pack("<H", count) + b"\0", 0)
    with pytest.raises(struct.error):
        wire.take_fdids(struct.pack("<H", count) + b"\0" * 7)


# What the comments say.

NAMES = {**wire.NAMES, **wire.OWN_NAMES}
NOTATION = re.compile(r"^# (\w+) +(.+)$")
SIZES = {"B": 1, "H": 2, "I": 4, "i": 4, "Q": 8, "q": 8}


def notation() -> dict[str, tuple[list[str], list[str]]]:
    """Each message comment of wire.py: its name -> the tokens of the request, and of the reply."""
    found = {}
    for line in Path(wire.__file__).read_text().splitlines():
        match = NOTATION.match(line)
        if match and "->" in line and match[1] in NAMES.values():
            request, _, reply = match[2].partition("->")
            found[match[1]] = (request.split(), reply.split())
    return found


def fixed(tokens: list[str]) -> list[tuple[str, int]]:
    """The named fields up to the first that is not of a fixed size; pads left out."""
    fields = []
    for token in tokens:
        match = re.fullmatch(r"(\w+)\[(\d+)\]", token)
        if not match:
            break
        fields.append((match[1], int(match[2])))
    return fields


def fields_of(record: wire.Record) -> list[tuple[str, int]]:
    sizes = []
    for field, code in record.codes.items():
        sizes.append((field.lstrip("_"), SIZES.get(code) or struct.calcsize("<" + code)))
    return sizes


def test_every_message_has_one_line_of_notation() -> None:
    assert list(notation()) == list(NAMES.values())


@pytest.mark.parametrize("mid", sorted(set(NAMES) - {wire.ERROR}))
def test_the_notation_of_a_message_says_what_its_records_say(mid: int) -> None:
    name = NAMES[mid]
    request, reply = notation()[name]
    for tokens, record in (
        (request, getattr(wire, name + "Req", None)),
        (reply, getattr(wire, name + "Resp", None)),
    ):
        if record is wire.Count:
            assert tokens[0] == "count[2]"
        elif record is wire.FDID:
            assert tokens[0] in ("fd[8]", "bound_fd[8]")
        elif record is not None:
            assert fixed(tokens) == fields_of(record), f"{name}: {record}"
        else:
            assert fixed(tokens) in ([], [("statx", 144)], fields_of(wire.Inode)), f"no record for {tokens}"


def test_the_ids_are_those_of_the_golden_vectors() -> None:
    ours = {name.lower(): mid for mid, name in wire.NAMES.items()}
    for vector in VECTORS:
        message = (
            re.sub("(Req|Resp)$", "", vector.message).lower().replace("stat", "fstat", vector.message == "StatReq")
        )
        if vector.message not in ("Statx", "Inode", "StatFS"):
            assert ours[message] == vector.mid, vector.message
    assert sorted(wire.NAMES) == list(range(34))
