"""The sockets of `gofer serve`: the file it listens on, and those it inherits. What cannot be had is a Failure, in one line."""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_STREAM, socket
from errno import EADDRINUSE, ECONNREFUSED, ENOENT

from gofer import Failure
from gofer.sys import O_PATH
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PATH_MOST = 107  # bytes of a socket's path (unix(7))
_BACKLOG = 128


class Listening:
    """The socket file of `--socket`. directory: an O_PATH fd on where it lies, for a process whose root has changed."""

    def __init__(self, options: Any) -> None:
        self.path = options.socket or _default_path()
        if len(os.fsencode(self.path)) > _PATH_MOST:
            raise Failure(f"the socket's path is longer than {_PATH_MOST} bytes: {self.path}; give a shorter --socket")
        self.socket = socket(AF_UNIX, SOCK_STREAM)
        _clear_stale(self.path)
        before = os.umask(0o777 & ~options.mode)
        try:
            self.socket.bind(self.path)
        except OSError as e:
            raise Failure(
                f"cannot make the socket {self.path}: {e.strerror}; give a --socket in a directory you can write to"
            ) from None
        finally:
            os.umask(before)
        head, self._name = os.path.split(self.path)
        self.directory = os.open(head or ".", O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._identity = self._identify()
        try:
            if options.group is not None:
                os.chown(self.path, -1, _group_id(options.group))
            self.socket.listen(_BACKLOG)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the socket file, unless another has taken its place. Idempotent."""
        if self.directory < 0:
            return
        try:
            if self._identify() == self._identity:
                os.unlink(self._name, dir_fd=self.directory)
        except OSError:
            pass
        self.forget()

    def forget(self) -> None:
        """It is another process's from now on."""
        os.close(self.directory)
        self.directory = -1

    def _identify(self) -> tuple[int, int]:
        found = os.stat(self._name, dir_fd=self.directory, follow_symlinks=False)
        return found.st_dev, found.st_ino


def inherited(number: int) -> socket:
    """The connected stream socket that came as fd `number`."""
    try:
        sock = socket(fileno=number)
        if sock.family != AF_UNIX or sock.type != SOCK_STREAM:
            sock.detach()
            raise Failure(f"fd {number} is not a Unix stream socket; --fd takes the number of a connected one")
        sock.getpeername()
    except OSError as e:
        raise Failure(
            f"fd {number} cannot be served: {e.strerror}; --fd takes the number of a connected socket, inherited"
        ) from None
    os.set_inheritable(number, False)
    return sock


def activated() -> list[socket]:
    """The sockets systemd passed (sd_listen_fds(3)); the variables are not passed on."""
    count, owner = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if owner != str(os.getpid()) or not count.isdigit():
        return []
    sockets = []
    for number in range(3, 3 + int(count)):
        try:
            sock = socket(fileno=number)
        except OSError as e:
            raise Failure(
                f"LISTEN_FDS names fd {number}, which is no socket: {e.strerror}; check the .socket unit"
            ) from None
        if sock.family != AF_UNIX or sock.type != SOCK_STREAM:
            raise Failure(
                f"LISTEN_FDS names fd {number}, which is not a Unix stream socket; use ListenStream=/path in the .socket unit"
            )
        os.set_inheritable(number, False)
        sockets.append(sock)
    return sockets


def _default_path() -> str:
    directory = os.environ.get("XDG_RUNTIME_DIR") or "/run"
    if not os.access(directory, os.W_OK):
        raise Failure(f"cannot make a socket in {directory}; say where with --socket PATH")
    return f"{directory}/gofer-{os.getpid()}.sock"


def _clear_stale(path: str) -> None:
    """Remove a socket file nobody listens on; refuse whatever else is in the way."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise Failure(f"{path} exists and is not a socket; give another --socket, or remove it")
    except FileNotFoundError:
        return
    except OSError as e:
        raise Failure(f"cannot look at {path}: {e.strerror}; give another --socket") from None
    probe = socket(AF_UNIX, SOCK_STREAM)
    try:
        probe.connect(path)
    except OSError as e:
        if e.errno == ENOENT:
            return
        if e.errno != ECONNREFUSED:
            raise Failure(f"{path} is a socket that cannot be tried: {e.strerror}; give another --socket") from None
    else:
        raise Failure(
            f"{path} is in use: {os.strerror(EADDRINUSE).lower()}; another server listens there, give another --socket"
        )
    finally:
        probe.close()
    try:
        os.unlink(path)
    except OSError as e:
        raise Failure(
            f"cannot replace the stale socket {path}: {e.strerror}; remove it, or give another --socket"
        ) from None


def _group_id(group: str) -> int:
    if group.isascii() and group.isdigit() and int(group) < NO_ID:
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Failure(f"there is no group {group}; give --group a name from /etc/group, or a number") from None
