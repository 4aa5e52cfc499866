"""Containers of Debian's two runscs, started by `gofer runsc`: each test asserts that our gofer served it."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable

import pytest
from hosts import CALM, ended, wait_until
from runsc import (
    FLAGS,
    Json,
    Runsc,
    Variant,
    bind,
    bundle,
    container,
    gofer_pid,
    host_mounts,
    one_file_gofer,
    pids_named,
    sandbox_pid,
)

pytestmark = pytest.mark.slow

NOBODY = 65534
C, POD, SUB = container(), container("pod"), container("sub")
READY = "echo ready; exec sleep 1000"
ID_MAP = [{"containerID": 0, "hostID": 100000, "size": 65536}]


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture
def runsc(one_file: Path, variant: Variant, spot: Path) -> Iterator[Runsc]:
    runsc = Runsc(spot, one_file, variant)
    yield runsc
    wait_until(lambda: not pids_named(str(runsc.state), " runsc --runsc "), "the tracer ends, after runsc")
    left = pids_named(str(runsc.state))
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not pids_named(str(runsc.state)), "what was left ends")
    assert not left, f"processes left behind: {left}"


@pytest.fixture
def place(spot: Path) -> Path:
    """Where a test makes its bundles."""
    (spot / "bundles").mkdir()
    return spot / "bundles"


@pytest.fixture
def out(spot: Path) -> Path:
    """A directory in which a container that binds it shows the host what it did."""
    (spot / "out").mkdir()
    return spot / "out"


def directory(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    return path


def wait_for_line(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], CALM)[0], "the container says nothing"
    said = process.stdout.readline()
    if said != line + "\n":
        process.kill()
        more = process.communicate(timeout=CALM)
        raise AssertionError(f"{said!r} {more}, status {process.returncode}")


def control_sockets() -> "list[bytes]":
    """Those of our containers."""
    suffix = re.escape(container("").encode())
    return re.findall(rb"@runsc\S*%s" % suffix, Path("/proc/net/unix").read_bytes())


def finish(process: "subprocess.Popen[str]") -> int:
    """Its exit status; closes its pipes."""
    process.communicate(timeout=CALM)
    return process.returncode


def test_do_runs_a_command_on_the_hosts_files(runsc: Runsc, spot: Path) -> None:
    (spot / "hello").write_text("from the host")
    done = runsc.run(
        "do", "--force-overlay=false", "sh", "-c", f"cat {spot}/hello; echo x > {spot}/made; exit 7", check=False
    )
    assert (done.returncode, done.stdout) == (7, "from the host"), done.stderr
    assert (spot / "made").read_text() == "x\n"
    assert runsc.served_by_us() == 1


def test_run_with_three_binds_one_read_only_one_a_file_one_behind_a_symlink(
    runsc: Runsc, spot: Path, place: Path
) -> None:
    rw, ro = directory(spot / "rw"), directory(spot / "ro", x="read only")
    (spot / "file").write_text("a file")
    script = "cat /ro/x; cat /etc/file; echo w > /real/sub/w; echo f >> /etc/file; echo no > /ro/y || echo refused; ls /link/sub"
    mounts = (
        bind("/link/sub", str(rw), "rbind", "rw"),
        bind("/ro", str(ro), "bind", "ro"),
        bind("/etc/file", str(spot / "file"), "bind"),
    )
    bundle(place, script, *mounts)
    (place / "rootfs/real").mkdir()
    (place / "rootfs/link").symlink_to("/real")
    done = runsc.run("run", f"--bundle={place}", C)
    assert done.stdout == "read onlya filerefused\nw\n"
    assert (rw / "w").read_text() == "w\n" and (spot / "file").read_text() == "a filef\n" and os.listdir(ro) == ["x"]
    assert runsc.served_by_us() == 1


@pytest.mark.parametrize("user", [0, NOBODY])
def test_rootless(runsc: Runsc, spot: Path, user: int) -> None:
    for folder in (spot, runsc.state):
        folder.chmod(0o777)
    demote = {"user": user, "group": user, "extra_groups": []} if user else {}
    script = f"id -u; cat /etc/hostname; echo x > {spot}/made; exit 5"
    words = ("do", "--force-overlay=false", "sh", "-c", script)
    env = {**os.environ, "HOME": "/", "TMPDIR": str(spot)}
    done = runsc.run(*words, flags=["--rootless"], check=False, env=env, **demote)
    host_name = Path("/etc/hostname").read_text()
    assert (done.returncode, done.stdout) == (5, f"0\n{host_name}"), done.stderr
    assert os.stat(spot / "made").st_uid == user
    assert runsc.served_by_us() == 1


def test_a_user_namespace_in_the_spec(runsc: Runsc, spot: Path, place: Path) -> None:
    linux = {
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "user"}],
        "uidMappings": ID_MAP,
        "gidMappings": ID_MAP,
    }
    rw = directory(spot / "rw", given="x")
    mounts = bind("/rw", str(rw), "rbind", "rw", "nosuid", "nodev"), bind("/ro", "/usr/share", "rbind", "ro")
    script = "id -u; echo made > /made; echo > /rw/made; cat /rw/given; ls /ro | grep -c doc; ls -n /made"
    bundle(place, script, *mounts, linux=linux)
    subprocess.run(["chown", "-R", "100000:100000", place, rw], check=True)
    done = runsc.run("run", f"--bundle={place}", C)
    assert done.stdout.startswith("0\nx") and "0        0" in done.stdout, done.stdout
    assert os.stat(rw / "made").st_uid == 100000
    seen = runsc.variant.does("the root's changes are seen on the host")
    assert os.listdir(place / "rootfs").count("made") == seen
    assert not seen or os.stat(place / "rootfs/made").st_uid == 100000
    assert runsc.served_by_us() == 1


def test_a_gofer_that_the_containers_user_may_not_read_is_refused_by_name(
    runsc: Runsc, spot: Path, place: Path
) -> None:
    """No container starts, and none with runsc's own gofer."""
    hidden = spot / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copy(runsc.gofer or "", hidden / "gofer")
    shutil.copy(runsc.gofer or "", spot / "unreadable")
    (spot / "unreadable").chmod(0o711)
    linux = {"namespaces": [{"type": "user"}], "uidMappings": ID_MAP, "gidMappings": ID_MAP}
    bundle(place, "echo started", linux=linux)
    subprocess.run(["chown", "-R", "100000:100000", place], check=True)
    for gofer, says in (
        (hidden / "gofer", "Permission denied"),
        (spot / "unreadable", "not readable by user 100000, as whom it would run"),
    ):
        runsc.gofer = gofer
        done = runsc.run("run", f"--bundle={place}", C, check=False)
        assert done.returncode == 128 and done.stdout == ""
        assert f"gofer: {gofer} cannot be run as the container's gofer: {says}" in done.stderr
    assert runsc.served_by_us() == 0
    assert os.listdir(runsc.state) == []


def test_create_start_exec_kill_delete(runsc: Runsc, place: Path, out: Path) -> None:
    bundle(place, "echo hello > /hello; touch /out/up; while true; do sleep 0.1; done", bind("/out", str(out)))
    runsc.run("create", f"--bundle={place}", f"--pid-file={place}/pid", C, quiet=True)
    assert json.loads(runsc.run("state", C).stdout)["status"] == "created"
    assert os.readlink(f"/proc/{gofer_pid(runsc.state)}/exe").startswith("/usr/bin/python3")
    runsc.run("start", C)
    wait_until((out / "up").exists, "the container has begun", CALM)
    assert runsc.run("exec", C, "/bin/cat", "/hello").stdout == "hello\n"
    assert runsc.run("exec", C, "/bin/sh", "-c", "exit 9", check=False).returncode == 9
    runsc.run("kill", C, "KILL")
    wait_until(lambda: json.loads(runsc.run("state", C).stdout)["status"] == "stopped", "the container has stopped", CALM)
    # What runsc says of a state, and what it thinks of it a moment later, may differ on a busy machine.
    wait_until(lambda: runsc.run("delete", C, check=False).returncode == 0, "it is deleted", CALM)
    assert runsc.served_by_us() == 1


def test_the_two_line_script_serves_an_engine(runsc: Runsc, place: Path, one_file: Path, out: Path) -> None:
    """Called as containerd calls a runtime: an environment of its own, values apart from their flags."""
    script = place.parent / "runsc-gofer"
    flags = " ".join([*FLAGS, *runsc.variant.flags])
    script.write_text(f'#!/bin/sh\nexec {one_file} runsc --runsc {runsc.variant.program()} -- {flags} "$@"\n')
    script.chmod(0o755)
    bundle(place, "echo hello > /hello; touch /out/up; exec sleep 1000", bind("/out", str(out)))
    log = place / "log.json"
    before = [script, "--root", runsc.state, "--log", log, "--log-format", "json", f"--debug-log={runsc.logs}/"]

    def engine(*words: str) -> "subprocess.CompletedProcess[str]":
        null = subprocess.DEVNULL
        out = null if words[0] == "create" else subprocess.PIPE
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        return subprocess.run([*before, *words], env=env, stdin=null, stdout=out, stderr=out, text=True, timeout=CALM)

    assert engine("create", "--bundle", str(place), "--pid-file", str(place / "pid"), C).returncode == 0, (
        log.read_text()
    )
    assert int((place / "pid").read_text()) == sandbox_pid(runsc.state)
    assert engine("start", C).returncode == 0
    wait_until((out / "up").exists, "the container has begun", CALM)
    assert engine("exec", C, "/bin/cat", "/hello").stdout == "hello\n"
    assert engine("kill", C, "9").returncode == 0
    wait_until(lambda: '"stopped"' in engine("state", C).stdout, "the container has stopped", CALM)
    wait_until(lambda: engine("delete", C).returncode == 0, "it is deleted", CALM)
    assert runsc.served_by_us() == 1


def test_run_detached_leaves_the_container_and_its_gofer_and_nothing_else(
    runsc: Runsc, place: Path, one_file: Path, out: Path
) -> None:
    bundle(place, "touch /out/up; exec sleep 1000", bind("/out", str(out)))
    runsc.run("run", f"--bundle={place}", "--detach", C, quiet=True)
    wait_until((out / "up").exists, "the container has begun", CALM)
    wait_until(lambda: len(pids_named(str(runsc.state))) == 2, "the tracer ends")
    roles = sorted("gofer" if pid == gofer_pid(runsc.state) else "sandbox" for pid in pids_named(str(runsc.state)))
    assert roles == ["gofer", "sandbox"], "a tracer, or runsc, is still there"
    assert len(pids_named(str(one_file))) == 1
    runsc.run("kill", C, "KILL")
    runsc.run("delete", "--force", C)
    assert runsc.served_by_us() == 1


def test_a_second_container_in_the_same_sandbox(runsc: Runsc, place: Path, out: Path) -> None:
    (place / "pod").mkdir()
    (place / "sub").mkdir()
    kind = "io.kubernetes.cri.container-type"
    bundle(place / "pod", "exec sleep 1000", annotations={kind: "sandbox", "io.kubernetes.cri.sandbox-id": POD})
    annotations = {kind: "container", "io.kubernetes.cri.sandbox-id": POD}
    script = "echo from the second > /made; cp /made /out; exit 4"
    bundle(place / "sub", script, bind("/out", str(out)), annotations=annotations)
    runsc.run("create", f"--bundle={place}/pod", POD, quiet=True)
    runsc.run("start", POD)
    runsc.run("create", f"--bundle={place}/sub", SUB, quiet=True)
    runsc.run("start", SUB)
    assert json.loads(runsc.run("wait", SUB, check=False).stdout)["exitStatus"] == 4
    assert (out / "made").read_text() == "from the second\n"
    for name in (SUB, POD):
        runsc.run("delete", "--force", name)
    assert runsc.served_by_us() == 2


@pytest.mark.parametrize(
    "script,status", [("true", 0), ("exit 41", 41), ("kill -9 $$", 137), ("exec /bin/nothing", 127)]
)
def test_exit_statuses_come_through(runsc: Runsc, place: Path, script: str, status: int) -> None:
    bundle(place, script)
    assert runsc.run("run", f"--bundle={place}", C, check=False).returncode == status
    assert runsc.served_by_us() == 1


def test_the_process_that_was_started_is_runsc_itself(runsc: Runsc, place: Path, one_file: Path) -> None:
    bundle(place, READY)
    process = runsc.start("run", f"--bundle={place}", C)
    wait_for_line(process, "ready")
    assert os.path.samefile(f"/proc/{process.pid}/exe", runsc.variant.program())
    runsc.run("kill", C, "TERM")
    assert finish(process) == 128 + signal.SIGTERM
    assert runsc.served_by_us() == 1


def end_by_terminate(argv: "list[str]") -> int:
    pipe = subprocess.PIPE
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)
    wait_for_line(process, "ready")
    process.terminate()
    return finish(process)


def end_by_ctrl_c(argv: "list[str]") -> int:
    """At a terminal of its own, in whose foreground runsc and (of 2022) its gofer are."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    try:
        said = b""
        while b"ready" not in said:
            assert select.select([terminal], [], [], CALM)[0], said
            said += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(terminal)


@pytest.mark.parametrize("end", [end_by_terminate, end_by_ctrl_c])
def test_a_signal_to_runsc_does_what_it_does_with_runscs_own_gofer(
    runsc: Runsc, place: Path, end: Callable[["list[str]"], int]
) -> None:
    """It ends runsc, and that the container, and that the gofer."""
    bundle(place, "echo ready; while true; do sleep 0.05; done")
    statuses = []
    for gofer, logs in ((runsc.gofer, True), (None, False)):
        runsc.gofer = gofer
        statuses.append(end(runsc.argv("run", f"--bundle={place}", C, logs=logs)))
        wait_until(lambda: not pids_named(str(runsc.state)), "all processes end")
        subprocess.run(runsc.argv("delete", "--force", C, logs=False), stderr=subprocess.PIPE)
    assert statuses[0] == statuses[1] < 0
    assert runsc.served_by_us() == 1


def test_killed_the_gofer_takes_the_container_with_it(runsc: Runsc, place: Path) -> None:
    bundle(place, READY)
    process = runsc.start("run", f"--bundle={place}", C)
    wait_for_line(process, "ready")
    os.kill(gofer_pid(runsc.state), signal.SIGKILL)
    assert finish(process) != 0
    wait_until(lambda: not pids_named(str(runsc.state)), "sandbox and runsc end")
    assert runsc.served_by_us() == 1


@pytest.mark.parametrize("detached", [False, True])
def test_the_gofer_ends_with_a_killed_sandbox(runsc: Runsc, place: Path, out: Path, detached: bool) -> None:
    bundle(place, "touch /out/up; exec sleep 1000", bind("/out", str(out)))
    words = ["--detach"] if detached else []
    process = runsc.start("run", f"--bundle={place}", *words, C, quiet=True)
    wait_until((out / "up").exists, "the container has begun", CALM)
    gofer = gofer_pid(runsc.state)
    os.kill(sandbox_pid(runsc.state), signal.SIGKILL)
    wait_until(lambda: ended(gofer), "the gofer ends")
    finish(process)
    runsc.run("delete", "--force", C, check=False)
    assert runsc.served_by_us() == 1


def test_fifty_starts_four_at_a_time_leave_nothing(runsc: Runsc, place: Path, one_file: Path) -> None:
    mounts = host_mounts()
    for i in range(4):
        (place / str(i)).mkdir()
        bundle(place / str(i), "echo out; exit 6", bind("/m", "/usr/share", "rbind", "ro"))

    def start(number: int) -> tuple[int, str]:
        done = runsc.run("run", f"--bundle={place}/{number % 4}", container(f"c{number}"), check=False)
        return done.returncode, done.stdout + done.stderr

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(50))) == [(6, "out\n")] * 50
    assert runsc.served_by_us() == 50
    wait_until(lambda: not pids_named(str(runsc.state)) and not pids_named(str(one_file)), "all processes end")
    assert os.listdir(runsc.state) == []
    assert host_mounts() == mounts
    assert control_sockets() == []


@pytest.mark.parametrize(
    "spoil,says",
    [
        (lambda spec: spec["root"].update(path="nowhere"), "nowhere"),
        (lambda spec: spec["mounts"].append(bind("/x", "/no/such/source")), "/no/such/source"),
    ],
)
def test_a_container_that_cannot_be_made_fails_with_our_reason_in_the_log(
    runsc: Runsc, place: Path, spoil: Any, says: str
) -> None:
    bundle(place, "echo started")
    spec: Json = json.loads((place / "config.json").read_text())
    spoil(spec)
    (place / "config.json").write_text(json.dumps(spec))
    log = place / "engine.log"
    before = host_mounts()
    done = runsc.run("run", f"--bundle={place}", C, flags=[f"--log={log}", "--log-format=json"], check=False)
    assert done.returncode == 128 and done.stdout == ""
    errors = [json.loads(line) for line in re.sub(r"}\s*{", "}\n{", log.read_text()).splitlines()]
    by_us = says != "nowhere" or runsc.variant.does("a missing root is found by the gofer")
    reason = "No such file" if by_us else "no such file"  # Python's words, or Go's
    assert any(says in error["msg"] and reason in error["msg"] for error in errors), errors
    assert ("gofer 0." in runsc.gofer_log()) == by_us
    assert host_mounts() == before
    wait_until(lambda: not pids_named(str(runsc.state)), "nothing goes on running")
