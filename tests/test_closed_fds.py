"""Started without fd 0, 1 or 2 (`<&-`, `>&-`, `2>&-`), or with a stdout that is full or non-blocking."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hosts import CALM, CHECKOUT, GOFER, PATIENCE, Server, links, over_socket_of, serves, serving, wait_until
from runsc import Started, one_file_gofer, spec_of

SOME = [(0,), (1,), (2,), (0, 1), (0, 1, 2)]
OUTPUTS = ["ls SOCKET", "cat SOCKET file", "stat SOCKET", "--help", "--version", "ls --help", "doctor", "doctor --json",
           "runsc --help", "runsc --check --runsc /bin/true --gofer /bin/true",
           "runsc install docker --dry-run --runsc /bin/true --gofer /bin/true"]  # fmt: skip


def without(fds: Sequence[int], *argv: object) -> list[str]:
    """A command that runs argv with these closed."""
    closed = " ".join(f"{fd}>&-" for fd in fds)
    return ["sh", "-c", f'exec "$@" {closed}', "sh", *map(str, argv)]


def run(argv: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM)


@pytest.fixture
def served(server: Server) -> Server:
    (server.tree / "file").write_bytes(b"contents\n")
    return server


@pytest.mark.parametrize("words", OUTPUTS)
def test_a_command_without_stdout_ends_in_one_line_and_status_one(served: Server, words: str) -> None:
    """What it prints went to whatever had become fd 1: the connection to the server."""
    argv = [str(served.path) if word == "SOCKET" else word for word in words.split()]
    done = run(without([1], *GOFER, *argv))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("gofer: cannot write the output: Bad file descriptor") and done.stderr.count("\n") == 1
    assert "dropped" not in served.said()


@pytest.mark.parametrize("words", OUTPUTS)
def test_a_full_disk_behind_stdout_is_told(served: Server, words: str) -> None:
    argv = [str(served.path) if word == "SOCKET" else word for word in words.split()]
    done = run(["sh", "-c", 'exec "$@" > /dev/full', "sh", *GOFER, *argv])
    assert done.returncode == 1
    assert done.stderr.startswith("gofer: cannot write the output: No space") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("fds", SOME, ids=str)
def test_errors_keep_their_status_whatever_is_closed(served: Server, fds: Sequence[int]) -> None:
    done = run(without(fds, *GOFER, "cat", served.path, "missing"))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == ("" if 2 in fds else "gofer: cat missing: No such file or directory\n")


def test_a_stdout_that_others_have_made_non_blocking_gets_it_all(served: Server) -> None:
    data = os.urandom(3 << 20)
    (served.tree / "large").write_bytes(data)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with open(reader, "rb") as pipe:
        cat = subprocess.Popen([*GOFER, "cat", str(served.path), "large"], stdout=writer)
        os.close(writer)
        assert pipe.read() == data
    assert cat.wait(PATIENCE) == 0


@pytest.mark.parametrize("fds", SOME, ids=str)
def test_a_server_has_no_file_and_no_client_there(spot: Path, fds: Sequence[int]) -> None:
    (spot / "tree").mkdir()
    path = spot / "socket"
    argv = without(fds, *GOFER, "serve", spot / "tree", "--socket", path, "--log-level", "debug", "--workers", "1")
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: serves(path), "it serves")
        with over_socket_of(lambda: connected(path)) as peer:
            assert peer.fstat(peer.root).ino == os.stat(spot / "tree").st_ino
            for pid in {server.pid, serving(server.pid)}:
                assert all(links(pid)[fd].startswith("pipe:") for fd in fds)
    finally:
        server.terminate()
        assert server.wait(PATIENCE) == 0


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    return sock


@pytest.mark.parametrize("fds", SOME, ids=str)
def test_what_a_server_starts_finds_them_closed_as_they_were(spot: Path, fds: Sequence[int]) -> None:
    script = "for fd in 0 1 2; do test -e /proc/self/fd/$fd || printf $fd; done > seen"
    argv = without(fds, *GOFER, "serve", spot, "--socket", spot / "socket", "--", "sh", "-c", f"cd {spot}; {script}")
    assert run(argv).returncode == 0
    # The redirection of the loop has opened 1.
    assert (spot / "seen").read_text() == "".join(str(fd) for fd in fds if fd != 1)


def test_the_stand_in_serves_without_them(spot: Path) -> None:
    (spot / "rootfs").mkdir()
    g = Started(spot, spec_of(), command=without([0, 1, 2], sys.executable, CHECKOUT))
    try:
        assert g.mount_list() == b"[]"
        assert g.peer().root == 1
        assert not any(links(g.pid)[fd].startswith("socket:") for fd in range(3))
    finally:
        g.close()


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["list", "run"])
def test_runsc_finds_them_closed_as_they_were(spot: Path, one_file: Path, command: str) -> None:
    runsc = spot / "runsc"
    runsc.write_text(f"#!/bin/sh\nexec 9> {spot}/seen\nls /proc/$$/fd >&9\n")
    runsc.chmod(0o755)
    assert run(without([0, 2], one_file, "runsc", "--runsc", runsc, "--", command)).returncode == 0
    assert not {"0", "2"} & set((spot / "seen").read_text().split())
