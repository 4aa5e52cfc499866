"""The program's own client, in both dialects and over both transports: every message it has a method for."""

import errno
import os
import socket
import stat
from pathlib import Path

import pytest
from hosts import PATIENCE, Server, fails
from looks import names_in

from gofer import wire
from gofer.client.client import Client
from gofer.client.client2021 import Client2021

pytestmark = pytest.mark.serve("--host-uds", "all", "--xattrs", "all")
WAYS = pytest.mark.parametrize(
    ("kind", "channel"), [(kind, channel) for kind in (Client, Client2021) for channel in (False, True)]
)


@WAYS
def test_every_message_of_both_dialects(server: Server, tree: Path, kind: "type[Client]", channel: bool) -> None:
    with kind.connect(str(server.path), channel, PATIENCE) as client:
        every_message(client, tree)


def every_message(client: Client, tree: Path) -> None:
    root = client.root.fd
    assert client.root.stat.ino == os.stat(tree).st_ino
    inode, opened, host = client.opencreateat(root, b"file", os.O_RDWR, 0o640)
    os.close(host)
    assert client.pwrite(opened, b"contents", 3) == 8
    assert client.pread(opened, 100, 0) == b"\0\0\0contents"
    client.fallocate(opened, 0, 0, 4096)
    client.fsync(opened)
    client.flush(opened)
    assert client.setstat(inode.fd, 2, mode=0o600) == (0, 0)
    assert stat.S_IMODE(client.fstat(inode.fd).mode) == 0o600
    made = client.mkdirat(root, b"dir", 0o755)
    client.mknodat(made.fd, b"node", stat.S_IFREG | 0o644)
    link = client.symlinkat(made.fd, b"link", b"../file")
    assert client.readlinkat(link.fd) == b"../file"
    assert client.linkat(made.fd, inode.fd, b"hard").stat.ino == inode.stat.ino
    client.renameat(made.fd, b"node", root, b"moved")
    with fails(errno.ENOENT):
        client.renameat(made.fd, b"node", root, b"moved")
    assert names_in(tree) == ["dir", "file", "moved"]
    client.unlinkat(root, b"moved")
    assert client.walk(root, [b"dir", b"link", b"x"])[0] == wire.WALK_SYMLINK
    assert [found.ino for found in client.walkstat(root, [b"", b"dir"])] == [client.root.stat.ino, made.stat.ino]
    assert client.lookup("dir/hard").stat.ino == inode.stat.ino
    assert {entry.name for entry in client.listdir(made.fd)} == {b"hard", b"link"}
    assert client.fstatfs(root).namelen == 255
    client.fsetxattr(inode.fd, b"user.a", b"value")
    assert (client.fgetxattr(inode.fd, b"user.a"), client.flistxattr(inode.fd)) == (b"value", [b"user.a"])
    client.fremovexattr(inode.fd, b"user.a")
    with client.opened(inode.fd) as reader:
        assert client.pread(reader, 3, 3) == b"con"
    client.close_fds(opened, inode.fd)
    with fails(errno.EBADF):
        client.fstat(inode.fd)
    assert client.lost is None


@WAYS
def test_a_socket_of_the_host(server: Server, tree: Path, kind: "type[Client]", channel: bool) -> None:
    connect = kind.connect(str(server.path), channel, PATIENCE)
    with connect as client, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "sock"))
        listener.listen(1)
        with socket.socket(fileno=client.connect_socket(client.lookup("sock").fd, socket.SOCK_STREAM)) as ours:
            assert ours.getpeername()


def test_a_client_of_2021_renames_by_fd_and_mounts_what_it_names(server: Server, tree: Path) -> None:
    (tree / "dir/sub").mkdir(parents=True)
    with Client2021(server.connect(), path=b"/dir") as client:
        client.rename_fd(client.lookup("sub").fd, client.root.fd, b"moved")
        with fails(errno.EOPNOTSUPP):
            client.renameat2(client.root.fd, b"moved", client.root.fd, b"x", 0)
    assert names_in(tree / "dir") == ["moved"]
    with fails(errno.ENOENT):
        Client2021(server.connect(), path=b"/missing")
