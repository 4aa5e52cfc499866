"""What a gofer got wrong once: protocol and safety. The docstrings name the fix in gVisor's repository, or the advisory.

Lessons that a test elsewhere already holds are named in that test's docstring; test_lessons_all.py has the whole list.
"""

import ctypes
import errno
import fcntl
import os
import signal
import socket
import stat as modes
from pathlib import Path

import pytest
from codec import Mid
from conftest import Start
from hosts import PATIENCE, Server, fails, open_fds
from peer import Peer
from watch import opens_of

SECRET = b"outside of the tree"


def test_the_client_cannot_choose_what_is_mounted(peer: Peer, tree: Path) -> None:
    """3f42b2da9: the server fixes it at start."""
    for path in (b"/", b"/etc", b".."):
        with fails(errno.EIO):
            peer.call(Mid.MOUNT, len(path).to_bytes(4, "little") + path)
        with fails(errno.EIO):
            peer.call(Mid.MOUNT, len(path).to_bytes(2, "little") + path)
    assert peer.mount().root.stat.ino == os.stat(tree).st_ino


def test_a_walk_raced_with_a_symlink_never_leaves_the_tree(server: Server, spot: Path) -> None:
    """65a26689c, a7402ea5d, CVE-2016-9602: every component is opened relative, nofollow, and checked on the fd."""
    (spot / "file").write_bytes(SECRET)
    tree = server.tree
    (tree / "dir").mkdir()
    (tree / "dir/file").write_bytes(b"inside")
    inside = os.stat(tree / "dir/file").st_ino
    os.symlink(spot, tree / "swap")
    swapper = exchanging(tree / "dir", tree / "swap")
    found = {0: 0, 2: 0}
    try:
        with server.peer("channel") as peer:
            while min(found.values()) < 100:  # it is to be a race
                status, inodes = peer.walk(peer.root, "dir", "file")
                found[status] += 1
                if status == 0:
                    assert inodes[1].stat.ino == inside
                    opened = peer.openat(inodes[1].fd)
                    assert peer.pread(opened.fd, 0, 100) == b"inside"
                    peer.close(inodes[1].fd, opened.fd)
                    peer.opencreateat(inodes[0].fd, "new")
                    peer.unlinkat(inodes[0].fd, "new")
                else:
                    with fails(errno.ENOTDIR):
                        peer.opencreateat(inodes[0].fd, "new")
                peer.close(inodes[0].fd)
    finally:
        os.kill(swapper, signal.SIGKILL)
        os.waitpid(swapper, 0)
    assert os.listdir(spot) == ["file"] and (spot / "file").read_bytes() == SECRET


def exchanging(one: Path, other: Path) -> int:
    """Start a process that swaps two names until it is killed; -> its pid."""
    pid = os.fork()
    if pid == 0:
        libc, at_fdcwd, exchange = ctypes.CDLL(None), -100, 2
        paths = os.fsencode(one), os.fsencode(other)
        while True:
            libc.renameat2(at_fdcwd, paths[0], at_fdcwd, paths[1], exchange)
    return pid


ESCAPES = [
    "..", "../", "../..", "/..", "/", "//", "/etc/passwd", "../../../../../../etc/passwd", "./..", "..\\..", ".", "./",
    "a/..", "a/../..", "a/../../etc", "..%2f..", "%2e%2e/", "..;/", "\0", "..\0", "\0/../..", "a\0/../..", "/proc/self/root",
    "/proc/self/fd", "/dev/fd/0", "link/../..", "link/", "link/file", "\n/..", "..\n/", "/./..", "....//", "a//..",
]  # fmt: skip


@pytest.mark.parametrize("name", [e for e in ESCAPES if "/" in e or "\0" in e or e in (".", "..")])
def test_no_name_that_could_lead_elsewhere_is_taken(server: Server, name: str) -> None:
    """CVE-2023-37474, libkrun #329, CVE-2016-7116: the escape corpus, all of it refused."""
    (server.tree / "a").mkdir()
    os.symlink("/", server.tree / "link")
    with server.peer() as p:
        root = p.root
        file = p.opencreateat(root, "file").inode.fd
        for call in (
            lambda: p.walk(root, name), lambda: p.walk(root, "a", name), lambda: p.walkstat(root, name),
            lambda: p.walkstat(root, "", name), lambda: p.opencreateat(root, name), lambda: p.mkdirat(root, name),
            lambda: p.mknodat(root, name), lambda: p.symlinkat(root, name, "x"), lambda: p.linkat(root, file, name),
            lambda: p.unlinkat(root, name), lambda: p.unlinkat(root, name, 0x200),
            lambda: p.renameat(root, "a", root, name), lambda: p.renameat(root, name, root, "b"),
            lambda: p.renameat2(root, "a", root, name, 2), lambda: p.renameat2(root, name, root, "a", 2),
        ):  # fmt: skip
            with fails(errno.EINVAL):
                call()
    assert sorted(os.listdir(server.tree)) == ["a", "file", "link"]


@pytest.mark.parametrize("name", [e for e in ESCAPES if not ("/" in e or "\0" in e or e in (".", ".."))])
def test_what_only_looks_like_an_escape_is_an_ordinary_name(server: Server, name: str) -> None:
    """The other half of the corpus: a server that unescapes nothing need not refuse it."""
    with server.peer() as peer:
        peer.opencreateat(peer.root, name)
        assert os.listdir(server.tree) == [name]


def test_through_a_symlink_nothing_can_be_reached(peer: Peer, tree: Path, spot: Path) -> None:
    """CVE-2023-37474: a link to the outside is an inode like any other, and that is all."""
    (spot / "file").write_bytes(SECRET)
    os.symlink(spot, tree / "link")
    os.symlink(spot / "file", tree / "file")
    for name in ("link", "file"):
        fd = peer.walk_to(name)
        for call, number in (
            (lambda fd=fd: peer.openat(fd), errno.EINVAL),
            (lambda fd=fd: peer.walk(fd, "file"), errno.ENOTDIR),
            (lambda fd=fd: peer.opencreateat(fd, "new"), errno.ENOTDIR),
            (lambda fd=fd: peer.mkdirat(fd, "new"), errno.ENOTDIR),
            (lambda fd=fd: peer.unlinkat(fd, "file"), errno.ENOTDIR),
        ):
            with fails(number):
                call()
        assert peer.setstat(fd, 0x2, mode=0o777)[0] == 0x2
        peer.setstat(fd, 0x200, size=0)
    assert (spot / "file").read_bytes() == SECRET and os.stat(spot).st_mode & 0o7777 == 0o755


@pytest.mark.parametrize("kind", ["char", "fifo"])
def test_special_files_are_looked_at_but_never_opened(peer: Peer, tree: Path, kind: str, server: Server) -> None:
    """CVE-2020-35517, CVE-2023-2861, CVE-2026-96812 (573a9e73c), ea7cd7184: only open, connect and bind are gated.

    0eb861df5, 6fae8b623: the refusal is not silent: one warning names the option.
    """
    if kind == "char":
        os.mknod(tree / kind, modes.S_IFCHR | 0o666, os.makedev(1, 5))
    else:
        os.mkfifo(tree / kind)
    said = server.said()
    with opens_of(tree / kind) as opens:
        fd = peer.walk_to(kind)
        assert peer.walkstat(peer.root, kind)[0].ino == peer.fstat(fd).ino
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
            with fails(errno.EPERM):
                peer.openat(fd, flags)
        peer.setstat(fd, 0x2 | 0x8, mode=0o600, uid=5)
        peer.linkat(peer.root, fd, "second")
        assert opens.seen() == 0
    new = server.said()[len(said) :]
    assert new.count("--char-devices=open" if kind == "char" else "--host-fifo=open") == 1


@pytest.mark.serve("--char-devices", "open", "--host-fifo", "open", "--host-uds", "all", "--xattrs", "all")
def test_block_devices_are_not_served_at_all(peer: Peer, tree: Path) -> None:
    """c58e543f3: unsupported types were accepted on one of several paths; one check is called from all."""
    os.mknod(tree / "block", modes.S_IFBLK | 0o600, os.makedev(259, 4242))
    (tree / "dir").mkdir()
    for call in (
        lambda: peer.walk(peer.root, "block"),
        lambda: peer.walkstat(peer.root, "block"),
        lambda: peer.mknodat(peer.root, "new", mode=modes.S_IFBLK | 0o600, major=259, minor=4242),
    ):
        with fails(errno.EPERM):
            call()
    assert sorted(entry.name for entry in peer.listdir(peer.openat(peer.root).fd)) == [b"block", b"dir"]


def test_no_fd_is_ever_given_that_leads_out_of_the_tree(server: Server) -> None:
    """54a66a663, a8062eab8: `..` from a donated directory fd, or from the one on /proc/self/fd, reached the host."""
    (server.tree / "dir").mkdir()
    (server.tree / "file").touch()
    for transport in ("socket", "channel"):
        with server.peer(transport) as peer:
            peer.openat(peer.root, os.O_DIRECTORY)
            peer.openat(peer.walk_to("dir"))
            peer.openat(peer.walk_to("file"), os.O_RDWR)
            peer.opencreateat(peer.root, "new" + transport)
            peer.mount()
            for fd in peer.owned:
                kind = os.fstat(fd).st_mode
                assert modes.S_ISREG(kind), oct(kind)
                assert not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH


def test_fds_that_were_not_handed_over_do_not_stay_open(start: Start, spot: Path) -> None:
    """d5e8d33af (#10232): what the parent left open is closed."""
    ends = os.pipe()
    with open(spot / "leaked", "w") as leaked:
        numbers = (leaked.fileno(), *ends)
        server = start(pass_fds=numbers)
        held = open_fds(server.pid)
        assert str(spot / "leaked") not in held
        assert not [fd for fd in numbers if os.readlink(f"/proc/self/fd/{fd}") in held]
    for fd in ends:
        os.close(fd)


def test_every_fd_of_the_server_closes_on_exec(server: Server) -> None:
    """d5e8d33af (#10232): CLOEXEC on the rest."""
    (server.tree / "file").touch()
    with server.peer("channel") as peer:
        peer.openat(peer.walk_to("file"), os.O_RDWR)
        for entry in Path(f"/proc/{server.pid}/fdinfo").iterdir():
            if int(entry.name) > 2:
                flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
                assert flags & os.O_CLOEXEC, os.readlink(f"/proc/{server.pid}/fd/{entry.name}")


def test_a_donation_over_a_channel_whose_socket_is_full_fails_alone(server: Server) -> None:
    """dbfc591d9 and its kin: what cannot be donated is no reason to stop. The client here never takes its fds."""
    (server.tree / "file").touch()
    with server.peer("channel") as peer:
        fd = peer.walk_to("file")
        for _ in range(600):
            peer.transport.hand_over(  # type: ignore[union-attr]
                Mid.OPENAT.to_bytes(2, "little") + b"\0\0" + fd.to_bytes(8, "little") + bytes(8)
            )
            data = peer.transport.take_back()  # type: ignore[union-attr]
            opened = int.from_bytes(data[4:12], "little")
            peer.close(opened)
        assert modes.S_ISREG(peer.fstat(fd).mode)


def test_the_peer_is_checked_before_its_first_byte_is_served(start: Start) -> None:
    """CVE-2025-2713 (runsc): rights were there until too late. A user who is not allowed gets no answer at all."""
    server = start("--mode", "0666")
    os.chmod(server.place, 0o755)
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.setgroups([])
            os.setgid(54321)
            os.setuid(54321)
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(str(server.path))
            try:
                sock.sendall(b"\0\0\0\0\x01\0\0\0")
                status = len(sock.recv(1))
            except ConnectionError:
                status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with server.peer() as peer:
        assert peer.root == 1
