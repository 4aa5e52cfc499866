"""The cases, a module for each group. A new one is a function in one of them and needs no other line: `gofer conform --list`."""

from __future__ import annotations

from gofer.conform.case import Case, cases_of
from gofer.conform.cases import (
    channel,
    create,
    data,
    directory,
    escapes,
    hostile,
    messages,
    mount,
    names,
    open,
    readonly,
    setstat,
    sockets,
    walk,
    xattr,
)

_GROUPS = (
    mount, messages, channel, walk, open, create, data, directory, names, setstat, xattr, sockets, readonly, escapes, hostile
)  # fmt: skip
CASES: list[Case] = [case for module in _GROUPS for case in cases_of(module)]
