"""A name and all below it, taken away, but for what is excluded; no link is followed."""

from __future__ import annotations

import stat as modes
from itertools import islice

from gofer.copy.names import possible
from gofer.copy.sides import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable

    from gofer.copy.sides import Tree

    Steps = Iterator[tuple[Any, Node, bytes]]

_AT_ONCE = 64


def remove(tree: Tree, directory: Any, node: Node, path: bytes, exclude: Callable[[bytes], bool]) -> bool:
    """Whether all is gone. path: of the node, as exclude has it. What fails first is raised, and nothing more is done."""
    removal = _Removal(tree, exclude)
    stack = [removal.steps(directory, node, path)]
    while stack:
        below = next(stack[-1], None)
        if below:
            stack.append(removal.steps(*below))
        else:
            stack.pop()
    return not removal.stayed


class _Removal:
    def __init__(self, tree: Tree, exclude: Callable[[bytes], bool]) -> None:
        self._tree, self._exclude = tree, exclude
        self.stayed = 0  # names

    def steps(self, directory: Any, node: Node, path: bytes) -> Steps:
        """What is a directory in it comes out, to be removed before the next step."""
        before, is_directory = self.stayed, modes.S_ISDIR(node.stat.mode)
        if is_directory:
            inside = self._tree.enter(directory, node)
            stay: set[bytes] = set()
            while names := self._some(inside, path, stay):  # from the start each time, as what was there is gone
                for found in self._tree.look(inside, names):
                    if isinstance(found, OSError):
                        raise found
                    if found:
                        count = self.stayed
                        yield inside, found, path + b"/" + found.name
                        if self.stayed > count:
                            stay.add(found.name)
        if self.stayed == before:
            self._tree.remove(directory, node.name, is_directory)

    def _some(self, inside: Any, path: bytes, stay: set[bytes]) -> list[bytes]:
        def chosen(name: bytes) -> bool:
            if name in stay or not possible(name):
                return False
            if self._exclude(path + b"/" + name):
                stay.add(name)
                self.stayed += 1
                return False
            return True

        return list(islice(filter(chosen, self._tree.names(inside)), _AT_ONCE))
