"""What a transport serves by, and the one place where an error becomes a reply."""

from __future__ import annotations

import os
import struct
from errno import EIO, ENOMEM, EOPNOTSUPP, EREMOTEIO

from gofer import wire
from gofer.handlers import HANDLERS
from gofer.handlers2021 import HANDLERS as HANDLERS_2021
from gofer.wire import ErrorResp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gofer.handlers import Handler
    from gofer.log import Log
    from gofer.server.comm import Communicator

__all__ = ["HANDLERS", "HANDLERS_2021", "IDLE", "Table", "errno_of", "refuse", "speaks_2021", "speaks_9p"]


IDLE = -1  # no message


class Table:
    """What one transport serves by. handlers: by message id. refuse: what answers where there is none, or it has raised.

    left: None, unless somebody counts (watch/counters.py); then, by message id, how many of the requests to come the transport's
    loop counts by itself: it calls `plain` for them, adds their bytes up in `moved`, and lets `now[0]` say which is under way.
    """

    __slots__ = ("handlers", "left", "moved", "now", "plain", "refuse")
    left: list[int] | None

    def __init__(self, handlers: Sequence[Handler]) -> None:
        self.handlers = self.plain = handlers
        self.refuse = refuse
        self.left = None
        self.moved: list[int] = []
        self.now = [IDLE]


def speaks_2021(size: int, mid: int) -> bool:
    """Whether a connection whose first message is that long speaks the dialect of 2021: today's Mount is empty."""
    return mid == wire.MOUNT and size > 0


def speaks_9p(start: bytes) -> bool:
    """Whether that is how 9P begins: Tversion, size[4] type[1] tag[2] msize[4] version_len[2] version."""
    return start[4:5] == b"d" and start[13:19] == b"9P2000"


def refuse(
    comm: Communicator, mid: int, error: Exception, request: memoryview, reply: memoryview, log: Log, client: int
) -> int:  # fmt: skip
    """Write the Error reply for what a handler raised; returns its size. What it meant to donate is closed.

    request: of no use here, but to who counts what is refused. client: the connection's number in the logs.
    """
    comm.donated.clear()
    name = wire.NAMES.get(mid) or wire.OWN_NAMES.get(mid) or mid
    code = errno_of(mid, error)
    if code == EREMOTEIO and not isinstance(error, OSError):
        log.limited("error", f"fault in {name}", f"client {client}: fault in {name}: {_trace(error)}")
    if log.debugging:
        log.debug(f"client {client}: {name}: errno {code} ({os.strerror(code)})")
    ErrorResp.pack(reply, 0, code)
    return ErrorResp.size


def errno_of(mid: int, error: Exception) -> int:
    """What an Error reply says of what a handler of that message raised, or the table where there is none."""
    if isinstance(error, OSError):
        return error.errno or EIO
    if isinstance(error, struct.error):
        return EIO
    if isinstance(error, MemoryError):
        return ENOMEM
    if isinstance(error, IndexError) and mid >= len(HANDLERS):  # the table's: there is no such message
        return EOPNOTSUPP
    return EREMOTEIO


def _trace(error: Exception) -> str:
    """Type and places of an exception, not its text, which may hold what the client sent.

    The traceback module costs 3 ms to import, and could not be imported any more behind a changed root.
    """
    places, at = [], error.__traceback__
    while at is not None:
        places.append(f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}")
        at = at.tb_next
    return f"{type(error).__name__} at {' > '.join(places)}"
