"""`gofer stat`: the attributes of files, as stat(1) shows them."""

from __future__ import annotations

import os
import stat

from gofer import Failure
from gofer.commands import attrs, names
from gofer.commands.common import Session, add_addresses, add_common, operands
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any, Callable

    from gofer.client.replies import Stat

_USUAL = (
    "  File: {name}\n  Size: %-10s\tBlocks: %-10b IO Block: %-6o %F\nDevice: %Hd,%Ld\tInode: %-11i Links: %h{device}\n"
    "Access: (%04a/%10.10A)  Uid: (%5u/%8U)   Gid: (%5g/%8G)\nAccess: %x\nModify: %y\nChange: %z\n Birth: %w\n"
)
_TERSE = "%n %s %b %f %u %g %D %i %h %t %T %X %Y %Z %W %o\n"
_FLAGS = "-#0+ "


def add(parser: ArgumentParser) -> None:
    parser.description = "Show the attributes of files, as stat(1) does; those of a symbolic link itself, unless -L is given."
    add_addresses(parser, "the root of $GOFER_SOCKET")
    parser.add_argument("-L", "--dereference", dest="follow", action="store_true", help="follow links")
    form = parser.add_mutually_exclusive_group()
    words = "print this for each, and a line's end: %%n name, %%s size, %%a mode, ... as stat(1)"
    form.add_argument("-c", "--format", metavar="FORMAT", help=words)
    form.add_argument("--printf", metavar="FORMAT", help="the same without a line's end, and with \\n, \\t and octal numbers")
    form.add_argument("-t", "--terse", action="store_true", help="all of it in one line")
    add_common(parser, json="file")


def run(options: Any) -> int:
    form = _form(options)
    with Session("stat", options) as session:
        for address in operands(options.addresses):
            with session.each(address.shown):
                tree = session.tree(address)
                node = tree.resolve(address.path, options.follow)
                target = tree.target(node) if stat.S_ISLNK(node.stat.mode) else None
                tree.drop(node.fd)
                if options.json:
                    session.write_json(attrs.fields(address.shown, node.stat, target))
                else:
                    session.write(_filled(form, _File(address.shown, node.stat, target)))
    return session.status


def _form(options: Any) -> str:
    if options.format is not None:
        return str(options.format) + "\n"
    if options.printf is not None:
        return _unescaped(options.printf)
    return _TERSE if options.terse else ""


def _unescaped(text: str) -> str:
    """With what printf(1) makes of backslashes."""
    out, at = [], 0
    plain = {"n": "\n", "t": "\t", "\\": "\\", '"': '"', "a": "\a", "b": "\b", "e": "\033", "f": "\f", "r": "\r", "v": "\v"}
    while at < len(text):
        c, after = text[at], text[at + 1 : at + 2]
        if c != "\\" or not after:
            out.append(c)
            at += 1
        elif after in "01234567":
            digits = 1
            while digits < 3 and text[at + 1 + digits : at + 2 + digits] in tuple("01234567"):
                digits += 1
            out.append(chr(int(text[at + 1 : at + 1 + digits], 8) & 0xFF))
            at += 1 + digits
        else:
            out.append(plain.get(after, after))
            at += 2
    return "".join(out)


class _File:
    def __init__(self, name: bytes, found: Stat, target: bytes | None) -> None:
        self.name = name
        self.stat = found
        self.target = target


def _filled(form: str, file: _File) -> bytes:
    """The format with each directive replaced. `%`, flags, width, .precision, letter: as stat(1) reads it."""
    if not form:
        device = ""
        if file.stat.mode and stat.S_ISCHR(file.stat.mode):
            device = "     Device type: %Hr,%Lr"
        form = _USUAL.format(name=os.fsdecode(_plain(file)).replace("%", "%%"), device=device)
    out, at = [], 0
    while at < len(form):
        percent = form.find("%", at)
        if percent < 0:
            out.append(_bytes(form[at:]))
            break
        out.append(_bytes(form[at:percent]))
        at = percent + 1
        flags = _span(form, at, _FLAGS)
        at += len(flags)
        width = _span(form, at, "0123456789")
        at += len(width)
        precision = ""
        if form[at : at + 1] == ".":
            precision = _span(form, at + 1, "0123456789") or ("9" if form[at + 1 : at + 2] in ("X", "Y", "Z", "W") else "0")
            at += 1 + len(_span(form, at + 1, "0123456789"))
        letter = form[at : at + 2] if form[at : at + 1] in ("H", "L") else form[at : at + 1]
        at += len(letter)
        if letter in ("", "%", "\n"):
            out.append(b"%" + letter.strip("%").encode())
            continue
        if letter not in _LETTERS or max(len(width), len(precision)) > 6:  # a width of gigabytes
            told = printable(_bytes(f"%{flags}{width}{letter}"))
            raise Failure(f"{told} is nothing that gofer stat tells: `man 1 stat` lists what there is")
        out.append(_shaped(_LETTERS[letter](file), flags, int(width or 0), precision, letter))
    return b"".join(out)


def _span(text: str, at: int, of: str) -> str:
    end = at
    while end < len(text) and text[end] in of:
        end += 1
    return text[at:end]


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shaped(value: int | str | bytes, flags: str, width: int, precision: str, letter: str) -> bytes:
    """As printf(3) does it with these flags."""
    if isinstance(value, bytes):
        text = value[: int(precision)] if precision else value
        return text.ljust(width) if "-" in flags else text.rjust(width)
    if isinstance(value, str):
        if letter in "XYZW" and letter:
            value = _with_fraction(value, precision)
        elif precision:
            value = value[: int(precision)]
        filled = value.zfill(width) if "0" in flags and "-" not in flags and letter in "XYZW" else value
        return _bytes(filled.ljust(width) if "-" in flags else filled.rjust(width))
    base = {"a": "o", "f": "x", "D": "x", "t": "x", "T": "x", "R": "x"}.get(letter, "d")
    digits = format(value, base)
    if "#" in flags and base != "d":
        digits = {"o": "0", "x": "0x"}[base] + digits if value else digits
    if precision:
        digits = digits.zfill(int(precision))
    if "+" in flags and base == "d":
        digits = f"+{digits}"
    if "-" in flags:
        return digits.ljust(width).encode()
    return (digits.zfill(width) if "0" in flags and not precision else digits.rjust(width)).encode()


def _with_fraction(value: str, precision: str) -> str:
    """Seconds since 1970; with a precision so many digits behind the point."""
    seconds, _, fraction = value.partition(".")
    if not precision:
        return seconds
    digits = int(precision)
    return f"{seconds}.{fraction[:digits].ljust(digits, '0')}" if digits else seconds


def _shown(file: _File) -> bytes:
    parts = [file.name] if file.target is None else [file.name, file.target]
    return b" -> ".join([names.shell(part, always=True) for part in parts])


def _plain(file: _File) -> bytes:
    """Quoted only where a name could speak to a terminal."""
    parts = [file.name] if file.target is None else [file.name, file.target]
    return b" -> ".join([names.shell(part) for part in parts] if os.isatty(1) else parts)


def _seconds(when: tuple[int, int]) -> str:
    return f"{when[0]}.{when[1]:09}"


def _birth(file: _File) -> tuple[int, int] | None:
    return file.stat.btime if file.stat.mask & attrs.BTIME else None


def _kind(file: _File) -> str:
    empty = stat.S_ISREG(file.stat.mode) and not file.stat.size
    return "regular empty file" if empty else attrs.kind(file.stat.mode)


_LETTERS: dict[str, Callable[[_File], int | str | bytes]] = {
    "a": lambda f: stat.S_IMODE(f.stat.mode),
    "A": lambda f: stat.filemode(f.stat.mode),
    "b": lambda f: f.stat.blocks,
    "B": lambda f: 512,
    "C": lambda f: "?",
    "d": lambda f: attrs.device_number(f.stat.dev),
    "D": lambda f: attrs.device_number(f.stat.dev),
    "Hd": lambda f: f.stat.dev[0],
    "Ld": lambda f: f.stat.dev[1],
    "f": lambda f: f.stat.mode,
    "F": _kind,
    "g": lambda f: f.stat.gid,
    "G": lambda f: attrs.group(f.stat.gid) or "UNKNOWN",
    "h": lambda f: f.stat.nlink,
    "i": lambda f: f.stat.ino,
    "m": lambda f: "?",
    "n": lambda f: f.name,
    "N": _shown,
    "o": lambda f: f.stat.blksize,
    "r": lambda f: attrs.device_number(f.stat.rdev),
    "R": lambda f: attrs.device_number(f.stat.rdev),
    "Hr": lambda f: f.stat.rdev[0],
    "Lr": lambda f: f.stat.rdev[1],
    "s": lambda f: f.stat.size,
    "t": lambda f: f.stat.rdev[0],
    "T": lambda f: f.stat.rdev[1],
    "u": lambda f: f.stat.uid,
    "U": lambda f: attrs.user(f.stat.uid) or "UNKNOWN",
    "w": lambda f: attrs.exactly(when) if (when := _birth(f)) else "-",
    "W": lambda f: _seconds(_birth(f) or (0, 0)),
    "x": lambda f: attrs.exactly(f.stat.atime),
    "X": lambda f: _seconds(f.stat.atime),
    "y": lambda f: attrs.exactly(f.stat.mtime),
    "Y": lambda f: _seconds(f.stat.mtime),
    "z": lambda f: attrs.exactly(f.stat.ctime),
    "Z": lambda f: _seconds(f.stat.ctime),
}
