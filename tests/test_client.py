"""The client in trouble: servers that are stopped, killed, full, or are none. Nothing hangs; what is over is told as such."""

import os
import signal
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Start
from hosts import PATIENCE, Server, fails, run, state, stopped, wait_until

from gofer.client.client import Client
from gofer.client.transport import Garbled, HungUp, Lost, Silent
from gofer.conform.codec import Mid
from gofer.conform.transport import HEADER

BOTH = pytest.mark.parametrize("channel", [False, True], ids=["socket", "channel"])


@BOTH
def test_an_errno_from_the_server_is_no_end_of_the_connection(server: Server, channel: bool) -> None:
    """Also where Python has a class of ConnectionError for it."""
    with Client.connect(str(server.path), channel, PATIENCE) as client:
        with fails(2):
            client.lookup("missing")
        assert client.fstat(client.root.fd).mode == os.stat(server.tree).st_mode
        assert client.lost is None


@BOTH
def test_a_stopped_server_is_given_up_after_the_timeout_and_for_good(start: Start, channel: bool) -> None:
    server = start()
    with Client.connect(str(server.path), channel, 0.2) as client:
        fd, _ = client.openat(client.root.fd, os.O_RDONLY)
        silent = pytest.raises(Silent, match=r"no answer within 0\.2 s")
        with stopped(server.pid), silent, client.opened(client.root.fd):
            pass
        with pytest.raises(Silent):  # the answer that comes now is one to another question
            client.getdents64(fd, 4096)


@BOTH
def test_a_server_that_is_killed_during_a_call_is_noticed_however_long_one_would_wait(start: Start, channel: bool) -> None:
    server = start()
    caught: list[BaseException] = []

    def call() -> None:
        try:
            client.fstat(client.root.fd)
        except BaseException as error:
            caught.append(error)

    with Client.connect(str(server.path), channel) as client:
        with stopped(server.pid):
            thread = threading.Thread(target=call)
            thread.start()
            wait_until(lambda: state(thread.native_id or 0) == "S", "the client waits")
            os.kill(server.pid, signal.SIGKILL)
            thread.join(PATIENCE)
            server.process.wait()
        assert isinstance(caught[0], HungUp)
        assert isinstance(client.lost, HungUp)


def test_a_killed_server_is_noticed_at_the_next_call_on_a_channel(start: Start) -> None:
    server = start()
    with Client.connect(str(server.path), channel=True) as client:
        os.kill(server.pid, signal.SIGKILL)
        server.process.wait()
        with pytest.raises(HungUp):
            client.fstat(client.root.fd)


def test_a_name_longer_than_the_wire_can_say_is_an_errno(server: Server) -> None:
    with Client.connect(str(server.path)) as client:
        for path in ("n" * 65536, "n/" * 65536):
            with fails(36):
                client.lookup(path)


# What is no gofer


def frame(mid: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), mid, 0) + payload


ROOT = struct.pack("<28xH114x", stat.S_IFDIR)
MOUNTED = frame(Mid.MOUNT, struct.pack("<Q144sIH", 1, ROOT, 1 << 20, 0))
RUBBISH = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "another message": frame(Mid.FSTAT, bytes(144)),
    "a short Mount": frame(Mid.MOUNT, bytes(20)),
    "a Mount without its messages": frame(Mid.MOUNT, struct.pack("<Q144sIH", 1, bytes(144), 1 << 20, 99)),
    "an Error of no size": frame(0, b""),
    "an Error of errno 0": frame(0, bytes(4)),
    "an Error of an errno that is none": frame(0, b"\xff" * 4),
    "a short OpenAt": MOUNTED + frame(Mid.OPENAT, b"\1"),
}
ENDS = {"nothing": b"", "half a header": b"\0\0\0", "half a payload": MOUNTED[:50], "the end after Mount": MOUNTED}


@contextmanager
def answering(path: Path, answers: bytes) -> Iterator[None]:
    """A server that reads nothing, says this to its first client, and hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as sock, suppress(ConnectionError):
                sock.sendall(answers)
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1000):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(PATIENCE)


@pytest.mark.parametrize("what", RUBBISH)
def test_what_does_not_speak_the_protocol_is_told_so(spot: Path, what: str) -> None:
    with answering(spot / "s", RUBBISH[what]):
        done = run("ls", str(spot / "s"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"gofer: {spot}/s: the server does not speak LISAFS (") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ENDS)
def test_what_hangs_up_is_told_so(spot: Path, what: str) -> None:
    with answering(spot / "s", ENDS[what]):
        done = run("ls", str(spot / "s"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"gofer: {spot}/s: the server ") and done.stderr.count("\n") == 1
    assert ("--allow-uid" in done.stderr) == (what != "the end after Mount")


@pytest.mark.parametrize("answer", [frame(Mid.CHANNEL, bytes(16)), frame(Mid.CHANNEL, bytes(3))])
def test_a_channel_that_is_none_is_garbled_and_leaves_nothing(spot: Path, answer: bytes) -> None:
    with answering(spot / "s", MOUNTED + answer), pytest.raises((Lost, struct.error)):
        Client.connect(str(spot / "s"), channel=True)


def test_a_channel_whose_memory_can_be_taken_away_is_refused(spot: Path) -> None:
    memfd = os.memfd_create("window", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, 1 << 22)
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(Garbled):
        ours.sendall(MOUNTED)
        socket.send_fds(ours, [frame(Mid.CHANNEL, struct.pack("<qQ", 0, 1 << 22))], [memfd, ours.fileno()])
        os.close(memfd)
        memfd = -1
        Client(theirs.dup(), channel=True)
