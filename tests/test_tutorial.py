"""docs/tutorial.md, line by line. Building is what `one_file_gofer` has done, by the same ./build.sh."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hosts import CALM, CHECKOUT
from runsc import one_file_gofer

pytestmark = pytest.mark.slow
TUTORIAL = (CHECKOUT / "docs/tutorial.md").read_text()
BUILD = ["./build.sh", "install dist/gofer /usr/local/bin/gofer"]


def steps() -> "list[tuple[str, str]]":
    """Each command, and what is to come of it."""
    found: list[tuple[str, str]] = []
    for line in TUTORIAL.splitlines():
        if line.startswith("    $ "):
            found.append((line[6:], ""))
        elif line.startswith("    "):
            command, output = found[-1]
            found[-1] = command, f"{output}{line[4:]}\n"
    return found


def as_pattern(expected: str) -> "re.Pattern[str]":
    """`...` is anything, on a line of its own any lines."""
    lines = [re.escape(line).replace(re.escape("..."), ".*?") + "\n" for line in expected.splitlines()]
    text = "".join("(?:.*\n)*?" if line == ".*?\n" else line for line in lines)
    return re.compile(text.replace(re.escape("with: gofer"), r"with:\ \S*gofer"))


@pytest.fixture(scope="module")
def program() -> Path:
    return one_file_gofer()  # made before a test's own files are counted


@pytest.fixture
def place(program: Path, spot: Path) -> Path:
    """A directory, with the program that was built on PATH."""
    (spot / "bin").mkdir()
    shutil.copy(program, spot / "bin/gofer")
    (spot / "work").mkdir()
    return spot


def test_every_line_does_what_the_page_says(place: Path) -> None:
    """One shell runs all of them; between two, it says which is next, and the status of the last."""
    todo = steps()
    assert [command for command, _ in todo[: len(BUILD)]] == BUILD and len(todo) > 25
    todo = todo[len(BUILD) :]
    mark = "--- step"
    script = "".join(f"{command}\necho '{mark}' {number} $?\n" for number, (command, _) in enumerate(todo))
    env = {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "TMPDIR": os.environ["TMPDIR"], "LC_ALL": "C.UTF-8"}
    try:
        how = {"cwd": place / "work", "env": env, "capture_output": True, "text": True, "timeout": CALM}
        done = subprocess.run(["bash"], input=f"set -m; exec 2>&1\n{script}", **how)
    finally:
        subprocess.run(["umount", "-l", place / "work/mnt"], capture_output=True)
    parts = re.split(rf"^{mark} \d+ (\d+)\n", done.stdout, flags=re.M)
    assert len(parts) == 2 * len(todo) + 1, done
    for number, (command, expected) in enumerate(todo):
        said, status = parts[2 * number], int(parts[2 * number + 1])
        assert as_pattern(expected).fullmatch(said), f"{command}: {said!r} is not {expected!r}"
        assert status == 0 or expected.startswith("gofer: "), f"{command}: exit status {status}"
