"""How `gofer find` prints what it finds: -printf with the directives of find(1), and -ls."""

from __future__ import annotations

import os
import stat

from gofer import Failure
from gofer.commands import attrs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.client.replies import Stat
    from gofer.commands.findtests import Context, File

    Part = Callable[[File], bytes]

_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
_TIMES = {"A": "atime", "B": "btime", "C": "ctime", "T": "mtime", "a": "atime", "c": "ctime", "t": "mtime"}
_HALF_A_YEAR = 31556952 // 2


class Format:
    """Of -printf. stats: whether attributes are shown."""

    def __init__(self, text: str, context: Context) -> None:
        self.stats = False
        self._context = context
        self._parts: list[Part] = []
        self._text = text
        self._at = 0
        while self._at < len(text):
            c = text[self._at]
            self._at += 1
            if c == "\\" and self._at < len(text):
                if not self._escape():
                    break
            elif c == "%":
                self._directive()
            else:
                self._literal(c)

    def made(self, file: File) -> bytes:
        return b"".join([part(file) for part in self._parts])

    def _literal(self, text: str) -> None:
        data = os.fsencode(text)
        self._parts.append(lambda file: data)

    def _escape(self) -> bool:
        """False: nothing of what follows is printed."""
        c = self._text[self._at]
        self._at += 1
        if c in "01234567":
            digits = c
            while len(digits) < 3 and self._text[self._at : self._at + 1] in tuple("01234567"):
                digits += self._text[self._at]
                self._at += 1
            byte = bytes((int(digits, 8) & 0xFF,))
            self._parts.append(lambda file: byte)
        elif c != "c":
            self._literal(_ESCAPES.get(c, "\\" + c))
        return c != "c"

    def _span(self, of: str) -> str:
        start = self._at
        while self._at < len(self._text) and self._text[self._at] in of:
            self._at += 1
        return self._text[start : self._at]

    def _directive(self) -> None:
        flags, width, precision = self._span("-+ 0#"), self._span("0123456789"), ""
        if self._text[self._at : self._at + 1] == ".":
            self._at += 1
            precision = self._span("0123456789") or "0"
        letter = self._text[self._at : self._at + 1]
        self._at += 1
        if letter in ("A", "B", "C", "T"):
            letter += self._text[self._at : self._at + 1]
            self._at += 1
        value = self._value(letter, flags)
        if max(len(width), len(precision)) > 6:  # a width of gigabytes
            raise Failure(f"find: %{flags}{width}{letter} is nothing that -printf tells: see `man 1 find`")
        if not (flags or width or precision):
            self._parts.append(value)
            return

        def shaped(file: File) -> bytes:
            text = value(file)
            if precision and letter not in ("d", "m"):
                text = text[: int(precision)]
            elif precision:
                text = text.rjust(int(precision), b"0")
            if "-" in flags:
                return text.ljust(int(width or 0))
            return text.rjust(int(width or 0), b"0" if "0" in flags and letter in ("d", "m") and not precision else b" ")

        self._parts.append(shaped)

    def _value(self, letter: str, flags: str) -> Part:
        context = self._context
        if letter == "%":
            return lambda file: b"%"
        if letter == "l":
            return lambda file: context.seen(context.target(file) or b"") if file.kind == stat.S_IFLNK else b""
        if letter == "Y":
            return lambda file: attrs.letter(file.kind) if file.kind != stat.S_IFLNK else context.kind_behind(file)[0]
        if letter in _NAMES:
            of_name, shown = _NAMES[letter], letter in "pfhHP"
            return (lambda file: context.seen(of_name(file))) if shown else of_name
        self.stats = True
        if letter == "m":
            octal = b"0%o" if "#" in flags else b"%o"
            return _of_stat(lambda found: octal % mode if (mode := stat.S_IMODE(found.mode)) else b"0")
        if letter in _STATS:
            return _of_stat(_STATS[letter])
        if letter[:1] in _TIMES and len(letter) == (2 if letter[:1].isupper() else 1):
            which, form = _TIMES[letter[0]], letter[1:]
            if which == "btime":
                return _of_stat(lambda found: _time(found.btime, form) if found.mask & attrs.BTIME else b"")
            return _of_stat(lambda found: _time(getattr(found, which), form))
        raise Failure(f"find: %{letter} is nothing that -printf tells: see `man 1 find`; %F and %Z no server knows")


def _of_stat(value: Callable[[Stat], bytes]) -> Part:
    return lambda file: value(file.stat) if file.stat else b"?"


def _time(when: tuple[int, int], form: str) -> bytes:
    """A letter of strftime(3), @, + or nothing, as find(1) has them: with ten digits behind a second."""
    seconds, fraction = when
    behind = f".{fraction:09}0"
    if form == "@":
        return f"{seconds}{behind}".encode()
    if not form:
        form = "%a %b %e %H:%M:%S. %Y"
    elif form == "+":
        form = "%Y-%m-%d+%H:%M:%S."
    elif form in ("S", "T", "X"):
        form = "%S." if form == "S" else "%H:%M:%S."
    else:
        form = "%" + form
    text = attrs.local(seconds, form) or f"{seconds}"
    return text.replace(".", behind, 1).encode("utf-8", "surrogateescape")


def _last(path: bytes) -> bytes:
    """With the `/` that is behind it."""
    name = path.rstrip(b"/")
    return path[name.rfind(b"/") + 1 :] if name else b"/"


def _directory(path: bytes) -> bytes:
    head, slash, name = path.rstrip(b"/").rpartition(b"/")
    return head.rstrip(b"/") if head else b"" if slash and name else path[:1] if slash else b"."


_NAMES: dict[str, Part] = {
    "p": lambda file: file.path,
    "f": lambda file: file.name if file.depth else _last(file.path),
    "h": lambda file: _directory(file.path),
    "H": lambda file: file.start,
    "P": lambda file: file.path[len(file.start) :].lstrip(b"/") if file.depth else b"",
    "d": lambda file: b"%d" % file.depth,
    "y": lambda file: attrs.letter(file.kind),
}
_STATS: dict[str, Callable[[Stat], bytes]] = {
    "s": lambda found: b"%d" % found.size,
    "k": lambda found: b"%d" % -(-found.blocks // 2),
    "b": lambda found: b"%d" % found.blocks,
    "i": lambda found: b"%d" % found.ino,
    "n": lambda found: b"%d" % found.nlink,
    "D": lambda found: b"%d" % attrs.device_number(found.dev),
    "U": lambda found: b"%d" % found.uid,
    "G": lambda found: b"%d" % found.gid,
    "u": lambda found: (attrs.user(found.uid) or str(found.uid)).encode(),
    "g": lambda found: (attrs.group(found.gid) or str(found.gid)).encode(),
    "M": lambda found: stat.filemode(found.mode).encode(),
    "S": lambda found: f"{found.blocks * 512 / found.size if found.size else 1 if not found.blocks else float('inf'):g}".encode(),
}


class Lines:
    """-ls: columns that grow with what comes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._widths = [9, 6, 3, 8, 8, 8]

    def made(self, file: File) -> bytes:
        found = file.stat
        if found is None:
            return b"? " + escaped(file.path) + b"\n"
        user, group = attrs.user(found.uid), attrs.group(found.gid)
        cells = [str(found.ino), str(-(-found.blocks // 2)), str(found.nlink), user, group, str(found.size)]
        self._widths = [max(pair) for pair in zip(self._widths, map(len, cells))]
        ino, blocks, links, user_width, group_width, size_width = self._widths
        user = f"{user:<{user_width}} " if user else f"{found.uid:<8} "
        group = f"{group:<{group_width}}" if group else f"{found.gid:<8}"
        if not cells[3]:  # as in find(1), where the blank counts
            self._widths[3] = max(user_width, len(user))
        self._widths[4] = max(group_width, len(group))
        size = f"{found.size:>{size_width}}"
        if stat.S_ISCHR(found.mode) or stat.S_ISBLK(found.mode):
            size = "{:3}, {:3}".format(*found.rdev)
        head = f"{cells[0]:>{ino}} {cells[1]:>{blocks}} {stat.filemode(found.mode)} {cells[2]:>{links}} {user}{group} "
        line = f"{head}{size} {self._when(found.mtime[0])} "
        target = self._context.target(file) if file.kind == stat.S_IFLNK else None
        return line.encode() + escaped(file.path) + (b" -> " + escaped(target) if target is not None else b"") + b"\n"

    def _when(self, seconds: int) -> str:
        recent = self._context.now - _HALF_A_YEAR < seconds <= self._context.now
        return attrs.local(seconds, "%b %e %H:%M" if recent else "%b %e  %Y") or str(seconds)


def escaped(name: bytes) -> bytes:
    """As -ls has names: what is not ASCII, or not to be seen, and a blank, as in a C string."""
    return b"".join([_ESCAPED[byte] for byte in name])


_CONTROLS = {7: b"a", 8: b"b", 9: b"t", 10: b"n", 11: b"v", 12: b"f", 13: b"r", 32: b" ", 34: b'"', 92: b"\\"}
_ESCAPED = [
    b"\\" + _CONTROLS[byte] if byte in _CONTROLS else bytes((byte,)) if 32 < byte < 127 else b"\\%03o" % byte
    for byte in range(256)
]
