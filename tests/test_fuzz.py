"""The fuzz targets (fuzz/README.md): all seeds on every interpreter, and some thousand inputs that a fuzzer makes of them."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CALM, PATIENCE

FUZZ = Path(__file__).resolve().parent / "fuzz"
KINDS = ("socket", "channel")
RUNS = 3000  # a number, not a time: how many a busy machine gets through in some seconds, nobody knows


def run(*argv: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=CALM)


@pytest.fixture(scope="module")
def seeds() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="seeds-"))
    made = run(FUZZ / "seeds.py", place)
    assert made.returncode == 0, made.stderr
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize("kind", KINDS)
def test_all_seeds_keep_the_invariant(seeds: Path, kind: str) -> None:
    files = sorted((seeds / kind).iterdir())
    assert len(files) == 29
    done = run(FUZZ / "replay.py", kind, *files)
    assert (done.returncode, done.stdout) == (0, "29 inputs, all well\n"), done.stderr


# What is put in the place of PRead's handler, and what the target has to say of it.
FAULTS = {
    "a fault": ("raise TypeError", "EREMOTEIO"),
    "a leak": ("os.dup(0); return 0", "fds are open|the reply ends early"),
    "a wrong reply": ("return 5", "the reply ends early"),
    "an escape": ("open(inside.place + '/new', 'w').close(); return pread(comm, req, reply)", "outside the tree"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_invariant_would_see(seeds: Path, fault: str) -> None:
    body, said = FAULTS[fault]
    program = f"""
import sys, os
sys.path.insert(0, {str(FUZZ)!r})
import fuzz_socket
from inside import Inside
from gofer.server import dispatch
from gofer.handlers.data import pread
data = open(sys.argv[1], "rb").read()
inside = Inside()
def broken(comm, req, reply):
    {body}
dispatch.HANDLERS = tuple(broken if handler is pread else handler for handler in dispatch.HANDLERS)
fuzz_socket.one_input(inside, data)
fuzz_socket.one_input(inside, data)
"""
    done = run("-c", program, seeds / "socket/session")
    assert done.returncode != 0
    assert re.search(said, done.stderr), done.stderr
    for left in Path(tempfile.gettempdir()).glob("fuzz-*"):
        shutil.rmtree(left)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_fuzzer_finds_nothing_in_some_thousand_inputs(seeds: Path, kind: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        has_wheel = platform.machine() == "x86_64" and sys.version_info < (3, 15)
        assert not has_wheel, "tests/requirements.txt has atheris for this interpreter"
        here = f"CPython 3.{sys.version_info[1]} on {platform.machine()}"
        pytest.skip(f"atheris has no wheel for {here}; test_all_seeds_keep_the_invariant has run")
    corpus = seeds / f"{kind}-corpus"
    corpus.mkdir()
    limits = (f"-runs={RUNS}", "-max_len=16384", f"-timeout={int(PATIENCE)}", "-print_final_stats=1")
    done = run(FUZZ / f"fuzz_{kind}.py", corpus, seeds / kind, *limits, f"-artifact_prefix={os.environ['TMPDIR']}/")
    assert done.returncode == 0, done.stderr[-5000:]
    runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    coverage = re.findall(r"cov: (\d+)", done.stderr)
    assert runs and int(runs[1]) >= RUNS, done.stderr[-2000:]
    assert int(coverage[-1]) > 300, "the fuzzer sees what an input reaches"
    for left in Path(tempfile.gettempdir()).glob("fuzz-*"):
        shutil.rmtree(left)
