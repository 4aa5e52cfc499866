"""`gofer tail`: the last lines of served files, and with -f what is added to them, as tail(1) prints them."""

from __future__ import annotations

import contextlib
import time

from gofer.commands.common import Session, add_addresses, add_common, open_content, operands
from gofer.commands.head import add_counts, amount, heading, is_directory, words
from gofer.commands.options import explaining, seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any

    from gofer.client.content import Content
    from gofer.commands.common import Address

__all__ = ["add", "run", "words"]

_BLOCK = 1 << 16


def add(parser: ArgumentParser) -> None:
    parser.description = "Print the last lines of files, as tail(1) does: ten of each."
    add_addresses(parser)
    add_counts(parser, "the last N", "with + before it from the Nth on")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, until interrupted")
    pause = "with -f: so long between two looks (default: 1)"
    parser.add_argument("-s", "--sleep-interval", type=explaining(seconds), default=1.0, metavar="SECONDS", help=pause)
    add_common(parser)


def run(options: Any) -> int:
    lines, sign, count = amount(options)
    end = b"\0" if options.zero_terminated else b"\n"
    with contextlib.ExitStack() as stack, Session("tail", options) as session:
        addresses = operands(options.addresses)
        headings = options.verbose or len(addresses) > 1 and not options.quiet
        followed: list[_Followed] = []
        number = 0
        if not (count or sign or options.follow):
            addresses = []
        for address in addresses:
            if headings and is_directory(session, address):  # as the program of that name: it can be opened
                session.write(heading(number, session.seen(address.shown)))
                number += 1
            with session.each(address.shown), contextlib.ExitStack() as opened:
                content = opened.enter_context(open_content(session, address))
                if headings:
                    session.write(heading(number, session.seen(address.shown)))
                number += 1
                if not content.seekable:
                    for data in _held(content, lines, sign == "+", count, end):
                        session.write(data)
                    continue
                file = _Followed(address, content, _start(content, lines, sign == "+", count, end))
                file.go_on(session)
                if options.follow:
                    followed.append(file)
                    stack.push(opened.pop_all())
        _follow(session, followed, headings, options.sleep_interval)
    return session.status


class _Followed:
    """at: as far as it has been printed."""

    def __init__(self, address: Address, content: Content, at: int) -> None:
        self.address = address
        self.content = content
        self.at = at

    def go_on(self, session: Session) -> None:
        for data in self.content.pieces(self.at):
            session.write(data)
            self.at += len(data)


def _follow(session: Session, followed: list[_Followed], headings: bool, interval: float) -> None:
    """Until nothing is left that can be read."""
    last = followed[-1] if followed else None
    while followed:
        session.flush()
        time.sleep(interval)
        for file in [*followed]:
            try:
                size = file.content.size()
                if size < file.at:
                    session.complain(file.address.shown, "it was truncated: from its beginning again", status=0)
                    file.at = 0
                if size > file.at:
                    if headings and file is not last:
                        session.write(heading(1, file.address.shown))
                    last = file
                    file.go_on(session)
            except OSError as error:
                session.bad(file.address.shown, error)
                followed.remove(file)


def _start(content: Content, lines: bool, from_there: bool, count: int, end: bytes) -> int:
    """Where in the file the output begins."""
    if from_there:
        return _behind(content, count - 1, end) if lines else max(0, count - 1)
    size = content.size()
    if not lines:
        return max(0, size - count)
    if not count:
        return size
    at, wanted = size, count
    while at > 0:
        begin = max(0, at - _BLOCK)
        data = b"".join(content.pieces(begin, at - begin))
        if at == size and not data.endswith(end):
            wanted -= 1  # the last line has no end, and counts
        found = data.count(end)
        if found > wanted:
            place = len(data)
            for _ in range(wanted + 1):
                place = data.rindex(end, 0, place)
            return begin + place + 1
        wanted -= found
        at = begin
    return 0


def _behind(content: Content, count: int, end: bytes) -> int:
    """The offset behind so many lines; the end of the file where it has no more."""
    offset = 0
    for data in content.pieces():
        found = data.count(end)
        if count <= 0:
            break
        if found >= count:
            at = -1
            for _ in range(count):
                at = data.index(end, at + 1)
            return offset + at + 1
        count -= found
        offset += len(data)
    return offset


def _held(content: Content, lines: bool, from_there: bool, count: int, end: bytes) -> Iterator[bytes]:
    """The same of what can be read but once: a FIFO. All of it is held, as nobody knows where its end is."""
    data = b"".join(content.pieces())
    if lines:
        parts = data.split(end)
        whole = [part + end for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
        yield b"".join(whole[max(0, count - 1) :] if from_there else whole[len(whole) - min(count, len(whole)) :])
    else:
        yield data[max(0, count - 1) :] if from_there else data[len(data) - min(count, len(data)) :]
