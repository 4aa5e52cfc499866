"""A large file into tmpfs, by two threads.

A call that writes holds the inode's lock: a second thread with another would wait for the first all the time, and spin (7% less
time, for twice the processor's). A page fault takes no such lock. So the second thread reads into a mapping of the file while
the first has the kernel copy: a quarter less time, for 1.4 times the processor's. Hence only while a processor has nothing to
do. On a disk's file system a fault costs more than that gains, and the disk is what is waited for.

One WINDOW after the other: the file has the size of all those that are whole, and of the one that is being filled. So what is
left of an interrupted copy is trusted as far as the last whole one (`whole`).
"""

from __future__ import annotations

import mmap
import os
from _thread import allocate_lock, start_new_thread
from errno import EIO

from gofer import sys
from gofer.cdata import byref
from gofer.client.transport import close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from typing import Callable

    Span = Callable[[int, int], None]

WINDOW = 1 << 27
_PIECE = 1 << 23  # of which each thread takes the next
_TMPFS = 0x01021994
_statfs = sys.Statfs()


def worth(target: int, size: int) -> bool:
    """Whether two threads may copy so much to that fd."""
    return size >= WINDOW and on_tmpfs(target)


def on_tmpfs(fd: int) -> bool:
    return not sys.fstatfs(fd, byref(_statfs)) and _statfs.f_type == _TMPFS


def _idle() -> bool:
    """Whether fewer threads run now, or would, than this one has processors (proc(5), of /proc/loadavg)."""
    try:
        with open("/proc/loadavg", "rb") as file:
            running = int(file.read().split()[3].partition(b"/")[0])
    except (OSError, ValueError, IndexError):
        return False
    return running < len(os.sched_getaffinity(0))


def whole(size: int, of: int) -> int:
    """How much can be whole of a part of that size, of a file of the size `of`."""
    if of < WINDOW or size % WINDOW and size != of:
        return size
    return max(0, size - 1) // WINDOW * WINDOW


def copy(source: int, target: int, start: int, size: int, span: Span, moved: Callable[[int], None]) -> None:
    """span(at, end): copies so much and tells `moved`, which both may raise, in the caller's thread."""
    for begin in range(start - start % WINDOW, size, WINDOW):
        end = min(begin + WINDOW, size)
        if _idle():
            os.ftruncate(target, end)
            _Window(source, target, max(start, begin), end).fill(span, moved)
        else:
            span(max(start, begin), end)


class _Window:
    def __init__(self, source: int, target: int, start: int, end: int) -> None:
        self._source, self._target = source, target
        begins = range(start - start % _PIECE, end, _PIECE)  # a mapping begins at a page
        self._pieces = [(max(start, at), min(at + _PIECE, end)) for at in reversed(begins)]
        self._done = 0  # bytes by the second thread
        self._left: list[tuple[int, int]] = []  # what it could not copy: the first does, or finds out why

    def fill(self, span: Span, moved: Callable[[int], None]) -> None:
        told, ended = 0, allocate_lock()
        ended.acquire()
        self._begin(ended)
        try:
            while piece := self._next():
                span(*piece)
                done = self._done
                told, new = done, done - told
                moved(new)
        finally:
            self._pieces.clear()
            ended.acquire()
        for piece in self._left:
            span(*piece)
        moved(self._done - told)

    def _begin(self, ended: LockType) -> None:
        fds: list[int] = []  # its own, as nobody waits for it after a second Ctrl-C
        try:
            fds.append(os.dup(self._source))
            fds.append(os.dup(self._target))
            start_new_thread(lambda: self._second(fds, ended), ())
        except (OSError, RuntimeError):  # one fd, or one thread more, is too many: the first is alone
            close_all(fds)
            ended.release()

    def _next(self) -> tuple[int, int] | None:
        try:
            return self._pieces.pop()
        except IndexError:
            return None

    def _second(self, fds: list[int], ended: LockType) -> None:
        try:
            while piece := self._next():
                try:
                    _read(fds[0], fds[1], *piece)
                    self._done += piece[1] - piece[0]
                except (OSError, ValueError):  # EFAULT: the file system is full; ValueError: the file was cut meanwhile
                    self._left.append(piece)
        finally:
            close_all(fds)
            ended.release()


def _read(source: int, target: int, start: int, end: int) -> None:
    base = start - start % mmap.PAGESIZE
    with mmap.mmap(target, end - base, offset=base) as room, memoryview(room) as view:
        at = start
        while at < end:
            with view[at - base : end - base] as rest:
                done = os.preadv(source, [rest], at)
            if not done:
                raise OSError(EIO, "it has ended")
            at += done
