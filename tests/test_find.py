"""`gofer find`: the commands that it runs, what it prints of another tree, and a tree of 100,000 names."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from asks import WORLD, ask, served, zoo
from conftest import Start
from hosts import GOFER, Server, ended, wait_until
from terminal import Terminal

ODD = [b"a b", b"-rf", b"new\nline", b"\xff\xfe", b"quote'\"", b"$(touch x)", b"n" * 255]


@pytest.fixture(scope="module")
def there() -> Iterator[Server]:
    with served(zoo) as server:
        yield server


def test_a_command_gets_each_path_as_one_word_and_the_server(start: Start) -> None:
    server = start()
    for name in ODD:
        Path(os.path.join(os.fsencode(server.tree), name).decode("utf-8", "surrogateescape")).write_bytes(b"in " + name)
    script = 'printf "%s\\0" "$GOFER_SOCKET" "$@"'
    done = ask("find", f"{server.path}:", "-type", "f", "-exec", "sh", "-c", script, "sh", "<{}>", ";")
    words = done.out.split(b"\0")[:-1]
    assert (done.status, done.err) == (0, b"")
    assert set(words[::2]) == {os.fsencode(server.path)} and sorted(words[1::2]) == sorted(b"</%s>" % name for name in ODD)
    done = ask("find", f"{server.path}:", "-type", "f", "-exec", "sh", "-c", script, "sh", "{}", "+")
    assert sorted(done.out.split(b"\0")[1:-1]) == sorted(b"/" + name for name in ODD)


def test_a_gofer_in_it_finds_the_file_by_a_colon_before_the_path(start: Start) -> None:
    server = start()
    (server.tree / "dir").mkdir()
    (server.tree / "dir/file").write_text("contents")
    done = ask("find", f"{server.path}:dir", "-type", "f", "-exec", *GOFER, "cat", ":{}", ";")
    assert (done.out, done.err, done.status) == (b"contents", b"", 0)


def test_options_of_the_command_stay_its_own(there: Server) -> None:
    done = ask("find", ":zoo/big", "-exec", "echo", "--json", "--timeout", "-L", "{}", ";", "--timeout=9", socket=there.path)
    assert (done.out, done.status) == (b"--json --timeout -L zoo/big\n", 0)


def test_an_option_behind_the_expression_may_have_its_value_in_a_word_of_its_own(there: Server) -> None:
    done = ask("find", ":zoo/big", "-name", "b*", "--timeout", "9", "-print0", "--ssh", "-print", socket=there.path)
    assert (done.out, done.status) == (b"", 2) and b"--ssh: expected one argument" in done.err
    done = ask("find", ":zoo/big", "-name", "b*", "--timeout", "9", "-print0", socket=there.path)
    assert (done.out, done.err, done.status) == (b"zoo/big\0", b"", 0)
    done = ask("find", ":zoo/big", "-print", "--timeout", socket=there.path)
    assert (done.out, done.status) == (b"", 2) and b"--timeout: expected one argument" in done.err


def test_many_names_are_several_commands_and_none_is_none(start: Start) -> None:
    server = start()
    for number in range(1000):
        (server.tree / f"{number:0200}").touch()
    done = ask("find", ":", "-type", "f", "-exec", "sh", "-c", 'echo "$#"', "sh", "{}", "+", socket=server.path)
    counts = [int(line) for line in done.out.split()]
    assert sum(counts) == 1000 and len(counts) > 1
    assert ask("find", ":", "-name", "none", "-exec", "echo", "{}", "+", socket=server.path).out == b""


def test_ok_asks_and_a_no_is_false(there: Server) -> None:
    words = ["find", ":zoo/big", ":zoo/link", "-ok", "echo", "did", "{}", ";", "-print"]
    done = ask(*words, socket=there.path, stdin=b"y\nn\n")
    assert done.out == b"did zoo/big\nzoo/big\n" and done.err == b"< echo did zoo/big > ? < echo did zoo/link > ? "
    assert ask(*words, socket=there.path).out == b""  # nobody there


def test_output_stands_in_the_order_in_which_it_was_made(there: Server) -> None:
    done = ask("find", ":zoo/big", "-print", "-exec", "echo", "in", "between", ";", "-print", socket=there.path)
    assert done.out == b"zoo/big\nin between\nzoo/big\n"


def test_a_command_that_cannot_be_run_is_told(there: Server) -> None:
    done = ask("find", ":zoo/big", "-exec", "/nonexistent/x", "{}", ";", socket=there.path)
    assert done.told == "find /nonexistent/x: No such file or directory\n" and done.status == 0  # as find(1)
    done = ask("find", ":zoo/big", "-exec", "/etc/passwd", "{}", "+", socket=there.path)
    assert done.told == "find /etc/passwd: Permission denied\n" and done.status == 1


@pytest.mark.slow
def test_a_tree_of_100000_names_is_looked_at_as_the_hosts_programs_do(start: Start) -> None:
    """On a disk: some directories in each other, most beside each other."""
    server = start()
    place = os.open(server.tree, os.O_RDONLY)
    for number in range(250):
        path = f"d{number}" if number % 2 else f"d{number}/below/it"
        os.makedirs(server.tree / path)
        here = os.open(path, os.O_RDONLY, dir_fd=place)
        for name in range(400):
            os.mknod(f"file-{name}", 0o600 | 0o100000, dir_fd=here)
        os.close(here)
    os.close(place)

    def native(*argv: str) -> bytes:
        run = subprocess.run(argv, cwd=server.tree, env=WORLD, stdout=subprocess.PIPE, check=True)
        return run.stdout

    found = ask("find", ":", "-printf", "%P|%y|%i|%m\\n", socket=server.path)
    assert (found.status, found.err) == (0, b"") and found.out.count(b"\n") == 100_501
    assert sorted(found.out.splitlines()) == sorted(native("find", ".", "-printf", "%P|%y|%i|%m\\n").splitlines())
    listed = ask("ls", "-AR1", ":", socket=server.path).out.replace(b"/:\n", b".:\n", 1).replace(b"\n/d", b"\n./d")
    assert listed == native("ls", "-AR1")
    summed, theirs = ask("du", "-b", ":", socket=server.path).out, native("du", "-b")
    assert sorted(line.split()[0] for line in summed.splitlines()) == sorted(line.split()[0] for line in theirs.splitlines())
    assert ask("tree", ":", socket=server.path).out.splitlines()[-1] == b"501 directories, 100000 files"
    sums = ask("sum", *(f":d{number}" for number in range(25)), socket=server.path).out  # each file is opened
    assert sums.count(b"e3b0c44298fc1c149afbf4c8996fb924") == 10_000


@pytest.mark.parametrize("end", [";", "+"])
def test_ctrl_c_ends_the_command_that_runs_and_no_other_is_run(end: str, there: Server, spot: Path) -> None:
    script = f'echo $$ >>{spot}/ran; exec sleep 1000'
    words = ["find", ":zoo", ":zoo", "-exec", "sh", "-c", script, "sh", "{}", end]
    with Terminal(*GOFER, *words, GOFER_SOCKET=str(there.path)) as shown:
        wait_until(lambda: (spot / "ran").exists() and (spot / "ran").read_text().endswith("\n"), "the first runs")
        shown.type("\x03")
    assert shown.close() == 130
    (pid,) = map(int, (spot / "ran").read_text().split())
    wait_until(lambda: ended(pid), "the command has ended")
