"""`--reconnect`: the server went away and comes back; the mount goes on with new FDs.

Theory of operation
-------------------
A thread waits for the hang-up. From then on every request is answered with ENOTCONN, without being looked at, until all that
were in the middle of something are done with it: no number of the old connection's FDs is left in any thread, where it would mean
another file on the new one. Then it connects, with growing pauses; the mount process itself may not (its filter), so the guard
does, and passes the socket. What has the root's inode number, device and time of birth is taken for the same tree: nodes
lose their FDs, and are walked to and compared when they are needed, as any that have none. Files that are open are opened
again, where they are still the same; else all that is asked of them is ESTALE.
"""

from __future__ import annotations

import select
import socket
import struct
import time

from gofer import wire
from gofer.client.stream import Stream
from gofer.client.tree import Tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.fuse.crew import Crew
    from gofer.fuse.state import FileSystem

_PAUSE, _LONGEST = 0.1, 5.0  # seconds between two attempts: at first, at most
_LOOK = 1000  # milliseconds after which a connection that was given up otherwise is noticed
_HANG_UP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0x2000)


class Again:
    """path: what of the tree is mounted. guard: the socket by which it is asked."""

    def __init__(self, fs: FileSystem, crew: Crew, path: bytes, guard: socket.socket, log: Callable[[str], None]) -> None:
        self._fs, self._crew, self._path, self._guard, self._log = fs, crew, path, guard, log

    def run(self) -> None:
        """For ever: a thread's business."""
        while True:
            self._wait_for_the_end()
            self._crew.pause()
            self._log("the server went away; trying again")
            pause = _PAUSE
            while not self._attempt():
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST)
            self._crew.resume()
            self._log("the server is back")

    def _wait_for_the_end(self) -> None:
        poll = select.poll()
        poll.register(self._fs.pool.fileno, _HANG_UP)
        while not poll.poll(_LOOK) and not self._fs.pool.lost:
            pass

    def _attempt(self) -> bool:
        sock = self._connected()
        if sock is None:
            return False
        pool = None
        try:
            kind = type(self._fs.pool)
            pool = kind(sock, timeout=self._fs.options.timeout if kind is Stream else _LONGEST)
            node = Tree(pool).resolve(self._path) if self._path else pool.root
            raw = pool.ask(wire.FSTAT, wire.FDID.bytes(node.fd))
            if not self._fs.nodes.is_root(raw):
                raise OSError("another tree")
        except (OSError, struct.error):  # Lost is one
            (pool or sock).close()
            return False
        pool.wait_for_ever()
        old = self._fs.pool
        self._fs.take_up(pool, node.fd)
        old.close()
        return True

    def _connected(self) -> socket.socket | None:
        try:
            self._guard.send(b"c")
            _, ancillary, _, _ = self._guard.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except OSError:  # there is no guard any more
            return None
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS) and len(data) >= 4:
                return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, struct.unpack_from("=i", data)[0])
        return None

