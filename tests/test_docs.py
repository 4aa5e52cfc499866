"""What the pages say is run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start
from hosts import CHECKOUT

LIBRARY = (CHECKOUT / "docs/library.md").read_text()


def test_the_examples_of_the_library_run_one_after_the_other(start: Start, spot: Path) -> None:
    (spot / "hello.txt").write_text("hello\n")
    server = start()
    blocks = re.findall(r"^```python\n(.*?)^```$", LIBRARY, re.M | re.S)
    assert len(blocks) >= 6
    code = "\n".join([f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); path = {str(server.path)!r}", *blocks])
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    for said in ("b'hello\\n'", "[b'hello.txt']", "b'written through the server'", "No such file", "PRead", "nonexistent"):
        assert said in run.stdout, run.stdout


@pytest.mark.slow
def test_the_examples_of_the_library_are_typed(spot: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", LIBRARY, re.M | re.S)
    (spot / "examples.py").write_text("\n".join(["path = ''", *blocks]))
    argv = [sys.executable, "-m", "mypy", "--strict", "--cache-dir=/dev/null", spot / "examples.py"]
    run = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
