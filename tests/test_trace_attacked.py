"""With all that looks on turned on, a server is what it is without: it conforms, and withstands what is done to it."""

import json
from pathlib import Path

import pytest
from conftest import Start
from hosts import run

pytestmark = pytest.mark.slow

ALL = ("--host-uds=all", "--host-fifo=open", "--xattrs=all")


def test_a_server_that_is_looked_at_conforms_under_attack(start: Start, spot: Path) -> None:
    (spot / "tree").mkdir()
    looking = (f"--trace-out={spot / 'trace'}", "--trace=errors", f"--control={spot / 'control'}", "--slow=0.2")
    server = start(*looking, *ALL, tree=spot / "tree")
    done = run("conform", "--json", "--level=safety", "--tree", str(spot / "tree"), str(server.path))
    assert done.returncode == 0, done.stdout[-3000:]
    report = json.loads(done.stdout)
    assert report, "cases were tried"
    told = json.loads(run("top", "--json", str(spot / "control")).stdout)
    assert told["silent_workers"] == 0 and sum(row["count"] for row in told["messages"].values()) > 500
    assert run("replay", str(spot / "trace"), "--summary").returncode == 0
