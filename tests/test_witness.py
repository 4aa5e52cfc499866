"""What a filter refuses is told by number and name; it is not made, and its process dies, whatever that does against it."""

import platform
import signal
import struct
import sys
from pathlib import Path

import pytest
from conftest import Start
from hosts import PATIENCE, TRANSPORTS, children, ended, open_fds, wait_until
from prison import attempt, run, started

from gofer.conform.codec import Mid
from gofer.conform.transport import CHANNEL_HEADER, HEADER, ChannelTransport

x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls are made by their numbers on x86_64")
# The program, where a client's FStat makes it do what its filter forbids. It is started as `python -c THIS python CHECKOUT ...`.
FAULTY = """
import sys
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0])
import ctypes
from gofer import cli, wire
from gofer.server import dispatch
ptrace = lambda *_: ctypes.CDLL(None).syscall(101, 16, 4711, 0, 0)
dispatch.HANDLERS = tuple(ptrace if mid == wire.FSTAT else each for mid, each in enumerate(dispatch.HANDLERS))
sys.exit(cli.main(sys.argv[1:]))
"""
PTRACE = "made a system call that its filter forbids: ptrace (number 101 on x86_64; arguments 0x10 0x1267 0x0 0x0 "
CHMOD = "(os.read(0, 1), call(90, b'file', 0o777))[1]"


@x86_64
@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_server_says_what_its_filter_refused_whichever_worker_called_it(
    start: Start, workers: str, transport: str
) -> None:
    server = start("--workers", workers, wrap=(sys.executable, "-c", FAULTY))
    crew = [server.pid, *children(server.pid)]
    peers = [server.peer() for _ in crew]
    clients = [peer.__enter__() for peer in peers]
    with server.peer(transport) as last:
        fstat = struct.pack("<Q", last.root)
        if isinstance(last.transport, ChannelTransport):
            last.transport.hand_over(
                CHANNEL_HEADER.pack(Mid.FSTAT, 0, 0) + fstat
            )  # who waits for a reply waits in vain
        else:
            last.transport.send(HEADER.pack(len(fstat), Mid.FSTAT, 0) + fstat)
        assert server.wait() == -signal.SIGSYS
    assert f"gofer: the server {PTRACE}" in server.said()
    wait_until(lambda: all(ended(pid) for pid in crew), "all workers have ended")
    for client in clients:
        client.disconnect()


@x86_64
def test_a_call_by_another_entry_is_told_as_one(spot: Path) -> None:
    """The x32 entry: the same architecture, and a number that has no name there."""
    done = run("call(0x40000000 + 39)", spot)
    assert done.returncode == -signal.SIGSYS
    assert "filter forbids: unknown (number 1073741863 on x86_64;" in done.stderr


def test_the_server_keeps_no_listener_of_its_filter(start: Start) -> None:
    """With it, it could let its own calls through."""
    server = start("--workers", "2")
    listener = "anon_inode:seccomp notify"
    for pid in (server.pid, *children(server.pid)):
        assert len(open_fds(pid)) > 3 and listener not in open_fds(pid)
    wait_until(lambda: open_fds(server.process.pid).count(listener) == 2, "the supervisor has them")


@x86_64
def test_who_has_become_another_user_is_killed_all_the_same(spot: Path) -> None:
    become = "(call(119, 5, 5, 5), call(117, 5, 5, 5), call(101, 0, 0, 0, 0))"
    assert attempt(become, spot, host_uds="open") == f"killed by {int(signal.SIGSYS)}"


@x86_64
def test_who_withdraws_its_call_by_a_signal_is_killed_all_the_same(spot: Path) -> None:
    again_and_again = """
signal.signal(signal.SIGUSR1, lambda *_: None)
def disturb(thread):
    while True:
        signal.pthread_kill(thread, signal.SIGUSR1)
def insist():
    threading.Thread(target=disturb, args=(threading.get_ident(),)).start()
    while True:
        try:
            call(101, 0, 0, 0, 0)
        except OSError:
            pass
"""
    assert attempt("insist()", spot, before=again_and_again) == f"killed by {int(signal.SIGSYS)}"


@x86_64
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
def test_a_refused_call_is_never_made_even_where_nobody_is_there_to_see_it(then: signal.Signals, spot: Path) -> None:
    """The supervisor is stopped, and goes on, or is killed, when the call sleeps."""
    file = spot / "file"
    file.touch(0o600)
    with started(CHMOD, spot) as process:
        assert process.stdin
        wait_until(
            lambda: len(children(process.pid)) == 1 and blocks_on_stdin(process.pid), "the server asks for input"
        )
        server = children(process.pid)[0]
        process.send_signal(signal.SIGSTOP)
        process.stdin.write("!")
        process.stdin.flush()
        wait_until(lambda: calls(server) == 90, "the server calls chmod")
        process.send_signal(then)
        assert process.wait(PATIENCE) == (-signal.SIGSYS if then == signal.SIGCONT else -signal.SIGKILL)
        wait_until(lambda: ended(server), "the server ends")
    assert file.stat().st_mode & 0o777 == 0o600


def blocks_on_stdin(supervisor: int) -> bool:
    return calls(children(supervisor)[0]) == 0


def calls(pid: int) -> int:
    """The number of the system call that a process sleeps in; -1: none."""
    word = Path(f"/proc/{pid}/syscall").read_text().split()[0]
    return int(word) if word.isdigit() else -1


@x86_64
def test_where_somebody_listens_already_the_kernel_kills_and_the_number_is_not_known(spot: Path) -> None:
    """A process has one listener: such as that of a container's engine (seccomp_unotify(2))."""
    listen = """
from gofer.jail import seccomp
listener = seccomp.install(bytes.fromhex("0600000000 00ff7f".replace(" ", "")), listen=True)
"""
    done = run("os.fork()", spot, before=listen)
    assert done.returncode == -signal.SIGSYS
    assert (
        "gofer: the server made a system call that its filter forbids, and was killed: please report it" in done.stderr
    )
