"""`gofer chmod` and `gofer chown`: who may do what on a served tree, and whose it is."""

from __future__ import annotations

import os
import re
import stat

from gofer import Failure, sys
from gofer.commands import attrs
from gofer.commands.common import Session, add_addresses, add_common, below, operands
from gofer.output import printable
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any, Callable

    from gofer.client.replies import Inode
    from gofer.client.tree import Tree
    from gofer.commands.common import Address

    Change = Callable[[Tree, Inode], tuple[bool, str, str]]  # whether it is another now; what -v says, before and behind the name

_DT_DIR, _DT_LNK = 4, 10
_PARTS = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_TAKES = re.compile(r"-[rwxXstugo][-+=,rwxXstugoa]*")  # a mode that takes, as none but the first word has it
_ACTIONS = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_WHO = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111}


def add(parser: ArgumentParser) -> None:
    if parser.get_default("subcommand") == "chmod":
        parser.usage = "%(prog)s [options] MODE SERVER[:PATH] ..."
        parser.description = "Change the permissions of files on a served tree."
        parser.add_argument("what", metavar="MODE", help="in octal, or as in u+rwX,go-w")
    else:
        parser.usage = "%(prog)s [options] [OWNER][:[GROUP]] SERVER[:PATH] ..."
        parser.description = "Change the owner and group of files on a served tree."
        parser.add_argument("what", metavar="[OWNER][:[GROUP]]", help="by name, as this machine knows it, or by number")
        parser.add_argument(
            "-h", "--no-dereference", action="store_true", help="of a symbolic link itself, not of what it leads to"
        )
    add_addresses(parser)
    parser.add_argument("-R", "--recursive", action="store_true", help="directories and all that is in them; no link is followed")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of each, also where nothing changed")
    parser.add_argument("-c", "--changes", action="store_true", help="tell of each that changed")
    add_common(parser)


def words(argv: list[str], parser: ArgumentParser) -> list[str]:
    """A mode that begins with `-` (chmod -w FILE) is no option: none of its letters is one. `+` before it adds nothing to it."""
    at = next((at for at, word in enumerate(argv) if word == "--" or _TAKES.fullmatch(word)), len(argv))
    if parser.get_default("subcommand") != "chmod" or at == len(argv) or argv[at] == "--":
        return argv
    return [*argv[:at], "+" + argv[at], *argv[at + 1 :]]


def run(options: Any) -> int:
    command = options.subcommand
    change = _chmod(options.what) if command == "chmod" else _chown(options.what)
    with Session(command, options, changes=True) as session:
        for address in operands(options.addresses):
            with session.each(address.shown):
                _operand(session, options, address, change)
    return session.status


def _operand(session: Session, options: Any, address: Address, change: Change) -> None:
    tree = session.tree(address)
    follow = not (options.recursive or getattr(options, "no_dereference", False))
    node = tree.resolve(address.path, follow)
    if stat.S_ISLNK(node.stat.mode) and options.subcommand == "chmod":
        node = tree.resolve(address.path)  # a link has no permissions of its own
    _one(session, options, tree, node, address.shown, change)
    if options.recursive and stat.S_ISDIR(node.stat.mode):
        way = [(node, address.shown)]
        while way:
            directory, shown = way.pop()
            with session.each(shown):
                for entry in tree.entries(directory.fd):
                    if entry.type == _DT_LNK and options.subcommand == "chmod":
                        continue
                    place = below(shown, entry.name)
                    with session.each(place):
                        below_it = tree.child(directory.fd, entry.name)
                        if not stat.S_ISLNK(below_it.stat.mode) or options.subcommand == "chown":
                            _one(session, options, tree, below_it, place, change)
                        if stat.S_ISDIR(below_it.stat.mode):
                            way.append((below_it, place))
                        else:
                            tree.drop(below_it.fd)
            tree.drop(directory.fd)


def _one(session: Session, options: Any, tree: Tree, node: Inode, shown: bytes, change: Change) -> None:
    with session.each(shown):
        changed, before, behind = change(tree, node)
        if options.verbose or options.changes and changed:
            session.write(f"{before} '{printable(shown)}' {behind}\n".encode())


def set_stat(tree: Tree, node: Inode, mask: int, **values: Any) -> None:
    """SetStat, where what the server could not set is an error."""
    failed, code = tree.client.setstat(node.fd, mask, **values)
    if failed:
        raise OSError(code, os.strerror(code))


def _chmod(text: str) -> Change:
    wanted = permissions(text)

    def change(tree: Tree, node: Inode) -> tuple[bool, str, str]:
        before = stat.S_IMODE(node.stat.mode)
        after = wanted(before, stat.S_ISDIR(node.stat.mode))
        if after == before:
            return False, "mode of", f"retained as {_mode(after)}"
        set_stat(tree, node, sys.STATX_MODE, mode=after)
        return True, "mode of", f"changed from {_mode(before)} to {_mode(after)}"

    return change


def _mode(mode: int) -> str:
    return f"{mode:04o} ({stat.filemode(mode)[1:]})"


def permissions(text: str) -> Callable[[int, bool], int]:
    """The mode that a mode, of a directory or not, becomes by what chmod(1) takes. Failure where it is none."""
    if text and set(text) <= set("01234567") and int(text, 8) <= 0o7777:
        number = int(text, 8)
        # as chmod(1): fewer than five digits do not take set-id bits from a directory
        return lambda mode, directory: number | (mode & 0o6000 if directory and len(text) < 5 else 0)
    clauses = text.split(",")
    if not all(_PARTS.fullmatch(clause) for clause in clauses):
        raise Failure(f"invalid mode {text!r}; give it in octal (0644), or as in u+rwX,go-w")
    mask = umask()

    def symbolic(mode: int, directory: bool) -> int:
        for clause in clauses:
            found = _PARTS.fullmatch(clause)
            assert found
            for action, what in _ACTIONS.findall(found[2]):
                mode = _applied(mode, directory, found[1], action, what, mask)
        return mode

    return symbolic


def _applied(mode: int, directory: bool, who: str, action: str, what: str, mask: int) -> int:
    whose = 0
    for each in who or "a":
        whose |= _WHO[each]
    bits = 0
    if what in ("u", "g", "o"):
        three = mode >> {"u": 6, "g": 3, "o": 0}[what] & 7
        bits = three << 6 | three << 3 | three
    else:
        for each in what:
            if each == "s":
                bits |= 0o6000
            elif each == "t":
                bits |= 0o1000
            elif each != "X":
                bits |= _BITS[each]
            elif directory or mode & 0o111:
                bits |= 0o111
    bits &= whose
    if not who:
        bits &= ~mask | 0o7000
    if action == "+":
        return mode | bits
    if action == "-":
        return mode & ~bits
    kept = 0o6000 if directory and "s" not in what else 0  # as chmod(1): `=` leaves a directory its set-id bits
    return mode & ~(whose & ~kept) | bits


def umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def _chown(text: str) -> Change:
    uid, gid = owners(text)
    mask = sys.STATX_UID * (uid != NO_ID) | sys.STATX_GID * (gid != NO_ID)
    what = "group" if mask == sys.STATX_GID else "ownership"
    to = text + attrs.group(gid) if text.endswith(":") and gid != NO_ID else text.lstrip(":")

    def change(tree: Tree, node: Inode) -> tuple[bool, str, str]:
        found = node.stat
        names = [attrs.user(found.uid)] * (uid != NO_ID) + [attrs.group(found.gid)] * (gid != NO_ID)
        if mask:  # also where they are the same: it takes set-id bits away, as chown(2) does
            set_stat(tree, node, mask, uid=uid, gid=gid)
        if uid in (NO_ID, found.uid) and gid in (NO_ID, found.gid):
            return False, f"{what} of", f"retained as {':'.join(names)}" if names else "retained"
        return True, f"changed {what} of", f"from {':'.join(names)} to {to}"

    return change


def owners(text: str) -> tuple[int, int]:
    """(uid, gid), NO_ID for one that stays. OWNER: takes the owner's own group, as chown(1)."""
    owner, colon, group = text.partition(":")
    uid = _id(owner, "user") if owner else NO_ID
    if group:
        return uid, _id(group, "group")
    if colon and owner:
        import pwd

        try:
            return uid, pwd.getpwuid(uid).pw_gid
        except (KeyError, OverflowError):
            raise Failure(f"user {owner} has no group here; name one: {owner}:GROUP") from None
    return uid, NO_ID


def _id(text: str, kind: str) -> int:
    import grp
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid if kind == "user" else grp.getgrnam(text).gr_gid
    except (KeyError, ValueError):
        number = int(text) if text.isascii() and text.isdigit() else NO_ID
        if 0 <= number < NO_ID:
            return number
        raise Failure(f"{text!r} is no {kind} that this machine knows; give its number") from None
