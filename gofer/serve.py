"""`gofer serve`: from options to a running server, and down again.

Everything that can fail because of what was asked for fails before the first client is served, in one line.
"""

from __future__ import annotations

import gc
import os
import stat
from _signal import SIG_DFL, SIGCHLD, SIGHUP, SIGINT, SIGTERM, set_wakeup_fd, signal
from _socket import AF_UNIX, SO_ACCEPTCONN, SOCK_STREAM, SOL_SOCKET, socket
from errno import EADDRINUSE, ECONNREFUSED, ENOENT

from gofer import Failure, __version__, fds
from gofer.connection import Export, Options
from gofer.log import Log
from gofer.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any

_PATH_MOST = 107  # bytes of a socket's path (unix(7))
_BACKLOG = 128


def serve(options: Any, prog: str) -> int:
    """Serve as the command line says; prog: how the user called us. Returns the exit status: 0, or that of the command behind `--`."""
    log = Log("warning" if options.quiet and options.log_level == "info" else options.log_level, options.log_format)
    root, kind = _open_root(options.path)
    export = Export(root, _export_options(options))
    server = Server(log, max_connections=options.max_connections)
    listening = None
    try:
        activated = _activated()
        for number in options.fd or ():
            server.add(_inherited(number), export)
        for sock in activated:
            if sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN):
                server.listen(sock, export, _allowed(options))
            else:
                server.add(sock, export)
        if options.socket or options.command or not (options.fd or activated):
            listening = _Listening(options)
            server.listen(listening.socket, export, _allowed(options))
        _announce(log, options, prog, kind, listening, len(options.fd or ()) + len(activated))
        return _run(server, options, listening)
    finally:
        if listening is not None:
            listening.remove()


def _run(server: Server, options: Any, listening: _Listening | None) -> int:
    command = None
    if options.command:
        assert listening is not None
        command = _Command(options.command, listening.path)
    os.umask(0)
    fds.pin_proc()
    limit = fds.set_fd_limit(options.fd_limit)
    if options.fd_limit and limit < options.fd_limit:
        raise Failure(f"--fd-limit {options.fd_limit} is above the hard limit of {limit}: raise that (ulimit -Hn), or ask for less")
    stops = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal stops
        if command is not None and command.on_signal(number):
            return
        stops += 1
        if stops > 1:
            if listening is not None:
                listening.remove()
            os._exit(1)
        server.stop()

    for number in (SIGINT, SIGTERM, SIGHUP):
        signal(number, on_signal)
    if command is not None:
        signal(SIGCHLD, lambda number, frame: server.stop() if command.ended() else None)
        if command.ended():
            server.stop()
    set_wakeup_fd(server.wake_fd, warn_on_full_buffer=False)
    gc.collect()
    gc.freeze()  # what is alive now lives as long as the server: no collection needs to look at it again
    try:
        server.run()
    finally:
        set_wakeup_fd(-1)
        for number in (SIGINT, SIGTERM, SIGHUP, SIGCHLD):
            signal(number, SIG_DFL)
    return 0 if command is None else command.status()


class _Command:
    """The command behind `--`: it runs as long as it likes, and the server as long as it does."""

    def __init__(self, words: list[str], socket_path: str) -> None:
        import subprocess

        try:
            self._child: subprocess.Popen[bytes] = subprocess.Popen(words, env={**os.environ, "GOFER_SOCKET": socket_path})
        except OSError as e:
            raise Failure(f"cannot run {words[0]}: {e.strerror}; give a command that exists after --") from None

    def ended(self) -> bool:
        return self._child.poll() is not None

    def on_signal(self, number: int) -> bool:
        """Whether the signal is the command's business: the terminal sends it Ctrl-C itself, the rest is passed on."""
        if self.ended():
            return False
        if number != SIGINT:
            self._child.send_signal(number)
        return True

    def status(self) -> int:
        """The exit status, 128 and the number for a signal, as a shell has it."""
        code = self._child.wait()
        return code if code >= 0 else 128 - code


class _Listening:
    """The socket file of `--socket`."""

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
            raise Failure(f"cannot make the socket {self.path}: {e.strerror}; give a --socket in a directory you can write to") from None
        finally:
            os.umask(before)
        self._identity = _identity(self.path)
        try:
            if options.group is not None:
                os.chown(self.path, -1, _group_id(options.group))
            self.socket.listen(_BACKLOG)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Remove the socket file, unless another has taken its place."""
        try:
            if _identity(self.path) == self._identity:
                os.unlink(self.path)
        except OSError:
            pass


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


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
        raise Failure(f"{path} is in use: {os.strerror(EADDRINUSE).lower()}; another server listens there, give another --socket")
    finally:
        probe.close()
    try:
        os.unlink(path)
    except OSError as e:
        raise Failure(f"cannot replace the stale socket {path}: {e.strerror}; remove it, or give another --socket") from None


def _group_id(group: str) -> int:
    if group.isdigit():
        return int(group)
    import grp

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Failure(f"there is no group {group}; give --group a name from /etc/group, or a number") from None


def _open_root(path: str) -> tuple[int, str]:
    """The O_PATH fd of what is served, and what it is."""
    try:
        root = os.open(path, fds.O_PATH_FLAGS & ~os.O_NOFOLLOW)
    except OSError as e:
        raise Failure(f"cannot serve {path}: {e.strerror}; give a directory or file that exists and you may reach") from None
    mode = os.stat(f"/proc/self/fd/{root}").st_mode
    if stat.S_ISDIR(mode):
        return root, "directory"
    if stat.S_ISREG(mode):
        return root, "file"
    os.close(root)
    raise Failure(f"cannot serve {path}: neither a directory nor a regular file")


def _export_options(options: Any) -> Options:
    return Options(
        read_only=options.read_only, host_uds=options.host_uds, host_fifo=options.host_fifo, xattrs=options.xattrs,
        char_devices=options.char_devices, donate=options.donate == "yes", channels=options.channels,
    )  # fmt: skip


def _allowed(options: Any) -> frozenset[int]:
    return frozenset(options.allow_uid or (0, os.getuid()))


def _inherited(number: int) -> socket:
    """The connected stream socket that came as fd `number`."""
    try:
        sock = socket(fileno=number)
        if sock.family != AF_UNIX or sock.type != SOCK_STREAM:
            sock.detach()
            raise Failure(f"fd {number} is not a Unix stream socket; --fd takes the number of a connected one")
        sock.getpeername()
    except OSError as e:
        raise Failure(f"fd {number} cannot be served: {e.strerror}; --fd takes the number of a connected socket, inherited") from None
    os.set_inheritable(number, False)
    return sock


def _activated() -> list[socket]:
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
            raise Failure(f"LISTEN_FDS names fd {number}, which is no socket: {e.strerror}; check the .socket unit") from None
        if sock.family != AF_UNIX or sock.type != SOCK_STREAM:
            raise Failure(f"LISTEN_FDS names fd {number}, which is not a Unix stream socket; use ListenStream=/path in the .socket unit")
        os.set_inheritable(number, False)
        sockets.append(sock)
    return sockets


def _announce(log: Log, options: Any, prog: str, kind: str, listening: _Listening | None, inherited: int) -> None:
    where = [listening.path] if listening else []
    if inherited:
        where.append(f"{inherited} inherited socket{'s' * (inherited > 1)}")
    access = "read-only" if options.read_only else "read-write"
    log.info(f"{__version__} serves the {kind} {os.path.abspath(options.path)} {access} on {' and '.join(where)}")
    uds, fifo, devices = options.host_uds, options.host_fifo, options.char_devices
    log.info(f"host sockets {uds}, FIFOs {fifo}, char devices {devices}, xattrs {options.xattrs}, fd donation {options.donate}")
    if listening:
        log.info(f"look at it with: {prog} ls {listening.path}")
