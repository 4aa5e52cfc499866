"""Which server, and what of it: `SERVER[:PATH]`, as every command takes it.

    /run/a.sock:/etc/hosts      a socket: there is a `/` before the first `:`, or one of that name exists (the longest name wins)
    :/etc/hosts                 that of $GOFER_SOCKET
    host:/srv, user@host:/srv   a server on another machine

A PATH is one in the tree that is served, whatever it begins with; none is the root of it. What an older gofer took goes on
working where it can mean nothing else: a second word beside a socket is a path on it, and where $GOFER_SOCKET is set, a word
without `:`.
"""

from __future__ import annotations

import os
from collections import namedtuple

from gofer import Failure
from gofer.client.reach import is_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Address(namedtuple("Address", "server path shown remote", defaults=(False,))):
    """server: the path of a socket, or `HOST`, `USER@HOST` where it is remote. path: as it was given, b"" where it was not.

    shown: how the command's output begins the names that it finds there.
    """

    __slots__ = ()
    server: str
    path: bytes
    shown: bytes
    remote: bool

    def within(self, name: bytes) -> Address:
        """What has that name in the directory that this address means."""
        return self._replace(path=below(self.path, name), shown=below(self.shown, name))


_here: list[Address] = []  # what a word without a server begins at: the shell's current directory


def enter(address: Address) -> None:
    """From now on a word without a server means a path from there, or from the root of its server."""
    _here[:] = [address]


def here() -> Address | None:
    return _here[0] if _here else None


def below(directory: bytes, name: bytes) -> bytes:
    """The path of an entry. b"" is the root, as far as addresses go."""
    return directory + name if directory.endswith((b"/", b":")) else directory + b"/" + name


def parse(word: str) -> Address:
    """The address that a word means, where only an address can stand."""
    if _here and ("/" in word.partition(":")[0] or ":" not in word) and not (":" in word and _socket(word)[0]):
        return _address(_here[0].server, "", word)._replace(remote=_here[0].remote, path=from_here(word))
    if not word:
        raise Failure("an address must not be empty: give SERVER[:PATH], as in /run/gofer.sock:/etc")
    server, path = _socket(word)
    if server:
        return _address(server, path, word)
    head, colon, path = word.partition(":")
    if not head:
        return _address(default(), path, word)._replace(remote=bool(_here) and _here[0].remote)
    if not colon and os.environ.get("GOFER_SOCKET"):
        return _address(default(), word, word)
    return _address(head, path, word)._replace(remote="/" not in head and bool(colon))


def served(word: str) -> Address | None:
    """The address that a word means, where the path of a local file may stand as well: then None.

    Local is what has no `:`, or exists under that whole name, unless it is a socket: `./a:b` is a file where there is one.
    """
    server, _ = _socket(word)
    if server or word.startswith(":"):
        return parse(word)
    return None if ":" not in word or os.path.lexists(word) else parse(word)


def operands(words: Sequence[str]) -> list[Address]:
    """The addresses that the words of a command mean; without any, the root of $GOFER_SOCKET.

    Where all are of one server, `shown` is the path alone.
    """
    if not words:
        words = ["." if _here else ":"]
    found = not _here and _as_before(words) or [parse(word) for word in words]
    if len({(address.server, address.remote) for address in found}) == 1:
        found = [address if _here else address._replace(shown=address.path or b"/") for address in found]
    return found


def from_here(word: str) -> bytes:
    """The path that a word without a server means in the shell."""
    path = os.fsencode(word)
    return path if path.startswith(b"/") else below(_here[0].path, path) if _here[0].path else path


def default() -> str:
    """The socket of $GOFER_SOCKET; in the shell, that of the current directory."""
    if _here:
        return _here[0].server
    known = os.environ.get("GOFER_SOCKET")
    if not known:
        raise Failure("which server? give SERVER[:PATH], as in /run/gofer.sock:/etc, or set GOFER_SOCKET")
    return known


def _as_before(words: Sequence[str]) -> list[Address]:
    """SOCKET PATH...; nothing where it can mean something else."""
    first, rest = words[0], words[1:]
    alone = is_socket(first) or ":" not in first and not os.environ.get("GOFER_SOCKET")
    if rest and alone and all(map(_is_path, rest)):
        return [_address(first, word, word) for word in rest]
    return []


def _is_path(word: str) -> bool:
    """Whether it cannot be an address: it names no socket, no default and no host."""
    head, colon, _ = word.partition(":")
    return not _socket(word)[0] and (not colon or "/" in head)


def _socket(word: str) -> tuple[str, str]:
    """The longest existing socket that the word begins with, and the path behind it."""
    end = len(word)
    while end > 0:
        if is_socket(word[:end]):
            return word[:end], word[end + 1 :]
        end = word.rfind(":", 0, end)
    return "", ""


def _address(server: str, path: str, word: str) -> Address:
    return Address(server, os.fsencode(path), os.fsencode(word))
