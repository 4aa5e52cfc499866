"""A server that lies: the kernel sees a wrong file system, and that is all. The mount goes on, and so do who uses it."""

import contextlib
import errno
import os
import stat as modes
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from hosts import CALM, CHECKOUT, GOFER, Server, fails, open_fds, wait_until
from liar import (
    DIR,
    DIRSTAT,
    FILE,
    FSTAT,
    GETDENTS,
    LINK,
    OPENAT,
    PREAD,
    READLINK,
    WALK,
    WALKSTAT,
    Liar,
    entry,
    statx,
)
from mounting import mount, mounted

pytestmark = pytest.mark.slow

@pytest.fixture
def liar(spot: Path) -> Iterator[Liar]:
    made = Liar(spot / "socket")
    yield made
    made.close()


@pytest.fixture
def there(liar: Liar, spot: Path) -> Iterator[Path]:
    """Where it is mounted; the mount has to live through all of it."""
    place = spot / "m"
    place.mkdir()
    argv = [*GOFER, "mount", "--foreground", "--cache=none", "--timeout=2", f"{spot}/socket:", str(place)]
    with open(spot / "log", "wb") as log:
        guard = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        wait_until(lambda: mounted(place) or guard.poll() is not None, "it is mounted")
        yield place
        liar.answers.clear()
        assert os.stat(place / "file").st_size == 5
        assert guard.poll() is None
        assert (spot / "log").read_text() == ""
    finally:
        guard.terminate()
        guard.wait(CALM)
        while mounted(place):
            subprocess.run(["umount", "-l", str(place)], check=True)


def test_the_liar_is_believed_where_it_is_plausible(there: Path) -> None:
    assert (there / "file").read_bytes() == b"hello"
    assert os.readlink(there / "link") == "file"


@pytest.mark.parametrize("mid", [DIRSTAT, GETDENTS])
def test_names_that_none_can_have_are_not_listed(liar: Liar, there: Path, mid: int) -> None:
    names = [b"good", b"a/b", b"", b"..", b".", b"nul\0", b"n" * 300, b"also"]
    once = [False]

    def listing(request: bytes) -> bytes:
        if once[0]:
            return struct.pack("<H", 0)
        once[0] = True
        if mid == DIRSTAT:
            return struct.pack("<H", len(names)) + b"".join(entry(name, statx(FILE, 9)) for name in names)
        dirents = [struct.pack("<QIIQBH", 9, 1, 8, 1, 8, len(name)) + name for name in names]
        return struct.pack("<H", len(names)) + b"".join(dirents)

    liar.answers[mid] = listing
    if mid == GETDENTS:
        liar.answers[DIRSTAT] = errno.EOPNOTSUPP
    assert sorted(os.listdir(there)) == ["also", "good"]


def test_a_directory_without_an_end_can_be_left(liar: Liar, there: Path) -> None:
    liar.answers[DIRSTAT] = struct.pack("<H", 200) + b"".join(entry(b"%d" % i, statx(FILE, 100 + i)) for i in range(200))
    reader = subprocess.Popen(["ls", "-f", str(there)], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    assert reader.poll() is None
    reader.kill()
    assert reader.wait(CALM) == -9


def test_kinds_that_change_are_other_files(liar: Liar, there: Path) -> None:
    for mode in (FILE, DIR, LINK, FILE, modes.S_IFIFO | 0o600, DIR):
        liar.answers[WALK] = struct.pack("<BHQ", 0, 1, 11) + statx(mode, 7)
        liar.answers[FSTAT] = liar.answers[WALKSTAT] = errno.EIO
        with contextlib.suppress(OSError):
            assert modes.S_IFMT(os.lstat(there / "x").st_mode) == modes.S_IFMT(mode)
    with fails(errno.ENOENT):  # where the kernel gets an impossible answer it is EIO, where it gets none ENOENT
        liar.answers[WALK] = struct.pack("<BH", 1, 0)
        os.lstat(there / "x")


@pytest.mark.parametrize("size", [1 << 63, (1 << 64) - 1, (1 << 63) - 1, 1 << 40])
def test_sizes_that_lie_are_an_error_or_an_early_end(liar: Liar, there: Path, size: int) -> None:
    raw = statx(FILE, 8, size)
    liar.answers[WALK] = struct.pack("<BHQ", 0, 1, 11) + raw
    liar.answers[FSTAT] = raw
    liar.answers[PREAD] = lambda request: struct.pack("<Q", 0)
    with contextlib.suppress(OSError), open(there / "large", "rb") as file:
        file.read(10)


MESSAGES = [FSTAT, WALK, WALKSTAT, OPENAT, PREAD, READLINK, DIRSTAT]


GARBAGE = (
    *(b"", b"\0", b"\xff" * 3, b"\xff" * 400, bytes(1000), struct.pack("<BH", 0, 0xFFFF), struct.pack("<H", 0xFFFF) + bytes(200)),
)  # fmt: skip


@pytest.mark.parametrize("mid", MESSAGES)
def test_a_reply_that_is_no_reply_fails_one_request(liar: Liar, there: Path, mid: int) -> None:
    for payload in GARBAGE:
        liar.answers[mid] = payload
        for attempt in attempts(there):
            with contextlib.suppress(OSError):
                attempt()


@pytest.mark.parametrize("number", [511, 512, 4095, errno.ENOSYS, errno.EINTR, errno.EAGAIN])
def test_any_errno_of_the_server_reaches_who_asked_or_is_eio(liar: Liar, there: Path, number: int) -> None:
    for mid in MESSAGES:
        liar.answers[mid] = number
    for attempt in attempts(there):
        with contextlib.suppress(OSError, InterruptedError):
            attempt()
    with pytest.raises(OSError):
        os.stat(there / "file")


def attempts(there: Path) -> list[Callable[[], Any]]:
    return [
        lambda: os.stat(there / "file"),
        lambda: (there / "file").read_bytes(),
        lambda: os.readlink(there / "link"),
        lambda: os.listdir(there),
        lambda: [each.stat() for each in os.scandir(there)],
        lambda: os.listdir(there / "dir"),
        lambda: os.rename(there / "file", there / "other"),
    ]


@pytest.mark.parametrize("what", ["read", "path", "fifo", "directory", "device", "none"])
def test_a_donated_fd_gives_no_more_than_it_is(liar: Liar, there: Path, spot: Path, what: str) -> None:
    """The kernel opens what is passed through by itself, with root's rights: not what the server itself could not write."""
    victim = spot / "victim"
    victim.write_bytes(b"k" * 100_000)
    if what == "fifo":
        os.mkfifo(spot / "fifo")
    where = {"fifo": spot / "fifo", "directory": spot, "device": Path("/dev/zero")}.get(what, victim)
    mode = {"path": os.O_PATH, "fifo": os.O_RDWR, "device": os.O_RDWR}.get(what, os.O_RDONLY)
    raw = statx(FILE, 2, 100_000)
    liar.answers[WALK] = struct.pack("<BHQ", 0, 1, 11) + raw
    liar.answers[FSTAT] = raw
    fd = os.open(where, mode)
    try:
        liar.donates = None if what == "none" else fd
        with contextlib.suppress(OSError):
            (there / "file").read_bytes()
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC):
            with contextlib.suppress(OSError):
                writer = os.open(there / "file", flags)
                try:
                    os.write(writer, b"overwritten")
                finally:
                    os.close(writer)
    finally:
        liar.donates = None
        os.close(fd)
    assert victim.read_bytes() == b"k" * 100_000


def test_a_target_with_a_nul_is_no_target(liar: Liar, there: Path) -> None:
    liar.answers[READLINK] = struct.pack("<H", 5) + b"a\0b/c"
    with fails(errno.EINVAL):
        os.readlink(there / "link")


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("options", [(), ("--no-passthrough",)])
def test_the_mount_process_has_given_up_what_it_does_not_need(server: Server, options: tuple[str, ...]) -> None:
    with mount(server, *options) as there:
        os.listdir(there.path)
        for task in os.listdir(f"/proc/{there.pid}/task"):
            found = status(int(task))
            assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "1")
            kept = int(found["CapEff"], 16) | int(found["CapPrm"], 16)
            assert kept & ~(1 << 21 | 1 << 1 | 1 << 2) == 0  # SYS_ADMIN, DAC_OVERRIDE, DAC_READ_SEARCH
            assert not (options and kept)
        ours = ("socket:", "pipe:", "/memfd:gofer", "/dev/null", "/dev/fuse", str(there.log))
        assert [link for link in open_fds(there.pid) if not link.startswith(ours)] == []


def test_a_mount_process_that_opens_a_file_or_runs_a_program_dies_and_is_unmounted(server: Server) -> None:
    """Somebody has taken it over: here by a table that holds what it must not."""
    code = (
        "import os, sys; from gofer.fuse.table import OPERATIONS; from gofer.fuse.kernel import OPCODES\n"
        "def taken(fs, request): os.execv('/bin/true', ['true'])\n"
        "OPERATIONS[OPCODES['READLINK']] = taken\n"
        "from gofer.cli import main; sys.exit(main(['mount', '--foreground', *sys.argv[1:]]))"
    )
    os.symlink("x", server.tree / "link")
    place = server.place / "m"
    place.mkdir()
    argv = [*GOFER[:-1], "-c", code, f"{server.path}:", str(place)]
    guard = subprocess.Popen(argv, cwd=CHECKOUT, stderr=subprocess.DEVNULL)
    wait_until(lambda: mounted(place), "it is mounted")
    with pytest.raises(OSError):
        os.readlink(place / "link")
    assert guard.wait(CALM) == 1
    assert not mounted(place)
    place.rmdir()
