"""The stand-in for `runsc gofer`: what runsc starts, or believes to start, for every container.

Theory of operation
-------------------
runsc execs this program in fresh namespaces, as process 1 of its pid namespace, with everything it needs as open fds that
the command line names; nothing else is to be trusted or kept. The order of what follows is part of the contract, because
runsc and the sandbox wait at several points:

1.  Close what was not named; read and check the spec. All that can be wrong with it is found here.
2.  Wait for the fds that runsc closes when its side is ready (only then are our user ids mapped).
3.  Build the root file system, enter it (rootfs.py).
4.  Resolve where the mounts now are, write that list, close the pipe: the sandbox reads it to its end.
5.  Confine ourselves (gofer/jail/enter.py), serve one connection per io-fd, end when the last of them has ended.

Where a start fails: exit status 128, one JSON line to --log-fd, one line to stderr. The namespace dies with us, and all
mounts with it. Signals that a terminal sends to its foreground group are ignored: in 2022 we are in runsc's, and the
container is to get its Ctrl-C, not us. runsc ends a gofer by SIGKILL, or by ending the sandbox.
"""

from __future__ import annotations

import gc
import os
import stat
from _signal import SIGUSR1, SIGUSR2, signal
from _socket import AF_UNIX, SOCK_STREAM, socket

from gofer import Failure, __version__, procself, signals
from gofer.jail import enter, kernel
from gofer.jail.posture import Policy, Posture
from gofer.runsc.errors import Fault, UsageFault
from gofer.runsc.features import Features
from gofer.runsc.flags import Globals, GoferFlags, MountConf, parse_globals, parse_gofer
from gofer.runsc.logs import SPEAKS_9P, RunscLog, open_logs
from gofer.runsc.resolve import resolve
from gofer.runsc.rootfs import Builder, adjusted_options, naming
from gofer.runsc.spec import Spec, mount_list, proxied, read_spec
from gofer.server import donation, fds, kernelfs
from gofer.server.admission import refuse_fds
from gofer.server.comm import Export, Options
from gofer.server.loop import Server
from gofer.server.workers import Crew
from gofer.sys import MACHINE, O_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.watch.start import Onlooker

TRACE_DIR = "GOFER_RUNSC_TRACE_DIR"  # as redirect.py has it, which this has no need of
FAILED = 128  # the status runsc uses for its own failures: unlikely to be a container's
_ROOT = O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_SLOW = 5.0  # seconds, as of `gofer serve --slow`
_OCI_VERSION = "1.2.1"  # that of runsc 2026-08, for a spec that tells none


def main(argv: list[str]) -> int:
    """Serve one container; argv without the program's name. Returns the exit status."""
    signals.ignore(*signals.STOPPING)
    signals.write_from_the_background()
    flags, log = Globals(), RunscLog(False, "text", -1, -1)
    try:
        flags, words = parse_globals(argv)
        log = open_logs(flags)
        gofer = parse_gofer(words)
        return _Start(flags, gofer, log).run()
    except UsageFault as fault:
        if isinstance(fault.so_far, Globals):
            log = open_logs(fault.so_far)
        log.fatal(f"{fault} (arguments as of `runsc gofer`)")
    except Fault as fault:
        log.fatal(str(fault))
    except Exception as error:
        log.fatal(f"the gofer failed: {type(error).__name__}: {error}")
        log.trace(error)
    return FAILED


class _Start:
    """The way from a parsed command line to the end of the container."""

    def __init__(self, flags: Globals, gofer: GoferFlags, log: RunscLog) -> None:
        self.flags, self.gofer, self.log = flags, gofer, log
        self.runsc = Features(flags, gofer)
        self.spec: Spec
        self.root_conf: MountConf
        self.root = -1  # O_PATH fd on the container's root
        self.onlooker: Onlooker | None = None

    def run(self) -> int:
        gofer = self.gofer
        for name, given in (("--bundle", gofer.bundle), ("--io-fds", gofer.io_fds), ("--spec-fd", gofer.spec_fd >= 0)):
            if not given:
                raise UsageFault(f"{name} is required")
        if self.flags.lisafs is False or not self.flags.vfs2:
            raise Fault(SPEAKS_9P)
        self._adopt_fds()
        self.log.info(f"gofer {__version__}, {MACHINE}, PID {os.getpid()}, UID {os.getuid()}, GID {os.getgid()}")
        self.spec, self.root_conf = read_spec(gofer.spec_fd, gofer.bundle, self.flags, gofer)
        os.close(gofer.spec_fd)
        sockets = [_unix_socket(fd, "--io-fds") for fd in gofer.io_fds]
        if gofer.dev_io_fd >= 0:
            sockets.append(_unix_socket(gofer.dev_io_fd, "--dev-io-fd"))
        self._look_on()
        self._synchronise()
        if gofer.setup_root:
            self._build_root()
        else:
            self._use_prepared_root()
        exports = self._exports()
        self._write_mounts()
        os.umask(0)  # modes come from the sandbox, which has applied its own
        watch = self.onlooker.watch(0) if self.onlooker else None
        server = Server(self.log, crew=Crew(most=len(exports)), watch=watch, slow=_SLOW)
        gc.freeze()  # what is alive now lives as long as the server: no collection needs to look at it again
        self._confine(exports)
        for sock, export in zip(sockets, exports):
            server.add(sock, export)
        gc.enable()
        server.run()
        if self.onlooker:
            self.onlooker.finish(in_order=True)
        if server.met_9p:
            return FAILED
        self.log.info("all connections have ended")
        return 0

    def _look_on(self) -> None:
        """As `gofer runsc --trace-dir DIR` has asked for; SIGUSR2 pauses it."""
        where = os.environ.pop(TRACE_DIR, "")
        if not where:
            return
        from gofer.watch.start import of_container

        name = self.gofer.container_id or os.path.basename(self.gofer.bundle.rstrip("/")) or "container"
        try:
            self.onlooker = onlooker = of_container(where, name, self.log)
        except (Failure, OSError) as why:
            raise Fault(f"--trace-dir={where}: {why}") from None
        signal(SIGUSR1, lambda *_: onlooker.order(b"1"))
        signal(SIGUSR2, lambda *_: onlooker.order(b"2"))

    def _adopt_fds(self) -> None:
        """Keep what the command line names and close the rest: runsc of 2022 leaks some, and a kept one can hang a start.

        --pin-ring-fd is only ever kept: while we hold it, the sandbox's end need not wait for what hangs on it.
        --sync-sentry-exit-fd would bring a pidfd of the sandbox, to outlast it by; the seccomp filter lets us receive
        no fds, and that is worth more.
        """
        gofer, flags = self.gofer, self.flags
        named = {
            "--spec-fd": gofer.spec_fd, "--mounts-fd": gofer.mounts_fd, "--rpc-fd": gofer.rpc_fd,
            "--dev-io-fd": gofer.dev_io_fd, "--pin-ring-fd": gofer.pin_ring_fd,
            "--sync-sentry-exit-fd": gofer.sync_sentry_exit_fd, "--sync-chroot-fd": gofer.sync_chroot_fd,
            "--sync-nvproxy-fd": gofer.sync_nvproxy_fd, "--sync-userns-fd": gofer.sync_userns_fd,
            "--log-fd": flags.log_fd, "--debug-log-fd": flags.debug_log_fd,
        }  # fmt: skip
        pairs = [(name, fd) for name, fd in named.items() if fd >= 0] + [("--io-fds", fd) for fd in gofer.io_fds]
        kept: dict[int, str] = {}
        for name, fd in pairs:
            if kept.setdefault(fd, name) is not name or gofer.io_fds.count(fd) > 1:
                raise Fault(f"{name}={fd}: also given as {kept[fd]}")
            try:
                os.set_inheritable(fd, False)
            except (OSError, OverflowError):
                raise Fault(f"{name}={fd}: no such file descriptor is open") from None
        for entry in os.listdir("/proc/self/fd"):
            if int(entry) > 2 and int(entry) not in kept and int(entry) not in self.log.fds:
                try:
                    os.close(int(entry))
                except OSError:
                    pass  # the one that listed the directory

    def _synchronise(self) -> None:
        gofer = self.gofer
        for fd, name in ((gofer.sync_chroot_fd, "--sync-chroot-fd"), (gofer.sync_nvproxy_fd, "--sync-nvproxy-fd")):
            if fd >= 0:
                _wait_for_end(fd, name)
        if gofer.sync_userns_fd >= 0:
            _wait_for_end(gofer.sync_userns_fd, "--sync-userns-fd")
            # The kernel forgets the parent-death signal at a change of user. A parent that died in between is noticed all the
            # same: the sandbox dies with it, and every connection ends.
            on_parent_death = kernel.parent_death_signal()
            with naming(f"user {gofer.uid}, group {gofer.gid} in the user namespace"):
                os.setgid(gofer.gid)
                os.setuid(gofer.uid)
            kernel.set_parent_death_signal(on_parent_death)

    def _build_root(self) -> None:
        spec, gofer = self.spec, self.gofer
        own_root = self.root_conf.lisafs
        opener = None
        if gofer.rpc_fd >= 0:
            from gofer.runsc.hostrpc import open_mount

            opener = lambda mount: open_mount(gofer.rpc_fd, mount)  # noqa: E731
        builder = Builder(self.log)
        sources = builder.open_sources(spec, own_root, opener)
        builder.start(spec, sources.pop(0) if own_root else None)
        for mount, source in zip([mount for mount in spec.mounts if mount.served], sources):
            with naming(f"mount {mount.source} on {mount.destination}"):
                builder.add(mount, source)
        if spec.cwd and self.runsc.makes_cwd:
            with naming(f"working directory {spec.cwd}"):
                builder.make_directory(spec.cwd, 0o755)
        if gofer.dev_io_fd >= 0:
            with naming("/dev"):
                builder.make_directory("/dev", 0o777)
                for path in filter(proxied, spec.devices):
                    self._bind_device(builder, path)
        builder.apply_flags()
        if spec.hooks and self.runsc.runs_hooks and own_root:
            self._run_hooks(builder)
        if own_root and (spec.read_only or self.root_conf.overlay):
            with naming("making the root read-only"):
                builder.remount(builder.stage(), kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV)
        if gofer.rpc_fd >= 0:
            os.close(gofer.rpc_fd)
        with naming("entering the new root"):
            mountinfo = builder.enter()
        procself.pin_proc(builder.pinned, mountinfo)
        procself.enter_proc()
        self.root = os.open("/", _ROOT)

    def _bind_device(self, builder: Builder, path: str) -> None:
        """Not every host has every device that a spec lists: what is absent here is absent there."""
        try:
            builder.bind_device(path)
        except FileNotFoundError:
            self.log.info(f"Device {path!r}: not on this host")

    def _run_hooks(self, builder: Builder) -> None:
        from gofer.runsc.hooks import container_state, run_hooks

        builder.show_at(self.spec.root)
        version = self.spec.oci_version or _OCI_VERSION
        state = container_state(version, self.gofer.container_id, self.gofer.bundle, self.spec.annotations)
        run_hooks(self.spec.hooks, state, self.log)
        builder.take_back(self.spec.root)

    def _use_prepared_root(self) -> None:
        """--setup-root=false: everything is in place at /root, as after the first half of runsc's own gofer; in its tests, at
        the spec's root."""
        path = self.spec.root if self.flags.unsafe_nonroot else "/root"
        procself.pin_proc()
        with naming(f"root {path}"):
            self.root = os.open(path, _ROOT)
            os.chroot(path)
        procself.enter_proc()

    def _exports(self) -> list[Export]:
        """What each socket is to serve, in their order; settles the mounts' final destinations and options.

        Only now, with all mounts in place: a mount may lie above a symlink that led another to its place.
        """
        exports = []
        if self.root_conf.lisafs:
            exports.append(self._export("/", os.dup(self.root), self.spec.read_only or self.root_conf.overlay))
        for mount in self.spec.mounts:
            if mount.conf is None or not mount.conf.lisafs:
                continue
            written = mount.destination
            mount.destination, fd = self._locate(written)
            with naming(f"mount {mount.destination}"):
                mount.options = adjusted_options(fd, mount.options, self.runsc.told_of_remote_files)
            exports.append(self._export(mount.destination, fd, mount.read_only, written))
        if self.gofer.dev_io_fd >= 0:
            exports.append(self._export("/dev", self._locate("/dev")[1], False, devices=True))
        os.close(self.root)
        return exports

    def _locate(self, path: str) -> tuple[str, int]:
        with naming(f"destination {path}"):
            place = resolve(self.root, path)
            if place.fd is None:
                raise Fault(f"destination {path}: {place.path} does not exist in the root")
            fd = os.dup(place.fd)
        final = place.path
        place.close()
        return final, fd

    def _export(self, path: str, fd: int, read_only: bool, written: str = "/", devices: bool = False) -> Export:
        """written: where the spec has path, before symlinks on the way were followed."""
        flags = self.flags
        options = Options(
            read_only=read_only,
            host_uds=flags.host_uds,
            host_fifo=flags.host_fifo,
            char_devices="open" if devices or flags.char_devices != "emulated-only" else "none",
            kernel_files="read",  # where the spec binds a /proc or /sys, that is what it is for
            donate_root=self.runsc.directfs,
        )
        self.log.info(f"Serving {path!r} (ro: {read_only})")
        if options.donate_root and kernelfs.judge_root(fd, read=False):
            self.log.warning(
                f"{path!r} is made up by the kernel, and with directfs the sandbox opens it itself: what a proc has of "
                "a process is its own memory. --directfs=false keeps it out"
            )
        return Export(fd, options, (os.fsencode(path), os.fsencode(written)))

    def _write_mounts(self) -> None:
        if self.gofer.mounts_fd < 0:
            return
        rest = memoryview(mount_list(self.spec.mounts))
        with naming("--mounts-fd"):
            while rest:
                rest = rest[os.write(self.gofer.mounts_fd, rest) :]
            os.close(self.gofer.mounts_fd)

    def _confine(self, exports: list[Export]) -> None:
        limit = fds.set_fd_limit(self.flags.fd_limit, clients=1)  # one sandbox, however many connections it has
        if limit < (self.flags.fd_limit or 0):
            self.log.warning(f"--fdlimit={self.flags.fd_limit} is above the hard limit: {limit} is in force")
        donation.limit_unread(limit, len(exports))
        posture = Posture()
        if self.gofer.apply_caps:
            posture = enter.confine([(export.root.host, export.options) for export in exports], Policy())
        for line in posture.lines():
            self.log.info(line)


def _unix_socket(fd: int, name: str) -> socket:
    try:
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            sock = socket(fileno=fd)
            if (sock.family, sock.type) == (AF_UNIX, SOCK_STREAM):
                refuse_fds(sock)
                return sock
            sock.detach()
    except OSError:
        pass
    raise Fault(f"{name}={fd}: not a Unix stream socket")


def _wait_for_end(fd: int, name: str) -> None:
    """Until the other side closes it; then it is closed here too."""
    with naming(name):
        said = os.read(fd, 1)
        os.close(fd)
    if said:
        raise Fault(f"{name}: data came where only the end was expected")
