"""`gofer head`: the first lines of served files, as head(1) prints them."""

from __future__ import annotations

import stat

from gofer import Failure
from gofer.client.transport import Lost
from gofer.commands.common import Address, Session, add_addresses, add_common, open_content, operands
from gofer.commands.pieces import told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any

    from gofer.client.content import Content

_MOST = 1 << 62  # no file has more of anything
_UNITS = {
    "": 1, "b": 512, "kB": 1000, "K": 1 << 10, "KiB": 1 << 10, "k": 1 << 10, "MB": 10**6, "M": 1 << 20, "MiB": 1 << 20,
    "GB": 10**9, "G": 1 << 30, "GiB": 1 << 30,
}  # fmt: skip


def add(parser: ArgumentParser) -> None:
    parser.description = "Print the first lines of files, as head(1) does: ten of each."
    add_addresses(parser)
    add_counts(parser, "the first N", "with - before it all but the last N")
    add_common(parser, json="piece of a file")


def add_counts(parser: ArgumentParser, which: str, sign: str) -> None:
    """What head and tail have in common."""
    parser.add_argument("-n", "--lines", metavar="N", help=f"print {which} lines; {sign}")
    parser.add_argument("-c", "--bytes", metavar="N", help=f"print {which} bytes; {sign}; with K, M or G behind it KiB, MiB, GiB")
    parser.add_argument("-q", "--quiet", "--silent", action="store_true", help="no headings")
    parser.add_argument("-v", "--verbose", action="store_true", help="a heading for one file, too")
    parser.add_argument("-z", "--zero-terminated", action="store_true", help="lines end with a NUL")


def words(argv: list[str], parser: ArgumentParser) -> list[str]:
    """-5 is -n 5."""
    return [
        f"-n{word[1:]}" if word[:1] == "-" and word[1:].isdigit() and not _is_value(argv, at) else word
        for at, word in enumerate(argv)
    ]


def _is_value(argv: list[str], at: int) -> bool:
    return at > 0 and argv[at - 1] in ("-n", "-c", "--lines", "--bytes", "-s", "--sleep-interval", "--timeout")


def amount(options: Any) -> tuple[bool, str, int]:
    """Whether lines are meant, the sign, and how many; ten lines where nothing is said."""
    lines = options.bytes is None
    text = options.lines if lines else options.bytes
    text = "10" if text is None else text
    sign = text[:1] if text[:1] in ("+", "-") else ""
    digits = text[len(sign) :].rstrip("bkKMGiB")
    unit = text[len(sign) + len(digits) :]
    if not digits.isascii() or not digits.isdigit() or unit not in _UNITS:
        raise Failure(f"{options.subcommand}: {text!r} must be a number of {'lines' if lines else 'bytes'}, as 10, -10 or 5K")
    return lines, sign, min(int(digits.lstrip("0")[:30] or 0) * _UNITS[unit], _MOST)


def has_headings(options: Any, addresses: list[Address]) -> bool:
    return not options.json and (options.verbose or len(addresses) > 1 and not options.quiet)


def heading(number: int, name: bytes) -> bytes:
    return b"\n" * bool(number) + b"==> " + name + b" <==\n"


def is_directory(session: Session, address: Address) -> bool:
    tree = session.tree(address)
    try:
        node = tree.resolve(address.path)
    except OSError as error:
        if isinstance(error, Lost):
            raise
        return False
    tree.drop(node.fd)
    return stat.S_ISDIR(node.stat.mode)


def run(options: Any) -> int:
    lines, sign, count = amount(options)
    end = b"\0" if options.zero_terminated else b"\n"
    with Session("head", options) as session:
        addresses = operands(options.addresses)
        headings = has_headings(options, addresses)
        number = 0
        for address in addresses:
            if headings and is_directory(session, address):  # as the program of that name: it can be opened
                session.write(heading(number, session.seen(address.shown)))
                number += 1
            with session.each(address.shown), open_content(session, address) as content:
                if headings:
                    session.write(heading(number, session.seen(address.shown)))
                number += 1
                with told(session, options.json, address.shown) as write:
                    for data in _part(content, lines, sign == "-", count, end):
                        write(data)
    return session.status


def _part(content: Content, lines: bool, but: bool, count: int, end: bytes) -> Iterator[bytes]:
    if not but and not lines:
        return content.pieces(0, count)
    if not but:
        return _lines(content, count, end)
    return _but_lines(content, count, end) if lines else _but_bytes(content, count)


def _lines(content: Content, count: int, end: bytes) -> Iterator[bytes]:
    """The first so many. Small pieces: most files are longer than ten lines."""
    offset = 0
    while count > 0:
        data = content.read(offset, 1 << 16)
        if not data:
            return
        offset += len(data)
        found = data.count(end)
        if found >= count:
            at = -1
            for _ in range(count):
                at = data.index(end, at + 1)
            data = data[: at + 1]
        count -= found
        yield data


def _but_bytes(content: Content, count: int) -> Iterator[bytes]:
    """All but the last so many, which are held until it is known that they are."""
    held = b""
    for data in content.pieces():
        held += data
        if len(held) > count:
            yield held[: len(held) - count]
            held = held[len(held) - count :]


def _but_lines(content: Content, count: int, end: bytes) -> Iterator[bytes]:
    held: list[bytes] = []
    rest = b""
    for data in content.pieces():
        *whole, rest = (rest + data).split(end)
        held += whole
        if len(held) > count:
            yield b"".join(line + end for line in held[: len(held) - count])
            held = held[len(held) - count :]
    if rest:  # a line as well
        held.append(rest)
        whole_lines = held[: max(0, len(held) - count)]
        yield b"".join(line + end for line in whole_lines[: len(held) - 1])
        if not count:
            yield rest
