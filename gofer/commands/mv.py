"""`gofer mv`: another name on the same served tree."""

from __future__ import annotations

import os
import stat
from errno import EEXIST, EINVAL, ENOTDIR, EPERM, EXDEV

from gofer import Failure, sys
from gofer.commands.common import Session, add_common, confirmed, operands, place_for
from gofer.commands.make import into, same_file
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.address import Address
    from gofer.client.replies import Inode, Stat
    from gofer.client.tree import Tree


def add(parser: ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] SERVER:FILE ... SERVER:NEW"
    parser.description = "Rename files on a served tree, or move them into a directory, which is then the last word."
    parser.add_argument("addresses", metavar="SERVER:PATH", nargs="+", help="what is moved, and where to; all on one server")
    parser.add_argument("-f", "--force", action="store_true", help="never ask (the default)")
    parser.add_argument("-i", "--interactive", action="store_true", help="ask before the place of another file is taken")
    parser.add_argument("-n", "--no-clobber", action="store_true", help="take no other file's place")
    parser.add_argument("-T", "--no-target-directory", action="store_true", help="NEW is a name, never a directory to move into")
    parser.add_argument("--exchange", action="store_true", help="the two change places, at once")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of each")
    add_common(parser)


def run(options: Any) -> int:
    *sources, new = operands(options.addresses)
    if not sources:
        raise Failure(f"mv: where to? {printable(new.shown)} is what is to be moved; give its new name behind it")
    if any((source.server, source.remote) != (new.server, new.remote) for source in sources):
        raise Failure("mv: both names are on one server; get or put copies between two, rm removes")
    with Session("mv", options, changes=True) as session:
        tree = session.tree(new)
        if len(sources) > 1 and not stat.S_ISDIR(tree.resolve(new.path).stat.mode):
            raise Failure(f"mv: {printable(new.shown)} is no directory, and {len(sources)} files are to go there")
        for source in sources:
            with session.each(source.shown):
                _move(session, options, tree, source, new)
    return session.status


def _move(session: Session, options: Any, tree: Tree, source: Address, new: Address) -> None:
    above, name = tree.parent(source.path)
    old = _looked_at(tree, above, name)
    there = into(tree, new, name, options)
    directory, called = place_for(tree, there.path, "mv")
    try:
        if b"/" in (source.path[-1:], there.path[-1:]) and not all(stat.S_ISDIR(found.mode) for found in old):
            raise NotADirectoryError(ENOTDIR, os.strerror(ENOTDIR))
        flags = sys.RENAME_EXCHANGE if options.exchange else sys.RENAME_NOREPLACE if options.no_clobber else 0
        taken = [] if flags else tree.client.walkstat(directory.fd, [called])
        if options.interactive and taken and not confirmed(f"gofer: mv: overwrite '{printable(there.shown)}'? "):
            return
        tree.flush()
        if old and same_file(old[0], taken):  # a rename would say yes, and keep both names
            raise OSError(EINVAL, f"that and {printable(there.shown)} are the same file")
        if flags:
            tree.client.renameat2(above.fd, name, directory.fd, called, flags)
        else:
            tree.client.renameat(above.fd, name, directory.fd, called)
    except OSError as error:
        if options.no_clobber and error.errno == EEXIST:
            return
        if error.errno == EXDEV:
            why = "it lies on another file system of the server's: cp -a copies it there, rm -r removes it"
            raise OSError(EXDEV, why) from None
        raise
    finally:
        tree.drop(above.fd, directory.fd)
    if options.verbose:
        session.write(f"renamed '{printable(source.shown)}' -> '{printable(there.shown)}'\n".encode())


def _looked_at(tree: Tree, directory: Inode, name: bytes) -> list[Stat]:
    """Nothing also of what the server lets nobody look at, such as a block device: it may be moved all the same."""
    try:
        return tree.client.walkstat(directory.fd, [name])
    except OSError as error:
        if error.errno != EPERM:
            raise
        return []
