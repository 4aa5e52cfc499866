"""Starting the program under test, and looking at it from outside."""

import contextlib
import errno
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import pytest

from gofer.conform.peer import Peer, over_channel, over_socket
from gofer.conform.peer2021 import Peer2021
from gofer.conform.transport import PATIENCE

# Seconds until a whole program counts as never. A test waits for what happens, and this long (or PATIENCE) only to fail: a
# machine with other work beside the tests may be thirty times as slow.
CALM = 900
CHECKOUT = Path(__file__).resolve().parent.parent
# What servers run on, and what enters a jail: another interpreter than that of the tests, to try its C library (tests/elsewhere).
PYTHON = shlex.split(os.environ.get("SERVER_PYTHON", sys.executable))
GOFER = [*PYTHON, str(CHECKOUT)]
NO_LARGE_FILES = ("prlimit", "--fsize=67108864")  # a server's wrap: an FAllocate of random length cannot fill the disk
FAULTS = re.compile("Traceback|fault in|channel failed|Exception")
TRANSPORTS = ("socket", "channel")
WAYS_2021 = ("socket-2021", "channel-2021")
WAYS = TRANSPORTS + WAYS_2021  # to ask a server something: transport and dialect


class Server:
    """One `gofer serve`, and the directory or file it serves. One worker, so that `pid` is the process that serves all."""

    def __init__(self, tree: Path, *options: str, wrap: Sequence[str] = (), **popen: Any) -> None:
        """wrap: a command that execs the rest of its arguments; popen: arguments of subprocess.Popen."""
        self.tree = tree
        self.place = Path(tempfile.mkdtemp(prefix="server-"))
        self.path = self.place / "socket"
        self.log = self.place / "stderr"
        self.threads = 2 if "qemu" in GOFER[0] else 1  # without a client; an emulator has one of its own
        argv = [*wrap, *GOFER, "serve", str(tree), "--socket", str(self.path), "--workers", "1", *self.counted(options)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **popen)
        self.pid = self.process.pid
        try:
            with over_socket_of(self.connect):
                pass  # what is made on first use is made now
            if "jail: off" not in self.said():
                self.pid = serving(self.process.pid)
            if any(word.startswith("--trace-on-signal") for word in self._of_the_run()):
                self.process.send_signal(signal.SIGUSR2)
            self.fds = self.settled_fds()
        except BaseException:
            self.kill()
            raise

    def counted(self, options: Sequence[str]) -> list[str]:
        """Without the thread that looks for slow requests while clients are there, unless asked for: threads are counted."""
        slow = [] if any(option.startswith("--slow") for option in options) else ["--slow=0"]
        return [*slow, *options, *self._of_the_run()]

    def _of_the_run(self) -> list[str]:
        """$SERVER_OPTIONS: more, for all servers of a run (tests/run); PLACE in them is a directory of each one's own."""
        return shlex.split(os.environ.get("SERVER_OPTIONS", "").replace("PLACE", str(self.place)))

    def connect(self) -> socket.socket:
        """A connected socket; waits for the server to come up."""
        deadline = time.monotonic() + PATIENCE
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self.path))
                return sock
            except (FileNotFoundError, ConnectionRefusedError):
                sock.close()
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the server did not start: {self.said()}") from None
                time.sleep(0.002)

    @contextlib.contextmanager
    def peer(self, way: str = "socket") -> Iterator[Peer]:
        """A mounted client, by one of WAYS."""
        with over_socket_of(self.connect, Peer2021 if way in WAYS_2021 else Peer) as base:
            if way.startswith("socket"):
                yield base
                return
            peer = over_channel(base)
            try:
                yield peer
            finally:
                peer.disconnect()

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def open_fds(self) -> list[str]:
        """What each fd of the server refers to, sorted, once it has nothing more to do."""
        self.rest()
        return open_fds(self.pid)

    def rest(self) -> None:
        """Waits until each thread sleeps: what a server has donated, say, it closes a moment after its client has it."""
        if self.process.poll() is None:
            both = self.pid, self.process.pid
            wait_until(lambda: all(map(asleep, both)), lambda: f"the server rests: {[*map(threads, both)]}")

    def holds(self, path: Path) -> int:
        """How many fds of the server are open on this file, whatever its name in there is."""
        self.rest()
        count = 0
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                count += os.path.samestat(os.stat(f"/proc/{self.pid}/fd/{fd}"), os.stat(path))
        return count

    def settled_fds(self) -> int:
        """The number of fds once all clients are gone and their threads have ended."""
        wait_until(lambda: len(os.listdir(f"/proc/{self.pid}/task")) == self.threads, "the threads of channels end")
        sockets = "nobody is connected: there is the socket that it listens on"
        wait_until(lambda: sum(link.startswith("socket:") for link in self.open_fds()) == 1, sockets)
        return len(self.open_fds())

    def check_idle(self) -> None:
        """Nothing of any client may be left: no fd, no thread."""
        wait_until(lambda: self.process.poll() is not None or len(self.open_fds()) <= self.fds, self._leaks)
        assert self.process.poll() is None, f"the server died ({self.process.returncode}): {self.said()}"
        wait_until(lambda: len(os.listdir(f"/proc/{self.pid}/task")) == self.threads, "the threads of channels end")
        self.check_log()

    def check_log(self) -> None:
        """Whatever a client sent, the server never met an error it did not foresee."""
        said = self.said()
        assert not FAULTS.search(said), said

    def _leaks(self) -> str:
        return f"the server closes its clients' fds; it has {self.open_fds()}"

    def rss(self) -> int:
        """Resident memory in KiB."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise AssertionError("the server is gone")

    def wait(self) -> int:
        return self.process.wait(PATIENCE)

    def stop(self) -> None:
        """SIGTERM ends it with status 0, and nothing it said is a traceback."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.wait()
            assert status == 0, f"exit status {status}: {self.said()}"
            self.check_log()
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.place, ignore_errors=True)


@contextlib.contextmanager
def over_socket_of(connect: Callable[[], socket.socket], kind: type[Peer] = Peer) -> Iterator[Peer]:
    peer = over_socket(connect(), kind)
    try:
        yield peer
    finally:
        peer.disconnect()


def run(*argv: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the program to its end; its output as text."""
    options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("timeout", CALM)
    return subprocess.run([*GOFER, *argv], capture_output=True, text=True, **options)


def fails_in_one_line(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Exit status 1, and one line on stderr that holds each of words."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.startswith("gofer: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in {done.stderr!r}"


def serves(path: Path) -> bool:
    """Whether a client gets its answer there."""
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(str(path))
    except OSError:
        sock.close()
        return False
    over_socket(sock).disconnect()
    return True


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


@contextlib.contextmanager
def fails(number: int) -> Iterator[None]:
    """The body fails with this errno and no other."""
    with pytest.raises(OSError) as caught:
        yield
    got = caught.value.errno
    assert got == number, f"expected {errno.errorcode[number]}, got {errno.errorcode.get(got or 0, caught.value)}"


def wait_until(condition: Callable[[], bool], what: Any, patience: float = PATIENCE) -> None:
    """what: text, or a function that makes it, for the failure: "never happened: <what>"."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"never happened: {what() if callable(what) else what}")
        time.sleep(0.002)


def however_slow(attempt: Callable[[float], None], *units: float) -> None:
    """attempt(unit), where what is awaited takes so many units; a machine may be too slow for the shorter ones."""
    for unit in units[:-1]:
        with contextlib.suppress(AssertionError, OSError):
            return attempt(unit)
    attempt(units[-1])


def serving(pid: int) -> int:
    """The process that serves, the first worker, where `pid` was started: its child, or itself with --jail=off."""
    below = [child for child in children(pid) if Path(f"/proc/{child}/comm").read_text() != "gofer-watch\n"]
    return below[0] if below else pid


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The body runs while the process does not."""
    os.kill(pid, signal.SIGSTOP)
    try:
        tasks = [int(task) for task in os.listdir(f"/proc/{pid}/task")]
        wait_until(lambda: all(state(task) == "T" for task in tasks), "each of its threads stops")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def state(pid: int) -> str:
    """Of a process or a thread, as in proc(5): S sleeps, T is stopped, Z is a zombie."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def threads(pid: int) -> dict[str, tuple[str, ...]]:
    """Of each thread, by its id: the letter of its state, and how often it went to sleep and was made to wait (proc(5))."""
    found = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            status = Path(f"/proc/{pid}/task/{task}/status").read_text()
            found[task] = tuple(re.findall(r"^(?:State|\w*voluntary_ctxt_switches):\t(\w+)", status, re.MULTILINE))
    return found


def asleep(pid: int) -> bool:
    """Whether none of its threads had anything to do at a moment of this call: all slept before it, and still do after."""
    before = threads(pid)
    return all(seen[0] in "SDTtZX" for seen in before.values()) and threads(pid) == before


def ended(pid: int) -> bool:
    """Gone, or a zombie that nobody has fetched yet."""
    try:
        return state(pid) in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid: int) -> float:
    """What a process has used, whatever else the machine does."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def links(pid: int) -> dict[int, str]:
    """What each open fd of a process refers to, but for those that it closes meanwhile."""
    found = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    return found


def open_fds(pid: int) -> list[str]:
    """The same, sorted, without the numbers."""
    return sorted(links(pid).values())


def empty(directory: Path) -> None:
    """Remove everything below, and give the directory itself back its first mode and owner."""
    os.chmod(directory, 0o755)
    os.chown(directory, os.getuid(), os.getgid())
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)
