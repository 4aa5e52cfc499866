"""An sshd of one's own, on 127.0.0.1, with keys made for it, and what makes ssh reach it: for benchmarks and tests."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

from slowline import slow_line

HOST = "far"  # as the configuration of that ssh calls it


def configure(place: pathlib.Path, more: str = "") -> tuple[list[str], int]:
    """The command line of the sshd, and its port. `place` gets keys, and ssh_config for ssh -F, which knows HOST.

    more: further lines of its configuration.
    """
    place.mkdir(parents=True, exist_ok=True)
    os.makedirs("/run/sshd", exist_ok=True)  # which sshd wants to be there and empty
    for key in ("host", "user"):
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(place / key)]
        subprocess.run(make, check=True, stdin=subprocess.DEVNULL)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    (place / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {place}/host\nPidFile {place}/pid\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {place}/user.pub\nPermitRootLogin yes\n{more}"
    )
    (place / "ssh_config").write_text(
        f"Host {HOST}\nHostName 127.0.0.1\nPort {port}\nIdentityFile {place}/user\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {place}/known\nStrictHostKeyChecking accept-new\nBatchMode yes\nLogLevel ERROR\n"
    )
    daemon = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if daemon is None:
        raise SystemExit("apt-get install openssh-server")
    return [daemon, "-D", "-e", "-f", str(place / "sshd_config")], port


@contextlib.contextmanager
def sshd(place: pathlib.Path, delay: float = 0) -> Iterator[pathlib.Path]:
    """The configuration file for ssh -F, which knows HOST. delay: how many milliseconds away it is."""
    command, port = configure(place, "Subsystem sftp internal-sftp\n")
    with open(place / "log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
    config = place / "ssh_config"
    try:
        while "listening" not in (place / "log").read_text():
            time.sleep(0.01)
        with slow_line(port, delay) if delay else contextlib.nullcontext(port) as near:
            config.write_text(config.read_text().replace(f"Port {port}\n", f"Port {near}\n"))
            yield config
    finally:
        process.terminate()
        process.wait()
