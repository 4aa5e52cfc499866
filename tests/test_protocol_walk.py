"""Mount, Walk, WalkStat and FStat."""

import errno
import os
import socket
import stat as modes
import struct
from pathlib import Path

import pytest
from codec import Mid, string, strings
from hosts import Server, fails
from looks import BAD_NAMES, assert_stat_is
from peer import Peer


def plant(tree: Path) -> None:
    """A tree with one of everything that may be walked."""
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "dir/sub/file").write_bytes(b"deep")
    (tree / "file").write_bytes(b"hello")
    os.symlink("dir", tree / "link")
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "char", modes.S_IFCHR | 0o600, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tree / "sock"))


WALKABLE = ["dir", "file", "link", "fifo", "char", "sock"]


def test_mount_tells_the_root_the_largest_message_and_every_message_there_is(peer: Peer, tree: Path) -> None:
    mounted = peer.mount()
    assert_stat_is(mounted.root.stat, tree)
    assert mounted.max_message_size == 2 * 1024 * 1024 - 4096
    unoffered = Mid.ERROR, Mid.FLUSH, Mid.DIRSTAT  # Flush would only cost a call, DirStat is gofer's own
    assert mounted.supported == [mid for mid in Mid if mid not in unoffered]
    assert mounted.donated == []


def test_mount_again_makes_another_root_and_leaves_the_first(peer: Peer) -> None:
    first = peer.root
    second = peer.mount().root.fd
    assert first != second
    peer.close(second)
    assert modes.S_ISDIR(peer.fstat(first).mode)


def test_fd_ids_count_up_from_one_and_are_not_used_again(server: Server) -> None:
    (server.tree / "file").touch()
    with server.peer() as peer:
        assert peer.root == 1
        ids = []
        for _ in range(5):
            ids.append(peer.walk_to("file"))
            peer.close(ids[-1])
        assert ids == sorted(set(ids)) and ids[0] > 1


@pytest.mark.parametrize("name", WALKABLE)
def test_walk_finds_a_child_of_every_type_and_tells_its_stat(peer: Peer, tree: Path, name: str) -> None:
    plant(tree)
    status, (inode,) = peer.walk(peer.root, name)
    assert status == 0
    assert_stat_is(inode.stat, tree / name)
    assert_stat_is(peer.fstat(inode.fd), tree / name)


def test_walk_several_components_returns_an_inode_for_each(peer: Peer, tree: Path) -> None:
    plant(tree)
    status, inodes = peer.walk(peer.root, "dir", "sub", "file")
    assert status == 0
    for inode, path in zip(inodes, ("dir", "dir/sub", "dir/sub/file")):
        assert_stat_is(inode.stat, tree / path)
    assert len({inode.fd for inode in inodes}) == 3


def test_walk_of_nothing_succeeds_with_nothing(peer: Peer) -> None:
    assert peer.walk(peer.root) == (0, [])


def test_walk_stops_with_status_one_where_a_component_is_missing(peer: Peer, tree: Path) -> None:
    plant(tree)
    status, inodes = peer.walk(peer.root, "dir", "missing", "file")
    assert (status, len(inodes)) == (1, 1)
    assert_stat_is(inodes[0].stat, tree / "dir")
    assert peer.walk(peer.root, "missing") == (1, [])


def test_walk_stops_with_status_two_after_a_symlink(peer: Peer, tree: Path) -> None:
    plant(tree)
    status, inodes = peer.walk(peer.root, "link", "sub", "file")
    assert (status, len(inodes)) == (2, 1)
    assert_stat_is(inodes[0].stat, tree / "link")


def test_walk_to_a_symlink_as_the_last_component_is_complete(peer: Peer, tree: Path) -> None:
    plant(tree)
    status, (inode,) = peer.walk(peer.root, "link")
    assert status == 0 and modes.S_ISLNK(inode.stat.mode)


@pytest.mark.parametrize("name", ["file", "fifo", "char", "sock", "link"])
def test_walk_from_what_is_not_a_directory_is_enotdir(peer: Peer, tree: Path, name: str) -> None:
    plant(tree)
    fd = peer.walk_to(name)
    with fails(errno.ENOTDIR):
        peer.walk(fd, "x")
    with fails(errno.ENOTDIR):
        peer.walk(fd)


@pytest.mark.parametrize("name", ["file", "fifo", "sock"])
def test_walk_through_what_is_not_a_directory_is_enotdir_and_keeps_no_fd(peer: Peer, tree: Path, name: str) -> None:
    plant(tree)
    with fails(errno.ENOTDIR):
        peer.walk(peer.root, name, "x")
    before = peer.walk_to("dir")
    with fails(errno.EBADF):
        peer.fstat(before - 1)


@pytest.mark.parametrize("name,number", BAD_NAMES)
def test_walk_refuses_a_name_that_is_not_one_component(peer: Peer, tree: Path, name: bytes, number: int) -> None:
    plant(tree)
    for path in ([name], ["dir", name], ["dir", name, "file"]):
        with fails(number):
            peer.walk(peer.root, *path)
    if name:
        with fails(number):
            peer.walkstat(peer.root, name)
    with fails(number):
        peer.walkstat(peer.root, "dir", name)


def test_names_may_be_any_bytes_but_nul_and_slash(peer: Peer, tree: Path) -> None:
    name = bytes(set(range(1, 256)) - {0x2F})
    with open(os.path.join(os.fsencode(tree), name), "w"):
        pass
    status, (inode,) = peer.walk(peer.root, name)
    assert status == 0 and modes.S_ISREG(inode.stat.mode)
    (tree / ("n" * 255)).touch()
    assert peer.walk(peer.root, "n" * 255)[0] == 0


def test_walk_of_more_than_fits_one_reply_is_eio(peer: Peer) -> None:
    """846f4055e: replies were bounded by 4 GiB."""
    with fails(errno.EIO):
        peer.walk(peer.root, *["d"] * 13800)  # 13,800 inodes of 152 bytes


def test_a_removed_directory_has_no_children(peer: Peer, tree: Path) -> None:
    plant(tree)
    fd = peer.walk_to("dir", "sub")
    (tree / "dir/sub/file").unlink()
    (tree / "dir/sub").rmdir()
    assert peer.walk(fd, "file") == (1, [])
    assert peer.fstat(fd).nlink == 0


def test_walkstat_tells_every_component_without_making_fds(peer: Peer, tree: Path) -> None:
    plant(tree)
    before = peer.walk_to("file")
    stats = peer.walkstat(peer.root, "dir", "sub", "file")
    for stat, path in zip(stats, ("dir", "dir/sub", "dir/sub/file")):
        assert_stat_is(stat, tree / path)
    assert len(stats) == 3
    assert peer.walk_to("file") == before + 1


def test_walkstat_with_a_leading_empty_name_also_tells_the_start(peer: Peer, tree: Path) -> None:
    plant(tree)
    root, directory = peer.walkstat(peer.root, "", "dir")
    assert_stat_is(root, tree)
    assert_stat_is(directory, tree / "dir")


@pytest.mark.parametrize("name", WALKABLE)
def test_walkstat_of_the_empty_name_alone_works_on_any_type(peer: Peer, tree: Path, name: str) -> None:
    plant(tree)
    fd = peer.walk_to(name)
    (stat,) = peer.walkstat(fd, "")
    assert_stat_is(stat, tree / name)


def test_walkstat_below_what_is_not_a_directory_is_enotdir(peer: Peer, tree: Path) -> None:
    plant(tree)
    for name in ("file", "link"):
        fd = peer.walk_to(name)
        for path in (["x"], ["", "x"]):
            with fails(errno.ENOTDIR):
                peer.walkstat(fd, *path)
    with fails(errno.ENOTDIR):
        peer.walkstat(peer.root, "file", "x")


def test_walkstat_ends_at_a_missing_component_and_at_a_symlink(peer: Peer, tree: Path) -> None:
    plant(tree)
    assert len(peer.walkstat(peer.root, "dir", "missing", "x")) == 1
    (stat,) = peer.walkstat(peer.root, "link", "sub")
    assert_stat_is(stat, tree / "link")


def test_walkstat_of_nothing_returns_nothing(peer: Peer) -> None:
    assert peer.walkstat(peer.root) == []


def test_walkstat_of_more_than_fits_one_reply_is_eio(peer: Peer) -> None:
    with fails(errno.EIO):
        peer.walkstat(peer.root, *["d"] * 14600)


@pytest.mark.parametrize("mid", [Mid.WALK, Mid.WALKSTAT])
def test_a_path_that_claims_more_names_than_it_has_is_eio(peer: Peer, mid: Mid) -> None:
    for count, rest in ((2, string("a")), (0xFFFF, b""), (1, b"\xff\xff"), (0, string("a"))):
        with fails(errno.EIO):
            peer.call(mid, struct.pack("<QH", peer.root, count) + rest)


def test_fstat_works_on_open_fds_and_on_unlinked_files(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    control = peer.walk_to("file")
    opened = peer.openat(control).fd
    assert_stat_is(peer.fstat(opened), tree / "file")
    (tree / "file").unlink()
    assert peer.fstat(opened).nlink == peer.fstat(control).nlink == 0
    assert peer.fstat(control).size == 5


def test_the_mask_has_a_birth_time_where_the_file_system_has_one(peer: Peer, tree: Path) -> None:
    """4c569980d: there was none; and the mask must not claim what is not there."""
    (tree / "file").touch()
    stat = peer.fstat(peer.walk_to("file"))
    if stat.mask & 0x800:
        assert 0 < stat.btime[0] <= stat.ctime[0]
    else:
        assert stat.btime == (0, 0)


def test_an_fd_of_another_connection_is_unknown(server: Server) -> None:
    (server.tree / "file").touch()
    with server.peer() as one, server.peer() as other:
        fd = one.walk_to("file")
        with fails(errno.EBADF):
            other.fstat(fd)
        assert modes.S_ISREG(one.fstat(fd).mode)


def test_walk_follows_a_rename_of_the_directory_it_starts_from(peer: Peer, tree: Path) -> None:
    plant(tree)
    fd = peer.walk_to("dir")
    (tree / "dir").rename(tree / "moved")
    assert peer.walk(fd, "sub")[0] == 0
    assert peer.call(Mid.WALK, struct.pack("<Q", fd) + strings(["sub"])).payload[0] == 0
