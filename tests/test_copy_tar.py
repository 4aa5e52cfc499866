"""`gofer tar`: other programs read what it writes, it reads what they write, and no archive leads out of the destination."""

import gzip
import io
import os
import shutil
import signal
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from conftest import Start
from copies import differences, equal, fill, look, parts
from hostile_server import Hostile, Node
from hosts import CALM, GOFER, Server, run, wait_until

pytestmark = pytest.mark.slow
XATTRS = ["--xattrs", "--xattrs-include=*"]


def create(*words: str, status: int = 0) -> "tuple[bytes, str]":
    done = subprocess.run([*GOFER, "tar", "-c", *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=CALM)
    assert done.returncode == status and (status or not done.stderr), done.stderr
    return done.stdout, done.stderr.decode()


def extract(archive: bytes, *words: str, status: int = 0) -> str:
    done = subprocess.run([*GOFER, "tar", "-x", "-q", *words], input=archive, capture_output=True, timeout=CALM)
    assert done.returncode == status and (status or not done.stderr) and not done.stdout, done.stderr
    return done.stderr.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("donate", ["yes", "no"])
def test_what_one_side_packs_the_other_unpacks_and_so_does_gnu_tar(start: Start, spot: Path, place: Path, donate: str) -> None:
    source, target = spot / "source", spot / "target"
    for directory in (source, target):
        directory.mkdir()
    fill(source)
    server = start("--donate", donate)
    archive, _ = create(f"{server.path}:/source")
    extract(archive, f"{server.path}:/target")
    equal(source, target / "source")
    subprocess.run(["tar", "-xp", *XATTRS, "-C", place], input=archive, check=True, stderr=subprocess.PIPE)
    equal(source, place / "source")
    packed = subprocess.run(["tar", "-c", "--format=pax", *XATTRS, "-C", source, "."], check=True, stdout=subprocess.PIPE).stdout
    shutil.rmtree(target)
    target.mkdir()
    extract(gzip.compress(packed), f"{server.path}:/target")
    equal(source, target)
    assert not parts(spot)


def test_a_hard_link_is_to_what_had_the_name_when_it_came(server: Server) -> None:
    """Names may come again in an archive, before and behind a link."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, what in (("a", b"1"), ("b", "a"), ("a", b"2"), ("c", "a"), ("c", b"3"), ("d", "c"), ("d", b"4")):
            info = tarfile.TarInfo(name)
            if isinstance(what, str):
                info.type, info.linkname = tarfile.LNKTYPE, what
            info.size = 0 if isinstance(what, str) else len(what)
            tar.addfile(info, None if isinstance(what, str) else io.BytesIO(what))
    extract(archive.getvalue(), f"{server.path}:/")
    assert {name: (server.tree / name).read_bytes() for name in "abcd"} == {"a": b"2", "b": b"1", "c": b"3", "d": b"4"}


def test_the_root_is_packed_as_a_dot_and_what_is_excluded_left_out(server: Server) -> None:
    (server.tree / "a/b").mkdir(parents=True)
    for name in ("a/f", "a/f.o", "a/b/g"):
        (server.tree / name).write_text(name)
    names = tarfile.open(fileobj=io.BytesIO(create(f"{server.path}:/", "--exclude=*.o", "--exclude=/a/b")[0])).getnames()
    assert sorted(names) == [".", "./a", "./a/f"]
    archive, _ = create(f"{server.path}:/a/f", f"{server.path}:/a/b")
    assert tarfile.open(fileobj=io.BytesIO(archive)).getnames() == ["f", "b", "b/g"]


def made(*members: "tuple[str, bytes | str | None]", kinds: "dict[str, bytes]" = {}) -> bytes:  # noqa: B006
    """An archive: contents of files, or what a link leads to; None is a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            info.mtime = 1_000_000_000
            if isinstance(what, bytes):
                info.size = len(what)
            elif what is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o750
            else:
                info.type, info.linkname = kinds.get(name, tarfile.SYMTYPE), what
            info.type = kinds.get(name, info.type)
            tar.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    return buffer.getvalue()


def test_no_archive_leads_out_of_the_destination(server: Server, spot: Path) -> None:
    (server.tree / "in").mkdir()
    (server.tree / "secret").write_text("not below the destination")
    (spot / "precious").write_text("mine")
    out = str(spot)
    archive = made(
        ("../up", b"x"), ("a/../../up", b"x"), ("..", None), (f"{out}/new", b"absolute"), ("abs", out), ("abs/precious", b"x"),
        ("rel", "../../../../../../.." + out), ("rel/precious", b"x"), ("dir/abs2", out), ("dir/abs2/sub/f", b"x"),
        ("hard1", "../secret"), ("hard2", f"{out}/precious"), ("hard3", "abs/precious"), ("hard4", "../../etc/passwd"),
        ("hard5", ""), ("a\0b", b"x"), ("n" * 300, b"x"), ("good", b"good"), ("hard6", "good"), ("dev", b""), ("fifo", b""),
        kinds={**{f"hard{n}": tarfile.LNKTYPE for n in range(1, 7)}, "dev": tarfile.BLKTYPE, "fifo": tarfile.FIFOTYPE},
    )  # fmt: skip
    said = extract(archive, f"{server.path}:/in", status=1)
    told = {line.split(": ")[1].split()[1] for line in said.splitlines()}
    assert told >= {"../up", "a/../../up", "..", "abs/precious", "rel/precious", "dev", "fifo"}
    assert told >= {"hard1", "hard2", "hard3", "hard4", "hard5"}
    assert said.count("a name that leads out of the destination, or that no file can have: left out\n") >= 6
    assert "tar fifo: it is a FIFO, and a server makes none: left out" in said
    assert "tar dev: it is a device, or of a type that is not known: left out" in said
    assert "tar abs/precious: abs on its way is there, and no directory: left out" in said
    assert (server.tree / "in/good").read_bytes() == b"good" and (server.tree / "in/good").stat().st_nlink == 2
    assert (server.tree / f"in{out}/new").read_bytes() == b"absolute"
    assert sorted(os.listdir(spot)) == ["precious"] and (spot / "precious").read_text() == "mine"
    assert sorted(os.listdir(server.tree)) == ["in", "secret"] and (server.tree / "secret").stat().st_nlink == 1
    assert not parts(server.tree)


def test_what_is_there_already_is_replaced_and_directories_keep_what_they_have(server: Server) -> None:
    (server.tree / "d/full").mkdir(parents=True)
    (server.tree / "d/other").write_text("stays")
    (server.tree / "d/f").write_text("old")
    os.symlink("/etc", server.tree / "d/l")
    archive = made(("d", None), ("d/f", b"new"), ("d/l", b"a file now"), ("d/full", b"cannot"), ("e/f/g", b"deep"))
    said = extract(archive, f"{server.path}:/", status=1)
    assert said == "gofer: tar d/full: a directory of that name is in its place, and stays\n"
    assert {path.name: path.read_text() for path in (server.tree / "d").iterdir() if path.is_file()} == {
        "other": "stays", "f": "new", "l": "a file now",
    }  # fmt: skip
    assert (server.tree / "d").stat().st_mode & 0o7777 == 0o750 and (server.tree / "d").stat().st_mtime == 1_000_000_000
    assert (server.tree / "e/f").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    "words, told",
    [
        (["-x", ":/none"], ["tar /none: No such file or directory"]),
        (["-x", ":/f"], ["tar: :/f: it is not a directory"]),
        (["-x", ":/", ":/f"], ["tar: -x needs one directory"]),
        (["-c", ":/none"], ["tar /none: No such file or directory"]),
    ],
)
def test_what_cannot_be_done_is_one_line(server: Server, words: "list[str]", told: "list[str]") -> None:
    (server.tree / "f").write_text("x")
    done = run("tar", *words, env={**os.environ, "GOFER_SOCKET": str(server.path)})
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and all(word in done.stderr for word in told), done.stderr


def test_a_hard_link_is_one_also_between_two_addresses(server: Server) -> None:
    (server.tree / "d").mkdir()
    (server.tree / "a").write_text("one file")
    os.link(server.tree / "a", server.tree / "d/b")
    archive = create(f"{server.path}:/a", f"{server.path}:/d")[0]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getmember("d/b").islnk() and tar.getmember("d/b").linkname == "a"


def test_what_is_no_archive_or_ends_early_is_told_and_what_was_whole_is_there(server: Server) -> None:
    whole = made(("first", b"x" * 1000), ("second", b"y" * 100_000))
    for archive in (b"no archive at all" * 100, whole[:1700], whole[:50_000], gzip.compress(whole)[:100]):
        said = extract(archive, f"{server.path}:/", status=1)
        assert said.startswith("gofer: tar: not a tar archive, or a damaged one: ") and said.count("\n") == 1
        assert "second" not in os.listdir(server.tree) and not parts(server.tree)
    extract(whole[:50_000], f"{server.path}:/", status=1)
    assert (server.tree / "first").read_bytes() == b"x" * 1000


def test_an_archive_is_not_written_to_a_terminal(server: Server) -> None:
    words = " ".join([*GOFER, "tar", "-c", f"{server.path}:/"])
    done = subprocess.run(["script", "-qec", words, "/dev/null"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "an archive is nothing for a terminal" in done.stdout


def test_an_archive_is_not_read_from_a_terminal(server: Server) -> None:
    words = " ".join([*GOFER, "tar", "-x", f"{server.path}:/"])
    done = subprocess.run(["script", "-qec", words, "/dev/null"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 1 and "an archive comes from a file or a program" in done.stdout


def test_what_a_server_lies_about_is_told_and_the_archive_is_whole(spot: Path) -> None:
    nodes = {
        b"../up": Node(b"x"), b"short": Node(b"short", size=3000), b"good": Node(b"good"),
        b"sock": Node(mode=stat.S_IFSOCK | 0o7),
    }  # fmt: skip
    with Hostile(spot / "s", Node(entries={b"d": Node(entries=nodes)})) as server:
        archive, said = create(f"{server.path}:/d", status=1)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert sorted(tar.getnames()) == ["d", "d/good", "d/short"]
        assert tar.extractfile("d/short").read() == b"short".ljust(3000, b"\0")  # type: ignore[union-attr]
    assert len(said.splitlines()) == 3 and "tar /d/../up: a name that no file can have: left out" in said
    assert "tar /d/short: it ended before the size" in said and "tar /d/sock: it is a socket, which no archive has" in said


def test_an_interruption_leaves_nothing_half_as_nothing_could_go_on_with_it(server: Server) -> None:
    process = subprocess.Popen([*GOFER, "tar", "-x", f"{server.path}:/"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin
    process.stdin.write(made(("first", b"1" * 10_000), ("second", b"2" * 12_000_000))[:10_000_000])
    process.stdin.flush()
    wait_until(lambda: any((server.tree / name).stat().st_size > 1 << 20 for name in parts(server.tree)), "the second is begun")
    process.send_signal(signal.SIGINT)
    wait_until(lambda: process.poll() is not None or not process.send_signal(signal.SIGINT), "it ends")  # type: ignore[func-returns-value]
    process.communicate(timeout=CALM)
    assert process.returncode == 130 and set(os.listdir(server.tree)) <= {"first"}
    assert differences(look(server.tree), look(server.tree)) == []
