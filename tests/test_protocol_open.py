"""The fds that our server donates and keeps; OpenAt, OpenCreateAt and Close are in gofer/conform/cases/open.py."""

import fcntl
import os
from pathlib import Path

import pytest
from hosts import Server

from gofer.conform.peer import Peer


@pytest.mark.serve("--host-fifo", "open")
@pytest.mark.parametrize("name", ["file", "fifo"])
def test_donated_fds_never_block(peer: Peer, tree: Path, name: str) -> None:
    (tree / "file").touch()
    os.mkfifo(tree / "fifo")
    (donated,) = peer.openat(peer.walk_to(name)).donated
    assert fcntl.fcntl(donated, fcntl.F_GETFL) & os.O_NONBLOCK


def test_of_the_flags_of_open_no_other_is_set_on_a_donated_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    (donated,) = peer.openat(peer.walk_to("file"), 0x7FFFFFFC | os.O_RDWR).donated
    assert fcntl.fcntl(donated, fcntl.F_GETFL) & ~(os.O_NONBLOCK | 0o100000) == os.O_RDWR


def test_the_server_keeps_no_host_fd_of_closed_files(server: Server) -> None:
    (server.tree / "file").touch()
    with server.peer() as peer:
        before = len(server.open_fds())
        fds = []
        for _ in range(20):
            control = peer.walk_to("file")
            fds += [control, peer.openat(control, os.O_RDWR).fd, peer.openat(control).fd]
        assert len(server.open_fds()) >= before + 60
        peer.close(*fds)
        assert len(server.open_fds()) == before
