"""Sending the fds that a reply donates (SCM_RIGHTS, unix(7)), and knowing when that must not go on.

Theory of operation
-------------------
An fd that was sent and not read yet is in flight. The kernel counts those by *user*, over all sockets of all his
processes, against the sender's RLIMIT_NOFILE, and refuses with ETOOMANYREFS beyond that. A client that reads no fd it is
given would so use up what the other clients' replies need. Therefore one transport has at most `most_unread` messages with fds
unread: up to that many are sent without a look; then the socket is asked how much lies unread in it (SIOCOUTQ).

What an open regular file donates is there for speed: its client can do without, by PRead and PWrite, and the reply says by the
number of fds that there is none. Of everything else the fd is all that the message is about, so without it the reply is an error.
"""

from __future__ import annotations

from _socket import MSG_DONTWAIT, MSG_NOSIGNAL
from errno import ENOMEM, ETOOMANYREFS
from fcntl import ioctl

from gofer.server.fds import OpenFD
from gofer.sys import FDSender

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Donation

_SIOCOUTQ = 0x5411  # of a Unix socket: bytes of kernel memory that hold what the peer has not read
_LEAST = 768  # such bytes that a message takes at least
_MOST = 16  # a client that asks for one thing at a time has one unread; one that has many in flight, so many

FLAGS = MSG_DONTWAIT | MSG_NOSIGNAL
most_unread = [_MOST]


def limit_unread(fd_limit: int, clients: int) -> None:
    """Share what the kernel lets a user have in flight: clients (of all workers) with up to 5 transports each have 5/8 of it."""
    most_unread[0] = max(1, min(_MOST, fd_limit // (8 * clients)))


class Donor:
    """The sending end of one transport. fileno: of its socket; capacity: how many fds a message may carry.

    send(fileno, address, size, hosts, FLAGS): see sys.FDSender; BlockingIOError where the socket is full. Whoever calls it has
    compared `unread` (at most so many messages with fds are unread) with most_unread[0], called `look` where it is not below,
    and adds one to it.
    """

    __slots__ = ("fileno", "send", "unread")

    def __init__(self, fileno: int, capacity: int) -> None:
        self.fileno = fileno
        self.send = FDSender(capacity).send
        self.unread = 0

    def look(self) -> None:
        """Ask the socket; ETOOMANYREFS where too many are unread, as the kernel says it of all of this user's."""
        queued = int.from_bytes(ioctl(self.fileno, _SIOCOUTQ, b"\0\0\0\0"), "little")
        self.unread = -(-queued // _LEAST)
        if self.unread >= most_unread[0]:
            raise OSError(ETOOMANYREFS, "too many donated fds are unread")


def can_do_without(donated: list[Donation]) -> bool:
    """Whether the reply still counts when these are not sent: see the head of this file."""
    return all(type(each) is OpenFD for each in donated)


def errno_without(channel: bool) -> int:
    """What to answer where they were needed. ENOMEM is what clients take for "go on with fewer channels"."""
    return ENOMEM if channel else ETOOMANYREFS
