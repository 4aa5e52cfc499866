"""Hard links: a file with several names is copied once, and the other names are given to the copy.

What has several names is remembered until all have been met, so memory grows with those that lead elsewhere, or come late.
As long as there are some, a directory that its own mode shuts to its owner (who may be no more than that) is left open: the way
to a first name may lead through it.
"""

from __future__ import annotations

import os
import stat as modes
from errno import ENOENT
from functools import partial

from gofer.client.transport import Lost
from gofer.copy.names import part_name
from gofer.copy.sides import Node
from gofer.copy.transfer import Transfers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from gofer.client.replies import Stat
    from gofer.copy.engine import Copy
    from gofer.copy.places import Place
    from gofer.copy.sides import Xattrs
    from gofer.copy.transfer import Job


_MOST_OPEN = 200  # directories that are left open: each is an fd
_APART = "a copy, and no hard link of its other name: {}"


class _First:
    """Where the first name of a file is on the target's side. left: other names that are not made yet; there: what has the first
    is the file, and not what had it before.
    """

    __slots__ = ("root", "names", "left", "there")

    def __init__(self, root: Any, names: tuple[bytes, ...], left: int) -> None:
        self.root, self.names, self.left = root, names, left
        self.there = False


class Links:
    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._waiting: list[tuple[bytes, Callable[[], None]]] = []
        self._met: dict[tuple[int, tuple[int, int]], _First] = {}
        self._open: list[tuple[Place, Stat, Xattrs]] = []

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
        self._waiting.append((job.shown, partial(self._link, first, place, job, old)))
        return True

    def arrived(self, stat: Stat) -> None:
        """A file has its name, or had it."""
        first = self._met.get((stat.ino, stat.dev))
        if first:
            first.there = True

    def queue(self) -> None:
        """Those that were met since, to be made when the files before them, which were to be copied first, have their names."""
        for shown, call in self._waiting:
            self._copy.transfers.then(shown, call)
        self._waiting.clear()

    def keep_open(self, place: Place, stat: Stat, xattrs: Xattrs) -> None:
        """A directory in which all is done: it gets what it is to have itself, or where that would shut it, in the end."""
        if self._met and not stat.mode & modes.S_IXUSR and len(self._open) < _MOST_OPEN:
            self._open.append((place, stat, xattrs))
        else:
            self._copy.finish(place, stat, xattrs)

    def shut(self) -> None:
        """Those that were left open: what is below first."""
        kept, self._open = self._open, []
        for place, stat, xattrs in kept:
            try:
                self._copy.finish(place, stat, xattrs)
            except Lost:
                raise
            except OSError as error:
                self._copy.complain(place.shown, error, True)

    def _link(self, first: _First, place: Place, job: Job, old: Node | None) -> None:
        copy, target = self._copy, self._copy.target
        first.left -= 1
        if not first.left:
            del self._met[job.node.stat.ino, job.node.stat.dev]
        part = part_name(job.name, job.node.stat)
        try:
            if not first.there:
                raise OSError(ENOENT, os.strerror(ENOENT))
            made = target.resolve(first.root, first.names).stat
            if old and (old.stat.ino, old.stat.dev) == (made.ino, made.dev):
                copy.progress.equal()
                copy.did("equal", job.shown, job.node.stat.size)
                return
            target.link(first.root, first.names, place.target, part)
        except Lost:
            raise
        except OSError as apart:
            if apart.errno != ENOENT:  # else it was not copied by its first name
                copy.complain(job.shown, OSError(apart.errno, _APART.format(os.strerror(apart.errno or 0))), None)
            first.root, first.names, first.there = place.root, (*place.names, job.name), False
            transfers = Transfers(copy)
            transfers.add(place.source, place.target, [job], None)
            transfers.end()
            copy.commit.flush()  # before what comes next in the line: this directory may be shut, too
            return
        (failed,) = target.renaming([(place.target, part, job.name)])()
        if failed:
            target.remove(place.target, part, False)
            raise failed
        copy.progress.file()
        copy.did("linked", job.shown, job.node.stat.size)
