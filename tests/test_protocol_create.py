"""MkdirAt, MknodAt, SymlinkAt, LinkAt, and what all creating messages share."""

import errno
import os
import stat as modes
from pathlib import Path
from typing import Any, Callable

import pytest
from codec import Inode
from hosts import Server, fails
from looks import BAD_NAMES, assert_stat_is, names_in
from peer import Peer

Maker = Callable[..., Inode]
# message: (how to make a child of that name, its file type)
MAKERS: dict[str, tuple[Maker, int]] = {
    "OpenCreateAt": (lambda p, d, name, **k: p.opencreateat(d, name, **k).inode, modes.S_IFREG),
    "MkdirAt": (lambda p, d, name, **k: p.mkdirat(d, name, **k), modes.S_IFDIR),
    "MknodAt": (
        lambda p, d, name, mode=0o644, **k: p.mknodat(d, name, mode=modes.S_IFREG | mode, **k),
        modes.S_IFREG,
    ),
    "BindAt": (
        lambda p, d, name, mode=0o755, **k: p.bindat(d, name, mode=modes.S_IFSOCK | mode, **k).inode,
        modes.S_IFSOCK,
    ),
    "SymlinkAt": (lambda p, d, name, **k: p.symlinkat(d, name, "target", **k), modes.S_IFLNK),
}
WITH_MODE = [name for name in MAKERS if name != "SymlinkAt"]
pytestmark = pytest.mark.serve("--host-uds", "all")


@pytest.fixture(params=MAKERS)
def maker(request: pytest.FixtureRequest) -> tuple[Maker, int]:
    return MAKERS[request.param]


@pytest.fixture(params=WITH_MODE)
def make(request: pytest.FixtureRequest) -> Maker:
    return MAKERS[request.param][0]


def test_what_is_made_has_its_type_and_a_control_fd(peer: Peer, tree: Path, maker: tuple[Maker, int]) -> None:
    make, kind = maker
    inode = make(peer, peer.root, "new")
    assert modes.S_IFMT(inode.stat.mode) == kind
    assert_stat_is(inode.stat, tree / "new")
    assert_stat_is(peer.fstat(inode.fd), tree / "new")


def test_the_owner_is_set(peer: Peer, maker: tuple[Maker, int]) -> None:
    make, _ = maker
    stat = make(peer, peer.root, "both", uid=1234, gid=5678).stat
    assert (stat.uid, stat.gid) == (1234, 5678)
    stat = make(peer, peer.root, "user", uid=1234).stat
    assert (stat.uid, stat.gid) == (1234, os.getgid())
    stat = make(peer, peer.root, "group", gid=5678).stat
    assert (stat.uid, stat.gid) == (os.getuid(), 5678)


@pytest.mark.parametrize("mode", [0, 0o777, 0o666, 0o1777, 0o4755, 0o2755, 0o6711])
def test_the_mode_is_exactly_what_was_asked_for(peer: Peer, tree: Path, make: Maker, mode: int) -> None:
    inode = make(peer, peer.root, "plain", mode=mode)
    assert modes.S_IMODE(inode.stat.mode) == mode
    inode = make(peer, peer.root, "owned", mode=mode, uid=1234, gid=5678)
    assert modes.S_IMODE(inode.stat.mode) == mode
    assert_stat_is(inode.stat, tree / "owned")


def test_what_exists_is_not_made_again(peer: Peer, tree: Path, maker: tuple[Maker, int]) -> None:
    make, _ = maker
    (tree / "file").write_bytes(b"kept")
    os.symlink("missing", tree / "dangling")
    before = os.lstat(tree / "file")
    for name in ("file", "dangling"):
        with pytest.raises(OSError) as caught:
            make(peer, peer.root, name, uid=1234, gid=5678)
        assert caught.value.errno in (errno.EEXIST, errno.EADDRINUSE)
    assert names_in(tree) == ["dangling", "file"]
    assert os.lstat(tree / "file") == before


@pytest.mark.parametrize("name,number", BAD_NAMES)
def test_a_name_that_is_not_one_component_is_refused(
    server: Server, maker: tuple[Maker, int], name: bytes, number: int
) -> None:
    make, _ = maker
    with server.peer() as peer:
        with fails(number):
            make(peer, peer.root, name)
    assert names_in(server.tree) == []


def test_nothing_is_made_below_a_file(peer: Peer, tree: Path, maker: tuple[Maker, int]) -> None:
    make, _ = maker
    (tree / "file").touch()
    (tree / "dir").mkdir()
    os.symlink("dir", tree / "link")
    opened = peer.openat(peer.root).fd
    for fd, number in (
        (peer.walk_to("file"), errno.ENOTDIR),
        (peer.walk_to("link"), errno.ENOTDIR),
        (opened, errno.EINVAL),
        (777, errno.EBADF),
    ):
        with fails(number):
            make(peer, fd, "new")
    assert names_in(tree / "dir") == []


def test_nothing_is_made_in_a_removed_directory(peer: Peer, tree: Path, maker: tuple[Maker, int]) -> None:
    make, _ = maker
    (tree / "dir").mkdir()
    fd = peer.walk_to("dir")
    (tree / "dir").rmdir()
    with pytest.raises(OSError) as caught:
        make(peer, fd, "new")
    assert caught.value.errno in (errno.ENOENT, errno.EINVAL)


def test_a_made_directory_can_be_worked_in_at_once(peer: Peer, tree: Path) -> None:
    fd = peer.mkdirat(peer.root, "dir", mode=0o700).fd
    peer.opencreateat(fd, "file")
    assert names_in(tree / "dir") == ["file"]


def test_mknod_makes_the_overlay_whiteout(peer: Peer, tree: Path) -> None:
    """17294348e: overlay whiteouts could not be made."""
    inode = peer.mknodat(peer.root, "whiteout", mode=modes.S_IFCHR | 0o600, major=0, minor=0)
    assert modes.S_ISCHR(inode.stat.mode) and inode.stat.rdev == (0, 0)
    assert_stat_is(inode.stat, tree / "whiteout")


@pytest.mark.parametrize(
    "kind,device",
    [
        (modes.S_IFCHR, (1, 3)), (modes.S_IFCHR, (0, 1)), (modes.S_IFBLK, (0, 0)), (modes.S_IFBLK, (8, 0)),
        (modes.S_IFIFO, (0, 0)), (modes.S_IFSOCK, (0, 0)), (modes.S_IFDIR, (0, 0)), (modes.S_IFLNK, (0, 0)),
        (0o150000, (0, 0)), (modes.S_IFCHR, (2**32 - 1, 2**32 - 1)), (modes.S_IFCHR, (2**12, 2**20)),
    ],
)  # fmt: skip
def test_mknod_makes_nothing_else(peer: Peer, tree: Path, kind: int, device: tuple[int, int]) -> None:
    with fails(errno.EPERM):
        peer.mknodat(peer.root, "node", mode=kind | 0o600, major=device[0], minor=device[1])
    assert names_in(tree) == []


@pytest.mark.parametrize("target", [b"x", b"/etc/passwd", b"../..", b"t" * 4095, bytes(set(range(1, 256)))])
def test_symlink_targets_are_any_bytes(peer: Peer, tree: Path, target: bytes) -> None:
    inode = peer.symlinkat(peer.root, "link", target)
    assert os.readlink(os.fsencode(tree / "link")) == target
    assert inode.stat.size == len(target)
    assert peer.readlinkat(inode.fd) == target


@pytest.mark.parametrize(
    "target,number", [(b"", errno.ENOENT), (b"a\0b", errno.EINVAL), (b"t" * 4096, errno.ENAMETOOLONG)]
)
def test_a_symlink_target_that_linux_refuses_is_refused(peer: Peer, tree: Path, target: bytes, number: int) -> None:
    with fails(number):
        peer.symlinkat(peer.root, "link", target)
    assert names_in(tree) == []


@pytest.mark.parametrize("name", ["file", "fifo", "link"])
def test_link_gives_a_file_a_second_name(peer: Peer, tree: Path, name: str) -> None:
    (tree / "file").write_bytes(b"hello")
    (tree / "dir").mkdir()
    os.mkfifo(tree / "fifo")
    os.symlink("file", tree / "link")
    inode = peer.linkat(peer.walk_to("dir"), peer.walk_to(name), "hard")
    assert_stat_is(inode.stat, tree / "dir/hard")
    assert os.path.samestat(os.lstat(tree / name), os.lstat(tree / "dir/hard"))
    assert inode.stat.nlink == 2


def test_link_of_a_directory_is_eperm(peer: Peer, tree: Path) -> None:
    (tree / "dir").mkdir()
    with fails(errno.EPERM):
        peer.linkat(peer.root, peer.walk_to("dir"), "hard")
    assert names_in(tree) == ["dir"]


def test_link_onto_what_exists_is_eexist(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    (tree / "other").touch()
    with fails(errno.EEXIST):
        peer.linkat(peer.root, peer.walk_to("file"), "other")


@pytest.mark.parametrize("name,number", BAD_NAMES)
def test_link_to_a_name_that_is_not_one_component_is_refused(server: Server, name: bytes, number: int) -> None:
    (server.tree / "file").touch()
    with server.peer() as peer:
        fd = peer.walk_to("file")
        with fails(number):
            peer.linkat(peer.root, fd, name)
    assert names_in(server.tree) == ["file"]


def test_link_needs_a_directory_and_a_control_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    control = peer.walk_to("file")
    opened = peer.openat(control).fd
    cases: list[tuple[Any, Any, int]] = [
        (control, control, errno.ENOTDIR),
        (peer.root, opened, errno.EINVAL),
        (peer.root, 777, errno.EBADF),
        (777, control, errno.EBADF),
    ]
    for directory, target, number in cases:
        with fails(number):
            peer.linkat(directory, target, "hard")


def test_a_file_without_a_name_left_gets_no_new_one(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    fd = peer.walk_to("file")
    (tree / "file").unlink()
    with fails(errno.ENOENT):
        peer.linkat(peer.root, fd, "again")
