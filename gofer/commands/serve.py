"""`gofer serve`: from options to a running server, and down again.

Everything that can fail because of what was asked for fails before the first client is served, in one line.
"""

from __future__ import annotations

import gc
import os
from _signal import (  # `signal` adds enums: 2 ms
    SIG_BLOCK,
    SIG_DFL,
    SIG_IGN,
    SIG_SETMASK,
    SIG_UNBLOCK,
    SIGCHLD,
    SIGUSR2,
    pthread_sigmask,
    set_wakeup_fd,
    signal,
)
from _socket import SO_ACCEPTCONN, SOL_SOCKET
from resource import RLIMIT_NOFILE, getrlimit, setrlimit

from gofer import Failure, __version__, failure, procself, quoted, signals
from gofer.commands import given
from gofer.commands.charge import ServeCharge
from gofer.commands.options import add
from gofer.jail import kernel
from gofer.jail.posture import Policy, Posture
from gofer.jail.supervisor import Charge
from gofer.log import Log
from gofer.server import donation, sockets
from gofer.server.admission import Admission, refuse_fds
from gofer.server.connection import Export, Options
from gofer.server.listening import Listening, group_id
from gofer.server.loop import Server
from gofer.server.workers import Crew, default_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any

    from gofer.commands.notify import Notifier
    from gofer.server.pipes import Ends
    from gofer.watch.start import Onlooker


__all__ = ["add", "run"]


def run(options: Any, prog: str) -> int:
    """Serve as the command line says; returns the exit status: 0, or that of the command behind `--`.

    prog: how the user called us.
    """
    if options.stdio:
        from gofer.commands import stdio

        stdio.settle(options)
        options.stdio = False
        return stdio.relay(options, lambda: run(options, prog))
    service = _Service(options, prog)
    try:
        return service.run()
    except BaseException as error:
        service.abandon(error)
        if isinstance(error, Failure):
            service.log.fatal(str(error))
            return 1
        raise


class _Service:
    """What is served and on which sockets; `run` makes a server, or several workers, of it."""

    def __init__(self, options: Any, prog: str) -> None:
        self._options = options
        self._prog = prog
        quiet = options.quiet and options.log_level == "info"
        self.log = Log("warning" if quiet else options.log_level, options.log_format)
        self._export: Export
        self._policy: Policy
        self._lines: list[str] = []
        self._group = -1
        self._connected: list[socket] = []
        self._listeners: list[tuple[socket, Admission]] = []
        self._listening: Listening | None = None
        self._charge: Charge = Charge()
        self._crew = Crew()
        self._onlooker: Onlooker | None = None
        self._notifier: Notifier | None = None
        self._server: Server | None = None
        self._stops = 0

    def run(self) -> int:
        """Serve until told to stop, or until there is nothing left to; returns the exit status.

        Where there is a jail, this returns in the server, and not in the process that was started.
        """
        fds_before = getrlimit(RLIMIT_NOFILE)
        inherited = pthread_sigmask(SIG_UNBLOCK, signals.STOPPING)
        kind, access = self._take_what_is_given()
        # From here on there is something to be left behind: a signal waits until all can be stopped in order. Not sooner,
        # because what may hang has to be stopped at once: PATH on a file system that does not answer, a name of a group.
        pthread_sigmask(SIG_BLOCK, {*signals.STOPPING, signals.STOP})
        signals.write_from_the_background()
        self._make_listening()
        self._make_onlooker()
        self._lines = self._announcement(kind, access)
        self._make_charge(inherited, fds_before)
        _enter_service()
        heeded = *signals.heeded(), signals.STOP, SIGCHLD, *self._charge.signals
        for number in heeded:
            signal(number, self._on_signal)
        gc.freeze()  # what is alive now lives as long as the server: no collection needs to look at it again
        posture = self._enter_jail()
        if self._crew.index and not posture.layers:
            self._charge.in_server()
        if self._crew.index or posture.layers:  # what it sees to is another process's business
            self._charge = Charge()
        if self._crew.index == 0:
            self._tell(posture)
            if self._notifier is not None:
                self._notifier.ready()
        if posture.in_user_namespace:
            for _, admission in self._listeners:
                admission.in_user_namespace(posture.overflow_is_root)
        assert self._server is not None
        set_wakeup_fd(self._server.wake_fd, warn_on_full_buffer=False)
        pthread_sigmask(SIG_SETMASK, signals.unblocked(inherited))
        if self._charge.finished():
            self._stop()
        gc.enable()
        try:
            self._server.run()
        finally:
            set_wakeup_fd(-1)
            for number in heeded:
                signal(number, SIG_DFL)
        return self._charge.tidy(0)

    def abandon(self, error: BaseException) -> None:
        """Leave nothing behind. A worker that is not the first does not return: the first says why, and once."""
        if self._crew.index and isinstance(
            error, (Failure, OSError, MemoryError)
        ):  # else a fault of ours, to be traced
            self._crew.give_up(str(error) or type(error).__name__)
        if self._onlooker is not None:
            self._onlooker.finish(in_order=False)
        self._charge.abandon()
        if self._listening is not None:
            self._listening.remove()

    def _take_what_is_given(self) -> tuple[str, str]:
        """The tree and the sockets that come from outside. Returns what the tree is, and what clients may do."""
        options = self._options
        numbers = options.fd or []
        ends = _ends(options)
        given.close_strays({*range(3), *numbers, *(ends.fds if ends else ()), *sockets.passed(), *self.log.fds})
        for number in numbers:
            if numbers.count(number) > 1 or number in sockets.passed():
                raise Failure(f"fd {number} is named more than once; give each socket one --fd")
        if options.group is not None:
            self._group = group_id(options.group)
        users = set(options.allow_uid or (0, os.getuid()))
        self._connected = [sockets.inherited(number) for number in numbers]
        activated = sockets.activated()
        for sock in activated:
            if sock.getsockopt(SOL_SOCKET, SO_ACCEPTCONN):
                self._listeners.append((sock, Admission(users)))
            else:
                self._connected.append(sock)
        self._policy = Policy(options.jail, options.seccomp, _others_connect(options, bool(activated)))
        listens = self._listeners or self._wants_socket()
        most = options.max_connections if listens else len(self._connected)
        self._crew = Crew(min(options.workers or default_number(), most), max(most, len(self._connected)))
        limit = given.limit_fds(options.fd_limit, -(-most // self._crew.size))  # clients of one worker
        donation.limit_unread(limit, most)
        root, kind, writable = given.open_root(options.path, options.kernel_files == "read")
        self._export = Export(root, _export_options(options))
        if self._wants_socket():
            self._listening = Listening(options, self._group)
        return kind, "read-only" if options.read_only else "read-write" if writable else "read-only (as it is mounted)"

    def _wants_socket(self) -> bool:
        options = self._options
        return bool(options.socket or options.command or not (self._listeners or self._connected))

    def _make_listening(self) -> None:
        options, listening = self._options, self._listening
        if listening is None:
            return
        listening.make()
        users = set(options.allow_uid or (0, os.getuid()))
        # What --group opens is open. A mode alone admits nobody: a wide one is often there for users whom --allow-uid names.
        members = self._group if options.mode & 0o020 and not options.allow_uid else -1
        self._listeners.append((listening.socket, Admission(users, members)))

    def _make_onlooker(self) -> None:
        options = self._options
        if options.trace is None and not any(
            (options.trace_out, options.trace_on_signal, options.trace_data, options.control, options.metrics_listen)
        ):
            return
        from gofer.watch.start import Onlooker, Wish

        self._onlooker = Onlooker(Wish.of(options), self.log, self._crew.size, os.fsencode(_absolute(options.path)))

    def _make_charge(self, inherited: set[int], fds_before: tuple[int, int]) -> None:
        """Start the command, if there is one."""

        def as_we_were() -> None:
            signals.hand_on()
            pthread_sigmask(SIG_SETMASK, inherited)
            setrlimit(RLIMIT_NOFILE, fds_before)

        if os.environ.get("NOTIFY_SOCKET"):
            from gofer.commands.notify import Notifier

            self._notifier = Notifier(self._lines[0], self.log)
        made = ServeCharge(self.log, self._listening, self._options.command, as_we_were, self._onlooker, self._notifier)
        self._charge = made

    def _stop(self) -> None:
        if self._server is not None:
            if self._notifier is not None and not self._crew.index:
                self._notifier.stopping()
            self._server.stop()

    def _on_signal(self, number: int, frame: object) -> None:
        if number == SIGCHLD:
            if self._charge.finished():
                self._stop()
        elif not self._charge.on_signal(number) and number != SIGUSR2:
            self._stops += 1
            if self._stops > 1 or self._server is None:
                os._exit(self._charge.tidy(1))
            self._stop()

    def _enter_jail(self) -> Posture:
        if self._policy.mode == "off":
            self._split(own_mounts=False)
            return Posture()
        from gofer.jail import enter  # with all its layers: a tenth of what our own modules cost a start

        try:
            return enter.enter(self._export.root.host, self._export.options, self._policy, self._charge, self._split)
        except OSError as e:
            remedy = "`gofer doctor PATH` says what this host lacks; --jail=off serves without"
            raise failure("cannot confine the server", e, remedy) from None

    def _split(self, own_mounts: bool) -> None:
        """Become several workers, and a server each, with its share of the sockets. See jail/enter.py."""

        def prepare() -> None:
            for number in signals.STOPPING:  # the first worker's business
                signal(number, SIG_IGN)
            if own_mounts:
                kernel.unshare(kernel.CLONE_NEWNS)
            procself.pin_proc(os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            if self._policy.mode == "off":
                procself.enter_proc()

        self._crew.split(prepare)
        options = self._options
        self._server = Server(
            self.log,
            idle_message_timeout=options.idle_message_timeout,
            crew=self._crew,
            slow=options.slow,
            watch=self._onlooker.watch(self._crew.index) if self._onlooker else None,
        )
        if self._notifier is not None:
            if self._crew.index:
                self._notifier.in_other_worker()
            else:
                self._server.beat(self._notifier.alive, self._notifier.every)
        for number, sock in enumerate(self._connected):
            if self._crew.mine(number):
                refuse_fds(sock)
                self._server.add(sock, self._export)
            else:
                sock.close()
        for sock, admission in self._listeners:
            self._server.listen(sock, self._export, admission)

    def _announcement(self, kind: str, access: str) -> list[str]:
        options, listening = self._options, self._listening
        where = [listening.path] if listening else []
        inherited = len(self._connected) + len(self._listeners) - len(where)
        if inherited:
            where.append(f"{inherited} inherited socket{'s' * (inherited > 1)}")
        uds, fifo, devices = options.host_uds, options.host_fifo, options.char_devices
        where_we_are = " (the current directory)" if options.path == "." else ""
        lines = [
            f"{__version__} serves the {kind} {_absolute(options.path)}{where_we_are} {access} on {' and '.join(where)}",
            f"host sockets {uds}, FIFOs {fifo}, char devices {devices}, xattrs {options.xattrs}",
        ]
        if listening:
            lines.append(f"look at it with: {self._prog} ls {quoted(listening.path)}")
        return lines

    def _tell(self, posture: Posture) -> None:
        held, *lacks = posture.lines()
        donate = self._options.donate
        if donate == "yes" and self._options.read_only:
            if given.writable(self._export.root.host):
                donate = "no (the mount is not read-only: a client could write to what it gets)"
        who = " / ".join({str(admission): 0 for _, admission in self._listeners})
        self._lines[1] += f", fd donation {donate}{', may connect: ' * bool(who)}{who}; {held}"
        for line in self._lines:
            self.log.info(line)
        for line in lacks:
            self.log.warning(line)
        options = self._options
        others = options.mode & (0o002 if self._group >= 0 else 0o022)
        if self._listening is not None and others and not options.allow_uid:
            mode = f"--mode {options.mode:04o} lets others reach the socket than those who may connect"
            self.log.warning(f"{mode}: they are refused; --allow-uid USER, or --group, admits them")


def _enter_service() -> None:
    """What does not depend on options."""
    os.umask(0)
    if os.geteuid() == 0:
        try:
            os.setgroups(())  # a group of ours must not decide what a file made for somebody else belongs to
        except PermissionError:  # without CAP_SETGID, or in a user namespace that denies it
            pass
    procself.pin_proc()
    procself.enter_proc()


def _export_options(options: Any) -> Options:
    return Options(
        read_only=options.read_only, host_uds=options.host_uds, host_fifo=options.host_fifo, xattrs=options.xattrs,
        char_devices=options.char_devices, donate=options.donate == "yes", channels=options.channels,
        busy_poll=options.busy_poll, kernel_files=options.kernel_files, lanes=_ends(options),
    )  # fmt: skip


def _ends(options: Any) -> Ends | None:
    """What stdio.py has given, if it has."""
    ends: Ends | None = getattr(options, "lanes", None)
    return ends


def _others_connect(options: Any, activated: bool) -> bool:
    """Whether others than this user and root may get as far as to be asked for their user id."""
    others = set(options.allow_uid or ()) - {0, os.getuid()}
    return bool(others) or options.group is not None or bool(options.mode & 0o077) or activated


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except OSError:  # the working directory has no name here
        return path
