"""What is complete gets its name: files wait here under names of their own until some hundred of them are synced in one go.

A sync takes as long for one file as for all that are waiting, so they share it. What has to come after them, such as a
directory's times, waits in the same line. If the copy ends before, none of them has its name.
"""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

from gofer.client.transport import Lost
from gofer.copy.names import WORTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from gofer.client.replies import Stat
    from gofer.copy.sides import File, Tree

    Complain = Callable[[bytes, OSError, bool], None]

_MOST = 256  # files: each is an open fd, on both sides
_MOST_BYTES = 256 << 20


class Complete(NamedTuple):
    """A file that is: `part` in its directory, which is to be `name`. file: open; None: nothing is to be synced."""

    directory: Any
    part: bytes
    name: bytes
    shown: bytes
    stat: Stat
    file: File | None


class Commit:
    """complain: told of what fails. sync: whether to wait for the disk. done: told of each file that has its name."""

    def __init__(self, tree: Tree, complain: Complain, done: Callable[[Complete], None], sync: bool) -> None:
        self._tree, self._complain, self._done, self._sync = tree, complain, done, sync
        self._line: list[Complete | tuple[bytes, Callable[[], None]]] = []
        self._files = self._bytes = 0
        self.making: dict[
            bytes, tuple[Any, int]
        ] = {}  # parts that are not complete: where, and how many bytes they have

    def add(self, complete: Complete) -> None:
        self.making.pop(complete.part, None)
        self._line.append(complete)
        self._files += 1
        self._bytes += complete.stat.size
        if self._files >= _MOST or self._bytes >= _MOST_BYTES:
            self.flush()

    def then(self, shown: bytes, call: Callable[[], None]) -> None:
        """To be done when all before has its name; an OSError of it is told."""
        self._line.append((shown, call))
        if len(self._line) >= 2 * _MOST:
            self.flush()

    def flush(self) -> None:
        line, self._files, self._bytes = self._line, 0, 0
        self._line = []
        try:
            failed = self._synced([each for each in line if isinstance(each, Complete)])
            while line:
                ready = list(takewhile(lambda each: isinstance(each, Complete), line))
                del line[: len(ready)]
                self._name([each for each in ready if isinstance(each, Complete) and each.part not in failed])
                if line:
                    self._call(line.pop(0))
        finally:
            self._line = line + self._line

    def _synced(self, files: list[Complete]) -> set[bytes]:
        """The parts of those that did not get to the disk."""
        files = [each for each in files if each.file]
        if not self._sync or not files:
            return set()
        failed = set()
        for each, error in zip(files, self._tree.sync([each.file for each in files if each.file])):
            if error:
                failed.add(each.part)
                self._fail(each, error)
        return failed

    def _name(self, files: list[Complete]) -> None:
        if not files:
            return
        for each, error in zip(files, self._tree.rename([(each.directory, each.part, each.name) for each in files])):
            if error:
                self._fail(each, error)
            else:
                self._done(each)

    def _call(self, last: Complete | tuple[bytes, Callable[[], None]]) -> None:
        if not isinstance(last, Complete):
            shown, call = last
            try:
                call()
            except OSError as error:
                self._complain(shown, error, True)

    def _fail(self, each: Complete, error: OSError) -> None:
        self._complain(each.shown, error, True)
        discard(self._tree, each.directory, each.part)

    def discard(self, part: bytes) -> None:
        """One that is being made, and will not be."""
        discard(self._tree, self.making.pop(part)[0], part)

    def abandon(self, resumable: bool = False) -> int:
        """The copy ends here. Returns how many large files are kept for another that goes on with them, where one can."""
        making, self.making = self.making, {}
        left = [(part, *state) for part, state in making.items()]
        left += [(each.part, each.directory, each.stat.size) for each in self._line if isinstance(each, Complete)]
        self._line = []
        for part, directory, size in left:
            if size < WORTH or not resumable:
                discard(self._tree, directory, part)
        return sum(size >= WORTH for _, _, size in left) if resumable else 0


def discard(tree: Tree, directory: Any, part: bytes) -> None:
    try:
        tree.remove(directory, part, False)
    except Lost:
        raise
    except OSError:  # gone already; or it stays, and the next copy finds it
        pass
