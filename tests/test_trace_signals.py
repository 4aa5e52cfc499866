"""SIGUSR1 and SIGUSR2 to a server that runs already: a summary, and a trace from here to there."""

import os
import signal
import time
from pathlib import Path

import pytest
from conftest import Start
from hosts import Server, run, wait_until
from tracelines import parse

pytestmark = pytest.mark.slow

JAILS = ("auto", "off")


def send(server: Server, number: int, said: str) -> None:
    before = server.said().count(said)
    os.kill(server.process.pid, number)
    wait_until(lambda: server.said().count(said) > before, f"it says {said!r}")


@pytest.mark.parametrize("jail", JAILS)
def test_usr1_logs_what_is_counted(jail: str, start: Start, spot: Path) -> None:
    server = start(f"--control={spot / 'control'}", f"--jail={jail}", "--workers=2")
    with server.peer("channel") as peer:
        for _ in range(7):
            peer.fstat(peer.root)
        send(server, signal.SIGUSR1, "summary: FStat: 7 requests, 0 errors, 1064 bytes, ")
    assert "summary: 1 connection, 1 FD, 1 channel, 2 workers, 0 of them silent" in server.said()


@pytest.mark.parametrize("jail", JAILS)
def test_usr2_begins_a_trace_that_knows_the_files_of_before_and_pauses_it(jail: str, start: Start, spot: Path) -> None:
    trace = spot / "trace"
    (spot / "tree").mkdir()
    (spot / "tree/dir").mkdir()
    (spot / "tree/dir/file").touch()
    server = start(f"--trace-on-signal={trace}", f"--jail={jail}", tree=spot / "tree")
    with server.peer("channel") as peer:
        file = peer.walk_to("dir", "file")
        opened = peer.openat(file).fd
        peer.fstatfs(file)
        assert trace.stat().st_size == 0
        send(server, signal.SIGUSR2, f"the trace {trace} begins")
        for _ in range(100):  # a request may be under way while its worker is told
            peer.fstat(file)
            peer.pread(opened, 0, 10)
        wait_until(lambda: b"/dir/file" in trace.read_bytes(), "it is told what there is")
        peer.walk_to("dir")
        send(server, signal.SIGUSR2, f"the trace {trace} pauses")
        wait_until(lambda: not traces_still(server, peer, trace), "nothing is recorded any more")
        size = trace.stat().st_size
        peer.fstatfs(file)
        send(server, signal.SIGUSR2, f"the trace {trace} begins")
        wait_until(lambda: trace.stat().st_size > size, "it goes on")
        server.rest()  # all of the worker's threads have been told
        peer.fstat(peer.root)
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    lines = [line for line in map(parse, run("replay", str(trace)).stdout.splitlines()) if line]
    assert {tuple(line.paths) for line in lines if line.message == "PRead"} == {(b"/dir/file",)}
    assert "OpenAt" not in {line.message for line in lines}, "what was before is not there"
    assert [line.message for line in lines][-1] == "FStat"


def traces_still(server: Server, peer: "object", trace: Path) -> bool:
    before = trace.stat().st_size
    for _ in range(20):
        peer.fstat(1)  # type: ignore[attr-defined]
    time.sleep(0.2)  # the watcher looks oftener than that
    return trace.stat().st_size > before


def test_data_and_two_traces_at_once_are_told_to_be_wrong(spot: Path) -> None:
    for words in (["--trace-data"], ["--trace-on-signal=a", "--trace-out=b"], ["--trace-on-signal=a", "--trace"]):
        done = run("serve", str(spot), *words, cwd=spot)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done
    assert not [*spot.iterdir()]
