"""The linters. Their settings are in pyproject.toml."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import CHECKOUT

pytestmark = pytest.mark.slow


def ours() -> list[Path]:
    """Every file of the project, whether committed yet or not."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(listed, cwd=CHECKOUT, stdout=subprocess.PIPE, check=True, text=True)
    return [CHECKOUT / name for name in run.stdout.split("\0") if name and (CHECKOUT / name).is_file()]


def is_shell(path: Path) -> bool:
    return path.suffix == ".sh" or bool(re.match(rb"#!.*\b(ba|da)?sh\n", path.read_bytes()))


def finds_nothing(*argv: "str | Path") -> None:
    run = subprocess.run(argv, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.returncode == 0, run.stdout


def test_how_long_a_thing_may_take_is_said_once_for_all_tests() -> None:
    """A limit of a test's own is too short on some machine: there are PATIENCE and CALM, and pytest's own in pyproject.toml."""
    own = re.compile(r"(?<!-)timeout=\d|mark\.timeout\((?!0)|\.wait\([1-9]|settimeout\(\d|patience=\d|\[\], [1-9]\d*\)")
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted((CHECKOUT / "tests").glob("*.py"))
        for line in path.read_text().splitlines()
        if own.search(line)
    ]
    assert found == []


def test_ruff_finds_nothing() -> None:
    programs = [path for path in ours() if not path.suffix and b"python3\n" in path.read_bytes()[:30]]
    finds_nothing(sys.executable, "-m", "ruff", "check", "--output-format=concise", ".", *programs)


@pytest.mark.parametrize("version", ["3.9", "3.15"])
def test_mypy_finds_nothing_in_the_oldest_and_the_newest_python(version: str) -> None:
    finds_nothing(sys.executable, "-m", "mypy", "--strict", "--python-version", version, "--cache-dir=/dev/null")


def test_shellcheck_finds_nothing() -> None:
    scripts = [path for path in ours() if is_shell(path)]
    assert CHECKOUT / "build.sh" in scripts and CHECKOUT / ".ci/run" in scripts
    finds_nothing("shellcheck", "--", *scripts)


def test_no_file_has_the_marks_of_a_conflict() -> None:
    """In a text, as a table in a test is, nothing else would notice."""
    marks = re.compile(rb"^(<{7}|>{7}) \S", re.M)
    assert [path for path in ours() if marks.search(path.read_bytes())] == []
