"""-exec and -ok of `gofer find`: a command of this host for what is found there.

`{}` is what -print would print: the path in what is served. The command has the server in $GOFER_SOCKET, so that a gofer in it
finds the same file by a colon before the path: -exec gofer cat :{} \\;
"""

from __future__ import annotations

import os

from gofer import Failure
from gofer.commands.common import confirmed
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.commands.common import Session

_MOST = 100_000  # bytes of paths for one command: a list of arguments of more may be too long for the kernel
RUNS = ("-exec", "-ok")


def length(words: list[str]) -> int:
    """How many of these words, which stand behind -exec, are its own: up to `;`, or to `{} +`. All, where neither comes."""
    for at, word in enumerate(words):
        if word == ";" or word == "+" and at and words[at - 1] == "{}":
            return at + 1
    return len(words)


class Command:
    """words: with the `;` or `+` at its end. asks: as -ok does. environment(): the command's."""

    def __init__(self, session: Session, action: str, words: list[str], environment: Callable[[], dict[str, str]]) -> None:
        *argv, end = words or [""]
        if end not in (";", "+") or not argv:
            raise Failure(rf"find: {action} needs a command, and \; or {{}} + at its end")
        self._session = session
        self._asks = action == "-ok"
        self._many = end == "+"
        self._argv = [os.fsencode(word) for word in (argv[:-1] if self._many else argv)]
        if self._many and (self._asks or not self._argv or b"{}" in b"".join(self._argv)):
            raise Failure(f"find: {action} ... {{}} + runs a command with all of the names behind its words, and asks nobody")
        self._environment = environment
        self._paths: list[bytes] = []
        self._size = 0

    def __call__(self, path: bytes) -> bool:
        if self._many:
            self._paths.append(path)
            self._size += len(path) + 9
            if self._size > _MOST:
                self.finish()
            return True
        argv = [word.replace(b"{}", path) for word in self._argv]
        if self._asks:
            self._session.flush()
            if not confirmed(f"< {' '.join(map(printable, argv))} > ? "):
                return False
        return self._run(argv) == 0

    def finish(self) -> None:
        """Run it for what has been found since."""
        paths, self._paths, self._size = self._paths, [], 0
        if paths and self._run([*self._argv, *paths]):
            self._session.status = 1

    def _run(self, argv: list[bytes]) -> int:
        """Its exit status; what it cannot be run for is told."""
        import signal

        self._session.flush()
        try:
            child = os.posix_spawnp(
                argv[0], argv, self._environment(), setsigdef=(signal.SIGPIPE, signal.SIGXFSZ)
            )
        except OSError as error:
            self._session.complain(argv[0], error.strerror or str(error), 1 if self._many else 0)
            return 127
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
