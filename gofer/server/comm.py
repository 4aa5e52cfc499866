"""What a handler sees: the options of its export, and the communicator of the transport its request came over.

"Communicator" is the protocol's own word for one end of a transport. It carries what a call needs and would be dear to
make anew for each: the connection's FD tables, the scratch memory the kernel writes struct statx to, the fds to donate.
One thread uses a communicator, so a call that waits holds up nobody else; the tables are shared by all communicators of a
connection.
"""

from __future__ import annotations

import os
import stat
import struct
from errno import EAGAIN, EINVAL, ENAMETOOLONG, ENOTDIR, EPERM, EROFS

from gofer.cdata import byref, c_char, sizeof
from gofer.server import busypoll, kernelfs
from gofer.server.fds import MARKS, WALKABLE, ControlFD, HostFD, admit, reopen
from gofer.server.kernelfs import CLOSED, KIND, READABLE, ROOT_BITS, ROOT_BYTE
from gofer.sys import (
    AT_EMPTY_PATH,
    AT_NO_AUTOMOUNT,
    AT_SYMLINK_NOFOLLOW,
    STATX_BASIC_STATS,
    STATX_BTIME,
    Statfs,
    Statx,
    fstatfs,
    get_errno,
    raise_errno,
    statx,
    statx_silent,
)
from gofer.wire import MAX_MESSAGE_SIZE, Count, Inode, PReadResp, take_last

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, Union

    from gofer.server.fds import BoundSocketFD, FDTable, OpenFD
    from gofer.server.pipes import Ends

    Donation = Union[HostFD, OpenFD, BoundSocketFD]

STATX_MASK = STATX_BASIC_STATS | STATX_BTIME
SCRATCH_SIZE = 65536 + 8  # the longest xattr, and room to see that one is longer than a u16 can say
CHILD = AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT
# The second byte of the mask, as it lies in memory, by what the kernel has set it to; the first may hold any bit. A table: less
# code is run than by &=.
MASKED = tuple(byte & STATX_MASK >> 8 for byte in range(256))
MODE_BYTE1 = Statx.stx_mode.offset + 1
KINDS = tuple((byte & 0xF0) << 8 for byte in range(256))  # the type by that byte: half the price of & and <<
SERVED = tuple(kind if kind in WALKABLE else 0 for kind in KINDS)  # 0 for what is not
_MOUNT_FLAGS = Statfs.f_flags.offset
_LEASED = 0.001, 0.05  # seconds between two looks whether a lease is gone: at first, at most
_S_IFDIR = stat.S_IFDIR


class Options:
    """How an export is served; each is an option of `gofer serve` of the same name."""

    __slots__ = (
        "read_only",
        "host_uds",
        "host_fifo",
        "char_devices",
        "kernel_files",
        "xattrs",
        "donate",
        "donate_root",
        "channels",
        "busy_poll",
        "lanes",
    )

    def __init__(
        self, *, read_only: bool = False, host_uds: str = "none", host_fifo: str = "none", char_devices: str = "none",
        kernel_files: str = "none", xattrs: str = "user", donate: bool = True, donate_root: bool = False,
        channels: int | None = None, busy_poll: int | None = None, lanes: Ends | None = None,
    ) -> None:  # fmt: skip
        self.read_only = read_only
        self.host_uds = host_uds
        self.host_fifo = host_fifo
        self.char_devices = char_devices
        self.kernel_files = kernel_files
        self.xattrs = xattrs
        self.donate = donate
        self.donate_root = donate_root
        self.channels = min(4, max(2, os.cpu_count() or 2)) if channels is None else channels
        self.busy_poll = busypoll.microseconds(busy_poll)
        self.lanes = lanes  # by which a client speaks who has them; see lanes.py

    @property
    def uds_open(self) -> bool:
        return self.host_uds in ("open", "all")

    @property
    def uds_create(self) -> bool:
        return self.host_uds in ("create", "all")


class Export:
    """What a connection serves: the O_PATH fd of a file or directory, which it owns, and the options.

    names: what a client of 2021 may call it in Mount, beside "/"; None: any path inside it, and gets what is there.
    """

    __slots__ = ("root", "options", "names")

    def __init__(self, root_fd: int, options: Options, names: tuple[bytes, ...] | None = None) -> None:
        self.root = HostFD(root_fd)
        self.options = options
        self.names = names


class Communicator:
    """One transport's end; see the head of this file.

    donated: what rides on the reply, in order; each keeps its owner alive until it is sent.
    warn(message): one warning a connection and message. make_channel(), wait(seconds): see connection.Connection.
    """

    __slots__ = (
        "table", "control", "opened", "bound", "next_id", "export", "options", "read_only", "donated",
        "warn", "make_channel", "wait", "statx_buffer", "statx_bytes", "statfs_bytes", "statfs_buffer", "_scratch",
        "window", "read_to", "link_to",
    )  # fmt: skip

    def __init__(
        self,
        table: FDTable,
        export: Export,
        warn: Callable[[str], None],
        make_channel: Callable[..., Any],
        wait: Callable[[float], bool],
    ) -> None:
        self.table = table
        self.control, self.opened, self.bound, self.next_id = (
            table.control,
            table.opened,
            table.bound,
            table.next_id,
        )
        self.export = export
        self.options = export.options
        self.read_only = export.options.read_only
        self.donated: list[Donation] = []
        self.warn = warn
        self.make_channel = make_channel
        self.wait = wait
        self.statx_bytes = bytearray(sizeof(Statx))
        self.statx_buffer = byref(c_char.from_buffer(self.statx_bytes))
        self.statfs_bytes = bytearray(sizeof(Statfs))
        self.statfs_buffer = byref(c_char.from_buffer(self.statfs_bytes))
        self._scratch: tuple[Any, memoryview] | None = None
        self.window: memoryview | None = None

    def lend(self, window: memoryview, address: int) -> None:
        """From now on requests lie where their replies go, in `window`, which begins at address.

        So system calls can be told places in it: what is used only where the reply is that very object, which keeps the
        memory mapped. Whoever lends it sets `window` to None when he is done.
        """
        memory = c_char.from_address(address)
        self.window = window
        self.read_to = byref(memory, PReadResp.size)
        self.link_to = byref(memory, Count.size)

    def stat(self, host: int) -> int:
        """statx(2) into `statx_bytes`, of which the first 144 go on the wire; returns the file's type bits.

        A buffer of our own, not the reply: the kernel fills 256 bytes, and what follows the 144th is not the client's
        to see, not even for the moment until it would be zeroed.
        """
        if statx_silent(host, b"", AT_EMPTY_PATH, STATX_MASK, self.statx_buffer):
            if statx(host, b"", AT_EMPTY_PATH, STATX_MASK, self.statx_buffer):  # the same again, for its errno
                raise_errno()
        found = self.statx_bytes
        found[1] = MASKED[found[1]]  # newer kernels add bits for fields past the 144th byte
        return KINDS[found[MODE_BYTE1]]

    def stat_child(self, host: int, name: bytes) -> int:
        """As `stat`, for a checked name in a directory, never following a symlink; -1, and errno, where it fails."""
        if statx(host, name, CHILD, STATX_MASK, self.statx_buffer):
            return -1
        found = self.statx_bytes
        found[1] = MASKED[found[1]]
        return KINDS[found[MODE_BYTE1]]

    def adopt(self, host: int, more: int = 0, within: int = _S_IFDIR) -> ControlFD:
        """The control FD, not yet numbered, that owns the O_PATH fd `host`; `statx_bytes` then holds its statx.

        EPERM for a type that is not served (block devices), EMFILE where the connection holds too many; closed then.
        more: how many FDs the call has made before, without a number either. within: the `kind` of the directory it was
        found in; 0: none is known.
        """
        node = ControlFD()
        node.host = host
        if statx_silent(host, b"", AT_EMPTY_PATH, STATX_MASK, self.statx_buffer):  # `stat`, without a call
            self.stat(host)
        found = self.statx_bytes
        found[1] = MASKED[found[1]]
        node.kind = kind = SERVED[found[MODE_BYTE1]]
        if not kind or found[ROOT_BYTE] or within != _S_IFDIR or host >= MARKS[0]:
            self.check(node, more, within)
        return node

    def check(self, node: ControlFD, more: int, within: int) -> None:
        """What `adopt` has to look at closer."""
        if not node.kind:
            raise OSError(EPERM, "block devices are not served")
        if self.statx_bytes[ROOT_BYTE] or within != _S_IFDIR:
            node.kind = self.judge(node.host, node.kind, within)
        if node.host >= MARKS[0]:
            admit(node.host, self.table, more)

    def judge(self, host: int, kind: int, within: int) -> int:
        """The `kind` of an inode of which this is the O_PATH fd, the type, and the last `stat`; see kernelfs.py."""
        if not self.statx_bytes[ROOT_BYTE] & ROOT_BITS and within == _S_IFDIR:
            return kind
        if fstatfs(host, self.statfs_buffer):
            return kind | kernelfs.untold(get_errno())
        read = self.options.kernel_files == "read"
        return kind | kernelfs.judge(self.statfs_bytes, self.statx_bytes, within, read)

    def enter(self, host: int, kind: int, name: bytes) -> None:
        """EPERM where nothing may be looked up under name in this inode, which is no ordinary directory."""
        if kind & READABLE:
            if fstatfs(host, self.statfs_buffer):
                raise_errno()
            if kernelfs.file_system(self.statfs_bytes) == kernelfs.PROC and kernelfs.of_a_process(name):
                raise OSError(EPERM, "a process's own")
        elif kind & CLOSED:
            self.refuse_kernel_file()

    def refuse_kernel_file(self) -> NoReturn:
        more = "" if self.options.kernel_files == "read" else ": --kernel-files=read would allow what all may read in some"
        self.warn(f"refused what the kernel makes up (proc, sysfs, ...){more}")
        raise OSError(EPERM, "made up by the kernel")

    def may_donate(self, host: int) -> bool:
        """Whether a client may get an fd on the inode of this one.

        Who has the right to the file opens it anew for writing by that fd, through his own /proc/self/fd, and sets mode,
        times and xattrs by it as it is. So of a read-only export only what lies on a read-only mount is given away.
        """
        options = self.options
        if not (options.donate and options.read_only):
            return options.donate
        told = not fstatfs(host, self.statfs_buffer)
        return told and bool(self.statfs_bytes[_MOUNT_FLAGS] & os.ST_RDONLY)

    def open_leased(self, host: int, flags: int) -> int:
        """`reopen` once more for a regular file, which was EAGAIN because another process holds a lease on it.

        That (fcntl(2), F_SETLEASE: a client may, on a donated fd) has asked the holder to give it up, who has 45 seconds unless
        the host says otherwise. It is waited for as in open(2), while the client is there. flags: with O_NONBLOCK, as else the
        wait would be the kernel's, deaf to a hang-up.
        """
        pause, longest = _LEASED
        while self.wait(pause):
            try:
                return reopen(host, flags)
            except BlockingIOError:
                pause = min(2 * pause, longest)
        raise OSError(EAGAIN, "leased by another process")

    def changeable(self, fdid: int) -> ControlFD:
        """The control FD of that number, whose inode may be changed as far as the host lets us."""
        node = self.control[fdid]
        if node.kind > KIND:
            raise OSError(EPERM, "made up by the kernel")
        return node

    def answer_inode(self, node: ControlFD, reply: memoryview) -> int:
        """Number node and write the Inode of it and of the last `stat`; returns the size of an Inode."""
        fdid = self.next_id()
        Inode.pack(reply, 0, fdid, self.statx_bytes)
        self.control[fdid] = node
        return Inode.size

    def scratch(self) -> tuple[Any, memoryview]:
        """A buffer of SCRATCH_SIZE bytes, as ctypes takes it and as Python reads it; made at the first use."""
        if self._scratch is None:
            buffer = (c_char * SCRATCH_SIZE)()
            self._scratch = byref(buffer), memoryview(buffer).cast("B")
        return self._scratch

    def must_write(self) -> None:
        """EROFS on a read-only export."""
        if self.read_only:
            raise OSError(EROFS, "served read-only")


def check_name(name: bytes) -> None:
    """EINVAL (ENAMETOOLONG above 255 bytes) for what cannot name one entry of a directory.

    Bytes are looked for by number: `b"/" in name` first takes b"/" for a number, and fails at that by an exception.
    """
    if not name or 47 in name or 0 in name or (name[0] == 46 and name in (b".", b"..")):
        raise OSError(EINVAL, "not the name of a directory entry")
    if len(name) > 255:
        raise OSError(ENAMETOOLONG, "name above 255 bytes")


def last_name(req: memoryview, at: int) -> bytes:
    """The checked name of a directory entry that ends the request."""
    name = take_last(req, at)
    if not name.isalnum() and (not name or name[0] == 46 or 47 in name or 0 in name) or len(name) > 255:
        check_name(name)  # most need no more than that look
    return name


def check_last(name: bytes, size: int) -> None:
    """As `check_name`, for the name that ends a message, which says that it has `size` bytes."""
    if len(name) != size:
        raise struct.error("the name does not end where the message does")
    check_name(name)


def directory(node: ControlFD) -> ControlFD:
    """The control FD itself, which must be a directory.

    Whoever calls holds it to the end of the call, not only its number: a Close on another channel would let that become
    another file's, perhaps another client's.
    """
    if node.kind != stat.S_IFDIR:
        if node.kind & KIND == stat.S_IFDIR:
            raise OSError(EPERM, "made up by the kernel")
        raise OSError(ENOTDIR, "not a directory")
    return node


__all__ = ["MAX_MESSAGE_SIZE", "Communicator", "Export", "Options", "check_last", "check_name", "directory", "last_name"]
