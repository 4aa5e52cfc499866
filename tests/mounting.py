"""A mount of a test's own: a server, `gofer mount` in the foreground, and nothing left of either."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from hosts import GOFER, PATIENCE, Server, children, ended, run, wait_until


class Mount:
    """path: where; tree: what is served, on the host; process: the guard; pid: the mount process."""

    def __init__(self, server: Server, path: Path, *options: str, sub: str = "") -> None:
        self.server, self.tree, self.path = server, server.tree, path
        self.log = path.parent / (path.name + ".log")
        argv = [*GOFER, "mount", "--foreground", *options, f"{server.path}:{sub}", str(path)]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: mounted(path) or self.process.poll() is not None, "it is mounted")
        assert mounted(path), f"gofer mount ended with {self.process.returncode}: {self.said()}"
        wait_until(lambda: bool(children(self.process.pid)), "there is a mount process")
        self.pid = children(self.process.pid)[0]

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """In order: whoever waits for its end finds status 0, nothing mounted and nothing said."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.said()
        assert not mounted(self.path)
        wait_until(lambda: ended(self.pid), "the mount process ends")
        assert self.said() == "", self.said()

    def kill(self) -> None:
        if self.process.poll() is None:
            for pid in (*children(self.process.pid), self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
        while mounted(self.path):
            subprocess.run(["umount", "-l", str(self.path)], check=True)
        self.log.unlink()


def mounted(path: Path) -> bool:
    """From the table of mounts: to ask the place itself would be to ask who has mounted it."""
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


@contextlib.contextmanager
def mount(server: Server, *options: str, sub: str = "") -> Iterator[Mount]:
    """It must end in order, or have been ended."""
    place = Path(tempfile.mkdtemp(prefix="mount-"))
    made: Mount | None = None
    try:
        (place / "m").mkdir()
        made = Mount(server, place / "m", *options, sub=sub)
        yield made
        if made.process.poll() is None:
            made.stop()
    finally:
        if made is not None:
            made.kill()
        shutil.rmtree(place)


def messages(server: Server, control: Path) -> "Counter[str]":
    """How many of each kind the server was sent, and has answered: it counts when that is done."""
    server.rest()
    said = json.loads(run("top", "--json", str(control)).stdout)["messages"]
    return Counter({name: each["count"] for name, each in said.items()})


def takes(
    server: Server, control: Path, work: "Callable[[Mount], None]", so_many: "Callable[[Counter[str]], bool]", *options: str
) -> None:  # fmt: skip
    """That work, in a mount of its own, takes such messages. What was read is good for a second, a busy machine may take longer:
    so it is tried again, and the last time counts."""
    for _ in range(30):
        with mount(server, *options) as there:
            before = messages(server, control)
            work(there)
            sent = messages(server, control) - before
        if so_many(sent):
            return
    raise AssertionError(f"never so many: {sent}")
