"""`gofer readlink`, `gofer realpath`: where symbolic links of a served tree lead, as the programs of these names tell it."""

from __future__ import annotations

import stat
from errno import ENOENT

from gofer.client.transport import Lost
from gofer.commands.common import Address, Session, add_addresses, add_common, operands

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

_READLINK = "Print the targets of symbolic links, as readlink(1) does."
_REALPATH = "Print paths without symbolic links, `.` and `..`, as realpath(1) does: as they are in the tree that is served."


def add(parser: ArgumentParser) -> None:
    reads = parser.get_default("subcommand") == "readlink"
    parser.description = _READLINK if reads else _REALPATH
    add_addresses(parser)
    how = parser.add_mutually_exclusive_group()
    if reads:
        words = "print the path without links: all but the last component must exist"
        how.add_argument("-f", "--canonicalize", dest="last", action="store_true", help=words)
        parser.add_argument("-n", "--no-newline", action="store_true", help="no end of line behind the last")
        parser.add_argument("-v", "--verbose", action="store_true", help="tell why, where there is nothing to print")
    how.add_argument("-e", "--canonicalize-existing", dest="all", action="store_true", help="all components must exist")
    how.add_argument("-m", "--canonicalize-missing", dest="none", action="store_true", help="none needs to exist")
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell what goes wrong")
    parser.add_argument("-z", "--zero", action="store_true", help="end each with a NUL")
    add_common(parser, json="operand")


def run(options: Any) -> int:
    reads = options.subcommand == "readlink"
    link = reads and not (options.last or options.all or options.none)
    quiet = options.quiet or reads and not options.verbose
    addresses = operands(options.addresses)
    end = b"\0" if options.zero else b"\n"
    if reads and options.no_newline and len(addresses) == 1:
        end = b""
    with Session(options.subcommand, options) as session:
        for address in addresses:
            try:
                path = _target(session, address) if link else _canonical(session, options, address)
            except Lost:
                raise
            except OSError as error:
                session.status = 1
                if not quiet:
                    session.bad(address.shown, error)
                continue
            if options.json:
                session.write_json({"path": address.shown, "target" if link else "canonical": path})
            else:
                session.write((path if options.zero else session.seen(path)) + end)
    return session.status


def _canonical(session: Session, options: Any, address: Address) -> bytes:
    return session.tree(address).canonical(address.path, missing=-1 if options.none else 0 if options.all else 1)


def _target(session: Session, address: Address) -> bytes:
    """ENOENT, with words of our own, where it is no symbolic link."""
    tree = session.tree(address)
    node = tree.resolve(address.path, follow=False)
    try:
        if not stat.S_ISLNK(node.stat.mode):
            raise OSError(ENOENT, "it is no symbolic link")
        return tree.target(node)
    finally:
        tree.drop(node.fd)
