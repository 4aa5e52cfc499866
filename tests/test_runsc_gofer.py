"""The stand-in for `runsc gofer`, started as runsc starts it, with a client of our own on each io-fd.

What it keeps of what it was given, when it ends, what it logs, what it refuses. As the real runsc does it:
test_runsc_containers.py.
"""

import json
import os
import re
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hosts import CHECKOUT, PATIENCE, open_fds, wait_until
from runsc import Started, bind, directory, spec_of, starting

Start = Callable[..., Started]


@pytest.fixture
def gofer(spot: Path) -> Iterator[Start]:
    with starting(spot) as start:
        yield start


# What it keeps, and what it gives up


def test_capabilities_umask_groups_and_filter_are_as_a_gofers_should_be(gofer: Start) -> None:
    g = gofer(spec_of())
    g.mount_list()
    g.peer()
    assert int(g.status("CapBnd"), 16) == int(g.status("CapPrm"), 16) == 0x4001F  # chown to fsetid, sys_chroot
    assert int(g.status("CapEff"), 16) & ~0x4001F == 0
    assert int(g.status("CapInh"), 16) == int(g.status("CapAmb"), 16) == 0
    assert (g.status("Umask"), g.status("NoNewPrivs"), g.status("Seccomp")) == ("0000", "1", "2")
    assert Path(f"/proc/{g.pid}/status").read_text().count("Groups:\t \n") == 1


@pytest.mark.parametrize("host_uds,more", [("open", 0xC0), ("all", 0xC0), ("create", 0), ("none", 0)])
def test_connecting_as_another_user_takes_two_more_capabilities(gofer: Start, host_uds: str, more: int) -> None:
    g = gofer(spec_of(), flags=[f"--host-uds={host_uds}"])
    g.mount_list()
    g.peer()
    assert int(g.status("CapPrm"), 16) == 0x4001F | more


def test_the_fd_limit_is_the_one_given_or_else_the_hard_limit(gofer: Start) -> None:
    g = gofer(spec_of(), flags=["--fdlimit=321"])
    g.mount_list()
    g.peer()
    limits = Path(f"/proc/{g.pid}/limits").read_text()
    assert re.search(r"Max open files +321 +321 ", limits)


def test_an_fd_limit_above_the_hard_one_is_only_warned_of(gofer: Start) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    g = gofer(spec_of(), flags=["--fdlimit=99999999999"])
    g.mount_list()
    g.peer()
    granted = int(re.search(r"Max open files +(\d+) ", Path(f"/proc/{g.pid}/limits").read_text()).group(1))  # type: ignore[union-attr]
    assert granted >= hard and (granted > hard or "above the hard limit" in g.said())


def test_inherited_fds_that_nobody_named_are_closed(gofer: Start) -> None:
    """gVisor d5e8d33af (#10232); runsc of 2022 leaks some."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    g = gofer(spec_of(), stray=[writer])
    os.close(writer)
    assert select.select([reader], [], [], PATIENCE)[0] and os.read(reader, 1) == b""
    os.close(reader)
    g.mount_list()
    g.peer()
    assert "/config.json" not in " ".join(open_fds(g.pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_meant_for_the_container_do_not_end_its_gofer(gofer: Start, number: int) -> None:
    g = gofer(spec_of())
    g.mount_list()
    peer = g.peer()
    os.kill(g.pid, number)
    assert peer.fstat(peer.root).ino


# The end


def test_it_ends_with_status_0_when_the_last_connection_has_ended_and_not_before(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2)
    g.mount_list()
    peer = g.peer(0)
    g.hang_up(1)
    time.sleep(0.1)
    assert peer.fstat(peer.root).ino and g.process.poll() is None
    peer.disconnect()
    assert g.wait() == 0
    assert "all connections have ended" in g.said()


def test_killed_it_leaves_a_hang_up_on_every_connection_and_no_mount(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2)
    g.mount_list()
    sock = g.peer(0).transport.sock  # type: ignore[union-attr]
    os.kill(g.pid, signal.SIGKILL)
    assert sock.recv(1) == b""
    os.rmdir(spot / "s")  # nothing pins it


def test_a_start_loads_none_of_the_slow_modules_of_the_standard_library() -> None:
    """Each costs 1 to 7 ms of a start of 25."""
    slow = {"argparse", "enum", "json", "logging", "re", "signal", "socket", "subprocess", "threading", "typing"}
    code = (
        "import sys, ctypes; theirs = set(sys.modules); "  # CPython 3.14 and later: sysconfig, and with it threading
        f"sys.path.insert(0, {str(CHECKOUT)!r}); import gofer.cli, gofer.runsc.gofer; print(*set(sys.modules) - theirs)"
    )
    run = subprocess.run([sys.executable, "-BIS", "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    assert slow & set(run.stdout.split()) == set()


# Prepared roots: what benches and the differential test use


def test_a_root_that_is_prepared_already_is_served_as_it_is(gofer: Start, spot: Path) -> None:
    (spot / "rootfs/f").write_text("")
    words = "--setup-root=false", "--apply-caps=false"
    g = gofer(spec_of(), *words, flags=["--TESTONLY-unsafe-nonroot=true"])
    assert g.mount_list() == b"[]"
    assert g.peer().walk_to("f")
    assert os.listdir(f"/proc/{g.pid}/root") == ["f"], "it is chrooted all the same"
    assert os.listdir(spot / "rootfs") == ["f"]


# Logs


def test_the_debug_log_tells_version_and_posture_in_gos_format(gofer: Start) -> None:
    g = gofer(spec_of())
    g.mount_list()
    g.peer().disconnect()
    g.wait()
    lines = g.said().splitlines()
    form = r"[DIW]\d{4} \d\d:\d\d:\d\d\.\d{6} {1,7}\d+ \w+\.py:\d+\] \S"
    assert all(re.match(form, line) for line in lines), lines
    assert re.search(rf"I\d{{4}} .* {g.pid} gofer\.py:\d+\] gofer 0\.", lines[0])
    assert any("] jail: " in line and "seccomp (kill)" in line for line in lines)


@pytest.mark.parametrize("form,key", [("json", "msg"), ("json-k8s", "log")])
def test_the_debug_log_in_json(gofer: Start, form: str, key: str) -> None:
    g = gofer(spec_of(), flags=[f"--debug-log-format={form}"])
    g.mount_list()
    g.peer()
    lines = [json.loads(line) for line in g.said().splitlines()]
    assert all(list(line) == [key, "level", "time"] for line in lines)
    assert lines[0]["level"] == "info" and re.match(r"gofer\.py:\d+\] gofer 0", lines[0][key])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", lines[0]["time"])


def test_debug_lines_come_only_with_debug(gofer: Start) -> None:
    g = gofer(spec_of(), flags=["--debug"])
    g.mount_list()
    g.peer().disconnect()
    g.wait()
    assert any(line.startswith("D") for line in g.said().splitlines())


def test_the_error_log_may_be_named_by_path(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(root={}), flags=[f"--log={spot}/by-path"], logs=[])
    assert g.wait() == 128
    assert json.loads((spot / "by-path").read_text())["level"] == "error"


# Bad input

MOUNTS = [bind("/made", "/usr")]


@pytest.mark.parametrize(
    "spec,io,says",
    [
        (b"", 1, "not JSON"),
        (spec_of(root=None), 1, "root.path"),
        (spec_of(process={"args": []}), 1, "process.args"),
        (spec_of(*MOUNTS, bind("relative", "/usr")), 3, "absolute path: 'relative'"),
        (spec_of(*MOUNTS, bind("/x", "/usr", "nonsense")), 3, "unknown option 'nonsense'"),
        (spec_of(*MOUNTS, bind("/x", "/nowhere/at/all")), 3, "/nowhere/at/all: No such file"),
        (spec_of(*MOUNTS, root={"path": "missing"}), 2, "/missing: No such file"),
        (spec_of(*MOUNTS, root={"path": "config.json"}), 2, "Not a directory"),
        (spec_of(*MOUNTS), 1, "too few"),
        (spec_of(*MOUNTS), 3, "too many"),
    ],
)
def test_bad_input_ends_with_128_a_json_line_and_one_clear_line_and_nothing_made(
    gofer: Start, spot: Path, spec: object, io: int, says: str
) -> None:
    g = gofer(spec, io=io, logs=["log"])
    assert g.wait() == 128
    said = g.process.stderr.read().decode()  # type: ignore[union-attr]
    assert said.startswith("gofer: ") and says in said and said.count("\n") == 1
    (error,) = g.errors()
    assert list(error) == ["msg", "level", "time"] and error["level"] == "error" and says in error["msg"]
    assert os.listdir(spot / "rootfs") == []
    assert g.mount_list() == b""


@pytest.mark.parametrize(
    "destination,says",
    [("/loop/x", "Too many levels"), ("/file/x", "Not a directory"), ("/file", "Not a directory")],
)
def test_a_destination_that_cannot_be_reached_is_named(gofer: Start, spot: Path, destination: str, says: str) -> None:
    (spot / "rootfs/loop").symlink_to("loop")
    (spot / "rootfs/file").write_text("")
    g = gofer(spec_of(bind(destination, directory(spot / "s"))), io=2)
    assert g.wait() == 128
    assert says in g.errors()[0]["msg"] and destination in g.errors()[0]["msg"]


@pytest.mark.parametrize(
    "words,says",
    [
        (["--io-fds=200"], "--io-fds=200: no such file descriptor"),
        (["--spec-fd=99"], "--spec-fd=99: no such file descriptor"),
        (["--sync-chroot-fd=99999999999"], "no such file descriptor"),
        (["--io-fds=2"], "--io-fds=2: not a Unix stream socket"),
        (["--new-fd=3"], "flag provided but not defined: -new-fd"),
        (["--bundle="], "--bundle is required"),
    ],
)
def test_wrong_fds_and_flags_are_named(gofer: Start, words: "list[str]", says: str) -> None:
    g = gofer(spec_of(bind("/x", "/usr")), *words, logs=["log"])
    assert g.wait() == 128
    assert says in g.errors()[0]["msg"]


def test_one_fd_for_two_purposes_is_refused(gofer: Start, spot: Path) -> None:
    log = os.open(spot / "log2", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(log, True)
    g = gofer(spec_of(), f"--rpc-fd={log}", f"--pin-ring-fd={log}", stray=[log])
    os.close(log)
    assert g.wait() == 128 and "also given as" in g.errors()[0]["msg"]


def test_a_fault_of_our_own_is_told_too(gofer: Start, spot: Path) -> None:
    """A full pipe that nobody reads, whose other end closes: the mount list cannot be written."""
    mounts = [{"destination": f"/{i}", "type": "tmpfs"} for i in range(20000)]
    g = gofer(spec_of(*mounts))
    wait_until(lambda: "Serving" in g.said(), "it is about to write the list")
    g.drop_mount_list()
    assert g.wait() == 128 and "--mounts-fd: Broken pipe" in g.errors()[0]["msg"]
