"""`gofer serve`: who may connect, where sockets come from, COMMAND, and what it says."""

import grp
import json
import os
import signal
import socket
import stat as modes
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start
from hosts import GOFER, PATIENCE, connects, fails_in_one_line, over_socket_of, run, serves, wait_until

from gofer.conform.peer import over_socket

NOBODY = 65534


@pytest.mark.parametrize("mode", ["0600", "0660", "0666", "0000"])
def test_the_socket_file_has_the_mode_and_group_asked_for(start: Start, mode: str) -> None:
    server = start("--mode", mode, "--group", grp.getgrgid(1).gr_name)
    stat = os.stat(server.path)
    assert modes.S_IMODE(stat.st_mode) == int(mode, 8) and stat.st_gid == 1


def test_a_group_may_be_a_number(start: Start) -> None:
    assert os.stat(start("--group", "4321").path).st_gid == 4321


@pytest.mark.parametrize(
    "allowed,admitted", [([], False), (["--allow-uid", "65534"], True), (["--allow-uid", "12"], False)]
)
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
                sock.settimeout(PATIENCE)
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
    assert server.wait(PATIENCE) == 0


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
        assert server.wait(PATIENCE) == 0
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
        wait_until(lambda: serves(spot / "own"), "it listens on a socket of its own")
    try:
        wait_until(lambda: not connects(spot / "theirs"), "nobody listens on the other's socket")
    finally:
        server.terminate()
        assert server.wait(PATIENCE) == 0


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
    done = run(
        "serve",
        str(spot),
        "--socket",
        str(spot / "s"),
        "--",
        "sh",
        "-c",
        'test -S "$GOFER_SOCKET" || exit 99; ' + command,
    )
    assert done.returncode == status, done.stderr
    assert not (spot / "s").exists()


def test_a_command_that_does_not_exist_is_told_and_leaves_no_socket(spot: Path) -> None:
    fails_in_one_line(
        run("serve", str(spot), "--socket", str(spot / "s"), "--quiet", "--", "/no/such/program"), "/no/such/program"
    )
    assert not (spot / "s").exists()


def test_a_command_can_look_at_what_is_served(spot: Path) -> None:
    (spot / "tree").mkdir()
    (spot / "tree/hello").write_bytes(b"hello world\n")
    done = run("serve", str(spot / "tree"), "--socket", str(spot / "s"), "--quiet", "--", *GOFER, "cat", "/hello")
    assert (done.returncode, done.stdout) == (0, "hello world\n")
    done = run("serve", str(spot / "tree"), "--socket", str(spot / "s"), "--quiet", "--", *GOFER, "ls")
    assert done.returncode == 0 and "hello" in done.stdout


def test_without_a_path_the_current_directory_is_served_and_that_is_said(spot: Path) -> None:
    (spot / "hello").write_bytes(b"hello world\n")
    done = run("serve", "--", *GOFER, "cat", ":hello", cwd=spot)
    assert (done.returncode, done.stdout) == (0, "hello world\n")
    assert f"serves the directory {spot} (the current directory) read-write on " in done.stderr


def test_a_signal_to_the_server_reaches_the_command(spot: Path) -> None:
    argv = [*GOFER, "serve", str(spot), "--socket", str(spot / "s"), "--quiet", "--"]
    script = 'trap "echo asked; exit 5" TERM; echo ready; while :; do sleep 0.02; done'
    server = subprocess.Popen([*argv, "sh", "-c", script], stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    server.send_signal(signal.SIGTERM)
    assert server.stdout.read() == b"asked\n"
    server.stdout.close()
    assert server.wait(PATIENCE) == 5


def test_the_start_says_what_is_served_where_how_and_how_to_look(start: Start, spot: Path) -> None:
    said = start("--read-only", "--host-uds", "open").said()
    assert said.count("\n") == 3
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
    wait_until(lambda: serves(spot / "s"), "the server serves")
    os.close(reader)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(spot / "s"))
    with over_socket_of(lambda: sock) as peer:
        for _ in range(50):
            with pytest.raises(FileNotFoundError):
                peer.unlinkat(peer.root, "missing")
    server.terminate()
    assert server.wait(PATIENCE) == 0


def test_the_command_has_the_signals_and_the_fd_limit_that_gofer_was_started_with(spot: Path) -> None:
    """Both are changed before it starts: signals wait until they can be handled, and the server wants many fds."""
    script = "grep SigBlk /proc/self/status; ulimit -Sn"
    done = run("serve", str(spot), "--socket", str(spot / "s"), "--quiet", "--", "sh", "-c", f"ulimit -Sn; {script}")
    plain = subprocess.run(["sh", "-c", f"ulimit -Sn; {script}"], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == plain.stdout


def test_an_fd_limit_that_leaves_nothing_for_clients_is_refused_with_the_least_that_will_do(spot: Path) -> None:
    done = run("serve", str(spot), "--socket", str(spot / "s"), "--fd-limit", "70")
    assert done.returncode == 1
    assert done.stderr == "gofer: --fd-limit 70 leaves too few for clients; give at least 80\n"
    assert os.listdir(spot) == []
