"""The command line: which command it is, and what becomes of one that ends otherwise than in order: one line, an exit status.

A command's options are its own: `add` of its module in gofer/commands/ declares them, `run` does what they say.
"""

from __future__ import annotations

import gc
import os
from errno import EAGAIN, ENOMEM

from gofer import Failure, __version__, failure, quoted, signals
from gofer.commands.options import quick, said_elsewhere, spelled_out
from gofer.output import Unread, fill_standard_fds, put, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn

FAILED = 1
# In the order of `gofer --help`: the module of gofer/commands/ that does it, and what it does.
COMMANDS = {
    "serve": ("serve", "serve a directory or file"),
    "runsc": ("runsc", "run containers on an unmodified runsc, with this program as their gofer"),
    "doctor": ("doctor", "tell what this host has, and what confines a server here"),
    "ls": ("ls", "list directories of a served tree"),
    "stat": ("stat", "show the attributes of files"),
    "tree": ("tree", "draw what is below directories"),
    "cat": ("cat", "print files"),
    "head": ("head", "print the first lines of files"),
    "tail": ("tail", "print the last lines of files, and what is added to them"),
    "find": ("find", "find what matches an expression"),
    "du": ("du", "sum up the room that files take"),
    "df": ("df", "show the room on the file systems that are served"),
    "sum": ("sum", "print or check the SHA-256 of files and trees"),
    "diff": ("diff", "tell what differs between a served tree and another"),
    "readlink": ("links", "print where symbolic links lead"),
    "realpath": ("links", "print paths without symbolic links"),
    "rm": ("rm", "remove files and directories"),
    "rmdir": ("rm", "remove empty directories"),
    "mkdir": ("make", "make directories"),
    "mv": ("mv", "rename or move files"),
    "cp": ("cp", "copy files from one place of a served tree to another"),
    "ln": ("make", "make links"),
    "chmod": ("modes", "change permissions"),
    "chown": ("modes", "change owners and groups"),
    "touch": ("make", "make files, set their times"),
    "truncate": ("make", "set the size of files"),
    "xattr": ("xattr", "show and change extended attributes"),
    "sync": ("make", "have files written to their disk"),
    "edit": ("edit", "edit a file here, and put it back"),
    "get": ("copy", "copy files and directories of a server here"),
    "put": ("copy", "copy files and directories to a server"),
    "tar": ("tar", "make a tar stream of a served tree, or write one into it"),
    "mount": ("mount", "mount what a server serves on a directory"),
    "umount": ("mount", "unmount it again"),
    "shell": ("shell", "all of these with a current directory"),
    "replay": ("replay", "show what `serve --trace-out` has recorded, or play it again against a server"),
    "top": ("top", "show what a server is doing now"),
    "metrics": ("metrics", "print a server's counters, as Prometheus reads them"),
    "conform": ("conform", "ask a server, anybody's, whether it does what the protocol says"),
    "help": ("help", "tell of a command, or of what concerns several"),
    "completions": ("completions", "print what a shell reads to complete these commands"),
}
_HEADINGS = {  # of the command, and those behind it
    "serve": "Serve, on this host",
    "ls": "Look at what is served",
    "rm": "Change it",
    "get": "Copy it, mount it, work in it",
    "replay": "See what goes on, and ask a server what it can",
    "help": "Help",
}
_INCOMPLETE = (  # as in __main__.py
    "this Python lacks a part of its standard library, or cannot read it (Debian's python3-minimal is not enough): install all "
    "of it, or run gofer with another"
)


def main(argv: Sequence[str], prog: str = "gofer") -> NoReturn:
    """Run one command, and end the process with its exit status. argv: without the program's name; prog: how the user called it.

    The interpreter's own end is left out: it takes 7 ms, and could abort where a server's threads are in the middle of something.
    What a command has to leave behind it has written, and what it has to remove is gone.
    """
    os._exit(_run(list(argv), prog))


def _run(argv: list[str], prog: str) -> int:
    gc.disable()  # until there is a server: what a start makes it keeps, and to look through it costs 1 ms
    try:
        fill_standard_fds()  # before anything is opened
        signals.heed_children()
        if argv[:1] == ["serve"]:
            return _serve(argv, prog)
        if argv[:1] == ["runsc"]:
            from gofer.commands import runsc

            return runsc.main(argv[1:])
        from gofer.runsc.flags import is_gofer_invocation

        if is_gofer_invocation(argv):  # as runsc starts its own: `gofer [runsc's flags] gofer [flags]`
            from gofer.runsc import gofer

            return gofer.main(argv)
        if argv[:1] and argv[0] in COMMANDS:
            run, options = _module(argv[0]).run, _options(argv[0], argv[1:], prog)
            gc.freeze()
            gc.enable()
            return int(run(options))
        gc.enable()
        _all(prog).parse_args(argv)  # --help, --version, or what is wrong
        return FAILED
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


def _serve(argv: list[str], prog: str) -> int:
    options = quick(argv[1:]) or _thorough(argv, prog)
    if said_elsewhere(options):
        from gofer.commands import config

        config.complete(options, argv[1:])
        if options.print_config:
            config.show(options)
            return 0
    if options.path is None:
        options.path = "."
    from gofer.commands import serve

    return serve.run(options, prog)


def _failed(why: str) -> int:
    tell(f"gofer: {why}")
    return FAILED


def parser(command: str, prog: str = "gofer") -> argparse.ArgumentParser:
    """That of one of COMMANDS. Its options have what tells of other commands: `commands`, what each does, and this function."""
    from argparse import HelpFormatter

    made = _parser_class()(
        prog=f"{prog} {command}",
        formatter_class=_formatter(HelpFormatter),
        allow_abbrev=False,
        conflict_handler="resolve",  # -h: of ls, du
    )
    made.set_defaults(subcommand=command, commands={name: what for name, (_, what) in COMMANDS.items()}, parser=parser, do=_run)
    _module(command).add(made)
    return made


def _options(command: str, words: list[str], prog: str) -> argparse.Namespace:
    """Where the parser has a default for `command`, that is what stands behind `--`, word for word."""
    made = parser(command, prog)
    readable = getattr(_module(command), "words", None)
    words = readable(words, made) if readable else words
    behind = None
    if "--" in words and made.get_default("command") is not None:
        at = words.index("--")
        words, behind = words[:at], words[at + 1 :]
    options = made.parse_intermixed_args(words)
    if behind is not None:
        options.command = behind
        if not behind:
            made.error("-- needs a COMMAND behind it")
    return options


def _module(command: str) -> Any:
    from importlib import import_module

    return import_module(f"gofer.commands.{COMMANDS[command][0]}")


def _thorough(argv: list[str], prog: str) -> argparse.Namespace:
    """The options of `serve` by argparse, which ends the process with a usage line where they are wrong."""
    head, command = argv[1:], []
    if "--" in head:
        at = head.index("--")
        head, command = head[:at], head[at + 1 :]
    made = parser("serve", prog)
    options = made.parse_args(spelled_out(head))
    if len(head) < len(argv) - 1 and not command:
        made.error("-- needs a COMMAND behind it")
    options.command = command
    return options


def _all(prog: str) -> argparse.ArgumentParser:
    """The commands without their options."""
    from argparse import SUPPRESS, RawDescriptionHelpFormatter

    made = _parser_class()(
        prog=prog,
        usage="%(prog)s COMMAND [ARGUMENT ...]",
        description="Serve a directory to a sandbox over LISAFS (gVisor's file protocol), and use what is served.\n" + _listed(),
        epilog="Exit status: 0 done, 1 failed with one line that says why, 2 wrong usage.\n"
        "`%(prog)s COMMAND --help` tells more of a command, `%(prog)s help` of topics.",
        formatter_class=_formatter(RawDescriptionHelpFormatter),
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"gofer {__version__}", help="tell the version")
    made.add_argument("command", metavar="COMMAND", type=_known, help=SUPPRESS)
    return made


def _listed() -> str:
    """The commands below their headings."""
    lines = []
    for command, (_, what) in COMMANDS.items():
        if command in _HEADINGS:
            lines.append(f"\n{_HEADINGS[command]}:")
        lines.append(f"  {command:12} {what}")
    return "\n".join(lines)


def _known(command: str) -> str:
    from argparse import ArgumentTypeError

    raise ArgumentTypeError(f"there is no {command!r}{_meant(command, COMMANDS) or ': --help lists the commands'}")


def _meant(word: str, words: Iterable[str]) -> str:
    from difflib import get_close_matches

    return "".join(f"; did you mean {close}?" for close in get_close_matches(word, words, 1, 0.7))


def _formatter(kind: type[argparse.HelpFormatter]) -> Any:
    """Of this kind, and as wide as the terminal: to find that out it would import shutil, 2 ms of every command's start."""
    width = os.environ.get("COLUMNS", "")
    try:
        columns = int(width) if width.isdecimal() and int(width) else os.get_terminal_size(1).columns
    except OSError:
        columns = 0
    return lambda prog: kind(prog, width=(columns or 80) - 2)


def _parser_class() -> type[argparse.ArgumentParser]:
    import argparse

    class Parser(argparse.ArgumentParser):
        """What is wrong with a command's words is told with that command's usage; output is written as all other is."""

        fd = 1

        def error(self, message: str) -> NoReturn:
            self.fd = 2
            what, colon, words = message.partition(": ")
            if what == "unrecognized arguments":
                message += _meant(words.split()[0].partition("=")[0], self._option_string_actions)
            super().error(message)

        def _print_message(self, message: str, file: Any = None) -> None:
            if self.fd == 1:
                put(message.encode("utf-8", "backslashreplace"))
            else:
                tell(message.rstrip("\n"))

    return Parser
