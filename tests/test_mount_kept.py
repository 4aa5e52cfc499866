"""Directories that the kernel lists by itself (gofer/fuse/kept.py), and attributes that come with a listing: as they are now."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from conftest import Start
from hosts import Server, wait_until
from mounting import mount
from test_mount_dirs import messages

MANY = 3000  # names, of which a program reads some 800 at once


@pytest.fixture
def told(start: Start, spot: Path) -> Iterator[tuple[Server, Path]]:
    """A server that tells how often it was asked for what, and whom to ask for that."""
    (spot / "tree").mkdir()
    yield start(f"--control={spot}/control", tree=spot / "tree"), spot / "control"


def fill(tree: Path, many: int = MANY) -> set[str]:
    for i in range(many):
        os.mknod(tree / f"name-{i:05}")
    return {f"name-{i:05}" for i in range(many)}


def begun(path: Path, many: int) -> tuple["Iterator[os.DirEntry[str]]", list[str]]:
    """Somebody in the middle of a directory, and what he has seen."""
    reader = os.scandir(path)
    return reader, [next(reader).name for _ in range(many)]


def once_each(seen: list[str], lasting: set[str]) -> None:
    counted = Counter(name for name in seen if name in lasting)
    assert {name for name in lasting if counted[name] != 1} == set()


def test_a_small_directory_is_listed_by_one_message(told: tuple[Server, Path]) -> None:
    server, control = told
    for number in range(20):
        (server.tree / f"{number}").mkdir()
        fill(server.tree / f"{number}", 10)
    with mount(server) as there:
        before = messages(control)
        assert sum(len(files) for _, _, files in os.walk(there.path)) == 200
        sent = messages(control) - before
        assert sent["DirWalk"] == 21 and sum(sent.values()) < 30, sent


def test_a_directory_whose_name_came_with_a_listing_is_gone_into_by_one_message(told: tuple[Server, Path]) -> None:
    """No FD is held for it; its files may be what is wanted next."""
    server, control = told
    for number in range(10):
        (server.tree / f"{number}").mkdir()
        fill(server.tree / f"{number}", 5)
    with mount(server, "--cache=always") as there:
        os.listdir(there.path)
        before = messages(control)
        for number in range(10):
            assert os.stat(there.path / f"{number}/name-00003").st_size == 0
        sent = messages(control) - before
        assert sent["DirWalk"] == 10 and not sent["Walk"], sent


def test_a_directory_that_was_listed_is_listed_again_by_the_kernel(told: tuple[Server, Path]) -> None:
    server, control = told
    names = fill(server.tree)
    with mount(server, "--cache=always") as there:
        assert set(os.listdir(there.path)) == names
        before = messages(control)
        for _ in range(3):
            assert set(os.listdir(there.path)) == names
            assert all(entry.stat().st_size == 0 for entry in os.scandir(there.path))
        sent = messages(control) - before
        assert not sent["DirWalk"] + sent["DirStat"] + sent["OpenAt"] + sent["Walk"], sent
        (there.path / "new").touch()
        os.unlink(there.path / "name-00007")
        assert set(os.listdir(there.path)) == names - {"name-00007"} | {"new"}


def test_without_a_cache_a_directory_is_asked_for_each_time(told: tuple[Server, Path]) -> None:
    server, control = told
    fill(server.tree, 5)
    with mount(server, "--cache=none") as there:
        for number in range(3):
            os.mknod(server.tree / f"{number}")
            before = messages(control)
            assert f"{number}" in os.listdir(there.path)
            assert (messages(control) - before)["DirWalk"] == 1


@pytest.mark.parametrize("how", ["opened anew", "held open"])
def test_what_the_host_changes_is_listed_soon_whatever_the_directorys_time_says(server: Server, how: str) -> None:
    """Where times are coarse, two changes have the same."""
    fill(server.tree, 100)
    with mount(server) as there:
        held = os.open(there.path, os.O_RDONLY)
        for number in range(2):
            os.listdir(held if how == "held open" else there.path)
            before = os.stat(server.tree)
            os.mknod(server.tree / f"new-{number}")
            os.utime(server.tree, ns=(before.st_atime_ns, before.st_mtime_ns))
            seen = partial(os.listdir, held if how == "held open" else there.path)
            wait_until(lambda seen=seen, name=f"new-{number}": name in seen(), "it is listed")  # type: ignore[misc]
        os.close(held)


@pytest.mark.parametrize("first", ["listed before", "not listed before"])
@pytest.mark.parametrize("at", ["the mount", "the host"])
def test_who_is_in_the_middle_of_a_directory_gets_each_name_that_lasts_once(server: Server, first: str, at: str) -> None:
    """Also where the kernel's record of it is taken away, or made anew by another: plain numbers would be of another listing."""
    names = fill(server.tree)
    with mount(server, "--cache=always") as there:
        if first == "listed before":
            os.listdir(there.path)
        (reader, seen), (second, other) = begun(there.path, 500), begun(there.path, 1200)
        gone = set(seen[:400])
        for name in gone:
            os.unlink((server.tree if at == "the host" else there.path) / name)
        third, another = begun(there.path, 100)
        if at == "the mount":
            assert set(os.listdir(there.path)) == names - gone
        for reading, so_far in ((third, another), (reader, seen), (second, other)):
            once_each(so_far + [entry.name for entry in reading], names - gone)
        if at == "the mount":
            assert set(os.listdir(there.path)) == names - gone


def test_a_reading_that_was_broken_off_is_not_gone_on_with_by_another(server: Server) -> None:
    names = fill(server.tree)
    with mount(server, "--cache=always") as there:
        held = os.open(there.path, os.O_RDONLY)
        reader, seen = begun(there.path, 500)
        reader.close()  # type: ignore[attr-defined]
        for name in seen:
            os.unlink(server.tree / name)
        for _ in range(3):
            once_each(os.listdir(held), names - set(seen))
            once_each(os.listdir(there.path), names - set(seen))
        os.close(held)


def test_seeking_back_in_a_long_directory_shows_what_was_there_in_the_same_order(server: Server) -> None:
    fill(server.tree)
    with mount(server) as there:
        fd = os.open(there.path, os.O_RDONLY)
        whole = os.listdir(fd)
        where = os.lseek(fd, 0, os.SEEK_CUR)
        for name in whole[:1000]:
            os.unlink(server.tree / name)
        for index in (2999, 1500, 2, 1):
            os.lseek(fd, index, os.SEEK_SET)
            assert listed_from(fd) == whole[max(index - 2, 0) :], (index, where)
        os.close(fd)


def listed_from(fd: int) -> list[str]:
    """Without going to its beginning, as os.listdir does."""
    from ctypes import CDLL, create_string_buffer

    libc, buffer, names = CDLL(None, use_errno=True), create_string_buffer(65536), []
    while (size := libc.syscall(217 if os.uname().machine == "x86_64" else 61, fd, buffer, 65536)) > 0:
        at = 0
        while at < size:
            names.append(buffer.raw[at + 19 :].split(b"\0", 1)[0].decode())
            at += int.from_bytes(buffer.raw[at + 16 : at + 18], "little")
    assert size == 0
    return [name for name in names if name not in (".", "..")]


def test_what_is_changed_while_a_directory_is_read_is_not_shown_as_it_was(server: Server) -> None:
    fill(server.tree)
    with mount(server, "--cache=always") as there:
        reader, seen = begun(there.path, 1)
        rest = sorted({f"name-{i:05}" for i in range(MANY)} - set(seen))
        for number, name in enumerate(rest):
            if number % 3 == 0:
                os.unlink(there.path / name)
            elif number % 3 == 1:
                os.chmod(there.path / name, 0o640)
            elif number % 30 == 2:
                (there.path / name).write_text("written")
        for _ in reader:
            pass
        for number, name in enumerate(rest):
            if number % 3 == 0:
                assert not (there.path / name).exists()
            elif number % 3 == 1:
                assert os.stat(there.path / name).st_mode & 0o777 == 0o640
            elif number % 30 == 2:
                assert os.stat(there.path / name).st_size == 7


def test_a_directory_that_is_open_can_be_synced_and_outlives_its_name(server: Server) -> None:
    (server.tree / "d").mkdir()
    fill(server.tree / "d", 3)
    with mount(server) as there:
        fd = os.open(there.path / "d", os.O_RDONLY)
        os.fsync(fd)
        assert len(os.listdir(fd)) == 3
        for name in os.listdir(fd):
            os.unlink(name, dir_fd=fd)
        os.rmdir(there.path / "d")
        os.fsync(fd)
        assert os.listdir(fd) == []
        os.close(fd)
