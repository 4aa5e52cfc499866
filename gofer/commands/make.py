"""`gofer mkdir`, `ln`, `touch`, `truncate`, `sync`: names and files made, sizes and times set, on a served tree."""

from __future__ import annotations

import os
import re
import stat
import time
from errno import EEXIST, EFBIG, EISDIR, ENOENT, EPERM

from gofer import Failure, sys
from gofer.client.address import below, parse
from gofer.client.transport import Lost
from gofer.commands.common import Session, add_addresses, add_common, operands, why
from gofer.commands.modes import permissions, set_stat, umask
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence
    from typing import Any, Callable

    from gofer.client.address import Address
    from gofer.client.replies import Inode, Stat
    from gofer.client.tree import Tree

_UNITS = {"": 1, "k": 1024, "m": 1 << 20, **{letter: 1024**n for n, letter in enumerate("KMGTPE", 1)}}
_UNITS.update({f"{letter}iB": 1024**n for n, letter in enumerate("KMGTPE", 1)})
_UNITS.update({f"{letter}B": 1000**n for n, letter in enumerate("KMGTPE", 1)})
_SIZE = re.compile(r"([-+<>/%]?)(\d+)(k|m|[KMGTPE]?(?:iB|B)?)")
_SIZES = 1 << 63
_NOW = (0, -1)  # no time: the protocol has none that means now


def add(parser: ArgumentParser) -> None:
    _ADD[parser.get_default("subcommand")](parser)
    add_common(parser)


def run(options: Any) -> int:
    command = options.subcommand
    with Session(command, options, changes=command != "sync") as session:
        if command == "ln":
            _ln(session, options)
            return session.status
        do = _DO[command](options)
        for address in operands(options.addresses):
            with session.each(address.shown):
                do(session, options, address)
    return session.status


# mkdir


def _add_mkdir(parser: ArgumentParser) -> None:
    parser.description = "Make directories on a served tree."
    add_addresses(parser)
    parser.add_argument("-p", "--parents", action="store_true", help="with those above it; no error where it is there")
    parser.add_argument("-m", "--mode", metavar="MODE", help="its permissions, as chmod takes them (default: a=rwx - umask)")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of each that was made")


def _mkdir(options: Any) -> Any:
    mask = umask()
    mode = permissions(options.mode)(0o777, True) if options.mode else 0o777 & ~mask
    return lambda session, options, address: _make_directory(session, options, address, mode, 0o777 & ~mask | 0o300)


def _make_directory(session: Session, options: Any, address: Address, mode: int, above: int) -> None:
    """above: the mode of those that -p makes on the way."""
    tree = session.tree(address)
    missing: list[bytes] = []
    path = address.path.rstrip(b"/")
    while options.parents:  # from the end, as what is there may be a link that leads on
        try:
            node = tree.resolve(path)
            if not stat.S_ISDIR(node.stat.mode):
                raise FileExistsError(EEXIST, os.strerror(EEXIST))
            break
        except FileNotFoundError:
            path, _, name = path.rstrip(b"/").rpartition(b"/")
            missing.append(name)
    else:
        node, name = tree.parent(path)
        missing.append(name)
    while missing:
        name = missing.pop()
        path = below(path, name)
        here = name in (b".", b"..")  # by now there is something that they are in
        made = tree.resolve(path) if here else _child_directory(tree, node, name, above if missing else mode, options.parents)
        tree.drop(node.fd)
        node = made
        if options.verbose and not here:
            shown = address.shown[: len(address.shown) - len(address.path)] + path if missing else address.shown
            session.write(f"mkdir: created directory '{printable(shown)}'\n".encode())
    tree.drop(node.fd)


def _child_directory(tree: Tree, node: Inode, name: bytes, mode: int, may_exist: bool) -> Inode:
    try:
        made = tree.client.mkdirat(node.fd, name, mode)
    except FileExistsError:
        if not may_exist:
            raise
        made = tree.child(node.fd, name)  # somebody else's
        if not stat.S_ISDIR(made.stat.mode):
            raise
        return made
    if stat.S_IMODE(made.stat.mode) & 0o1777 != mode & 0o1777 or mode & 0o6000:
        set_stat(tree, made, sys.STATX_MODE, mode=mode | made.stat.mode & 0o2000)  # as an ACL of the directory above would not
    return made


# ln


def _add_ln(parser: ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] SERVER:FILE SERVER:NEW | %(prog)s -s [options] TEXT SERVER:NEW"
    parser.description = "Make a link on a served tree. NEW may be a directory: then it gets the old name in there."
    parser.add_argument("old", metavar="FILE", help="what is to have another name; with -s the text of a symbolic link, as it is")
    parser.add_argument("new", metavar="NEW", help="SERVER:PATH of the link")
    parser.add_argument("-s", "--symbolic", action="store_true", help="a symbolic link")
    parser.add_argument("-f", "--force", action="store_true", help="in the place of what is there")
    parser.add_argument("-n", "--no-dereference", action="store_true", help="a NEW that is a link to a directory is itself meant")
    parser.add_argument("-T", "--no-target-directory", action="store_true", help="NEW is a name, never a directory to link in")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of each")


def _ln(session: Session, options: Any) -> None:
    new = operands([options.new])[0]
    old = None if options.symbolic else operands([options.old])[0]
    if old and (old.server, old.remote) != (new.server, new.remote):
        raise Failure("ln: a hard link has both its names on one server; get or put copies between two")
    node = None
    if old:
        with session.each(old.shown):
            node = session.tree(old).resolve(old.path, follow=False)
            if stat.S_ISDIR(node.stat.mode):
                raise OSError(EPERM, "a directory has one name only: -s makes a symbolic link to it")
        if session.status:
            return
    with session.each(new.shown):
        tree = session.tree(new)
        text = os.fsencode(options.old)
        new = into(tree, new, (old.path if old else text).rstrip(b"/").rpartition(b"/")[2], options)
        if new.path.endswith(b"/"):
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT))
        directory, name = tree.parent(new.path)
        try:
            if node is None:
                put_name(tree, directory, name, options.force, lambda to: tree.client.symlinkat(directory.fd, to, text))
            else:
                put_name(tree, directory, name, options.force, lambda to: tree.client.linkat(directory.fd, node.fd, to), node)
                tree.drop(node.fd)
        finally:
            tree.drop(directory.fd)
        if options.verbose:
            arrow = "->" if options.symbolic else "=>"
            session.write(f"'{printable(new.shown)}' {arrow} '{printable(old.shown if old else text)}'\n".encode())


def into(tree: Tree, address: Address, name: bytes, options: Any) -> Address:
    """Where it is a directory, the address of `name` in it; -T and -n as in ln(1) and mv(1)."""
    if options.no_target_directory:
        return address
    try:
        node = tree.resolve(address.path, follow=not getattr(options, "no_dereference", False))
    except FileNotFoundError:
        return address
    tree.drop(node.fd)
    return address.within(name) if stat.S_ISDIR(node.stat.mode) else address


def put_name(tree: Tree, directory: Inode, name: bytes, force: bool, make: Any, old: Inode | None = None) -> None:
    """make(name), which fails where the name is taken. force: then under another one, which takes its place at once.

    old: the file that is to have the name as well.
    """
    try:
        made = make(name)
    except FileExistsError:
        if not force:
            raise
        if old and same_file(old.stat, tree.client.walkstat(directory.fd, [name])):
            return  # it has it already, and a rename would leave both
        spare = b".gofer-" + os.urandom(8).hex().encode()
        made = make(spare)
        try:
            tree.client.renameat(directory.fd, spare, directory.fd, name)
        except OSError:
            tree.client.unlinkat(directory.fd, spare)
            raise
    tree.drop(made.fd)


def same_file(one: Stat, found: Sequence[Stat]) -> bool:
    return any((one.dev, one.ino) == (other.dev, other.ino) for other in found)


# touch


def _add_touch(parser: ArgumentParser) -> None:
    parser.description = "Set the times of files on a served tree to now; make those that are not there."
    add_addresses(parser)
    parser.add_argument("-a", dest="access", action="store_true", help="the access time only")
    parser.add_argument("-m", dest="modification", action="store_true", help="the modification time only")
    parser.add_argument("-c", "--no-create", action="store_true", help="make no file")
    parser.add_argument("-h", "--no-dereference", action="store_true", help="of a symbolic link itself")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("-d", "--date", metavar="TIME", help="not now but then: 2026-11-27T12:34:56.5Z (no Z: local), or @SECONDS")
    when.add_argument("-t", dest="stamp", metavar="[[CC]YY]MMDDhhmm[.ss]", help="not now but then")
    when.add_argument("-r", "--reference", metavar="SERVER[:PATH]", help="the times of that file")


def _touch(options: Any) -> Any:
    from gofer.commands import dates

    times = [_NOW, _NOW]
    if options.date is not None:
        times = [dates.moment(options.date)] * 2
    elif options.stamp is not None:
        times = [dates.stamp(options.stamp)] * 2

    def do(session: Session, options: Any, address: Address) -> None:
        chosen = times
        if options.reference is not None:
            like = parse(options.reference)
            try:
                found = session.tree(like).resolve(like.path).stat
            except Lost:
                raise
            except OSError as error:
                raise Failure(f"touch: {printable(like.shown)}: {why(error)}") from None
            chosen = [found.atime, found.mtime]
        _touch_one(session, options, address, chosen)

    return do


def _touch_one(session: Session, options: Any, address: Address, times: list[tuple[int, int]]) -> None:
    tree = session.tree(address)
    try:
        node = tree.resolve(address.path, not options.no_dereference)
    except FileNotFoundError:
        if options.no_create:
            return
        if options.no_dereference:
            raise
        node = create(tree, address.path, 0o666 & ~umask())
        if times == [_NOW, _NOW]:
            tree.drop(node.fd)
            return
    both = options.access == options.modification
    mask = sys.STATX_ATIME * (options.access or both) | sys.STATX_MTIME * (options.modification or both)
    now = time.time_ns()
    there = [divmod(now, 10**9) if when == _NOW else when for when in times]
    set_stat(tree, node, mask, atime=there[0], mtime=there[1])
    tree.drop(node.fd)


def create(tree: Tree, path: bytes, mode: int) -> Inode:
    """A new, empty file. Where it is a link that leads nowhere, the file is made there, as open(2) does."""
    if path.endswith(b"/"):
        raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
    directory, name = tree.parent(path)
    try:
        node, opened, host = tree.client.opencreateat(directory.fd, name, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        node = tree.child(directory.fd, name)
        if not stat.S_ISLNK(node.stat.mode):
            return node
        target = tree.target(node)
        return create(tree, target if target.startswith(b"/") else below(path.rstrip(b"/").rpartition(b"/")[0], target), mode)
    finally:
        tree.drop(directory.fd)
    if host >= 0:
        os.close(host)
    tree.drop(opened)
    return node


# truncate


def _add_truncate(parser: ArgumentParser) -> None:
    parser.description = "Set the size of files on a served tree; make those that are not there."
    add_addresses(parser)
    parser.add_argument(
        "-s", "--size", metavar="SIZE", required=True,
        help="in bytes, or K, M, G (1024), KB, MB (1000); with a sign by so much (+ -), at most (<), at least (>), "
        "rounded down (/) or up (%%)",
    )  # fmt: skip
    parser.add_argument("-c", "--no-create", action="store_true", help="make no file")


def _truncate(options: Any) -> Any:
    found = _SIZE.fullmatch(options.size)
    if not found or found[3] not in _UNITS or len(found[2]) > 20 or int(found[2]) * _UNITS[found[3]] >= _SIZES:
        raise Failure(f"{options.size!r} is no size; give bytes, or a number with K, M, G, and one of + - < > / % before it")
    sign, number = found[1], int(found[2]) * _UNITS[found[3]]
    if sign in ("/", "%") and not number:
        raise Failure("sizes cannot be rounded to a multiple of 0")
    size: Callable[[int], int] = {
        "": lambda now: number, "+": lambda now: now + number, "-": lambda now: max(0, now - number),
        "<": lambda now: min(now, number), ">": lambda now: max(now, number),
        "/": lambda now: now // number * number, "%": lambda now: -(-now // number) * number,
    }[sign]  # fmt: skip

    def do(session: Session, options: Any, address: Address) -> None:
        tree = session.tree(address)
        try:
            node = tree.resolve(address.path)
        except FileNotFoundError:
            if options.no_create:
                return
            node = create(tree, address.path, 0o666 & ~umask())
        if stat.S_ISDIR(node.stat.mode):
            raise OSError(EISDIR, os.strerror(EISDIR))
        wanted = size(node.stat.size)
        if wanted >= _SIZES:
            raise OSError(EFBIG, os.strerror(EFBIG))
        set_stat(tree, node, sys.STATX_SIZE, size=wanted)
        tree.drop(node.fd)

    return do


# sync


def _add_sync(parser: ArgumentParser) -> None:
    parser.description = "Have files, or directories, of a served tree written to their disk, and wait for that."
    add_addresses(parser, "the root of $GOFER_SOCKET")


def _sync(options: Any) -> Any:
    def do(session: Session, options: Any, address: Address) -> None:
        tree = session.tree(address)
        node = tree.resolve(address.path)
        if not stat.S_ISREG(node.stat.mode) and not stat.S_ISDIR(node.stat.mode):
            raise OSError(ENOENT, "neither a file nor a directory: nothing of it is on a disk")
        with tree.client.opened(node.fd) as fd:
            tree.client.fsync(fd)
        tree.drop(node.fd)

    return do


_ADD = {"mkdir": _add_mkdir, "ln": _add_ln, "touch": _add_touch, "truncate": _add_truncate, "sync": _add_sync}
_DO = {"mkdir": _mkdir, "touch": _touch, "truncate": _truncate, "sync": _sync}
