"""Regular files of one directory, some at a time: opened together, made together, their contents moved, then handed to Commit.

A file is made under a name of its own (names.part_name). Where a copy was interrupted that name is found again, and tells
of which file it was to become which version: so --resume goes on with it, and all others are removed.
"""

from __future__ import annotations

from errno import EIO
from typing import NamedTuple

from gofer.client.transport import Lost
from gofer.copy import data, names
from gofer.copy.commit import Complete, discard
from gofer.copy.names import WORTH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from gofer.copy.engine import Copy
    from gofer.copy.sides import File, Node

CHANGED = "the two sides differ after the copy: it was changed meanwhile, or one of them does not keep what it gets"


class Job(NamedTuple):
    """A file to be copied: node of the source, to be `name`."""

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
        for name in copy.target.names(directory):
            of = names.part_of(name)
            if of and count < self._MOST:
                self._found.setdefault(of[0], []).append((of[1], name))
                count += 1

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


def transfer(copy: Copy, source: Any, target: Any, jobs: Sequence[Job], parts: Parts | None) -> None:
    """parts: of the target directory; None where it is new."""
    ready = []
    for job, reader in zip(jobs, copy.source.open(source, [job.node for job in jobs])):
        if isinstance(reader, OSError):
            copy.complain(job.shown, reader, False)
        else:
            ready.append((job, reader))
    made = [_resumed(copy, target, job, parts) for job, _ in ready]
    fresh = [names.part_name(job.name, job.node.stat) for (job, _), each in zip(ready, made) if not each]
    writers = iter(zip(fresh, copy.target.create(target, fresh)))
    complete = []
    for (job, reader), each in zip(ready, made):
        part, writer = each or next(writers)
        if isinstance(writer, OSError):
            copy.complain(job.shown, writer, True)
            continue
        copy.commit.making[part] = target, 0
        if _filled(copy, job, reader, part, writer, resumed=bool(each)):
            complete.append((job, reader, part, writer))
        else:
            copy.commit.discard(part)
    _settle(copy, source, target, complete)


def _resumed(copy: Copy, target: Any, job: Job, parts: Parts | None) -> tuple[bytes, File] | None:
    """What an interrupted copy of this file has left, under a name that nobody else has; None where there is nothing of use."""
    part = parts.of(job) if parts else b""
    if not part:
        return None
    own = names.part_name(job.name, job.node.stat)
    (error,) = copy.target.rename([(target, part, own)])  # who else goes on with it finds it gone
    if error:
        return None
    try:
        return own, copy.target.reopen(target, own)
    except Lost:
        raise
    except OSError:  # not what it looks like: a new one is made
        discard(copy.target, target, own)
        return None


def _filled(copy: Copy, job: Job, reader: File, part: bytes, writer: File, resumed: bool) -> bool:
    """Whether the contents have got there; what has gone wrong is told."""
    directory, start = copy.commit.making[part]
    at = 0

    def moved(count: int) -> None:
        nonlocal at
        at += count
        copy.commit.making[part] = directory, at
        copy.progress.moved(count)

    try:
        start = _agreed(reader, writer) if resumed else 0
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
        return False


def _agreed(reader: File, writer: File) -> int:
    """How far what is there is taken for right: all of it where its last piece is what the source has there, else nothing.

    A crash of the machine may leave zeros at the end of what was not synced.
    """
    size = writer.size if writer.size <= reader.size else 0
    start = max(0, size - data.PIECE)
    if size and _between(reader, start, size) == _between(writer, start, size):
        return size
    writer.truncate(0)
    return 0


def _between(file: File, start: int, end: int) -> bytearray:
    found = bytearray(end - start)
    for at, piece in file.reads(start, end):
        found[at - start : at - start + len(piece)] = piece
    return found


def _settle(copy: Copy, source: Any, target: Any, files: Sequence[tuple[Job, File, bytes, File]]) -> None:
    items = [
        (writer, copy.attributes(job.node.stat), copy.xattrs(source, job.node, job.shown, reader))
        for job, reader, _, writer in files
    ]
    for (job, _, part, writer), troubles in zip(files, copy.target.settle(items)):
        for error in troubles:
            copy.complain(job.shown, error, True)
        copy.commit.add(Complete(target, part, job.name, job.shown, job.node.stat, writer))
