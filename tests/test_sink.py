"""A line of the log never holds up who writes it, whatever stderr is: each kind with no room, and a server on each."""

import contextlib
import errno
import fcntl
import os
import pty
import signal
import socket
import subprocess
import tempfile
import termios
import tty
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable

import pytest
from hosts import GOFER, PATIENCE, children, ended, fails, wait_until
from prison import USER, as_user

from gofer.conform.peer import over_socket
from gofer.sink import Sink

LINE = b"x" * 99 + b"\n"


class Closing:
    """closing(fds) closes them after the test, closing.now(fd) one of them at once."""

    def __init__(self) -> None:
        self.fds: set[int] = set()

    def __call__(self, *fds: int) -> "tuple[int, ...]":
        self.fds.update(fds)
        return fds

    def now(self, fd: int) -> None:
        self.fds.remove(fd)
        os.close(fd)


@pytest.fixture
def closing() -> Iterator[Closing]:
    closing = Closing()
    yield closing
    for fd in closing.fds:
        os.close(fd)


def fill(fd: int) -> None:
    """Until nothing more fits; the description stays blocking for everybody else."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, LINE)
    os.set_blocking(fd, True)


def read_all(fd: int) -> bytes:
    """What is there now."""
    os.set_blocking(fd, False)
    found = b""
    with contextlib.suppress(BlockingIOError):
        while part := os.read(fd, 65536):
            found += part
    return found


def pipe() -> "tuple[int, int]":
    return os.pipe()


def fifo() -> "tuple[int, int]":
    """A FIFO with a name, which is gone."""
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(f"{folder}/fifo")
        return os.open(f"{folder}/fifo", os.O_RDONLY | os.O_NONBLOCK), os.open(f"{folder}/fifo", os.O_WRONLY)


def stream() -> "tuple[int, int]":
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def datagrams() -> "tuple[int, int]":
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return ours.detach(), theirs.detach()


def terminal() -> "tuple[int, int]":
    master, slave = pty.openpty()
    tty.setraw(slave)
    return master, slave


def stopped_terminal() -> "tuple[int, int]":
    """As by Ctrl-S: poll(2) says that there is no room."""
    master, slave = terminal()
    termios.tcflow(slave, termios.TCOOFF)
    return master, slave


ENDS = [pipe, fifo, stream, datagrams, terminal]
Ends = Callable[[], "tuple[int, int]"]


@pytest.mark.parametrize("ends", ENDS)
def test_a_line_without_room_is_lost_and_nobody_waits(ends: Ends, closing: Closing) -> None:
    reader, writer = closing(*ends())
    output = Sink(writer)
    fill(writer)
    for _ in range(1000):
        output.put(b"lost\n")
    assert os.get_blocking(writer), "the description is not ours alone"
    read_all(reader)
    output.put(b"found\n")
    wait_until(lambda: read_all(reader).endswith(b"found\n"), "the line comes")


def test_a_terminal_that_is_stopped_gets_no_lines_and_later_whole_ones(closing: Closing) -> None:
    master, slave = closing(*stopped_terminal())
    output = Sink(slave)
    for _ in range(1000):
        output.put(b"lost\n")
    termios.tcflow(slave, termios.TCOON)
    output.put(b"found\n")
    wait_until(lambda: read_all(master).endswith(b"found\n"), "the line comes")


@pytest.mark.parametrize("ends", [stream, terminal])
def test_a_line_that_was_cut_off_is_ended_before_the_next(ends: Ends, closing: Closing) -> None:
    reader, writer = closing(*ends())
    output = Sink(writer)
    longest = b"y" * 300_000 + b"\n"
    output.put(longest)  # a terminal and a stream take what there is room for
    said = read_all(reader)
    assert said and set(said) == {ord("y")}
    output.put(b"next\n")
    wait_until(lambda: read_all(reader) == b"\nnext\n", "the next line begins a line")


@pytest.mark.parametrize("ends", [pipe, fifo, terminal])
def test_where_it_is_another_users_a_thread_writes_and_nobody_waits(ends: Ends, closing: Closing) -> None:
    """It cannot be opened anew then. Nothing is lost that is read in time, and the thread ends with the last line."""
    reader, writer = closing(*ends())
    done, tell = closing(*os.pipe())
    fill(writer)
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresuid(USER, USER, USER)
        output = Sink(writer)
        for number in range(1000):  # more than may wait
            output.put(b"line %d\n" % number)
        os.write(tell, b".")
        output.finish(60)
        os._exit(len(os.listdir("/proc/self/task")) if not output.fds else 100)
    closing.now(tell)
    assert os.read(done, 1) == b"."
    said = b""
    while not ended(child):
        said += read_all(reader)
    said += read_all(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (1, 2)  # a thread is still listed while it ends
    lines = said[said.index(b"line 0") :].splitlines()
    assert lines == [b"line %d" % number for number in range(len(lines))] and len(lines) >= 100


@pytest.mark.parametrize("user", [0, USER], ids=["ours", "another user's"])
def test_it_goes_on_behind_a_fork(user: int, closing: Closing) -> None:
    reader, writer = closing(*os.pipe())
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresuid(user, user, user)
        output = Sink(writer)
        output.put(b"parent\n")
        output.finish()
        below = os.fork()
        output.put(b"child\n" if below == 0 else b"parent again\n")
        output.finish()
        os._exit(os.waitpid(below, 0)[1] if below else bool(user) == bool(output.fds))
    assert os.waitpid(child, 0)[1] == 0
    first, *rest = read_all(reader).splitlines()
    assert first == b"parent" and sorted(rest) == [b"child", b"parent again"]


@pytest.mark.parametrize("what", ["/dev/full", "/dev/null", "closed", "for reading", "no reader"])
def test_what_cannot_be_written_to_is_no_error(what: str, spot: Path, closing: Closing) -> None:
    reader, writer = closing(*os.pipe())
    if what.startswith("/"):
        (fd,) = closing(os.open(what, os.O_WRONLY))
    elif what == "for reading":
        fd = reader
    else:
        fd = writer
        closing.now(writer if what == "closed" else reader)
    output = Sink(fd)
    output.put(LINE)
    output.finish()
    del output
    if what == "for reading":
        assert read_all(reader) == b"", "what was open for reading only was written to"


def test_a_files_position_is_shared_with_whoever_else_writes_there(spot: Path) -> None:
    """Opened anew it would have one of its own, and lines would be written over."""
    with open(spot / "file", "wb", buffering=0) as file:
        output = Sink(file.fileno())
        file.write(b"before\n")
        output.put(b"line\n")
        file.write(b"after\n")
    assert (spot / "file").read_bytes() == b"before\nline\nafter\n"


def test_nothing_of_ours_stays_open(closing: Closing) -> None:
    for ends in ENDS:
        _, writer = closing(*ends())
        held = Sink(writer).fds
        for fd in held:
            with fails(errno.EBADF):
                os.fstat(fd)


# Servers


def group_leader(slave: int, tostop: bool) -> Callable[[], None]:
    """The process leads a session with this terminal; what it puts into another process group is in the background."""

    def prepare() -> None:
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        if tostop:
            attributes = termios.tcgetattr(slave)
            attributes[3] |= termios.TOSTOP
            termios.tcsetattr(slave, termios.TCSANOW, attributes)

    return prepare


class Server:
    def __init__(self, spot: Path, stderr: int, *options: str, command: Sequence[str] = GOFER, **popen: Any) -> None:
        self.path = spot / "socket"
        (spot / "tree").mkdir()
        argv = [*command, "serve", str(spot / "tree"), "--socket", str(self.path), "--log-level", "debug", *options]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, **popen
        )

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        wait_until(lambda: sock.connect_ex(str(self.path)) == 0, "the server comes up")
        return sock

    def serves(self) -> None:
        """Several clients at once, so that each worker has some, each with a hundred requests that leave a line in the log."""
        socks = [self.connect() for _ in range(4)]
        for sock in socks:
            sock.settimeout(PATIENCE)
        peers = [over_socket(sock) for sock in socks]
        for peer in peers:
            for _ in range(100):
                with fails(errno.EOPNOTSUPP):
                    peer.call(99)
        for peer in peers:
            peer.disconnect()

    def processes(self) -> "list[int]":
        found = [self.process.pid]
        for pid in found:
            found += children(pid)
        return found

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE) == 0
        assert not self.path.exists()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def start(spot: Path) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(*args: Any, **how: Any) -> Server:
        started.append(Server(spot, *args, **how))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.mark.parametrize("jail", ["auto", "off"])
@pytest.mark.parametrize("ends", [*ENDS, stopped_terminal])
def test_a_server_serves_and_stops_although_its_stderr_takes_nothing(
    start: Callable[..., Server], ends: Ends, jail: str, closing: Closing
) -> None:
    _, writer = closing(*ends())
    if ends is not stopped_terminal:
        fill(writer)
    server = start(writer, f"--jail={jail}", "--workers", "2")
    server.serves()
    server.stop()


@pytest.mark.parametrize("jail", ["auto", "off"])
@pytest.mark.parametrize("what", ["/dev/full", "closed", "no reader"])
def test_a_server_serves_and_stops_although_its_stderr_fails(
    start: Callable[..., Server], what: str, jail: str, closing: Closing
) -> None:
    reader, writer = closing(*os.pipe())
    (full,) = closing(os.open("/dev/full", os.O_WRONLY))
    if what == "no reader":
        closing.now(reader)
    how = {"preexec_fn": lambda: os.close(2)} if what == "closed" else {}
    server = start(full if what == "/dev/full" else writer, f"--jail={jail}", "--workers", "2", **how)
    server.serves()
    server.stop()


@pytest.mark.parametrize("ends", [pipe, terminal])
def test_a_server_serves_and_stops_although_a_stderr_of_another_user_takes_nothing(
    start: Callable[..., Server], ends: Ends, spot: Path, closing: Closing
) -> None:
    _, writer = closing(*ends())
    fill(writer)
    spot.chmod(0o777)
    with as_user(USER) as (command, how):
        server = start(writer, "--workers", "2", command=command, **how)
        server.serves()
        server.stop()


@pytest.mark.parametrize("jail", ["auto", "off"])
@pytest.mark.parametrize("background", [False, True])
def test_a_terminal_with_tostop_neither_stops_a_server_nor_lets_it_spin(
    start: Callable[..., Server], jail: str, background: bool, closing: Closing
) -> None:
    """The server is in a process group of its own, which the terminal takes for one in the background."""
    master, slave = closing(*terminal())
    wrap = ["sh", "-c", 'set -m; "$@" & wait', "sh"] if background else []
    options = [f"--jail={jail}", "--workers", "2"]
    how = {"start_new_session": True, "preexec_fn": group_leader(slave, tostop=True)}
    server = start(slave, *options, command=[*wrap, *GOFER], **how)
    server.serves()
    for pid in server.processes():
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state != "T", pid
    said = b""

    def told() -> bool:
        nonlocal said
        said += read_all(master)
        return b"look at it with" in said and b"(Operation not supported)" in said

    wait_until(told, lambda: f"the terminal shows its lines: {said!r}")
    if background:
        (pid,) = children(server.process.pid)
        os.kill(pid, signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0 and not server.path.exists()
    else:
        server.stop()


@pytest.mark.parametrize("jail", ["auto", "off"])
@pytest.mark.parametrize("key", [b"\x03", b"\x1c"], ids=["Ctrl-C", "Ctrl-backslash"])
def test_what_a_person_types_to_end_a_server_leaves_no_socket_file(
    start: Callable[..., Server], key: bytes, jail: str, closing: Closing
) -> None:
    master, slave = closing(*pty.openpty())
    server = start(slave, f"--jail={jail}", start_new_session=True, preexec_fn=group_leader(slave, tostop=False))
    server.serves()
    os.write(master, key)
    assert server.process.wait(PATIENCE) == 0
    assert not server.path.exists()
