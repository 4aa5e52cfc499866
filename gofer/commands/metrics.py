"""`gofer metrics`: the counters of a server as Prometheus reads them."""

from __future__ import annotations

from gofer.output import put
from gofer.watch.ask import ask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any


def add(parser: ArgumentParser) -> None:
    parser.description = "Print the counters of a server that was started with --control PATH, in Prometheus' text format."
    parser.add_argument("control", metavar="CONTROL", help="the server's control socket, or its process id")


def run(options: Any) -> int:
    put(ask(options.control, b"metrics"))
    return 0
