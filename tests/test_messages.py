"""What commands tell of what goes wrong: each message is read by a test, here or elsewhere."""

import ast
import os
import re
from pathlib import Path
from typing import Optional

import pytest
from hosts import CHECKOUT, Server, fails_in_one_line, run

HERE = Path(__file__).resolve().parent
ROOMS = ("commands", "copy", "client")
TELL = {"Failure", "OSError", "complain", "tell", "failed", "give_up", "HungUp", "Lost", "error", "ValueError"}
UNREAD = {  # and why; as they stand here, they count as read
    "its limits cannot be set": "no limit that may be set today is refused a moment later",
    "no filters on this kernel": "of what this host's kernel lacks, by `doctor`",
    "off or not built in": "the same",
    "no socket was made": "the cause of another, which is what is told",
    "not what an interrupted copy leaves": "the same: then the copy begins anew",
    "request above the message size": "no command makes one",
    "the mount ended as soon as it had begun": "the process that serves the mount has to be killed within a millisecond",
}


def words(text: str) -> "list[str]":
    return re.findall(r"[\w'`-]+", text)


def threes(text: str) -> "list[str]":
    found = words(text)
    return [" ".join(found[at : at + 3]) for at in range(len(found) - 2)]


def strings(node: ast.AST) -> "list[str]":
    found = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
    return [part if isinstance(part, str) else part.decode("latin-1") for part in found if isinstance(part, (str, bytes))]


def message(node: ast.AST) -> "Optional[list[str]]":
    """What the call says in words of its own; None where it is no such call, or says only what others have told it."""
    if not isinstance(node, ast.Call):
        return None
    who = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return [part for argument in node.args for part in strings(argument)] if who in TELL else None


def test_each_message_is_read_by_a_test() -> None:
    """Some three words in a row of it stand in a test, if not always in that of its cause."""
    read = set()
    for path in HERE.glob("test_*.py"):
        for text in strings(ast.parse(path.read_text())):
            read.update(threes(text))
    unread = []
    for path in (path for room in ROOMS for path in sorted((CHECKOUT / "gofer" / room).glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            said = {three for part in message(node) or () for three in threes(part)}
            if said and not read & said:
                unread.append(f"{path.name}:{getattr(node, 'lineno', 0)}: {message(node)}")
    assert unread == [], "write a test that reads each"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["completions"], "which shell? give one of bash, zsh, fish"),
        (["conform", "@", "--", "true"], "a SOCKET, with --tree if you like, or -- and a command, not both"),
        (["sum", "-c", "-", "@", "@:dir"], "sum: a list is checked in one place: give one SERVER[:PATH], where its names begin"),
        (["sum", "-c", "/missing", "@"], "No such file or directory; -c takes a list as gofer sum prints it"),
        (["find", "@", "-regex", "[a"], "find: -regex [a: a [ without its ] at position 1; it is read as findutils-default"),
        (["readlink", "-v", "@:dir"], "readlink dir: it is no symbolic link"),
        (["head", "-n", "", "@:dir"], "head: '' must be a number of lines, as 10, -10 or 5K"),
        (["stat", "-c", "%99999999999999999999s", "@"], "%99999999999999999999s is nothing that gofer stat tells"),
        (["stat", "-c", "%\x1b", "@"], "gofer: %\\x1b is nothing that gofer stat tells"),
        (["touch", "-d", "@99999999999999999999", "@:dir"], "'@99999999999999999999' is no time"),
        (["truncate", "-s", "9999999999999999999", "@:file"], "'9999999999999999999' is no size"),
        (["truncate", "-s", "+9223372036854775807", "@:of2"], "truncate of2: File too large"),
        (["find", "@", "-printf", "%-99999999999999999999f"], "find: %-99999999999999999999f is nothing that -printf tells"),
        (["truncate", "-s", "8E", "@:file"], "'8E' is no size"),
        (["get", "@:dir"], "get: where to? the last word is the destination; see --help"),
        (["mount", "-o", "cache=most", "@", "/mnt"], "-o cache=most: must be none, auto or always"),
        (["serve", "/", "--fd", "7", "--fd", "7"], "fd 7 is named more than once; give each socket one --fd"),
        (["serve", "/", "--stdio", "--fd", "7"], "--stdio serves one client, on stdin and stdout; leave --fd away"),
    ],
)
def test_what_is_wrong_is_one_line(server: Server, argv: "list[str]", told: str) -> None:
    (server.tree / "dir").mkdir()
    (server.tree / "of2").write_text("ab")
    words = [word if word[:2] == "@9" else word.replace("@", str(server.path)) for word in argv]
    fails_in_one_line(run(*words, env={**os.environ, "SHELL": ""}), told)


def test_a_number_of_any_length_is_one(server: Server) -> None:
    (server.tree / "file").write_text("all of it\n")
    for words in (["head", "-c"], ["tail", "-c"], ["head", "-n"], ["tail", "-n"]):
        assert run(*words, "9" * 5000, f"{server.path}:file").stdout == "all of it\n"
    assert run("tail", "-c", "+" + "9" * 25, f"{server.path}:file").stdout == ""
