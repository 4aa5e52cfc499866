"""Hard links: a file with several names is copied once, and the other names are given to the copy.

What has several names is remembered until all have been met, so memory grows with those that lead elsewhere, or come late.
"""

from __future__ import annotations

import stat as modes
from functools import partial

from gofer.copy.names import part_name
from gofer.copy.sides import Node
from gofer.copy.transfer import transfer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from gofer.copy.engine import Copy
    from gofer.copy.places import Place
    from gofer.copy.transfer import Job


class _First:
    """Where the first name of a file is on the target's side, and how many have not been met."""

    __slots__ = ("root", "names", "left")

    def __init__(self, root: Any, names: tuple[bytes, ...], left: int) -> None:
        self.root, self.names, self.left = root, names, left


class Links:
    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._waiting: list[tuple[bytes, Callable[[], None]]] = []
        self._met: dict[tuple[int, tuple[int, int]], _First] = {}

    def known(self, place: Place, job: Job, old: Node | None) -> bool:
        """Whether this is another name of a file that was met; it is made one of the copy's, when that has its own."""
        stat = job.node.stat
        if stat.nlink < 2 or not modes.S_ISREG(stat.mode) or self._copy.options.dry_run:
            return False
        key = stat.ino, stat.dev
        first = self._met.get(key)
        if not first:
            self._met[key] = _First(place.root, (*place.names, job.name), stat.nlink - 1)
            return False
        first.left -= 1
        if not first.left:
            del self._met[key]
        self._waiting.append((job.shown, partial(self._link, first, place, job, old)))
        return True

    def queue(self) -> None:
        """Those that were met since, to be made when the files before them, which were to be copied first, have their names."""
        for shown, call in self._waiting:
            self._copy.commit.then(shown, call)
        self._waiting.clear()

    def _link(self, first: _First, place: Place, job: Job, old: Node | None) -> None:
        copy, target = self._copy, self._copy.target
        part = part_name(job.name, job.node.stat)
        try:
            made = target.resolve(first.root, first.names).stat
            if old and (old.stat.ino, old.stat.dev) == (made.ino, made.dev):
                copy.progress.equal()
                return
            target.link(first.root, first.names, place.target, part)
        except (FileNotFoundError, PermissionError):  # it was not copied by its first name, or we have shut its directory
            first.root, first.names = place.root, (*place.names, job.name)
            transfer(copy, place.source, place.target, [job], None)
            copy.commit.flush()  # before what comes next in the line: this directory may be shut, too
            return
        (error,) = target.rename([(place.target, part, job.name)])
        if error:
            target.remove(place.target, part, False)
            raise error
        copy.progress.file()
