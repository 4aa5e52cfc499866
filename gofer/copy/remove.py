"""A name and all below it, taken away; no link is followed."""

from __future__ import annotations

import stat as modes
from itertools import islice

from gofer.copy.names import possible
from gofer.copy.sides import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from gofer.copy.sides import Tree

_AT_ONCE = 64


def remove(tree: Tree, directory: Any, node: Node) -> None:
    """The first thing that fails is raised, when nothing more can be done."""
    stack = [_steps(tree, directory, node)]
    while stack:
        below = next(stack[-1], None)
        if below:
            stack.append(_steps(tree, *below))
        else:
            stack.pop()


def _steps(tree: Tree, directory: Any, node: Node) -> Iterator[tuple[Any, Node]]:
    """What is a directory in it comes out, to be removed before the next step."""
    is_directory = modes.S_ISDIR(node.stat.mode)
    if is_directory:
        inside = tree.enter(directory, node)
        names = list(islice(filter(possible, tree.names(inside)), _AT_ONCE))
        while names:  # from the start each time, as what was there is gone
            for found in tree.look(inside, names):
                if isinstance(found, OSError):
                    raise found
                if found:
                    yield inside, found
            names = list(islice(filter(possible, tree.names(inside)), _AT_ONCE))
    tree.remove(directory, node.name, is_directory)
