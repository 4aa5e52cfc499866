"""What can stand where a command line is being typed: commands, options, choices, users, files, and what a server serves.

All of it is read from the commands' parsers, so nothing is listed twice. How the shells ask is in completions.py.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from gofer import Failure
from gofer.client import address
from gofer.client.reach import is_socket
from gofer.client.tree import served
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence

    from gofer.client.address import Address

    Parsers = Callable[[Sequence[str]], "tuple[argparse.ArgumentParser, int] | None"]

PATIENCE = 1.0  # seconds that a server may take to answer: somebody waits at a prompt
MOST = 2000  # names of a directory: nobody reads more
_DT_DIR = 4
# An argument's metavar says what it takes; of an option's value it has to be one of these.
_FILES = ("PATH", "FILE", "DIR", "SOCKET", "SERVER")


class Answer(NamedTuple):
    """kind: "words" (these, then a blank), "more" (these, and there may be more to type), "files" or "commands" (the shell knows
    them) or "none"; words: whole ones, with what they mean; head: how a file's word begins (`--config=`)."""

    kind: str
    words: list[tuple[str, str]]
    head: str = ""


NONE = Answer("none", [])


def answer(words: Sequence[str], current: str, commands: dict[str, str], parsers: Parsers) -> Answer:
    """words: those before the one that is being typed, without the program's name; commands: name -> what it does."""
    if "--" in words:
        behind = len(words) - words.index("--") - 1
        return Answer("files" if behind or "/" in current else "commands", [])
    if not words:
        first = {**commands, "--help": "tell of all commands", "--version": "tell the version"}
        return _of(first.items(), current)
    found = parsers(words)
    if found is None:
        return NONE
    parser, at = found
    return _Line(parser, words[at:]).answer(current)


def _of(words: Iterable[tuple[str, str]], current: str) -> Answer:
    return Answer("words", [(word, told) for word, told in words if word.startswith(current)])


class _Line:
    """What has been typed of one command's words: where in its parser that leads."""

    def __init__(self, parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
        self._options = parser._option_string_actions
        self._positionals = [action for action in parser._actions if not action.option_strings]
        self._given: set[str] = set()
        self._count = 0
        self._waiting: argparse.Action | None = None  # an option that has its value still to come
        for word in words:
            self._take(word)

    def _take(self, word: str) -> None:
        if self._waiting is not None:
            self._waiting = None
        elif word.startswith("-") and len(word) > 1:
            option, equals, _ = word.partition("=")
            action = self._options.get(option)
            if action is not None:
                self._given.update(action.option_strings)
                self._waiting = action if action.nargs != 0 and not equals else None
        else:
            self._count += 1

    def answer(self, current: str) -> Answer:
        if self._waiting is not None:
            return _values(self._waiting, "", current, optional=True)
        option, equals, value = current.partition("=")
        if current.startswith("-") and equals:
            action = self._options.get(option)
            return _values(action, f"{option}=", value, optional=True) if action and action.nargs != 0 else NONE
        if current.startswith("-"):
            return _of(self._left(), current)
        action = self._positional()
        return _values(action, "", current) if action else NONE

    def _left(self) -> list[tuple[str, str]]:
        """The options that may still be given, and what each does."""
        left = []
        for option, action in self._options.items():
            repeatable = type(action).__name__ == "_AppendAction"
            if option.startswith("--") and action.help != "==SUPPRESS==" and (repeatable or option not in self._given):
                left.append((option, first_words(action.help or "")))
        return left

    def _positional(self) -> argparse.Action | None:
        count = self._count
        for action in self._positionals:
            takes = action.nargs if isinstance(action.nargs, int) else 1
            if count < takes or action.nargs in ("*", "+", "..."):
                return action
            count -= takes
        return None


def first_words(text: str) -> str:
    """Of an option's help: what fits beside it."""
    return text.replace("%%", "%").partition(";")[0].partition(" (")[0].partition(": ")[0]


def _values(action: argparse.Action, head: str, current: str, optional: bool = False) -> Answer:
    """optional: of an option."""
    if action.choices:
        return _of([(f"{head}{choice}", "") for choice in action.choices], head + current)
    metavar = action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar or (action.dest.upper(),))
    if metavar in ("USER", "GROUP"):
        return _of([(head + name, "") for name in _names(metavar)], head + current)
    if optional and not any(word in metavar for word in _FILES):
        return NONE
    found = _served(current, not optional and ("SERVER" in metavar or "SOCKET" in metavar))
    if found is None:
        return Answer("files", [], head)
    return found._replace(words=[(head + word, told) for word, told in found.words])


def _names(metavar: str) -> list[str]:
    if metavar == "USER":
        import pwd

        return sorted(entry.pw_name for entry in pwd.getpwall())
    import grp

    return sorted(entry.gr_name for entry in grp.getgrall())


def _served(word: str, only: bool) -> Answer | None:
    """What begins so on a server; None where the word is a local file's. only: nothing but a server can stand there."""
    try:
        if ":" in word:
            where = address.served(word)
        elif only and (address.here() or os.environ.get("GOFER_SOCKET")):
            where = address.parse(word or "/")
        else:
            return _sockets(word) if only else None
        if where is None:
            return None
        names = [] if where.remote else _listed(where)
    except (Failure, OSError):
        return NONE
    head = word[: len(word) - len(os.fsdecode(where.path.rpartition(b"/")[2]))]
    words = [(head + name, "") for name in names]
    return Answer("more" if any(word.endswith("/") for word, _ in words) else "words", words)


def _listed(where: Address) -> list[str]:
    """The names in the path's directory that begin as the path ends; a directory's with a `/` behind it."""
    head, slash, tail = where.path.rpartition(b"/")
    found = []
    with served(where, PATIENCE) as tree:
        for entry in tree.entries(tree.resolve(head + slash).fd):
            hidden = entry.name.startswith(b".") and not tail.startswith(b".")
            if entry.name.startswith(tail) and not hidden and _plain(entry.name):
                found.append(os.fsdecode(entry.name) + "/" * (entry.type == _DT_DIR))
            if len(found) >= MOST:
                break
    return sorted(found)


def _plain(name: bytes) -> bool:
    """Whether a shell gets it as it is, a name a line."""
    return printable(name) == os.fsdecode(name)


def _sockets(word: str) -> Answer | None:
    """`SOCKET:`, to go on behind it, where the word can become nothing but sockets."""
    folder, slash, tail = word.rpartition("/")
    names = [name for name in os.listdir(folder + slash or ".") if name.startswith(tail)]
    paths = [folder + slash + name for name in names]
    if not tail or len(paths) > MOST or not paths or not all(map(is_socket, paths)):
        return None
    return Answer("more", [(f"{path}:", "") for path in sorted(paths)])
