"""Which call a filter refused, told by somebody who could see it: the supervisor.

Theory of operation
-------------------
A process that its filter kills leaves its signal and nothing else. So where the kernel can (Linux 5.7, and nobody else
listens to the process already) the filter's verdict is to ask: the call sleeps in the kernel, and whoever holds the filter's
listener can read who called what (seccomp_unotify(2)). Each process that serves sends its listener to the supervisor as soon
as it has its filter, and keeps none: its holder could also let calls through. The supervisor reads what was refused, and
kills the process that called, and the server. It answers nothing: no refused call is made, and none ever returns.

That is as good as the kernel's own verdict as long as there is a supervisor, and the server ends with it. A call that is
withdrawn before it was read, by a signal to its thread, was not made either; the supervisor kills for it where it still saw
that there was one.
"""

from __future__ import annotations

import os
import struct
from _signal import SIGKILL
from _socket import AF_UNIX, CMSG_SPACE, MSG_CMSG_CLOEXEC, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socketpair
from fcntl import ioctl
from select import POLLIN

from gofer.jail import callnames, seccomp
from gofer.jail.posture import REFUSED
from gofer.sys import MACHINE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from select import poll

_SECCOMP_IOCTL_NOTIF_RECV = 0xC0502100
# struct seccomp_notif: id, pid (of the thread), flags, then struct seccomp_data: nr, arch, instruction pointer, 6 arguments
_NOTIF = struct.Struct("=QIIiIQ6Q")
_INT = struct.Struct("i")


class Witness:
    """Made before the supervisor and the server part; each then says which of them it is, by `watch` or `in_server`.

    refused: what was called, as the end of a sentence about the server; "" as long as nothing was refused.
    """

    def __init__(self) -> None:
        self._hear, self._tell = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self.refused = ""

    @property
    def fds(self) -> tuple[int, int]:
        """What the supervisor must not close."""
        return self._hear.fileno(), self._tell.fileno()

    def in_server(self) -> None:
        self._hear.close()

    def take(self, listener: int) -> None:
        """Called in each process that serves: hand its filter's listener over, and keep none."""
        self._tell.sendmsg([b"."], [(SOL_SOCKET, SCM_RIGHTS, _INT.pack(listener))])
        os.close(listener)

    def dismiss(self) -> None:
        """Called in each process that serves, when it has its filter: nothing more will be told."""
        self._tell.close()

    def watch(self, server: int, watched: poll) -> None:
        """Called in the supervisor: register what has events for `on_event`.

        server: the pid of the first of those that serve, killed where something was refused to any.
        """
        self._tell.close()
        self._names = callnames.names(MACHINE)
        self._server, self._watched = server, watched
        watched.register(self._hear, POLLIN)

    def on_event(self, fd: int, event: int) -> None:
        if fd == self._hear.fileno():
            data, ancillary, _, _ = self._hear.recvmsg(1, CMSG_SPACE(_INT.size), MSG_CMSG_CLOEXEC)
            if data:
                self._watched.register(_INT.unpack(ancillary[0][2])[0], POLLIN)
            else:  # all have sent theirs, or ended
                self._watched.unregister(fd)
                self._hear.close()
        elif event & POLLIN:
            self._refuse(fd)
        else:  # its process has ended
            self._watched.unregister(fd)
            os.close(fd)

    def _refuse(self, listener: int) -> None:
        notif = bytearray(_NOTIF.size)
        try:
            ioctl(listener, _SECCOMP_IOCTL_NOTIF_RECV, notif)
        except OSError:  # withdrawn, see above
            self.refused = self.refused or REFUSED
            _kill(self._server)
        else:
            self.refused = self.refused or self._describe(notif)
            _kill(_NOTIF.unpack(notif)[1])
            _kill(self._server)

    def _describe(self, notif: bytearray) -> str:
        """A client that has taken over the server chooses these numbers, but no text."""
        _, _, _, number, arch, _, *arguments = _NOTIF.unpack(notif)
        if arch == seccomp.AUDIT_ARCH[MACHINE]:
            where, name = MACHINE, self._names.get(number, "unknown")
        else:
            where, name = f"another architecture, {arch:#x}", "unknown"
        given = " ".join(f"{argument:#x}" for argument in arguments)
        return f"{REFUSED}: {name} (number {number} on {where}; arguments {given})"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, SIGKILL)
    except ProcessLookupError:
        pass
