"""OpenAt, OpenCreateAt and Close, and the host fds they donate."""

import errno
import fcntl
import os
import stat as modes
from pathlib import Path

import pytest
from hosts import Server, fails
from looks import assert_stat_is, names_in
from peer import Peer

WRITING = [os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC]


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_a_regular_file_opens_and_donates_its_host_fd(peer: Peer, tree: Path, access: int) -> None:
    (tree / "file").write_bytes(b"hello")
    opened = peer.openat(peer.walk_to("file"), access)
    (donated,) = opened.donated
    assert os.path.samestat(os.fstat(donated), os.stat(tree / "file"))
    flags = fcntl.fcntl(donated, fcntl.F_GETFL)
    assert flags & os.O_ACCMODE == access
    assert flags & os.O_NONBLOCK
    assert_stat_is(peer.fstat(opened.fd), tree / "file")


def test_the_donated_fd_stays_when_the_open_fd_is_closed(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    opened = peer.openat(peer.walk_to("file"))
    peer.close(opened.fd)
    assert os.pread(opened.donated[0], 10, 0) == b"hello"


@pytest.mark.serve("--donate", "no")
def test_without_donation_no_regular_file_is_donated(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    opened = peer.openat(peer.walk_to("file"))
    assert opened.donated == []
    assert peer.pread(opened.fd, 0, 10) == b"hello"
    assert peer.opencreateat(peer.root, "new").donated == []


def test_only_access_mode_and_truncation_are_taken_from_the_flags(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = peer.walk_to("file")
    others = (
        os.O_APPEND
        | os.O_DIRECT
        | os.O_SYNC
        | os.O_CREAT
        | os.O_EXCL
        | os.O_DIRECTORY
        | os.O_PATH
        | os.O_NOCTTY
        | 1 << 31
    )
    (donated,) = peer.openat(fd, os.O_RDWR | others).donated
    assert fcntl.fcntl(donated, fcntl.F_GETFL) & ~(os.O_NONBLOCK | 0o100000) == os.O_RDWR
    assert (tree / "file").read_bytes() == b"hello"


def test_truncation_empties_the_file(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    peer.openat(peer.walk_to("file"), os.O_WRONLY | os.O_TRUNC)
    assert (tree / "file").read_bytes() == b""


def test_a_directory_opens_for_reading_only_and_is_never_donated(peer: Peer, tree: Path) -> None:
    (tree / "dir").mkdir()
    fd = peer.walk_to("dir")
    assert peer.openat(fd, os.O_RDONLY | os.O_DIRECTORY).donated == []
    for flags in WRITING:
        with fails(errno.EISDIR):
            peer.openat(fd, flags)


def test_a_symlink_does_not_open(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    os.symlink("file", tree / "link")
    fd = peer.walk_to("link")
    with fails(errno.EINVAL):
        peer.openat(fd)


def test_an_access_mode_of_three_opens_nothing(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    fd = peer.walk_to("file")
    with fails(errno.EINVAL):
        peer.openat(fd, 3)


def test_open_needs_a_control_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    opened = peer.openat(peer.walk_to("file"))
    with fails(errno.EINVAL):
        peer.openat(opened.fd)
    for unknown in (0, 9999, 2**64 - 1):
        with fails(errno.EBADF):
            peer.openat(unknown)


def test_a_file_opens_after_it_was_unlinked(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    fd = peer.walk_to("file")
    (tree / "file").unlink()
    assert peer.pread(peer.openat(fd, os.O_RDWR).fd, 0, 10) == b"hello"


@pytest.mark.serve("--host-fifo", "open")
def test_a_permitted_fifo_opens_without_blocking_and_is_donated(peer: Peer, tree: Path) -> None:
    """38d2b048f, 22a0b4acb: FIFOs and devices block: an open donates an fd, or fails."""
    os.mkfifo(tree / "fifo")
    fd = peer.walk_to("fifo")
    with fails(errno.ENXIO):
        peer.openat(fd, os.O_WRONLY)  # nobody reads
    (reader,) = peer.openat(fd, os.O_RDONLY).donated
    (writer,) = peer.openat(fd, os.O_WRONLY).donated
    os.write(writer, b"through")
    assert os.read(reader, 100) == b"through"
    assert fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_NONBLOCK


@pytest.mark.serve("--char-devices", "open")
def test_a_permitted_character_device_opens_and_is_donated(peer: Peer, tree: Path) -> None:
    os.mknod(tree / "null", modes.S_IFCHR | 0o666, os.makedev(1, 3))
    (donated,) = peer.openat(peer.walk_to("null"), os.O_RDWR).donated
    assert os.write(donated, b"gone") == 4 and os.read(donated, 1) == b""


@pytest.mark.serve("--donate", "no", "--host-fifo", "open", "--char-devices", "open")
def test_fifos_and_devices_that_cannot_be_donated_do_not_open(peer: Peer, tree: Path) -> None:
    os.mkfifo(tree / "fifo")
    os.mknod(tree / "null", modes.S_IFCHR | 0o666, os.makedev(1, 3))
    for name in ("fifo", "null"):
        fd = peer.walk_to(name)
        with pytest.raises(OSError):
            peer.openat(fd, os.O_RDONLY)


@pytest.mark.parametrize("access", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR])
def test_create_makes_a_file_opens_it_and_tells_its_stat(peer: Peer, tree: Path, access: int) -> None:
    created = peer.opencreateat(peer.root, "new", flags=access, mode=0o640)
    assert_stat_is(created.inode.stat, tree / "new")
    assert modes.S_IMODE(created.inode.stat.mode) == 0o640
    (donated,) = created.donated
    assert fcntl.fcntl(donated, fcntl.F_GETFL) & os.O_ACCMODE == access
    assert_stat_is(peer.fstat(created.inode.fd), tree / "new")
    assert_stat_is(peer.fstat(created.fd), tree / "new")


def test_what_create_opened_reads_and_writes_by_its_access_mode(peer: Peer) -> None:
    writer = peer.opencreateat(peer.root, "w", flags=os.O_WRONLY).fd
    assert peer.pwrite(writer, 0, b"abc") == 3
    with fails(errno.EBADF):
        peer.pread(writer, 0, 3)
    reader = peer.opencreateat(peer.root, "r", flags=os.O_RDONLY).fd
    assert peer.pread(reader, 0, 3) == b""
    with fails(errno.EBADF):
        peer.pwrite(reader, 0, b"abc")


def test_create_is_exclusive(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"kept")
    os.symlink("nowhere", tree / "link")
    (tree / "dir").mkdir()
    for name in ("file", "link", "dir"):
        with fails(errno.EEXIST):
            peer.opencreateat(peer.root, name, flags=os.O_RDWR | os.O_TRUNC)
    assert (tree / "file").read_bytes() == b"kept"
    assert names_in(tree) == ["dir", "file", "link"]


def test_create_ignores_the_umask_and_sets_the_owner(peer: Peer, tree: Path) -> None:
    created = peer.opencreateat(peer.root, "new", mode=0o666, uid=1234, gid=5678)
    assert modes.S_IMODE(created.inode.stat.mode) == 0o666
    assert (created.inode.stat.uid, created.inode.stat.gid) == (1234, 5678)


def test_create_below_what_is_not_a_directory_is_enotdir(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    fd = peer.walk_to("file")
    with fails(errno.ENOTDIR):
        peer.opencreateat(fd, "new")


def test_close_frees_every_kind_of_fd_and_ignores_unknown_ones(peer: Peer, tree: Path) -> None:
    (tree / "file").touch()
    control = peer.walk_to("file")
    opened = peer.openat(control).fd
    peer.close(control, 0, 4242, opened, opened, 2**64 - 1)
    for fd in (control, opened):
        with fails(errno.EBADF):
            peer.fstat(fd)
    peer.close()


def test_an_open_fd_outlives_its_control_fd(peer: Peer, tree: Path) -> None:
    (tree / "file").write_bytes(b"hello")
    control = peer.walk_to("file")
    opened = peer.openat(control).fd
    peer.close(control)
    assert peer.pread(opened, 0, 10) == b"hello"
    assert peer.fstat(opened).size == 5


def test_the_root_may_be_closed_like_any_other_fd(peer: Peer) -> None:
    peer.close(peer.root)
    with fails(errno.EBADF):
        peer.fstat(peer.root)
    assert modes.S_ISDIR(peer.mount().root.stat.mode)


def test_close_of_as_many_fds_as_one_message_holds(peer: Peer) -> None:
    peer.close(*range(1000, 1000 + 65535))


def test_the_server_keeps_no_host_fd_of_closed_files(server: Server) -> None:
    (server.tree / "file").touch()
    with server.peer() as peer:
        before = len(server.open_fds())
        fds = []
        for _ in range(20):
            control = peer.walk_to("file")
            fds += [control, peer.openat(control, os.O_RDWR).fd, peer.openat(control).fd]
        assert len(server.open_fds()) >= before + 60
        peer.close(*fds)
        assert len(server.open_fds()) == before
