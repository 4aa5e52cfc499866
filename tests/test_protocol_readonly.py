"""A read-only export: every message that changes anything is EROFS, before anything else is looked at.

64785c867: BindAt once skipped the check.
"""

import errno
import os
import socket
from pathlib import Path
from typing import Any, Callable

import pytest
from codec import MODE, Mid
from hosts import fails
from looks import names_in
from peer import Peer

pytestmark = pytest.mark.serve("--read-only", "--host-uds", "all", "--xattrs", "all")

GONE = 4242  # no FD at all: read-only must be found first
CHANGES: dict[str, Callable[[Peer, int], Any]] = {
    "SetStat": lambda p, fd: p.setstat(fd, MODE, mode=0o777),
    "SetStat of nothing": lambda p, fd: p.setstat(fd, 0),
    "OpenAt write": lambda p, fd: p.openat(fd, os.O_WRONLY),
    "OpenAt both": lambda p, fd: p.openat(fd, os.O_RDWR),
    "OpenAt truncate": lambda p, fd: p.openat(fd, os.O_RDONLY | os.O_TRUNC),
    "OpenCreateAt": lambda p, fd: p.opencreateat(fd, "new", flags=os.O_RDONLY),
    "OpenCreateAt of a bad name": lambda p, fd: p.opencreateat(fd, ".."),
    "PWrite": lambda p, fd: p.pwrite(fd, 0, b"x"),
    "PWrite of nothing": lambda p, fd: p.pwrite(fd, 0, b""),
    "MkdirAt": lambda p, fd: p.mkdirat(fd, "new"),
    "MknodAt": lambda p, fd: p.mknodat(fd, "new"),
    "SymlinkAt": lambda p, fd: p.symlinkat(fd, "new", "target"),
    "LinkAt": lambda p, fd: p.linkat(fd, fd, "new"),
    "FAllocate": lambda p, fd: p.fallocate(fd, 0, 0, 10),
    "UnlinkAt": lambda p, fd: p.unlinkat(fd, "file"),
    "UnlinkAt rmdir": lambda p, fd: p.unlinkat(fd, "dir", 0x200),
    "RenameAt": lambda p, fd: p.renameat(fd, "file", fd, "new"),
    "RenameAt2": lambda p, fd: p.renameat2(fd, "file", fd, "new"),
    "FSetXattr": lambda p, fd: p.fsetxattr(fd, "user.b", b"1"),
    "FRemoveXattr": lambda p, fd: p.fremovexattr(fd, "user.a"),
    "BindAt": lambda p, fd: p.bindat(fd, "new"),
}


@pytest.fixture
def planted(tree: Path) -> Path:
    (tree / "dir").mkdir()
    (tree / "file").write_bytes(b"hello")
    os.setxattr(tree / "file", "user.a", b"1")
    return tree


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_erofs_whatever_it_is_asked_of(peer: Peer, planted: Path, change: str) -> None:
    before = os.stat(planted / "file")
    for fd in (peer.root, peer.walk_to("file"), peer.openat(peer.walk_to("file")).fd, GONE):
        with fails(errno.EROFS):
            CHANGES[change](peer, fd)
    assert names_in(planted) == ["dir", "file"]
    assert os.stat(planted / "file") == before
    assert os.listxattr(planted / "file") == ["user.a"]


def test_every_message_that_can_change_anything_was_tried() -> None:
    reading = {
        Mid.ERROR, Mid.MOUNT, Mid.CHANNEL, Mid.FSTAT, Mid.WALK, Mid.WALKSTAT, Mid.CLOSE, Mid.FSYNC, Mid.PREAD,
        Mid.FSTATFS, Mid.READLINKAT, Mid.FLUSH, Mid.CONNECT, Mid.GETDENTS64, Mid.FGETXATTR, Mid.FLISTXATTR,
        Mid.LISTEN, Mid.ACCEPT, Mid.CONNECTWITHCREDS,
    }  # fmt: skip
    assert {name.split()[0].upper() for name in CHANGES} == {mid.name for mid in set(Mid) - reading}


def test_reading_works(peer: Peer, planted: Path) -> None:
    fd = peer.walk_to("file")
    opened = peer.openat(fd)
    assert peer.pread(opened.fd, 0, 10) == b"hello"
    assert [entry.name for entry in peer.listdir(peer.openat(peer.root).fd)] != []
    assert peer.fgetxattr(fd, "user.a") == b"1"
    peer.fsync(opened.fd)
    peer.flush(opened.fd)
    with pytest.raises(OSError):
        os.write(opened.donated[0], b"x")


def test_connecting_to_a_socket_is_not_a_change(peer: Peer, planted: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(planted / "sock"))
        sock.listen()
        assert len(peer.connect(peer.walk_to("sock"))) == 1
