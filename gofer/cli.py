"""The command line: `gofer serve`, `ls`, `cat`, `stat`, `doctor`, `runsc`. What ends a command otherwise than in order
becomes one line and an exit status here.
"""

from __future__ import annotations

import gc
import os
from errno import EAGAIN, ENOMEM

from gofer import Failure, __version__, failure, quoted, signals
from gofer.commands.options import SERVE, given, quick, seconds
from gofer.output import Unread, fill_standard_fds, put, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any, Callable, NoReturn

FAILED = 1
_serves = False  # this process is, or was, a server
_INCOMPLETE = (  # as in __main__.py
    "this Python lacks a part of its standard library, or cannot read it (Debian's python3-minimal is not enough): install all "
    "of it, or run gofer with another"
)


def main(argv: Sequence[str], prog: str = "gofer") -> int:
    """Run one command and return its exit status. argv: without the program's name; prog: how the user called it.

    A server's process ends here: what its threads are in the middle of is cut off, where the interpreter's own end could abort.
    """
    status = _run(list(argv), prog)
    if _serves:
        os._exit(status)
    return status


def _run(argv: list[str], prog: str) -> int:
    global _serves
    gc.disable()  # until there is a server: what a start makes it keeps, and to look through it costs 1 ms
    try:
        fill_standard_fds()  # before anything is opened
        signals.heed_children()
        if argv[:1] == ["serve"]:
            from gofer.commands.serve import serve

            _serves = True
            return serve(quick(argv[1:]) or _thorough(argv, prog), prog)
        if argv[:1] == ["runsc"]:
            from gofer.commands import runsc

            return runsc.main(argv[1:])
        from gofer.runsc.flags import is_gofer_invocation

        if is_gofer_invocation(argv):  # as runsc starts its own: `gofer [runsc's flags] gofer [flags]`
            from gofer.runsc import gofer

            _serves = True
            return gofer.main(argv)
        gc.enable()
        options = _parser(prog).parse_args(argv)
        if options.subcommand == "doctor":
            from gofer.commands import doctor

            return doctor.run(options, main)
        from gofer.commands import look

        return look.run(options)
    except Failure as e:
        return _failed(str(e))
    except KeyboardInterrupt:
        return 130
    except Unread:
        return 141  # as if SIGPIPE had ended it
    except OSError as e:
        where = f": {os.fsdecode(e.filename)}" if isinstance(e.filename, (str, bytes)) else ""
        return _failed(str(failure(f"cannot go on{where}", e)))
    except MemoryError:
        return _failed(str(failure("cannot go on", OSError(ENOMEM, os.strerror(ENOMEM)))))
    except RuntimeError as e:
        if str(e) != "can't start new thread":
            raise
        return _failed(str(failure("cannot start a thread", OSError(EAGAIN, os.strerror(EAGAIN)))))
    except ImportError as e:
        return _failed(f"cannot start: {e}; {_INCOMPLETE}")


def name(argv: Sequence[str], original: Sequence[str]) -> str:
    """How to call this program again from the same shell. original: the interpreter's own arguments, argv at their end."""
    program = argv[0]
    if os.path.isfile(program) and os.access(program, os.X_OK):
        words = [program if "/" in program else f"./{program}"]
    else:  # a checkout, or a copy that is not executable
        words = [*original[: len(original) - len(argv) + 1]]
    return " ".join(map(quoted, words))


def _failed(why: str) -> int:
    tell(f"gofer: {why}")
    return FAILED


def _thorough(argv: list[str], prog: str) -> argparse.Namespace:
    """The options of `serve` by argparse, which ends the process with a usage line where they are wrong."""
    head, command = argv, []
    parser = _parser(prog)
    if "--" in argv:
        at = argv.index("--")
        head, command = argv[:at], argv[at + 1 :]
    options = parser.parse_args(head)
    if len(head) < len(argv) and not command:
        parser.error("-- needs a COMMAND behind it")
    options.command = command
    return options


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _parser_class()(
        prog=prog,
        description="Serve a directory to a sandbox over LISAFS (gVisor's file protocol), and look at what is served.",
        epilog="Exit status: 0 done, 1 failed with one line that says why, 2 wrong usage. "
        "`%(prog)s COMMAND --help` tells more.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"gofer {__version__}")
    commands = parser.add_subparsers(dest="subcommand", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_looks(commands)
    commands.add_parser("runsc", help="run containers on an unmodified runsc, with this program as their gofer")
    _add_doctor(commands)
    return parser


def _parser_class() -> type[argparse.ArgumentParser]:
    import argparse

    class Parser(argparse.ArgumentParser):
        """What is wrong with a command's words is told with that command's usage; output is written as all other is."""

        fd = 1

        def parse_known_args(self, *args: Any, **words: Any) -> Any:
            options, left = super().parse_known_args(*args, **words)
            if left:  # the parser of all commands would tell, with the usage of all
                self.error(f"unrecognized arguments: {' '.join(left)}")
            return options, left

        def error(self, message: str) -> NoReturn:
            self.fd = 2
            super().error(message)

        def _print_message(self, message: str, file: Any = None) -> None:
            if self.fd == 1:
                put(message.encode("utf-8", "backslashreplace"))
            else:
                tell(message.rstrip("\n"))

    return Parser


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a directory or file",
        usage="%(prog)s PATH [options] [-- COMMAND ...]",
        description="Serve PATH, a directory or a regular file, over a Unix socket. With `-- COMMAND`, run COMMAND with "
        "GOFER_SOCKET in its environment, and stop with its exit status when it ends. SIGTERM, SIGINT, SIGQUIT and SIGHUP end "
        "the server cleanly; which of them were ignored when it was started, as by nohup, are ignored.",
        epilog="Examples: `gofer serve /srv/data --read-only`; `gofer serve . -- gofer ls`. Sockets passed by systemd "
        "(LISTEN_FDS) are served as well. Every change by a client is made with the server's own rights.",
        allow_abbrev=False,
    )
    serve.add_argument("path", metavar="PATH", help="what to serve")
    for option, words in SERVE.items():
        serve.add_argument(option, **{**words, "type": _explaining(words["type"])} if "type" in words else words)


def _explaining(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same, for argparse, which passes on the words of one kind of error only."""
    import argparse

    def call(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return call


def _add_looks(commands: Any) -> None:
    for name, what in (
        ("ls", "list a directory"),
        ("cat", "print a file"),
        ("stat", "show a file's attributes"),
    ):
        look = commands.add_parser(
            name,
            help=f"{what}, as a client sees it",
            description=f"{what.capitalize()}, through a server's own protocol.",
            allow_abbrev=False,
        )
        look.add_argument("socket", metavar="SOCKET", nargs="?", help="the server's socket (default: $GOFER_SOCKET)")
        look.add_argument("path", metavar="PATH", nargs="?", default="/", help="inside what is served (default: /)")
        look.add_argument(
            "--timeout",
            type=_explaining(seconds),
            default=30.0,
            metavar="SECONDS",
            help="give up when the server has not answered for so long; 0: never (default: 30)",
        )


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="tell what this host has, and what confines a server here",
        description="Try each layer of the jail and each feature of the kernel that gofer uses, and tell what is missing and "
        "what is lost by that. Exit status 1 where gofer cannot serve.",
        allow_abbrev=False,
    )
    doctor.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="what is to be served: tell what confines a server of it (default: of a new directory)",
    )
    doctor.add_argument("--json", action="store_true", help="print a JSON object")
    doctor.add_argument(
        "--self-test",
        metavar="DIR",
        type=_explaining(given),
        help="also send every message to a server on this directory's file system",
    )
