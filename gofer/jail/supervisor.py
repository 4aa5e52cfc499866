"""The process that was started, once the server runs confined as its child: it passes signals on, waits, and tidies up.

Nothing a client sends reaches it. It keeps stdin, stdout, stderr and the fds its `Charge` names, and closes all others: a
socket handed to the server must not stay open here, its hang-up tells the client that the server is gone.

The two die together. When the server ends, the supervisor tidies up what the server no longer has a name for (the socket
file), and ends as it did: with its exit status, or by its signal. When the supervisor is killed, the kernel kills the
server (PR_SET_PDEATHSIG). The kernel forgets that wish when the thread switches its user, as ConnectWithCreds does; for
that case the server's end of a pipe is set to send it a signal at the other end's hang-up.

The server has a process group of its own: a terminal's Ctrl-C reaches the supervisor, which passes it on, once.
"""

from __future__ import annotations

import fcntl
import os
import select
from _signal import (
    SIG_BLOCK,
    SIG_DFL,
    SIG_SETMASK,
    SIGCHLD,
    SIGKILL,
    SIGSYS,
    SIGTERM,
    pthread_sigmask,
    signal,
)  # fmt: skip
from time import monotonic

from gofer import failure, signals, sink
from gofer.cdata import c_int, c_ulong
from gofer.jail.posture import REFUSED, REPORT
from gofer.sys import libc, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Callable, NoReturn

    from gofer.jail.witness import Witness

# Seconds that the server may take for its end: after the first stop (it has patience for 5 itself), after another.
_IN_ORDER, _AT_ONCE = 7.0, 0.5
_F_SETSIG = 10
_PR_SET_PDEATHSIG = 1
_SIGSET, _SIGINFO = 128, 128  # bytes of a C library's sigset_t, and of struct signalfd_siginfo


class Charge:
    """What the supervisor sees to, besides the server. To be overridden where there is something.

    keep: fds it needs for that. processes: pids it may have to signal. watched: an fd of these, -1: none, for `heard`.
    signals: those that it has a use for, besides what stops a server.
    """

    keep: Sequence[int] = ()
    signals: Sequence[int] = ()
    processes: Sequence[int] = ()
    watched = -1

    def say(self, line: str) -> None:
        """What became of the server, for its log."""
        sink.last_words(f"gofer: {line}")

    def in_server(self) -> None:
        """Called in the server when there is a supervisor: all this is the supervisor's now."""

    def on_signal(self, number: int) -> bool:
        """A signal has come, SIGCHLD among them; returns whether the server is to be left alone with it."""
        return False

    def heard(self) -> bool:
        """There is something to read from `watched`; returns whether there may be more."""
        return False

    def finished(self) -> bool:
        """Whether the server is to be stopped, because what it was started for is over."""
        return False

    def tidy(self, status: int) -> int:
        """The server has ended with this exit status; returns the one to end with."""
        return status

    def abandon(self) -> None:
        """There will be no server: leave nothing behind."""


def fork(charge: Charge, witness: Witness, confine: Callable[[int], None]) -> None:
    """Go on as the child; the caller's process becomes the supervisor and never returns.

    confine(pid of the child): called in the supervisor when it has closed what is not its own. witness: what it sees of
    what is refused to the server.
    """
    # What is passed on stops the server. Any other signal does to the supervisor what it does, and so ends both: passed on
    # it would do nothing, as the first process of a pid namespace gets only what it has handlers for.
    before = pthread_sigmask(SIG_BLOCK, {*signals.heeded(), *charge.signals, SIGCHLD})
    hangup, lifeline = os.pipe2(os.O_CLOEXEC)
    # Asked for now: the two share a mount namespace, and the server changes its root at once.
    fds = [int(name) for name in os.listdir("/proc/self/fd")]
    server = os.fork()
    if server:
        _supervise(server, charge, witness, confine, lifeline, fds)
    charge.in_server()  # first: what fails from here on must not undo what is the supervisor's
    os.close(lifeline)
    witness.in_server()
    # A process group of its own, so that a terminal's Ctrl-C comes by way of the supervisor; not a session: the
    # scheduler's autogroup would keep it apart from its clients, at a microsecond a context switch (sched(7)).
    os.setpgid(0, 0)
    _tie(hangup)
    pthread_sigmask(SIG_SETMASK, before)


def _tie(hangup: int) -> None:
    """Let this process end with its parent, the only one that has the other end of the pipe `hangup`."""
    libc["prctl"](c_int(_PR_SET_PDEATHSIG), c_ulong(SIGKILL))
    fcntl.fcntl(hangup, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(hangup, _F_SETSIG, signals.STOP)
    fcntl.fcntl(hangup, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(hangup, 0)
    if poll.poll(0):  # gone already, before the kernel was told
        os._exit(1)


def _supervise(
    server: int, charge: Charge, witness: Witness, confine: Callable[[int], None], lifeline: int, fds: list[int]
) -> NoReturn:
    status = 1
    try:
        signal(SIGCHLD, SIG_DFL)  # were it ignored, the kernel would not keep the status
        _stand_back(lifeline)
        _close_all(fds, {0, 1, 2, lifeline, *witness.fds, *charge.keep})
        events = _Events(witness, server, charge)
        confine(server)
        status = _wait(server, charge, events, witness)
    except BaseException as error:
        why = failure("the supervisor failed", error) if isinstance(error, OSError) else type(error).__name__
        charge.on_signal(SIGTERM)  # to the command; the server sees that we are gone
        charge.tidy(1)
        charge.say(str(why))
    finally:
        os._exit(status)


def _stand_back(lifeline: int) -> None:
    """Leave the processor to the server, for which a client waits: 20 ms, or until it has ended."""
    poll = select.poll()
    poll.register(lifeline, 0)
    poll.poll(20)


class _Events:
    """What the supervisor waits for: signals, by signalfd(2), what a filter has refused, and what its charge watches.

    Not by sigwait(3) and a thread: a process that has unshared its pid namespace can start none.
    """

    def __init__(self, witness: Witness, server: int, charge: Charge) -> None:
        mask = sum(1 << number - 1 for number in (*signals.heeded(), *charge.signals, SIGCHLD))
        self._signals = libc["signalfd"](c_int(-1), mask.to_bytes(_SIGSET, "little"), c_int(os.O_CLOEXEC))
        if self._signals < 0:
            raise_errno()
        self._witness = witness
        self._poll = select.poll()
        self._poll.register(self._signals, select.POLLIN)
        self._charge = charge
        if charge.watched >= 0:
            self._poll.register(charge.watched, select.POLLIN)
        witness.watch(server, self._poll)

    def signal(self, until: float | None) -> int:
        """The next signal's number, 0 where none has come by then; what is refused meanwhile is the witness's."""
        while True:
            left = None if until is None else 1000 * max(0.0, until - monotonic())
            found = self._poll.poll(left)
            if not found and left is not None:
                return 0
            for fd, event in found:
                if fd == self._signals:
                    return os.read(fd, _SIGINFO)[0]  # ssi_signo, below 256, in little-endian
                if fd != self._charge.watched:
                    self._witness.on_event(fd, event)
                elif not self._charge.heard():
                    self._poll.unregister(fd)


def _wait(server: int, charge: Charge, events: _Events, witness: Witness) -> int:
    """Until the server has ended; returns the exit status, or dies of the signal it died of.

    A server that was told to stop may hang in a system call that nothing interrupts, as those of a dead file system are. It is
    not waited for: killed, it ends when that call does.
    """
    until = None  # when patience with it ends
    while True:
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            break
        if until is not None and monotonic() > until:
            os.kill(server, SIGKILL)
            status = charge.tidy(0 if charge.finished() else 1)
            charge.say("the server hangs in a system call, and was left to end with it")
            return status
        number = 0
        if until is None and charge.finished():
            number = signals.STOP
        else:
            received = events.signal(until)
            if received and not charge.on_signal(received) and received != SIGCHLD:
                number = received
        if number:
            os.kill(server, number)
            until = monotonic() + (_IN_ORDER if until is None else _AT_ONCE)
    number = SIGSYS if witness.refused else os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if not number:
        return charge.tidy(os.WEXITSTATUS(status))
    charge.tidy(128 + number)
    if number == SIGSYS:
        charge.say(f"the server {witness.refused or REFUSED}, and was killed: {REPORT}")
    if number != SIGKILL:
        signal(number, SIG_DFL)
    pthread_sigmask(SIG_SETMASK, ())
    os.kill(os.getpid(), number)
    return 128 + number


def _close_all(fds: list[int], keep: set[int]) -> None:
    for fd in fds:
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:  # the one that listed them
                pass
