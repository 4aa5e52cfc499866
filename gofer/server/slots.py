"""Who holds the connections: so that neither one process nor one user takes them all from the others.

Theory of operation
-------------------
There are `--max-connections` slots, of all workers together. Where these are eight or more, one process may have three quarters
of them, and so may one user where more than one is permitted to connect; what is left is somebody else's. Each worker writes into
its own rows of a table in memory shared with the others; it is only ever counted in, so a worker that was taken over could refuse
clients with it, or take too many, and no more.

The kernel tells the peer's process by its pid, or by 0 where it is in a pid namespace that ours does not see, as the
host's processes are for a server in its jail. There the peer's pidfd tells them apart (SO_PEERPIDFD, Linux 6.5): it leads to an
inode of its own for each process, from Linux 6.9 on. Where neither is known only the user counts.
"""

from __future__ import annotations

import _thread
import mmap
import os
from _socket import SOL_SOCKET, socket

_SO_PEERPIDFD = 77
_ROW = 2  # words of 64 bits: user, process
_BY_INODE = 1 << 63
_TO_SHARE = 8
_MOST = 1 << 20  # fds that a process can have anywhere


def process_of(sock: socket, pid: int, anonymous: int) -> int:
    """What tells the process that connected `sock` from others; 0: nothing does.

    pid: as SO_PEERCRED has it. anonymous: the device number of anonymous inodes, which tell nothing.
    """
    if pid:
        return pid
    try:
        pidfd = sock.getsockopt(SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:  # an older kernel; or the process has ended
        return 0
    try:
        found = os.fstat(pidfd)
        return 0 if found.st_dev == anonymous else _BY_INODE | found.st_ino
    finally:
        os.close(pidfd)


class Slots:
    """most: connections at once, of all workers; workers: how many these are; it is made before they are forked."""

    def __init__(self, most: int, workers: int = 1) -> None:
        self.most = most = min(most, _MOST)
        self._share = most - most // 4 if most >= _TO_SHARE else most
        self._size = 1 + most * _ROW  # of a worker's part: how many rows are in use, and the rows
        self._table = memoryview(mmap.mmap(-1, workers * self._size * 8)).cast("Q")
        self._workers = workers
        self._start = 0
        self._holders: list[object] = []  # by row
        self._lock = _thread.allocate_lock()

    def belong_to(self, worker: int) -> None:
        """From now on the rows of this worker are the caller's."""
        self._start = worker * self._size

    def busiest(self) -> bool:
        """Whether another worker has fewer connections than this one."""
        counts = [self._table[worker * self._size] for worker in range(self._workers)]
        return min(counts) < self._table[self._start]

    def refusal(self, user: int, process: int, alone: bool) -> str:
        """Why there is no slot for them; "" if there is one. process: of `process_of`. alone: no other user may connect."""
        taken = of_user = of_process = 0
        for worker in range(self._workers):
            start = worker * self._size
            used = min(self._table[start], self.most)
            taken += used
            rows = self._table[start + 1 : start + 1 + used * _ROW].tolist()
            of_user += rows[::2].count(user)
            of_process += rows[1::2].count(process)
        if taken >= self.most:
            return f"{taken} are open already"
        if process and of_process >= self._share:
            return f"its process has {of_process}, one's share"
        if of_user >= self._share and not alone:
            return f"user {user} has {of_user}, one's share"
        return ""

    def take(self, holder: object, user: int = 0, process: int = 0) -> None:
        """holder: what `free` will be asked with. Inherited connections are nobody's, and may be more than `most`."""
        with self._lock:
            at = self._start + 1 + len(self._holders) * _ROW
            if len(self._holders) < self.most:
                self._table[at], self._table[at + 1] = user, process
            self._holders.append(holder)
            self._table[self._start] = len(self._holders)

    def free(self, holder: object) -> None:
        """The last row takes the place of the one that gets free."""
        with self._lock:
            index = self._holders.index(holder)
            last = len(self._holders) - 1
            if index != last:
                here, there = (self._start + 1 + row * _ROW for row in (index, last))
                if last < self.most:
                    self._table[here : here + _ROW] = self._table[there : there + _ROW]
                self._holders[index] = self._holders[last]
            del self._holders[last]
            self._table[self._start] = last
