"""What is served is removed, replaced, mounted over or unmounted while it is served: clients keep what they hold, and see what is
there; the server lives."""

import errno
import os
import stat as modes
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from disks import ext4, run, serving, tmpfs
from hosts import TRANSPORTS, fails, wait_until

from gofer.conform.codec import MODE
from gofer.conform.peer import Peer

JAILS = ("auto", "off")


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=JAILS)
def jail(request: pytest.FixtureRequest) -> tuple[str, str]:
    return "--jail", request.param


@pytest.fixture
def shared() -> Iterator[Path]:
    """An empty directory of a mount whose changes are shared with other namespaces, as systemd makes all mounts of a host."""
    with tmpfs("1M") as path:
        run("mount", "--make-shared", path)
        yield path


def names(peer: Peer, fd: int) -> set[bytes]:
    opened = peer.openat(fd).fd
    found = {entry.name for entry in peer.listdir(opened)}
    peer.close(opened)
    return found


def test_a_served_directory_that_is_removed_is_an_empty_one_that_takes_nothing(
    start: Start, spot: Path, transport: str, jail: tuple[str, str]
) -> None:
    tree = spot / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"hello")
    server = start(*jail, tree=tree)
    with server.peer(transport) as peer:
        fd = peer.walk_to("file")
        (tree / "file").unlink()
        tree.rmdir()
        assert peer.walk(peer.root, "file") == (1, [])
        assert peer.fstat(peer.root).nlink == 0
        assert peer.pread(peer.openat(fd).fd, 0, 5) == b"hello"
        for call in (
            lambda: peer.opencreateat(peer.root, "new"), lambda: peer.mkdirat(peer.root, "new"),
            lambda: peer.symlinkat(peer.root, "new", "x"), lambda: peer.mknodat(peer.root, "new"),
            lambda: peer.unlinkat(peer.root, "file"), lambda: peer.linkat(peer.root, fd, "new"),
        ):  # fmt: skip
            with fails(errno.ENOENT):
                call()
        with server.peer() as newcomer:
            assert newcomer.fstat(newcomer.root).nlink == 0
    assert os.listdir(spot) == []


def test_what_is_put_in_the_place_of_a_served_directory_is_not_served(
    start: Start, spot: Path, transport: str, jail: tuple[str, str]
) -> None:
    """The tree was chosen at the start, by its inode; a name may mean something else by now."""
    tree = spot / "tree"
    tree.mkdir()
    (tree / "mine").touch()
    (spot / "other").mkdir()
    (spot / "other/secret").touch()
    server = start(*jail, tree=tree)
    with server.peer(transport) as peer:
        tree.rename(spot / "moved")
        for replacement in ("directory", "link"):
            if replacement == "directory":
                (spot / "other").rename(tree)
            else:
                tree.rename(spot / "other")
                os.symlink("other", tree)
            assert names(peer, peer.root) == {b"mine"}
            with server.peer() as newcomer:
                assert names(newcomer, newcomer.root) == {b"mine"}
                assert newcomer.walk(newcomer.root, "secret") == (1, [])
        peer.mkdirat(peer.root, "new")
    assert sorted(os.listdir(spot / "moved")) == ["mine", "new"]
    assert os.listdir(spot / "other") == ["secret"]


def test_a_served_file_that_is_replaced_stays_the_file_it_was(start: Start, spot: Path, jail: tuple[str, str]) -> None:
    file = spot / "file"
    file.write_bytes(b"old")
    server = start(*jail, tree=file)
    with server.peer() as peer:
        (spot / "new").write_bytes(b"new")
        (spot / "new").rename(file)
        assert peer.pread(peer.openat(peer.root, os.O_RDWR).fd, 0, 10) == b"old"
        assert peer.fstat(peer.root).nlink == 0
        assert peer.setstat(peer.root, MODE, mode=0o600) == (0, 0)
    assert file.read_bytes() == b"new" and os.stat(file).st_mode & 0o777 != 0o600


def test_a_file_system_mounted_below_appears_and_goes_again(
    shared: Path, transport: str, jail: tuple[str, str]
) -> None:
    (shared / "below").mkdir()
    (shared / "below/under").touch()
    with serving(shared, *jail) as server, server.peer(transport) as peer:
        assert names(peer, peer.walk_to("below")) == {b"under"}
        with tmpfs("1M") as upper:
            (upper / "above").write_bytes(b"hello")
            run("mount", "--bind", upper, shared / "below")
            try:
                fd = peer.walk_to("below")
                assert names(peer, fd) == {b"above"}
                stat = peer.fstat(fd)
                assert stat.dev != peer.fstat(peer.root).dev
                listing = peer.listdir(peer.openat(peer.root).fd)
                assert [entry.dev for entry in listing if entry.name == b"below"] == [stat.dev]
                peer.close(fd)
            finally:
                run("umount", shared / "below")  # nobody holds anything there: not busy
        assert names(peer, peer.walk_to("below")) == {b"under"}


def test_an_unmount_below_leaves_clients_what_they_hold_until_they_let_go(
    shared: Path, transport: str, jail: tuple[str, str]
) -> None:
    (shared / "below").mkdir()
    with ext4(16) as disk:
        run("mount", "--bind", disk.path, shared / "below")
        (shared / "below/file").write_bytes(b"hello")
        with serving(shared, *jail) as server, server.peer(transport) as peer:
            directory = peer.walk_to("below")
            file = peer.walk_to("below", "file")
            opened = peer.openat(file, os.O_RDWR)
            busy = subprocess.run(["umount", shared / "below"], capture_output=True)
            if busy.returncode:
                run("umount", "--lazy", shared / "below")
            if os.path.ismount(disk.path):
                disk.unmount()
            assert peer.walk(peer.root, "below", "file")[0] == 1
            assert peer.pread(opened.fd, 0, 5) == b"hello"
            assert peer.pwrite(opened.fd, 0, b"HELLO") == 5
            peer.fsync(opened.fd)
            assert peer.walk(directory, "file")[0] == 0
            assert modes.S_ISREG(peer.fstat(file).mode)
            assert not disk.released()
            for fd in peer.disown(opened.donated):
                os.close(fd)
            peer.close(*range(2, 20))
            wait_until(disk.released, "closing the last FD lets go of the file system")
            assert peer.walk(peer.root, "below")[0] == 0
