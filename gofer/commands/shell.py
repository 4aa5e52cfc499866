"""`gofer shell`: the other commands with a current directory on a served tree, from a terminal or a script.

What a command is, and what its words mean, is as outside; but a word without a server is a path from the current directory,
and one that begins with `:` from the root of the server. A line is read, its words are split and its patterns expanded
(typed.py), and the command is run in this process, over connections that stay.
"""

from __future__ import annotations

import os
import posixpath
import stat
import subprocess
from errno import ENOTDIR

from gofer import Failure
from gofer.client import address
from gofer.client.address import Address
from gofer.commands import typed
from gofer.commands.common import Kept, Session, add_common, operands, why
from gofer.output import printable, put, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any

    from gofer.commands.typed import Word

_NOT_HERE = ("serve", "runsc", "shell", "completions")
_OWN = {
    "cd": "go to a directory (without one: where the shell began; -: where it was before)",
    "pwd": "tell the current directory",
    "lcd": "go to a local directory, for get and put",
    "help": "tell of a command, or of all",
    "exit": "end the shell, with a status",
}


def add(parser: ArgumentParser) -> None:
    parser.description = (
        "Type commands without `gofer`, on a served tree that has a current directory: `ls -l`, `get -r logs`, `rm *.tmp`. "
        "Besides: cd, pwd, lcd, help, exit, and ! before a command of this machine. Tab completes, Ctrl-C ends a command, "
        "Ctrl-D the shell. Without a terminal the lines of stdin are a script."
    )
    parser.add_argument("server", metavar="SERVER[:PATH]", nargs="?", help="where to begin (default: the root of $GOFER_SOCKET)")
    parser.add_argument("-c", dest="line", metavar="COMMANDS", help="run these, one a line, instead of what stdin says")
    parser.add_argument("-e", "--errexit", action="store_true", help="end with the first command that fails, and its status")
    add_common(parser)


def run(options: Any) -> int:
    with Kept() as kept:
        shell = Shell(options, operands([] if options.server is None else [options.server])[0], kept)
        if options.line is not None:
            return shell.script(iter(options.line.split("\n")))
        if not os.isatty(0):
            return shell.script(_lines())
        return shell.converse()


class Shell:
    """status: of the last command. ended: whether there is no next one."""

    def __init__(self, options: Any, start: Address, kept: Kept) -> None:
        self._options = options
        self._kept = kept
        self.status = 0
        self.ended = False
        self._start = start._replace(path=_clean(start.path, start.remote))
        self._before = self._start
        self._go(self._start, f"shell: {printable(start.shown)}")

    def _go(self, where: Address, told: str) -> None:
        """Failure: it is no directory that can be had. told: how it is called then."""
        try:
            with Session("cd", self._options) as session:
                tree = session.tree(where)
                node = tree.resolve(where.path)
                tree.drop(node.fd)
                if not stat.S_ISDIR(node.stat.mode):
                    raise OSError(ENOTDIR, os.strerror(ENOTDIR))
        except OSError as error:
            if error.errno is None:
                raise
            raise Failure(f"{told}: {why(error)}") from None
        self._here = where
        address.enter(where)

    # Lines

    def script(self, lines: Iterator[str]) -> int:
        for line in lines:
            self.line(line)
            if self.ended or self._options.errexit and self.status:
                break
        return self.status

    def converse(self) -> int:
        from gofer.commands import prompt

        with prompt.Prompt(self._options) as asked:
            while not self.ended:
                try:
                    line = asked.line(f"{self._here.server}:{printable(self._here.path or b'/')}> ")
                    if line is None:
                        put(b"\n")
                        break
                    self.line(line)
                    if self._options.errexit and self.status:
                        break
                except KeyboardInterrupt:  # also one that comes a moment after the line
                    put(b"\n")
        return self.status

    def line(self, line: str) -> None:
        """One line: its status is `self.status`; what goes wrong is told."""
        try:
            if line.lstrip().startswith("!"):
                self.status = self._local(line.lstrip()[1:])
                return
            found = typed.split(line)
            if found:
                self.status = self._command(typed.plain(found[0]), found[1:])
        except KeyboardInterrupt:
            self.status = 130
            if os.isatty(1):
                put(b"\n")
        except Failure as error:
            self._fails(str(error))
        except OSError as error:
            name = f"{printable(os.fsencode(error.filename))}: " if error.filename else ""
            self._fails(f"{name}{error.strerror or error}")

    def _fails(self, why: str) -> None:
        tell(f"gofer: {why}")
        self.status = 1

    def _local(self, line: str) -> int:
        """A command of this machine's shell; Ctrl-C is its own."""
        import signal

        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            shell = os.environ.get("SHELL") or "/bin/sh"
            restore = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731
            child = subprocess.Popen([shell, "-c", line] if line.strip() else [shell], preexec_fn=restore)
            status = child.wait()
        finally:
            signal.signal(signal.SIGINT, before)
        return status if status >= 0 else 128 - status

    def _command(self, name: str, rest: list[Word]) -> int:
        if name in _OWN:
            return int(getattr(self, f"_{name}")([typed.plain(word) for word in rest]))
        if name in _NOT_HERE:
            raise Failure(f"{name}: not from in here; leave the shell for it, or say !gofer {name}")
        if name not in self._options.commands:
            raise Failure(f"{name}: no such command; `help` lists them, ! before it runs one of this machine")
        argv = [name]
        for number, word in enumerate(rest):
            argv += self._expanded(name, word, number == len(rest) - 1, len(rest))
        try:
            return int(self._options.do([*self._common(argv[0]), *argv[1:]], "gofer"))
        except SystemExit as end:  # argparse has told why, or printed its help
            return end.code if isinstance(end.code, int) else 2

    def _common(self, name: str) -> list[str]:
        """The command, with the shell's own --timeout and ssh where it takes them."""
        options, known = self._options, self._options.parser(name)._option_string_actions
        given = {"--timeout": f"{options.timeout:g}", "--ssh": options.ssh, "--remote-gofer": options.remote_gofer}
        if options.remote_command:
            given["--remote-command"] = options.remote_command
        return [name, *(f"{option}={value}" for option, value in given.items() if option in known)]

    def _expanded(self, name: str, word: Word, last: bool, count: int) -> list[str]:
        """The word, or what it matches: here for what put reads and get writes, else there."""
        text = typed.plain(word)
        if not typed.is_pattern(word) or text.startswith("-"):
            return [text]
        if name in ("find", "xattr"):  # patterns are words of theirs
            return [text]
        if (name == "put" and not last) or (name == "get" and last and count > 1):
            import glob

            return sorted(glob.glob(text)) or [text]
        with Session(name, self._options) as session:
            where = address.parse(text)
            if ":" in text and (where.server, where.remote) != (self._here.server, self._here.remote):
                return [text]
            found = typed.expand(session.tree(self._here), self._here.path, word)
        return [_no_option(os.fsdecode(path)) for path in found] or [text]

    # Commands of its own

    def _cd(self, rest: list[str]) -> int:
        if len(rest) > 1:
            raise Failure("cd: one directory")
        word = rest[0] if rest else ""
        there = self._before if word == "-" else address.parse(word) if word else self._start
        there = there._replace(path=_clean(there.path, there.remote))
        before = self._here
        self._go(there, f"cd: {word or printable(there.path)}")
        self._before = before
        return 0

    def _pwd(self, rest: list[str]) -> int:
        with Session("pwd", self._options) as session:
            session.write(session.seen(self._here.path or b"/") + b"\n")
        return 0

    def _lcd(self, rest: list[str]) -> int:
        os.chdir(rest[0] if rest else os.path.expanduser("~"))
        put(f"{os.getcwd()}\n".encode("utf-8", "surrogateescape"))
        return 0

    def _help(self, rest: list[str]) -> int:
        if rest and rest[0] not in _OWN:
            return self._command(rest[0], [[("--help", True)]])
        lines = {name: what for name, what in self._options.commands.items() if name not in _NOT_HERE}
        for name, what in {**lines, **_OWN, "!": "run a command of this machine"}.items():
            if not rest or name == rest[0]:
                put(f"  {name:12} {what}\n".encode())
        return 0

    def _exit(self, rest: list[str]) -> int:
        self.ended = True
        if rest and not rest[0].isdigit():
            raise Failure(f"exit: {rest[0]} is no status; give a number")
        return int(rest[0]) & 255 if rest else self.status


def _no_option(path: str) -> str:
    """A file called -r is not to be an option."""
    return f"./{path}" if path.startswith("-") else path


def _clean(path: bytes, remote: bool) -> bytes:
    """Without `.`, `..` and double slashes, as a person sees it; one of a far host may begin at home."""
    if remote and not path.startswith(b"/"):
        cleaned = posixpath.normpath(b"/" + path)[1:]
        return cleaned.lstrip(b"/")
    return posixpath.normpath(b"/" + path.lstrip(b"/"))


def _lines() -> Iterator[str]:
    """Of stdin, each as soon as it is there: what a command reads from it is what follows."""
    rest = b""
    while True:
        byte = os.read(0, 1)
        if byte in (b"", b"\n"):
            if rest or byte:
                yield os.fsdecode(rest)
            rest = b""
            if not byte:
                return
        else:
            rest += byte


