"""Whatever a client sends, it gets a well-formed reply or a closed connection: never a traceback, a hang, a leak, or
anything outside the root. What can be asked of any server is in gofer/conform/cases/hostile.py.

Each test ends with `unharmed`: a bystander that was connected all the time still gets right answers, a newcomer too, what
lies outside the tree is as it was, and (in the fixtures) the server holds no fd, thread or child of the attacker's and has
logged no fault. Every seed is fixed: a failure can be repeated.
"""

import contextlib
import os
import random
import stat as modes
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import NO_LARGE_FILES, WAYS, WAYS_2021, Server, empty, wait_until
from watch import leased

from gofer.conform.codec import MAX_MESSAGE, Mid
from gofer.conform.corpus import Request, assert_well_formed, recorded
from gofer.conform.peer import Peer, over_channel, over_socket
from gofer.conform.peer2021 import Peer2021
from gofer.conform.transport import CHANNEL_HEADER, HEADER, ChannelTransport, SocketTransport

# Everything open, so that everything can be attacked.
EVERYTHING = ("--host-uds", "all", "--host-fifo", "open", "--char-devices", "open", "--xattrs", "all")
DIALECTS = ("", "-2021")  # what follows "socket" or "channel" in WAYS
MESSAGES = [mid for mid in Mid if mid != Mid.ERROR]
BOUNDARIES = {
    "<H": (0, 1, 0x7FFF, 0x8000, 0xFFFF),
    "<I": (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFF000),
    "<Q": (0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1),
}


@pytest.fixture(scope="module")
def arena() -> Iterator[Server]:
    """One server for all attacks."""
    tree = Path(tempfile.mkdtemp(prefix="arena-"))
    (tree / "root").mkdir()
    server = Server(tree / "root", *EVERYTHING, wrap=NO_LARGE_FILES)
    yield server
    server.stop()
    empty(tree)
    tree.rmdir()


@pytest.fixture
def victim(arena: Server) -> Iterator[Server]:
    """The server with an empty tree, and a check of everything around it afterwards."""
    empty(arena.tree)
    outside = arena.tree.parent
    (outside / "outside").write_bytes(b"secret")
    os.chmod(outside / "outside", 0o600)
    before = [os.stat(outside / "outside"), sorted(os.listdir(outside))]
    with arena.peer() as bystander:
        yield arena
        for _ in range(3):
            assert modes.S_ISDIR(bystander.fstat(bystander.root).mode)
    for transport in WAYS:
        with arena.peer(transport) as newcomer:
            assert newcomer.walkstat(newcomer.root, "")[0].ino == os.stat(arena.tree).st_ino
    assert [os.stat(outside / "outside"), sorted(os.listdir(outside))] == before
    assert (outside / "outside").read_bytes() == b"secret"
    arena.check_idle()


class Attacker:
    """A client that may be cut off at any time and then comes back with a new connection."""

    def __init__(self, server: Server, transport: str) -> None:
        self.server, self.kind = server, transport
        self.stack = contextlib.ExitStack()
        self.connect()

    def connect(self) -> None:
        self.stack.close()
        self.peer = self.stack.enter_context(self.server.peer(self.kind))

    def send(self, request: Request) -> None:
        mid, payload = request
        try:
            reply = self.peer.exchange(mid, payload[:MAX_MESSAGE])
        except ConnectionError:
            self.connect()
            return
        assert_well_formed(mid, reply, self.peer.reader)
        for fd in self.peer.disown(reply.fds[:]):
            os.close(fd)


@contextlib.contextmanager
def attacking(server: Server, transport: str) -> Iterator[Attacker]:
    attacker = Attacker(server, transport)
    with attacker.stack:
        yield attacker


def mutated(rng: random.Random, requests: list[Request]) -> Request:
    """One request with one to three things wrong with it."""
    mid, payload = rng.choice(requests)
    data = bytearray(payload)
    for _ in range(rng.randint(1, 3)):
        what = rng.randrange(8)
        at = rng.randrange(len(data) + 1)
        if what == 0 and data:
            data[at - 1] ^= 1 << rng.randrange(8)
        elif what == 1:
            layout = rng.choice(list(BOUNDARIES))
            raw = struct.pack(layout, rng.choice(BOUNDARIES[layout]))
            data[at : at + len(raw)] = raw
        elif what == 2:
            del data[at:]
        elif what == 3:
            data[at:at] = rng.randbytes(rng.randint(1, 40)) if hasattr(rng, "randbytes") else os.urandom(8)
        elif what == 4:
            data += rng.choice(requests)[1]
        elif what == 5:
            mid = rng.randrange(0, 40)
        elif what == 6 and len(data) >= 8:
            struct.pack_into("<Q", data, 0, rng.randint(0, 60))  # another FD, perhaps of another kind
        else:
            data[at:at] = rng.choice((b"..", b"/", b"\0", b"../../etc", b"\x02\x00..", b"\xff\xff"))
    return mid, bytes(data)


@pytest.mark.parametrize("transport", WAYS)
@pytest.mark.parametrize("seed", range(2))
def test_mutated_requests(victim: Server, transport: str, seed: int) -> None:
    rng = random.Random(seed)
    with attacking(victim, transport) as attacker:
        requests = recorded(attacker.peer)
        for _ in range(700):
            attacker.send(mutated(rng, requests))


@pytest.mark.parametrize("mid", MESSAGES, ids=lambda mid: mid.name)
def test_half_a_message_and_then_nothing_more(victim: Server, mid: Mid) -> None:
    with victim.peer() as peer:
        requests = [payload for number, payload in recorded(peer) if number == mid]
    for payload in requests:
        whole = HEADER.pack(len(payload), mid, 0) + payload
        for cut in sorted({1, 4, 7, 8, 9, len(whole) // 2, len(whole) - 1}):
            sock = victim.connect()
            sock.sendall(whole[:cut])
            sock.close()


def test_lengths_that_promise_what_never_comes(victim: Server) -> None:
    rss = victim.rss()
    socks = []
    for _ in range(30):
        sock = victim.connect()
        sock.sendall(HEADER.pack(MAX_MESSAGE, Mid.PWRITE, 0) + b"x" * 1000)
        socks.append(sock)
    with victim.peer() as peer:
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)
    assert victim.rss() < rss + 20 * 1024
    for sock in socks:
        sock.close()


def test_a_flood_of_requests_whose_replies_nobody_reads(victim: Server) -> None:
    with victim.peer() as peer:
        created = peer.opencreateat(peer.root, "file")
        peer.pwrite(created.fd, 0, b"x" * (1 << 20))
        rss = victim.rss()
        read = HEADER.pack(24, Mid.PREAD, 0) + struct.pack("<QQI4x", 0, created.fd, 1 << 20)
        assert isinstance(peer.transport, SocketTransport)
        peer.transport.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100000):
                peer.transport.sock.send(read)
        with victim.peer() as other:
            for _ in range(20):
                assert modes.S_ISDIR(other.fstat(other.root).mode)
        assert victim.rss() < rss + 20 * 1024


@pytest.mark.parametrize("transport", WAYS)
def test_clients_that_die_in_the_middle_of_a_call(victim: Server, transport: str) -> None:
    old = transport in WAYS_2021
    for i in range(60):
        base = over_socket(victim.connect(), Peer2021 if old else Peer)
        peer = over_channel(base) if transport.startswith("channel") else base
        opened = peer.opencreateat(peer.root, f"{i}").fd
        request = struct.pack("<QII" if old else "<QQI4x", 0, opened, 1 << 20)
        if i % 2:
            request = struct.pack("<QII" if old else "<QQI", 0, opened, 1 << 20) + b"x" * (1 << 20)
        mid = Mid.PWRITE if i % 2 else Mid.PREAD
        if isinstance(peer.transport, ChannelTransport):
            peer.transport.hand_over(CHANNEL_HEADER.pack(mid, 0, 0) + request)
            peer.disconnect()
        else:
            peer.transport.send(HEADER.pack(len(request), mid, 0) + request)
        base.disconnect()


@pytest.mark.parametrize("number", [9, 15])
def test_a_client_process_that_is_killed_while_its_call_waits(victim: Server, number: int) -> None:
    path = victim.tree / "file"
    path.touch()
    with leased(path) as awaited:
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                with victim.peer("channel") as peer:
                    fd = peer.walk_to("file")
                    assert isinstance(peer.transport, ChannelTransport)
                    request = struct.pack("<QI4x", fd, os.O_RDWR)
                    peer.transport.hand_over(CHANNEL_HEADER.pack(Mid.OPENAT, 0, 0) + request)
                    os.write(told, b"x")
                    time.sleep(60)
            os._exit(0)
        assert os.read(ready, 1) == b"x"
        wait_until(awaited, "the server opens the file")
        os.kill(pid, number)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(told)
        with victim.peer() as other:
            assert other.walk(other.root, "file")[0] == 0


def test_names_made_of_hostile_bytes_do_not_reach_the_log_raw(victim: Server) -> None:
    with victim.peer() as peer:
        for name in (b"\x1b]0;title\x07", b"\n2026 gofer: fake", b"\xff\xfe\x00", b"%s%n{}"):
            with contextlib.suppress(OSError):
                peer.mkdirat(peer.root, name)
            with contextlib.suppress(OSError):
                peer.openat(peer.walk_to(name), os.O_RDWR)
    said = victim.log.read_bytes()
    assert b"\x1b" not in said and b"\n2026 gofer" not in said
