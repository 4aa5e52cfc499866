"""The server on other C libraries and other machines than this one's: what its filter is made for, and is not."""

import errno
import platform
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import elsewhere
import hosts
import pytest
from conftest import Start
from hosts import CHECKOUT, TRANSPORTS, fails

from gofer.conform.corpus import session
from gofer.jail import callnames, seccomp

pytestmark = pytest.mark.slow
EMULATED = [name for name in elsewhere.OF_THE_GATE if elsewhere.PLACES[name].qemu]
NATIVE = [name for name in elsewhere.OF_THE_GATE if not elsewhere.PLACES[name].qemu]
native = pytest.mark.skipif(platform.machine() != "x86_64", reason="these are made for x86_64")
# What qemu -strace writes, somewhere in a line: "PID call(arguments", or "PID Unknown syscall number".
CALLED = re.compile(r"(?:^|(?<=\D))(\d+) (?:Unknown syscall (\d+)|([a-z]\w*)\()")
# The program with handlers that fail, in a way that is foreseen and in two that are not.
FAULTY = """
import os, sys
sys.argv = sys.argv[2:]
sys.path.insert(0, sys.argv[0])
from gofer import cli, wire
from gofer.server import dispatch
class Odd(BaseException): pass
def fault(*_): raise ValueError
def odd(*_): raise Odd("told")
new = {wire.FSTAT: fault, wire.FSTATFS: odd, wire.READLINKAT: lambda *_: os.abort()}
dispatch.HANDLERS = tuple(new.get(mid, handler) for mid, handler in enumerate(dispatch.HANDLERS))
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.fixture(params=[*EMULATED, *(pytest.param(name, marks=native) for name in NATIVE)])
def there(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place that servers now run at."""
    try:
        monkeypatch.setattr(hosts, "PYTHON", elsewhere.command(request.param))
    except elsewhere.Absent as error:
        pytest.skip(str(error))
    monkeypatch.setattr(hosts, "GOFER", [*hosts.PYTHON, str(CHECKOUT)])
    return str(request.param)


def test_every_message_is_served_there(there: str, spot: Path) -> None:
    argv = [*hosts.GOFER, "doctor", "--self-test", str(spot)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=hosts.CALM)
    assert done.returncode == 0 and "failed" not in done.stdout, done
    assert len(re.findall(r"ok +socket and channel", done.stdout)) >= 33


def test_a_server_serves_there_and_ends_in_order(there: str, start: Start) -> None:
    server = start("--host-uds=all", "--host-fifo=open", "--workers=2")
    for transport in TRANSPORTS:
        with server.peer(transport) as peer:
            session(peer)
            bound = peer.bindat(peer.root, f"quiet-{transport}", socket.SOCK_STREAM)
            with fails(errno.EINVAL):
                peer.accept(bound.fd)  # which musl's accept4 tries again as accept
        hosts.empty(server.tree)
    (server.tree / "seen").touch()
    assert "seen" in hosts.run("ls", str(server.path), timeout=hosts.CALM).stdout  # its client serves there as well
    assert ("seccomp (kill)" in server.said()) == (there in NATIVE)
    server.check_idle()
    server.stop()


@native
@pytest.mark.parametrize("there", NATIVE, indirect=True)
def test_what_goes_wrong_there_is_told_and_does_not_end_in_the_filter(there: str, start: Start) -> None:
    """A report opens files and asks for the time, abort(3) sends a signal: each C library in its own way."""
    server = start("--log-format=json", "--log-level=debug", wrap=(*hosts.PYTHON, "-c", FAULTY))
    for transport in TRANSPORTS:
        with server.peer(transport) as peer, fails(errno.EREMOTEIO):
            peer.fstat(peer.root)
    with server.peer() as peer, pytest.raises(ConnectionError):
        peer.fstatfs(peer.root)
    hosts.wait_until(lambda: "Traceback" in server.said() and "Odd: told" in server.said(), server.said)
    with server.peer() as peer, pytest.raises(ConnectionError):
        peer.readlinkat(peer.root)
    assert server.wait() in (-signal.SIGSEGV, -signal.SIGABRT)  # the first where abort's signal is not for process 1
    assert "filter" not in server.said()


@pytest.fixture
def traced(there: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("QEMU_STRACE", "1")
    yield there


@pytest.mark.parametrize("there", EMULATED, indirect=True)
def test_what_a_server_calls_there_is_what_its_filter_would_let_pass(traced: str, start: Start) -> None:
    """An emulator has no filters, but shows what that machine's C library calls from where the filter would be there."""
    server = start("--host-uds=all", "--host-fifo=open", "--seccomp=kill")
    supervisor = server.process.pid
    for transport in TRANSPORTS:
        with server.peer(transport) as peer:
            session(peer)
        hosts.empty(server.tree)
    server.check_idle()
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    calls: dict[bool, list[str]] = {True: [], False: []}
    names = callnames.names(traced)
    for pid, number, name in CALLED.findall(server.said()):
        calls[int(pid) == supervisor].append(name or names[int(number)])
    rules = {False: seccomp.server_rules(0, True, True), True: seccomp.supervisor_rules(0, ())}
    for who, called in calls.items():
        asked = max(at for at, name in enumerate(called) if name == "seccomp")
        confined = set(called[asked + 1 :])
        assert confined - {*rules[who], *seccomp._TRY_ANOTHER} == set()
    assert {"futex", "clone", "statx", "sendto"} <= set(calls[False])
