"""What hangs, dies or is stopped: nobody who uses a mount waits for ever, nobody waits for somebody else, all can be killed."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import faulty
import pytest
from hosts import CALM, GOFER, Server, ended, fails, run, serves, stopped, wait_until
from mounting import Mount, mount, mounted

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("GOFER_MOUNT_KILLS", "3"))  # for longer runs


def using(path: Path) -> "subprocess.Popen[bytes]":
    """A process that looks at it."""
    return subprocess.Popen(["stat", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_what_hangs_below_the_server_is_eio_after_the_timeout_and_holds_up_nobody_else(
    start: "object", spot: Path
) -> None:
    (spot / "file").write_text("there")
    with faulty.faulty(spot) as slow:
        server = start(tree=spot)  # type: ignore[operator]
        with mount(server, "--timeout", "3", "--cache=none") as there:
            os.stat(there.path / slow.path.name)
            slow.hang(faulty.LOOKUP)
            waiting = using(there.path / slow.path.name / "file")
            wait_until(lambda: slow.hangs(faulty.LOOKUP), "it waits for the hung file system")
            for _ in range(50):
                assert (there.path / "file").read_text() == "there"
            assert waiting.poll() is None
            assert waiting.wait(CALM) == 1 and waiting.stderr is not None
            with waiting.stderr as told:
                assert b"Input/output error" in told.read()
            slow.vanish()


HUNG = [
    *(("READ", "yes", True), ("READ", "yes", False), ("FLUSH", "yes", True), ("SETATTR", "yes", False)),
    *(("OPEN", "no", True), ("READDIR", "no", False)),
]


@pytest.mark.parametrize("operation, donate, killed", HUNG)
def test_whatever_hangs_below_holds_up_nobody_else_and_it_ends_while_it_hangs(
    start: "object", spot: Path, operation: str, donate: str, killed: bool
) -> None:
    """Also where it is the mount process itself that reads, writes or closes what was donated: nobody can end it then.

    Who waits can be killed; who was not gets an error when it is unmounted.
    """
    (spot / "tree").mkdir()
    (spot / "tree/file").write_text("there")
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.listdir('dir')\n"
        "with open('file', 'r+b', buffering=0) as f: f.read(1); f.write(b'x'); os.fsync(f.fileno()); f.truncate(1)"
    )
    with faulty.faulty(spot / "tree") as slow:
        server = start(f"--donate={donate}", tree=spot / "tree")  # type: ignore[operator]
        with mount(server, "--timeout=0", "--cache=none", "--no-passthrough") as there:
            os.stat(there.path / slow.path.name)
            number = getattr(faulty, operation)
            slow.hang(number)
            argv = [sys.executable, "-c", code, str(there.path / slow.path.name)]
            waiting = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until(lambda: slow.hangs(number), "it waits for the hung file system")
            for _ in range(20):
                assert (there.path / "file").read_text() == "there"
                os.stat(there.path)
            if killed:
                waiting.kill()
                assert waiting.wait(CALM) in (-signal.SIGKILL, 0)  # who closes a file need not wait for that
            there.process.terminate()
            assert there.process.wait(CALM) == 0
            assert killed or waiting.wait(CALM) == 1
            assert not mounted(there.path) and there.said() == ""
            slow.vanish()  # nothing else ends a mount process that hangs in such a call
            wait_until(lambda: ended(there.pid), "the mount process ends")


@pytest.mark.parametrize("operation", ["READ", "OPEN"])
def test_a_mount_process_that_is_killed_while_it_hangs_is_unmounted_at_once(
    start: "object", spot: Path, operation: str
) -> None:
    """In a read of what was donated, a thread of it cannot end before the disk below answers, and nor can it."""
    (spot / "tree").mkdir()
    code = "import os, sys; os.chdir(sys.argv[1])\nwith open('file', 'rb', buffering=0) as f: f.read(1)"
    with faulty.faulty(spot / "tree") as slow:
        server = start(tree=spot / "tree")  # type: ignore[operator]
        with mount(server, "--timeout=0", "--cache=none", "--no-passthrough") as there:
            os.stat(there.path / slow.path.name)
            number = getattr(faulty, operation)
            slow.hang(number)
            argv = [sys.executable, "-c", code, str(there.path / slow.path.name)]
            waiting = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until(lambda: slow.hangs(number), "it waits for the hung file system")
            os.kill(there.pid, signal.SIGKILL)
            assert there.process.wait(CALM) == 1
            assert waiting.wait(CALM) == 1
            assert not mounted(there.path) and there.said() == "gofer: the mount process was killed: unmounted\n"
            slow.vanish()  # nothing else ends what hangs in such a call
            wait_until(lambda: ended(there.pid), "the mount process ends")


def test_who_waits_for_what_hangs_can_be_killed(start: "object", spot: Path) -> None:
    with faulty.faulty(spot) as slow:
        server = start(tree=spot)  # type: ignore[operator]
        with mount(server, "--timeout", "0") as there:
            os.stat(there.path / slow.path.name)
            slow.hang(faulty.LOOKUP)
            waiting = using(there.path / slow.path.name / "file")
            wait_until(lambda: slow.hangs(faulty.LOOKUP), "it waits for the hung file system")
            waiting.kill()
            assert waiting.wait(CALM) == -signal.SIGKILL
            assert waiting.stderr is not None
            waiting.stderr.close()
            slow.vanish()


def test_a_server_that_is_stopped_is_eio_after_the_timeout_and_goes_on_afterwards(server: Server) -> None:
    (server.tree / "file").write_text("there")
    with mount(server, "--timeout", "1", "--cache=none") as there:
        with stopped(server.pid):
            began = time.monotonic()
            for _ in range(2):
                with fails(errno.EIO):
                    os.stat(there.path / "file")
            assert time.monotonic() - began > 1.5
        wait_until(lambda: working(there.path / "file"), "the server answers again")
        assert (there.path / "file").read_text() == "there"


def working(path: Path) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def test_a_server_that_dies_under_load_fails_all_who_wait(start: "object", spot: Path) -> None:
    """What was fsynced is on the host; nobody hangs, and nothing stays mounted."""
    tree = spot / "tree"
    tree.mkdir()
    rng = random.Random(4)
    for _ in range(KILLS):
        server = Server(tree)
        try:
            with mount(server) as there:
                load = under_load(there)
                time.sleep(rng.random() * 0.3)
                for pid in (server.process.pid, server.pid):
                    os.kill(pid, signal.SIGKILL)
                acknowledged = load()
                server.process.wait()
                with fails(errno.ENOTCONN):
                    os.listdir(there.path)
                assert run("umount", "-l", str(there.path)).returncode == 0
                wait_until(lambda: ended(there.pid), "the mount process ends")
                assert there.process.wait(CALM) == 0
        finally:
            server.kill()
        for name in acknowledged:
            assert (tree / name).read_bytes() == name.encode() * 100


def test_a_mount_process_that_dies_under_load_is_unmounted_and_what_was_synced_is_there(server: Server) -> None:
    rng = random.Random(5)
    for _ in range(KILLS):
        with mount(server) as there:
            load = under_load(there)
            time.sleep(rng.random() * 0.3)
            os.kill(there.pid, signal.SIGKILL)
            acknowledged = load()
            assert there.process.wait(CALM) == 1
            assert not mounted(there.path)
        for name in acknowledged:
            assert (server.tree / name).read_bytes() == name.encode() * 100


def under_load(there: Mount) -> "object":
    """Three processes that write, sync and rename; the function waits for their failure, and returns what they have synced."""
    code = (
        "import os, sys\n"
        "try:\n"
        "    os.chdir(sys.argv[1]); i = 0\n"  # by the path they would write to what is below, once the mount is gone
        "    while True:\n"
        "        name = f'{os.getpid()}-{i}'\n"
        "        fd = os.open(f'new-{name}', os.O_CREAT | os.O_WRONLY)\n"
        "        os.write(fd, name.encode() * 100); os.fsync(fd); os.close(fd)\n"
        "        os.rename(f'new-{name}', name)\n"
        "        print(name, flush=True); i += 1\n"
        "except OSError: pass\n"
    )
    argv, before = [sys.executable, "-c", code, str(there.path)], len(os.listdir(there.tree))
    workers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]

    def finish() -> list[str]:
        said = []
        for worker in workers:
            said += worker.communicate(timeout=CALM)[0].split()
            assert worker.returncode == 0
        return said

    wait_until(lambda: len(os.listdir(there.tree)) > before + 5, "they write")
    return finish


def test_many_mounts_and_umounts_leave_nothing(server: Server) -> None:
    (server.tree / "file").write_text("there")
    many = int(os.environ.get("GOFER_MOUNTS", "4"))
    for i in range(many):
        with mount(server) as there:
            assert (there.path / "file").read_text() == "there"
            if i % 2:
                assert run("umount", str(there.path)).returncode == 0
                assert there.process.wait(CALM) == 0
    wait_until(lambda: len(server.open_fds()) == server.fds, "the server has closed what the mounts held")


def test_many_readers_at_once_are_all_answered(server: Server) -> None:
    for i in range(50):
        (server.tree / str(i)).write_bytes(bytes([i]) * 10_000)
    wrong: list[int] = []
    with mount(server, "--cache=none", "--fd-budget=16") as there:

        def read() -> None:
            rng = random.Random()
            for _ in range(150):
                i = rng.randrange(50)
                if (there.path / str(i)).read_bytes() != bytes([i]) * 10_000:
                    wrong.append(i)

        readers = [threading.Thread(target=read) for _ in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert wrong == []


def test_a_guard_that_is_killed_leaves_a_mount_that_works_and_can_be_unmounted(server: Server) -> None:
    (server.tree / "file").write_text("there")
    with mount(server) as there:
        os.stat(there.path / "file")
        there.process.kill()
        there.process.wait()
        assert (there.path / "file").read_text() == "there"
        assert run("umount", str(there.path)).returncode == 0
        wait_until(lambda: ended(there.pid), "the mount process ends")


def test_a_server_that_comes_back_is_taken_up_again(spot: Path) -> None:
    """By path, where the inode is still the same; what is not is ESTALE."""
    tree = spot / "tree"
    (tree / "dir").mkdir(parents=True)
    for name in ("same", "replaced", "dir/deep"):
        (tree / name).write_text(name)
    server = Server(tree)
    argv = [*GOFER, "serve", str(tree), "--quiet", "--workers=1", "--socket", str(server.path)]
    again = None
    try:
        with mount(server, "--reconnect", "--cache=none", "--no-passthrough") as there:
            held = [os.open(there.path / name, os.O_RDWR) for name in ("same", "replaced")]
            listing = os.scandir(there.path / "dir")
            for pid in (server.process.pid, server.pid):
                os.kill(pid, signal.SIGKILL)
            server.process.wait()
            with fails(errno.ENOTCONN):
                os.stat(there.path / "same")
            os.unlink(tree / "replaced")
            (tree / "replaced").write_text("new")
            again = subprocess.Popen(argv)
            wait_until(lambda: working(there.path / "same"), lambda: f"the server is taken up again: {there.said()}", 5)
            assert os.pread(held[0], 100, 0) == b"same" and os.fstat(held[0]).st_size == 4
            os.pwrite(held[0], b"S", 0)
            assert (tree / "same").read_text() == (there.path / "same").read_text() == "Same"
            with fails(errno.ESTALE):
                os.fstat(held[1])
            assert (there.path / "replaced").read_text() == "new"
            assert [entry.name for entry in listing] == ["deep"]
            assert (there.path / "dir/deep").read_text() == "dir/deep"
            listing.close()
            for fd in held:
                os.close(fd)
            said = there.said()
            assert "went away" in said and "is back" in said
            there.log.write_text("")
    finally:
        if again is not None:
            again.terminate()
            again.wait()
        server.kill()


def answers(path: Path) -> bool:
    try:
        return serves(path)
    except OSError:
        return False


def test_another_tree_is_not_taken_for_the_one_that_went_away(spot: Path) -> None:
    for name in ("tree", "other"):
        (spot / name).mkdir()
    server = Server(spot / "tree")
    argv = [*GOFER, "serve", str(spot / "other"), "--quiet", "--workers=1", "--socket", str(server.path)]
    try:
        with mount(server, "--reconnect", "--cache=none") as there:
            os.listdir(there.path)
            for pid in (server.process.pid, server.pid):
                os.kill(pid, signal.SIGKILL)
            server.process.wait()
            other = subprocess.Popen(argv)
            try:
                wait_until(lambda: answers(server.path), "the other server answers")
                for _ in range(40):
                    with fails(errno.ENOTCONN):
                        os.stat(there.path / "file")
                    time.sleep(0.01)
            finally:
                other.terminate()
                other.wait()
            there.log.write_text("")
    finally:
        server.kill()
