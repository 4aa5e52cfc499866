"""The command line: wrong usage, what cannot be served, sockets, COMMAND, and looking at what is served."""

import grp
import json
import os
import signal
import socket
import stat as modes
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Start
from hosts import GOFER, Server, over_socket_of, run, wait_until
from peer import over_socket

NOBODY = 65534


def fails_in_one_line(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """Exit status 1, and one line on stderr that holds each of words."""
    assert done.returncode == 1, done
    assert done.stdout == ""
    assert done.stderr.startswith("gofer: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr, f"{word!r} is not in {done.stderr!r}"


@pytest.mark.parametrize(
    "argv",
    [
        [], ["nonsense"], ["serve"], ["serve", ".", "extra"], ["serve", ".", "--nonsense"], ["serve", ".", "--"],
        ["serve", ".", "--host-uds", "some"], ["serve", ".", "--host-fifo=all"], ["serve", ".", "--char-devices", "x"],
        ["serve", ".", "--xattrs", "few"], ["serve", ".", "--donate", "maybe"], ["serve", ".", "--channels", "-1"],
        ["serve", ".", "--channels", "many"], ["serve", ".", "--max-connections", "0"], ["serve", ".", "--mode", "rw"],
        ["serve", ".", "--mode", "1777"], ["serve", ".", "--mode", "9"], ["serve", ".", "--fd", "x"], ["serve", ".", "--fd", "-1"],
        ["serve", ".", "--fd-limit", "9" * 30], ["serve", ".", "--fd", "9" * 30], ["serve", ".", "--allow-uid", "4294967295"],
        ["serve", ".", "--fd-limit", "0"], ["serve", ".", "--fd-limit", "lots"], ["serve", ".", "--log-level", "loud"],
        ["serve", ".", "--log-format", "xml"], ["serve", ".", "--allow-uid", "root"], ["serve", ".", "--socket"],
        ["serve", ".", "--read-only=yes"], ["serve", ".", "--read"], ["ls", "a", "b", "c"], ["cat", "--nonsense"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_status_two_and_a_usage_line(argv: list[str]) -> None:
    done = run(*argv)
    assert done.returncode == 2
    assert done.stdout == "" and "usage: " in done.stderr and "Traceback" not in done.stderr


def test_the_version_is_told() -> None:
    from gofer import __version__

    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"gofer {__version__}\n")


@pytest.mark.parametrize("argv", [["--help"], ["serve", "--help"], ["ls", "--help"], ["cat", "--help"], ["stat", "--help"]])
def test_help_is_on_stdout_and_names_every_option(argv: list[str]) -> None:
    done = run(*argv)
    assert done.returncode == 0 and done.stdout.startswith("usage: ") and done.stderr == ""
    if argv[0] == "serve":
        for option in (
            "--socket", "--fd", "--mode", "--group", "--allow-uid", "--read-only", "--host-uds", "--host-fifo",
            "--char-devices", "--xattrs", "--donate", "--channels", "--max-connections", "--fd-limit", "--log-level",
            "--log-format", "--quiet",
        ):  # fmt: skip
            assert option in done.stdout


def test_a_path_that_is_missing_is_named(spot: Path) -> None:
    fails_in_one_line(run("serve", str(spot / "nowhere"), "--socket", str(spot / "s")), "nowhere", "No such file")
    assert not (spot / "s").exists()


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_a_path_that_is_neither_file_nor_directory_is_refused(spot: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(spot / kind)
    elif kind == "device":
        os.mknod(spot / kind, modes.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(spot / kind))
    fails_in_one_line(run("serve", str(spot / kind), "--socket", str(spot / "s")), kind)


def test_a_socket_path_too_long_is_told_with_the_limit(spot: Path) -> None:
    fails_in_one_line(run("serve", str(spot), "--socket", str(spot / ("s" * 108))), "107", "--socket")


def test_a_socket_in_a_directory_that_is_not_there_is_named(spot: Path) -> None:
    fails_in_one_line(run("serve", str(spot), "--socket", str(spot / "no/s")), "no/s", "--socket")


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_what_is_not_a_socket_is_not_replaced(spot: Path, kind: str) -> None:
    path = spot / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        os.symlink("elsewhere", path)
    before = os.lstat(path)
    fails_in_one_line(run("serve", str(spot), "--socket", str(path)), str(path), "not a socket")
    assert os.lstat(path) == before


def test_a_socket_somebody_listens_on_is_an_error_that_says_so(start: Start) -> None:
    server = start()
    fails_in_one_line(run("serve", str(server.tree), "--socket", str(server.path)), str(server.path), "in use")
    with server.peer() as peer:
        assert peer.root == 1


def test_a_stale_socket_is_replaced(start: Start, spot: Path) -> None:
    stale = spot / "stale"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(stale))
    server = subprocess.Popen([*GOFER, "serve", str(spot), "--socket", str(stale), "--quiet"])
    try:
        wait_until(lambda: connects(stale), "the new server listens")
    finally:
        server.terminate()
        assert server.wait(10) == 0
    assert not stale.exists()


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
            return True
        except OSError:
            return False


def test_a_directory_one_may_not_write_to_is_named(spot: Path) -> None:
    (spot / "locked").mkdir(mode=0o755)
    (spot / "open").mkdir()
    done = as_nobody("serve", str(spot / "open"), "--socket", str(spot / "locked/s"))
    fails_in_one_line(done, "locked/s", "Permission denied", "--socket")


def test_a_path_one_may_not_reach_is_named(spot: Path) -> None:
    (spot / "locked/inner").mkdir(parents=True)
    os.chmod(spot / "locked", 0o700)
    fails_in_one_line(as_nobody("serve", str(spot / "locked/inner")), "locked/inner", "Permission denied")


def as_nobody(*argv: str) -> "subprocess.CompletedProcess[str]":
    """Run the program as an unprivileged user, who need not be able to read the checkout: it is loaded before the switch."""
    code = (
        "import os, runpy, sys; sys.path.insert(0, sys.argv[1]); import gofer.cli, gofer.serve, gofer.look\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(gofer.cli.main(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, GOFER[1], *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, cwd="/")


@pytest.mark.parametrize("group", ["no-such-group", "99999999999", "4294967295", "-1", "\u00b2"])
def test_a_group_that_does_not_exist_is_told_and_leaves_no_socket(spot: Path, group: str) -> None:
    done = run("serve", str(spot), "--socket", str(spot / "s"), "--group", group)
    fails_in_one_line(done, "group")
    assert not (spot / "s").exists()


def test_an_fd_that_is_no_connected_socket_is_told(spot: Path) -> None:
    with open(spot / "file", "w") as file, socket.socket(socket.AF_UNIX) as loose:
        for number in (file.fileno(), loose.fileno()):
            done = run("serve", str(spot), "--fd", str(number), pass_fds=(number,))
            fails_in_one_line(done, f"{number}")
    fails_in_one_line(run("serve", str(spot), "--fd", "987"), "987")


def test_an_fd_limit_above_what_is_allowed_is_told(spot: Path) -> None:
    fails_in_one_line(run("serve", str(spot), "--socket", str(spot / "s"), "--fd-limit", "999999999"), "--fd-limit")


@pytest.mark.parametrize("mode", ["0600", "0660", "0666", "0000"])
def test_the_socket_file_has_the_mode_and_group_asked_for(start: Start, mode: str) -> None:
    server = start("--mode", mode, "--group", grp.getgrgid(1).gr_name)
    stat = os.stat(server.path)
    assert modes.S_IMODE(stat.st_mode) == int(mode, 8) and stat.st_gid == 1


def test_a_group_may_be_a_number(start: Start) -> None:
    assert os.stat(start("--group", "4321").path).st_gid == 4321


@pytest.mark.parametrize("allowed,admitted", [([], False), (["--allow-uid", "65534"], True), (["--allow-uid", "12"], False)])
def test_who_may_connect_is_an_option(start: Start, allowed: list[str], admitted: bool) -> None:
    server = start("--mode", "0666", "--allow-uid", str(os.getuid()), *allowed)
    os.chmod(server.place, 0o755)
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(str(server.path))
                sock.settimeout(10)
                try:
                    sock.sendall(b"\0\0\0\0\x01\0\0\0")
                    status = len(sock.recv(1))
                except ConnectionError:
                    status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == admitted
    assert admitted or "--allow-uid 65534" in server.said()


def test_a_file_is_served_as_a_file(start: Start, spot: Path) -> None:
    (spot / "file").write_bytes(b"hello")
    (spot / "sibling").write_bytes(b"secret")
    server = start(tree=spot / "file")
    with server.peer() as peer:
        assert modes.S_ISREG(peer.fstat(peer.root).mode)
        assert peer.pread(peer.openat(peer.root).fd, 0, 10) == b"hello"
        with pytest.raises(NotADirectoryError):
            peer.walk(peer.root, "sibling")
        with pytest.raises(NotADirectoryError):
            peer.opencreateat(peer.root, "new")


def test_a_path_through_a_symlink_serves_what_it_points_to(start: Start, spot: Path) -> None:
    (spot / "real").mkdir()
    os.symlink("real", spot / "link")
    with start(tree=spot / "link").peer() as peer:
        assert peer.fstat(peer.root).ino == os.stat(spot / "real").st_ino


@pytest.mark.parametrize("count", [1, 3])
def test_inherited_sockets_are_served_and_the_server_ends_with_the_last(spot: Path, count: int) -> None:
    pairs = [socket.socketpair() for _ in range(count)]
    argv = [*GOFER, "serve", str(spot), "--quiet"]
    for _, theirs in pairs:
        argv += ["--fd", str(theirs.fileno())]
    server = subprocess.Popen(argv, pass_fds=[theirs.fileno() for _, theirs in pairs])
    for _, theirs in pairs:
        theirs.close()
    peers = [over_socket(ours) for ours, _ in pairs]
    for peer in peers:
        assert server.poll() is None
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)
        peer.disconnect()
    assert server.wait(10) == 0


ACTIVATE = (
    "import os, sys\n"
    "number = int(sys.argv[1])\n"
    "if number != 3: os.dup2(number, 3)\n"
    "else: os.set_inheritable(3, True)\n"
    "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()) if sys.argv[2] == 'ours' else '1')\n"
    "os.execv(sys.argv[3], sys.argv[3:])"
)


def test_a_socket_passed_by_systemd_is_listened_on(spot: Path) -> None:
    path = spot / "activated"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        argv = [sys.executable, "-c", ACTIVATE, str(listener.fileno()), "ours", *GOFER, "serve", str(spot), "--quiet"]
        server = subprocess.Popen(argv, pass_fds=[listener.fileno()])
    try:
        for _ in range(2):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(str(path))
            peer = over_socket(sock)
            assert modes.S_ISDIR(peer.fstat(peer.root).mode)
            peer.disconnect()
    finally:
        server.terminate()
        assert server.wait(10) == 0
    assert path.exists()  # systemd's, not ours to remove


def test_sockets_meant_for_another_process_are_not_taken(spot: Path) -> None:
    """sd_listen_fds(3): LISTEN_PID says who is meant."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(spot / "theirs"))
        listener.listen()
        argv = [sys.executable, "-c", ACTIVATE, str(listener.fileno()), "theirs", *GOFER, "serve", str(spot)]
        with open(spot / "log", "wb") as log:
            own = [*argv, "--socket", str(spot / "own")]
            server = subprocess.Popen(own, pass_fds=[listener.fileno()], stdout=log, stderr=log)
        wait_until(lambda: connects(spot / "own"), "it listens on a socket of its own")
    try:
        wait_until(lambda: not connects(spot / "theirs"), "nobody listens on the other's socket")
    finally:
        server.terminate()
        assert server.wait(10) == 0


@pytest.mark.parametrize("place", ["XDG_RUNTIME_DIR", "/run"])
def test_without_a_socket_option_one_is_made_in_the_runtime_directory_and_printed(spot: Path, place: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}
    if place == "XDG_RUNTIME_DIR":
        environment[place] = str(spot)
    show = 'import os; print(os.environ["GOFER_SOCKET"])'
    done = run("serve", str(spot), "--", sys.executable, "-c", show, env=environment)
    assert done.returncode == 0
    path = done.stdout.strip()
    assert os.path.dirname(path) == (str(spot) if place == "XDG_RUNTIME_DIR" else "/run")
    assert path in done.stderr
    assert not os.path.exists(path)


@pytest.mark.parametrize("command,status", [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 128 + 15)])
def test_a_command_runs_with_the_socket_and_its_status_is_ours(spot: Path, command: str, status: int) -> None:
    done = run("serve", str(spot), "--socket", str(spot / "s"), "--", "sh", "-c", 'test -S "$GOFER_SOCKET" || exit 99; ' + command)
    assert done.returncode == status, done.stderr
    assert not (spot / "s").exists()


def test_a_command_that_does_not_exist_is_told_and_leaves_no_socket(spot: Path) -> None:
    fails_in_one_line(run("serve", str(spot), "--socket", str(spot / "s"), "--quiet", "--", "/no/such/program"), "/no/such/program")
    assert not (spot / "s").exists()


def test_a_command_can_look_at_what_is_served(spot: Path) -> None:
    (spot / "tree").mkdir()
    (spot / "tree/hello").write_bytes(b"hello world\n")
    done = run("serve", str(spot / "tree"), "--socket", str(spot / "s"), "--quiet", "--", *GOFER, "cat", "/hello")
    assert (done.returncode, done.stdout) == (0, "hello world\n")
    done = run("serve", str(spot / "tree"), "--socket", str(spot / "s"), "--quiet", "--", *GOFER, "ls")
    assert done.returncode == 0 and "hello" in done.stdout


def test_a_signal_to_the_server_reaches_the_command(spot: Path) -> None:
    argv = [*GOFER, "serve", str(spot), "--socket", str(spot / "s"), "--quiet", "--"]
    script = 'trap "echo asked; exit 5" TERM; echo ready; while :; do sleep 0.02; done'
    server = subprocess.Popen([*argv, "sh", "-c", script], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    server.send_signal(signal.SIGTERM)
    assert server.stdout.read() == b"asked\n"
    server.stdout.close()
    assert server.wait(10) == 5


def test_the_start_says_what_is_served_where_how_and_how_to_look(start: Start, spot: Path) -> None:
    said = start("--read-only", "--host-uds", "open").said()
    assert 2 <= said.count("\n") <= 4
    for word in (str(spot), "read-only", "socket", "ls "):
        assert word in said
    assert "read-write" in start().said()


def test_quiet_says_nothing(start: Start) -> None:
    server = start("--quiet")
    assert server.said() == ""


def test_json_lines_are_json(start: Start) -> None:
    server = start("--log-format", "json", "--log-level", "debug")
    with server.peer() as peer, pytest.raises(FileNotFoundError):
        peer.unlinkat(peer.root, "missing")
    lines = [json.loads(line) for line in server.said().splitlines()]
    assert len(lines) >= 4
    assert all({"level", "msg", "time"} <= set(line) for line in lines)
    assert {line["level"] for line in lines} >= {"info", "debug"}


def test_a_log_nobody_reads_stops_nothing(spot: Path) -> None:
    """stderr is a pipe whose reader is gone."""
    reader, writer = os.pipe()
    argv = [*GOFER, "serve", str(spot), "--socket", str(spot / "s"), "--log-level", "debug"]
    server = subprocess.Popen(argv, stderr=writer, stdout=writer)
    os.close(writer)
    wait_until(lambda: connects(spot / "s"), "the server listens")
    os.close(reader)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(spot / "s"))
    with over_socket_of(lambda: sock) as peer:
        for _ in range(50):
            with pytest.raises(FileNotFoundError):
                peer.unlinkat(peer.root, "missing")
    server.terminate()
    assert server.wait(10) == 0


# Looking.


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
    done = run("ls", str(served.path))
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert any(line.startswith("d") and line.endswith(" dir") for line in lines)
    assert any(line.startswith("-rw") and " 9 " in line and line.endswith(" file") for line in lines)
    assert any(line.startswith("l") and line.endswith("link -> file") for line in lines)
    assert any(line.startswith("p") and line.endswith(" fifo") for line in lines)
    assert "\x1b" not in done.stdout  # a name must not speak to the terminal
    deep = run("ls", str(served.path), "/dir").stdout
    assert [line.split()[-1] for line in deep.splitlines()] == ["deep", "sub"]
    assert run("ls", str(served.path), "file").stdout.endswith(" file\n")


def test_cat_prints_a_file_byte_for_byte(served: Server) -> None:
    done = subprocess.run([*GOFER, "cat", str(served.path), "/dir/deep"], capture_output=True, timeout=30)
    assert done.returncode == 0 and done.stdout == bytes(range(256)) * 4096 * 3


def test_stat_shows_attributes(served: Server) -> None:
    done = run("stat", str(served.path), "/file")
    assert done.returncode == 0
    assert "regular file" in done.stdout and "size   9" in done.stdout
    assert str(os.stat(served.tree / "file").st_ino) in done.stdout
    assert "directory" in run("stat", str(served.path)).stdout


def test_the_socket_may_come_from_the_environment(served: Server) -> None:
    environment = {**os.environ, "GOFER_SOCKET": str(served.path)}
    assert run("cat", "/file", env=environment).stdout == "contents\n"
    assert "dir" in run("ls", env=environment).stdout


@pytest.mark.parametrize(
    "argv,words",
    [
        (["cat", "/missing"], ["missing", "No such file"]),
        (["ls", "/missing"], ["missing", "No such file"]),
        (["stat", "/file/x"], ["Not a directory"]),
        (["cat", "/dir"], ["directory"]),
        (["cat", "/fifo"], ["fifo"]),
    ],
)
def test_what_cannot_be_looked_at_is_one_line(served: Server, argv: list[str], words: list[str]) -> None:
    fails_in_one_line(run(argv[0], str(served.path), *argv[1:]), *words)


def test_without_a_server_the_remedy_is_told(spot: Path) -> None:
    fails_in_one_line(run("ls", str(spot / "nobody")), "nobody", "gofer serve")
    environment = {name: value for name, value in os.environ.items() if name != "GOFER_SOCKET"}
    fails_in_one_line(run("ls", env=environment), "GOFER_SOCKET")


def test_a_reader_that_has_enough_is_no_error_worth_a_traceback(served: Server) -> None:
    with subprocess.Popen([*GOFER, "cat", str(served.path), "/dir/deep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as cat:
        assert cat.stdout is not None and cat.stderr is not None
        cat.stdout.read(10)
        time.sleep(0.05)
        cat.stdout.close()
        assert b"Traceback" not in cat.stderr.read()
