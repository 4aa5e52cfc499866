"""Owner and mode of a file by its O_PATH fd: what SetStat and the creating messages share; which xattrs an export shows."""

from __future__ import annotations

import stat
import struct
from errno import EINVAL, ENOSYS, EPERM, ESTALE

from gofer import sys
from gofer.procself import proc_path
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator, Options
    from gofer.server.fds import ControlFD

_read_access = struct.Struct("=16xIIIH").unpack_from  # stx_nlink, stx_uid, stx_gid, stx_mode
_without: list[str] = []  # what this kernel turned out to lack
_PRIVILEGED = (b"security.", b"trusted.")


def shows_xattr(options: Options, name: bytes) -> bool:
    return options.xattrs == "all" or (options.xattrs == "user" and not name.startswith(_PRIVILEGED))


def drop_fsetid() -> None:
    """Lower CAP_FSETID in the calling thread (and in those it starts): with it, a write would keep a file's set-id bits.

    A server that is root would else leave a set-user-id program set-user-id after the sandbox has rewritten it
    (capabilities(7); CVE-2021-20263). `chmod` raises it again where it is needed.
    """
    sys.thread_set_effective(sys.CAP_FSETID, False)


def chmod(host: int, mode: int) -> None:
    """chmod(2) of the inode of an O_PATH fd that is not a symlink; set-group-id also where the group is not ours."""
    raised = False
    if mode & stat.S_ISGID:
        try:
            sys.thread_set_effective(sys.CAP_FSETID, True)
            raised = True
        except OSError:  # not permitted to us: then the kernel decides
            pass
    try:
        if _without or sys.fchmodat2(host, b"", mode, sys.AT_EMPTY_PATH):
            _chmod_otherwise(host, mode)
    finally:
        if raised:
            sys.thread_set_effective(sys.CAP_FSETID, False)


def _chmod_otherwise(host: int, mode: int) -> None:
    """Where fchmodat2(2) on the fd itself has failed: before Linux 6.6 there is none, and a filter may say EPERM."""
    if not _without:
        if sys.get_errno() not in (ENOSYS, EPERM):
            sys.raise_errno()
        if sys.get_errno() == ENOSYS:
            _without.append("fchmodat2")
    sys.fchmodat(sys.AT_FDCWD, proc_path(host), mode)


def chown(host: int, uid: int, gid: int) -> None:
    """chown(2) of the inode of an O_PATH fd, symlinks included. NO_ID leaves an id as it is."""
    if uid != NO_ID or gid != NO_ID:
        sys.fchownat(host, b"", uid, gid, sys.AT_EMPTY_PATH | sys.AT_SYMLINK_NOFOLLOW)


def set_times(host: int, *times: int) -> None:
    """Seconds and nanoseconds of the access, then of the modification; UTIME_NOW and UTIME_OMIT as in utimensat(2)."""
    set_timespecs(host, sys.timespecs(*times))


def set_timespecs(host: int, times: bytes) -> None:
    """Both as utimensat(2) takes them. On the fd itself, which Linux before 5.8 does not do; there by its magic link."""
    if sys.utimensat(host, b"", times, sys.AT_EMPTY_PATH):
        if sys.get_errno() != EINVAL or sys.utimensat(sys.AT_FDCWD, proc_path(host), times, 0):
            sys.raise_errno()


def settle(comm: Communicator, node: ControlFD, mode: int, uid: int, gid: int) -> None:
    """Give a file just made its owner and then its set-id bits, which chown clears; `comm.statx_bytes` is made current.

    Owner first: a set-user-id file must never exist under the server's own id. Ids are compared with the file's
    actual ones: in a set-group-id directory the group is not the server's.
    mode: as requested. ESTALE where another process has put a file with more links in its place.
    """
    links, owner, group, now = _read_access(comm.statx_bytes)
    if uid != owner and uid != NO_ID or gid != group and gid != NO_ID:
        if node.kind != stat.S_IFDIR and links != 1:
            raise OSError(ESTALE, "replaced while it was made")
        chown(node.host, uid, gid)
        comm.stat(node.host)
        now = _read_access(comm.statx_bytes)[3]
    if mode & 0o6000 & ~now and node.kind != stat.S_IFLNK:
        chmod(node.host, (now | mode & 0o6000) & 0o7777)
        comm.stat(node.host)
