"""`gofer shell`: as a script, and as a person uses it at a terminal."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CALM, GOFER, Server, fails_in_one_line, run, wait_until
from runsc import one_file_gofer
from sshd import HOST, sshd
from terminal import Terminal

from gofer.conform.transport import PATIENCE


@pytest.fixture
def served(server: Server) -> Server:
    tree = server.tree
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "file").write_text("contents\n")
    (tree / "dir/a b").write_text("blank\n")
    (tree / "dir/-r").touch()
    (tree / "dir/sub/deep.txt").write_text("deep\n")
    (tree / "dir/.hidden").touch()
    os.symlink("dir", tree / "link")
    return server


def script(server: Server, text: str, *options: str) -> "subprocess.CompletedProcess[str]":
    return run("shell", str(server.path), *options, input=text, stdin=None)


@pytest.mark.parametrize(
    "lines,out",
    [
        ("pwd\ncd dir\npwd\ncd sub\npwd\ncd ..\npwd\ncd /\npwd", "/\n/dir\n/dir/sub\n/dir\n/\n"),
        ("cd dir\ncd -\npwd\ncd -\npwd\ncd\npwd", "/\n/dir\n/\n"),
        ("cd ../../..\npwd\ncd link\npwd\nls", "/\n/link\n-r\na b\nsub\n"),
        ("ls", "dir\nfile\nlink\n"),
        ("cd dir\nls\ncat 'a b' \"a b\" a\\ b", "-r\na b\nsub\nblank\nblank\nblank\n"),
        ("cat :/file\ncd dir\ncat :/file ../file sub/deep.txt", "contents\ncontents\ncontents\ndeep\n"),
        ("cat f*\ncat d*/s*/*.txt\ncat /d[i]r/sub/dee?.txt", "contents\ndeep\ndeep\n"),
        ("cd dir\nls -d *\nls -d .h*", "./-r\na b\nsub\n.hidden\n"),
        ("cat 'f*'", ""),
        ("# nothing\n\n   \ncat file # the rest\n", "contents\n"),
        ("mkdir new\ntouch new/one 'new/t w o'\nls new\nrm new/*\nls new\nrmdir new\nls", "one\nt w o\ndir\nfile\nlink\n"),
        ("!echo here; exit 3\nls file", "here\nfile\n"),
        ("lcd /\n!pwd", "/\n/\n"),
        ("ls missing\nls file", "file\n"),
    ],
)
def test_a_script_runs_its_lines_one_after_the_other(served: Server, lines: str, out: str) -> None:
    assert script(served, lines).stdout == out


@pytest.mark.parametrize(
    "lines,status,words",
    [
        ("cd missing", 1, "gofer: cd: missing: No such file or directory"),
        ("cd file", 1, "gofer: cd: file: Not a directory"),
        ("cd a b", 1, "gofer: cd: one directory"),
        ("nonsense", 1, "gofer: nonsense: no such command; `help` lists them, ! before it runs one of this machine"),
        ("serve .", 1, "gofer: serve: not from in here"),
        ("cat 'file", 1, "gofer: a ' is left open"),
        ('cat "file', 1, 'gofer: a " is left open'),
        ("ls --nonsense", 2, "gofer ls: error: unrecognized arguments: --nonsense"),
        ("exit x", 1, "gofer: exit: x is no status; give a number"),
        ("exit 7\nls", 7, ""),
        ("cat missing\nexit", 1, "gofer: cat missing: No such file or directory"),
        ("cat missing\nls", 0, ""),
        ("lcd /missing", 1, "gofer: /missing: No such file or directory"),
        ("!exit 3", 3, ""),
        ("!kill -9 $$", 137, ""),
    ],
)
def test_the_status_is_that_of_the_last_line_and_what_went_wrong_is_told(
    served: Server, lines: str, status: int, words: str
) -> None:
    done = script(served, lines)
    assert done.returncode == status and words in done.stderr, done
    assert "Traceback" not in done.stderr


def test_with_e_the_first_command_that_fails_is_the_last(served: Server) -> None:
    done = script(served, "cat missing\ncat file\n", "-e")
    assert (done.returncode, done.stdout) == (1, "")
    done = run("shell", str(served.path), "-c", "cd dir\ncat 'a b'")
    assert (done.returncode, done.stdout) == (0, "blank\n")


def test_the_shell_begins_where_it_is_told(served: Server) -> None:
    assert run("shell", f"{served.path}:/dir", "-c", "pwd").stdout == "/dir\n"
    assert run("shell", "-c", "pwd", env={**os.environ, "GOFER_SOCKET": str(served.path)}).stdout == "/\n"
    fails_in_one_line(run("shell", f"{served.path}:/file", "-c", "pwd"), "Not a directory")
    done = run("shell", "", "-c", "pwd", env={**os.environ, "GOFER_SOCKET": str(served.path)})
    fails_in_one_line(done, "an address must not be empty")
    fails_in_one_line(run("shell", f"{served.path}x", "-c", "pwd"), "is the server running")
    fails_in_one_line(run("shell", f"{served.path}:/file", "-c", "pwd"), "gofer: shell: /file: Not a directory\n")
    fails_in_one_line(run("shell", f"{served.path}:/none", "-c", "pwd"), "gofer: shell: /none: No such file or directory\n")


def test_help_lists_the_commands_and_tells_of_one(served: Server) -> None:
    done = script(served, "help\nhelp cd\nhelp ls\n")
    assert "\n  cd " in done.stdout and "\n  chmod " in done.stdout and "usage: gofer ls" in done.stdout


def test_a_server_that_comes_back_is_asked_again(spot: Path) -> None:
    tree, place = spot / "tree", spot / "socket"
    tree.mkdir()
    (tree / "file").write_text("there\n")
    reader, writer = os.pipe()
    serve = [*GOFER, "serve", str(tree), "--quiet", "--socket", str(place)]
    first = subprocess.Popen(serve)
    wait_until(place.exists, "it serves")
    shell = subprocess.Popen(
        [*GOFER, "shell", str(place)], stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.close(reader)
    with shell, open(writer, "w", buffering=1) as typed:
        assert shell.stdout and shell.stderr
        typed.write("cat file\n")
        assert shell.stdout.readline() == "there\n"
        first.terminate()
        first.wait()
        typed.write("cat file\n")
        assert "gofer: " in shell.stderr.readline()
        second = subprocess.Popen(serve)
        wait_until(place.exists, "it serves again")
        typed.write("cat file\n")
        assert shell.stdout.readline() == "there\n"
        typed.close()
        assert shell.wait(PATIENCE) == 0
    second.terminate()
    second.wait()


def test_a_host_is_reached_once_for_all_commands(spot: Path) -> None:
    (spot / "file").write_text("there\n")
    ran = spot / "ran"
    ssh = spot / "ssh"
    with sshd(spot / "sshd", "SetEnv PATH=/usr/bin:/bin\n") as server:
        ssh.write_text(f'#!/bin/sh\necho >>{ran}\nexec {server.command} "$@"\n')
        ssh.chmod(0o755)
        done = run("shell", "--ssh", str(ssh), f"{HOST}:{spot}", "-c", "pwd\ncat file\nls f*\ncd /\ncat etc/hostname")
        assert done.stdout == f"{spot}\nthere\nfile\n" + Path("/etc/hostname").read_text()
        assert ran.read_text() == "\n"


# At a terminal


def test_ctrl_c_at_the_prompt_does_not_cut_off_another_host(spot: Path) -> None:
    (spot / "file").write_text("there\n")
    ran, ssh = spot / "ran", spot / "ssh"
    with sshd(spot / "sshd", "SetEnv PATH=/usr/bin:/bin\n") as server:
        ssh.write_text(f'#!/bin/sh\necho >>{ran}\nexec {server.command} "$@"\n')
        ssh.chmod(0o755)
        with Terminal(*GOFER, "shell", "--ssh", str(ssh), f"{HOST}:{spot}", XDG_STATE_HOME=str(spot)) as shown:
            shown.wait_for("> ")
            shown.type("cat fi")
            shown.wait_for("cat fi")
            shown.interrupt("> ")
            shown.type("cat file\n")
            shown.wait_for("there\r\n")
            shown.wait_for("> ")
            shown.type("exit\n")
        assert shown.close() == 0
        assert ran.read_text() == "\n"


@contextlib.contextmanager
def terminal(served: Server, state: Path) -> Iterator[Terminal]:
    with Terminal(*GOFER, "shell", str(served.path), XDG_STATE_HOME=str(state)) as shown:
        shown.wait_for("socket:/> ")
        yield shown
    assert shown.close() == 0


def test_a_person_moves_about_and_ctrl_d_ends_the_shell(served: Server, spot: Path) -> None:
    with terminal(served, spot) as shown:
        shown.type("cd dir\n")
        shown.wait_for("socket:/dir> ")
        shown.type("cat 'a b'\n")
        shown.wait_for("blank\r\n")
        shown.wait_for("> ")
        shown.type("\x04")


def test_ctrl_c_ends_a_line_or_a_command_and_not_the_shell(served: Server, spot: Path) -> None:
    os.mkfifo(served.tree / "fifo")
    with terminal(served, spot) as shown:
        shown.type("cat fi")
        shown.wait_for("cat fi")
        shown.interrupt("socket:/> ")
        shown.type("!exec sleep 1000\n")
        shown.wait_for("sleep 1000\r\n")
        wait_until(lambda: b"sleep\x001000" in _cmdlines_below(shown.pid), "sleep runs")
        shown.type("\x03")
        shown.wait_for("socket:/> ")
        (served.tree / "growing").write_text("line\n")
        shown.type("tail -f growing\n" if _has("tail") else "!cat\n")
        shown.wait_for("line\r\n" if _has("tail") else "cat\r\n")
        shown.type("\x03")
        shown.wait_for("socket:/> ")
        shown.type("cat file\n")
        shown.wait_for("contents\r\n")
        shown.wait_for("> ")
        shown.type("exit\n")


def test_pwd_lets_no_name_speak_to_the_terminal(served: Server, spot: Path) -> None:
    (served.tree / "\x1b[31mred").mkdir()
    with Terminal(*GOFER, "shell", f"{served.path}:/\x1b[31mred", XDG_STATE_HOME=str(spot)) as shown:
        said = shown.wait_for("red> ")
        shown.type("pwd\n")
        said += shown.wait_for(r"\n.*red\r\n") + shown.wait_for("> ")
        shown.type("exit\n")
    assert shown.close() == 0 and "\x1b[31m" not in said
    done = script(served, "cd '\x1b[31mred'\npwd")  # in a pipe it is what it is
    assert done.stdout == "/\x1b[31mred\n"


def test_ctrl_c_a_moment_before_ctrl_d_does_not_make_the_end_a_failure(served: Server, spot: Path) -> None:
    with terminal(served, spot) as shown:
        shown.type("\x03\x04")
        with contextlib.suppress(AssertionError):  # it has ended
            while True:
                shown.wait_for("> ", 1.0)
                shown.type("\x04")


def _has(command: str) -> bool:
    return f"\n    {command} " in run("--help").stdout


def _cmdlines_below(pid: int) -> bytes:
    said = b""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            said += Path(f"/proc/{child}/cmdline").read_bytes()
    return said


def test_tab_completes_commands_options_and_what_is_there(served: Server, spot: Path) -> None:
    with terminal(served, spot) as shown:
        shown.type("trunc\t")
        shown.wait_for("truncate ")
        shown.type("--si\t")
        shown.wait_for("--size")
        shown.type("\x15cat di\t")
        shown.wait_for("cat dir/")
        shown.type("su\t")
        shown.wait_for("sub/")
        shown.type("de\t")
        shown.wait_for("deep.txt ")
        shown.type("\n")
        shown.wait_for("deep\r\n")
        shown.type("cd d\t\n")
        shown.wait_for("socket:/dir/?> ")
        shown.type("cat sub/d\t\n")
        shown.wait_for("deep\r\n")
        shown.wait_for("> ")
        shown.type("exit\n")


def test_history_is_kept_for_the_next_shell_and_for_its_owner_only(served: Server, spot: Path) -> None:
    with terminal(served, spot) as shown:
        shown.type("cat file\n")
        shown.wait_for("contents\r\n")
        shown.wait_for("> ")
        shown.type("exit\n")
    kept = spot / "gofer/history"
    assert "cat file\n" in kept.read_text() and kept.stat().st_mode & 0o777 == 0o600
    with terminal(served, spot) as shown:
        shown.type("\x10\x10\n")  # Ctrl-P twice: before `exit`
        shown.wait_for("contents\r\n")
        shown.wait_for("> ")
        shown.type("\x04")


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.mark.slow
def test_the_one_file_has_the_shell_too(served: Server, one_file: Path) -> None:
    done = subprocess.run(
        [one_file, "shell", str(served.path), "-c", "cd dir\ncat 'a b'"], capture_output=True, timeout=CALM
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"blank\n", b"")
