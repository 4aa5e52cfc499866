"""Clients that are killed (SIGKILL) at every point of a call: the server notices, and keeps nothing of theirs."""

import contextlib
import os
import random
import signal
import stat as modes
import struct
import time
from collections.abc import Iterator
from typing import Callable

import pytest
from hosts import TRANSPORTS, Server, wait_until

from gofer.conform.codec import MAX_MESSAGE, Mid
from gofer.conform.peer import Peer
from gofer.conform.transport import HEADER, SocketTransport

STEPS = ("send", "receive", "_exactly", "hand_over", "flip", "take_back", "donation", "_futex")


@pytest.fixture(autouse=True)
def bystander(server: Server) -> Iterator[None]:
    """One more client, that was there before and gets its answers after; nothing of the dead is left then."""
    with server.peer() as peer:
        before = len(server.open_fds())
        yield
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)
        wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == 2, "the threads of dead clients end")
        wait_until(lambda: len(server.open_fds()) <= before, "the server closes what they had")


def dying_after(steps: int, peer: Peer) -> None:
    """Let this process kill itself when it begins its step number `steps` of talking to the server."""
    left = [steps]

    def counted(method: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return method(*args)

        return call

    for step in STEPS:
        if hasattr(peer.transport, step):
            setattr(peer.transport, step, counted(getattr(peer.transport, step)))


def calls(peer: Peer) -> None:
    """A call of each form: plain, one that donates, large ones both ways, an error, one that ends FDs."""
    created = peer.opencreateat(peer.root, "new")
    peer.pwrite(created.fd, 0, b"x" * (MAX_MESSAGE - 20))
    peer.pread(created.fd, 0, MAX_MESSAGE - 8)
    peer.walk(peer.root, "file")
    peer.openat(peer.root)
    with contextlib.suppress(OSError):
        peer.unlinkat(peer.root, "missing")
    peer.fsync(created.fd)
    peer.unlinkat(peer.root, "new")
    peer.close(created.fd)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_killed_at_every_point_of_a_call_leaves_nothing(server: Server, transport: str) -> None:
    step, survived, fds = 1, False, len(server.open_fds())
    while not survived:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException), server.peer(transport) as peer:
                dying_after(step, peer)
                calls(peer)
                os._exit(0)
            os._exit(1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in (0, -signal.SIGKILL)
        survived = status == 0
        wait_until(lambda: len(server.open_fds()) <= fds, "what the dead one had asked for is done")
        (server.tree / "new").unlink(missing_ok=True)
        step += 1
    assert step > 25


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_clients_killed_at_random_moments_leave_nothing(server: Server, transport: str) -> None:
    """Between any two instructions, not only between calls of the C library."""
    rng = random.Random(4)
    for i in range(40):
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException), server.peer(transport) as peer:
                created = peer.opencreateat(peer.root, f"{i}")
                os.write(told, b"x")
                while True:
                    peer.pwrite(created.fd, 0, b"x" * 300_000)
                    peer.pread(created.fd, 0, 300_000)
                    peer.walk(peer.root, f"{i}")
            os._exit(1)
        assert os.read(ready, 1) == b"x"
        time.sleep(rng.random() * 0.004)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(told)


@pytest.mark.parametrize("mid", [Mid.PWRITE, Mid.WALK, Mid.FSYNC])
def test_a_client_killed_after_each_part_of_a_message_leaves_nothing(server: Server, mid: Mid) -> None:
    payload = {Mid.PWRITE: struct.pack("<QQI", 0, 2, 5) + b"hello", Mid.WALK: struct.pack("<QH", 1, 0),
               Mid.FSYNC: struct.pack("<HQ", 1, 2)}[mid]  # fmt: skip
    message = HEADER.pack(len(payload), mid, 0) + payload
    for cut in range(len(message) + 1):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException), server.peer() as peer:
                assert isinstance(peer.transport, SocketTransport)
                peer.opencreateat(peer.root, "new")
                peer.transport.send(message[:cut])
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        (server.tree / "new").unlink()
