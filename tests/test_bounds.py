"""What a client can make grow, and where it ends: the client gets an errno or is dropped with one line, the others notice
nothing, and no flood fills the log."""

import contextlib
import errno
import os
import resource
import signal
import socket
import stat as modes
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import GOFER, PATIENCE, TRANSPORTS, Server, cpu_seconds, fails, however_slow, over_socket_of, wait_until

from gofer import log
from gofer.conform.codec import MAX_MESSAGE, Mid, strings
from gofer.conform.peer import Peer, open_channel, over_socket
from gofer.conform.transport import HEADER, SocketTransport
from gofer.log import Log

FSTAT = HEADER.pack(8, Mid.FSTAT, 0) + struct.pack("<Q", 1)


def works(peer: Peer) -> None:
    assert modes.S_ISDIR(peer.fstat(peer.root).mode)


def sock_of(peer: Peer) -> socket.socket:
    assert isinstance(peer.transport, SocketTransport)
    return peer.transport.sock


def lines(server: Server, *words: str) -> int:
    """How many lines of its log hold all these words."""
    return sum(all(word in line for word in words) for line in server.said().splitlines())


def lowest_free(pid: int) -> int:
    """The fd number the process would get next."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return min(set(range(len(taken) + 1)) - taken)


# Time for a half-sent message


@pytest.mark.parametrize("cut", [1, 7, 8, 15])
def test_a_client_that_leaves_a_message_half_is_dropped_with_one_line(start: Start, cut: int) -> None:
    server = start("--idle-message-timeout", "0.4")
    with server.peer() as bystander, server.peer() as slow:
        began = time.monotonic()
        sock_of(slow).sendall(FSTAT[:cut])
        assert slow.transport.ended()  # type: ignore[union-attr]
        assert time.monotonic() - began > 0.4
        works(bystander)
        assert lines(server, "dropped", "--idle-message-timeout") == 1


def test_a_message_that_comes_byte_by_byte_has_no_more_time_than_any_other(start: Start) -> None:
    server = start("--idle-message-timeout", "0.4")
    with server.peer() as slow, pytest.raises(OSError):
        for byte in HEADER.pack(MAX_MESSAGE, Mid.PWRITE, 0) + bytes(1000):
            sock_of(slow).sendall(bytes((byte,)))
            time.sleep(0.02)


def test_whoever_sends_nothing_or_whole_messages_is_left_alone(start: Start) -> None:

    def attempt(timeout: float) -> None:
        server = start("--idle-message-timeout", str(timeout))
        with server.peer() as idle, server.peer() as busy, server.peer("channel") as channel:
            for _ in range(12):
                sock_of(busy).sendall(FSTAT[:9])
                time.sleep(timeout / 6)
                sock_of(busy).sendall(FSTAT[9:])
                assert busy.transport.receive().mid == Mid.FSTAT  # type: ignore[union-attr]
                time.sleep(timeout / 20)
            for peer in (idle, busy, channel):
                works(peer)
        assert lines(server, "dropped") == 0

    however_slow(attempt, 0.3, 3, 30)


def read_much(peer: Peer) -> bytes:
    """A request whose reply does not fit the socket."""
    opened = peer.openat(peer.walk_to("file")).fd
    return HEADER.pack(24, Mid.PREAD, 0) + struct.pack("<QQI4x", 0, opened, 1 << 20)


def test_a_client_that_leaves_a_reply_half_taken_is_dropped_with_one_line(start: Start, spot: Path) -> None:
    (spot / "file").write_bytes(b"x" * (1 << 20))
    server = start("--idle-message-timeout", "0.4")
    with server.peer() as bystander, server.peer() as slow:
        sock_of(slow).sendall(read_much(slow))
        wait_until(lambda: lines(server, "dropped", "--idle-message-timeout") == 1, "it is dropped")
        works(bystander)
        with pytest.raises(ConnectionError):
            slow.transport.receive()  # type: ignore[union-attr]


def test_each_reply_has_its_own_time_and_so_has_the_message_after_it(start: Start, spot: Path) -> None:
    """While a reply waits the server reads nothing, so the rest of what was sent after it cannot come."""
    (spot / "file").write_bytes(b"x" * (1 << 20))

    def attempt(timeout: float) -> None:
        server = start("--idle-message-timeout", str(timeout))
        with server.peer() as peer:
            sock_of(peer).sendall(read_much(peer) * 4 + FSTAT[:10])
            for _ in range(4):
                time.sleep(timeout / 2)
                assert len(peer.transport.receive().payload) == 8 + (1 << 20)  # type: ignore[union-attr]
            time.sleep(timeout / 2)
            sock_of(peer).sendall(FSTAT[10:])
            assert peer.transport.receive().mid == Mid.FSTAT  # type: ignore[union-attr]
        assert lines(server, "dropped") == 0

    however_slow(attempt, 0.8, 6, 30)


def test_a_dead_client_whose_socket_lives_on_in_the_servers_queue_is_dropped(start: Start, spot: Path) -> None:
    """It has sent its own end along while the server waited for it to take a reply: no hang-up will ever tell."""
    (spot / "file").write_bytes(b"x" * (1 << 20))

    def attempt(timeout: float) -> None:
        server = start("--idle-message-timeout", str(timeout))
        for _ in range(3):
            with server.peer() as peer:
                sock = sock_of(peer)
                sock.sendall(read_much(peer))
                sock.recv(1, socket.MSG_PEEK)  # the server is at it, and will soon wait
                try:
                    sock.sendmsg([FSTAT], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", sock.fileno()))])
                except PermissionError:  # the server's socket takes none: SO_PASSRIGHTS, Linux 6.16
                    return
        wait_until(lambda: len(server.open_fds()) <= server.fds, "nothing of them is left")
        assert lines(server, "dropped") == 3

    however_slow(attempt, 0.4, 3, 20)


def test_a_timeout_of_zero_waits_for_ever(start: Start) -> None:
    server = start("--idle-message-timeout", "0")
    with server.peer() as peer:
        sock_of(peer).sendall(FSTAT[:9])
        time.sleep(0.7)
        sock_of(peer).sendall(FSTAT[9:])
        assert peer.transport.receive().mid == Mid.FSTAT  # type: ignore[union-attr]


# The log


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_kind_of_line_is_written_so_often_and_then_counted(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    told = Log(fd=writer)
    for i in range(1000):
        told.limited("warning", "one", f"one {i}")
    told.limited("warning", "two", "two")
    said = os.read(reader, 1 << 20).decode().splitlines()
    assert said == [f"gofer: warning: one {i}" for i in range(100)] + ["gofer: warning: two"]
    monkeypatch.setattr(log, "_PAUSE", 0.02)
    time.sleep(0.03)
    told.limited("error", "one", "again")
    assert os.read(reader, 1 << 20).decode() == "gofer: error: again (900 more like it were not logged)\n"


def test_a_log_that_nobody_reads_holds_up_nobody(pipe: tuple[int, int], spot: Path) -> None:
    _, writer = pipe
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    argv = [*GOFER, "serve", str(spot), "--fd", str(theirs.fileno()), "--log-level", "debug"]
    process = subprocess.Popen(argv, stderr=writer, pass_fds=[theirs.fileno()])
    theirs.close()
    peer = over_socket(ours)
    for _ in range(50):
        with fails(errno.EOPNOTSUPP):
            peer.call(99)
    works(peer)
    peer.disconnect()
    assert process.wait(PATIENCE) == 0


def test_a_flood_of_connections_that_provoke_a_warning_each_does_not_fill_the_log(start: Start, spot: Path) -> None:
    os.mkfifo(spot / "fifo")
    server = start()
    for _ in range(130):
        with server.peer() as peer, fails(errno.EPERM):
            peer.openat(peer.walk_to("fifo"))
    assert 90 <= lines(server, "--host-fifo=open") <= 105


def test_a_flood_of_messages_that_are_too_long_does_not_fill_the_log(start: Start) -> None:
    server = start()
    for _ in range(130):
        with over_socket_of(server.connect) as peer:
            sock_of(peer).sendall(HEADER.pack(0xFFFFFFFF, Mid.FSTAT, 0))
            assert peer.transport.ended()  # type: ignore[union-attr]
    assert 90 <= lines(server, "dropped", "4294967295") <= 105


def test_a_flood_of_users_who_are_not_allowed_does_not_fill_the_log(start: Start) -> None:
    server = start("--mode", "0666")
    os.chmod(server.place, 0o755)
    with server.peer() as bystander:
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(OSError):
                os.setgroups([])
                os.setresuid(54321, 54321, 54321)
                for _ in range(400):
                    with server.connect() as sock:
                        sock.settimeout(PATIENCE)
                        sock.recv(1)
            os._exit(0)
        os.waitpid(pid, 0)
        works(bystander)
    assert 90 <= lines(server, "refused", "54321") <= 105


def test_a_flood_of_connections_above_the_limit_is_one_line(start: Start) -> None:
    server = start("--max-connections", "2")
    with server.peer(), server.peer() as first:
        for _ in range(300):
            with server.connect() as sock:
                sock.settimeout(PATIENCE)
                assert sock.recv(1) == b""
        works(first)
    assert lines(server, "refused") == 1


# File descriptors


def open_until_refused(peer: Peer, fd: int, most: int = 2000) -> int:
    """FDs the peer gets until it is refused one more."""
    got = 0
    with fails(errno.EMFILE):
        while got < most:
            peer.walk(peer.root, "file")
            got += 1
            peer.openat(fd)
            got += 1
    return got


def test_every_connection_keeps_its_share_whatever_all_the_others_do(start: Start, spot: Path) -> None:
    (spot / "file").write_bytes(b"hello")
    server = start("--fd-limit", "1000", "--max-connections", "16", "--donate", "no", "--channels", "0")
    share = (((1000 - 16 - 16) // 4) // 16 - 4) // 2
    with contextlib.ExitStack() as stack:
        bystander = stack.enter_context(server.peer())
        for _ in range(10):
            greedy = stack.enter_context(server.peer())
            assert open_until_refused(greedy, greedy.walk_to("file")) >= share - 3
            works(greedy)
        newcomer = stack.enter_context(server.peer())
        for peer in (bystander, newcomer):
            for _ in range(share // 2 - 1):
                fd = peer.walk_to("file")
                assert peer.pread(peer.openat(fd).fd, 0, 5) == b"hello"


def test_a_walk_takes_no_more_than_its_share_at_once(start: Start, spot: Path) -> None:
    """The FDs of a walk get into the table at its end, but count from the first."""
    server = start("--fd-limit", "1000", "--channels", "0")
    with server.peer() as greedy, server.peer() as other:
        directory = greedy.mkdirat(greedy.root, "d").fd
        for _ in range(799):
            parent, directory = directory, greedy.mkdirat(directory, "d").fd
            greedy.close(parent)
        with fails(errno.EMFILE):
            greedy.walk(greedy.root, *["d"] * 800)
        assert greedy.walk(greedy.root, *["d"] * 300)[0] == 0
        with fails(errno.EMFILE):
            greedy.walk(greedy.root, *["d"] * 300)
        assert other.walk(other.root, *["d"] * 100)[0] == 0
    remove_deep(spot / "d")


def remove_deep(path: Path) -> None:
    """`rm -r` of a directory too deep for shutil."""
    subprocess.run(["rm", "-r", path], check=True)


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_an_fd_whose_host_fd_was_given_away_counts_all_the_same(start: Start, spot: Path, kind: str) -> None:
    if kind == "fifo":
        os.mkfifo(spot / "file")
    else:
        os.mknod(spot / "file", modes.S_IFCHR | 0o666, os.makedev(1, 3))
    server = start("--fd-limit", "300", "--host-fifo", "open", "--char-devices", "open")
    with server.peer() as peer:
        fd = peer.walk_to("file")
        with fails(errno.EMFILE):
            for _ in range(400):
                os.close(*peer.disown(peer.openat(fd, os.O_RDONLY).donated))


def test_sockets_that_a_client_binds_and_accepts_are_bounded(start: Start, spot: Path) -> None:
    server = start("--fd-limit", "300", "--host-uds", "all")
    with server.peer() as greedy, server.peer() as other:
        bound = []
        with fails(errno.EMFILE):
            for i in range(300):
                made = greedy.bindat(greedy.root, f"{i}")
                os.close(*greedy.disown(made.donated))
                bound.append(made)
        assert 30 < len(bound) < 150
        assert not (spot / f"{len(bound)}").exists()
        before = len(server.open_fds())
        greedy.listen(bound[0].fd, 200)
        for _ in range(3):
            knocking = [socket.socket(socket.AF_UNIX) for _ in range(60)]
            for sock in knocking:
                sock.connect(str(spot / "0"))
                os.close(*greedy.disown(greedy.accept(bound[0].fd)[1]))
            works(other)
            wait_until(lambda: len(server.open_fds()) <= before, "what was donated is closed")
            for sock in knocking:
                sock.close()
        fd = other.walk_to("0")
        os.close(*other.disown(other.connect(fd)))


def test_channels_count_like_fds_and_stop_with_enomem(start: Start) -> None:
    server = start("--fd-limit", "300", "--channels", "250", "--max-connections", "8")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(server.peer()) for _ in range(3)]
        for peer in peers:
            with fails(errno.ENOMEM):
                for _ in range(250):
                    os.close(*peer.disown([open_channel(peer)[1]]))
        for peer in peers:
            works(peer)
            with fails(errno.ENOENT):
                peer.unlinkat(peer.root, "missing")
            os.close(*peer.disown(peer.opencreateat(peer.root, f"new{peers.index(peer)}").donated))
        with server.peer() as newcomer:
            works(newcomer)


def test_connections_stop_before_the_last_fds_and_the_server_goes_on(start: Start) -> None:
    server = start("--fd-limit", "80", "--max-connections", "500")
    with server.peer() as first:
        socks = [server.connect() for _ in range(150)]
        socks[-1].settimeout(PATIENCE)
        assert socks[-1].recv(1) == b""
        works(first)
        with fails(errno.ENOENT):
            first.unlinkat(first.root, "missing")
        assert lines(server, "refused a connection", "--fd-limit") == 1
        assert len(server.open_fds()) <= 80 - 16
        for sock in socks:
            sock.close()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_a_server_that_can_accept_nobody_does_not_spin_and_takes_them_later(start: Start) -> None:
    """accept(2) without an fd leaves the client in the queue, and epoll would say so again at once."""
    server = start()
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    with server.peer() as first:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (lowest_free(server.pid), limits[1]))
        waiting = [server.connect() for _ in range(5)]
        wait_until(lambda: lines(server, "cannot accept") == 1, "the server tries to accept")
        before = cpu_seconds(server.pid)
        time.sleep(1)
        assert cpu_seconds(server.pid) - before < 0.2
        works(first)
        assert lines(server, "cannot accept") == 1
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
        for sock in waiting:
            peer = over_socket(sock)
            works(peer)
            peer.disconnect()


def test_a_server_that_can_accept_nobody_can_still_be_stopped(start: Start) -> None:
    server = start()
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    with server.peer() as first:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (lowest_free(server.pid), limits[1]))
        with server.connect():
            wait_until(lambda: lines(server, "cannot accept") == 1, "the server tries to accept")
            works(first)
            server.process.send_signal(signal.SIGTERM)
            assert server.wait() == 0


# Messages


def test_a_message_that_is_too_long_costs_its_sender_the_connection_and_one_line(start: Start) -> None:
    server = start()
    with server.peer() as other, server.peer() as peer:
        sock_of(peer).sendall(HEADER.pack(MAX_MESSAGE + 1, Mid.PWRITE, 0))
        assert peer.transport.ended()  # type: ignore[union-attr]
        works(other)
    assert lines(server, "dropped", str(MAX_MESSAGE + 1)) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_message_of_the_largest_size_is_served(server: Server, transport: str) -> None:
    with server.peer(transport) as peer:
        opened = peer.opencreateat(peer.root, "file").fd
        data = b"x" * (MAX_MESSAGE - 20)
        assert peer.pwrite(opened, 0, data) == len(data)
        most = MAX_MESSAGE - 8
        assert len(peer.pread(opened, 0, most)) == len(data)
        names = ["n" * 255] * ((MAX_MESSAGE - 10) // 257)
        assert peer.exchange(Mid.WALK, struct.pack("<Q", peer.root) + strings(names)).mid == Mid.WALK
