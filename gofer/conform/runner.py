"""Runs cases against a target, one after another, and says what came of each. A server that hangs or dies costs one case.

One connection, with a channel on it, serves all cases until one fails, or wants a connection of its own (`fresh`): a server that
is started by a command is started again only then. What a case has made, FDs and files, goes when it is over.
"""

from __future__ import annotations

import contextlib
import errno
import linecache
import os
import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Callable, NamedTuple

from gofer import Failure
from gofer.conform.case import Case, Skipped
from gofer.conform.codec import NotOffered, Unexpected
from gofer.conform.ground import ServedGround
from gofer.conform.peer import Peer, over_channel
from gofer.conform.stand import KINDS, Stand, lacking, probed
from gofer.conform.target import Listening, Started
from gofer.conform.transport import SocketTransport

PASSED, FAILED, SKIPPED = "pass", "fail", "skip"
_LONGEST = 60.0  # seconds for all of a case, or six times the patience
_HASTE = 0.5


class Overdue(Exception):
    """A case takes too long. No OSError, which a case may expect."""


class Result(NamedTuple):
    case: Case
    way: str
    outcome: str
    detail: str
    seconds: float

    @property
    def name(self) -> str:
        return f"{self.way} {self.case.name}"


class Runner:
    """One target, one dialect. A context manager: what it has made is gone at its end."""

    def __init__(self, target: Listening | Started, dialect: str, patience: float) -> None:
        self.target, self.dialect, self.patience = target, dialect, patience
        self.features: frozenset[str] = frozenset()
        self._base: Peer | None = None
        self._channel: Peer | None = None
        self._spent = False  # a case had more than that connection
        self._count = 0

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()
        self.target.end()

    def probe(self) -> None:
        """Find out the features. Failure where there is nobody to ask."""
        known = {"host"} if self.target.tree is not None else set()
        known |= {"connections"} if self.target.several else set()
        try:
            base = self._connected()
            known |= self._with_channels(base)
            self.features = frozenset(known)
            with self._stand("socket") as stand:
                self.features |= probed(stand)
        except OSError as error:
            raise Failure(f"cannot speak to the server: {self._why(error)}; is it one of LISAFS?") from None
        except Unexpected as error:
            raise Failure(f"cannot speak to the server: {error}; is it one of LISAFS, of this dialect?") from None

    def _with_channels(self, base: Peer) -> set[str]:
        """What it says of channels is for the cases to judge, but for an orderly no."""
        try:
            self._channel = over_channel(base)
        except NotOffered:
            return set()
        except OSError as error:
            return set() if error.errno in (errno.ENOMEM, errno.EOPNOTSUPP) else {"channels"}
        except Unexpected:
            pass
        return {"channels"}

    def run(
        self, cases: Iterable[Case], ways: Iterable[str], known: Callable[[str, str], bool] = lambda name, way: False
    ) -> Iterator[Result]:
        """known: whether a case is known to fail; then a server that hangs at it is not waited for so long."""
        patience = self.patience
        for way in ways:
            for case in cases:
                if way in case.ways and self.dialect in case.dialects:
                    self._be_patient(min(patience, _HASTE) if known(case.name, way) else patience)
                    yield self._one(case, way)

    def _be_patient(self, seconds: float) -> None:
        self.patience = seconds
        for peer in (self._base, self._channel):
            if peer is not None:
                peer.transport.be_patient(seconds)

    def _one(self, case: Case, way: str) -> Result:
        began = time.monotonic()
        lack = lacking(case.needs if way == "socket" else (*case.needs, "channels"), self.features)
        if lack:
            return Result(case, way, SKIPPED, lack, 0.0)
        if case.fresh:
            self._drop()
        outcome, detail, lost = PASSED, "", False
        try:
            with _no_longer_than(max(_LONGEST, self.patience * 6)), self._stand(way) as stand:
                try:
                    case.run(stand)
                except (Unexpected, Skipped, NotOffered):
                    self._close_all(stand, case)
                    raise
                self._close_all(stand, case)
        except (Skipped, NotOffered) as reason:
            outcome = SKIPPED
            detail = str(reason) if isinstance(reason, Skipped) else f"the server does not offer {reason}"
        except Exception as error:
            outcome, detail = FAILED, f"{self._why(error)}{_where(error)}"
            lost = not isinstance(error, Unexpected)  # after a wrong answer the next is awaited as before
        if case.fresh or self._spent or lost:
            self._drop()
        return Result(case, way, outcome, detail, time.monotonic() - began)

    @staticmethod
    def _close_all(stand: Stand, case: Case) -> None:
        """Every FD made since, where the connection goes on: ids count up."""
        if case.fresh:
            return
        base = stand.base
        _, found = base.walk(base.root, stand.name)
        last = found[0].fd if found else 0
        for start in range(stand.dir, last + 1, 10000):
            base.close(*range(start, min(start + 10000, last + 1)))

    def _why(self, error: Exception) -> str:
        if isinstance(error, OSError) and error.errno is None:
            words = self.target.last_words()
            return f"{error}{' (' + words + ')' if words else ''}"
        if isinstance(error, OSError):
            return f"{errno.errorcode.get(error.errno or 0, error.errno)}, where success was to come"
        return str(error) if isinstance(error, (Unexpected, Overdue, Failure)) else f"{type(error).__name__}: {error}"

    @contextlib.contextmanager
    def _stand(self, way: str) -> Iterator[Stand]:
        base = self._connected()
        if way == "channel" and self._channel is None:
            self._channel = over_channel(base)
        peer = base if way == "socket" or self._channel is None else self._channel
        self._count += 1
        name = f"gofer-conform-{os.getpid()}-{self._count}"
        stand = Stand(self._one_more, base, peer, way, self.dialect, self.features, self.target.tree, name)
        try:
            yield stand
        finally:
            try:
                stand.clear()
            except (OSError, Unexpected):
                self._clear_anew(name)

    def _clear_anew(self, name: str) -> None:
        """A case has taken its connection with it; its directory goes by another."""
        self._drop()
        with contextlib.suppress(OSError, Unexpected, Failure):
            base = self._connected()
            ServedGround(base, base.root, name, 0).clear()

    def _connected(self) -> Peer:
        if self._base is None:
            self._base = self._another()
        return self._base

    def _another(self, mounted: bool = True) -> Peer:
        """A mounted peer that asks for what the server has."""
        peer = KINDS[self.dialect](SocketTransport(self.target.connect(), self.patience))
        if not mounted:
            return peer
        try:
            peer.offered = frozenset(peer.mount().supported)
        except BaseException:
            peer.disconnect()
            raise
        return peer

    def _one_more(self, mounted: bool) -> Peer:
        self._spent = True
        return self._another(mounted)

    def _drop(self) -> None:
        self._spent = False
        for peer in (self._channel, self._base):
            if peer is not None:
                peer.disconnect()
        self._base = self._channel = None
        self.target.renew()


def _where(error: Exception) -> str:
    """The line of the case that found it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if f"conform{os.sep}cases{os.sep}" in frame.filename:
            line = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
            return f" ({os.path.basename(frame.filename)}:{frame.lineno}{': ' + line if line else ''})"
    return ""


@contextlib.contextmanager
def _no_longer_than(seconds: float) -> Iterator[None]:
    def end(number: int, frame: FrameType | None) -> None:
        raise Overdue(f"no end after {seconds:g} seconds")

    handler = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)  # somebody else's, or none
        signal.signal(signal.SIGALRM, handler)
