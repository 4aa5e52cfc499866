"""Whatever bytes a client sends, it gets a well-formed reply to each whole message, in order, and the server lives.

The invariant, for any input: no exception leaves the connection; every reply is of its request's kind or an Error with an
errno, never EREMOTEIO; as many replies come as messages were whole; no fd stays open; nothing outside the tree is touched.

The first byte says in portions of which size the rest is sent; before it goes a Mount, so that FD 1 is the root.
"""

import contextlib
import socket
import sys

if __name__ == "__main__":
    import atheris  # before what it is to look into

from inside import MAX_MESSAGE, Inside, Reply  # isort: skip
from gofer.conform.corpus import assert_well_formed
from gofer.conform.transport import HEADER

MOUNT = HEADER.pack(0, 1, 0)


def requests(stream: bytes) -> list[int]:
    """The ids of the whole messages that a server must answer."""
    mids, at = [], 0
    while at + HEADER.size <= len(stream):
        length, mid, _ = HEADER.unpack_from(stream, at)
        at += HEADER.size + length
        if length > MAX_MESSAGE or at > len(stream):
            break
        mids.append(mid)
    return mids


def one_input(inside: Inside, data: bytes) -> None:
    conn, client = inside.connect()
    stream = MOUNT + data[1:]
    portion = data[0] * 16 + 1 if data[:1] > b"\0" else len(stream)
    found: list[Reply] = []
    for at in range(0, len(stream), portion):
        found += client.send(stream[at : at + portion])
    with contextlib.suppress(OSError):  # it has hung up
        client.sock.shutdown(socket.SHUT_WR)
    found += client.replies()
    expected = requests(MOUNT + data[1:])
    for mid, reply in zip(expected, found):
        assert_well_formed(mid, reply)
    assert len(found) == len(expected), f"{len(found)} replies to {len(expected)} messages"
    inside.end(conn, client)


if __name__ == "__main__":
    world = Inside()
    atheris.Setup([*sys.argv, "-handle_xfsz=0"], lambda data: one_input(world, data))
    atheris.Fuzz()
