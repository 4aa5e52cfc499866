"""`gofer tar`: a served tree as a tar stream, and such a stream into one."""

from __future__ import annotations

import os
import signal
import stat as modes

from gofer import Failure
from gofer.client.address import parse
from gofer.commands.common import Session, add_addresses, add_common
from gofer.copy.archive import END
from gofer.copy.files import FD
from gofer.copy.names import Exclude
from gofer.copy.pack import Pack
from gofer.copy.progress import Progress
from gofer.copy.remote import RemoteTree
from gofer.copy.sides import Node
from gofer.copy.unpack import Unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.tree import Tree


def add(parser: ArgumentParser) -> None:
    parser.usage = "%(prog)s -c [options] SERVER:PATH... > ARCHIVE\n       %(prog)s -x [options] SERVER:DIRECTORY < ARCHIVE"
    parser.description = (
        "Write what is served as a tar stream to stdout (pax format: times to the nanosecond, xattrs, ACLs, hard links), or make "
        "in a served directory what such a stream on stdin has, also one that gzip, bzip2 or xz has compressed."
    )
    parser.epilog = "Examples: `gofer tar -c :/srv | zstd > srv.tar.zst`; `zstdcat srv.tar.zst | gofer tar -x :/restored`."
    add_addresses(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-c", "--create", action="store_true", help="write an archive to stdout")
    what.add_argument("-x", "--extract", action="store_true", help="read one from stdin")
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave out what has a name like this; with a / in it: a path that ends so, or from the top where it begins with one",
    )
    parser.add_argument("--no-sync", action="store_true", help="with -x: do not wait until the contents are on the disk")
    parser.add_argument("-q", "--quiet", action="store_true", help="with -x: no progress, no summary")
    add_common(parser)


def run(options: Any) -> int:
    with Session("tar", options, changes=options.extract) as session:
        if options.create:
            _create(session, options)
        else:
            _extract(session, options)
    return session.status


def _create(session: Session, options: Any) -> None:
    if os.isatty(1):
        raise Failure("tar: an archive is nothing for a terminal: send it to a file or a program (> srv.tar, | zstd)")
    packs: dict[Tree, Pack] = {}  # one for each server: what has several names may have them under several of the addresses
    for word in options.addresses:
        address = parse(word)
        shown = address.path or b"/"
        with session.each(shown):
            tree = session.tree(address)
            inode = tree.resolve(address.path, follow=False)
            name = address.path.rstrip(b"/").rpartition(b"/")[2]
            name = b"." if name in (b"", b"..") else name
            node = Node(name, inode.stat, FD(inode.fd, []))
            if tree not in packs:
                remote: Any = RemoteTree(tree.client)
                exclude = Exclude(options.exclude)
                packs[tree] = Pack(remote, session.write, lambda shown, error, _: session.bad(shown, error), exclude)
            packs[tree].add(None, node, name, shown)
    session.write(END)


def _extract(session: Session, options: Any) -> None:
    if len(options.addresses) != 1:
        raise Failure("tar: -x needs one directory of a server to make things in")
    if os.isatty(0):
        raise Failure("tar: an archive comes from a file or a program (< srv.tar, zstdcat srv.tar.zst |), not from a terminal")
    address = parse(options.addresses[0])
    tree = session.tree(address)
    with session.each(address.path or b"/"):
        inode = tree.resolve(address.path)
        if not modes.S_ISDIR(inode.stat.mode):
            raise Failure(f"tar: {options.addresses[0]}: it is not a directory")
        progress = Progress(options.quiet)
        progress.expect(None)

        def complain(shown: bytes, error: OSError, _: bool | None) -> None:
            progress.clear()
            session.bad(shown, error)

        exclude = Exclude(options.exclude)
        remote: Any = RemoteTree(tree.client)
        unpack = Unpack(remote, FD(inode.fd, []), progress, complain, exclude, not options.no_sync)
        before = signal.signal(signal.SIGINT, lambda *_: _interrupt(progress))
        try:
            with open(0, "rb", buffering=0, closefd=False) as stream:
                unpack.run(stream)
            progress.end()
        finally:
            signal.signal(signal.SIGINT, before)
            progress.clear()
            unpack.commit.abandon()


def _interrupt(progress: Progress) -> None:
    progress.interrupt()
    signal.signal(signal.SIGINT, signal.default_int_handler)
