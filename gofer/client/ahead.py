"""Requests sent ahead of their answers: as many can be asked in the time of one.

    for outcome in many(client, [(wire.FSTAT, wire.FDID.bytes(fd)) for fd in fds]):
        if not isinstance(outcome, OSError):
            payload, donated = outcome
"""

from __future__ import annotations

import collections
import contextlib
import itertools

from gofer import wire
from gofer.client.transport import Lost, checked, close_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from typing import Union

    from gofer.client.client import Client
    from gofer.client.transport import SocketTransport

    Outcome = Union[tuple[bytes, list[int]], OSError]

WINDOW = 16  # as many fds as a server donates ahead


def many(client: Client, calls: Iterable[tuple[int, bytes]], window: int = WINDOW) -> Iterator[Outcome]:
    """What `client.exchange` would return or raise for each of calls, in order, by the socket; a Lost is raised.

    No other request may be made before the last outcome is taken, or the iterator closed: which waits for the answers that
    are due. window: how many are on their way at once; so many requests, or so many answers, have to fit a socket's buffer (some
    200 KiB).
    """
    transport = client.base  # a channel holds one message
    due: collections.deque[int] = collections.deque()
    source = iter(calls)
    try:
        while True:
            if len(due) <= window // 2:
                batch = list(itertools.islice(source, window - len(due)))
                if batch:
                    send(client, transport, batch)
                    due.extend([mid for mid, _ in batch])
            if not due:
                return
            yield answer(client, transport, due.popleft())
    finally:
        with contextlib.suppress(Lost):  # it is told to who asks next
            while due and not client.lost:
                outcome = answer(client, transport, due.popleft())
                if not isinstance(outcome, OSError):
                    close_all(outcome[1])


def reads(client: Client, fd: int, offset: int, end: int, size: int, window: int) -> Generator[memoryview, None, None]:
    """What is in that open FD between the two, `size` at a time, or as far as something is; a piece is good until the next one.

    As with `many`, no other request meanwhile.
    """
    transport = client.base
    room = bytearray(size + wire.PReadResp.size)
    due: collections.deque[int] = collections.deque()
    try:
        while True:
            batch = []
            while offset < end and len(due) < window:
                due.append(min(size, end - offset))
                batch.append((wire.PREAD, wire.PReadReq.bytes(offset, fd, due[-1])))
                offset += due[-1]
            if batch:
                send(client, transport, batch)
            if not due:
                return
            count = due.popleft()
            outcome = answer(client, transport, wire.PREAD, room)
            if isinstance(outcome, OSError):
                raise outcome
            data = memoryview(outcome[0])[wire.PReadResp.size :]
            if data:
                yield data
            if len(data) != count:
                return
    finally:
        with contextlib.suppress(Lost):
            while due and not client.lost:
                due.popleft()
                answer(client, transport, wire.PREAD, room)


def send(client: Client, transport: SocketTransport, batch: Sequence[tuple[int, bytes]]) -> None:
    if client.lost:
        raise client.lost
    try:
        transport.send(b"".join([wire.SocketHeader.bytes(len(request), mid) + request for mid, request in batch]))
    except Lost as lost:
        client.lost = lost
        raise


def answer(client: Client, transport: SocketTransport, mid: int, room: bytearray | None = None) -> Outcome:
    """room: see transport.SocketTransport.answer."""
    try:
        return checked(mid, *transport.answer(room))
    except Lost as lost:
        client.lost = lost
        raise
    except OSError as error:
        return error
