"""Writing lines to an fd that others hold as well, without ever being held up by it.

Theory of operation
-------------------
stderr may be a pipe that nobody reads, a terminal that somebody has stopped with Ctrl-S, or closed. Asking poll(2) first does
not do: another process can fill the pipe between the question and the write, and a terminal says that there is room where there
is none. O_NONBLOCK cannot be set, as it belongs to the open file description, which the shell and others share. (RWF_NOWAIT,
which would be a flag of one write, is refused for pipes before Linux 6.4, and for terminals and FIFOs still.) So, by what
the fd is:

*   a pipe, FIFO or terminal is opened anew by its magic link: a description of our own, which is non-blocking;
*   where that is not permitted (it belongs to another user, as stderr does in many containers, or behind su(1)), a thread writes,
    and ends with the last line that waits for it;
*   a socket takes MSG_DONTWAIT with each line;
*   a file is just written to, as nothing else is to be had: that waits for the disk, as all use of that file system does. A
    device other than a terminal, such as /dev/null, likewise.

A line that finds no room is lost. One that does so after a time in which there was some may wait `_PATIENCE` ms: two processes
that write to one terminal get in each other's way for a moment. What was cut off in the middle is ended before the next line.

To be made before the root changes and fds are closed; `fds` are to be kept. It works on behind a fork.
"""

from __future__ import annotations

import _thread
import fcntl
import os
import stat
import time
from _socket import MSG_DONTWAIT, MSG_NOSIGNAL, socket
from select import POLLOUT, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from typing import Callable
else:
    from _collections import deque  # `collections` takes 1 ms to import

_PATIENCE = 20  # milliseconds
_QUEUE = 100  # lines that may wait for the thread
_PTMX = os.makedev(5, 2)  # opened anew it is the master of another terminal
_OWN = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def last_words(line: str) -> None:
    """One line to stderr, from a process that ends and has no Sink; it waits a second for room, as poll(2) sees it."""
    room = poll()
    room.register(2, POLLOUT)
    try:
        if room.poll(1000):
            os.write(2, line.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass


class Sink:
    """fd: borrowed; it need not be open, and then lines go nowhere. fds: what is held besides, of ours."""

    def __init__(self, fd: int) -> None:
        self.fds: tuple[int, ...] = ()
        self._fd = fd
        self._cut = False  # the last line lacks its end
        self._patient = True
        self._thread: _Thread | None = None
        self._write = self._way(fd)

    def _way(self, fd: int) -> Callable[[bytes], int]:
        """A function that writes what there is room for; BlockingIOError where there is none."""
        try:
            info = os.fstat(fd)
            if stat.S_ISSOCK(info.st_mode):
                own = socket(fileno=os.dup(fd))
                self.fds = (own.fileno(),)
                return lambda line: own.send(line, MSG_DONTWAIT | MSG_NOSIGNAL)
            shared = stat.S_ISFIFO(info.st_mode) or os.isatty(fd)
            if shared and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY:  # else it would become writable
                return self._unblocked(fd, info)
        except OSError:
            pass
        return lambda line: os.write(fd, line)

    def _unblocked(self, fd: int, info: os.stat_result) -> Callable[[bytes], int]:
        try:
            if info.st_rdev == _PTMX:
                raise PermissionError
            own = os.open(f"/proc/self/fd/{fd}", _OWN)
        except OSError:
            self._thread = _Thread(fd)
            return self._thread.put
        self.fds = (own,)
        self._fd = own
        return lambda line: os.write(own, line)

    def put(self, line: bytes) -> None:
        """Write one line, which has its end; any number of threads may. An error is none of the caller's business."""
        rest = b"\n" + line if self._cut else line
        size = len(rest)
        for _ in range(2):
            try:
                rest = rest[self._write(rest) :]
            except BlockingIOError:
                pass
            except OSError:
                return
            if not rest:
                self._cut, self._patient = False, True
                return
            if not self._patient:
                break
            self._patient = False
            self._wait()
        self._cut = self._cut or len(rest) < size

    def _wait(self) -> None:
        room = poll()  # one for each: two threads cannot use the same
        room.register(self._fd, POLLOUT)
        room.poll(_PATIENCE)

    def finish(self, seconds: float = 1.0) -> None:
        """Wait for so long at most until all lines are written."""
        deadline = time.monotonic() + seconds
        while self._thread is not None and self._thread.busy() and time.monotonic() < deadline:
            time.sleep(0.001)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        if self.fds and self._fd in self.fds:  # the socket closes itself
            close(self._fd)


class _Thread:
    """Lines on their way to an fd that may block; the thread is there only while there are any."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lines: deque[bytes] = deque()
        self._runs_in = 0  # the process in which it runs: a fork leaves it behind

    def busy(self) -> bool:
        return self._runs_in == os.getpid()

    def put(self, line: bytes) -> int:
        me = os.getpid()
        if self._runs_in not in (0, me):
            self._lines.clear()  # the other process writes them
            self._runs_in = 0
        if len(self._lines) >= _QUEUE:
            raise BlockingIOError
        self._lines.append(line)
        if self._runs_in == 0:
            self._runs_in = me
            try:
                _thread.start_new_thread(self._drain, ())
            except RuntimeError:  # none to be had, as in a supervisor: its children's pid namespace is not its own
                self._drain_ready()
        return len(line)

    def _drain_ready(self) -> None:
        """What poll(2) says is better than nothing."""
        room = poll()
        room.register(self._fd, POLLOUT)
        if room.poll(0):
            self._drain()
        self._lines.clear()
        self._runs_in = 0

    def _drain(self) -> None:
        while self._lines:
            line = self._lines[0]
            try:
                os.write(self._fd, line)
            except OSError:
                pass
            self._lines.popleft()
            if not self._lines:
                self._runs_in = 0
                if not self._lines:  # else one came in between, and saw the thread run
                    return
                self._runs_in = os.getpid()
