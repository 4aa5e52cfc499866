"""What every bench here shares: the two C programs, trees to serve, and the servers: the floor, Go's, ours.

A server is started with connected sockets as inherited fds, and a C client on the other ends; see `Served`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence

HERE = pathlib.Path(__file__).resolve().parent
PROJECT = HERE.parent
RUNSC = ["runsc", "--TESTONLY-unsafe-nonroot", "--network=none"]
KINDS = ("floor", "go", "ours", "more")  # the last: ours with further options
DATA = 2 << 20  # bytes of the file that is read and written
NAMES = 1000  # names in the directory that Getdents64 lists
DEPTH = 5


def build(directory: pathlib.Path) -> None:
    """Compile client.c and floor.c into `directory`; a compiler's complaint is raised as CalledProcessError."""
    for name in ("client", "floor"):
        subprocess.run(
            ["gcc", "-O2", "-Wall", "-Wextra", "-pthread", "-o", directory / name, HERE / (name + ".c")], check=True
        )


@contextlib.contextmanager
def workplace(directory: str | None = None) -> Iterator[pathlib.Path]:
    """A temporary directory (below `directory`) holding the built programs; removed at the end."""
    with tempfile.TemporaryDirectory(prefix="gofer-bench-", dir=directory) as name:
        path = pathlib.Path(name)
        build(path)
        yield path


def make_tree(tree: pathlib.Path, names: int = NAMES, depth: int = DEPTH, many: int = 0) -> pathlib.Path:
    """The tree that client.c's operations expect; returns it.

    `names` files in names<names>/, `many` files many/f0, many/f1..., and a chain of `depth` directories d/d/d...
    """
    tree.mkdir()
    (tree / "file").write_bytes(os.urandom(DATA))
    os.setxattr(tree / "file", "user.bench", b"a value of 24 bytes here")
    (tree / "link").symlink_to("some/where/else")
    (tree / "work").mkdir()
    make_files(tree / f"names{names}", "entry-", names)
    make_files(tree / "many", "f", many)
    here = os.open(tree, os.O_RDONLY)
    for _ in range(depth):  # by fd: a deep chain has no path that fits a system call
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    return tree


def make_files(directory: pathlib.Path, prefix: str, count: int) -> None:
    directory.mkdir()
    here = os.open(directory, os.O_RDONLY)
    for i in range(count):
        os.close(os.open(f"{prefix}{i}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=here))
    os.close(here)


def remove_tree(tree: pathlib.Path) -> None:
    """shutil.rmtree recurses: too deep for a chain of thousands, so take that down from the top by renaming."""
    chain = tree / "d"
    while (chain / "d").exists():
        (chain / "d").rename(tree / "below")
        chain.rmdir()
        (tree / "below").rename(chain)
    shutil.rmtree(tree)


def ours(interpreter: str | None = None) -> list[str]:
    """The command line of our server: dist/gofer where it was built, else the checkout; `interpreter` runs either."""
    built = PROJECT / "dist" / "gofer"
    if built.exists():
        return [interpreter, str(built)] if interpreter else [str(built)]
    return [interpreter or sys.executable, str(PROJECT)]


def server_command(
    kind: str,
    place: pathlib.Path,
    tree: pathlib.Path,
    fds: Sequence[int],
    command: Sequence[str] = (),
    options: Sequence[str] = (),
) -> tuple[list[str], list[int]]:
    """(argv, further fds to inherit) of a server of `kind` that serves `tree` on each of `fds`.

    `command` is our server's (see `ours`), `options` go to our server only. The caller closes the further fds.
    """
    if kind == "floor":
        return [str(place / "floor"), str(fds[0]), str(tree / "file")], []
    if kind == "go":
        return go_command(place, tree, fds)
    words = [word for fd in fds for word in ("--fd", str(fd))]
    return [*command, "serve", str(tree), "--quiet", *words, *options], []


def go_command(place: pathlib.Path, tree: pathlib.Path, fds: Sequence[int]) -> tuple[list[str], list[int]]:
    """`runsc gofer` as `runsc run` would start it, short of namespaces.

    Each fd after the first is a bind mount on "/": without a root to set up, that serves the same tree once more.
    """
    bundle = pathlib.Path(tempfile.mkdtemp(prefix="bundle-", dir=place))
    mounts = [{"destination": "/", "type": "bind", "source": str(tree), "options": ["rw"]}] * (len(fds) - 1)
    spec = {
        "ociVersion": "1.0.0",
        "process": {"args": ["true"], "cwd": "/"},
        "root": {"path": str(tree)},
        "mounts": mounts,
    }
    (bundle / "config.json").write_text(json.dumps(spec))
    files = [os.open(bundle / "config.json", os.O_RDONLY), os.open(os.devnull, os.O_WRONLY)]
    argv = [*RUNSC, "gofer", "--bundle", str(bundle), "--setup-root=false", "--apply-caps=false"]
    argv += [f"--spec-fd={files[0]}", f"--mounts-fd={files[1]}", *(f"--io-fds={fd}" for fd in fds)]
    return argv, files


class Client:
    """A running client.c: one line out, one line back."""

    def __init__(self, place: pathlib.Path, fds: Sequence[int]) -> None:
        argv = [str(place / "client"), *map(str, fds)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds)
        self.answer()

    def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> list[str]:
        """The words after `ok`; anything else is a RuntimeError."""
        assert self.process.stdout
        line = self.process.stdout.readline().split()
        if line[:1] != ["ok"]:
            raise RuntimeError("client: " + (" ".join(line) or "ended"))
        return line[1:]

    def ask(self, command: str) -> list[str]:
        self.tell(command)
        return self.answer()

    def run(self, transport: str, op: str, count: int) -> float | None:
        """Nanoseconds per operation; None where the server does not offer it. Any other failure is a RuntimeError."""
        ns, failed, error = self.ask(f"run {transport} {op} {count}")
        if int(error) == errno.EOPNOTSUPP:
            return None
        if failed != "0":
            raise RuntimeError(f"{op} over {transport}: {failed} errors: {os.strerror(int(error))}")
        return float(ns)

    def close(self) -> None:
        self.process.communicate()


@dataclasses.dataclass
class Served:
    """A server of `kind` and its clients; `close` ends them and complains when the server did not end well."""

    kind: str
    process: subprocess.Popen[bytes]
    clients: list[Client]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.process.wait(60)  # where files are held by the hundred thousand it takes a while

    @property
    def client(self) -> Client:
        return self.clients[0]

    def part(self, of_server: int, of_client: int) -> None:
        """Hold what runs of the server, and the first channel's thread, on one cpu, and the client on another."""
        self.client.run("channel", "FStat", 1)
        for process in (self.process.pid, *descendants(self.process.pid)):
            for task in os.listdir(f"/proc/{process}/task"):
                os.sched_setaffinity(int(task), [of_server])
        os.sched_setaffinity(self.client.process.pid, [of_client])


def serve(
    kind: str,
    place: pathlib.Path,
    tree: pathlib.Path,
    clients: int = 1,
    connections: int = 1,
    command: Sequence[str] = (),
    options: Sequence[str] = (),
) -> Served:
    """Start a server of `kind` on `tree` and `clients` clients, the first of which mounts `connections` times."""
    pairs = [socket.socketpair() for _ in range(clients + connections - 1)]
    theirs = [pair[1].fileno() for pair in pairs]
    argv, files = server_command(kind, place, tree, theirs, command, options)
    process = subprocess.Popen(argv, pass_fds=[*theirs, *files], stdin=subprocess.DEVNULL)
    for fd in files:
        os.close(fd)
    mine = [pair[0].fileno() for pair in pairs]
    groups = [mine[:connections], *([fd] for fd in mine[connections:])]
    for pair in pairs:
        pair[1].close()
    try:
        started = [Client(place, group) for group in groups]
    except RuntimeError as error:
        process.kill()
        raise RuntimeError(f"{' '.join(argv)}: exit status {process.wait()}: {error}") from None
    finally:
        for pair in pairs:
            pair[0].close()
    return Served(kind, process, started)


def memory(pid: int) -> dict[str, int]:
    """Bytes of a process and its descendants: RSS of the largest, PSS (a shared page counts once, in parts) of all."""
    found = {"RSS": 0, "PSS": 0}
    for process in [pid, *descendants(pid)]:
        lines = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        found["RSS"] = max(found["RSS"], sizes["Rss"])
        found["PSS"] += sizes["Pss"]
    return found


def descendants(pid: int) -> list[int]:
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children")
    found = [int(word) for word in children.read_text().split()] if children.exists() else []
    return [*found, *(below for child in found for below in descendants(child))]


def machine(command: Sequence[str]) -> str:
    """One line: what this was measured on. command: our server's, without a subcommand."""
    said = [
        subprocess.run(argv, capture_output=True, text=True).stdout.split("\n")[0]
        for argv in ([*command, "--version"], ["runsc", "--version"])
    ]
    models = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{os.cpu_count()} cpus {(models or ['?'])[0]}, Linux {os.uname().release}, {' beside '.join(said)}"


def available_cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))
