"""Whatever a client sends, it gets a well-formed reply, and everybody else the right one. Every seed is fixed: a failure can be
repeated.

FAllocate is not among what is made wrong: of a random length it would fill the server's disk. Nor does the attack have an FD of
the root: what it makes is to be in the case's own directory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import struct
import time
from typing import Callable

from gofer.conform.case import Skipped, expect, safety
from gofer.conform.codec import MAX_MESSAGE, OWN, Mid
from gofer.conform.corpus import Request, assert_well_formed, recorded
from gofer.conform.looks import alive
from gofer.conform.stand import Stand, channel_of, socket_of
from gofer.conform.transport import CHANNEL_HEADER, DATA

BOUNDARIES = {
    "<H": (0, 1, 0x7FFF, 0x8000, 0xFFFF),
    "<I": (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFF000),
    "<Q": (0, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1),
}
LEFT_OUT = (Mid.MOUNT, Mid.FALLOCATE, Mid.CHANNEL, *OWN)
MESSAGES = {mid.name: mid for mid in Mid if mid not in (Mid.ERROR, *LEFT_OUT)}
EVERY = {"needs": "writable", "fresh": True}
CHANNEL = ("channel",)


def _requests(t: Stand) -> list[Request]:
    first = t.peer.root
    requests = [request for request in recorded(t.peer, t.dir) if request[0] not in LEFT_OUT]
    t.base.close(first, t.base.root, t.peer.root)
    t.base.root = t.peer.root = t.dir
    return requests


def _send(t: Stand, request: Request) -> None:
    mid, payload = request
    reply = t.peer.transport.exchange(mid, payload[:MAX_MESSAGE])
    for fd in reply.fds:
        os.close(fd)
    assert_well_formed(mid, reply._replace(fds=[-1] * len(reply.fds)), t.peer.reader)


def _unharmed(t: Stand) -> None:
    """A root of this connection may be closed by now: another tells."""
    if "connections" in t.features:
        alive(t.connect())


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
            data[at:at] = bytes(rng.getrandbits(8) for _ in range(rng.randint(1, 40)))
        elif what == 4:
            data += rng.choice(requests)[1]
        elif what == 5:
            mid = rng.choice([number for number in range(40) if number not in LEFT_OUT])
        elif what == 6 and len(data) >= 8:
            struct.pack_into("<Q", data, 0, rng.randint(0, 60))  # another FD, perhaps of another kind
        else:
            data[at:at] = rng.choice((b"..", b"/", b"\0", b"../../etc", b"\x02\x00..", b"\xff\xff"))
    return mid, bytes(data)


@safety(**EVERY, each=range(6))
def requests_with_faults_get_well_formed_replies(t: Stand, seed: int) -> None:
    rng = random.Random(seed)
    requests = _requests(t)
    for _ in range(500):
        _send(t, mutated(rng, requests))
    _unharmed(t)


@safety(**EVERY, each=MESSAGES)
def boundary_values_in_every_field(t: Stand, mid: Mid) -> None:
    """CVE-2016-8578, CVE-2016-9104 (9pfs): empty strings, offset overflow."""
    requests = [request for request in _requests(t) if request[0] == mid]
    if not requests:
        raise Skipped(f"the server does not offer {mid.name}")
    for number, payload in requests:
        for at in range(min(len(payload), 72)):
            for layout, values in BOUNDARIES.items():
                size = struct.calcsize(layout)
                if at % min(size, 4) == 0 and at + size <= len(payload):
                    for value in values:
                        _send(t, (number, payload[:at] + struct.pack(layout, value) + payload[at + size :]))
    _unharmed(t)


@safety(**EVERY)
def every_id_of_every_kind_where_another_is_meant(t: Stand) -> None:
    """A control FD, an open FD, a bound socket's FD and none, in the place of each FD of each message."""
    width = len(t.peer.raw_fd(0))
    for mid, payload in _requests(t):
        if mid == Mid.CLOSE:
            continue
        for at in (0, width):
            for fd in (0, *range(2, 24), 2 ** (4 * width), t.peer.largest_fd):
                if at + width <= len(payload):
                    _send(t, (mid, payload[:at] + t.peer.raw_fd(fd) + payload[at + width :]))
        alive(t.peer)


@safety(ways=("socket",), needs="connections", fresh=True, each=range(4))
def random_bytes_on_the_socket_harm_nobody_else(t: Stand, seed: int) -> None:
    rng = random.Random(seed)
    bystander = t.connect()
    with contextlib.suppress(ConnectionError):
        socket_of(t.base).send(bytes(rng.getrandbits(8) for _ in range(rng.randint(1, 3000))))
    t.base.transport.close()
    for _ in range(10):
        alive(bystander)


@safety(ways=CHANNEL, needs="writable", fresh=True, each=range(3))
def corrupted_window_headers_harm_that_channel_at_most(t: Stand, seed: int) -> None:
    rng = random.Random(seed)
    values = (0, 1, 2, 3, 4, 5, 20, 0x1FF000, 0x1FFFFF, 0x200000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    requests, channel = _requests(t), channel_of(t.peer)
    with contextlib.suppress(ConnectionError):
        for _ in range(300):
            mid, payload = rng.choice([request for request in requests if request[0] != Mid.CLOSE])
            channel.window[8:DATA] = os.urandom(8)
            channel.window[DATA : DATA + 4 + len(payload)] = CHANNEL_HEADER.pack(mid, rng.randrange(256), 7) + payload
            struct.pack_into("<I", channel.window, 4, rng.choice((4 + len(payload), rng.choice(values))))
            channel.flip()
            reply = channel.receive()
            for fd in reply.fds:
                os.close(fd)
            assert_well_formed(mid, reply._replace(fds=[-1] * len(reply.fds)), t.peer.reader)
    alive(t.base)


SPANS = {"everywhere": range(4, 300), "header": range(4, 20), "payload": range(20, 300)}


@safety(ways=CHANNEL, needs="writable", fresh=True, each=SPANS)
def a_window_that_changes_while_the_server_works_harms_that_channel_at_most(t: Stand, span: range) -> None:
    """A second process of the client's writes into it all the time, so a field can change between two looks."""
    requests = [request for request in _requests(t) if len(request[1]) < 280 and request[0] != Mid.CLOSE]
    channel, rng = channel_of(t.peer), random.Random(3)
    with t.during(_scribbler(channel.window, span)), contextlib.suppress(ConnectionError):
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            mid, payload = rng.choice(requests)
            with contextlib.suppress(AssertionError, struct.error, BlockingIOError):  # the reply is scribbled on too
                for fd in channel.exchange(mid, payload).fds:
                    os.close(fd)
    _others(t)


@safety(ways=CHANNEL, needs="writable", fresh=True)
def a_state_word_that_never_rests_harms_that_channel_at_most(t: Stand) -> None:
    requests = [request for request in _requests(t) if request[0] != Mid.CLOSE]
    channel, rng = channel_of(t.peer), random.Random(3)
    with t.during(_scribbler(channel.window, range(4))):
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            mid, payload = rng.choice(requests)
            channel.window[DATA : DATA + 4 + len(payload)] = CHANNEL_HEADER.pack(mid, 0, 0) + payload
            channel.flip()
    _others(t)


def _others(t: Stand) -> None:
    """The connection goes on, though what was written may have been a Close of any FD of it."""
    _unharmed(t)
    expect(t.base.exchange(Mid.FSTAT, b"").mid == Mid.ERROR, "an FStat of nothing is answered")


def _scribbler(window: mmap.mmap, span: range) -> Callable[[], None]:
    rng = random.Random(5)
    values = (0, 1, 2, 4, 0x2E, 0x2F, 0x7F, 0x80, 0xFF)

    def scribble() -> None:
        window[rng.choice(span)] = rng.choice(values)

    return scribble
