"""Paths in a served tree: symbolic links are followed by the client, and never out of the tree."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import PATIENCE, Server, fails, wait_until

from gofer.client.address import parse
from gofer.client.transport import ChannelTransport, SocketTransport
from gofer.client.tree import Tree, served


@contextlib.contextmanager
def tree_of(server: Server) -> Iterator[Tree]:
    with served(parse(str(server.path)), PATIENCE) as tree:
        yield tree


def fill(tree: Path) -> None:
    """Directories, links of all kinds, and nothing that leads out on the host but by `out` and `up`."""
    (tree / "d/e/f").mkdir(parents=True)
    (tree / "file").write_bytes(b"top")
    (tree / "d/file").write_bytes(b"inner")
    links = {
        "l": "d", "ll": "l", "abs": "/d/e", "d/up": "..", "d/e/upfile": "../file", "lfile": "file", "dangling": "none/x",
        "loop1": "loop2", "loop2": "loop1", "self": "self/x", "out": "/../../d/file", "up": "../../../file",
        "slash": "d/", "fileslash": "file/", "d/e/root": "/", "dotted": "./d/./../l/e/../file",
    }  # fmt: skip
    for name, target in links.items():
        os.symlink(target, tree / name)
    for number in range(41):
        os.symlink(f"chain{number + 1}" if number < 40 else "file", tree / f"chain{number}")


# path: the file it means, relative to the tree; or the errno
FOLLOWED = {
    b"": "", b"/": "", b".": "", b"//": "", b"..": "", b"/../..": "", b"d": "d", b"/d/": "d", b"d//e/./f/": "d/e/f",
    b"d/e/..": "d", b"d/e/../../../../d": "d", b"l": "d", b"l/": "d", b"ll/e": "d/e", b"ll/e/..": "d", b"abs/f": "d/e/f",
    b"abs/../file": "d/file", b"d/up/file": "file", b"d/up/d/up/file": "file", b"l/e/upfile": "d/file", b"lfile": "file",
    b"out": "d/file", b"up": "file", b"slash": "d", b"d/e/root/lfile": "file", b"dotted": "d/file", b"chain1": "file",
    b"dangling": errno.ENOENT, b"dangling/..": errno.ENOENT, b"none": errno.ENOENT, b"none/..": errno.ENOENT,
    b"d/none/x": errno.ENOENT, b"loop1": errno.ELOOP, b"loop1/x": errno.ELOOP, b"self": errno.ELOOP,
    b"chain0": errno.ELOOP, b"file/": errno.ENOTDIR, b"file/.": errno.ENOTDIR, b"file/..": errno.ENOTDIR,
    b"file/x": errno.ENOTDIR, b"lfile/": errno.ENOTDIR, b"lfile/x": errno.ENOTDIR, b"fileslash": errno.ENOTDIR,
    b"n" * 256: errno.ENAMETOOLONG, b"d/a\0b": errno.EINVAL,
}  # fmt: skip


def test_a_path_means_what_it_would_to_a_process_whose_root_is_the_tree(server: Server) -> None:
    fill(server.tree)
    with tree_of(server) as tree:
        for path, want in FOLLOWED.items():
            if isinstance(want, int):
                with fails(want):
                    tree.resolve(path)
            else:
                node = tree.resolve(path)
                assert node.stat.ino == os.lstat(server.tree / want).st_ino, path
                assert tree.client.fstat(node.fd).ino == node.stat.ino  # the FD is there, and of the same file
                tree.drop(node.fd)


def test_the_last_link_is_followed_where_one_asks_for_that(server: Server) -> None:
    fill(server.tree)
    with tree_of(server) as tree:
        for path, want in ((b"l", "l"), (b"d/up", "d/up"), (b"l/up", "d/up"), (b"loop1", "loop1"), (b"dangling", "dangling")):
            node = tree.resolve(path, follow=False)
            assert stat.S_ISLNK(node.stat.mode) and node.stat.ino == os.lstat(server.tree / want).st_ino
            assert os.fsdecode(tree.target(node)) == os.readlink(server.tree / want)
        assert tree.resolve(b"l/", follow=False).stat.ino == os.stat(server.tree / "d").st_ino


def test_a_parent_is_a_directory_and_the_name_one_component(server: Server) -> None:
    fill(server.tree)
    with tree_of(server) as tree:
        for path, directory, last in ((b"new", "", b"new"), (b"/l/new//", "d", b"new"), (b"d/e/../l", "d", b"l")):
            node, name = tree.parent(path)
            assert (node.stat.ino, name) == (os.stat(server.tree / directory).st_ino, last)
        for path, code in (
            (b"", errno.EINVAL), (b"/", errno.EINVAL), (b"d/..", errno.EINVAL), (b"d/.", errno.EINVAL),
            (b"file/x", errno.ENOTDIR), (b"none/x", errno.ENOENT),
        ):  # fmt: skip
            with fails(code):
                tree.parent(path)


def test_a_path_of_hundreds_of_components_is_walked(server: Server) -> None:
    deep = server.tree
    fd = os.open(deep, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("deep", dir_fd=fd)
        below = os.open("deep", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    ino = os.fstat(fd).st_ino
    os.close(fd)
    with tree_of(server) as tree:
        assert tree.resolve(b"deep/" * 400).stat.ino == ino
        assert tree.resolve(b"deep/" * 300 + b"../" * 150 + b"deep/" * 250).stat.ino == ino


def test_what_is_dropped_is_closed_at_the_server(server: Server) -> None:
    """However many paths are followed, and however they end."""
    fill(server.tree)
    with tree_of(server) as tree:
        before = len(server.open_fds())
        for _ in range(30):
            for path in FOLLOWED:
                with contextlib.suppress(OSError):
                    tree.drop(tree.resolve(path).fd)
            for path in (b"file/x", b"d/e/f/new"):
                with contextlib.suppress(OSError):
                    tree.drop(tree.parent(path)[0].fd)
            list(tree.entries(tree.root.fd))
        tree.flush()
        wait_until(lambda: len(server.open_fds()) == before, lambda: str(server.open_fds()))
        assert tree.client.fstat(tree.root.fd).ino == os.stat(server.tree).st_ino  # the root never goes


def test_a_directory_comes_whole_whatever_its_size(server: Server) -> None:
    names = {b"%05d" % number + b"x" * 200 for number in range(3000)} | {b"-n", b"a\nb", b"\xff\xfe", b"'\"", b"n" * 255}
    for name in names:
        os.close(os.open(os.path.join(os.fsencode(server.tree), name), os.O_CREAT))
    with tree_of(server) as tree:
        found = [entry.name for entry in tree.entries(tree.root.fd)]
        assert len(found) == len(names) and set(found) == names


def test_a_listing_that_is_broken_off_leaves_no_fd(server: Server) -> None:
    for number in range(100):
        (server.tree / str(number)).touch()
    with tree_of(server) as tree:
        before = len(server.open_fds())
        for _ in range(100):
            next(tree.entries(tree.root.fd))
        tree.flush()
        wait_until(lambda: len(server.open_fds()) == before, lambda: str(server.open_fds()))


@pytest.mark.parametrize("options", [("--channels=0",), ()])
def test_a_server_without_channels_is_asked_over_its_socket(start: Start, options: "tuple[str, ...]") -> None:
    server = start(*options)
    (server.tree / "file").touch()
    with tree_of(server) as tree:
        kind = SocketTransport if options else ChannelTransport
        assert isinstance(tree.client.transport, kind)
        assert [entry.name for entry in tree.entries(tree.root.fd)] == [b"file"]


def test_a_file_that_is_served_alone_is_its_root(spot: Path, start: Start) -> None:
    (spot / "file").write_bytes(b"alone")
    server = start(tree=spot / "file")
    with tree_of(server) as tree:
        assert stat.S_ISREG(tree.resolve(b"").stat.mode) and stat.S_ISREG(tree.resolve(b"/").stat.mode)
        with fails(errno.ENOTDIR):
            tree.resolve(b"x")
