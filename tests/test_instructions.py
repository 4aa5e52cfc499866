"""The guard of the server's speed: instructions for each request, which are the same on a busy machine. See bench/README.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import CHECKOUT

pytestmark = pytest.mark.slow

COUNT = [sys.executable, str(CHECKOUT / "bench/instructions.py")]


def count(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COUNT, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("transport", ["channel", "socket"])
def test_no_request_takes_a_tenth_more_instructions_than_its_budget(transport: str) -> None:
    done = count(f"--transport={transport}")
    assert done.returncode == 0, done.stdout


def test_a_request_that_does_is_named_and_fails(spot: Path) -> None:
    budgets = json.loads((CHECKOUT / "bench/budget.json").read_text())
    for budget in budgets.values():
        budget["channel"]["FStat"] *= 0.8
    (spot / "budget.json").write_text(json.dumps(budgets))
    done = count("--transport=channel", "--ops=FStat,ReadLinkAt", f"--budget={spot / 'budget.json'}")
    assert done.returncode == 1, done.stdout
    assert "more than a tenth above budget: FStat over the channel\n" in done.stdout


def test_a_python_without_a_budget_is_an_error_that_says_what_to_do(spot: Path) -> None:
    done = count(f"--budget={spot / 'none.json'}")
    assert done.returncode == 1 and "--write would make one" in done.stdout
