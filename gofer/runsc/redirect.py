"""`gofer runsc [--runsc PATH] -- ARGS...`: become runsc, with its gofer redirected to this very file.

The process that was started forks the tracer (tracer.py), waits until it holds on, and then *becomes* runsc by exec: same
pid, parent, terminal, signals, exit status, nothing to pass on. A runsc command that starts no gofer is run without a tracer.

Whatever stands in the way is said before runsc runs; from there on, the tracer takes runsc down rather than let it
start its own gofer.
"""

from __future__ import annotations

import os
from ctypes import c_int, c_ulong

from gofer.runsc.flags import BOOLEANS, VALUED, split_flag
from gofer.runsc.tracer import MACHINES, VARIABLE, Refusal, Tracer
from gofer.sys import MACHINE, libc, set_signal_default

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FAILED, USAGE = 1, 2

USAGE_TEXT = """\
usage: gofer runsc [--runsc PATH] [--gofer FILE] -- ARGS...
       gofer runsc --check [--runsc PATH] [--gofer FILE]
       gofer runsc install|uninstall docker|podman|containerd [options] [-- RUNSC-FLAGS]

Runs an unmodified runsc with ARGS, with this program as the gofer of the containers it starts.

  --runsc PATH   the runsc to run (default: the first one in $PATH)
  --gofer FILE   the gofer to use (default: this very file); an executable that takes runsc's arguments
  --check        say whether this host can do it, by trying; exit status 0 or 1
  -h, --help     this text

A container engine needs one program for its runtime, which `gofer runsc install ENGINE` sets up (--help tells more; --dry-run
shows it): a script with the two lines
  #!/bin/sh
  exec /usr/local/bin/gofer runsc --runsc /usr/local/bin/runsc -- "$@"
"""

# runsc's commands that start no gofer. All others, known or not, are run under the tracer.
_WITHOUT_GOFER = frozenset(
    """boot checkpoint cpu-features debug delete events exec export-metrics flags gofer help install kill list
    metric-metadata metric-server mitigate nvproxy pause port-forward ps read-control resume spec state statefile
    symbolize syscalls tar trace umount uninstall usage wait write-control""".split()
)
_SIGPIPE, _SIGXFSZ = 13, 25
_PR_SET_PTRACER, _ANY = 0x59616D61, -1


def main(args: list[str]) -> int:
    """args: the words after `gofer runsc`. Does not return where runsc is run; else the exit status."""
    if args[:1] in (["install"], ["uninstall"]):
        from gofer.runsc import install

        try:
            return install.main(args)
        except (Refusal, OSError) as why:
            return _say(f"{why}", FAILED)
    try:
        options, rest = _parse(args)
    except ValueError as error:
        return _say(f"{error}\n{USAGE_TEXT.partition(chr(10) * 2)[0]}", USAGE)
    if "help" in options:
        os.write(1, USAGE_TEXT.encode())
        return 0
    try:
        runsc = find_runsc(options.get("runsc", "runsc"))
        target = find_target(options.get("gofer", ""))
        if "check" in options:
            from gofer.runsc.check import check

            return check(runsc, target)
        become(runsc, rest, target)
    except Refusal as why:
        return _say(f"{why}", FAILED)
    except OSError as error:
        return _say(f"{error}", FAILED)


def become(runsc: str, args: list[str], target: str) -> NoReturn:
    """Become runsc. Refusal, OSError: why not; nothing has been started then. Does not return otherwise."""
    if starts_gofer(args):
        start_tracer(target)
    set_signal_default(_SIGPIPE, _SIGXFSZ)  # Python ignores them, and exec would pass that on
    os.execv(runsc, [runsc, *args])


def starts_gofer(args: list[str]) -> bool:
    """False only where the command line is certainly one of a command that starts none."""
    words = iter(args)
    for word in words:
        name, value = split_flag(word)
        if name is None:
            return (next(words, "") if word == "--" else word) not in _WITHOUT_GOFER
        if value is None and name in VALUED:
            next(words, None)
        elif value is None and name not in BOOLEANS:
            return True  # a flag not known here: what follows may be its value, or the command
    return False


def start_tracer(target: str) -> None:
    """Have a new process trace this one, ready for its exec. Refusal says why it cannot be."""
    if MACHINE not in MACHINES:
        raise Refusal(f"redirection is made for {' and '.join(MACHINES)}, not for {MACHINE}")
    tracer = _tracer_pid()
    if tracer:
        raise Refusal(
            f"this process is being traced by process {tracer} already, and only one can: "
            "run it without strace or a debugger (if it is `gofer runsc` itself, --runsc names a wrapper of it)"
        )
    me, (reader, writer) = os.getpid(), os.pipe()
    os.environb[VARIABLE] = os.fsencode(target)
    _allow_tracing_by(_ANY)
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            _trace(me, writer, os.fsencode(target))
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read()
    _allow_tracing_by(0)
    if said != b"ready":
        raise Refusal(said.decode("utf-8", "replace") or "the tracer died before it began")


def _trace(leader: int, ready: int, target: bytes) -> None:
    """The life of the tracer process. It keeps stderr, for what may go wrong, and nothing else of what was open."""
    status = 0
    try:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1):
            os.dup2(null, fd)
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) not in (0, 1, 2, ready):
                _close(int(entry))
        tracer = Tracer(leader, target)
        os.write(ready, b"ready")
        os.close(ready)
        ready = -1
        tracer.run()
        if tracer.failure:
            _say(f"{os.fsdecode(target)} cannot be run as the container's gofer: {tracer.failure}", FAILED)
    except BaseException as error:
        status = FAILED
        text = str(error) if isinstance(error, Refusal) else f"the tracer failed: {error!r}"
        if ready >= 0:
            os.write(ready, text.encode())
        else:
            _say(text + "; runsc was stopped, it would have used its own gofer", FAILED)
    finally:
        os._exit(status)


def _parse(args: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options and the words for runsc. ValueError: what is wrong."""
    options: dict[str, str] = {}
    words = iter(args)
    for word in words:
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            raise ValueError(f"gofer: runsc's arguments stand after `--`: gofer runsc -- {word} ...")
        if name in ("runsc", "gofer") and word.startswith("--"):
            value = value if equals else next(words, "")
            if not value:
                raise ValueError(f"gofer: --{name} needs a path")
            options[name] = value
        elif word in ("-h", "--help", "--check"):
            options["help" if "h" == name else name] = ""
        else:
            raise ValueError(f"gofer: unknown option {word}")
    rest = list(words)
    if not rest and not options.keys() & {"help", "check"}:
        raise ValueError("gofer: nothing to run")
    return options, rest


def find_runsc(name: str) -> str:
    paths = [name] if "/" in name else [f"{folder}/{name}" for folder in os.get_exec_path()]
    for path in paths:
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return os.path.abspath(path)
    raise Refusal(f"{name}: no such program; install gVisor's runsc, or say where it is with --runsc PATH")


def find_target(name: str) -> str:
    """The absolute path of the file to be executed as the gofer."""
    if not name:
        loader = __spec__.loader if __spec__ else None
        name = getattr(loader, "archive", "")
        if not name:
            raise Refusal(
                "this is a checkout, and a gofer must be one executable file: run ./build.sh and then "
                "dist/gofer runsc ..., or name a file with --gofer"
            )
    path = os.path.realpath(name)
    if not os.path.isfile(path) or not os.access(path, os.R_OK | os.X_OK):
        raise Refusal(f"{path}: must be a file that can be read and executed (chmod 755)")
    return path


def _allow_tracing_by(pid: int) -> None:
    """Where Yama restricts ptrace to ancestors, the tracer, which is none, needs leave. Elsewhere this fails, and may."""
    libc["prctl"](c_int(_PR_SET_PTRACER), c_ulong(pid), c_ulong(0), c_ulong(0), c_ulong(0))


def _tracer_pid() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("TracerPid:"))


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


def _say(text: str, status: int) -> int:
    text = text if text.startswith("gofer: ") else f"gofer: {text}"
    os.write(2, text.rstrip("\n").encode("utf-8", "surrogateescape") + b"\n")
    return status
