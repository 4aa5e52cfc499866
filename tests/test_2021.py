"""A sandbox of 2021 from its first message to its last: the seed's own dialect, and what it means differently."""

import errno
import os
import socket
import stat as modes
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import WAYS, WAYS_2021, Server, fails
from looks import names_in

from gofer.conform.codec import MODE, Mid
from gofer.conform.peer import Peer, over_channel
from gofer.conform.peer2021 import Peer2021, string
from gofer.conform.transport import SocketTransport

EVERYTHING = ("--host-uds", "all", "--xattrs", "all")


@pytest.fixture(params=WAYS_2021)
def old(request: pytest.FixtureRequest, server: Server) -> Iterator[Peer2021]:
    with server.peer(request.param) as peer:
        assert isinstance(peer, Peer2021)
        yield peer


@pytest.fixture
def unmounted(server: Server) -> Iterator[Peer2021]:
    peer = Peer2021(SocketTransport(server.connect()))
    yield peer
    peer.disconnect()


@pytest.mark.serve(*EVERYTHING)
def test_the_whole_life_of_a_sandbox(old: Peer2021, tree: Path) -> None:
    created = old.opencreateat(old.root, "file", mode=0o640)
    assert old.pwrite(created.fd, 3, b"contents") == 8
    assert old.pread(created.fd, 0, 100) == b"\0\0\0contents"
    assert old.pread(created.fd, 11, 100) == b""
    assert [os.fstat(fd).st_ino for fd in created.donated] == [created.inode.stat.ino]
    assert old.setstat(created.inode.fd, MODE, mode=0o600) == (0, 0)
    assert modes.S_IMODE(old.fstat(created.inode.fd).mode) == 0o600
    a, b = old.mkdirat(old.root, "a").fd, old.mkdirat(old.root, "b").fd
    deep = old.mkdirat(a, "deep").fd
    old.mknodat(deep, "node")
    old.rename_fd(created.inode.fd, deep, "moved")
    old.rename_fd(deep, b, "deeper")
    old.rename_fd(created.inode.fd, old.root, "back")
    assert sorted(str(path.relative_to(tree)) for path in tree.rglob("*")) == "a b b/deeper b/deeper/node back".split()
    link = old.symlinkat(old.root, "link", "../x")
    assert old.readlinkat(link.fd) == b"../x"
    assert old.linkat(b, created.inode.fd, "hard").stat.ino == created.inode.stat.ino
    assert [modes.S_IFMT(stat.mode) for stat in old.walkstat(old.root, "", "b")] == [modes.S_IFDIR] * 2
    old.fsetxattr(created.inode.fd, "user.a", b"value")
    assert old.fgetxattr(created.inode.fd, "user.a") == b"value"
    assert old.flistxattr(created.inode.fd) == [b"user.a"]
    old.fremovexattr(created.inode.fd, "user.a")
    old.fallocate(created.fd, 0, 0, 4096)
    old.fsync(created.fd)
    old.flush(created.fd)
    assert old.fstatfs(old.root).namelen == 255
    old.unlinkat(b, "hard")
    old.close(created.fd, created.inode.fd)
    with fails(errno.EBADF):
        old.fstat(created.fd)


def test_5000_names_are_listed(old: Peer2021, tree: Path) -> None:
    for number in range(5000):
        (tree / f"name-{number}").touch()
    listing = old.openat(old.root).fd
    assert sorted(entry.name for entry in old.listdir(listing)) == sorted(os.fsencode(name) for name in names_in(tree))


@pytest.mark.slow
def test_a_reply_that_holds_all_that_a_message_can_is_answered(server: Server) -> None:
    """Names of 4 letters grow most on the way from the kernel's dirents to the wire."""
    for number in range(65536):
        os.symlink("x", server.tree / f"{number:04x}")
    with server.peer("socket-2021") as old:
        assert len(old.listdir(old.openat(old.root).fd, 2**31 - 1)) == 65536


@pytest.mark.serve(*EVERYTHING)
def test_sockets_of_the_host_are_connected_to(old: Peer2021, tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "sock"))
        listener.listen(4)
        fd = old.walk_to("sock")
        (donated,) = old.disown(old.connect(fd))
        with socket.socket(fileno=donated) as ours, listener.accept()[0] as theirs:
            ours.send(b"hello")
            assert theirs.recv(5) == b"hello"
        with fails(errno.ENXIO):
            old.connect(fd, 3)
    with fails(errno.ENOTSOCK):
        old.connect(old.root)


def test_where_sockets_are_not_served_a_connect_is_refused(old: Peer2021, tree: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "sock"))
        with fails(errno.ECONNREFUSED):
            old.connect(old.walk_to("sock"))
    with fails(errno.ENOTSOCK):
        old.connect(old.root)


# Mount


@pytest.mark.parametrize("path", ["/", "//", "/dir", "/dir/", "//dir//sub", "/file"])
def test_mount_serves_what_the_path_leads_to(unmounted: Peer2021, tree: Path, path: str) -> None:
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "file").touch()
    mounted = unmounted.mount(path)
    assert mounted.root.stat.ino == os.stat(f"{tree}/{path}").st_ino
    assert (mounted.donated, mounted.max_message_size) == ([], (2 << 20) - 4096)
    assert mounted.supported == [mid for mid in range(1, 29) if mid != Mid.FLUSH]
    with fails(errno.EBUSY):
        unmounted.mount(path)
    assert unmounted.fstat(unmounted.root).ino == mounted.root.stat.ino
    with fails(errno.EBUSY):
        unmounted.rename_fd(unmounted.root, unmounted.root, "x")


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("", errno.EINVAL), ("dir", errno.EINVAL), ("./dir", errno.EINVAL), ("/..", errno.EINVAL), ("/dir/..", errno.EINVAL),
        ("/.", errno.EINVAL), ("/dir/../../outside", errno.EINVAL), ("/dir\0", errno.EINVAL), ("/missing", errno.ENOENT),
        ("/dir/missing/more", errno.ENOENT), ("/file/more", errno.ENOTDIR), ("/link", errno.ELOOP), ("/link/sub", errno.ELOOP),
        ("/" + "n" * 256, errno.ENAMETOOLONG),
    ],
)  # fmt: skip
def test_a_mount_path_that_leads_nowhere_is_refused_and_the_next_may_be_right(
    unmounted: Peer2021, tree: Path, path: str, number: int
) -> None:
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "file").touch()
    os.symlink("dir", tree / "link")
    with fails(number):
        unmounted.mount(path)
    for call in (lambda: unmounted.walk(1, "dir"), unmounted.channel):
        with pytest.raises(OSError):
            call()
    assert unmounted.mount("/dir").root.stat.ino == os.stat(tree / "dir").st_ino


@pytest.mark.parametrize(
    "payload", [b"\0", b"/x", b"\1\0\0", b"\5\0\0\0/", b"\xff\xff\xff\xff/", b"\1\0\0\0/x", b"\1\0\0\0\0"]
)
def test_a_mount_that_is_neither_empty_nor_a_path_is_refused_and_the_connection_lives(
    unmounted: Peer2021, payload: bytes
) -> None:
    with pytest.raises(OSError) as told:
        unmounted.call(Mid.MOUNT, payload)
    assert told.value.errno in (errno.EIO, errno.EINVAL)
    assert unmounted.mount("/").root.fd


@pytest.mark.parametrize("size", range(1, 13))
def test_the_dialect_is_told_however_the_first_message_is_cut(server: Server, size: int) -> None:
    message = struct.pack("<IHH", 5, Mid.MOUNT, 0) + string("/")
    sock = server.connect()
    with sock:
        sock.sendall(message[:size])
        sock.sendall(message[size:] + struct.pack("<IHHI", 4, Mid.FSTAT, 0, 1))
        replies = b""
        while len(replies) < 8 + 152 + 4 + 2 + 2 * 27 + 8 + 144:
            replies += sock.recv(4096)
        mid = struct.unpack_from("<H", replies, 8 + 152 + 4 + 2 + 2 * 27 + 4)[0]
        assert mid == Mid.FSTAT


# One dialect and the other


def test_a_message_that_came_later_is_unknown(old: Peer2021) -> None:
    for mid in range(29, 40):
        with fails(errno.EOPNOTSUPP):
            old.call(mid, b"")


def test_todays_requests_after_an_old_mount_are_errors_and_never_misread(old: Peer2021, server: Server) -> None:
    today = Peer(old.transport)
    for mid, call in (
        (Mid.MOUNT, today.mount),
        (Mid.FSTAT, lambda: today.fstat(old.root)),
        (Mid.WALK, lambda: today.walk(old.root, "a", "b")),
        (Mid.MKDIRAT, lambda: today.mkdirat(old.root, "made")),
        (Mid.UNLINKAT, lambda: today.unlinkat(old.root, "made")),
        (Mid.CLOSE, lambda: today.close(old.root)),
    ):
        with pytest.raises(OSError):
            call()
        assert old.fstat(old.root), mid
    assert names_in(server.tree) == []


def test_old_requests_after_todays_mount_are_errors_and_never_misread(server: Server) -> None:
    with server.peer() as today:
        old = Peer2021(today.transport)
        for call in (
            old.mount,
            lambda: old.fstat(today.root),
            lambda: old.walk(today.root, "a", "b"),
            lambda: old.mkdirat(today.root, "made"),
            lambda: old.close(today.root),
        ):
            with pytest.raises(OSError):
                call()
        assert today.fstat(today.root).ino == os.stat(server.tree).st_ino
    assert names_in(server.tree) == []


def test_anything_before_mount_is_an_error(unmounted: Peer2021, tree: Path) -> None:
    """The first message was no Mount of 2021, so the connection speaks today's: there it comes to nothing."""
    calls = (lambda: unmounted.fstat(1), lambda: unmounted.walk(1, "a"), lambda: unmounted.mkdirat(1, "made"))
    for call in (*calls, unmounted.mount):
        with pytest.raises(OSError):
            call()
    assert names_in(tree) == []


@pytest.mark.parametrize("way", WAYS)
def test_both_dialects_are_served_at_once_and_see_the_same_files(server: Server, way: str) -> None:
    with server.peer(way) as one, server.peer("channel-2021") as other:
        one.opencreateat(one.root, "file")
        assert other.walk_to("file")
        other.unlinkat(other.root, "file")
        assert one.walk(one.root, "file")[0] == 1


def test_a_channel_speaks_the_dialect_of_its_connection(server: Server) -> None:
    with server.peer("socket-2021") as base:
        peers = [over_channel(base) for _ in range(2)]
        fd = peers[0].mkdirat(base.root, "dir").fd
        assert isinstance(peers[1], Peer2021)
        peers[1].rename_fd(fd, base.root, "moved")
        assert names_in(server.tree) == ["moved"]
        for peer in peers:
            peer.disconnect()


@pytest.mark.serve("--read-only")
def test_what_changes_something_is_erofs_where_nothing_may_be_changed(old: Peer2021, tree: Path) -> None:
    (tree / "file").touch()
    fd = old.walk_to("file")
    for call in (
        lambda: old.rename_fd(fd, old.root, "x"),
        lambda: old.unlinkat(old.root, "file"),
        lambda: old.mkdirat(old.root, "x"),
        lambda: old.setstat(fd, MODE, mode=0),
        lambda: old.openat(fd, os.O_RDWR),
    ):
        with fails(errno.EROFS):
            call()
