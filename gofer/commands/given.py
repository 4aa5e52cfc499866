"""What `gofer serve` is given: a tree, a limit on open files, and inherited fds. What cannot be had is a Failure, in one line."""

from __future__ import annotations

import os
import stat
from resource import RLIMIT_NOFILE, getrlimit

from gofer import Failure, failure, procself
from gofer.server import fds, kernelfs


def open_root(path: str, kernel_files: bool = False) -> tuple[int, str, bool]:
    """The O_PATH fd of what is served, what it is, and whether it can be written to where it is mounted."""
    try:
        root = os.open(path, fds.O_PATH_FLAGS & ~os.O_NOFOLLOW)
        found = os.fstat(root)
    except OSError as e:
        raise failure(
            f"cannot serve {path or repr(path)}", e, "give a directory or file that exists and you may reach"
        ) from None
    kind = {stat.S_IFDIR: "directory", stat.S_IFREG: "file"}.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        raise Failure(f"cannot serve {path}: neither a directory nor a regular file; give one of these")
    if kind == "directory" and not found.st_nlink:
        raise Failure(f"cannot serve {path}: the directory was removed; give one that exists")
    if kernelfs.judge_root(root, kernel_files) & kernelfs.CLOSED:
        raise Failure(f"cannot serve {path}: the kernel makes it up; see --kernel-files in SECURITY.md")
    return root, kind, writable(root)


def writable(root: int) -> bool:
    """Whether its mount is not read-only."""
    try:
        return not os.fstatvfs(root).f_flag & os.ST_RDONLY
    except OSError:  # a FUSE server that does not know the request
        return True


def limit_fds(asked: int | None, clients: int) -> int:
    hard = getrlimit(RLIMIT_NOFILE)[1]
    if not asked and hard < fds.LEAST:
        raise Failure(
            f"the limit of {hard} open files leaves too few for clients: raise it (ulimit -Hn) to {fds.LEAST} at least"
        )
    if asked and asked < fds.LEAST:
        raise Failure(f"--fd-limit {asked} leaves too few for clients; give at least {fds.LEAST}")
    limit = fds.set_fd_limit(asked, clients)
    if asked and limit < asked:
        raise Failure(
            f"--fd-limit {asked} is above the hard limit of {limit}: raise that (ulimit -Hn), or ask for less"
        )
    return limit


def close_strays(keep: set[int]) -> None:
    """Close every inherited fd that was not handed over: a client could reach what it leads to, or keep it from closing."""
    try:
        own = procself.open_proc()
        numbers = [int(name) for name in os.listdir(own)]
    except OSError as e:
        raise failure("cannot serve without /proc", e, "mount it: mount -t proc proc /proc") from None
    for number in numbers:
        if number not in keep:
            try:
                os.close(number)
            except OSError:  # the listing's own
                pass
