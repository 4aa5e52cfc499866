"""Commands of Debian's two runscs that start a gofer where one might not expect it: it is ours each time, or nothing runs."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import wait_until
from runsc import Runsc, Variant, bundle, container, gofer_pid, one_file_gofer, pids_named, sandbox_pid

pytestmark = pytest.mark.slow

C, AGAIN = container(), container("again")
COUNT = "n=0; while true; do n=$((n + 1)); echo $n > /out/n; sleep 0.05; done"


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture
def runsc(one_file: Path, variant: Variant, spot: Path) -> Iterator[Runsc]:
    runsc = Runsc(spot, one_file, variant)
    yield runsc
    for name in (C, AGAIN):
        runsc.run("delete", "--force", name, check=False)
    wait_until(lambda: not pids_named(str(runsc.state)), "everything ends")


@pytest.fixture
def counting(runsc: Runsc, spot: Path) -> Path:
    """The bundle of a container that runs, and says so again and again."""
    (spot / "out").mkdir()
    mounts = [{"destination": "/out", "type": "bind", "source": str(spot / "out"), "options": ["rbind", "rw"]}]
    place = bundle(spot / "bundle", COUNT, *mounts)
    runsc.run("run", f"--bundle={place}", "--detach", C, quiet=True)
    goes_on(spot)
    return place


def goes_on(spot: Path) -> None:
    """The container writes what it has not written yet."""
    file = spot / "out/n"
    file.unlink(missing_ok=True)
    wait_until(lambda: file.exists() and file.read_text() != "", "it counts")


def test_checkpoint_leave_running_goes_on_with_our_gofer(runsc: Runsc, counting: Path, spot: Path) -> None:
    """runsc of 2022 starts the container anew, from what it has just saved, and stays until that ends."""
    command = runsc.start("checkpoint", "--leave-running", f"--image-path={spot}/image", C, quiet=True)
    anew = runsc.variant.does("checkpoint --leave-running starts the container anew")
    if anew:
        wait_until(lambda: runsc.gofer_log().count("] jail: ") == 2, "a second gofer serves")
    else:
        assert command.wait() == 0
    goes_on(spot)
    runsc.run("kill", C, "KILL")
    assert command.wait() == (128 + signal.SIGKILL if anew else 0)
    assert runsc.served_by_us() == 1 + anew


def test_a_restored_container_has_our_gofer(runsc: Runsc, counting: Path, spot: Path) -> None:
    runsc.run("checkpoint", f"--image-path={spot}/image", C)
    runsc.run("delete", "--force", C)
    runsc.run("restore", "--detach", f"--image-path={spot}/image", f"--bundle={counting}", AGAIN, quiet=True)
    goes_on(spot)
    assert runsc.served_by_us() == 2
    assert [
        pid for pid in pids_named(str(runsc.state)) if pid not in (gofer_pid(runsc.state), sandbox_pid(runsc.state))
    ] == []


def test_a_flag_whose_kind_depends_on_the_release_hides_no_command(runsc: Runsc, spot: Path) -> None:
    """--gvisor-gro takes a value in 2022, and none in 2024: what follows is the command, though it might be a value."""
    place = bundle(spot / "bundle", "exit 3")
    flags = ["--gvisor-gro"] if runsc.variant.is_newer else ["--gvisor-gro", "0ns"]
    words = ("run", f"--bundle={place}", "list")
    done = runsc.run(*words, flags=flags, check=False)
    assert done.returncode == 3, done.stderr
    assert runsc.served_by_us() == 1


def test_an_attached_runsc_is_traced_to_its_end_and_its_sandbox_never(runsc: Runsc, spot: Path) -> None:
    place = bundle(spot / "bundle", "echo ready; exec sleep 1000")
    process = runsc.start("run", f"--bundle={place}", C)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    tracer = traced_by(process.pid)
    assert tracer > 0 and traced_by(sandbox_pid(runsc.state)) == traced_by(gofer_pid(runsc.state)) == 0
    os.kill(tracer, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "a runsc that nobody watches any more"
    process.communicate()
    assert runsc.served_by_us() == 1


def test_commands_without_a_tracer_work(runsc: Runsc, counting: Path, spot: Path) -> None:
    assert C in runsc.run("list").stdout
    assert '"running"' in runsc.run("state", C).stdout
    runsc.run("pause", C)
    runsc.run("resume", C)
    assert runsc.run("exec", C, "echo", "in it").stdout == "in it\n"
    runsc.run("exec", "--detach", f"--pid-file={spot}/pid", C, "touch", "/out/touched", quiet=True)
    wait_until((spot / "out/touched").exists, "what was executed behind our back is done")
    assert runsc.run("ps", C).stdout != ""
    wait_until(lambda: not pids_named(str(runsc.state), " runsc --runsc "), "no tracer stays")
    runsc.run("kill", C, "KILL")
    assert runsc.served_by_us() == 1


def traced_by(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("TracerPid:"))
