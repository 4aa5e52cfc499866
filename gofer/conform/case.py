"""What a case is: a function with a sentence for its name, the level it belongs to, what it needs, and the checks it is made of.

    @semantics(needs="owners", each=(0, 0o777, 0o4755))
    def the_mode_is_what_was_asked_for(t: Stand, mode: int) -> None:

`each` makes a case of its own of every value, told apart by `[label]`; a dict names the labels, a sequence is its own. A case
passes when it returns. Anything else it raises is its failure, `Skipped` apart.
"""

from __future__ import annotations

import contextlib
import enum
import errno
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from gofer.conform.codec import Unexpected, expect

if TYPE_CHECKING:
    from gofer.conform.stand import Stand

__all__ = ["Case", "Skipped", "cases_of", "expect", "fails", "may_fail", "refuses", "safety", "same", "semantics", "wire"]

LEVELS = ("wire", "semantics", "safety")
WAYS = ("socket", "channel")
DIALECTS = ("today", "2021")
_MOST = 120  # characters of a value in a message


class Skipped(Exception):
    """What this server, or who runs the suite, does not have; the text tells what."""


class Case(NamedTuple):
    """One of the suite. group: the module's name. needs: features (stand.py). fresh: it takes a connection of its own."""

    name: str
    level: str
    needs: tuple[str, ...]
    ways: tuple[str, ...]
    dialects: tuple[str, ...]
    fresh: bool
    run: Callable[[Stand], None]

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]


class _Mark(NamedTuple):
    level: str
    needs: str
    ways: tuple[str, ...]
    dialects: tuple[str, ...]
    fresh: bool
    each: Any


def _level(name: str) -> Callable[..., Callable[[Any], Any]]:
    def mark(
        needs: str = "",
        ways: tuple[str, ...] = WAYS,
        dialects: tuple[str, ...] = DIALECTS,
        fresh: bool = False,
        each: Mapping[str, Any] | Iterable[Any] | None = None,
    ) -> Callable[[Any], Any]:
        def keep(function: Any) -> Any:
            function.mark = _Mark(name, needs, ways, dialects, fresh, each)
            return function

        return keep

    return mark


wire, semantics, safety = map(_level, LEVELS)


def cases_of(module: ModuleType) -> list[Case]:
    """Those of a module, in its order."""
    group = module.__name__.rpartition(".")[2]
    found = []
    for name, function in vars(module).items():
        mark = getattr(function, "mark", None)
        if isinstance(mark, _Mark):
            for label, run in _each(function, mark.each):
                needs = tuple(mark.needs.split())
                found.append(Case(f"{group}.{name}{label}", mark.level, needs, mark.ways, mark.dialects, mark.fresh, run))
    return found


def _each(function: Any, each: Any) -> Iterator[tuple[str, Callable[[Stand], None]]]:
    if each is None:
        yield "", function
        return
    values = each.items() if isinstance(each, Mapping) else [(_label(value), value) for value in each]
    for label, value in values:
        yield f"[{label}]", _with(function, value)


def _label(value: Any) -> str:
    return value.name if isinstance(value, enum.Enum) else str(value)


def _with(function: Any, value: Any) -> Callable[[Stand], None]:
    arguments = value if isinstance(value, tuple) else (value,)
    return lambda stand: function(stand, *arguments)


# Checks. `expect(condition, text)` is the codec's.


def same(got: object, wanted: object, what: str = "") -> None:
    if got != wanted:
        raise Unexpected(f"{what + ': ' if what else ''}{_cut(got)}, where {_cut(wanted)} was to come")


@contextlib.contextmanager
def fails(*numbers: int, of: object = None) -> Iterator[None]:
    """The body is answered with one of these errnos. of: the value that is tried, for the message."""
    wanted = " or ".join(map(_name, numbers)) + ("" if of is None else f" of {_cut(of)}")
    try:
        yield
    except OSError as error:
        if error.errno is None:  # no answer at all
            raise
        expect(error.errno in numbers, f"{_name(error.errno)}, where {wanted} was to come")
    else:
        raise Unexpected(f"success, where {wanted} was to come")


@contextlib.contextmanager
def may_fail(*numbers: int) -> Iterator[None]:
    """The body succeeds, or is answered with one of these errnos."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        wanted = " or ".join(map(_name, numbers))
        expect(error.errno in numbers, f"{_name(error.errno)}, where success or {wanted} was to come")


@contextlib.contextmanager
def refuses() -> Iterator[None]:
    """The body is answered with an errno, whichever."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        expect(error.errno != errno.EREMOTEIO, "EREMOTEIO: a fault inside the server")
    else:
        raise Unexpected("success, where an error was to come")


def _name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST else f"{text[:_MOST]}..."
