"""Requests of a copy, and what their answers say."""

from __future__ import annotations

import os
import stat as modes
import struct
from errno import EINVAL, EPERM

from gofer import sys, wire
from gofer.client.transport import Lost
from gofer.copy.files import payload_of, written
from gofer.copy.names import possible
from gofer.copy.settle import kept
from gofer.copy.sides import SET_ID, SMALL
from gofer.output import printable
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gofer.client.client import Client
    from gofer.client.replies import Stat
    from gofer.copy.files import FD, RemoteFile
    from gofer.copy.posts import Outcome
    from gofer.copy.sides import Node, Xattrs

OWNER = sys.STATX_UID | sys.STATX_GID
TIMES = sys.STATX_ATIME | sys.STATX_MTIME
NOT_OURS = (EPERM, EINVAL)  # what an owner is that one may not set; EINVAL: none of this user namespace
_NAME_LENGTH = struct.Struct("<25xH")  # of a Dirent


def none_kept(fd: int) -> bool:
    """Whether it has none that a copy keeps."""
    try:
        return not any(kept(os.fsencode(name)) for name in os.listxattr(fd))
    except OSError:
        return False


def listing(node: Node) -> tuple[int, bytes]:
    return wire.FLISTXATTR, wire.FListXattrReq.bytes(node.key.key, 0)


def reading(file: RemoteFile) -> tuple[int, bytes]:
    return wire.PREAD, wire.PReadReq.bytes(0, file.key, file.size or SMALL)


def unwritten(outcome: Outcome, size: int) -> OSError | None:
    try:
        written(outcome, size)
    except OSError as error:
        return error
    return None


def names_in(payload: bytes) -> list[bytes]:
    """Of the answer to a Getdents64."""
    (count,) = wire.Count.read(payload)
    found, at = [], wire.Count.size
    for _ in range(count):
        (size,) = _NAME_LENGTH.unpack_from(payload, at)
        at += wire.Dirent.size
        found.append(payload[at : at + size])
        at += size
    return found


def walks(directory: FD, names: Sequence[bytes]) -> list[tuple[int, bytes]]:
    head = wire.FDID.bytes(directory.key)
    return [(wire.WALK, head + names_of(name)) for name in names]


def everything(stat: Stat) -> int:
    return sys.STATX_MODE | OWNER | TIMES


def setting(fd: int, stat: Stat, mask: int) -> bytes:
    if (stat.uid, stat.gid) == (NO_ID, NO_ID):
        mask &= ~OWNER
    mode = stat.mode & 0o7777
    return wire.SetStatReq.bytes(fd, mask, mode, stat.uid, stat.gid, 0, *stat.atime, *stat.mtime)


def troubles_of(outcome: Outcome) -> list[OSError]:
    """What was to be set and is not; an owner may stay another."""
    try:
        return troubles_told(*wire.SetStatResp.unpack(payload_of(outcome)))
    except OSError as error:
        return [error]


def troubles_told(failed: int, code: int) -> list[OSError]:
    if failed & ~OWNER or failed and code not in NOT_OURS:
        return [OSError(code, os.strerror(code))]
    return []


def set_all(client: Client, fd: int, now: Stat, stat: Stat, xattrs: Xattrs | None) -> list[OSError]:
    """As settle.settle, step by step: owner, xattrs, mode, times. xattrs None: they, and the times, are as they should be."""
    troubles: list[OSError] = []
    if (now.uid, now.gid) != (stat.uid, stat.gid):
        failed, code = client.setstat(fd, OWNER, uid=stat.uid, gid=stat.gid)
        if failed:
            stat = stat._replace(mode=stat.mode & ~SET_ID)
            troubles += [] if code in NOT_OURS else [OSError(code, os.strerror(code))]
    for name, value in (xattrs or {}).items():
        try:
            client.fsetxattr(fd, name, value)
        except Lost:
            raise
        except OSError as error:
            troubles.append(OSError(error.errno, f"xattr {printable(name)}: {error.strerror}"))
    mask = (0 if modes.S_ISLNK(now.mode) else sys.STATX_MODE) | (0 if xattrs is None else TIMES)
    if mask:
        try:
            troubles += troubles_of(client.exchange(wire.SETSTAT, setting(fd, stat, mask)))
        except Lost:
            raise
        except OSError as error:
            troubles.append(error)
    return troubles


def named(name: bytes) -> bool:
    return kept(name) and possible(name)


def name_of(name: bytes) -> bytes:
    return wire.Count.bytes(len(name)) + name


def names_of(name: bytes) -> bytes:
    return b"\1\0" + wire.Count.bytes(len(name)) + name


def names_of_all(names: Sequence[bytes]) -> bytes:
    return b"".join([wire.Count.bytes(len(names)), *map(name_of, names)])
