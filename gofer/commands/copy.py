"""`gofer get` and `gofer put`: files and trees from a server, and to one."""

from __future__ import annotations

import contextlib
import os
import signal
import stat as modes
from errno import EDQUOT, EEXIST, EISDIR, ENOENT, ENOSPC

from gofer import Failure
from gofer.client.address import parse
from gofer.client.transport import Lost
from gofer.commands.common import Session, add_common, place_for, why
from gofer.copy.engine import Copy
from gofer.copy.files import FD
from gofer.copy.local import Fd, LocalTree
from gofer.copy.measure import measure
from gofer.copy.names import Exclude
from gofer.copy.places import Options
from gofer.copy.progress import Progress
from gofer.copy.remote import RemoteTree
from gofer.copy.sides import Node
from gofer.output import printable, say, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any

    from gofer.client.address import Address
    from gofer.client.tree import Tree

_HELP = {
    "get": ("Copy files of a server here", "SERVER:SOURCE", "DESTINATION"),
    "put": ("Copy files to a server", "SOURCE", "SERVER:DESTINATION"),
}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_WOULD = ("copy", "make", "delete")
_ITSELF = (b"", b".", b"..")  # last components that name no entry: what is meant is what is in the directory


def add(parser: ArgumentParser) -> None:
    what, source, target = _HELP[parser.get_default("subcommand")]
    parser.usage = f"%(prog)s [options] {source}... {target}"
    parser.description = (
        f"{what}: contents, modes, times, owners where that is allowed, symbolic and hard links, xattrs, ACLs, holes. "
        "A file has its name only when it is complete and on the disk. What has the same size and time already gets no more "
        "than mode, owner and xattrs."
    )
    parser.epilog = (
        f"Where {target} is a directory the copies go into it under their own names; SOURCE/. copies what is in SOURCE. What "
        "cannot be copied is told, the rest is copied, and the exit status is 1."
    )
    parser.add_argument("words", metavar=f"{source}... {target}", nargs="+", help="what to copy, and where to")
    for option, text in _FLAGS.items():
        parser.add_argument(*option.split(), action="store_true", help=text)
    if source != "SOURCE":
        parser.add_argument(
            "--set-id",
            action="store_true",
            help="keep set-user-id and set-group-id bits, and xattrs security.* and trusted.*: from a server that you trust",
        )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out what has a name like this; with a / in it: a path that ends so, or from the top where it begins with one",
    )
    add_common(parser, json="file: what became of it, and a last one with sums")


_FLAGS = {
    "-r --recursive": "copy directories, with all that is in them; symbolic links are copied as such",
    "-u --update": "leave alone what is newer at the destination",
    "--delete": "remove from the destination's directories what the source's do not have, but for what is excluded",
    "-n --dry-run": "say what would be copied and deleted, and do nothing",
    "--verify": "compare both sides by SHA-256, also of what seems to be there already",
    "--resume": "go on with the large files that an interrupted copy has begun",
    "--no-sync": "do not wait until the contents are on the disk",
    "-q --quiet": "no progress, no summary",
}


def run(options: Any) -> int:
    words = options.words
    if len(words) < 2:
        raise Failure(f"{options.subcommand}: where to? the last word is the destination; see --help")
    if options.delete and not options.recursive:
        raise Failure("--delete makes a directory like another: it needs -r")
    with Session(options.subcommand, options, changes=options.subcommand == "put" and not options.dry_run) as session:
        copier = _Get(session, options) if options.subcommand == "get" else _Put(session, options)
        before = signal.signal(signal.SIGINT, copier.interrupt)
        try:
            copier.copy(words[:-1], words[-1])
        finally:
            signal.signal(signal.SIGINT, before)
            copier.end()
    return session.status


class Copier:
    """One run of either command. In `bad` and `progress` it meets what all its copies, one for each server, have to tell."""

    served_target: bool
    resumable = True  # whether there is a --resume

    def __init__(self, session: Session, options: Any) -> None:
        self.session = session
        self.recursive = options.recursive
        self.progress = Progress(options.quiet or options.dry_run)
        self._copies: dict[Any, Copy] = {}
        self._json = getattr(options, "json", False)
        self._failed = 0
        self._options = Options(
            options.recursive, options.update, options.delete, Exclude(options.exclude), options.dry_run, options.verify,
            options.resume, not options.no_sync, getattr(options, "set_id", True),
        )  # fmt: skip

    def interrupt(self, *_: object) -> None:
        """Once: at the next place where nothing is left half done. Twice: at once."""
        self.progress.interrupt()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def copies(self, key: Any, source: Any, target: Any) -> Copy:
        if key not in self._copies:
            self._copies[key] = Copy(source, target, self._options, self.progress, self.bad, self._did)
        return self._copies[key]

    def bad(self, shown: bytes, error: OSError, target: bool | None) -> None:
        self.progress.clear()
        if isinstance(error, Lost):
            raise error
        if target is None:
            target = error.errno in (ENOSPC, EDQUOT)
        self.failed(shown, why(error) if target == self.served_target else error.strerror or str(error))

    def failed(self, shown: bytes, cause: str) -> None:
        self._failed += 1
        if self._json:
            self.session.write_json({"path": shown, "result": "failed", "error": cause})
        self.session.complain(shown, cause)

    @contextlib.contextmanager
    def each(self, shown: bytes) -> Iterator[None]:
        """One operand."""
        try:
            yield
        except OSError as error:
            self.bad(shown, error, self.served_target)

    def _did(self, what: str, shown: bytes, size: int) -> None:
        if self._json:
            self.session.write_json({"path": shown, "result": what, "bytes": size})
        elif self._options.dry_run and what in _WOULD:
            say(f"{what} {printable(shown)}")

    def finish(self) -> None:
        for copy in self._copies.values():
            copy.end()
        self.progress.end()
        if self._json:
            self.session.write_json({"summary": {**self.progress.sums(), "failed": self._failed}})
        untrusted = sum(copy.untrusted for copy in self._copies.values())
        if untrusted:
            without = "without a set-user-id or set-group-id bit that the server has: --set-id keeps it"
            tell(f"gofer: {untrusted} file{'s are' if untrusted > 1 else ' is'} here {without}")

    def end(self) -> None:
        """After whatever has happened; nothing where all went its way."""
        self.progress.clear()
        self.session.flush()
        try:
            kept = sum(copy.commit.abandon(self.resumable) for copy in self._copies.values())
        except Lost:
            return
        if kept:
            tell(f"gofer: {kept} large file{'s are' if kept > 1 else ' is'} half done: --resume goes on")

    def expect(self, copy: Copy, directory: Any, node: Node) -> None:
        if not modes.S_ISDIR(node.stat.mode):
            self.progress.expect(node.stat.size)
        else:
            self.progress.expect(measure(copy.source, directory, node) if self.progress.watched else None)

    def descends(self, node: Node, shown: bytes) -> bool:
        if modes.S_ISDIR(node.stat.mode) and not self.recursive:
            self.failed(shown, "it is a directory: -r copies it")
            return False
        return True


class _Get(Copier):
    served_target = False

    def copy(self, sources: list[str], target: str) -> None:
        here, place = LocalTree(), os.fsencode(target)
        into = os.path.isdir(place)
        if not into and len(sources) > 1:
            raise no_directory(target)
        for word in sources:
            address = parse(word)
            shown = _plain(address.path) or b"/"
            with self.each(shown):
                tree = self.session.tree(address)
                node = self._node(tree, address.path)
                if self.descends(node, shown):
                    copy = self.copies(tree, RemoteTree(tree.client), here)
                    self._one(copy, node, node.name, place, into, shown)
        self.finish()

    def _node(self, tree: Tree, path: bytes) -> Node:
        inode = tree.resolve(path, follow=not self.recursive)
        return Node(path.rstrip(b"/").rpartition(b"/")[2], inode.stat, FD(inode.fd, []))

    def _one(self, copy: Copy, node: Node, name: bytes, place: bytes, into: bool, shown: bytes) -> None:
        directory = modes.S_ISDIR(node.stat.mode)
        self.expect(copy, None, node)
        if into and name in _ITSELF:
            if not directory:
                raise OSError(EISDIR, "it is all that this server has: give its copy a name")
            copy.inside(node.key, node, _opened(place), shown)
        elif into:
            copy.entry(None, node, _opened(place), name, shown)
        else:
            if place.endswith(b"/") and not directory:
                raise no_directory(os.fsdecode(place))
            if _leads_to_no_file(place):
                raise OSError(EEXIST, f"{printable(place)} leads to a device or a pipe, and stays: `gofer cat` prints a file")
            parent, _, own = place.rstrip(b"/").rpartition(b"/")
            copy.entry(None, node, _opened(parent or (b"/" if place.startswith(b"/") else b".")), own, shown)


class _Put(Copier):
    served_target = True

    def copy(self, sources: list[str], target: str) -> None:
        address = parse(target)
        tree = self.session.tree(address)
        there = RemoteTree(tree.client)
        copy = self.copies(None, LocalTree(), there)
        into = directory_at(tree, address)
        if into is None and len(sources) > 1:
            raise no_directory(target)
        for word in sources:
            with self.each(os.fsencode(word)):
                self._one(copy, tree, os.fsencode(word), into, address.path)
        self.finish()

    def _one(self, copy: Copy, tree: Tree, word: bytes, into: FD | None, path: bytes) -> None:
        itself = word.rstrip(b"/").rpartition(b"/")[2] in _ITSELF
        place = word if itself or self.recursive and not word.endswith(b"/") else os.path.realpath(word)
        parent = Fd(os.open(place if itself else os.path.dirname(place.rstrip(b"/")) or b".", _DIRECTORY))
        name = b"." if itself else os.path.basename(place.rstrip(b"/"))
        (node,) = copy.source.look(parent, [name])
        if not isinstance(node, Node):
            raise node or FileNotFoundError(ENOENT, os.strerror(ENOENT))
        if not self.descends(node, word):
            return
        self.expect(copy, parent, node)
        if into is not None and itself:
            copy.inside(parent, node, into, _plain(word) or word)
        elif into is not None:
            copy.entry(parent, node, into, os.path.basename(word.rstrip(b"/")), word)
        else:
            if path.endswith(b"/") and not modes.S_ISDIR(node.stat.mode):
                raise no_directory(printable(path))
            directory, own = place_for(tree, path, "put")
            copy.entry(parent, node, FD(directory.fd, []), own, word)


def _leads_to_no_file(path: bytes) -> bool:
    """As /dev/stdout does. Any other symbolic link is replaced."""
    return os.path.islink(path) and os.path.exists(path) and not os.path.isfile(path)


def _opened(path: bytes) -> Fd:
    """A directory of the destination, as it was named: links are followed."""
    try:
        return Fd(os.open(path, _DIRECTORY))
    except OSError as error:
        raise Failure(f"get: cannot copy into {printable(path)}: {error.strerror}") from None


def no_directory(shown: str) -> Failure:
    return Failure(f"{shown}: it is no directory to copy into; make one first")


def directory_at(tree: Tree, address: Address) -> FD | None:
    """The directory of a server that has that path; None where there is none."""
    try:
        inode = tree.resolve(address.path)
    except Lost:
        raise
    except OSError as error:
        if error.errno == ENOENT:
            return None
        raise Failure(f"{printable(address.shown)}: nothing can be copied to there: {why(error)}") from None
    return FD(inode.fd, []) if modes.S_ISDIR(inode.stat.mode) else None


def _plain(word: bytes) -> bytes:
    """Without what says that not the directory, but what is in it is meant."""
    return word[:-2] if word.endswith(b"/.") else word
