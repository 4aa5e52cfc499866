"""How much a tree holds, for the time that is left: asked before a copy that somebody watches, and not for long."""

from __future__ import annotations

import stat as modes
import time
from itertools import islice

from gofer.copy.names import possible
from gofer.copy.sides import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.copy.sides import Tree

_LONGEST = 2.0  # seconds
_AT_ONCE = 64
_MOST_OPEN = 500  # directories: each is an fd


def measure(tree: Tree, directory: Any, node: Node) -> int | None:
    """Bytes of the regular files below; None where that cannot be told soon."""
    until, total = time.monotonic() + _LONGEST, 0
    try:
        below = [tree.enter(directory, node)]
        while below:
            here = below.pop()
            names = filter(possible, tree.names(here))
            while chunk := list(islice(names, _AT_ONCE)):
                for found in tree.look(here, chunk):
                    if isinstance(found, Node) and modes.S_ISREG(found.stat.mode):
                        total += found.stat.size
                    elif isinstance(found, Node) and modes.S_ISDIR(found.stat.mode):
                        below.append(tree.enter(here, found))
                if time.monotonic() > until or len(below) > _MOST_OPEN:
                    return None
    except OSError:  # the copy will tell
        return None
    return total
