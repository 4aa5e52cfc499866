"""Commands against a server that lies: what it says is shown, refused or bounded, and the command ends in one line."""

import errno
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from asks import Done, ask
from hosts import CALM, GOFER
from liar import DIR, DIRSTAT, DIRWALK, FILE, GETDENTS, LINK, OPENAT, PREAD, READLINK, WALK, Liar, entry, statx

NO_LISAFS = "the server does not speak LISAFS"
NONE_CAN_HAVE = [b"a/b", b"", b"..", b".", b"nul\0", b"n" * 256, b"/etc/passwd"]
LISTS = ["ls", "ls -l", "ls -R", "find", "find -size 0", "du", "tree", "sum", "diff"]


@pytest.fixture
def liar(spot: Path) -> Iterator[Liar]:
    made = Liar(spot / "socket")
    yield made
    made.close()


def asked(liar: Liar, command: str, path: str = "") -> Done:
    name, *words = command.split()
    address = f"{liar.listener.getsockname()}:{path}"
    return ask(name, address, *words) if name in ("find", "diff") else ask(name, *words, address)


def dirents(*names: bytes, kind: int = 8) -> bytes:
    return struct.pack("<H", len(names)) + b"".join(struct.pack("<QIIQBH", 9, 1, 8, 1, kind, len(name)) + name for name in names)


def stats(*names: bytes, mode: int = FILE) -> bytes:
    return struct.pack("<H", len(names)) + b"".join(entry(name, statx(mode, 9)) for name in names)


def refused(done: Done, *words: str) -> None:
    assert done.status in (1, 2) and done.err.count(b"\n") == 1, done
    for word in words:
        assert word in done.told


@pytest.mark.parametrize("name", NONE_CAN_HAVE)
def test_a_name_that_no_entry_can_have_ends_the_command(liar: Liar, name: bytes) -> None:
    liar.answers[GETDENTS] = dirents(b"good", name)
    refused(asked(liar, "ls"), NO_LISAFS, "a directory entry with a name that none can have")


@pytest.mark.parametrize("command", LISTS)
def test_so_it_does_whatever_lists(liar: Liar, command: str, spot: Path) -> None:
    (spot / "here").mkdir()
    liar.answers[GETDENTS] = dirents(b"..", b"good")
    liar.answers[DIRSTAT] = stats(b"..", b"good")
    done = asked(liar, f"diff {spot}/here" if command == "diff" else command)
    refused(done, NO_LISAFS, "a directory entry with a name that none can have")


@pytest.mark.parametrize(
    ("mid", "answer", "words"),
    [
        (WALK, struct.pack("<BH", 0, 0), "another number of names"),
        (WALK, struct.pack("<BHQ", 0, 2, 11) + statx(DIR, 3) + struct.pack("<Q", 12) + statx(FILE, 4), "another number of names"),
        (WALK, struct.pack("<BHQ", 1, 1, 11) + statx(FILE, 3), "another number of names"),
        (WALK, b"", "too short"),
        (WALK, struct.pack("<BH", 0, 0xFFFF), "too short"),
    ],
)
def test_a_walk_that_cannot_be_ends_the_command(liar: Liar, mid: int, answer: bytes, words: str) -> None:
    liar.answers[mid] = answer
    refused(asked(liar, "cat", "file"), NO_LISAFS, words)


@pytest.mark.parametrize(
    ("target", "words"),
    [(b"x\0y", "that none can have"), (b"x" * 4097, "that none can have"), (b"", "No such file"), (b"link", "Too many levels")],
)
def test_a_target_that_cannot_be_is_not_followed(liar: Liar, target: bytes, words: str) -> None:
    liar.answers[READLINK] = struct.pack("<H", len(target)) + target
    refused(asked(liar, "cat", "link"), words)


def test_links_that_grow_the_path_for_ever_end(liar: Liar) -> None:
    long = b"/".join([b"link"] * 800)
    liar.answers[READLINK] = struct.pack("<H", len(long)) + long
    liar.answers[WALK] = lambda request: struct.pack("<BHQ", 2 * (request[8:10] != b"\1\0"), 1, 11) + statx(LINK, 4)
    refused(asked(liar, "cat", "link"), "File name too long")


@pytest.mark.parametrize("command", ["find", "du", "tree", "sum", "ls -R"])
def test_a_tree_without_an_end_is_left_at_some_depth(liar: Liar, command: str) -> None:
    """Each directory has one in it, another one each time."""
    inos = iter(range(100, 1 << 30))
    done = {"told": 0}

    def opens(request: bytes) -> bytes:
        done["told"] = 0
        return struct.pack("<Q", 50)

    def lists(request: bytes) -> bytes:
        done["told"] += 1
        return dirents(b"dir", kind=4) if done["told"] == 1 else dirents()

    liar.answers[OPENAT] = opens
    liar.answers[DIRSTAT] = errno.EOPNOTSUPP
    liar.answers[GETDENTS] = lists
    liar.answers[WALK] = lambda request: struct.pack("<BHQ", 0, 1, 11) + statx(DIR, next(inos))
    liar.answers[6] = lambda request: struct.pack("<H", 1) + statx(DIR, next(inos))
    ended = asked(liar, command)
    if command == "tree":  # has as many levels as are drawn
        assert ended.status == 0
    else:
        refused(ended, "more than 1000 directories in each other")
    assert ended.out.count(b"\n") < 4000


def test_a_directory_without_an_end_is_given_up_where_it_is_sorted(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gofer.commands.ls.MOST", 5000)
    monkeypatch.setattr("gofer.client.tree.MOST", 5000)
    liar.answers[GETDENTS] = dirents(*(b"%d" % number for number in range(1000)))
    done = asked(liar, "ls")
    assert done.status == 1 and "more than 5000 entries, which are not sorted; -U1 lists them" in done.told


@pytest.mark.parametrize("command", [["find"], ["ls", "-U1"]])
def test_it_is_listed_as_it_comes_to_whoever_has_enough_of_it(liar: Liar, command: "list[str]") -> None:
    liar.answers[GETDENTS] = dirents(*(b"%d" % number for number in range(1000)))
    argv = [*GOFER, *command, f"{liar.listener.getsockname()}:"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        assert len(running.stdout.read(100_000)) == 100_000
        running.stdout.close()
        assert (running.wait(CALM), running.stderr.read()) == (141, b"")


def test_a_pipe_in_place_of_a_file_keeps_nobody_waiting(liar: Liar) -> None:
    reader, writer = os.pipe()
    liar.donates = reader
    try:
        refused(asked(liar, "cat", "file"), "Illegal seek")
    finally:
        os.close(reader)
        os.close(writer)


def test_a_size_that_lies_is_no_limit(liar: Liar) -> None:
    long = b"x" * 3000
    liar.answers[PREAD] = lambda request: _part(long, request)
    assert asked(liar, "cat", "file").out == long


def _part(data: bytes, request: bytes) -> bytes:
    offset = struct.unpack_from("<Q", request)[0]
    part = data[offset : offset + 1000]
    return struct.pack("<Q", len(part)) + part


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EACCES, "Permission denied; the server's user may not: its rights decide, not yours"),
        (errno.EMFILE, "Too many open files; the server's --fd-limit, or its limit of open files, is reached"),
        (errno.ENFILE, "Too many open files in system; the server's host has too many files open"),
        (errno.EROFS, "Read-only file system; the server was started with --read-only, or what it serves is mounted so"),
        (errno.ENOSPC, "No space left on device; the file system that is served is full"),
        (errno.EDQUOT, "Disk quota exceeded; the quota of the server's user is used up"),
        (errno.EOPNOTSUPP, "Operation not supported; the file system that is served, or the server, does not have this"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_an_errno_is_told_with_its_remedy(liar: Liar, code: int, remedy: str) -> None:
    liar.answers[OPENAT] = code
    done = asked(liar, "cat", "file")
    assert (done.status, done.out, done.told) == (1, b"", f"cat file: {remedy}\n")


@pytest.mark.parametrize("command", ["find", "du", "tree", "sum", "ls -lR"])
def test_a_directory_that_cannot_be_listed_is_told(liar: Liar, command: str) -> None:
    liar.answers[OPENAT] = errno.EIO
    done = asked(liar, command)
    assert done.status == (2 if command[:2] == "ls" else 1) and done.told.endswith(" /: Input/output error\n")


def test_a_name_that_is_no_text_is_whole_in_json(liar: Liar) -> None:
    liar.answers[GETDENTS] = iter_once(dirents(b"\xff\n\"'"))
    liar.answers[DIRSTAT] = errno.EOPNOTSUPP
    line = asked(liar, "find --json").out.splitlines()[1]
    assert os.fsencode(json.loads(line)["path"]) == b"/\xff\n\"'"


def iter_once(answer: bytes) -> Callable[[bytes], bytes]:
    left = [answer]
    return lambda request: left.pop() if left else struct.pack("<H", 0)


def dirwalk(told: bytes, names: bytes, number: int) -> bytes:
    return struct.pack("<QQ", 11, 0) + statx(DIR, 3) + struct.pack("<II", number, len(told) + len(names)) + told + names


@pytest.mark.parametrize("command", ["find", "find -size 0", "ls -R", "du", "tree", "sum"])
@pytest.mark.parametrize(
    ("names", "number", "words"),
    [
        *((b"good\0" + name + b"\0", 2, "a directory entry with a name that none can have") for name in (b"a/b", b"", b"..")),
        (b"n" * 256 + b"\0", 1, "a directory entry with a name that none can have"),
        (b"one\0two\0", 1, "another number of names"),
        (b"one\0", 2, "another number of names"),
        (b"one", 1, "another number of names"),
        (b"", 0xFFFFFFFF, "another number of names"),
    ],
)
def test_a_message_of_our_own_that_cannot_be_ends_the_command(
    liar: Liar, command: str, names: bytes, number: int, words: str
) -> None:
    stats = command in ("find -size 0", "du")
    told = (statx(FILE, 9) if stats else b"\x08") * min(number, 2)
    liar.answers[DIRWALK] = dirwalk(told, names, number)
    refused(asked(liar, command), NO_LISAFS, words)


@pytest.mark.parametrize("answer", [b"", bytes(100), struct.pack("<QQ", 11, 0) + statx(DIR, 3)])
def test_and_so_does_one_that_is_cut(liar: Liar, answer: bytes) -> None:
    liar.answers[DIRWALK] = answer
    refused(asked(liar, "find"), NO_LISAFS, "too short")
