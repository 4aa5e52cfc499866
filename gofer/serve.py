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
    SIG_IGN,
    SIG_SETMASK,
    SIGCHLD,
    SIGHUP,
    SIGINT,
    SIGTERM,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
)
from _socket import SO_ACCEPTCONN, SOL_SOCKET
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

from gofer import Failure, __version__, fds, kernel, kernelfs, sockets
from gofer.connection import Export, Options
from gofer.log import Log
from gofer.posture import Policy, Posture
from gofer.server import Server
from gofer.supervisor import Charge
from gofer.workers import Crew, default_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from _socket import socket
    from typing import Any, Callable

_STOPPING = (SIGINT, SIGTERM, SIGHUP)
_OVERFLOW_UID = 65534  # what a user namespace shows of users it does not know (user_namespaces(7))


def serve(options: Any, prog: str) -> int:
    """Serve as the command line says; returns the exit status: 0, or that of the command behind `--`.

    prog: how the user called us.
    """
    before = pthread_sigmask(SIG_BLOCK, _STOPPING)  # they wait until there is something that can be stopped in order
    _close_strays({*range(3), *(options.fd or ())})
    service = _Service(options, prog)
    try:
        return service.run(before)
    finally:
        if service.listening is not None:
            service.listening.remove()


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


class _Service:
    """What is served and on which sockets; `run` makes a server, or several workers, of it."""

    def __init__(self, options: Any, prog: str) -> None:
        self._options = options
        quiet = options.quiet and options.log_level == "info"
        self._log = Log("warning" if quiet else options.log_level, options.log_format)
        root, kind = _open_root(options.path)
        self._export = Export(root, _export_options(options))
        if kernelfs.judge_root(root, options.kernel_files == "read") & kernelfs.CLOSED:
            raise Failure(f"cannot serve {options.path}: the kernel makes it up; see --kernel-files in SECURITY.md")
        self._allowed = set(options.allow_uid or (0, os.getuid()))
        self._connected = [sockets.inherited(number) for number in options.fd or ()]
        self._listeners: list[socket] = []
        activated = sockets.activated()
        for sock in activated:
            listens = sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN)
            (self._listeners if listens else self._connected).append(sock)
        inherited = len(self._listeners) + len(self._connected)
        self.listening: sockets.Listening | None = None
        if options.socket or options.command or not inherited:
            self.listening = sockets.Listening(options)
            self._listeners.append(self.listening.socket)
        self._policy = Policy(options.jail, options.seccomp, _others_connect(options, bool(activated)))
        self._lines = _announcement(options, prog, kind, self.listening, inherited)
        most = options.max_connections if self._listeners else len(self._connected)
        self._crew = Crew(min(options.workers or default_number(), most))
        self._most = -(-most // self._crew.size)  # clients of one worker
        self._server: Server | None = None
        self._stops = 0

    def run(self, unblocked: set[int]) -> int:
        """Serve until told to stop, or until there is nothing left to; returns the exit status.

        unblocked: the signal mask to serve with. Where there is a jail, this returns in the server, and not in the process
        that was started.
        """
        fds_before = getrlimit(RLIMIT_NOFILE)
        _limit_fds(self._options.fd_limit, self._most)

        def as_we_were() -> None:
            pthread_sigmask(SIG_SETMASK, unblocked)
            setrlimit(RLIMIT_NOFILE, fds_before)

        charge: Charge = _Charge(self.listening, self._options.command, as_we_were)
        os.umask(0)
        if os.geteuid() == 0:
            try:
                os.setgroups(())  # a group of ours must not decide what a file made for somebody else belongs to
            except PermissionError:  # without CAP_SETGID, or in a user namespace that denies it
                pass
        fds.pin_proc()
        fds.enter_proc()

        def on_signal(number: int, frame: object) -> None:
            if number == SIGCHLD:
                if charge.finished() and self._server is not None:
                    self._server.stop()
            elif not charge.on_signal(number):
                self._stops += 1
                if self._stops > 1 or self._server is None:
                    os._exit(charge.tidy(1))
                self._server.stop()

        for number in (*_STOPPING, SIGCHLD):
            signal(number, on_signal)
        gc.freeze()  # what is alive now lives as long as the server: no collection needs to look at it again
        try:
            posture = self._enter_jail(charge)
        except BaseException:
            charge.on_signal(SIGTERM)  # the command must not outlive a server that never was
            raise
        if self._crew.index and not posture.layers:
            charge.in_server()
        if self._crew.index or posture.layers:  # what it sees to is another process's business
            charge = Charge()
        if self._crew.index == 0:
            self._tell(posture)
        if posture.overflow_is_root and 0 in self._allowed:
            self._allowed.add(_OVERFLOW_UID)
        assert self._server is not None
        set_wakeup_fd(self._server.wake_fd, warn_on_full_buffer=False)
        pthread_sigmask(SIG_SETMASK, unblocked)
        if charge.finished():
            self._server.stop()
        gc.enable()
        try:
            self._server.run()
        finally:
            set_wakeup_fd(-1)
            for number in (*_STOPPING, SIGCHLD):
                signal(number, SIG_DFL)
        return charge.tidy(0)

    def _enter_jail(self, charge: Charge) -> Posture:
        if self._policy.mode == "off":
            self._split(own_mounts=False)
            return Posture()
        from gofer import jail  # with all its layers: a tenth of what our own modules cost a start

        try:
            return jail.enter(self._export.root.host, self._export.options, self._policy, charge, self._split)
        except OSError as e:
            if self._crew.index and self._crew.left_alone(1):  # what stops one stops all, and the first has said so
                os._exit(1)
            raise Failure(f"cannot confine the server: {e.strerror}") from None

    def _split(self, own_mounts: bool) -> None:
        """Become several workers, and a server each, with its share of the sockets. See jail.enter."""

        def prepare() -> None:
            for number in _STOPPING:  # the first worker's business
                signal(number, SIG_IGN)
            if own_mounts:
                kernel.unshare(kernel.CLONE_NEWNS)
            fds.pin_proc(os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            if self._policy.mode == "off":
                fds.enter_proc()

        self._crew.split(prepare)
        options = self._options
        self._server = Server(
            self._log,
            max_connections=options.max_connections,
            idle_message_timeout=options.idle_message_timeout,
            crew=self._crew,
        )
        for number, sock in enumerate(self._connected):
            if self._crew.mine(number):
                self._server.add(sock, self._export)
            else:
                sock.close()
        for sock in self._listeners:
            self._server.listen(sock, self._export, self._allowed)

    def _tell(self, posture: Posture) -> None:
        held, *lacks = posture.lines()
        donation = self._options.donate
        if donation == "yes" and self._options.read_only:
            if not os.fstatvfs(self._export.root.host).f_flag & os.ST_RDONLY:
                donation = "no (the mount is not read-only: a client could write to what it gets)"
        self._lines[1] += f", fd donation {donation}; {held}"
        for line in self._lines:
            self._log.info(line)
        for line in lacks:
            self._log.warning(line)


def _limit_fds(asked: int | None, clients: int) -> None:
    if asked and asked < fds.LEAST:
        raise Failure(f"--fd-limit {asked} leaves too few for clients; give at least {fds.LEAST}")
    limit = fds.set_fd_limit(asked, clients)
    if asked and limit < asked:
        raise Failure(
            f"--fd-limit {asked} is above the hard limit of {limit}: raise that (ulimit -Hn), or ask for less"
        )


class _Charge(Charge):
    """The socket file and the command behind `--`: the supervisor's business, or without a jail the server's own."""

    def __init__(self, listening: sockets.Listening | None, words: list[str], in_command: Callable[[], None]) -> None:
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
        busy_poll=options.busy_poll, kernel_files=options.kernel_files,
    )  # fmt: skip


def _others_connect(options: Any, activated: bool) -> bool:
    """Whether others than this user and root may get as far as to be asked for their user id."""
    others = set(options.allow_uid or ()) - {0, os.getuid()}
    return bool(others) or options.group is not None or bool(options.mode & 0o077) or activated


def _announcement(options: Any, prog: str, kind: str, listening: sockets.Listening | None, inherited: int) -> list[str]:
    where = [listening.path] if listening else []
    if inherited:
        where.append(f"{inherited} inherited socket{'s' * (inherited > 1)}")
    access = "read-only" if options.read_only else "read-write"
    uds, fifo, devices = options.host_uds, options.host_fifo, options.char_devices
    lines = [
        f"{__version__} serves the {kind} {os.path.abspath(options.path)} {access} on {' and '.join(where)}",
        f"host sockets {uds}, FIFOs {fifo}, char devices {devices}, xattrs {options.xattrs}",
    ]
    if listening:
        lines.append(f"look at it with: {prog} ls {listening.path}")
    return lines
