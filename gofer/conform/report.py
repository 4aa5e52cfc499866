"""What a run comes to: lines of TAP as it goes, or one JSON object, and a verdict for each level.

A file of known faults has a line for each: the case's name (with its way in front where only that one fails), `#`, the reason.
A known fault is no failure, and one that has gone is: the file would come to allow what it does not mean.
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Sequence
from typing import Any

from gofer import Failure
from gofer.conform.case import LEVELS
from gofer.conform.runner import FAILED, PASSED, SKIPPED, Result
from gofer.output import say

KNOWN = "known"


class Known:
    """Faults that a server is known to have: {pattern of a case's name: reason}."""

    def __init__(self, lines: dict[str, str]) -> None:
        self.lines = lines
        self._seen: dict[str, set[str]] = {pattern: set() for pattern in lines}

    def has(self, name: str, way: str) -> bool:
        return self._pattern(name, way) is not None

    def reason(self, result: Result) -> str:
        """Why this result may be a failure; "" where it may not."""
        pattern = self._pattern(result.case.name, result.way)
        if pattern is None:
            return ""
        self._seen[pattern].add(result.outcome)
        return self.lines[pattern]

    def _pattern(self, name: str, way: str) -> str | None:
        for pattern in self.lines:
            if any(fnmatch.fnmatchcase(each, _literal(pattern)) for each in (name, f"{way} {name}")):
                return pattern
        return None

    def gone(self) -> list[str]:
        """Those that were tried, and of which none failed."""
        return [pattern for pattern, outcomes in self._seen.items() if outcomes - {SKIPPED} and FAILED not in outcomes]


def _literal(pattern: str) -> str:
    """`[` is part of a name; `*` and `?` are what they are to a shell."""
    return pattern.replace("[", "[[]")


def read_known(path: str) -> Known:
    lines = {}
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                name, mark, why = line.partition("#")
                if name.strip():
                    if not mark or not why.strip():
                        raise Failure(f"{path}: {name.strip()}: say why it is known, behind a #")
                    lines[name.strip()] = why.strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read {path}: {getattr(error, 'strerror', error)}; name a file of known faults") from None
    return Known(lines)


class Tally:
    """Counts by level and outcome."""

    def __init__(self, known: Known, tap: bool, planned: int) -> None:
        self.known, self.tap, self.planned = known, tap, planned
        self.results: list[tuple[Result, str, str]] = []
        if tap:
            say("TAP version 14")
            say(f"1..{planned}")

    def add(self, result: Result) -> None:
        why = self.known.reason(result)
        outcome = KNOWN if why and result.outcome == FAILED else result.outcome
        self.results.append((result, outcome, why))
        if self.tap:
            _tap(len(self.results), result, outcome, why)

    def finish(self, about: dict[str, Any]) -> bool:
        """Say what it came to. True: nothing failed that is not known to."""
        gone = self.known.gone()
        levels = {level: self._level(level) for level in LEVELS}
        good = not gone and all(counts["fail"] == 0 for counts in levels.values()) and self._asked()
        if self.tap:
            for level, counts in levels.items():
                say(f"# {level}: {_verdict(counts)}")
            for name in gone:
                say(f"# no longer a fault, though the file says so: {name}")
            say(f"# {'conforms' if good else 'does not conform'}")
        else:
            cases = [_row(*row) for row in self.results]
            whole = {**about, "conforms": good, "levels": levels, "no_longer_faults": gone, "cases": cases}
            say(json.dumps(whole, indent=1))
        return good

    def _asked(self) -> bool:
        """Whether anything was: a server of which nothing could be asked conforms to nothing."""
        return any(outcome != SKIPPED for _, outcome, _ in self.results)

    def _level(self, level: str) -> dict[str, int]:
        counts = dict.fromkeys((PASSED, FAILED, KNOWN, SKIPPED), 0)
        for result, outcome, _ in self.results:
            if result.case.level == level:
                counts[outcome] += 1
        return counts


def _verdict(counts: dict[str, int]) -> str:
    asked = counts[PASSED] + counts[FAILED] + counts[KNOWN]
    if not asked:
        return "nothing was asked"
    more = [f"{counts[what]} {words}" for what, words in ((KNOWN, "known faults"), (SKIPPED, "skipped")) if counts[what]]
    return f"{counts[PASSED]} of {asked} passed" + (f", {', '.join(more)}" if more else "")


def _tap(number: int, result: Result, outcome: str, why: str) -> None:
    ok = "not ok" if result.outcome == FAILED else "ok"
    directive = {SKIPPED: f" # SKIP {result.detail}", KNOWN: f" # TODO {why}"}.get(outcome, "")
    say(f"{ok} {number} - {result.name.replace('#', chr(92) + '#')}{directive}")
    if result.outcome == FAILED:
        say("  ---")
        say(f"  level: {result.case.level}")
        say(f"  message: {json.dumps(result.detail)}")
        say("  ...")


def _row(result: Result, outcome: str, why: str) -> dict[str, Any]:
    row = {
        "case": result.case.name,
        "group": result.case.group,
        "level": result.case.level,
        "way": result.way,
        "result": outcome,
        "seconds": round(result.seconds, 4),
    }
    if result.detail:
        row["detail"] = result.detail
    if outcome == KNOWN:
        row["reason"] = why
    return row


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """The names that a pattern matches: the whole name, its group, or as a shell would. Failure where one matches none."""
    found = set()
    for pattern in patterns:
        matching = {name for name in names if pattern in (name, name.partition(".")[0])}
        matching = matching or {name for name in names if fnmatch.fnmatchcase(name, _literal(pattern))}
        if not matching:
            raise Failure(f"--only {pattern}: there is no such case; --list has all of them")
        found |= matching
    return [name for name in names if name in found]
