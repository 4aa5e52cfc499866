"""Who may connect to a listening socket: judged by the credentials that the kernel keeps of the peer, not by what it sends.
And how a socket is closed whose peer may have sent fds that take long to close."""

from __future__ import annotations

import _thread
import os
import struct
from _socket import SHUT_RD, SO_PEERCRED, SOL_SOCKET, socket
from fcntl import ioctl

from gofer.cdata import byref, c_char, c_int, c_uint
from gofer.sys import libc

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS = 59
_SO_PASSRIGHTS = 83
_FIONREAD = 0x541B
_CLOSERS, _UNCLOSED = 8, 64  # threads that close refused sockets; sockets that may wait for one
_GROUPS_MOST = 65536  # NGROUPS_MAX
_OVERFLOW_ID = 65534  # what a user namespace shows of users and groups it does not know (user_namespaces(7))


class Admission:
    """Who may connect to a listening socket, judged by the peer's credentials (unix(7)).

    users: their ids. group: one whose members may as well; -1: none.
    """

    __slots__ = ("users", "group", "_known")

    def __init__(self, users: set[int], group: int = -1) -> None:
        self.users = users
        self.group = group
        self._known = True

    def in_user_namespace(self, root_is_overflow: bool) -> None:
        """Credentials read as there: the ids of others are all the same one. root_is_overflow: they can be root's only."""
        self._known = False
        if root_is_overflow and 0 in self.users:
            self.users.add(_OVERFLOW_ID)
        if self.group != os.getegid() or self.group == _OVERFLOW_ID:
            self.group = -1

    @property
    def one_user(self) -> bool:
        """Whether all that may connect are one user."""
        return len(self.users) == 1 and self.group < 0

    def refusal(self, sock: socket) -> str:
        """Why the peer of a connected socket may not be served; "" if it may."""
        process, user, group = credentials(sock)
        if user in self.users or (self.group >= 0 and (group == self.group or self.group in _groups(sock))):
            return ""
        if not self._known and user == _OVERFLOW_ID:
            return "refused a user that the server's user namespace does not know: --jail=auto would tell users apart"
        return f"refused {_named(process, user)}: --allow-uid {user} would admit it"

    def __str__(self) -> str:
        users = ", ".join(f"user {user}" for user in sorted(self.users))
        return users if self.group < 0 else f"{users}, members of group {self.group}"


def credentials(sock: socket) -> tuple[int, int, int]:
    """The peer's process (0 where it is outside this process's pid namespace), user and group, of when it connected."""
    process, user, group = _CREDENTIALS.unpack(sock.getsockopt(SOL_SOCKET, SO_PEERCRED, _CREDENTIALS.size))
    return process, user, group


def peer(sock: socket) -> str:
    """Who is at the other end, for a log line."""
    process, user, _ = credentials(sock)
    return _named(process, user)


def _named(process: int, user: int) -> str:
    return f"user {user} (process {process})" if process else f"user {user}"


def _groups(sock: socket) -> tuple[int, ...]:
    """The peer's supplementary groups; none on a kernel that does not tell (before Linux 4.13)."""
    room = (c_char * (_GROUPS_MOST * 4))()  # more than Python's own getsockopt would fetch
    size = c_uint(len(room))
    if libc["getsockopt"](c_int(sock.fileno()), c_int(SOL_SOCKET), c_int(_SO_PEERGROUPS), room, byref(size)) != 0:
        return ()
    return struct.unpack(f"{size.value // 4}I", room.raw[: size.value])


def refuse_fds(sock: socket) -> None:
    """Let the kernel refuse fds that a client sends (SO_PASSRIGHTS, Linux 6.16); what a listening socket accepts inherits it.

    Nobody would read them; but to close them, as the kernel then does, may take as long as their sender likes.
    """
    try:
        sock.setsockopt(SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError:  # an older kernel
        pass


def closes_at_once(sock: socket) -> bool:
    """Whether nothing lies in its queue that would close with it. Nothing more is taken from the client after this."""
    try:
        sock.shutdown(SHUT_RD)
    except OSError:  # the client has gone
        pass
    return not any(ioctl(sock.fileno(), _FIONREAD, b"\0\0\0\0"))


class Closer:
    """Closes sockets where it may take long, on threads that exist only then."""

    def __init__(self) -> None:
        self._waiting: list[socket] = []
        self._threads = 0
        self._lock = _thread.allocate_lock()

    def close(self, sock: socket) -> bool:
        """False where too many are waiting: this one is, too, all the same."""
        with self._lock:
            self._waiting.append(sock)
            if self._threads < _CLOSERS:
                try:
                    _thread.start_new_thread(self._run, ())
                    self._threads += 1
                except RuntimeError:  # no thread to be had: it waits for the next time
                    pass
            return len(self._waiting) <= _UNCLOSED

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                sock = self._waiting.pop()
            try:
                sock.close()
            except OSError:  # it is closed all the same
                pass
