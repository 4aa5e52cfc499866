"""Who goes through directories one after the other has the next one asked for while he looks at the last."""

import errno
import os
import signal
import time
from pathlib import Path

import pytest
from hosts import Server, wait_until
from mounting import Mount, mount, takes

pytestmark = pytest.mark.slow
NAMES = [f"d{number}" for number in range(12)]  # by name: d0, d1, d10, d11, d2 ...
FILES = 5


@pytest.fixture
def many(told: tuple[Server, Path]) -> tuple[Server, Path]:
    """The directories are made in an order that no file system lists by name."""
    for name in (*NAMES[1::2], *NAMES[::2]):
        (told[0].tree / name).mkdir()
        for number in range(FILES):
            (told[0].tree / name / f"{number}").write_text("old")
    return told


def look(there: Mount, name: str) -> None:
    for number in range(FILES):
        assert os.stat(there.path / name / f"{number}").st_size == 3


def test_by_name(many: tuple[Server, Path]) -> None:
    def work(there: Mount) -> None:
        for name in sorted(NAMES)[:8]:
            look(there, name)

    # Their parent, these, and the one that comes next; and one more where the file system happens to list two in this order.
    takes(*many, work, lambda sent: 1 + 8 + 1 <= sent["DirWalk"] <= 1 + 8 + 2)


def test_as_they_are_listed(many: tuple[Server, Path]) -> None:
    def work(there: Mount) -> None:
        for at, _, files in os.walk(there.path):
            for name in files:
                os.stat(os.path.join(at, name))

    takes(*many, work, lambda sent: sent["DirWalk"] == 1 + len(NAMES))


def test_in_no_order(many: tuple[Server, Path]) -> None:
    def work(there: Mount) -> None:
        order = sorted(NAMES)
        for name in (order[0], order[7], order[2], order[9], order[4], order[11]):
            look(there, name)

    takes(*many, work, lambda sent: sent["DirWalk"] == 1 + 6)


def test_what_is_done_in_one_meanwhile_is_seen(many: tuple[Server, Path]) -> None:
    order = sorted(NAMES)
    with mount(many[0]) as there:
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


def test_what_nobody_wants_is_closed_again(many: tuple[Server, Path]) -> None:
    server, _ = many
    for name in NAMES:
        for number in range(300):
            (server.tree / name / f"{number}").write_text("old")
    with mount(server) as there:
        before = len(server.open_fds())
        for name in sorted(NAMES)[:6]:
            look(there, name)
        # Control FDs are held: of each that was looked into, and of what was looked up in the first two.
        wait_until(lambda: len(server.open_fds()) <= before + 6 + 4, lambda: f"closed: {before}, {server.open_fds()}")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_ends_meanwhile_is_told_and_the_mount_ends_in_order(many: tuple[Server, Path], number: int) -> None:
    """What was asked for ahead is of no use to anybody, and who sees to it that all is answered goes on doing so."""
    server, _ = many
    with mount(server) as there:
        for name in sorted(NAMES)[:6]:
            look(there, name)
        os.kill(server.process.pid, number)

        def told() -> bool:
            try:
                os.stat(there.path / "d9/0")
            except OSError as error:
                return error.errno == errno.ENOTCONN
            return False

        wait_until(told, "it is told")
        time.sleep(1.2)  # what was asked for ahead is old by then, and given up
        assert there.said() == ""
