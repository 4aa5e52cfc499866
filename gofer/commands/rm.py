"""`gofer rm` and `gofer rmdir`: take away names on a served tree."""

from __future__ import annotations

import os
import stat
from errno import EINVAL, ENOENT, ENOTDIR, EPERM

from gofer import Failure
from gofer.commands.common import Session, add_addresses, add_common, below, confirmed, operands
from gofer.output import printable
from gofer.sys import AT_REMOVEDIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.replies import Dirent, Inode
    from gofer.client.tree import Tree
    from gofer.commands.common import Address

_DT_UNKNOWN, _DT_DIR = 0, 4
_BATCH = 65536  # bytes of dirents
_ROOT = "the root of what is served, `.` and `..` are not removed"


def add(parser: ArgumentParser) -> None:
    directories = parser.get_default("subcommand") == "rmdir"
    what = "Remove empty directories" if directories else "Remove files, and with -r directories with all that is in them"
    parser.description = f"{what}, on a served tree. A symbolic link is removed, and never followed."
    add_addresses(parser, "" if directories else "none, which only -f does not mind")
    if directories:
        parser.add_argument("-p", "--parents", action="store_true", help="then each directory above it that is named, too")
    else:
        parser.add_argument("-r", "-R", "--recursive", action="store_true", help="directories and what is in them, too")
        parser.add_argument("-d", "--dir", action="store_true", help="empty directories, too")
        parser.add_argument("-f", "--force", action="store_true", help="never ask, and do not mind what is not there")
        parser.add_argument("-i", "--interactive", action="store_true", help="ask before each")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of each that was removed")
    add_common(parser)


def run(options: Any) -> int:
    command = options.subcommand
    if not options.addresses:
        if options.force:
            return 0
        raise Failure("rm: what is to be removed? give SERVER[:PATH], as in /run/gofer.sock:/old")
    with Session(command, options, changes=True) as session:
        for address in operands(options.addresses):
            with session.each(address.shown):
                if command == "rmdir":
                    _rmdir(session, options, address)
                else:
                    _Removal(session, options, session.tree(address)).operand(address)
    return session.status


def _rmdir(session: Session, options: Any, address: Address) -> None:
    tree = session.tree(address)
    path, shown = address.path.rstrip(b"/"), address.shown.rstrip(b"/")
    while True:
        directory, name = _parent(tree, path)
        if options.verbose:
            session.write(f"rmdir: removing directory, '{printable(shown)}'\n".encode())
        try:
            tree.flush()  # none of ours keeps it busy
            tree.client.unlinkat(directory.fd, name, AT_REMOVEDIR)
        finally:
            tree.drop(directory.fd)
        path, shown = path.rpartition(b"/")[0].rstrip(b"/"), shown.rpartition(b"/")[0].rstrip(b"/")
        if not options.parents or not path:
            return


def _parent(tree: Tree, path: bytes) -> tuple[Inode, bytes]:
    try:
        return tree.parent(path)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        raise OSError(EPERM, _ROOT) from None


class _Directory:
    """One on the way down. failed: names in it that stay, as was told. removed: whether any has gone since it was read from its
    start."""

    def __init__(self, above: int, name: bytes, shown: bytes, fd: int, opened: int) -> None:
        self.above, self.name, self.shown, self.fd, self.opened = above, name, shown, fd, opened
        self.failed: set[bytes] = set()
        self.entries: list[Dirent] = []
        self.removed = False


class _Removal:
    """What `rm` does to one operand. Directories are read some entries at a time, again from the start while that finds more."""

    def __init__(self, session: Session, options: Any, tree: Tree) -> None:
        self._session = session
        self._options = options
        self._tree = tree

    def operand(self, address: Address) -> None:
        tree, options = self._tree, self._options
        try:
            directory, name = _parent(tree, address.path)
        except (FileNotFoundError, NotADirectoryError):
            if options.force:
                return
            raise
        try:
            mode = self._mode(directory.fd, name)
            if mode is None:
                if options.force:
                    return
                raise OSError(ENOENT, os.strerror(ENOENT))
            if address.path.endswith(b"/") and not stat.S_ISDIR(mode):
                if options.force:
                    return
                raise OSError(ENOTDIR, os.strerror(ENOTDIR))
            shown = address.shown.rstrip(b"/")
            if stat.S_ISDIR(mode) and options.recursive:
                self._all(directory.fd, name, shown)
            elif not stat.S_ISDIR(mode) or options.dir:
                self._one(directory.fd, name, shown, mode)
            else:
                self._session.complain(address.shown, "it is a directory: -r removes it with all that is in it")
        finally:
            tree.drop(directory.fd)

    def _mode(self, directory: int, name: bytes) -> int | None:
        """0 where it is nothing that the server lets anybody look at, such as a block device: it may be removed all the same."""
        try:
            found = self._tree.client.walkstat(directory, [name])
        except OSError as error:
            if error.errno is None:  # Lost
                raise
            return 0
        return found[0].mode if found else None

    def _one(self, directory: int, name: bytes, shown: bytes, mode: int) -> bool:
        kind = _KINDS.get(stat.S_IFMT(mode), "file")
        if self._options.interactive and not confirmed(f"gofer: rm: remove {kind} '{printable(shown)}'? "):
            return False
        self._tree.client.unlinkat(directory, name, AT_REMOVEDIR if stat.S_ISDIR(mode) else 0)
        if self._options.verbose:
            self._session.write(f"removed {'directory ' * stat.S_ISDIR(mode)}'{printable(shown)}'\n".encode())
        return True

    def _all(self, above: int, name: bytes, shown: bytes) -> None:
        """A directory with what is in it, without recursion: there is no limit to how deep one may be."""
        way: list[_Directory] = []
        self._enter(way, above, name, shown)
        while way:
            here = way[-1]
            if not here.entries and not self._read(here):
                way.pop()
                self._leave(way, here)
                continue
            entry = here.entries.pop()
            if entry.name in here.failed:
                continue
            place = below(here.shown, entry.name)
            try:
                mode = entry.type << 12
                if entry.type == _DT_UNKNOWN:
                    mode = self._mode(here.fd, entry.name) or 0
                if stat.S_ISDIR(mode):
                    self._enter(way, here.fd, entry.name, place)
                elif self._one(here.fd, entry.name, place, mode):
                    here.removed = True
                else:
                    here.failed.add(entry.name)
            except FileNotFoundError:
                here.removed = True  # by somebody else
            except OSError as error:
                here.failed.add(entry.name)
                self._session.bad(place, error)

    def _enter(self, way: list[_Directory], above: int, name: bytes, shown: bytes) -> None:
        tree = self._tree
        if self._options.interactive and not confirmed(f"gofer: rm: descend into directory '{printable(shown)}'? "):
            if way:
                way[-1].failed.add(name)
            return
        node = tree.child(above, name)
        try:
            opened, host = tree.client.openat(node.fd, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            tree.drop(node.fd)
            raise
        if host >= 0:
            os.close(host)
        way.append(_Directory(above, name, shown, node.fd, opened))

    def _read(self, here: _Directory) -> bool:
        """Whether there is more to be done in it."""
        here.entries = self._tree.some_entries(here.opened, _BATCH)
        if not here.entries and here.removed:
            here.removed = False
            here.entries = self._tree.some_entries(here.opened, -_BATCH)
        return bool(here.entries)

    def _leave(self, way: list[_Directory], here: _Directory) -> None:
        """It has been worked through; it goes too, unless something in it stays."""
        self._tree.drop(here.opened, here.fd)
        self._tree.flush()  # an FD on it would keep it as one that is removed, and open, below the server
        gone = False
        if not here.failed:
            try:
                gone = self._one(here.above, here.name, here.shown, stat.S_IFDIR)
            except OSError as error:
                self._session.bad(here.shown, error)
        if way and gone:
            way[-1].removed = True
        elif way:
            way[-1].failed.add(here.name)


_KINDS = {
    stat.S_IFREG: "regular file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}  # fmt: skip
