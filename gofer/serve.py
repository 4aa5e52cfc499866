"""`gofer serve`: from options to a running server, and down again.

Everything that can fail because of what was asked for fails before the first client is served, in one line.
"""

from __future__ import annotations

import gc
import os
import stat
from _signal import (  # `signal` adds enums: 2 ms
    SIG_BLOCK,
    SIG_DFL,
    SIG_SETMASK,
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGTERM,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
)
from _socket import AF_UNIX, SO_ACCEPTCONN, SOCK_STREAM, SOL_SOCKET, socket
from errno import EADDRINUSE, ECONNREFUSED, ENOENT
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

from gofer import Failure, __version__, fds, jail
from gofer.connection import Export, Options
from gofer.log import Log
from gofer.posture import Posture
from gofer.server import Server
from gofer.supervisor import Charge
from gofer.sys import O_PATH
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from typing import Any, Callable

_STOPPING = (SIGINT, SIGTERM, SIGHUP)
_PATH_MOST = 107  # bytes of a socket's path (unix(7))
_BACKLOG = 128
_OVERFLOW_UID = 65534  # what a user namespace shows of users it does not know (user_namespaces(7))


def serve(options: Any, prog: str) -> int:
    """Serve as the command line says; returns the exit status: 0, or that of the command behind `--`.

    prog: how the user called us.
    """
    before = pthread_sigmask(SIG_BLOCK, _STOPPING)  # they wait until there is something that can be stopped in order
    _close_strays({*range(3), *(options.fd or ())})
    log = Log("warning" if options.quiet and options.log_level == "info" else options.log_level, options.log_format)
    root, kind = _open_root(options.path)
    export = Export(root, _export_options(options))
    server = Server(log, max_connections=options.max_connections, idle_message_timeout=options.idle_message_timeout)
    listening = None
    try:
        allowed = _allowed(options)
        activated = _activated()
        for number in options.fd or ():
            server.add(_inherited(number), export)
        for sock in activated:
            if sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN):
                server.listen(sock, export, allowed)
            else:
                server.add(sock, export)
        if options.socket or options.command or not (options.fd or activated):
            listening = _Listening(options)
            server.listen(listening.socket, export, allowed)
        lines = _announcement(options, prog, kind, listening, len(options.fd or ()) + len(activated))
        policy = jail.Policy(options.jail, options.seccomp, _others_connect(options, bool(activated)))

        def confine(charge: Charge) -> bool:
            posture = _enter_jail(export, policy, charge)
            if posture.overflow_is_root and 0 in allowed:
                allowed.add(_OVERFLOW_UID)
            held, *lacks = posture.lines()
            lines[1] += f"; {held}"
            for line in lines:
                log.info(line)
            for line in lacks:
                log.warning(line)
            return bool(posture.layers)

        return _run(server, options, listening, confine, before)
    finally:
        if listening is not None:
            listening.remove()


def _close_strays(keep: set[int]) -> None:
    """Close every inherited fd that was not handed over: a client could reach what it leads to, or keep it from closing."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS", "").isdigit():
        keep.update(range(3, 3 + int(os.environ["LISTEN_FDS"])))
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number not in keep:
            try:
                os.close(number)
            except OSError:  # the listing's own
                pass


def _run(
    server: Server, options: Any, listening: _Listening | None, confine: Callable[[Charge], bool], unblocked: set[int]
) -> int:
    if options.fd_limit and options.fd_limit < fds.LEAST:
        raise Failure(f"--fd-limit {options.fd_limit} leaves too few for clients; give at least {fds.LEAST}")
    fds_before = getrlimit(RLIMIT_NOFILE)
    limit = fds.set_fd_limit(options.fd_limit, server.most_clients)
    if options.fd_limit and limit < options.fd_limit:
        raise Failure(
            f"--fd-limit {options.fd_limit} is above the hard limit of {limit}: raise that (ulimit -Hn), or ask for less"
        )

    def as_we_were() -> None:
        pthread_sigmask(SIG_SETMASK, unblocked)
        setrlimit(RLIMIT_NOFILE, fds_before)

    charge: Charge = _Charge(listening, options.command, as_we_were)
    os.umask(0)
    if os.geteuid() == 0:
        try:
            os.setgroups(())  # a group of ours must not decide what a file made for somebody else belongs to
        except PermissionError:  # without CAP_SETGID, or in a user namespace that denies it
            pass
    fds.pin_proc()
    fds.enter_proc()
    stops = 0

    def on_signal(number: int, frame: object) -> None:
        nonlocal stops
        if charge.on_signal(number):
            return
        stops += 1
        if stops > 1:
            os._exit(charge.tidy(1))
        server.stop()

    for number in _STOPPING:
        signal(number, on_signal)
    set_wakeup_fd(server.wake_fd, warn_on_full_buffer=False)
    pthread_sigmask(SIG_SETMASK, unblocked)
    gc.freeze()  # what is alive now lives as long as the server: no collection needs to look at it again
    try:
        confined = confine(charge)
    except BaseException:
        charge.on_signal(SIGTERM)  # the command must not outlive a server that never was
        raise
    if confined:  # from here on this is another process, and the charge is the supervisor's
        charge = Charge()
    elif options.command:
        signal(SIGCHLD, lambda number, frame: server.stop() if charge.finished() else None)
        if charge.finished():
            server.stop()
    try:
        server.run()
    finally:
        set_wakeup_fd(-1)
        for number in (*_STOPPING, SIGCHLD):
            signal(number, SIG_DFL)
    return charge.tidy(0)


def _enter_jail(export: Export, policy: jail.Policy, charge: Charge) -> Posture:
    try:
        return jail.enter(export.root.host, export.options, policy, charge)
    except OSError as e:
        raise Failure(f"cannot confine the server: {e.strerror}") from None


class _Charge(Charge):
    """The socket file and the command behind `--`: the supervisor's business, or without a jail the server's own."""

    def __init__(self, listening: _Listening | None, words: list[str], in_command: Callable[[], None]) -> None:
        self._listening = listening
        self._command = None
        if words:
            assert listening is not None
            self._command = _Command(words, listening.path, in_command)
            self.processes = (self._command.pid,)
        if listening is not None:
            self.keep = (listening.directory,)

    def in_server(self) -> None:
        if self._listening is not None:
            self._listening.forget()
        if self._command is not None:
            self._command.forget()

    def on_signal(self, number: int) -> bool:
        return self._command is not None and self._command.on_signal(number)

    def finished(self) -> bool:
        return self._command is not None and self._command.ended()

    def tidy(self, status: int) -> int:
        if self._listening is not None:
            self._listening.remove()
        return status if self._command is None or status else self._command.status()


class _Command:
    """The command behind `--`: it runs as long as it likes, and the server as long as it does."""

    def __init__(self, words: list[str], socket_path: str, in_command: Callable[[], None]) -> None:
        """in_command(): called in its process, before it is what it is to be."""
        import subprocess

        try:
            self._child: subprocess.Popen[bytes] = subprocess.Popen(
                words,
                env={**os.environ, "GOFER_SOCKET": socket_path},
                preexec_fn=in_command,
            )
        except OSError as e:
            raise Failure(f"cannot run {words[0]}: {e.strerror}; give a command that exists after --") from None

    @property
    def pid(self) -> int:
        return self._child.pid

    def forget(self) -> None:
        """It is another process's from now on."""
        self._child.returncode = 0  # else Popen.__del__ waits for it

    def ended(self) -> bool:
        return self._child.poll() is not None

    def on_signal(self, number: int) -> bool:
        """Whether the signal is the command's business: the terminal sends it Ctrl-C itself, the rest is passed on."""
        if self.ended():
            return False
        if number not in (SIGINT, SIGCHLD):
            self._child.send_signal(number)
        return True

    def status(self) -> int:
        """The exit status, 128 and the number for a signal, as a shell has it."""
        code = self._child.wait()
        return code if code >= 0 else 128 - code


class _Listening:
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


def _open_root(path: str) -> tuple[int, str]:
    """The O_PATH fd of what is served, and what it is."""
    try:
        root = os.open(path, fds.O_PATH_FLAGS & ~os.O_NOFOLLOW)
    except OSError as e:
        raise Failure(
            f"cannot serve {path}: {e.strerror}; give a directory or file that exists and you may reach"
        ) from None
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


def _allowed(options: Any) -> set[int]:
    return set(options.allow_uid or (0, os.getuid()))


def _others_connect(options: Any, activated: bool) -> bool:
    """Whether others than this user and root may get as far as to be asked for their user id."""
    others = set(options.allow_uid or ()) - {0, os.getuid()}
    return bool(others) or options.group is not None or bool(options.mode & 0o077) or activated


def _inherited(number: int) -> socket:
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


def _announcement(options: Any, prog: str, kind: str, listening: _Listening | None, inherited: int) -> list[str]:
    where = [listening.path] if listening else []
    if inherited:
        where.append(f"{inherited} inherited socket{'s' * (inherited > 1)}")
    access = "read-only" if options.read_only else "read-write"
    uds, fifo, devices = options.host_uds, options.host_fifo, options.char_devices
    lines = [
        f"{__version__} serves the {kind} {os.path.abspath(options.path)} {access} on {' and '.join(where)}",
        f"host sockets {uds}, FIFOs {fifo}, char devices {devices}, xattrs {options.xattrs}, fd donation {options.donate}",
    ]
    if listening:
        lines.append(f"look at it with: {prog} ls {listening.path}")
    return lines
