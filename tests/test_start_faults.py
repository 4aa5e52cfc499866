"""Every system call and every import of a start fails once: it ends in one line and status 1, or the server serves; in
either case nothing is left behind.

What a start calls is listed by tests/faults.c, which then makes one of the calls fail. It waits for every process that came
of the start: when it has ended, none is left.
"""

import contextlib
import errno
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from hosts import CALM, CHECKOUT
from prison import PYTHON, USER, as_user

from gofer.jail import callnames

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="tests/faults.c knows the registers of x86_64 only"
)

NAMES = callnames.names("x86_64")
NUMBERS = {name: number for number, name in NAMES.items()}
# The manual pages know no error of these, or none but of wrong arguments.
CANNOT_FAIL = set(
    "getpid getppid gettid getuid geteuid getgid getegid getpgrp umask exit exit_group rt_sigreturn restart_syscall"
    " sched_yield brk arch_prctl set_tid_address set_robust_list rseq futex sigaltstack wait4".split()
)
LIKELY = {
    **dict.fromkeys("open openat socket pipe2 dup fcntl memfd_create epoll_create1 signalfd4".split(), "EMFILE"),
    **dict.fromkeys("mmap mprotect munmap".split(), "ENOMEM"),
    **dict.fromkeys("fork vfork clone clone3".split(), "EAGAIN"),
    **dict.fromkeys("mkdir mkdirat bind unshare epoll_ctl rename renameat2".split(), "ENOSPC"),
    **dict.fromkeys("read write close fstat getdents64 lseek pread64".split(), "EIO"),
    **dict.fromkeys("seccomp mount umount2 pivot_root mount_setattr".split(), "EINVAL"),
}
FOR_WHOM = ("root", "root without a jail", "user")


class Call(NamedTuple):
    process: int
    number: int
    name: str


class Case:
    """A start to be repeated: `gofer serve TREE --socket PLACE/s -- true`, with two workers."""

    def __init__(self, faults: Path, spot: Path, command: Sequence[str], options: Sequence[str], user: int) -> None:
        self.argv = [str(faults), *("{log}", "{process}", "{number}", "{call}", "{error}", "gofer/cli.py"), *command]
        self.argv += [
            "serve",
            str(spot / "tree"),
            "--socket",
            "{place}/s",
            "--workers=2",
            "--quiet",
            *options,
            "--",
            "/bin/true",
        ]
        self.spot, self.user = spot, user

    def calls(self) -> list[Call]:
        hit, trouble = self.run(Call(-1, 0, ""), 0)
        assert not trouble, trouble
        return [call for call in hit if call.name not in CANNOT_FAIL]

    def trouble(self, call: Call) -> str:
        """What went wrong with the start in which this call failed; "" if nothing did."""
        hit, trouble = self.run(call, getattr(errno, LIKELY.get(call.name, "EPERM")))
        if not hit or not trouble:  # processes race: there may be none any more
            return ""
        return f"{hit[0]} failed ({LIKELY.get(call.name, 'EPERM')}): {trouble}"

    def run(self, call: Call, error: int) -> tuple[list[Call], str]:
        with tempfile.TemporaryDirectory(dir=self.spot) as folder:
            log, place = Path(folder) / "log", Path(folder) / "place"
            place.mkdir()
            if self.user:
                for path in (Path(folder), place):
                    os.chown(path, self.user, self.user)
            values = {"log": log, "place": place, "process": call.process, "number": call.number, "error": error}
            values["call"] = NUMBERS.get(call.name, -1)
            argv = [word.format(**values) for word in self.argv]
            identity = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
            environment = {"PATH": os.environ["PATH"], "TMPDIR": str(place)}
            done = subprocess.run(  # type: ignore[call-overload]
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                cwd="/",
                env=environment,
                timeout=CALM,
                **identity,
            )
            hits = [line.split() for line in log.read_text().splitlines()]
            hit = [Call(int(process), int(number), NAMES.get(int(name), name)) for process, number, name in hits]
            return hit, _judge(done, os.listdir(place), hit[0].name if hit else "")


def _judge(done: "subprocess.CompletedProcess[str]", left: list[str], call: str) -> str:
    said = [line for line in done.stderr.splitlines() if "jail: missing: " not in line]
    if left and not (
        call in ("unlinkat", "rmdir") or (call == "newfstatat" and left == ["s"])
    ):  # it could not be removed
        return f"left {left}: {done.stderr}"
    if call == "newfstatat" and "AttributeError: module" in done.stderr:  # a package without its own file, to importlib
        return ""
    if call == "write" and "wakeup fd" in done.stderr:  # Python's own word on its signal handler's pipe
        return ""
    if done.returncode == 0 and not said:
        return ""
    if done.returncode == 1 and (call == "write" or (len(said) == 1 and said[0].startswith("gofer: "))):
        return ""
    return f"status {done.returncode}: {done.stderr}"


@pytest.fixture(scope="module")
def faults() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    os.chmod(folder, 0o755)
    source = CHECKOUT / "tests/faults.c"
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-o", folder / "faults", source], check=True)
    yield folder / "faults"
    shutil.rmtree(folder)


@pytest.fixture
def case(request: pytest.FixtureRequest, faults: Path, spot: Path) -> Iterator[Case]:
    (spot / "tree").mkdir()
    if request.param == "user":
        os.chown(spot / "tree", USER, USER)
        with as_user(USER) as (command, _):
            yield Case(faults, spot, command, (), USER)
    else:
        command = [sys.executable, "-BIS", str(CHECKOUT)]
        yield Case(faults, spot, command, ["--jail=off"] if "without" in request.param else [], 0)


def check(case: Case, calls: Sequence[Call]) -> None:
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        assert [trouble for trouble in pool.map(case.trouble, calls) if trouble] == []


@pytest.mark.parametrize("case", FOR_WHOM, indirect=True)
def test_a_start_in_which_one_of_some_calls_fails_ends_in_one_line_or_serves(case: Case) -> None:
    """A sample: of each name one, and of these some. The next test tries more."""
    by_name = {call.name: call for call in reversed(case.calls())}
    check(case, random.Random(1).sample(sorted(by_name.values()), 16))


@pytest.mark.slow
@pytest.mark.parametrize("case", FOR_WHOM, indirect=True)
def test_a_start_in_which_any_call_fails_ends_in_one_line_or_serves(case: Case) -> None:
    """All, but of what one process calls more often than five times five: importing is the same calls for each module."""
    kinds: dict[tuple[int, str], list[Call]] = {}
    for call in case.calls():
        kinds.setdefault((call.process, call.name), []).append(call)
    assert len(kinds) > 60
    check(case, [call for calls in kinds.values() for call in calls[:: -(-len(calls) // 5)]])


# Fails what it is told to; the rest is as if the program had been started from the command line.
WITHOUT = """
import sys
missing, *sys.argv = sys.argv[1:]
class Without:
    def find_spec(self, name, path=None, target=None):
        if name == missing:
            raise ImportError(f"No module named {name!r}")
sys.meta_path.insert(0, Without())
sys.path.insert(0, sys.argv[0])
exec(open(sys.argv[0] + "/__main__.py").read())
"""


@pytest.mark.slow
def test_a_start_in_which_any_import_fails_ends_in_one_line(spot: Path) -> None:
    (spot / "tree").mkdir()
    command = [str(CHECKOUT), "serve", str(spot / "tree"), "--socket", str(spot / "s"), "--quiet", "--log-format=json"]
    command += ["--allow-uid=root", "--group=root", "--", "/bin/true"]

    def modules(*options: str) -> list[str]:
        listed = subprocess.run([PYTHON, "-BIS", *options], capture_output=True, text=True, check=True)
        return [
            line.rpartition("|")[2].strip() for line in listed.stderr.splitlines() if line.startswith("import time:")
        ]

    before = set(modules("-Ximporttime", "-c", "pass"))
    loaded = [name for name in modules("-Ximporttime", *command) if name not in before and name != "imported package"]
    assert {"_ctypes", "resource", "subprocess", "gofer.commands.serve", "gofer.jail.enter"} <= set(loaded)

    def without(name: str) -> str:
        argv = [PYTHON, "-BISc", WITHOUT, name, *command]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM)
        lines = done.stderr.splitlines()
        told = done.returncode == 1 and len(lines) == 1 and lines[0].startswith("gofer: ")
        return "" if told or (done.returncode, lines) == (0, []) else f"{name}: {done.returncode}: {done.stderr}"

    # One start after the other where each needs the same socket.
    assert [trouble for trouble in map(without, loaded) if trouble] == []
    assert os.listdir(spot) == ["tree"]


@pytest.mark.parametrize("megabytes", [40, 60, 90])
def test_a_start_without_enough_memory_ends_in_one_line_or_serves(megabytes: int, spot: Path) -> None:
    (spot / "tree").mkdir()
    argv = [sys.executable, "-BIS", str(CHECKOUT), "serve", str(spot / "tree"), "--socket", str(spot / "s"), "--quiet"]
    command = ["prlimit", f"--as={megabytes << 20}", *argv, "--", "/bin/true"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM)
    assert not _judge(done, [name for name in os.listdir(spot) if name != "tree"], "")
    with contextlib.suppress(FileNotFoundError):
        assert not (spot / "s").exists()
