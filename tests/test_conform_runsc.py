"""gVisor's own servers, Debian's of 2022 and of 2024, asked by `gofer conform`: their known faults, and no other."""

import subprocess
import sys

import pytest
from hosts import CALM, CHECKOUT, GOFER

pytestmark = pytest.mark.slow
WAYS = ("socket", "channel")


def judge(year: str, way: str) -> "subprocess.Popen[str]":
    known = CHECKOUT / f"docs/conformance/runsc-{year}.known"
    argv = [*GOFER, "conform", f"--way={way}", f"--known={known}", "--timeout=40", "--connections=2"]
    server = [sys.executable, str(CHECKOUT / "tests/runsc_alone.py"), year, "DIR", "2"]
    pipe = subprocess.PIPE
    return subprocess.Popen([*argv, "--", *server], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)


def test_gvisors_servers_have_their_known_faults_and_no_other() -> None:
    """All at once, as they wait most of the time."""
    running = {(year, way): judge(year, way) for year in ("2022", "2024") for way in WAYS}
    told = {key: process.communicate(timeout=CALM) for key, process in running.items()}
    for key, (out, err) in told.items():
        failed = [line for line in out.splitlines() if line.startswith("not ok") and "# TODO" not in line]
        assert (failed, err) == ([], ""), key
        assert not [line for line in out.splitlines() if line.startswith("# no longer a fault")], out
        assert running[key].returncode == 0, key
