"""`gofer runsc [--runsc PATH] -- ARGS...`: become runsc, with its gofer redirected to this very file.

The process that was started forks the tracer (tracer.py), waits until it holds on, and then *becomes* runsc by exec: same
pid, parent, terminal, signals, exit status, nothing to pass on. So it is with every command of runsc, known or not, but for
a few that are asked often or run for long: these go without a tracer, and the kernel is told to refuse them a gofer (guard.py).

Whatever stands in the way is said before runsc runs; from there on, the tracer takes runsc down rather than let it
start its own gofer.

This is what every start of a container waits for, so little is imported here: not even `os`, which takes 1.1 ms, but
`posix`, of which it is made.
"""

from __future__ import annotations

import posix
from _signal import SIG_DFL, SIGPIPE, SIGXFSZ
from _signal import signal as set_signal

from gofer import signals
from gofer.output import fill_standard_fds, tell
from gofer.runsc.calls import MACHINE, prctl
from gofer.runsc.tracer import MACHINES, Refusal, Tracer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

FAILED, USAGE = 1, 2

# runsc's commands that need no tracer: no runsc so far starts a gofer for one, and of a later one it would fail (guard.py).
_GUARDED = frozenset("events exec kill list pause port-forward ps resume state wait".split())
# Flags that engines write before the command, by whether the next word is their value. Behind any other flag that
# has no "=" the command may be anywhere.
_VALUED = frozenset("debug-log log log-format root".split())
_BARE = frozenset("debug ignore-cgroups rootless systemd-cgroup".split())
TRACE_DIR = "GOFER_RUNSC_TRACE_DIR"  # in the environment of the gofer to be
ENGINES = (["install"], ["uninstall"])  # of this program as an engine's runtime
_PR_SET_PTRACER, _ANY = 0x59616D61, -1


def launch(args: list[str]) -> int | None:
    """What containers are started by, and nothing else: commands/runsc.py without what the rest of it needs.

    args: the words after `gofer runsc`. Does not return where runsc is run; else the exit status, or None: that has to look.
    """
    if args[:1] in ENGINES:
        return None
    try:
        options, rest = parse(args)
        if options.keys() & {"help", "check"}:
            return None
        fill_standard_fds()
        return run(options, rest)
    except ValueError:
        return None
    except KeyboardInterrupt:
        return 130


def run(options: dict[str, str], rest: list[str]) -> int:
    """What is left to do when the options are known; as `launch`."""
    if "trace-dir" in options:
        posix.putenv(TRACE_DIR, _absolute(options["trace-dir"]))  # runsc gives its environment to its gofer
    try:
        become(find_runsc(options.get("runsc", "runsc")), rest, find_target(options.get("gofer", "")))
    except (Refusal, OSError) as why:
        return complain(f"{why}", FAILED)


def become(runsc: str, args: list[str], target: str) -> NoReturn:
    """Become runsc. Refusal, OSError: why not; nothing has been started then. Does not return otherwise."""
    if not (needs_no_gofer(args) and _guarded()):
        start_tracer(runsc, target)
    signals.hand_on()
    for number in (SIGPIPE, SIGXFSZ):
        set_signal(number, SIG_DFL)  # Python ignores them, and exec would pass that on
    posix.execv(runsc, [runsc, *args])


def needs_no_gofer(args: list[str]) -> bool:
    """Whether the command line is certainly one of a command that runs without a tracer."""
    words = iter(args)
    for word in words:
        if not word.startswith("-"):
            return word in _GUARDED
        name = word.lstrip("-")
        if name in _VALUED:
            next(words, "")
        elif name not in _BARE and "=" not in name:
            return False
    return False


def _guarded() -> bool:
    from gofer.runsc.guard import forbid_gofers

    return forbid_gofers()


def start_tracer(runsc: str, target: str) -> None:
    """Have a new process trace this one, ready for its exec. Refusal says why it cannot be.

    It is a child that runsc knows nothing of, and never hears of: it ends after runsc, or takes runsc with it.
    """
    if MACHINE not in MACHINES:
        raise Refusal(f"redirection is made for {' and '.join(MACHINES)}, not for {MACHINE}")
    me, (reader, writer) = posix.getpid(), posix.pipe()
    _allow_tracing_by(_ANY)
    if posix.fork() == 0:
        _trace(me, writer, runsc, target)
    posix.close(writer)
    said = posix.read(reader, 4096)  # in one piece, as it was written; nothing from a tracer that died
    posix.close(reader)
    _allow_tracing_by(0)
    if said != b"ready":
        raise Refusal(said.decode("utf-8", "replace") or "the tracer died before it began")


def _trace(leader: int, ready: int, runsc: str, target: str) -> None:
    """The life of the tracer process. It keeps stderr, for what may go wrong, and nothing else of what was open."""
    status = 0
    try:
        failure = f"{target} cannot be run as the container's gofer: "
        tracer = Tracer(leader, runsc, target, lambda why: complain(failure + why, FAILED))
        posix.write(ready, b"ready")
        posix.close(ready)
        ready = -1
        posix.setsid()
        _let_go_of_files()
        tracer.run()
    except BaseException as error:
        status = FAILED
        text = str(error) if isinstance(error, Refusal) else f"the tracer failed: {error!r}"
        if ready >= 0:
            posix.write(ready, text.encode())
        else:
            complain(text + "; runsc was stopped, it would have used its own gofer", FAILED)
    finally:
        posix._exit(status)


def _let_go_of_files() -> None:
    null = posix.open("/dev/null", posix.O_RDWR)
    for fd in (0, 1):
        posix.dup2(null, fd)
    for entry in posix.listdir("/proc/self/fd"):
        if int(entry) > 2:
            try:
                posix.close(int(entry))
            except OSError:
                pass  # the one that listed the directory


def parse(args: list[str]) -> tuple[dict[str, str], list[str]]:
    """The options and the words for runsc. ValueError: what is wrong."""
    options: dict[str, str] = {}
    words = iter(args)
    for word in words:
        if word == "--":
            break
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            raise ValueError(f"gofer: runsc's arguments stand after `--`: gofer runsc -- {word} ...")
        if name in ("runsc", "gofer", "trace-dir") and word.startswith("--"):
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
    for path in [name] if "/" in name else _in_path(name):
        if _is_file(path, posix.X_OK):
            return _absolute(path)
    raise Refusal(f"{name}: no such program; install gVisor's runsc, or say where it is with --runsc PATH")


def find_target(name: str) -> str:
    """The absolute path of the file to be executed as the gofer."""
    if not name:
        loader = __spec__.loader if __spec__ else None
        name = getattr(loader, "archive", "")
        if not name:
            raise Refusal(
                "this is a checkout, or was installed by pip, and a gofer must be one executable file: run ./build.sh "
                "and then dist/gofer runsc ..., or name a file with --gofer"
            )
    path = _absolute(name)
    if not _is_file(path, posix.R_OK | posix.X_OK):
        raise Refusal(f"{path}: must be a file that can be read and executed (chmod 755)")
    return path


def _in_path(name: str) -> list[str]:
    from os import get_exec_path

    return [f"{folder}/{name}" for folder in get_exec_path()]


def _absolute(path: str) -> str:
    if path.startswith("/"):
        return path
    from os.path import abspath

    return abspath(path)


def _is_file(path: str, access: int) -> bool:
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o100000 and posix.access(path, access)
    except OSError:
        return False


def _allow_tracing_by(pid: int) -> None:
    """Where Yama restricts ptrace to ancestors, the tracer, which is none, needs leave. Elsewhere this fails, and may."""
    try:
        prctl(_PR_SET_PTRACER, pid)
    except OSError:
        pass


def complain(text: str, status: int) -> int:
    text = text if text.startswith("gofer: ") else f"gofer: {text}"
    tell(text.rstrip("\n"))
    return status
