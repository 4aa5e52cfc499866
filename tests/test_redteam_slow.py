"""A client whose calls hang, or whose leavings close slowly, holds up nobody else: not a client, not a newcomer, not the end.

The file system of these tests leaves what it is told without an answer, for ever: whoever gets one meanwhile did not wait for it.
"""

import contextlib
import errno
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from typing import Callable

import faulty
import pytest
from conftest import Start
from disks import serving
from faulty import Faulty
from hosts import CHECKOUT, PATIENCE, Server, connects, ended, fails, wait_until

from gofer.conform.codec import NO_ID, Mid, create, string
from gofer.conform.peer import Peer
from gofer.conform.transport import CHANNEL_HEADER, HEADER, ChannelTransport

OPTIONS = ("--donate", "no")  # a client that held fds of the file system would hang itself
ROOT = 1
OPEN_FILE = struct.pack("<QI4x", 2, os.O_RDONLY)
# What hangs, and the request that meets it: FD 2 is the file, FD 3 what was opened of it, FD 4 of the directory.
HANGING: dict[str, tuple[int, int, bytes]] = {
    "lookup": (faulty.LOOKUP, Mid.WALK, struct.pack("<QH", ROOT, 1) + string("dir")),
    "stat": (faulty.GETATTR, Mid.FSTAT, struct.pack("<Q", 2)),
    "open": (faulty.OPEN, Mid.OPENAT, OPEN_FILE),
    "read": (faulty.READ, Mid.PREAD, struct.pack("<QQI4x", 0, 3, 5)),
    "list": (faulty.READDIR, Mid.GETDENTS64, struct.pack("<Qi4x", 4, 4096)),
    "sync": (faulty.FSYNC, Mid.FSYNC, struct.pack("<HQ", 1, 3)),
    "flush at Close": (faulty.FLUSH, Mid.CLOSE, struct.pack("<HQ", 1, 3)),
}


def ask(peer: Peer, mid: int, payload: bytes) -> None:
    """Send a request, and do not wait for its reply."""
    if isinstance(peer.transport, ChannelTransport):
        peer.transport.hand_over(CHANNEL_HEADER.pack(mid, 0, 0) + payload)
    else:
        peer.transport.send(HEADER.pack(len(payload), mid, 0) + payload)


def prepare(peer: Peer) -> None:
    assert peer.walk_to("file") == 2
    assert peer.openat(2, os.O_RDWR).fd == 3 and peer.openat(ROOT).fd == 4


@pytest.fixture
def broken() -> Iterator[Faulty]:
    with faulty.faulty() as it:
        yield it


@contextlib.contextmanager
def hanging(broken: Faulty, server: Server, what: str, transport: str) -> Iterator[None]:
    """Two clients of `server` are in a call that hangs while the body runs."""
    opcode, mid, request = HANGING[what]
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(server.peer(transport)) for _ in range(2)]
        for attacker in attackers:
            prepare(attacker)
        broken.hang(opcode)
        for attacker in attackers:
            ask(attacker, mid, request)
        wait_until(lambda: broken.hangs(opcode), f"{what} hangs")
        try:
            yield
        finally:
            broken.vanish()  # what hangs fails now


def others_are_served(server: Server, bystanders: list[Peer], newcomers: bool = True) -> None:
    """All that need no file system: an FD that is none gets its EBADF."""
    for _ in range(20):
        for peer in bystanders:
            with fails(errno.EBADF):
                peer.fstat(999)
    if not newcomers:
        return
    with server.connect() as newcomer:
        request = HEADER.pack(8, Mid.FSTAT, 0) + struct.pack("<Q", 999)
        newcomer.settimeout(PATIENCE)
        newcomer.sendall(request)
        assert newcomer.recv(100) == HEADER.pack(4, Mid.ERROR, 0) + struct.pack("<I", errno.EBADF)


@pytest.mark.parametrize("transport", ["socket", "channel"])
@pytest.mark.parametrize("what", HANGING)
def test_a_call_that_hangs_holds_up_nobody_else(broken: Faulty, what: str, transport: str) -> None:
    with serving(broken.path, *OPTIONS) as server, server.peer() as one, server.peer("channel") as other:
        with hanging(broken, server, what, transport):
            others_are_served(server, [one, other])


@pytest.mark.parametrize("transport", ["socket", "channel"])
def test_what_a_client_held_closes_in_its_own_time(broken: Faulty, transport: str) -> None:
    with serving(broken.path, *OPTIONS) as server, server.peer() as one, server.peer("channel") as other:
        with server.peer(transport) as attacker:
            prepare(attacker)
            for _ in range(4):
                attacker.openat(2, os.O_RDWR)
            broken.hang(faulty.FLUSH)
        wait_until(lambda: broken.hangs(faulty.FLUSH), "the server closes what the client has left")
        others_are_served(server, [one, other])
        broken.vanish()


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_second_sigterm_ends_all_at_once_whatever_hangs(broken: Faulty, options: tuple[str, ...]) -> None:
    server = Server(broken.path, *OPTIONS, *options)
    with hanging(broken, server, "read", "socket"):
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not connects(server.path), "it accepts nobody any more")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 1
        assert not server.path.exists()
    wait_until(lambda: ended(server.pid), "the server ends when its call does")
    server.kill()


def test_a_hanging_call_does_not_keep_the_server_from_its_end(broken: Faulty) -> None:
    """It has patience for five seconds, and the supervisor for two more: whatever a client makes it wait for."""
    server = Server(broken.path, *OPTIONS)
    with hanging(broken, server, "read", "channel"):
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() in (0, 1)
        assert not server.path.exists()
    wait_until(lambda: ended(server.pid), "the server ends when its call does")
    server.kill()


@pytest.mark.parametrize("transport", ["socket", "channel"])
def test_a_directory_without_an_end_is_an_error(broken: Faulty, transport: str) -> None:
    with serving(broken.path, *OPTIONS) as server, server.peer() as one, server.peer("channel") as other:
        with server.peer(transport) as attacker:
            prepare(attacker)
            broken.without_end()
            ask(attacker, Mid.GETDENTS64, struct.pack("<Qi4x", 4, 4096))
            others_are_served(server, [one, other])
            with fails(errno.EIO):
                Peer.check(Mid.GETDENTS64, attacker.transport.receive())
            ask(attacker, Mid.GETDENTS64, struct.pack("<Qi4x", 4, 4096))
        with server.connect() as last:  # whoever leaves in the middle of it is not served any longer
            assert last.fileno() >= 0
        broken.well()


# An accept that waits


@pytest.mark.serve("--host-uds", "all")
@pytest.mark.parametrize("transport", ["socket", "channel"])
def test_an_accept_that_its_client_makes_wait_waits_alone_and_ends_with_it(server: Server, transport: str) -> None:
    """BindAt donates the very socket that the server keeps: whether it waits is the client's to say."""
    threads = len(os.listdir(f"/proc/{server.pid}/task"))
    with server.peer() as one, server.peer("channel") as other:
        with server.peer(transport) as attacker:
            ask_for = create(ROOT, 0o600, NO_ID, NO_ID) + struct.pack("<I", socket.SOCK_STREAM) + string("sock")
            reply = attacker.call(Mid.BINDAT, ask_for)
            bound = struct.unpack("<Q", reply.payload[-8:])[0]
            attacker.call(Mid.LISTEN, struct.pack("<Qi4x", bound, 5))
            os.set_blocking(reply.fds[0], True)
            ask(attacker, Mid.ACCEPT, struct.pack("<Q", bound))
            others_are_served(server, [one, other])
    wait_until(lambda: len(os.listdir(f"/proc/{server.pid}/task")) == threads, "its threads end when it has gone")


# What a client merely sends


@pytest.fixture
def lingering() -> Iterator[Callable[[], socket.socket]]:
    """TCP sockets whose close(2) takes a minute: with unsent data and SO_LINGER, and a peer that reads nothing."""
    listener = socket.create_server(("127.0.0.1", 0))
    readers: list[socket.socket] = []
    made: list[socket.socket] = []

    def make() -> socket.socket:
        sock = socket.create_connection(listener.getsockname())
        readers.append(listener.accept()[0])
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.send(b"x" * 65536)
        made.append(sock)
        return sock

    yield make
    for reader in readers:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        reader.close()  # by a reset, which ends the other's close too
    for sock in made:
        sock.close()
    listener.close()


def send_along(client: socket.socket, data: bytes, passed: socket.socket) -> bool:
    """Whether the kernel lets it, and the server has not hung up."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", passed.fileno()))]
    try:
        client.sendmsg([data], rights)
    except (PermissionError, ConnectionError):
        return False
    return True


def test_fds_cannot_be_sent_to_the_server_where_the_kernel_can_refuse_them(server: Server) -> None:
    """SO_PASSRIGHTS (Linux 6.16): before the connection is accepted, and on it."""
    with server.connect() as raw, server.connect() as here:
        try:
            here.setsockopt(socket.SOL_SOCKET, 83, 0)
        except OSError:
            pytest.skip(
                "this kernel has no SO_PASSRIGHTS; test_what_a_client_has_sent_closes_where_nobody_waits has run"
            )
        assert not send_along(raw, b"x", here)
        with server.peer() as peer:
            assert not send_along(peer.transport.sock, b"x", here)  # type: ignore[union-attr]


# For a kernel that has it: without.
OLDER = (sys.executable, str(CHECKOUT / "tests/older.py"))
REQUEST = HEADER.pack(0, Mid.MOUNT, 0)


@pytest.mark.parametrize("how", ["served", "not_read", "above_the_limit", "refused"])
def test_what_a_client_has_sent_closes_where_nobody_waits(
    start: Start, lingering: Callable[[], socket.socket], how: str
) -> None:
    wide = ("--allow-uid", "0", "--mode", "0666") if how == "refused" else ()
    server = start("--max-connections", "3" if how == "above_the_limit" else "64", *wide, wrap=OLDER)
    os.chmod(server.place, 0o755)
    with server.peer() as one, server.peer("channel") as other, contextlib.ExitStack() as attackers:
        if how == "above_the_limit":
            attackers.enter_context(server.peer())
        os.kill(server.pid, signal.SIGSTOP)  # else it might let go of what is passed before the test has
        for _ in range(3):
            client, passed = attackers.enter_context(socket.socket(socket.AF_UNIX)), lingering()
            connect(client, server, how == "refused")
            assert send_along(client, REQUEST if how == "served" else b"x", passed)
            passed.close()  # the last copy is in the server's hands now
        os.kill(server.pid, signal.SIGCONT)
        others_are_served(server, [one, other], how != "above_the_limit")


def connect(client: socket.socket, server: Server, as_nobody: bool) -> None:
    """In a process that is nobody's where that is asked for: SO_PEERCRED is of who connects."""
    pid = os.fork() if as_nobody else 0
    if pid:
        assert os.waitpid(pid, 0)[1] == 0
        return
    if as_nobody:
        os.setuid(65534)
    client.connect(str(server.path))
    if as_nobody:
        os._exit(0)
