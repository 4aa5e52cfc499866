"""What a copy is to do, and where it is; see engine.py."""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

from gofer.copy.names import Exclude

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any



class Options(NamedTuple):
    """recursive, update, delete, exclude, dry_run, verify, resume, sync: as on the command line. trusted: --set-id."""

    recursive: bool = False
    update: bool = False
    delete: bool = False
    exclude: Exclude = Exclude(())
    dry_run: bool = False
    verify: bool = False
    resume: bool = False
    sync: bool = True
    trusted: bool = True


class Place(NamedTuple):
    """A directory on both sides. target: None where it is not there, and would be made.

    fresh: there is nothing in it. path: its names below what is copied, shown: as people see it. root, names: how to get there on
    the target's side.
    """

    source: Any
    target: Any
    fresh: bool
    path: bytes
    shown: bytes
    root: Any
    names: tuple[bytes, ...]


def some(names: Iterator[bytes], most: int) -> tuple[list[bytes], OSError | None]:
    """The next names, and what has ended them early."""
    chunk: list[bytes] = []
    try:
        for name in islice(names, most):
            chunk.append(name)
    except OSError as error:
        return chunk, error
    return chunk, None
