"""Commands on served trees, run without a start of Python: a copy of the test's own process calls the program's `main`.

    done = ask("ls", "-l", ":dir", socket=server.path)
    done.status, done.out, done.err
"""

import importlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Union

from hosts import Server

from gofer import cli

for module in {module for module, _ in cli.COMMANDS.values()} - {"serve", "runsc", "doctor"}:
    importlib.import_module(f"gofer.commands.{module}")  # here once, and not in each copy

WORLD = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"], "TERM": "xterm"}


class Done(NamedTuple):
    status: int
    out: bytes
    err: bytes

    @property
    def told(self) -> str:
        """What the lines on stderr say, without the program's name."""
        return self.err.decode().replace("gofer: ", "")


def ask(
    *argv: Union[str, bytes], socket: Optional[Path] = None, cwd: Optional[Path] = None, stdin: bytes = b"", out: int = -1,
    **environment: str,
) -> Done:  # fmt: skip
    """The program with these arguments in a process of its own; socket: $GOFER_SOCKET; out: an fd for its output."""
    fds = [os.memfd_create(name, 0) for name in ("stdin", "stdout", "stderr")]
    os.pwrite(fds[0], stdin, 0)
    child = os.fork()
    if child == 0:
        status = 99
        try:
            for number, fd in enumerate(fds):
                os.dup2(out if number == 1 and out >= 0 else fd, number)
            os.environ.clear()
            os.environ.update({**WORLD, **({"GOFER_SOCKET": str(socket)} if socket else {}), **environment})
            time.tzset()
            os.chdir(cwd or "/")
            status = cli.main([os.fsdecode(word) for word in argv])
        except SystemExit as end:  # argparse
            status = int(end.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    try:
        _, result = os.waitpid(child, 0)
        out, err = (os.pread(fd, os.fstat(fd).st_size, 0) for fd in fds[1:])
        assert b"Traceback" not in err, err.decode()
        return Done(os.waitstatus_to_exitcode(result), out, err)
    finally:
        for fd in fds:
            os.close(fd)


@contextmanager
def served(fill: Callable[[Path], None], *options: str) -> Iterator[Server]:
    """A server of a new tree. For tests of a module that change nothing in it."""
    tree = Path(tempfile.mkdtemp(prefix="zoo-"))
    server = None
    try:
        fill(tree)
        server = Server(tree, *options)
        yield server
        server.check_idle()
        server.stop()
    finally:
        if server:
            server.kill()
        shutil.rmtree(tree)


def zoo(tree: Path) -> None:
    """Names, kinds, times, owners and sizes as they come, below `zoo`, and what looks at the same from elsewhere."""
    place = os.path.join(os.fsencode(tree), b"zoo")
    os.makedirs(place + b"/dir/sub/deepest")
    os.makedirs(place + b"/.hidden/.more")
    os.mkdir(place + b"/empty")
    names = [
        b"plain", b"two words", b"new\nline", b"tab\there", b"quote'd", b'double"', b"dollar$", b"back\\slash", b"\xff\xfe\x80",
        b"\x1b[31mred", b"-dash", b"--help", b"n" * 255, "ümläut".encode(), "日本".encode(), b"semi;colon", b"star*", b"#hash",
        b"~tilde", b"{", b"a=b", b"q?", b"a:b", b"dir/in.c", b"dir/IN.C", b"dir/sub/deep.c", b"dir/sub/deepest/x", b".dot",
    ]  # fmt: skip
    for number, name in enumerate(names):
        with open(os.path.join(place, name), "wb") as file:
            file.write(b"line\n" * number * 37)
        os.chmod(file.name, 0o600 + number % 0o200)
        os.utime(file.name, ns=(10**18 + number * 7 * 10**15, 15 * 10**17 + number * 10**16 + number * 1234567))
    thirty = b"".join(b"%d\n" % number for number in range(1, 31))
    texts = {b"lines": thirty, b"noend": b"a\nb\nc", b"none": b"", b"gaps": b"\n\n\nx\n\n\ty\x80\n\n"}
    for name, data in texts.items():
        with open(os.path.join(place, name), "wb") as file:
            file.write(data)
    with open(place + b"/big", "wb") as file:
        file.write(b"".join(b"%d line\n" % n for n in range(60000)))
    times = {b"old": -(10**9), b"oldest": -1, b"late": 10424505600, b"y2262": 9223372037, b"now": int(time.time()) - 99}
    for name, seconds in times.items():
        Path(os.fsdecode(place + b"/" + name)).touch()
        os.utime(place + b"/" + name, (seconds, seconds))
    os.truncate(place + b"/late", 5 << 30)  # sparse
    os.chown(place + b"/old", 12345, 54321)
    os.chown(place + b"/oldest", 4294967294, 7)
    for name, mode in ((b"setuid", 0o4755), (b"setgid", 0o2755), (b"run", 0o755), (b"nothing", 0)):
        Path(os.fsdecode(place + b"/" + name)).touch()
        os.chmod(place + b"/" + name, mode)
    os.chmod(place + b"/dir/sub", 0o1777)
    os.link(place + b"/big", place + b"/dir/same")
    os.mkfifo(place + b"/fifo")
    os.mknod(place + b"/null", 0o20666, os.makedev(1, 3))
    os.mknod(place + b"/wide", 0o20600, os.makedev(259, 1048575))
    here = os.open(place, os.O_PATH)  # its path may be too long for a socket's name
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{here}/sock")
    os.close(here)
    for link, target in (
        (b"link", b"plain"), (b"dirlink", b"dir"), (b"dangling", b"nowhere"), (b"loop", b"loop2"), (b"loop2", b"loop"),
        (b"dir/up", b".."), (b"dir/sub/round", b"../../dir"), (b"odd", b"new\nline"),
    ):  # fmt: skip
        os.symlink(target, os.path.join(place, link))
    # A file's blocks are its own when the disk has them: what is promised before may differ (ext4's delayed allocation).
    subprocess.run(["sync", "--file-system", place], check=True)

