"""One tree to another: what is there is compared, what differs is copied, and what cannot be is told and costs nothing else.

    copy = Copy(source, target, options, complain, progress)
    copy.entry(source_directory, node, target_directory, b"name", b"shown as")
    copy.end()

Directories are gone through depth first, some names at a time, so that memory does not grow with them. A file that has the same
size and time on both sides is taken for the same; its mode, owner and xattrs are made so. What a directory is to have itself
it gets when all in it has its name.
"""

from __future__ import annotations

import stat as modes
from collections import namedtuple
from errno import EIO, ELOOP
from functools import partial

from gofer.client.address import below
from gofer.copy import data
from gofer.copy.commit import Commit, Complete
from gofer.copy.links import Links
from gofer.copy.mend import mend
from gofer.copy.names import possible
from gofer.copy.places import Options, Place, some
from gofer.copy.prune import cleared, prune, stays
from gofer.copy.settle import privileged
from gofer.copy.sides import FAR, SET_ID, Node
from gofer.copy.special import special
from gofer.copy.transfer import Job, Parts, Transfers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any, Callable

    from gofer.client.replies import Stat
    from gofer.copy.progress import Progress
    from gofer.copy.sides import Found, Tree, Xattrs

    Steps = Iterator["Steps"]

_KEPT = 32  # so far down what directories are is remembered until their turn comes
_DEEPEST = 2000  # directories in each other: each is an fd or two


class _Asked(namedtuple("_Asked", "names nodes olds trouble")):
    """Names of a directory, and what they are, as it comes. olds: at the target; trouble: what has ended the list."""

    __slots__ = ()
    names: list[bytes]
    nodes: Callable[[], list[Found]]
    olds: Callable[[], list[Found]] | None
    trouble: OSError | None


class Copy:
    """complain(shown, error, target): an entry's OSError; target: whether it is that side's, None where that is not known.

    did(what, shown, size): what became of an entry; with dry_run, what would be done: "copy", "make", "delete".
    """

    def __init__(
        self, source: Tree, target: Tree, options: Options, progress: Progress,
        complain: Callable[[bytes, OSError, bool | None], None], did: Callable[[str, bytes, int], None],
    ) -> None:  # fmt: skip
        self.source, self.target, self.options, self.progress = source, target, options, progress
        self.complain, self.did = complain, did
        self.commit = Commit(target, complain, self._copied, options.sync)
        self.untrusted = 0  # files that came without their set-id bits
        self.transfers = Transfers(self)
        self.ahead = min(source.ahead, target.ahead)
        self._links = Links(self)
        self._equals: list[tuple[Node, Node, bytes]] = []  # of this directory, to be looked at together
        self._into: set[tuple[int, tuple[int, int]]] = set()  # directories that are copied into, by inode and device

    def _taken(self) -> list[tuple[Node, Node, bytes]]:
        equals, self._equals = self._equals, []
        return equals

    def _copied(self, each: Complete) -> None:
        self._links.arrived(each.stat)
        self.progress.file()
        self.did("copied", each.shown, each.stat.size)

    def entry(self, source: Any, node: Node, target: Any, name: bytes, shown: bytes) -> None:
        """Copy node, which is in the directory source, to that name in the directory target."""
        place = Place(source, target, target is None, b"", shown, target, ())
        (old,) = self.target.look(target, [name]) if target is not None else (None,)
        if isinstance(old, OSError):
            self.complain(shown, old, True)
        elif modes.S_ISDIR(node.stat.mode):
            self._run(self._below(place, node, name, shown, old, b""))
        else:
            parts = None if self.options.dry_run or target is None else Parts(self, target)
            job = self._plan(place, node, name, shown, old, parts)
            if job:
                self.transfers.add(source, target, [job], parts)
                self.transfers.step()
            mend(self, place, self._taken())
            self._links.queue()
            self._rest()

    def inside(self, source: Any, node: Node, target: Any, shown: bytes) -> None:
        """Copy what is in a directory into another, which becomes like it."""
        place = Place(source, target, target is None, b"", shown, target, ())
        self._remember(target)
        self._run(self._directory(place, node.stat, self.source.listing(source, [(node, None)])))

    def _remember(self, target: Any) -> None:
        """Of a copy that lies in what is copied, on one machine, the copy of itself would have no end."""
        if target is not None and self.source.here and self.target.here:
            self._into.add(self.target.identity(target))

    def end(self) -> None:
        self.commit.flush()
        self._links.shut()

    def _run(self, steps: Steps) -> None:
        """Depth first, without Python's own stack: trees are deeper."""
        stack = [steps]
        while stack:
            below = next(stack[-1], None)
            if below is not None:
                stack.append(below)
            else:
                stack.pop()
        self._rest()

    def _rest(self) -> None:
        self.transfers.end()
        self.source.rest()
        self.target.rest()

    # Directories

    def _below(self, place: Place, node: Node, name: bytes, shown: bytes, old: Node | None, path: bytes) -> Steps:
        """A directory in a place."""
        names = (*place.names, name)
        try:
            if len(names) > _DEEPEST:
                raise OSError(ELOOP, f"more than {_DEEPEST} directories in each other: they may have no end")
            if (node.stat.ino, node.stat.dev) in self._into:
                raise OSError(ELOOP, "it is what is copied into: left out")
            source = self.source.enter(place.source, node)
        except OSError as error:
            self.complain(shown, error, False)
            return
        fresh = not old or not modes.S_ISDIR(old.stat.mode)
        try:
            if old and fresh and not cleared(self, place, old, shown):
                return
            if self.options.dry_run:
                target = None if fresh or not old else self.target.enter(place.target, old)
                if fresh:
                    self.did("make", shown, 0)
            else:
                target = (
                    self.target.mkdir(place.target, name) if fresh or not old else self.target.enter(place.target, old)
                )
        except OSError as error:
            self.complain(shown, error, True)
            return
        if not place.names:
            self._remember(target)
        within = Place(source, target, fresh, path, shown, place.root, names)
        listed = self.source.listing(place.source, [(node, None)])
        yield from self._directory(within, self.attributes(node.stat), listed)

    def _directory(self, place: Place, stat: Stat, listed: Callable[[], list[Xattrs | OSError]]) -> Steps:
        parts = None if place.fresh or self.options.dry_run else Parts(self, place.target)
        names, trouble = self.source.names(place.source), None
        asked = self._ask(place, names)
        xattrs = self.listed(listed, place.shown)
        while asked:
            if self.target.lazy:
                self.transfers.catch_up()
            directories, jobs = self._planned(place, asked, parts)
            self._transfer(place, jobs, parts)
            trouble = asked.trouble
            ahead = None if directories or trouble else self._ask(place, names)
            self.transfers.step()
            mend(self, place, self._taken())
            self._links.queue()
            if len(place.names) >= _KEPT:
                directories = self._again(place, [inner.name for inner, _ in directories])
            for inner, old in directories:
                yield self._below(place, inner, inner.name, below(place.shown, inner.name), old, place.path + b"/" + inner.name)
            asked = ahead or (None if trouble or not directories else self._ask(place, names))
        if trouble:
            self.complain(place.shown, trouble, False)
        elif self.options.delete and not place.fresh:
            prune(self, place)
        if not self.options.dry_run:
            self.transfers.then(place.shown, partial(self._links.keep_open, place, stat, xattrs))

    def _transfer(self, place: Place, jobs: Sequence[Job], parts: Parts | None) -> None:
        """Begin with their contents, and with all but the last so far that only a step is missing."""
        whole: list[Job] = []
        others: list[Job] = []
        for job in jobs:
            (whole if job.node.content is not None and not job.node.stat.mode & SET_ID else others).append(job)
        if whole:
            self.transfers.make(place.target, whole)
        jobs = others
        while len(jobs) > self.ahead:
            self.transfers.add(place.source, place.target, jobs[: self.ahead], parts)
            self.transfers.step()
            jobs = jobs[self.ahead :]
        self.transfers.add(place.source, place.target, jobs, parts)

    def _again(self, place: Place, names: Sequence[bytes]) -> Iterator[tuple[Node, Node | None]]:
        """One after the other: far down not even these are kept for each directory on the way."""
        for name in names:
            (node,) = self.source.look(place.source, [name])
            (old,) = (None,) if place.fresh else self.target.look(place.target, [name])
            if isinstance(node, OSError) or isinstance(old, OSError):
                self.complain(below(place.shown, name), node or old, None)  # type: ignore[arg-type]
            elif node:
                yield node, old

    def finish(self, place: Place, stat: Stat, xattrs: Xattrs) -> None:
        """What a directory is to have itself."""
        for error in self.target.settle_directory(place.target, stat, xattrs):
            self.complain(place.shown, error, True)

    def _ask(self, place: Place, names: Iterator[bytes]) -> _Asked | None:
        """What the next of them are, on both sides; None: there are no more."""
        self.progress.moved(0)
        whole = place.fresh and not self.options.dry_run and not self.options.verify
        chunk, trouble = some(names, FAR if whole and len(place.names) < _KEPT else self.ahead)
        if not chunk and not trouble:
            return None
        chosen = []
        for name in chunk:
            if not possible(name):
                self.complain(below(place.shown, name), OSError(EIO, "a name that no file can have: not copied"), False)
            elif not self.options.exclude((place.path + b"/" + name)[1:]):
                chosen.append(name)
        olds = None if place.fresh else self.target.looking(place.target, chosen)
        return _Asked(chosen, self.source.looking(place.source, chosen, whole), olds, trouble)

    def _planned(
        self, place: Place, asked: _Asked, parts: Parts | None
    ) -> tuple[Iterable[tuple[Node, Node | None]], list[Job]]:
        """Directories among them, as they are on both sides, and files whose contents are to be copied; all else is done."""
        nodes = asked.nodes()
        olds: Sequence[Found] = asked.olds() if asked.olds else [None] * len(nodes)
        directories, jobs = [], []
        for name, node, old in zip(asked.names, nodes, olds):
            shown = below(place.shown, name)
            if isinstance(node, Node) and node.content is not None:  # to a directory that is new: nothing is to be asked
                jobs.append(Job(node, name, shown))
            elif isinstance(node, OSError):
                self.complain(shown, node, False)
            elif isinstance(old, OSError):
                self.complain(shown, old, True)
            elif node and modes.S_ISDIR(node.stat.mode):
                directories.append((node, old))
            elif node:
                job = self._plan(place, node, name, shown, old, parts)
                jobs += [job] if job else []
        return directories, jobs

    # What is no directory

    def _plan(
        self, place: Place, node: Node, name: bytes, shown: bytes, old: Node | None, parts: Parts | None
    ) -> Job | None:
        """Do what is to be done but for the contents of a regular file: a Job."""
        if self.options.update and old and self._newer(node, old):
            self.progress.equal(node.stat.size)
            self.did("newer", shown, node.stat.size)
            return None
        if old and stays(node, old) and not cleared(self, place, old, shown):
            return None
        job = Job(node, name, shown)
        if parts:
            parts.keep(job)
        if self._links.known(place, job, old):
            return None
        if old and self._equal(place, node, old):
            self._links.arrived(node.stat)
            self.progress.equal(node.stat.size)
            self.did("equal", shown, node.stat.size)
            if not self.options.dry_run:
                self._equals.append((node, old, shown))
            return None
        if self.options.dry_run:
            self.did("copy", shown, node.stat.size)
            return None
        if modes.S_ISREG(node.stat.mode):
            return job
        try:
            special(self, place, job)
        except OSError as error:
            self.complain(shown, error, None)
        return None

    def _newer(self, node: Node, old: Node) -> bool:
        now, then = node.stat, old.stat
        same = (now.mtime, now.size) == (then.mtime, then.size)
        return not modes.S_ISDIR(then.mode) and then.mtime >= now.mtime and not same

    def _equal(self, place: Place, node: Node, old: Node) -> bool:
        """Whether the target has it already."""
        kind = modes.S_IFMT(node.stat.mode)
        if kind != modes.S_IFMT(old.stat.mode):
            return False
        if kind == modes.S_IFLNK:
            return self.source.target(place.source, node) == self.target.target(place.target, old)
        if kind != modes.S_IFREG:
            return node.stat.rdev == old.stat.rdev
        if (node.stat.size, node.stat.mtime) != (old.stat.size, old.stat.mtime):
            return False
        if not self.options.verify:
            return True
        (one,), (other,) = self.source.open(place.source, [node])(), self.target.open(place.target, [old])()
        return (
            not isinstance(one, OSError)
            and not isinstance(other, OSError)
            and data.same(one, other, self.progress.moved)
        )

    # Attributes

    def attributes(self, stat: Stat) -> Stat:
        """What the target is to have of it."""
        if self.options.trusted or not stat.mode & SET_ID or modes.S_ISDIR(stat.mode):
            return stat
        self.untrusted += 1
        return stat._replace(mode=stat.mode & ~SET_ID)

    def listed(self, listed: Callable[[], list[Xattrs | OSError]], shown: bytes) -> Xattrs:
        (found,) = listed()
        if isinstance(found, OSError):
            self.complain(shown, found, False)
            return {}
        return self.allowed(found)

    def allowed(self, xattrs: Xattrs) -> Xattrs:
        if self.options.trusted:
            return xattrs
        return {name: value for name, value in xattrs.items() if not privileged(name)}
