"""Large files that two threads copy: what arrives is right, whatever fails, and nothing stays behind."""

import os
import random
import subprocess
import threading
from collections.abc import Iterator
from errno import EFAULT, EIO, EMFILE, ENOSPC
from pathlib import Path

import pytest
from conftest import Start
from copies import BY_TWO
from disks import tmpfs
from hosts import CALM, PATIENCE

from gofer.copy import data, pair
from gofer.copy.local import LocalFile, local_stat
from gofer.copy.names import part_name

SIZE = 3_500_001
DATA = random.Random(1).getrandbits(8 * SIZE).to_bytes(SIZE, "little")


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where every file is large, and a processor idle."""
    monkeypatch.setattr(pair, "WINDOW", 1 << 20)
    monkeypatch.setattr(pair, "_PIECE", 1 << 16)
    monkeypatch.setattr(pair, "_idle", lambda: True)
    with tmpfs("6M") as place:
        yield place


def files(place: Path, there: bytes = b"") -> "tuple[LocalFile, LocalFile]":
    (place.parent / "source").write_bytes(DATA)
    (place / "target").write_bytes(there)
    try:
        reader = LocalFile(os.open(place.parent / "source", os.O_RDONLY))
    finally:
        (place.parent / "source").unlink()
    return reader, LocalFile(os.open(place / "target", os.O_RDWR), True)


@pytest.mark.parametrize("start", [0, 1, 65536, (1 << 20) - 1, 1 << 20, 3_000_003, SIZE - 1])
def test_both_threads_copy_and_what_arrives_is_whole(disk: Path, monkeypatch: pytest.MonkeyPatch, start: int) -> None:
    begun, read, span = threading.Event(), pair._read, data._span

    def second(*args: int) -> None:
        begun.set()
        read(*args)

    def first(source: int, target: int, moved: "data.Moved", at: int, end: int) -> None:
        if end % (1 << 20) and end < SIZE:  # there is a piece of this window left
            assert begun.wait(PATIENCE)
        span(source, target, moved, at, end)

    monkeypatch.setattr(pair, "_read", second)
    monkeypatch.setattr(data, "_span", first)
    reader, writer = files(disk, DATA[:start])
    moved: list[int] = []
    data.copy(reader, writer, moved.append, start)
    assert (disk / "target").read_bytes() == DATA and sum(moved) == SIZE - start
    assert (disk / "target").stat().st_blocks * 512 >= SIZE


def test_what_the_second_cannot_the_first_does(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def second(*_: int) -> None:
        raise OSError(EFAULT, os.strerror(EFAULT))

    monkeypatch.setattr(pair, "_read", second)
    reader, writer = files(disk)
    data.copy(reader, writer, lambda _: None)
    assert (disk / "target").read_bytes() == DATA


@pytest.mark.parametrize("why", ["threads", "fds"])
def test_where_no_second_can_be_the_first_is_alone(disk: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread") if why == "threads" else OSError(EMFILE, os.strerror(EMFILE))

    reader, writer = files(disk)
    monkeypatch.setattr(*((pair, "start_new_thread") if why == "threads" else (os, "dup")), none)
    data.copy(reader, writer, lambda _: None)
    assert (disk / "target").read_bytes() == DATA


def test_a_full_file_system_is_told_by_its_name(disk: Path) -> None:
    (disk / "full").write_bytes(bytes(4 << 20))
    reader, writer = files(disk)
    with pytest.raises(OSError) as told:
        data.copy(reader, writer, lambda _: None)
    assert told.value.errno == ENOSPC


def test_a_file_that_ends_meanwhile_is_told(disk: Path) -> None:
    reader, writer = files(disk)
    reader.size += 1_000_000
    with pytest.raises(OSError) as told:
        data.copy(reader, writer, lambda _: None)
    assert told.value.errno == EIO and told.value.strerror == data.SHORT


def test_an_interruption_waits_for_the_second_and_what_is_there_is_whole_but_for_the_last_window(disk: Path) -> None:
    count = 0

    def moved(_: int) -> None:
        nonlocal count
        count += 1
        if (disk / "target").stat().st_size > 2 << 20:
            raise KeyboardInterrupt

    reader, writer = files(disk)
    with pytest.raises(KeyboardInterrupt):
        data.copy(reader, writer, moved)
    assert threading.active_count() == 1
    size = (disk / "target").stat().st_size
    assert size == 3 << 20 and pair.whole(size, SIZE) == 2 << 20
    assert (disk / "target").read_bytes()[: 2 << 20] == DATA[: 2 << 20]


def test_how_much_of_a_part_can_be_whole(disk: Path) -> None:
    for size, of, whole in (
        (0, SIZE, 0), (5000, SIZE, 5000), (1 << 20, SIZE, 0), (2 << 20, SIZE, 1 << 20), ((2 << 20) + 1, SIZE, (2 << 20) + 1),
        (SIZE, SIZE, 3 << 20), (3 << 20, 3 << 20, 2 << 20), (1000, 1000, 1000),
    ):  # fmt: skip
        assert pair.whole(size, of) == whole


@pytest.mark.parametrize("donate", ["yes", "no"])
@pytest.mark.parametrize("way", ["get", "put"])
def test_what_was_left_of_a_window_is_not_gone_on_with(start: Start, spot: Path, place: Path, way: str, donate: str) -> None:
    """Its end may be there, and what is before it not. In the command's program a window has 4 MiB."""
    data = DATA * 3
    source, target = (spot, place) if way == "get" else (place, spot)
    (source / "f").write_bytes(data)
    part = target / os.fsdecode(part_name(b"f", local_stat(os.stat(source / "f"))))
    part.write_bytes(data[: 5 << 20] + bytes(1 << 20) + data[6 << 20 : 8 << 20])
    part.chmod(0o600)
    server = start("--donate", donate)
    words = [f"{server.path}:/f", str(place)] if way == "get" else [str(place / "f"), f"{server.path}:/"]
    done = subprocess.run([*BY_TWO, way, "--resume", "-q", *words], timeout=CALM)
    assert done.returncode == 0 and (target / "f").read_bytes() == data and not part.exists()


def test_a_second_thread_is_for_a_processor_that_is_idle_and_for_tmpfs(disk: Path, spot: Path) -> None:
    with open(disk / "f", "w") as here, open("/proc/version") as there:
        assert pair.worth(here.fileno(), 1 << 20) and not pair.worth(here.fileno(), 1000)
        assert not pair.worth(there.fileno(), 1 << 20)
