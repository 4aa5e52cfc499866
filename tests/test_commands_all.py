"""What every command on a served tree does where something is not as it should be, one after the other."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from asks import ask, served, zoo
from hosts import Server, stopped

# What each prints of a tree that it does not change: the words behind it.
LOOKS = {
    "ls": [":zoo"], "tree": [":zoo"], "stat": [":zoo"], "cat": [":zoo/lines"], "head": [":zoo/big"], "tail": [":zoo/big"],
    "find": [":zoo"], "du": [":zoo"], "df": [":zoo"], "sum": [":zoo/big"], "readlink": ["-v", ":zoo/link"], "realpath": [":zoo"],
    "diff": [":zoo/dir", "/etc"], "xattr": ["list", ":zoo/big"], "tar": ["-c", ":zoo/dir"], "shell": ["-c", "ls zoo"],
    "get": ["-rn", "--json", ":zoo/dir", "/tmp/never"], "put": ["-n", "--json", "/etc/passwd", ":"],
}  # fmt: skip
# And one of each that changes something, of a path that `@` stands for.
CHANGES = {
    "rm": ["@"], "rmdir": ["@"], "mkdir": ["@/x"], "mv": ["@", ":new"], "cp": ["@", ":new"], "ln": ["@", ":new"],
    "chmod": ["600", "@"], "chown": ["0", "@"], "touch": ["-r", "@", ":zoo"], "truncate": ["-s0", "@/x"], "sync": ["@"],
    "edit": ["@/x"],
}  # fmt: skip
SERVED = {**LOOKS, **{name: [word.replace("@", ":zoo/lines") for word in words] for name, words in CHANGES.items()}}


@pytest.fixture(scope="module")
def there() -> Iterator[Server]:
    def fill(tree: Path) -> None:
        zoo(tree)
        os.setxattr(tree / "zoo/big", "user.x", b"y")

    with served(fill) as server:
        yield server


def failing(command: str) -> int:
    return 2 if command == "diff" else 1


def test_output_that_cannot_be_written_is_a_failure(there: Server) -> None:
    with open("/dev/full", "wb") as full:
        for command, words in LOOKS.items():
            done = ask(command, *words, socket=there.path, out=full.fileno())
            assert done.status == failing(command), done
            told = b"gofer: cannot write the output: No space left on device; give it a place that can be written to\n"
            assert done.err.endswith(told) and done.err.count(b"\n") == 1, (command, done.err)


def test_a_reader_that_has_enough_is_told_by_the_status_alone(there: Server) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for command, words in LOOKS.items():
        done = ask(command, *words, socket=there.path, out=writer)
        assert (done.status, b"cannot" in done.err) == (141, False), (command, done)
    os.close(writer)


@contextlib.contextmanager
def web_server(path: Path) -> Iterator[None]:
    def answer() -> None:
        with contextlib.suppress(OSError):  # shut down
            while True:
                with listener.accept()[0] as client:
                    client.recv(65536)
                    client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_of_something_else_is_told_as_that(spot: Path) -> None:
    with web_server(spot / "web"):
        for command, words in SERVED.items():
            done = ask(command, *words, socket=spot / "web", VISUAL="true")
            assert (done.status, done.out) == (failing(command), b""), (command, done)
            assert done.told.startswith(f"{spot}/web: the server does not speak LISAFS"), (command, done)
            assert done.told.endswith("it is no gofer's, or one that is broken\n") and done.told.count("\n") == 1


def test_a_server_that_does_not_answer_is_given_up(there: Server) -> None:
    with stopped(there.pid):
        for command, words in SERVED.items():
            done = ask(command, "--timeout=0.05", *words, socket=there.path, VISUAL="true")
            assert (done.status, done.out) == (failing(command), b""), (command, done)
            assert done.told.startswith(f"{there.path}: no answer within 0.05 s") and done.told.count("\n") == 1, (command, done)


def test_no_address_and_one_that_is_empty_are_told(there: Server) -> None:
    for command, words in SERVED.items():
        if command == "shell":
            continue  # its words are a line of its own
        done = ask(command, *words)
        assert done.status == failing(command) and done.told.startswith("which server? give SERVER[:PATH]"), (command, done)
        empty = ["" if word.startswith(":") else word for word in words]
        done = ask(command, *empty, socket=there.path)
        assert done.status == failing(command), (command, done)
        assert "an address must not be empty" in done.told or command == "diff" and "both are local" in done.told, (command, done)


WHERE = {  # a path, and what each command that follows links says of it
    ":zoo/loop": "Too many levels of symbolic links",
    ":zoo/plain/x": "Not a directory",
    ":" + "n" * 256: "File name too long",
    ":zoo/none/x": "Not a directory",
    ":zoo/dir/no/x": "No such file or directory",
}


@pytest.mark.parametrize("path", WHERE, ids=WHERE.values())
def test_a_path_that_leads_nowhere_is_told_by_its_name(there: Server, path: str) -> None:
    itself = ("ls", "stat", "find", "du", "readlink", "tar", "rm", "rmdir", "mv", "ln", "mkdir", "edit", "get", "truncate")
    for command in [name for name in SERVED if name not in ("shell", "put", "xattr")]:
        words = CHANGES.get(command) or ["@" if word[0] == ":" else word for word in LOOKS[command]]
        if path == ":zoo/loop" and command in itself or command == "edit" and "/x" not in path:
            continue
        done = ask(command, *(word.replace("@", path) for word in words), socket=there.path, VISUAL="true")
        assert done.status == (2 if command in ("ls", "diff") else 1) and WHERE[path] in done.told, (command, done)
        assert path[1:] in done.told and done.told.count("\n") == 1, (command, done)


def test_a_block_device_is_refused_by_its_name(there: Server) -> None:
    os.mknod(there.tree / "zoo/empty/block", 0o60600, os.makedev(7, 0))
    path = ":zoo/empty/block"
    for command in ("tree", "head", "tail", "df", "sum", "realpath", "tar", "get", "cp", "ln", "chmod", "chown", "touch", "sync"):
        words = CHANGES.get(command) or ["@" if word[0] == ":" else word for word in LOOKS[command]]
        done = ask(command, *(word.replace("@", path) for word in words), socket=there.path)
        assert done.status == 1 and "zoo/empty/block: Operation not permitted; block devices are never served" in done.told, done
        assert done.told.count("\n") == 1, done
    (there.tree / "zoo/empty/block").unlink()
