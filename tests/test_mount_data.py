"""The contents of files in a mount: every way to read and write them, with and without passthrough, against what the host has."""

import contextlib
import errno
import fcntl
import mmap
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CALM, Server, fails, run, wait_until
from mounting import Mount, mount

pytestmark = pytest.mark.slow
STEPS = int(os.environ.get("GOFER_FSX_STEPS", "1500"))  # for longer runs
# By the kernel itself where it can; by the donated fd; by messages; with what the kernel writes later.
WAYS = {"passthrough": (), "fd": ("--no-passthrough",), "message": ("--no-passthrough",), "writeback": ("--writeback",)}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def there(way: str, start: "object", spot: Path) -> Iterator[Mount]:
    tree = spot / "tree"
    tree.mkdir()
    server = start(*(("--donate=no",) if way == "message" else ()), tree=tree)  # type: ignore[operator]
    with mount(server, *WAYS[way]) as made:
        yield made


def test_random_steps_give_what_they_give_in_a_shadow_copy(there: Mount, way: str) -> None:
    """As fsx does: reads, writes, truncations, appends and shared maps, compared with an array of bytes after each."""
    seed = int(os.environ.get("GOFER_FSX_SEED", "1"))
    rng, shadow, most = random.Random(seed), bytearray(), 300_000
    fd = os.open(there.path / "file", os.O_RDWR | os.O_CREAT)
    try:
        for step in range(STEPS):
            what, at, size = rng.randrange(8), rng.randrange(most), rng.randrange(1, 40_000)
            if what <= 1:
                data = rng.getrandbits(8 * size).to_bytes(size, "little")
                assert os.pwrite(fd, data, at) == size
                shadow.extend(bytes(max(0, at + size - len(shadow))))
                shadow[at : at + size] = data
            elif what <= 3:
                assert os.pread(fd, size, at) == bytes(shadow[at : at + size]), (seed, step)
            elif what == 4:
                (os.ftruncate if step % 2 else lambda _, length: os.truncate(there.path / "file", length))(fd, at)
                del shadow[at:]
                shadow.extend(bytes(at - len(shadow)))
            elif what == 5 and shadow:
                with mmap.mmap(fd, len(shadow)) as shared:
                    assert shared[:] == shadow, (seed, step)
                    spot = rng.randrange(len(shadow))
                    piece = rng.getrandbits(80).to_bytes(10, "little")[: len(shadow) - spot]
                    shared[spot : spot + len(piece)] = shadow[spot : spot + len(piece)] = piece
                    shared.flush()
            elif what == 6:
                again = os.open(there.path / "file", os.O_RDWR | os.O_APPEND)
                os.write(again, b"appended")
                os.close(again)
                shadow += b"appended"
            else:
                assert os.stat(there.path / "file").st_size == os.fstat(fd).st_size == len(shadow), (seed, step)
        os.fsync(fd)
        assert (there.tree / "file").read_bytes() == shadow
    finally:
        os.close(fd)


def test_holes_and_large_offsets(there: Mount, way: str) -> None:
    with open(there.path / "file", "w+b", buffering=0) as file:
        fd = file.fileno()
        os.pwrite(fd, b"end", 5 << 30)
        assert os.fstat(fd).st_size == (5 << 30) + 3
        assert os.pread(fd, 10, 5 << 30) == b"end"
        assert os.pread(fd, 4096, 3 << 30) == bytes(4096)
        if way != "writeback":  # what is not written yet has no place
            assert os.stat(there.tree / "file").st_blocks < 1000
        if way in ("passthrough", "fd"):
            assert os.lseek(fd, 0, os.SEEK_DATA) == 5 << 30
        assert os.lseek(fd, 5 << 30, os.SEEK_DATA) == 5 << 30
        with fails(errno.ENXIO):
            os.lseek(fd, (5 << 30) + 3, os.SEEK_DATA)
        os.posix_fallocate(fd, 6 << 30, 4096)
        assert os.fstat(fd).st_size == (6 << 30) + 4096


def test_a_part_of_a_page_can_be_changed_by_who_may_only_write(there: Mount) -> None:
    """What the kernel is to write later it has to read before."""
    (there.tree / "file").write_bytes(b"contents")
    fd = os.open(there.path / "file", os.O_WRONLY)
    try:
        assert os.pwrite(fd, b"N", 3) == 1
        with fails(errno.EBADF):
            os.read(fd, 1)
        os.fsync(fd)
    finally:
        os.close(fd)
    made = os.open(there.path / "new", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(made, b"written")
        os.fsync(made)
        os.posix_fadvise(made, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pwrite(made, b"W", 0) == 1
    finally:
        os.close(made)
    assert (there.tree / "file").read_bytes() == b"conNents"
    assert (there.path / "new").read_bytes() == (there.tree / "new").read_bytes() == b"Written"


def test_direct_io_and_copies_between_files(there: Mount) -> None:
    data = os.urandom(1 << 20)
    (there.path / "file").write_bytes(data)
    fd = os.open(there.path / "file", os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 65536) as buffer:
            assert os.preadv(fd, [buffer], 65536) == 65536
            assert buffer[:] == data[65536:131072]
            assert os.pwritev(fd, [buffer], 0) == 65536
    finally:
        os.close(fd)
    data = data[65536:131072] + data[65536:]
    with open(there.path / "file", "rb") as source, open(there.path / "copy", "wb") as target:
        done = 0
        while count := os.copy_file_range(source.fileno(), target.fileno(), len(data) - done):
            done += count
    assert (there.tree / "copy").read_bytes() == data


@pytest.mark.parametrize(
    "way", ["passthrough", "fd", "message"], indirect=True
)  # --writeback trusts what the kernel has
def test_what_the_host_changes_is_seen(there: Mount) -> None:
    (there.tree / "file").write_bytes(b"a" * 200_000)
    assert (there.path / "file").read_bytes() == b"a" * 200_000
    (there.tree / "file").write_bytes(b"b" * 100_000)
    wait_until(lambda: (there.path / "file").read_bytes() == b"b" * 100_000, "after a second it is asked again")


def test_small_and_large_opens_of_one_file_at_once(there: Mount) -> None:
    """The kernel answers EIO where some go through it and some past it."""
    (there.path / "file").write_bytes(b"x" * 10)
    reader = os.open(there.path / "file", os.O_RDONLY)
    writer = os.open(there.path / "file", os.O_RDWR)
    os.write(writer, b"y" * 200_000)
    late = os.open(there.path / "file", os.O_RDONLY)
    assert os.pread(reader, 5, 199_990) == os.pread(late, 5, 199_990) == b"yyyyy"
    os.close(writer)
    again = os.open(there.path / "file", os.O_WRONLY | os.O_TRUNC)
    os.write(again, b"short")
    assert os.pread(late, 100, 0) == os.pread(reader, 100, 0) == b"short"
    for fd in (reader, late, again):
        os.close(fd)
    assert (there.path / "file").read_bytes() == b"short"


def test_sqlite_in_wal_mode_from_two_processes(there: Mount) -> None:
    database = there.path / "db"
    with sqlite3.connect(database) as connection:
        connection.execute("pragma journal_mode=wal")
        connection.execute("create table t (n integer)")
    connection.close()
    code = (
        "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], float(sys.argv[2]))\n"
        "for i in range(30):\n    with c: c.execute('insert into t values (?)', (i,))\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(database), str(CALM)]) for _ in range(2)]
    assert [each.wait(CALM) for each in both] == [0, 0]
    for place in (there.path, there.tree):
        connection = sqlite3.connect(place / "db")
        assert connection.execute("select count(*), sum(n) from t").fetchone() == (60, 870)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        connection.close()


def written(there: Mount) -> tuple[int, mmap.mmap]:
    """Nothing of it was synced."""
    (there.path / "file").write_bytes(b"f" * 3_000_000)
    fd = os.open(there.path / "mapped", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"m" * 10_000)
    shared = mmap.mmap(fd, 10_000)
    shared[5000:5003] = b"new"
    return fd, shared


def is_there(tree: Path) -> bool:
    changed = b"m" * 5000 + b"new" + b"m" * 4997
    return (tree / "file").read_bytes() == b"f" * 3_000_000 and (tree / "mapped").read_bytes() == changed


def test_what_was_written_is_there_once_it_is_unmounted(there: Mount) -> None:
    fd, shared = written(there)
    shared.close()
    os.close(fd)
    assert run("umount", str(there.path)).returncode == 0
    assert is_there(there.tree)
    assert there.process.wait(CALM) == 0


@pytest.mark.parametrize("way", ["fd", "writeback"], indirect=True)
def test_what_was_written_is_there_where_a_signal_ends_it_while_it_is_in_use(there: Mount) -> None:
    fd, shared = written(there)
    there.process.terminate()
    assert there.process.wait(CALM) == 0
    assert is_there(there.tree)
    with contextlib.suppress(OSError):
        shared.close()
        os.close(fd)


@pytest.mark.parametrize("way", ["message"], indirect=True)
def test_more_readers_than_channels_get_each_their_own(there: Mount) -> None:
    """What one reads lies in a channel's memory until the kernel has it, and no longer."""
    wrong: list[object] = []
    for i in range(24):
        (there.tree / str(i)).write_bytes(bytes([i]) * 1_300_000)

    def read(i: int) -> None:
        for _ in range(8):
            fd = os.open(there.path / str(i), os.O_RDONLY | os.O_DIRECT)
            try:
                with mmap.mmap(-1, 1 << 20) as buffer:
                    count = os.preadv(fd, [buffer], 0)
                    if buffer[:] != bytes([i]) * count or count != 1 << 20:
                        wrong.append((i, count))
                    if os.pread(fd, 1 << 20, 1 << 20) != bytes([i]) * (1_300_000 - (1 << 20)):
                        wrong.append(i)
            finally:
                os.close(fd)

    readers = [threading.Thread(target=read, args=(i,)) for i in range(24)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_locks_hold_between_processes(there: Mount) -> None:
    (there.path / "file").touch()
    with open(there.path / "file", "r+b") as mine:
        fcntl.lockf(mine, fcntl.LOCK_EX)
        code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        argv = [sys.executable, "-c", code, str(there.path / "file")]
        assert subprocess.run(argv, stderr=subprocess.DEVNULL).returncode == 1
        fcntl.lockf(mine, fcntl.LOCK_UN)
        assert subprocess.run(argv).returncode == 0


def test_files_with_no_permissions_that_are_open_can_be_written_and_cut(there: Mount) -> None:
    fd = os.open(there.path / "file", os.O_RDWR | os.O_CREAT, 0)
    os.write(fd, b"contents")
    os.ftruncate(fd, 3)
    os.close(fd)
    assert (there.tree / "file").read_bytes() == b"con"


def passes(there: Mount) -> bool:
    """Whether this kernel reads by itself: what the mount process reads is counted."""
    before = Path(f"/proc/{there.pid}/io").read_text()
    (there.path / "large").read_bytes()
    after = Path(f"/proc/{there.pid}/io").read_text()
    read = [int(text.split()[1]) for text in (before, after)]
    return read[1] - read[0] < 1 << 20


def test_the_kernel_reads_ahead_as_much_as_one_request_can_bring(server: Server) -> None:
    """Where it does not, each MiB is eight turns of two processes."""
    with mount(server) as there:
        device = os.stat(there.path).st_dev
        assert Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb").read_text() == "1024\n"


def test_passthrough_leaves_the_data_to_the_kernel(server: Server) -> None:
    """Linux 6.9; an older one reads through us."""
    (server.tree / "large").write_bytes(bytes(8 << 20))
    with mount(server) as there:
        release = [int(word) for word in os.uname().release.split("-")[0].split(".")[:2]]
        assert passes(there) or release < [6, 9]
    with mount(server, "--no-passthrough") as there:
        assert not passes(there)


@pytest.mark.parametrize("options", [(), ("--no-passthrough",)])
def test_no_open_gets_more_than_the_server_grants(start: "object", spot: Path, options: tuple[str, ...]) -> None:
    """The kernel opens what is passed through with the mount's own rights, for writing as well as for reading."""
    tree = spot / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"k" * 100_000)
    server = start("--read-only", tree=tree)  # type: ignore[operator]
    with mount(server, *options) as there:
        assert (there.path / "file").read_bytes() == b"k" * 100_000
        reader = os.open(there.path / "file", os.O_RDONLY)
        try:
            for path in (there.path / "file", f"/proc/self/fd/{reader}"):
                for flags in (os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC):
                    with fails(errno.EROFS):
                        os.open(path, flags)
            with fails(errno.EROFS):
                os.truncate(there.path / "file", 0)
        finally:
            os.close(reader)
    assert (tree / "file").read_bytes() == b"k" * 100_000


def test_set_id_bits_go_when_another_writes(server: Server) -> None:
    (server.tree / "file").write_bytes(b"x")
    os.chmod(server.tree / "file", 0o6777)
    with mount(server, "--allow-other") as there:
        code = "import os, sys; os.setgid(65534); os.setuid(65534); open(sys.argv[1], 'ab').write(b'y' * 70000)"
        os.chmod(there.path.parent, 0o755)
        subprocess.run([sys.executable, "-c", code, str(there.path / "file")], check=True)
    assert os.stat(server.tree / "file").st_mode & 0o7777 == 0o777
