"""A million operations: fds, threads and memory stay what they were.

The requests of a round are sent all at once and their replies read together, which a client may do, and which leaves the
time to the server. A round knows the FDs it will get, because a server counts them up from 1.
"""

import os
import struct

import pytest
from conftest import Start
from hosts import Server, over_socket_of

from gofer.conform.codec import GID, MODE, NO_ID, SIZE, UID, Mid, create, fdids, string, strings
from gofer.conform.peer import Peer
from gofer.conform.transport import HEADER, SocketTransport

TOTAL, SAMPLES = 1_000_000, 10
ROOT = 1


def request(mid: int, payload: bytes) -> bytes:
    return HEADER.pack(len(payload), mid, 0) + payload


def round_of_requests(first: int) -> tuple[bytes, int, int, int]:
    """Requests over one file, one directory, one link and one socket; first: the next FD.

    -> them, how many they are, how many of them fail, and how many FDs they make.
    """
    file, opened, directory, link, walked, listing, node, hard = range(first, first + 8)
    own = create(ROOT, 0o640, 5, 6)
    every = struct.pack("<QIIIIQqqqq", file, MODE | UID | GID | SIZE, 0o600, 7, 8, 5000, 0, 0, 0, 0)
    path = struct.pack("<Q", ROOT) + strings(["dir", "link"])
    good = [
        (Mid.OPENCREATEAT, own + struct.pack("<I", os.O_RDWR) + string("file")),
        (Mid.MKDIRAT, create(ROOT, 0o755, NO_ID, NO_ID) + string("dir")),
        (Mid.SYMLINKAT, struct.pack("<QII", directory, 5, 6) + string("link") + string("file")),
        (Mid.WALK, struct.pack("<Q", ROOT) + strings(["file"])),
        (Mid.OPENAT, struct.pack("<QI4x", directory, os.O_RDONLY)),
        (Mid.MKNODAT, create(directory, 0o100600, 5, 6) + bytes(8) + string("node")),
        (Mid.LINKAT, struct.pack("<QQ", directory, file) + string("hard")),
        *[(Mid.PWRITE, struct.pack("<QQI", i * 900, opened, 900) + b"x" * 900) for i in range(6)],
        *[(Mid.PREAD, struct.pack("<QQI4x", i * 900, opened, 900)) for i in range(6)],
        *[(Mid.WALKSTAT, path), (Mid.FSTAT, struct.pack("<Q", file))] * 10,
        (Mid.SETSTAT, every),
        (Mid.FSETXATTR, struct.pack("<QI", file, 0) + string("user.a") + string(b"v" * 100)),
        (Mid.FGETXATTR, struct.pack("<QI", file, 0) + string("user.a")),
        (Mid.FLISTXATTR, struct.pack("<QQ", file, 0)),
        (Mid.FREMOVEXATTR, struct.pack("<Q", file) + string("user.a")),
        (Mid.FALLOCATE, struct.pack("<QQQQ", opened, 0, 0, 4096)),
        (Mid.READLINKAT, struct.pack("<Q", link)),
        (Mid.FSTATFS, struct.pack("<Q", file)),
        (Mid.GETDENTS64, struct.pack("<Qi4x", listing, -4096)),
        (Mid.RENAMEAT, struct.pack("<QQ", ROOT, directory) + string("file") + string("moved")),
        (Mid.RENAMEAT2, struct.pack("<QQ", directory, ROOT) + string("moved") + string("file") + bytes(4)),
        (Mid.MOUNT, b""),
    ]
    bad = [
        (Mid.FSTAT, bytes(8)), (Mid.FSTAT, bytes(7)), (99, b"x"), (Mid.ERROR, b""), (Mid.WALK, path + b"x"),
        (Mid.WALK, struct.pack("<Q", ROOT) + strings([".."])), (Mid.UNLINKAT, bytes(12) + string("x")),
        (Mid.OPENCREATEAT, own + struct.pack("<I", os.O_RDWR) + string("file")), (Mid.PREAD, bytes(24)),
        (Mid.MKDIRAT, create(file, 0o755, NO_ID, NO_ID) + string("x")), (Mid.FSETXATTR, bytes(40)),
    ]  # fmt: skip
    last = [
        *[(Mid.UNLINKAT, struct.pack("<QI", directory, 0) + string(name)) for name in ("link", "hard", "node")],
        (Mid.UNLINKAT, struct.pack("<QI", ROOT, 0) + string("file")),
        (Mid.UNLINKAT, struct.pack("<QI", ROOT, 0x200) + string("dir")),
        (Mid.CLOSE, fdids(range(first, first + 12))),
    ]
    assert walked and node and hard  # closed with the others
    messages = good + bad + last
    return b"".join(request(*message) for message in messages), len(messages), len(bad), 9


class Batch:
    """Sends rounds and reads their replies; fds that ride on them are closed by the kernel, as nobody asks for them."""

    def __init__(self, peer: Peer) -> None:
        assert isinstance(peer.transport, SocketTransport)
        self.sock, self.next = peer.transport.sock, ROOT + 1
        self.rest = b""

    def run(self, rounds: int) -> int:
        """-> how many operations it was."""
        sent, count, errors = b"", 0, 0
        for _ in range(rounds):
            text, number, bad, made = round_of_requests(self.next)
            sent, count, errors = sent + text, count + number, errors + bad
            self.next += made
        self.sock.sendall(sent)
        assert self.replies(count) == errors
        return count

    def replies(self, count: int) -> int:
        """Read so many replies; -> how many of them are errors."""
        errors, data, at = 0, self.rest, 0
        while count:
            while len(data) < at + HEADER.size or len(data) < at + HEADER.size + HEADER.unpack_from(data, at)[0]:
                more = self.sock.recv(1 << 20)
                assert more
                data, at = data[at:] + more, 0
            length, mid, _ = HEADER.unpack_from(data, at)
            errors += mid == Mid.ERROR
            at += HEADER.size + length
            count -= 1
        self.rest = data[at:]
        return errors


def look(server: Server) -> tuple[int, int, int]:
    """Fds, threads, resident KiB."""
    return len(server.open_fds()), len(os.listdir(f"/proc/{server.pid}/task")), server.rss()


@pytest.mark.slow
def test_a_million_operations_leave_fds_threads_and_memory_flat(start: Start) -> None:
    """CVE-2016-8577, CVE-2016-9102, CVE-2016-9105, CVE-2016-9106 (9pfs): leaks per operation."""
    server = start("--xattrs", "all")
    seen = []
    with over_socket_of(server.connect) as peer:
        batch = Batch(peer)
        batch.run(20)
        for _ in range(SAMPLES):
            done = 0
            while done < TOTAL // SAMPLES:
                done += batch.run(6)
            seen.append(look(server))
        assert peer.fstat(peer.root)
    fds, threads, memory = zip(*seen)
    assert set(fds) == {fds[0]} and len(set(threads)) == 1
    assert memory[-1] <= memory[0] + 256, f"resident KiB after each {TOTAL // SAMPLES:,} operations: {memory}"


@pytest.mark.slow
def test_hundreds_of_connections_leave_fds_threads_and_memory_flat(start: Start) -> None:
    """Each with a channel, an FD of every kind, and something in work when it goes."""
    server = start("--host-uds", "all")
    seen = []
    for _ in range(6):
        for i in range(150):
            with server.peer("channel" if i % 2 else "socket") as peer:
                created = peer.opencreateat(peer.root, "file")
                peer.pwrite(created.fd, 0, b"x" * 5000)
                peer.bindat(peer.root, "sock")
                peer.openat(peer.root)
                for name in ("file", "sock"):
                    peer.unlinkat(peer.root, name)
        server.check_idle()
        seen.append(look(server))
    fds, threads, memory = zip(*seen)
    assert set(fds) == {fds[0]} and set(threads) == {1}
    assert memory[-1] <= memory[1] + 256, f"resident KiB after each 150 connections: {memory}"
