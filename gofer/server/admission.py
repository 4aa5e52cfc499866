"""Who may connect to a listening socket: judged by the credentials that the kernel keeps of the peer, not by what it sends."""

from __future__ import annotations

import os
import struct
from _socket import SO_PEERCRED, SOL_SOCKET, socket

from gofer.cdata import byref, c_char, c_int, c_uint
from gofer.sys import libc

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid
_SO_PEERGROUPS = 59
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
