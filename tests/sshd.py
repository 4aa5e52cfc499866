"""A real sshd of a test's own, on 127.0.0.1, with keys made for it, and the ssh that reaches it."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from hosts import CHECKOUT, wait_until

sys.path.append(str(CHECKOUT / "bench"))
from farhost import HOST, configure

__all__ = ["HOST", "Sshd", "sshd"]


class Sshd:
    """command: an ssh command line that knows HOST and nothing of this machine's configuration."""

    def __init__(self, place: Path, variables: str = "") -> None:
        self._daemon, self.port = configure(place, variables)
        self.command = f"ssh -F {place}/ssh_config"
        self.log = place / "log"
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._daemon, stdin=subprocess.DEVNULL, stderr=open(self.log, "wb"), start_new_session=True
        )
        wait_until(lambda: "listening" in self.log.read_text(), "sshd listens")

    def sessions(self) -> list[int]:
        """The processes that serve a connection each."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def is_connected(self) -> bool:
        """Whether a client has a connection to it, in the eyes of the kernel: it may be stopped itself."""
        table = Path("/proc/net/tcp").read_text().splitlines()[1:]
        peers = [line.split()[2:4] for line in table]
        return any(int(address.partition(":")[2], 16) == self.port and state == "01" for address, state in peers)

    def cut(self) -> None:
        """End what is connected, at once."""
        for pid in self.sessions():
            for each in (*_children(pid), pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)

    def stop(self) -> None:
        self.cut()
        self.process.terminate()
        self.process.wait()


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextlib.contextmanager
def sshd(place: Path, variables: str = "") -> Iterator[Sshd]:
    server = Sshd(place, variables)
    try:
        yield server
    finally:
        server.stop()
