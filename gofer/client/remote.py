"""A server on another host, over ssh: `ssh HOST gofer serve --stdio PATH`, whose stdin and stdout are the connection.

Theory of operation
-------------------
ssh gets one end of a socket pair as its stdin and stdout; whoever asks has the other end, and a connection like any other but
that no fd crosses it. Options, keys, ports, agents and shared connections are ssh's own business, its messages go to our stderr.

Where nothing else is asked for, the command that ssh runs is a Python program in one line (`_STAGE`). It tells which Python it is
and which gofer is there. One of our version is used. Else this program is sent over the same connection: what that Python needs
of it, compressed, into a memfd that is run. Nothing is written there. A version is compared because both ends belong to one
person who has upgraded one of them; LISAFS itself is the same.
"""

from __future__ import annotations

import _thread
import base64
import contextlib
import os
import shlex
import signal
import socket
import subprocess
from typing import NamedTuple

from gofer import Failure, __version__, wire
from gofer.cdata import c_int, c_ulong
from gofer.client.ahead import answer, send
from gofer.client.client import Client
from gofer.client.reach import mounted
from gofer.output import printable
from gofer.sys import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

_HELLO = "gofer-stage-1"
_LONGEST = 1000  # bytes of the far side's line
_WIDE = 4 << 20  # bytes; ssh lets 2 MiB be on their way, but less while some of it has not been taken from it
_NOT_THERE = {"client", "conform", "copy", "fuse", "runsc"}  # rooms that a server does without
_SO_SNDBUFFORCE = 32

# `run` and `send` are what we answer. python3 is isolated, so that nothing in that account's home or directory is imported.
_STAGE = """
import os,sys,shutil,subprocess
def line():
 b=b""
 while not b.endswith(b"\\n"):
  c=os.read(0,1)
  if not c: sys.exit(1)
  b+=c
 return b.split()
g=shutil.which(NAME) or ""
v=""
if g:
 try: v=subprocess.run([g,"--version"],stdin=-3,stdout=-1,timeout=60).stdout.decode("ascii","replace").strip()
 except Exception: g=""
from importlib.util import MAGIC_NUMBER as m
os.write(1,("HELLO %d.%d %d %s\\n"%(sys.version_info[0],sys.version_info[1],m[0]|m[1]<<8,v.split(" ")[-1] or "-")).encode())
a=line()
if a[0]==b"run": os.execv(g,[g]+WORDS)
n=int(a[1])
f=os.memfd_create("gofer",0)
while n:
 d=os.read(0,min(n,1<<20))
 if not d: sys.exit(1)
 n-=len(d)
 while d: d=d[os.write(f,d):]
os.execv(sys.executable,[sys.executable,"-BIS","/proc/self/fd/%d"%f]+WORDS)
"""


class SSH(NamedTuple):
    """How a host is reached, and what runs there; see --help."""

    command: str = "ssh"
    gofer: str = "auto"  # or "never", "always", a path
    instead: str = ""  # of `gofer`: a command
    read_only: bool = False  # whether what it serves there is not to be changed


class Far(Client):
    """Says Lanes with Mount, so that there nobody carries bytes between ssh and the server (server/pipes.py): all in one lane, in
    which there is one order. A server that has none says so, and goes on."""

    def exchange(self, mid: int, request: bytes = b"") -> tuple[bytes, list[int]]:
        if mid != wire.MOUNT:
            return super().exchange(mid, request)
        send(self, self.base, [(wire.LANES, b""), (mid, request)])
        answer(self, self.base, wire.LANES)
        outcome = answer(self, self.base, mid)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome


@contextlib.contextmanager
def reach(host: str, path: str, timeout: float, ssh: SSH, kind: type[Client] = Far) -> Iterator[Client]:
    """A mounted client of a server of that path there. As reach.reach, which is for this machine."""
    far = Remote(host, path, timeout, ssh)
    try:
        with mounted(lambda: far.socket, host, timeout, ended=far.why_ended, kind=kind) as client:
            client.carrier = far.pid
            yield client
    finally:
        far.close()


class Remote:
    """An ssh that is running. socket: the connected end; pid: its process."""

    def __init__(self, host: str, path: str, timeout: float, ssh: SSH) -> None:
        """path: what is served. timeout: seconds until the first answer; 0: any time. Failure: why it cannot be."""
        self.host = host
        self._ssh = ssh
        self._timeout = timeout
        path = f"./{path}" if path.startswith("-") else path
        self._words = ["serve", "--stdio", *["--read-only"][: ssh.read_only], path]
        self.socket, theirs = socket.socketpair()
        _widen(theirs)
        try:
            argv = [*self._words_of_ssh(), "--", host, self._command()]
            with theirs:
                self._process = subprocess.Popen(
                    argv, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=subprocess.PIPE, preexec_fn=_at_our_end
                )
            assert self._process.stderr
            self.pid = self._process.pid
            self._said = _thread.allocate_lock()
            self._said.acquire()
            _thread.start_new_thread(_pass_on, (self._process.stderr, self._said))
        except OSError as error:
            self.socket.close()
            why = f"cannot run {self._words_of_ssh()[0]}: {error.strerror}"
            raise Failure(f"{why}; install an ssh client, or say with --ssh how to reach {host}") from None
        try:
            if self._staged():
                self._meet()
        except BaseException:
            self.close(patient=False)  # it may be asking for a password
            raise

    def close(self, patient: bool = True) -> None:
        """Hang up. ssh ends when the far side has; one that does not, as its host is silent, is not waited for."""
        self.socket.close()
        for number in (0, signal.SIGTERM, signal.SIGKILL)[not patient :]:
            self._process.send_signal(number)
            try:
                self._process.wait(1)
                return
            except subprocess.TimeoutExpired:
                pass

    def why_ended(self) -> str:
        """What ssh's exit status tells; "" where it still runs."""
        try:
            status = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return ""
        if self._said.acquire(timeout=1):  # what ssh has said comes first
            self._said.release()
        if status == 255:
            return f"ssh could not reach {self.host}, or was cut off"
        if status == 127:
            return f"{self.host} has no {'python3' if self._staged() else 'such command'}"
        return f"what ran on {self.host} ended with status {status}"

    def _words_of_ssh(self) -> list[str]:
        words = shlex.split(self._ssh.command)
        if not words:
            raise Failure("--ssh must not be empty; it is a command line such as 'ssh -p 2222'")
        return words

    def _staged(self) -> bool:
        return not self._ssh.instead and self._ssh.gofer in ("auto", "never", "always")

    def _command(self) -> str:
        words = " ".join(map(shlex.quote, self._words))
        if self._ssh.instead:
            return f"{self._ssh.instead} {words}"
        if not self._staged():
            return f"{shlex.quote(self._ssh.gofer)} {words}"
        name = "" if self._ssh.gofer == "always" else "gofer"
        stage = _STAGE.replace("NAME", repr(name)).replace("HELLO", _HELLO).replace("WORDS", repr(self._words))
        # No character in it means anything to a shell, whichever it is.
        return f"python3 -ISc 'import base64;exec(base64.b64decode(\"{base64.b64encode(stage.encode()).decode()}\"))'"

    def _meet(self) -> None:
        line = self._first_line()
        hello, _, rest = line.partition(" ")
        try:
            python, magic, version = rest.split(" ")
            number = tuple(map(int, python.split(".")))
            if hello != _HELLO:
                raise ValueError
        except ValueError:
            said = printable(line.encode()) or "nothing"
            raise Failure(
                f"{self.host}: something there writes to stdout before the command runs (its shell's start-up files?): {said}"
            ) from None
        there = version != "-"
        if there and (version == __version__ or self._ssh.gofer == "never"):
            self._send(b"run\n")
            return
        if self._ssh.gofer == "never":
            raise Failure(f"{self.host} has no gofer in its PATH; --remote-gofer auto sends this one, for this time only")
        if number < (3, 9):
            raise Failure(f"{self.host} has Python {python}, and gofer needs 3.9 or newer there")
        program = portable(magic)
        self._send(b"send %d\n" % len(program) + program)

    def _send(self, data: bytes) -> None:
        rest = memoryview(data)
        with self._in_time():
            while rest:
                rest = rest[self.socket.send(rest) :]

    def _first_line(self) -> str:
        line = b""
        with self._in_time():
            while not line.endswith(b"\n") and len(line) < _LONGEST:
                byte = self.socket.recv(1)
                if not byte:
                    raise self._cut_off()
                line += byte
        return line.decode("utf-8", "replace").rstrip("\n")

    @contextlib.contextmanager
    def _in_time(self) -> Iterator[None]:
        """Each call has the time that an answer may take: the far side takes what is sent, or says something."""
        self.socket.settimeout(self._timeout or None)
        try:
            yield
        except socket.timeout:
            raise Failure(f"{self.host}: no answer within {self._timeout:g} s; --timeout SECONDS waits longer") from None
        except OSError:
            raise self._cut_off() from None
        self.socket.settimeout(None)

    def _cut_off(self) -> Failure:
        why = self.why_ended() or f"{self.host} hung up"
        return Failure(f"{why}; `{' '.join(self._words_of_ssh())} {self.host} true` has to work without a question")


def _widen(sock: socket.socket) -> None:
    """Room for all that ssh can receive, so that it never has less on its way, and neither of us takes a turn for each piece; or
    what who is not root may have."""
    for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, _WIDE)
            return
        except OSError:
            pass


def _at_our_end() -> None:
    """In the process that becomes ssh: it takes signals, whatever who starts it does, and ends when that has ended.

    But Ctrl-C at a terminal is ours to heed: what we have begun there is put in order, and a shell goes on.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    libc["prctl"](c_int(_PR_SET_PDEATHSIG), c_ulong(signal.SIGKILL))  # it heeds no other where we heed none


_PR_SET_PDEATHSIG = 1


def _pass_on(said: IO[bytes], done: _thread.LockType) -> None:
    """What ssh says goes to stderr as long as that is ours: a mount in the background leaves it, and ssh would keep it."""
    with said:
        while data := os.read(said.fileno(), 4096):
            try:
                os.write(2, data)
            except OSError:
                pass
    done.release()


def portable(magic: str) -> bytes:
    """What `serve` takes of this program, as a zip archive that a Python whose byte code has that magic number can run, and no
    other need be able to."""
    import io
    import zipfile

    archive = getattr(__spec__.loader if __spec__ else None, "archive", "")
    made = io.BytesIO()
    # Level 1: a fifth larger, and made in a third of the time, for which everybody waits: 0.04 s, not 0.11.
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        if archive:
            with zipfile.ZipFile(archive) as source:
                for name in _needed(source.namelist(), magic):
                    out.writestr(name, source.read(name))
        else:  # a checkout
            root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
            out.write(os.path.join(root, "__main__.py"), "__main__.py")
            for folder, below, names in os.walk(os.path.join(root, "gofer")):
                below[:] = [name for name in below if name not in _NOT_THERE]
                for name in names:
                    if name.endswith(".py"):
                        path = os.path.join(folder, name)
                        code = _compiled(path, magic)
                        if code:
                            out.writestr(f"{os.path.relpath(path, root)}c", code)
                        else:
                            out.write(path, os.path.relpath(path, root))
    return made.getvalue()


def _compiled(path: str, magic: str) -> bytes:
    """What our Python has compiled of that file, where it is of the file as it is now, and that Python takes it: a quarter of a
    second there for all of them. Else nothing."""
    import importlib.util
    import struct

    try:
        with open(importlib.util.cache_from_source(path), "rb") as file:
            code = file.read()
        found = os.stat(path)
        flags, modified, size = struct.unpack_from("<4xIII", code)
    except (OSError, NotImplementedError, struct.error):
        return b""
    if code[:4] != importlib.util.MAGIC_NUMBER or magic != str(int.from_bytes(code[:2], "little")):
        return b""
    return code if (flags, modified, size) == (0, int(found.st_mtime) & 0xFFFFFFFF, found.st_size) else b""


def _needed(names: list[str], magic: str) -> list[str]:
    compiled = [name for name in names if name.startswith(f"site-packages/{magic}.")]
    wanted = ["__main__.py", *compiled] if compiled else [name for name in names if name.endswith(".py")]
    return [name for name in wanted if not _NOT_THERE & set(name.split("/"))]
