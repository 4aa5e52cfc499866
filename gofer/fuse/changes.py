"""What was done in this mount, and when: what the server told before that may not be so any more.

A change is one of an inode, by the number that the kernel knows it by; what is done to the names in a directory is one of that
directory. Where it is not known which inodes it concerns (a name that goes may be one of several), it is one of anything. What
was asked for before a change was over is from before it, for all that is known.
"""

from __future__ import annotations

from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.node import Node

_MOST = 1000  # inodes; nothing that was read is good for long


class Changes:
    """latest: when there was one, of whatever."""

    def __init__(self) -> None:
        self.latest = self.of_anything = 0.0
        self._of: dict[int, float] = {}

    def anything(self) -> None:
        self.latest = self.of_anything = monotonic()

    def of(self, node: Node) -> None:
        if len(self._of) >= _MOST:
            self.anything()
            self._of.clear()
        self.latest = self._of[node.ino] = monotonic()

    def last(self, ino: int) -> float:
        """When that inode, or anything, was changed."""
        return max(self._of.get(ino, 0.0), self.of_anything)
