"""Well-formed requests of every message with FDs that exist, and what a well-formed reply to each looks like."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, Callable

from gofer.conform.codec import MODE, OWN, Mid, NotOffered, Reader, expect
from gofer.conform.peer import Peer
from gofer.conform.transport import Reply

Request = tuple[int, bytes]


def session(peer: Peer, given: int = 0) -> None:
    """Send every message at least once, and have FDs of every kind and type at the end.

    given: an empty directory to do it in, without Channel, of which there are few; or peer's root.
    """
    with _perhaps():  # in 2021 there is one
        peer.mount()
    root = given or peer.root
    created = peer.opencreateat(root, "file", uid=5, gid=6)
    directory = peer.mkdirat(root, "dir", uid=5, gid=6).fd
    peer.mknodat(directory, "node")
    link = peer.symlinkat(root, "link", "../outside").fd
    peer.linkat(directory, created.inode.fd, "hard")
    peer.pwrite(created.fd, 0, b"contents" * 100)
    peer.pread(created.fd, 3, 100)
    peer.setstat(created.inode.fd, MODE, mode=0o600)
    peer.walk(root, "dir", "hard")
    peer.walkstat(root, "", "dir", "node")
    peer.fstat(directory)
    peer.fstatfs(root)
    peer.readlinkat(link)
    listing = peer.openat(directory, os.O_RDONLY).fd
    peer.getdents64(listing, -4096)
    peer.fsync(created.fd, listing)
    peer.fallocate(created.fd, 0, 0, 4096)
    for optional in (
        lambda: peer.flush(created.fd),
        lambda: peer.fsetxattr(created.inode.fd, "user.name", b"value"),
        lambda: peer.fgetxattr(created.inode.fd, "user.name", 64),
        lambda: peer.flistxattr(created.inode.fd, 64),
        lambda: peer.fremovexattr(created.inode.fd, "user.name"),
        lambda: peer.connect(created.inode.fd),  # no socket
    ):
        with _perhaps():
            optional()
    peer.renameat(root, "link", directory, "moved")
    peer.renameat(directory, "moved", root, "link")
    peer.unlinkat(directory, "node")
    peer.close(peer.walk(root, "file")[1][0].fd)
    if peer.last_mid >= Mid.BINDAT:
        _later(peer, root, directory)
    if not given:
        with _perhaps():  # none left
            peer.channel()


def _later(peer: Peer, root: int, directory: int) -> None:
    """What 2021 did not have."""
    with _perhaps():
        bound = peer.bindat(root, "sock", socket.SOCK_STREAM)
        peer.listen(bound.fd, 5)
        peer.connect(bound.inode.fd)
        peer.accept(bound.fd)
        peer.connectwithcreds(bound.inode.fd, 0, 0)
        peer.accept(bound.fd)
    peer.renameat(root, "link", directory, "moved")
    with _perhaps():
        peer.renameat2(directory, "moved", root, "link", 1)
    with _perhaps():  # a gofer of this project
        peer.dirstat(peer.openat(directory).fd, -4096)
        peer.dirwalk(root, "dir")
        peer.dirwalk(directory, "", stats=True)
        peer.dirread(root, "dir", "file", "missing")
        peer.dirwrite(root, ("many", b"contents"), ("more", b""))
        peer.dirrename(root, ("many", "several"), ("missing", "more"))


@contextlib.contextmanager
def _perhaps() -> Iterator[None]:
    """What a server need not have, or lets do."""
    try:
        yield
    except NotOffered:
        pass
    except OSError as error:
        if error.errno is None:  # no answer
            raise


def recorded(peer: Peer, root: int = 0) -> list[Request]:
    """Run `session` in root, or peer's own, and return what it sent."""
    sent: list[Request] = []
    exchange = peer.transport.exchange

    def recording(mid: int, payload: bytes = b"") -> Reply:
        sent.append((int(mid), payload))
        return exchange(mid, payload)

    peer.transport.exchange = recording  # type: ignore[method-assign]
    try:
        session(peer, root)
    finally:
        peer.transport.exchange = exchange  # type: ignore[method-assign]
    if peer.offered is None:
        own = {*map(int, OWN)} if peer.last_mid >= Mid.BINDAT else set()
        expect({mid for mid, _ in sent} == {*range(1, peer.last_mid + 1)} | own, "a message was left out")
    return sent


def _count(r: Reader, each: Callable[[Reader], Any]) -> None:
    for _ in range(r.take(r.count)):
        each(r)


def _dirent(r: Reader) -> None:
    r.take("QIIQB")
    _name(r)


def _name(r: Reader) -> None:
    name = r.string()
    one = 0 < len(name) <= 255 and b"/" not in name and b"\0" not in name and name not in (b".", b"..")
    expect(one, f"an entry is named {name!r}")


def _dirstat(r: Reader) -> None:
    r.take("Q")
    r.stat()
    _name(r)


def _dirwalk(r: Reader) -> None:
    r.take("QQ")
    r.stat()
    count, size = r.take("II")
    expect(len(r.rest()) == size and size >= 3 * count, "data of another length than told")
    if size:
        expect(bytes(r.data[-1:]) == b"\0", "a last name without its end")


def _many(r: Reader, each: int) -> None:
    count, size = r.take("II")
    expect(len(r.rest()) == size and size >= each * count, "data of another length than told")


def _data(r: Reader) -> None:
    expect(r.take(r.wide) == len(r.rest()), "data of another length than told")


def _walked(r: Reader) -> None:
    expect(r.take("B") in (0, 1, 2), "a status that there is not")
    _count(r, lambda r: r.inode())


def _mounted(r: Reader) -> None:
    r.inode()
    r.take("I")
    for _ in range(r.take("H")):
        r.take("H")


def _inode_and_fd(r: Reader) -> None:
    r.inode()
    r.take("Q")


def _nothing(r: Reader) -> None:
    pass


SHAPES: dict[int, Callable[[Reader], Any]] = {
    Mid.MOUNT: _mounted,
    Mid.CHANNEL: lambda r: r.take("qQ"),
    Mid.FSTAT: lambda r: r.stat(),
    Mid.SETSTAT: lambda r: r.take("II"),
    Mid.WALK: _walked,
    Mid.WALKSTAT: lambda r: _count(r, lambda r: r.stat()),
    Mid.OPENAT: lambda r: r.take(r.wide),
    Mid.OPENCREATEAT: _inode_and_fd,
    Mid.PWRITE: lambda r: r.take("Q"),
    Mid.PREAD: _data,
    Mid.MKDIRAT: lambda r: r.inode(),
    Mid.MKNODAT: lambda r: r.inode(),
    Mid.SYMLINKAT: lambda r: r.inode(),
    Mid.LINKAT: lambda r: r.inode(),
    Mid.FSTATFS: lambda r: r.take("8Q"),
    Mid.READLINKAT: lambda r: r.string(),
    Mid.GETDENTS64: lambda r: _count(r, _dirent),
    Mid.DIRREAD: lambda r: _many(r, 152),
    Mid.DIRWRITE: lambda r: _many(r, 12),
    Mid.DIRRENAME: lambda r: _many(r, 4),
    Mid.DIRWALK: _dirwalk,
    Mid.DIRSTAT: lambda r: _count(r, _dirstat),
    Mid.FGETXATTR: lambda r: r.string(),
    Mid.FLISTXATTR: lambda r: _count(r, lambda r: r.string()),
    Mid.BINDAT: _inode_and_fd,
    Mid.ACCEPT: lambda r: r.string(),
}


def assert_well_formed(mid: int, reply: Reply, reader: type[Reader] = Reader) -> None:
    """reply answers a request `mid` in the form the protocol gives it: of its own kind, or an Error with an errno."""
    if reply.mid == Mid.ERROR:
        expect(len(reply.payload) == 4 and not reply.fds, "an Error reply is one u32, and donates nothing")
        (number,) = struct.unpack("<I", reply.payload)
        expect(0 < number < 134, f"{number} is no errno")
        expect(number != errno.EREMOTEIO, "EREMOTEIO: a fault inside the server")
        return
    expect(reply.mid == mid, f"asked {mid}, answered {reply.mid}")
    r = reader(reply.payload)
    SHAPES.get(mid, _nothing)(r)
    r.done()
    expect(len(reply.fds) <= 2, f"{len(reply.fds)} fds")
