"""Errors of a file system, one at a time: the errno reaches the client with the message that met it, and that is all."""

import contextlib
import errno
import os
import stat as modes
import struct
from collections.abc import Iterator
from typing import Callable

import faulty
import pytest
from disks import serving
from faulty import Faulty
from hosts import TRANSPORTS, Server, fails, wait_until

from gofer.conform.codec import MODE, SIZE, UID, Mid
from gofer.conform.peer import Peer, over_channel, over_socket
from gofer.conform.transport import CHANNEL_HEADER, SERVER_ACTIVE, ChannelTransport

ERRNOS = [errno.EIO, errno.EDQUOT, errno.ENOSPC, errno.ESTALE, errno.EROFS, errno.ETIMEDOUT, errno.ENOMEM, errno.ENXIO]
# Message: the operation of the file system that fails, and what a client does. file: its control FD, opened: its open FD.
MESSAGES: dict[str, tuple[int, Callable[[Peer, int, int], object]]] = {
    "PRead": (faulty.READ, lambda p, file, opened: p.pread(opened, 0, 100)),
    "PWrite": (faulty.WRITE, lambda p, file, opened: p.pwrite(opened, 0, b"x" * 100)),
    "FSync": (faulty.FSYNC, lambda p, file, opened: p.fsync(opened)),
    "FAllocate": (faulty.FALLOCATE, lambda p, file, opened: p.fallocate(opened, 0, 0, 100)),
    "FStat": (faulty.GETATTR, lambda p, file, opened: p.fstat(file)),
    "FStatFS": (faulty.STATFS, lambda p, file, opened: p.fstatfs(file)),
    "Walk": (faulty.LOOKUP, lambda p, file, opened: p.walk(p.root, "dir")),
    "WalkStat": (faulty.LOOKUP, lambda p, file, opened: p.walkstat(p.root, "dir", "file")),
    "OpenAt": (faulty.OPEN, lambda p, file, opened: p.openat(file, os.O_RDWR)),
    "OpenAt of a directory": (faulty.OPENDIR, lambda p, file, opened: p.openat(p.root)),
    "OpenCreateAt": (faulty.CREATE, lambda p, file, opened: p.opencreateat(p.root, "new")),
    "MkdirAt": (faulty.MKDIR, lambda p, file, opened: p.mkdirat(p.root, "new")),
    "MknodAt": (faulty.MKNOD, lambda p, file, opened: p.mknodat(p.root, "new")),
    "SymlinkAt": (faulty.SYMLINK, lambda p, file, opened: p.symlinkat(p.root, "new", "x")),
    "LinkAt": (faulty.LINK, lambda p, file, opened: p.linkat(p.root, file, "new")),
    "UnlinkAt": (faulty.UNLINK, lambda p, file, opened: p.unlinkat(p.root, "file")),
    "UnlinkAt of a directory": (faulty.RMDIR, lambda p, file, opened: p.unlinkat(p.root, "dir", 0x200)),
    "RenameAt": (faulty.RENAME, lambda p, file, opened: p.renameat(p.root, "file", p.root, "new")),
    "RenameAt2": (faulty.RENAME2, lambda p, file, opened: p.renameat2(p.root, "file", p.root, "new", 1)),
    "ReadLinkAt": (faulty.READLINK, lambda p, file, opened: p.readlinkat(p.walk_to("link"))),
    "Getdents64": (faulty.READDIR, lambda p, file, opened: p.getdents64(p.openat(p.root).fd)),
    "FGetXattr": (faulty.GETXATTR, lambda p, file, opened: p.fgetxattr(file, "user.a")),
    "FSetXattr": (faulty.SETXATTR, lambda p, file, opened: p.fsetxattr(file, "user.a", b"v")),
    "FListXattr": (faulty.LISTXATTR, lambda p, file, opened: p.flistxattr(file)),
    "FRemoveXattr": (faulty.REMOVEXATTR, lambda p, file, opened: p.fremovexattr(file, "user.a")),
}


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[Faulty, Server]]:
    with faulty.faulty() as broken, serving(broken.path, "--xattrs", "all") as server:
        yield broken, server


@pytest.fixture
def broken(world: tuple[Faulty, Server]) -> Iterator[Faulty]:
    yield world[0]
    world[0].well()
    world[1].check_idle()


@pytest.fixture(params=TRANSPORTS)
def peer(request: pytest.FixtureRequest, world: tuple[Faulty, Server]) -> Iterator[Peer]:
    with world[1].peer(request.param) as peer:
        yield peer


@pytest.mark.parametrize("message", MESSAGES)
def test_an_error_of_the_file_system_reaches_the_client_as_it_is(
    broken: Faulty, peer: Peer, world: tuple[Faulty, Server], message: str
) -> None:
    opcode, call = MESSAGES[message]
    file = peer.walk_to("file")
    opened = peer.openat(file, os.O_RDWR).fd
    held = len(world[1].open_fds())
    for number in ERRNOS:
        broken.fail(opcode, number)
        if opcode == faulty.READLINK:
            link = peer.walk_to("link")
            with fails(number):
                peer.readlinkat(link)
            peer.close(link)
        elif opcode == faulty.READDIR:
            listing = peer.openat(peer.root).fd
            with fails(number):
                peer.getdents64(listing)
            peer.close(listing)
        else:
            with fails(number):
                call(peer, file, opened)
        broken.well()
        assert modes.S_ISREG(peer.fstat(file).mode)
    assert len(world[1].open_fds()) <= held
    assert peer.pread(opened, 0, 5) != b""


def test_setstat_tells_what_failed_and_why(broken: Faulty, peer: Peer) -> None:
    file = peer.walk_to("file")
    for number in ERRNOS:
        broken.fail(faulty.SETATTR, number)
        for mask in (MODE, UID, SIZE, MODE | UID | SIZE):
            assert peer.setstat(file, mask, mode=0o600, uid=5, size=1) == (mask, number)


def test_a_short_write_is_told_as_one(broken: Faulty, peer: Peer) -> None:
    opened = peer.openat(peer.walk_to("file"), os.O_RDWR).fd
    assert peer.pwrite(opened, 0, b"0123456789") == 10
    broken.write_half()
    assert peer.pwrite(opened, 0, b"abcdefghij") == 5
    broken.well()
    assert peer.pread(opened, 0, 10) == b"abcde56789"


def test_fsync_tries_every_fd_and_tells_the_first_error(broken: Faulty, peer: Peer) -> None:
    file = peer.walk_to("file")
    opened = [peer.openat(file, os.O_RDWR).fd for _ in range(3)]
    broken.fail(faulty.FSYNC, errno.EIO)
    with fails(errno.EIO):
        peer.fsync(*opened)
    with fails(errno.EBADF):
        peer.fsync(777, *opened)
    broken.well()
    peer.fsync(*opened)


def test_an_error_at_close_frees_the_fd_all_the_same(broken: Faulty, peer: Peer, world: tuple[Faulty, Server]) -> None:
    """close(2) may fail and has closed; whoever wants to know of his data calls fsync (its error was told)."""
    file = peer.walk_to("file")
    held = len(world[1].open_fds())
    broken.fail(faulty.FLUSH, errno.EIO)
    opened = peer.openat(file, os.O_RDWR)
    peer.close(opened.fd)
    for fd in peer.disown(opened.donated):
        with contextlib.suppress(OSError):  # ours meets the same error, and is closed as well
            os.close(fd)
    assert len(world[1].open_fds()) <= held
    with fails(errno.EBADF):
        peer.pread(opened.fd, 0, 1)


def test_a_failed_walk_on_a_broken_disk_keeps_nothing(broken: Faulty, peer: Peer, world: tuple[Faulty, Server]) -> None:
    held = len(world[1].open_fds())
    broken.fail(faulty.GETATTR, errno.EIO)
    for _ in range(20):
        with fails(errno.EIO):
            peer.walk(peer.root, "file")
    assert len(world[1].open_fds()) <= held


def test_a_file_system_that_hangs_holds_up_no_other_channel_and_may_vanish() -> None:
    with faulty.faulty() as broken, serving(broken.path, "--donate", "no") as server, server.peer() as base:
        slow, quick = over_channel(base), over_channel(base)
        opened = base.openat(base.walk_to("file"), os.O_RDWR).fd
        broken.hang(faulty.READ)
        assert isinstance(slow.transport, ChannelTransport)
        slow.transport.hand_over(CHANNEL_HEADER.pack(Mid.PREAD, 0, 0) + struct.pack("<QQI4x", 0, opened, 100))
        wait_until(lambda: broken.hangs(faulty.READ), "the server reads the file")
        for peer in (quick, base):
            for _ in range(20):
                assert modes.S_ISREG(peer.walkstat(peer.root, "file")[0].mode)
        assert slow.transport.state == SERVER_ACTIVE
        broken.vanish()
        with fails(errno.ECONNABORTED):
            Peer.check(Mid.PREAD, slow.transport.receive())
        with fails(errno.ENOTCONN):
            base.pread(opened, 0, 1)
        with fails(errno.ENOTCONN):
            quick.walk(quick.root, "file")
        base.close(opened)
        with fails(errno.ENOTCONN):
            over_socket(server.connect())  # its Mount is told
        slow.disconnect()
        quick.disconnect()
