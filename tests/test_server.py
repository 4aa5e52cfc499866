"""The server as a process: many clients, its end, and its limits."""

import contextlib
import errno
import os
import random
import signal
import socket
import stat as modes
import struct
import threading
from pathlib import Path
from typing import Callable

import pytest
from conftest import Start
from hosts import TRANSPORTS, Server, fails, over_socket_of, wait_until
from watch import leased

from gofer.conform.codec import GID, MODE, SIZE, UID, Mid
from gofer.conform.corpus import session
from gofer.conform.peer import Peer, over_channel, over_socket
from gofer.conform.transport import CHANNEL_HEADER, SERVER_ACTIVE, ChannelTransport

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def open_slowly(peer: Peer, fd: int, awaited: Callable[[], bool]) -> ChannelTransport:
    """Begin an OpenAt that waits for a lease, as `awaited` tells; -> the channel on which the answer will come."""
    transport = peer.transport
    assert isinstance(transport, ChannelTransport)
    transport.hand_over(CHANNEL_HEADER.pack(Mid.OPENAT, 0, 0) + struct.pack("<QI4x", fd, os.O_RDWR))
    wait_until(awaited, "the server opens the file")
    assert transport.state == SERVER_ACTIVE
    return transport


def test_two_clients_do_not_see_each_others_fds_but_the_same_files(server: Server) -> None:
    with server.peer() as one, server.peer("channel") as two:
        fd = one.opencreateat(one.root, "shared").fd
        one.pwrite(fd, 0, b"hello")
        assert two.pread(two.openat(two.walk_to("shared")).fd, 0, 10) == b"hello"
        with fails(errno.EBADF):
            two.pread(fd + 10, 0, 1)


@pytest.mark.parametrize("jail", ["auto", "off"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_every_message_is_served_confined_or_not(start: Start, transport: str, jail: str) -> None:
    server = start("--jail", jail, "--host-uds", "all", "--xattrs", "all")
    with server.peer(transport) as peer:
        session(peer)


def test_twenty_clients_at_once_each_get_their_own_answers(server: Server) -> None:
    errors: list[BaseException] = []

    def client(number: int) -> None:
        try:
            with server.peer(TRANSPORTS[number % 2]) as peer:
                directory = peer.mkdirat(peer.root, f"client{number}").fd
                for i in range(40):
                    name = f"{number}-{i}"
                    created = peer.opencreateat(directory, name)
                    data = os.urandom(1 + i * 50)
                    assert peer.pwrite(created.fd, 0, data) == len(data)
                    assert peer.pread(created.fd, 0, 1 << 20) == data
                    assert peer.fstat(created.inode.fd).size == len(data)
                    peer.close(created.fd, created.inode.fd)
                    os.close(*peer.disown(created.donated))
                assert len(peer.listdir(peer.openat(directory).fd)) == 40
        except BaseException as e:
            errors.append(e)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    assert errors == []
    assert len(os.listdir(server.tree)) == 20


def test_creates_walks_and_renames_over_the_same_names_from_two_connections(server: Server, spot: Path) -> None:
    """CVE-2026-93834 (9pfs): a create raced with a rename. Nothing outside may be touched, nothing may go wrong."""
    os.symlink(spot, server.tree / "out")
    done = threading.Event()
    errors: list[BaseException] = []
    expected = {errno.ENOENT, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY, errno.EINVAL, errno.ESTALE}

    def stir() -> None:
        try:
            with server.peer("channel") as peer:
                while not done.is_set():
                    for old, new in (("a", "b"), ("b", "a"), ("out", "a"), ("a", "out")):
                        try:
                            peer.renameat(peer.root, old, peer.root, new)
                        except OSError as e:
                            assert e.errno in expected, e
        except BaseException as e:
            errors.append(e)

    thread = threading.Thread(target=stir)
    thread.start()
    try:
        with server.peer() as peer:
            for _ in range(400):
                for call in (
                    lambda: peer.opencreateat(peer.root, "a", uid=5, gid=6, mode=0o4711),
                    lambda: peer.mkdirat(peer.root, "b", uid=5, gid=6),
                    lambda: peer.walk(peer.root, "a", "x"),
                    lambda: peer.openat(peer.walk_to("a"), os.O_RDWR),
                    lambda: peer.unlinkat(peer.root, "a"),
                    lambda: peer.unlinkat(peer.root, "b", 0x200),
                    lambda: peer.symlinkat(peer.root, "a", spot),
                ):
                    try:
                        call()
                    except OSError as e:
                        assert e.errno in expected, e
                for fd in peer.disown(peer.owned[:]):
                    os.close(fd)
    finally:
        done.set()
        thread.join()
    assert errors == []
    assert os.listdir(spot) == [] and os.stat(spot).st_uid == os.getuid()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_an_idle_server_with_status_zero_and_no_socket_left(start: Start, number: int) -> None:
    server = start()
    with server.peer() as base:
        peer = over_channel(base)
        server.process.send_signal(number)
        assert server.wait() == 0
        assert not server.path.exists()
        for each in (base, peer):
            with pytest.raises(ConnectionError):
                each.fstat(1)
        peer.disconnect()
    server.check_log()


@pytest.mark.parametrize("number", SIGNALS)
def test_what_is_in_flight_is_finished_and_nobody_new_is_let_in(start: Start, spot: Path, number: int) -> None:
    server = start()
    (spot / "file").write_bytes(b"hello")
    with server.peer() as base:
        peer = over_channel(base)
        fd = base.walk_to("file")
        with leased(spot / "file") as awaited:
            transport = open_slowly(peer, fd, awaited)
            server.process.send_signal(number)
            wait_until(lambda: not server.path.exists() or refused(server), "no new connection is taken")
            assert server.process.poll() is None
        reply = Peer.check(Mid.OPENAT, transport.receive())
        assert len(reply.fds) == 1
        assert os.pread(reply.fds[0], 5, 0) == b"hello"
        os.close(reply.fds[0])
        assert server.wait() == 0
        assert not server.path.exists()
        peer.disconnect()


def refused(server: Server) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(server.path))
            return False
        except OSError:
            return True


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_stops_at_once(start: Start, spot: Path, number: int) -> None:
    server = start()
    (spot / "file").touch()
    with server.peer() as base:
        peer = over_channel(base)
        fd = base.walk_to("file")
        with leased(spot / "file") as awaited:
            open_slowly(peer, fd, awaited)
            server.process.send_signal(number)
            wait_until(lambda: refused(server), "the server begins to stop")
            server.process.send_signal(number)
            assert server.wait() != 0  # while the open still waits
        assert not server.path.exists()
        peer.disconnect()


def test_signals_in_a_storm_of_requests_lose_no_reply(start: Start) -> None:
    """A client either gets a whole reply or an end of file, never half of one."""
    for delay in (0.0, 0.01, 0.03):
        server = start()
        with server.peer() as peer:
            timer = threading.Timer(delay, server.process.send_signal, (signal.SIGTERM,))
            timer.start()
            with pytest.raises(ConnectionError):
                while True:
                    assert modes.S_ISDIR(peer.fstat(peer.root).mode)
            timer.join()
        assert server.wait() == 0


def test_a_socket_file_that_is_somebody_elses_by_now_is_left_alone(start: Start) -> None:
    server = start()
    server.path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(server.path))
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0
        assert server.path.exists()


def test_a_client_that_opens_all_it_can_is_told_emfile_and_others_still_work(start: Start, spot: Path) -> None:
    """94126dd4a (#6547), CVE-2020-10717: the limit is told to the client that reached it, and to that one only."""
    (spot / "file").write_bytes(b"hello")
    server = start("--fd-limit", "400")
    with server.peer() as bystander, server.peer() as greedy:
        held: list[int] = []
        with fails(errno.EMFILE):
            while len(held) < 1000:
                held.append(greedy.walk_to("file"))
        assert len(held) >= 100
        with fails(errno.EMFILE):
            greedy.openat(held[0])
        for transport in TRANSPORTS:
            with server.peer(transport) as other:
                assert other.pread(other.openat(other.walk_to("file")).fd, 0, 5) == b"hello"
        assert bystander.pread(bystander.openat(bystander.walk_to("file")).fd, 0, 5) == b"hello"
        greedy.close(*held)
        assert greedy.pread(greedy.openat(greedy.walk_to("file")).fd, 0, 5) == b"hello"


def test_clients_above_the_limit_are_turned_away_and_let_in_when_one_leaves(start: Start) -> None:
    server = start("--max-connections", "3")
    peers = [over_socket(server.connect()) for _ in range(3)]
    with pytest.raises(ConnectionError):
        over_socket(server.connect())
    for peer in peers:
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)
    peers.pop().disconnect()
    wait_until(lambda: lets_in(server), "a place becomes free")
    for peer in peers:
        peer.disconnect()


def lets_in(server: Server) -> bool:
    """Whether a newcomer is served."""
    try:
        with over_socket_of(server.connect) as peer:
            return modes.S_ISDIR(peer.fstat(peer.root).mode)
    except ConnectionError:
        return False


def test_clients_that_come_and_go_leave_nothing(server: Server) -> None:
    for i in range(200):
        if i % 4 == 0:
            server.connect().close()
        else:
            with server.peer(TRANSPORTS[i % 2]) as peer:
                peer.walk(peer.root, "missing")
    server.check_idle()


def test_more_connections_than_fds_are_left_for_do_not_stop_the_server(start: Start) -> None:
    server = start("--fd-limit", "120", "--max-connections", "1000")
    with server.peer() as first:
        socks = [server.connect() for _ in range(200)]
        assert modes.S_ISDIR(first.fstat(first.root).mode)
        for sock in socks:
            sock.close()
        wait_until(lambda: lets_in(server), "newcomers are served again")
        assert modes.S_ISDIR(first.fstat(first.root).mode)


@pytest.mark.slow
def test_a_hundred_thousand_mixed_operations_leave_fds_and_memory_flat(server: Server) -> None:
    """CVE-2016-8577, CVE-2016-9102, CVE-2016-9105, CVE-2016-9106 (9pfs): leaks per operation."""
    rng = random.Random(1)
    rss = []
    with server.peer() as base:
        channel = over_channel(base)
        base.fstat(base.root)  # by now the server has closed its copies of what it donated
        fds = len(server.open_fds())
        for _ in range(4):
            done = 0
            while done < 25000:
                done += mixed(channel if rng.random() < 0.7 else base, rng)
            assert len(server.open_fds()) == fds
            rss.append(server.rss())
        channel.disconnect()
    assert rss[-1] <= rss[0] + 256, f"resident KiB after each 25,000 operations: {rss}"


def mixed(peer: Peer, rng: random.Random) -> int:
    """One round over one file and one directory; -> how many messages it was."""
    name = "n" * rng.randint(1, 200)
    created = peer.opencreateat(peer.root, name, mode=0o640)
    fd, opened = created.inode.fd, created.fd
    peer.pwrite(opened, rng.randint(0, 1 << 16), b"x" * rng.randint(0, 9000))
    peer.pread(opened, 0, rng.randint(0, 1 << 16))
    peer.setstat(fd, MODE | UID | GID | SIZE, mode=0o600, uid=5, gid=6, size=rng.randint(0, 1 << 16))
    peer.fstat(fd)
    for i in range(8):
        assert peer.walkstat(peer.root, name)[0].ino == peer.fstat(fd).ino
        assert len(peer.pread(opened, i, 1)) <= 1
    peer.fsetxattr(fd, "user.a", b"v" * rng.randint(0, 500))
    peer.flistxattr(fd)
    peer.fgetxattr(fd, "user.a")
    peer.renameat(peer.root, name, peer.root, "renamed")
    directory = peer.mkdirat(peer.root, "dir").fd
    link = peer.symlinkat(directory, "link", name).fd
    peer.readlinkat(link)
    listing = peer.openat(directory).fd
    peer.getdents64(listing)
    peer.walkstat(peer.root, "dir", "link")
    for call in (
        lambda: peer.fstat(0),
        lambda: peer.walk(peer.root, ".."),
        lambda: peer.unlinkat(peer.root, "missing"),
        lambda: peer.call(99, b""),
    ):
        try:
            call()
        except OSError:
            pass
    peer.unlinkat(directory, "link")
    peer.unlinkat(peer.root, "dir", 0x200)
    peer.unlinkat(peer.root, "renamed")
    peer.close(fd, opened, directory, link, listing)
    for donated in peer.disown(peer.owned[:]) if created.donated else []:
        if donated in created.donated:
            os.close(donated)
        else:
            peer.owned.append(donated)
    return 48


def test_clients_that_come_and_go_at_once_end_no_server_that_tells_of_each(start: Start) -> None:
    """Who it is was asked of a socket that its own thread may have closed by then."""
    server = start("--log-level", "debug", "--workers", "1")
    for _ in range(600):
        with contextlib.suppress(ConnectionError), server.connect() as sock:
            sock.shutdown(socket.SHUT_RDWR)
    wait_until(lambda: lets_in(server), "the slots of those that have hung up, all of one process, are free again")
