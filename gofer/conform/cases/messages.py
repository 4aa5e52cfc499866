"""Requests that are no requests: unknown ids, wrong lengths, wrong FDs; and that the connection goes on."""

from __future__ import annotations

import errno
import os
import struct

from gofer.conform.case import Skipped, expect, fails, may_fail, safety, same, wire
from gofer.conform.codec import MAX_MESSAGE, OWN, Mid
from gofer.conform.corpus import Request, recorded
from gofer.conform.looks import alive
from gofer.conform.peer import Peer
from gofer.conform.stand import Stand, socket_of
from gofer.conform.transport import HEADER

ONE = ("socket",)
STAT = 144  # bytes of FStat's reply
MESSAGES = {mid.name: mid for mid in Mid if mid not in (Mid.ERROR, *OWN)}
WITH_FIELDS = {name: mid for name, mid in MESSAGES.items() if mid not in (Mid.MOUNT, Mid.CHANNEL)}


def _of(t: Stand, mid: Mid) -> list[Request]:
    """Well-formed requests of that message."""
    root = t.peer.root
    requests = [request for request in recorded(t.peer, t.dir) if request[0] == mid]
    t.peer.root = root  # not that of one more Mount
    if not requests:
        raise Skipped(f"the server does not offer {mid.name}")
    return requests


def _fstat(t: Stand) -> bytes:
    payload = t.peer.raw_fd(t.root)
    return HEADER.pack(len(payload), Mid.FSTAT, 0) + payload


def _answered(t: Stand, peer: Peer) -> None:
    same(len(Peer.check(Mid.FSTAT, socket_of(peer).receive()).payload), STAT, "bytes of FStat's reply")


@wire(each={"nothing": b"", "an-errno": bytes(4), "more": b"x" * 100})
def message_id_zero_is_einval(t: Stand, payload: bytes) -> None:
    with fails(errno.EINVAL):
        t.peer.call(Mid.ERROR, payload)


@wire(each=(1000, 0x7FFF, 0x8000, 0xFFFF))
def an_unknown_message_id_is_eopnotsupp(t: Stand, mid: int) -> None:
    for payload in (b"", b"x" * 4096):
        with fails(errno.EOPNOTSUPP):
            t.peer.call(mid, payload)
    alive(t.peer)


@wire(needs="writable", each=WITH_FIELDS)
def a_request_cut_at_any_length_is_eio(t: Stand, mid: Mid) -> None:
    """0fd9b69d5, 70afab3c9: a short message was read past its end, or crashed the server."""
    for number, payload in _of(t, mid):
        for length in range(len(payload)):
            with fails(errno.EIO, of=payload[:length]):
                t.peer.call(number, payload[:length])


@wire(needs="writable", each=WITH_FIELDS)
def a_request_with_bytes_behind_its_end_is_eio(t: Stand, mid: Mid) -> None:
    for number, payload in _of(t, mid):
        for more in (b"\0", b"x" * 7, b"\0" * 65536):
            with fails(errno.EIO, of=payload + more):
                t.peer.call(number, payload + more)


@wire(dialects=("today",), fresh=True, each={"MOUNT": Mid.MOUNT, "CHANNEL": Mid.CHANNEL})
def a_request_that_has_no_fields_takes_none(t: Stand, mid: Mid) -> None:
    for payload in (b"\0", b"\x01\x00\x00\x00/"):
        with fails(errno.EIO, of=payload):
            t.peer.call(mid, payload)


@wire(needs="writable", each=WITH_FIELDS)
def a_request_for_an_fd_that_is_closed_is_ebadf(t: Stand, mid: Mid) -> None:
    requests = _of(t, mid)
    highest = t.peer.walk(t.dir, "file")[1][0].fd
    t.peer.close(*range(t.dir, highest + 1))
    for number, payload in requests:
        with may_fail() if mid == Mid.CLOSE else fails(errno.EBADF, of=payload):
            t.peer.call(number, payload)


@wire(ways=ONE, fresh=True)
def the_largest_message_is_taken(t: Stand) -> None:
    with may_fail(errno.EIO):
        t.peer.call(Mid.FSTAT, t.peer.raw_fd(t.root) + b"\0" * (MAX_MESSAGE - len(t.peer.raw_fd(0))))
    alive(t.peer)


@safety(ways=ONE, needs="connections", fresh=True, each={"by-one": MAX_MESSAGE + 1, "2^31": 2**31, "2^32-1": 2**32 - 1})
def a_length_above_the_largest_ends_the_connection_and_no_other(t: Stand, length: int) -> None:
    """Before any memory is reserved for it: who waits for the bytes has reserved it, or will."""
    bystander = t.connect()
    transport = socket_of(t.base)
    transport.send(HEADER.pack(length, Mid.FSTAT, 0))
    expect(transport.ended(), "it is answered")
    alive(bystander)


@wire(ways=ONE)
def the_reserved_bytes_of_the_header_are_ignored(t: Stand) -> None:
    payload = t.peer.raw_fd(t.root)
    socket_of(t.peer).send(HEADER.pack(len(payload), Mid.FSTAT, 0xFFFF) + payload)
    _answered(t, t.peer)


@wire(ways=ONE)
def a_request_may_come_byte_by_byte(t: Stand) -> None:
    for byte in _fstat(t):
        socket_of(t.peer).send(bytes((byte,)))
    _answered(t, t.peer)


@wire(ways=ONE, needs="connections", each=(1, 7, 8, 9, 11))
def a_request_may_come_in_two_halves_and_others_are_served_between(t: Stand, cut: int) -> None:
    other = t.connect()
    request = _fstat(t)
    socket_of(t.peer).send(request[:cut])
    alive(other)
    socket_of(t.peer).send(request[cut:])
    _answered(t, t.peer)


@wire(ways=ONE)
def requests_sent_ahead_are_answered_in_order(t: Stand) -> None:
    """Strictly request, reply is what clients do; sending ahead must still never mix replies up."""
    transport = socket_of(t.peer)
    transport.send((_fstat(t) + HEADER.pack(0, 9999, 0)) * 50)
    for _ in range(50):
        _answered(t, t.peer)
        with fails(errno.EOPNOTSUPP):
            Peer.check(9999, transport.receive())


@safety(ways=ONE, needs="writable connections", dialects=("today",))
def a_client_that_takes_no_replies_holds_up_nobody_and_loses_none(t: Stand) -> None:
    data = os.urandom(1 << 20)
    t.ground.file("file", data)
    other = t.connect()
    fd = t.open("file")
    transport = socket_of(t.peer)
    read = struct.pack("<QQI4x", 0, fd, len(data))
    transport.send((HEADER.pack(len(read), Mid.PREAD, 0) + read) * 8)
    for _ in range(20):
        alive(other)
    for _ in range(8):
        expect(Peer.check(Mid.PREAD, transport.receive()).payload[8:] == data, "other data")


@wire()
def an_error_reply_is_one_u32_and_the_connection_goes_on(t: Stand) -> None:
    for _ in range(100):
        reply = t.peer.exchange(Mid.FSTAT, b"")
        same((reply.mid, reply.payload, reply.zero), (Mid.ERROR, errno.EIO.to_bytes(4, "little"), 0))
    alive(t.peer)


@safety(ways=ONE, needs="connections", fresh=True, each=(1, 4, 7, 8, 9, 11))
def half_a_message_and_a_hang_up_harms_nobody(t: Stand, cut: int) -> None:
    bystander = t.connect()
    socket_of(t.base).send(_fstat(t)[:cut])
    t.base.transport.close()
    for _ in range(10):
        alive(bystander)
