"""A parser of trace lines, written from docs/tracing.md alone, and what makes a request's bytes of one again."""

import re
import struct
from typing import Any, NamedTuple

_LINE = re.compile(
    r"\[(?P<conn>\d+)(?:\.(?P<transport>\d+))?\] (?P<time>\d\d:\d\d:\d\d\.\d{6}) (?P<message>\w+(?: \d+)?)\((?P<fields>.*)\)"
    r" = (?P<answer>.*) <(?P<took>\d+) us>(?P<paths>(?: \"[^\"]*\")*)"
)
_TOKEN = re.compile(
    r'\s*(?:(?P<name>\w+)=)?(?:"(?P<text>[^"]*)"|<(?P<data>\d+) bytes?>|(?P<list>\[)|(?P<end>\])|(?P<word>[^,\[\]\s"]+))(?:, )?'
)
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


class Line(NamedTuple):
    conn: int
    transport: int
    message: str
    named: dict[str, str]
    rest: list[Any]  # bytes, lists of bytes or words, ("data", how many)
    answer: str
    paths: list[bytes]


def unescaped(text: str) -> bytes:
    assert text.isascii() and text.isprintable(), text
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), text.encode())


def parse(line: str) -> "Line | None":
    """None for a line of something else."""
    match = _LINE.fullmatch(line)
    if not match:
        return None
    named, rest = _fields(match["fields"])
    paths = [unescaped(path) for path in re.findall(r'"([^"]*)"', match["paths"])]
    transport = int(match["transport"] or 0)
    return Line(int(match["conn"]), transport, match["message"], named, rest, match["answer"], paths)


def _fields(text: str) -> tuple[dict[str, str], list[Any]]:
    named: dict[str, str] = {}
    rest: list[Any] = []
    inside, at = None, 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match and match.end() > at, f"cannot read {text!r} from {at}"
        at = match.end()
        if match["list"]:
            inside = []
        elif match["end"]:
            rest.append(inside)
            inside = None
        else:
            value = unescaped(match["text"]) if match["text"] is not None else match["word"]
            if match["data"]:
                value = ("data", int(match["data"]))
            if inside is not None:
                inside.append(value)
            elif match["name"]:
                named[match["name"]] = value
            else:
                rest.append(value)
    return named, rest


# Each request, by the words of the protocol page: fields in their order, then what stands for a str and so on.
REQUESTS = {
    "Mount": "", "Channel": "", "FStat": "fd:Q", "Walk": "dir_fd:Q strs", "WalkStat": "dir_fd:Q strs", "OpenAt": "fd:Q flags:I4x",
    "SetStat": "fd:Q mask:I mode:I uid:I gid:I size:Q atime_sec:q atime_nsec:q mtime_sec:q mtime_nsec:q",
    "OpenCreateAt": "dir_fd:Q uid:I gid:I mode:H6x flags:I str", "Close": "fds", "FSync": "fds",
    "PWrite": "offset:Q fd:Q num_bytes:I data", "PRead": "offset:Q fd:Q count:I4x",
    "MkdirAt": "dir_fd:Q uid:I gid:I mode:H6x str", "MknodAt": "dir_fd:Q uid:I gid:I mode:H6x minor:I major:I str",
    "SymlinkAt": "dir_fd:Q uid:I gid:I str str", "LinkAt": "dir_fd:Q target_fd:Q str", "FStatFS": "fd:Q",
    "FAllocate": "fd:Q mode:Q offset:Q length:Q", "ReadLinkAt": "fd:Q", "Flush": "fd:Q", "Connect": "fd:Q sock_type:I4x",
    "UnlinkAt": "dir_fd:Q flags:I str", "RenameAt": "old_dir:Q new_dir:Q str str", "Getdents64": "open_fd:Q count:i4x",
    "FGetXattr": "fd:Q size:I str", "FSetXattr": "fd:Q flags:I str value", "FListXattr": "fd:Q size:Q",
    "FRemoveXattr": "fd:Q str", "BindAt": "dir_fd:Q uid:I gid:I mode:H6x sock_type:I str", "Listen": "bound_fd:Q backlog:i4x",
    "Accept": "fd:Q", "ConnectWithCreds": "fd:Q sock_type:I4x uid:I gid:I",
    "RenameAt2": "old_dir:Q new_dir:Q str str flags:I", "DirStat": "open_fd:Q count:i4x",
    "DirRead": "dir_fd:Q each:I most:I strs", "DirWrite": "dir_fd:Q flags:I n:I num_bytes:I data", "DirRename": "dir_fd:Q strs",
    "DirWalk": "dir_fd:Q count:I what:I str",
}  # fmt: skip
_FLAGS = {"O_RDONLY": 0, "O_WRONLY": 1, "O_RDWR": 2}
_MASK = {"mode": 0x2, "uid": 0x8, "gid": 0x10, "size": 0x200, "atime": 0x20, "mtime": 0x40}


def encoded(line: Line) -> list[Any]:
    """The bytes of a request, in pieces; ("data", n) for n that a line does not show, None for a field that it does not name."""
    rest, made = list(line.rest), []
    for word in REQUESTS[line.message].split():
        name, colon, code = word.partition(":")
        if colon:
            value = _number(name, line.named.pop(name)) if name in line.named else None
            made.append(struct.calcsize("<" + code) if value is None else struct.pack("<" + code, value))
            continue
        value = rest.pop(0)
        if name in ("str", "data", "value"):
            made.append((struct.pack("<H", len(value)) + value) if name == "str" else (name, value[1]))
        elif name == "strs":
            made.append(struct.pack("<H", len(value)) + b"".join(struct.pack("<H", len(each)) + each for each in value))
        else:
            made.append(struct.pack(f"<H{len(value)}Q", len(value), *map(int, value)))
    assert not rest and not line.named, f"more than the message has: {line}"
    return made


def _number(name: str, text: str) -> int:
    if text.startswith("O_"):
        import os

        return sum(_FLAGS[word] if word in _FLAGS else getattr(os, word) for word in text.split("|"))
    if name == "mask":
        return sum(_MASK[word] for word in text.split("|"))
    if name in ("uid", "gid") and text == "-1":
        return 0xFFFFFFFF
    if name == "flags" and text.startswith("0x"):
        return int(text, 16)
    return int(text, 8) if text.startswith("0") and text != "0" else int(text)


def says(line: Line, payload: bytes) -> bool:
    """Whether the line is of a request with that payload."""
    at = 0
    for piece in encoded(line):
        if isinstance(piece, bytes):
            if payload[at : at + len(piece)] != piece:
                return False
            at += len(piece)
        elif isinstance(piece, int):
            at += piece
        else:
            at += piece[1] + (2 if piece[0] == "value" else 0)
    return at == len(payload)
