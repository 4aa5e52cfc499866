"""What --read-only promises against a client that is handed fds, and has by itself the right to change the files.

The attack opened a donated O_RDONLY fd anew through its own /proc/self/fd, and wrote. Nothing stops that but a read-only mount.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from conftest import Start
from disks import run, unmount
from hosts import fails
from prison import NO_SYS_ADMIN, USER, served
from runsc import bind, spec_of, starting

OTHER = 54320
# How a server comes to have a read-only mount of its own, or not: user, options, arguments of Popen, owner of PATH.
WITH = [(0, (), {}, 0), (USER, (), {}, USER), (USER, ("--jail=require",), {}, OTHER)]
WITHOUT = [
    (0, ("--jail=off",), {}, 0),
    (USER, ("--jail=off",), {}, USER),
    (USER, (), {}, OTHER),
    (USER, (), {"extra_groups": [7]}, USER),
    (USER, ("--mode=0660",), {}, USER),
    (USER, ("--group=7",), {}, USER),
    (USER, (f"--allow-uid={OTHER}",), {}, USER),
]


def changes(fd: int) -> "dict[str, Callable[[], Any]]":
    """What its holder does by an fd: this process is root, so no mode forbids it."""
    again = f"/proc/self/fd/{fd}"
    return {
        "write": lambda: os.open(again, os.O_WRONLY),
        "both": lambda: os.open(again, os.O_RDWR),
        "truncate": lambda: os.truncate(again, 0),
        "open and truncate": lambda: os.open(again, os.O_RDONLY | os.O_TRUNC),
        "fchmod": lambda: os.fchmod(fd, 0o4777),
        "fchown": lambda: os.fchown(fd, 1, 1),
        "times": lambda: os.utime(fd, (1, 1)),
        "setxattr": lambda: os.setxattr(fd, "user.x", b"1"),
    }


def nothing_changes(fd: int, *left_out: str) -> None:
    for name, change in changes(fd).items():
        if name not in left_out:
            with fails(errno.EROFS):
                change()


@pytest.fixture
def planted(spot: Path) -> Iterator[Path]:
    (spot / "file").write_bytes(b"hello")
    (spot / "file").chmod(0o666)
    before = os.stat(spot / "file")
    yield spot
    after = os.stat(spot / "file")
    assert (spot / "file").read_bytes() == b"hello" and os.listxattr(spot / "file") == []
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (before.st_mode, before.st_mtime_ns, before.st_ctime_ns)


@pytest.mark.parametrize("user,options,popen,owner", WITH)
def test_where_the_mount_is_read_only_the_donated_fd_changes_nothing(
    user: int, options: "tuple[str, ...]", popen: "dict[str, Any]", owner: int, planted: Path
) -> None:
    os.chown(planted, owner, owner)
    with served(planted, "--read-only", *options, user=user, **popen) as (peer, _):
        opened = peer.openat(peer.walk_to("file"))
        (fd,) = opened.donated
        assert os.pread(fd, 9, 0) == peer.pread(opened.fd, 0, 9) == b"hello"
        nothing_changes(fd)
        assert os.readlink(f"/proc/self/fd/{fd}") == "/file", "the host's path would be told"


@pytest.mark.parametrize("user,options,popen,owner", WITHOUT)
def test_where_the_mount_is_not_read_only_no_fd_is_donated(
    user: int, options: "tuple[str, ...]", popen: "dict[str, Any]", owner: int, planted: Path
) -> None:
    os.chown(planted, owner, owner)
    with served(planted, "--read-only", *options, user=user, **popen) as (peer, _):
        opened = peer.openat(peer.walk_to("file"))
        assert opened.donated == []
        assert peer.pread(opened.fd, 0, 9) == b"hello"


def test_nor_behind_a_chroot_and_the_start_says_so(planted: Path, start: Start) -> None:
    server = start("--read-only", wrap=NO_SYS_ADMIN)
    assert "fd donation no (the mount is not read-only" in server.said()
    with server.peer() as peer:
        assert peer.openat(peer.walk_to("file")).donated == []
    assert "fd donation yes" in start("--read-only").said()
    assert "fd donation yes" in start("--jail=off").said()


def test_nor_of_a_file_system_that_appears_below_path_later(planted: Path, start: Start) -> None:
    """In the default jail: it comes by propagation, with its own flags."""
    with mounted(planted, "--bind", planted):
        run("mount", "--make-shared", planted)
        later = planted / "later"
        later.mkdir()
        server = start("--read-only", tree=planted)
        with mounted(later, "-t", "tmpfs", "none"), server.peer() as peer:
            (later / "new").write_bytes(b"more")
            opened = peer.openat(peer.walk_to("later", "new"))
            assert peer.pread(opened.fd, 0, 9) == b"more"
            assert opened.donated == []
            assert len(peer.openat(peer.walk_to("file")).donated) == 1, "what was there at the start still is"


@contextlib.contextmanager
def mounted(place: Path, *how: "str | Path") -> Iterator[None]:
    run("mount", *how, place)
    try:
        yield
    finally:
        unmount(place)


@pytest.mark.parametrize("jail", ["auto", "off"])
def test_fifos_and_devices_are_donated_from_a_read_only_mount_only(jail: str, planted: Path, start: Start) -> None:
    os.mkfifo(planted / "fifo")
    os.mknod(planted / "null", 0o20666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(planted / "socket"))
    server = start("--read-only", f"--jail={jail}", "--host-fifo=open", "--char-devices=open", "--host-uds=open")
    with server.peer() as peer:
        for name in ("fifo", "null"):
            fd = peer.walk_to(name)
            if jail == "off":
                with fails(errno.EPERM):
                    peer.openat(fd)
                continue
            (donated,) = peer.openat(fd).donated
            # That they are opened for writing again is no change of a file: a read-only mount allows it.
            nothing_changes(donated, "write", "both", "truncate", "open and truncate", "setxattr")
    os.unlink(planted / "socket")


def test_a_containers_read_only_bind_donates_nothing_of_a_writable_mount_in_it(planted: Path, spot: Path) -> None:
    """What lies in an rbind keeps its own flags where another mount of the spec lies below it."""
    for name in ("inner", "place", "other"):
        (spot / name).mkdir()
    inner = planted / "inner"
    with mounted(inner, "-t", "tmpfs", "none"), starting(spot / "place") as start:
        (inner / "new").write_bytes(b"more")
        mounts = bind("/m", str(planted), "rbind", "ro"), bind("/m/other", str(spot / "other"))
        gofer = start(spec_of(*mounts), io=3)
        assert gofer.destinations() == ["/m", "/m/other"]
        peer = gofer.peer(1)
        (fd,) = peer.openat(peer.walk_to("file")).donated
        nothing_changes(fd)
        opened = peer.openat(peer.walk_to("inner", "new"))
        assert opened.donated == []
        assert peer.pread(opened.fd, 0, 9) == b"more"
