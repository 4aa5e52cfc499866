"""The command line: `gofer serve`, `ls`, `cat`, `stat`.

The options of `serve` stand once, in `_SERVE`. argparse is built from it for help, errors and everything but the plainest
use; importing it costs 6 ms, a third of the start-up of a server that is started with every container, so `_quick` reads
the plain `--name value` and `--name=value` by itself and leaves whatever else to argparse.
"""

from __future__ import annotations

import gc
import os

from gofer import Failure, __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from typing import Any, Callable

FAILED = 1
_MOST = 0xFFFFFFFE  # the largest uid; fd numbers and limits are below it, and all of it fits a C long


def between(least: int, most: int, text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else -1
    if not least <= number <= most:
        raise ValueError(f"must be a number from {least} to {most}")
    return number


def count(text: str) -> int:
    return between(0, _MOST, text)


def positive_number(text: str) -> int:
    return between(1, _MOST, text)


def microseconds(text: str) -> int:
    return between(0, 1000, text)


def seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= _MOST:
        raise ValueError(f"must be a number of seconds from 0 to {_MOST}")
    return number


def octal_mode(text: str) -> int:
    number = int(text, 8) if set(text) <= set("01234567") and text else -1
    if not 0 <= number <= 0o777:
        raise ValueError("must be permissions in octal, from 0000 to 0777")
    return number


_LEVELS = ("debug", "info", "warning", "error", "off")

# name: keyword arguments of argparse's add_argument; the same words drive _quick.
_SERVE: dict[str, dict[str, Any]] = {
    "--socket": {"metavar": "PATH", "help": "listen here (default: gofer-PID.sock in $XDG_RUNTIME_DIR or /run)"},
    "--fd": {
        "type": count,
        "action": "append",
        "metavar": "N",
        "help": "serve the connected socket with this number, inherited; repeatable",
    },
    "--mode": {
        "type": octal_mode,
        "default": 0o600,
        "metavar": "OCTAL",
        "help": "permissions of the socket file (default: 0600)",
    },
    "--group": {"metavar": "GROUP", "help": "group of the socket file, by name or number"},
    "--allow-uid": {
        "type": count,
        "action": "append",
        "metavar": "UID",
        "help": "user that may connect, and no other; repeatable (default: your own and root)",
    },
    "--read-only": {"action": "store_true", "help": "refuse every change with EROFS"},
    "--host-uds": {
        "choices": ("none", "open", "create", "all"),
        "default": "none",
        "help": "Unix sockets of the host: connect to them (open), make them (create), both (all)",
    },
    "--host-fifo": {"choices": ("none", "open"), "default": "none", "help": "FIFOs of the host: may be opened"},
    "--char-devices": {
        "choices": ("none", "open"),
        "default": "none",
        "help": "character devices of the host: may be opened",
    },
    "--kernel-files": {
        "choices": ("none", "read"),
        "default": "none",
        "help": "proc, sysfs and cgroup file systems below PATH: read what all may read there, but for what is a process's own",
    },
    "--xattrs": {
        "choices": ("user", "all", "none"),
        "default": "user",
        "help": "extended attributes: all but security.* and trusted.* (user), all, none",
    },
    "--donate": {
        "choices": ("yes", "no"),
        "default": "yes",
        "help": "hand open regular files to the client as file descriptors, for speed",
    },
    "--channels": {
        "type": count,
        "metavar": "N",
        "help": "shared-memory channels a client may have; 0: none (default: as many as CPUs, 2 to 4)",
    },
    "--workers": {
        "type": positive_number,
        "metavar": "N",
        "help": "processes that share the clients, so that these need not share one CPU (default: as many as CPUs, at most 4)",
    },
    "--busy-poll": {
        "type": microseconds,
        "metavar": "MICROSECONDS",
        "help": "how long a channel looks for the next request before it sleeps, where that pays; 0: not at all "
        "(default: 150, and always 0 on one CPU)",
    },
    "--max-connections": {
        "type": positive_number,
        "default": 64,
        "metavar": "N",
        "help": "clients at once (default: 64)",
    },
    "--idle-message-timeout": {
        "type": seconds,
        "default": 60.0,
        "metavar": "SECONDS",
        "help": "drop a client that leaves a message, or the taking of a reply, half done for so long; 0: never (default: 60)",
    },
    "--fd-limit": {
        "type": positive_number,
        "metavar": "N",
        "help": "RLIMIT_NOFILE of each worker (default: as high as it may)",
    },
    "--jail": {
        "choices": ("auto", "require", "off"),
        "default": "auto",
        "help": "confine the server as far as this host can (auto), or else not serve (require); see SECURITY.md",
    },
    "--seccomp": {
        "choices": ("kill", "errno", "log", "off"),
        "default": "kill",
        "help": "what a system call gets that the server has no use for (default: kill)",
    },
    "--log-level": {"choices": _LEVELS, "default": "info", "help": "default: info"},
    "--log-format": {"choices": ("text", "json"), "default": "text", "help": "default: text"},
    "--quiet": {"action": "store_true", "help": "no lines at start and end; warnings and errors only"},
}


def main(argv: Sequence[str], prog: str = "gofer") -> int:
    """Run one command and return its exit status. argv: without the program's name; prog: how the user called it."""
    argv = list(argv)
    gc.disable()  # until there is a server: what a start makes it keeps, and to look through it costs 1 ms
    try:
        if argv[:1] == ["serve"]:
            from gofer.serve import serve

            return serve(_quick(argv[1:]) or _thorough(argv, prog), prog)
        if argv[:1] == ["runsc"]:
            from gofer.runsc import redirect

            return redirect.main(argv[1:])
        from gofer.runsc.flags import is_gofer_invocation

        if is_gofer_invocation(argv):  # as runsc starts its own: `gofer [runsc's flags] gofer [flags]`
            from gofer.runsc import gofer

            return gofer.main(argv)
        gc.enable()
        options = _parser(prog).parse_args(argv)
        if options.subcommand == "doctor":
            from gofer import doctor

            return doctor.run(options, main)
        from gofer import look

        return look.run(options)
    except Failure as e:
        _say(f"gofer: {e}")
        return FAILED
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `gofer cat ... | head`: the reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141


def _say(line: str) -> None:
    try:
        os.write(2, line.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass


class _Namespace:
    """What argparse would have returned."""

    subcommand = "serve"
    path: str
    command: list[str]

    def __init__(self) -> None:
        for option, words in _SERVE.items():
            default = False if words.get("action") == "store_true" else words.get("default")
            setattr(self, option[2:].replace("-", "_"), default)


def _quick(words: Sequence[str]) -> _Namespace | None:
    """The options of `serve` where they are plain and right; None where argparse has to look."""
    options, paths, rest = _Namespace(), [], iter(words)
    options.command = []
    for word in rest:
        if word == "--":
            options.command = list(rest)
            if not options.command:
                return None
            break
        if not word.startswith("-"):
            paths.append(word)
            continue
        option, equals, value = word.partition("=")
        spec = _SERVE.get(option)
        if spec is None:
            return None
        name = option[2:].replace("-", "_")
        if spec.get("action") == "store_true":
            if equals:
                return None
            setattr(options, name, True)
            continue
        value = value if equals else next(rest, "-")
        if value.startswith("-") and not equals or value not in spec.get("choices", (value,)):
            return None
        try:
            parsed = spec.get("type", str)(value)
        except ValueError:
            return None
        if spec.get("action") == "append":
            parsed = [*(getattr(options, name) or ()), parsed]
        setattr(options, name, parsed)
    if len(paths) != 1:
        return None
    options.path = paths[0]
    return options


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
    import argparse

    parser = argparse.ArgumentParser(
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


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a directory or file",
        usage="%(prog)s PATH [options] [-- COMMAND ...]",
        description="Serve PATH, a directory or a regular file, over a Unix socket. With `-- COMMAND`, run COMMAND with "
        "GOFER_SOCKET in its environment, and stop with its exit status when it ends. SIGTERM and SIGINT end the server cleanly.",
        epilog="Examples: `gofer serve /srv/data --read-only`; `gofer serve . -- gofer ls`. Sockets passed by systemd "
        "(LISTEN_FDS) are served as well. Every change by a client is made with the server's own rights.",
        allow_abbrev=False,
    )
    serve.add_argument("path", metavar="PATH", help="what to serve")
    for option, words in _SERVE.items():
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


def _add_doctor(commands: Any) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="tell what this host has, and what confines a server here",
        description="Try each layer of the jail and each feature of the kernel that gofer uses, and tell what is missing and "
        "what is lost by that. Exit status 1 where gofer cannot serve.",
        allow_abbrev=False,
    )
    doctor.add_argument("--json", action="store_true", help="print a JSON object")
    doctor.add_argument(
        "--self-test", metavar="DIR", help="also send every message to a server on this directory's file system"
    )
