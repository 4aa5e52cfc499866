"""UnlinkAt, RenameAt and RenameAt2."""

import errno
import os
from pathlib import Path
from typing import Any, Callable

import pytest
from hosts import Server, fails
from looks import BAD_NAMES, names_in
from peer import Peer

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
REMOVEDIR = 0x200
RENAMES: dict[str, Callable[..., None]] = {
    "RenameAt": Peer.renameat,
    "RenameAt2": lambda p, *names: p.renameat2(*names, 0),
}


@pytest.fixture(params=RENAMES)
def rename(request: pytest.FixtureRequest) -> Callable[..., None]:
    return RENAMES[request.param]


def test_unlink_removes_a_name_of_any_type_but_a_directory(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    os.symlink("file", tree / "link")
    os.mkfifo(tree / "fifo")
    for name in ("link", "fifo", "file"):
        peer.unlinkat(peer.root, name)
    assert names_in(tree) == []


def test_unlink_of_a_directory_needs_the_flag_and_the_flag_a_directory(peer: Peer, tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "file").touch()
    os.symlink("dir", tree / "link")
    with fails(errno.EISDIR):
        peer.unlinkat(peer.root, "dir")
    for name in ("file", "link"):
        with fails(errno.ENOTDIR):
            peer.unlinkat(peer.root, name, REMOVEDIR)
    peer.unlinkat(peer.root, "dir", REMOVEDIR)
    assert names_in(tree) == ["file", "link"]


def test_a_directory_that_is_not_empty_stays(peer: Peer, tree: Path) -> None:
    (tree / "dir/sub").mkdir(parents=True)
    with fails(errno.ENOTEMPTY):
        peer.unlinkat(peer.root, "dir", REMOVEDIR)


@pytest.mark.parametrize("flags", [1, 0x100, 0x201, 0x1000, 2**32 - 1])
def test_unlink_with_other_flags_is_einval(peer: Peer, tree: Path, flags: int) -> None:
    (tree / "file").touch()
    with fails(errno.EINVAL):
        peer.unlinkat(peer.root, "file", flags)
    assert names_in(tree) == ["file"]


def test_an_unlinked_file_keeps_working(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    control = peer.walk_to("file")
    opened = peer.openat(control, os.O_RDWR).fd
    peer.unlinkat(peer.root, "file")
    assert peer.pread(opened, 0, 5) == b"hello"
    assert peer.pwrite(opened, 5, b"!") == 1
    assert peer.fstat(control).size == 6


@pytest.mark.parametrize("name,number", BAD_NAMES)
def test_unlink_of_a_name_that_is_not_one_component_is_refused(server: Server, name: bytes, number: int) -> None:
    (server.tree / "a").mkdir()
    with server.peer() as peer:
        for flags in (0, REMOVEDIR):
            with fails(number):
                peer.unlinkat(peer.root, name, flags)
    assert names_in(server.tree) == ["a"]


def test_rename_moves_a_file_and_what_is_open_stays_open(peer: Peer, tree: Path, rename: Callable[..., None]) -> None:
    (tree / "file").write_bytes(b"hello")
    (tree / "dir").mkdir()
    fd = peer.walk_to("file")
    rename(peer, peer.root, "file", peer.walk_to("dir"), "moved")
    assert names_in(tree) == ["dir"] and (tree / "dir/moved").read_bytes() == b"hello"
    assert peer.fstat(fd).ino == os.stat(tree / "dir/moved").st_ino
    assert peer.pread(peer.openat(fd).fd, 0, 5) == b"hello"


def test_rename_replaces_what_has_the_new_name(peer: Peer, tree: Path, rename: Callable[..., None]) -> None:
    (tree / "file").write_bytes(b"new")
    (tree / "target").write_bytes(b"old")
    replaced = peer.walk_to("target")
    rename(peer, peer.root, "file", peer.root, "target")
    assert names_in(tree) == ["target"] and (tree / "target").read_bytes() == b"new"
    assert peer.fstat(replaced).nlink == 0


def test_rename_does_not_follow_symlinks(peer: Peer, tree: Path, rename: Callable[..., None]) -> None:
    (tree / "file").write_bytes(b"kept")
    os.symlink("file", tree / "link")
    (tree / "other").touch()
    rename(peer, peer.root, "other", peer.root, "link")
    assert (tree / "file").read_bytes() == b"kept" and not (tree / "link").is_symlink()


def test_rename_has_the_errors_of_the_kernel(peer: Peer, tree: Path, rename: Callable[..., None]) -> None:
    (tree / "dir/sub").mkdir(parents=True)
    (tree / "full/x").mkdir(parents=True)
    (tree / "file").touch()
    directory, file = peer.walk_to("dir"), peer.walk_to("file")
    opened = peer.openat(peer.root).fd
    cases: list[tuple[Any, ...]] = [
        (peer.root, "missing", peer.root, "new", errno.ENOENT),
        (peer.root, "file", peer.root, "dir", errno.EISDIR),
        (peer.root, "dir", peer.root, "file", errno.ENOTDIR),
        (peer.root, "dir", peer.root, "full", errno.ENOTEMPTY),
        (peer.root, "dir", directory, "inside", errno.EINVAL),
        (file, "x", peer.root, "y", errno.ENOTDIR),
        (peer.root, "file", file, "y", errno.ENOTDIR),
        (opened, "file", peer.root, "y", errno.EINVAL),
        (peer.root, "file", 777, "y", errno.EBADF),
        (777, "file", peer.root, "y", errno.EBADF),
    ]
    for *arguments, number in cases:
        with fails(number):
            rename(peer, *arguments)
    assert names_in(tree) == ["dir", "file", "full"]


def test_rename_onto_itself_is_nothing_where_it_exists(peer: Peer, tree: Path, rename: Callable[..., None]) -> None:
    (tree / "file").write_bytes(b"kept")
    rename(peer, peer.root, "file", peer.root, "file")
    assert (tree / "file").read_bytes() == b"kept"
    with fails(errno.ENOENT):
        rename(peer, peer.root, "missing", peer.root, "missing")


@pytest.mark.parametrize("name,number", BAD_NAMES)
def test_rename_refuses_a_name_that_is_not_one_component(server: Server, name: bytes, number: int) -> None:
    (server.tree / "a").mkdir()
    with server.peer() as peer:
        for call in RENAMES.values():
            with fails(number):
                call(peer, peer.root, name, peer.root, "b")
            with fails(number):
                call(peer, peer.root, "a", peer.root, name)
    assert names_in(server.tree) == ["a"]


def test_noreplace_keeps_what_is_there(peer: Peer, tree: Path) -> None:
    (tree / "a").touch()
    (tree / "b").touch()
    with fails(errno.EEXIST):
        peer.renameat2(peer.root, "a", peer.root, "b", NOREPLACE)
    peer.renameat2(peer.root, "a", peer.root, "c", NOREPLACE)
    assert names_in(tree) == ["b", "c"]


def test_exchange_swaps_two_names_of_any_type(peer: Peer, tree: Path) -> None:
    """2c1c4a551 (#7895): RENAME_EXCHANGE was refused."""
    (tree / "file").write_bytes(b"hello")
    (tree / "dir/sub").mkdir(parents=True)
    file, directory = peer.walk_to("file"), peer.walk_to("dir")
    peer.renameat2(peer.root, "file", peer.root, "dir", EXCHANGE)
    assert (tree / "dir").read_bytes() == b"hello" and names_in(tree / "file") == ["sub"]
    assert peer.walk(directory, "sub")[0] == 0 and peer.fstat(file).size == 5
    with fails(errno.ENOENT):
        peer.renameat2(peer.root, "file", peer.root, "missing", EXCHANGE)


def test_whiteout_leaves_one_behind_as_the_kernel_does(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    peer.renameat2(peer.root, "file", peer.root, "moved", WHITEOUT)
    left = os.lstat(tree / "file")
    assert left.st_rdev == 0 and left.st_mode & 0o170000 == 0o020000
    assert (tree / "moved").read_bytes() == b"hello"


@pytest.mark.parametrize("flags", [8, 0x10, 1 << 31, NOREPLACE | EXCHANGE, 2**32 - 1])
def test_rename_flags_that_linux_does_not_take_are_einval(peer: Peer, tree: Path, flags: int) -> None:
    (tree / "a").touch()
    (tree / "b").touch()
    with fails(errno.EINVAL):
        peer.renameat2(peer.root, "a", peer.root, "b", flags)
    assert names_in(tree) == ["a", "b"]
