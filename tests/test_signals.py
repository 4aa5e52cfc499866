"""Signals that were ignored or blocked when a command was started, and those that a person types: what each then does."""

import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from conftest import Start
from hosts import CALM, GOFER, Server, children, over_socket_of, run
from runsc import Runsc, one_file_gofer, spec_of, starting

STOPPING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
JAILS = ("auto", "off")
LOOK = ["/usr/bin/grep", "-h", "^Sig[BIC]", "/proc/self/status"]  # what is blocked, ignored and caught in a new program


def inheriting(ignored: Iterable[int] = (), blocked: Iterable[int] = ()) -> Callable[[], None]:
    """For preexec_fn of subprocess.Popen."""

    def prepare() -> None:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, set(blocked))

    return prepare


def signals_of(pid: int, field: str) -> "set[int]":
    """The set of signals that a line of /proc/PID/status shows."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            mask = int(line.split()[1], 16)
            return {number for number in range(1, 65) if mask >> (number - 1) & 1}
    raise AssertionError(field)


def processes(server: Server) -> "list[int]":
    """The one that was started, and all below it."""
    found = [server.process.pid]
    for pid in found:
        found += children(pid)
    return found


def works(server: Server) -> None:
    with over_socket_of(server.connect) as peer:
        peer.fstat(peer.root)


@pytest.mark.parametrize("jail", JAILS)
@pytest.mark.parametrize("ignored", STOPPING)
def test_what_was_ignored_at_the_start_does_not_stop_a_server(start: Start, ignored: int, jail: str) -> None:
    """`nohup gofer serve` lives on when its terminal goes."""
    server = start(f"--jail={jail}", "--workers", "2", preexec_fn=inheriting([ignored]))
    for pid in processes(server):
        assert ignored in signals_of(pid, "SigIgn")
    server.process.send_signal(ignored)
    works(server)
    server.process.send_signal(next(number for number in reversed(STOPPING) if number != ignored))
    assert server.wait() == 0
    assert not server.path.exists()


def test_a_server_started_by_nohup_outlives_a_hangup(start: Start) -> None:
    server = start(wrap=["nohup"])
    server.process.send_signal(signal.SIGHUP)
    works(server)


@pytest.mark.parametrize("jail", JAILS)
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_that_was_blocked_at_the_start_stops_a_server(start: Start, number: int, jail: str) -> None:
    server = start(f"--jail={jail}", preexec_fn=inheriting(blocked=range(1, 32)))
    server.process.send_signal(number)
    assert server.wait() == 0
    assert not server.path.exists()


@pytest.mark.parametrize("jail", JAILS)
@pytest.mark.parametrize("how", [
    {"ignored": [signal.SIGCHLD]}, {"blocked": [signal.SIGCHLD]}, {"ignored": STOPPING},
    {"ignored": [signal.SIGCHLD, *STOPPING], "blocked": range(1, 32)},
], ids=str)  # fmt: skip
def test_the_commands_status_is_the_servers_whatever_was_inherited(
    spot: Path, jail: str, how: "dict[str, Any]"
) -> None:
    """Were SIGCHLD ignored the kernel would keep no status; with SIGTERM ignored we must stop the server all the same."""
    for _ in range(4):
        done = run(
            "serve", str(spot), f"--jail={jail}", "--quiet", "--", "sh", "-c", "exit 7", preexec_fn=inheriting(**how)
        )
        assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize("jail", JAILS)
def test_a_command_gets_its_signals_as_we_got_them(spot: Path, jail: str) -> None:
    how = inheriting([signal.SIGCHLD, signal.SIGHUP, signal.SIGTTOU], [signal.SIGUSR1, signal.SIGTERM])
    alone = subprocess.run(LOOK, stdout=subprocess.PIPE, text=True, preexec_fn=how, check=True)
    for preexec, expected in ((how, alone.stdout), (None, None)):
        if expected is None:
            expected = subprocess.run(LOOK, stdout=subprocess.PIPE, text=True, check=True).stdout
        done = run("serve", str(spot), f"--jail={jail}", "--quiet", "--", *LOOK, preexec_fn=preexec)
        assert (done.stdout, done.stderr) == (expected, "")


@pytest.mark.parametrize("jail", JAILS)
@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("workers", ["1", "2"])
def test_whatever_stops_a_server_leaves_no_socket_file(start: Start, number: int, workers: str, jail: str) -> None:
    """SIGQUIT is Ctrl-\\\\."""
    server = start(f"--jail={jail}", "--workers", workers)
    server.process.send_signal(number)
    assert server.wait() == 0
    assert not server.path.exists()


def test_doctor_waits_for_its_children_whatever_was_inherited(spot: Path) -> None:
    how = inheriting([signal.SIGCHLD], [signal.SIGCHLD, signal.SIGTERM])
    expected = run("doctor", "--self-test", str(spot))
    done = run("doctor", "--self-test", str(spot), preexec_fn=how)
    assert (done.returncode, done.stderr) == (expected.returncode, "")
    assert "ECHILD" not in done.stdout and "No child" not in done.stdout
    assert done.stdout.count("failed") == expected.stdout.count("failed")


# The launcher and the stand-in


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.mark.slow
def test_the_launcher_starts_containers_with_sigchld_ignored(spot: Path, one_file: Path) -> None:
    runsc = Runsc(spot, one_file)
    for how in (inheriting([signal.SIGCHLD]), inheriting(blocked=[signal.SIGCHLD, signal.SIGTERM])):
        done = runsc.run("do", "sh", "-c", "exit 5", check=False, preexec_fn=how)
        assert (done.returncode, done.stderr) == (5, "")
    assert runsc.served_by_us() == 2


def test_the_launcher_hands_its_signals_on_as_it_got_them(spot: Path) -> None:
    """What runs in runsc's place here tells them."""
    how = inheriting([signal.SIGCHLD, signal.SIGHUP], [signal.SIGUSR1])
    expected = subprocess.run(LOOK, stdout=subprocess.PIPE, text=True, preexec_fn=how, check=True).stdout
    argv = [*GOFER, "runsc", "--runsc", LOOK[0], "--gofer", sys.executable, "--", *LOOK[1:]]
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=how, timeout=CALM)
    assert (done.stdout, done.stderr) == (expected, "")


@pytest.mark.parametrize("how", [None, inheriting([signal.SIGCHLD], [signal.SIGCHLD])])
def test_the_stand_in_sees_how_a_hook_ended(spot: Path, how: "Optional[Callable[[], None]]") -> None:
    hooks = {"createContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]}
    with starting(spot) as start:
        started = start(spec_of(hooks=hooks), "--gofer-mount-confs=lisafs:none", "c", preexec_fn=how)
        assert started.wait() == 128
        assert "exit status 3" in started.errors()[0]["msg"]


def test_a_hook_gets_its_signals_as_the_stand_in_got_them(spot: Path) -> None:
    fails = [*LOOK, "/not/there"]  # and says on stdout what we want to know
    hooks = {"createContainer": [{"path": LOOK[0], "args": fails}]}
    how = inheriting([signal.SIGCHLD, signal.SIGHUP], [signal.SIGUSR1])
    expected = subprocess.run(LOOK, stdout=subprocess.PIPE, text=True, preexec_fn=how, check=True).stdout
    with starting(spot) as start:
        started = start(spec_of(hooks=hooks), "--gofer-mount-confs=lisafs:none", "c", preexec_fn=how)
        assert started.wait() == 128
        said = started.errors()[0]["msg"]
        assert all(line in said for line in expected.splitlines()), said
