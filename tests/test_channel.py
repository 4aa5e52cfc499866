"""The shared-memory transport: making channels, the window, donated fds, and its end from either side."""

import errno
import fcntl
import mmap
import os
import socket
import stat as modes
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from codec import MAX_MESSAGE, Mid
from conftest import Start
from corpus import session
from hosts import CHECKOUT, PATIENCE, Server, fails, wait_until
from peer import Peer, open_channel, over_channel, over_socket
from transport import CHANNEL_HEADER, DATA, SERVER_ACTIVE, SHUT_DOWN, ChannelTransport
from watch import leased

LIMIT = min(4, max(2, os.cpu_count() or 2))
F_GET_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK = 1034, 1, 2


def of(peer: Peer) -> ChannelTransport:
    assert isinstance(peer.transport, ChannelTransport)
    return peer.transport


def threads(server: Server) -> int:
    """Of channels, where one client is connected: it has one for its socket, beside the server's own."""
    return len(os.listdir(f"/proc/{server.pid}/task")) - 2


def request(mid: Mid, payload: bytes) -> bytes:
    return CHANNEL_HEADER.pack(mid, 0, 0) + payload


def fstat(fd: int) -> bytes:
    return request(Mid.FSTAT, struct.pack("<Q", fd))


def test_a_window_is_page_aligned_large_enough_and_empty(server: Server) -> None:
    with server.peer() as peer:
        needed = 16 + 4 + MAX_MESSAGE
        for i in range(LIMIT):
            channel, memfd = open_channel(peer)
            assert channel.length % mmap.PAGESIZE == 0
            assert needed <= channel.length < needed + mmap.PAGESIZE
            assert not any(channel.window[:])
            assert os.fstat(memfd).st_size >= (i + 1) * channel.length


def test_all_windows_of_a_connection_are_in_one_memfd_and_none_overlaps_another(server: Server) -> None:
    with server.peer() as peer:
        places = []
        inodes = set()
        for _ in range(LIMIT):
            offset, length, fds = peer.channel()
            memfd, sock = fds
            assert modes.S_ISSOCK(os.fstat(sock).st_mode)
            inodes.add(os.fstat(memfd).st_ino)
            assert offset % mmap.PAGESIZE == 0
            places.append((offset, offset + length))
        assert len(inodes) == 1
        places.sort()
        assert all(end <= start for (_, end), (start, _) in zip(places, places[1:]))


def test_the_memfd_is_sealed_and_cannot_be_shrunk_under_the_server(server: Server) -> None:
    with server.peer() as peer:
        _, memfd = open_channel(peer)
        assert fcntl.fcntl(memfd, F_GET_SEALS) & (F_SEAL_SEAL | F_SEAL_SHRINK) == F_SEAL_SEAL | F_SEAL_SHRINK
        with fails(errno.EPERM):
            os.ftruncate(memfd, 0)


def test_one_channel_too_many_is_enomem_and_the_rest_go_on(server: Server) -> None:
    """21a689b36, bbf4a5908: one failed channel killed the mount."""
    with server.peer() as base:
        peers = [over_channel(base) for _ in range(LIMIT)]
        for peer in (base, *peers):
            with fails(errno.ENOMEM):
                peer.channel()
        for peer in (base, *peers):
            assert modes.S_ISDIR(peer.fstat(base.root).mode)
        for peer in peers:
            peer.disconnect()


@pytest.mark.serve("--channels", "0")
def test_without_channels_the_socket_serves_alone(server: Server) -> None:
    with server.peer() as peer:
        with fails(errno.ENOMEM):
            peer.channel()
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


@pytest.mark.serve("--channels", "7")
def test_the_number_of_channels_is_an_option(server: Server) -> None:
    with server.peer() as peer:
        for _ in range(7):
            open_channel(peer)
        with fails(errno.ENOMEM):
            peer.channel()


def test_a_channel_can_ask_for_the_next_one(server: Server) -> None:
    with server.peer("channel") as peer:
        channel, _ = open_channel(peer)
        assert channel.handshake() == b"{}\n"
        assert channel.exchange(Mid.FSTAT, struct.pack("<Q", peer.root)).mid == Mid.FSTAT


@pytest.mark.parametrize("hello", [b"{}\n", b"{}", b'{"version": 7, "more": [1, 2]}\n'])
def test_the_handshake_is_an_object_for_an_object(server: Server, hello: bytes) -> None:
    with server.peer() as peer:
        channel, _ = open_channel(peer)
        assert channel.handshake(hello) == b"{}\n"
        assert channel.exchange(Mid.FSTAT, struct.pack("<Q", peer.root)).mid == Mid.FSTAT


@pytest.mark.parametrize("hello", [b"", b"\0", b"GET / HTTP/1.0", b"[]\n", b"\xff" * 1000])
def test_another_handshake_ends_that_channel_only(server: Server, hello: bytes) -> None:
    with server.peer() as peer:
        channel, _ = open_channel(peer)
        channel.hand_over(hello)
        assert channel.ended()
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


@pytest.mark.parametrize("length", [2**20 * 2, 2**31, 2**32 - 1])
def test_a_handshake_that_lies_about_its_length_harms_nobody(server: Server, length: int) -> None:
    with server.peer() as peer:
        channel, _ = open_channel(peer)
        channel.hand_over(b"{}\n", length)
        channel.ended()
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


def test_fds_are_the_connections_not_the_channels(server: Server) -> None:
    (server.tree / "file").write_bytes(b"hello")
    with server.peer() as base:
        one, two = over_channel(base), over_channel(base)
        opened = one.openat(base.walk_to("file")).fd
        assert two.pread(opened, 0, 5) == b"hello"
        base.close(opened)
        with fails(errno.EBADF):
            one.pread(opened, 0, 5)
        one.disconnect()
        two.disconnect()


def test_donated_fds_are_there_when_control_is_handed_back(server: Server) -> None:
    (server.tree / "file").touch()
    with server.peer("channel") as peer:
        for _ in range(50):
            fd = peer.walk_to("file")
            opened = peer.openat(fd)  # reads what is donated without waiting
            assert len(opened.donated) == 1
            with pytest.raises(BlockingIOError):
                of(peer).donation()
            peer.close(fd, opened.fd)
            os.close(*peer.disown(opened.donated))


def test_channels_work_at_the_same_time(server: Server) -> None:
    (server.tree / "file").write_bytes(b"hello" * 1000)
    errors: list[BaseException] = []

    def work(peer: Peer, fd: int) -> None:
        try:
            for i in range(300):
                assert peer.pread(fd, i, 10) == (b"hello" * 1000)[i : i + 10]
                assert peer.walk(peer.root, "missing") == (1, [])
        except BaseException as e:
            errors.append(e)

    with server.peer() as base:
        fd = base.openat(base.walk_to("file")).fd
        peers = [over_channel(base) for _ in range(LIMIT)]
        workers = [threading.Thread(target=work, args=(peer, fd)) for peer in (base, *peers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for peer in peers:
            peer.disconnect()
    assert errors == []


def test_a_call_that_waits_holds_up_neither_other_channels_nor_the_socket_nor_others(server: Server) -> None:
    """Another process's lease makes open(2) wait: real, and for exactly as long as we say."""
    path = server.tree / "file"
    path.write_bytes(b"hello")
    with server.peer() as base, server.peer("channel") as stranger:
        slow, quick = over_channel(base), over_channel(base)
        fd = base.walk_to("file")
        with leased(path) as awaited:
            of(slow).hand_over(request(Mid.OPENAT, struct.pack("<QI4x", fd, os.O_RDWR)))
            wait_until(awaited, "the server opens the file")
            for peer in (quick, base, stranger):
                for _ in range(20):
                    assert modes.S_ISDIR(peer.fstat(peer.root).mode)
                    assert peer.walk(peer.root, "file")[0] == 0
            assert of(slow).state == SERVER_ACTIVE, "they were not answered before it"
        reply = Peer.check(Mid.OPENAT, of(slow).receive())
        opened = struct.unpack("<Q", reply.payload)[0]
        for donated in reply.fds:
            os.close(donated)
        assert quick.pread(opened, 0, 5) == b"hello"
        slow.disconnect()
        quick.disconnect()


def test_when_the_client_shuts_down_an_idle_channel_its_thread_ends(server: Server) -> None:
    with server.peer() as base:
        peer = over_channel(base)
        assert threads(server) == 1
        of(peer).state = SHUT_DOWN
        wait_until(lambda: threads(server) == 0, "the channel's thread ends")
        assert of(peer).state == SHUT_DOWN
        assert modes.S_ISDIR(base.fstat(base.root).mode)
        peer.disconnect()


def test_a_shutdown_while_the_server_works_is_never_overwritten(server: Server) -> None:
    path = server.tree / "file"
    path.touch()
    with server.peer() as base:
        peer = over_channel(base)
        fd = base.walk_to("file")
        with leased(path) as awaited:
            of(peer).hand_over(request(Mid.OPENAT, struct.pack("<QI4x", fd, os.O_RDWR)))
            wait_until(awaited, "the server opens the file")
            of(peer).state = SHUT_DOWN
        wait_until(lambda: threads(server) == 0, "the channel's thread ends")
        assert of(peer).state == SHUT_DOWN
        assert modes.S_ISDIR(base.fstat(base.root).mode)
        peer.disconnect()


def test_a_race_of_shutdown_and_reply_always_ends_the_channel(start: Start) -> None:
    server = start("--channels", "100")
    with server.peer() as base:
        for i in range(60):
            peer = over_channel(base)
            of(peer).hand_over(fstat(base.root))
            for _ in range(i * 7):
                pass
            of(peer).state = SHUT_DOWN
            assert of(peer).ended()
            peer.disconnect()
        wait_until(lambda: threads(server) == 0, "all channels' threads end")


@pytest.mark.parametrize("state", [3, 4, 5, 7, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF])
def test_a_state_that_is_none_ends_that_channel_only(server: Server, state: int) -> None:
    with server.peer() as base:
        bad, good = over_channel(base), over_channel(base)
        of(bad).state = state
        wait_until(lambda: threads(server) == 1, "the channel's thread ends")
        assert of(bad).state not in (0, SERVER_ACTIVE)
        assert modes.S_ISDIR(good.fstat(base.root).mode)
        bad.disconnect()
        good.disconnect()


def test_a_channel_that_was_shut_down_does_not_come_back(server: Server) -> None:
    with server.peer() as base:
        peer = over_channel(base)
        of(peer).state = SHUT_DOWN
        wait_until(lambda: threads(server) == 0, "the channel's thread ends")
        of(peer).state = 0
        of(peer).hand_over(fstat(base.root))
        time.sleep(0.05)
        assert of(peer).state == SERVER_ACTIVE  # nobody is there to answer
        peer.disconnect()


@pytest.mark.parametrize("length", [0, 1, 3, 4, 11, 13, MAX_MESSAGE + 5, 2**21, 2**31, 2**32 - 1])
def test_a_data_len_that_lies_is_eio_and_the_channel_goes_on(server: Server, length: int) -> None:
    with server.peer("channel") as peer:
        of(peer).hand_over(fstat(peer.root), length)
        with fails(errno.EIO):
            Peer.check(Mid.FSTAT, of(peer).receive())
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


def test_what_a_client_writes_to_num_fds_and_reserved_bytes_is_ignored(server: Server) -> None:
    with server.peer("channel") as peer:
        of(peer).window[8:DATA] = b"\xff" * 8
        of(peer).hand_over(CHANNEL_HEADER.pack(Mid.FSTAT, 255, 255) + struct.pack("<Q", peer.root))
        reply = Peer.check(Mid.FSTAT, of(peer).receive())
        assert len(reply.payload) == 144 and reply.fds == []


def test_wakes_without_a_change_of_state_are_nothing(server: Server) -> None:
    with server.peer("channel") as peer:
        for _ in range(200):
            of(peer).state = 0  # wakes the server, which is not active
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)


def test_the_end_of_the_connection_ends_its_channels(server: Server) -> None:
    with server.peer() as base:
        peer = over_channel(base)
        base.transport.close()
        assert of(peer).ended() or of(peer).state == 0
        wait_until(lambda: of(peer).state == SHUT_DOWN, "the channel is shut down")
        peer.disconnect()


def test_a_client_that_dies_in_a_call_takes_nothing_with_it(server: Server, tree: Path) -> None:
    (tree / "file").write_bytes(b"x" * 65536)
    pid = os.fork()
    if pid == 0:
        try:
            with server.peer("channel") as peer:
                fd = peer.openat(peer.walk_to("file")).fd
                of(peer).hand_over(request(Mid.PREAD, struct.pack("<QQI4x", 0, fd, 65536)))
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    with server.peer("channel") as peer:
        assert modes.S_ISDIR(peer.fstat(peer.root).mode)
    server.check_idle()


def test_a_word_written_without_a_wake_keeps_no_channel_alive(server: Server) -> None:
    """The server's thread sleeps then, while the word says that it is at work. `server` sees that it ends."""
    with server.peer("channel") as peer:
        peer.fstat(peer.root)
        wait_until(lambda: asleep(server), "the channel's thread sleeps")
        struct.pack_into("<I", of(peer).window, 0, SERVER_ACTIVE)


def asleep(server: Server) -> bool:
    """Whether a thread of the server waits for a futex."""
    return any("futex" in (task / "wchan").read_text() for task in Path(f"/proc/{server.pid}/task").iterdir())


def test_where_loads_may_overtake_each_other_every_message_is_served_all_the_same(spot: Path) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        options = ["serve", str(spot), "--quiet", "--host-uds=all", "--xattrs=all", f"--fd={theirs.fileno()}"]
        code = (
            f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n"
            "from gofer import cli; from gofer.server import channel\n"
            "channel._LOADS_IN_ORDER = False\n"
            f"sys.exit(cli.main({options!r}))"
        )
        process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[theirs.fileno()])
    base = over_socket(ours)
    peer = over_channel(base)
    session(peer)
    peer.disconnect()
    base.disconnect()
    assert process.wait(PATIENCE) == 0
