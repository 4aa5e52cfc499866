"""Shell patterns, as fnmatch(3) reads them: `*`, `?`, `[...]`, a backslash. A dot at the beginning and a slash are as any other.

Names are compared as text where they are UTF-8; what is not stands for itself, a byte for a character.
"""

from __future__ import annotations

import os
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

CLASSES = {
    "alnum": r"^\W_", "alpha": r"^\W\d_", "digit": "0-9", "lower": "a-z", "upper": "A-Z", "space": r"\s", "blank": r" \t",
    "punct": r"!-/:-@\[-`{-~", "xdigit": "0-9A-Fa-f", "cntrl": r"\x00-\x1f\x7f", "print": r"^\x00-\x1f\x7f", "graph": r"!-~",
}  # fmt: skip


def matcher(pattern: str, any_case: bool = False) -> Callable[[bytes], bool]:
    """Whether a name matches all of the pattern."""
    compiled = re.compile(_regex(pattern), re.DOTALL | (re.IGNORECASE if any_case else 0))
    whole, decode = compiled.fullmatch, os.fsdecode
    return lambda name: whole(decode(name)) is not None


def _regex(pattern: str) -> str:
    out, at = [], 0
    while at < len(pattern):
        c = pattern[at]
        at += 1
        if c == "*":
            out.append(".*")
        elif c == "?":
            out.append(".")
        elif c == "\\" and at < len(pattern):
            out.append(re.escape(pattern[at]))
            at += 1
        elif c == "[":
            inside, end = _set(pattern, at)
            out.append(inside)
            at = end
        else:
            out.append(re.escape(c))
    return "".join(out)


def _set(pattern: str, at: int) -> tuple[str, int]:
    """The regular expression of `[...]`, and where it ends. Without an end it is a `[` like any letter."""
    start = at
    parts: list[str] = []
    unlike: list[str] = []
    negated = pattern[at : at + 1] in ("!", "^")
    at += negated
    first = True
    while at < len(pattern) and (first or pattern[at] != "]"):
        first = False
        if pattern.startswith("[:", at) and ":]" in pattern[at:]:
            name = pattern[at + 2 : pattern.index(":]", at)]
            at += len(name) + 4
            letters = CLASSES.get(name, "")
            (unlike if letters.startswith("^") else parts).append(letters)
            continue
        if pattern[at] == "\\" and at + 1 < len(pattern):
            at += 1
        low = pattern[at]
        at += 1
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("", "]"):
            high = pattern[at + 1]
            at += 2
            if low <= high:
                parts.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            parts.append(re.escape(low))
    if at >= len(pattern):
        return r"\[", start
    choices = [f"[{letters}]" for letters in unlike] + ([f"[{''.join(parts)}]"] if any(parts) else [])
    if not choices:
        return ("." if negated else "(?!)"), at + 1
    either = "|".join(choices)
    return (f"(?!{either})." if negated else f"(?:{either})"), at + 1
