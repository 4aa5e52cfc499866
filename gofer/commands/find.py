"""`gofer find`: what of a served tree matches an expression, as find(1) finds it. The expression: findexpr.py."""

from __future__ import annotations

import argparse
import os
import stat
import time
from errno import EINVAL, ELOOP, ENOENT, ENOTDIR

from gofer import Failure
from gofer.client.address import served
from gofer.client.transport import Lost
from gofer.client.walk import Walk
from gofer.commands import attrs
from gofer.commands.common import Address, Session, add_addresses, add_common, operands, shown_at
from gofer.commands.findexpr import ARITY, Context, Expression, File, span
from gofer.commands.findrun import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.client.replies import Inode, Stat
    from gofer.client.tree import Tree

_AT_REMOVEDIR = 0x200
_OWN = "--expression="  # how a word of the expression comes to argparse


def add(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] [-P | -H | -L] [SERVER[:PATH] ...] [EXPRESSION]"
    parser.description = (
        "Print what is below directories and matches EXPRESSION, as find(1) does. Tests: -name -iname -path -ipath -lname -type "
        "-xtype -regex -iregex -size -mtime -atime -ctime -mmin -amin -cmin -newer -anewer -cnewer -newerXY -empty -perm -user "
        "-group -uid -gid -nouser -nogroup -links -inum -samefile -true -false; actions: -print -print0 -printf -ls -exec -ok "
        "-delete -prune -quit; operators: ( ) ! -not -a -o , ; of the whole: -maxdepth -mindepth -depth -xdev -follow "
        "-daystart -regextype."
    )
    parser.epilog = (
        "-exec COMMAND ; and -exec COMMAND {} + run a program of this host. {} is a path in what is served, and the server is in "
        "the program's $GOFER_SOCKET (of another host there is none): -exec gofer cat :{} ;"
    )
    add_addresses(parser, "the root of $GOFER_SOCKET")
    links = parser.add_mutually_exclusive_group()
    for letter, words in (
        ("-P", "follow no symbolic links (the default)"),
        ("-H", "follow those that are operands"),
        ("-L", "follow all"),
    ):
        links.add_argument(letter, dest="links", action="store_const", const=letter[1], default="P", help=words)
    parser.add_argument(_OWN[:-1], dest="expression", action="append", default=[], help=argparse.SUPPRESS)
    add_common(parser, json="file")


def words(argv: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """The expression begins at the first word that only it can have; options of two dashes, with their values, may follow it."""
    valued = [option for option, action in parser._option_string_actions.items() if action.nargs != 0]
    at = 0
    while at < len(argv) and not (argv[at] in ARITY or argv[at][:1] == "-" and argv[at][:2] != "--" and argv[at] not in _LINKS):
        at += 1
    head, found = argv[:at], []
    while at < len(argv):
        word = argv[at]
        if word.startswith("--"):
            behind = at + 1 + (word in valued)
            head += argv[at:behind]
            at = behind
            continue
        count = span(argv, at)
        found += argv[at : at + count]
        at += count
    return head + [_OWN + word for word in found]


_LINKS = ("-P", "-H", "-L")


def run(options: Any) -> int:
    with Session("find", options, changes="-delete" in options.expression) as session:
        found = _Find(session, options)
        for address in found.addresses:
            with session.each(address.shown):
                if not found.stopped:
                    found.below(address)
            found.run_the_rest()
    return session.status


class _Find(Context):
    def __init__(self, session: Session, options: Any) -> None:
        self.now = time.time()
        self.addresses = operands(options.addresses)
        self.stopped = False
        self._commands: list[Command] = []
        self._session = session
        self._follow: str = options.links
        self._json = options.json
        self._tree: Tree
        self._walk: Walk
        self._address: Address
        self._file: File
        expression = Expression(options.expression, self)
        self._expression = expression
        self._follow = "L" if expression.follow else options.links

    def run_the_rest(self) -> None:
        """Of commands that take many: those of another server have another one in their environment."""
        for command in self._commands:
            command.finish()

    def below(self, address: Address) -> None:
        tree = self._tree = self._session.tree(address)
        self._address = address
        expression, file = self._expression, File()
        self._file = file
        file.start = address.shown
        shown = shown_at(address, b"/")[:-1]
        deepest = 1 << 30 if expression.deepest < 0 else expression.deepest
        walk = self._walk = Walk(
            tree, self._root(tree, address), address.path, lambda path, error: self._session.bad(shown_at(address, path), error),
            stats=expression.stats or self._json, leaving=expression.leaving, follow=self._follow == "L",
            one_device=expression.one_device, deepest=deepest,
        )  # fmt: skip
        matches, least, late, acts = expression.matches, expression.least, expression.leaving, expression.acts
        for path, kind, found, depth, leaving in walk:
            if depth < least or late and kind == stat.S_IFDIR and not leaving:
                continue
            file.path = shown + path if path else address.shown
            file.name = path.rpartition(b"/")[2] if path else address.shown.rstrip(b"/").rpartition(b"/")[2] or b"/"
            file.kind, file.stat, file.depth = kind, found, depth
            if matches(file) and not acts:
                self.print(file.path, b"\n")
            if self.stopped:
                return

    def _root(self, tree: Tree, address: Address) -> Inode:
        if self._follow == "P":
            return tree.resolve(address.path, follow=False)
        try:
            return tree.resolve(address.path)
        except OSError as error:
            if error.errno not in (ENOENT, ENOTDIR):
                raise
            return tree.resolve(address.path, follow=False)  # a link to nothing is a link

    # What the expression does

    def print(self, path: bytes, end: bytes) -> bool:
        if self._json:
            file = self._file
            target = self.target(file) if file.kind == stat.S_IFLNK else None
            plain = {"path": path, "type": attrs.word(file.kind)}
            self._session.write_json(attrs.fields(path, file.stat, target) if file.stat else plain)
        else:
            self._session.write((self._session.seen(path) if end == b"\n" else path) + end)
        return True

    def seen(self, name: bytes) -> bytes:
        return self._session.seen(name)

    def bad(self, file: File, error: OSError) -> None:
        self._session.bad(file.path, error)

    def write(self, data: bytes) -> None:
        self._session.write(data)

    def command(self, action: str, words: list[str]) -> Command:
        made = Command(self._session, action, words, self._environment)
        self._commands.append(made)
        return made

    def _environment(self) -> dict[str, str]:
        """With the server that the paths are of; with none where it is on another host: a path means something else elsewhere."""
        environment = {**os.environ, "GOFER_SOCKET": os.path.abspath(self._address.server)}
        if self._address.remote:
            del environment["GOFER_SOCKET"]
        return environment

    def prune(self) -> bool:
        self._walk.skip()
        return True

    def stop(self) -> bool:
        self.stopped = True
        return True

    def delete(self, file: File) -> bool:
        """The root of a tree stays, as `.` does with find(1)."""
        flags = _AT_REMOVEDIR if file.kind == stat.S_IFDIR else 0
        try:
            if file.depth:
                self._tree.client.unlinkat(self._walk.directory, file.name, flags)
                return True
            try:
                directory, name = self._tree.parent(self._address.path)
            except Lost:
                raise
            except OSError as error:
                if error.errno == EINVAL:
                    return True
                raise
            try:
                self._tree.client.unlinkat(directory.fd, name, flags)
            finally:
                self._tree.drop(directory.fd)
            return True
        except OSError as error:
            self._session.bad(file.path, error)
            return False

    def is_empty(self, file: File) -> bool:
        try:
            if not file.depth:
                node = self._tree.resolve(self._address.path)
            elif self._follow == "L":
                node = self._tree.resolve(self._address.path + file.path[len(self._address.shown) :])
            else:
                node = self._tree.child(self._walk.directory, file.name)
            try:
                return next(self._tree.entries(node.fd), None) is None
            finally:
                self._tree.drop(node.fd)
        except OSError as error:
            self._session.bad(file.path, error)
            return False

    def target(self, file: File) -> bytes | None:
        try:
            root = not file.depth
            node = self._tree.resolve(self._address.path, False) if root else self._tree.child(self._walk.directory, file.name)
            try:
                return self._tree.target(node)
            finally:
                self._tree.drop(node.fd)
        except OSError as error:
            self._session.bad(file.path, error)
            return None

    def kind_behind(self, file: File) -> tuple[bytes, OSError | None]:
        path = self._address.path if not file.depth else self._address.path + file.path[len(self._address.shown) :]
        try:
            node = self._tree.resolve(path)
        except Lost:
            raise
        except OSError as error:
            return {ENOENT: b"N", ENOTDIR: b"N", ELOOP: b"L"}.get(error.errno or 0, b"?"), error
        self._tree.drop(node.fd)
        return attrs.letter(node.stat.mode), None

    def reference(self, word: str) -> Stat:
        """Of the file behind -newer: an address, or a path where the search begins."""
        address = served(word) or self.addresses[0]._replace(path=os.fsencode(word))
        try:
            tree = self._session.tree(address)
            node = tree.resolve(address.path, self._follow != "P")
        except Lost:
            raise
        except OSError as error:
            raise Failure(f"find: {word}: {error.strerror}; a path is one on the server of the first operand") from None
        tree.drop(node.fd)
        return node.stat
