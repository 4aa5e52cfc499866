"""--trace-out and `gofer replay`: what is recorded is what was asked and answered, whatever the disk does; it can be played."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import GOFER, WAYS, Server, fails_in_one_line, run, serving, wait_until
from tracelines import parse

from gofer.conform.corpus import recorded, session
from gofer.conform.peer import Mid
from gofer.watch.record import KNOWN, LOST, RPC, START, Entry, read_file

pytestmark = pytest.mark.slow

OPEN = ("--host-uds=all", "--channels=2")


def finished(server: Server) -> str:
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0, server.said()
    server.check_log()
    return server.said()


def entries(path: Path) -> list[Entry]:
    with open(path, "rb") as file:
        return [*read_file(file.read)]


def shown(path: Path, *words: str) -> list[str]:
    done = run("replay", str(path), *words)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


@pytest.fixture
def trace(spot: Path, start: Start) -> Path:
    """Of one client that has sent every message."""
    (spot / "tree").mkdir()
    server = start(f"--trace-out={spot / 'trace'}", *OPEN, tree=spot / "tree")
    with server.peer() as peer:
        session(peer)
    finished(server)
    return spot / "trace"


@pytest.mark.parametrize("way", WAYS)
def test_a_record_read_later_gives_the_lines_that_were_seen_live(way: str, spot: Path, start: Start) -> None:
    (spot / "tree").mkdir()
    server = start("--trace", f"--trace-out={spot / 'trace'}", *OPEN, tree=spot / "tree")
    with server.peer(way) as peer:
        sent = recorded(peer)
    live = [line for line in finished(server).splitlines() if line.startswith("[")]
    assert shown(spot / "trace") == live
    assert sum(parse(line) is not None for line in live) >= len(sent)


def test_only_the_lengths_of_data_are_recorded_unless_it_is_asked_for(spot: Path, start: Start) -> None:
    (spot / "tree").mkdir()

    def only(path: Path, message: str) -> str:
        (line,) = [line for line in shown(path, message) if parse(line)]
        return line

    for name, option in (("without", "--quiet"), ("with", "--trace-data")):
        server = start(f"--trace-out={spot / name}", option, tree=spot / "tree")
        with server.peer("channel") as peer:
            made = peer.opencreateat(peer.root, name)
            peer.pwrite(made.fd, 0, b"a secret " * 50_000)
            assert len(peer.pread(peer.openat(made.inode.fd, os.O_RDWR).fd, 0, 450_000)) == 450_000
            peer.dirwrite(peer.root, ("small", b"another one " * 10))
            peer.dirread(peer.root, "small")
        finished(server)
        assert (spot / name).read_bytes().count(b"a secret " * 1000) == (100 if option == "--trace-data" else 0)
        assert (b"another one " in (spot / name).read_bytes()) == (option == "--trace-data")
        (spot / "tree/small").unlink()
        assert "num_bytes=450000, <450000 bytes>) = count=450000" in only(spot / name, "PWrite")
        assert "= num_bytes=450000 <" in only(spot / name, "PRead")
    assert b"a secret" not in (spot / "without").read_bytes()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        ("RenameAt2", {"RenameAt2"}),
        ("errors", {"Walk", "Connect"}),
        ("path=/dir/hard", {"LinkAt", "Walk"}),
        ("Walk,conn=99", set()),
        ("slower=100s", set()),
    ],
)
def test_the_same_filters(words: str, messages: set[str], trace: Path) -> None:
    found = {line.message for line in map(parse, shown(trace, words)) if line}
    assert found <= messages if words == "errors" else found == messages


def test_objects_and_tables_count_what_was_sent(trace: Path) -> None:
    objects = [json.loads(line) for line in shown(trace, "--json")]
    table = json.loads("".join(shown(trace, "--summary", "--json")))
    for name, row in table["messages"].items():
        mine = [each for each in objects if each["message"] == name]
        assert (row["count"], row["errors"]) == (len(mine), sum(each["errno"] is not None for each in mine)), name
        assert row["bytes"] == sum(sum(each["bytes"]) for each in mine)
        assert row["max_us"] == max(each["took_us"] for each in mine)
    assert sum(row["share"] for row in table["messages"].values()) == pytest.approx(1)
    assert sum(row["count"] for row in table["connections"].values()) == len(objects)
    text = shown(trace, "--summary")
    assert any(line.startswith("Walk ") for line in text) and any(line.endswith('"/dir"') for line in text)


# Playing


def played(trace: Path, tree: Path, start: Start, *words: str) -> "subprocess.CompletedProcess[str]":
    tree.mkdir(exist_ok=True)
    server = start(*OPEN, tree=tree)
    return run("replay", str(trace), "--against", str(server.path), *words)


def test_played_against_the_same_tree_nothing_differs(trace: Path, spot: Path, start: Start) -> None:
    done = played(trace, spot / "again", start)
    assert done.returncode == 0, done
    assert re.fullmatch(r"\d+ requests in [\d.]+ s, 0 answered otherwise, \d+ not played\n", done.stdout)
    made = {path.name: path.stat().st_size for path in (spot / "again").rglob("*") if path.is_file()}
    made.update(several=8, more=0)  # which a DirWrite has made: it is not played, as its names are among the data
    assert made == {path.name: path.stat().st_size for path in (spot / "tree").rglob("*") if path.is_file()}


def test_a_command_is_started_with_a_connection_for_each_of_the_traces_and_a_fresh_directory(trace: Path) -> None:
    serve = [*GOFER, "serve", "DIR", "--quiet", *OPEN]
    done = run("replay", str(trace), "--", *serve, "--fd=3", "--fd=4")
    assert done.returncode == 0 and ", 0 answered otherwise" in done.stdout, done
    last = max(entry.conn for entry in entries(trace) if entry.kind == RPC)
    assert run("replay", str(trace), f"conn={last}", "--", *serve, "--fd=3").returncode == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--", "/nowhere/server"], ["cannot start /nowhere/server"]),
        (["--", "false"], ["false: ", "exit status 1", "after 0 requests"]),
        (["--against", "/nowhere", "--", "true"], ["one of them"]),
        (["--summary", "--", "true"], ["one of them"]),
    ],
)
def test_a_command_that_is_no_server_is_told_in_one_line(words: "list[str]", told: "list[str]", trace: Path) -> None:
    fails_in_one_line(run("replay", str(trace), *words), *told)


def test_in_its_own_time_too(trace: Path, spot: Path, start: Start) -> None:
    took = entries(trace)
    done = played(trace, spot / "again", start, "--timed")
    seconds = float(re.search(r"in ([\d.]+) s", done.stdout)[1])  # type: ignore[index]
    assert done.returncode == 0 and seconds >= (took[-2].time - took[1].time) / 1e9 * 0.9


def test_what_differs_is_told_with_both_replies(spot: Path, start: Start) -> None:
    for name, size in (("tree", 5), ("other", 6)):
        (spot / name).mkdir()
        (spot / name / "file").write_bytes(b"x" * size)
    (spot / "tree/gone").touch()
    server = start(f"--trace-out={spot / 'trace'}", tree=spot / "tree")
    with server.peer() as peer:
        peer.fstat(peer.walk_to("file"))
        peer.fstat(peer.walk_to("gone"))
    finished(server)
    done = played(spot / "trace", spot / "other", start)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [re.search(r" (Walk|FStat)\(", line)[1] for line in lines[:-1]] == ["Walk", "FStat", "Walk"]  # type: ignore[index]
    assert "'100644', 5," in lines[1] and "'100644', 6," in lines[1]
    assert lines[-1].endswith("3 answered otherwise, 1 not played")


@pytest.mark.parametrize("way", ["socket-2021", "channel-2021"])
def test_a_client_of_2021_is_played_in_its_dialect(way: str, spot: Path, start: Start) -> None:
    (spot / "tree").mkdir()
    server = start(f"--trace-out={spot / 'trace'}", *OPEN, tree=spot / "tree")
    with server.peer(way) as peer:
        session(peer)
    finished(server)
    done = played(spot / "trace", spot / "again", start)
    assert done.returncode == 0, done


@pytest.mark.parametrize("what", ["no trace", "nothing there", "a directory"])
def test_what_cannot_be_read_is_told_in_one_line(what: str, spot: Path) -> None:
    (spot / "no trace").write_bytes(b"PK\3\4" * 100)
    (spot / "a directory").mkdir()
    done = run("replay", str(spot / what))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "--trace-out has written" in done.stderr


# What becomes of the file


def test_after_a_kill_the_file_reads_up_to_there(spot: Path, start: Start) -> None:
    (spot / "tree").mkdir()
    server = start(f"--trace-out={spot / 'trace'}", tree=spot / "tree")
    with server.peer("channel") as peer:
        for _ in range(500):
            peer.fstat(peer.root)
        wait_until(lambda: len([*filter(is_fstat, entries(spot / "trace"))]) == 500, "all is written")
        os.kill(serving(server.process.pid), signal.SIGKILL)
        server.process.wait()
    assert len([*filter(is_fstat, entries(spot / "trace"))]) == 500


def is_told(path: Path) -> bool:
    """Whether the newest file knows the FDs that are older than it; the first has none."""
    try:
        kinds = {entry.kind for entry in entries(path)}
        return KNOWN in kinds or not path.with_name(path.name + ".1").exists() and RPC in kinds
    except FileNotFoundError:  # between two
        return False


def is_fstat(entry: Entry) -> bool:
    return entry.mid == Mid.FSTAT and entry.conn > 0


def test_a_file_that_was_cut_anywhere_reads_up_to_there(trace: Path) -> None:
    whole, data = entries(trace), trace.read_bytes()
    for end in range(len(b"gofer trace\n"), len(data), 37):
        trace.write_bytes(data[:end])
        got = entries(trace)
        assert len(got) <= len(whole) and {each.time for each in got} <= {each.time for each in whole}
    assert got


@pytest.fixture
def small_disk(spot: Path) -> Iterator[Path]:
    (spot / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(spot / "disk")], check=True)
    yield spot / "disk"
    subprocess.run(["umount", "--lazy", str(spot / "disk")], check=True)


def test_a_full_disk_loses_records_tells_so_and_holds_up_nobody(small_disk: Path, spot: Path, start: Start) -> None:
    (spot / "tree").mkdir()
    server = start(f"--trace-out={small_disk / 'trace'}", tree=spot / "tree")
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 65536)
    with server.peer("channel") as peer:
        for _ in range(500):
            peer.fstat(peer.root)
        wait_until(lambda: "No space left on device" in server.said(), "it is told")
        filler.unlink()
        peer.fstatfs(peer.root)
    finished(server)
    written = entries(small_disk / "trace")
    lost = sum(entry.asked for entry in written if entry.kind == LOST)
    assert lost and any(entry.mid == Mid.FSTATFS for entry in written)
    assert sum(map(is_fstat, written)) <= 500 <= sum(map(is_fstat, written)) + lost


def test_a_file_that_is_large_enough_is_followed_by_another_that_reads_alone(spot: Path, start: Start) -> None:
    (spot / "tree").mkdir()
    (spot / "tree/file").touch()
    server = start(f"--trace-out={spot / 'trace'}", "--trace-size=20K", "--trace-keep=2", tree=spot / "tree")
    with server.peer("channel") as peer:
        fd = peer.walk_to("file")
        for _ in range(12):
            for _ in range(80):
                peer.fstat(fd)
            wait_until(lambda: is_told(spot / "trace"), "it is written, and a new file told what there is already")
    finished(server)
    assert sorted(path.name for path in spot.glob("trace*")) == ["trace", "trace.1", "trace.2"]
    about = set()
    for path in spot.glob("trace.*"):
        assert path.stat().st_size >= 20480
        assert entries(path)[0].kind == START
        about |= {tuple(line.paths) for line in map(parse, shown(path, "FStat")) if line}
    assert (b"/file",) in about and about <= {(b"/file",), (b"?",)}


@pytest.mark.parametrize("where", ["/nowhere/trace", "/proc/trace", "/"])
def test_a_file_that_cannot_be_made_is_told_before_anything_is_served(where: str, spot: Path) -> None:
    done = run("serve", str(spot), f"--trace-out={where}")
    assert done.returncode == 1 and done.stderr.startswith("gofer: cannot write the trace") and done.stderr.count("\n") == 1
