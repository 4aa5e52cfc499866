"""`gofer sum`: the SHA-256 of files, and of all files in trees; a list of them is checked. In the form of sha256sum(1).

    gofer sum :/srv > list          # later, or elsewhere:
    gofer sum -c list :/            # or, in the directory itself: sha256sum -c list
"""

from __future__ import annotations

import hashlib
import os
import stat

from gofer import Failure
from gofer.client.content import Content
from gofer.client.transport import Lost
from gofer.client.walk import Walk
from gofer.commands.common import Address, Session, add_addresses, add_common, open_content, operands, shown_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any

    from gofer.client.replies import Inode
    from gofer.client.tree import Tree

_DIGITS = 64


def add(parser: ArgumentParser) -> None:
    parser.description = (
        "Print the SHA-256 of files, and of every regular file below directories, sorted, as sha256sum(1) does; or check a list "
        "of these with -c: then the address is the directory where its names begin."
    )
    add_addresses(parser, "the root of $GOFER_SOCKET")
    parser.add_argument("-c", "--check", metavar="LIST", help="a local file with a list to check; -: standard input")
    parser.add_argument("--quiet", action="store_true", help="with -c: do not tell of files that are as they should be")
    parser.add_argument("--status", action="store_true", help="with -c: tell only of what cannot be read")
    parser.add_argument("--ignore-missing", action="store_true", help="with -c: files that are not there are no failure")
    parser.add_argument("--strict", action="store_true", help="with -c: lines that are no such lines are failures")
    parser.add_argument("-z", "--zero", action="store_true", help="end each line with a NUL, and escape nothing")
    add_common(parser, json="file")


def run(options: Any) -> int:
    addresses = operands(options.addresses)
    with Session("sum", options) as session:
        if options.check is not None:
            if len(addresses) > 1:
                raise Failure("sum: a list is checked in one place: give one SERVER[:PATH], where its names begin")
            _check(session, options, addresses[0])
            return session.status
        for address in addresses:
            with session.each(address.shown):
                tree = session.tree(address)
                node = tree.resolve(address.path)
                if stat.S_ISDIR(node.stat.mode):
                    _below(session, options, tree, address, node)
                    continue
                tree.drop(node.fd)
                with open_content(session, address) as content:
                    _tell(session, options, _digest(content), address.shown)
    return session.status


def _below(session: Session, options: Any, tree: Tree, address: Address, root: Inode) -> None:
    """In the order of the names, directory by directory: no more than these are held."""
    walk = Walk(tree, root, address.path, lambda path, error: session.bad(shown_at(address, path), error), in_order=True)
    for path, kind, _, _, _ in walk:
        if kind == stat.S_IFREG:
            try:
                node = tree.child(walk.directory, path.rpartition(b"/")[2])
                try:
                    with Content(tree, node) as content:
                        _tell(session, options, _digest(content), shown_at(address, path))
                finally:
                    tree.drop(node.fd)
            except OSError as error:
                session.bad(shown_at(address, path), error)


def _digest(content: Content) -> str:
    digest = hashlib.sha256()
    for data in content.whole():
        digest.update(data)
    return digest.hexdigest()


def _tell(session: Session, options: Any, digest: str, path: bytes) -> None:
    if options.json:
        session.write_json({"path": path, "sha256": digest})
    elif options.zero:
        session.write(digest.encode() + b"  " + path + b"\0")
    else:
        session.write(session.seen(_line(digest, path)[:-1]) + b"\n")


def _line(digest: str, path: bytes) -> bytes:
    escaped = _escaped(path)
    return b"\\" * (escaped != path) + digest.encode() + b"  " + escaped + b"\n"


def _escaped(path: bytes) -> bytes:
    return path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")


def _read(line: bytes) -> tuple[str, bytes] | None:
    """The digest and the path; nothing where it is no such line."""
    escaped = line.startswith(b"\\")
    line = line[escaped:]
    digest, kind, path = line[:_DIGITS], line[_DIGITS : _DIGITS + 2], line[_DIGITS + 2 :]
    if len(digest) < _DIGITS or digest.strip(b"0123456789abcdefABCDEF") or kind not in (b"  ", b" *") or not path:
        return None
    if escaped:
        path = path.replace(b"\\\\", b"\0").replace(b"\\n", b"\n").replace(b"\\r", b"\r").replace(b"\0", b"\\")
    return digest.decode().lower(), path


def _lines(name: str) -> Iterator[bytes]:
    try:
        with open(0 if name == "-" else name, "rb", closefd=name != "-") as file:
            for line in file:
                yield line.rstrip(b"\n")
    except OSError as error:
        raise Failure(f"sum: cannot read {name}: {error.strerror}; -c takes a list as gofer sum prints it") from None


def _check(session: Session, options: Any, place: Address) -> None:
    wrong = unread = bad = good = 0
    for line in _lines(options.check):
        told = _read(line)
        if told is None:
            bad += 1
            continue
        digest, path = told
        address = place._replace(path=path if path.startswith(b"/") else place.path.rstrip(b"/") + b"/" + path, shown=path)
        try:
            with open_content(session, address) as content:
                same = _digest(content) == digest
        except Lost:
            raise
        except OSError as error:
            if options.ignore_missing and isinstance(error, FileNotFoundError):
                continue
            unread += 1
            session.bad(path, error)
            _verdict(session, options, path, "FAILED open or read")
            continue
        good += same
        wrong += not same
        _verdict(session, options, path, "OK" if same else "FAILED")
    for count, what in (
        (bad, "lines are no lines of such a list"),
        (unread, "listed files could not be read"),
        (wrong, "computed checksums did NOT match"),
    ):
        if count and not options.status:
            session.complain(os.fsencode(options.check), f"{count} {what}", status=0)
    if not good + wrong + unread:
        session.complain(os.fsencode(options.check), "nothing in it was checked: it takes lines as gofer sum prints them")
    session.status = max(session.status, int(bool(wrong or unread or bad and options.strict)))


def _verdict(session: Session, options: Any, path: bytes, verdict: str) -> None:
    if options.json:
        session.write_json({"path": path, "verdict": verdict})
    elif not options.status and not (options.quiet and verdict == "OK"):
        escaped = _escaped(path)
        session.write(session.seen(b"\\" * (escaped != path) + escaped) + f": {verdict}\n".encode())


