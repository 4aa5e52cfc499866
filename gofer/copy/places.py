"""What a copy is to do, and where it is; see engine.py."""

from __future__ import annotations

from collections import namedtuple
from itertools import islice

from gofer.copy.names import Exclude

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any



class Options(namedtuple(
    "Options", "recursive update delete exclude dry_run verify resume sync trusted",
    defaults=(False, False, False, Exclude(()), False, False, False, True, True),
)):  # fmt: skip
    """recursive, update, delete, exclude, dry_run, verify, resume, sync: as on the command line. trusted: --set-id."""

    __slots__ = ()
    recursive: bool
    update: bool
    delete: bool
    exclude: Exclude
    dry_run: bool
    verify: bool
    resume: bool
    sync: bool
    trusted: bool


class Place(namedtuple("Place", "source target fresh path shown root names")):
    """A directory on both sides. target: None where it is not there, and would be made.

    fresh: there is nothing in it. path: its names below what is copied, shown: as people see it. root, names: how to get there on
    the target's side.
    """

    __slots__ = ()
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
