"""Signals: what this process inherited, what it makes of that, and what it hands on.

A program that was started with a signal ignored is to leave it so: that is how nohup(1) works, and how a shell without job
control keeps Ctrl-C from what runs in the background. So of `STOPPING` only `heeded()` stop a server. SIGCHLD is no such wish:
were it ignored the kernel would keep no exit status of our children (wait(2), NOTES). And a server ignores SIGTTOU: it is in a
process group of its own, for which a terminal with `stty tostop` would stop it at its first line, or let the first process of a
pid namespace, which cannot be stopped, try again for ever.

A mask that was inherited keeps nobody from stopping a server, and a child's end from being noticed: `unblocked`.

Whoever is about to become another program calls `hand_on`: what we have changed for ourselves is not for others.
"""

from __future__ import annotations

from _signal import (
    SIG_DFL,
    SIG_IGN,
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGQUIT,
    SIGTERM,
    SIGTTOU,
    SIGUSR1,
    getsignal,
    signal,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

STOPPING = (SIGHUP, SIGINT, SIGQUIT, SIGTERM)  # what a person types, or sends, to have a program end in order

STOP = SIGUSR1  # as good as one of these, between a supervisor and its server: not for others, and so not theirs to ignore

_before: dict[int, Any] = {}  # what we have changed, as it was


def heed_children() -> None:
    """To be called before the first fork of whatever command."""
    if getsignal(SIGCHLD) == SIG_IGN:
        _change(SIGCHLD, SIG_DFL)


def write_from_the_background() -> None:
    """No terminal stops this process, or one forked from it, for writing to it."""
    ignore(SIGTTOU)


def ignore(*numbers: int) -> None:
    for number in numbers:
        _change(number, SIG_IGN)


def heeded() -> tuple[int, ...]:
    """Those of STOPPING that were not ignored when this process was started, or ours was that forked it."""
    return tuple([number for number in STOPPING if getsignal(number) != SIG_IGN])


def unblocked(inherited: set[int]) -> set[int]:
    """A signal mask for serving, made from the one that was inherited."""
    return inherited - {*STOPPING, STOP, SIGCHLD}


def hand_on() -> None:
    """Called in a process that is about to exec."""
    for number, handler in _before.items():
        signal(number, handler)


def _change(number: int, handler: int) -> None:
    _before.setdefault(number, getsignal(number))
    signal(number, handler)
