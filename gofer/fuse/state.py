"""What all operations share: the file system, a request, a file that is open."""

from __future__ import annotations

import _thread
import fcntl
import os
import stat
import struct
from errno import EBADF, EIO, ESTALE

from gofer import wire
from gofer.client.stream import Stream
from gofer.client.transport import close_all
from gofer.fuse import kernel
from gofer.fuse.ahead import Ahead
from gofer.fuse.below import Below
from gofer.fuse.changes import Changes
from gofer.fuse.fresh import Fresh
from gofer.fuse.kept import Kept
from gofer.fuse.node import Use
from gofer.fuse.nodes import Nodes
from gofer.fuse.view import View
from gofer.sys import O_PATH
from gofer.wire import NO_ID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Union

    from gofer.client.pool import Pool
    from gofer.fuse.node import Node

    Reply = Union[bytes, list[Any], None]  # None: it comes later, or never
    Finish = Callable[[int, Callable[[], Reply]], None]

FD_BUDGET = 10_000  # what is held costs the host some 2 KiB each; a server that has not so many says so
GONE = 0  # in place of an open FD: the file it was is not there any more
NONE = -1  # the same of a directory: there is none, it is read without


class Options:
    """As those of `gofer mount`. cache: none, auto, always. uid, gid: all files are shown as theirs; umask: less these bits."""

    def __init__(
        self, *, cache: str = "auto", read_only: bool = False, writeback: bool = False, passthrough: bool = True,
        uid: int = NO_ID, gid: int = NO_ID, umask: int = 0, fd_budget: int = FD_BUDGET, node_budget: int = 100_000,
        timeout: float = 30.0, plain_listing: bool = False,
    ) -> None:  # fmt: skip
        self.cache = cache
        self.read_only = read_only
        self.writeback = writeback
        self.passthrough = passthrough
        self.uid, self.gid, self.umask = uid, gid, umask
        self.fd_budget = fd_budget
        self.node_budget = node_budget
        self.timeout = timeout
        self.plain_listing = plain_listing


class Request:
    """What a thread is at. held: nodes that it pins; undo: what is to be taken back where the kernel does not get the reply.

    body: what follows the header; out: room for what is read; lent: the channel in whose memory the reply is.
    aside(): to be called before what may take long. finish(unique, work): answer with what comes of that, where the operation
    itself has said None, and from whatever thread.
    """

    __slots__ = ("opcode", "unique", "nodeid", "uid", "gid", "body", "out", "lent", "held", "undo", "aside", "finish")

    def __init__(self, out: memoryview, aside: Callable[[], None], finish: Finish) -> None:
        self.opcode = self.unique = self.nodeid = self.uid = self.gid = 0
        self.body = memoryview(b"")
        self.out = out
        self.lent: Any = None
        self.held: list[Node] = []
        self.undo: list[Callable[[], object]] = []
        self.aside = aside
        self.finish = finish


class Handle:
    """An open file or directory. fdid: the server's open FD; host: the donated fd, -1: none. listing: see directories.py.

    file: (device, inode number) of what was donated; size: its length then. behind: whether a write may be under way that was
    answered already; trouble: the errno of one that went wrong.
    """

    __slots__ = ("node", "fdid", "host", "flags", "passes", "listing", "file", "size", "behind", "trouble")

    def __init__(self, node: Node, fdid: int, host: int, flags: int) -> None:
        self.node, self.fdid, self.host, self.flags = node, fdid, host, flags
        self.passes = self.behind = False
        self.trouble = 0
        self.listing: Any = None
        self.file, self.size = (0, 0), 0
        if host >= 0:
            self._judge()

    def _judge(self) -> None:
        """What is donated is to be a regular file, open for what was asked for: else it is done without.

        The kernel opens what it is given anew, with our rights and not the server's: so the server must have had them itself.
        """
        found, mode = os.fstat(self.host), fcntl.fcntl(self.host, fcntl.F_GETFL)
        may = mode & os.O_ACCMODE in (os.O_RDWR, self.flags & os.O_ACCMODE) and not mode & O_PATH
        if not (may and stat.S_ISREG(found.st_mode)):
            os.close(self.host)
            self.host = -1
        self.file, self.size = (found.st_dev, found.st_ino), found.st_size


class FileSystem:
    """root: a control FD, and its struct statx. device: the fd of /dev/fuse, once mounted.

    keeps_ids: whether the server can give files to whoever makes them.
    """

    def __init__(self, pool: Pool, options: Options, root: tuple[int, bytes]) -> None:
        self.pool = pool
        self.options = options
        self.keeps_ids = pool.peer_uid == 0
        self.nodes = Nodes(pool, options.fd_budget, root)
        self.device = -1
        self.minor = 0
        self.passthrough = False
        self.lists_stats = self.walks_in = not options.plain_listing  # whether the server knows DirStat, and DirWalk
        self.behind = pool if isinstance(pool, Stream) else None
        self.posting: set[Handle] = set()  # with something behind
        self.hides_security: bool | None = None  # see attributes.py
        self.view = View(options, root[1])
        self.valid = self.view.valid
        self.changes = Changes()
        self.negative = self.valid if options.cache == "always" else 0
        self.ahead = Ahead(self)
        self.below = Below(self)
        self.kept = Kept(self)
        self.fresh = Fresh(self.valid if self.behind is not None else 0)
        self._handles: dict[int, Handle] = {}
        self._next = 1
        self._lock = _thread.allocate_lock()

    # Attributes

    def attr_of_host(self, node: Node, host: int) -> bytes:
        """struct fuse_attr_out of a donated fd: without the server."""
        if self.pool.lost:
            raise self.pool.lost
        return self.view.attr_of_host(node, host)

    def host_of(self, node: Node) -> int:
        """An fd, the caller's, of an open file that the server donated; -1: there is none.

        Not where the server is not root: it may be in a user namespace, where it sees other owners than we.
        """
        if node.use is None or not self.keeps_ids:
            return -1
        with self._lock:
            host = node.use.host if node.use is not None else -1
            try:
                return os.dup(host) if host >= 0 else -1
            except OSError:  # none left
                return -1

    def keep_cache(self, node: Node) -> int:
        """Whether what the kernel has of a file's data is to be kept at an open: it looks at time and size itself."""
        passed, node.passed = node.passed, False
        return 0 if passed or not self.valid else kernel.FOPEN_KEEP_CACHE

    def has_changed(self, nodeid: int) -> None:
        """0: it is not known what."""
        try:
            self.changes.of(self.nodes.by_id(nodeid))
        except OSError:
            self.changes.anything()

    def is_so(self, ino: int, asked: float) -> bool:
        """Whether what the server told of an inode, asked then, may be told: what is open the kernel may change by itself."""
        return asked > self.changes.last(ino) and not self.nodes.is_open(ino)

    # Nodes and FDs

    def fd(self, request: Request, nodeid: int = 0) -> int:
        """The control FD of the request's node, or of another's."""
        return self.nodes.fd(self.nodes.by_id(nodeid or request.nodeid), request.held)

    def told(self, request: Request, parent: Node, name: bytes, raw: Any, fd: int = 0) -> Node:
        """As `nodes.seen`, taken back where the kernel does not learn of it."""
        node = self.nodes.seen(parent, name, raw, fd)
        request.undo.append(lambda: self.nodes.forget(node, 1))
        return node

    def exchange(self, mid: int, body: bytes) -> tuple[bytes, list[int]]:
        """One request that makes FDs, again where the server had none left and we have some to spare."""
        return self.nodes.with_room(lambda: self.pool.exchange(mid, body))

    def take_up(self, pool: Pool, root_fd: int) -> None:
        """Go on over another connection; see again.py."""
        self.nodes.take_up(pool, root_fd)
        self.ahead.lost()
        self.below.lost()
        self.fresh.lost()
        self.pool = pool
        self.behind = pool if isinstance(pool, Stream) else None
        self.keeps_ids = pool.peer_uid == 0
        self.lists_stats = self.walks_in = not self.options.plain_listing
        for handle in list(self._handles.values()):
            held: list[Node] = []
            try:
                if handle.listing is not None:
                    handle.listing.restart()
                    if handle.fdid == NONE:
                        continue
                flags = handle.flags & ~os.O_TRUNC
                payload, fds = pool.exchange(wire.OPENAT, wire.OpenAtReq.bytes(self.nodes.fd(handle.node, held), flags))
                (handle.fdid,) = wire.OpenAtResp.unpack(payload)
                close_all(fds)  # what was donated before is still the same file
            except (OSError, struct.error):
                handle.fdid = GONE
                if handle.node.use is not None:
                    handle.node.use.host = -1
            self.nodes.unpin(held)

    # Open files

    def handle(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if handle is None:
            raise OSError(EBADF, "no such handle")
        if handle.fdid == GONE:
            raise OSError(ESTALE, "the server that had it went away")
        return handle

    def opened(self, request: Request, handle: Handle) -> int:
        """Its number for the kernel; closed again where the kernel does not get it."""
        with self._lock:
            fh, self._next = self._next, self._next + 1
            self._handles[fh] = handle
            use = handle.node.use
            if use is None:
                use = handle.node.use = Use()
            use.opens += 1
            use.made = None  # whoever opens it, too, may change it
            if handle.host >= 0:
                use.host = handle.host
        request.undo.append(lambda: self.released(fh))
        return fh

    def released(self, fh: int) -> Node | None:
        """What it was of."""
        with self._lock:
            handle = self._handles.pop(fh, None)
            if handle is None:
                return None
            self.posting.discard(handle)
            node, backing = handle.node, 0
            use = node.use
            assert use is not None
            use.opens -= 1
            if use.made is not None and use.made.handle is handle:
                use.made = None
            if use.host == handle.host:
                use.host = -1
            if handle.passes:
                use.passing -= 1
                if not use.passing:
                    backing, use.backing = use.backing, 0
            else:
                use.cached -= 1
            if not use.opens:
                node.use = None
        if backing:
            self._ioctl(kernel.DEV_IOC_BACKING_CLOSE, bytearray(struct.pack("=I", backing)))
        if handle.host >= 0:
            os.close(handle.host)
        if handle.fdid not in (GONE, NONE):
            self.nodes.close_later(handle.fdid)
        if node.known <= 0:
            self.nodes.forget(node, 0)
        return node

    def discard(self, handle: Handle) -> None:
        """One that was not `opened`."""
        if handle.host >= 0:
            os.close(handle.host)
        self.nodes.close_later(handle.fdid)

    def _ioctl(self, number: int, argument: bytearray) -> int:
        """What the kernel returns; -1 where it refuses."""
        try:
            return int(fcntl.ioctl(self.device, number, argument, True))
        except OSError:
            return -1

    def pass_through(self, handle: Handle) -> int:
        """The id by which the kernel reads and writes the donated fd itself; 0: it shall ask. Before `opened`.

        All opens of an inode go the same way while there are any: the kernel answers EIO to a mixture.
        """
        with self._lock:
            node = handle.node
            if node.use is None:
                node.use = Use()
            use = node.use
            if use.passing and (handle.host < 0 or handle.file != use.file):  # not what the kernel would open
                raise OSError(EIO, "not the file that was donated before")
            if use.passing or (self.passthrough and handle.host >= 0 and not use.cached and _worth_it(handle)):
                if not use.backing:
                    use.file = handle.file
                    found = self._ioctl(
                        kernel.DEV_IOC_BACKING_OPEN, bytearray(kernel.BackingMap.bytes(handle.host, 0))
                    )
                    use.backing = max(found, 0)
                if use.backing:
                    use.passing += 1
                    handle.passes = True
                    return use.backing
            use.cached += 1
            return 0


def _worth_it(handle: Handle) -> bool:
    """To read a small file through the page cache costs less than to set this up."""
    return bool(handle.flags & os.O_ACCMODE) or handle.size >= _WORTH


_WORTH = 65536


def name_of(body: memoryview, at: int = 0) -> bytes:
    """The name that ends a request, without its NUL."""
    return bytes(body[at:-1])
