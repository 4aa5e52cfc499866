"""`gofer replay`: read a trace, as lines, as a table, as JSON; or play it again against a server."""

from __future__ import annotations

import time

from gofer import Failure, failure
from gofer.client.address import parse
from gofer.client.reach import reach
from gofer.client.transport import Lost, connected
from gofer.commands.options import explaining, seconds, trace_filter
from gofer.output import put, say
from gofer.watch import lines
from gofer.watch.paths import Paths
from gofer.watch.record import KNOWN, LOST, RPC, START, Broken, read_file
from gofer.watch.summary import Summary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from socket import socket
    from typing import Any, Callable

    from gofer.watch.record import Entry

_AT_ONCE = 500  # lines


def add(parser: ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s [options] FILE [FILTER]\n       %(prog)s [options] --against SERVER FILE [FILTER]\n"
        "       %(prog)s [options] FILE [FILTER] -- COMMAND ..."
    )
    parser.description = "Show a trace that `gofer serve --trace-out FILE` has recorded, or play it again against a server."
    parser.epilog = (
        "FILTER: messages, errors, conn=N, slower=10ms, path=/DIR, with commas, as for `gofer serve --trace`. Played again, "
        "conn=N counts, no more of it, and the exit status is 1 where a reply differs. What is written, removed or renamed in "
        "the trace is so in what the server serves. COMMAND is a server that gets a connected socket for each connection of "
        "the trace, in their order, as fd 3, 4, ..., and a fresh directory in place of the word DIR (or of --OPTION=DIR): "
        "gofer replay FILE -- gofer serve COPY --fd 3."
    )
    parser.set_defaults(command=[])
    parser.add_argument("file", metavar="FILE", help="the trace")
    parser.add_argument("filter", metavar="FILTER", nargs="?", default="", type=explaining(trace_filter), help="which requests")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--summary", action="store_true", help="tables: by message, by connection, hottest files and directories")
    how.add_argument("--against", metavar="SERVER", help="play it again, as fast as it is answered; show each reply that differs")
    parser.add_argument("--json", action="store_true", help="a JSON object for each request, or of the summary")
    parser.add_argument("--timed", action="store_true", help="played again: each request at its time")
    parser.add_argument(
        "--timeout", type=explaining(seconds), default=30.0, metavar="SECONDS",
        help="played again: give up when an answer takes so long; 0: never (default: 30)",
    )  # fmt: skip


def run(options: Any) -> int:
    try:
        with open(options.file, "rb") as file:
            entries = read_file(file.read)
            wanted = lines.Filter(options.filter)
            if options.command:
                return _play_to_command(options, [entry for entry in entries if wanted.wants_all_of(entry.conn)])
            if options.against:
                return _play_to(options, (entry for entry in entries if wanted.wants_all_of(entry.conn)))
            if options.summary:
                _summarize(entries, wanted, options.json)
            else:
                _show(entries, wanted, options.json)
    except OSError as e:
        if e.errno is None:
            raise
        raise failure(f"cannot read {options.file}", e, "give a file that gofer serve --trace-out has written") from None
    except Broken:
        raise Failure(f"{options.file} is no trace; give a file that gofer serve --trace-out has written") from None
    return 0


def _show(entries: Iterator[Entry], wanted: lines.Filter, as_json: bool) -> None:
    import json

    paths, clock, text = Paths(), lines.Clock(), []
    for entry in entries:
        if entry.kind == START:
            clock.start(entry)
        seen = paths.read(entry)
        if seen is not None:
            if wanted.wants(seen):
                text.append(json.dumps(lines.as_json(seen, clock)) if as_json else lines.line(seen, clock))
        elif not as_json and wanted.wants_all_of(entry.conn):
            text.append(lines.other(entry, paths.peers.get(entry.conn), clock))
        if len(text) >= _AT_ONCE:
            _put(text)
    _put(text)


def _put(text: list[str]) -> None:
    put("".join(f"{line}\n" for line in text if line).encode())
    text.clear()


def _summarize(entries: Iterator[Entry], wanted: lines.Filter, as_json: bool) -> None:
    paths, summary = Paths(), Summary()
    for entry in entries:
        seen = paths.read(entry)
        if seen is not None and wanted.wants(seen):
            summary.add(seen)
        if entry.kind == LOST:
            summary.lost += entry.asked
    if as_json:
        import json

        say(json.dumps(summary.object()))
    else:
        say(summary.text())


def _play_to(options: Any, entries: Iterator[Entry]) -> int:
    server = parse(options.against)
    if server.remote:
        raise Failure("--against takes the socket of a server on this machine")
    with reach(server.server, options.timeout):  # or one line that says why not
        pass
    return _play(options, entries, options.against, lambda: connected(server.server, options.timeout))


def _play_to_command(options: Any, entries: list[Entry]) -> int:
    """It gets as many connections as the trace has, all at once."""
    from gofer.conform.target import Started

    if options.against or options.summary:
        raise Failure("--against SERVER, --summary, or -- and a command: one of them")
    connections = len({entry.conn for entry in entries if entry.kind in (RPC, KNOWN)})
    server = Started(options.command, max(1, connections), options.timeout or 2.0)
    try:
        return _play(options, iter(entries), options.command[0], server.connect, server.last_words)
    finally:
        server.end()


def _play(
    options: Any, entries: Iterator[Entry], server: str, connect: Callable[[], socket], why_lost: Callable[[], str] = str
) -> int:
    from gofer.watch.player import Player

    player, clock, begin = Player(connect, options.timeout, options.timed), lines.Clock(), time.monotonic()
    try:
        for seen, why in player.play(entries):
            say(f"{lines.line(seen, clock)}: recorded {why}")
    except Lost as lost:
        raise Failure(f"{server}: {why_lost() or lost}; after {player.played} requests") from None
    took = time.monotonic() - begin
    left = f", {player.skipped} not played" if player.skipped else ""
    say(f"{player.played} requests in {took:.3f} s, {player.differ} answered otherwise{left}")
    return int(bool(player.differ))
