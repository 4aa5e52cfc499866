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

from _socket import MSG_DONTWAIT, MSG_NOSIGNAL, SCM_RIGHTS, SOL_SOCKET
from errno import ENOMEM, ETOOMANYREFS
from fcntl import ioctl

from gofer.cdata import Structure, addressof, byref, c_char, c_int, c_size_t, c_uint32, c_void_p, sizeof
from gofer.server.fds import OpenFD
from gofer.sys import raise_errno, sendmsg, sendmsg_silent

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

    send(fileno, address, size, hosts, FLAGS), send_alone(fileno, host): see FDSender; BlockingIOError where the socket is full.
    Whoever calls one has compared `unread` (at most so many messages with fds are unread) with most_unread[0], called `look`
    where it is not below, and adds one to it.
    """

    __slots__ = ("fileno", "send", "send_alone", "unread")

    def __init__(self, fileno: int, capacity: int) -> None:
        self.fileno = fileno
        sender = FDSender(capacity)
        self.send, self.send_alone = sender.send, sender.send_alone
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


class Iovec(Structure):
    """struct iovec."""

    _fields_ = [("iov_base", c_void_p), ("iov_len", c_size_t)]


class Msghdr(Structure):
    """struct msghdr."""

    _fields_ = [
        ("msg_name", c_void_p),
        ("msg_namelen", c_uint32),
        ("msg_iov", c_void_p),
        ("msg_iovlen", c_size_t),
        ("msg_control", c_void_p),
        ("msg_controllen", c_size_t),
        ("msg_flags", c_int),
    ]


class Cmsghdr(Structure):
    """struct cmsghdr; the data follows, aligned to 8 bytes."""

    _fields_ = [("cmsg_len", c_size_t), ("cmsg_level", c_int), ("cmsg_type", c_int)]


class FDSender:
    """sendmsg(2) with SCM_RIGHTS; the structures are made once and reused, so one sender serves one thread.

    capacity: how many fds one message may carry.
    """

    def __init__(self, capacity: int) -> None:
        header = sizeof(Cmsghdr)
        self._control = (c_char * (header + (4 * capacity + 7 & ~7)))()
        self._fds = (c_int * capacity).from_buffer(self._control, header)
        self._cmsg = Cmsghdr.from_buffer(self._control)
        self._cmsg.cmsg_level, self._cmsg.cmsg_type = SOL_SOCKET, SCM_RIGHTS
        self._iovec = Iovec()
        self._msg = Msghdr(None, 0, addressof(self._iovec), 1, addressof(self._control), 0, 0)
        self._reference = byref(self._msg)
        self._said: tuple[int, int, int | None] = -1, -1, None  # the number of fds, and the bytes, that the structures speak of

    def send(self, sock: int, address: int | None, size: int, fds: tuple[int, ...], flags: int) -> int:
        """Send size bytes at address with fds on their first byte; returns the bytes sent."""
        number = len(fds)
        if number == 1:
            self._fds[0] = fds[0]
        else:
            for index, fd in enumerate(fds):
                self._fds[index] = fd
        if self._said != (number, size, address):
            self._speak_of((number, size, address))
        sent = sendmsg(sock, self._reference, flags)
        if sent < 0:
            raise_errno()
        return sent

    def send_alone(self, sock: int, fd: int) -> None:
        """`send` of one fd and no bytes, with FLAGS."""
        if self._said is not _ALONE:
            self._speak_of(_ALONE)
        self._fds[0] = fd
        if sendmsg_silent(sock, self._reference, FLAGS) < 0 and sendmsg(sock, self._reference, FLAGS) < 0:
            raise_errno()

    def _speak_of(self, said: tuple[int, int, int | None]) -> None:
        self._said = said
        number, size, address = said
        header = sizeof(Cmsghdr)
        self._cmsg.cmsg_len = header + 4 * number
        self._msg.msg_controllen = header + (4 * number + 7 & ~7)
        self._iovec.iov_base, self._iovec.iov_len = address, size


_ALONE = 1, 0, None  # what a sender speaks of by `send_alone`
