"""The process that sees to it that nothing stays mounted: parent of the mount process, which can be killed at any time.

It knows nothing of the server and nothing of what is in the file system. It waits: for the end of the mount process, after
which it takes away what that has left; or for a signal that ends the mount, which it then takes away itself.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import resource
import signal
import socket
from errno import EBUSY, EINVAL, ENOENT
from time import monotonic, sleep

from gofer import Failure, failure, signals
from gofer.client.transport import connected
from gofer.fuse import device, process
from gofer.output import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.fuse.process import Plan

_PATIENCE = 5.0  # for a server to take a connection, when it is to be taken up again
_GRACE = 2.0  # seconds for those who use it to leave it, then for the mount process to end
_LOOK_AFTER = 0.5  # seconds between two looks whether the mount process was killed and cannot end
_LOOK = 0.1  # seconds between two looks whether they have
_SYNC = 5.0  # to write what programs have changed by mmap(2), before the file system is taken from under them


def run(plan: Plan, ready: Callable[[], None], log: Callable[[str], None]) -> int:
    """Mount, call ready() once it can be used, and wait for the end; returns the exit status. Failure where it cannot be done."""
    stopping = set(signals.heeded())
    signal.pthread_sigmask(signal.SIG_BLOCK, {*stopping, signal.SIGCHLD})
    free = not device.number_at(plan.place)
    reader, writer = os.pipe()
    ours, theirs = socket.socketpair() if plan.reconnect else (None, None)
    pid = os.fork()
    if pid == 0:
        _close_all_but(writer, theirs.fileno() if theirs else writer)
        _mount_process(plan, writer, log, theirs)
    os.close(writer)
    if ours and theirs:
        theirs.close()
    charge = _Charge(pid, plan.place)
    try:
        said = _first_words(reader, stopping)
    finally:
        os.close(reader)
    if not said.startswith("+"):
        charge.end()
        if free:  # it may have been killed when it had just mounted
            charge.number = device.number_at(plan.place)
            charge.take_away()
        if stopping & signal.sigpending():
            raise KeyboardInterrupt
        raise Failure(said or "the mount process was killed before it could be used; try again")
    charge.number, carrier = said[1:].split(" ")
    if ours:
        _thread.start_new_thread(_reach_for if plan.address.remote else _connect_for, (ours, plan, int(carrier)))
    ready()
    return charge.watch(stopping, log)


def _close_all_but(*keep: int) -> None:
    """Beside the standard ones: what was inherited is not for the mount process."""
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _connect_for(mount_process: socket.socket, plan: Plan, _: int) -> None:
    """It may not connect itself; it asks with a byte, and gets one, with a socket where there is a server."""
    while mount_process.recv(1):
        try:
            with connected(plan.address.server, _PATIENCE) as sock:
                socket.send_fds(mount_process, [b"+"], [sock.fileno()])
        except OSError:
            mount_process.send(b"-")


def _reach_for(mount_process: socket.socket, plan: Plan, carrier: int) -> None:
    """As `_connect_for`, over ssh. carrier: the ssh of the mount process itself, which may not end that either."""
    from gofer.client.remote import Remote

    far: Remote | None = None
    while mount_process.recv(1):
        if far is not None:
            far.close()
        elif carrier:
            with contextlib.suppress(OSError):
                os.kill(carrier, signal.SIGKILL)
        far, carrier = None, 0
        try:
            far = Remote(plan.address.server, os.fsdecode(plan.address.path) or ".", plan.options.timeout, plan.ssh)
            socket.send_fds(mount_process, [b"+"], [far.socket.fileno()])
            far.socket.close()
        except (OSError, Failure):
            mount_process.send(b"-")


def _mount_process(plan: Plan, writer: int, log: Callable[[str], None], dial: socket.socket | None) -> None:
    """Never returns. What stops a program is for the guard, which unmounts: then this one ends."""
    signals.ignore(*signals.STOPPING)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())

    def mounted(number: str) -> None:
        os.write(writer, f"+{number}".encode())
        os.close(writer)

    try:
        process.run(plan, mounted, log, dial)
    except Failure as why:
        _last_words(writer, str(why))
    except OSError as error:
        _last_words(writer, str(failure("cannot mount", error)))
    finally:
        os._exit(1)


def _last_words(writer: int, words: str) -> None:
    try:
        os.write(writer, words.encode("utf-8", "surrogateescape"))
    except OSError:  # it was mounted, so it is closed
        tell(f"gofer: {words}")


def _first_words(reader: int, stopping: set[int]) -> str:
    """What the mount process says: `+` and a number, or why it could not. Nothing where we are told to stop."""
    import select

    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while not poll.poll(50):
        if stopping & signal.sigpending():
            return ""
    said = b""
    while part := os.read(reader, 65536):
        said += part
    return said.decode("utf-8", "surrogateescape")


class _Charge:
    """The mount process, and what it has mounted. number: of the device, "" as long as nothing is known to be mounted."""

    def __init__(self, pid: int, place: str) -> None:
        self.pid = pid
        self.place = place
        self.number = ""
        self.status: int | None = None

    def watch(self, stopping: set[int], log: Callable[[str], None]) -> int:
        doomed = 0
        while not self.ended() and doomed < 2:  # at the first look it may just be ending in order
            told = signal.sigtimedwait({*stopping, signal.SIGCHLD}, _LOOK_AFTER)
            if told is not None and told.si_signo in stopping:
                self.stop(stopping)
                return 0
            doomed = doomed + 1 if told is None and self._is_doomed() else 0
        if self.status is None:
            status = -signal.SIGKILL if device.number_at(self.place) == self.number else 0
        else:
            status = self.status
        if status:
            log("the mount process was killed: unmounted" if status < 0 else "the mount process failed: unmounted")
        self.take_away()
        return 1 if status else 0

    def _is_doomed(self) -> bool:
        """Whether it was killed, and one of its threads hangs in a system call: that it has ended is told when that ends."""
        try:
            with open(f"/proc/{self.pid}/status", "rb") as file:
                lines = dict(line.split(b":", 1) for line in file)
            pending = int(lines[b"SigPnd"], 16) | int(lines[b"ShdPnd"], 16)
        except (OSError, KeyError):  # no /proc here
            return False
        return lines[b"State"].split()[0] in (b"Z", b"X") or bool(pending >> signal.SIGKILL - 1 & 1)

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = -(status & 0x7F) or status >> 8
        return self.status is not None

    def stop(self, stopping: set[int]) -> None:
        """Unmount, in order where nobody uses it; a second signal, or too long a wait, ends it at once."""
        if self._in_use():
            self._sync(stopping)
            deadline = monotonic() + _GRACE
            while self._in_use() and monotonic() < deadline and not stopping & signal.sigpending():
                sleep(_LOOK)
        self.take_away()
        self._wait(_GRACE, stopping)
        self.end()

    def _in_use(self) -> bool:
        """Whether it is still mounted, as somebody uses it."""
        try:
            if device.number_at(self.place) == self.number:
                device.unmount(self.place, lazy=False)
        except OSError as error:
            return error.errno == EBUSY
        return False

    def _sync(self, stopping: set[int]) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                _syncfs(self.place)
            finally:
                os._exit(0)
        deadline = monotonic() + _SYNC
        while monotonic() < deadline and not stopping & signal.sigpending():
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
            sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    def _wait(self, seconds: float, stopping: set[int]) -> None:
        deadline = monotonic() + seconds
        while not self.ended() and monotonic() < deadline and not stopping & signal.sigpending():
            signal.sigtimedwait({signal.SIGCHLD}, 0.05)

    def end(self) -> None:
        """The mount process, now; and whatever it has mounted. One that hangs in a system call ends when that does."""
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            self._wait(_GRACE, set())
        self.take_away()

    def take_away(self) -> None:
        """Our mount, if it is still there. What stands on it, or in its place, is not ours.

        By force: what waits for an answer fails, also where the mount process cannot be ended and keeps /dev/fuse open.
        """
        while self.number and device.number_at(self.place) == self.number:
            try:
                device.unmount(self.place, lazy=True, force=True)
            except OSError as error:
                if error.errno not in (EINVAL, ENOENT):
                    tell(f"gofer: cannot unmount {self.place}: {error.strerror}; umount -l does so")
                return


def _syncfs(place: str) -> None:
    from gofer.sys import libc

    fd = os.open(place, os.O_RDONLY)
    libc["syncfs"](fd)
