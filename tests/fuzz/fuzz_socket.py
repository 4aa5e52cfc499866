"""Whatever bytes a client sends, it gets a well-formed reply to each whole message, in order, and the server lives.

The invariant, for any input: no exception leaves the connection; every reply is of its request's kind or an Error with an
errno, never EREMOTEIO; as many replies come as messages were whole; no fd stays open; nothing outside the tree is touched.

The first byte says in portions of which size the rest is sent; before it goes a Mount, so that FD 1 is the root.
"""

import os
import select
import sys

if __name__ == "__main__":
    import atheris  # before what it is to look into

from inside import MAX_MESSAGE, Client, Connection, Inside, Reply  # isort: skip
from corpus import assert_well_formed
from transport import HEADER

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


def serve(conn: Connection, client: Client) -> list[Reply]:
    """What the server's loop would do, until the connection waits for more or has ended."""
    found: list[Reply] = []
    while not conn.closing:
        if conn.busy:
            os.sched_yield()
            if conn.done:
                conn.resume()
        elif conn.blocked:
            found += client.replies()
            conn.on_writable()
        elif select.select([conn.socket], [], [], 0)[0]:
            conn.on_readable()
        else:
            break
    return found + list(client.replies())


def one_input(inside: Inside, data: bytes) -> None:
    conn, client = inside.connect()
    stream = MOUNT + data[1:]
    portion = data[0] * 16 + 1 if data[:1] > b"\0" else len(stream)
    found: list[Reply] = []
    while stream and not conn.closing:
        sent = client.sock.send(stream[:portion])
        stream = stream[sent:]
        found += serve(conn, client)
    expected = requests(MOUNT + data[1:])
    for mid, reply in zip(expected, found):
        assert_well_formed(mid, reply)
    assert len(found) == len(expected), f"{len(found)} replies to {len(expected)} messages"
    inside.end(conn, client)


if __name__ == "__main__":
    world = Inside()
    atheris.Setup([*sys.argv, "-handle_xfsz=0"], lambda data: one_input(world, data))
    atheris.Fuzz()
