"""What is complete gets its name: files wait here under names of their own until some hundred of them are synced in one go.

A sync takes as long for one file as for all that are waiting, so they share it. What has to come after them, such as a
directory's times, waits with them, and may come after some that were added later. If the copy ends before, none of them has
its name.
"""

from __future__ import annotations

from collections import namedtuple

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


class Complete(namedtuple("Complete", "directory part name shown stat")):
    """A file that is: `part` in its directory, which is to be `name`."""

    __slots__ = ()
    directory: Any
    part: bytes
    name: bytes
    shown: bytes
    stat: Stat


class Commit:
    """complain: told of what fails. sync: whether to wait for the disk. done: told of each file that has its name.

    What is full is synced and sent off; how that went is asked for when the next is.
    """

    def __init__(self, tree: Tree, complain: Complain, done: Callable[[Complete], None], sync: bool) -> None:
        self._tree, self._complain, self._done, self._sync = tree, complain, done, sync
        self._line: list[Complete] = []
        self._files: list[Any] = []  # of these; None: nothing is to be synced
        self._after: list[tuple[bytes, Callable[[], None]]] = []  # what is to be done when these have their names
        self._naming: list[Complete] = []  # about to have their names
        self._named: Callable[[], list[OSError | None]] = list
        self._then: list[tuple[bytes, Callable[[], None]]] = []  # as _after, of these
        self._bytes = 0
        self.making: dict[
            bytes, tuple[Any, int]
        ] = {}  # parts that are not complete: where, and how many bytes they have

    def add(self, complete: Complete, file: File | None) -> None:
        """file: which is open up to the sync; None: nothing is to be synced."""
        self.making.pop(complete.part, None)
        self._line.append(complete)
        self._files.append(file)
        self._bytes += complete.stat.size
        if len(self._line) >= _MOST or self._bytes >= _MOST_BYTES:
            self._send_off()

    def then(self, shown: bytes, call: Callable[[], None]) -> None:
        """To be done when all before has its name; an OSError of it is told."""
        self._after.append((shown, call))
        if len(self._after) >= _MOST:
            self.flush()

    def flush(self) -> None:
        """All that was added has its name, and what was to be done then is done."""
        self._send_off()
        self._finish()

    def _send_off(self) -> None:
        self._finish()
        if self._sync:
            self._synced()
        self._naming, self._line, self._files, self._bytes = self._line, [], [], 0
        self._then, self._after = self._after, []
        self._named = self._tree.renaming([(each.directory, each.part, each.name) for each in self._naming])

    def _finish(self) -> None:
        named, self._named = self._named, list
        told = named()
        naming, self._naming = self._naming, []
        for each, error in zip(naming, told):
            if error is None:
                self._done(each)
            else:
                self._fail(each, error)
        calls, self._then = self._then, []  # one of these may flush by itself
        try:
            while calls:
                shown, call = calls.pop(0)
                try:
                    call()
                except OSError as error:
                    self._complain(shown, error, True)
        finally:
            self._then = calls + self._then

    def _synced(self) -> None:
        """Take out what does not get to the disk."""
        told = iter(self._tree.sync([file for file in self._files if file]))
        failed = {i: error for i, file in enumerate(self._files) if file and (error := next(told))}
        for i, error in sorted(failed.items(), reverse=True):
            self._files.pop(i)
            self._fail(self._line.pop(i), error)

    def _fail(self, each: Complete, error: OSError) -> None:
        self._complain(each.shown, error, True)
        discard(self._tree, each.directory, each.part)

    def discard(self, part: bytes) -> None:
        """One that is being made, and will not be."""
        discard(self._tree, self.making.pop(part)[0], part)

    def abandon(self, resumable: bool = False) -> int:
        """The copy ends here. Returns how many large files are kept for another that goes on with them, where one can."""
        left = [(part, *state) for part, state in self.making.items()]
        left += [(each.part, each.directory, 0) for each, error in zip(self._naming, self._named()) if error]
        self.making, self._naming, self._named = {}, [], list
        self._then.clear()
        self._after.clear()
        left += [(each.part, each.directory, each.stat.size) for each in self._line]
        self._line, self._files = [], []
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
