"""`gofer cp`: files and trees from one place of a served tree to another; by the kernel alone where the server donates files."""

from __future__ import annotations

import os
import stat as modes
from errno import EINVAL

from gofer import Failure
from gofer.client import tree as client_tree
from gofer.commands.common import Session, add_common, operands, place_for, ssh_of
from gofer.commands.copy import Copier, directory_at, no_directory
from gofer.commands.make import same_file
from gofer.copy.files import FD
from gofer.copy.remote import RemoteTree
from gofer.copy.sides import Node
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.address import Address
    from gofer.client.tree import Tree
    from gofer.copy.engine import Copy


def add(parser: ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] SERVER:SOURCE... SERVER:DESTINATION"
    parser.description = (
        "Copy files from one place of a served tree to another: as cp -a does, with contents, modes, times, owners, links, "
        "xattrs and holes, and by sharing blocks where the file system can. A file has its name only when it is complete. `get` "
        "and `put` copy between a server and this machine."
    )
    parser.add_argument("addresses", metavar="SERVER:PATH", nargs="+", help="what is copied, and where to; all on one server")
    parser.add_argument("-r", "-R", "--recursive", action="store_true", help="directories and all that is in them; links as such")
    parser.add_argument("-a", "--archive", action="store_true", help="the same as -r: attributes are kept anyway")
    parser.add_argument("-p", "--preserve", action="store_true", help="nothing: attributes are kept anyway")
    parser.add_argument("-u", "--update", action="store_true", help="leave alone what is newer at the destination")
    parser.add_argument("-n", "--no-clobber", action="store_true", help="leave alone a file that is there")
    parser.add_argument("-T", "--no-target-directory", action="store_true", help="the destination is a name, never a directory")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, which otherwise a terminal shows")
    add_common(parser, json="file: what became of it, and a last one with sums")


def run(options: Any) -> int:
    *sources, target = operands(options.addresses)
    if not sources:
        raise Failure(f"cp: where to? {printable(target.shown)} is what is to be copied; give its new name behind it")
    if any((source.server, source.remote) != (target.server, target.remote) for source in sources):
        raise Failure("cp: both names are on one server; get and put copy between a server and this machine")
    options.recursive = options.recursive or options.archive
    options.quiet = options.quiet or not os.isatty(2)
    for name, value in _SETTLED.items():
        setattr(options, name, value)
    ssh = ssh_of(options, True) if target.remote else None
    with Session("cp", options, changes=True) as session, client_tree.served(target, options.timeout, ssh) as there:
        copier = _Cp(session, options)
        try:
            copier.copy(sources, target, there)
        finally:
            copier.end()
    return session.status


_SETTLED = {"delete": False, "exclude": [], "dry_run": False, "verify": False, "resume": False, "no_sync": True}


class _Cp(Copier):
    """Each side has a connection of its own: either sends requests ahead of their answers."""

    served_target = True
    resumable = False

    def __init__(self, session: Session, options: Any) -> None:
        super().__init__(session, options)
        self._names_itself, self._no_clobber = options.no_target_directory, options.no_clobber

    def copy(self, sources: list[Address], target: Address, there: Tree) -> None:
        into = None if self._names_itself else directory_at(there, target)
        if into is None and len(sources) > 1:
            raise no_directory(printable(target.shown))
        for source in sources:
            with self.each(source.shown):
                tree = self.session.tree(source)
                copy = self.copies(None, RemoteTree(tree.client), RemoteTree(there.client))
                self._one(copy, tree, source, there, target, into)
        self.finish()

    def _one(self, copy: Copy, tree: Tree, source: Address, there: Tree, target: Address, into: FD | None) -> None:
        inode = tree.resolve(source.path, follow=not self.recursive)
        name = last = source.path.rstrip(b"/").rpartition(b"/")[2]
        if name in (b"", b".", b".."):  # the root has none
            name = tree.canonical(source.path, missing=0).rpartition(b"/")[2]
        node = Node(name, inode.stat, FD(inode.fd, []))
        if not self.descends(node, source.shown):
            return
        if modes.S_ISDIR(inode.stat.mode):
            self._not_into_itself(tree, source, there, target)
        elif into is None and target.path.endswith(b"/"):
            raise no_directory(printable(target.shown))
        self.progress.expect(None if modes.S_ISDIR(inode.stat.mode) else node.stat.size)
        if into is not None and (not name or last == b"."):
            copy.inside(node.key, node, into, source.shown)
            return
        directory, own = (into, name) if into is not None else self._parent(there, target)
        (taken,) = copy.target.look(directory, [own])
        if self._no_clobber and taken is not None:
            return
        if isinstance(taken, Node) and same_file(taken.stat, [inode.stat]):
            raise OSError(EINVAL, "that and what is to be its copy are the same file")
        copy.entry(None, node, directory, own, source.shown)

    def _parent(self, there: Tree, target: Address) -> tuple[FD, bytes]:
        directory, own = place_for(there, target.path, "cp")
        return FD(directory.fd, []), own

    def _not_into_itself(self, tree: Tree, source: Address, there: Tree, target: Address) -> None:
        """A copy of a directory inside of it would have no end."""
        above, below = tree.canonical(source.path, missing=0), there.canonical(target.path, missing=1)
        if (below + b"/").startswith(above.rstrip(b"/") + b"/"):
            raise Failure(f"cp: {printable(source.shown)} cannot be copied into itself")
