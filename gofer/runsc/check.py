"""`gofer runsc --check`: can this host do it? Found out by doing it: redirection with a program that behaves as runsc does, and
containers with the runsc that is there, in both ways in which it reaches files.
"""

from __future__ import annotations

import os
import time
from select import select

from gofer import __version__
from gofer.output import say
from gofer.runsc.flags import go_bool, split_flag
from gofer.runsc.redirect import become
from gofer.runsc.tracer import Refusal

NOBODY, SIGKILL = 65534, 9

# Forks and runs itself by the name that runsc gives its gofer. Not redirected, Python tells its own version.
_LOOKALIKE = """
import os
child = os.fork()
if child == 0:
    os.execve("/proc/self/exe", ["runsc-gofer", "--version"], os.environ)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


# In a container that has the host's files: its root can be listed, and what is found looked at.
_LOOK = 'for name in /*; do [ -e "$name" ] && exit 0; done; exit 1'
_PATIENCE = 60.0  # seconds; a runsc whose platform the machine only seems to have (kvm) waits for ever
_FLAGS = ["--network=none", "--ignore-cgroups"]  # what is left out can keep nothing from working


def check(runsc: str, target: str, flags: list[str]) -> int:
    """Says on stdout what works and what does not; 0 if containers can be started, 1 if not. flags: for runsc."""
    status, said = _redirected(os.readlink("/proc/self/exe"), ["-IS", "-c", _LOOKALIKE], target)
    works = said == f"gofer {__version__}"
    say(f"redirection:         {'works' if works else f'does not work: {said or status}'}")
    say(f"gofer:               {target}, {__version__}")
    say(f"runsc:               {runsc}, {_output([runsc, '--version']).partition(chr(10))[0]}")
    say(f"in user namespaces:  {_for_others(target)}")
    if not works:
        return 1
    known = _output([runsc, "flags"])
    if why_not := _cannot_speak(known, flags):
        say(f"LISAFS:              {why_not}")
        return 1
    modes = {"with directfs": [], "without directfs": ["--directfs=false"]}
    if "-directfs" not in known:
        say("with directfs:       this runsc has none")
        modes = {"without directfs": []}
    found = [_try(runsc, [*(flags or _FLAGS), *more], target) for more in modes.values()]
    for mode, why_not in zip(modes, found):
        say(f"{mode + ':':20} {why_not or 'works'}")
    return 1 if any(found) else 0


def _cannot_speak(known: str, flags: list[str]) -> str:
    """Why a runsc with these flags speaks 9P to its gofer, or "". known: what `runsc flags` lists."""
    if "-directfs" not in known and "  -lisafs" not in known:
        return "this runsc is older than LISAFS (2021-09): it speaks 9P only, and takes no gofer but its own"
    switches = dict(pair for pair in map(split_flag, flags) if pair[0] is not None)
    _, listed, told = known.partition("  -lisafs\n")
    on = not listed or "(default true)" in told.partition("\n")[0]
    if "lisafs" in switches:
        on = go_bool(switches["lisafs"]) or "DEPRECATED" in told.partition("\n")[0]
    return "" if on else "this runsc speaks 9P unless it is told otherwise: try gofer runsc --check -- --lisafs"


def _try(runsc: str, flags: list[str], target: str) -> str:
    """A container; "" or what stands in the way."""
    import subprocess
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="gofer-check-") as state:
        words = [*flags, f"--root={state}", *([] if os.geteuid() == 0 else ["--rootless"]), "do", "/bin/sh", "-c", _LOOK]
        status, said = _redirected(runsc, words, target)
        if status == 0:
            return ""
        why_not = said.rpartition("\n")[2] or f"exit status {status}"
        null = subprocess.DEVNULL
        own = subprocess.Popen([runsc, *words], stdin=null, stdout=null, stderr=null)
        try:
            works_alone = own.wait(_PATIENCE) == 0
        except subprocess.TimeoutExpired:
            own.kill()
            works_alone = own.wait() == 0
        also = "" if works_alone else ", nor does it with runsc's own gofer"
        return f"does not work{also}: {why_not}"


def _redirected(program: str, args: list[str], target: str) -> tuple[int, str]:
    """Become that program in a child; its exit status and what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for fd in (1, 2):
            os.dup2(writer, fd)
        try:
            become(program, args, target)
        except (OSError, Refusal) as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as pipe:
        said, ended = _read(pipe.fileno())
    if not ended:
        said += b"\nit hangs"
        os.kill(child, SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.decode("utf-8", "replace").strip()


def _read(pipe: int) -> tuple[bytes, bool]:
    """For as long as anything may take; whether that was to its end."""
    said, deadline = b"", time.monotonic() + _PATIENCE
    while select([pipe], [], [], max(0, deadline - time.monotonic()))[0]:
        more = os.read(pipe, 1 << 16)
        if not more:
            return said, True
        said += more
    return said, False


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


def _output(command: list[str]) -> str:
    import subprocess

    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout.decode("utf-8", "replace")
