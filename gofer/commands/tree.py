"""`gofer tree`: a served tree as a picture, as tree(1) draws it."""

from __future__ import annotations

import os
import stat

from gofer.client.transport import Lost
from gofer.client.walk import DEEPEST
from gofer.commands import attrs, names
from gofer.commands.common import Session, add_addresses, add_common, below, operands
from gofer.commands.options import explaining, positive_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.replies import Inode
    from gofer.client.tree import Tree
    from gofer.commands.common import Address

    Row = tuple[bytes, int]

_HANG, _LAST, _BAR, _NONE = "├── ".encode(), "└── ".encode(), "│\u00a0\u00a0 ".encode(), b"    "


def add(parser: ArgumentParser) -> None:
    parser.description = "Draw what is below directories as a tree. Symbolic links are shown with their targets, not followed."
    add_addresses(parser, "the root of $GOFER_SOCKET")
    parser.add_argument("-a", "--all", action="store_true", help="names that begin with a dot, too")
    parser.add_argument("-d", "--dirs", action="store_true", help="directories only")
    parser.add_argument("-L", "--level", type=explaining(positive_number), metavar="N", help="only so many levels")
    parser.add_argument("-f", "--full", action="store_true", help="with the whole path of each")
    add_common(parser, json="entry")


def run(options: Any) -> int:
    with Session("tree", options) as session:
        drawing = _Drawing(session, options)
        for address in operands(options.addresses):
            with session.each(address.shown):
                drawing.below(session.tree(address), address)
        if not options.json:
            session.write(drawing.summary())
    return session.status


class _Level:
    """A directory that is being drawn. rows: what is still to come, the next one last; head: what its lines begin with."""

    __slots__ = ("path", "node", "rows", "head")

    def __init__(self, path: bytes, node: Inode, rows: list[Row], head: bytes) -> None:
        self.path = path
        self.node = node
        self.rows = rows
        self.head = head


class _Drawing:
    def __init__(self, session: Session, options: Any) -> None:
        self._session = session
        self._options = options
        self._quotes = os.isatty(1)
        self._directories = self._files = 0
        self._most = min(DEEPEST, options.level or DEEPEST)

    def below(self, tree: Tree, address: Address) -> None:
        node = tree.resolve(address.path)
        self._write(b"", address.shown, address.shown, stat.S_IFMT(node.stat.mode), tree, None)
        if not stat.S_ISDIR(node.stat.mode):
            tree.drop(node.fd)
            return
        self._directories += 1
        levels = [_Level(address.shown, node, self._rows(tree, node.fd, address.shown), b"")]
        while levels:
            level = levels[-1]
            if not level.rows:
                tree.drop(levels.pop().node.fd)
                continue
            name, kind = level.rows.pop()
            path = below(level.path, name)
            self._write(level.head + (_HANG if level.rows else _LAST), path, name, kind, tree, level)
            if kind != stat.S_IFDIR:
                self._files += 1
                continue
            self._directories += 1
            if len(levels) < self._most:
                inner = self._enter(tree, level, path, name)
                if inner:
                    levels.append(inner)

    def _enter(self, tree: Tree, level: _Level, path: bytes, name: bytes) -> _Level | None:
        try:
            node = tree.child(level.node.fd, name)
            return _Level(path, node, self._rows(tree, node.fd, path), level.head + (_BAR if level.rows else _NONE))
        except OSError as error:
            self._session.bad(path, error)
            return None

    def _rows(self, tree: Tree, fd: int, path: bytes) -> list[Row]:
        """From the last to the first."""
        rows: list[Row] = []
        try:
            rows = tree.sorted(fd)
        except Lost:
            raise
        except OSError as error:
            self._session.bad(path, error)
        all_, directories = self._options.all, self._options.dirs
        shown = [(name, kind) for name, kind in rows if all_ or name[0] != 46]
        return [row for row in shown[::-1] if not directories or row[1] == stat.S_IFDIR]

    def _write(self, head: bytes, path: bytes, name: bytes, kind: int, tree: Tree, level: _Level | None) -> None:
        if self._options.json:
            self._session.write_json({"path": path, "type": attrs.word(kind)})
            return
        text = path if self._options.full else name
        line = head + (names.shell(text) if self._quotes else text)
        if kind == stat.S_IFLNK and level:
            with self._session.each(path):
                link = tree.child(level.node.fd, name)
                try:
                    target = tree.target(link)
                finally:
                    tree.drop(link.fd)
                line += b" -> " + (names.shell(target) if self._quotes else target)
        self._session.write(line + b"\n")

    def summary(self) -> bytes:
        directories = f"{self._directories} director{'y' if self._directories == 1 else 'ies'}"
        files = f", {self._files} file{'s' * (self._files != 1)}"
        return f"\n{directories}{'' if self._options.dirs else files}\n".encode()
