"""The server is killed, or the machine loses its power, while clients write: what was acknowledged is kept as promised.

A write that was acknowledged survives the server (it is in the kernel); a write that was acknowledged before an FSync that was
acknowledged survives the machine.
"""

import contextlib
import mmap
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from disks import ext4
from hosts import TRANSPORTS, Server, wait_until

from gofer.conform.peer import Peer

BLOCK, EVERY, WRITERS = 3000, 8, 4


def block(writer: int, number: int) -> bytes:
    return struct.pack("<II", writer, number) * (BLOCK // 8)


class Load:
    """Client processes that each write a file of their own, block after block, and sync it after every EVERY blocks.

    acknowledged(writer), synced(writer): how many blocks the server has acknowledged, and those before an acknowledged FSync.
    """

    def __init__(self, server: Server) -> None:
        self.shared = mmap.mmap(-1, 4096)
        self.pids = []
        for writer in range(WRITERS):
            pid = os.fork()
            if pid == 0:
                with contextlib.suppress(BaseException), server.peer(TRANSPORTS[writer % 2]) as peer:
                    self._write(peer, writer)
                os._exit(0)
            self.pids.append(pid)

    def _write(self, peer: Peer, writer: int) -> None:
        fd = peer.opencreateat(peer.root, f"file{writer}").fd
        number = 0
        while True:
            assert peer.pwrite(fd, number * BLOCK, block(writer, number)) == BLOCK
            number += 1
            struct.pack_into("<I", self.shared, 8 * writer, number)
            if number % EVERY == 0:
                peer.fsync(fd)
                struct.pack_into("<I", self.shared, 8 * writer + 4, number)

    def acknowledged(self, writer: int) -> int:
        return int(struct.unpack_from("<I", self.shared, 8 * writer)[0])

    def synced(self, writer: int) -> int:
        return int(struct.unpack_from("<I", self.shared, 8 * writer + 4)[0])

    def end(self) -> None:
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.pids = []


@contextlib.contextmanager
def load_on(server: Server) -> Iterator[Load]:
    load = Load(server)
    try:
        yield load
    finally:
        load.end()
        load.shared.close()


def check(tree: Path, writer: int, blocks: int) -> None:
    expected = b"".join(block(writer, number) for number in range(blocks))
    assert (tree / f"file{writer}").read_bytes()[: len(expected)] == expected


@pytest.mark.parametrize("victim", ["server", "supervisor"])
def test_what_was_acknowledged_survives_the_server(start: Start, spot: Path, victim: str) -> None:
    for moment in (0, 0.1, 0.3):
        server = start()
        with load_on(server) as load:
            wait_until(lambda: all(map(load.acknowledged, range(WRITERS))), "everybody writes")
            time.sleep(moment)
            os.kill(server.pid if victim == "server" else server.process.pid, signal.SIGKILL)
            server.process.wait()
            load.end()
            for writer in range(WRITERS):
                check(spot, writer, load.acknowledged(writer))
        for writer in range(WRITERS):
            (spot / f"file{writer}").unlink()


@pytest.mark.parametrize("moment", [0, 0.4])
def test_what_was_synced_survives_the_machine(moment: float) -> None:
    with ext4(64) as disk, contextlib.ExitStack() as stack:
        server = Server(disk.path)
        stack.callback(server.kill)
        with load_on(server) as load:
            wait_until(lambda: all(map(load.synced, range(WRITERS))), "everybody has synced")
            time.sleep(moment)
            # Before the cut: an fsync(2) on its way while ext4 shuts down can succeed and keep nothing, without a server too.
            synced = [load.synced(writer) for writer in range(WRITERS)]
            disk.cut_power()
        server.kill()
        disk.mount_again()
        for writer in range(WRITERS):
            check(disk.path, writer, synced[writer])


def test_what_was_not_synced_may_be_lost_so_the_test_above_can_fail() -> None:
    with ext4(64) as disk, contextlib.ExitStack() as stack:
        server = Server(disk.path)
        stack.callback(server.kill)
        with server.peer() as peer:
            peer.pwrite(peer.opencreateat(peer.root, "file").fd, 0, b"x" * 100_000)
            disk.cut_power()
        server.kill()
        disk.mount_again()
        assert not (disk.path / "file").exists() or not (disk.path / "file").read_bytes().startswith(b"x")
