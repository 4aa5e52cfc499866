"""The cases, a module for each group. A new one is a function here or there, and needs no other line: `gofer conform --list`."""

from __future__ import annotations

from gofer.conform.case import Case, cases_of
from gofer.conform.cases import mount, walk

CASES: list[Case] = [case for module in (mount, walk) for case in cases_of(module)]
