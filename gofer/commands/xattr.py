"""`gofer xattr`: extended attributes on a served tree."""

from __future__ import annotations

import base64
import os
from errno import ENODATA

from gofer import Failure
from gofer.commands.common import Session, add_common, operands
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.replies import Inode
    from gofer.client.tree import Tree

LARGEST = 65536  # of a value, and of a list of names: XATTR_SIZE_MAX, XATTR_LIST_MAX


def add(parser: ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s list SERVER:PATH ... | %(prog)s get NAME SERVER:PATH ... | %(prog)s set NAME VALUE SERVER:PATH ... | "
        "%(prog)s remove NAME SERVER:PATH ..."
    )
    parser.description = (
        "Show and change extended attributes on a served tree: those that the server's --xattrs lets. `get` writes the value "
        "as it is, and a line break. VALUE is text, 0x and hexadecimal digits, or 0s and base64, as setfattr takes it."
    )
    parser.add_argument("action", metavar="ACTION", choices=("list", "get", "set", "remove"), help="list, get, set or remove")
    parser.add_argument("words", metavar="WORD", nargs="*", help="NAME, VALUE and files, as the action wants them")
    parser.add_argument("-P", "--no-dereference", action="store_true", help="of a symbolic link itself")
    add_common(parser, json="attribute")


def run(options: Any) -> int:
    words, wanted = list(options.words), {"list": 0, "get": 1, "set": 2, "remove": 1}[options.action]
    if len(words) < wanted:
        raise Failure(f"xattr {options.action}: give {' and '.join(('NAME', 'VALUE')[:wanted])} before the files")
    name = os.fsencode(words.pop(0)) if wanted else b""
    value = _value(words.pop(0)) if wanted > 1 else b""
    with Session("xattr", options, changes=options.action in ("set", "remove")) as session:
        for address in operands(words):
            with session.each(address.shown):
                tree = session.tree(address)
                node = tree.resolve(address.path, not options.no_dereference)
                try:
                    _do(session, options, tree, node, address.shown, name, value)
                except OSError as error:
                    if error.errno == ENODATA:
                        raise OSError(ENODATA, f"it has no attribute {printable(name)}") from None
                    raise
                finally:
                    tree.drop(node.fd)
    return session.status


def _do(session: Session, options: Any, tree: Tree, node: Inode, shown: bytes, name: bytes, value: bytes) -> None:
    client = tree.client
    if options.action == "set":
        client.fsetxattr(node.fd, name, value)
    elif options.action == "remove":
        client.fremovexattr(node.fd, name)
    elif options.action == "get":
        found = client.fgetxattr(node.fd, name, LARGEST)
        if options.json:
            session.write_json({"path": shown, "name": name, "value": base64.b64encode(found).decode()})
        else:
            session.write(found + b"\n")
    else:
        for each in client.flistxattr(node.fd, LARGEST):
            if options.json:
                session.write_json({"path": shown, "name": each})
            else:
                session.write(printable(each).encode() + b"\n")


def _value(text: str) -> bytes:
    try:
        if text[:2] in ("0x", "0X"):
            return bytes.fromhex(text[2:])
        if text[:2] in ("0s", "0S"):
            return base64.b64decode(text[2:], validate=True)
    except ValueError:
        raise Failure(f"{text!r} is no value; 0x takes hexadecimal digits, two a byte, 0s base64") from None
    return os.fsencode(text)
