"""How the attributes of a file are told: its kind, mode, owners and times, to people and to programs."""

from __future__ import annotations

import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.client.replies import Stat

BTIME = 0x800  # stx_mask: there is a birth time
FOUND = 0x7FF  # stx_mask: what every file has
BILLION = 10**9
KINDS = {
    stat.S_IFREG: "regular file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character special file", stat.S_IFBLK: "block special file",
}  # fmt: skip
_WORDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "char", stat.S_IFBLK: "block",
}  # fmt: skip
_LETTERS = {
    stat.S_IFREG: b"f", stat.S_IFDIR: b"d", stat.S_IFLNK: b"l", stat.S_IFIFO: b"p", stat.S_IFSOCK: b"s", stat.S_IFCHR: b"c",
    stat.S_IFBLK: b"b",
}  # fmt: skip
_users: dict[int, str] = {}
_groups: dict[int, str] = {}


def kind(mode: int) -> str:
    """As stat(1) says it."""
    return KINDS.get(stat.S_IFMT(mode), "weird file")


def word(mode: int) -> str:
    """For programs: one word, as find(1)'s letters stand for."""
    return _WORDS.get(stat.S_IFMT(mode), "unknown")


def letter(mode: int) -> bytes:
    """As find(1)'s -type has it."""
    return _LETTERS.get(stat.S_IFMT(mode), b"U")


def user(uid: int) -> str:
    """The name of it on this host, "" where it has none."""
    if uid not in _users:
        import pwd

        try:
            _users[uid] = pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            _users[uid] = ""
    return _users[uid]


def group(gid: int) -> str:
    if gid not in _groups:
        import grp

        try:
            _groups[gid] = grp.getgrgid(gid).gr_name
        except (KeyError, OverflowError):
            _groups[gid] = ""
    return _groups[gid]


def device_number(device: tuple[int, int]) -> int:
    """As one number: makedev(3)."""
    major, minor = device
    return minor & 0xFF | (major & 0xFFF) << 8 | (minor & ~0xFF) << 12 | (major & ~0xFFF) << 32


def nanoseconds(when: tuple[int, int]) -> int:
    return when[0] * BILLION + when[1]


def local(seconds: int, form: str) -> str:
    """In local time; "" for what is beyond the years that the C library can count to."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OSError, OverflowError, ValueError):
        return ""


def next_midnight(now: float) -> float:
    day = time.localtime(now)
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday + 1, 0, 0, 0, 0, 0, -1))


def exactly(when: tuple[int, int]) -> str:
    """As stat(1) and `ls --full-time` do."""
    seconds, fraction = when
    day = local(seconds, "%Y-%m-%d %H:%M:%S")
    return f"{day}.{fraction:09} {local(seconds, '%z')}" if day else f"{seconds}.{fraction:09}"


def human(size: int) -> str:
    """As `ls -h` and `du -h`: rounded up, one digit behind the point below ten."""
    if size < 1024:
        return str(size)
    for unit in "KMGTPEZY":
        tenths = -(-size * 10 // 1024)  # rounded up
        if tenths < 100:
            return f"{tenths // 10}.{tenths % 10}{unit}"
        whole = -(-size // 1024)
        if whole < 1024 or unit == "Y":
            return f"{whole}{unit}"
        size = whole if size % 1024 == 0 else size // 1024 + 1
    raise AssertionError


def fields(path: bytes, found: Stat, target: bytes | None = None) -> dict[str, Any]:
    """What --json tells of a file. Times are nanoseconds since 1970."""
    told: dict[str, Any] = {
        "path": path,
        "type": word(found.mode),
        "mode": f"{stat.S_IMODE(found.mode):04o}",
        "uid": found.uid,
        "gid": found.gid,
        "size": found.size,
        "blocks": found.blocks,
        "nlink": found.nlink,
        "ino": found.ino,
        "dev": list(found.dev),
        "atime_ns": nanoseconds(found.atime),
        "mtime_ns": nanoseconds(found.mtime),
        "ctime_ns": nanoseconds(found.ctime),
    }
    if found.mask & BTIME:
        told["btime_ns"] = nanoseconds(found.btime)
    if stat.S_ISCHR(found.mode):
        told["rdev"] = list(found.rdev)
    if target is not None:
        told["target"] = target
    return told
