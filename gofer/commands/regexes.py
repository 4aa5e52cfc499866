"""Regular expressions as find(1) has them, of POSIX and of Emacs, for Python's `re`.

All of a path is matched, so that of several alternatives any will do, and which one comes first or is longest means nothing.
"""

from __future__ import annotations

import os
import re

from gofer import Failure
from gofer.commands.patterns import CLASSES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

# Of each type: operators as they are, those that need a backslash, and (but for Emacs) [ in brackets for a class of letters.
_EMACS = "+?", "()|"
_BASIC = "[", "+?()|{}"
_EXTENDED = "[+?()|{}", ""
TYPES = {
    "findutils-default": _EMACS, "emacs": _EMACS, "posix-basic": _BASIC, "posix-minimal-basic": ("[", "(){}"), "ed": _BASIC,
    "sed": _BASIC, "grep": _BASIC, "posix-extended": _EXTENDED, "posix-egrep": _EXTENDED, "egrep": _EXTENDED,
    "gnu-awk": _EXTENDED, "posix-awk": _EXTENDED,
}  # fmt: skip
# What GNU adds to all of them.
_GNU = {
    "w": r"\w", "W": r"\W", "s": r"\s", "S": r"\S", "b": r"\b", "B": r"\B", "<": r"\b(?=\w)", ">": r"\b(?<=\w)",
    "`": r"\A", "'": r"\Z",
}  # fmt: skip


def matcher(pattern: str, kind: str, any_case: bool) -> Callable[[bytes], bool]:
    """Whether all of a path matches it."""
    try:
        compiled = re.compile(_translated(pattern, *TYPES[kind]), re.DOTALL | (re.IGNORECASE if any_case else 0))
    except (re.error, OverflowError) as error:
        raise Failure(f"find: -regex {pattern}: {error}; it is read as {kind}: -regextype before it says otherwise") from None
    whole, decode = compiled.fullmatch, os.fsdecode
    return lambda name: whole(decode(name)) is not None


def _translated(pattern: str, bare: str, escaped: str) -> str:
    out: list[str] = []
    at = 0
    begins = True  # here `*` is a star, and `^` an anchor
    while at < len(pattern):
        c = pattern[at]
        at += 1
        operator = c if c in bare and c != "[" else ""
        if c == "[":
            inside, at = _bracket(pattern, at, "[" in bare)
            out.append(inside)
        elif c == "\\" and at < len(pattern):
            c = pattern[at]
            at += 1
            if c in escaped:
                operator = c
            else:
                out.append(_GNU.get(c) or (f"(?:\\{c})" if c in "123456789" else re.escape(c)))
        elif c == ".":
            out.append(".")
        elif c == "*":
            out.append(r"\*" if begins else "*")
        elif c == "^" and begins:
            out.append("^")
            continue
        elif c == "$" and _ends(pattern[at:], bare, escaped):
            out.append("$")
        elif not operator:
            out.append(re.escape(c))
        if operator:
            out.append(re.escape(operator) if begins and operator in "+?{" else operator)
        begins = operator in ("(", "|")
    return "".join(out)


def _ends(rest: str, bare: str, escaped: str) -> bool:
    """Whether a `$` before this is an anchor."""
    return not rest or any(
        rest.startswith(c) if c in bare else c in escaped and rest.startswith("\\" + c) for c in ")|"
    )


def _bracket(pattern: str, at: int, has_classes: bool) -> tuple[str, int]:
    """[...], from behind its beginning: its translation, and where it ends. A backslash is itself in there."""
    start = at
    negated = pattern.startswith("^", at)
    at += negated
    first, parts, classes = at, [], []
    while at < len(pattern) and (at == first or pattern[at] != "]"):
        if has_classes and pattern.startswith("[:", at) and (end := pattern.find(":]", at)) > 0:
            letters = CLASSES.get(pattern[at + 2 : end], "")
            classes.append(f"[{letters}]") if letters else None
            at = end + 2
            continue
        low = pattern[at]
        at += 1
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in ("", "]"):
            parts.append(f"{re.escape(low)}-{re.escape(pattern[at + 1])}")
            at += 2
        else:
            parts.append(re.escape(low))
    if at >= len(pattern):
        raise re.error("a [ without its ]", pattern, start)
    either = "|".join(classes + ([f"[{''.join(parts)}]"] if parts else []))
    if not either:
        return ("." if negated else "(?!)"), at + 1
    return (f"(?:(?!{either}).)" if negated else f"(?:{either})"), at + 1
