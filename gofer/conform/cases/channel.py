"""The shared-memory transport: making channels, the window, donated fds, and its end from either side."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat as modes
import struct
import threading
from typing import Callable

from gofer.conform.case import expect, fails, safety, same, semantics, wire
from gofer.conform.codec import MAX_MESSAGE, Mid, Unexpected
from gofer.conform.looks import alive, await_, leased
from gofer.conform.peer import Peer, open_channel, over_channel
from gofer.conform.stand import Stand, channel_of, walked
from gofer.conform.transport import CHANNEL_HEADER, DATA, SERVER_ACTIVE, SHUT_DOWN, ChannelTransport

WAY = ("channel",)
STAT = 144  # bytes of FStat's reply
MOST = 64  # channels: more no client asks for
F_GET_SEALS, F_SEAL_SEAL, F_SEAL_SHRINK = 1034, 1, 2


def _request(mid: Mid, payload: bytes) -> bytes:
    return CHANNEL_HEADER.pack(mid, 0, 0) + payload


def _fstat(t: Stand) -> bytes:
    return _request(Mid.FSTAT, t.peer.raw_fd(t.root))


def _open_both(t: Stand, fd: int) -> bytes:
    pad = b"" if t.dialect == "2021" else bytes(4)
    return _request(Mid.OPENAT, t.peer.raw_fd(fd) + struct.pack("<I", os.O_RDWR) + pad)


@wire(ways=WAY, fresh=True)
def a_window_is_page_aligned_large_enough_and_empty(t: Stand) -> None:
    channel, memfd = open_channel(t.base)
    needed = 16 + 4 + MAX_MESSAGE
    same(channel.length % mmap.PAGESIZE, 0, "length beyond a page")
    expect(channel.length >= needed, f"a window of {channel.length} bytes, where {needed} are needed")
    expect(not any(channel.window[:]), "it is not empty")
    expect(os.fstat(memfd).st_size >= channel.length, "the memory is smaller")


@wire(ways=WAY, fresh=True)
def all_windows_of_a_connection_are_in_one_memfd_and_none_overlaps_another(t: Stand) -> None:
    places, inodes = [], set()
    for _ in range(MOST):
        try:
            offset, length, fds = t.base.channel()
        except OSError:
            break
        same(len(fds), 2, "donated fds")
        expect(modes.S_ISSOCK(os.fstat(fds[1]).st_mode), "the second fd is no socket")
        inodes.add(os.fstat(fds[0]).st_ino)
        same(offset % mmap.PAGESIZE, 0, "offset beyond a page")
        places.append((offset, offset + length))
    same(len(inodes), 1, "memfds")
    places.sort()
    for (_, end), (start, _) in zip(places, places[1:]):
        expect(end <= start, f"a window ends at {end}, the next starts at {start}")


@safety(ways=WAY, fresh=True)
def the_memory_cannot_be_shrunk_under_the_server(t: Stand) -> None:
    _, memfd = open_channel(t.base)
    seals = fcntl.fcntl(memfd, F_GET_SEALS)
    same(seals & (F_SEAL_SEAL | F_SEAL_SHRINK), F_SEAL_SEAL | F_SEAL_SHRINK, "seals")
    with fails(errno.EPERM):
        os.ftruncate(memfd, 0)


@wire(ways=WAY, fresh=True)
def one_channel_too_many_is_enomem_and_the_rest_go_on(t: Stand) -> None:
    """21a689b36, bbf4a5908: one failed channel killed the mount."""
    peers = [t.peer]
    with fails(errno.ENOMEM):
        for _ in range(MOST):
            peers.append(t.channel())
    for peer in (t.base, *peers):
        with fails(errno.ENOMEM):
            peer.channel()
        alive(peer)


@wire(ways=WAY, fresh=True)
def a_channel_can_ask_for_the_next_one(t: Stand) -> None:
    channel, _ = open_channel(t.peer)
    channel.handshake()
    same(channel.exchange(Mid.FSTAT, t.peer.raw_fd(t.root)).mid, Mid.FSTAT, "message id")


HELLOS = {"with-newline": b"{}\n", "without": b"{}", "with-members": b'{"version": 7, "more": [1, 2]}\n'}


@wire(ways=WAY, fresh=True, each=HELLOS)
def the_handshake_is_an_object_for_an_object(t: Stand, hello: bytes) -> None:
    channel, _ = open_channel(t.base)
    same(channel.handshake(hello).strip(), b"{}")
    same(channel.exchange(Mid.FSTAT, t.peer.raw_fd(t.root)).mid, Mid.FSTAT, "message id")


NO_HELLOS = {"nothing": b"", "nul": b"\0", "http": b"GET / HTTP/1.0", "array": b"[]\n", "no-text": b"\xff" * 1000}


@safety(ways=WAY, fresh=True, each=NO_HELLOS)
def another_handshake_ends_that_channel_and_no_other(t: Stand, hello: bytes) -> None:
    channel, _ = open_channel(t.base)
    channel.hand_over(hello)
    expect(channel.ended(), "it is answered")
    alive(t.base)
    alive(t.peer)


LENGTHS = {"2^21": 2**21, "2^31": 2**31, "2^32-1": 2**32 - 1}


@safety(ways=WAY, fresh=True, each=LENGTHS)
def a_handshake_that_lies_about_its_length_harms_nobody(t: Stand, length: int) -> None:
    channel, _ = open_channel(t.base)
    channel.hand_over(b"{}\n", length)
    alive(t.base)
    alive(t.peer)


@semantics(ways=WAY, needs="writable", fresh=True)
def fds_are_the_connections_not_the_channels(t: Stand) -> None:
    t.ground.file("file", b"hello")
    two = t.channel()
    opened = t.open("file")
    same(two.pread(opened, 0, 5), b"hello")
    t.base.close(opened)
    with fails(errno.EBADF):
        t.peer.pread(opened, 0, 5)


@wire(ways=WAY, needs="writable donates")
def donated_fds_are_there_when_control_is_handed_back(t: Stand) -> None:
    t.ground.file("file")
    for _ in range(50):
        fd = t.walk("file")
        opened = t.peer.openat(fd)  # reads what is donated without waiting
        same(len(opened.donated), 1, "donated fds")
        try:
            channel_of(t.peer).donation()
            expect(False, "there is one more fd")
        except BlockingIOError:
            pass
        t.peer.close(fd, opened.fd)
        os.close(*t.peer.disown(opened.donated))


@semantics(ways=WAY, needs="writable", fresh=True)
def channels_work_at_the_same_time(t: Stand) -> None:
    data = b"hello" * 1000
    t.ground.file("file", data)
    fd, errors = t.open("file"), []

    def work(peer: Peer) -> None:
        try:
            for at in range(300):
                same(peer.pread(fd, at, 10), data[at : at + 10])
                same(peer.walk(t.dir, "missing"), (1, []))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(peer,)) for peer in (t.base, t.peer, t.channel())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise Unexpected(str(errors[0]))


@safety(ways=WAY, needs="writable host owners", fresh=True)
def a_call_that_waits_holds_up_neither_the_other_channels_nor_the_socket(t: Stand) -> None:
    """Our own lease makes open(2) wait: for exactly as long as we say."""
    t.ground.file("file", b"hello")
    quick, fd = t.channel(), t.walk("file")
    with leased(t.tree / "file") as awaited:
        slow = channel_of(t.peer)
        slow.hand_over(_open_both(t, fd))
        await_(awaited, t.patience, "the server opens the file")
        for peer in (quick, t.base):
            for _ in range(20):
                alive(peer)
                same(peer.walk(t.dir, "file")[0], 0, "status")
        same(slow.state, SERVER_ACTIVE, "the state of the channel whose call waits")
    reply = Peer.check(Mid.OPENAT, slow.receive())
    for donated in reply.fds:
        os.close(donated)


@safety(ways=WAY, needs="writable host owners", fresh=True)
def a_shutdown_while_the_server_works_is_never_overwritten(t: Stand) -> None:
    t.ground.file("file", b"hello")
    fd, channel = t.walk("file"), channel_of(t.peer)
    with leased(t.tree / "file") as awaited:
        channel.hand_over(_open_both(t, fd))
        await_(awaited, t.patience, "the server opens the file")
        channel.state = SHUT_DOWN
    alive(t.base)
    for _ in range(50):
        same(channel.state, SHUT_DOWN, "state")
        alive(t.base)


@semantics(ways=WAY, fresh=True)
def a_channel_that_the_client_shuts_down_ends_alone(t: Stand) -> None:
    other = t.channel()
    channel_of(t.peer).state = SHUT_DOWN
    for _ in range(20):
        alive(other)
        alive(t.base)
    same(channel_of(t.peer).state, SHUT_DOWN, "state")


STATES = {f"{state:#x}": state for state in (3, 4, 7, 0x80000000, 0xFFFFFFFF)}


@safety(ways=WAY, fresh=True, each=STATES)
def a_state_that_is_none_harms_that_channel_at_most(t: Stand, state: int) -> None:
    other = t.channel()
    channel_of(t.peer).state = state
    for _ in range(20):
        alive(other)
        alive(t.base)


LYING = {str(length): length for length in (0, 1, 3, 4, MAX_MESSAGE + 5, 2**21, 2**31, 2**32 - 1)}


@safety(ways=WAY, fresh=True, each=LYING)
def a_data_len_that_lies_is_eio_or_ends_the_channel_and_no_other(t: Stand, length: int) -> None:
    channel = channel_of(t.peer)
    channel.hand_over(_fstat(t), length)
    try:
        reply = channel.receive()
        same((reply.mid, reply.payload), (Mid.ERROR, errno.EIO.to_bytes(4, "little")))
        alive(t.peer)
    except ConnectionError:
        expect(channel.state not in (0, SERVER_ACTIVE), "the channel is not shut down")
    alive(t.base)


@wire(ways=WAY)
def what_a_client_writes_to_num_fds_and_reserved_bytes_is_ignored(t: Stand) -> None:
    channel = channel_of(t.peer)
    channel.window[8:DATA] = b"\xff" * 8
    channel.hand_over(CHANNEL_HEADER.pack(Mid.FSTAT, 255, 255) + t.peer.raw_fd(t.root))
    reply = Peer.check(Mid.FSTAT, channel.receive())
    same((len(reply.payload), reply.fds), (144, []))


@safety(ways=WAY)
def wakes_without_a_change_of_state_are_nothing(t: Stand) -> None:
    for _ in range(200):
        channel_of(t.peer).state = 0  # wakes the server, which is not active
    alive(t.peer)


@semantics(ways=WAY, needs="connections", fresh=True)
def the_end_of_the_connection_ends_its_channels(t: Stand) -> None:
    base = t.connect()
    peer = over_channel(base)
    channel = channel_of(peer)
    try:
        base.transport.close()
        await_(lambda: channel.state == SHUT_DOWN, t.patience, "the channel is shut down")
    finally:
        peer.disconnect()


@safety(ways=WAY, needs="writable")
def no_byte_of_the_servers_memory_reaches_a_client(t: Stand) -> None:
    """CVE-2016-9103: pads are zero, and what follows a reply in the window was never written."""
    t.ground.file("file")
    window = channel_of(t.peer).window
    head = DATA + CHANNEL_HEADER.size
    for fd in (t.root, t.dir):
        window[head:] = bytes(len(window) - head)
        expect(not any(t.peer.fstat(fd).pads), "pads are not zero")
        same(len(window[head + STAT :].rstrip(b"\0")), 0, "bytes written behind the reply")


# Left at every stage.


def _not_used(peer: Peer) -> None:
    peer.channel()


def _no_handshake(peer: Peer) -> None:
    open_channel(peer)


def _half_a_handshake(peer: Peer) -> None:
    channel, _ = open_channel(peer)
    channel.window[DATA : DATA + 3] = b"{}\n"


def _handshake_not_awaited(peer: Peer) -> None:
    channel, _ = open_channel(peer)
    channel.hand_over(b"{}\n")


def _begun(peer: Peer) -> ChannelTransport:
    channel, _ = open_channel(peer)
    channel.handshake()
    return channel


def _reply_not_awaited(peer: Peer) -> None:
    _begun(peer).hand_over(_request(Mid.FSTAT, peer.raw_fd(peer.root)))


def _shut_down(peer: Peer) -> None:
    _begun(peer).state = SHUT_DOWN


def _socket_closed(peer: Peer) -> None:
    """The channel goes on without the socket that fds come by."""
    channel = _begun(peer)
    channel.sock.close()
    channel.exchange(Mid.FSTAT, peer.raw_fd(peer.root))


LEAVES = {
    leave.__name__.lstrip("_").replace("_", "-"): leave
    for leave in (
        _not_used, _no_handshake, _half_a_handshake, _handshake_not_awaited, _reply_not_awaited, _shut_down, _socket_closed
    )
}  # fmt: skip


@safety(ways=WAY, needs="connections", fresh=True, each=LEAVES)
def channels_that_are_left_harm_nobody_else(t: Stand, leave: Callable[[Peer], None]) -> None:
    peer = t.connect()
    leave(peer)
    peer.disconnect()
    for _ in range(10):
        alive(t.base)
        alive(t.peer)
    walked(t.base, t.base.root, t.name)
