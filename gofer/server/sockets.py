"""The sockets that `gofer serve` inherits. What cannot be had is a Failure, in one line."""

from __future__ import annotations

import os
from _socket import AF_UNIX, SOCK_STREAM, socket

from gofer import Failure

_FDS_MOST = 1 << 20  # more than a process may have without further ado


def inherited(number: int) -> socket:
    """The connected stream socket that came as fd `number`."""
    try:
        sock = socket(fileno=number)
    except (OSError, OverflowError, ValueError) as e:
        why = getattr(e, "strerror", "") or "no such number"
        raise Failure(
            f"fd {number} cannot be served: {why}; --fd takes the number of a connected socket, inherited"
        ) from None
    if sock.family != AF_UNIX or sock.type != SOCK_STREAM:
        sock.detach()
        raise Failure(f"fd {number} is not a Unix stream socket; --fd takes the number of a connected one")
    try:
        sock.getpeername()
    except OSError as e:
        sock.detach()
        raise Failure(
            f"fd {number} cannot be served: {e.strerror}; --fd takes the number of a connected socket, inherited"
        ) from None
    os.set_inheritable(number, False)
    return sock


def passed() -> range:
    """The fds that systemd passed to this process (sd_listen_fds(3))."""
    count = os.environ.get("LISTEN_FDS", "")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return range(0)
    return range(3, 3 + min(int(count[:9]), _FDS_MOST))


def activated() -> list[socket]:
    """The sockets systemd passed; the variables are not passed on."""
    numbers = passed()
    for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    sockets = []
    for number in numbers:
        try:
            sock = socket(fileno=number)
        except OSError as e:
            raise Failure(
                f"LISTEN_FDS names fd {number}, which is no socket: {e.strerror}; check the .socket unit"
            ) from None
        if sock.family != AF_UNIX or sock.type != SOCK_STREAM:
            raise Failure(
                f"LISTEN_FDS names fd {number}, which is not a Unix stream socket; use ListenStream=/path in the .socket unit"
            )
        os.set_inheritable(number, False)
        sockets.append(sock)
    return sockets
