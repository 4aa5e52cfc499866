"""gofer: holds the host's files on behalf of a sandbox, over LISAFS."""

from __future__ import annotations

from errno import EAGAIN, EDQUOT, EMFILE, ENFILE, ENOMEM, ENOSPC, ENOSYS, ENOTCONN, ESTALE

__version__ = "0.1.0"


class Failure(Exception):
    """What ends a command with exit status 1 and this text as its one line on stderr: the cause, then the remedy."""


def failure(what: str, error: OSError, remedy: str = "") -> Failure:
    """What could not be done, why not, and what to do about it.

    Where the errno tells by itself what the host is short of, that is the remedy, whatever was tried.
    """
    remedy = _REMEDIES.get(error.errno or 0) or remedy or "`gofer doctor` says what this host lacks"
    return Failure(f"{what}: {error.strerror or error}; {remedy}")


def quoted(word: str) -> str:
    """For a shell."""
    plain = word.translate(dict.fromkeys(map(ord, "/._-+,:@%="))).isalnum() or word in (".", "..")
    return word if plain else "'" + word.replace("'", "'\\''") + "'"


# Here, because at the time of the failure there may be no fd left to import it by, and no file to be seen.
_REMEDIES = {
    EAGAIN: "raise the limit of processes (ulimit -u; TasksMax= of a systemd unit; pids.max of the cgroup)",
    EDQUOT: "the quota there is used up: make room",
    EMFILE: "raise the limit of open files (ulimit -Hn; LimitNOFILE= of a systemd unit)",
    ENFILE: "the host has too many files open: raise fs.file-max, or close some",
    ENOMEM: "there is too little memory, or room in a limit on it (ulimit -v, memory.max of the cgroup)",
    ENOSPC: "the file system, or a limit of the kernel (/proc/sys/user), is full: make room",
    ENOSYS: "this kernel, or a filter around this process, does not have the call: `gofer doctor` says what else is missing",
    ENOTCONN: "the server of that file system (FUSE) has ended: unmount it (fusermount -u), or start it again",
    ESTALE: "it was replaced while the server started, or its file server has forgotten it: try again",
}
