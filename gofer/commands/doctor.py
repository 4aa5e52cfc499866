"""`gofer doctor`: what this host has, what holds of the jail, and what is lost where something is missing.

Nothing is guessed from version numbers: each feature is used once, each layer of the jail is entered, in a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import tempfile
from errno import EAGAIN

from gofer import __version__, failure, procself, sys
from gofer.cdata import addressof, byref, c_uint32
from gofer.commands import selftest
from gofer.commands.given import open_root
from gofer.commands.options import explaining, given
from gofer.jail import caps, enter, landlock, namespaces, posture, seccomp, supervisor
from gofer.output import say
from gofer.server.channel import FutexWord
from gofer.server.comm import Options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any, Callable

PRESENT, MISSING, IN_FORCE = "present", posture.MISSING, posture.IN_FORCE
_GOOD = (PRESENT, IN_FORCE, "ok")


class Row:
    """One line of the table. lost: what there is not without it. needed: gofer does not serve without it."""

    __slots__ = ("name", "state", "detail", "lost", "needed")

    def __init__(self, name: str, state: str, detail: str, lost: str, needed: bool = False) -> None:
        self.name = name
        self.state = state
        self.detail = detail
        self.lost = lost
        self.needed = needed

    def as_dict(self) -> dict[str, str]:
        return {"name": self.name, "state": self.state, "detail": self.detail, "lost": self.lost}


def add(parser: ArgumentParser) -> None:
    parser.description = (
        "Try each layer of the jail and each feature of the kernel that gofer uses, and tell what is missing and "
        "what is lost by that. Exit status 1 where gofer cannot serve."
    )
    parser.add_argument(
        "path",
        metavar="PATH",
        nargs="?",
        help="what is to be served: tell what confines a server of it (default: of a new directory)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    parser.add_argument(
        "--self-test",
        metavar="DIR",
        type=explaining(given),
        help="also send every message to a server on this directory's file system",
    )


def run(options: Any) -> int:
    """options: path (what is to be served, or None), json, self_test (a directory or None).

    Returns 0, or 1 where something that gofer needs is missing, or a message of the self-test went wrong.
    """
    report = {"jail": layers(options.path), "host": features()}
    if options.self_test is not None:
        tested = selftest.run(options.self_test)
        report["self-test"] = [Row(*result, _NOT_HERE, needed=result[1] == "failed") for result in tested]
    if options.json:
        facts = {"gofer": __version__, "kernel": os.uname().release, "machine": os.uname().machine, "uid": os.geteuid()}
        say(json.dumps({**facts, **{area: [row.as_dict() for row in rows] for area, rows in report.items()}}, indent=1))
    else:
        titles = _titles(options.path)
        for area, rows in report.items():
            _print(titles[area], rows)
    return int(any(row.needed and row.state not in _GOOD for rows in report.values() for row in rows))


_NOT_HERE = "programs that use it get the file system's own error"


def _titles(path: str | None) -> dict[str, str]:
    served = "that this user starts for a directory of his own" if path is None else f"of {path} that this user starts"
    return {
        "jail": f"The jail of a server {served} (SECURITY.md)",
        "host": "What this host has",
        "self-test": "Every message, by a server and a client of their own",
    }


def _print(title: str, rows: list[Row]) -> None:
    say(f"{title}:")
    width = max(len(row.name) for row in rows)
    for row in rows:
        say(f"  {row.name:{width}}  {row.state:8}  {row.detail}".rstrip())
        if row.state == MISSING:
            say(f"  {'':{width}}  without it: {row.lost}")
    say("")


def layers(path: str | None = None) -> list[Row]:
    """Enter the jail in a child, as `gofer serve` does without options, and have it say what came of it.

    path: what it is to serve; None: an empty directory.
    """
    if path is not None:
        root, kind, writable = open_root(path)
        access = "read-write" if writable else "read-only, as it is mounted"
        return [Row("tree", PRESENT, f"{kind}, {access}", "nothing"), *_layers(root)]
    place = _temporary_directory()
    try:
        return _layers(os.open(place, sys.O_PATH | os.O_CLOEXEC))
    finally:
        os.rmdir(place)


def _layers(root: int) -> list[Row]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, json.dumps(_enter_jail(root)).encode())
        finally:  # whatever happens, this process goes no further
            os._exit(0)
    os.close(writer)
    os.close(root)
    with open(reader, "rb") as pipe:
        said = json.loads(pipe.read() or b'"the server ended before it could say"')
    os.waitpid(child, 0)
    if isinstance(said, str):
        return [Row("jail", MISSING, said, "--jail=off serves without", needed=True)]
    return [Row(name, state, detail, posture.LOSSES[name]) for name, state, detail in said]


def _enter_jail(root: int) -> list[tuple[str, str, str]] | str:
    """What came of each layer, or why none did."""
    try:
        procself.pin_proc()
        held = enter.enter(root, Options(), posture.Policy(), supervisor.Charge())
    except OSError as error:
        return error.strerror or str(error)
    return [(layer.name, layer.state, layer.detail) for layer in held.layers]


def _temporary_directory() -> str:
    try:
        return tempfile.mkdtemp(prefix="gofer-doctor-")
    except OSError as e:
        raise failure(
            "cannot make a temporary directory", e, "set TMPDIR to a directory that you can write to"
        ) from None


def features() -> list[Row]:
    """What gofer uses of the kernel, tried in an empty directory of the default for temporary files."""
    place = _temporary_directory()
    try:
        rows = []
        for name, probe, lost, needed in _FEATURES:
            try:
                rows.append(Row(name, PRESENT, probe(place), lost, needed))
            except OSError as error:
                rows.append(Row(name, MISSING, error.strerror or str(error), lost, needed))
        return rows
    finally:
        shutil.rmtree(place)


# Each returns a detail, or raises the OSError that says why not.


def _proc(place: str) -> str:
    os.close(os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY))
    return ""


def _statx(place: str) -> str:
    buffer = sys.Statx()
    wanted = sys.STATX_BASIC_STATS | sys.STATX_BTIME
    if sys.statx(sys.AT_FDCWD, os.fsencode(place), 0, wanted, byref(buffer)):
        sys.raise_errno()
    return "" if buffer.stx_mask & sys.STATX_BTIME else f"no birth times in {tempfile.gettempdir()}"


def _utimensat(place: str) -> str:
    fd = os.open(place, sys.O_PATH)
    try:
        if sys.utimensat(fd, b"", sys.timespecs(1, 0, 1, 0), sys.AT_EMPTY_PATH):
            sys.raise_errno()
    finally:
        os.close(fd)
    return ""


def _memfd(place: str) -> str:
    import fcntl

    fd = os.memfd_create("gofer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(fd, sys.F_ADD_SEALS, 0x1 | 0x2 | 0x4)
    finally:
        os.close(fd)
    return ""


def _futex(place: str) -> str:
    """FUTEX_WAKE_OP turns the word 1 into 0; a wait for a value that is not there is EAGAIN."""
    word = c_uint32(1)
    futex = FutexWord(addressof(word))
    futex.clear_bit0_and_wake()
    if word.value != 0:
        raise OSError(EAGAIN, "FUTEX_WAKE_OP does not work")
    return ""


def _renameat2(place: str) -> str:
    fd = os.open(place, sys.O_PATH)
    try:
        for name in ("a", "b"):
            os.close(os.open(name, os.O_CREAT, 0o600, dir_fd=fd))
        sys.renameat2(fd, b"a", fd, b"b", sys.RENAME_EXCHANGE)
    finally:
        os.close(fd)
    return ""


def _user_namespaces(place: str) -> str:
    fd = os.open(place, sys.O_PATH)
    try:
        why = namespaces.user_namespace_trouble(fd)
    finally:
        os.close(fd)
    if why:
        raise OSError(0, why)
    return "root does without" if os.geteuid() == 0 else ""


def _seccomp(place: str) -> str:
    actions = [action for action in seccomp.ACTIONS if action != "off" and seccomp.available(action)]
    if not actions:
        raise OSError(0, f"no filters on this kernel, or none known for {sys.MACHINE}")
    return ", ".join(actions)


def _landlock(place: str) -> str:
    version = landlock.abi()
    if version < landlock.LEAST_ABI:
        raise OSError(
            0, f"ABI {version}; {landlock.LEAST_ABI} is needed (Linux 5.19)" if version else "off, or not built in"
        )
    return f"ABI {version}"


def _fd_limits(place: str) -> str:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        raise OSError(0, f"{soft}, at most {hard}")
    return f"{soft}, at most {hard}"


def _ptrace(place: str) -> str:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            scope = file.read().strip()
    except FileNotFoundError:
        scope = "0"
    if scope == "3" or (scope == "2" and os.geteuid() != 0 and 19 not in caps.effective_set()):
        raise OSError(0, f"scope {scope}")
    return f"scope {scope}"


_FEATURES: tuple[tuple[str, Callable[[str], str], str, bool], ...] = (
    ("/proc", _proc, "fds cannot be reopened: nothing can be served", True),
    ("statx", _statx, "no attributes: nothing can be served", True),
    ("utimensat by fd", _utimensat, "nothing: times are set through /proc/self/fd (Linux 5.8 has it)", False),
    ("memfd sealing", _memfd, "no channels, without which runsc mounts nothing", True),
    ("futex", _futex, "no channels, without which runsc mounts nothing", True),
    ("renameat2", _renameat2, "no exchange, no-replace or whiteout in a rename, here or on this file system", False),
    ("user namespaces", _user_namespaces, "an unprivileged server has no root and no namespaces of its own", False),
    ("seccomp", _seccomp, posture.LOSSES["seccomp"], False),
    ("landlock", _landlock, posture.LOSSES["landlock"], False),
    ("fd limit", _fd_limits, "few clients, or few open files: raise it with ulimit -Hn or LimitNOFILE=", False),
    ("ptrace", _ptrace, "`gofer runsc` cannot redirect; register gofer by another way (docs/runsc.md)", False),
)
