"""Copies that are killed, interrupted and watched: no half file ever has a whole one's name, and the next run goes on."""

import contextlib
import os
import pty
import random
import re
import signal
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import Start
from copies import BY_TWO, OF_OLD, copy, differences, equal, fill, look, parts
from disks import tmpfs
from hostile_server import Hostile, Node
from hosts import CALM, GOFER, PATIENCE, Server, run, wait_until

from gofer.conform.codec import Mid

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("COPY_KILLS", "4"))  # in each direction, each way
MIB = 1 << 20


# How files come and go: `no`: by messages, which take longest and have more moments; `each`: small ones are not taken together;
# `two`: large ones by two threads, into tmpfs.
@pytest.mark.parametrize("files", ["no", "yes", "each", "two"])
@pytest.mark.parametrize("way", ["get", "put"])
def test_killed_at_any_moment_no_half_file_has_a_name_and_in_the_end_all_is_equal(
    start: Start, spot: Path, way: str, files: str
) -> None:
    with tmpfs("200M", 1000) if files == "two" else contextlib.nullcontext(spot) as base:
        killed_at_any_moment(start, base, way, files)


def killed_at_any_moment(start: Start, spot: Path, way: str, files: str) -> None:
    rng = random.Random(KILLS)
    source, target = spot / "source", spot / "target"
    source.mkdir()
    if files != "two":  # tmpfs has user.* xattrs since Linux 6.6
        fill(source, 2)
    for number in range(3):
        (source / f"large{number}").write_bytes(rng.getrandbits(8 * 5_000_000).to_bytes(5_000_000, "little"))
    for number in range(200):
        (source / f"d{number % 3}").mkdir(exist_ok=True)
        (source / f"d{number % 3}/small{number}").write_bytes(b"%d" % number * 1000)
    server = start("--donate", "no" if files == "no" else "yes", tree=spot)
    paths = [f"{server.path}:/source/.", target] if way == "get" else [f"{source}/.", f"{server.path}:/target"]
    gofer = {"each": OF_OLD, "two": BY_TWO}.get(files, GOFER)
    words = [*gofer, way, "-r", "-q", "--resume", *map(str, paths)]
    began = time.monotonic()
    assert subprocess.run(words, timeout=CALM).returncode == 0
    equal(source, target)
    whole, wanted = time.monotonic() - began, look(source)
    subprocess.run(["rm", "-rf", str(target)], check=True)
    killed = 0
    while killed < KILLS:
        process = subprocess.Popen(words, stderr=subprocess.PIPE)
        try:
            said = process.communicate(timeout=rng.uniform(0.1, 1.1) * whole)[1]
            assert not said and process.returncode == 0, said
            subprocess.run(["rm", "-rf", str(target)], check=True)  # too late: again from the start
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == 1, "the server is done with it")
            assert not half(wanted, target)
    copy(*words[len(gofer) :])
    equal(source, target)
    assert not parts(target)
    server.stop()


def half(wanted: "dict[bytes, tuple[object, ...]]", target: Path) -> "list[str]":
    """What has a name that it should not have yet. Directories get what they are to have in the end, links when all is there."""
    found = {
        name: (entry[0], *entry[4:7])
        for name, entry in (look(target) if target.exists() else {}).items()
        if entry[0] != 0o040000 and not re.search(rb"\.gofer-\w{12}-\w{12}-\w{12}\.part$", name)
    }
    return differences(found, {name: (wanted[name][0], *wanted[name][4:7]) for name in found if name in wanted})


def begun(target: Path, size: int) -> bool:
    return sum(os.path.getsize(target / name) for name in parts(target)) >= size


class Gate:
    """Answers so many reads, and the rest when it is opened."""

    def __init__(self, server: Hostile, data: bytes, reads: int) -> None:
        self.opened, self._data, self._left = threading.Event(), data, reads
        server.answers[Mid.PREAD] = self.pread

    def pread(self, payload: bytes) -> "tuple[bytes, list[int]]":
        self._left -= 1
        if self._left < 0:
            self.opened.wait(PATIENCE)
        offset, _, count = struct.unpack_from("<QQI", payload)
        found = self._data[offset : offset + count]
        return struct.pack("<Q", len(found)) + found, []


def test_an_interruption_keeps_what_is_large_and_resume_goes_on_where_it_was(spot: Path) -> None:
    data = random.Random(1).getrandbits(8 * 6 * MIB).to_bytes(6 * MIB, "little")
    with Hostile(spot / "s", Node(entries={b"f": Node(data), b"small": Node(b"x")})) as server:
        gate = Gate(server, data, 2)
        (spot / "t").mkdir()
        words = [*GOFER, "get", f"{server.path}:/f", f"{server.path}:/small", str(spot / "t")]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: begun(spot / "t", 2 * MIB - 1000), "two pieces are here")
        process.send_signal(signal.SIGINT)
        gate.opened.set()
        assert process.communicate(timeout=CALM)[1] == "gofer: 1 large file is half done: --resume goes on\n"
        assert process.returncode == 130 and len(parts(spot / "t")) == 1 == len(os.listdir(spot / "t"))
        server.asked.clear()
        done = run("get", "--resume", f"{server.path}:/f", f"{server.path}:/small", str(spot / "t"))
        assert done.returncode == 0 and "gofer: 2 files, 6.0 MiB in " in done.stderr
        assert server.asked.count(Mid.PREAD) <= 2 + 5 + 1  # what is compared, what was missing, the small one: all are 7
        assert (spot / "t/f").read_bytes() == data and sorted(os.listdir(spot / "t")) == ["f", "small"]


def test_what_was_begun_is_not_trusted_where_its_end_is_another(spot: Path) -> None:
    """As after a crash of the machine, or where the file has changed without its time."""
    data = random.Random(1).getrandbits(8 * 3 * MIB).to_bytes(3 * MIB, "little")
    with Hostile(spot / "s", Node(entries={b"f": Node(data)})) as server:
        gate = Gate(server, data, 2)
        (spot / "t").mkdir()
        process = subprocess.Popen([*GOFER, "get", f"{server.path}:/f", str(spot / "t")], stderr=subprocess.PIPE)
        wait_until(lambda: begun(spot / "t", 2 * MIB - 1000), "two pieces are here")
        process.kill()
        process.communicate()
        gate.opened.set()
        with open(spot / "t" / parts(spot / "t")[0], "r+b") as part:
            part.seek(-4096, os.SEEK_END)
            part.write(bytes(4096))
        copy("get", "--resume", f"{server.path}:/f", spot / "t")
        assert (spot / "t/f").read_bytes() == data and os.listdir(spot / "t") == ["f"]


def test_without_resume_what_was_begun_is_removed(server: Server, spot: Path) -> None:
    (server.tree / "f").write_bytes(b"x" * MIB)
    copy("get", f"{server.path}:/f", spot)
    (spot / "f").unlink()
    part = spot / ".gofer-e32d2ad46ecb-000000000000-000000000000.part"  # of a file `f`, of whatever version
    part.write_bytes(b"x" * MIB)
    part.with_name("x" + part.name).write_bytes(b"not one")
    copy("get", f"{server.path}:/f", spot)
    assert sorted(os.listdir(spot)) == ["f", "x" + part.name]


def test_two_interruptions_end_it_at_once_whatever_the_server_does(spot: Path) -> None:
    with Hostile(spot / "s", Node(entries={b"f": Node(b"x" * MIB)})) as server:
        gate = Gate(server, b"", 0)
        process = subprocess.Popen([*GOFER, "get", f"{server.path}:/f", str(spot)], stderr=subprocess.PIPE)
        wait_until(lambda: Mid.PREAD in server.asked, "it reads")
        while process.poll() is None:  # the second may come before the first is heeded
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        gate.opened.set()
        assert process.communicate()[1] == b"" and process.returncode == 130
        assert "f" not in os.listdir(spot)


@pytest.mark.parametrize("what", ["/f", "/."])
def test_on_a_terminal_one_line_tells_how_far_it_is_and_is_gone_at_the_end(spot: Path, what: str) -> None:
    ours, theirs = pty.openpty()
    with Hostile(spot / "s", Node(entries={b"f": Node(size=1 << 40)})) as server:
        server.root.entries[b"f"].blocks = 0  # sparse: what is all zeros needs no room here
        server.answers[Mid.PREAD] = lambda payload: (struct.pack("<Q", MIB - 64) + bytes(MIB - 64), [])
        words = [*GOFER, "get", "-r", f"{server.path}:{what}", str(spot)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=theirs)
        os.close(theirs)
        said = b""
        while said.count(b"left") < 2:
            said += os.read(ours, 1000)
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        said += os.read(ours, 1000)
        os.close(ours)
    assert process.returncode == 130
    line = rb"\r\x1b\[K0 files, [\d.]+ \w+ of 1\.0 TiB, [\d.]+ \w+/s, (\d+:)?\d+:\d\d left"
    last = rb"\r\x1b\[K(gofer: 1 large file is half done: --resume goes on\r\n)?"
    assert re.fullmatch(b"(" + line + b")+" + last, said), said


def test_in_a_pipe_there_is_a_line_at_the_end_and_none_when_quiet(server: Server, spot: Path) -> None:
    (server.tree / "f").write_bytes(b"x" * 3_000_000)
    assert re.fullmatch(r"gofer: 1 file, 2\.9 MiB in \d+\.\d s\n", run("get", f"{server.path}:/f", str(spot)).stderr)
    assert re.fullmatch(r"gofer: 0 files, .*; 1 is there already\n", run("get", f"{server.path}:/f", str(spot)).stderr)
    (spot / "f").unlink()
    assert run("get", "--quiet", f"{server.path}:/f", str(spot)).stderr == ""
