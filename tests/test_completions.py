"""What a shell offers at a TAB: in the shells themselves, on a terminal; and what the program answers them."""

import contextlib
import fcntl
import os
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import CHECKOUT, PATIENCE, fails_in_one_line, run

from gofer import cli
from gofer.commands import candidates
from gofer.commands.completions import SCRIPTS, split
from gofer.commands.options import SERVE

SETUP = {
    "bash": ["source <(gofer completions bash)"],
    "zsh": ["autoload -Uz compinit && compinit -u -D", "source <(gofer completions zsh)"],
    "fish": ["gofer completions fish | source"],
}
PLAIN = {"bash": ["--noprofile", "--norc"], "zsh": ["-f"], "fish": ["--no-config"]}


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, name: str, place: Path, **env: str) -> None:
        self._terminal, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x32\0\xfa\0\0\0\0\0")  # 50 lines of 250
        env = {
            "PATH": f"{place}:{os.environ['PATH']}", "HOME": str(place), "TERM": "dumb", "PS1": "$ ", "LC_ALL": "C.UTF-8",
            "TMPDIR": str(place), **env,
        }  # fmt: skip

        def take_terminal() -> None:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [shutil.which(name) or name, *PLAIN[name], "-i"], stdin=slave, stdout=slave, stderr=slave, env=env, cwd=place,
            start_new_session=True, preexec_fn=take_terminal,
        )  # fmt: skip
        os.close(slave)
        self._said = b""

    def types(self, text: str, until: str) -> None:
        """until: what the terminal shows then, and did not before."""
        self._said = b""
        os.write(self._terminal, text.encode())
        deadline = time.monotonic() + PATIENCE
        while until.encode() not in self._said:
            ready, _, _ = select.select([self._terminal], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r}: {until!r} never came, but {self._said.decode(errors='replace')!r}"
            self._said += os.read(self._terminal, 65536)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)


@contextlib.contextmanager
def shell(name: str, place: Path, **env: str) -> Iterator[Shell]:
    (place / "gofer").write_text(f'#!/bin/sh\nexec {sys.executable} -ISB {CHECKOUT} "$@"\n')
    (place / "gofer").chmod(0o755)
    session = Shell(name, place, **env)
    try:
        for number, line in enumerate(SETUP[name]):
            session.types(f"{line}; echo re''ady {number}\n", f"ready {number}")
        yield session
    finally:
        session.end()


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUP)
def test_a_tab_completes_commands_options_files_and_what_a_server_serves(name: str, spot: Path, start: Start) -> None:
    for folder in ("home", "tree/directory"):
        (spot / folder).mkdir(parents=True)
    (spot / "tree/directory/some file").touch()
    (spot / "tree/directory/other").touch()
    (spot / "home/one conf").write_text("[serve]\npath = /told/by/the/file\n")
    server = start(tree=spot / "tree")
    with shell(name, spot / "home") as session:
        session.types("gofer compl\tfi\t\n", "__fish_complete_command")
        session.types("gofer serve --print-\t--donate n\t /tree\n", "donate = no")
        at, home, echo = f"{server.path}:/directory/", "\x01", "echo "
        session.types(f"gofer cat {server.path}:/dir\tso\t{home}{echo}\n", f"gofer cat {at}some file")
        session.types(f"gofer cat '{server.path}:/directory/so\t{home}{echo}\n", f"gofer cat {at}some file")
        session.types(f"gofer serve --print-config --config={spot}/home/on\t\n", "/told/by/the/file")
        session.types(f"gofer serve --print-config --config {spot}/home/on\t\n", "/told/by/the/file")
    with shell(name, spot / "home", GOFER_SOCKET=str(server.path)) as session:
        session.types(f"gofer cat :/directory/so\t{home}{echo}\n", "gofer cat :/directory/some file")
        session.types(f"gofer cat directory/so\t{home}{echo}\n", "gofer cat directory/some file")


def reply(*words: str, env: "dict[str, str] | None" = None) -> list[str]:
    """The kind, and the candidates, as zsh gets them."""
    text = "".join(f"{word}\0" for word in words)
    done = run("completions", "--reply", "zsh", stdin=None, input=text, env={**os.environ, **(env or {})})
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def test_every_command_is_offered_and_its_own_options() -> None:
    kind, *words = reply("")
    told = run("--help").stdout
    assert kind == "words" and {"serve", "ls", "runsc", "doctor", "completions", "--help", "--version"} <= set(words)
    for command in set(words) - {"--help", "--version"}:
        assert command in told
        parser = cli.parser(command)
        options = [option for option, _ in candidates.answer([command], "-", {}, lambda words: (cli.parser(words[0]), 1)).words]
        assert "--help" in options and "--reply" not in options
        assert all(option in parser.format_help() for option in options)
    assert set(SERVE) <= set(reply("serve", "--")[1:])
    assert "--dry-run" in reply("runsc", "install", "docker", "--")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["serve", "--jail", ""], ["words", "auto", "require", "off"]),
        (["serve", "--jail=r"], ["words", "--jail=require"]),
        (["serve", "--quiet", "--qui"], ["words"]),
        (["serve", "--fd", "3", "--f"], ["words", "--fd", "--fd-limit"]),
        (["serve", "--workers", ""], ["none"]),
        (["serve", "--workers", "2", ""], ["files", ""]),
        (["serve", "--socket", "x"], ["files", ""]),
        (["serve", "--socket=x"], ["files", "--socket="]),
        (["serve", "--allow-uid", "roo"], ["words", "root"]),
        (["serve", "one", "two"], ["none"]),
        (["serve", "one", "--", "l"], ["commands"]),
        (["serve", "one", "--", "ls", "-"], ["files", ""]),
        (["runsc", ""], ["words", "install", "uninstall"]),
        (["runsc", "uninstall", "d"], ["words", "docker"]),
        (["nonsense", ""], ["none"]),
        (["cat", "/nonexistent/a:b"], ["none"]),
        (["completions", "z"], ["words", "zsh"]),
    ],
    ids=str,
)
def test_what_can_stand_there_is_offered(words: list[str], offered: list[str]) -> None:
    got = reply(*words)
    assert got == offered


def test_names_of_a_served_directory_are_offered_as_far_as_a_shell_can_take_them(start: Start, spot: Path) -> None:
    (spot / "sub").mkdir()
    for name in ("name", "names", ".hidden", "new\nline", "\x1b[31m"):
        (spot / name).touch()
    os.symlink("sub", spot / "link")
    server = start()
    at = f"{server.path}:"
    assert reply("ls", at) == ["more", f"{at}link", f"{at}name", f"{at}names", f"{at}sub/"]
    assert reply("ls", f"{at}/./na") == ["words", f"{at}/./name", f"{at}/./names"]
    assert reply("ls", f"{at}.") == ["words", f"{at}.hidden"]
    assert reply("ls", f"{at}nothing/") == ["none"]
    (spot / "sub/below").touch()
    assert reply("ls", f"{at}link/") == ["words", f"{at}link/below"]
    assert reply("stat", str(server.path)[:-2]) == ["more", at]
    assert reply("stat", ":na", env={"GOFER_SOCKET": str(server.path)}) == ["words", ":name", ":names"]


def test_a_server_that_does_not_answer_is_waited_for_a_second(spot: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(spot / "s"))
        sock.listen()
        began = time.monotonic()
        assert reply("ls", f"{spot}/s:/x") == ["none"]
        assert 0.9 < time.monotonic() - began


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gofer", ["gofer"]), ("gofer ", ["gofer", ""]), (" gofer  ls a\\ b", ["gofer", "ls", "a b"]), ("g 'a b", ["g", "a b"]),
        ('g "a\\"b" c', ["g", 'a"b', "c"]), ("g 'a'\\''b'", ["g", "a'b"]), ("g ''", ["g", ""]), ("g a\\", ["g", "a"]),
    ],
)  # fmt: skip
def test_a_line_is_split_as_a_shell_splits_it(line: str, words: list[str]) -> None:
    assert split(line)[0] == words


@pytest.mark.parametrize("name", SETUP)
def test_the_shell_finds_nothing_wrong_with_its_script(name: str, spot: Path) -> None:
    script = spot / "script"
    script.write_text(run("completions", name).stdout)
    done = subprocess.run([name, "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert script.read_text() == SCRIPTS[name]
    if name == "bash":
        done = subprocess.run(["shellcheck", "--shell=bash", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


def test_the_users_own_shell_is_the_default() -> None:
    env = {**os.environ, "SHELL": "/usr/bin/fish"}
    assert run("completions", env=env).stdout == SCRIPTS["fish"]
    fails_in_one_line(run("completions", env={**env, "SHELL": "/bin/csh"}), "which shell", "bash, zsh, fish")
