"""Directories in a mount: long ones, those that change while they are read, and what the kernel gets to know of them."""

import os
import random
import subprocess
import threading
from pathlib import Path

import pytest
from hosts import CHECKOUT, GOFER, Server, children, wait_until
from mounting import Mount, messages, mount, takes

pytestmark = pytest.mark.slow
NAMES = int(os.environ.get("GOFER_MOUNT_NAMES", "12000"))  # a million in longer runs


def resident(pid: int) -> int:
    """KiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize("how", ["stats", "names"])
def test_a_long_directory_is_listed_whole_in_little_memory(server: Server, how: str) -> None:
    for i in range(NAMES):
        os.mknod(server.tree / f"{i:07}")
    with mount(server) as there:
        seen = 0
        for entry in os.scandir(there.path):
            assert len(entry.name) == 7
            seen += 1
            if how == "stats" and seen % 500 == 0:
                entry.stat()
        assert seen == NAMES
        assert resident(there.pid) < (64 << 10) + 20_000  # 50,000 nodes, and the interpreter
        before = len(server.open_fds())
        subprocess.run(["ls", "-U", there.path], stdout=subprocess.DEVNULL, check=True)
        assert len(server.open_fds()) < before + 100


def test_what_was_read_ahead_for_nothing_takes_little_memory(server: Server) -> None:
    """find(1) asks for the names of a long directory by inode number, which on tmpfs is from its end: a million took 400 MiB.

    What is kept is 50,000 entries; here 1000, so that fewer tell.
    """
    code = (
        "import sys; from gofer.fuse import ahead; ahead._KEPT = 1000\n"
        "from gofer.cli import main; sys.exit(main(['mount', '--foreground', *sys.argv[1:]]))"
    )
    for i in range(20_000):
        os.mknod(server.tree / f"{i:0100}")
    place = server.place / "m"
    place.mkdir()
    options = ("--node-budget=500", "--fd-budget=100")
    guard = subprocess.Popen([*GOFER[:-1], "-c", code, *options, f"{server.path}:", str(place)], cwd=CHECKOUT)
    try:
        wait_until(lambda: f" {place} " in Path("/proc/self/mountinfo").read_text(), "it is mounted")
        names = sorted(os.listdir(place), key=lambda name: -os.stat(server.tree / name).st_ino)
        before = resident(children(guard.pid)[0])
        for name in names[:8000]:
            os.lstat(place / name)
        assert resident(children(guard.pid)[0]) - before < 4000
    finally:
        guard.terminate()
        assert guard.wait() == 0
        place.rmdir()


def test_names_that_stay_are_listed_once_while_others_come_and_go(server: Server) -> None:
    """On the host and in the mount: made, renamed and removed, as fast as they can be."""
    lasting = {f"stays-{i}-{'x' * (i % 60)}" for i in range(2000)}
    for name in lasting:
        (server.tree / name).touch()
    over = threading.Event()

    def churn(at: Path, seed: int) -> None:
        rng, number, names = random.Random(seed), 0, [""]
        while not over.is_set():
            number += 1
            new, index = f"{seed}-{number}-{'y' * rng.randrange(80)}", rng.randrange(len(names))
            if len(names) < 300 and number % 3:
                (at / new).touch()
                names.append(new)
            elif names[index] and number % 2:
                os.rename(at / names[index], at / new)
                names[index] = new
            elif names[index]:
                os.unlink(at / names.pop(index))

    with mount(server) as there:
        churning = [threading.Thread(target=churn, args=each) for each in ((server.tree, 1), (there.path, 2))]
        for thread in churning:
            thread.start()
        try:
            for _ in range(8):
                found = [entry.name for entry in os.scandir(there.path) if entry.name.startswith("stays-")]
                assert len(found) == len(set(found)) and set(found) == lasting
        finally:
            over.set()
            for thread in churning:
                thread.join()


def test_rewinding_and_seeking_in_a_directory(server: Server) -> None:
    for i in range(2500):
        (server.tree / f"{i}").touch()
    code = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
libc.readdir.argtypes = libc.rewinddir.argtypes = libc.telldir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
name = lambda entry: ctypes.string_at(entry + 19)
d = libc.opendir(sys.argv[1].encode())
def rest():
    found = []
    while True:
        entry = libc.readdir(d)
        if not entry: return found
        found.append(name(entry))
first = [name(libc.readdir(d)) for _ in range(700)]
place = libc.telldir(d)
behind = rest()
libc.seekdir(d, place)
assert rest() == behind, 'seekdir'
libc.rewinddir(d)
assert rest() == first + behind, 'rewinddir'
assert len(set(first + behind)) == 2502
open(sys.argv[1] + '/new', 'w').close()
libc.rewinddir(d)
assert b'new' in rest(), 'what is new'
"""
    with mount(server) as there:
        subprocess.run(["python3", "-c", code, str(there.path)], check=True)


def test_a_server_without_our_own_message_is_listed_as_well(server: Server) -> None:
    """As another project's would answer: EOPNOTSUPP."""
    code = (
        "import sys; from gofer import wire; wire.DIRSTAT = 72\n"
        "from gofer.cli import main; sys.exit(main(['mount', '--foreground', *sys.argv[1:]]))"
    )
    for i in range(1500):
        (server.tree / str(i)).write_text("x" * (i % 7))
    place = server.place / "m"
    place.mkdir()
    checkout = str(Path(__file__).resolve().parent.parent)
    guard = subprocess.Popen(["python3", "-c", code, f"{server.path}:", str(place)], cwd=checkout)
    try:
        wait_until(lambda: f" {place} " in Path("/proc/self/mountinfo").read_text(), "it is mounted")
        found = {entry.name: entry.stat().st_size for entry in os.scandir(place)}
        assert found == {str(i): i % 7 for i in range(1500)}
    finally:
        guard.terminate()
        assert guard.wait() == 0
        place.rmdir()


def test_nodes_beyond_the_budget_are_forgotten(server: Server) -> None:
    """Each holds an fd of the server's here, so it shows."""
    for i in range(3000):
        (server.tree / str(i)).touch()
    with mount(server, "--node-budget=500", "--fd-budget=100000") as there:
        for i in range(3000):
            os.stat(there.path / str(i))
        wait_until(
            lambda: len(server.open_fds()) < 800, lambda: f"the kernel forgets: {len(server.open_fds())} fds are left"
        )
        for i in range(0, 3000, 100):  # and what was forgotten is found again
            os.chmod(there.path / str(i), 0o600)
    assert os.stat(server.tree / "2900").st_mode & 0o777 == 0o600


def test_who_looks_at_each_name_of_a_directory_gets_many_by_one_message(told: tuple[Server, Path]) -> None:
    server, control = told
    for i in range(3000):
        (server.tree / f"{i}").write_text("x" * (i % 9))

    def work(there: Mount) -> None:
        for i in range(3000):
            assert os.stat(there.path / str(i)).st_size == i % 9

    takes(server, control, work, lambda sent: sum(sent.values()) < 300)


def test_what_was_read_ahead_is_not_told_of_what_has_changed_since(server: Server) -> None:
    for i in range(200):
        (server.tree / f"{i}").write_text("old")
    with mount(server) as there:
        for i in range(60):
            os.stat(there.path / str(i))
        (there.path / "100").write_text("longer")
        os.unlink(there.path / "101")
        os.rename(there.path / "102", there.path / "103")
        os.chmod(there.path / "104", 0o600)
        with open(there.path / "105", "r+b", buffering=0) as file:
            for i in range(60, 100):
                os.stat(there.path / str(i))
            file.write(b"y" * 70_000)
            assert os.stat(there.path / "105").st_size == 70_000
        for i in range(110, 160):
            os.stat(there.path / str(i))
        assert os.stat(there.path / "100").st_size == 6
        assert not (there.path / "101").exists() and not (there.path / "102").exists()
        assert os.stat(there.path / "103").st_size == 3
        assert os.stat(there.path / "104").st_mode & 0o777 == 0o600
        assert os.stat(there.path / "105").st_size == 70_000


def test_threads_that_look_at_a_directory_each_get_many_names_by_one_message(told: tuple[Server, Path]) -> None:
    server, control = told
    for directory in range(4):
        (server.tree / str(directory)).mkdir()
        for i in range(200):
            os.mknod(server.tree / str(directory) / f"{i}")

    def work(there: Mount) -> None:
        for directory in range(4):
            os.stat(there.path / str(directory))
        for i in range(200):
            for directory in range(4):
                assert os.stat(there.path / str(directory) / f"{i}").st_size == 0

    takes(server, control, work, lambda sent: sent["Walk"] + sent["WalkStat"] < 200 and sent["DirStat"] < 50)


def test_attributes_of_a_file_that_is_open_are_asked_of_the_kernel(told: tuple[Server, Path], spot: Path) -> None:
    server, control = told
    with mount(server) as there:
        with open(there.path / "file", "wb", buffering=0) as file:
            file.write(b"x")
            before = messages(server, control)
            for i in range(20):
                file.write(b"y" * 999)
                assert os.fstat(file.fileno()).st_size == os.stat(there.path / "file").st_size == 1 + 999 * (i + 1)
                os.fchmod(file.fileno(), 0o600 + i % 8)
                os.utime(file.fileno(), ns=(i * 10**9 + 5, i * 10**9 + 7))
                seen, below = os.fstat(file.fileno()), os.stat(server.tree / "file")
                for name in (
                    "st_mode",
                    "st_uid",
                    "st_gid",
                    "st_nlink",
                    "st_blocks",
                    "st_mtime_ns",
                    "st_ctime_ns",
                    "st_ino",
                ):
                    assert getattr(seen, name) == getattr(below, name), name
            sent = messages(server, control) - before
            assert sent["SetStat"] == 40 and not sent["FStat"], sent
        assert os.stat(there.path / "file").st_mtime_ns == os.stat(server.tree / "file").st_mtime_ns
