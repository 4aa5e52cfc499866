"""What went wrong once in a copy, as a person or an attacker met it."""

import json
import os
from pathlib import Path

import pytest
from conftest import Start
from copies import copy, put_to_a_user
from disks import tmpfs
from hosts import Server, run
from prison import USER

from gofer.copy.local import Fd, LocalTree

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("way", ["get", "put"])
@pytest.mark.parametrize("there", [False, True])
def test_a_copy_into_what_is_copied_ends_and_leaves_itself_out(server: Server, way: str, there: bool) -> None:
    """As `gofer serve` in a directory and `gofer get -r :/. backup` in it, which made 2000 directories in each other."""
    (server.tree / "a/b").mkdir(parents=True)
    (server.tree / "a/f").write_text("f")
    if there:
        (server.tree / "a/backup").mkdir()
    words = [f"{server.path}:/.", f"{server.tree}/a/backup"] if way == "get" else [f"{server.tree}/.", f"{server.path}:/a/backup"]
    done = copy(way, "-r", *words, status=1)
    shown = "/a/backup" if way == "get" else f"{server.tree}/a/backup"
    assert done.stderr.replace("/./", "/") == f"gofer: {way} {shown}: it is what is copied into: left out\n"
    found = sorted(str(path.relative_to(server.tree)) for path in server.tree.rglob("*"))
    assert found == ["a", "a/b", "a/backup", "a/backup/a", "a/backup/a/b", "a/backup/a/f", "a/f"]


@pytest.mark.parametrize("way", ["get", "put"])
def test_delete_takes_away_no_directory_with_what_is_excluded_in_it(server: Server, place: Path, way: str) -> None:
    source, target = (server.tree, place) if way == "get" else (place, server.tree)
    for name in ("gone/deep/mine.o", "gone/deep/other", "gone/other", "file/mine.o", "all/gone"):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("x")
    for number in range(100):  # more than are listed at once
        (target / f"gone/{number}.o").touch()
    (source / "file").write_text("a file, and a directory there")
    words = [f"{server.path}:/.", place] if way == "get" else [f"{place}/.", f"{server.path}:/"]
    done = copy(way, "-r", "--delete", "--exclude=*.o", *words, status=1)
    told = "a directory of that name is in its place, and stays: something in it is excluded"
    assert done.stderr == f"gofer: {way} {'' if way == 'get' else place}/file: {told}\n"
    left = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    assert left == {"gone/deep/mine.o", "file/mine.o", *(f"gone/{number}.o" for number in range(100))}
    assert not (target / "all").exists()


def test_the_other_name_of_a_file_that_was_not_copied_is_none_of_what_was_there_before(start: Start, spot: Path) -> None:
    """It was made one, and told as a success."""
    (spot / "a").write_bytes(b"new" * 1_000_000)
    os.link(spot / "a", spot / "b")
    server = start()
    with tmpfs("1M") as small:
        (small / "a").write_text("old")
        os.link(small / "a", small / "b")
        done = run("get", "-rq", "--json", f"{server.path}:/.", str(small))
        results = {each.get("path"): each.get("result") for each in map(json.loads, done.stdout.splitlines())}
        assert results["/a"] == results["/b"] == "failed" and done.returncode == 1


def test_a_directory_that_a_server_may_write_to_and_not_read_costs_nothing_else(spot: Path, place: Path) -> None:
    for name in ("a", "b", "c"):
        (place / name).mkdir()
        (place / name / "f").write_text(name)
    for path in (spot, spot / "t", spot / "t/b"):
        path.mkdir(exist_ok=True)
        os.chown(path, USER, USER)
    os.chmod(spot / "t/b", 0o300)
    put_to_a_user(spot, place)
    assert [(spot / "t" / name / "f").read_text() for name in ("a", "b", "c")] == ["a", "b", "c"]


def test_a_name_of_an_xattr_speaks_to_no_terminal(start: Start, spot: Path, place: Path) -> None:
    (place / "f").touch()
    os.setxattr(place / "f", b"user.\x1b[31m\nx", b"1")
    server = start("--xattrs", "none")
    done = copy("put", place / "f", f"{server.path}:/", status=1)
    assert done.stderr.startswith(rf"gofer: put {place}/f: xattr user.\x1b[31m\nx: ") and done.stderr.count("\n") == 1


def test_what_is_gone_on_with_is_what_was_looked_at(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose directory it is may put another file, by a hard link, in its place."""
    (spot / "part").touch(0o600)
    (spot / "secret").write_text("precious")
    os.chmod(spot / "secret", 0o600)
    opened = os.open

    def swapped(path: object, *args: object, **more: object) -> int:
        if path == b"part":
            os.unlink(spot / "part")
            os.link(spot / "secret", spot / "part")
        return opened(path, *args, **more)  # type: ignore[arg-type]

    directory = Fd(os.open(spot, os.O_RDONLY))
    monkeypatch.setattr(os, "open", swapped)
    with pytest.raises(PermissionError, match="not what an interrupted copy leaves"):
        LocalTree().reopen(directory, b"part")
