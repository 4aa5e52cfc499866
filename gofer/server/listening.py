"""The socket file that `gofer serve` listens on: how it comes to its place, and goes.

How it comes to its place
-------------------------
Others may be able to write to the directory where it is to lie, and whatever has a name there can be another thing by the
next call. So the socket is bound in a directory of its own beside its place, mode 0700, which nobody else can enter. There it
gets its group and its mode, and it listens. Then it is moved to its place by a rename that replaces nothing. The place is thus
never taken by a socket that does not listen, and no call but that rename and the removal goes by a name that others can change.

A socket that is in the way is pinned by an fd, and tried: where nobody listens, the two change places, atomically, and what
came out is compared with what was tried. If it is another, some other server was quicker: it gets its place back. (Each of
several that start at once goes on exchanging until it holds its own socket again; the place is then the winner's.)
"""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_STREAM, socket
from errno import EADDRINUSE, EAGAIN, ECONNREFUSED, EEXIST, EINVAL, ENOENT, ENOSYS, EPROTOTYPE

from gofer import Failure, failure
from gofer.sys import O_PATH, RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PATH_MOST = 107  # bytes of a socket's path (unix(7))
_BACKLOG = 128
_DIRECTORY = O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_PINNED = O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TURNS = 100  # after so many it is no other start, but somebody who plays with the name
_ELSEWHERE = "give a --socket in a directory that you can write to, and nobody else"


class Listening:
    """The socket file of `--socket`, which is there from `make` to `remove`.

    path: where it is, absolute where that is not too long. keep: fds by which `remove` finds it, in
    a process whose root has changed.
    """

    def __init__(self, options: Any, group: int = -1) -> None:
        """Find its place, for which a file system may have to be waited for. group: its id; -1: the one that the kernel gives."""
        self._mode, self._group = options.mode, group
        self._folder = ""  # a directory that is made for the socket alone, in that of keep[-1]
        self._identity = (-1, -1)
        self.keep: list[int] = []
        for_command = bool(options.command)
        self._given = self._default_path(for_command) if options.socket is None else options.socket
        self.path = _absolute(self._given, for_command)
        directory, self._name = os.path.split(self._given)
        if self._name in ("", ".", ".."):
            raise Failure(f"{self._given} is a directory; give --socket the name of a file to be made there")
        if self._folder:
            directory = os.path.dirname(directory)
        try:
            self.keep.append(os.open(directory or ".", _DIRECTORY))
        except OSError as e:
            raise failure(f"cannot make the socket {self._given}", e, _ELSEWHERE) from None

    def make(self) -> None:
        """Bind, listen, come to the place. Where that fails, nothing is left behind."""
        try:
            if self._folder:
                os.mkdir(self._folder, 0o700, dir_fd=self.keep[0])
                self.keep.insert(0, os.open(self._folder, _DIRECTORY | os.O_NOFOLLOW, dir_fd=self.keep[0]))
            self.socket = socket(AF_UNIX, SOCK_STREAM)
            self._make()
        except OSError as e:
            self.remove()
            raise failure(f"cannot make the socket {self._given}", e, _ELSEWHERE) from None
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the socket file, unless another has taken its place. Idempotent."""
        if not self.keep:
            return
        try:
            if _identify(self._name, self.keep[0]) == self._identity:
                os.unlink(self._name, dir_fd=self.keep[0])
        except OSError:
            pass
        if self._folder:
            _remove_directory(self._folder, self.keep[-1])
        self.forget()

    def forget(self) -> None:
        """It is another process's from now on."""
        fds, self.keep = self.keep, []
        for fd in fds:
            try:
                os.close(fd)
            except OSError:  # it is closed all the same
                pass

    def _default_path(self, for_command: bool) -> str:
        """In the runtime directory; where that cannot be written to, a command's is in a temporary directory of its own."""
        directory = os.environ.get("XDG_RUNTIME_DIR") or "/run"
        name = f"gofer-{os.getpid()}.sock"
        if os.access(directory, os.W_OK | os.X_OK):
            return f"{directory}/{name}"
        if not for_command:
            raise Failure(f"cannot make a socket in {directory}; say where with --socket PATH")
        self._folder = f"gofer-{os.urandom(8).hex()}"
        return f"{os.environ.get('TMPDIR') or '/tmp'}/{self._folder}/{name}"

    def _make(self) -> None:
        """As the head of this file says."""
        own = f".gofer-{os.urandom(8).hex()}"
        before = os.umask(0o077)
        try:
            os.mkdir(own, 0o700, dir_fd=self.keep[0])
            try:
                private = _open_private(own, self.keep[0])
                try:
                    self._make_in(private)
                finally:
                    os.close(private)
            finally:
                _remove_directory(own, self.keep[0])
        finally:
            os.umask(before)

    def _make_in(self, private: int) -> None:
        inner = self._bind(private)
        try:
            self._adorn(inner, private)
            self.socket.listen(_BACKLOG)
            self._publish(inner, private)
        finally:
            _drop(inner, private)

    def _bind(self, private: int) -> str:
        """Bind in the private directory, under the name that it will have if the address can hold that: ss(8) shows it."""
        for inner in (self._name, "socket"):
            address = f"/proc/self/fd/{private}/{inner}"
            if len(os.fsencode(address)) <= _PATH_MOST:
                break
        self.socket.bind(address)
        return inner

    def _adorn(self, inner: str, private: int) -> None:
        group = self._group
        if group >= 0:
            try:
                os.chown(inner, -1, group, dir_fd=private, follow_symlinks=False)
            except PermissionError as e:
                what = f"cannot give the socket to group {group}"
                raise failure(what, e, "you are no member of it: give --group one of yours, or start as root") from None
        os.chmod(inner, self._mode, dir_fd=private)  # not by the umask, which is the private directory's

    def _publish(self, inner: str, private: int) -> None:
        """Move the socket to its place."""
        mine = _identify(inner, private)
        for _ in range(_TURNS):
            if self._rename(inner, private, RENAME_NOREPLACE) or self._replace_stale(inner, private, mine):
                self._identity = mine
                return
        raise _played_with(self.path)

    def _replace_stale(self, inner: str, private: int, mine: tuple[int, int]) -> bool:
        """Take the place of a socket that nobody listens on; Failure where somebody does. False where to look again."""
        try:
            found = os.open(self._name, _PINNED, dir_fd=self.keep[0])
        except FileNotFoundError:
            return False
        try:
            _check_stale(found, self.path)
            at = os.fstat(found)
            stale = wanted = at.st_dev, at.st_ino
            for _ in range(_TURNS):
                if not self._rename(inner, private, RENAME_EXCHANGE):
                    if wanted == mine:
                        raise _played_with(self.path)
                    return False
                held = _identify(inner, private)
                if held == wanted:
                    break
                wanted = mine
        finally:
            os.close(found)
        if held != stale:
            raise Failure(f"{self.path} is in use: another server was started there; give another --socket")
        return True

    def _rename(self, inner: str, private: int, how: int) -> bool:
        """Between the private directory and the place; False where something, or nothing, is there that was not to be."""
        source, target, place = os.fsencode(inner), os.fsencode(self._name), self.keep[0]
        try:
            renameat2(private, source, place, target, how)
        except OSError as e:
            if e.errno in (EEXIST, ENOENT):
                return False
            if e.errno not in (EINVAL, ENOSYS):
                raise
            # A file system that knows neither way: NFS, and some of FUSE.
            if how == RENAME_EXCHANGE:
                os.unlink(target, dir_fd=place)
                return False
            try:
                os.link(source, target, src_dir_fd=private, dst_dir_fd=place, follow_symlinks=False)
            except FileExistsError:
                return False
        return True


def group_id(group: str) -> int:
    if group.isascii() and group.isdigit() and int(group) < NO_ID:
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Failure(f"there is no group {group}; give --group a name from /etc/group, or a number") from None


def _absolute(path: str, for_command: bool) -> str:
    """The path as any process may use it: absolute. One too long for that stays as it is, where no command depends on it."""
    if len(os.fsencode(path)) > _PATH_MOST:
        raise Failure(f"the socket's path is longer than {_PATH_MOST} bytes: {path}; give a shorter --socket")
    if path.startswith("/"):
        return path
    try:
        full = os.path.join(os.getcwd(), path.removeprefix("./"))
    except OSError as e:
        raise failure(f"cannot make the socket {path} in this directory", e, "change to one that exists") from None
    if len(os.fsencode(full)) <= _PATH_MOST:
        return full
    if for_command:
        raise Failure(f"the socket's path is longer than {_PATH_MOST} bytes: {full}; give a shorter --socket")
    return path


def _open_private(name: str, directory: int) -> int:
    """An fd on the directory just made; what others could have put in its place by now is told by who may enter it."""
    private = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    found = os.fstat(private)
    if found.st_uid == os.geteuid() and not found.st_mode & 0o077:
        return private
    os.close(private)
    raise Failure(f"cannot make the socket: its directory gives what is made there to others; {_ELSEWHERE}")


def _check_stale(found: int, path: str) -> None:
    """Failure, unless this O_PATH fd is a socket file that nobody listens on."""
    if not stat.S_ISSOCK(os.fstat(found).st_mode):
        raise Failure(f"{path} exists and is not a socket; give another --socket, or remove it")
    probe = socket(AF_UNIX, SOCK_STREAM)
    try:
        probe.setblocking(False)
        probe.connect(f"/proc/self/fd/{found}")
    except OSError as e:
        if e.errno == ECONNREFUSED:
            return
        if e.errno not in (EAGAIN, EPROTOTYPE):  # a full queue; a datagram socket
            raise Failure(f"{path} is a socket that cannot be tried: {e.strerror}; give another --socket") from None
    finally:
        probe.close()
    raise Failure(
        f"{path} is in use: {os.strerror(EADDRINUSE).lower()}; another server listens there, give another --socket"
    )


def _played_with(path: str) -> Failure:
    return Failure(f"{path} changes all the time; {_ELSEWHERE}")


def _identify(name: str, directory: int) -> tuple[int, int]:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return found.st_dev, found.st_ino


def _drop(inner: str, private: int) -> None:
    """Remove what is left in the private directory: our socket, or the dead one it took the place of."""
    try:
        if stat.S_ISSOCK(os.stat(inner, dir_fd=private, follow_symlinks=False).st_mode):
            os.unlink(inner, dir_fd=private)
    except OSError:
        pass


def _remove_directory(name: str, directory: int) -> None:
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError:  # somebody who may write there has moved it: it is his
        pass
