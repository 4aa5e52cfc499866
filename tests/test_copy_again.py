"""Copies of what is there already, links that are hard to make, and what programs are told of both."""

import json
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import Start
from copies import copy, put_to_a_user
from disks import ext4, serving, tmpfs
from hosts import CALM, Server, run
from prison import USER, as_user

from gofer.copy import data
from gofer.copy.local import LocalFile

pytestmark = pytest.mark.slow


def xattrs(path: Path) -> "dict[str, bytes]":
    return {name: os.getxattr(path, name) for name in os.listxattr(path)}


@pytest.mark.parametrize("way", ["get", "put"])
def test_xattrs_that_alone_have_changed_are_mended_and_nothing_is_copied(
    start: Start, spot: Path, place: Path, way: str
) -> None:
    server = start("--xattrs", "all")
    source, target = (spot, place / "t") if way == "get" else (place / "t", spot)
    words = [f"{server.path}:/.", target] if way == "get" else [f"{source}/.", f"{server.path}:/"]
    source.mkdir(exist_ok=True)
    for name in ("same", "more", "other", "less", "acl"):
        (source / name).write_text(name)
        os.setxattr(source / name, "user.a", b"1")
    copy(way, "-r", *words)
    inodes = {path.name: path.stat().st_ino for path in target.iterdir()}
    unchanged = (target / "same").stat().st_ctime_ns
    os.setxattr(source / "more", "user.b", b"2")
    os.setxattr(source / "other", "user.a", b"3")
    os.removexattr(source / "less", "user.a")
    os.setxattr(target / "less", "trusted.mine", b"stays")
    subprocess.run(["setfacl", "-m", "u:1000:r", source / "acl"], check=True)
    copy(way, "-r", *words)
    for name, inode in inodes.items():
        wanted = {**xattrs(source / name), **({"trusted.mine": b"stays"} if name == "less" else {})}
        assert xattrs(target / name) == wanted and (target / name).stat().st_ino == inode, name
        assert (source / name).stat().st_mode == (target / name).stat().st_mode
        assert (source / name).stat().st_mtime_ns == (target / name).stat().st_mtime_ns
    assert (target / "same").stat().st_ctime_ns == unchanged


def test_a_server_that_tells_no_xattrs_takes_none_away(start: Start, spot: Path, place: Path) -> None:
    server = start("--xattrs", "none")
    (spot / "f").write_text("f")
    copy("get", f"{server.path}:/f", place)
    os.setxattr(place / "f", "user.mine", b"1")
    copy("get", f"{server.path}:/f", place)
    assert xattrs(place / "f") == {"user.mine": b"1"}


def shut_tree(source: Path) -> None:
    """A file of three names, of which the first that are met are in directories that nobody but root gets into."""
    for name in ("a/b", "c", "d"):
        (source / name).mkdir(parents=True)
    (source / "a/b/one").write_text("one file")
    for name in ("c/two", "d/three"):
        os.link(source / "a/b/one", source / name)
    for name, mode in (("a/b", 0o400), ("a", 0o600), ("c", 0), ("d", 0)):
        os.chmod(source / name, mode)


def same_links(source: Path, target: Path) -> None:
    assert len({(target / name).stat().st_ino for name in ("a/b/one", "c/two", "d/three")}) == 1
    for name in ("a/b", "a", "c", "d"):
        assert (target / name).stat().st_mode == (source / name).stat().st_mode
        assert (target / name).stat().st_mtime_ns == (source / name).stat().st_mtime_ns


def test_a_user_gets_hard_links_that_lead_to_a_directory_which_is_to_be_shut(start: Start, spot: Path, place: Path) -> None:
    shut_tree(spot)
    server = start("--allow-uid", str(USER), "--allow-uid", "0", "--mode", "0666")
    os.chmod(server.place, 0o755)
    os.chown(place, USER, USER)
    with as_user(USER) as (command, how):
        words = [*command, "get", "-rq", f"{server.path}:/.", f"{place}/t"]
        done = subprocess.run(words, capture_output=True, timeout=CALM, **how)
    assert done.returncode == 0 and not done.stderr, done
    same_links(spot, place / "t")


def test_and_so_does_a_server_that_is_a_user(spot: Path, place: Path) -> None:
    shut_tree(place)
    (spot / "t").mkdir()
    for path in (spot, spot / "t"):
        os.chown(path, USER, USER)
    put_to_a_user(spot, place)
    same_links(place, spot / "t")


def test_a_name_that_can_be_no_hard_link_is_a_copy_and_is_told(start: Start, spot: Path, place: Path) -> None:
    """Across a mount point at the destination."""
    for name in ("a/one", "b/two"):
        (spot / name).parent.mkdir()
    (spot / "a/one").write_text("one file")
    os.link(spot / "a/one", spot / "b/two")
    server = start()
    (place / "b").mkdir()
    with tmpfs("1M") as small:
        subprocess.run(["mount", "--bind", small, place / "b"], check=True)
        try:
            done = copy("get", "-r", f"{server.path}:/.", place, status=1)
            texts = [(place / name).read_text() for name in ("a/one", "b/two")]
        finally:
            subprocess.run(["umount", place / "b"], check=True)
    told = done.stderr.split(": ", 2)
    assert told[1] in ("get /b/two", "get /a/one")
    assert told[2] == "a copy, and no hard link of its other name: Invalid cross-device link\n"
    assert texts == ["one file"] * 2


def test_what_a_server_writes_in_part_only_is_no_copy(place: Path) -> None:
    """A disk that is full takes the beginning of a message's data, and says so in the answer alone."""
    (place / "large").write_bytes(b"x" * 900_000)
    (place / "small").write_bytes(b"x" * 60_000)
    with tmpfs("1M") as disk, serving(disk, "--donate", "no") as server:
        for name, room in (("large", 500_000), ("small", 30_000)):
            (disk / "full").write_bytes(b"y" * (1_048_576 - room))
            done = copy("put", place / name, f"{server.path}:/", status=1)
            assert done.stderr == f"gofer: put {place}/{name}: it was not written to its end: is there room for it?\n"
            assert os.listdir(disk) == ["full"]
            server.settled_fds()  # what it has open takes room until it is closed


@pytest.mark.parametrize("donate", ["yes", "no"])
def test_what_this_hosts_kernel_makes_up_has_no_size_and_is_put_all_the_same(start: Start, spot: Path, donate: str) -> None:
    server = start("--donate", donate)
    (spot / "empty").touch()
    copy("put", "/proc/version", spot / "empty", f"{server.path}:/")
    copy("put", "--verify", "/proc/filesystems", f"{server.path}:/")
    for name in ("version", "filesystems"):
        assert (spot / name).read_bytes() == Path("/proc", name).read_bytes()
    assert (spot / "empty").read_bytes() == b""


def test_a_file_without_holes_is_not_searched_for_them_on_tmpfs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is a look at each of its pages."""
    with tmpfs("1M") as disk:
        (disk / "dense").write_bytes(b"x" * 299_999)
        monkeypatch.setattr(data, "extents", None)
        moved: list[int] = []
        reader = LocalFile(os.open(disk / "dense", os.O_RDONLY))
        data.copy(reader, LocalFile(os.open(place / "copy", os.O_RDWR | os.O_CREAT), True), moved.append)
        assert (place / "copy").read_bytes() == (disk / "dense").read_bytes() and sum(moved) == 299_999
        del reader


def test_what_is_reserved_and_was_never_written_is_not_copied() -> None:
    """As of a virtual disk that was made with all its room: what there is of it, and no zeros."""
    with ext4(24) as disk:
        image, made = disk.path / "image", disk.path / "copy"
        with open(image, "w+b") as file:
            os.posix_fallocate(file.fileno(), 0, 8 << 20)
            os.pwrite(file.fileno(), b"x" * 4096, 4 << 20)
            os.fsync(file.fileno())
        reader, writer = LocalFile(os.open(image, os.O_RDONLY)), LocalFile(os.open(made, os.O_RDWR | os.O_CREAT), True)
        assert not reader.sparse
        data.copy(reader, writer, lambda _: None)
        assert made.read_bytes() == image.read_bytes() and made.stat().st_blocks * 512 < 1 << 20
        del reader, writer


def objects(done: "subprocess.CompletedProcess[str]") -> "list[dict[str, object]]":
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("way", ["get", "put"])
def test_json_is_an_object_for_each_file_and_a_last_one_with_sums(server: Server, place: Path, way: str) -> None:
    source, target = (server.tree, place / "t") if way == "get" else (place / "t", server.tree)
    words = [way, "-rq", "--json", "--delete", "--update"]
    words += [f"{server.path}:/.", str(target)] if way == "get" else [f"{source}/.", f"{server.path}:/"]
    for tree in (source, target):
        tree.mkdir(exist_ok=True)
        (tree / "newer").write_text(tree.name)
    os.utime(source / "newer", ns=(5, 5))
    for name in ("new", "same", "wrong"):
        (source / name).write_text(name)
    os.link(source / "new", source / "new too")
    shutil.copy2(source / "same", target / "same")
    (target / "wrong").mkdir()
    (target / "wrong/x").touch()
    (target / "gone").touch()
    (source / os.fsdecode(b"odd\xff\n")).touch()
    head = "" if way == "get" else str(source)
    would = {(str(found["path"]), found["result"]) for found in objects(run(*words, "-n")) if "path" in found}
    assert {(f"{head}/gone", "delete"), (f"{head}/new", "copy"), (f"{head}/same", "equal")} <= would
    found = objects(run(*words))
    results = {str(each["path"])[len(head) + 1 :]: (each["result"], each["bytes"]) for each in found[:-1]}
    linked = {results.pop("new"), results.pop("new too")}
    assert linked == {("copied", 3), ("linked", 3)}
    assert results == {
        "newer": ("newer", len(source.name)), "same": ("equal", 4), "wrong": ("copied", 5), "gone": ("deleted", 0),
        "odd\udcff\n": ("copied", 0),
    }  # fmt: skip
    summary = found[-1]["summary"]
    assert isinstance(summary, dict) and summary.pop("seconds") >= 0
    assert summary == {"files": 4, "bytes": 8, "equal": 2, "failed": 0}


def test_json_tells_of_what_has_failed_as_stderr_does(server: Server, place: Path) -> None:
    (server.tree / "d").mkdir()
    (server.tree / "f").touch()
    words = [f"{server.path}:/{name}" for name in ("none", "d", "f")]
    done = run("get", "--json", *words, str(place))
    first, second, third, last = objects(done)
    assert first == {"path": "/none", "result": "failed", "error": "No such file or directory"}
    assert second == {"path": "/d", "result": "failed", "error": "it is a directory: -r copies it"}
    assert third == {"path": "/f", "result": "copied", "bytes": 0} and last["summary"]["failed"] == 2  # type: ignore[index]
    assert done.returncode == 1
    assert done.stderr.splitlines()[:2] == [f"gofer: get {each['path']}: {each['error']}" for each in (first, second)]


def test_cp_tells_programs_the_same(server: Server) -> None:
    (server.tree / "f").write_text("f")
    copied, last = objects(run("cp", "--json", f"{server.path}:/f", f"{server.path}:/g"))
    assert copied == {"path": "/f", "result": "copied", "bytes": 1}
    assert last["summary"]["files"] == 1  # type: ignore[index]


def test_what_is_no_file_at_the_destination_is_not_replaced_by_one(server: Server, place: Path) -> None:
    """`gofer get :/large /dev/null`, to see how fast that is, is no end of /dev/null."""
    (server.tree / "f").write_text("f")
    os.mknod(place / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(place / "socket"))
    for name, kind in (("null", "device"), ("fifo", "FIFO"), ("socket", "socket")):
        done = copy("get", f"{server.path}:/f", place / name, status=1)
        assert done.stderr == f"gofer: get /f: a {kind} of that name is in its place, and stays: --delete removes it\n"
        assert not (place / name).is_file()
    (place / "link").symlink_to("null")  # as /dev/stdout is one
    done = copy("get", f"{server.path}:/f", place / "link", status=1)
    assert done.stderr == f"gofer: get /f: {place}/link leads to a device or a pipe, and stays: `gofer cat` prints a file\n"
    assert (place / "link").is_symlink()
    (server.tree / "f").rename(server.tree / "null")
    copy("get", "-r", "--delete", f"{server.path}:/.", place)
    assert (place / "null").read_text() == "f" and os.listdir(place) == ["null"]
