"""`gofer tail`: the last lines of served files, and with -f what is added to them, as tail(1) prints them."""

from __future__ import annotations

import contextlib
import time

from gofer.commands.common import Session, add_addresses, add_common, open_content, operands
from gofer.commands.head import add_counts, amount, has_headings, heading, is_directory, words
from gofer.commands.options import explaining, seconds
from gofer.commands.pieces import Pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any

    from gofer.client.content import Content
    from gofer.commands.common import Address

__all__ = ["add", "run", "words"]

_BLOCK = 1 << 16
_HELD = 1 << 20  # bytes of a FIFO's end, where fewer are asked for


def add(parser: ArgumentParser) -> None:
    parser.description = "Print the last lines of files, as tail(1) does: ten of each."
    add_addresses(parser)
    add_counts(parser, "the last N", "with + before it from the Nth on")
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what is added, until interrupted")
    pause = "with -f: so long between two looks (default: 1)"
    parser.add_argument("-s", "--sleep-interval", type=explaining(seconds), default=1.0, metavar="SECONDS", help=pause)
    add_common(parser, json="piece of a file")


def run(options: Any) -> int:
    lines, sign, count = amount(options)
    end = b"\0" if options.zero_terminated else b"\n"
    with contextlib.ExitStack() as stack, Session("tail", options) as session:
        addresses = operands(options.addresses)
        headings = has_headings(options, addresses)
        followed: list[_File] = []
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
                    file = _File(session, options.json, address, content, 0)
                    for at, data in _through(content, lines, sign == "+", count, end):
                        file.write(at, data)
                    file.close()
                    continue
                file = _File(session, options.json, address, content, _start(content, lines, sign == "+", count, end))
                file.go_on()
                if not options.follow:
                    file.close()
                else:
                    followed.append(file)
                    stack.push(opened.pop_all())
        _follow(session, followed, headings, options.sleep_interval)
    return session.status


class _File:
    """at: as far as it has been printed."""

    def __init__(self, session: Session, json: bool, address: Address, content: Content, at: int) -> None:
        self.address = address
        self.content = content
        self.at = at
        self._session = session
        self._pieces = Pieces(session, address.shown, at) if json else None

    def go_on(self) -> None:
        for data in self.content.pieces(self.at):
            self.write(self.at, data)

    def write(self, at: int, data: bytes) -> None:
        """What is there in it."""
        if not self._pieces:
            self._session.write(data)
        else:
            if at != self.at:
                self._pieces.go_to(at)
            self._pieces.write(data)
        self.at = at + len(data)

    def begin_again(self) -> None:
        self.at = 0
        if self._pieces:
            self._pieces.go_to(0)

    def close(self) -> None:
        if self._pieces:
            self._pieces.close()


def _follow(session: Session, followed: list[_File], headings: bool, interval: float) -> None:
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
                    file.begin_again()
                if size > file.at:
                    if headings and file is not last:
                        session.write(heading(1, session.seen(file.address.shown)))
                    last = file
                    file.go_on()
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


def _through(content: Content, lines: bool, from_there: bool, count: int, end: bytes) -> Iterator[tuple[int, bytes]]:
    """The same of what can be read but once, a FIFO: what is to be printed, and where in it that was."""
    skip, at, held = max(0, count - 1) if from_there else 0, 0, b""
    room = _HELD
    for data in content.pieces():
        if from_there:
            gone, skip = _skipped(data, lines, skip, end)
            if data[gone:]:
                yield at + gone, data[gone:]
            at += len(data)
            continue
        held += data
        if len(held) > room:
            gone = _last(held, lines, count, end)
            at, held = at + gone, held[gone:]
            room = max(_HELD, 2 * len(held))
    gone = _last(held, lines, count, end)
    yield at + gone, held[gone:]


def _skipped(data: bytes, lines: bool, skip: int, end: bytes) -> tuple[int, int]:
    """How many bytes of it are not to be printed, where so many lines or bytes are still to be left out; and how many then."""
    if not lines:
        return min(skip, len(data)), max(0, skip - len(data))
    gone = 0
    while skip and gone < len(data):
        found = data.find(end, gone)
        if found < 0:
            return len(data), skip
        gone, skip = found + 1, skip - 1
    return gone, skip


def _last(data: bytes, lines: bool, count: int, end: bytes) -> int:
    """Where in it the last so many begin."""
    if not lines:
        return max(0, len(data) - count)
    if not count:
        return len(data)
    at = len(data) - data.endswith(end)
    for _ in range(count):
        at = data.rfind(end, 0, at)
        if at < 0:
            break
    return at + 1
