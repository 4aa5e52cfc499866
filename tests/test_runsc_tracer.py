"""Which programs a redirected runsc, or what stands in its place, executes as what: its gofers are ours, the rest is let go.

In place of runsc a small C program; the real ones: test_runsc_containers.py, test_runsc_commands.py.
"""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from hosts import PATIENCE, wait_until
from lookalike import NOBODY, OURS, Waiting, argv, make_lookalike, run
from runsc import one_file_gofer, pids_named

pytestmark = pytest.mark.slow

# A shell's way to say by whom it is traced, without another program.
TRACED = "while read name value; do [ $name != TracerPid: ] || echo $value; done < /proc/$$/status"


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture(scope="module")
def lookalike(one_file: Path) -> Path:
    return make_lookalike()


@pytest.mark.parametrize("words", [["run"], ["again"], ["again", "again", "run"]])
def test_the_gofer_is_ours_also_where_runsc_runs_itself_again(
    one_file: Path, lookalike: Path, words: "list[str]"
) -> None:
    assert run(argv(one_file, lookalike, *words)).stdout == OURS
    assert run([lookalike, *words]).stdout == "its own gofer\n"


@pytest.mark.parametrize("name,traced", [("runsc-sandbox", False), ("sh", False), ("runsc", True)])
def test_the_sandbox_and_other_programs_are_let_go(
    one_file: Path, lookalike: Path, name: str, traced: bool, spot: Path
) -> None:
    shell = spot / name
    shutil.copy("/bin/sh", shell)
    words = ["other", str(shell), name, "-c", f"{TRACED}; exec env"]
    tracer, _, environment = run(argv(one_file, lookalike, *words)).stdout.partition("\n")
    assert (int(tracer) > 0) == traced
    assert environment == run([lookalike, *words]).stdout.partition("\n")[2], "nothing of ours is in it"


def test_a_second_gofer_is_ours_too_and_after_it_runsc_is_still_watched(one_file: Path, lookalike: Path) -> None:
    command = argv(one_file, lookalike, "twice", "/bin/sh", "runsc-sandbox", "-c", f"[ 0 = $({TRACED}) ]")
    with Waiting(command, first=OURS) as waiting:
        out, _ = waiting.process.communicate("\n")
        assert out == OURS
    with Waiting(command, first=OURS) as waiting:
        os.kill(waiting.tracer, signal.SIGKILL)
        assert waiting.process.wait(PATIENCE) == -signal.SIGKILL
        assert waiting.process.stdout is not None and waiting.process.stdout.read() == ""


@pytest.mark.parametrize(
    "user,how", [(0, "clone"), (0, "clone3"), (0, "unshare"), (NOBODY, "clone"), (NOBODY, "clone3")]
)
def test_a_command_without_a_tracer_cannot_start_a_gofer(one_file: Path, lookalike: Path, user: int, how: str) -> None:
    demote: Any = {"user": user, "group": user, "extra_groups": []} if user else {}
    assert run([lookalike, "list", how], **demote).stdout == "its own gofer\n"
    done = run(argv(one_file, lookalike, "list", how), **demote)
    assert (done.returncode, done.stdout) == (98, "") and done.stderr.startswith("fork: "), done


@pytest.mark.parametrize(
    "script,says",
    [
        ('exec {runsc} "$@"', OURS),
        ('{runsc} "$@"', OURS),
        ('sh -c "{runsc} run"', OURS),
        ("cd {folder}; ./runsc-copy run", OURS),
    ],
)
def test_a_script_in_runscs_place_changes_nothing(
    one_file: Path, lookalike: Path, spot: Path, script: str, says: str
) -> None:
    shutil.copy(lookalike, spot / "runsc-copy")
    wrapper = spot / "wrapper"
    wrapper.write_text("#!/bin/sh\n" + script.format(runsc=lookalike, folder=spot) + "\n")
    wrapper.chmod(0o755)
    assert run(argv(one_file, wrapper, "run")).stdout == says


def test_a_program_in_runscs_place_that_runs_runsc_changes_nothing(one_file: Path, lookalike: Path, spot: Path) -> None:
    shutil.copy(lookalike, spot / "runsc")
    assert run(argv(one_file, lookalike, "other", str(spot / "runsc"), "runsc", "run")).stdout == OURS


def test_a_set_user_id_program_that_a_user_s_runsc_runs_has_its_rights(
    one_file: Path, lookalike: Path, spot: Path
) -> None:
    """newuidmap is one, which a rootless runsc runs."""
    tool = spot / "id"
    shutil.copy("/usr/bin/id", tool)
    tool.chmod(0o4755)
    demote: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    command = ["other", str(tool), "id", "-u"]
    assert run([lookalike, *command], **demote).stdout == "0\n", "it has them without us"
    assert run(argv(one_file, lookalike, *command), **demote).stdout == "0\n"
    assert run(argv(one_file, lookalike, *command)).stdout == "0\n"


def test_a_runsc_that_its_user_cannot_read_is_said_and_ends(one_file: Path, lookalike: Path, spot: Path) -> None:
    hidden = spot / "hidden"
    shutil.copy(lookalike, hidden)
    hidden.chmod(0o711)
    done = run(argv(one_file, hidden, "run"), user=NOBODY, group=NOBODY, extra_groups=[])
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "") and "may not read" in done.stderr


def test_another_user_redirects_too(one_file: Path, lookalike: Path) -> None:
    demote: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    assert run(argv(one_file, lookalike, "again"), **demote).stdout == OURS


def test_the_process_becomes_runsc_with_signals_as_they_were(one_file: Path, lookalike: Path) -> None:
    with Waiting(argv(one_file, lookalike, "hold")) as waiting:
        pid = waiting.process.pid
        assert os.path.samefile(f"/proc/{pid}/exe", lookalike)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["SigIgn"], 16) & (1 << 12 | 1 << 24) == 0, "SIGPIPE, SIGXFSZ: Python ignores them"
        held = f"/proc/{waiting.tracer}/fd"
        wait_until(lambda: len(os.listdir(held)) == 3, "the tracer holds nothing that runsc was given")
        assert os.path.basename(os.readlink(f"{held}/0")) == "null"
        out, _ = waiting.process.communicate("\n")
        assert out == OURS
        wait_until(lambda: not pids_named(str(one_file)), "the tracer ends with runsc")


def test_signals_do_to_a_traced_runsc_what_they_do_to_any_process(one_file: Path, lookalike: Path) -> None:
    def state() -> str:
        return Path(f"/proc/{waiting.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    with Waiting(argv(one_file, lookalike, "hold")) as waiting:
        waiting.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: state() in "tT", "it stops")
        waiting.process.send_signal(signal.SIGCONT)
        wait_until(lambda: state() == "S", "it goes on")
        waiting.process.send_signal(signal.SIGUSR1)
        assert waiting.process.wait(PATIENCE) == -signal.SIGUSR1


def test_a_killed_tracer_takes_runsc_with_it_before_it_has_started_its_own_gofer(
    one_file: Path, lookalike: Path
) -> None:
    with Waiting(argv(one_file, lookalike, "hold")) as waiting:
        os.kill(waiting.tracer, signal.SIGKILL)
        assert waiting.process.wait(PATIENCE) == -signal.SIGKILL
        assert waiting.process.stdout is not None and waiting.process.stdout.read() == ""
