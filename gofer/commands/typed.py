"""The words of a line that a person types in the shell: quotes, escapes, comments, and patterns for names.

A word is a list of pieces, (text, is it quoted?), as only what is not quoted can be a pattern.
"""

from __future__ import annotations

import fnmatch
import re
import stat

from gofer import Failure
from gofer.client.address import below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.client.replies import Inode
    from gofer.client.tree import Tree

    Word = list[tuple[str, bool]]

_MAGIC = re.compile(r"[*?[]")
_DT_UNKNOWN, _DT_DIR, _DT_LNK = 0, 4, 10


def split(line: str) -> list[Word]:
    """Failure where a quote is left open."""
    words: list[Word] = []
    word: Word | None = None
    at = 0
    while at < len(line):
        c = line[at]
        at += 1
        if c in " \t\n":
            word = None
            continue
        if word is None:
            if c == "#":
                break
            word = []
            words.append(word)
        if c == "'":
            end = _end(line, at, "'")
            word.append((line[at:end], True))
            at = end + 1
        elif c == '"':
            text, at = _double(line, at)
            word.append((text, True))
        elif c == "\\" and at < len(line):
            word.append((line[at], True))
            at += 1
        else:
            word.append((c, False))
    return words


def _end(line: str, at: int, quote: str) -> int:
    end = line.find(quote, at)
    if end < 0:
        raise Failure(f"a {quote} is left open")
    return end


def _double(line: str, at: int) -> tuple[str, int]:
    text = ""
    while at < len(line) and line[at] != '"':
        if line[at] == "\\" and line[at + 1 : at + 2] in ('"', "\\", "$", "`"):
            at += 1
        text += line[at]
        at += 1
    _end(line, at, '"')
    return text, at + 1


def plain(word: Word) -> str:
    return "".join(text for text, _ in word)


def is_pattern(word: Word) -> bool:
    return any(not quoted and _MAGIC.search(text) for text, quoted in word)


def _parts(word: Word) -> list[tuple[bytes, re.Pattern[bytes] | None]]:
    """The components of a path: as they are, or what their names match."""
    parts: list[Word] = [[]]
    for text, quoted in word:
        for c in text:
            if c == "/":
                parts.append([])
            else:
                parts[-1].append((c, quoted))
    return [(plain(part).encode("utf-8", "surrogateescape"), _pattern(part) if is_pattern(part) else None) for part in parts]


def _pattern(part: Word) -> re.Pattern[bytes]:
    text = "".join(f"[{c}]" if quoted and c in "*?[" else c for c, quoted in part)
    # names are bytes: as Latin-1, in which each is a character
    return re.compile(fnmatch.translate(text.encode("utf-8", "surrogateescape").decode("latin-1")).encode("latin-1"), re.DOTALL)


def expand(tree: Tree, start: bytes, word: Word) -> list[bytes]:
    """The paths below `start` (or the root) that the pattern matches, sorted, as they are typed; none where there are none."""
    parts = _parts(word)
    absolute = len(parts) > 1 and parts[0] == (b"", None)
    found: list[tuple[bytes, bytes]] = [(b"/", b"/") if absolute else (start, b"")]  # where it is, and how it is typed
    for number, (name, pattern) in enumerate(parts[absolute:], start=int(absolute)):
        last = number == len(parts) - 1
        reached = []
        for where, typed in found:
            names = _matching(tree, where, pattern, last) if pattern else [name]
            for each in names:
                reached.append((below(where, each) if each else where, typed + each + b"/" * (not last)))
        found = reached
    return sorted(typed for where, typed in found if _exists(tree, where))


def _matching(tree: Tree, where: bytes, pattern: re.Pattern[bytes], last: bool) -> list[bytes]:
    try:
        node = tree.resolve(where)
    except OSError as error:
        if error.errno is None:
            raise
        return []
    if not stat.S_ISDIR(node.stat.mode):
        tree.drop(node.fd)
        return []
    hidden = pattern.pattern.startswith((b"(?s:\\.", b"(?s:[.]"))
    try:
        return [
            entry.name
            for entry in tree.entries(node.fd)
            if pattern.match(entry.name)
            and (hidden or not entry.name.startswith(b"."))
            and (last or entry.type in (_DT_DIR, _DT_LNK, _DT_UNKNOWN))
        ]
    except OSError as error:
        if error.errno is None:
            raise
        return []
    finally:
        tree.drop(node.fd)


def _exists(tree: Tree, path: bytes) -> bool:
    try:
        node: Inode = tree.resolve(path, follow=False)
    except OSError as error:
        if error.errno is None:
            raise
        return False
    tree.drop(node.fd)
    return True
