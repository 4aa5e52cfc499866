"""Directories that the kernel lists by itself (gofer/fuse/kept.py), and attributes that come with a listing: as they are now."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hosts import Server, wait_until
from mounting import Mount, messages, mount, takes

from gofer.fuse.changes import Changes
from gofer.fuse.node import Node

MANY = 3000  # names, of which a program reads some 800 at once


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

    def work(there: Mount) -> None:
        assert sum(len(files) for _, _, files in os.walk(there.path)) == 200

    takes(server, control, work, lambda sent: sent["DirWalk"] == 21 and sum(sent.values()) < 30)


def test_a_directory_whose_name_came_with_a_listing_is_gone_into_by_one_message(told: tuple[Server, Path]) -> None:
    """No FD is held for it; its files may be what is wanted next."""
    server, control = told
    for number in range(10):
        (server.tree / f"{number}").mkdir()
        fill(server.tree / f"{number}", 5)

    def work(there: Mount) -> None:
        os.listdir(there.path)
        for number in range(10):
            assert os.stat(there.path / f"{number}/name-00003").st_size == 0

    takes(server, control, work, lambda sent: sent["DirWalk"] == 1 + 10 and not sent["Walk"], "--cache=always")


def test_a_directory_that_was_listed_is_listed_again_by_the_kernel(told: tuple[Server, Path]) -> None:
    server, control = told
    names = fill(server.tree)
    with mount(server, "--cache=always") as there:
        assert set(os.listdir(there.path)) == names
        before = messages(server, control)
        for _ in range(3):
            assert set(os.listdir(there.path)) == names
            assert all(entry.stat().st_size == 0 for entry in os.scandir(there.path))
        sent = messages(server, control) - before
        assert not sent["DirWalk"] + sent["DirStat"] + sent["OpenAt"] + sent["Walk"], sent
        (there.path / "new").touch()
        os.unlink(there.path / "name-00007")
        assert set(os.listdir(there.path)) == names - {"name-00007"} | {"new"}


def test_without_a_cache_a_directory_is_asked_for_each_time(told: tuple[Server, Path]) -> None:
    server, control = told
    fill(server.tree, 5)

    def work(there: Mount) -> None:
        for _ in range(3):
            name = f"new-{len(os.listdir(server.tree))}"
            os.mknod(server.tree / name)
            assert name in os.listdir(there.path)

    takes(server, control, work, lambda sent: sent["DirWalk"] == 3, "--cache=none")


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


def test_directories_whose_files_were_looked_at_are_listed_without_another_message(told: tuple[Server, Path]) -> None:
    """As git-status(1) does. What was read a while ago is not good for it: hence not all of them, where this takes long."""
    server, control = told
    for number in range(40):
        (server.tree / f"{number}").mkdir()
        fill(server.tree / f"{number}", 5)
    with mount(server) as there:
        os.stat(there.path / "0")
        before = messages(server, control)
        for first in range(0, 40, 10):
            for number in range(first, first + 10):
                for name in range(5):
                    os.stat(there.path / f"{number}/name-{name:05}")
            for number in range(first, first + 10):
                assert sorted(os.listdir(there.path / f"{number}")) == [f"name-{name:05}" for name in range(5)]
                assert os.stat(there.path / f"{number}/name-00002").st_size == 0
        sent = messages(server, control) - before
        assert sent["DirWalk"] < 60, sent


def test_to_make_a_file_leaves_what_was_read_ahead_of_others(told: tuple[Server, Path]) -> None:
    """As git(1) makes index.lock."""
    server, control = told
    fill(server.tree, 90)
    with mount(server) as there:
        before = messages(server, control)
        for number in range(30):
            os.close(os.open(there.path / f"new-{number}", os.O_CREAT | os.O_WRONLY))
            for name in range(3 * number, 3 * number + 3):
                assert os.stat(there.path / f"name-{name:05}").st_size == 0
        sent = messages(server, control) - before
        assert sent["Walk"] + sent["DirWalk"] + sent["DirStat"] < 75, sent  # 30 of them look for what is not there


def looks(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_mode, found.st_nlink, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


@pytest.mark.parametrize("number", range(3))  # what is done in all may take too long, once, for what is tested here
def test_what_was_read_ahead_under_one_name_is_not_told_of_what_was_changed_under_another(server: Server, number: int) -> None:
    (server.tree / "a").mkdir()
    (server.tree / "b").mkdir()
    for i in range(10):
        (server.tree / f"a/{i}").write_text("old")
        os.link(server.tree / f"a/{i}", server.tree / f"b/{i}")
    (server.tree / "b/other").touch()
    with mount(server) as there:
        a, b = there.path / "a", there.path / "b"
        os.listdir(there.path)  # no FD comes with it, so they are read when they are gone into
        os.stat(a / "9")
        os.stat(b / "other")  # with it comes all that is in there
        os.chmod(a / "0", 0o640)
        (a / "1").write_text("longer")
        os.unlink(a / "2")
        os.link(a / "3", a / "link")
        os.rename(a / "4", a / "5")
        os.truncate(a / "6", 1)
        os.utime(a / "7", ns=(5, 7))
        (a / "made").mkdir()
        with open(a / "8", "r+b", buffering=0) as file:
            file.write(b"x" * 5)
            assert [looks(b / f"{i}") for i in range(10)] == [looks(server.tree / f"b/{i}") for i in range(10)]
        assert set(os.listdir(a)) == set(os.listdir(server.tree / "a")) == {"0", "1", "3", *"56789", "link", "made"}
        assert looks(a) == looks(server.tree / "a")


@pytest.mark.parametrize("how", ["chmod", "write", "truncate", "mkdir"])
def test_each_change_alone_is_seen_under_another_name(server: Server, how: str) -> None:
    """What takes everything away that was read, to unlink a name, say, hides what does not."""
    (server.tree / "a/d").mkdir(parents=True)
    (server.tree / "b").mkdir()
    (server.tree / "a/file").write_text("old")
    os.link(server.tree / "a/file", server.tree / "b/file")
    (server.tree / "b/other").touch()
    with mount(server) as there:
        a, b = there.path / "a", there.path / "b"
        os.listdir(there.path)
        os.stat(a / "file")
        os.stat(b / "other")
        if how == "chmod":
            os.chmod(a / "file", 0o640)
        elif how == "write":
            (a / "file").write_text("longer")
        elif how == "truncate":
            os.truncate(a / "file", 1)
        else:
            (a / "d/new").mkdir()
            assert set(os.listdir(a / "d")) == {"new"}
        assert looks(b / "file") == looks(server.tree / "b/file")
        assert looks(a / "d") == looks(server.tree / "a/d")


def test_more_changes_than_are_remembered_are_taken_for_one_of_anything() -> None:
    changes, before = Changes(), time.monotonic()
    root = Node(1, None, b"", 0, 0, 0o40755)
    for ino in range(5000):
        changes.of(Node(2, root, b"", ino, 0, 0o100644))
    assert all(changes.last(ino) > before for ino in range(5000)) and changes.last(5001) > before
    assert Changes().last(1) < before
