"""seeds.py DIRECTORY: write seed inputs to DIRECTORY/socket and DIRECTORY/channel.

They are the golden requests, with FDs that exist, and a session of a client that knows what it wants (corpus.py).
"""

import os
import struct
import sys
from pathlib import Path

from fuzz_channel import HAND_OVER, RIGHT
from fuzz_socket import MOUNT
from inside import Inside

from gofer.conform.codec import NO_ID, Mid, create, string  # isort: skip
from vectors import REQUESTS

from gofer.conform.corpus import Request, recorded
from gofer.conform.peer import Peer
from gofer.conform.transport import CHANNEL_HEADER, HEADER, Reply

# The golden requests take 3 and 4 for directories, 7 for a file, 9 for an open one; FD 1 is the root.
OWN = create(1, 0o755, NO_ID, NO_ID)
BEFORE: list[Request] = [
    *((Mid.MKDIRAT, OWN + string(name)) for name in "abc"),  # 2 to 4
    (Mid.OPENCREATEAT, OWN + struct.pack("<I", os.O_RDWR) + string("f")),  # 5 and 6
    (Mid.MKNODAT, create(3, 0o100644, NO_ID, NO_ID) + bytes(8) + string("a")),  # 7
    (Mid.MKDIRAT, create(3, 0o755, NO_ID, NO_ID) + string("d")),  # 8
]
OPEN_FILE: Request = (Mid.OPENAT, struct.pack("<QI4x", 7, os.O_RDWR))
OPEN_DIRECTORY: Request = (Mid.OPENAT, struct.pack("<QI4x", 1, os.O_RDONLY))


class Here:
    """A transport to a connection in this process, for a Peer."""

    def __init__(self, inside: Inside) -> None:
        self.conn, self.client = inside.connect()
        self.exchange(1)

    def exchange(self, mid: int, payload: bytes = b"") -> Reply:
        self.client.sock.send(HEADER.pack(len(payload), mid, 0) + payload)
        return self.client.replies(1)[0]


def sessions() -> dict[str, list[Request]]:
    """Requests after a Mount, by a name for the file."""
    inside = Inside()
    here = Here(inside)
    found = {"session": recorded(Peer(here))}  # type: ignore[arg-type]
    inside.end(here.conn, here.client)
    inside.close()
    for vector in REQUESTS:
        opened = OPEN_DIRECTORY if vector.mid == Mid.GETDENTS64 else OPEN_FILE
        found[vector.message] = [*BEFORE, opened, (vector.mid, vector.raw)]
    return found


def as_stream(requests: list[Request]) -> bytes:
    return b"\0" + b"".join(HEADER.pack(len(payload), mid, 0) + payload for mid, payload in requests)


def as_hand_overs(requests: list[Request]) -> bytes:
    texts = [CHANNEL_HEADER.pack(mid, 0, 0) + payload for mid, payload in requests]
    return b"\0" + b"".join(HAND_OVER.pack(len(text), 255, RIGHT) + text for text in texts)


def write(directory: Path) -> None:
    for kind, form in (("socket", as_stream), ("channel", as_hand_overs)):
        (directory / kind).mkdir(parents=True, exist_ok=True)
        for name, requests in sessions().items():
            (directory / kind / name).write_bytes(form(requests))


if __name__ == "__main__":
    write(Path(sys.argv[1]).absolute())

__all__ = ["MOUNT", "as_hand_overs", "as_stream", "sessions", "write"]
