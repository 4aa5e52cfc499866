"""Counters, `gofer top`, `gofer metrics`: what they say is what clients sent, and only root and the server's user are told."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import Start
from faulty import LOOKUP, faulty
from hosts import GOFER, PATIENCE, Server, fails, fails_in_one_line, run, wait_until
from prison import USER, as_user
from terminal import Terminal
from test_wire import NAMES

from gofer.conform.corpus import recorded
from gofer.conform.peer import Mid, Peer
from gofer.server.dispatch import IDLE, Table
from gofer.watch import counters

pytestmark = pytest.mark.slow


def told(control: Path) -> Any:
    done = run("top", "--json", str(control))
    assert done.returncode == 0, done
    return json.loads(done.stdout)


@pytest.fixture
def control(spot: Path) -> Path:
    return spot / "control"


def counting(start: Start, control: Path, *options: str) -> Server:
    (control.parent / "tree").mkdir(exist_ok=True)
    return start(f"--control={control}", *options, tree=control.parent / "tree")


def in_threads(work: Callable[[int], None], number: int) -> None:
    threads = [threading.Thread(target=work, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_counters_add_up_with_what_eight_threads_sent_to_four_workers(start: Start, control: Path) -> None:
    server = counting(start, control, "--workers=4")
    (server.tree / "file").write_bytes(b"x" * 1000)
    sent: Counter[str] = Counter()
    failed: list[BaseException] = []

    def work(index: int) -> None:
        try:
            with server.peer("channel" if index % 2 else "socket") as peer:
                for turn in range(50 + index):
                    fd = peer.walk_to("file")
                    peer.fstat(fd)
                    opened = peer.openat(fd)
                    assert peer.pread(opened.fd, 0, 1000) == b"x" * 1000
                    peer.close(fd, opened.fd)
                    if turn % 10 == 0:
                        with fails(2):
                            peer.unlinkat(peer.root, "none")
        except BaseException as error:
            failed.append(error)

    before = told(control)["messages"]
    in_threads(work, 8)
    assert not failed
    turns = sum(50 + index for index in range(8))
    sent.update(FStat=turns, OpenAt=turns, PRead=turns, UnlinkAt=sum(-(-(50 + index) // 10) for index in range(8)))
    messages = told(control)["messages"]
    for name, count in sent.items():
        row = messages[name]
        had = before.get(name, {}).get("count", 0)
        assert (row["count"] - had, sum(row["log2_ns"]) - had) == (count, count), name
        assert row["errors"] == (count if name == "UnlinkAt" else 0)
        assert row["ns"] > 0
    assert messages["PRead"]["bytes"] == turns * (24 + 8 + 1000)
    assert messages["Channel"]["count"] == 4


def test_every_message_is_counted_under_its_name(start: Start, control: Path) -> None:
    server = counting(start, control, "--host-uds=all")
    with server.peer() as peer:
        assert peer.transport.exchange(300).mid == Mid.ERROR
        sent = Counter(NAMES[mid] for mid, _ in recorded(peer))
        counted = told(control)
    assert {name: counted["messages"][name]["count"] for name in sent} == {**sent, "Mount": sent["Mount"] + 2}
    (conn,) = counted["connections"]
    assert conn["count"] == sum(sent.values()) + 2 and conn["channels"] == 1 and conn["fds"] == counted["fds"] > 3


def test_a_call_that_hangs_is_told_with_its_age_and_the_system_call_it_is_in(start: Start, control: Path) -> None:
    with faulty() as broken:
        server = start(f"--control={control}", "--trace-out", str(control.parent / "trace"), tree=broken.path)
        with server.peer() as peer:
            broken.hang(LOOKUP)
            peer.transport.send(b"\x10\0\0\0\5\0\0\0" + b"\1\0\0\0\0\0\0\0\1\0\4\0none")  # type: ignore[union-attr]
            wait_until(lambda: any(call["ns"] > 3e8 for call in told(control)["under_way"]), "it has hung for a while")
            (call,) = told(control)["under_way"]
            text = run("top", "--once", str(control)).stdout
            broken.vanish()
            assert peer.transport.receive().mid == Mid.ERROR  # type: ignore[union-attr]
    assert call["message"] == "Walk" and re.search(r"Walk on client \d+ \[\d+\]: \d+\.\d s in openat", text), text


class Clock:
    """A handler's, and the clock that it is timed by."""

    def __init__(self) -> None:
        self.now = self.takes = self.reads = 0

    def read(self) -> int:
        self.reads += 1
        return self.now

    def serve(self, comm: Any, req: memoryview, reply: memoryview) -> int:
        self.now += abs(self.takes)
        if self.takes < 0:
            raise OSError
        return 50


class Loop:
    """What serves by a table, as the loops of connections and channels do; FStat alone."""

    def __init__(self, handler: Callable[..., int]) -> None:
        self.table = Table([handler] * (Mid.FSTAT + 1))
        self.table.left, self.table.moved = [0] * (Mid.FSTAT + 1), [0] * (Mid.FSTAT + 1)
        self.row, self.plain = counters.new_row(), handler
        self.timed, self.add = counters.counted(handler, Mid.FSTAT, self.row, self.table, True)

    def serve(self, request: bytes = bytes(8)) -> None:
        table, view = self.table, memoryview(request)
        assert table.left is not None
        try:
            if not table.left[Mid.FSTAT]:
                self.timed(None, view, view)  # type: ignore[arg-type]
                return
            table.now[0] = Mid.FSTAT
            table.moved[Mid.FSTAT] += self.plain(None, view, view) + len(view)
        except OSError:
            if table.now[0] == IDLE:
                return
            self.row[counters.ERRORS] += 1
            table.moved[Mid.FSTAT] += len(view)
        table.left[Mid.FSTAT] -= 1
        table.now[0] = IDLE

    def told(self) -> list[int]:
        now = [*self.row]
        self.add(now)
        return now


def test_what_comes_in_a_rush_is_counted_to_the_last_and_timed_as_often_as_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    loop = Loop(clock.serve)
    monkeypatch.setattr(counters, "clock", clock.read)

    def serve(times: int, takes: int, pause: int) -> None:
        clock.takes, clock.reads = takes, 0
        for _ in range(times):
            loop.serve()
            clock.now += pause

    clock.now = 10**9
    serve(100, 2000, 10**6)
    assert clock.reads == 200, "at a thousand a second each is timed"
    serve(1600, 5000, 70_000)
    assert 150 <= clock.reads <= 170, "at 13,000 one of twenty-one"
    serve(6400, 5000, 1000)
    assert 200 <= clock.reads <= 210, "where they come faster, one of sixty-four"
    total = 8100
    before = loop.told()
    for takes in (-5000, 5000) * 20:
        serve(1, takes, 1000)
        total += 1
        now = loop.told()
        assert all(a <= b for a, b in zip(before, now)), "nothing that was told is taken back"
        assert sum(now[counters.TOOK :]) == total
        before = now
    assert before[counters.ERRORS] == 20 and before[counters.BYTES] == total * 58 - 20 * 50
    assert before[counters.TOOK + 11] == 100 and before[counters.TOOK + 13] == total - 100
    assert before[counters.NS] == 100 * 2000 + (total - 100) * 5000
    serve(80, 3 * 10**8, 0)
    assert loop.told()[counters.TOOK + 29] >= 80 - 63, "what is slow is timed again, each"


def test_a_call_in_a_rush_that_hangs_is_under_way() -> None:
    def serve(comm: Any, req: memoryview, reply: memoryview) -> int:
        under_way.append(loop.told()[counters.SINCE])
        return 0

    under_way: list[int] = []
    loop = Loop(serve)
    for _ in range(200):
        loop.serve(b"")
    assert all(under_way) and counters.UNKNOWN in under_way and loop.told()[counters.SINCE] == 0


@pytest.mark.parametrize("transport", ["socket", "channel"])
def test_a_rush_of_good_and_bad_requests_is_counted_to_the_last(start: Start, control: Path, transport: str) -> None:
    server = counting(start, control)
    with server.peer(transport) as peer:
        for turn in range(3000):
            peer.fstat(peer.root)
            if turn % 3 == 0:
                with fails(9):
                    peer.fstat(10**6)
            if turn % 100 == 0:
                assert peer.transport.exchange(300, bytes(7)).mid == Mid.ERROR
        now = told(control)
    messages = now["messages"]
    row, unknown = messages["FStat"], messages["message 127"]
    assert (row["count"], sum(row["log2_ns"]), row["errors"]) == (4000, 4000, 1000)
    assert row["bytes"] == 4000 * 8 + 3000 * 144
    assert (unknown["count"], unknown["errors"], unknown["bytes"]) == (30, 30, 30 * 7)
    assert now["connections"][0]["errors"] == 1030 and not now["under_way"]


def test_only_root_and_the_servers_user_are_told(start: Start, control: Path) -> None:
    counting(start, control)
    assert stat.S_IMODE(control.stat().st_mode) == 0o600 and stat.S_ISSOCK(control.stat().st_mode)
    os.chmod(control, 0o666)  # even so
    os.chmod(control.parent, 0o755)
    with as_user(USER) as (command, popen):
        done = subprocess.run([*command, "top", "--once", str(control)], capture_output=True, text=True, **popen)
        os.chmod(control, 0o600)
        refused = subprocess.run([*command, "top", "--once", str(control)], capture_output=True, text=True, **popen)
    fails_in_one_line(done, "no answer", "only root and the server's user may ask")
    fails_in_one_line(refused, "Permission denied; only root and the server's user may ask")


def test_the_socket_goes_with_the_server_and_one_that_was_left_is_taken(start: Start, control: Path, spot: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(control))
    server = counting(start, control)
    assert told(control)["workers"] == 1
    done = run("serve", str(spot), f"--control={control}", "--", "true")
    fails_in_one_line(done, "cannot listen on", "--control")
    server.stop()
    assert not control.exists()


def test_a_process_id_finds_the_socket(start: Start, control: Path) -> None:
    server = counting(start, control)
    assert run("top", "--once", str(server.process.pid)).stdout.startswith("gofer: ")
    fails_in_one_line(run("top", "--once", str(os.getpid())), "does not tell", "--control PATH")
    fails_in_one_line(run("metrics", "/nowhere"), "cannot ask /nowhere", "--control PATH")
    for words in (["top", "--once"], ["metrics"]):
        told = run(*words, str(server.path))
        fails_in_one_line(told, f"{server.path}: no answer: it is not the socket of a --control")


# Prometheus

_SAMPLE = re.compile(r'(?P<name>[a-z_]+)(?:\{(?P<labels>[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*)\})? (?P<value>[0-9.e+-]+)')


def samples(text: str) -> dict[str, float]:
    """By name and labels; every line must be what the format says."""
    found, kinds = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            kinds[name] = kind
        elif not line.startswith("# HELP "):
            match = _SAMPLE.fullmatch(line)
            assert match, line
            assert re.sub("_(bucket|sum|count)$", "", match["name"]) in kinds or match["name"] in kinds, line
            found[f"{match['name']}{{{match['labels'] or ''}}}"] = float(match["value"])
    return found


def test_metrics_are_what_prometheus_reads_and_what_was_sent(start: Start, control: Path) -> None:
    server = counting(start, control)
    with server.peer("channel") as peer:
        for _ in range(30):
            peer.fstat(peer.root)
        text = run("metrics", str(control)).stdout
    found = samples(text)
    assert found['gofer_requests_total{message="FStat"}'] == 30
    assert found['gofer_request_duration_seconds_count{message="FStat"}'] == 30
    buckets = [value for name, value in found.items() if "_bucket" in name and '"FStat"' in name]
    assert buckets == sorted(buckets) and buckets[-1] == 30 and len(buckets) == 27
    assert found["gofer_connections{}"] == 1 and found["gofer_channels{}"] == 1


def test_metrics_by_http_on_the_loopback_alone(start: Start, spot: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = start(f"--metrics-listen={port}")
    with server.peer() as peer:
        peer.fstat(peer.root)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            found = samples(answer.read().decode())
    assert found['gofer_requests_total{message="FStat"}'] == 1
    listens = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    assert [line[1] for line in listens if line[1].endswith(f":{port:04X}") and line[3] == "0A"] == [f"0100007F:{port:04X}"]
    with socket.create_connection(("127.0.0.1", port)):  # who says nothing holds up nobody for long
        assert run("serve", str(spot), f"--metrics-listen={port}", "--", "true").returncode == 1
    server.stop()


# The terminal


def test_top_in_a_terminal_shows_rates_and_takes_keys(start: Start, control: Path) -> None:
    server = counting(start, control, f"--trace-out={control.parent / 'trace'}")
    stop = threading.Event()

    def work() -> None:
        with server.peer("channel") as peer:
            ask(peer, stop)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        size = {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        with Terminal(*GOFER, "top", "--interval", "0.2", str(control), **size) as terminal:
            terminal.wait_for(r"(?s)FStatFS.*count/s|count/s.*FStatFS")
            terminal.type("c")
            terminal.wait_for(r"client \d+, user 0")
            terminal.type("p")
            terminal.wait_for(r'"/"')
            terminal.type("q")
        assert terminal.close() == 0
    finally:
        stop.set()
        thread.join()


def ask(peer: Peer, stop: threading.Event) -> None:
    while not stop.is_set():
        peer.fstatfs(peer.root)
        time.sleep(0.001)


def test_a_killed_watcher_is_told_and_the_server_goes_on(start: Start, control: Path) -> None:
    server = counting(start, control)
    (watcher,) = [
        int(word)
        for word in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        if Path(f"/proc/{word}/comm").read_text() == "gofer-watch\n"
    ]
    os.kill(watcher, signal.SIGKILL)
    wait_until(lambda: run("top", "--once", str(control)).returncode == 1, "nobody answers any more")
    with server.peer("channel") as peer:
        peer.fstat(peer.root)

