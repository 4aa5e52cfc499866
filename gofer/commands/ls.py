"""`gofer ls`: what is in the directories of a served tree, as ls(1) shows it. How a line looks: lslines.py.

A name that sorts is held until all of its directory is there, as ls(1) does; of names, no more than `MOST`.
"""

from __future__ import annotations

import stat
from errno import EFBIG, ELOOP, ENAMETOOLONG, ENOENT

from gofer.client.transport import Lost
from gofer.client.tree import MOST
from gofer.client.walk import DEEPEST
from gofer.commands import attrs
from gofer.commands.common import Session, add_addresses, add_common, below, operands
from gofer.commands.lslines import Entry, Lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator, Sequence
    from typing import Any

    from gofer.client.address import Address
    from gofer.client.replies import DirWalk, Inode
    from gofer.client.tree import Tree

_FLAGS = (
    ("-l", "long", "mode, links, owner, group, size, time and name, one entry a line"),
    ("-a", "all", "names that begin with a dot, too"),
    ("-A", "almost_all", "the same without . and .."),
    ("-R", "recursive", "and the directories below, one after the other"),
    ("-d", "directory", "directories themselves, not what is in them"),
    ("-i", "inode", "with the inode number"),
    ("-s", "blocks", "with the room that it takes on disk, in KiB"),
    ("-n", "numeric", "as -l, with numbers for owner and group"),
    ("-r", "reverse", "in reverse order"),
    ("-S", "by_size", "largest first"),
    ("-t", "by_time", "newest first"),
    ("-U", "unsorted", "as the directory has them"),
    ("-c", "ctime", "with -l show, with -t sort by the time of the last change of status"),
    ("-u", "atime", "with -l show, with -t sort by the time of the last access"),
    ("-1", "one", "one name a line"),
    ("-C", "columns", "names in columns, as on a terminal"),
    ("-F", "classify", "with a sign for the type: one of */=@|"),
    ("-p", "slash", "with / behind directories"),
    ("-H", "follow_operands", "follow symbolic links that are operands"),
    ("-L", "follow", "show what symbolic links lead to"),
    ("-N", "literal", "names as they are, on a terminal, too"),
)


def add(parser: ArgumentParser) -> None:
    parser.description = (
        "List what is in the directories of a served tree, as ls(1) does. Sorted byte by byte, as in the C locale. Exit status: "
        "2 where an operand cannot be looked at, 1 where something below it cannot."
    )
    add_addresses(parser, "the root of $GOFER_SOCKET")
    for letter, name, words in _FLAGS:
        parser.add_argument(letter, dest=name, action="store_true", help=words)
    parser.add_argument("-h", "--human-readable", dest="human", action="store_true", help="with -l and -s: 1.5K, 23M, 2G")
    parser.add_argument(
        "--color", choices=("always", "auto", "never"), default="never", help="colors (none: always), by $LS_COLORS"
    )
    parser.add_argument("--full-time", action="store_true", help="as -l --time-style=full-iso")
    parser.add_argument("--time-style", default="locale", metavar="STYLE", help="full-iso, long-iso, iso, locale or +FORMAT")
    add_common(parser, json="entry")


def words(argv: list[str], parser: ArgumentParser) -> list[str]:
    """The command line for argparse, to which an option has a value always or never."""
    return ["--color=always" if word == "--color" else word for word in argv]


def run(options: Any) -> int:
    with Session("ls", options) as session:
        _Listing(session, options).run(operands(options.addresses))
    return session.status


class _Level:
    """A directory of -R whose own are still to be listed. path: as served, shown: as it is told."""

    __slots__ = ("address", "node", "names")

    def __init__(self, address: Address, node: Inode, names: list[bytes]) -> None:
        self.address = address
        self.node = node
        self.names = names[::-1]


class _Listing:
    def __init__(self, session: Session, options: Any) -> None:
        self._session = session
        self._options = options
        self._lines = Lines(session, options)
        self._headings = options.recursive
        self._begun = False
        self._seen: tuple[str, ...] = ("by_size", "by_time", "inode", "blocks", "classify", "follow", "json", "ctime", "atime")
        self._stats = self._lines.long or self._lines.colors is not None or any(getattr(options, name) for name in self._seen)

    def run(self, addresses: list[Address]) -> None:
        """Files first, then directories."""
        files, directories = [], []
        self._headings |= len(addresses) > 1
        for address in addresses:
            with self._session.each(address.shown, status=2):
                tree = self._session.tree(address)
                node = self._operand(tree, address)
                entry = Entry(address.shown, stat.S_IFMT(node.stat.mode), node.stat)
                if stat.S_ISDIR(node.stat.mode) and not self._options.directory:
                    directories.append((entry, tree, address, node))
                    continue
                if stat.S_ISLNK(node.stat.mode):
                    self._look_behind(tree, address, node, entry)
                tree.drop(node.fd)
                files.append(entry)
        if files:
            self._write(self._sorted(files), None, b"", [entry for entry, *_ in directories])
            self._begun = True
        order = {id(entry): number for number, entry in enumerate(self._sorted([found[0] for found in directories]))}
        for _, tree, address, node in sorted(directories, key=lambda found: order[id(found[0])]):
            self._directories(tree, address, node)

    def _operand(self, tree: Tree, address: Address) -> Inode:
        """As ls(1): without -l, -d or -F, a link to a directory is that directory."""
        options = self._options
        if options.follow or options.follow_operands:
            return tree.resolve(address.path)
        node = tree.resolve(address.path, follow=False)
        if stat.S_ISLNK(node.stat.mode) and not (self._lines.long or options.directory or options.classify):
            try:
                target = tree.resolve(address.path)
            except Lost:
                raise
            except OSError as error:
                if error.errno == ENOENT:
                    return node
                tree.drop(node.fd)
                raise
            if stat.S_ISDIR(target.stat.mode):
                tree.drop(node.fd)
                return target
            tree.drop(target.fd)
        return node

    def _directories(self, tree: Tree, address: Address, node: Inode) -> None:
        """One, and with -R all that are below it: each before what is in its neighbour."""
        levels = [_Level(address, node, self._directory(tree, address, node, status=2))]
        while levels:
            level = levels[-1]
            if not level.names:
                tree.drop(levels.pop().node.fd)
                continue
            inner = level.address.within(level.names.pop())
            with self._session.each(inner.shown, status=2):
                first = None
                if self._options.follow:
                    node = tree.resolve(inner.path)
                else:
                    first = tree.enter(level.node.fd, _last(inner.path), stats=self._stats)
                    node = first.node
                try:
                    try:
                        _check(levels, node)
                    except OSError:
                        tree.drop(node.fd)
                        raise
                    levels.append(_Level(inner, node, self._directory(tree, inner, node, first=first)))
                finally:
                    if first and first.opened > 0:
                        tree.drop(first.opened)

    def _directory(
        self, tree: Tree, address: Address, node: Inode, status: int = 1, first: DirWalk | None = None
    ) -> list[bytes]:
        """Show what is in it; returns the names of the directories there that are to be listed, too."""
        if self._headings and not self._options.json:
            self._session.write(b"\n" * self._begun + self._lines.heading(address.shown) + b":\n")
        self._begun = True
        found = self._entries(tree, address, node, status, first)
        if self._options.unsorted and self._lines.streams:
            names = []
            for entry in found:
                self._write([entry], None, address.shown)
                names += [entry.name] if entry.kind == stat.S_IFDIR else []
        else:
            entries = self._sorted(list(found))
            self._write(entries, sum(entry.stat.blocks for entry in entries if entry.stat), address.shown)
            names = [entry.name for entry in entries if entry.kind == stat.S_IFDIR]
        return [name for name in names if name not in (b".", b"..")] if self._options.recursive else []

    def _entries(self, tree: Tree, address: Address, node: Inode, status: int, first: DirWalk | None) -> Iterator[Entry]:
        """What is to be shown of a directory. What goes wrong costs one entry, or those that do not come."""
        options, count = self._options, 0
        if options.all:
            yield Entry(b".", stat.S_IFDIR, node.stat)
            with self._session.each(address.within(b"..").shown):
                above = tree.resolve(address.within(b"..").path)
                tree.drop(above.fd)
                yield Entry(b"..", stat.S_IFDIR, above.stat)
        hidden = options.all or options.almost_all
        try:
            for entry in self._with_stats(tree, address, node, first) if self._stats else _plain(tree, node, first):
                if hidden or not entry.name.startswith(b"."):
                    count += 1
                    yield entry
                if count > MOST and not (options.unsorted and self._lines.streams):
                    raise OSError(EFBIG, f"more than {MOST} entries, which are not sorted; -U1 lists them as they come")
        except Lost:
            raise
        except OSError as error:
            more = "there may be more in it than what is listed" if count else ""
            self._session.bad(address.shown, error, more, status=1 if count else status)

    def _with_stats(self, tree: Tree, address: Address, node: Inode, first: DirWalk | None) -> Iterator[Entry]:
        for name, found, error in tree.stats(node.fd, first=first):
            kind = stat.S_IFMT(found.mode)
            entry = Entry(name, kind, found if found.mask else None)
            if error:
                self._session.bad(address.within(name).shown, error)
            elif kind == stat.S_IFLNK and (self._lines.shows_targets or self._options.follow):
                with self._session.each(address.within(name).shown):
                    link = tree.child(node.fd, name)
                    try:
                        self._look_behind(tree, address.within(name), link, entry)
                    finally:
                        tree.drop(link.fd)
            yield entry

    def _look_behind(self, tree: Tree, address: Address, link: Inode, entry: Entry) -> None:
        """Where a symbolic link leads: as text, and what is there where that is shown."""
        entry.target = tree.target(link)
        if not (self._lines.follows_targets or self._options.follow):
            return
        try:
            behind = tree.resolve(address.path)
        except Lost:
            raise
        except OSError as error:
            if self._options.follow:
                self._session.bad(address.shown, error)
                entry.stat = entry.target = None
            return
        tree.drop(behind.fd)
        if self._options.follow:
            entry.kind, entry.stat, entry.target = stat.S_IFMT(behind.stat.mode), behind.stat, None
        else:
            entry.behind = behind.stat

    def _sorted(self, entries: list[Entry]) -> list[Entry]:
        options = self._options
        if options.unsorted:
            return entries
        entries.sort(key=_name)
        if options.by_size:
            entries.sort(key=lambda entry: -entry.stat.size if entry.stat else 0)
        elif options.by_time or (options.ctime or options.atime) and not self._lines.long:
            which = self._lines.time
            entries.sort(key=lambda entry: -attrs.nanoseconds(getattr(entry.stat, which)) if entry.stat else 0)
        if options.reverse:
            entries.reverse()
        return entries

    def _write(self, entries: list[Entry], blocks: int | None, where: bytes, beside: Sequence[Entry] = ()) -> None:
        """Operands where `where` is empty. beside: others that columns have to be wide enough for, too."""
        if self._options.json:
            for entry in entries:
                path = below(where, entry.name) if where else entry.name
                found = {"path": path, "type": attrs.word(entry.kind)}
                self._session.write_json(attrs.fields(path, entry.stat, entry.target) if entry.stat else found)
        else:
            self._lines.write(entries, blocks, beside)


def _plain(tree: Tree, node: Inode, first: DirWalk | None) -> Iterator[Entry]:
    for name, kind in tree.kinds(node.fd, first=first):
        yield Entry(name, kind, None)


def _name(entry: Entry) -> bytes:
    return entry.name


def _last(path: bytes) -> bytes:
    return path.rpartition(b"/")[2]


def _check(levels: list[_Level], node: Inode) -> None:
    """Whether that directory is to be listed below those."""
    if any((level.node.stat.ino, level.node.stat.dev) == (node.stat.ino, node.stat.dev) for level in levels):
        raise OSError(ELOOP, "it is a directory that it is itself in: not listed again")
    if len(levels) >= DEEPEST:
        raise OSError(ENAMETOOLONG, f"more than {DEEPEST} directories in each other: not listed")


