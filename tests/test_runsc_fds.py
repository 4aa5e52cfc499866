"""A sandbox is one client: its connections have one fd limit between them, as with runsc's own gofer, which runs beside ours."""

import json
import os
import resource
from pathlib import Path

import pytest
from runsc import Runsc, bind, bundle, one_file_gofer

pytestmark = pytest.mark.slow

LIMIT = (
    4096  # of each bind a sandbox keeps a thousand files it has closed, with two fds each: the rest must do for a walk
)
FILES = 2000  # of each bind: more than can be held open for reading and for writing

WALK_BOTH = r"""
import json, os
def walk(top):
    "How many files below top can be read, each opened for itself."
    count = 0
    for folder, _, names in os.walk(top):
        for name in names:
            try:
                with open(os.path.join(folder, name)) as file:
                    count += file.read() == "x"
            except OSError:
                pass
    return count
print(json.dumps([walk("/first"), walk("/second")]))
"""

HOLD_AND_WALK = (
    WALK_BOTH.rpartition("\n")[0].rpartition("\n")[0]
    + r"""
held = []
try:
    for folder, _, names in os.walk("/first"):
        for name in names:
            held.append(open(os.path.join(folder, name)))
            held.append(open(os.path.join(folder, name), "r+"))
except OSError:
    pass
count = len(held)
for file in held:
    file.close()
print(json.dumps([count, walk("/second")]))
"""
)


@pytest.fixture
def trees(spot: Path) -> "list[Path]":
    for name in ("first", "second"):
        for i in range(FILES):
            path = spot / name / f"{i % 20}" / f"{i}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("x")
    return [spot / "first", spot / "second"]


def said(spot: Path, gofer: "Path | None", script: str, trees: "list[Path]") -> "list[int]":
    """What the script prints in a container whose gofer may have LIMIT fds."""
    place = spot / ("ours" if gofer else "own")
    place.mkdir()
    runsc = Runsc(place, gofer)
    mounts = [bind("/usr", "/usr", "rbind", "ro"), *(bind(f"/{tree.name}", str(tree), "rw") for tree in trees)]
    args = ["/usr/bin/python3", "-IS", "-c", script]
    process = {"args": args, "cwd": "/", "env": ["PATH=/bin:/usr/bin"], "user": {"uid": 0, "gid": 0}}
    bundle(place / "b", "", *mounts, process=process)
    for library in ("lib", "lib64"):
        (place / "b/rootfs" / library).symlink_to(f"usr/{library}")
    limit = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT, LIMIT))  # noqa: E731
    done = runsc.run("run", f"--bundle={place}/b", f"fds-{place.name}-{os.getpid()}", preexec_fn=limit)
    assert gofer is None or runsc.served_by_us() == 1
    numbers: list[int] = json.loads(done.stdout)
    return numbers


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.mark.parametrize("script", [WALK_BOTH, HOLD_AND_WALK], ids=["two walks", "all fds held, then a walk"])
def test_what_one_connection_holds_takes_no_more_from_another_than_with_the_own_gofer(
    spot: Path, one_file: Path, trees: "list[Path]", script: str
) -> None:
    own, ours = (said(spot, gofer, script, trees) for gofer in (None, one_file))
    assert all(our >= their * 0.95 for our, their in zip(ours, own)), f"own {own}, ours {ours}"
