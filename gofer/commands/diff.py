"""`gofer diff`: what differs between a served tree and a local one, or between two that are served. The two sides: sides.py."""

from __future__ import annotations

import stat
from errno import EFBIG

from gofer import Failure
from gofer.client.tree import MOST
from gofer.client.walk import DEEPEST
from gofer.commands import attrs
from gofer.commands.common import Session, add_common
from gofer.commands.patterns import matcher
from gofer.commands.sides import Item, Side, Trouble, blamed, both_open, side_of
from gofer.output import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any, Optional

    from gofer.client.replies import Stat

    Pair = tuple[bytes, Optional[Stat], Optional[Stat]]

_DIFFERS, _TROUBLE = 1, 2
_ASPECTS = ("mode", "owner", "times", "contents")
_PIECE = 1 << 18
_TEXT = 1 << 24  # bytes of a file at most, of which -u shows the lines


def add(parser: ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] ONE OTHER"
    parser.description = (
        "Compare two trees, or files, of which one is served at least: names, types, modes, owners, times of change, sizes, "
        "contents, targets of symbolic links. Exit status: 0 nothing differs, 1 something does, 2 trouble."
    )
    for name in ("one", "other"):
        parser.add_argument(name, metavar=name.upper(), help="SERVER[:PATH], or the path of a local file or directory")
    parser.add_argument("-q", "--brief", action="store_true", help="tell that files differ, not in what")
    parser.add_argument("-r", "--recursive", action="store_true", help="does nothing: all below directories is compared")
    parser.add_argument("-u", "--unified", action="store_true", help="show the lines of text files that differ")
    parser.add_argument("-x", "--exclude", action="append", default=[], metavar="PATTERN", help="leave out names like this")
    words = f"what may differ, of {' '.join(_ASPECTS)}, with commas between"
    parser.add_argument("--ignore", default="", metavar="WHAT", help=words)
    add_common(parser, json="difference")


def run(options: Any) -> int:
    try:
        with Session("diff", options) as session:
            _compare(session, options)
        return session.status
    except Failure as failure:  # else it were a difference
        tell(f"gofer: {failure}")
        return _TROUBLE


def _compare(session: Session, options: Any) -> None:
    ignored = set(filter(None, options.ignore.split(",")))
    if ignored - set(_ASPECTS):
        raise Failure(f"diff: --ignore {options.ignore}: these can be ignored: {' '.join(_ASPECTS)}")
    sides = [side_of(session, options.one), side_of(session, options.other)]
    if not any(side.served for side in sides):
        raise Failure("diff: both are local; give SERVER[:PATH] for one at least, or use diff(1)")
    roots: list[Item] = []
    for side in sides:
        try:
            roots.append(side.root())
        except OSError as error:
            _trouble(session, side, b"", error)
    if len(roots) == 2:
        _Comparison(session, options, ignored, sides[0], sides[1]).run(roots[0], roots[1])


class _Comparison:
    def __init__(self, session: Session, options: Any, ignored: set[str], one: Side, other: Side) -> None:
        self._session = session
        self._options = options
        self._ignored = ignored
        self._one = one
        self._other = other
        self._excluded = [matcher(pattern) for pattern in options.exclude]

    def run(self, one: Item, other: Item) -> None:
        """The entries of each directory in the order of their names, with all that is below them."""
        if not self._same(b"", one.stat, other.stat, one, other) or not stat.S_ISDIR(one.stat.mode):
            return
        levels = [(b"", one, other, self._pairs(b"", one, other))]
        while levels:
            path, one, other, pairs = levels[-1]
            for name, left, right in pairs:
                inner = path + b"/" + name
                if left is None or right is None:
                    self._alone(path, name, left is not None, left or right)
                elif self._same(inner, left, right, one, other, name) and stat.S_ISDIR(left.mode):
                    below = self._both(inner, one, other, name, len(levels))
                    if below:
                        levels.append((inner, *below, self._pairs(inner, *below)))
                        break
            else:
                levels.pop()
                self._one.close(one)
                self._other.close(other)

    def _both(self, path: bytes, one: Item, other: Item, name: bytes, depth: int) -> tuple[Item, Item] | None:
        """The directories of that name, to be compared; nothing where one cannot be had."""
        found = []
        for side, item in ((self._one, one), (self._other, other)):
            try:
                if depth >= DEEPEST:
                    raise OSError(0, f"more than {DEEPEST} directories in each other: not compared")
                found.append((side, side.child(item, name)))
            except OSError as error:
                self._trouble(side, path, error)
        if len(found) == 2:
            return found[0][1], found[1][1]
        for side, item in found:
            side.close(item)
        return None

    def _pairs(self, path: bytes, one: Item, other: Item) -> Iterator[Pair]:
        """What has the same name, and what has none on the other side. Nothing where a side cannot be listed."""
        listed = [self._listing(self._one, path, one), self._listing(self._other, path, other)]
        if listed[0] is None or listed[1] is None:
            return
        left, right = listed[0], listed[1]
        for name in sorted(left.keys() | right.keys()):
            yield name, left.get(name), right.get(name)

    def _listing(self, side: Side, path: bytes, item: Item) -> dict[bytes, Stat] | None:
        found: dict[bytes, Stat] = {}
        try:
            for name, attributes, error in side.entries(item):
                if any(matches(name) for matches in self._excluded):
                    continue
                if error:
                    self._trouble(side, path + b"/" + name, error)
                found[name] = attributes
                if len(found) > MOST:
                    raise OSError(EFBIG, f"more than {MOST} entries, which are not compared")
        except OSError as error:
            self._trouble(side, path, error)
            return None
        return found

    # One entry

    def _same(self, path: bytes, left: Stat, right: Stat, one: Item, other: Item, name: bytes | None = None) -> bool:
        """Whether it is of the same type; tell what differs. one, other: what it is in, or itself where there is no name."""
        if not (left.mask and right.mask):  # one cannot be looked at, and that is told
            return False
        if stat.S_IFMT(left.mode) != stat.S_IFMT(right.mode):
            self._tell(path, ["type"], f"is a {attrs.kind(left.mode)} while", f"is a {attrs.kind(right.mode)}", left, right)
            return False
        found = self._attributes(left, right)
        try:
            if not self._same_inside(path, left, right, one, other, name):
                found.insert(0, "contents")
        except Trouble as trouble:
            self._trouble(trouble.side, path, trouble.error)
        if found:
            self._tell(path, found, "and", "differ", left, right)
        return True

    def _attributes(self, left: Stat, right: Stat) -> list[str]:
        """The names of those that differ."""
        checks = (
            ("size", "contents", stat.S_ISREG(left.mode) and left.size != right.size),
            ("device", "", stat.S_ISCHR(left.mode) and left.rdev != right.rdev),
            ("mode", "mode", not stat.S_ISLNK(left.mode) and stat.S_IMODE(left.mode) != stat.S_IMODE(right.mode)),
            ("owner", "owner", (left.uid, left.gid) != (right.uid, right.gid)),
            ("mtime", "times", left.mtime != right.mtime),
        )
        return [what for what, aspect, differs in checks if differs and aspect not in self._ignored]

    def _same_inside(self, path: bytes, left: Stat, right: Stat, one: Item, other: Item, name: bytes | None) -> bool:
        if "contents" in self._ignored or not (stat.S_ISREG(left.mode) or stat.S_ISLNK(left.mode)):
            return True
        if left.size != right.size and stat.S_ISREG(left.mode) and not self._options.unified:
            return True  # the sizes say it
        sides = (self._one, one), (self._other, other)
        if stat.S_ISLNK(left.mode):
            targets = []
            for side, item in sides:
                with blamed(side):
                    targets.append(side.target(item, name))
            return targets[0] == targets[1]
        with both_open(sides, name) as (first, second):
            if self._options.unified and max(left.size, right.size) <= _TEXT:
                return self._lines(path, first(0, _TEXT), second(0, _TEXT), left, right)
            return _equal(first, second)

    def _lines(self, path: bytes, first: bytes, second: bytes, left: Stat, right: Stat) -> bool:
        if first == second or b"\0" in first or b"\0" in second or self._options.json:
            return first == second
        import difflib

        dates = [attrs.exactly(found.mtime).encode() for found in (left, right)]
        one, other = self._one.shown + path, self._other.shown + path
        lines = difflib.diff_bytes(difflib.unified_diff, _split(first), _split(second), one, other, dates[0], dates[1])
        for line in lines:
            self._session.write(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n")
        return False

    # Telling

    def _trouble(self, side: Side, path: bytes, error: OSError) -> None:
        _trouble(self._session, side, path, error)

    def _alone(self, path: bytes, name: bytes, in_one: bool, found: Stat | None) -> None:
        self._session.status = max(self._session.status, _DIFFERS)
        side = self._one if in_one else self._other
        if self._options.json:
            only = "one" if in_one else "other"
            kind = attrs.word(found.mode) if found else "unknown"
            self._session.write_json({"path": path + b"/" + name, "only_in": only, "type": kind})
        else:
            self._session.write(self._session.seen(b"Only in " + side.shown + path + b": " + name) + b"\n")

    def _tell(self, path: bytes, found: list[str], between: str, end: str, left: Stat, right: Stat) -> None:
        self._session.status = max(self._session.status, _DIFFERS)
        values = {what: (_value(what, left), _value(what, right)) for what in found}
        if self._options.json:
            one, other = _plain(values, 0), _plain(values, 1)
            self._session.write_json({"path": path or b"/", "differs": found, "one": one, "other": other})
            return
        what = "Directories" if stat.S_ISDIR(left.mode) and end == "differ" else "Files" if end == "differ" else "File"
        words = b"%s %s %s %s%s %s" % (
            what.encode(), self._one.shown + path, between.encode(), b"file " * (what == "File"), self._other.shown + path,
            end.encode(),
        )  # fmt: skip
        details = ", ".join(f"{name} {a} and {b}" if a or b else name for name, (a, b) in values.items())
        more = f": {details}".encode() if end == "differ" and not self._options.brief else b""
        self._session.write(self._session.seen(words + more) + b"\n")


def _trouble(session: Session, side: Side, path: bytes, error: OSError) -> None:
    """The remedies are those for a server."""
    if side.served:
        session.bad(side.shown + path, error, status=_TROUBLE)
    else:
        session.complain(side.shown + path, error.strerror or str(error), _TROUBLE)


def _value(what: str, found: Stat) -> str:
    if what == "type":
        return attrs.word(found.mode)
    if what == "mode":
        return f"{stat.S_IMODE(found.mode):04o}"
    if what == "owner":
        return f"{found.uid}:{found.gid}"
    if what == "mtime":
        return attrs.exactly(found.mtime)
    if what == "size":
        return str(found.size)
    return f"{found.rdev[0]},{found.rdev[1]}" if what == "device" else ""


def _plain(values: dict[str, tuple[str, str]], which: int) -> dict[str, str]:
    return {what: pair[which] for what, pair in values.items() if pair[which]}


def _split(data: bytes) -> list[bytes]:
    """Lines end with \\n, and nothing else does."""
    lines = [line + b"\n" for line in data.split(b"\n")]
    return [*lines[:-1], lines[-1][:-1]] if lines[-1] != b"\n" else lines[:-1]


def _equal(first: Any, second: Any) -> bool:
    """Two files, of which each may give less at a time than it is asked for."""
    offset = 0
    left = right = b""
    while True:
        left = left or first(offset, _PIECE)
        right = right or second(offset, _PIECE)
        if not (left and right):
            return not (left or right)
        size = min(len(left), len(right))
        if left[:size] != right[:size]:
            return False
        offset += size
        left, right = b"", b""


