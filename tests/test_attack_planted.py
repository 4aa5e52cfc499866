"""Devices, FIFOs and sockets planted in the tree: strace sees every open(2) of the server, and none is of them.

Opening alone can do harm: a FIFO or a serial line blocks, a tape rewinds, a watchdog starts. An O_PATH fd opens nothing.
"""

import contextlib
import errno
import os
import re
import socket
import stat as modes
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import TRANSPORTS, fails, wait_until
from watch import traced

from gofer.conform.codec import ATIME, GID, MODE, MTIME, SIZE, UID
from gofer.conform.peer import Peer

OPENING = "open,openat,openat2,creat,connect,accept4"
OPENED = re.compile(r"\b(?:open|openat|openat2|creat)\((?P<how>.*)\)\s*= \d+<(?P<what>.*)>")
PLANTED = ("fifo", "char", "null", "block", "socket")


@pytest.fixture
def planted(spot: Path) -> Iterator[Path]:
    """A tree with every kind of file that must not be opened, and one that may be."""
    os.mkfifo(spot / "fifo")
    os.mknod(spot / "char", modes.S_IFCHR | 0o666, os.makedev(1, 5))
    os.mknod(spot / "null", modes.S_IFCHR | 0o666, os.makedev(0, 0))
    os.mknod(spot / "block", modes.S_IFBLK | 0o666, os.makedev(7, 250))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(spot / "socket"))
        sock.listen(1)
        (spot / "regular").write_bytes(b"hello")
        yield spot


def use(peer: Peer, name: str) -> None:
    """Everything a client can do with a file it knows by name, but what is for regular files."""
    with contextlib.suppress(PermissionError):  # block devices
        fd = peer.walk_to(name)
        peer.fstat(fd)
        peer.setstat(fd, MODE | UID | GID | SIZE | ATIME | MTIME, mode=0o600, uid=5, gid=6)
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_NONBLOCK, os.O_PATH):
            with contextlib.suppress(OSError):
                peer.openat(fd, flags)
        for call in (
            lambda: peer.fstatfs(fd), lambda: peer.flistxattr(fd), lambda: peer.fgetxattr(fd, "user.a"),
            lambda: peer.fsetxattr(fd, "user.a", b"v"), lambda: peer.readlinkat(fd), lambda: peer.walk(fd, "x"),
            lambda: peer.opencreateat(fd, "x"), lambda: peer.opencreateat(peer.root, name), lambda: peer.connect(fd),
            lambda: peer.fsync(fd), lambda: peer.mknodat(peer.root, name), lambda: peer.bindat(peer.root, name),
        ):  # fmt: skip
            with contextlib.suppress(OSError):
                call()
        peer.linkat(peer.root, fd, name + "2")
        peer.renameat(peer.root, name + "2", peer.root, name + "3")
        peer.unlinkat(peer.root, name + "3")
    with contextlib.suppress(PermissionError):
        peer.walkstat(peer.root, name)
    peer.walk(peer.root, "regular")
    peer.listdir(peer.openat(peer.root).fd)


def opened(log: Path) -> list[str]:
    """What the server opened, other than with O_PATH."""
    found = [OPENED.search(line) for line in log.read_text(errors="replace").splitlines()]
    return [match["what"] for match in found if match and "O_PATH" not in match["how"]]


@pytest.mark.parametrize("jail", ["auto", "off"])
def test_nothing_planted_is_ever_opened(start: Start, planted: Path, jail: str) -> None:
    """CVE-2020-35517, CVE-2023-2861, CVE-2026-96812 (573a9e73c)."""
    server = start("--xattrs", "all", "--jail", jail, tree=planted)
    log = server.place / "strace"
    with traced(server, log, OPENING):
        for transport in TRANSPORTS:
            with server.peer(transport) as peer:
                for name in PLANTED:
                    use(peer, name)
                peer.openat(peer.walk_to("regular"), os.O_RDWR)
        wait_until(lambda: len(opened(log)) >= 12, "strace has written what it saw")
    seen = opened(log)
    assert sum("regular" in what for what in seen) == 2  # so it does see
    assert not [what for what in seen if any(name in what for name in (*PLANTED, "char 1:5", "block"))], seen
    assert "connect(" not in log.read_text()


@pytest.mark.parametrize("name", ["fifo", "char"])
def test_where_an_option_permits_it_the_open_does_not_block_and_only_openat_opens(
    start: Start, planted: Path, name: str
) -> None:
    server = start("--xattrs", "all", "--host-fifo", "open", "--char-devices", "open", tree=planted)
    log = server.place / "strace"
    with traced(server, log, OPENING), server.peer() as peer:
        fd = peer.walk_to(name)
        peer.fstat(fd)
        peer.setstat(fd, MODE | SIZE, mode=0o600)
        peer.walkstat(peer.root, name)
        peer.linkat(peer.root, fd, "second")
        assert len(peer.openat(fd, os.O_RDONLY).donated) == 1
        with contextlib.suppress(OSError):
            peer.openat(fd, os.O_WRONLY)  # a FIFO without a reader is ENXIO, at once
        with fails(errno.EPERM):
            peer.walk(peer.root, "block")
        wait_until(lambda: any(name in what or "char 1:5" in what for what in opened(log)), "strace has seen it")
    ours = [line for line in log.read_text().splitlines() if (m := OPENED.search(line)) and "O_PATH" not in m["how"]]
    ours = [line for line in ours if "O_DIRECTORY" not in line]  # nothing else can be opened so, and it never waits
    assert ours and all("O_NONBLOCK" in line for line in ours), ours
