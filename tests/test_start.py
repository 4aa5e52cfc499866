"""What a start cannot have is told in one line with cause and remedy, status 1; and what it says is so."""

import grp
import os
import pwd
import shutil
import signal
import socket
import stat as modes
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from faulty import faulty
from hosts import CALM, CHECKOUT, GOFER, PATIENCE, children, connects, fails_in_one_line, run, serves, wait_until
from prison import PYTHON, USER, as_user
from test_doctor import mounted

from gofer.server.workers import Crew

GROUP = 4321
PROGRAM = (PYTHON, "-B")


def inside(script: str, *argv: object) -> "subprocess.CompletedProcess[str]":
    """Run a shell script in a mount namespace of its own; "$@" is the program with argv."""
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *GOFER, *map(str, argv)]
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM)


@pytest.fixture
def tree(spot: Path) -> Path:
    (spot / "tree").mkdir()
    return spot / "tree"


# What cannot be served


def test_a_fuse_mount_whose_server_died_is_told_with_how_to_mend_it(spot: Path) -> None:
    with faulty() as broken:
        broken.vanish()
        done = run("serve", str(broken.path), "--socket", str(spot / "s"))
    fails_in_one_line(done, "Transport endpoint is not connected", "fusermount -u")
    assert not (spot / "s").exists()


@pytest.mark.parametrize("what", ["the tree", "a directory in the tree", "the socket's directory"])
def test_a_start_that_waits_for_a_file_system_ends_by_sigterm(what: str, spot: Path) -> None:
    (spot / "tree").mkdir()
    with faulty() as broken:
        broken.freeze()
        tree, path = broken.path / ("dir" if "in" in what else ""), spot / "s"
        if "socket" in what:
            tree, path = spot / "tree", broken.path / "dir/s"
        with subprocess.Popen([*GOFER, "serve", str(tree), "--socket", str(path)]) as server:
            wait_until(lambda: "fuse" in Path(f"/proc/{server.pid}/stack").read_text(), "it waits for the file system")
            server.terminate()
            assert server.wait(PATIENCE) == -signal.SIGTERM
    assert os.listdir(spot) == ["tree"]


@pytest.mark.parametrize("path", [".", "..", "sub"])
def test_a_directory_that_was_removed_meanwhile_is_told(path: str, spot: Path) -> None:
    script = f'mkdir -p {spot}/gone/sub && cd {spot}/gone/sub && rm -r {spot}/gone && exec "$@"'
    fails_in_one_line(inside(script, "serve", path, "--socket", spot / "s"), f"cannot serve {path}", "exists")
    assert os.listdir(spot) == []


def test_the_working_directory_matters_to_relative_paths_only(tree: Path, spot: Path) -> None:
    script = f'mkdir {spot}/gone && cd {spot}/gone && rm -r {spot}/gone && exec "$@"'
    fails_in_one_line(
        inside(script, "serve", tree, "--socket", "s"), "cannot make the socket s", "change to one that exists"
    )
    done = inside(script, "serve", tree, "--socket", spot / "s", "--", "true")
    assert done.returncode == 0 and f"the directory {tree} " in done.stderr


@pytest.mark.parametrize(
    "cover",
    ["umount -l /proc", "mount -t tmpfs none /proc", "mount -t tmpfs none /proc && mkdir -p /proc/self/fd"],
    ids=["none", "another", "one that looks alike"],
)
def test_proc_that_is_missing_or_covered_is_told(cover: str, tree: Path, spot: Path) -> None:
    script = f'{cover} && exec "$@"'
    fails_in_one_line(inside(script, "serve", tree, "--socket", spot / "s"), "/proc", "mount -t proc proc /proc")
    assert os.listdir(spot) == ["tree"]
    done = inside(script, "doctor")
    assert done.returncode == 1 and done.stderr.count("\n") <= 1 and "/proc" in done.stdout + done.stderr


def test_a_group_of_which_the_user_is_no_member_is_told(tree: Path, spot: Path) -> None:
    os.chown(spot, USER, USER)
    with as_user(USER) as (command, popen):
        argv = [*command, "serve", str(tree), "--socket", str(spot / "s"), "--group", str(GROUP)]
        done = subprocess.run(argv, capture_output=True, text=True, **popen)
    fails_in_one_line(done, f"group {GROUP}", "no member")
    assert os.listdir(spot) == ["tree"]


@pytest.mark.parametrize("numbers", [(3, 3), (3, 4, 3), (4294967294,)], ids=str)
def test_fds_that_are_named_twice_or_cannot_be_are_told(numbers: "tuple[int, ...]", tree: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        names = [theirs.fileno() if number == 3 else ours.fileno() if number == 4 else number for number in numbers]
        options = [word for name in names for word in ("--fd", str(name))]
        done = run("serve", str(tree), *options, pass_fds=[theirs.fileno(), ours.fileno()])
    fails_in_one_line(done, f"fd {names[0]}", "--fd")


def test_an_fd_that_systemd_passes_as_well_is_told(tree: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        script = f'exec 3<&{theirs.fileno()}; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@" --fd 3'
        argv = ["bash", "-c", script, "sh", *GOFER, "serve", str(tree)]
        done = subprocess.run(argv, capture_output=True, text=True, pass_fds=[theirs.fileno()])
    fails_in_one_line(done, "fd 3", "more than once")


@pytest.mark.parametrize("count", ["1", "99999999999999999999999", "\xb2"])
def test_fds_that_systemd_does_not_pass_are_told(count: str, tree: Path, spot: Path) -> None:
    script = f'LISTEN_FDS={count} LISTEN_PID=$$ exec "$@" --socket {spot}/s -- true'
    done = subprocess.run(["sh", "-c", script, "sh", *GOFER, "serve", tree], capture_output=True, text=True)
    if count.isascii():
        fails_in_one_line(done, "LISTEN_FDS names fd 3", ".socket unit")
    else:
        assert done.returncode == 0


# What a host may be short of


def test_a_low_limit_of_open_files_is_told_with_what_is_enough(tree: Path, spot: Path) -> None:
    done = inside('ulimit -n 16 && exec "$@"', "serve", tree, "--socket", spot / "s")
    fails_in_one_line(done, "16 open files", "ulimit -Hn", "80")
    assert os.listdir(spot) == ["tree"]


@pytest.mark.parametrize("jail", ["auto", "off"])
def test_a_limit_of_processes_is_told_with_how_to_raise_it(jail: str, tree: Path, spot: Path) -> None:
    os.chown(spot, USER, USER)
    os.chown(tree, USER, USER)
    with as_user(USER) as (command, popen):
        argv = [
            "prlimit",
            "--nproc=1",
            *command,
            "serve",
            str(tree),
            "--socket",
            str(spot / "s"),
            "--workers=2",
            f"--jail={jail}",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, **popen)
    fails_in_one_line(done, "Resource temporarily unavailable", "ulimit -u")
    assert os.listdir(spot) == ["tree"]


def test_a_limit_that_leaves_no_thread_is_told_likewise(tree: Path) -> None:
    os.chown(tree, USER, USER)
    ours, theirs = socket.socketpair()
    with ours, theirs, as_user(USER) as (command, popen):
        argv = [
            "prlimit",
            "--nproc=1",
            *command,
            "serve",
            str(tree),
            "--fd",
            str(theirs.fileno()),
            "--jail=off",
            "--quiet",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, pass_fds=[theirs.fileno()], timeout=CALM, **popen)
    fails_in_one_line(done, "cannot start a thread", "ulimit -u")


def test_a_file_system_without_room_for_a_socket_is_told(tree: Path, spot: Path) -> None:
    (spot / "place").mkdir()
    with mounted(spot / "place", "tmpfs", "nr_inodes=1"):
        fails_in_one_line(run("serve", str(tree), "--socket", str(spot / "place/s")), "No space left", "make room")


def test_there_may_be_more_workers_than_counters_fit_on_a_page() -> None:
    assert Crew(5000, 5000).size == 5000


# Pythons that will not do


@pytest.fixture
def minimal(spot: Path) -> Iterator[Path]:
    """Debian's python3-minimal without the rest of python3, by its own packages' lists of files."""
    version = subprocess.run(
        [PYTHON, "-c", "import sys; print('3.%d' % sys.version_info[1])"], capture_output=True, text=True
    )
    names = f"python{version.stdout.strip()}-minimal"
    listed = subprocess.run(["dpkg", "-L", names, f"lib{names}"], capture_output=True, text=True, check=True).stdout
    root = spot / "minimal"
    for line in listed.splitlines():
        if not os.path.isdir(line) and line.startswith(("/usr/bin/", "/usr/lib/python3")):
            (root / line[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(line, root / line[1:], follow_symlinks=False)
    yield root / "usr/bin" / f"python{version.stdout.strip()}"
    shutil.rmtree(root)


def test_a_python_without_all_of_its_library_is_told_by_every_command(minimal: Path, tree: Path, spot: Path) -> None:
    for command in (
        "serve tree --socket s",
        "ls s",
        "cat s x",
        "stat s",
        "doctor",
        "doctor --self-test .",
        "runsc -- run x",
    ):
        argv = [minimal, "-BIS", CHECKOUT, *command.split()]
        done = subprocess.run(argv, cwd=spot, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        fails_in_one_line(done, "No module named", "python3-minimal")


def test_an_interpreter_other_than_cpython_is_told(tree: Path) -> None:
    done = subprocess.run(["pypy3", CHECKOUT, "serve", tree], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    fails_in_one_line(done, "needs CPython", "pypy", "python3 -IS")


@pytest.mark.parametrize("command", ["ls", "doctor"])
def test_output_that_cannot_be_written_is_told(command: str, start: Start) -> None:
    server = start()
    words = [*GOFER, *command.split(), *([str(server.path)] if command == "ls" else [])]
    (server.tree / "file").touch()
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "No space left" in done.stderr, done.stderr


# What it says, and hands on


@pytest.mark.parametrize("path", ["s", "./s", "sub/s", "../tree/s"])
def test_a_command_finds_the_socket_wherever_it_goes(path: str, tree: Path) -> None:
    (tree / "sub").mkdir()
    look = f"cd / && exec {' '.join(GOFER)} ls"
    done = run("serve", ".", "--quiet", "--socket", path, "--", "sh", "-c", look, cwd=tree)
    assert (done.returncode, done.stderr) == (0, "") and "sub" in done.stdout
    assert os.listdir(tree) == ["sub"] and os.listdir(tree / "sub") == []


def test_a_relative_path_too_long_to_be_handed_on_is_told(tree: Path) -> None:
    name = "s" * 80
    fails_in_one_line(run("serve", ".", "--socket", name, "--", "true", cwd=tree), "107 bytes", "shorter --socket")
    with subprocess.Popen([*GOFER, "serve", ".", "--socket", name, "--quiet"], cwd=tree) as server:
        here = os.open(".", os.O_PATH)
        try:
            os.chdir(tree)
            wait_until(lambda: serves(Path(name)), "it serves there all the same")
        finally:
            os.fchdir(here)
            os.close(here)
            server.terminate()
    assert server.returncode == 0 and os.listdir(tree) == []


@pytest.mark.parametrize("option", ["--socket=", "--group="])
def test_an_empty_value_is_wrong_usage(option: str, tree: Path) -> None:
    done = run("serve", str(tree), option, "--", "true")
    assert done.returncode == 2 and "must not be empty" in done.stderr


@pytest.mark.parametrize("path", ["place/", ".", "place/.."])
def test_a_socket_path_without_a_files_name_is_told(path: str, spot: Path) -> None:
    (spot / "place").mkdir()
    fails_in_one_line(run("serve", ".", "--socket", path, cwd=spot), f"{path} is a directory")


def test_a_users_command_needs_no_runtime_directory(tree: Path, spot: Path) -> None:
    os.chown(tree, USER, USER)
    os.chmod(spot, 0o777)
    with as_user(USER) as (command, popen):
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(spot)}
        show = [
            *command,
            "serve",
            str(tree),
            "--quiet",
            "--",
            "sh",
            "-c",
            'stat -c "%a %F" "${GOFER_SOCKET%/*}" "$GOFER_SOCKET"',
        ]
        done = subprocess.run(show, env=environment, capture_output=True, text=True, **popen)
        assert (done.returncode, done.stdout, done.stderr) == (0, "700 directory\n600 socket\n", "")
        assert os.listdir(spot) == ["tree"]
        done = subprocess.run([*command, "serve", str(tree)], env=environment, capture_output=True, text=True, **popen)
        fails_in_one_line(done, "/run", "--socket")
        environment["TMPDIR"] = str(spot / "missing")
        done = subprocess.run(show, env=environment, capture_output=True, text=True, **popen)
        fails_in_one_line(done, "missing", "No such file", "--socket")
    assert os.listdir(spot) == ["tree"]


def test_the_temporary_directory_goes_when_the_server_is_killed(tree: Path, spot: Path) -> None:
    os.chown(tree, USER, USER)
    os.chmod(spot, 0o777)
    with as_user(USER) as (command, popen):
        environment = {"PATH": os.environ["PATH"], "TMPDIR": str(spot)}
        argv = [*command, "serve", str(tree), "--quiet", "--workers=1", "--", "sh", "-c", "echo; exec sleep 1000"]
        with subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, **popen) as started:
            assert started.stdout and started.stdout.readline()
            names = lambda: {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in children(started.pid)}  # noqa: E731
            wait_until(lambda: len(names()) == 2 and "sleep" in names(), names)
            below = names()
            other = below.pop("sleep")
            (server,) = below.values()
            os.kill(server, signal.SIGKILL)
            os.kill(other, signal.SIGKILL)
    assert os.listdir(spot) == ["tree"]


@pytest.mark.parametrize("how", ["..", ".", "path", "odd path", "one file"])
def test_the_line_that_says_how_to_look_is_a_command_that_works(how: str, tree: Path, spot: Path) -> None:
    (tree / "something").touch()
    copy = spot / ("an odd 'copy" if how == "odd path" else "copy")
    (copy / "sub").mkdir(parents=True)
    for name in ("gofer", "__main__.py"):
        os.symlink(CHECKOUT / name, copy / name)
    path = str(copy) if "path" in how else how
    if how == "one file":
        path = "./program"
        (copy / "program").touch(0o755)
        (copy / "program").write_text(f'#!/bin/sh\nexec {sys.executable} -B {CHECKOUT} "$@"\n')
    cwd = copy / "sub" if how == ".." else copy
    words = [path] if how == "one file" else [sys.executable, "-B", path]
    log = spot / "log"
    with open(log, "w") as file:
        argv = [*words, "serve", str(tree), "--socket", str(spot / "a socket")]
        with subprocess.Popen(argv, cwd=cwd, stderr=file) as server:
            wait_until(lambda: "look at it with: " in log.read_text(), log.read_text)
            (line,) = [line for line in log.read_text().splitlines() if "look at it with: " in line]
            command = line.partition("look at it with: ")[2]
            shown = subprocess.run(command, shell=True, cwd=cwd, capture_output=True, text=True)
            server.terminate()
    assert "something" in shown.stdout, (command, shown.stderr)
    assert server.returncode == 0


def test_a_tree_on_a_read_only_mount_is_said_to_be_read_only(tree: Path, spot: Path) -> None:
    with mounted(tree, "tmpfs", "ro"):
        said = run("serve", str(tree), "--socket", str(spot / "s"), "--", "true").stderr
    assert f"serves the directory {tree} read-only (as it is mounted) on" in said


# Who may connect


def connect_as(path: Path, user: int, group: int, groups: "list[int]") -> bool:
    """Whether that user is served at path."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups(groups)
            os.setresgid(group, group, group)
            os.setresuid(user, user, user)
            status = int(serves(path))
        except ConnectionError:
            status = 0
        finally:
            os._exit(status)
    return bool(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1)


def test_the_members_of_the_sockets_group_are_served(start: Start) -> None:
    server = start("--group", str(GROUP), "--mode", "0660")
    os.chmod(server.place, 0o755)
    assert connect_as(server.path, USER, GROUP, [])
    assert connect_as(server.path, USER, USER, [7, GROUP])
    assert connect_as(
        server.path, USER, USER, [*range(10000, 10400), GROUP]
    )  # more than Python's getsockopt would fetch
    assert not connect_as(server.path, USER, USER, [7])
    assert f"members of group {GROUP}" in server.said()


@pytest.mark.parametrize("options", [(), ("--mode", "0600"), ("--mode", "0660", "--allow-uid", "root")], ids=str)
def test_where_the_options_do_not_open_the_socket_to_the_group_it_is_not(
    options: "tuple[str, ...]", start: Start
) -> None:
    server = start("--group", str(GROUP), *options)
    os.chmod(server.place, 0o755)
    os.chmod(server.path, 0o666)
    assert not connect_as(server.path, USER, GROUP, [GROUP])
    assert "members" not in server.said()


def test_a_mode_that_opens_more_than_is_served_is_told(start: Start) -> None:
    for mode, told in (("0600", False), ("0640", False), ("0660", True), ("0666", True)):
        assert ("--allow-uid USER" in start("--mode", mode).said()) == told, mode
    assert "--allow-uid USER" not in start("--mode", "0666", "--allow-uid", "root").said()
    assert "--allow-uid USER" not in start("--mode", "0660", "--group", str(GROUP)).said()


def test_users_are_named_or_numbered(start: Start) -> None:
    user = pwd.getpwuid(65534)
    server = start("--mode", "0666", "--allow-uid", user.pw_name, "--allow-uid=root")
    os.chmod(server.place, 0o755)
    assert connect_as(server.path, 65534, 65534, []) and not connect_as(server.path, USER, USER, [])
    assert "may connect: user 0, user 65534;" in server.said()


def test_a_refused_user_is_named_and_no_process_that_is_none(start: Start) -> None:
    """The peer is outside the server's pid namespace, where it has no number."""
    confined, bare = start("--mode", "0666"), start("--mode", "0666", "--jail=off")
    for server in (confined, bare):
        os.chmod(server.place, 0o755)
        assert not connect_as(server.path, USER, USER, [])
    assert f"refused user {USER}: --allow-uid {USER}" in confined.said() and "process 0" not in confined.said()
    assert f"refused user {USER} (process " in bare.said()


@pytest.mark.parametrize(("group", "told_apart"), [(GROUP, True), (65534, False)])
def test_in_a_user_namespace_only_the_group_that_it_knows_is_admitted(
    group: int, told_apart: bool, tree: Path, spot: Path
) -> None:
    """There every group but the server's own reads as 65534, also that of a stranger."""
    for path in (spot, tree):
        os.chown(path, USER, group)
    with as_user(USER) as (command, popen):
        argv = [*command, "serve", str(tree), "--socket", str(spot / "s"), "--group", str(group), "--mode", "0666"]
        popen["group"] = group
        with open(spot / "log", "w") as log, subprocess.Popen([*argv, "--jail=require"], stderr=log, **popen) as server:
            wait_until(lambda: connects(spot / "s"), (spot / "log").read_text)
            assert connect_as(spot / "s", 7777, group, []) == told_apart
            assert not connect_as(spot / "s", 7777, 7777, [])
            server.terminate()
    said = (spot / "log").read_text()
    assert server.returncode == 0, said
    assert "refused a user that the server's user namespace does not know" in said and "process 0" not in said


def test_a_group_by_name_is_the_files(start: Start) -> None:
    name = grp.getgrgid(1).gr_name
    server = start("--group", name, "--mode", "0660")
    assert (os.stat(server.path).st_gid, modes.S_IMODE(os.stat(server.path).st_mode)) == (1, 0o660)
