"""Options of `gofer serve` from the environment and from a file: which goes first, and what is wrong, by its name."""

import os
import subprocess
import sys
from collections.abc import Sequence
from configparser import ConfigParser
from pathlib import Path

import pytest
from hosts import CHECKOUT, fails_in_one_line, run

from gofer.commands.options import SERVE

# One value for each option, other than its default, as a file and the environment have it.
VALUES = {
    "--socket": "/run/somewhere", "--fd": "5 7", "--mode": "0660", "--group": "0", "--allow-uid": "0 65534", "--read-only": "yes",
    "--host-uds": "all", "--host-fifo": "open", "--char-devices": "open", "--kernel-files": "read", "--xattrs": "all",
    "--donate": "no", "--channels": "3", "--workers": "2", "--busy-poll": "0", "--max-connections": "9",
    "--idle-message-timeout": "2.5", "--fd-limit": "1000", "--jail": "require", "--seccomp": "errno", "--log-level": "debug",
    "--log-format": "json", "--quiet": "yes", "--trace": "errors",
}  # fmt: skip


def variable(option: str) -> str:
    return "GOFER_SERVE_" + option[2:].upper().replace("-", "_")


def printed(*argv: str, **env: str) -> "subprocess.CompletedProcess[str]":
    return run("serve", "--print-config", *argv, env={**os.environ, **env})


def values(text: str) -> dict[str, str]:
    """What --print-config says, read as the file it is."""
    parser = ConfigParser(interpolation=None)
    parser.read_string(text)
    return dict(parser["serve"])


def source(text: str, option: str) -> str:
    """The line above an option's that says where it is from."""
    heads = [line for line in text.partition(f"\n{option} = ")[0].splitlines() if line.startswith("# ") and line[-1] == ":"]
    return heads[-1]


def a_value(option: str) -> str:
    """VALUES, and for options that it does not know, a choice, or "yes", or a number that any of them takes."""
    spec = SERVE[option]
    if option in VALUES:
        return VALUES[option]
    return spec["choices"][-1] if "choices" in spec else "yes" if spec.get("action") == "store_true" else "5"


SETTABLE = [option for option in SERVE if option not in ("--config", "--print-config")]


def test_every_option_can_be_set_in_the_environment() -> None:
    done = printed("/", **{variable(option): a_value(option) for option in SETTABLE})
    assert (done.returncode, done.stderr) == (0, "")
    assert values(done.stdout) == {"path": "/", **{option[2:]: a_value(option) for option in SETTABLE}}
    assert {source(done.stdout, option[2:]) for option in SETTABLE} == {"# from the environment:"}


def test_every_option_can_be_set_in_a_file_which_is_what_print_config_prints(spot: Path) -> None:
    lines = [f"{option[2:]} = {a_value(option)}\n" for option in SETTABLE]
    (spot / "one.conf").write_text("# all of them\n[serve]\npath = /srv\n" + "".join(lines))
    first = printed(f"--config={spot}/one.conf")
    assert (first.returncode, first.stderr) == (0, "")
    assert values(first.stdout) == {"path": "/srv", **{option[2:]: a_value(option) for option in SETTABLE}}
    (spot / "two.conf").write_text(first.stdout)
    second = printed(GOFER_SERVE_CONFIG=f"{spot}/two.conf")
    assert second.stdout.replace("two.conf", "one.conf") == first.stdout


def test_the_command_line_goes_first_then_the_environment_then_the_file(spot: Path) -> None:
    (spot / "conf").write_text("[serve]\npath = /file\nmode = 0601\nchannels = 2\nallow-uid = 1\n  2\nworkers = 1\n")
    argv = ["/line", "--config", f"{spot}/conf", "--mode=0603"]
    done = printed(*argv, GOFER_SERVE_MODE="0602", GOFER_SERVE_CHANNELS="1", GOFER_SERVE_PATH="/environment")
    assert done.returncode == 0, done
    said = values(done.stdout)
    got = {name: (said[name], source(done.stdout, name)[2:-1]) for name in ("path", "mode", "channels", "allow-uid", "xattrs")}
    assert got == {
        "path": ("/line", "from the command line"), "mode": ("0603", "from the command line"),
        "channels": ("1", "from the environment"), "allow-uid": ("1 2", f"from the file {spot}/conf"),
        "xattrs": ("user", "defaults"),
    }  # fmt: skip


def test_what_the_file_and_the_environment_say_holds_of_the_server(spot: Path) -> None:
    (spot / "tree").mkdir()
    (spot / "conf").write_text(f"[serve]\npath = {spot}/tree\nxattrs = none\nread-only = no\n")
    env = {**os.environ, "GOFER_SERVE_READ_ONLY": "on", "GOFER_SERVE_CONFIG": f"{spot}/conf"}
    done = run("serve", "--jail=off", "--", sys.executable, str(CHECKOUT), "stat", env=env)
    assert done.returncode == 0 and f"serves the directory {spot}/tree read-only on" in done.stderr, done
    assert "xattrs none" in done.stderr and "IO Block: 4096   directory\n" in done.stdout


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GOFER_SERVE_READONLY", "yes", ["GOFER_SERVE_READONLY", "no such option"]),
        ("GOFER_SERVE_read_only", "yes", ["GOFER_SERVE_read_only", "no such option"]),
        ("GOFER_SERVE_PRINT_CONFIG", "yes", ["GOFER_SERVE_PRINT_CONFIG"]),
        ("GOFER_SERVE_", "yes", ["GOFER_SERVE_", "no such option"]),
        ("GOFER_READ_ONLY", "yes", ["GOFER_READ_ONLY", "GOFER_SERVE_READ_ONLY"]),
        ("GOFER_SERVE_READ_ONLY", "", ["GOFER_SERVE_READ_ONLY", "yes or no"]),
        ("GOFER_SERVE_MODE", "rw", ["GOFER_SERVE_MODE", "octal"]),
        ("GOFER_SERVE_JAIL", "maybe", ["GOFER_SERVE_JAIL", "must be one of auto, require, off"]),
        ("GOFER_SERVE_SOCKET", "", ["GOFER_SERVE_SOCKET", "not be empty"]),
        ("GOFER_SERVE_CONFIG", "/nonexistent", ["/nonexistent", "No such file"]),
    ],
)
def test_what_is_wrong_in_the_environment_is_told_by_its_name(name: str, value: str, words: Sequence[str]) -> None:
    fails_in_one_line(run("serve", "/nonexistent/tree", env={**os.environ, name: value}), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[serve]\nreadonly = yes\n", ["readonly", "no such option"]),
        ("[serve]\nconfig = x\n", ["config", "not here"]),
        ("[serve]\nmode = rw\n", ["mode", "'rw'", "octal"]),
        ("[serve]\nfd = 1 x\n", ["fd", "'1 x'", "number"]),
        ("[server]\nmode = 0600\n", ["[server]: no such section; options stand in [serve]"]),
        ("[DEFAULT]\nmode = 0600\n", ["[DEFAULT]"]),
        ("mode = 0600\n", ["section"]),
        ("[serve]\nmode\n", ["line", "INI"]),
        ("[serve]\nmode = 0600\nmode = 0660\n", ["mode", "already exists"]),
        ("[serve]\n\x1b[31m = 1\n", ["\\x1b[31m"]),
    ],
)
def test_what_is_wrong_in_a_file_is_told_by_its_name(text: str, words: Sequence[str], spot: Path) -> None:
    (spot / "conf").write_text(text)
    fails_in_one_line(run("serve", "/nonexistent/tree", "--config", f"{spot}/conf"), f"{spot}/conf", *words)


def test_without_a_path_anywhere_the_current_directory_is_served(spot: Path) -> None:
    (spot / "conf").write_text("[serve]\nmode = 0600\n")
    done = run("serve", f"--config={spot}/conf", "--", sys.executable, str(CHECKOUT), "ls", cwd=spot)
    assert (done.returncode, done.stdout) == (0, "conf\n")
    assert f"{spot} (the current directory)" in done.stderr


def test_the_servers_that_clients_ask_is_not_an_option_of_serve() -> None:
    assert "# socket =" in printed("/", GOFER_SOCKET="/run/other").stdout


def test_a_plain_start_reads_no_configuration(spot: Path) -> None:
    """configparser takes 3 ms of a start of 25."""
    argv = [sys.executable, "-ISX", "importtime", str(CHECKOUT), "serve", str(spot / "nothing")]
    plain = subprocess.run(argv, capture_output=True, text=True, env={"GOFER_SOCKET": "x"})
    assert plain.returncode == 1 and "configparser" not in plain.stderr and "gofer.commands.config" not in plain.stderr
    told = subprocess.run(argv, capture_output=True, text=True, env={"GOFER_SERVE_MODE": "0600"})
    assert "gofer.commands.config" in told.stderr and "configparser" not in told.stderr


def test_a_containers_gofer_reads_nothing_of_it() -> None:
    """The environment there is an engine's, and runsc's flags say everything."""
    env = {**os.environ, "GOFER_SERVE_NONSENSE": "1", "GOFER_SERVE_READ_ONLY": "yes"}
    words = ["-ISX", "importtime", str(CHECKOUT), "--root=/nonexistent", "gofer", "--bundle", "/nonexistent", "--io-fds=3"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env)
    assert done.returncode not in (0, 2) and "gofer.runsc.gofer" in done.stderr
    assert "NONSENSE" not in done.stderr and "gofer.commands.config" not in done.stderr
