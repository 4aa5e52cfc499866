"""The two ways in which a start fails; both end in exit 128, the JSON line and one line of text."""

from __future__ import annotations


class Fault(Exception):
    """This gofer cannot serve. Its text is one line, names the cause, and is shown as it is."""


class UsageFault(Fault):
    """The command line is wrong. so_far: the Globals read before the fault (a log fd may be among them)."""

    so_far: object = None
