"""A real gVisor sandbox (Debian's `runsc boot`, unmodified) whose root file system is one served socket.

No `runsc run`, so no gofer of runsc's own can take part: the sandbox process gets the other end of the socketpair that
`gofer serve --fd` holds, and nothing else to read files from.
"""

import json
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

from hosts import CALM, GOFER, PATIENCE

FLAGS = ["--platform=ptrace", "--network=none", "--ignore-cgroups"]


def make_root(root: Path, script: str) -> None:
    """A root file system of one static busybox and the script /script."""
    (root / "bin").mkdir(parents=True)
    for name in ("dev", "proc", "sys", "tmp", "work"):  # the sandbox makes its own mount points
        (root / name).mkdir()
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed"
    shutil.copy(busybox, root / "bin/busybox")
    (root / "script").write_text(script)


def run_native(root: Path) -> str:
    """The script on the host's kernel, in a chroot; returns what it printed."""
    done = subprocess.run(
        ["chroot", root, "/bin/busybox", "sh", "/script"], capture_output=True, text=True, check=True, timeout=CALM
    )
    return done.stdout


def run_sandboxed(root: Path, place: Path, *options: str) -> tuple[str, str, int]:
    """The script inside the sandbox, its root served by `gofer serve root --fd N options`.

    place: a scratch directory. Returns what the script printed, what gofer said, and gofer's exit status.
    """
    ours, theirs = socket.socketpair()
    with ours, open(place / "gofer.log", "wb") as log:
        gofer = subprocess.Popen(
            [*GOFER, "serve", str(root), "--fd", str(ours.fileno()), *options],
            pass_fds=[ours.fileno()],
            stdout=log,
            stderr=log,
        )
    try:
        printed = _boot(place, theirs)
        status = gofer.wait(PATIENCE)  # the sandbox is gone, and with it the only connection
    finally:
        theirs.close()
        gofer.kill()
        gofer.wait()
    return printed, (place / "gofer.log").read_text(), status


def _boot(place: Path, root_socket: socket.socket) -> str:
    """`runsc boot` on root_socket (closed here); returns what the container's process printed."""
    name = f"gofer-test-{os.getpid()}-{os.urandom(4).hex()}"
    spec = place / "config.json"
    spec.write_text(json.dumps(_spec()))
    control = socket.socket(socket.AF_UNIX)
    control.bind("\0runsc-sandbox." + name)
    started, start = os.pipe()
    mounts, list_of_mounts = os.pipe()
    os.write(list_of_mounts, json.dumps(_spec()["mounts"]).encode())
    os.close(list_of_mounts)
    spec_fd = os.open(spec, os.O_RDONLY)
    fds = {
        "io-fds": root_socket.fileno(), "mounts-fd": mounts, "start-sync-fd": start,
        "controller-fd": control.fileno(), "spec-fd": spec_fd,
    }  # fmt: skip
    words = ["runsc", *FLAGS, "boot", f"--bundle={place}", *(f"--{flag}={fd}" for flag, fd in fds.items())]
    words += ["--stdio-fds=0", "--stdio-fds=1", "--stdio-fds=2", name]
    with subprocess.Popen(
        ["unshare", "--mount", "--ipc", "--uts", "--net", *words],
        pass_fds=list(fds.values()), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as sandbox:  # fmt: skip
        for fd in (start, mounts, spec_fd):
            os.close(fd)
        control.close()
        root_socket.close()
        try:
            ready = os.read(started, 1)
            os.close(started)
            assert ready == b"\0", f"the sandbox did not start: {sandbox.communicate(timeout=CALM)[1]}"
            with socket.socket(socket.AF_UNIX) as caller:
                caller.connect("\0runsc-sandbox." + name)
                caller.send(json.dumps({"method": "containerManager.StartRoot", "arg": name}).encode())
                answer = json.loads(caller.recv(65536))
            assert answer.get("success"), answer
            printed, said = sandbox.communicate(timeout=CALM)
            assert sandbox.returncode == 0, f"the script failed: {printed}{said}"
            return printed
        finally:
            sandbox.kill()


def _spec() -> dict[str, Any]:
    rights = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"]
    held = dict.fromkeys(("bounding", "effective", "permitted"), rights)
    words = ["/bin/busybox", "sh", "/script"]
    return {
        "ociVersion": "1.0.0",
        "process": {"args": words, "cwd": "/", "env": [], "user": {"uid": 0, "gid": 0}, "capabilities": held},
        "root": {"path": "root"},
        "hostname": "test",
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }


def describe(root: Path) -> dict[str, Any]:
    """Everything a script can leave of a tree: name, type, mode, owner, links, and size, contents or target."""
    found: dict[str, Any] = {}
    for where, directories, files in os.walk(root):
        for name in [*directories, *files]:
            path = Path(where, name)
            s = path.lstat()
            what: Any = None
            if stat.S_ISREG(s.st_mode):
                what = s.st_size, path.read_bytes() if s.st_size < 1 << 16 else _digest(path)
            elif stat.S_ISLNK(s.st_mode):
                what = os.readlink(path)
            links = s.st_nlink if not stat.S_ISDIR(s.st_mode) else None
            found[str(path.relative_to(root))] = (oct(s.st_mode), s.st_uid, s.st_gid, links, what)
    return found


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()
