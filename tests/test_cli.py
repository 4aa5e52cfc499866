"""The command line: wrong usage, and what cannot be served, in one line that names cause and remedy."""

import os
import socket
import stat as modes
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start
from hosts import CALM, CHECKOUT, GOFER, PATIENCE, fails_in_one_line, run, serves, wait_until

NOBODY = 65534


@pytest.mark.parametrize(
    "argv",
    [
        [], ["nonsense"], ["serve", ".", "extra"], ["serve", ".", "--nonsense"], ["serve", ".", "--"],
        ["serve", ".", "--host-uds", "some"], ["serve", ".", "--host-fifo=all"], ["serve", ".", "--char-devices", "x"],
        ["serve", ".", "--xattrs", "few"], ["serve", ".", "--donate", "maybe"], ["serve", ".", "--channels", "-1"],
        ["serve", ".", "--channels", "many"], ["serve", ".", "--max-connections", "0"], ["serve", ".", "--mode", "rw"],
        ["serve", ".", "--mode", "1777"], ["serve", ".", "--mode", "9"], ["serve", ".", "--fd", "x"],
        ["serve", ".", "--fd", "-1"],
        ["serve", ".", "--fd-limit", "9" * 30], ["serve", ".", "--fd", "9" * 30], ["serve", ".", "--allow-uid", "4294967295"],
        ["serve", ".", "--fd-limit", "0"], ["serve", ".", "--fd-limit", "lots"], ["serve", ".", "--log-level", "loud"],
        ["serve", ".", "--log-format", "xml"], ["serve", ".", "--allow-uid", "no-such-user"], ["serve", ".", "--socket"],
        ["serve", ".", "--read-only=yes"], ["serve", ".", "--read"], ["ls", "--color=x"], ["cat"], ["cat", "--nonsense"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_is_status_two_and_a_usage_line(argv: list[str]) -> None:
    done = run(*argv)
    assert done.returncode == 2
    assert done.stdout == "" and "usage: " in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "right"),
    [
        ("--fd", "x", "a number from 0 to 4294967294"), ("--fd", "", "a number from 0 to 4294967294"),
        ("--workers", "0", "a number from 1 to 4294967294"), ("--channels", "\xb2", "a number from 0 to 4294967294"),
        *(("--busy-poll", value, "a number from 0 to 1000") for value in ("1001", "+1", "-1", "1.5", "much", "")),
        ("--mode", "0o600", "permissions in octal, from 0000 to 0777"),
        ("--mode", "1777", "permissions in octal, from 0000 to 0777"),
        ("--idle-message-timeout", "soon", "a number of seconds from 0 to 4294967294"),
        ("--idle-message-timeout", "nan", "a number of seconds from 0 to 4294967294"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_is_right(option: str, value: str, right: str) -> None:
    done = run("serve", ".", f"{option}={value}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(f"error: argument {option}: {value!r} must be {right}")


@pytest.mark.parametrize("command", ["ls", "cat", "stat", "doctor", "serve"])
def test_what_is_wrong_with_a_commands_words_is_told_with_its_own_usage(command: str) -> None:
    done = run(command, *(["."] if command != "doctor" else []), "--nonsense")
    assert done.returncode == 2 and "COMMAND ..." not in done.stderr.replace("[-- COMMAND ...]", "")
    assert done.stderr.splitlines()[-1].endswith(f" {command}: error: unrecognized arguments: --nonsense")


@pytest.mark.parametrize("line,meant", [("ls . --tmeout=3", "--timeout"), ("serve --red-only", "--read-only"), ("catt", "cat")])
def test_a_slip_of_the_fingers_is_told_with_what_may_have_been_meant(line: str, meant: str) -> None:
    done = run(*line.split())
    assert done.returncode == 2 and done.stderr.endswith(f"; did you mean {meant}?\n")


def test_a_host_without_its_colon_is_told_how_it_is_written() -> None:
    fails_in_one_line(run("ls", "far-host"), "cannot connect to far-host: ", "Another host's is far-host: with a colon.")


@pytest.mark.parametrize("value", ["soon", "-1", "nan"])
def test_a_wrong_timeout_is_told(value: str) -> None:
    done = run("ls", "s", f"--timeout={value}")
    assert done.returncode == 2 and "a number of seconds" in done.stderr


def test_the_version_is_told() -> None:
    from gofer import __version__

    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"gofer {__version__}\n")


@pytest.mark.parametrize(
    "argv", [["--help"], ["serve", "--help"], ["ls", "--help"], ["cat", "--help"], ["stat", "--help"]]
)
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
        wait_until(lambda: serves(stale), "the new server serves")
    finally:
        server.terminate()
        assert server.wait(PATIENCE) == 0
    assert not stale.exists()


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
        "import os, runpy, sys; sys.path.insert(0, sys.argv[1]); import gofer.cli, gofer.commands.serve, gofer.commands.ls\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(gofer.cli.main(sys.argv[2:]))"
    )
    command = [sys.executable, "-c", code, GOFER[1], *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=CALM, stdin=subprocess.DEVNULL, cwd="/")


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


def test_a_jit_is_refused_as_the_filter_would_kill_it() -> None:
    """`PYTHON_JIT=1`, in CPython 3.14 and later that were built with it; in others sys._jit stands in."""
    code = (
        "import sys, types, runpy\n"
        "if not (hasattr(sys, '_jit') and sys._jit.is_available()): "
        "sys._jit = types.SimpleNamespace(is_enabled=lambda: True)\n"
        f"sys.argv[1:] = ['--version']; runpy.run_path({str(CHECKOUT)!r}, run_name='__main__')"
    )
    env = {**os.environ, "PYTHON_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    fails_in_one_line(done, "JIT", "PYTHON_JIT=0")


@pytest.mark.parametrize("how", [[str(CHECKOUT)], ["-m", "gofer"]], ids=["a checkout", "a module"])
def test_a_thread_that_has_work_waits_half_a_millisecond_for_its_turn(how: list[str]) -> None:
    """Each client of a server has a thread: with the interpreter's own 5 ms, one that floods the server keeps others waiting."""
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(CHECKOUT)!r}); from gofer import cli\n"
        "cli.main = lambda *_: print(sys.getswitchinterval())\n"
    )
    runs = "runpy.run_module('gofer'" if how[0] == "-m" else f"runpy.run_path({how[0]!r}"
    argv = [sys.executable, "-c", f"{code}{runs}, run_name='__main__')"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stdout == "0.0005\n" and done.returncode == 0, done
