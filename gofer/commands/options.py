"""The options of `gofer serve`, and the quick way to read them.

They stand once, in `SERVE`. argparse is built from it for help, errors and everything but the plainest
use; importing it costs 6 ms, a third of the start-up of a server that is started with every container, so `quick` reads
the plain `--name value` and `--name=value` by itself and leaves whatever else to argparse (`add`).
"""

from __future__ import annotations

from posix import environ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence
    from typing import Any, Callable

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


def user(text: str) -> int:
    """A user's id, from the id or the name."""
    try:
        return count(text)
    except ValueError:
        pass
    try:
        import pwd

        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise ValueError(f"must be the name of a user, or a number from 0 to {_MOST}") from None


def given(text: str) -> str:
    """Not the value of a shell's variable that is not set."""
    if not text:
        raise ValueError("must not be empty")
    return text


def trace_filter(text: str) -> str:
    """Which requests to show; "": all."""
    from gofer.watch.lines import Filter

    Filter(text)
    return text


def size(text: str) -> int:
    """Bytes, with a K, M or G behind the number where it is so many."""
    unit = {"K": 10, "M": 20, "G": 30}.get(text[-1:].upper(), 0)
    return between(1, 1 << 50, text[:-1] if unit else text) << unit


_LEVELS = ("debug", "info", "warning", "error", "off")

# name: keyword arguments of argparse's add_argument; the same words drive `quick`.
SERVE: dict[str, dict[str, Any]] = {
    "--socket": {
        "type": given,
        "metavar": "PATH",
        "help": "listen here (default: gofer-PID.sock in $XDG_RUNTIME_DIR or /run; for a COMMAND else in a temporary directory)",
    },
    "--fd": {
        "type": count,
        "action": "append",
        "metavar": "N",
        "help": "serve the connected socket with this number, inherited; repeatable",
    },
    "--stdio": {
        "action": "store_true",
        "help": "serve one client, on stdin and stdout, and end with it: `ssh HOST gofer serve --stdio PATH`. Nothing is "
        "donated, and there are no channels",
    },
    "--mode": {
        "type": octal_mode,
        "default": 0o600,
        "metavar": "OCTAL",
        "help": "permissions of the socket file (default: 0600)",
    },
    "--group": {
        "type": given,
        "metavar": "GROUP",
        "help": "group of the socket file, by name or number; its members may connect if --mode lets them, as 0660 does",
    },
    "--allow-uid": {
        "type": user,
        "action": "append",
        "metavar": "USER",
        "help": "user that may connect, by name or number, and nobody else; repeatable (default: you, root, and --group)",
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
        "help": "shared-memory channels a client may have; 0: none, which gVisor's own clients do not put up with "
        "(default: as many as CPUs, 2 to 4)",
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
        "help": "connections at once, of which one process has three quarters at most where they are 8 or more (default: 64)",
    },
    "--idle-message-timeout": {
        "type": seconds,
        "default": 60.0,
        "metavar": "SECONDS",
        "help": "drop a client that sends no first message, or leaves a message or the taking of a reply half done, for so long; "
        "0: never (default: 60)",
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
    "--trace": {
        "type": trace_filter,
        "metavar": "[=FILTER]",
        "help": "a line for each request on stderr, of those that FILTER names: messages, errors, conn=N, slower=10ms, "
        "path=/DIR, with commas (docs/tracing.md)",
    },
    "--trace-out": {
        "type": given,
        "metavar": "FILE",
        "help": "record each request and reply, without file data, for gofer replay",
    },
    "--trace-on-signal": {
        "type": given,
        "metavar": "FILE",
        "help": "as --trace-out, from a SIGUSR2 to the next one",
    },
    "--trace-data": {"action": "store_true", "help": "with the data that files are read and written with"},
    "--trace-size": {
        "type": size,
        "metavar": "BYTES",
        "help": "begin another FILE when it is so large, and call this one FILE.1; as 10M or 1G (default: no limit)",
    },
    "--trace-keep": {
        "type": positive_number,
        "default": 1,
        "metavar": "N",
        "help": "how many such files there may be beside it (default: 1)",
    },
    "--control": {
        "type": given,
        "metavar": "PATH",
        "help": "count requests, and tell root and the server's user there what they come to: gofer top, gofer metrics",
    },
    "--metrics-listen": {
        "type": given,
        "metavar": "[ADDRESS:]PORT",
        "help": "count requests, and serve the counters by HTTP as Prometheus reads them (ADDRESS: 127.0.0.1 by default)",
    },
    "--slow": {
        "type": seconds,
        "default": 5.0,
        "metavar": "SECONDS",
        "help": "warn of a request that has been in one system call for so long, once, while it hangs; 0: do not (default: 5)",
    },
    "--log-level": {"choices": _LEVELS, "default": "info", "help": "default: info"},
    "--log-format": {"choices": ("text", "json"), "default": "text", "help": "default: text"},
    "--quiet": {"action": "store_true", "help": "no lines at start and end; warnings and errors only"},
    "--config": {
        "type": given,
        "metavar": "FILE",
        "help": "take options from section [serve] of this INI file (`read-only = yes`), where they stand nowhere else",
    },
    "--print-config": {"action": "store_true", "help": "tell all options and where each is from, and serve nothing"},
}
ELSEWHERE_NOT = ("--config", "--print-config")  # cannot stand in a file
VARIABLE = "GOFER_SERVE_"  # what an option's name in the environment begins with


def add(parser: ArgumentParser) -> None:
    """To a parser of argparse's."""
    parser.usage = "%(prog)s [PATH] [options] [-- COMMAND ...]"
    parser.description = (
        "Serve PATH, a directory or a regular file, over a Unix socket. With `-- COMMAND`, run COMMAND with "
        "GOFER_SOCKET in its environment, and stop with its exit status when it ends. SIGTERM, SIGINT, SIGQUIT and SIGHUP end "
        "the server cleanly; which of them were ignored when it was started, as by nohup, are ignored."
    )
    parser.epilog = (
        "Examples: `gofer serve /srv/data --read-only`; `gofer serve . -- gofer ls`. Sockets passed by systemd "
        "(LISTEN_FDS) are served as well. Every change by a client is made with the server's own rights. PATH and each "
        f"option may also stand in the environment, as {VARIABLE}READ_ONLY=yes, or in a file (--config); the command line "
        "goes first."
    )
    parser.add_argument("path", metavar="PATH", nargs="?", help="what to serve (default: the current directory)")
    for option, words in SERVE.items():
        parser.add_argument(option, **{**words, "type": explaining(words["type"])} if "type" in words else words)


def explaining(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """The same, for argparse, which passes on the words of one kind of error only."""
    import argparse

    def call(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} {error}") from None

    return call


class Namespace:
    """What argparse would have returned."""

    subcommand = "serve"
    path: str | None
    command: list[str]
    config: str | None
    print_config: bool

    def __init__(self) -> None:
        for option, words in SERVE.items():
            default = False if words.get("action") == "store_true" else words.get("default")
            setattr(self, option[2:].replace("-", "_"), default)


def spelled_out(words: Sequence[str]) -> list[str]:
    """With the value that --trace has where it has none: behind it stands PATH."""
    end = words.index("--") if "--" in words else len(words)
    return ["--trace=" if word == "--trace" else word for word in words[:end]] + [*words[end:]]


def quick(words: Sequence[str]) -> Namespace | None:
    """The options of `serve` where they are plain and right; None where argparse has to look."""
    options, paths, rest = Namespace(), [], iter(spelled_out(words))
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
        spec = SERVE.get(option)
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
    if len(paths) > 1:
        return None
    options.path = paths[0] if paths else None
    return options


def said_elsewhere(options: Any) -> bool:
    """Whether the command line is not all there is to read, or not to be acted upon (config.py)."""
    if options.config or options.print_config:
        return True
    return any(name.startswith(b"GOFER_") for name in environ if name != b"GOFER_SOCKET")
