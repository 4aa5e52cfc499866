"""What the commands on served trees share: options, which server, output, and what becomes of one entry that goes wrong.

    def run(options) -> int:
        with Session("head", options) as session:
            for address in operands(options.addresses):
                with session.each(address.shown):          # an OSError is told; the rest goes on, and the status is 1
                    tree = session.tree(address)
                    session.write(tree.client.readlinkat(tree.resolve(address.path, follow=False).fd) + b"\\n")
        return session.status

Nothing of what a command writes is seen after a line on stderr that came later.
"""

from __future__ import annotations

import contextlib
import os
import stat
from errno import EACCES, EDQUOT, EISDIR, EMFILE, ENFILE, ENOSPC, EOPNOTSUPP, EPERM, EROFS

from gofer import Failure
from gofer.client import tree as client_tree
from gofer.client.address import Address, below, operands
from gofer.client.transport import Lost
from gofer.commands.options import explaining, seconds
from gofer.output import printable, put, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Any

    from gofer.client.content import Content
    from gofer.client.replies import Inode
    from gofer.client.tree import Tree

__all__ = [
    "Address", "Session", "add_addresses", "add_common", "below", "confirmed", "open_content", "operands", "place_for",
    "shown_at", "why",
]  # fmt: skip

_BUFFERED = 1 << 16


def add_addresses(parser: ArgumentParser, default: str = "") -> None:
    """As many SERVER[:PATH] as are given, for `operands`. default: what none means, where one need not be given."""
    more = f" (default: {default})" if default else ""
    if parser.usage is None:  # argparse would make it at every start, which costs 4 ms
        parser.usage = f"%(prog)s [options] {'[SERVER[:PATH] ...]' if default else 'SERVER[:PATH] ...'}"
    parser.add_argument(
        "addresses",
        metavar="SERVER[:PATH]",
        nargs="*" if default else "+",
        help=f"the server's socket and a path in what it serves; nothing before the colon: $GOFER_SOCKET{more}",
    )


def add_common(parser: ArgumentParser, json: str = "") -> None:
    """The options of every command. json: what one object is about, where there is --json."""
    if json:
        parser.add_argument("--json", action="store_true", help=f"print a JSON object a line, for each {json}")
    parser.add_argument(
        "--timeout",
        type=explaining(seconds),
        default=30.0,
        metavar="SECONDS",
        help="give up when the server has not answered for so long; 0: never (default: 30)",
    )
    add_ssh(parser)


def add_ssh(parser: ArgumentParser) -> None:
    """How HOST:PATH is reached; `ssh_of` has the values."""
    group = parser.add_argument_group("HOST:PATH, over ssh")
    group.add_argument("--ssh", metavar="COMMAND", default="ssh", help="the ssh to run, with its options: 'ssh -p 2222'")
    group.add_argument(
        "--remote-gofer",
        metavar="WHICH",
        default="auto",
        help="the gofer there: one of this version in its PATH, else this very program is sent and run from memory (auto); "
        "always the one there (never: nothing is sent); always this one (always); or its path",
    )
    group.add_argument(
        "--remote-command", metavar="COMMAND", help="run this there, for `gofer`: 'sudo gofer', 'doas /opt/gofer'"
    )


def ssh_of(options: Any, changes: bool) -> Any:
    """The SSH that the options of `add_ssh` mean. changes: whether what is served there is to be changed."""
    from gofer.client.remote import SSH

    return SSH(options.ssh, options.remote_gofer, options.remote_command or "", not changes)


class Kept:
    """The connections of all commands that one process runs, one after the other: the shell's."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._trees: dict[tuple[str, int], Tree] = {}

    def __enter__(self) -> Kept:
        _kept[:] = [self]
        return self

    def __exit__(self, *exc: object) -> None:
        _kept.clear()
        self._stack.close()


_kept: list[Kept] = []


def shown_at(address: Address, path: bytes) -> bytes:
    """How what has that path in a Walk from the address is shown."""
    if not path:
        return address.shown
    return address.shown[:-1] + path if address.shown.endswith(b"/") else address.shown + path


class Session:
    """One command's connections, its output and its exit status.

    changes: whether it is to change what is served; what only looks at another host has a read-only server there. In a shell
    all are writable, as the next command may change something, and ssh would have to be let in once more for it.
    """

    def __init__(self, command: str, options: Any, changes: bool = False) -> None:
        self.status = 0
        self._changes = changes or bool(_kept)
        self._command = command
        self._options = options
        self._stack, self._trees = (_kept[0]._stack, _kept[0]._trees) if _kept else (contextlib.ExitStack(), {})
        self._parts: list[bytes] = []
        self._size = 0
        self._terminal = os.isatty(1)
        self._most = 0 if self._terminal else _BUFFERED

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None or issubclass(kind, (Failure, OSError)):
            self.flush()
        if _kept and (kind is None or issubclass(kind, (Failure, OSError)) and not issubclass(kind, Lost)):
            return None
        self._trees.clear()  # what was broken off may leave an answer on its way
        return self._stack.__exit__(kind, error, trace)

    def tree(self, address: Address) -> Tree:
        """That of the address's server, which is reached once."""
        key = address.server, address.remote and 1 + address.path.startswith(b"/")
        if key not in self._trees:
            ssh = ssh_of(self._options, self._changes) if address.remote else None
            self._trees[key] = self._stack.enter_context(client_tree.served(address, self._options.timeout, ssh))
        return self._trees[key]

    def write(self, data: bytes | memoryview) -> None:
        """Output, in pieces worth a system call; at once on a terminal, and what lies in memory that is not its own."""
        if isinstance(data, memoryview):
            self.flush()
            put(data)
            return
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._most:
            self.flush()

    def flush(self) -> None:
        data, self._parts, self._size = b"".join(self._parts), [], 0
        put(data)

    def seen(self, name: bytes) -> bytes:
        """The name as it is; on a terminal without what would speak to that."""
        return printable(name).encode() if self._terminal else name

    def write_json(self, fields: dict[str, Any]) -> None:
        """Bytes are names: where they are no UTF-8, as lone surrogates, which Python's os.fsencode turns back."""
        import json

        plain = {name: os.fsdecode(value) if isinstance(value, bytes) else value for name, value in fields.items()}
        self.write(json.dumps(plain).encode() + b"\n")

    @contextlib.contextmanager
    def each(self, shown: bytes, status: int = 1) -> Iterator[None]:
        """One operand or entry: what goes wrong with it is told, and costs no other."""
        try:
            yield
        except OSError as error:
            self.bad(shown, error, status=status)

    def bad(self, shown: bytes, error: OSError, more: str = "", status: int = 1) -> None:
        """Tell of it; not of the end of the connection, which is raised further. more: the remedy, where the command knows it."""
        if isinstance(error, Lost):
            raise error
        self.complain(shown, why(error, more), status)

    def complain(self, shown: bytes, cause: str, status: int = 1) -> None:
        """A line on stderr, after the output so far; the exit status is at least this."""
        self.flush()
        self.status = max(self.status, status)
        tell(f"gofer: {self._command} {printable(shown)}: {cause}")


@contextlib.contextmanager
def open_content(session: Session, address: Address) -> Iterator[Content]:
    """The contents of what the address leads to: a regular file, or what the server opens for who asks."""
    from gofer.client.content import Content

    tree = session.tree(address)
    node = tree.resolve(address.path)
    try:
        kind = stat.S_IFMT(node.stat.mode)
        if kind == stat.S_IFDIR:
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        try:
            content = Content(tree, node)
        except Lost:
            raise
        except OSError as error:
            if error.errno == EPERM and kind in _NEEDS:
                raise OSError(EPERM, f"{error.strerror}; a server opens these with {_NEEDS[kind]} only") from None
            raise
        with content:
            yield content
    finally:
        tree.drop(node.fd)


def place_for(tree: Tree, path: bytes, command: str) -> tuple[Inode, bytes]:
    """The directory in which something is to get that path, and its name there."""
    try:
        return tree.parent(path)
    except Lost:
        raise
    except OSError as error:
        raise Failure(f"{command}: there is no place for {printable(path)} on the server: {error.strerror}") from None


def confirmed(question: str) -> bool:
    """Whether whoever is at stdin says yes; its end is a no. The question goes to stderr, as those of rm(1) do."""
    os.write(2, question.encode("utf-8", "backslashreplace"))
    answer = b""
    while not answer.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        answer += byte
    return answer.lstrip()[:1] in (b"y", b"Y")


def why(error: OSError, more: str = "") -> str:
    """The cause, and the remedy where the errno tells one."""
    cause = error.strerror or str(error)
    remedy = more or _REMEDIES.get(error.errno or 0, "")
    return f"{cause}; {remedy}" if remedy else cause


_NEEDS = {stat.S_IFIFO: "--host-fifo=open", stat.S_IFSOCK: "--host-uds=open", stat.S_IFCHR: "--char-devices=open"}
_REMEDIES = {
    EACCES: "the server's user may not: its rights decide, not yours",
    EDQUOT: "the quota of the server's user is used up",
    EMFILE: "the server's --fd-limit, or its limit of open files, is reached",
    ENFILE: "the server's host has too many files open",
    ENOSPC: "the file system that is served is full",
    EOPNOTSUPP: "the file system that is served, or the server, does not have this",
    EROFS: "the server was started with --read-only, or what it serves is mounted so",
}
