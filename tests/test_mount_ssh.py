"""`gofer mount HOST:PATH`: a tree of another host as a file system, over a real sshd."""

import contextlib
import errno
import mmap
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import disks
import faulty
import pytest
from hosts import CALM, CHECKOUT, ended, fails, run, stopped, wait_until
from mounting import mounted
from sshd import HOST, Sshd, sshd  # which makes bench/ known

from slowline import slow_line  # isort: skip


@pytest.fixture
def far(spot: Path) -> Iterator[Sshd]:
    (spot / "tree").mkdir()
    (spot / "here").mkdir()
    with sshd(spot / "sshd", "SetEnv PATH=/usr/bin:/bin\n") as server:
        yield server


@contextlib.contextmanager
def mount(server: Sshd, spot: Path, *options: str, tree: "Path | None" = None) -> Iterator[Path]:
    here = spot / "here"
    done = run("mount", "--ssh", server.command, *options, f"{HOST}:{tree or spot / 'tree'}", str(here))
    assert (done.returncode, done.stderr) == (0, "")
    try:
        yield here
    finally:
        if mounted(here):
            done = run("umount", str(here))
            assert done.returncode == 0 or not mounted(here), done.stderr  # it goes by itself where the session was cut
    wait_until(lambda: not server.sessions(), "ssh's session ends")


def test_a_tree_of_another_host_is_read_and_written(far: Sshd, spot: Path) -> None:
    with mount(far, spot) as here:
        shutil.copytree(CHECKOUT / "gofer/server", here / "copy", ignore=shutil.ignore_patterns("*.pyc"))
        assert subprocess.run(["diff", "-r", here / "copy", spot / "tree/copy"]).returncode == 0
        (here / "big").write_bytes(os.urandom(5_000_000))
        assert (here / "big").read_bytes() == (spot / "tree/big").read_bytes()
        os.rename(here / "big", here / "copy/big")
        os.symlink("copy/big", here / "link")
        assert sorted(os.listdir(spot / "tree")) == ["copy", "link"]
        device = os.stat(here).st_dev
        ahead = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
        assert int(ahead.read_text()) == 8192


def test_many_threads_have_their_requests_on_the_way_at_once(far: Sshd, spot: Path) -> None:
    for number in range(20):
        (spot / f"tree/{number}").write_bytes(bytes([number]) * 600_000)
    with mount(far, spot, "--cache=none") as here:
        wrong: list[object] = []

        def read(number: int) -> None:
            for _ in range(5):
                try:
                    if (here / str(number)).read_bytes() != bytes([number]) * 600_000:
                        wrong.append(number)
                except OSError as error:
                    wrong.append(error)

        threads = [threading.Thread(target=read, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_a_file_that_is_read_from_end_to_end_is_handed_on_by_the_thread_that_takes_replies(far: Sshd, spot: Path) -> None:
    """Whole and to its last byte, however it ends; and no thread waits for each piece that is on its way."""
    sizes = [12 << 20, 1 << 20, (1 << 20) - 1, (1 << 16) + 1, (3 << 20) + 4097]
    for number, size in enumerate(sizes):
        (spot / f"tree/{number}").write_bytes(os.urandom(size))
    with mount(far, spot) as here:
        for number in range(len(sizes)):
            assert (here / str(number)).read_bytes() == (spot / f"tree/{number}").read_bytes()
        threads = max(len(os.listdir(f"/proc/{pid}/task")) for pid in os.listdir("/proc") if _is_mount(pid, here))
        assert 2 < threads < 11, "one that reads of the kernel, one of the line, and those that look after them"


def _is_mount(pid: str, here: Path) -> bool:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return b"mount" in words and os.fsencode(here) in words
    return False


def test_what_a_far_disk_says_of_a_large_read_is_what_the_reader_gets(far: Sshd, spot: Path) -> None:
    with faulty.faulty(spot / "tree") as slow, mount(far, spot, "--timeout=3") as here:
        place = here / slow.path.name / "file"
        with open(place, "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            slow.fail(faulty.READ, errno.EREMOTEIO)
            with fails(errno.EREMOTEIO):
                _direct(place)
            slow.hang(faulty.READ)
            with fails(errno.EIO):  # at the end of the timeout
                _direct(place)
            (here / "other").write_bytes(bytes(1 << 20))
            assert (here / "other").read_bytes() == bytes(1 << 20)
        slow.vanish()


def _direct(path: Path) -> bytes:
    """By one request of 256 KiB, whatever the size of the file is said to be."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        room = mmap.mmap(-1, 1 << 18)
        return bytes(room[: os.preadv(fd, [room], 0)])
    finally:
        os.close(fd)


def test_what_a_write_behind_has_met_is_told_at_close_or_fsync(far: Sshd, spot: Path) -> None:
    """The write itself is answered before it is done."""
    with disks.tmpfs("8m") as there, mount(far, spot, tree=there) as here:
        fd = os.open(here / "file", os.O_RDWR | os.O_CREAT)
        told = []
        try:
            for _ in range(64):
                os.write(fd, bytes(1 << 20))
        except OSError as error:
            told.append(error.errno)
        try:
            os.fsync(fd)
        except OSError as error:
            told.append(error.errno)
        try:
            os.close(fd)
        except OSError as error:
            told.append(error.errno)
        assert told and set(told) <= {errno.ENOSPC, errno.EIO}, told
        assert os.stat(there / "file").st_size < 64 << 20


def test_what_fsync_has_acknowledged_is_there_when_the_session_is_cut(far: Sshd, spot: Path) -> None:
    data = os.urandom(3_000_000)
    with mount(far, spot) as here:
        fd = os.open(here / "file", os.O_RDWR | os.O_CREAT)
        os.write(fd, data)
        os.fsync(fd)
        far.cut()
        assert (spot / "tree/file").read_bytes() == data
        with contextlib.suppress(OSError):
            os.close(fd)


def test_a_session_that_is_cut_is_an_error_at_once_and_can_be_unmounted(far: Sshd, spot: Path) -> None:
    (spot / "tree/file").write_text("there")
    with mount(far, spot, "--cache=none") as here:
        assert (here / "file").read_text() == "there"
        far.cut()
        done = subprocess.run(["ls", here / "file"], capture_output=True, timeout=CALM)
        assert done.returncode == 2
        wait_until(lambda: not mounted(here) or _gone(here), "the mount is over")


def _gone(here: Path) -> bool:
    try:
        os.listdir(here)
    except OSError:
        return True
    return False


def test_a_mount_keeps_no_pipe_of_who_has_made_it(far: Sshd, spot: Path) -> None:
    """`gofer mount ... | cat` ends when it is mounted, and not with ssh."""
    from hosts import GOFER

    argv = [*GOFER, "mount", "--ssh", far.command, f"{HOST}:{spot}/tree", str(spot / "here")]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with process:
        assert process.stdout and process.stdout.read() == b"" and process.wait(CALM) == 0
    assert run("umount", str(spot / "here")).returncode == 0
    wait_until(lambda: not far.sessions(), "ssh's session ends")


def test_a_host_that_cannot_be_reached_leaves_nothing_behind(spot: Path) -> None:
    (spot / "here").mkdir()
    done = run("mount", "--ssh", "sh -c 'exit 255' --", f"{HOST}:/", str(spot / "here"))
    assert done.returncode == 1 and "ssh could not reach far" in done.stderr and done.stderr.count("\n") == 1
    assert not mounted(spot / "here")


def test_what_hangs_on_the_far_side_holds_up_nothing_else(far: Sshd, spot: Path) -> None:
    """Not even what had been asked before it was known to hang: 20 threads ask at once."""
    for number in range(20):
        (spot / f"tree/{number}").write_text(str(number))
    with faulty.faulty(spot / "tree") as slow, mount(far, spot, "--cache=none") as here:
        os.stat(here / slow.path.name)
        slow.hang(faulty.LOOKUP)
        waiting = subprocess.Popen(["stat", str(here / slow.path.name / "file")], stderr=subprocess.DEVNULL)
        with waiting:
            wait_until(lambda: slow.hangs(faulty.LOOKUP), "it waits for the hung file system")
            for round in range(5):
                read = [subprocess.Popen(["cat", str(here / str(number))], stdout=subprocess.PIPE) for number in range(20)]
                assert [each.communicate(timeout=CALM)[0] for each in read] == [b"%d" % number for number in range(20)], round
            (here / "new").write_bytes(bytes(3_000_000))
            assert (spot / "tree/new").stat().st_size == 3_000_000
            assert waiting.poll() is None
            waiting.kill()
        slow.vanish()


@pytest.mark.slow
def test_a_host_that_falls_silent_is_an_error_within_the_timeout_though_nothing_is_asked(far: Sshd, spot: Path) -> None:
    with mount(far, spot, "--timeout=5", "--cache=none") as here:
        os.stat(here)
        (session,) = far.sessions()
        with stopped(session):
            time.sleep(5.5)
            began = time.monotonic()
            with fails(errno.ENOTCONN):
                os.stat(here)
            assert time.monotonic() - began < 4  # it was known
            assert run("umount", str(here)).returncode == 0
            wait_until(lambda: not far.is_connected(), "ssh ends with the mount, though nobody answers it")


@pytest.mark.slow
def test_a_mount_that_nobody_uses_lasts_longer_than_its_timeout(far: Sshd, spot: Path) -> None:
    (spot / "tree/file").write_text("there")
    with mount(far, spot, "--timeout=5", "--cache=none") as here:
        time.sleep(6)
        assert (here / "file").read_text() == "there"


def test_a_host_that_comes_back_is_taken_up_again(far: Sshd, spot: Path) -> None:
    """What is asked meanwhile waits; a file that is open goes on where it is the same, else it is stale."""
    for name in ("same", "replaced"):
        (spot / f"tree/{name}").write_text(name)
    with mount(far, spot, "--reconnect", "--cache=none") as here:
        held = [os.open(here / name, os.O_RDWR) for name in ("same", "replaced")]
        far.stop()
        os.unlink(spot / "tree/replaced")
        (spot / "tree/replaced").write_text("new")
        with subprocess.Popen(["cat", str(here / "same")], stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as meanwhile:
            wait_until(lambda: waits(meanwhile.pid) or ended(meanwhile.pid), "it waits for the host")
            far.start()
            assert meanwhile.communicate(timeout=CALM)[0].startswith((b"same", MIDDLE))
        assert os.pread(held[0], 100, 0) == b"same"
        os.pwrite(held[0], b"S", 0)
        os.fsync(held[0])
        assert (spot / "tree/same").read_text() == "Same"
        with fails(errno.ESTALE):
            os.fstat(held[1])
        assert (here / "replaced").read_text() == "new"
        for fd in held:
            with contextlib.suppress(OSError):
                os.close(fd)


MIDDLE = b"cat: "  # whoever was in the middle of something when it was cut may not know what became of it


def waits(pid: int) -> bool:
    """For an answer to a request of FUSE (proc(5), wchan)."""
    with contextlib.suppress(OSError):
        return "request_wait" in Path(f"/proc/{pid}/wchan").read_text()
    return False


@pytest.mark.slow
def test_what_is_asked_while_a_host_is_away_waits_no_longer_than_the_timeout(far: Sshd, spot: Path) -> None:
    with mount(far, spot, "--reconnect", "--timeout=5", "--cache=none") as here:
        far.stop()
        codes = set()

        def fails_in_time() -> bool:
            """At first it may be answered still, and what is under way as the line is cut fails at once."""
            try:
                os.stat(here / "file")
            except OSError as error:
                codes.add(error.errno)
            return errno.EIO in codes

        wait_until(fails_in_time, "one waits in vain")
        assert codes <= {errno.EIO, errno.ENOTCONN, errno.ENOENT}
        far.start()
        wait_until(lambda: not _gone(here), "the host is back")


@pytest.mark.slow
def test_a_host_that_falls_silent_is_left_and_reached_anew(far: Sshd, spot: Path) -> None:
    (spot / "tree/file").write_text("there")
    with mount(far, spot, "--reconnect", "--timeout=5", "--cache=none") as here:
        (session,) = far.sessions()
        with stopped(session):
            wait_until(lambda: len(far.sessions()) > 1, "another session")
            wait_until(lambda: not _gone(here), "the mount goes on")
            assert (here / "file").read_text() == "there"


def test_what_is_said_of_a_file_as_it_is_made_is_sent_behind_and_holds(far: Sshd, spot: Path) -> None:
    """Its times and mode are answered before they are set: what is looked at afterwards is what is there."""
    with mount(far, spot) as here:
        fd = os.open(here / "file", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(fd, b"12345")
        os.utime(fd, ns=(1_000_000_001, 2_000_000_002))
        os.fchmod(fd, 0o4750)
        os.fchown(fd, os.getuid(), os.getgid())
        for seen in (os.fstat(fd), os.stat(here / "file")):
            assert (seen.st_size, seen.st_mtime_ns, seen.st_atime_ns) == (5, 2_000_000_002, 1_000_000_001)
        os.write(fd, b"6")
        os.ftruncate(fd, 3)
        assert os.fstat(fd).st_size == 3
        os.close(fd)
        there = os.stat(spot / "tree/file")
        assert (there.st_size, there.st_mode & 0o7777) == (3, os.stat(here / "file").st_mode & 0o7777)
        assert (here / "file").read_bytes() == (spot / "tree/file").read_bytes() == b"123"


def test_what_tar_unpacks_is_what_was_packed(far: Sshd, spot: Path) -> None:
    source = spot / "source"
    for number in range(60):
        path = source / f"d{number % 3}" / f"f{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 1000))
        os.chmod(path, 0o400 + number % 64)
        os.utime(path, (number, number * 1000))
    os.symlink("d0/f0", source / "link")
    subprocess.run(["tar", "-C", source, "-cf", spot / "a.tar", "."], check=True)
    with mount(far, spot) as here:
        for place in (here / "new", here / "new/again"):
            os.mkdir(place)
            subprocess.run(["tar", "-C", place, "-xpf", spot / "a.tar"], check=True)
        for place in (here / "new", spot / "tree/new", spot / "tree/new/again"):
            done = subprocess.run(["tar", "-C", place, "-df", spot / "a.tar"], capture_output=True, text=True)
            differs = [line for line in done.stdout.splitlines() if line != ".: Mod time differs"]  # it has got `again`
            assert differs == [], done.stdout


def test_a_directory_that_was_made_here_is_looked_into_again_when_a_second_is_over(far: Sshd, spot: Path) -> None:
    """What somebody else makes in it is missing for no longer than names are taken for true."""
    with mount(far, spot) as here:
        os.mkdir(here / "new")
        assert not (here / "new/other").exists()
        (spot / "tree/new/other").write_text("there")
        wait_until(lambda: (here / "new/other").exists(), "it is seen")
        os.mkdir(here / "moved")
        os.rename(here / "new/other", here / "moved/here")
        assert (here / "moved/here").read_text() == "there" and not (here / "new/other").exists()


def test_a_tree_is_walked_in_far_less_time_than_its_directories_take_one_after_the_other(far: Sshd, spot: Path) -> None:
    """What lies below what is listed is asked for ahead, and so is what follows of a long directory: the line is a long one."""
    for number in range(80):
        (spot / f"tree/{number}").mkdir()
        (spot / f"tree/{number}/file").touch()
    (spot / "tree/long").mkdir()
    for number in range(4000):
        os.mknod(spot / f"tree/long/{number}")
    turns = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    with slow_line(far.port, DELAY * 500, turns) as port:
        config = spot / "sshd/ssh_config"
        config.write_text(config.read_text().replace(f"Port {far.port}\n", f"Port {port}\n"))
        with mount(far, spot) as here:
            before = turns[0]
            walked = [os.path.join(at, name) for at, below, files in os.walk(here) for name in (*below, *files)]
            took = turns[0] - before
            assert len(walked) == len(set(walked)) == 80 * 2 + 1 + 4000
            assert took < 40, "less than a turn for two directories"
            (here / "7/new").touch()  # what is done here is seen, though it was listed a moment ago
            os.rename(here / "8/file", here / "8/moved")
            assert sorted(os.listdir(here / "7")) == ["file", "new"] and os.listdir(here / "8") == ["moved"]
            assert sum(len(below) + len(files) for _, below, files in os.walk(here)) == len(walked) + 1


DELAY = 0.05  # seconds from a question to its answer


def test_what_was_asked_for_ahead_is_no_longer_good_than_from_then_on(far: Sshd, spot: Path) -> None:
    for number in range(4):
        (spot / f"tree/{number}").mkdir()
        (spot / f"tree/{number}/file").touch()
    with mount(far, spot) as here:
        for entry in os.scandir(here):
            entry.stat()
        os.listdir(here / "0")  # who walks: the others are asked for
        came = time.monotonic() + 0.3
        wait_until(lambda: time.monotonic() > came, "they have come")
        for number in range(4):
            (spot / f"tree/{number}/file").write_text("longer")
            (spot / f"tree/{number}/new").touch()
        changed = time.monotonic()
        wait_until(lambda: time.monotonic() > changed + 0.6, "they are old, but not too old")
        for number in range(4):
            [entry.stat() for entry in os.scandir(here / f"{number}")]
        wait_until(lambda: time.monotonic() > changed + 1.01, "names and attributes are good for a second")
        assert [(here / f"{number}/file").stat().st_size for number in range(4)] == [6] * 4
        assert [sorted(os.listdir(here / f"{number}")) for number in range(4)] == [["file", "new"]] * 4


def test_a_walk_that_changes_what_it_walks_through_meets_each_name_once(far: Sshd, spot: Path) -> None:
    for number in range(30):
        (spot / f"tree/{number}/deeper").mkdir(parents=True)
        (spot / f"tree/{number}/deeper/file").write_text("x")
    with mount(far, spot) as here:
        seen = []
        for at, _, files in os.walk(here):
            seen += files
            for name in files:
                os.rename(os.path.join(at, name), os.path.join(at, f"{name}-seen"))
                assert os.listdir(at) == [f"{name}-seen"]
        assert seen == ["file"] * 30
        done = subprocess.run(["rm", "-r", *map(str, here.iterdir())], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert os.listdir(spot / "tree") == []
