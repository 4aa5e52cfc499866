"""What a system call answers in a mount is what it answers on the file system below: each errno, by root and by somebody else."""

import errno
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable

import disks
import faulty
import pytest
from disks import serving
from hosts import CALM, GOFER, Server, fails, fails_in_one_line, run, wait_until
from mounting import mount

pytestmark = pytest.mark.slow
LONG, LONGEST = "n" * 256, "n" * 255
R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR


def prepare(at: Path) -> None:
    (at / "dir/sub").mkdir(parents=True)
    (at / "file").write_bytes(b"contents")
    (at / "other").write_bytes(b"other")
    (at / "full").mkdir()
    (at / "full/entry").touch()
    (at / "empty").mkdir()
    os.symlink("file", at / "link")
    os.symlink("nowhere", at / "dangling")
    os.symlink("loop", at / "loop")
    os.symlink("dir", at / "dirlink")
    os.mkfifo(at / "fifo")
    for name, mode in (("secret", 0o600), ("readable", 0o644), ("nobodys", 0)):
        (at / name).write_bytes(b"x")
        os.chmod(at / name, mode)
    (at / "closed").mkdir(mode=0o700)
    (at / "closed/file").touch()
    (at / "sticky").mkdir()
    os.chmod(at / "sticky", 0o1777)
    (at / "sticky/rooted").touch()
    (at / "open").mkdir()
    os.chmod(at / "open", 0o777)


def _open(name: str, flags: int, mode: int = 0o644) -> Callable[[], Any]:
    return lambda: os.close(os.open(name, flags, mode))


def _written(name: str, flags: int, call: Callable[[int], Any]) -> Callable[[], Any]:
    def attempt() -> Any:
        fd = os.open(name, flags)
        try:
            return call(fd)
        finally:
            os.close(fd)

    return attempt


# Each is made in a tree of its own order: later ones see what earlier ones left.
CALLS: dict[str, Callable[[], Any]] = {
    "stat missing": lambda: os.stat("missing"),
    "stat below a file": lambda: os.stat("file/x"),
    "stat a loop": lambda: os.stat("loop"),
    "stat a long name": lambda: os.stat(LONG),
    "stat a dangling link": lambda: os.stat("dangling"),
    "stat a file with a slash": lambda: os.stat("file/"),
    "access": lambda: (os.access("file", os.R_OK), os.access("file", os.X_OK), os.access("secret", os.R_OK)),
    "open missing": _open("missing", R),
    "open a directory to write": _open("dir", W),
    "open a directory": _open("dir", R | os.O_DIRECTORY),
    "open a file as a directory": _open("file", R | os.O_DIRECTORY),
    "open a link that is not to be followed": _open("link", R | os.O_NOFOLLOW),
    "open what is there exclusively": _open("file", RW | os.O_CREAT | os.O_EXCL),
    "open a directory to create": _open("dir", RW | os.O_CREAT),
    "open through a dangling link to create": _open("dangling", RW | os.O_CREAT),
    "open in nowhere to create": _open("missing/x", RW | os.O_CREAT),
    "open below a file to create": _open("file/x", RW | os.O_CREAT),
    "open a long name to create": _open(LONG, RW | os.O_CREAT),
    "open the longest name to create": _open(LONGEST, RW | os.O_CREAT),
    "open a fifo to write": _open("fifo", W | os.O_NONBLOCK),
    "open what is secret": _open("secret", R),
    "open what is readable to write": _open("readable", RW),
    "open what nobody may": _open("nobodys", R),
    "open in what is closed": _open("closed/file", R),
    "create in what is open": _open("open/mine", RW | os.O_CREAT),
    "create in what is not": _open("empty/mine", RW | os.O_CREAT),
    "read what is open to write": _written("open/mine", W, lambda fd: os.read(fd, 1)),
    "write what is open to read": _written("file", R, lambda fd: os.write(fd, b"x")),
    "read a directory": _written("dir", R, lambda fd: os.read(fd, 1)),
    "seek before the start": _written("file", R, lambda fd: os.lseek(fd, -1, os.SEEK_SET)),
    "seek for data behind the end": _written("file", R, lambda fd: os.lseek(fd, 100, os.SEEK_DATA)),
    "truncate to less than nothing": lambda: os.truncate("open/mine", -1),
    "truncate a directory": lambda: os.truncate("dir", 0),
    "truncate missing": lambda: os.truncate("missing", 0),
    "truncate readable": lambda: os.truncate("readable", 0),
    "ftruncate what is open to read": _written("file", R, lambda fd: os.ftruncate(fd, 0)),
    "mkdir what is there": lambda: os.mkdir("dir"),
    "mkdir over a file": lambda: os.mkdir("file"),
    "mkdir over a dangling link": lambda: os.mkdir("dangling"),
    "mkdir in nowhere": lambda: os.mkdir("missing/x"),
    "mkdir a long name": lambda: os.mkdir(LONG),
    "mkdir a dot": lambda: os.mkdir("dir/."),
    "rmdir what is full": lambda: os.rmdir("full"),
    "rmdir a file": lambda: os.rmdir("file"),
    "rmdir missing": lambda: os.rmdir("missing"),
    "rmdir a dot": lambda: os.rmdir("dir/."),
    "rmdir a parent": lambda: os.rmdir("dir/sub/.."),
    "rmdir a link": lambda: os.rmdir("dirlink"),
    "unlink a directory": lambda: os.unlink("dir"),
    "unlink missing": lambda: os.unlink("missing"),
    "unlink in a sticky directory": lambda: os.unlink("sticky/rooted"),
    "unlink in what is not open": lambda: os.unlink("full/entry"),
    "link to what is there": lambda: os.link("file", "other"),
    "link a directory": lambda: os.link("dir", "hard"),
    "link missing": lambda: os.link("missing", "hard"),
    "link a link": lambda: os.link("link", "open/hardlink", follow_symlinks=False),
    "link into nowhere": lambda: os.link("file", "missing/x"),
    "symlink over what is there": lambda: os.symlink("x", "file"),
    "symlink empty": lambda: os.symlink("", "open/empty"),
    "symlink long": lambda: os.symlink("t" * 4095, "open/long"),
    "symlink too long": lambda: os.symlink("t" * 5000, "open/longer"),
    "readlink a file": lambda: os.readlink("file"),
    "readlink": lambda: os.readlink("link"),
    "rename missing": lambda: os.rename("missing", "x"),
    "rename a directory into itself": lambda: os.rename("dir", "dir/sub/x"),
    "rename a file over a directory": lambda: os.rename("file", "dir"),
    "rename a directory over a file": lambda: os.rename("dir", "file"),
    "rename a directory over a full one": lambda: os.rename("dir", "full"),
    "rename to a long name": lambda: os.rename("file", LONG),
    "rename to itself": lambda: os.rename("open/mine", "open/mine"),
    "rename over another": lambda: os.rename("open/mine", "open/moved"),
    "rename a sticky one": lambda: os.rename("sticky/rooted", "sticky/x"),
    "chmod": lambda: os.chmod("file", 0o640),
    "chmod missing": lambda: os.chmod("missing", 0),
    "chown": lambda: os.chown("file", 0, 0),
    "chown to another": lambda: os.chown("file", 5, 5),
    "utime missing": lambda: os.utime("missing"),
    "utime now": lambda: os.utime("readable"),
    "utime then": lambda: os.utime("readable", (1, 2)),
    "getxattr missing": lambda: os.getxattr("file", "user.missing"),
    "setxattr": lambda: os.setxattr("open/moved", "user.name", b"value"),
    "setxattr what is there": lambda: os.setxattr("open/moved", "user.name", b"value", os.XATTR_CREATE),
    "setxattr what is not": lambda: os.setxattr("open/moved", "user.none", b"value", os.XATTR_REPLACE),
    "getxattr": lambda: os.getxattr("open/moved", "user.name").decode(),
    "listxattr": lambda: os.listxattr("open/moved"),
    "removexattr missing": lambda: os.removexattr("open/moved", "user.none"),
    "removexattr": lambda: os.removexattr("open/moved", "user.name"),
    "setxattr of a link": lambda: os.setxattr("link", "user.x", b"", follow_symlinks=False),
    "mknod a file": lambda: os.mknod("open/node"),
    "mknod over what is there": lambda: os.mknod("file"),
    "listdir a file": lambda: os.listdir("file"),
    "listdir closed": lambda: sorted(os.listdir("closed")),
    "listdir": lambda: sorted(os.listdir("open")),
    "fallocate what is open to read": _written("file", R, lambda fd: os.posix_fallocate(fd, 0, 10)),
    "execute": lambda: subprocess.call(["./file"]),
    "statvfs": lambda: os.statvfs(".").f_namemax,
}  # fmt: skip


def outcomes(at: Path, uid: int) -> dict[str, Any]:
    """Of each call, made in this directory by this user: the errno's name, or what it returned."""
    code = (
        "import json, os, sys; sys.path[:0] = sys.argv[4:]; import test_mount_errors as t\n"
        "os.chdir(sys.argv[1]); uid = int(sys.argv[2]); os.umask(0o022)\n"
        "if uid: os.setgroups([]); os.setgid(uid); os.setuid(uid)\n"
        "found = {}\n"
        "for name, call in t.CALLS.items():\n"
        "    try: found[name] = call()\n"
        "    except OSError as e: found[name] = t.errno.errorcode[e.errno]\n"
        "print(json.dumps(found))"
    )
    argv = [sys.executable, "-c", code, str(at), str(uid), "x", *[path for path in sys.path if path]]
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("uid", [0, 65534])
def test_each_call_answers_what_it_answers_on_the_file_system_below(server: Server, spot: Path, uid: int) -> None:
    (server.tree / "root").mkdir()
    prepare(server.tree / "root")
    prepare(spot)
    with mount(server, "--allow-other") as there:
        os.chmod(there.path.parent, 0o755)
        ours, theirs = outcomes(there.path / "root", uid), outcomes(spot, uid)
    differing = {name: (ours[name], theirs[name]) for name in theirs if ours[name] != theirs[name]}
    assert differing == {}
    assert len({str(each) for each in theirs.values()}) > 15


def test_what_is_refused_here_and_not_below_is_refused_cleanly(server: Server) -> None:
    """The server makes no devices, FIFOs or sockets for anybody."""
    with mount(server) as there:
        for attempt in (
            lambda: os.mkfifo(there.path / "fifo"),
            lambda: os.mknod(there.path / "null", 0o020600, os.makedev(1, 3)),
            lambda: socket.socket(socket.AF_UNIX).bind(str(there.path / "sock")),
        ):
            with fails(errno.EPERM):
                attempt()
        assert os.listdir(there.path) == []


def test_a_file_without_a_name_is_refused_so_that_programs_take_another_way(server: Server) -> None:
    """The protocol has none: EOPNOTSUPP is what tells tempfile and others to make one with a name, and remove that."""
    with mount(server) as there:
        for _ in range(2):  # once it is asked of us, then the kernel knows
            with fails(errno.EOPNOTSUPP):
                os.open(there.path, os.O_TMPFILE | os.O_RDWR)
        with tempfile.TemporaryFile(dir=there.path) as file:
            file.write(b"contents")
            file.seek(0)
            assert file.read() == b"contents"
            assert os.listdir(there.path) == []


def test_files_are_always_ready_and_a_fifo_is_when_there_is_something_in_it(server: Server) -> None:
    """POLL is not answered: files and directories never wait, and of a FIFO nothing but the name is ours: it is the kernel's."""
    (server.tree / "file").touch()
    os.mkfifo(server.tree / "fifo")
    with mount(server) as there:
        for name in ("file", "fifo"):
            for place in (there.path, server.tree):
                reader, writer = (os.open(place / name, flags) for flags in (os.O_RDONLY | os.O_NONBLOCK, os.O_RDWR))
                poll = select.poll()
                poll.register(reader, select.POLLIN)
                ready = [bool(poll.poll(0))]
                os.write(writer, b"x")
                ready.append(bool(poll.poll(0)))
                assert ready == [name == "file", True]
                assert os.read(reader, 1) == b"x"
                os.close(reader)
                os.close(writer)


@pytest.mark.parametrize("options", [(), ("--no-passthrough",), ("--writeback",)])
@pytest.mark.parametrize("donate", ["yes", "no"])
def test_a_full_disk_is_enospc_and_once_there_is_room_it_goes_on(options: tuple[str, ...], donate: str) -> None:
    """What the kernel writes later fails later: at fsync(2), at the latest."""
    with disks.tmpfs("1M") as place, serving(place, f"--donate={donate}") as server, mount(server, *options) as there:
        fd = os.open(there.path / "file", os.O_WRONLY | os.O_CREAT)
        with fails(errno.ENOSPC):
            for _ in range(20):
                os.write(fd, b"x" * 100_000)
            os.fsync(fd)
        os.close(fd)
        os.unlink(there.path / "file")
        wait_until(lambda: os.statvfs(place).f_bfree > 200, "the server closes what was removed")
        (there.path / "file").write_bytes(b"y" * 100_000)
        assert (place / "file").read_bytes() == b"y" * 100_000
        with fails(errno.ENOSPC):
            for i in range(200):
                (there.path / f"{i}").touch()


@pytest.mark.parametrize("donate", ["yes", "no"])
def test_what_a_full_disk_takes_only_a_part_of_is_enospc_with_the_write_back_cache_too(donate: str) -> None:
    """The kernel does not look how much of its cache was written, only whether that failed."""
    with disks.tmpfs("1M") as place, serving(place, f"--donate={donate}") as server, mount(server, "--writeback") as there:
        (place / "other").write_bytes(b"x" * 900_000)
        fd = os.open(there.path / "file", os.O_WRONLY | os.O_CREAT)
        try:
            os.write(fd, b"y" * 300_000)
            with fails(errno.ENOSPC):
                os.fsync(fd)
        finally:
            os.close(fd)


def test_a_failing_disk_is_eio(spot: Path) -> None:
    with (
        faulty.faulty(spot) as bad,
        serving(spot) as server,
        mount(server, "--cache=none", "--no-passthrough") as there,
    ):
        below = there.path / bad.path.name
        bad.fail(faulty.READ, errno.EIO)
        with fails(errno.EIO):
            (below / "file").read_bytes()
        bad.fail(faulty.WRITE, errno.EIO)
        with fails(errno.EIO), open(below / "file", "r+b", buffering=0) as file:
            file.write(b"x")
        bad.fail(faulty.FSYNC, errno.EIO)
        with fails(errno.EIO), open(below / "file", "r+b", buffering=0) as file:
            os.fsync(file.fileno())
        bad.well()


HIDDEN = "mount -t tmpfs none /dev"  # nobody else's /dev: in a mount namespace of its own
REFUSED = "mount -t tmpfs -o nodev none /mnt && mknod /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse"
NO_DEVICE = 'mount --bind "$1" /dev/fuse'
POWERLESS = "setpriv --bounding-set=-sys_admin --inh-caps=-all"


@pytest.mark.parametrize("where", ["--background", "--foreground"])
def test_a_host_that_cannot_mount_is_one_line_and_leaves_nothing(server: Server, spot: Path, where: str) -> None:
    (spot / "m").mkdir()
    (spot / "file").touch()
    for before, prefix, *words in (
        (HIDDEN, "", "/dev/fuse", "No such file", "modprobe fuse"),
        (REFUSED, "", "/dev/fuse", "Permission denied", "--device /dev/fuse"),
        (NO_DEVICE, "", "cannot mount on", "gofer doctor"),
        (":", POWERLESS, "cannot mount on", "not permitted", "CAP_SYS_ADMIN"),
    ):
        script = f'{before} && shift && exec {prefix} "$@"'
        argv = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script,
            "sh",
            str(spot / "file"),
            *GOFER,
            "mount",
            where,
            str(server.path),
        ]
        done = subprocess.run([*argv, str(spot / "m")], capture_output=True, text=True, timeout=CALM)
        fails_in_one_line(done, *words)
    fails_in_one_line(run("mount", where, str(server.path), ""), "give one that is there")
    assert os.listdir(spot / "m") == []
