"""`gofer cat`: the contents of served files, one after the other, as cat(1) prints them."""

from __future__ import annotations

from gofer import Failure
from gofer.commands.common import Session, add_addresses, add_common, open_content, operands
from gofer.commands.pieces import told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

_FLAGS = (
    ("-n", "number", "number the lines"),
    ("-b", "number_nonblank", "number the lines that are not empty"),
    ("-s", "squeeze", "of several empty lines in a row print one"),
    ("-E", "ends", "print $ at the end of each line"),
    ("-T", "tabs", "print tabs as ^I"),
    ("-v", "nonprinting", "print what is not to be seen as ^X and M-x"),
    ("-A", "show_all", "as -vET"),
    ("-e", "ends_seen", "as -vE"),
    ("-t", "tabs_seen", "as -vT"),
    ("-u", "unbuffered", "does nothing"),
)


def add(parser: ArgumentParser) -> None:
    parser.description = "Print the contents of files, as cat(1) does."
    add_addresses(parser)
    for letter, name, words in _FLAGS:
        parser.add_argument(letter, dest=name, action="store_true", help=words)
    add_common(parser, json="piece of a file")


def run(options: Any) -> int:
    marks = _Marks(options)
    if options.json and marks.any:
        raise Failure("cat: --json tells contents as they are: none of -nbsETvAet goes with it")
    with Session("cat", options) as session:
        for address in operands(options.addresses):
            with session.each(address.shown), open_content(session, address) as content:
                with told(session, options.json, address.shown) as write:
                    for data in content.whole():
                        write(marks.made(bytes(data)) if marks.any else data)
    return session.status


class _Marks:
    """What -n, -s and the others make of the text. Its state goes on from file to file: they are one text."""

    def __init__(self, options: Any) -> None:
        self._ends = options.ends or options.show_all or options.ends_seen
        tabs = options.tabs or options.show_all or options.tabs_seen
        self._numbers = options.number and not options.number_nonblank
        self._nonblank = options.number_nonblank
        self._squeeze = options.squeeze
        seen = options.nonprinting or options.show_all or options.ends_seen or options.tabs_seen
        self._table = [_seen(byte) if seen else bytes((byte,)) for byte in range(256)]
        if tabs:
            self._table[9] = b"^I"
        self._translates = seen or tabs
        self.any = self._translates or self._ends or self._numbers or self._nonblank or self._squeeze
        self._count = 0
        self._begins = True  # the next byte is the first of a line
        self._empty = 0  # lines in a row

    def made(self, data: bytes) -> bytes:
        *lines, rest = data.split(b"\n")
        out = [self._line(line, b"\n") for line in lines]
        if rest:
            out.append(self._line(rest, b""))
        return b"".join(out)

    def _line(self, line: bytes, end: bytes) -> bytes:
        blank = self._begins and not line
        self._empty = self._empty + 1 if blank else 0
        if blank and self._squeeze and self._empty > 1:
            return b""
        head = b""
        if self._begins and (self._numbers or self._nonblank and not blank):
            self._count += 1
            head = b"%6d\t" % self._count
        self._begins = bool(end)
        if self._translates:
            line = b"".join([self._table[byte] for byte in line])
        return head + line + (b"$" if end and self._ends else b"") + end


def _seen(byte: int) -> bytes:
    """As cat -v; a line's end and a tab stay."""
    if byte in (9, 10):
        return bytes((byte,))
    meta, low = (b"M-", byte - 128) if byte > 127 else (b"", byte)
    return meta + (b"^?" if low == 127 else b"^" + bytes((low + 64,)) if low < 32 else bytes((low,)))
