"""Regular files, some at a time: opened together, made together, their contents moved, then handed to Commit.

A file is made under a name of its own (names.part_name). Where a copy was interrupted that name is found again, and tells
of which file it was to become which version: so --resume goes on with it, and all others are removed.
"""

from __future__ import annotations

import os
from collections import namedtuple
from errno import EIO

from gofer.client.transport import Lost
from gofer.copy import data, names, pair
from gofer.copy.commit import Complete, discard
from gofer.copy.names import WORTH
from gofer.copy.sides import SMALL, New

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Callable

    from gofer.copy.engine import Copy
    from gofer.copy.sides import File, Node, Xattrs

_MOST_AFTER = 64  # what waits for one batch
CHANGED = "the two sides differ after the copy: it was changed meanwhile, or one of them does not keep what it gets"


class Job(namedtuple("Job", "node name shown")):
    """A file to be copied: node of the source, to be `name`."""

    __slots__ = ()
    node: Node
    name: bytes
    shown: bytes


class Parts:
    """What interrupted copies have left in a directory, by the file that it was to become."""

    _MOST = 100000  # a directory may be full of them; beyond this they stay

    def __init__(self, copy: Copy, directory: Any) -> None:
        self._tree, self._directory, self._resume = copy.target, directory, copy.options.resume
        self._kept: dict[bytes, bytes] = {}
        self._found: dict[bytes, list[tuple[bytes, bytes]]] = {}
        count = 0
        try:
            for name in copy.target.names(directory):
                of = names.part_of(name)
                if of and count < self._MOST:
                    self._found.setdefault(of[0], []).append((of[1], name))
                    count += 1
        except Lost:
            raise
        except OSError:  # one may write to a directory that one may not read
            pass

    def keep(self, job: Job) -> None:
        """The file is met now: remove all that nothing can go on with."""
        found = self._found.pop(names.mark(job.name), ())
        resume = self._resume and job.node.stat.size >= WORTH
        kept = [name for version, name in found if resume and version == names.version(job.node.stat)][:1]
        for _, name in found:
            if name not in kept:
                discard(self._tree, self._directory, name)
        if kept:
            self._kept[job.name] = kept[0]

    def of(self, job: Job) -> bytes:
        """The name of one to go on with, b"" where there is none."""
        return self._kept.pop(job.name, b"")


class Batch:
    """Files of one directory on their way. files: with what each is read from, its part's name, and what that is written to.

    read: contents of small ones, as they come. after: what is to be done when they have their names.
    """

    def __init__(self, source: Any, target: Any) -> None:
        self.source, self.target = source, target
        self.files: list[tuple[Job, File, bytes, File]] = []
        self.read: Callable[[], list[bytes | OSError | None]] = list
        self.listed: Callable[[], list[Xattrs | OSError]] = list
        self.xattrs: dict[bytes, Xattrs] = {}
        self.writing: dict[bytes, bytes] = {}  # contents of parts that are sent now
        self.written: Callable[[], list[OSError | None]] = list
        self.after: list[tuple[bytes, Callable[[], None]]] = []


class Made:
    """Files of one directory that are made in one go, as all that they have is known. files: with their parts' names."""

    def __init__(self, target: Any, files: Sequence[tuple[Job, bytes]], done: Callable[[], list[Any]]) -> None:
        self.target, self.files, self.done = target, files, done
        self.after: list[tuple[bytes, Callable[[], None]]] = []


class Transfers:
    """Three batches at a time, so that a server has something to do while contents are moved: one is being opened (`add`), one
    is open, one is written and gets what its files are to have beside contents. Each `step` takes all of them further. What is
    made in one go (`make`) is done a step after the next.
    """

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._opening: tuple[Batch, Callable[[], None]] | None = None
        self._open: Batch | None = None
        self._written: Batch | None = None
        self._settling: Callable[[], list[list[OSError]]] | None = None  # of what is written
        self._making: list[Made] = []
        self._begun = False  # whether the last of these since the last step

    def make(self, target: Any, jobs: Sequence[Job]) -> None:
        """Of as many as came together with their contents, to a new directory; a step follows."""
        copy = self._copy
        files = [(job, names.part_name(job.name, job.node.stat)) for job in jobs]
        copy.commit.making.update((part, (target, 0)) for _, part in files)
        items = [New(part, job.node.stat, job.node.content or b"") for job, part in files]
        self._begun = True
        self._making.append(Made(target, files, copy.target.make(target, items, copy.options.sync)))

    def catch_up(self) -> None:
        """Make all that there is to be made, while the source answers."""
        self._copy.source.begin()
        while self._making:
            self._finish(self._making.pop(0))

    def _finish(self, made: Made) -> None:
        copy, target, moved = self._copy, made.target, 0
        for (job, part), (file, troubles) in zip(made.files, made.done()):
            for error in troubles:
                copy.complain(job.shown, error, True)
            if file:
                (_, stat, _, _), name, shown = job
                moved += stat.size
                copy.commit.add(Complete(target, part, name, shown, stat), file)
            else:
                copy.commit.discard(part)
        copy.progress.moved(moved)
        for shown, call in made.after:
            copy.commit.then(shown, call)

    def add(self, source: Any, target: Any, jobs: Sequence[Job], parts: Parts | None) -> None:
        """AHEAD at most; a step follows. parts: of the target directory; None where it is new."""
        if jobs:
            self._begin(Batch(source, target), jobs, parts)
        if self._written:  # behind those that bring fds
            self._settling = _settling(self._copy, self._written)

    def _begin(self, batch: Batch, jobs: Sequence[Job], parts: Parts | None) -> None:
        copy, target = self._copy, batch.target
        made = [_resumed(copy, target, job, parts) for job in jobs]
        fresh = [names.part_name(job.name, job.node.stat) for job, each in zip(jobs, made) if not each]
        opened = copy.source.open(batch.source, [job.node for job in jobs])
        created = copy.target.create(target, fresh)
        copy.commit.making.update((part, (target, 0)) for part in fresh)

        def taken() -> None:
            writers = iter(zip(fresh, created()))
            for job, reader, each in zip(jobs, opened(), made):
                part, writer = each or next(writers)
                if isinstance(writer, OSError):
                    copy.complain(job.shown, writer, True)
                    copy.commit.making.pop(part, None)
                elif isinstance(reader, OSError):
                    copy.complain(job.shown, reader, False)
                    copy.commit.discard(part)
                else:
                    batch.files.append((job, reader, part, writer))

        self._opening = batch, taken

    def step(self) -> None:
        self._copy.source.begin()
        self._copy.target.begin()
        while len(self._making) > (1 if self._begun else 0):
            self._finish(self._making.pop(0))
        self._begun = False
        filled, self._open = self._open, None
        if filled:
            self._fill(filled)
        self._settle()
        self._written = filled
        if self._opening:
            self._open, taken = self._opening
            self._opening = None
            taken()
            files, source = self._open.files, self._copy.source
            if not self._copy.options.verify:
                self._open.read = source.reading([reader for _, reader, _, _ in files])
            self._open.listed = source.listing(self._open.source, [(job.node, reader) for job, reader, _, _ in files])

    def _fill(self, batch: Batch) -> None:
        copy, read = self._copy, batch.read() or [None] * len(batch.files)
        for (job, _, part, _), found in zip(batch.files, batch.listed()):
            if isinstance(found, OSError):
                copy.complain(job.shown, found, False)
            else:
                batch.xattrs[part] = copy.allowed(found)
        batch.files = [each for each, data in zip(batch.files, read) if _filled(copy, batch, *each, data)]
        sent = [(writer, batch.writing[part]) for _, _, part, writer in batch.files if part in batch.writing]
        batch.written = copy.target.writing(sent)

    def _wrote(self, batch: Batch) -> None:
        """Leave out those whose contents have not got there."""
        sent = [each for each in batch.files if each[2] in batch.writing]
        for each, error in zip(sent, batch.written()):
            if error:
                self._copy.complain(each[0].shown, error, True)
                self._copy.commit.discard(each[2])
                batch.files.remove(each)

    def _settle(self) -> None:
        written, settling = self._written, self._settling
        self._written = self._settling = None
        if not written or not settling:
            return
        files = list(written.files)
        self._wrote(written)
        for (job, _, part, writer), troubles in zip(files, settling()):
            if part not in self._copy.commit.making:
                continue
            for error in troubles:
                self._copy.complain(job.shown, error, True)
            self._copy.commit.add(Complete(written.target, part, job.name, job.shown, job.node.stat), writer)
        for shown, call in written.after:
            self._copy.commit.then(shown, call)

    def then(self, shown: bytes, call: Callable[[], None]) -> None:
        """As Commit.then, behind all that is on its way."""
        newest: Batch | Made | None = self._opening[0] if self._opening else self._open or self._written
        if not newest and self._making:
            newest = self._making[-1]
        if not newest:
            self._copy.commit.then(shown, call)
            return
        newest.after.append((shown, call))
        if len(newest.after) > _MOST_AFTER:
            self.end()

    def end(self) -> None:
        """Nothing is on its way any more."""
        while self._opening or self._open or self._written or self._making:
            self.add(None, None, (), None)
            self.step()


def _resumed(copy: Copy, target: Any, job: Job, parts: Parts | None) -> tuple[bytes, File] | None:
    """What an interrupted copy of this file has left, under a name that nobody else has; None where there is nothing of use."""
    part = parts.of(job) if parts else b""
    if not part:
        return None
    own = names.part_name(job.name, job.node.stat)
    (error,) = copy.target.renaming([(target, part, own)])()  # who else goes on with it finds it gone
    if error:
        return None
    try:
        found = copy.target.reopen(target, own)
        copy.commit.making[own] = target, found.size
        return own, found
    except Lost:
        raise
    except OSError:  # not what it looks like: a new one is made
        discard(copy.target, target, own)
        return None


def _filled(
    copy: Copy, batch: Batch, job: Job, reader: File, part: bytes, writer: File, content: bytes | OSError | None
) -> bool:
    """Whether the contents have got there; of what has not, why is told, and nothing stays."""
    directory, start = copy.commit.making[part]
    at = 0

    def moved(count: int) -> None:
        nonlocal at
        at += count
        copy.commit.making[part] = directory, at
        copy.progress.moved(count)

    try:
        if isinstance(content, OSError):
            raise content
        if not copy.options.verify and not writer.size:
            content = _small(reader, writer, content)
            if content is not None:
                batch.writing[part] = content
                moved(len(content))
                return True
        start = _agreed(reader, writer) if writer.size else 0  # an interrupted copy has left it
        at = start
        copy.progress.skipped(start)
        data.copy(reader, writer, moved, start)
        if copy.options.verify:
            writer.size = reader.size
            if not data.same(reader, writer, copy.progress.moved):
                raise OSError(EIO, CHANGED)
        return True
    except OSError as error:
        copy.complain(job.shown, error, None)
        copy.commit.discard(part)
        return False


def _small(reader: File, writer: File, content: bytes | None) -> bytes | None:
    """All that the file has, where it goes in one piece, and there is no fd to both sides."""
    if content is None and writer.host < 0 <= reader.host and reader.size <= SMALL and not reader.sparse:
        content = os.pread(reader.host, reader.size or 1, 0)
        if content and not reader.size:  # as the kernel's own files have
            return None
        if len(content) < reader.size:
            raise OSError(EIO, data.SHORT)
    return content


def _agreed(reader: File, writer: File) -> int:
    """How far what is there is taken for right: all that can be whole of it where its last piece is what the source has there,
    else nothing.

    A crash of the machine may leave zeros at the end of what was not synced.
    """
    size = pair.whole(writer.size, reader.size) if writer.size <= reader.size else 0
    start = max(0, size - data.PIECE)
    if size and _between(reader, start, size) == _between(writer, start, size):
        if size < writer.size:
            writer.truncate(size)
        return size
    writer.truncate(0)
    return 0


def _between(file: File, start: int, end: int) -> bytearray:
    found = bytearray(end - start)
    for at, piece in file.reads(start, end):
        found[at - start : at - start + len(piece)] = piece
    return found


def _settling(copy: Copy, batch: Batch) -> Callable[[], list[list[OSError]]]:
    return copy.target.settle([
        (writer, copy.attributes(job.node.stat), batch.xattrs.get(part, {}))
        for job, _, part, writer in batch.files
    ])  # fmt: skip
