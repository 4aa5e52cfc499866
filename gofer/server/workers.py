"""The processes that serve: one, or several that share the connections.

Theory of operation
-------------------
An interpreter runs one thread of Python at a time, so the clients of one process share one cpu. Several processes, the
workers, share only the listening sockets, the log's fd and one table in memory; each has its own epoll loop, FDs and fd limit.

`split` makes the calling process the first worker; the others are its children, forked when everything is imported and nothing
is confined yet, because afterwards no process may be made. Each then goes the same way: its own mount namespace and root,
its own pinned /proc/self/fd, its own filter.

Which connections a worker serves: of connected sockets the k-th goes to worker k modulo their number. Listening sockets
are watched by all; in a shared table (slots.py) each says which connections it has, and whoever has more than another leaves the
next one to it (loop.py). What stands there is only ever counted: a worker that lies there gets more connections, or
fewer. Whoever has taken one tells the others, as it may be their turn now (`poke`, a pipe to each).

The workers live and die together, as the threads of one process do. The first is the one that signals reach and that others
wait for: it ends last, and when one of the others ends otherwise than in order, so does the first (`look`). The others hold
the reading end of a pipe of which the first has the only other end: its hang-up means stop. If the first is killed the kernel
kills them, as it is process 1 of their pid namespace. Without that namespace they have the pipe, and PR_SET_PDEATHSIG, which
Landlock intercepts where it keeps signals inside its domains (ABI 6): each worker is one.
"""

from __future__ import annotations

import mmap
import os
from _signal import SIGKILL, SIGSYS

from gofer import Failure
from gofer.jail import kernel
from gofer.jail.posture import REFUSED, REPORT
from gofer.server.slots import Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, NoReturn

_REASON = 1024  # bytes
_MOST = 4  # by default: a sandbox has as many channels at most, and each worker costs some 4 MiB


def default_number() -> int:
    """As many as this process has cpus, and not more than a few."""
    return min(_MOST, len(os.sched_getaffinity(0)))


class Crew:
    """The workers, as one of them sees them: this is number `index` of `size`; 0 is the first.

    lifeline: an fd that hangs up when this worker is to stop; -1 in the first. turns: an fd that has bytes to read when it may
    be this one's turn to accept connections; -1 where there is no other. slots: for `most` connections of all workers.
    """

    def __init__(self, size: int = 1, most: int = 64) -> None:
        self.size = size
        self.slots = Slots(most, size)
        self.index = 0
        self.lifeline = -1
        self.turns = -1
        self._pokes: list[int] = []  # the other ends of the other workers' `turns`
        self._others: dict[int, int] = {}  # in the first: who still runs, index by pid
        self._leash = -1  # in the first: the other end of all lifelines
        self._gate = -1  # a pipe: the others wait for its end (`begin`)
        # Why one of the others gave up. Anonymous memory is shared with what is forked.
        self._reason = memoryview(mmap.mmap(-1, _REASON))

    def split(self, prepare: Callable[[], None]) -> None:
        """Become the first worker and fork the others; returns in each of them.

        prepare(): called in each of the others at once, before the first goes on. Failure where one did not get that far.
        Whoever calls has a handler for SIGCHLD, and asks `look` when it came.
        """
        if self.size == 1:
            return
        self.lifeline, self._leash = os.pipe2(os.O_CLOEXEC)
        self._gate, gate = os.pipe2(os.O_CLOEXEC)
        pipes = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(self.size)]
        prepared, tell = os.pipe2(os.O_CLOEXEC)
        for index in range(1, self.size):
            pid = os.fork()
            if pid == 0:
                self.index = index
                for fd in (self._leash, gate, prepared):
                    os.close(fd)
                kernel.set_parent_death_signal(SIGKILL)
                self._leash = -1
                self.slots.belong_to(index)
                self._others.clear()
                self._take_turns(pipes)
                prepare()
                os.write(tell, b".")
                os.close(tell)
                return
            self._others[pid] = index
        for fd in (self.lifeline, self._gate, tell):
            os.close(fd)
        self.lifeline, self._gate = -1, gate
        self._take_turns(pipes)
        ready = b""
        while more := os.read(prepared, self.size):
            ready += more
        os.close(prepared)
        if len(ready) < len(self._others):
            raise Failure(
                self._said() or "cannot start all workers: one was killed; is there too little memory (dmesg)?"
            )

    def _take_turns(self, pipes: list[tuple[int, int]]) -> None:
        for index, (reader, writer) in enumerate(pipes):
            if index == self.index:
                self.turns = reader
                os.close(writer)
            else:
                self._pokes.append(writer)
                os.close(reader)

    def poke(self) -> None:
        """Let the others look whether it is their turn."""
        for writer in self._pokes:
            try:
                os.write(writer, b".")
            except OSError:  # full: it will look; gone: so will this one be
                pass

    def begin(self) -> None:
        """Called by each when it is ready to serve. The others wait for the first: what it has to say comes first."""
        if self.size > 1:
            if self.index:
                os.read(self._gate, 1)
            os.close(self._gate)

    def mine(self, number: int) -> bool:
        """Whether this worker serves the connected socket `number`."""
        return number % self.size == self.index

    def look(self) -> bool:
        """Whether others than this one still run. Failure where one of them has ended otherwise than in order."""
        for pid, index in [*self._others.items()]:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._others[pid]
                if status:
                    raise Failure(self._said() or f"worker {index} {_end(status)}")
        return bool(self._others)

    def give_up(self, why: str) -> NoReturn:
        """End this worker, which is not the first: that says why. What stops one may stop all, and is to be said once."""
        text = why.encode("utf-8", "backslashreplace")[:_REASON]
        self._reason[: len(text)] = text
        os._exit(1)

    def _said(self) -> str:
        """The reason of a worker that gave up."""
        return bytes(self._reason).rstrip(b"\0").decode("utf-8", "replace").partition("\n")[0]

    def dismiss(self) -> None:
        """Have the others stop; from signal handlers as well. Idempotent."""
        leash, self._leash = self._leash, -1
        if leash >= 0:
            os.close(leash)


def _end(status: int) -> str:
    if not os.WIFSIGNALED(status):
        return f"ended with exit status {os.WEXITSTATUS(status)}"
    number = os.WTERMSIG(status)
    return f"{REFUSED}, and was killed: {REPORT}" if number == SIGSYS else f"was killed by signal {number}"
