"""Bundles for containers; our gofer as runsc would start it; Debian's two runscs, with their own gofer or with ours."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import newer
from hosts import CALM, CHECKOUT, PATIENCE, wait_until

from gofer.conform.peer import Peer, over_socket

FLAGS = ["--network=none", "--ignore-cgroups"]  # what every runsc needs in a virtual machine, beside a platform
SYMLINKS = """sh ls cat cp cut dd df du echo false find grep head id kill ln mkdir mkfifo mount mv rm rmdir sleep sort stat tar
    touch true"""
Json = dict[str, Any]


class Variant(NamedTuple):
    """One of the ways to run runsc that the tests know."""

    name: str
    is_newer: bool
    flags: tuple[str, ...]

    def program(self) -> str:
        """An absolute path, that every user may execute."""
        path = newer_runsc() if self.is_newer else shutil.which("runsc")
        assert path, "runsc is not installed: tests/run --install"
        return str(path)

    def does(self, what: str) -> bool:
        """Whether that line of DIFFERENCES holds here."""
        return self.name in DIFFERENCES[what][0]


SYSTRAP = "--platform=systrap"
OLDER = Variant("2022", False, ("--platform=ptrace",))
VARIANTS = [
    OLDER,
    Variant("2024-directfs", True, (SYSTRAP,)),  # its defaults: also --overlay2=root:self
    Variant("2024-directfs-plain", True, (SYSTRAP, "--overlay2=none")),
    Variant("2024-gofer", True, (SYSTRAP, "--directfs=false")),
    Variant("2024-gofer-plain", True, (SYSTRAP, "--directfs=false", "--overlay2=none")),
]

# What is not the same under all variants: where it holds, and why. A test asserts what holds, and where it does not
# hold, the contrary.
DIFFERENCES = {
    "checkpoint --leave-running starts the container anew": (
        ["2022"],
        "later ones let the saved sandbox go on",
    ),
    "the root's changes are seen on the host": (
        ["2022", "2024-directfs-plain", "2024-gofer-plain"],
        "--overlay2=root:self, the default since 2023, keeps them in an overlay inside the sandbox",
    ),
    "a missing root is found by the gofer": (
        ["2022", "2024-directfs-plain", "2024-gofer-plain"],
        "under root:self runsc looks at it first: that is where it puts the overlay's file",
    ),
    "a kernel's file is the gofer's to open": (
        ["2022", "2024-gofer", "2024-gofer-plain"],
        "a directfs sandbox opens what is bound of a proc or sysfs itself, as the process that it is",
    ),
    "a container is no reader of a FIFO that it has not opened": (
        ["2022", "2024-gofer", "2024-gofer-plain"],
        "a directfs sandbox opens each FIFO that it finds, also the one that a mount point is, through the mount around it",
    ),
    "what the host mounts over a bind's own directory is seen": (
        ["2022", "2024-gofer", "2024-gofer-plain"],
        "a directfs sandbox has the directory itself open, since its start",
    ),
    "a container has user attributes": (
        ["2022", "2024-gofer", "2024-gofer-plain"],
        "a directfs sandbox never asks for them, and has none of its own",
    ),
}


def bind(destination: str, source: str, *options: str) -> Json:
    return {"destination": destination, "type": "bind", "source": source, "options": list(options)}


def bundle(place: Path, script: str, *mounts: Json, **changes: Any) -> Path:
    """A bundle whose container runs `script` with busybox's sh; changes: members of the spec. Returns its directory."""
    (place / "rootfs/bin").mkdir(parents=True)
    shutil.copy(busybox(), place / "rootfs/bin/busybox")
    for name in SYMLINKS.split():
        (place / "rootfs/bin" / name).symlink_to("busybox")
    process = {"args": ["/bin/sh", "-c", script], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
    spec: Json = {
        "ociVersion": "1.0.2",
        "process": process,
        "root": {"path": "rootfs"},
        "hostname": "test",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}, *mounts],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }
    spec.update(changes)
    (place / "config.json").write_text(json.dumps(spec))
    return place


def container(what: str = "c") -> str:
    """A name that no other container on this machine has: runsc of 2022 finds a sandbox by an abstract socket of that name."""
    return f"{what}-{os.path.basename(tempfile.gettempdir())}"


def host_mounts() -> list[str]:
    """What of this run is mounted on the host: a container's mounts are in its bundle, or of something in it, or on /proc."""
    ours = os.path.basename(tempfile.gettempdir())
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if ours in line or line.split()[4].startswith("/proc")]


def busybox() -> str:
    path = shutil.which("busybox")
    assert path, "apt-get install busybox-static"
    return path


def spec_of(*mounts: Json, **changes: Any) -> Json:
    """A spec that starts nothing: what a gofer needs of one."""
    spec: Json = {"process": {"args": ["true"], "cwd": "/"}, "root": {"path": "rootfs"}, "mounts": list(mounts)}
    spec.update(changes)
    return spec


def directory(path: Path, **files: str) -> str:
    """A new directory with these files; returns its path."""
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return str(path)


class Started:
    """Our gofer as one process, with all the fds that runsc would have given it, and the other ends of them here.

    spec: what config.json holds. io: how many io-fds. words: flags after `gofer`; flags: those before it. more: fds by
    the name of their flag (closed here once passed on). logs: which of the two logs it gets.
    """

    def __init__(
        self,
        place: Path,
        spec: Any,
        *words: str,
        io: int = 1,
        flags: Sequence[str] = (),
        more: Optional[dict[str, int]] = None,
        command: Sequence[str] = (sys.executable, str(CHECKOUT)),
        logs: Sequence[str] = ("log", "debug-log"),
        **popen: Any,
    ) -> None:
        config = place / "config.json"
        config.write_bytes(spec if isinstance(spec, bytes) else json.dumps(spec).encode())
        pairs = [socket.socketpair() for _ in range(io)]
        self._ends: list[Optional[socket.socket]] = [ours for ours, _ in pairs]
        self._mounts, mounts = os.pipe()
        self.logs = {name: place / name for name in logs}
        files = {
            f"{name}-fd": os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY) for name, path in self.logs.items()
        }
        named = {"spec-fd": os.open(config, os.O_RDONLY), "mounts-fd": mounts, **(more or {})}
        io_fds = [theirs.fileno() for _, theirs in pairs]
        argv = [*command, *(f"--{name}={fd}" for name, fd in files.items()), *flags, "gofer", f"--bundle={place}"]
        argv += [*(f"--{name}={fd}" for name, fd in named.items()), *(f"--io-fds={fd}" for fd in io_fds), *words]
        passed = [*files.values(), *named.values(), *io_fds, *popen.pop("stray", ())]
        self.process = subprocess.Popen(
            argv, pass_fds=passed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **popen
        )
        self.pid = self.process.pid
        for fd in (*files.values(), *named.values()):
            os.close(fd)
        for _, theirs in pairs:
            theirs.close()
        self._peers: list[Peer] = []

    def mount_list(self) -> bytes:
        """All of --mounts-fd, to its end."""
        with open(self._mounts, "rb") as pipe:
            self._mounts = -1
            return pipe.read()

    def destinations(self) -> list[str]:
        return [mount["destination"] for mount in json.loads(self.mount_list())]

    def mount_flags(self) -> dict[str, list[str]]:
        """By mount point in its namespace, the per-mount options of the topmost mount."""
        lines = [line.split() for line in Path(f"/proc/{self.pid}/mountinfo").read_text().splitlines()]
        return {line[4]: line[5].split(",") for line in lines}

    def drop_mount_list(self) -> None:
        """Go away without having read it."""
        os.close(self._mounts)
        self._mounts = -1

    def add(self, sock: socket.socket) -> None:
        """One more end, for `peer`."""
        self._ends.append(sock)

    def peer(self, number: int = 0, kind: type[Peer] = Peer) -> Peer:
        """A mounted client on the io-fd of that number."""
        sock = self._ends[number]
        assert sock is not None, "in use already"
        self._ends[number] = None
        self._peers.append(over_socket(sock, kind))
        return self._peers[-1]

    def hang_up(self, number: int) -> None:
        sock = self._ends[number]
        assert sock is not None
        sock.close()
        self._ends[number] = None

    def wait(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    def said(self) -> str:
        return self.logs["debug-log"].read_text(errors="replace")

    def errors(self) -> list[Json]:
        """What --log-fd got, one JSON object a line."""
        return [json.loads(line) for line in self.logs["log"].read_text().splitlines()]

    def status(self, name: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.split(None, 1)[1] for line in lines if line.startswith(name + ":"))

    def close(self) -> None:
        """Ends what is left of it."""
        for peer in self._peers:
            peer.disconnect()
        for sock in self._ends:
            if sock is not None:
                sock.close()
        if self._mounts >= 0:
            os.close(self._mounts)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            if self.process.stderr:
                self.process.stderr.close()


@contextlib.contextmanager
def starting(place: Path) -> Iterator[Callable[..., Started]]:
    """Gives start(spec, *words, ...), whose bundle is `place` with an empty rootfs in it; closes what was started."""
    started: list[Started] = []
    (place / "rootfs").mkdir()

    def start(spec: Any, *words: str, **how: Any) -> Started:
        started.append(Started(place, spec, *words, **how))
        return started[-1]

    try:
        yield start
    finally:
        for each in started:
            each.close()


class Runsc:
    """Runs one of Debian's runscs with one state directory. gofer: our one file, or None for runsc's own gofer."""

    def __init__(self, place: Path, gofer: Optional[Path], variant: Variant = OLDER) -> None:
        self.place = place
        self.state, self.logs = place / "state", place / "logs"
        self.state.mkdir()
        self.logs.mkdir(mode=0o1777)
        self.logs.chmod(0o1777)  # of a rootless one the umask must not decide
        self.gofer = gofer
        self.variant = variant

    def argv(self, *words: str, flags: Sequence[str] = (), logs: bool = True) -> list[str]:
        runsc = self.variant.program()
        before = [str(self.gofer), "runsc", "--runsc", runsc, "--"] if self.gofer else [runsc]
        log = [f"--debug-log={self.logs}/"] if logs else []
        return [*before, f"--root={self.state}", *log, *FLAGS, *self.variant.flags, *flags, *words]

    def start(
        self, *words: str, flags: Sequence[str] = (), quiet: bool = False, **options: Any
    ) -> "subprocess.Popen[str]":
        """Output on pipes: where a container's stdout is a regular file gVisor writes from its beginning.

        Started in `place`: the checkout may lie where a user may not go, and `do` runs its command where it is itself.

        quiet: to nowhere, for what leaves a container behind, which would hold the pipes open.
        """
        out = subprocess.DEVNULL if quiet else subprocess.PIPE
        argv = self.argv(*words, flags=flags)
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, text=True, cwd=self.place, **options)

    def run(self, *words: str, check: bool = True, **how: Any) -> "subprocess.CompletedProcess[str]":
        """To its end; check: which must be exit status 0. how: as `start`."""
        with self.start(*words, **how) as process:
            try:
                out, err = process.communicate(timeout=CALM)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        assert not check or done.returncode == 0, f"{words}: exit {done.returncode}: {out}{err}{self.gofer_log()}"
        return done

    def gofer_log(self) -> str:
        return "".join(gofer_logs(self.logs))

    def served_by_us(self) -> int:
        return served_by_us(self.logs)


def served_by_us(logs: Path) -> int:
    """How many of our gofers have told their version and posture; every gofer that wrote to this folder must be among them.

    runsc names a log by the microsecond: of four starts at a time two can share a file.
    """
    said = [log for log in gofer_logs(logs) if log]  # runsc makes the file before it starts one
    ours = [log for log in said if "] gofer 0." in log and "main.go" not in log]
    assert len(ours) == len(said), "another gofer ran: " + "\n".join(set(said) - set(ours))
    assert not any("Traceback" in log or "failed" in log for log in ours), ours
    told = "".join(ours)
    versions, postures = told.count("] gofer 0."), told.count("] jail: ") - told.count("] jail: missing")
    assert versions == postures, ours
    return versions


def gofer_logs(logs: Path) -> list[str]:
    return [path.read_text(errors="replace") for path in sorted(logs.glob("*.gofer.txt"))]


def pids_named(*words: str) -> list[int]:
    """Processes whose command line holds all these words."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{entry}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if all(word in line for word in words):
                    found.append(int(entry))
    return found


def gofer_pid(state: Path) -> int:
    """The gofer of the one container of a Runsc: the process runsc named in its state."""
    wait_until(lambda: len(pids_named(str(state), " gofer --bundle")) == 1, "one gofer runs")
    return pids_named(str(state), " gofer --bundle")[0]


def sandbox_pid(state: Path) -> int:
    wait_until(lambda: len(pids_named(str(state), "runsc-sandbox")) == 1, "one sandbox runs")
    return pids_named(str(state), "runsc-sandbox")[0]


def one_file_gofer() -> Path:
    """The one file of this checkout, where every user can read it; built at the first call, gone with the scratch directory."""
    if not _built:
        folder = Path(tempfile.mkdtemp(prefix="one-"))
        folder.chmod(0o755)
        env = {**os.environ, "SHIV": sys.executable, "SOURCE_DATE_EPOCH": "1700000000"}
        pipe, merged = subprocess.PIPE, subprocess.STDOUT
        done = subprocess.run([CHECKOUT / "build.sh", folder / "gofer"], env=env, stdout=pipe, stderr=merged, text=True)
        assert done.returncode == 0, done.stdout
        _built.append(folder / "gofer")
    return _built[0]


def newer_runsc() -> Path:
    """A copy that every user can execute; to be made, and gone, with the one file."""
    copy = one_file_gofer().with_name("runsc-newer")
    if not copy.exists():
        assert newer.RUNSC.exists(), f"{newer.NAME} is not unpacked: tests/run --install"
        shutil.copy(newer.RUNSC, copy)
    return copy


_built: list[Path] = []
