"""A server's parts inside this process, for fuzzing: one connection after another, each with an empty tree.

Not for use beside other code: it changes the working directory, the umask and the limits of the process.
"""

import _thread
import contextlib
import fcntl
import os
import resource
import select
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from gofer.conform.codec import MAX_MESSAGE  # noqa: E402
from gofer.conform.transport import HEADER, PATIENCE, Reply, rights  # noqa: E402

SIOCOUTQ = 0x5411
atheris = sys.modules.get("atheris")  # where a fuzzer is to learn what of the server an input reaches
with atheris.instrument_imports(include=["gofer"]) if atheris else contextlib.nullcontext():
    from gofer import procself
    from gofer.log import Log
    from gofer.server import attrs, fds, mounts
    from gofer.server.comm import Export, Options
    from gofer.server.connection import Connection


class Inside:
    """place: holds `tree`, which is served with every option open, and `outside`, which nothing may change."""

    def __init__(self) -> None:
        self.place = tempfile.mkdtemp(prefix="fuzz-")
        self.tree = f"{self.place}/tree"
        os.mkdir(self.tree)
        with open(f"{self.place}/outside", "w") as file:
            file.write("secret")
        self.said, log_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.log = Log("error", fd=log_fd)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 26, 1 << 26))  # a fallocate is not to fill the memory
        os.umask(0)
        procself.pin_proc()
        procself.enter_proc()
        attrs.drop_fsetid()
        mounts.open_table()
        options = Options(
            host_uds="all", host_fifo="open", char_devices="open", xattrs="all", channels=1, donate_root=True
        )
        self.ended = threading.Event()
        self.export = Export(os.open(self.tree, fds.O_PATH_FLAGS), options)
        self.before, self.fds = self._outside(), -1

    def _outside(self) -> object:
        return sorted(os.listdir(self.place)), os.stat(f"{self.place}/outside")[:9]

    def connect(self) -> tuple[Connection, "Client"]:
        """A connection whose thread serves, and the client's end of it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        self.ended.clear()
        conn = Connection(ours, self.export, self.log, lambda _: self.ended.set())
        conn.start()
        return conn, Client(theirs)

    def end(self, conn: Connection, client: "Client") -> None:
        """Close the connection; AssertionError where it has left or changed anything, or a fault was logged."""
        conn.close()
        client.close()
        assert self.ended.wait(PATIENCE), "the connection does not end"
        for entry in os.scandir(self.tree):
            shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
        os.chmod(self.tree, 0o755)
        os.chown(self.tree, 0, 0)
        assert self._outside() == self.before, "something outside the tree has changed"
        try:
            raise AssertionError(os.read(self.said, 65536).decode())
        except BlockingIOError:
            pass
        while _thread._count():  # its last thread closes the socket after it has said that all is closed
            os.sched_yield()
        held = len(os.listdir("/proc/self/fd"))
        assert self.fds in (-1, held), f"{held} fds are open, {self.fds} were before"
        self.fds = held

    def close(self) -> None:
        shutil.rmtree(self.place)


class Client:
    """Sends bytes, in portions that the server reads one by one, and takes replies."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.data = sock, b""
        self.donated: list[int] = []
        sock.settimeout(PATIENCE)

    def send(self, portion: bytes) -> "list[Reply]":
        """Until the server has read it all, or has hung up; returns the replies that came meanwhile."""
        found: list[Reply] = []
        self.sock.setblocking(False)
        try:
            while portion or any(fcntl.ioctl(self.sock, SIOCOUTQ, b"\0\0\0\0")):
                ready = select.select([self.sock], [self.sock] if portion else [], [], 0.001)
                if ready[1]:
                    portion = portion[self.sock.send(portion) :]
                if ready[0]:
                    self._receive()
                    found += self._whole()
        except (OSError, EOFError):  # it has hung up
            pass
        self.sock.settimeout(PATIENCE)
        return found

    def replies(self, most: int = 1 << 30) -> "list[Reply]":
        """So many, or all until the server hangs up; what is donated is in `donated`."""
        found = list(self._whole())
        try:
            while len(found) < most:
                self._receive()
                found += self._whole()
        except (ConnectionError, EOFError):
            pass
        return found

    def _receive(self) -> None:
        part, ancillary, _, _ = self.sock.recvmsg(1 << 20, socket.CMSG_SPACE(32), socket.MSG_CMSG_CLOEXEC)
        self.donated += rights(ancillary)
        self.data += part
        if not part:
            raise EOFError

    def _whole(self) -> Iterator[Reply]:
        while len(self.data) >= HEADER.size:
            length, mid, zero = HEADER.unpack_from(self.data)
            assert zero == 0 and length <= MAX_MESSAGE
            if len(self.data) < HEADER.size + length:
                break
            yield Reply(mid, self.data[HEADER.size : HEADER.size + length], [])
            self.data = self.data[HEADER.size + length :]

    def close(self) -> None:
        self.sock.close()
        for fd in self.donated:
            os.close(fd)
