"""`gofer runsc`: its command line, and what it does where redirection cannot be.

In place of runsc a small C program, which starts "its own gofer" as runsc does.
"""

import os
import shutil
import struct
import subprocess
import sys
from ctypes import CDLL, addressof, c_ulong, create_string_buffer
from pathlib import Path

import pytest
from hosts import CHECKOUT
from lookalike import make_lookalike, run
from runsc import newer_runsc, one_file_gofer

from gofer.runsc.redirect import needs_no_gofer


@pytest.fixture(scope="module")
def newer() -> Path:
    return newer_runsc()


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture(scope="module")
def lookalike(one_file: Path) -> Path:
    return make_lookalike()


# The command line


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "--root=/r kill c",
        "--root run --log-format json --log /l state c",  # as containerd has it; a state directory named "run"
        "--debug -rootless exec c sh",
        "--never-heard-of=it -systemd-cgroup wait c",
    ],
)
def test_some_commands_that_start_no_gofer_are_known(line: str) -> None:
    assert needs_no_gofer(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "run c",
        "--root=/r --debug create --bundle b c",
        "--root list run c",
        "--root /r start c",
        "do true",
        "restore c",
        "checkpoint --leave-running c",  # of 2022 starts the container again
        "delete c",  # runs hooks, which may do what they like
        "new-command list",
        "--gvisor-gro list",  # is "list" the flag's value, or the command? That depends on the release
        "-- list",
        "--version",
        "--root",
        "",
    ],
)
def test_every_other_command_line_is_traced(line: str) -> None:
    assert not needs_no_gofer(line.split())


def program(*words: str) -> "subprocess.CompletedProcess[str]":
    return run([sys.executable, CHECKOUT, "runsc", *words])


@pytest.mark.parametrize(
    "words,says",
    [
        ([], "nothing to run"),
        (["run", "c"], "runsc's arguments stand after `--`: gofer runsc -- run"),
        (["--runsc"], "--runsc needs a path"),
        (["--nonsense", "--", "run"], "unknown option --nonsense"),
        (["--check=yes"], "unknown option --check=yes"),
    ],
)
def test_wrong_options_end_with_2_and_the_usage(words: "list[str]", says: str) -> None:
    done = program(*words)
    assert done.returncode == 2 and says in done.stderr and "usage: gofer runsc" in done.stderr


@pytest.mark.parametrize(
    "words,says",
    [
        (["--runsc", "/nowhere/runsc", "--", "list"], "/nowhere/runsc: no such program"),
        (["--runsc", "/bin/true", "--", "run"], "this is a checkout"),
        (
            ["--runsc", "/bin/true", "--gofer", "/etc/passwd", "--", "run"],
            "/etc/passwd: must be a file that can be",
        ),
    ],
)
def test_what_is_not_there_is_named_with_its_remedy(words: "list[str]", says: str) -> None:
    done = program(*words)
    assert (done.returncode, done.stdout) == (1, "") and says in done.stderr and done.stderr.count("\n") == 1


def test_help_shows_how_an_engine_is_set_up() -> None:
    done = program("--help")
    assert (
        done.returncode == 0 and 'exec /usr/local/bin/gofer runsc --runsc /usr/local/bin/runsc -- "$@"' in done.stdout
    )


# Where it cannot be


def forbid_ptrace() -> None:
    """In a child: a filter as container engines have it, which answers EPERM."""
    number = {"x86_64": 101, "aarch64": 117}[os.uname().machine]
    filter = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
    code = create_string_buffer(b"".join(struct.pack("<HBBI", *instruction) for instruction in filter))
    program = create_string_buffer(struct.pack("<H6xQ", len(filter), addressof(code)))
    libc = CDLL(None)
    assert libc.prctl(38, c_ulong(1), c_ulong(0), c_ulong(0), c_ulong(0)) == 0  # no_new_privs
    assert libc.prctl(22, c_ulong(2), program) == 0  # seccomp, by filter


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--check"], ["--", "run"]])
def test_forbidden_ptrace_is_said_before_anything_runs(one_file: Path, lookalike: Path, words: "list[str]") -> None:
    done = run([one_file, "runsc", "--runsc", lookalike, *words], preexec_fn=forbid_ptrace)
    assert done.returncode == 1 and "ptrace is not permitted here" in done.stdout + done.stderr
    assert "its own gofer" not in done.stdout.split("runsc:")[0]


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--check"], ["--", "run"]])
def test_an_other_tracer_is_said_before_anything_runs(one_file: Path, lookalike: Path, words: "list[str]") -> None:
    command = ["strace", "-f", "-o", "/dev/null", one_file, "runsc", "--runsc", lookalike, *words]
    done = run(command)
    assert done.returncode == 1 and "traced by process" in done.stdout + done.stderr
    assert "its own gofer" not in done.stdout.split("runsc:")[0]


@pytest.mark.slow
def test_check_says_what_works_here(one_file: Path, spot: Path) -> None:
    done = run([one_file, "runsc", "--check"])
    assert done.returncode == 0 and "redirection:         works" in done.stdout and "runsc version" in done.stdout
    assert "in user namespaces:  yes" in done.stdout
    assert "with directfs:       this runsc has none\nwithout directfs:    works\n" in done.stdout
    hidden = spot / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copy(one_file, hidden / "gofer")
    done = run([hidden / "gofer", "runsc", "--check"])
    assert done.returncode == 0 and f"no: {hidden}/gofer must be readable by others" in done.stdout


@pytest.mark.slow
def test_check_tries_both_ways_in_which_a_newer_runsc_reaches_files(one_file: Path, newer: Path) -> None:
    done = run([one_file, "runsc", "--check", "--runsc", newer])
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith("with directfs:       works\nwithout directfs:    works\n"), done.stdout


@pytest.mark.slow
def test_check_says_where_runsc_alone_does_not_work_either(one_file: Path, newer: Path) -> None:
    done = run([one_file, "runsc", "--check", "--runsc", newer, "--", "--platform=none-such"])
    assert done.returncode == 1, done.stdout
    says = "directfs: {}does not work, nor does it with runsc's own gofer: "
    assert "with " + says.format(" " * 6) in done.stdout and "without " + says.format("   ") in done.stdout
    assert done.stdout.count("none-such") == 2, done.stdout


@pytest.mark.slow
def test_a_gofer_that_cannot_be_executed_is_named(one_file: Path, lookalike: Path, spot: Path) -> None:
    broken = spot / "gofer"
    broken.write_text("#!/nowhere/python3\n")
    broken.chmod(0o755)
    done = run([one_file, "runsc", "--gofer", broken, "--runsc", lookalike, "--", "run"])
    assert done.stdout == "" and f"{broken} cannot be run as the container's gofer: No such file" in done.stderr
