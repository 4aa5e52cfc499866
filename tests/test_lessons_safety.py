"""What a gofer got wrong once: protocol and safety. The docstrings name the fix in gVisor's repository, or the advisory.

Lessons that a test elsewhere already holds are named in that test's docstring; test_lessons_all.py has the whole list.
"""

import errno
import os
import socket
import stat as modes
from pathlib import Path

import pytest
from conftest import Start
from hosts import PATIENCE, Server, fails, open_fds
from watch import opens_of

from gofer.conform.codec import Mid
from gofer.conform.peer import Peer

SECRET = b"outside of the tree"


@pytest.mark.parametrize("kind", ["char", "fifo"])
def test_special_files_are_looked_at_but_never_opened(peer: Peer, tree: Path, kind: str, server: Server) -> None:
    """CVE-2020-35517, CVE-2023-2861, CVE-2026-96812 (573a9e73c), ea7cd7184: only open, connect and bind are gated.

    0eb861df5, 6fae8b623: the refusal is not silent: one warning names the option.
    """
    if kind == "char":
        os.mknod(tree / kind, modes.S_IFCHR | 0o666, os.makedev(1, 5))
    else:
        os.mkfifo(tree / kind)
    said = server.said()
    with opens_of(tree / kind) as opens:
        fd = peer.walk_to(kind)
        assert peer.walkstat(peer.root, kind)[0].ino == peer.fstat(fd).ino
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
            with fails(errno.EPERM):
                peer.openat(fd, flags)
        peer.setstat(fd, 0x2 | 0x8, mode=0o600, uid=5)
        peer.linkat(peer.root, fd, "second")
        assert opens.seen() == 0
    new = server.said()[len(said) :]
    assert new.count("--char-devices=open" if kind == "char" else "--host-fifo=open") == 1


def test_fds_that_were_not_handed_over_do_not_stay_open(start: Start, spot: Path) -> None:
    """d5e8d33af (#10232): what the parent left open is closed."""
    ends = os.pipe()
    with open(spot / "leaked", "w") as leaked:
        numbers = (leaked.fileno(), *ends)
        server = start(pass_fds=numbers)
        held = open_fds(server.pid)
        assert str(spot / "leaked") not in held
        assert not [fd for fd in numbers if os.readlink(f"/proc/self/fd/{fd}") in held]
    for fd in ends:
        os.close(fd)


def test_every_fd_of_the_server_closes_on_exec(server: Server) -> None:
    """d5e8d33af (#10232): CLOEXEC on the rest."""
    (server.tree / "file").touch()
    with server.peer("channel") as peer:
        peer.openat(peer.walk_to("file"), os.O_RDWR)
        for entry in Path(f"/proc/{server.pid}/fdinfo").iterdir():
            if int(entry.name) > 2:
                flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
                assert flags & os.O_CLOEXEC, os.readlink(f"/proc/{server.pid}/fd/{entry.name}")


def test_a_donation_over_a_channel_whose_socket_is_full_fails_alone(server: Server) -> None:
    """dbfc591d9 and its kin: what cannot be donated is no reason to stop. The client here never takes its fds."""
    (server.tree / "file").touch()
    with server.peer("channel") as peer:
        fd = peer.walk_to("file")
        for _ in range(600):
            peer.transport.hand_over(  # type: ignore[union-attr]
                Mid.OPENAT.to_bytes(2, "little") + b"\0\0" + fd.to_bytes(8, "little") + bytes(8)
            )
            data = peer.transport.take_back()  # type: ignore[union-attr]
            opened = int.from_bytes(data[4:12], "little")
            peer.close(opened)
        assert modes.S_ISREG(peer.fstat(fd).mode)


def test_the_peer_is_checked_before_its_first_byte_is_served(start: Start) -> None:
    """CVE-2025-2713 (runsc): rights were there until too late. A user who is not allowed gets no answer at all."""
    server = start("--mode", "0666")
    os.chmod(server.place, 0o755)
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(str(server.path))
            try:
                sock.sendall(b"\0\0\0\0\x01\0\0\0")
                status = len(sock.recv(1))
            except ConnectionError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with server.peer() as peer:
        assert peer.root == 1
