"""The mount process: reaches the server, mounts, and answers the kernel until it is unmounted."""

from __future__ import annotations

import _thread
import contextlib
import gc
import os
import resource
import stat
from errno import ENOTDIR
from typing import NamedTuple

from gofer import Failure, failure, wire
from gofer.client.pool import Pool
from gofer.client.reach import reach
from gofer.client.transport import Lost
from gofer.client.tree import Tree
from gofer.fuse import device, kernel
from gofer.fuse.again import Again
from gofer.fuse.crew import WRITE_SIZE, Crew
from gofer.fuse.state import FileSystem, Options
from gofer.procself import make_room, set_limit
from gofer.sys import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from socket import socket
    from typing import Any, Callable, NoReturn

    from gofer.client.address import Address
    from gofer.client.client import Client

_FAR_AHEAD = 8 << 20  # bytes on their way while a file of a far server is read: a line of 400 MB/s that takes 20 ms
_YOUNG = 20_000  # objects after which those without an owner are looked for: nodes never are, and there are many
_M_MMAP_THRESHOLD, _LARGE = -3, 1 << 18  # mallopt(3), bytes
_LAST = 2.0  # seconds for what was sent to be answered, once nothing is mounted any more


class Plan(NamedTuple):
    """What is to be mounted where. words, flags: of mount(2). stays: in the foreground, where it may say something.

    seccomp: one of jail.seccomp.ACTIONS.
    """

    address: Address
    place: str
    source: str
    options: Options
    words: tuple[str, ...]
    flags: int
    stays: bool
    seccomp: str
    ssh: Any = None
    reconnect: bool = False


def run(plan: Plan, mounted: Callable[[str], None], log: Callable[[str], None], dial: socket | None) -> NoReturn:
    """mounted(number): called once it can be used, with the number of what is mounted, and the pid of ssh where there is one. The
    process ends here, with status 0.

    dial: the guard's socket, where the server is to be taken up again; see again.py.
    """
    with _reached(plan) as pool:
        assert isinstance(pool, Pool)
        root = _root(pool, plan)
        kind = stat.S_IFMT(int.from_bytes(root[1][28:30], "little"))
        device.check_place(plan.place, kind)
        fs = FileSystem(pool, plan.options, root)
        fs.device = device.mount(plan.place, plan.source, kind, list(plan.words), plan.flags)
        try:
            device.shake_hands(fs)
            number = device.number_at(plan.place)
            device.read_ahead(number, WRITE_SIZE if fs.behind is None else _FAR_AHEAD)  # a request, of the largest
        except BaseException:
            device.unmount(plan.place, lazy=True)
            raise
        pool.wait_for_ever()
        crew = Crew(fs, log)
        set_limit(resource.RLIMIT_NOFILE, *[resource.getrlimit(resource.RLIMIT_NOFILE)[1]] * 2)  # each open file is one here
        make_room(fs.device)
        gc.collect()
        gc.freeze()
        gc.set_threshold(_YOUNG, 50, 50)
        _give_back()
        mounted(f"{number} {pool.carrier}")
        if not plan.stays:
            leave()
        ioctls = (kernel.DEV_IOC_BACKING_OPEN, kernel.DEV_IOC_BACKING_CLOSE)
        if dial is not None:
            path = b"" if plan.address.remote else plan.address.path.strip(b"/")
            again = Again(fs, crew, path, dial, log)
            crew.patient = plan.address.remote
        from gofer.jail.enter import confine_mount  # only now, as it is a tenth of what who mounts waits for

        confine_mount(plan.seccomp, fs.passthrough, ioctls)
        if dial is not None:
            _thread.start_new_thread(again.run, ())
        crew.run()
        if fs.behind is not None:
            fs.behind.drain(_LAST)
        os._exit(0)  # threads may be at something still, and what is closed here would be taken from under them


def _give_back() -> None:
    """What tables of nodes leave behind when they grow goes back to the host, not to the heap: once it has seen large ones go,
    glibc keeps them there.
    """
    with contextlib.suppress(AttributeError):  # another libc
        libc["mallopt"](_M_MMAP_THRESHOLD, _LARGE)


def _reached(plan: Plan) -> AbstractContextManager[Client]:
    if not plan.address.remote:
        return reach(plan.address.server, plan.options.timeout, kind=Pool)
    from gofer.client import remote
    from gofer.client.stream import Stream

    path = os.fsdecode(plan.address.path) or "."
    return remote.reach(plan.address.server, path, plan.options.timeout, plan.ssh, kind=Stream)


def leave() -> None:
    """From now on nothing is said, and nobody's terminal, pipe or directory is kept."""
    os.chdir("/")
    try:
        os.setsid()
    except PermissionError:  # it leads a session already
        pass
    nowhere = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(nowhere, fd)
    os.close(nowhere)


def _root(pool: Pool, plan: Plan) -> tuple[int, bytes]:
    """The control FD of what is to be mounted, and its struct statx."""
    try:
        path = b"" if plan.address.remote else plan.address.path.strip(b"/")  # of a far server it is the root
        node = Tree(pool).resolve(path) if path else pool.root
        raw = pool.ask(wire.FSTAT, wire.FDID.bytes(node.fd))
    except Lost:
        raise
    except OSError as error:
        raise failure(f"cannot mount {os.fsdecode(plan.address.shown)}", error, "gofer ls shows what is there") from None
    if not (stat.S_ISDIR(node.stat.mode) or stat.S_ISREG(node.stat.mode)):
        raise Failure(f"cannot mount {os.fsdecode(plan.address.shown)}: {os.strerror(ENOTDIR)}; give a directory")
    return node.fd, raw
