"""`gofer conform`: ask a LISAFS server, anybody's, what docs/lisafs.md says it must do."""

from __future__ import annotations

import signal
from pathlib import Path

from gofer import Failure, __version__
from gofer.commands.options import explaining, positive_number, seconds
from gofer.output import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.conform.case import Case
    from gofer.conform.target import Listening, Started

_LEVELS, _WAYS = ("wire", "semantics", "safety"), ("socket", "channel")


def add(parser: ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] SOCKET\n       %(prog)s [options] -- COMMAND ..."
    parser.description = (
        "Ask a LISAFS server, anybody's, what the protocol's page (docs/lisafs.md) says it must do. It works in directories "
        "of its own below the root of what is served, and removes them; it attacks the server, so give it one for this alone."
    )
    parser.epilog = (
        "COMMAND gets a connected socket as fd 3 and a fresh directory in place of the word DIR (or of --OPTION=DIR), and is "
        "started again when it ends: gofer conform -- gofer serve DIR --fd 3. "
        "Exit status: 0 the server conforms, 1 it does not, or cannot be asked."
    )
    parser.set_defaults(command=[])
    parser.add_argument("socket", metavar="SOCKET", nargs="?", help="the socket the server listens on; or -- COMMAND ...")
    parser.add_argument(
        "--tree", metavar="PATH", help="with SOCKET: the directory it serves, where that is on this host; more can be asked then"
    )
    parser.add_argument(
        "--connections", type=explaining(positive_number), default=1, metavar="N",
        help="COMMAND gets N connected sockets: fds 3, 4, ... (default: 1)",
    )  # fmt: skip
    parser.add_argument("--level", action="append", choices=_LEVELS, help="only this level; may be repeated (default: all)")
    parser.add_argument("--way", action="append", choices=_WAYS, help="only over this; may be repeated (default: both)")
    parser.add_argument("--dialect", choices=("today", "2021"), default="today", help="what to speak (default: today)")
    parser.add_argument("--only", action="append", metavar="CASE", help="a case, a group, or a pattern like 'walk.*'; repeatable")
    parser.add_argument("--known", metavar="FILE", help="faults that are known, one a line: CASE # REASON; they are no failure")
    parser.add_argument("--list", action="store_true", help="the cases, each with its level and what it needs of a server")
    parser.add_argument("--json", action="store_true", help="one JSON object at the end, instead of TAP")
    parser.add_argument(
        "--timeout", type=explaining(seconds), default=10.0, metavar="SECONDS",
        help="a server that has not answered for so long does not (default: 10)",
    )  # fmt: skip


def run(options: Any) -> int:
    """0: it conforms, 1: it does not."""
    from gofer.conform import report
    from gofer.conform.cases import CASES

    names = report.chosen([case.name for case in CASES], options.only or ["*"])
    cases = [case for case in CASES if case.name in set(names) and case.level in (options.level or _LEVELS)]
    if not cases:
        raise Failure("--level and --only leave no case; --list has all of them")
    if options.list:
        _list(cases)
        return 0
    if not options.timeout:
        raise Failure("--timeout 0: a server that never answers would never be judged; give seconds")
    known = report.read_known(options.known) if options.known else report.Known({})
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whatever ends us, nothing is left behind
    return _judge(_target(options), cases, known, options)


def _judge(target: Listening | Started, cases: list[Case], known: Any, options: Any) -> int:
    from gofer.conform.report import Tally
    from gofer.conform.runner import Runner

    ways = options.way or list(_WAYS)
    with Runner(target, options.dialect, options.timeout) as runner:
        runner.probe()
        planned = sum(way in case.ways and options.dialect in case.dialects for way in ways for case in cases)
        tally = Tally(known, not options.json, planned)
        for result in runner.run(cases, ways, known.has):
            tally.add(result)
        server = options.command or options.socket
        about = {"gofer": __version__, "server": server, "dialect": options.dialect, "features": sorted(runner.features)}
        return 0 if tally.finish(about) else 1


def _target(options: Any) -> Listening | Started:
    from gofer.conform.target import Listening, Started

    if options.command:
        if options.socket or options.tree:
            raise Failure("a SOCKET, with --tree if you like, or -- and a command, not both")
        return Started(options.command, options.connections, options.timeout)
    if not options.socket:
        raise Failure("which server? give the path of its socket, or -- and a command that starts one")
    tree = Path(options.tree).resolve() if options.tree else None
    if tree is not None and not tree.is_dir():
        raise Failure(f"--tree {options.tree}: there is no such directory; give the one that the server serves")
    return Listening(options.socket, tree)


def _list(cases: list[Case]) -> None:
    for case in cases:
        say(f"{case.level:9} {case.name}" + (f"  (needs {', '.join(case.needs)})" if case.needs else ""))
