"""What is known of a file: where it was last seen, what was seen there, and what is open of it. nodes.py has them all."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.fresh import Made
    from gofer.fuse.kept import Reading

    Held = list["Node"]


class Node:
    """known: how often the kernel was told of it and has not forgotten. fd: its control FD; 0: none is held. use: see Use.

    passed: written past the kernel's page cache since that was last used. reading: of a directory that the kernel has listed, see
    kept.py.
    """

    __slots__ = ("id", "parent", "name", "ino", "born", "mode", "known", "fd", "pins", "touched", "use", "passed", "reading")

    def __init__(self, number: int, parent: Node | None, name: bytes, ino: int, born: int, mode: int) -> None:
        self.id = number
        self.parent = parent
        self.name = name
        self.ino = ino  # for the kernel: with the device in it, where that is not the root's
        self.born = born
        self.mode = mode
        self.known = self.fd = self.pins = 0
        self.touched = True
        self.passed = False
        self.use: Use | None = None
        self.reading: Reading | None = None


class Use:
    """Of a node that is open: how often; the id of what the kernel reads and writes in our place, 0: nothing; what that is.

    host: a donated fd of one of those that have it open, -1: none. made: see fresh.py; readings: of a directory, see kept.py.
    """

    __slots__ = ("opens", "cached", "passing", "backing", "file", "host", "made", "readings")

    def __init__(self) -> None:
        self.opens = self.cached = self.passing = self.backing = 0
        self.file = (0, 0)
        self.made: Made | None = None
        self.readings: list[Reading] = []
        self.host = -1
