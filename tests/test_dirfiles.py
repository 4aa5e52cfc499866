"""DirRead, DirWrite, DirRename: our own messages about many files of one directory."""

import errno
import os
import stat as modes
import struct
import threading
from pathlib import Path

import disks
import pytest
from conftest import Start
from disks import serving
from hosts import TRANSPORTS, WAYS_2021, Server, fails
from looks import assert_stat_is, names_in, one_of_each

from gofer.conform.codec import Mid, string


@pytest.mark.parametrize("way", TRANSPORTS)
def test_dirread_tells_attributes_of_all_and_contents_of_plain_small_files(server: Server, way: str) -> None:
    one_of_each(server.tree / "dir")
    (server.tree / "dir" / "empty").touch()
    (server.tree / "dir" / "large").write_bytes(b"x" * 65537)
    (server.tree / "dir" / "twice").write_bytes(b"x")
    os.link(server.tree / "dir" / "twice", server.tree / "dir" / "again")
    with open(server.tree / "dir" / "sparse", "wb") as file:
        file.truncate(60000)
    (server.tree / "dir" / "more").write_bytes(b"x")
    os.setxattr(server.tree / "dir" / "more", "user.a", b"1")
    names = sorted(os.listdir(os.fsencode(server.tree / "dir")))
    with server.peer(way) as peer:
        (directory,) = peer.walk(peer.root, "dir")[1]
        before = len(server.open_fds())
        found = dict(zip(names, peer.dirread(directory.fd, *names)))
        for name, (code, stat, _) in found.items():
            assert not code
            assert_stat_is(stat, server.tree / "dir" / os.fsdecode(name))
        told = {name: content for name, (_, _, content) in found.items() if content is not None}
        assert told == {b"file": b"contents", b"empty": b"", b"\xff\n": b""}
        assert len(server.open_fds()) == before


def test_dirread_tells_no_more_contents_than_asked_for_and_fit_a_message(server: Server) -> None:
    for number in range(40):
        (server.tree / f"f{number}").write_bytes(bytes([number]) * 65536)
    names = [f"f{number}" for number in range(40)]
    with server.peer() as peer:
        for each, most, number in (
            (65536, 2**32 - 1, 31), (2**32 - 1, 3 * 65536, 3), (65535, 1 << 20, 0), (65536, 65535, 0), (0, 0, 0),
        ):  # fmt: skip
            found = peer.dirread(peer.root, *names, each=each, most=most)
            assert sum(content is not None for _, _, content in found) == number
            assert all(content == bytes([i]) * 65536 for i, (_, _, content) in enumerate(found) if content is not None)
        with fails(errno.EIO):
            peer.dirread(peer.root, *["f1"] * 14000)


def test_of_what_dirread_fails_for_it_tells_why_and_the_others_all_the_same(server: Server) -> None:
    one_of_each(server.tree / "dir")
    os.mknod(server.tree / "block", modes.S_IFBLK | 0o600, os.makedev(7, 0))
    (server.tree / "file").write_bytes(b"1")
    with server.peer() as peer:
        found = peer.dirread(peer.root, "none", "block", "file")
        assert [code for code, _, _ in found] == [errno.ENOENT, errno.EPERM, 0] and found[2][2] == b"1"
        assert all((stat.mask, stat.mode, content) == (0, 0, None) for _, stat, content in found[:2])
        assert peer.dirread(peer.root) == []


def test_what_is_wrong_with_a_request_is_an_error_and_nothing_comes_of_it(server: Server) -> None:
    (server.tree / "file").write_bytes(b"1")
    with server.peer() as peer:
        file = peer.walk(peer.root, "file")[1][0].fd
        before = names_in(server.tree)
        for fd, name, code in (
            (peer.root, "", errno.EINVAL), (peer.root, "..", errno.EINVAL), (peer.root, "a/b", errno.EINVAL),
            (peer.root, "a\0", errno.EINVAL), (peer.root, "n" * 256, errno.ENAMETOOLONG),
            (file, "x", errno.ENOTDIR), (777, "x", errno.EBADF),
        ):  # fmt: skip
            with fails(code):
                peer.dirread(fd, "file", name)
            with fails(code):
                peer.dirwrite(fd, ("fine", b""), (name, b""))
            with fails(code):
                peer.dirrename(fd, ("file", "fine"), ("file", name))
            with fails(code):
                peer.dirrename(fd, ("file", "fine"), (name, "file"))
        with fails(errno.EINVAL):
            peer.dirwrite(peer.root, ("fine", b""), flags=2)
        with fails(errno.EINVAL):
            peer.read(Mid.DIRRENAME, struct.pack("<QH", peer.root, 1) + string("file"))
        entry = struct.pack("<IIIIqqqqH", 0o600, 0, 0, 3, 0, 0, 0, 0, 4)
        whole = entry + b"fine123"
        for number, data in ((1, whole[:-1]), (1, whole + b"4"), (2, whole), (0, whole), (1, b""), (2**32 - 1, whole)):
            with fails(errno.EIO):
                peer.read(Mid.DIRWRITE, struct.pack("<QIII", peer.root, 0, number, len(data)) + data)
        with fails(errno.EIO):
            peer.read(Mid.DIRWRITE, struct.pack("<QIII", peer.root, 0, 1, 50) + entry + b"fine123")
        for mid in (Mid.DIRREAD, Mid.DIRWRITE, Mid.DIRRENAME):
            for payload in (b"", bytes(7), struct.pack("<Q", peer.root), struct.pack("<QIIHH", peer.root, 0, 0, 1, 9)):
                with fails(errno.EIO):
                    peer.read(mid, payload)
        assert names_in(server.tree) == before


@pytest.mark.parametrize("way", TRANSPORTS)
@pytest.mark.parametrize("mode", [0o644, 0o600, 0o640, 0o777, 0o1755, 0o4711, 0o2755, 0o000, 0o060])
def test_dirwrite_makes_files_with_all_that_they_are_to_have(server: Server, way: str, mode: int) -> None:
    files = [("empty", b""), ("small", b"contents"), ("large", os.urandom(1 << 20))]
    with server.peer(way) as peer:
        before = len(server.open_fds())
        times = (-1, 7, 2**33, 999_999_999)
        assert peer.dirwrite(peer.root, *files, mode=mode, owner=(1000, 1001), times=times) == [(0, 0, 0)] * 3
        assert peer.dirwrite(peer.root, ("ours", b"1"), mode=mode, flags=1) == [(0, 0, 0)]
        assert len(server.open_fds()) == before
    for name, data in files:
        found = os.stat(server.tree / name)
        assert (modes.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, 1000, 1001)
        assert (found.st_atime_ns, found.st_mtime_ns) == (-(10**9) + 7, 2**33 * 10**9 + 999_999_999)
        assert (server.tree / name).read_bytes() == data
    assert modes.S_IMODE(os.stat(server.tree / "ours").st_mode) == mode and os.stat(server.tree / "ours").st_uid == 0


def test_what_dirwrite_cannot_make_is_told_and_leaves_no_file(spot: Path) -> None:
    with disks.tmpfs("1M") as place, serving(place) as server, server.peer() as peer:
        (place / "there").write_bytes(b"before")
        os.symlink("elsewhere", place / "link")
        told = peer.dirwrite(peer.root, ("there", b"x"), ("link", b"x"), ("big", b"x" * (1 << 20)), ("a", b"1"), ("a", b"2"))
        assert [each[0] for each in told] == [errno.EEXIST, errno.EEXIST, errno.ENOSPC, 0, errno.EEXIST]
        assert names_in(place) == ["a", "link", "there"] and (place / "there").read_bytes() == b"before"


def test_what_of_a_file_cannot_be_set_is_told_as_setstat_does_and_the_file_stays(server: Server) -> None:
    with server.peer() as peer:
        assert peer.dirwrite(peer.root, ("f", b"1"), times=(0, 2 * 10**9, 0, 0)) == [(0, 0x60, errno.EINVAL)]
    assert (server.tree / "f").read_bytes() == b"1"


def test_a_file_is_nobodys_to_open_before_it_is_its_owners(server: Server) -> None:
    """It is made with its mode only where that says nothing more to a group than to all."""
    (server.tree / "d").mkdir()
    os.chown(server.tree / "d", 0, 4000)
    (server.tree / "d").chmod(0o2755)
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for entry in os.scandir(server.tree / "d"):
                found = entry.stat()
                if found.st_gid == 4000:
                    seen.add(modes.S_IMODE(found.st_mode))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        with server.peer() as peer:
            (directory,) = peer.walk(peer.root, "d")[1]
            for number in range(20):
                files = [(f"{number}-{i}", b"x" * 20000) for i in range(50)]
                assert {each[0] for each in peer.dirwrite(directory.fd, *files, mode=0o640, owner=(1000, 1000))} == {0}
    finally:
        done.set()
        watcher.join()
    assert seen <= {0o600}
    assert {os.stat(each).st_gid for each in os.scandir(server.tree / "d")} == {1000}


def test_dirrename_renames_each_and_tells_of_each(server: Server) -> None:
    for name in ("a", "b", "over"):
        (server.tree / name).write_text(name)
    (server.tree / "dir").mkdir()
    with server.peer() as peer:
        told = peer.dirrename(peer.root, ("a", "new"), ("none", "x"), ("b", "over"), ("new", "dir"), ("new", "newer"))
        assert told == [0, errno.ENOENT, 0, errno.EISDIR, 0]
    assert names_in(server.tree) == ["dir", "newer", "over"] and (server.tree / "over").read_text() == "b"


@pytest.mark.serve("--read-only")
def test_a_read_only_mount_is_read_and_nothing_else(server: Server) -> None:
    (server.tree / "a").write_bytes(b"1")
    with server.peer() as peer:
        assert peer.dirread(peer.root, "a")[0][2] == b"1"
        with fails(errno.EROFS):
            peer.dirwrite(peer.root, ("b", b""))
        with fails(errno.EROFS):
            peer.dirrename(peer.root, ("a", "b"))
    assert names_in(server.tree) == ["a"]


def test_xattrs_that_are_not_shown_keep_no_contents_back(start: Start) -> None:
    server = start("--xattrs", "none")
    (server.tree / "a").write_bytes(b"1")
    os.setxattr(server.tree / "a", "user.a", b"1")
    with server.peer() as peer:
        assert peer.dirread(peer.root, "a")[0][2] == b"1"


def test_what_the_kernel_makes_up_is_left_to_other_messages() -> None:
    with serving(Path("/proc"), "--kernel-files=read") as server, server.peer() as peer, fails(errno.EPERM):
        peer.dirread(peer.root, "meminfo")


def test_a_file_that_is_swapped_for_a_fifo_is_not_opened(server: Server) -> None:
    """What is opened is what was looked at: nothing opens the FIFO, whose writer would get an end to write to."""
    (server.tree / "file").write_bytes(b"1")
    os.mkfifo(server.tree / "fifo")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            os.rename(server.tree / "file", server.tree / "x")
            os.rename(server.tree / "fifo", server.tree / "file")
            os.rename(server.tree / "file", server.tree / "fifo")
            os.rename(server.tree / "x", server.tree / "file")

    opened = 0
    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        with server.peer() as peer:
            for _ in range(2000):
                ((code, stat, content),) = peer.dirread(peer.root, "file")
                opened += bool(content)
                assert code in (0, errno.ENOENT) and (content is None or modes.S_ISREG(stat.mode))
    finally:
        done.set()
        swapper.join()
    assert opened


def test_it_takes_one_fd_at_a_time_of_a_crowded_server(start: Start) -> None:
    server = start("--fd-limit", "128", "--workers", "1")
    for number in range(300):
        (server.tree / str(number)).write_bytes(b"%d" % number)
    with server.peer() as peer:
        found = peer.dirread(peer.root, *map(str, range(300)))
        assert [content for _, _, content in found] == [b"%d" % number for number in range(300)]
        assert peer.dirwrite(peer.root, *((f"n{number}", b"1") for number in range(300))) == [(0, 0, 0)] * 300


@pytest.mark.parametrize("way", WAYS_2021)
def test_who_speaks_the_dialect_of_2021_has_no_such_messages(server: Server, way: str) -> None:
    with server.peer(way) as peer:
        for call in (peer.dirread, peer.dirwrite, peer.dirrename):
            with fails(errno.EOPNOTSUPP):
                call(1)
