"""A client leases a file by the fd it was given (fcntl(2), F_SETLEASE).

Who opens the file then waits until the lease is given up, or the kernel takes it away after 45 seconds (lease-break-time).
Nobody else waits, and nothing but an open.
"""

import contextlib
import fcntl
import os
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import Start
from hosts import CALM, TRANSPORTS, Server, wait_until

from gofer.conform.codec import MODE, SIZE
from gofer.conform.peer import Peer, over_channel
from gofer.conform.transport import SocketTransport


@contextlib.contextmanager
def lease(peer: Peer, fd: int, kind: int) -> Iterator[Callable[[], bool]]:
    """The client's lease on the file of a control FD; gives a function that says whether somebody waits for it."""
    asked: list[int] = []
    before = signal.signal(signal.SIGIO, lambda number, _: asked.append(number))  # the kernel's request; it is not heeded
    opened = peer.openat(fd)
    (donated,) = opened.donated
    peer.close(opened.fd)  # a write lease takes that nobody else has the file open, the server included
    try:
        wait_until(lambda: leases(donated, kind), "the server has closed the file")
        yield lambda: bool(asked)
    finally:
        fcntl.fcntl(donated, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        signal.signal(signal.SIGIO, before)


def leases(fd: int, kind: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    except BlockingIOError:
        return False
    return True


class Call(threading.Thread):
    """A call that waits, on a thread. end(): what it returned or raised."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self._call = call
        self._result: Any = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._call()
        except Exception as error:
            self._result = error

    def end(self) -> Any:
        self.join(CALM)
        assert not self.is_alive(), "it still waits"
        return self._result


@pytest.fixture
def file(tree: Path) -> Path:
    path = tree / "file"
    path.write_bytes(b"hello")
    (tree / "other").touch()
    return path


WAITING: "dict[str, tuple[int, Callable[[Peer, int], Any]]]" = {
    "an open for writing": (fcntl.F_RDLCK, lambda peer, fd: peer.openat(fd, os.O_WRONLY)),
    "any open": (fcntl.F_WRLCK, lambda peer, fd: peer.openat(fd)),
    "a truncation": (fcntl.F_RDLCK, lambda peer, fd: peer.setstat(fd, SIZE, size=1)),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("waiting", WAITING)
def test_a_lease_of_one_client_makes_the_other_wait_who_opens_the_file_and_nobody_else(
    waiting: str, transport: str, server: Server, file: Path
) -> None:
    kind, call = WAITING[waiting]
    with server.peer() as holder, server.peer() as base, server.peer() as third, server.peer("channel") as fourth:
        caught = over_channel(base) if transport == "channel" else base
        same = over_channel(base)
        fd = base.walk_to("file")
        with lease(holder, holder.walk_to("file"), kind) as awaited:
            waits = Call(lambda: call(caught, fd))
            wait_until(awaited, "the holder is asked for its lease")
            for peer in (holder, third, fourth, same, *([base] if transport == "channel" else [])):
                for _ in range(20):
                    assert stat.S_ISDIR(peer.fstat(peer.root).mode)
                opened = peer.openat(peer.walk_to("other"), os.O_RDWR)
                assert peer.pwrite(opened.fd, 0, b"x") == 1
            assert waits.is_alive(), "they were not answered before it"
        result = waits.end()
        assert not isinstance(result, Exception), result
        same.disconnect()
        if caught is not base:
            caught.disconnect()


def test_nothing_waits_but_opening_and_truncating(server: Server, file: Path) -> None:
    with server.peer() as holder, server.peer() as peer:
        fd = peer.walk_to("file")
        with lease(holder, holder.walk_to("file"), fcntl.F_WRLCK) as awaited:
            assert peer.fstat(fd).size == 5
            assert peer.walkstat(peer.root, "file")[0].size == 5
            assert peer.setstat(fd, MODE, mode=0o600) == (0, 0)
            peer.fsetxattr(fd, "user.x", b"1")
            assert peer.fgetxattr(fd, "user.x") == b"1"
            peer.linkat(peer.root, fd, "second")
            peer.renameat(peer.root, "file", peer.root, "third")
            peer.unlinkat(peer.root, "third")
            assert not awaited()


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_hangs_up_while_it_waits_leaves_nothing(transport: str, server: Server, file: Path) -> None:
    """Its slot, threads and fds are free at once, not when the kernel has taken the lease away."""
    threads = len(os.listdir(f"/proc/{server.pid}/task"))
    with server.peer() as holder:
        with lease(holder, holder.walk_to("file"), fcntl.F_RDLCK) as awaited:
            before = len(os.listdir(f"/proc/{server.pid}/task"))
            with server.peer() as base:
                peer = over_channel(base) if transport == "channel" else base
                fd = base.walk_to("file")
                waits = Call(lambda: peer.openat(fd, os.O_WRONLY))
                wait_until(awaited, "the holder is asked for its lease")
                assert isinstance(base.transport, SocketTransport)
                base.transport.sock.shutdown(socket.SHUT_RDWR)
                assert isinstance(waits.end(), Exception)
                if peer is not base:
                    peer.disconnect()
            wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == before, "its threads end")
            assert server.holds(file) == 1, "the holder's control FD"
    wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == threads, "the holder's thread ends")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_server_stops_while_a_client_waits(transport: str, start: Start) -> None:
    server = start()
    (server.tree / "file").touch()
    with server.peer() as holder, server.peer(transport) as peer:
        fd = peer.walk_to("file")
        with lease(holder, holder.walk_to("file"), fcntl.F_RDLCK) as awaited:
            waits = Call(lambda: peer.openat(fd, os.O_WRONLY))
            wait_until(awaited, "the holder is asked for its lease")
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 0
            assert isinstance(waits.end(), Exception)


def test_without_donation_there_is_nothing_to_lease(start: Start, spot: Path) -> None:
    (spot / "file").touch()
    with start("--donate=no").peer() as peer:
        assert peer.openat(peer.walk_to("file")).donated == []
