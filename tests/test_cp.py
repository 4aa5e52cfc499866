"""`gofer cp`: copies inside a served tree, compared with what `cp -a` makes of the same."""

import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hosts import CALM, GOFER, Server, fails_in_one_line, run, wait_until


def looks(place: Path) -> dict[str, tuple[Any, ...]]:
    """All that cp -a keeps. Links between files are told by the name that is met first."""
    found: dict[str, tuple[Any, ...]] = {}
    first: dict[int, str] = {}
    for path, folders, names in sorted(os.walk(place)):
        for name in sorted(folders + names):
            full = os.path.join(path, name)
            s, told = os.lstat(full), os.path.relpath(full, place)
            what: Any = os.readlink(full) if stat.S_ISLNK(s.st_mode) else ""
            if stat.S_ISREG(s.st_mode):
                what = Path(full).read_bytes(), s.st_blocks * 512 < s.st_size, first.setdefault(s.st_ino, told)
                what = *what, [(key, os.getxattr(full, key)) for key in os.listxattr(full)]
            found[told] = (s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns, what)
    return found


@pytest.fixture
def tree(server: Server) -> Path:
    source = server.tree / "source"
    (source / "dir/sub").mkdir(parents=True)
    (source / "plain").write_bytes(os.urandom(300_000))
    (source / "dir/small").write_text("small")
    os.link(source / "plain", source / "dir/hard")
    os.symlink("plain", source / "link")
    os.symlink("/nowhere", source / "dir/dangling")
    with open(source / "sparse", "wb") as file:
        file.seek(10 << 20)
        file.write(b"end")
    os.setxattr(source / "plain", "user.x", b"y")
    os.chown(source / "dir/small", 12, 34)
    os.chmod(source / "dir/small", 0o4751)
    os.chmod(source / "dir/sub", 0o1750)
    for name in (b"-dash", b"two words", b"new\nline", b"\xff"):
        with open(os.path.join(os.fsencode(source / "dir"), name), "wb"):
            pass
    os.utime(source / "plain", ns=(1, 10**18 + 7))
    return server.tree


@pytest.mark.parametrize("options", [(), pytest.param(("--donate=no",), marks=pytest.mark.serve("--donate=no"))])
def test_a_tree_is_copied_with_all_that_it_has(server: Server, tree: Path, options: tuple[str, ...]) -> None:
    done = run("cp", "-a", f"{server.path}:/source", f"{server.path}:/ours")
    assert (done.returncode, done.stderr) == (0, "")
    subprocess.run(["cp", "-a", tree / "source", tree / "theirs"], check=True)
    assert looks(tree / "ours") == looks(tree / "theirs")
    assert sorted(os.listdir(tree)) == ["ours", "source", "theirs"]


def test_files_go_into_a_directory_or_get_a_name(server: Server, tree: Path) -> None:
    root = f"{server.path}:"
    (tree / "into").mkdir()
    assert run("cp", f"{root}/source/plain", f"{root}/source/link", f"{root}/into").returncode == 0
    assert sorted(os.listdir(tree / "into")) == ["link", "plain"]
    assert (tree / "into/link").read_bytes() == (tree / "source/plain").read_bytes() and not (tree / "into/link").is_symlink()
    assert run("cp", f"{root}/source/plain", f"{root}/new").returncode == 0
    assert (tree / "new").read_bytes() == (tree / "source/plain").read_bytes()
    assert run("cp", "-r", f"{root}/source/dir", f"{root}/into").returncode == 0
    assert looks(tree / "into/dir").keys() == looks(tree / "source/dir").keys()
    assert run("cp", "-rT", f"{root}/source/dir", f"{root}/into/dir").returncode == 0
    assert not (tree / "into/dir/dir").exists()


def test_no_clobber_and_update_leave_what_is_there(server: Server, tree: Path) -> None:
    root = f"{server.path}:"
    (tree / "new").write_text("mine")
    assert run("cp", "-n", f"{root}/source/plain", f"{root}/new").returncode == 0
    assert run("cp", "-u", f"{root}/source/plain", f"{root}/new").returncode == 0
    assert (tree / "new").read_text() == "mine"
    assert run("cp", f"{root}/source/plain", f"{root}/new").returncode == 0
    assert (tree / "new").read_bytes() == (tree / "source/plain").read_bytes()


@pytest.mark.parametrize(
    "words,said",
    [
        (["-r", ":/source", ":/source/dir/new"], "cannot be copied into itself"),
        (["-r", ":/source", ":/source"], "cannot be copied into itself"),
        (["-r", ":/", ":/source"], "cannot be copied into itself"),
        ([":/source/plain"], "where to?"),
        ([":/source/plain", "/elsewhere/x.sock:/y"], "both names are on one server"),
        ([":/source/plain", ":/source/dir/small", ":/source/link"], "it is no directory to copy into"),
        ([":/source", ":/new"], "it is a directory: -r copies it"),
        ([":/missing", ":/new"], "No such file or directory"),
        ([":/source/plain", ":/missing/new"], "cp: there is no place for /missing/new on the server: No such file or directory"),
    ],
)
def test_what_cannot_be_copied_is_one_line(server: Server, tree: Path, words: list[str], said: str) -> None:
    fails_in_one_line(run("cp", *[f"{server.path}{word}" if word.startswith(":") else word for word in words]), said)
    assert sorted(os.listdir(tree)) == ["source"]


@pytest.mark.serve("--donate=no")
def test_an_interruption_leaves_nothing_as_nothing_could_go_on_with_it(server: Server) -> None:
    (server.tree / "big").write_bytes(b"x" * (256 << 20))
    process = subprocess.Popen([*GOFER, "cp", f"{server.path}:/big", f"{server.path}:/new"], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: process.poll() is not None or _begun(server.tree), "it is at it")
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=CALM)[1]
    done = process.returncode == 0  # before it was told
    assert (process.returncode, said, sorted(os.listdir(server.tree))) == (0 if done else 130, "", ["big", "new"][: 1 + done])


def _begun(place: Path) -> bool:
    try:
        return any(path.stat().st_size > 32 << 20 for path in place.glob(".gofer-*"))
    except FileNotFoundError:  # it has its name by now
        return False
