"""A file system that fails on demand: the kernel's FUSE protocol, spoken from /dev/fuse in a process of its own.

No FUSE library is needed. There is a root directory with `file`, `dir` and `link`; whatever else is made is forgotten at once.
`fail(opcode, errno)` makes an operation fail from then on, `hang(opcode)` leaves it without an answer.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import signal
import stat as modes
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR = 1, 2, 3, 4, 5, 6, 8, 9, 10, 11
RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE, FSYNC, SETXATTR, GETXATTR = 12, 13, 14, 15, 16, 17, 18, 20, 21, 22
LISTXATTR, REMOVEXATTR, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, CREATE = 23, 24, 25, 26, 27, 28, 29, 35
INTERRUPT, BATCH_FORGET, FALLOCATE, RENAME2 = 36, 42, 43, 45
_HEAD, _OUT = struct.Struct("<IIQQIIIHH"), struct.Struct("<IiQ")
_DIRECT_IO = 1  # each read(2) and write(2) comes here, none is answered from the page cache
_SILENT = {UNLINK, RMDIR, RENAME, RENAME2, RELEASE, FSYNC, SETXATTR, REMOVEXATTR, FLUSH, RELEASEDIR, FALLOCATE}
_HANG, _SHORT, _ENDLESS = 1 << 16, 1 << 17, 1 << 18
_HUNG = 2048  # where in the page it is told that one hangs
_NODES = {1: modes.S_IFDIR | 0o755, 2: modes.S_IFREG | 0o644, 3: modes.S_IFDIR | 0o755, 4: modes.S_IFLNK | 0o777}
_NAMES = {b"file": 2, b"dir": 3, b"link": 4}
_DOT = struct.pack("<QQII8s", 1, 1, 1, 4, b".")  # struct fuse_dirent: ino, off, namelen, type, name padded to 8
_libc = ctypes.CDLL(None, use_errno=True)


class Faulty:
    """path: where it is mounted."""

    def __init__(self, path: Path, orders: mmap.mmap, pid: int) -> None:
        self.path, self._orders, self._pid = path, orders, pid

    def fail(self, opcode: int, number: int) -> None:
        struct.pack_into("<I", self._orders, 4 * opcode, number)

    def hang(self, opcode: int) -> None:
        self.fail(opcode, _HANG)

    def hangs(self, opcode: int) -> bool:
        """Whether somebody has asked for what is to hang."""
        return bool(self._orders[_HUNG + opcode])

    def without_end(self) -> None:
        """A directory answers `.` and `.` again, as long as anybody asks."""
        self.fail(READDIR, _ENDLESS)

    def write_half(self) -> None:
        self.fail(WRITE, _SHORT)

    def well(self) -> None:
        """Nothing fails any more; what hangs goes on hanging."""
        self._orders[:] = bytes(len(self._orders))

    def freeze(self) -> None:
        """Nothing is answered any more, nor even asked: whoever waits can still be killed."""
        os.kill(self._pid, signal.SIGSTOP)

    def vanish(self) -> None:
        """Its process is gone, as when a network file system's server is: what waits fails, and all that follows."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


@contextlib.contextmanager
def faulty(place: "Path | None" = None) -> Iterator[Faulty]:
    """place: the directory it is mounted in."""
    path = Path(tempfile.mkdtemp(prefix="faulty-", dir=place))
    orders = mmap.mmap(-1, 4096)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other"
    try:
        if _libc.mount(b"faulty", os.fsencode(path), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "mount of a FUSE file system")
        pid = os.fork()
        if pid == 0:
            try:
                _serve(device, orders)
            finally:
                os._exit(0)
        os.close(device)
        broken = Faulty(path, orders, pid)
        try:
            yield broken
        finally:
            broken.vanish()
            _libc.umount2(os.fsencode(path), 2)  # MNT_DETACH
    finally:
        orders.close()
        path.rmdir()


def _serve(device: int, orders: mmap.mmap) -> None:
    data = bytearray(b"hello")
    while True:
        try:
            request = os.read(device, 1 << 21)
        except OSError as e:
            if e.errno in (errno.EINTR, errno.ENOENT):
                continue
            return  # unmounted
        _, opcode, unique, node, *_ = _HEAD.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        order = struct.unpack_from("<I", orders, 4 * opcode)[0]
        if order == _HANG:
            orders[_HUNG + opcode] = 1
            continue
        body = request[_HEAD.size :]
        try:
            if order and order not in (_SHORT, _ENDLESS):
                raise OSError(order, "ordered")
            answer, code = _DOT if order == _ENDLESS else _answer(opcode, node, body, data, order == _SHORT), 0
        except OSError as e:
            answer, code = b"", e.errno or errno.EIO
        with contextlib.suppress(FileNotFoundError):  # nobody waits for it any more
            os.write(device, _OUT.pack(_OUT.size + len(answer), -code, unique) + answer)


def _attributes(node: int, data: bytearray) -> bytes:
    size = len(data) if node == 2 else 4
    return struct.pack("<6Q10I", node, size, 1, 0, 0, 0, 0, 0, 0, _NODES[node], 1, 0, 0, 0, 4096, 0)


def _entry(node: int, data: bytearray) -> bytes:
    return struct.pack("<QQQQII", node, 0, 0, 0, 0, 0) + _attributes(node, data)


def _answer(opcode: int, node: int, body: bytes, data: bytearray, short: bool) -> bytes:
    if opcode == INIT:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 20, 1 << 5, 16, 12, 1 << 20, 1, 256, 0, 0)  # FUSE_BIG_WRITES
    if opcode == LOOKUP:
        if body.rstrip(b"\0") not in _NAMES:
            raise OSError(errno.ENOENT, "no such file")
        return _entry(_NAMES[body.rstrip(b"\0")], data)
    if opcode in (GETATTR, SETATTR):
        return struct.pack("<QII", 0, 0, 0) + _attributes(node, data)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<QII", 0, _DIRECT_IO if opcode == OPEN else 0, 0)
    if opcode == READ:
        offset, size = struct.unpack_from("<8xQI", body)
        return bytes(data[offset : offset + size])
    if opcode == WRITE:
        offset, size = struct.unpack_from("<8xQI", body)
        size = size // 2 if short else size
        data[offset : offset + size] = body[40 : 40 + size]
        return struct.pack("<II", size, 0)
    if opcode == CREATE:
        return _entry(2, data) + struct.pack("<QII", 0, _DIRECT_IO, 0)
    if opcode in (MKDIR, MKNOD, SYMLINK, LINK):
        return _entry({MKDIR: 3, SYMLINK: 4}.get(opcode, 2), data)
    if opcode == STATFS:
        return struct.pack("<5QIII4x24x", 1000, 500, 500, 100, 50, 4096, 255, 4096)
    if opcode == READLINK:
        return b"file"
    if opcode == READDIR:
        return b""
    if opcode == GETXATTR:
        if body[8:] != b"user.a\0":
            raise OSError(errno.ENODATA, "no such attribute")
        return struct.pack("<II", 5, 0) if not struct.unpack_from("<I", body)[0] else b"value"
    if opcode == LISTXATTR:
        return struct.pack("<II", 7, 0) if not struct.unpack_from("<I", body)[0] else b"user.a\0"
    if opcode not in _SILENT:
        raise OSError(errno.ENOSYS, "not needed")
    return b""
