"""A server reached, or one line that says why not: every way in which a connection is not made, is refused, or ends.

with reach("/run/gofer.sock", 30) as client:
    ...                  # an OSError is about one request, and the caller's to tell
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from errno import EACCES, EAGAIN, ECONNREFUSED, ENOENT, EPERM, EPROTOTYPE

from gofer import Failure
from gofer.client.client import Client
from gofer.client.transport import HungUp, Lost, Silent, connected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket
    from typing import Callable

_NOT_ONE = "it is no gofer's, or one that is broken"


@contextlib.contextmanager
def reach(path: str, timeout: float, channel: bool = False, kind: type[Client] = Client) -> Iterator[Client]:
    """A mounted client of the server at that socket. timeout: seconds that an answer may take; 0: any time.

    channel: use one where the server gives one. kind: what is to be made of the connection.
    """
    with mounted(lambda: _connect(path, timeout), path, timeout, channel, kind=kind) as client:
        yield client


@contextlib.contextmanager
def mounted(
    connect: Callable[[], socket], path: str, timeout: float, channel: bool = False, ended: Callable[[], str] = str,
    kind: type[Client] = Client,
) -> Iterator[Client]:  # fmt: skip
    """As `reach`, of what `connect` connects to. path: what it is called in messages. ended(): why it may have hung up."""
    mounted: Client | None = None
    try:
        with _mount(connect(), timeout, path, kind) as client:
            mounted = client
            if channel:
                client.use_channel()
            yield client
    except Lost as lost:
        if mounted and mounted.lost is not lost:  # that of another server
            raise
        raise _lost(path, timeout, lost, bool(mounted), ended) from None
    except struct.error:
        raise Failure(f"{path}: the server does not speak LISAFS (a reply that is too short): {_NOT_ONE}") from None


def _lost(path: str, timeout: float, lost: Lost, mounted: bool, ended: Callable[[], str]) -> Failure:
    if isinstance(lost, Silent):
        return Failure(
            f"{path}: no answer within {timeout:g} s: the server is stopped or hangs, or a file system below it does; "
            "--timeout SECONDS waits longer"
        )
    if isinstance(lost, HungUp):
        why = ended()
        if why:
            return Failure(f"{path}: {why}")
        return Failure(f"{path}: {lost if mounted else _refused()}; its log says why")
    return Failure(f"{path}: the server does not speak LISAFS ({lost}): {_NOT_ONE}")


def _connect(path: str, timeout: float) -> socket:
    try:
        return connected(path, timeout)
    except OSError as error:
        raise Failure(f"cannot connect to {path}: {_unreached(path, error, timeout)}") from None


def _unreached(path: str, error: OSError, timeout: float) -> str:
    """The cause and the remedy."""
    if error.errno is None:  # the path does not fit struct sockaddr_un, says Python
        return "the path of a socket has at most 107 bytes: name it from nearer, or by a symlink to its directory"
    if error.errno == EAGAIN:
        return f"the server has not taken the connection within {timeout:g} s: it is stopped, or hangs"
    cause = error.strerror or str(error)
    if error.errno in (EACCES, EPERM):
        return f"{cause}; the server's --group, --mode and the directory that its socket is in say who may"
    if error.errno == EPROTOTYPE:
        return f"{cause}: {_NOT_ONE}"
    if error.errno == ECONNREFUSED and not is_socket(path):
        return "it is not a socket; give the path that gofer serve has told"
    if error.errno == ECONNREFUSED:
        return f"{cause}: the server that made this socket has ended; start it again (gofer serve)"
    if error.errno == ENOENT:
        host = "" if "/" in path else f" Another host's is {path}: with a colon."
        return f"{cause}; is the server running (gofer serve)?{host}"
    return f"{cause}; give the path that gofer serve has told"


def is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _mount(sock: socket, timeout: float, path: str, kind: type[Client]) -> Client:
    try:
        return kind(sock, timeout=timeout)
    except OSError as error:
        if error.errno is None:  # Lost
            raise
        why = f"{path}: the server answers, but cannot read what it serves: {error.strerror}"
        raise Failure(f"{why}; what is mounted there may be dead, or somebody has removed it") from None


def _refused() -> str:
    return (
        f"the server hung up without an answer: it does not let user {os.geteuid()} in (its --allow-uid), "
        "has clients enough (--max-connections, --fd-limit), or was stopped"
    )
