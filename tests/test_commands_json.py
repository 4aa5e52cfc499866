"""What programs read: the contents of files, and where links lead, as objects of --json."""

import base64
import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from asks import ask, served, zoo
from conftest import Start
from hosts import GOFER, PATIENCE, Server

LETTERS = "a\u00e9\u2603\U0001f600".encode() * 60000  # a piece ends in the middle of one


def objects(*words: str, server: Server) -> "list[dict[str, Any]]":
    done = ask(*words, "--json", socket=server.path)
    assert (done.status, done.err) == (0, b"")
    return [json.loads(line) for line in done.out.splitlines()]


def data(piece: "dict[str, Any]") -> bytes:
    assert sorted(piece) in (["offset", "path", "text"], ["base64", "offset", "path"])
    return str(piece["text"]).encode() if "text" in piece else base64.b64decode(piece["base64"])


def joined(pieces: "list[dict[str, Any]]", at: int = 0) -> bytes:
    """The contents, whose pieces follow each other."""
    parts = []
    for piece in pieces:
        assert piece["offset"] == at
        parts.append(data(piece))
        at += len(parts[-1])
    return b"".join(parts)


@pytest.fixture(scope="module")
def there() -> Iterator[Server]:
    with served(zoo) as server:
        yield server


def test_cat_tells_each_file_in_pieces(there: Server) -> None:
    names = ["big", "none", "gaps", "new\nline"]
    pieces = objects("cat", *(f":zoo/{name}" for name in names), server=there)
    for name in names:
        mine = [piece for piece in pieces if piece["path"] == f"zoo/{name}"]
        assert joined(mine) == (there.tree / "zoo" / name).read_bytes() and mine
    assert len([piece for piece in pieces if piece["path"] == "zoo/big"]) > 1
    assert [piece for piece in pieces if piece["path"] == "zoo/none"] == [{"path": "zoo/none", "offset": 0, "text": ""}]
    assert all("base64" in piece for piece in pieces if piece["path"] == "zoo/gaps")


def test_a_letter_is_never_cut_and_what_is_no_text_comes_as_it_is(start: Start) -> None:
    server = start()
    for name, contents in (("text", LETTERS), ("cut", LETTERS[:-1]), ("tail", b"\xe2\x98"), ("bytes", bytes(range(256)) * 5000)):
        (server.tree / name).write_bytes(contents)
        pieces = objects("cat", f":{name}", server=server)
        assert joined(pieces) == contents
        assert [piece for piece in pieces if "base64" in piece] == {"text": [], "bytes": pieces}.get(name, pieces[-1:])


def test_a_name_that_is_no_text_is_whole(there: Server) -> None:
    (one,) = objects("cat", os.fsdecode(b":zoo/\xff\xfe\x80"), server=there)
    assert os.fsencode(one["path"]) == b"zoo/\xff\xfe\x80"


@pytest.mark.parametrize("count", ["-n3", "-n-3", "-c5", "-c-5", "-n0"])
def test_head_tells_the_same_part(there: Server, count: str) -> None:
    for name in ("lines", "big"):
        plain = ask("head", count, f":zoo/{name}", socket=there.path).out
        assert joined(objects("head", count, f":zoo/{name}", server=there)) == plain


@pytest.mark.parametrize("count", ["-n3", "-n+3", "-c5", "-c+5", "-n0", "-n+999999"])
def test_tail_tells_where_its_part_begins(there: Server, count: str) -> None:
    for name in ("lines", "big"):
        plain, whole = ask("tail", count, f":zoo/{name}", socket=there.path).out, (there.tree / "zoo" / name).read_bytes()
        pieces = objects("tail", count, f":zoo/{name}", server=there)
        if count != "-n0":
            assert pieces and joined(pieces, len(whole) - len(plain)) == plain
    assert len(objects("tail", "-v", ":zoo/lines", ":zoo/noend", server=there)) == 2  # no headings


def test_what_is_added_is_told_as_it_comes(start: Start) -> None:
    server = start()
    log = server.tree / "log"
    log.write_bytes(b"one\ntwo\n")
    argv = [*GOFER, "tail", "--json", "-f", "-n1", "-s0.01", f"{server.path}:log"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert json.loads(running.stdout.readline()) == {"path": "log", "offset": 4, "text": "two\n"}
        with open(log, "ab") as file:
            file.write(b"three\n")
        assert json.loads(running.stdout.readline()) == {"path": "log", "offset": 8, "text": "three\n"}
        log.write_bytes(b"new\n")
        assert json.loads(running.stdout.readline()) == {"path": "log", "offset": 0, "text": "new\n"}
        running.send_signal(signal.SIGINT)
        assert running.wait(PATIENCE) == 130


@pytest.mark.parametrize("options", ["-n3", "-n+3", "-c100", "-c+100", "-n700000", "-n+199999", "-c2000000"])
def test_the_end_of_a_fifo_is_that_of_a_file(start: Start, options: str) -> None:
    """More goes through it than is held."""
    server = start("--host-fifo=open")
    text = b"".join(b"%d\n" % number for number in range(400000)) + b"no end"
    (server.tree / "file").write_bytes(text)
    os.mkfifo(server.tree / "fifo")
    for more in ([], ["--json"]):
        writer = threading.Thread(target=lambda: (server.tree / "fifo").write_bytes(text))
        writer.start()
        done = ask("tail", options, *more, ":fifo", socket=server.path)
        writer.join()
        plain = ask("tail", options, ":file", socket=server.path).out
        assert done.status == 0
        if not more:
            assert done.out == plain
        elif plain:
            assert joined([json.loads(line) for line in done.out.splitlines()], len(text) - len(plain)) == plain


def test_links_are_told_with_where_they_lead(there: Server) -> None:
    assert objects("readlink", ":zoo/link", ":zoo/odd", server=there) == [
        {"path": "zoo/link", "target": "plain"}, {"path": "zoo/odd", "target": "new\nline"},
    ]  # fmt: skip
    assert objects("readlink", "-f", ":zoo/link", server=there) == [{"path": "zoo/link", "canonical": "/zoo/plain"}]
    assert objects("realpath", ":zoo/dirlink/up", server=there) == [{"path": "zoo/dirlink/up", "canonical": "/zoo"}]
    done = ask("realpath", "--json", ":zoo/missing/x", ":zoo/link", socket=there.path)
    assert done.status == 1 and done.told.count("No such file") == 1 and json.loads(done.out)["canonical"] == "/zoo/plain"


def test_what_json_does_not_go_with_is_told(there: Server) -> None:
    done = ask("cat", "-n", "--json", ":zoo/lines", socket=there.path)
    assert done.told == "cat: --json tells contents as they are: none of -nbsETvAet goes with it\n" and done.status == 1
