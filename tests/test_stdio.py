"""`gofer serve --stdio`: one client over stdin and stdout."""

import contextlib
import errno
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import GOFER, children, fails, fails_in_one_line, run, wait_until

from gofer.conform.peer import Peer, over_socket
from gofer.conform.transport import PATIENCE

PIPES, SOCKET = "pipes", "socket"  # what ssh's server gives a command, by how it was built


@contextlib.contextmanager
def served(tree: Path, way: str, *options: str) -> "Iterator[tuple[Peer, subprocess.Popen[bytes]]]":
    """The peer has a socket; between that and the pipes of a server stands cat(1), twice."""
    ours, theirs = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.enter_context(ours)
        argv = [*GOFER, "serve", "--stdio", str(tree), *options]
        with theirs:
            if way == SOCKET:
                server = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
            else:
                to = subprocess.Popen(["cat"], stdin=theirs, stdout=subprocess.PIPE)
                server = subprocess.Popen(argv, stdin=to.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
                back = subprocess.Popen(["cat"], stdin=server.stdout, stdout=theirs)
                for pipe in (to.stdout, server.stdout):
                    assert pipe
                    pipe.close()
                for cat in (to, back):
                    stack.callback(cat.wait)
                    stack.callback(cat.kill)
        with server, contextlib.ExitStack() as inner:
            inner.callback(server.kill)
            yield over_socket(ours), server
            ours.shutdown(socket.SHUT_WR)
            assert server.stderr
            assert (server.wait(PATIENCE), server.stderr.read()) == (0, b"")


@pytest.mark.parametrize("way", [PIPES, SOCKET])
def test_a_client_works_over_stdin_and_stdout_and_the_server_ends_with_it(spot: Path, way: str) -> None:
    data = os.urandom(3_000_000)
    with served(spot, way) as (peer, _):
        root = peer.mount().root.fd
        made = peer.opencreateat(root, "file", os.O_RDWR)
        assert made.donated == []  # no fd can cross
        for at in range(0, len(data), 1 << 20):
            peer.pwrite(made.fd, at, data[at : at + (1 << 20)])
        assert b"".join(peer.pread(made.fd, at, 1 << 20) for at in range(0, len(data), 1 << 20)) == data
        with fails(errno.ENOMEM):
            peer.channel()
    assert (spot / "file").read_bytes() == data


@pytest.mark.parametrize("way", [PIPES, SOCKET])
def test_requests_that_are_sent_before_replies_are_read_are_all_answered(spot: Path, way: str) -> None:
    """Megabytes each way at once: whoever carries one direction only when the other rests would wait for ever."""
    with served(spot, way) as (peer, _):
        root = peer.mount().root.fd
        fd = peer.opencreateat(root, "file", os.O_RDWR).fd
        sock = peer.transport.sock
        write = struct.pack("<QQI", 0, fd, 1 << 20) + bytes(1 << 20)
        read = struct.pack("<QQI4x", 0, fd, 1 << 20)
        requests = b"".join(struct.pack("<IHH", len(body), mid, 0) + body for mid, body in [(11, write), (12, read)] * 20)
        if os.fork() == 0:
            with contextlib.suppress(BaseException):
                sock.sendall(requests)
            os._exit(0)
        answers = [peer.transport.receive() for _ in range(40)]
        os.wait()
        assert [reply.mid for reply in answers] == [11, 12] * 20
        assert all(len(reply.payload) > 1 << 20 for reply in answers[1::2])


def test_a_signal_ends_the_server_behind_it(spot: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([*GOFER, "serve", "--stdio", str(spot)], stdin=theirs, stdout=theirs)
        theirs.close()
        over_socket(ours).mount()
        below = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert ours.recv(1) == b""
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in below), "the server ends")


def test_the_server_ends_when_what_carries_its_bytes_is_killed(spot: Path) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        process = subprocess.Popen([*GOFER, "serve", "--stdio", str(spot)], stdin=theirs, stdout=theirs)
        theirs.close()
        over_socket(ours).mount()
        (supervisor,) = children(process.pid)
        below = [supervisor, *children(supervisor)]
        process.kill()
        process.wait()
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in below), "the server ends")


def test_what_carries_the_bytes_has_no_rights_left(spot: Path) -> None:
    with served(spot, SOCKET) as (peer, process):
        peer.mount()
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if ":\t" in line
        )
        kill = 1 << 5
        assert (status["Seccomp"], status["NoNewPrivs"], int(status["CapEff"], 16)) == ("2", "1", kill)


@pytest.mark.parametrize(
    "words,said", [(["--socket", "x"], "--socket"), (["--fd", "9"], "--fd"), (["--", "true"], "a COMMAND")]
)
def test_what_does_not_go_with_stdio_is_told(spot: Path, words: list[str], said: str) -> None:
    fails_in_one_line(run("serve", "--stdio", str(spot), *words), f"leave {said} away")


def test_what_cannot_be_served_is_told_and_not_answered(spot: Path) -> None:
    fails_in_one_line(run("serve", "--stdio", str(spot / "missing")), "No such file or directory")
