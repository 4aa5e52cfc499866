"""`gofer ls`, `gofer cat`, `gofer stat`."""

import os
import subprocess
import time
from pathlib import Path

import pytest
from hosts import CALM, GOFER, Server, fails_in_one_line, run


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
    done = subprocess.run([*GOFER, "cat", str(served.path), "/dir/deep"], capture_output=True, timeout=CALM)
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
    with subprocess.Popen(
        [*GOFER, "cat", str(served.path), "/dir/deep"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as cat:
        assert cat.stdout is not None and cat.stderr is not None
        cat.stdout.read(10)
        time.sleep(0.05)
        cat.stdout.close()
        assert b"Traceback" not in cat.stderr.read()
