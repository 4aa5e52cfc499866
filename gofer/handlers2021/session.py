"""Mount, Channel, Close, and what 2021 does not know."""

from __future__ import annotations

import os
from errno import EBUSY, EINVAL, ELOOP, ENOENT, EOPNOTSUPP
from stat import S_IFLNK

from gofer import wire
from gofer.handlers import session
from gofer.handlers.walk import along
from gofer.server.comm import check_name
from gofer.server.fds import O_PATH_FLAGS, reopen
from gofer.server.kernelfs import KIND
from gofer.server.places import identity
from gofer.wire2021 import MountResp, WalkResp, take_fdids, take_last

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from gofer.server.comm import Communicator
    from gofer.server.fds import ControlFD

MESSAGES = wire.FREMOVEXATTR + 1


def mount(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """The path is a name inside what is served. The root that it leads to is donated to nobody: directfs came later."""
    path = take_last(req, 0)
    if path[:1] != b"/":
        raise OSError(EINVAL, "the mount path is not absolute")
    names = [name for name in path.split(b"/") if name]
    for name in names:
        check_name(name)
    places = comm.table.places
    with places.lock:
        if places.mounted:
            raise OSError(EBUSY, "mounted already")
        root = _find(comm, names, reply)
        fdid = comm.next_id()
        places.add(fdid, None, b"", b"", identity(comm.statx_bytes))
        comm.control[fdid] = root
        places.mounted = True
    MountResp.pack(reply, 0, fdid, comm.statx_bytes, wire.MAX_MESSAGE_SIZE)
    # Flush is answered, but not offered, as today.
    mids = [mid for mid in range(1, MESSAGES) if mid != wire.FLUSH]
    at = MountResp.size
    for number in (len(mids), *mids):
        wire.Count.pack(reply, at, number)
        at += wire.Count.size
    return at


def _find(comm: Communicator, names: list[bytes], reply: memoryview) -> ControlFD:
    """What has that path in the export; `comm.statx_bytes` then holds its statx. Nothing is followed, nor at the end."""
    allowed = comm.export.names
    root = comm.adopt(reopen(comm.export.root.host, O_PATH_FLAGS & ~os.O_NOFOLLOW), within=0)
    if not names:
        return root
    if allowed is not None:
        if names not in [[part for part in each.split(b"/") if part] for each in allowed]:
            raise OSError(ENOENT, "this connection serves another mount")
        return root
    found: dict[int, ControlFD] = {}
    along(comm, root, names, reply, WalkResp, found)
    node = [root, *found.values()][-1]
    if node.kind & KIND == S_IFLNK:
        raise OSError(ELOOP, "a symlink in the mount path")
    if len(found) < len(names):
        raise OSError(ENOENT, "nothing there to be mounted")
    return node


def channel(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    if not comm.table.places.mounted:
        raise OSError(EINVAL, "nothing is mounted yet")
    return session.channel(comm, req, reply)


def close(comm: Communicator, req: memoryview, reply: memoryview) -> int:
    """An FD and its place go together; its host fd after that, as a close may take its time."""
    fdids, places = take_fdids(req), comm.table.places
    with places.lock:
        for fdid in fdids:
            places.forget(fdid)
        gone = [comm.control.pop(fdid, None) for fdid in fdids]
    del gone
    for fdid in fdids:
        comm.table.close(fdid)
    return 0


def unknown(comm: Communicator, req: memoryview, reply: memoryview) -> NoReturn:
    raise OSError(EOPNOTSUPP, "no such message in 2021")
