"""`gofer doctor --self-test DIR`: a real server on DIR's file system, a real client, every message over both transports."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import struct
import tempfile
from errno import EINVAL, EOPNOTSUPP, EPERM

from gofer import failure, sys, wire
from gofer.client.client import Client
from gofer.client.transport import Lost
from gofer.commands import serve
from gofer.commands.options import quick

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    Result = tuple[str, str, str]

_TRANSPORTS = ("socket", "channel")
_NAMES = {**wire.NAMES, **wire.OWN_NAMES}
_DATA = b"self-test " * 1000
# What a file system may well not have; anything else is a fault.
_OPTIONAL = {wire.FALLOCATE, wire.RENAMEAT2, wire.LINKAT, wire.SYMLINKAT, wire.MKNODAT, wire.BINDAT}
_OPTIONAL |= {wire.FGETXATTR, wire.FSETXATTR, wire.FLISTXATTR, wire.FREMOVEXATTR}
_OF_SOCKETS = {wire.LISTEN, wire.CONNECT, wire.CONNECTWITHCREDS, wire.ACCEPT}


def run(directory: str) -> list[Result]:
    """(name, "ok", "missing" or "failed", detail) of each message; missing is what the file system does not have.

    They are worked through in a new subdirectory that is removed again.
    """
    place = ""
    try:
        place = tempfile.mkdtemp(prefix=".gofer-self-test-", dir=directory)
        for transport in _TRANSPORTS:
            os.mkdir(os.path.join(place, transport))
    except OSError as e:
        if place:
            shutil.rmtree(place, ignore_errors=True)
        raise failure(f"cannot test in {directory}", e, "give a directory you can write to") from None
    found: dict[int, dict[str, str]] = {}
    try:
        for transport in _TRANSPORTS:
            folder = os.path.join(place, transport)
            with _served(folder) as sock, Client(sock, transport == "channel", timeout=30) as client:
                for mid, trouble in _Course(client, folder).results():
                    found.setdefault(mid, {})[transport] = trouble
    except (Lost, struct.error) as e:
        return [("server", "failed", str(e))]
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return [_judge(mid, by_transport) for mid, by_transport in sorted(found.items())]


def _judge(mid: int, by_transport: dict[str, str]) -> Result:
    troubles = {trouble for trouble in by_transport.values() if trouble}
    if not troubles:
        return _NAMES[mid], "ok", " and ".join(by_transport)
    detail = "; ".join(f"{transport}: {trouble or 'right'}" for transport, trouble in by_transport.items())
    missing = all(trouble.startswith("not here") for trouble in troubles)
    return _NAMES[mid], "missing" if missing else "failed", detail


@contextlib.contextmanager
def _served(folder: str) -> Any:
    """A connected socket to a server of `folder`, started as from the command line."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            ours.close()
            options = quick([folder, "--fd", str(theirs.fileno()), "--host-uds=all", "--log-level=error"])
            status = serve.run(options, "gofer")
        finally:
            os._exit(status)
    theirs.close()
    try:
        with ours:
            yield ours
    finally:
        ours.close()
        os.waitpid(child, 0)


class Wrong(Exception):
    """An answer that is not what it should be."""


def _expect(right: bool, what: str) -> None:
    if not right:
        raise Wrong(what)


class _Course:
    """The messages in an order in which each finds what it needs; a method each."""

    def __init__(self, client: Client, folder: str) -> None:
        self.client = client
        self.folder = folder
        self.root = client.root.fd
        self.file = self.opened = self.bound = self.sock = -1
        self.link = -1

    def results(self) -> list[tuple[int, str]]:
        """(message id, "" or what is wrong) for each message."""
        found = []
        broken: set[int] = set()
        for mid, check in self._checks():
            try:
                if mid in _OF_SOCKETS and wire.BINDAT in broken:
                    raise OSError(EOPNOTSUPP, "no socket was made")
                check()
                trouble = ""
            except OSError as error:
                optional = mid in _OPTIONAL | _OF_SOCKETS and error.errno in (EOPNOTSUPP, EINVAL, EPERM)
                trouble = f"{'not here' if optional else 'error'}: {os.strerror(error.errno or 0)}"
            except Wrong as error:
                trouble = str(error)
            if trouble:
                broken.add(mid)
            found.append((mid, trouble))
        return found

    def _checks(self) -> list[tuple[int, Callable[[], None]]]:
        return [
            (wire.ERROR, self._error), (wire.MOUNT, self._mount), (wire.CHANNEL, self._channel),
            (wire.OPENCREATEAT, self._opencreateat), (wire.PWRITE, self._pwrite), (wire.PREAD, self._pread),
            (wire.FSYNC, self._fsync), (wire.FLUSH, self._flush), (wire.FALLOCATE, self._fallocate),
            (wire.FSTAT, self._fstat), (wire.SETSTAT, self._setstat), (wire.FSTATFS, self._fstatfs),
            (wire.OPENAT, self._openat), (wire.MKDIRAT, self._mkdirat), (wire.MKNODAT, self._mknodat),
            (wire.SYMLINKAT, self._symlinkat), (wire.READLINKAT, self._readlinkat), (wire.LINKAT, self._linkat),
            (wire.WALK, self._walk), (wire.WALKSTAT, self._walkstat), (wire.GETDENTS64, self._getdents64),
            (wire.DIRSTAT, self._dirstat),
            (wire.DIRWALK, self._dirwalk), (wire.DIRREAD, self._dirread), (wire.DIRWRITE, self._dirwrite),
            (wire.DIRRENAME, self._dirrename),
            (wire.FSETXATTR, self._fsetxattr), (wire.FGETXATTR, self._fgetxattr),
            (wire.FLISTXATTR, self._flistxattr), (wire.FREMOVEXATTR, self._fremovexattr),
            (wire.BINDAT, self._bindat), (wire.LISTEN, self._listen), (wire.CONNECT, self._connect),
            (wire.CONNECTWITHCREDS, self._connectwithcreds), (wire.ACCEPT, self._accept),
            (wire.RENAMEAT, self._renameat), (wire.RENAMEAT2, self._renameat2), (wire.UNLINKAT, self._unlinkat),
            (wire.CLOSE, self._close),
        ]  # fmt: skip

    def _host(self, name: str) -> os.stat_result:
        return os.stat(os.path.join(self.folder, name), follow_symlinks=False)

    def _error(self) -> None:
        (code,) = wire.ErrorResp.unpack(self.client.exchange(wire.ERROR)[0])
        _expect(code == EINVAL, f"a request with id 0 is answered {os.strerror(code)}")

    def _mount(self) -> None:
        _expect(self.client.root.stat.ino == os.stat(self.folder).st_ino, "another inode than the directory's")
        _expect(
            set(self.client.supported) >= set(wire.NAMES) - {wire.ERROR, wire.FLUSH}, "not every message is offered"
        )

    def _channel(self) -> None:
        self.client.channel().close()

    def _opencreateat(self) -> None:
        node, self.opened, host = self.client.opencreateat(self.root, b"file", os.O_RDWR, 0o640)
        self.file = node.fd
        if host >= 0:
            os.close(host)
        _expect(stat.S_IMODE(self._host("file").st_mode) == 0o640, f"mode {oct(self._host('file').st_mode)}")
        _expect(node.stat.ino == self._host("file").st_ino, "another inode than the file's")

    def _pwrite(self) -> None:
        _expect(self.client.pwrite(self.opened, _DATA, 5) == len(_DATA), "a short write")

    def _pread(self) -> None:
        _expect(self.client.pread(self.opened, len(_DATA) + 9, 5) == _DATA, "not what was written")

    def _fsync(self) -> None:
        self.client.fsync(self.opened)

    def _flush(self) -> None:
        self.client.flush(self.opened)

    def _fallocate(self) -> None:
        self.client.fallocate(self.opened, 0, 0, 20000)
        _expect(self._host("file").st_size == 20000, f"size {self._host('file').st_size}")

    def _fstat(self) -> None:
        here, told = self._host("file"), self.client.fstat(self.file)
        _expect((told.ino, told.size, told.uid) == (here.st_ino, here.st_size, here.st_uid), "not what stat(2) says")

    def _setstat(self) -> None:
        mask = sys.STATX_MODE | sys.STATX_SIZE | sys.STATX_ATIME | sys.STATX_MTIME
        failed, code = self.client.setstat(self.file, mask, mode=0o600, size=100, atime=(1000, 0), mtime=(2000, 0))
        _expect(not failed, f"mask {failed:#x}: {os.strerror(code)}")
        here = self._host("file")
        told = stat.S_IMODE(here.st_mode), here.st_size, int(here.st_mtime)
        _expect(told == (0o600, 100, 2000), f"mode, size and time are {told}")

    def _fstatfs(self) -> None:
        _expect(self.client.fstatfs(self.file).bsize == os.statvfs(self.folder).f_bsize, "another block size")

    def _openat(self) -> None:
        opened, host = self.client.openat(self.file, os.O_RDONLY)
        _expect(host >= 0, "no host fd was donated")
        try:
            _expect(os.fstat(host).st_ino == self._host("file").st_ino, "the donated fd is another file")
        finally:
            os.close(host)
        self.client.close_fds(opened)

    def _mkdirat(self) -> None:
        self.client.mkdirat(self.root, b"dir", 0o750)
        _expect(stat.S_IMODE(self._host("dir").st_mode) & 0o777 == 0o750, f"mode {oct(self._host('dir').st_mode)}")

    def _mknodat(self) -> None:
        self.client.mknodat(self.root, b"node", stat.S_IFREG | 0o644)
        _expect(stat.S_ISREG(self._host("node").st_mode), "not a regular file")

    def _symlinkat(self) -> None:
        self.link = self.client.symlinkat(self.root, b"link", b"../target").fd

    def _readlinkat(self) -> None:
        link = self.link if self.link >= 0 else self.file
        _expect(self.client.readlinkat(link) == b"../target", "another target")

    def _linkat(self) -> None:
        self.client.linkat(self.root, self.file, b"second")
        _expect(self._host("second").st_ino == self._host("file").st_ino, "another inode")

    def _walk(self) -> None:
        status, inodes = self.client.walk(self.root, [b"dir", b"missing"])
        _expect((status, len(inodes)) == (wire.WALK_MISSING, 1), f"status {status}, {len(inodes)} inodes")

    def _walkstat(self) -> None:
        found = self.client.walkstat(self.root, [b"", b"dir"])
        told = [each.ino for each in found]
        _expect(told == [os.stat(self.folder).st_ino, self._host("dir").st_ino], "other inodes")

    def _getdents64(self) -> None:
        listed = {entry.name: entry for entry in self.client.listdir(self.root)}
        _expect(set(listed) == {os.fsencode(name) for name in os.listdir(self.folder)}, "other names")
        for name, entry in listed.items():
            here = self._host(os.fsdecode(name))
            told = (entry.ino, entry.dev) == (here.st_ino, (os.major(here.st_dev), os.minor(here.st_dev)))
            _expect(told, f"{os.fsdecode(name)} has another inode or device than stat(2) says")

    def _dirstat(self) -> None:
        with self.client.opened(self.root) as opened:
            found = dict(self.client.dirstat(opened, 65536))
        told = {os.fsdecode(name): (each.ino, each.mode, each.size) for name, each in found.items()}
        here = {name: self._host(name) for name in os.listdir(self.folder)}
        _expect(told == {name: (each.st_ino, each.st_mode, each.st_size) for name, each in here.items()}, "not as stat(2) says")

    def _dirwalk(self) -> None:
        found = self.client.dirwalk(self.root, b"", 65536)
        _expect(sorted(map(os.fsdecode, found.names)) == sorted(os.listdir(self.folder)), "other names")

    def _dirread(self) -> None:
        with open(os.path.join(self.folder, "read"), "wb") as file:
            file.write(b"contents")
        names = wire.Count.bytes(1) + wire.Count.bytes(4) + b"read"
        found = self.client.ask(wire.DIRREAD, wire.DirReadReq.bytes(self.root, 65536, 65536) + names)
        _expect(found.endswith(b"contents") and wire.DirReadResp.read(found)[0] == 1, "other contents")
        os.unlink(os.path.join(self.folder, "read"))

    def _dirwrite(self) -> None:
        data = wire.DirWriteEntry.bytes(0o640, wire.NO_ID, wire.NO_ID, 8, 1, 2, 3, 4, 5) + b"writtcontents"
        told = self.client.ask(wire.DIRWRITE, wire.DirWriteReq.bytes(self.root, 0, 1, len(data)) + data)
        _expect(wire.DirWriteDone.read(told, wire.DirReadResp.size) == (0, 0, 0), "the file was not made as asked for")
        here = self._host("writt")
        _expect((here.st_mode & 0o7777, here.st_size, here.st_mtime_ns) == (0o640, 8, 3 * 10**9 + 4), "not as asked for")

    def _dirrename(self) -> None:
        with open(os.path.join(self.folder, "before"), "wb"):
            pass
        names = wire.Count.bytes(2) + wire.Count.bytes(6) + b"before" + wire.Count.bytes(5) + b"after"
        self.client.ask(wire.DIRRENAME, wire.DirRenameReq.bytes(self.root) + names)
        _expect(os.path.exists(os.path.join(self.folder, "after")), "it has its old name")
        os.unlink(os.path.join(self.folder, "after"))

    def _fsetxattr(self) -> None:
        self.client.fsetxattr(self.file, b"user.gofer", b"value")

    def _fgetxattr(self) -> None:
        self.client.fsetxattr(self.file, b"user.gofer", b"value")
        _expect(self.client.fgetxattr(self.file, b"user.gofer") == b"value", "another value")

    def _flistxattr(self) -> None:
        self.client.fsetxattr(self.file, b"user.gofer", b"value")
        _expect(b"user.gofer" in self.client.flistxattr(self.file), "the name is not listed")

    def _fremovexattr(self) -> None:
        self.client.fsetxattr(self.file, b"user.gofer", b"value")
        self.client.fremovexattr(self.file, b"user.gofer")
        _expect(b"user.gofer" not in self.client.flistxattr(self.file), "the name is still listed")

    def _bindat(self) -> None:
        node, self.bound, host = self.client.bindat(self.root, b"sock", socket.SOCK_STREAM, 0o600)
        self.sock = node.fd
        os.close(host)
        _expect(stat.S_ISSOCK(self._host("sock").st_mode), "not a socket")

    def _listen(self) -> None:
        self.client.listen(self.bound, 4)

    def _connect(self) -> None:
        os.close(self.client.connect_socket(self.sock, socket.SOCK_STREAM))

    def _connectwithcreds(self) -> None:
        os.close(self.client.connect_with_creds(self.sock, socket.SOCK_STREAM, os.geteuid(), os.getegid()))

    def _accept(self) -> None:
        os.close(self.client.accept(self.bound))

    def _renameat(self) -> None:
        self.client.renameat(self.root, b"node", self.client.lookup("dir").fd, b"moved")
        self._host("dir/moved")

    def _renameat2(self) -> None:
        before = self._host("file").st_ino, self._host("dir/moved").st_ino
        folder = self.client.lookup("dir").fd
        self.client.renameat2(self.root, b"file", folder, b"moved", sys.RENAME_EXCHANGE)
        _expect((self._host("dir/moved").st_ino, self._host("file").st_ino) == before, "not exchanged")

    def _unlinkat(self) -> None:
        self.client.unlinkat(self.root, b"file")
        self.client.unlinkat(self.client.lookup("dir").fd, b"moved")
        self.client.unlinkat(self.root, b"dir", sys.AT_REMOVEDIR)
        _expect(not {"file", "dir"} & set(os.listdir(self.folder)), "the names are still there")

    def _close(self) -> None:
        self.client.close_fds(self.opened)
        try:
            self.client.pread(self.opened, 1, 0)
        except OSError:
            return
        raise Wrong("a closed FD can still be read")
