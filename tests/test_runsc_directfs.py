"""What a directfs sandbox asks of its gofer, and must find in the replies: the table in docs/runsc.md, line by line.

Such a sandbox opens nearly all files itself, from the directory that Mount donates. As real ones do it:
test_runsc_directfs_containers.py.
"""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hosts import fails, open_fds, wait_until
from runsc import Started, bind, directory, spec_of, starting

from gofer.conform.peer import Peer, over_channel

Start = Callable[..., Started]
CONFS = "--gofer-mount-confs=lisafs:none,lisafs:none"


@pytest.fixture
def gofer(spot: Path) -> Iterator[Start]:
    with starting(spot) as start:
        yield start


def of_mount(gofer: Start, source: Path, *options: str, flags: "tuple[str, ...]" = ()) -> Peer:
    """A client of the bind mount of `source`, as its sandbox is one."""
    g = gofer(spec_of(bind("/m", str(source), *options)), CONFS, "id", io=2, flags=flags)
    assert g.destinations() == ["/m"]
    return g.peer(1)


def opened_as(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH)


def make(path: Path, kind: str) -> Path:
    if kind == "directory":
        directory(path, f="text")
    elif kind == "file":
        path.write_text("text")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    else:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    return path


# Mount


@pytest.mark.parametrize(
    "kind,how",
    [
        ("directory", os.O_RDONLY),
        ("file", os.O_RDONLY),
        ("fifo", os.O_PATH),
        ("socket", os.O_PATH),
        ("device", os.O_PATH),
    ],
)
@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_mount_donates_an_fd_of_the_root_whatever_its_kind(
    gofer: Start, spot: Path, kind: str, how: int, mode: str
) -> None:
    source = make(spot / "source", kind)
    peer = of_mount(gofer, source, mode)
    mounted = peer.mount()
    (donated,) = mounted.donated
    assert os.path.samestat(os.fstat(donated), os.stat(source))
    assert os.fstat(donated).st_ino == mounted.root.stat.ino
    assert opened_as(donated) == how


@pytest.mark.parametrize("option,how", [("none", os.O_PATH), ("open", os.O_RDONLY)])
def test_a_fifo_is_donated_for_reading_only_where_fifos_are_allowed(
    gofer: Start, spot: Path, option: str, how: int
) -> None:
    """The client is a reader then, and a host's writer no longer waits; so it would be without the fd, for the mount around."""
    fifo = make(spot / "fifo", "fifo")
    (donated,) = of_mount(gofer, fifo, flags=(f"--host-fifo={option}",)).mount().donated
    assert opened_as(donated) == how
    if option == "open":
        os.fchmod(donated, 0o604)
    else:
        with fails(errno.ENXIO):
            os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)


@pytest.mark.parametrize("kind", ["directory", "file", "fifo"])
def test_without_directfs_nothing_of_a_mount_point_is_donated_but_an_open_file(
    gofer: Start, spot: Path, kind: str
) -> None:
    peer = of_mount(gofer, make(spot / "source", kind), flags=("--directfs=false", "--host-fifo=open"))
    assert peer.mount().donated == []
    assert len(peer.openat(peer.root).donated) == (kind != "directory")


# OpenAt of the root


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC])
@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_openat_of_a_mount_point_donates_it_open_as_asked(gofer: Start, spot: Path, kind: str, access: int) -> None:
    source = make(spot / "source", kind)
    peer = of_mount(gofer, source, flags=("--host-fifo=open",))
    readers = peer.openat(peer.root).donated  # without one, a FIFO cannot be opened for writing alone
    opened = peer.openat(peer.root, access)
    peer.close(opened.fd)  # as the client does at once
    (donated,) = opened.donated
    assert os.path.samestat(os.fstat(donated), os.stat(source))
    assert opened_as(donated) == access & os.O_ACCMODE
    if access & os.O_ACCMODE == os.O_WRONLY:
        os.write(donated, b"more")
        assert os.read(readers[0], 9) == b"more"
    assert kind == "fifo" or source.stat().st_size == (0 if access & os.O_TRUNC else 4)


def test_openat_of_a_directory_that_is_a_mount_point_donates_it_and_of_one_below_does_not(
    gofer: Start, spot: Path
) -> None:
    source = make(spot / "source", "directory")
    (source / "below").mkdir()
    peer = of_mount(gofer, source)
    (donated,) = peer.openat(peer.root).donated
    assert sorted(os.listdir(donated)) == ["below", "f"] and opened_as(donated) == os.O_RDONLY
    assert peer.openat(peer.walk_to("below")).donated == []
    for access in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
        with fails(errno.EISDIR):
            peer.openat(peer.root, access)


def test_what_a_client_does_with_a_donated_directory_moves_no_listing_of_another(gofer: Start, spot: Path) -> None:
    """2026: it seeks in the fd of the root to read a deleted file, and in an open one before each listing."""
    source = make(spot / "source", "directory")
    peer = of_mount(gofer, source)
    for name in range(200):
        (source / f"entry{name:03}").touch()
    donated = peer.mount().donated
    opened = peer.openat(peer.root)
    first = peer.getdents64(opened.fd, 1000)
    for fd in (*donated, *opened.donated):
        os.lseek(fd, 0, os.SEEK_END)
        os.listdir(fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) >= 0
    names = [entry.name for entry in first]
    while more := peer.getdents64(opened.fd, 1000):
        names += [entry.name for entry in more]
    assert sorted(names) == sorted(name.encode() for name in os.listdir(source))


@pytest.mark.parametrize("options", [["ro"], ["rbind", "ro"], ["ro", "rw"]])
def test_a_read_only_mount_donates_for_reading_alone_and_its_files_cannot_be_written(
    gofer: Start, spot: Path, options: "list[str]"
) -> None:
    """Of "ro" and "rw" the sandbox takes the later; a gofer, also runsc's own, serves read-only wherever it finds "ro"."""
    source = make(spot / "source", "directory")
    peer = of_mount(gofer, source, *options)
    for fd in (*peer.mount().donated, *peer.openat(peer.root).donated):
        assert opened_as(fd) == os.O_RDONLY
        for flags in (os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
            with fails(errno.EROFS):
                os.open("f", flags, dir_fd=fd)
        with fails(errno.EROFS):
            os.mkdir("made", dir_fd=fd)
    assert (source / "f").read_text() == "text"


def test_the_gofer_keeps_nothing_of_what_it_has_donated(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", str(make(spot / "source", "directory")))), CONFS, "id", io=2)
    g.mount_list()
    peer = g.peer(1)
    before = open_fds(g.pid)
    for _ in range(50):
        first = peer.root
        opened = peer.openat(peer.mount().root.fd)
        peer.close(peer.root, opened.fd)
        peer.root = first
    wait_until(lambda: len(open_fds(g.pid)) <= len(before), lambda: f"it closes them; it has {open_fds(g.pid)}")


def test_a_read_only_file_cannot_be_changed_by_what_is_donated_of_it(gofer: Start, spot: Path) -> None:
    """runsc's own gofer of 2024 truncates the host's file here."""
    source = make(spot / "source", "file")
    peer = of_mount(gofer, source, "ro")
    for access in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
        with fails(errno.EROFS):
            peer.openat(peer.root, access)
    (donated,) = peer.mount().donated
    for change in (lambda: os.fchmod(donated, 0o777), lambda: os.utime(donated), lambda: os.fchown(donated, 1, 1)):
        with fails(errno.EROFS):
            change()
    for flags in (os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
        with fails(errno.EROFS):
            os.open(f"/proc/self/fd/{donated}", flags)
    assert source.read_text() == "text"


def test_from_a_donated_directory_no_way_leads_further_than_to_the_containers_root(gofer: Start, spot: Path) -> None:
    """`..` of a mount's root is the directory that it is mounted in, which the sandbox has from its first io-fd anyway."""
    mount = bind("/in/the/root", directory(spot / "source"))
    g = gofer(spec_of(mount), CONFS, "id", io=2)
    g.mount_list()
    (root,), (mounted,) = g.peer(0).mount().donated, g.peer(1).mount().donated
    ways = {".": "source", "..": "rootfs/in/the", "../..": "rootfs/in", "../../..": "rootfs", "../" * 9: "rootfs"}
    for way, leads_to in ways.items():
        assert os.path.samestat(os.stat(way, dir_fd=mounted), os.stat(spot / leads_to)), way
    assert os.path.samestat(os.stat("..", dir_fd=root), os.stat(spot / "rootfs"))


def test_a_client_that_has_no_use_for_the_root_is_served_as_without_directfs(gofer: Start, spot: Path) -> None:
    """2026-05: a mount with the hint directfs=off, beside others without. It closes the fd, and asks over channels."""
    peer = of_mount(gofer, make(spot / "source", "directory"))
    for fd in peer.disown(list(peer.owned)):
        os.close(fd)
    other = over_channel(peer)
    try:
        assert other.pread(other.openat(other.walk_to("f"), os.O_RDWR).fd, 0, 9) == b"text"
        opened = other.openat(other.root)
        assert [entry.name for entry in other.listdir(opened.fd)] == [b"f"] and len(opened.donated) == 1
    finally:
        other.disconnect()


# Sockets, FIFOs, and what else goes by the root's control FD


@pytest.mark.parametrize("at_the_mount_point", [True, False])
def test_sockets_at_and_below_a_mount_point_are_connected_to_by_the_gofer(
    gofer: Start, spot: Path, at_the_mount_point: bool
) -> None:
    path = Path(directory(spot / "source")) / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        peer = of_mount(gofer, path if at_the_mount_point else path.parent, flags=("--host-uds=open",))
        fd = peer.root if at_the_mount_point else peer.walk_to("s")
        for donated in (peer.connect(fd), peer.connectwithcreds(fd, 0, 0)):
            accepted, _ = server.accept()
            with accepted:
                os.write(donated[0], b"hello")
                assert accepted.recv(9) == b"hello"


def test_the_mode_of_a_socket_that_is_a_mount_point_is_set_by_the_gofer(gofer: Start, spot: Path) -> None:
    """fchmod(2) takes no O_PATH fd, and there is no other on a socket's name."""
    source = make(spot / "s", "socket")
    peer = of_mount(gofer, source)
    assert peer.setstat(peer.root, 0x2, mode=0o604) == (0, 0)
    assert stat.S_IMODE(source.stat().st_mode) == 0o604


def test_a_socket_bound_below_is_donated_and_has_its_owner_and_mode_already(gofer: Start, spot: Path) -> None:
    """The client makes no change to it afterwards, and finds it from the directory it has."""
    source = make(spot / "source", "directory")
    peer = of_mount(gofer, source, flags=("--host-uds=create",))
    (root,) = peer.mount().donated
    bound = peer.bindat(peer.root, "made", mode=0o140640, uid=7, gid=8)
    peer.close(bound.inode.fd)
    peer.listen(bound.fd)
    made = os.stat("made", dir_fd=root)
    assert (made.st_uid, made.st_gid, stat.S_IMODE(made.st_mode)) == (7, 8, 0o640)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(source / "made"))
        ((accepted,), (donated,)) = (peer.accept(bound.fd)[1], bound.donated)
        with socket.socket(fileno=os.dup(accepted)) as ours, socket.socket(fileno=os.dup(donated)) as listening:
            client.send(b"hello")
            assert ours.recv(9) == b"hello" and listening.getsockname() != ""


def test_a_fifo_at_a_mount_point_opens_only_where_fifos_are_allowed(gofer: Start, spot: Path) -> None:
    peer = of_mount(gofer, make(spot / "fifo", "fifo"))
    with fails(errno.EPERM):
        peer.openat(peer.root)


def test_a_fifo_opens_without_waiting_and_for_writing_only_where_somebody_reads(gofer: Start, spot: Path) -> None:
    """ENXIO is how the sandbox learns that an open(2) of its own must go on waiting: where it is itself no reader."""
    fifo = make(spot / "fifo", "fifo")
    peer = of_mount(gofer, fifo, flags=("--host-fifo=open",))
    for fd in peer.disown(list(peer.owned)):
        os.close(fd)  # of the root
    with fails(errno.ENXIO):
        peer.openat(peer.root, os.O_WRONLY)
    (reader,) = peer.openat(peer.root).donated
    assert os.read(reader, 1) == b"", "no writer yet: it would not have waited"
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    with fails(errno.EAGAIN):
        os.read(reader, 1)
    os.write(writer, b"hello")
    os.close(writer)
    assert os.read(reader, 9) == b"hello" and os.read(reader, 1) == b""


def test_a_root_that_is_mounted_again_as_after_a_restore_is_donated_again(gofer: Start, spot: Path) -> None:
    peer = of_mount(gofer, make(spot / "source", "directory"))
    first, second = peer.mount(), peer.mount()
    assert first.root.fd != second.root.fd
    assert os.path.sameopenfile(first.donated[0], second.donated[0])
    os.lseek(first.donated[0], 5, os.SEEK_SET)
    assert os.lseek(second.donated[0], 0, os.SEEK_CUR) == 0, "an offset of its own"
    assert len(peer.openat(second.root.fd).donated) == 1
