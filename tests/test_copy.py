"""`gofer get` and `gofer put`: what arrives is what was there, all of it or nothing of a file."""

import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start
from copies import copy, differences, equal, fill, look, parts
from disks import serving, tmpfs, xfs
from hosts import CALM, CHECKOUT, GOFER, Server, fails_in_one_line, run
from prison import USER, as_user
from sshd import HOST, sshd


@pytest.mark.parametrize("donate", ["yes", "no"])
def test_a_tree_arrives_whole_and_again_at_the_server(start: Start, spot: Path, place: Path, donate: str) -> None:
    fill(spot)
    server = start("--donate", donate)
    here, there = place / "here", spot / "again"
    copy("get", "-r", f"{server.path}:/.", here)
    equal(spot, here)
    assert (here / "sparse").stat().st_blocks * 512 < 1 << 20 and (here / "end").stat().st_blocks * 512 < 1 << 20
    copy("put", "-r", here, f"{server.path}:/again")
    equal(here, there)
    assert (there / "hole").stat().st_blocks == 0 and not parts(place) and not parts(spot)
    shutil.rmtree(there)  # what remains is the same: nothing is copied
    before = changes(here)
    done = run("get", "-r", f"{server.path}:/.", str(here))
    assert "gofer: 0 files, 0 bytes in " in done.stderr and "are there already" in done.stderr
    assert before == changes(here)


def test_the_start_of_a_copy_loads_nothing_that_is_slow_and_not_needed(server: Server, place: Path) -> None:
    (server.tree / "f").write_bytes(b"x")
    (place / "__main__.py").touch()
    loaded = _loaded(*GOFER[-1:], "get", "-q", f"{server.path}:/f", str(place)) - _loaded(str(place))
    slow = {"shutil", "hashlib", "_hashlib", "bz2", "lzma", "tarfile", "json", "typing"}
    assert "gofer.copy.engine" in loaded and not loaded & slow


def _loaded(*argv: str) -> "set[str]":
    """The modules that a program loads."""
    words = [sys.executable, "-ISX", "importtime", *argv]
    done = subprocess.run(words, capture_output=True, text=True, timeout=CALM, check=True)
    return {line.split("|")[-1].strip() for line in done.stderr.splitlines()}


def changes(tree: Path) -> "dict[str, int]":
    """When each file was last changed in any way."""
    found = [os.path.join(directory, name) for directory, _, names in os.walk(tree) for name in names]
    return {path: os.lstat(path).st_ctime_ns for path in found}


@pytest.mark.parametrize("donate", ["yes", "no"])
def test_acls_and_set_id_bits_come_along_and_inherited_acls_go(start: Start, spot: Path, place: Path, donate: str) -> None:
    (spot / "d").mkdir()
    (spot / "plain").write_bytes(b"p")
    (spot / "d/acl").write_bytes(b"a")
    (spot / "set").write_bytes(b"s")
    os.chown(spot / "set", 1000, 1000)
    os.chmod(spot / "set", 0o6755)
    subprocess.run(["setfacl", "-m", "u:1000:r", "d/acl"], cwd=spot, check=True)
    subprocess.run(["setfacl", "-m", "d:u:1000:rwx", "d"], cwd=spot, check=True)
    (place / "into").mkdir()
    (spot / "into").mkdir()
    for into in (place / "into", spot / "into"):
        subprocess.run(["setfacl", "-m", "d:u:1001:rwx", into], check=True)
    server = start("--donate", donate)
    copy("get", "-r", "--set-id", f"{server.path}:/d", f"{server.path}:/plain", f"{server.path}:/set", place / "into")
    copy("put", "-r", place / "into/d", place / "into/plain", place / "into/set", f"{server.path}:/into")
    for name in ("d", "plain", "set"):
        for copied in (place / "into" / name, spot / "into" / name):
            assert look_at(spot / name) == look_at(copied)
    assert look_at(spot / "d/acl") == look_at(spot / "into/d/acl") and os.listxattr(spot / "into/d/acl")
    equal(spot / "d", spot / "into/d")


def look_at(path: Path) -> "tuple[object, ...]":
    status = path.stat()
    xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    return status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, xattrs


@pytest.mark.slow
def test_copies_get_the_names_that_cp_would_give_them(server: Server, place: Path) -> None:
    """And so do the same copies to a server, and a name with a `/` behind it, `.`, and the target of a link."""
    (server.tree / "d/e").mkdir(parents=True)
    for name in ("f", "d/g", "d/e/h"):
        (server.tree / name).write_text(name)
    os.symlink("f", server.tree / "l")
    os.symlink("d", server.tree / "m")
    for number, (sources, target) in enumerate((
        (["f"], "new"), (["f"], "dir"), (["f"], "dir/"), (["f", "d/g"], "dir"), (["l"], "new"), (["l"], "dir"),
        (["-r", "d"], "new"), (["-r", "d"], "new/"), (["-r", "d"], "dir"), (["-r", "d/"], "dir"), (["-r", "d/."], "dir"),
        (["-r", "d/."], "new"), (["-r", "l"], "new"), (["-r", "m"], "dir"), (["-r", "m/."], "dir"), (["-r", "d", "f"], "dir"),
    )):  # fmt: skip
        flags, names = [word for word in sources if word == "-r"], [word for word in sources if word != "-r"]
        found = []
        for way in ("cp", "get", "put"):
            base = (server.tree if way == "put" else place) / f"{number}{way}"
            (base / "dir").mkdir(parents=True)
            ours = [f"{server.path}:/{name}" for name in names]
            if way == "cp":
                theirs = [os.path.join(server.tree, name) for name in names]
                subprocess.run(["cp", *flags, *theirs, os.path.join(base, target)], check=True)
            elif way == "get":
                copy("get", *flags, *ours, os.path.join(base, target))
            else:
                copy("put", *flags, *(os.path.join(server.tree, name) for name in names), f"{server.path}:/{number}put/{target}")
            found.append({name: (entry[0], entry[5]) for name, entry in look(base).items()})
        assert found[0] == found[1] == found[2], (sources, target)


@pytest.mark.slow
def test_what_differs_is_copied_and_what_only_looks_so_gets_its_mode(server: Server, place: Path) -> None:
    for name in ("same", "longer", "newer", "mode"):
        (server.tree / name).write_text(name)
    copy("get", "-r", f"{server.path}:/.", place / "t")
    inode = (place / "t/same").stat().st_ino, (place / "t/mode").stat().st_ino
    (server.tree / "longer").write_text("longer now")
    os.utime(server.tree / "newer", ns=(5, 5))
    os.chmod(server.tree / "mode", 0o600)
    os.chown(server.tree / "mode", 1000, 1000)
    copy("get", "-r", f"{server.path}:/.", place / "t")
    equal(server.tree, place / "t")
    assert inode == ((place / "t/same").stat().st_ino, (place / "t/mode").stat().st_ino)
    copy("put", "-r", f"{place}/t/.", f"{server.path}:/")
    equal(server.tree, place / "t")


@pytest.mark.slow
def test_update_leaves_alone_what_is_newer(server: Server, place: Path) -> None:
    for tree in (server.tree, place):
        for name in ("older", "newer"):
            (tree / name).write_text(f"{tree.name} {name}")
    os.utime(place / "older", ns=(5, 5))
    os.utime(server.tree / "newer", ns=(5, 5))
    copy("get", "-r", "--update", f"{server.path}:/.", place)
    assert (place / "older").read_text() == f"{server.tree.name} older"
    assert (place / "newer").read_text() == f"{place.name} newer"


@pytest.mark.slow
@pytest.mark.parametrize("way", ["get", "put"])
def test_delete_makes_a_mirror_of_what_is_not_excluded(server: Server, place: Path, way: str) -> None:
    source, target = (server.tree, place / "t") if way == "get" else (place / "t", server.tree)
    for name in ("a/b/c", "kind/x", "keep/y"):
        (source / name).mkdir(parents=True)
    (source / "file").write_text("new")
    (source / "skip.o").write_text("not to be copied")
    for name in ("a/gone/deep/er", "file/is/a/directory", "keep/out"):
        (target / name).mkdir(parents=True)
    (target / "a/gone/file").write_text("x")
    (target / "kind").mkdir(exist_ok=True)
    (target / "kind/x").write_text("a file, and a directory there")
    os.symlink("/etc", target / "a/link")
    for name in ("mine.o", "keep/mine.o"):
        (target / name).write_text("stays")
    words = [f"{server.path}:/.", target] if way == "get" else [f"{source}/.", f"{server.path}:/"]
    before = look(target)
    done = run(way, "-r", "-n", "--delete", "--exclude=*.o", "--exclude=keep/out", *map(str, words))
    assert done.returncode == 0 and look(target) == before
    told = {line.split()[0] + " " + line.rsplit("/", 1)[1] for line in done.stdout.splitlines()}
    assert told >= {"delete gone", "delete link", "delete file", "delete x", "copy file", "make b"}, done.stdout
    copy(way, "-r", "--delete", "--exclude=*.o", "--exclude=keep/out", *words)
    left = {name for name in look(target) if name not in look(source)}
    assert left == {b"mine.o", b"keep/mine.o", b"keep/out"} and b"skip.o" not in look(target)
    assert (target / "file").read_text() == "new" and (target / "kind/x").is_dir() and Path("/etc/passwd").exists()


@pytest.mark.slow
def test_what_is_in_the_way_stays_without_delete_and_the_rest_goes_on(server: Server, place: Path) -> None:
    (server.tree / "a").mkdir()
    for name in ("a/file", "b", "c"):
        (server.tree / name).write_text("new")
    (place / "a").write_text("a file")
    (place / "b/kept").mkdir(parents=True)
    done = copy("get", "-r", f"{server.path}:/.", place, status=1)
    assert sorted(done.stderr.splitlines()) == [
        "gofer: get /a: a file of that name is in its place, and stays: --delete removes it",
        "gofer: get /b: a directory of that name is in its place, and stays: --delete removes it",
    ]
    assert (place / "a").read_text() == "a file" and (place / "b/kept").is_dir() and (place / "c").read_text() == "new"


@pytest.mark.slow
def test_verify_finds_what_size_and_time_do_not_tell(server: Server, place: Path) -> None:
    (server.tree / "f").write_bytes(b"x" * 3_000_000)
    copy("get", f"{server.path}:/f", place)
    status = (place / "f").stat()
    with open(place / "f", "r+b") as file:
        file.seek(1_500_000)
        file.write(b"y")
    os.utime(place / "f", ns=(status.st_atime_ns, status.st_mtime_ns))
    copy("get", f"{server.path}:/f", place)
    assert b"y" in (place / "f").read_bytes()
    copy("get", "--verify", f"{server.path}:/f", place)
    equal(server.tree, place)


@pytest.mark.slow
def test_hard_links_are_made_anew_where_they_have_come_apart(server: Server, place: Path) -> None:
    (server.tree / "a").write_text("one file")
    for name in ("b", "c"):
        os.link(server.tree / "a", server.tree / name)
    copy("get", "-r", f"{server.path}:/.", place)
    (place / "b").unlink()
    shutil.copy2(place / "a", place / "b")
    assert (place / "b").stat().st_nlink == 1
    copy("get", "-r", f"{server.path}:/.", place)
    equal(server.tree, place)


@pytest.mark.slow
@pytest.mark.serve("--donate", "no")
def test_what_the_kernel_makes_up_has_no_size_and_is_copied_all_the_same(start: Start, place: Path) -> None:
    server = start("--kernel-files", "read", "--donate", "no", tree=Path("/proc"))
    copy("get", f"{server.path}:/version", place)
    assert (place / "version").read_bytes() == Path("/proc/version").read_bytes()


@pytest.mark.slow
def test_what_is_no_file_is_made_or_told(server: Server, place: Path) -> None:
    os.mkfifo(server.tree / "fifo", 0o640)
    os.mknod(server.tree / "char", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(server.tree / "block", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(server.tree / "sock"))
    (server.tree / "file").write_text("x")
    done = copy("get", "-r", f"{server.path}:/.", place, status=1)
    assert sorted(done.stderr.splitlines()) == [
        "gofer: get /block: Operation not permitted",
        "gofer: get /char: it is a character device: not copied",
        "gofer: get /sock: it is a socket: not copied",
    ]
    assert sorted(path.name for path in place.iterdir()) == ["fifo", "file"]
    assert (place / "fifo").stat().st_mode == (server.tree / "fifo").stat().st_mode
    done = copy("put", "-r", place / "fifo", f"{server.path}:/new", status=1)
    assert done.stderr == f"gofer: put {place}/fifo: it is a FIFO, and that side makes none: not copied\n"


@pytest.mark.slow
def test_a_user_gets_what_is_to_be_had_as_his_own(start: Start, spot: Path, place: Path) -> None:
    fill(spot, 1)
    os.chmod(spot, 0o755)
    server = start("--allow-uid", str(USER), "--allow-uid", "0", "--mode", "0666")
    os.chmod(server.place, 0o755)
    os.chown(place, USER, USER)
    with as_user(USER) as (command, how):
        words = [*command, "get", "-r", f"{server.path}:/.", f"{place}/t", "-q"]
        done = subprocess.run(words, capture_output=True, timeout=CALM, **how)
    assert done.returncode == 0 and not done.stderr, done
    assert differences(plain(look(place / "t")), plain(look(spot))) == []
    assert {entry[2] for entry in look(place / "t").values()} == {USER}


def plain(found: "dict[bytes, tuple[object, ...]]") -> "dict[bytes, tuple[object, ...]]":
    """Without owners, and links between directories that the user has shut to himself."""
    return {name: (*entry[:2], *entry[4:7]) for name, entry in found.items()}


@pytest.mark.slow
def test_a_tree_arrives_whole_from_another_host_and_there(spot: Path, place: Path) -> None:
    source, there = spot / "source", spot / "there"
    source.mkdir()
    fill(source, 3)
    with sshd(spot / "sshd", "SetEnv PATH=/usr/bin:/bin\n") as server:
        copy("get", "-r", "--ssh", server.command, f"{HOST}:{source}/.", place / "t")
        copy("put", "-r", "--ssh", server.command, f"{place}/t", f"{HOST}:{there}")
    equal(source, place / "t")
    equal(source, there)


FAR = """#!{python}
import os, subprocess, sys, threading
process = subprocess.Popen(sys.argv[-1], shell=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
came = []
def there():
    while data := os.read(0, 1 << 20):
        came.append(len(data))
        process.stdin.write(data)
        process.stdin.flush()
    process.stdin.close()
threading.Thread(target=there, daemon=True).start()
while data := os.read(process.stdout.fileno(), 1 << 20):
    os.write(1, data)
process.wait()
with open({counts!r}, "w") as file:
    file.write(str(len(came)))
"""


@pytest.mark.slow
def test_small_files_do_not_each_wait_for_the_way_to_another_host_and_back(spot: Path, place: Path) -> None:
    """Counted is how often something is sent: a way that takes 20 ms had taken 46 for each file, where each waited twice."""
    for number in range(300):
        (spot / f"f{number}").write_text("x" * number)
    ssh, counts = place / "ssh", place / "counts"
    ssh.write_text(FAR.format(python=sys.executable, counts=str(counts)))
    ssh.chmod(0o755)
    how = ["--ssh", ssh, "--remote-gofer=never", "--remote-command", " ".join(GOFER)]
    for way, words in (("get", [f"host:{spot}", place / "t"]), ("put", [place / "t", f"host:{place}/u"])):
        copy(way, "-r", *how, *words)
        assert int(counts.read_text()) < 100, way
    equal(spot, place / "u")


@pytest.mark.slow
def test_where_files_can_share_blocks_a_copy_takes_no_room(start: Start, place: Path) -> None:
    with xfs() as disk:
        (disk / "big").write_bytes(os.urandom(1 << 20) * 40)
        os.sync()
        before = os.statvfs(disk).f_bfree
        with serving(disk) as server:
            copy("get", f"{server.path}:/big", disk / "got")
            copy("put", disk / "big", f"{server.path}:/put")
        os.sync()
        assert before - os.statvfs(disk).f_bfree < 1000  # of 4 KiB: what a file is beside its contents
        assert (disk / "got").read_bytes() == (disk / "big").read_bytes() == (disk / "put").read_bytes()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_tree(server: Server, place: Path) -> None:
    """In one directory, and in many. COPY_NAMES=1000000: as many as it was tried with by hand."""
    count = int(os.environ.get("COPY_NAMES", "6000"))
    (server.tree / "small").mkdir()
    (server.tree / "all").mkdir()
    tree = server.tree / "all"
    for number in range(count):
        if number >= count // 2 and not number % 100:
            (tree / f"d{number}").mkdir()
        below = "" if number < count // 2 else f"d{number - number % 100}/"
        path = f"{tree}/{below}f{number}"
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    code = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
    code += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"  # asked by a small process: a fork counts, too
    least = 0
    for words in (  # not `ls`, which has one directory in memory
        ["find", f"{server.path}:/small"], ["find", f"{server.path}:/all"], ["du", f"{server.path}:/all"],
        ["get", "-rn", f"{server.path}:/all", f"{place}/t"], ["put", "-rn", str(tree), f"{server.path}:/none"],
        ["get", "-rq", f"{server.path}:/all", f"{place}/t"], ["put", "-rq", str(tree), f"{server.path}:/put"],
        ["tar", "-c", f"{server.path}:/all"],
    ):  # fmt: skip
        argv = [sys.executable, "-c", code, *GOFER, *words]
        peak = int(subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=CALM).stdout)
        least = least or peak
        assert peak < 64 << 10 and peak - least < 14 << 10, (words, peak, least)


def test_small_files_are_synced_one_by_one_where_no_fd_of_their_disk_is_to_be_had(start: Start, spot: Path, place: Path) -> None:
    """As on FUSE, whose fds a copy does not touch: the server syncs each as it makes it, from the second time on."""
    for number in range(600):
        (place / f"f{number}").write_bytes(b"%d" % number * 100)
    (spot / "tree").mkdir()
    server = start(f"--trace-out={spot / 'trace'}", "--workers=1", tree=spot / "tree")
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
        "from gofer.copy import files; files._NO_DISK = type('All', (), {'__contains__': lambda *_: True})()\n"
        "from gofer.cli import main; main(sys.argv[1:])"
    )
    subprocess.run([sys.executable, "-c", code, "put", "-rq", str(place), f"{server.path}:/copy"], check=True, timeout=CALM)
    equal(place, spot / "tree/copy")
    server.process.terminate()
    assert server.wait() == 0
    lines = run("replay", str(spot / "trace")).stdout.splitlines()
    assert sum("FSync(" in line for line in lines) >= 256 and not any("PWrite(" in line for line in lines)
    assert any(re.search(r"DirWrite\(.*flags=(0x)?1\b", line) for line in lines)


# What goes wrong


@pytest.mark.slow
@pytest.mark.parametrize(
    "words, told",
    [
        (["get", ":/f"], ["get: where to?", "--help"]),
        (["get", ":/f", ":/d", "{place}/none"], ["{place}/none: it is no directory to copy into"]),
        (["get", ":/none", "{place}"], ["get /none: No such file or directory"]),
        (["get", ":/f/x", "{place}"], ["get /f/x: Not a directory"]),
        (["get", ":/f", "{place}/no/where"], ["get: cannot copy into {place}/no: No such file or directory"]),
        (["get", ":/f", "{place}/none/"], ["{place}/none/: it is no directory to copy into"]),
        (["get", ":/d", "{place}"], ["get /d: it is a directory: -r copies it"]),
        (["get", "--delete", ":/f", "{place}"], ["--delete makes a directory like another: it needs -r"]),
        (["put", "{place}/none", ":/"], ["put {place}/none: No such file or directory"]),
        (["put", "{place}", ":/"], ["put {place}: it is a directory: -r copies it"]),
        (["put", "{place}/f", ":/no/where"], ["put: there is no place for /no/where on the server: No such file or directory"]),
        (["put", "{place}/f", "{place}/f", ":/none"], [":/none: it is no directory to copy into"]),
        (["put", "{place}/f", "{place}/nobody:/"], ["{place}/nobody", "gofer serve"]),
    ],
)
def test_what_cannot_be_copied_is_one_line(server: Server, place: Path, words: "list[str]", told: "list[str]") -> None:
    (server.tree / "d").mkdir()
    for tree in (server.tree, place):
        (tree / "f").write_text("x")
    words = [word.format(place=place) for word in words]
    done = run(*words, "-q", env={**os.environ, "GOFER_SOCKET": str(server.path)})
    fails_in_one_line(done, *(word.format(place=place) for word in told))
    assert not parts(place) and not parts(server.tree)


@pytest.mark.slow
def test_a_server_that_takes_no_change_tells_how_it_would(start: Start, spot: Path, place: Path) -> None:
    (place / "f").write_text("x")
    server = start("--read-only")
    done = run("put", str(place / "f"), f"{server.path}:/", "-q")
    fails_in_one_line(done, f"put {place}/f: Read-only file system", "--read-only")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["get", "put"])
def test_a_full_disk_costs_what_does_not_fit_and_nothing_half_stays(start: Start, spot: Path, place: Path, way: str) -> None:
    with tmpfs("2M") as small:
        source, target = (spot, small) if way == "get" else (place, small)
        (source / "big").write_bytes(b"x" * 4_000_000)
        (source / "small").write_bytes(b"y" * 1000)
        server = start(tree=small if way == "put" else spot)
        words = [f"{server.path}:/.", small] if way == "get" else [f"{place}/.", f"{server.path}:/"]
        done = copy(way, "-r", *words, status=1)
        assert done.stderr.count("\n") == 1 and "/big: No space left on device" in done.stderr
        assert [path.name for path in target.iterdir()] == ["small"]
        server.stop()
