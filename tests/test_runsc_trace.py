"""`gofer runsc --trace-dir`: what a container asks of its gofer, and what its gofer is doing."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CALM, run, wait_until
from runsc import VARIANTS, Runsc, bind, bundle, container, one_file_gofer, pids_named
from tracelines import Line, parse

pytestmark = pytest.mark.slow

C = container("trace")


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture(params=VARIANTS[:2], ids=[variant.name for variant in VARIANTS[:2]])
def runsc(request: pytest.FixtureRequest, one_file: Path, spot: Path) -> Iterator[Runsc]:
    runsc = Runsc(spot, one_file, request.param)
    yield runsc
    wait_until(lambda: not pids_named(str(runsc.state)), "nothing of it runs any more")


def argv(runsc: Runsc, where: Path, *words: str) -> list[str]:
    made = runsc.argv(*words)
    at = made.index("--")
    return [*made[:at], f"--trace-dir={where}", *made[at:]]


def lines(trace: Path) -> list[Line]:
    return [line for line in map(parse, run("replay", str(trace)).stdout.splitlines()) if line]


def test_each_container_has_its_file(runsc: Runsc, spot: Path) -> None:
    for name in ("bundles", "data", "traces"):
        (spot / name).mkdir()
    (spot / "data/file").write_text("contents")
    made = bundle(spot / "bundles", "cat /data/file; ls /data/none", bind("/data", str(spot / "data")))
    where = spot / "traces"
    words = argv(runsc, where, "run", "--bundle", str(made), C)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM, cwd=spot)
    assert done.stdout == "contents", done
    (trace,) = where.glob("*.trace")
    found = lines(trace)
    if "directfs" in runsc.variant.name:  # then the sandbox opens files itself
        assert {line.message for line in found} >= {"Mount"}
    else:
        assert any(line.paths[-1:] == [b"/file"] for line in found if line.message in ("Walk", "WalkStat", "OpenAt"))
    again = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM, cwd=spot)
    assert again.stdout == "contents" and len([*where.glob("*.trace")]) == 2, "nobody's record is written over"
    assert len([*where.glob("*.control")]) <= 1, "of a gofer that has ended no socket stays"


def test_what_a_container_does_is_seen_while_it_runs(runsc: Runsc, spot: Path) -> None:
    for name in ("bundles", "traces"):
        (spot / name).mkdir()
    made = bundle(spot / "bundles", "echo ready; read line")
    words = argv(runsc, spot / "traces", "run", "--bundle", str(made), C)
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=spot) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        (control,) = (spot / "traces").glob("*.control")
        told = json.loads(run("top", "--json", str(control)).stdout)
        assert told["messages"]["Mount"]["count"] >= 1 and told["connections"]
        process.communicate("\n", timeout=CALM)
    assert process.returncode in (0, 1)


def test_a_directory_that_is_not_there_ends_the_start_in_one_line(runsc: Runsc, spot: Path) -> None:
    (spot / "bundles").mkdir()
    made = bundle(spot / "bundles", "true")
    words = argv(runsc, spot / "nowhere", "run", "--bundle", str(made), C)
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM, cwd=spot)
    assert done.returncode != 0
    assert "--trace-dir=" in runsc.gofer_log() or "--trace-dir=" in done.stderr
