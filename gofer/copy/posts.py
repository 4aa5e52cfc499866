"""Requests whose answers are taken later: while the server works on them, a copy goes on with what it has.

    posted = posts.post([(wire.OPENAT, request), ...], donating=True)
    posts.send()                 # all that was posted in one go, which wakes the server once
    ...                          # the contents of the files before
    for outcome in posted():     # payload and fds, or the OSError, of each

All go by the socket, which answers in order; a batch that is taken first takes those before it into memory. A server donates no
fd to who has too much unread (server/donation.py), so what brings fds is sent when nothing else is on its way.
"""

from __future__ import annotations

import collections
import struct

from gofer import wire
from gofer.client.ahead import answer, many, send
from gofer.client.transport import close_all
from gofer.copy.sides import AHEAD, FAR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Union

    from gofer.client.client import Client

    Outcome = Union[tuple[bytes, list[int]], OSError]

MOST = 256  # on their way: so many short requests fit a socket's buffer


class Posts:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._due: collections.deque[Batch] = collections.deque()
        self._count = 0
        self._unsent: list[tuple[int, bytes]] = []

    def post(self, calls: Sequence[tuple[int, bytes]], donating: bool = False) -> Batch:
        """At most as many as fit, and short ones."""
        if donating or self._count + len(calls) > MOST:
            self.settle()
        batch = Batch(self, [mid for mid, _ in calls])
        if calls:
            self._unsent += calls
            self._due.append(batch)
            self._count += len(calls)
        return batch

    def send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent:
            send(self._client, self._client.base, unsent)

    def settle(self) -> None:
        """Nothing is on its way any more: any other request may be made."""
        while self._due:
            self.receive()

    def receive(self) -> None:
        """The next answer, to whom it belongs."""
        batch = self._due[0]
        try:
            self.send()
            batch.outcomes.append(answer(self._client, self._client.base, batch.mids.popleft()))
        except BaseException:
            self._due.clear()  # the connection is over, or what comes belongs to nobody
            raise
        self._count -= 1
        if not batch.mids:
            self._due.popleft()


class Batch:
    """The answers to what was posted together. Called: all of them."""

    __slots__ = ("mids", "outcomes", "_posts")

    def __init__(self, posts: Posts, mids: Sequence[int]) -> None:
        self._posts, self.mids = posts, collections.deque(mids)
        self.outcomes: list[Outcome] = []

    def __call__(self) -> list[Outcome]:
        while self.mids:
            self._posts.receive()
        outcomes, self.outcomes = self.outcomes, []
        return outcomes

    def __del__(self, close_all=close_all) -> None:  # type: ignore[no-untyped-def]  # bound early, as in local.Fd
        for outcome in self.outcomes:
            if not isinstance(outcome, OSError):
                close_all(outcome[1])


class Asking:
    """A connection that is asked for one thing, or for many; what was posted is out of the way of all else."""

    def __init__(self, client: Client) -> None:
        self._client, self._posts = client, Posts(client)
        self._donates = client.transport is not client.base  # else it has no channel: another host's never has
        if self._donates:
            client.base.widen()
        self.ahead = AHEAD if self._donates else FAR
        self.trash: list[int] = []  # FDs that nobody has use for any more

    @property
    def client(self) -> Client:
        """For any request: nothing that was posted is on its way."""
        self._posts.settle()
        return self._client

    @property
    def beside(self) -> Client:
        """For what has nothing to do with what is on its way: over the channel, where there is one, nothing is waited for."""
        return self._client if self._donates else self.client

    def begin(self) -> None:
        self._posts.send()

    def rest(self) -> None:
        self._posts.settle()

    def ask(self, calls: Sequence[tuple[int, bytes]]) -> list[Outcome]:
        """All at once, of what brings no fds; FDs that nobody has use for any more are closed before."""
        return list(many(self.client, [*self._closing(), *calls], FAR))[-len(calls) :] if calls else []

    def _post(self, calls: Sequence[tuple[int, bytes]], donating: bool = False) -> Batch:
        """As `ask`, of AHEAD at most. donating: fds come with the answers."""
        closing = self._closing()
        batch = self._posts.post(calls, donating and self._donates)
        self._posts.post(closing)
        return batch

    def _closing(self) -> list[tuple[int, bytes]]:
        if len(self.trash) < 32:
            return []
        closing, self.trash[:] = self.trash[:], []
        return [(wire.CLOSE, struct.pack(f"<H{len(closing)}Q", len(closing), *closing))]
