"""`gofer ls`, `gofer cat`, `gofer stat`."""

import os
import socket
import stat
import subprocess
import time
from pathlib import Path

import disks
import faulty
import pytest
from conftest import Start
from disks import serving
from hosts import CALM, GOFER, Server, fails_in_one_line, run, stopped
from prison import USER, as_user


@pytest.fixture
def served(server: Server) -> Server:
    tree = server.tree
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "file").write_bytes(b"contents\n")
    (tree / "dir/deep").write_bytes(bytes(range(256)) * 4096 * 3)
    os.symlink("file", tree / "link")
    os.symlink("dir", tree / "dirlink")
    os.mkfifo(tree / "fifo")
    with open(os.path.join(os.fsencode(tree), b"odd\xff\x1b[31m\nname"), "w"):
        pass
    return server


def test_ls_lists_a_directory(served: Server) -> None:
    done = subprocess.run([*GOFER, "ls", "-l", f"{served.path}:"], capture_output=True, timeout=CALM)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = done.stdout.split(b"\n")[1:]
    assert any(line.startswith(b"d") and line.endswith(b" dir") for line in lines)
    assert any(line.startswith(b"-rw") and b" 9 " in line and line.endswith(b" file") for line in lines)
    assert any(line.startswith(b"l") and line.endswith(b" link -> file") for line in lines)
    assert any(line.startswith(b"p") and line.endswith(b" fifo") for line in lines)
    assert run("ls", f"{served.path}:/dir").stdout == "deep\nsub\n"
    assert run("ls", f"{served.path}:file").stdout == "file\n"


def test_cat_prints_a_file_byte_for_byte(served: Server) -> None:
    done = subprocess.run([*GOFER, "cat", str(served.path), "/dir/deep"], capture_output=True, timeout=CALM)
    assert done.returncode == 0 and done.stdout == bytes(range(256)) * 4096 * 3


def test_stat_shows_attributes(served: Server) -> None:
    done = run("stat", str(served.path), "/file")
    assert done.returncode == 0
    assert "regular file" in done.stdout and "Size: 9 " in done.stdout
    assert str(os.stat(served.tree / "file").st_ino) in done.stdout
    assert "directory" in run("stat", str(served.path)).stdout
    assert "symbolic link" in run("stat", f"{served.path}:link").stdout  # itself, as stat(1) does
    assert "regular file" in run("stat", "-L", f"{served.path}:link").stdout


def test_links_are_followed_within_the_tree(served: Server) -> None:
    assert run("cat", f"{served.path}:link").stdout == "contents\n"
    assert run("ls", f"{served.path}:dirlink").stdout == "deep\nsub\n"
    assert run("ls", str(served.path), "dirlink/../link").stdout == "dirlink/../link\n"


def test_the_socket_may_come_from_the_environment(served: Server) -> None:
    environment = {**os.environ, "GOFER_SOCKET": str(served.path)}
    assert run("cat", "/file", env=environment).stdout == "contents\n"
    assert run("ls", ":dir", env=environment).stdout == "deep\nsub\n"
    assert "directory" in run("stat", env=environment).stdout


@pytest.mark.parametrize(
    "argv,status,words",
    [
        (["cat", "/missing"], 1, ["missing", "No such file"]),
        (["ls", "/missing"], 2, ["missing", "No such file"]),  # as ls(1)
        (["stat", "/file/x"], 1, ["Not a directory"]),
        (["cat", "/dir"], 1, ["Is a directory"]),
        (["cat", "/fifo"], 1, ["not permitted", "a server opens these with --host-fifo=open only"]),
        (["cat", "/dangling"], 1, ["/dangling", "No such file"]),
        (["cat", "/loop"], 1, ["/loop", "Too many levels of symbolic links"]),
        (["ls", "/dir/" + "n" * 256], 2, ["File name too long"]),
        (["stat", "-c", "%q", "/file"], 1, ["%q is nothing that gofer stat tells", "man 1 stat"]),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(served: Server, argv: list[str], status: int, words: list[str]) -> None:
    os.symlink("nothing", served.tree / "dangling")
    os.symlink("loop", served.tree / "loop")
    done = run(*argv[:-1], f"{served.path}:{argv[-1]}")
    assert done.returncode == status
    done.returncode = 1
    fails_in_one_line(done, *words)


def test_an_entry_that_cannot_be_looked_at_costs_no_other(spot: Path) -> None:
    for name in ("a", "zz"):
        (spot / name).touch()
    os.mknod(spot / "block", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    with faulty.faulty(spot) as dead, serving(spot) as server:
        mount = dead.path.name
        dead.vanish()
        done = run("ls", "-l", str(server.path))
        lines = done.stdout.splitlines()[1:]
        assert done.returncode == 1 and [line.split()[-1] for line in lines] == ["a", "block", mount, "zz"]
        assert lines[1].startswith("b????????? ") and lines[2].startswith("d????????? ")
        assert sorted(done.stderr.splitlines()) == [
            "gofer: ls /block: Operation not permitted; block devices are never served, and what the kernel makes up only with "
            "--kernel-files",
            f"gofer: ls /{mount}: Transport endpoint is not connected",
        ]
        done = run("ls", str(server.path), mount)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"gofer: ls {mount}: Transport endpoint is not connected\n"


@pytest.mark.parametrize("seconds", [2**62, -(2**62), 2**55, -(2**36), -1])
def test_times_beyond_the_c_librarys_range_are_shown(seconds: int) -> None:
    with disks.tmpfs("1M") as place:
        (place / "far").touch()
        os.utime(place / "far", (0, seconds))
        with serving(place) as server:
            listed, told = run("ls", "-l", "--full-time", str(server.path)), run("stat", str(server.path), "far")
    assert (listed.returncode, told.returncode) == (0, 0), listed.stderr + told.stderr
    when = str(seconds) if abs(seconds) > 2**56 else time.strftime("%Y-%m-%d %H:%M:%S.000000000 %z", time.localtime(seconds))
    assert f" {when} far\n" in listed.stdout and f"Modify: {when}" in told.stdout


def test_without_a_server_the_remedy_is_told(spot: Path) -> None:
    fails_in_one_line(run("ls", str(spot / "nobody")), "nobody", "gofer serve")
    environment = {name: value for name, value in os.environ.items() if name != "GOFER_SOCKET"}
    fails_in_one_line(run("ls", env=environment), "GOFER_SOCKET")


def test_what_is_at_the_path_but_takes_no_connection_is_told(spot: Path) -> None:
    (spot / "file").touch()
    with socket.socket(socket.AF_UNIX) as ended, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        ended.bind(str(spot / "ended"))
        other.bind(str(spot / "datagrams"))
        for name, *words in (
            ("file", "it is not a socket"),
            ("ended", "has ended", "gofer serve"),
            ("datagrams", "no gofer's"),
            ("nowhere/s", "No such file", "gofer serve"),
            ("file/s", "Not a directory"),
            ("s" * 108, "at most 107 bytes"),
        ):
            fails_in_one_line(run("ls", str(spot / name)), f"cannot connect to {spot}/{name}: ", *words)


def test_a_server_that_takes_nobody_more_is_given_up_after_the_timeout(spot: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(spot / "s"))
        listener.listen(0)
        first.connect(str(spot / "s"))
        done = run("ls", str(spot / "s"), "--timeout", "0.2")
    fails_in_one_line(done, f"cannot connect to {spot}/s", "not taken the connection within 0.2 s")


def test_a_server_that_does_not_answer_is_given_up_after_the_timeout(start: Start) -> None:
    server = start()
    with stopped(server.pid):
        done = run("cat", str(server.path), "file", "--timeout=0.2")
    fails_in_one_line(done, f"{server.path}: no answer within 0.2 s", "--timeout")


def test_a_user_who_is_not_let_in_reads_why(start: Start) -> None:
    server = start("--mode", "0666")
    os.chmod(server.place, 0o755)
    with as_user(USER) as (command, popen):
        done = subprocess.run([*command, "ls", server.path], capture_output=True, text=True, timeout=CALM, **popen)
    fails_in_one_line(done, "hung up without an answer", f"user {USER}", "--allow-uid", "its log says why")
    assert f"--allow-uid {USER}" in server.said()


def test_a_user_who_may_not_open_the_socket_reads_what_decides_that(start: Start) -> None:
    server = start()
    for mode, place in ((0o755, server.place), (0o700, server.place)):
        os.chmod(place, mode)
        with as_user(USER) as (command, popen):
            done = subprocess.run([*command, "ls", server.path], capture_output=True, text=True, timeout=CALM, **popen)
        fails_in_one_line(done, f"cannot connect to {server.path}: Permission denied", "--mode", "directory")


def test_a_server_that_is_full_is_told_as_that(start: Start) -> None:
    server = start("--max-connections", "1")
    with server.peer():
        fails_in_one_line(run("ls", str(server.path)), "hung up without an answer", "--max-connections")


def test_an_error_of_mount_is_no_error_of_connecting() -> None:
    with faulty.faulty() as broken, serving(broken.path) as server:
        broken.vanish()
        done = run("ls", str(server.path))
    fails_in_one_line(done, f"{server.path}: the server answers, but cannot read what it serves", "not connected")


def test_a_reader_that_has_enough_is_no_error_worth_a_traceback(served: Server) -> None:
    with subprocess.Popen(
        [*GOFER, "cat", str(served.path), "/dir/deep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as cat:
        assert cat.stdout is not None and cat.stderr is not None
        cat.stdout.read(10)
        time.sleep(0.05)
        cat.stdout.close()
        assert b"Traceback" not in cat.stderr.read()
