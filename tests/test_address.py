"""SERVER[:PATH]: what a word means."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from gofer import Failure
from gofer.client.address import Address, operands, parse, served


@pytest.fixture
def place(spot: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Sockets `a`, `a:b` and `a:b:c`, a file, and no $GOFER_SOCKET; the working directory."""
    monkeypatch.chdir(spot)
    monkeypatch.delenv("GOFER_SOCKET", raising=False)
    (spot / "file").touch()
    (spot / "file:x").touch()
    bound = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    for sock, name in zip(bound, ("a", "a:b", "a:b:c")):
        sock.bind(name)
    yield spot
    for sock in bound:
        sock.close()


def means(address: Address) -> "tuple[str, bytes, bool]":
    return address.server, address.path, address.remote


@pytest.mark.parametrize(
    "word,server,path,remote",
    [
        ("a", "a", b"", False),
        ("./a", "./a", b"", False),
        ("a:", "a", b"", False),
        ("a:/x", "a", b"/x", False),
        ("a:x/y", "a", b"x/y", False),
        ("a:b", "a:b", b"", False),
        ("a:b:/x", "a:b", b"/x", False),
        ("a:b:c:x:y", "a:b:c", b"x:y", False),
        ("a:bb", "a", b"bb", False),
        ("/run/none.sock:/x:y", "/run/none.sock", b"/x:y", False),
        ("/run/none.sock", "/run/none.sock", b"", False),
        ("./none", "./none", b"", False),
        ("none", "none", b"", False),
        ("host:/srv", "host", b"/srv", True),
        ("host:", "host", b"", True),
        ("me@host:srv:x", "me@host", b"srv:x", True),
        ("a:\udcff", "a", b"\xff", False),
    ],
)
def test_a_word_names_a_server_and_a_path(place: Path, word: str, server: str, path: bytes, remote: bool) -> None:
    assert means(parse(word)) == (server, path, remote)
    assert parse(word).shown == os.fsencode(word)


def test_nothing_before_the_colon_is_the_server_of_the_environment(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOFER_SOCKET", "/run/known")
    assert means(parse(":/x:y")) == ("/run/known", b"/x:y", False)
    assert means(parse(":")) == ("/run/known", b"", False)
    assert [means(address) for address in operands([])] == [("/run/known", b"", False)]


def test_a_word_without_a_colon_is_a_path_where_the_environment_names_a_server(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOFER_SOCKET", "/run/known")
    assert [means(address) for address in operands(["/x", "y"])] == [
        ("/run/known", b"/x", False),
        ("/run/known", b"y", False),
    ]
    assert means(parse("a")) == ("a", b"", False)  # but for a socket that exists
    assert means(parse("/run/other:/x")) == ("/run/other", b"/x", False)


@pytest.mark.parametrize("words", [["a", "/x", "y:z/w"], ["./a", "/x"], ["/run/none", "/x"], ["a", "/x:y"]])
def test_words_behind_a_socket_that_are_no_addresses_are_paths_on_it(place: Path, words: "list[str]") -> None:
    if "y:z/w" in words:
        words.remove("y:z/w")  # as a host's it can be one
        assert operands([*words, "y:z/w"])[2].remote
    found = operands(words)
    assert [address.server for address in found] == [words[0]] * (len(words) - 1)
    assert [os.fsdecode(address.path) for address in found] == words[1:]


def test_two_sockets_are_two_servers(place: Path) -> None:
    assert [means(address) for address in operands(["a", "a:b"])] == [("a", b"", False), ("a:b", b"", False)]
    assert [means(address) for address in operands(["a:/x", "a:b:/y"])] == [("a", b"/x", False), ("a:b", b"/y", False)]


def test_names_are_shown_without_the_server_where_there_is_but_one(place: Path) -> None:
    assert [address.shown for address in operands(["a:/x", "a:y", "a"])] == [b"/x", b"y", b"/"]
    assert [address.shown for address in operands(["a:/x", "a:b"])] == [b"a:/x", b"a:b"]
    assert operands(["a:x"])[0].within(b"y")[:3] == ("a", b"x/y", b"x/y")
    assert operands(["a:"])[0].within(b"y")[:3] == ("a", b"/y", b"/y")
    assert parse("a:").within(b"y")[:3] == ("a", b"/y", b"a:y")


@pytest.mark.parametrize("word", ["file", "none", "./none", "file:x", "./file:x", "/"])
def test_where_local_files_may_stand_a_word_can_mean_one(place: Path, word: str) -> None:
    assert served(word) is None


@pytest.mark.parametrize("word", ["a", "a:x", "file:y", "host:/x", "./none:/x"])
def test_where_local_files_may_stand_an_address_is_one_still(place: Path, word: str) -> None:
    assert served(word) == parse(word)


def test_without_a_server_the_remedy_is_told(place: Path) -> None:
    for word in (":/x", ":"):
        with pytest.raises(Failure, match=r"which server\? give SERVER\[:PATH\], .*, or set GOFER_SOCKET"):
            parse(word)
    with pytest.raises(Failure, match="must not be empty: give SERVER"):
        parse("")
