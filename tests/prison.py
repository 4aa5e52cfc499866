"""A process that enters the jail as `gofer serve` does, and then tries what a client that had taken it over would try."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hosts
from hosts import CALM, CHECKOUT, GOFER, children, over_socket_of

from gofer.conform.peer import Peer

NO_SYS_ADMIN = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")  # as root in most containers
USER = 54321  # nobody that this machine knows
PYTHON = "/usr/bin/python3"  # one that every user may run
SCRIPT = """
import ctypes, errno, mmap, os, resource, signal, socket, sys, threading, time, fcntl, _thread
sys.path.insert(0, {package!r})
from gofer import procself
from gofer.server import fds
from gofer.jail import caps, enter, supervisor
from gofer.server.comm import Options
from gofer.jail.posture import Policy
libc = ctypes.CDLL(None, use_errno=True)
syscall = libc.syscall
syscall.restype = ctypes.c_long
def call(number, *args):
    if syscall(ctypes.c_long(number), *args) == -1:
        raise OSError(ctypes.get_errno(), "")
    return "done"
root = os.open({tree!r}, os.O_PATH)
procself.pin_proc()
procself.enter_proc()
{before}
policy = Policy(**{policy!r})
if policy.mode != "off":
    posture = enter.enter(root, Options(**{options!r}), policy, supervisor.Charge())
try:
    result = eval({attempt!r})
except OSError as e:
    result = errno.errorcode[e.errno]
os.write(1, str(result).encode())
os._exit(0)
"""


def attempt(what: str, tree: Path, *, before: str = "", user: int = 0, groups: Any = (), **choices: Any) -> str:
    """Evaluate an expression in the jail; its value as text, or the name of the errno it failed with.

    before: statements to run before the jail is entered. choices: of gofer.jail.posture.Policy (mode, seccomp, others_connect)
    and of gofer's Options. A process that is killed is "killed by" and the signal's number, one that never got so far what
    it said.
    """
    done = run(what, tree, before=before, user=user, groups=groups, **choices)
    if done.returncode < 0:
        return f"killed by {-done.returncode}"
    return done.stdout if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def run(
    what: str, tree: Path, *, before: str = "", user: int = 0, groups: Any = (), **choices: Any
) -> "subprocess.CompletedProcess[str]":
    with started(what, tree, before=before, user=user, groups=groups, **choices) as process:
        out, err = process.communicate(timeout=CALM)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextmanager
def started(
    what: str, tree: Path, *, before: str = "", user: int = 0, groups: Any = (), **choices: Any
) -> "Iterator[subprocess.Popen[str]]":
    """The process of `attempt`, with pipes for its stdin, stdout and stderr; it is killed if it does not end by itself."""
    policy = {name: choices.pop(name) for name in ("mode", "seccomp", "others_connect") if name in choices}
    pipe = subprocess.PIPE
    with _package(user) as package:
        script = SCRIPT.format(
            package=package, tree=str(tree), before=before, options=choices, policy=policy, attempt=what
        )
        argv = [*([PYTHON] if user else hosts.PYTHON), "-B", "-c", script]
        identity = {"user": user, "group": user, "extra_groups": list(groups)} if user or groups else {}
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, **identity) as process:
            try:
                yield process
            finally:
                process.kill()


@contextmanager
def as_user(user: int) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """A command that runs gofer, and the arguments of subprocess.Popen that make it that user's."""
    with _package(user) as package:
        yield [PYTHON, "-B", package], {"user": user, "group": user, "extra_groups": [], "cwd": "/"}


@contextmanager
def served(tree: Path, *options: str, user: int = 0, **popen: Any) -> Iterator[tuple[Peer, list[int]]]:
    """A client of a server that is this user's, and the pids of all that belong to the server, as the host's /proc has them.

    popen: arguments of subprocess.Popen.
    """
    ours, theirs = socket.socketpair()
    with ExitStack() as stack:
        stack.enter_context(ours)
        command, who = stack.enter_context(as_user(user)) if user else (GOFER, {})
        with theirs:
            argv = [*command, "serve", str(tree), "--quiet", "--fd", str(theirs.fileno()), *options]
            server = stack.enter_context(subprocess.Popen(argv, pass_fds=[theirs.fileno()], **{**who, **popen}))
        stack.callback(server.kill)
        with over_socket_of(ours.dup) as peer:
            yield peer, [server.pid, *children(server.pid)]


@contextmanager
def _package(user: int) -> Iterator[str]:
    """A directory to import gofer from, which that user may read: the checkout may lie where he may not go."""
    if not user:
        yield str(CHECKOUT)
        return
    place = tempfile.mkdtemp(prefix="package-")
    try:
        os.chmod(place, 0o755)
        shutil.copytree(CHECKOUT / "gofer", Path(place) / "gofer", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(CHECKOUT / "__main__.py", place)
        for path in Path(place).rglob("*"):
            path.chmod(0o755)
        yield place
    finally:
        shutil.rmtree(place)
