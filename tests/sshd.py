"""A real sshd of a test's own, on 127.0.0.1, with keys made for it, and the ssh that reaches it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hosts import wait_until

HOST = "far"  # as the configuration of that ssh calls it


class Sshd:
    """command: an ssh command line that knows HOST and nothing of this machine's configuration."""

    def __init__(self, place: Path, variables: str = "") -> None:
        place.mkdir(parents=True, exist_ok=True)
        os.makedirs("/run/sshd", exist_ok=True)  # which sshd wants to be there and empty
        for key in ("host", "user"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / key)]
            subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        (place / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nPidFile {place}/pid\nStrictModes no\n"
            f"AuthorizedKeysFile {place}/user.pub\nPermitRootLogin yes\nUsePAM no\n{variables}"
        )
        (place / "ssh_config").write_text(
            f"Host {HOST}\nHostName 127.0.0.1\nPort {self.port}\nIdentityFile {place}/user\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {place}/known\nStrictHostKeyChecking accept-new\nBatchMode yes\nLogLevel ERROR\n"
        )
        self.command = f"ssh -F {place}/ssh_config"
        self.log = place / "log"
        self.start()

    def start(self) -> None:
        place = self.log.parent
        daemon = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
        assert daemon, "apt-get install openssh-server"
        self.process = subprocess.Popen(
            [daemon, "-D", "-e", "-f", str(place / "sshd_config")],
            stdin=subprocess.DEVNULL, stderr=open(self.log, "wb"), start_new_session=True,
        )  # fmt: skip
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
