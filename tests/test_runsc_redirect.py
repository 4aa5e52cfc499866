"""`gofer runsc`: its command line, and what it does where redirection cannot be.

In place of runsc a small C program, which starts "its own gofer" as runsc does; the real one: test_runsc_containers.py.
"""

import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from ctypes import CDLL, addressof, c_ulong, create_string_buffer
from pathlib import Path
from typing import Any

import pytest
from hosts import CALM, CHECKOUT, PATIENCE, ended, wait_until
from runsc import one_file_gofer, pids_named

from gofer import __version__
from gofer.runsc.redirect import starts_gofer

NOBODY = 65534
OURS = f"gofer {__version__}\n"
LOOKALIKE = r"""
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
extern char **environ;
static int spawn(const char *path, char **argv) {
    int status;
    pid_t child = fork();
    if (child == 0) { execve(path, argv, environ); perror(path); _exit(99); }
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
static void *idle(void *unused) { for (;;) pause(); }
int main(int argc, char **argv) {
    char *shell[] = {"runsc-sandbox", "-c", "env | grep -c GOFER_RUNSC", NULL}, *gofer[] = {"runsc-gofer", "--version", NULL};
    pthread_t thread;
    if (strcmp(argv[0], "runsc-gofer") == 0) { puts("its own gofer"); return 0; }
    pthread_create(&thread, NULL, idle, NULL);
    if (argc > 1 && strcmp(argv[1], "again") == 0) { argv[1] = "exe"; return spawn("/proc/self/exe", argv + 1); }
    if (argc > 1 && strcmp(argv[1], "hold") == 0) { puts("waiting"); fflush(stdout); getchar(); }
    if (argc > 1 && strcmp(argv[1], "sandbox") == 0) return spawn("/bin/sh", shell);
    return spawn("/proc/self/exe", gofer);
}
"""


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture(scope="module")
def lookalike(one_file: Path) -> Path:
    path = one_file.with_name("lookalike")
    subprocess.run(["gcc", "-pthread", "-o", path, "-x", "c", "-"], input=LOOKALIKE, text=True, check=True)
    return path


def argv(one_file: Path, lookalike: Path, *words: str) -> "list[str]":
    return [str(one_file), "runsc", "--runsc", str(lookalike), "--", *words]


def run(command: Sequence[Any], **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM, **options)


class Waiting:
    """The lookalike, traced, in front of the fork that makes its gofer."""

    def __init__(self, command: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "waiting\n"
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        self.tracer = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("TracerPid:"))
        assert self.tracer > 1

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        wait_until(lambda: ended(self.tracer), "the tracer ends")


# The command line


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "--version",
        "--root=/r kill c",
        "--root run --log-format json --log /l delete c",  # as containerd has it; a state directory named "run"
        "--debug -rootless exec c sh",
        "-- wait c",
        "",
    ],
)
def test_commands_that_start_no_gofer_are_known(line: str) -> None:
    assert not starts_gofer(line.split())


@pytest.mark.parametrize(
    "line",
    [
        "run c",
        "--root=/r --debug create --bundle b c",
        "--root list run c",
        "--root /r start c",
        "do true",
        "restore c",
        "new-command list",
        "--new-flag list run",  # may be a flag with a value, and "run" the command
        "--new-flag list",
    ],
)
def test_whatever_may_start_a_gofer_is_traced(line: str) -> None:
    assert starts_gofer(line.split())


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


# Redirection


@pytest.mark.slow
@pytest.mark.parametrize("words", [["run"], ["again"], ["again", "again", "run"]])
def test_the_gofer_is_ours_also_where_runsc_runs_itself_again(
    one_file: Path, lookalike: Path, words: "list[str]"
) -> None:
    assert run(argv(one_file, lookalike, *words)).stdout == OURS
    assert run([lookalike, *words]).stdout == "its own gofer\n"


@pytest.mark.slow
def test_the_variable_with_our_path_goes_no_further_than_runsc(one_file: Path, lookalike: Path) -> None:
    assert run(argv(one_file, lookalike, "sandbox")).stdout == "0\n"


@pytest.mark.slow
def test_a_command_that_starts_no_gofer_is_not_traced(one_file: Path, lookalike: Path) -> None:
    assert run(argv(one_file, lookalike, "list")).stdout == "its own gofer\n"


@pytest.mark.slow
def test_another_user_redirects_too(one_file: Path, lookalike: Path) -> None:
    demote: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    assert run(argv(one_file, lookalike, "again"), **demote).stdout == OURS


@pytest.mark.slow
def test_the_process_becomes_runsc_with_signals_as_they_were(one_file: Path, lookalike: Path) -> None:
    with Waiting(argv(one_file, lookalike, "hold")) as waiting:
        pid = waiting.process.pid
        assert os.path.samefile(f"/proc/{pid}/exe", lookalike)
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert int(status["SigIgn"], 16) & (1 << 12 | 1 << 24) == 0, "SIGPIPE, SIGXFSZ: Python ignores them"
        assert os.path.basename(os.readlink(f"/proc/{waiting.tracer}/fd/0")) == "null"
        assert len(os.listdir(f"/proc/{waiting.tracer}/fd")) == 3, "the tracer holds nothing that runsc was given"
        out, _ = waiting.process.communicate("\n")
        assert out == OURS
        assert not pids_named(str(one_file))


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_killed_tracer_takes_runsc_with_it_before_it_has_started_its_own_gofer(
    one_file: Path, lookalike: Path
) -> None:
    with Waiting(argv(one_file, lookalike, "hold")) as waiting:
        os.kill(waiting.tracer, signal.SIGKILL)
        assert waiting.process.wait(PATIENCE) == -signal.SIGKILL
        assert waiting.process.stdout is not None and waiting.process.stdout.read() == ""


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
    hidden = spot / "hidden"
    hidden.mkdir(mode=0o700)
    shutil.copy(one_file, hidden / "gofer")
    done = run([hidden / "gofer", "runsc", "--check"])
    assert done.returncode == 0 and f"no: {hidden}/gofer must be readable by others" in done.stdout


@pytest.mark.slow
def test_a_gofer_that_cannot_be_executed_is_named(one_file: Path, lookalike: Path, spot: Path) -> None:
    broken = spot / "gofer"
    broken.write_text("#!/nowhere/python3\n")
    broken.chmod(0o755)
    done = run([one_file, "runsc", "--gofer", broken, "--runsc", lookalike, "--", "run"])
    assert done.stdout == "" and f"{broken} cannot be run as the container's gofer: No such file" in done.stderr
