"""`gofer top`: what a server is doing now, in a terminal, as text once, or as JSON."""

from __future__ import annotations

import time

from gofer import Failure
from gofer.commands.options import explaining, seconds
from gofer.output import counted, put, say
from gofer.watch.ask import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    import curses
    from argparse import ArgumentParser
    from typing import Any

    Counters = dict[str, Any]

VIEWS = {"m": "messages", "c": "connections", "p": "paths"}
_SORTS = {"t": "time", "n": "count", "e": "errors", "b": "bytes"}
_KEYS = "m messages  c connections  p paths  t n e b sort by time, number, errors, bytes  space now  q quit"
_CALLS = 5  # under way, that are shown
_SHOWN_FROM = 10_000_000  # ns that a call has been under way


def add(parser: ArgumentParser) -> None:
    parser.description = (
        "Show what a server that was started with --control PATH is doing: rates and times by message, connection or path (paths "
        "where it traces), and the requests that have been under way for longest, with the system call they are in."
    )
    parser.epilog = f"Keys: {_KEYS}."
    parser.add_argument("control", metavar="CONTROL", help="the server's control socket, or its process id")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print it once, as text: totals since the start")
    how.add_argument("--json", action="store_true", help="print all counters once, as a JSON object")
    parser.add_argument(
        "--interval", type=explaining(seconds), default=1.0, metavar="SECONDS", help="between two looks (default: 1)"
    )


def run(options: Any) -> int:
    if options.json:
        put(ask(options.control, b"counters") + b"\n")
    elif options.once:
        now = counters(options.control)
        say("\n\n".join("\n".join(page) for page in pages(now)))
    else:
        _live(options.control, max(0.1, options.interval))
    return 0


def counters(where: str) -> Counters:
    import json

    try:
        found: Counters = json.loads(ask(where, b"counters"))
        found["messages"], found["up_s"]
    except (ValueError, KeyError, TypeError):
        raise Failure(f"{where}: it is no gofer's control socket; give the PATH of its --control") from None
    found["at"] = time.monotonic()
    return found


def pages(now: Counters) -> list[list[str]]:
    """All that can be shown, as totals."""
    views = [view for view in VIEWS.values() if now.get(view)]
    return [head(now), under_way(now), *(rows(now, None, view, "time") for view in views)]


def head(now: Counters) -> list[str]:
    silent = f", {now['silent_workers']} of them silent" if now["silent_workers"] else ""
    up = int(now["up_s"])
    return [
        f"gofer: {now['served']}, up {up // 3600}:{up // 60 % 60:02}:{up % 60:02}, {counted(now['workers'], 'worker')}{silent}, "
        f"{counted(len(now['connections']), 'connection')}, {counted(now['fds'], 'FD')}, {counted(now['channels'], 'channel')}, "
        f"{now['vain_s']:.1f} s looked in vain"
    ]


def under_way(now: Counters) -> list[str]:
    """The requests that hang, as far as one can tell: the oldest first."""
    lines = []
    for call in now["under_way"][:_CALLS]:
        if call["ns"] >= _SHOWN_FROM:
            where = f" in {call['call']}" if "call" in call else ""
            lines.append(f"{call['message']} on client {call['fileno']} [{call['connection']}]: {call['ns'] / 1e9:.1f} s{where}")
    return lines or ["no request has been under way for long"]


def rows(now: Counters, before: Counters | None, view: str, sort: str) -> list[str]:
    """A table: of what has come since `before`, by the second, or of all, in numbers."""
    found = [_Row(name, one, _of(before, view, name)) for name, one in _each(now, view)]
    passed = now["at"] - before["at"] if before else 1.0
    whole = sum(row.ns for row in found) or 1
    found = sorted((row for row in found if row.count), key=lambda row: -getattr(row, "ns" if sort == "time" else sort))
    per = "/s" if before else ""
    lines = [f"{view[:-1]:<30}{'count' + per:>12}{'errors' + per:>11}{'bytes' + per:>14}{'mean us':>10}{'p99 us':>9}{'time':>7}"]
    for row in found:
        numbers = f"{row.count / passed:>12.0f}{row.errors / passed:>11.0f}{row.bytes / passed:>14.0f}"
        lines.append(f"{row.name[:29]:<30}{numbers}{row.ns / row.count / 1000:>10.1f}{row.p99():>9}{row.ns / whole:>7.1%}")
    if view == "paths" and not found:
        lines.append("paths are known where the server traces: --trace-out FILE, or --trace")
    return lines


def _each(now: Counters, view: str) -> list[tuple[str, dict[str, Any]]]:
    if view == "messages":
        return [*now["messages"].items()]
    if view == "paths":
        return [(each["path"], each) for each in now["paths"]]
    return [(f"[{each['number']}] client {each['fileno']}, user {each['uid']}", each) for each in now["connections"]]


def _of(before: Counters | None, view: str, name: str) -> dict[str, Any]:
    return dict(_each(before, view)).get(name, {}) if before else {}


class _Row:
    """What one message, connection or path has come to, less what it had before."""

    def __init__(self, name: str, now: dict[str, Any], before: dict[str, Any]) -> None:
        self.name = name
        self.count, self.errors, self.bytes, self.ns = (
            max(0, now.get(key, 0) - before.get(key, 0)) for key in ("count", "errors", "bytes", "ns")
        )
        took = now.get("log2_ns", [])
        self._took = [one - other for one, other in zip(took, before.get("log2_ns") or [0] * len(took))]

    def p99(self) -> str:
        """An upper bound, a power of two."""
        seen = 0
        for bits, count in enumerate(self._took):
            seen += count
            if seen >= self.count * 0.99:
                return f"<{2**bits / 1000:.0f}"
        return ""


def _live(where: str, interval: float) -> None:
    now = counters(where)  # what is wrong is told before the terminal is taken
    import curses

    curses.wrapper(lambda screen: _loop(screen, where, interval, now))


def _loop(screen: curses.window, where: str, interval: float, now: Counters) -> None:
    import curses

    view, sort, before = "messages", "time", None
    curses.curs_set(0)
    screen.timeout(int(interval * 1000))
    while True:
        _draw(screen, [*head(now), "", *under_way(now), "", *rows(now, before, view, sort)])
        key = screen.getch()
        letter = chr(key) if 0 < key < 128 else ""
        if letter == "q":
            return
        view, sort = VIEWS.get(letter, view), _SORTS.get(letter, sort)
        if letter in (*VIEWS, *_SORTS) or key == curses.KEY_RESIZE:
            continue
        before, now = now, counters(where)


def _draw(screen: curses.window, lines: list[str]) -> None:
    import curses

    screen.erase()
    height, width = screen.getmaxyx()
    for y, line in enumerate(lines[: max(0, height - 1)]):
        screen.addnstr(y, 0, line, max(0, width - 1))
    try:
        screen.addnstr(height - 1, 0, _KEYS, max(0, width - 1), curses.A_REVERSE)
    except curses.error:  # a terminal too small for anything
        pass
    screen.refresh()
