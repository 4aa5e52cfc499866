"""`gofer runsc`: all of its command line. What containers are started by takes a shorter way (runsc/redirect.py, `launch`)."""

from __future__ import annotations

from gofer.output import put
from gofer.runsc import redirect
from gofer.runsc.redirect import FAILED, complain, find_runsc, find_target
from gofer.runsc.tracer import Refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser

USAGE_TEXT = """\
usage: gofer runsc [--runsc PATH] [--gofer FILE] [--trace-dir DIR] -- ARGS...
       gofer runsc --check [--runsc PATH] [--gofer FILE] [-- RUNSC-FLAGS]
       gofer runsc install|uninstall docker|podman|containerd [options] [-- RUNSC-FLAGS]

Runs an unmodified runsc with ARGS, with this program as the gofer of the containers it starts.

  --runsc PATH   the runsc to run (default: the first one in $PATH)
  --gofer FILE   the gofer to use (default: this very file); an executable that takes runsc's arguments
  --trace-dir DIR
                 record what each container asks of its gofer in DIR/CONTAINER.trace (gofer replay), and tell what it is doing
                 at DIR/CONTAINER.control (gofer top)
  --check        say whether this host can do it, by trying, also with containers; exit status 0 or 1
  -h, --help     this text

A container engine needs one program for its runtime, which `gofer runsc install ENGINE` sets up (--help tells more; --dry-run
shows it): a script with the two lines
  #!/bin/sh
  exec /usr/local/bin/gofer runsc --runsc /usr/local/bin/runsc -- "$@"
"""


def add(parser: ArgumentParser) -> None:
    """For whoever reads parsers, as completions and manual pages do: what is typed is read by redirect.parse."""
    usage, _, text = USAGE_TEXT.partition("\n\n")
    parser.usage = usage.replace("usage: ", "")
    parser.description = text.partition("\n\n")[0]
    parser.add_argument("action", nargs="?", choices=("install", "uninstall"), help="make it a runtime of ENGINE, or undo that")
    parser.add_argument("--runsc", metavar="PATH", help="the runsc to run (default: the first one in $PATH)")
    parser.add_argument(
        "--gofer", metavar="FILE", help="the gofer to use (default: this very file); an executable that takes runsc's arguments"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="say whether this host can do it, by trying, also with containers; exit status 0 or 1",
    )


def main(args: list[str]) -> int:
    """args: the words after `gofer runsc`. Does not return where runsc is run; else the exit status."""
    if args[:1] in redirect.ENGINES:
        from gofer.runsc import install

        try:
            return install.main(args)
        except (Refusal, OSError) as why:
            return complain(f"{why}", FAILED)
    try:
        options, rest = redirect.parse(args)
    except ValueError as error:
        return complain(f"{error}\n{USAGE_TEXT.partition(chr(10) * 2)[0]}", redirect.USAGE)
    if "help" in options:
        put(USAGE_TEXT.encode())
        return 0
    if "check" not in options:
        return redirect.run(options, rest)
    from gofer.runsc.check import check

    try:
        return check(find_runsc(options.get("runsc", "runsc")), find_target(options.get("gofer", "")), rest)
    except (Refusal, OSError) as why:
        return complain(f"{why}", FAILED)
