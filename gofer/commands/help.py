"""`gofer help [TOPIC]`: a command's options, or what concerns several commands."""

from __future__ import annotations

from gofer.commands.topics import TOPICS
from gofer.output import put

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any


def add(parser: ArgumentParser) -> None:
    parser.description = "Tell of a command's options, or of what concerns several commands; of what there is, without a TOPIC."
    choices = [*parser.get_default("commands"), *TOPICS]
    parser.add_argument("topic", metavar="TOPIC", nargs="?", choices=choices, help="a command, or one of " + ", ".join(TOPICS))


def run(options: Any) -> int:
    if options.topic in TOPICS:
        put(TOPICS[options.topic][1].encode())
    elif options.topic:
        put(options.parser(options.topic).format_help().encode("utf-8", "backslashreplace"))
    else:
        commands, topics = options.commands.items(), ((name, title) for name, (title, _) in TOPICS.items())
        for heading, entries in (("Commands", commands), ("Topics", topics)):
            put(f"{heading}:\n".encode() + b"".join(f"  {name:12} {what}\n".encode() for name, what in entries))
        put(b"`gofer help TOPIC` tells more.\n")
    return 0
