"""`gofer get` and `gofer put`: what arrives is what was there, all of it or nothing of a file."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from copies import differences, fill, look, parts
from hosts import CALM, GOFER

WITHOUT_FDS = pytest.mark.serve("--donate", "no")
PRIVILEGED = pytest.mark.serve("--xattrs", "all")


def done(*argv: object, status: int = 0) -> "subprocess.CompletedProcess[bytes]":
    """Quiet, unless something is told."""
    words = [*GOFER, *map(str, argv), "-q"]
    result = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL, timeout=CALM)
    assert result.returncode == status and (status or not result.stderr), result
    return result


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory beside what is served."""
    path = Path(tempfile.mkdtemp(prefix="place-"))
    yield path
    shutil.rmtree(path)


def equal(one: Path, other: Path) -> None:
    assert differences(look(one), look(other)) == []


@pytest.fixture(params=["fds", "messages"])
def way(request: pytest.FixtureRequest) -> str:
    """Over donated fds, or all over the socket."""
    return str(request.param)


def options(way: str) -> "tuple[str, ...]":
    return () if way == "fds" else ("--donate", "no")


def test_a_tree_arrives_whole_and_again_at_the_server(start: Start, spot: Path, place: Path, way: str) -> None:
    fill(spot)
    server = start(*options(way))
    here, there = place / "here", spot / "again"
    done("get", "-r", f"{server.path}:/.", here)
    equal(spot, here)
    assert (here / "sparse").stat().st_blocks * 512 < 1 << 20 and (here / "end").stat().st_blocks * 512 < 1 << 20
    done("put", "-r", here, f"{server.path}:/again")
    equal(here, there)
    assert (there / "hole").stat().st_blocks == 0 and not parts(place) and not parts(spot)
