"""Contents from one open file to another: in the kernel where both are fds of ours, else in pieces of 1 MiB; holes stay holes."""

from __future__ import annotations

import fcntl
import os
from contextlib import closing
from errno import EBADF, EINVAL, EIO, ENOSYS, ENOTTY, ENXIO, EOPNOTSUPP, EPERM, EXDEV
from functools import partial

from gofer.copy import pair
from gofer.copy.sides import SMALL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable

    from gofer.copy.sides import File

    Moved = Callable[[int], None]

PIECE = 1 << 20
_STEP = 1 << 25  # bytes of one system call, so that somebody sees how far it is, and may interrupt
_FICLONE = 0x40049409
_CANNOT = (EBADF, EINVAL, ENOSYS, ENOTTY, EOPNOTSUPP, EPERM, EXDEV)
UNSIZED = 1 << 26  # what the kernel makes up tells size 0; who sends more than this has no end
ENDLESS = "it has size 0, and no end"
SHORT = "it ended before the size that it was said to have: it was changed meanwhile, or the server lies"


def copy(reader: File, writer: File, moved: Moved, start: int = 0) -> None:
    """What reader has from start on, to the same place; moved is told of each part, holes included, and may raise."""
    size = reader.size
    if reader.host < 0 or writer.host < 0:
        _by_pieces(reader, writer, moved, start)
    elif size <= SMALL and not reader.sparse and not start:
        if _at_once(reader.host, writer.host, size):
            moved(size)
        else:
            _by_pieces(reader, writer, moved, start)
    elif start or not _cloned(reader.host, writer.host, size):
        _in_kernel(reader, writer.host, start, moved)
    else:
        moved(size)


def _at_once(source: int, target: int, size: int) -> bool:
    """Not what has size 0, and something in it, as the kernel's own files have."""
    data = os.pread(source, size or 1, 0)
    if data and not size:
        return False
    if len(data) < size:
        raise OSError(EIO, SHORT)
    while data:
        written = os.pwrite(target, data, size - len(data))
        data = data[written:]
    return True


def _cloned(source: int, target: int, size: int) -> bool:
    """Whether both share their blocks now. The clone has the size that the file has at this moment."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    if os.fstat(target).st_size < size:
        raise OSError(EIO, SHORT)
    os.ftruncate(target, size)
    return True


def _in_kernel(reader: File, target: int, start: int, moved: Moved) -> None:
    """On tmpfs a look for holes is one at each page, 2% of a copy; its number of blocks tells as well whether there are some."""
    source, size, at = reader.host, reader.size, start
    dense = not reader.sparse
    for begin, end in [(start, size)] if dense and pair.on_tmpfs(source) else extents(source, start, size):
        moved(begin - at)
        if dense and end == size and pair.worth(target, end - begin):
            pair.copy(source, target, begin, size, partial(_span, source, target, moved), moved)
        else:
            _span(source, target, moved, begin, end)
        at = end
    moved(size - at)
    if os.fstat(source).st_size < size:
        raise OSError(EIO, SHORT)
    os.ftruncate(target, size)


def extents(fd: int, start: int, size: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what holds data, below size (lseek(2)); all of it where the file system does not tell."""
    at = start
    while at < size:
        try:
            begin = os.lseek(fd, at, os.SEEK_DATA)
            end = min(os.lseek(fd, begin, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno == ENXIO:  # a hole up to the end
                return
            if error.errno != EINVAL:
                raise
            begin, end = at, size
        if begin >= size:
            return
        yield begin, end
        at = end


def _span(source: int, target: int, moved: Moved, at: int, end: int) -> None:
    for way in (_copy_file_range, _sendfile, _read_and_write):
        try:
            while at < end:
                done = way(source, target, at, min(end - at, _STEP))
                if not done:
                    raise OSError(EIO, SHORT)
                at += done
                moved(done)
            return
        except OSError as error:
            if error.errno not in _CANNOT or way is _read_and_write:
                raise


def _copy_file_range(source: int, target: int, at: int, count: int) -> int:
    return os.copy_file_range(source, target, count, at, at)


def _sendfile(source: int, target: int, at: int, count: int) -> int:
    os.lseek(target, at, os.SEEK_SET)
    return os.sendfile(target, source, at, count)


def _read_and_write(source: int, target: int, at: int, count: int) -> int:
    data = os.pread(source, min(count, PIECE), at)
    return os.pwrite(target, data, at) if data else 0


def _by_pieces(reader: File, writer: File, moved: Moved, start: int) -> None:
    """Where a side has no fd. What is missing between two pieces is a hole."""
    at = start
    with closing(reader.reads(start, reader.size)) as pieces, closing(writer.writes(pieces)) as written:
        for end in written:  # closed, also where `moved` raises: answers may be due
            moved(end - at)
            at = end
    moved(reader.size - at)
    writer.truncate(reader.size)


def same(one: File, other: File, moved: Moved) -> bool:
    """Whether both hold the same, by their SHA-256."""
    return one.size == other.size and digest(one, moved) == digest(other, moved)


def digest(file: File, moved: Moved) -> bytes:
    import hashlib

    found, at = hashlib.sha256(), 0
    with closing(file.reads(0, file.size)) as pieces:
        for begin, data in pieces:
            _zeros(found.update, begin - at)
            found.update(data)
            at = begin + len(data)
            moved(0)
    _zeros(found.update, file.size - at)
    return found.digest()


def _zeros(update: Callable[[bytes], None], count: int) -> None:
    """A hole, as it reads."""
    block = bytes(min(count, PIECE)) if count > 0 else b""
    while count > 0:
        update(block[:count])
        count -= PIECE
