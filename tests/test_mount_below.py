"""Who goes through directories one after the other has the next one asked for while he looks at the last."""

import os
import time
from pathlib import Path
from typing import Callable

import pytest
from conftest import Start
from hosts import Server, wait_until
from mounting import Mount, mount
from test_mount_dirs import messages

pytestmark = pytest.mark.slow
NAMES = [f"d{number}" for number in range(12)]  # by name: d0, d1, d10, d11, d2 ...
FILES = 5


@pytest.fixture
def many(start: Start, spot: Path) -> Server:
    """The directories are made in an order that no file system lists by name."""
    for name in (*NAMES[1::2], *NAMES[::2]):
        (spot / "tree" / name).mkdir(parents=True)
        for number in range(FILES):
            (spot / "tree" / name / f"{number}").write_text("old")
    return start(f"--control={spot / 'control'}", tree=spot / "tree")


def look(there: Mount, name: str) -> None:
    for number in range(FILES):
        assert os.stat(there.path / name / f"{number}").st_size == 3


def quickly(server: Server, work: Callable[[Mount], None]) -> int:
    """How many directories the server was asked for by that, done within the second that what was read is good for."""
    for _ in range(50):
        with mount(server) as there:
            before = messages(server, server.tree.parent / "control")["DirWalk"]
            began = time.monotonic()
            work(there)
            took = time.monotonic() - began
            if took < 0.5:
                return messages(server, server.tree.parent / "control")["DirWalk"] - before
    raise AssertionError(f"never done in time: {took:.1f} s")


def test_by_name(many: Server) -> None:
    def work(there: Mount) -> None:
        for name in sorted(NAMES)[:8]:
            look(there, name)

    asked = quickly(many, work)
    # Their parent, these, and the one that comes next; and one more where the file system happens to list two in this order.
    assert 1 + 8 + 1 <= asked <= 1 + 8 + 2


def test_as_they_are_listed(many: Server) -> None:
    def work(there: Mount) -> None:
        for at, _, files in os.walk(there.path):
            for name in files:
                os.stat(os.path.join(at, name))

    assert quickly(many, work) == 1 + len(NAMES)


def test_in_no_order(many: Server) -> None:
    def work(there: Mount) -> None:
        order = sorted(NAMES)
        for name in (order[0], order[7], order[2], order[9], order[4], order[11]):
            look(there, name)

    assert quickly(many, work) == 1 + 6


def test_what_is_done_in_one_meanwhile_is_seen(many: Server) -> None:
    order = sorted(NAMES)
    with mount(many) as there:
        for name in order[:6]:
            look(there, name)
        place = there.path / order[6]
        (place / "new").touch()
        os.unlink(place / "0")
        (place / "1").write_text("longer")
        assert not (place / "0").exists() and (place / "new").exists()
        assert [(place / f"{number}").stat().st_size for number in range(1, FILES)] == [6, 3, 3, 3]
        os.rename(there.path / order[7], there.path / "elsewhere")
        os.rename(there.path / order[8], there.path / order[7])
        look(there, order[7])
        look(there, "elsewhere")
        assert not (there.path / order[8]).exists()


def test_what_nobody_wants_is_closed_again(many: Server) -> None:
    for name in NAMES:
        for number in range(300):
            (many.tree / name / f"{number}").write_text("old")
    with mount(many) as there:
        before = len(many.open_fds())
        for name in sorted(NAMES)[:6]:
            look(there, name)
        # Control FDs are held: of each that was looked into, and of what was looked up in the first two.
        wait_until(lambda: len(many.open_fds()) <= before + 6 + 4, lambda: f"closed: {before}, {many.open_fds()}")
