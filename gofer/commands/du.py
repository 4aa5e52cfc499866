"""`gofer du`: the room that files take, summed up by directory, as du(1) does."""

from __future__ import annotations

import stat

from gofer.client.walk import DEEPEST, Walk
from gofer.commands import attrs
from gofer.commands.common import Session, add_addresses, add_common, operands, shown_at
from gofer.commands.options import count, explaining
from gofer.commands.patterns import matcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.replies import Stat
    from gofer.commands.common import Address


def add(parser: ArgumentParser) -> None:
    parser.description = "Sum up the room that files take on disk, by directory, as du(1) does: in KiB."
    add_addresses(parser, "the root of $GOFER_SOCKET")
    parser.add_argument("-a", "--all", action="store_true", help="tell of every file, not only of directories")
    parser.add_argument("-s", "--summarize", action="store_true", help="only of the operands")
    parser.add_argument("-c", "--total", action="store_true", help="and of all together")
    parser.add_argument("-d", "--max-depth", type=explaining(count), metavar="N", help="of what is N levels down at most")
    parser.add_argument("-h", "--human-readable", dest="human", action="store_true", help="1.5K, 23M, 2G")
    parser.add_argument("--apparent-size", action="store_true", help="what is in the files, not the room that they take")
    parser.add_argument("-b", "--bytes", action="store_true", help="as --apparent-size, in bytes")
    parser.add_argument("-k", dest="kib", action="store_true", help="in KiB (the default)")
    parser.add_argument("-m", dest="mib", action="store_true", help="in MiB")
    parser.add_argument("-l", "--count-links", action="store_true", help="a file of several names several times")
    parser.add_argument("-S", "--separate-dirs", action="store_true", help="directories without those in them")
    parser.add_argument("-x", "--one-file-system", action="store_true", help="nothing on other file systems")
    parser.add_argument("-0", "--null", action="store_true", help="end each line with a NUL")
    parser.add_argument("-L", "--dereference", action="store_true", help="follow symbolic links")
    parser.add_argument("-D", "-H", "--dereference-args", action="store_true", help="follow those that are operands")
    parser.add_argument("-P", "--no-dereference", action="store_true", help="follow none (the default)")
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help="leave out names like this")
    add_common(parser, json="line")


def run(options: Any) -> int:
    with Session("du", options) as session:
        addresses = operands(options.addresses)
        summing = _Sums(session, options, len(addresses) > 1)
        for address in addresses:
            with session.each(address.shown):
                summing.below(address)
        if options.total:
            summing.tell(b"total", summing.total)
    return session.status


class _Sums:
    def __init__(self, session: Session, options: Any, several: bool) -> None:
        """several: an operand may be inside another, and then counts no more."""
        self._session = session
        self._options = options
        self._seen: set[tuple[int, tuple[int, int]]] = set()
        self._all_may_be_seen = several or options.dereference or options.dereference_args
        self._apparent = options.apparent_size or options.bytes
        self._depth = 0 if options.summarize else DEEPEST if options.max_depth is None else options.max_depth
        self._excluded = [matcher(pattern) for pattern in options.exclude]
        self.total = 0

    def below(self, address: Address) -> None:
        session, options = self._session, self._options
        tree = session.tree(address)
        root = tree.resolve(address.path, follow=options.dereference or options.dereference_args)
        walk = Walk(
            tree, root, address.path, lambda path, error: session.bad(shown_at(address, path), error),
            stats=True, leaving=True, follow=options.dereference, one_device=options.one_file_system,
        )  # fmt: skip
        sums: list[int] = []  # of the directories on the way down; that of the one we are in is the last
        own: list[int] = []  # the same without what is in the directories there
        for path, kind, found, depth, leaving in walk:
            name = path.rpartition(b"/")[2]
            if not leaving and path and any(matches(name) for matches in self._excluded):
                walk.skip()
                sums.append(-1) if kind == stat.S_IFDIR else None
                own.append(0) if kind == stat.S_IFDIR else None
                continue
            if leaving:
                size, alone = sums.pop(), own.pop()
                if size < 0:
                    continue
            elif kind == stat.S_IFDIR:
                fresh = self._is_new(found)
                if not fresh:
                    walk.skip()
                sums.append(self._size(found) if fresh else -1)
                own.append(max(sums[-1], 0))
                continue
            elif not self._is_new(found):
                continue
            else:
                size = alone = self._size(found)
            if depth:
                sums[-1] += size
                own[-1] += size if kind != stat.S_IFDIR else 0
            else:
                self.total += size
            if depth <= self._depth and (kind == stat.S_IFDIR or options.all or not depth):
                self.tell(shown_at(address, path), alone if options.separate_dirs else size)

    def _is_new(self, found: Stat | None) -> bool:
        """Whether it has not been counted under another name. Only what can have one is remembered."""
        if found is None or self._options.count_links:
            return True
        if not self._all_may_be_seen and (found.nlink < 2 or stat.S_ISDIR(found.mode)):
            return True
        key = found.ino, found.dev
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def _size(self, found: Stat | None) -> int:
        if found is None:
            return 0
        if not self._apparent:
            return found.blocks * 512
        return found.size if stat.S_ISREG(found.mode) or stat.S_ISLNK(found.mode) or stat.S_ISDIR(found.mode) else 0

    def tell(self, path: bytes, size: int) -> None:
        options = self._options
        if options.json:
            self._session.write_json({"path": path, "bytes": size})
            return
        unit = 1 if options.bytes else 1 << 20 if options.mib else 1 << 10
        shown = attrs.human(size) if options.human else str(-(-size // unit))
        self._session.write(shown.encode() + b"\t" + (path + b"\0" if options.null else self._session.seen(path) + b"\n"))
