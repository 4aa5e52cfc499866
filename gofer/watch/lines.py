"""A record as a line, or as an object of JSON; and which records somebody wants to see (`Filter`).

    [2.1] 12:00:01.000123 Walk(dir_fd=1, ["usr", "lib"]) = 2 inodes [2, 3] <18 us> "/usr/lib"

Connection and transport (none: the socket), when it was asked, the message with its fields as the protocol calls them, what it
answered, how long that took, and which file it was about. Whatever a client has named stands between quotes, and in these is
nothing but ASCII that can be printed: so no client can end a line, or make one up.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from gofer import wire
from gofer.output import counted
from gofer.watch.messages import MORE, NAMES, SHAPES, Data, Stat
from gofer.watch.record import CLIENT, GONE, LOST, START, Entry, Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.watch.paths import Peer, Seen

_PLAIN = frozenset(range(32, 127)) - set(b'"\\')
_OPEN = {
    name: value
    for name, value in vars(os).items()
    if name.startswith("O_") and name not in ("O_RDONLY", "O_ACCMODE", "O_NDELAY", "O_FSYNC", "O_RSYNC", "O_TMPFILE") and value
}  # fmt: skip
_MASK = {0x2: "mode", 0x8: "uid", 0x10: "gid", 0x200: "size", 0x20: "atime", 0x40: "mtime"}  # of SetStat: STATX_*
_KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "block device",
}  # fmt: skip
_STATUS = {wire.WALK_MISSING: "missing", wire.WALK_SYMLINK: "symlink"}
_ERRORS = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EAGAIN: "EAGAIN", errno.EDEADLK: "EDEADLK"}  # not the other names of these
_UNITS = {"us": 1e3, "ms": 1e6, "s": 1e9}
_UNSHOWN = [mid for mid, (*_, last) in SHAPES.items() if last == "data"]  # of their answers
_TAILS = {wire.WALK: "inode", wire.WALKSTAT: "file", wire.GETDENTS64: "entry", wire.DIRSTAT: "entry", wire.MOUNT: "message"}


def quoted(name: bytes) -> str:
    return '"' + "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in name) + '"'


class Clock:
    """From a record's time to that of the day."""

    def __init__(self) -> None:
        self._offset = 0

    def start(self, entry: Entry) -> None:
        if len(entry.request) >= Start.size:
            _, wall, clock, _ = Start.read(entry.request)
            self._offset = wall - clock

    def ns(self, entry: Entry) -> int:
        return max(0, entry.time + self._offset)

    def show(self, entry: Entry) -> str:
        seconds, ns = divmod(self.ns(entry), 10**9)
        try:
            day = time.strftime("%H:%M:%S", time.localtime(seconds))
        except (OSError, OverflowError, ValueError):
            day = str(seconds)
        return f"{day}.{ns // 1000:06}"


def line(seen: Seen, clock: Clock) -> str:
    """An RPC's line, without its end."""
    entry = seen.entry
    asked = ", ".join(_field(name, value, entry.mid) for name, value in _chosen(seen))
    about = " ".join(quoted(path) for path in seen.paths)
    took = f"<{entry.took / 1000:.0f} us>"
    return f"{_where(entry)} {clock.show(entry)} {seen.name}({asked}) = {_answer(seen)} {took} {about}".rstrip()


def other(entry: Entry, peer: Peer | None, clock: Clock) -> str:
    """The line of a record that is no RPC; "" where it has none."""
    if entry.kind == CLIENT and peer is not None:
        dialect = ", dialect of 2021" if peer.old else ""
        process = f"process {peer.pid}, " if peer.pid else ""
        return f"[{entry.conn}] {clock.show(entry)} client {peer.fileno}: {process}user {peer.uid}{dialect}"
    if entry.kind == GONE:
        return f"[{entry.conn}] {clock.show(entry)} gone"
    if entry.kind == LOST:
        return f"[-] {clock.show(entry)} lost {counted(entry.asked, 'record')}: they came faster than they could be written"
    if entry.kind == START and len(entry.request) >= Start.size:
        return f"[-] {clock.show(entry)} trace of {quoted(entry.request[Start.size + 2 :])}"
    return ""


def _where(entry: Entry) -> str:
    return f"[{entry.conn}.{entry.transport}]" if entry.transport else f"[{entry.conn}]"


def _chosen(seen: Seen) -> list[tuple[str, Any]]:
    """The request's fields that say something: of SetStat only those that its mask names."""
    if seen.entry.mid != wire.SETSTAT:
        return seen.fields
    mask = next((value for name, value in seen.fields if name == "mask"), 0)
    wanted = {name for bit, name in _MASK.items() if isinstance(mask, int) and mask & bit}
    return [(name, value) for name, value in seen.fields if name.partition("_")[0] in wanted | {"fd", "mask", MORE}]


def _field(name: str, value: Any, mid: int) -> str:
    if name == MORE:
        return MORE
    if name == "mode" and mid != wire.FALLOCATE:
        text = f"0{value:o}"
    elif name == "flags" and mid in (wire.OPENAT, wire.OPENCREATEAT):
        text = open_flags(value)
    elif name == "mask":
        text = "|".join(word for bit, word in _MASK.items() if value & bit) or "0"
    elif name in ("uid", "gid") and value == wire.NO_ID:
        text = "-1"
    else:
        text = _value(value)
    return f"{name}={text}" if name else text


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return quoted(value)
    if isinstance(value, Data):
        return f"<{counted(value.size, 'byte')}>"
    if isinstance(value, Stat):
        size = f" {counted(value.size, 'byte')}" if stat.S_ISREG(value.mode) else ""
        return f"{{{_KINDS.get(stat.S_IFMT(value.mode), 'file of no type')} 0{stat.S_IMODE(value.mode):o}{size}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return str(value)


def open_flags(flags: int) -> str:
    words = [("O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE")[flags & 3]]
    left = flags & ~3
    for name, value in sorted(_OPEN.items(), key=lambda each: -bin(each[1]).count("1")):  # O_SYNC has the bit of O_DSYNC
        if value > 3 and left & value == value:
            words.append(name)
            left &= ~value
    return "|".join(words + ([f"0x{left:x}"] if left else []))


def error_name(number: int) -> str:
    return _ERRORS.get(number) or errno.errorcode.get(number, f"errno {number}")


def _answer(seen: Seen) -> str:
    entry = seen.entry
    if entry.errno:
        return error_name(entry.errno)
    words = []
    fields: list[tuple[str, Any]] = seen.answer
    for name, value in fields:
        if name in ("count", "n") and entry.mid in _TAILS or isinstance(value, Data) and entry.mid in _UNSHOWN:
            continue
        if name == "status":
            words += [_STATUS[value]] if value in _STATUS else []
        elif not name and isinstance(value, list) and entry.mid in _TAILS:
            fds = f" {_value([each[0] for each in value])}" if entry.mid == wire.WALK and value else ""
            words.insert(0, counted(len(value), _TAILS[entry.mid]) + fds)
        else:
            words.append(_value(value) if isinstance(value, Stat) else _field(name, value, entry.mid))
    if entry.fds:
        words.append(counted(entry.fds, "fd") + " donated")
    return ", ".join(words) or "0"


def as_json(seen: Seen, clock: Clock) -> dict[str, Any]:
    """An RPC as an object; names as in lines, without the quotes."""
    entry = seen.entry
    return {
        "time": clock.ns(entry) / 1e9,
        "took_us": entry.took / 1000,
        "connection": entry.conn,
        "channel": entry.transport,
        "message": seen.name,
        "request": _object(seen.fields),
        "errno": error_name(entry.errno) if entry.errno else None,
        "reply": None if entry.errno else _object(seen.answer),
        "fds": entry.fds,
        "bytes": [entry.asked, entry.answered],
        "paths": [quoted(path)[1:-1] for path in seen.paths],
    }


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name or f"_{index}": _plain(value) for index, (name, value) in enumerate(fields)}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return quoted(value)[1:-1]
    if isinstance(value, Data):
        return {"bytes": value.size}
    if isinstance(value, Stat):
        return {"mode": value.mode, "size": value.size}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


class Filter:
    """Which RPCs are wanted: words with commas, all of which must hold, but for messages, connections and paths: one of each.

    Walk,OpenAt   these messages        conn=2         of this connection
    errors        refused ones          slower=10ms    those that took longer (us, ms, s)
    path=/usr     about that file or what is below it; may be written several times. A comma in it: \\,
    """

    def __init__(self, text: str = "") -> None:
        """ValueError where text is none."""
        self.mids: set[int] = set()
        self.conns: set[int] = set()
        self.paths: list[bytes] = []
        self.errors = False
        self.slower = 0.0
        by_name = {name.lower(): mid for mid, name in NAMES.items()}
        for word in _words(text):
            name, equals, value = word.partition("=")
            if not equals and word.lower() in by_name:
                self.mids.add(by_name[word.lower()])
            elif word == "errors":
                self.errors = True
            elif name == "conn" and value.isascii() and value.isdigit():
                self.conns.add(int(value))
            elif name == "slower":
                self.slower = _ns(value)
            elif name == "path" and value:
                self.paths.append(b"/" + os.fsencode(value).strip(b"/"))
            else:
                known = "messages by name, errors, conn=N, slower=10ms, path=/DIR"
                raise ValueError(f"has {word!r}, which is no filter: there are {known}")

    def wants(self, seen: Seen) -> bool:
        entry = seen.entry
        if (self.mids and entry.mid not in self.mids) or (self.conns and entry.conn not in self.conns):
            return False
        if (self.errors and not entry.errno) or entry.took < self.slower:
            return False
        return not self.paths or any(_inside(path, root) for path in seen.paths for root in self.paths)

    def wants_all_of(self, conn: int) -> bool:
        """Whether the records that are no RPC are wanted as well."""
        return not self.conns or not conn or conn in self.conns


def _inside(path: bytes, root: bytes) -> bool:
    return root == b"/" or path == root or path.startswith(root + b"/")


def _words(text: str) -> list[str]:
    words = text.replace("\\,", "\0").split(",")
    return [word.strip().replace("\0", ",") for word in words if word.strip()]


def _ns(value: str) -> float:
    for unit in ("us", "ms", "s"):
        if value.endswith(unit):
            try:
                return float(value[: -len(unit)]) * _UNITS[unit]
            except ValueError:
                break
    raise ValueError(f"slower={value}: give a time, such as 500us, 10ms or 2s")
