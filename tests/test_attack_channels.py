"""Channels used as no client should: left at every stage, woken without end."""

import contextlib
import mmap
import os
import random
import signal
import socket
import stat as modes
import struct
from collections.abc import Iterator
from typing import Callable

import pytest
from conftest import Start
from hosts import NO_LARGE_FILES, Server, cpu_seconds, wait_until

from gofer.conform.codec import Mid
from gofer.conform.corpus import recorded
from gofer.conform.peer import Peer, open_channel, over_channel
from gofer.conform.transport import CHANNEL_HEADER, DATA, SHUT_DOWN, ChannelTransport

LIMIT = min(4, max(2, os.cpu_count() or 2))
FSTAT = CHANNEL_HEADER.pack(Mid.FSTAT, 0, 0) + struct.pack("<Q", 1)


def of(peer: Peer) -> ChannelTransport:
    assert isinstance(peer.transport, ChannelTransport)
    return peer.transport


def works(peer: Peer) -> None:
    assert modes.S_ISDIR(peer.fstat(peer.root).mode)


@pytest.fixture(autouse=True)
def bystander(server: Server) -> Iterator[None]:
    """One more client, that was there before and gets its answers after, and with them nothing else keeps the server busy."""
    with server.peer("channel") as peer:
        yield
        before = cpu_seconds(server.pid)
        for _ in range(20):
            works(peer)
        assert cpu_seconds(server.pid) - before < 1


def settled(server: Server, threads: int) -> None:
    """Nothing is left of the attackers: that many threads, the bystander's among them."""
    wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == threads, "the threads of dead channels end")


# Left


def not_used(peer: Peer) -> None:
    """Made, and that was it."""
    peer.channel()


def no_handshake(peer: Peer) -> None:
    open_channel(peer)


def half_a_handshake(peer: Peer) -> None:
    """The bytes are there, and control is not handed over."""
    channel, _ = open_channel(peer)
    channel.window[DATA : DATA + 3] = b"{}\n"


def handshake_not_awaited(peer: Peer) -> None:
    channel, _ = open_channel(peer)
    channel.hand_over(b"{}\n")


def wrong_handshake(peer: Peer) -> None:
    channel, _ = open_channel(peer)
    channel.hand_over(b"\xff" * 100)


def reply_not_awaited(peer: Peer) -> None:
    channel, _ = open_channel(peer)
    channel.handshake()
    channel.hand_over(FSTAT)


def donation_not_taken(peer: Peer) -> None:
    """The fd waits in the socket, and goes with it."""
    channel, _ = open_channel(peer)
    channel.handshake()
    channel.hand_over(CHANNEL_HEADER.pack(Mid.OPENAT, 0, 0) + struct.pack("<QI4x", peer.walk_to("file"), os.O_RDONLY))
    channel.take_back()


def shut_down(peer: Peer) -> None:
    channel, _ = open_channel(peer)
    channel.handshake()
    channel.state = SHUT_DOWN


def socket_closed(peer: Peer) -> None:
    """The channel goes on without the socket that fds come by; calls that donate still answer."""
    channel, _ = open_channel(peer)
    channel.handshake()
    channel.sock.close()
    channel.hand_over(CHANNEL_HEADER.pack(Mid.OPENAT, 0, 0) + struct.pack("<QI4x", peer.walk_to("file"), os.O_RDONLY))
    mid, num_fds, _ = CHANNEL_HEADER.unpack_from(channel.take_back())
    assert (mid, num_fds) == (Mid.OPENAT, 0)
    works(peer)


LEAVES = [not_used, no_handshake, half_a_handshake, handshake_not_awaited, wrong_handshake, reply_not_awaited,
          donation_not_taken, shut_down, socket_closed]  # fmt: skip


@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
def test_channels_that_are_left_go_with_their_connection(server: Server, leave: Callable[[Peer], None]) -> None:
    (server.tree / "file").touch()
    before = len(server.open_fds())
    for _ in range(8):
        with server.peer() as peer:
            for _ in range(LIMIT):
                leave(peer)
    settled(server, 3)
    wait_until(lambda: len(server.open_fds()) <= before, "the server closes what they had")


@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
def test_clients_killed_with_channels_in_every_stage_leave_nothing(
    server: Server, leave: Callable[[Peer], None]
) -> None:
    (server.tree / "file").touch()
    before = len(server.open_fds())
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException), server.peer() as peer:
                for _ in range(LIMIT):
                    leave(peer)
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    settled(server, 3)
    wait_until(lambda: len(server.open_fds()) <= before, "the server closes what they had")


def test_a_window_kept_mapped_after_the_end_harms_nobody(server: Server) -> None:
    """The memory is the client's as long as it likes; nobody on the other side looks at it any more."""
    with server.peer() as peer:
        channel, memfd = open_channel(peer)
        window = mmap.mmap(memfd, channel.length, offset=0)
    settled(server, 3)
    for state in (0, 1, 2, 3):
        struct.pack_into("<I", window, 0, state)
    assert not any(window[DATA : DATA + 4096])
    window.close()


# Woken


@contextlib.contextmanager
def in_processes(count: int, work: Callable[[], None]) -> Iterator[mmap.mmap]:
    """Processes do work until the body ends. Gives a byte each, which is 1 once that one has done it 100 times."""
    pids, busy = [], mmap.mmap(-1, 4096)
    try:
        for number in range(count):
            pid = os.fork()
            if pid == 0:
                try:
                    for _ in range(100):
                        work()
                    busy[number] = 1
                    while True:
                        work()
                finally:
                    os._exit(1)
            pids.append(pid)
        yield busy
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        statuses = [os.waitpid(pid, 0)[1] for pid in pids]
        busy.close()
    assert set(statuses) == {signal.SIGKILL}, "work failed"


def test_a_storm_of_wakes_disturbs_nobody(server: Server) -> None:
    """FUTEX_WAKE without a change of the state: the server looks, and goes back to sleep."""
    with server.peer() as base:
        storms = [over_channel(base) for _ in range(LIMIT)]

        def wake() -> None:
            for peer in storms:
                for _ in range(100):
                    of(peer)._futex(1, 100)

        with in_processes(2, wake) as busy, server.peer("channel") as other:
            rounds = 0
            while rounds < 100 or busy[:2] != b"\1\1":
                for peer in (other, *storms, base):
                    works(peer)
                rounds += 1
        for peer in storms:
            peer.disconnect()


def test_a_storm_of_hand_overs_from_many_processes_is_answered_or_ends_that_channel(start: Start) -> None:
    """Several clients in one window at once, so that states and data come from different ones."""
    server = start("--host-uds", "all", wrap=NO_LARGE_FILES)
    with server.peer() as base:
        requests = [request for request in recorded(base) if len(request[1]) < 280 and request[0] != Mid.CHANNEL]
        channels = [over_channel(base)]
        rng = random.Random(1)

        def hammer() -> None:
            for peer in channels:
                mid, payload = rng.choice(requests)
                of(peer).window[DATA : DATA + 4 + len(payload)] = CHANNEL_HEADER.pack(mid, 0, 0) + payload
                struct.pack_into("<I", of(peer).window, 4, 4 + len(payload))
                of(peer).flip()

        with in_processes(3, hammer) as busy:
            wait_until(lambda: busy[:3] == b"\1\1\1", "all have sent many")
            works(base)
        works(base)
        for peer in channels:
            peer.disconnect()


def test_states_that_go_round_and_round_let_the_thread_end_with_the_connection(server: Server) -> None:
    with server.peer() as base:
        peers = [over_channel(base) for _ in range(LIMIT)]

        def spin() -> None:
            for peer in peers:
                for state in (0, 1, 2, 3, 0xFFFFFFFF, 0, 1, 0):
                    struct.pack_into("<I", of(peer).window, 0, state)

        with in_processes(1, spin) as busy:
            wait_until(lambda: busy[0] == 1, "the states go round")
            base.transport.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            base.transport.close()
            settled(server, 3)
        for peer in peers:
            peer.disconnect()
