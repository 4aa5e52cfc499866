"""How `gofer ls` shows entries: long lines, columns, one a line; quoted on a terminal, in colors where they are asked for."""

from __future__ import annotations

import os
import stat
import time

from gofer.commands import attrs, names
from gofer.commands.lscolors import Colors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from gofer.client.replies import Stat
    from gofer.commands.common import Session

_HALF_A_YEAR = 31556952 // 2
_LEAST_COLUMN = 3  # a letter, and two blanks
_SIGNS = {stat.S_IFDIR: b"/", stat.S_IFLNK: b"@", stat.S_IFIFO: b"|", stat.S_IFSOCK: b"="}
_STYLES = {"full-iso": "%Y-%m-%d %H:%M:%S.%N %z", "long-iso": "%Y-%m-%d %H:%M"}


class Entry:
    """kind: S_IFMT bits; stat: None where it is not known; target: of a symbolic link; behind: what that leads to."""

    __slots__ = ("name", "kind", "stat", "target", "behind")

    def __init__(self, name: bytes, kind: int, found: Stat | None) -> None:
        self.name = name
        self.kind = kind
        self.stat = found
        self.target: bytes | None = None
        self.behind: Stat | None = None


class Lines:
    """long: as -l; streams: an entry's line does not depend on the others'."""

    def __init__(self, session: Session, options: Any) -> None:
        terminal = os.isatty(1)
        self._session = session
        self._options = options
        self.long = options.long or options.numeric or options.full_time
        self._in_columns = not self.long and not options.one and not options.json and (options.columns or terminal)
        self.streams = (options.one or options.json or not terminal) and not self.long and not self._in_columns
        self.time = "ctime" if options.ctime else "atime" if options.atime else "mtime"
        self.colors: Colors | None = None
        if not options.json and (options.color == "always" or options.color == "auto" and terminal):
            self.colors = Colors(os.environ.get("LS_COLORS", ""))
        self.follows_targets = options.classify and self.long or bool(self.colors and self.colors.follows(self.long))
        self.shows_targets = self.long or options.json or self.follows_targets
        self._quotes = terminal and not options.literal
        self._aligns = self._quotes and (self.long or self._in_columns)
        self._style = options.time_style if not options.full_time else "full-iso"
        self._now = time.time()
        self._width = _terminal_width()

    def heading(self, name: bytes) -> bytes:
        """Where it is quoted, so is a colon: it would end the heading."""
        if self._quotes and b":" in name and names.shell(name) == name:
            return b"'" + name + b"'"
        return names.shell(name) if self._quotes else name

    def write(self, entries: list[Entry], blocks: int | None, beside: Sequence[Entry] = ()) -> None:
        """blocks: of 512 bytes, of the whole directory; None: there is none. beside: as wide have the columns to be."""
        options = self._options
        if blocks is not None and (self.long or options.blocks):
            self._session.write(b"total %s\n" % self._kib(blocks).encode())
        quoted = [names.shell(entry.name) if self._quotes else entry.name for entry in entries]
        lead = self._aligns and any(shown != entry.name for shown, entry in zip(quoted, entries))
        if lead:  # so that names stand below each other, and not below the quotes of others
            quoted = [text if text != entry.name else b" " + text for text, entry in zip(quoted, entries)]
        if self.long:
            self._write_long(entries, quoted, beside)
            return
        shown = [self._name(entry, text, 0) for text, entry in zip(quoted, entries)]
        before = self._before(entries)
        shown = [more + text for more, text in zip(before, shown)]
        if not self._in_columns:
            self._session.write(b"".join([text + b"\n" for text in shown]))
            return
        signs = [self._sign(entry) for entry in entries]
        widths = [len(more) + names.width(text) + len(sign) for more, text, sign in zip(before, quoted, signs)]
        self._session.write(in_columns(shown, widths, self._width, 0 if self.colors else 8))

    def _name(self, entry: Entry, text: bytes, column: int) -> bytes:
        """With its color and its sign. column: where it begins."""
        if self.colors:
            blank = text[: text != text.lstrip(b" ") and self._aligns]
            painted = self.colors.painted(text[len(blank) :], entry.name, entry.kind, entry.stat, entry.behind, entry.target)
            width = self._width
            if painted.endswith(b"\033[0m") and column // width != (column + len(text) - 1) // width:
                painted += b"\033[K"  # of the line where it ends, the rest has none of its background
            text = blank + painted
        return text + self._sign(entry)

    def _sign(self, entry: Entry) -> bytes:
        if self._options.slash and not self._options.classify:
            return b"/" if entry.kind == stat.S_IFDIR else b""
        if not self._options.classify or entry.kind == stat.S_IFLNK and self.long:
            return b""
        return _sign(entry.kind, entry.stat)

    def _arrow(self, entry: Entry) -> bytes:
        if entry.target is None:
            return b""
        target = names.shell(entry.target) if self._quotes else entry.target
        if self.colors and self.follows_targets:
            target = self.colors.painted_target(target, entry.target, entry.behind)
        sign = b""
        if self._options.classify and entry.behind:
            sign = _sign(stat.S_IFMT(entry.behind.mode), entry.behind)
        return b" -> " + target + sign

    # Long lines

    def _write_long(self, entries: list[Entry], quoted: list[bytes], beside: Sequence[Entry]) -> None:
        if not entries:
            return
        columns = [self._columns(entry) for entry in (*entries, *beside)]
        major = max((len(size[0]) for *_, size, _ in columns if len(size) == 2), default=0)
        minor = max((len(size[1]) for *_, size, _ in columns if len(size) == 2), default=0)
        sizes = [f"{s[0]:>{major}}, {s[1]:>{minor}}" if len(s) == 2 else s[0] for *_, s, _ in columns]
        links = max(len(row[1]) for row in columns)
        owner, group = (max(len(row[i]) for row in columns) for i in (2, 3))
        size = max(map(len, sizes))
        empty = len(self._when((0, 0)))
        before = self._before(entries)
        out: list[bytes] = []
        for entry, text, row, told, more in zip(entries, quoted, columns, sizes, before):
            mode, count, uid, gid, _, when = row
            user, gang = _padded(uid, owner), _padded(gid, group)
            line = f"{mode} {count:>{links}} {user} {gang} {told:>{size}} {when:>{empty}} "
            out += more, os.fsencode(line), self._name(entry, text, len(more) + len(line)), self._arrow(entry), b"\n"
        self._session.write(b"".join(out))

    def _columns(self, entry: Entry) -> tuple[str, str, str, str, tuple[str, ...], str]:
        found = entry.stat
        if found is None:
            return f"{stat.filemode(entry.kind)[0]}?????????", "?", "?", "?", ("?",), "?"
        if entry.kind in (stat.S_IFCHR, stat.S_IFBLK):
            size: tuple[str, ...] = str(found.rdev[0]), str(found.rdev[1])
        else:
            size = (attrs.human(found.size) if self._options.human else str(found.size),)
        uid, gid = str(found.uid), str(found.gid)
        if not self._options.numeric:
            uid, gid = attrs.user(found.uid) or uid, attrs.group(found.gid) or gid
        return stat.filemode(found.mode), str(found.nlink), uid, gid, size, self._when(getattr(found, self.time))

    def _when(self, when: tuple[int, int]) -> str:
        seconds, fraction = when
        recent = self._now - _HALF_A_YEAR < seconds + fraction / attrs.BILLION <= self._now
        if self._style.startswith("+"):
            old, _, new = self._style[1:].partition("\n")
            form = new if recent and new else old
        elif self._style == "iso":
            form = "%m-%d %H:%M" if recent else "%Y-%m-%d "
        else:
            form = _STYLES.get(self._style) or ("%b %e %H:%M" if recent else "%b %e  %Y")
        if "%N" in form:
            form = form.replace("%N", f"{fraction:09}")
        return attrs.local(seconds, form) or str(seconds)

    # What may be before a name

    def _before(self, entries: list[Entry]) -> list[bytes]:
        """Inode number and blocks, of one width for all."""
        columns = []
        if self._options.inode:
            columns.append([str(entry.stat.ino) if entry.stat else "?" for entry in entries])
        if self._options.blocks:
            columns.append([self._kib(entry.stat.blocks) if entry.stat else "?" for entry in entries])
        if not columns:
            return [b""] * len(entries)
        widths = [max(map(len, column), default=0) for column in columns]
        return ["".join(f"{text:>{width}} " for text, width in zip(row, widths)).encode() for row in zip(*columns)]

    def _kib(self, blocks: int) -> str:
        return attrs.human(blocks * 512) if self._options.human else str(-(-blocks // 2))


def _padded(owner: str, width: int) -> str:
    """A name to the left, a number to the right, as ls(1) has them."""
    return f"{owner:>{width}}" if owner.isdigit() else f"{owner:{width}}"


def _sign(kind: int, found: Stat | None) -> bytes:
    if kind == stat.S_IFREG:
        return b"*" if found and found.mode & 0o111 else b""
    return _SIGNS.get(kind, b"")


def _terminal_width() -> int:
    told = os.environ.get("COLUMNS", "")
    if told.isdigit() and int(told):
        return int(told)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def in_columns(shown: list[bytes], widths: list[int], line: int, tab: int = 8) -> bytes:
    """Down the columns, as few lines as there can be, two blanks apart; with tabs where tab is not 0."""
    count = len(shown)
    if not count:
        return b""
    rows, columns = count, [max(widths) + 2]
    for number in range(min(count, max(1, line // _LEAST_COLUMN)), 0, -1):
        height = -(-count // number)
        tried = [max(widths[at : at + height]) + 2 for at in range(0, count, height)]
        tried[-1] -= 2
        if len(tried) == number and sum(tried) < line or number == 1:
            rows, columns = height, tried
            break
    parts = []
    for row in range(rows):
        column = 0
        for index in range(row, count, rows):
            parts.append(shown[index])
            if index + rows < count:
                end = column + columns[index // rows]
                parts.append(_blanks(column + widths[index], end, tab))
                column = end
        parts.append(b"\n")
    return b"".join(parts)


def _blanks(start: int, end: int, tab: int) -> bytes:
    parts = []
    while start < end:
        if tab and end // tab > (start + 1) // tab:
            parts.append(b"\t")
            start += tab - start % tab
        else:
            parts.append(b" ")
            start += 1
    return b"".join(parts)
