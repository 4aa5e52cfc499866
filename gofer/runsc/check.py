"""`gofer runsc --check`: can this host redirect? Found out by doing it, with a program that behaves as runsc does."""

from __future__ import annotations

import os

from gofer import __version__
from gofer.output import say
from gofer.runsc.redirect import become
from gofer.runsc.tracer import Refusal

NOBODY = 65534

# Forks and runs itself by the name that runsc gives its gofer. Not redirected, Python tells its own version.
_LOOKALIKE = """
import os
child = os.fork()
if child == 0:
    os.execve("/proc/self/exe", ["runsc-gofer", "--version"], os.environ)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def check(runsc: str, target: str) -> int:
    """Says on stdout what works and what does not; 0 if containers can be started, 1 if not."""
    why_not = _try(target)
    say(f"redirection:         {why_not or 'works'}")
    say(f"gofer:               {target}, {__version__}")
    say(f"runsc:               {runsc}, {_first_line([runsc, '--version'])}")
    say(f"in user namespaces:  {_for_others(target)}")
    return 1 if why_not else 0


def _try(target: str) -> str:
    """Redirect the lookalike; "" or what stands in the way."""
    python = os.readlink("/proc/self/exe")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (1, 2):
            os.dup2(writer, fd)
        try:
            become(python, ["-IS", "-c", _LOOKALIKE], target)
        except (OSError, Refusal) as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace").strip()
    os.waitpid(child, 0)
    return "" if said == f"gofer {__version__}" else f"does not work: {said or 'nothing was run'}"


def _for_others(target: str) -> str:
    """Whether a user without rights, as a container's root is on the host, could run the file."""
    if os.geteuid() != 0:
        return "yes, your own" if os.access(target, os.R_OK | os.X_OK) else "no"
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os._exit(0 if os.access(target, os.R_OK | os.X_OK) else 1)
    allowed = os.waitpid(child, 0)[1] == 0
    return "yes" if allowed else f"no: {target} must be readable by others, and every directory above it searchable"


def _first_line(command: list[str]) -> str:
    import subprocess

    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.decode("utf-8", "replace").partition("\n")[0]
