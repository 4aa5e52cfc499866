"""RenameAt of 2021 names a file by its own FD: whatever else goes on, that file moves, or none."""

import contextlib
import ctypes
import errno
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hosts import WAYS_2021, Server, fails
from looks import names_in

from gofer.conform.peer import over_channel
from gofer.conform.peer2021 import Peer2021
from gofer.server.fds import FDTable, MountPoint
from gofer.server.places import Places

EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(params=WAYS_2021)
def old(request: pytest.FixtureRequest, server: Server) -> Iterator[Peer2021]:
    with server.peer(request.param) as peer:
        assert isinstance(peer, Peer2021)
        yield peer


def test_a_rename_by_one_fd_is_followed_by_all_of_that_file(old: Peer2021, tree: Path) -> None:
    (tree / "a/sub").mkdir(parents=True)
    (tree / "b").mkdir()
    (tree / "a/sub/file").touch()
    first, again = (old.walk_to("a", "sub", "file") for _ in range(2))
    sub = old.walk_to("a", "sub")
    by_another_fd_of_its_directory = old.walked(old.walk_to("a", "sub"), "file")
    b = old.walk_to("b")
    old.rename_fd(first, b, "moved")
    for number, fd in enumerate((again, by_another_fd_of_its_directory, first)):
        old.rename_fd(fd, sub, f"file{number}")
        assert names_in(tree / "a/sub") == [f"file{number}"]
    old.rename_fd(sub, b, "deeper")
    for number, fd in enumerate((again, by_another_fd_of_its_directory, first)):
        old.rename_fd(fd, old.root, f"top{number}")
        assert names_in(tree) == ["a", "b", f"top{number}"]


def test_what_was_made_can_be_renamed_by_its_fd(old: Peer2021, tree: Path) -> None:
    made = [
        old.opencreateat(old.root, "1").inode.fd, old.mkdirat(old.root, "2").fd, old.mknodat(old.root, "3").fd,
        old.symlinkat(old.root, "4", "x").fd,
    ]  # fmt: skip
    made.append(old.linkat(old.root, made[0], "5").fd)
    for number, fd in enumerate(made):
        old.rename_fd(fd, made[1] if number != 1 else old.root, f"new{number}")
    assert names_in(tree) == ["new1"]
    assert names_in(tree / "new1") == ["new0", "new2", "new3", "new4"]


def test_a_directory_whose_fd_was_closed_is_still_known_as_a_place(old: Peer2021, tree: Path) -> None:
    (tree / "dir").mkdir()
    (tree / "dir/file").touch()
    _, (directory, file) = old.walk(old.root, "dir", "file")
    old.close(directory.fd)
    os.rename(tree / "dir", tree / "elsewhere")
    old.rename_fd(file.fd, old.root, "file")
    assert names_in(tree) == ["elsewhere", "file"]


def test_its_own_place_and_another_link_of_the_same_file_are_no_change(old: Peer2021, tree: Path) -> None:
    (tree / "a").touch()
    os.link(tree / "a", tree / "b")
    fd = old.walk_to("a")
    old.rename_fd(fd, old.root, "a")
    old.rename_fd(fd, old.root, "b")
    assert names_in(tree) == ["a", "b"]
    old.rename_fd(fd, old.root, "c")
    assert names_in(tree) == ["b", "c"]


def test_each_link_of_a_file_has_its_own_place(old: Peer2021, tree: Path) -> None:
    (tree / "a").touch()
    os.link(tree / "a", tree / "b")
    a, b = old.walk_to("a"), old.walk_to("b")
    old.rename_fd(a, old.root, "x")
    assert names_in(tree) == ["b", "x"]
    old.rename_fd(b, old.root, "y")
    assert names_in(tree) == ["x", "y"]


@pytest.mark.parametrize("how", ["renamed", "replaced", "removed", "exchanged"])
def test_what_is_no_longer_where_it_was_found_is_enoent_and_nothing_moves(old: Peer2021, tree: Path, how: str) -> None:
    (tree / "file").write_text("own")
    (tree / "other").write_text("other")
    fd = old.walk_to("file")
    if how == "renamed":
        os.rename(tree / "file", tree / "moved")
    elif how == "replaced":
        os.rename(tree / "other", tree / "file")
    elif how == "removed":
        os.unlink(tree / "file")
    else:
        exchange(tree / "file", tree / "other")
    before = {name: (tree / name).read_text() for name in names_in(tree)}
    with fails(errno.ENOENT):
        old.rename_fd(fd, old.root, "new")
    assert {name: (tree / name).read_text() for name in names_in(tree)} == before


def test_a_rename_that_the_target_forbids_leaves_everything(old: Peer2021, tree: Path) -> None:
    (tree / "dir/full").mkdir(parents=True)
    (tree / "full/x").mkdir(parents=True)
    (tree / "file").touch()
    directory, file = old.walk_to("dir"), old.walk_to("file")
    for fd, parent, name, number in (
        (directory, old.root, "full", errno.ENOTEMPTY),
        (directory, old.root, "file", errno.ENOTDIR),
        (file, old.root, "dir", errno.EISDIR),
        (directory, old.walk_to("dir", "full"), "x", errno.EINVAL),
        (file, directory, "n" * 256, errno.ENAMETOOLONG),
        (file, file, "x", errno.ENOTDIR),
    ):
        times = [os.stat(path).st_mtime_ns for path in (tree, tree / "dir", tree / "full", tree / "dir/full")]
        with fails(number):
            old.rename_fd(fd, parent, name)
        assert [os.stat(path).st_mtime_ns for path in (tree, tree / "dir", tree / "full", tree / "dir/full")] == times
    (tree / "parent/only").mkdir(parents=True)
    with fails(errno.ENOTEMPTY):
        old.rename_fd(old.walk_to("parent", "only"), old.root, "parent")
    assert names_in(tree) == ["dir", "file", "full", "parent"] and names_in(tree / "parent") == ["only"]
    old.rename_fd(file, directory, "file")
    assert names_in(tree / "dir") == ["file", "full"]


def test_what_is_above_what_is_told_before_what_else_forbids_a_rename(old: Peer2021, tree: Path) -> None:
    """As the kernel does, of which the same is asked here with paths."""
    (tree / "a/b/full/x").mkdir(parents=True)
    (tree / "a/b/file").touch()
    (tree / "c").mkdir()
    for source, target in (
        *(("a", "a/b/file"), ("a", "a/b/full"), ("a/b", "a/b/file"), ("a/b/full", "a/b/full/x")),
        *(("a/b/file", "a"), ("a/b/file", "a/b"), ("a/b/full", "a"), ("c", "a/b"), ("c", "a/b/file")),
    ):
        with pytest.raises(OSError) as wanted:
            os.rename(tree / source, tree / target)
        *way, name = target.split("/")
        with fails(wanted.value.errno or 0):
            old.rename_fd(old.walk_to(*source.split("/")), old.walk_to(*way) if way else old.root, name)


@pytest.mark.parametrize("seconds", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("transport", WAYS_2021)
def test_seconds_of_swaps_on_the_host_and_by_a_second_client_move_no_other_file(
    server: Server, transport: str, seconds: int
) -> None:
    """a, b and c change names all the time, on the host and over another connection; an old client renames what it has found."""
    tree, rng = server.tree, random.Random(5)
    for name in "abc":
        (tree / name).write_text(name)
    (tree / "to").mkdir()
    inodes = {os.stat(tree / name).st_ino for name in "abc"}
    moved = refused = 0
    with forked(lambda: swap(tree)), forked(lambda: swap_by_client(server)):
        with server.peer(transport) as peer:
            assert isinstance(peer, Peer2021)
            to = peer.walk_to("to")
            end = time.monotonic() + seconds
            while time.monotonic() < end or not (moved and refused):
                name = rng.choice("abc")
                found = peer.walk(peer.root, name)[1]
                if not found:
                    continue
                fd, own = found[0].fd, found[0].stat.ino
                try:
                    peer.rename_fd(fd, to, "moved")
                except FileNotFoundError:
                    refused += 1
                    assert names_in(tree / "to") == []
                else:
                    moved += 1
                    assert os.stat(tree / "to/moved").st_ino == own
                    peer.rename_fd(fd, peer.root, name)
                peer.close(fd)
                assert len(peer.walkstat(peer.root, "to")) == 1
    assert names_in(tree) == ["a", "b", "c", "to"]
    assert {os.stat(tree / name).st_ino for name in "abc"} == inodes
    assert {(tree / name).read_text() for name in "abc"} == set("abc")


def test_a_file_that_is_replaced_all_the_time_is_never_moved_for_another(server: Server) -> None:
    tree = server.tree
    (tree / "to").mkdir()
    moved = 0
    with forked(lambda: replace(tree)), server.peer("channel-2021") as peer:
        assert isinstance(peer, Peer2021)
        to = peer.walk_to("to")
        end = time.monotonic() + 1
        while time.monotonic() < end or not moved:
            for inode in peer.walk(peer.root, "a")[1]:
                with contextlib.suppress(FileNotFoundError):
                    peer.rename_fd(inode.fd, to, "moved")
                    assert os.stat(tree / "to/moved").st_ino == inode.stat.ino
                    moved += 1
                peer.close(inode.fd)
    # What could not go back, its name given to the next one meanwhile, is not lost.
    assert all(name == "moved" or name.startswith(".gofer-") for name in names_in(tree / "to"))


def test_renames_of_one_file_over_several_channels_agree_in_the_end(server: Server) -> None:
    (server.tree / "file").touch()
    with server.peer("socket-2021") as base:
        assert isinstance(base, Peer2021)
        fds = [base.walk_to("file") for _ in range(4)]
        other = over_channel(base)
        assert isinstance(other, Peer2021)
        with beside(lambda: [other.rename_fd(fds[0], base.root, f"other{i % 7}") for i in range(400)]):
            for i in range(400):
                base.rename_fd(fds[1], base.root, f"base{i % 7}")
        for number, fd in enumerate(fds):
            base.rename_fd(fd, base.root, f"end{number}")
            assert names_in(server.tree) == [f"end{number}"]
        other.disconnect()


# The table of places


def test_fdids_end_with_32_bits_and_never_begin_anew(server: Server) -> None:
    places = Places(first=2**32 - 2)
    assert [places.next_id(), places.next_id()] == [2**32 - 2, 2**32 - 1]
    for _ in range(3):
        with fails(errno.ENFILE):
            places.next_id()


def test_a_closed_fd_leaves_nothing_in_the_table() -> None:
    places, directory = Places(), MountPoint(-1, 0, -1)
    for fdid in range(1, 5):
        places.add(fdid, directory, b"where", b"name", b"file%d" % (fdid // 3))
    places.add(5, directory, b"where", b"stale", b"file0")
    places.move(places[1], directory, b"where", b"stale")  # onto the place of 5, which was wrong
    assert places[5] is places[1] is places[2] and places[3] is places[4] is not places[1]
    for fdid in range(1, 6):
        places.forget(fdid)
        places.forget(fdid)
    assert not len(places) and not places._known
    assert FDTable.__slots__.count("places") == 1 and not hasattr(FDTable(), "places"), "today's connections have none"


def exchange(one: Path, other: Path) -> None:
    if _libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def swap(tree: Path) -> None:
    for one, other in ("ab", "bc", "ca"):
        with contextlib.suppress(FileNotFoundError):
            exchange(tree / one, tree / other)


def swap_by_client(server: Server) -> None:
    with server.peer("channel") as peer:
        while True:
            for one, other in ("ac", "cb", "ba"):
                with contextlib.suppress(FileNotFoundError):
                    peer.renameat2(peer.root, one, peer.root, other, EXCHANGE)


def replace(tree: Path) -> None:
    (tree / "new").touch()
    os.rename(tree / "new", tree / "a")


@contextlib.contextmanager
def forked(work: Callable[[], None]) -> Iterator[None]:
    """work in a loop in a process of its own, until the body ends."""
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                work()
        finally:
            os._exit(1)
    try:
        yield
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "whoever swaps has given up"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


@contextlib.contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()
