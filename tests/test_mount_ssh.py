"""`gofer mount HOST:PATH`: a tree of another host as a file system, over a real sshd."""

import contextlib
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import disks
import pytest
from hosts import CALM, CHECKOUT, run, wait_until
from mounting import mounted
from sshd import HOST, Sshd, sshd


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


def test_many_threads_have_their_requests_on_the_way_at_once(far: Sshd, spot: Path) -> None:
    for number in range(20):
        (spot / f"tree/{number}").write_bytes(bytes([number]) * 200_000)
    with mount(far, spot, "--cache=none") as here:
        wrong: list[object] = []

        def read(number: int) -> None:
            for _ in range(5):
                try:
                    if (here / str(number)).read_bytes() != bytes([number]) * 200_000:
                        wrong.append(number)
                except OSError as error:
                    wrong.append(error)

        threads = [threading.Thread(target=read, args=[number]) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


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
