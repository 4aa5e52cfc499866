"""File systems of a test's own, that can be filled, broken and taken away; whatever happens, they are gone at the end."""

import contextlib
import ctypes
import fcntl
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hosts import Server, wait_until

_SHUTDOWN, _NO_FLUSH = 0x8004587D, struct.pack("I", 2)  # EXT4_IOC_SHUTDOWN, EXT4_GOING_FLAGS_NOLOGFLUSH
_libc = ctypes.CDLL(None, use_errno=True)


class Disk:
    """An ext4 on a loop device. image: the file behind it; path: where it is mounted."""

    def __init__(self, image: Path, path: Path) -> None:
        self.image, self.path = image, path

    def mount(self, *options: str) -> None:
        run("mount", "-o", ",".join(("loop", *options)), self.image, self.path)

    def remount(self, how: str) -> None:
        run("mount", "-o", f"remount,{how}", self.path)

    def unmount(self) -> None:
        run("umount", self.path)

    def mount_again(self) -> None:
        """What a restart does: the file system ends, and then its journal is replayed."""
        self.unmount()
        wait_until(self.released, "nobody has it any more")
        self.mount()

    def cut_power(self) -> None:
        """From now on every access fails, and nothing more gets to the image, as when the machine had stopped."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, _NO_FLUSH)
        finally:
            os.close(fd)

    def released(self) -> bool:
        """Whether nobody keeps the file system: the kernel has let go of its image."""
        return str(self.image) not in subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout


def run(*argv: "str | Path") -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{argv}: {done.stderr}")


def unmount(path: Path) -> None:
    """Once nobody uses it: a server closes what a client held a moment after that has hung up."""

    def done() -> bool:
        return subprocess.run(["umount", "-R", path], stderr=subprocess.DEVNULL).returncode == 0

    wait_until(done, f"{path} is unmounted")


@contextlib.contextmanager
def tmpfs(size: str, inodes: int = 100) -> Iterator[Path]:
    """A tmpfs of so many bytes (with K, M)."""
    path = Path(tempfile.mkdtemp(prefix="tmpfs-"))
    try:
        run("mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0755", "tmpfs", path)
        with _unmounted(path):
            yield path
    finally:
        path.rmdir()


@contextlib.contextmanager
def ext4(megabytes: int, *options: str, place: "Path | None" = None) -> Iterator[Disk]:
    """An ext4 of that size with a journal; place: where its image lies."""
    path = Path(tempfile.mkdtemp(prefix="ext4-"))
    number, name = tempfile.mkstemp(prefix="image-", dir=place)
    disk = Disk(Path(name), path)
    try:
        os.truncate(number, megabytes << 20)
        os.close(number)
        run("mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", disk.image)
        disk.mount(*options)
        with _unmounted(path):
            os.rmdir(path / "lost+found")
            yield disk
        wait_until(disk.released, "the kernel lets go of the image")
    finally:
        disk.image.unlink()
        path.rmdir()


@contextlib.contextmanager
def xfs() -> Iterator[Path]:
    """One of the least size that there is (300 MiB, sparse), whose files can share blocks."""
    path = Path(tempfile.mkdtemp(prefix="xfs-"))
    number, image = tempfile.mkstemp(prefix="image-")
    try:
        os.truncate(number, 300 << 20)
        os.close(number)
        run("mkfs.xfs", "-q", "-K", "-m", "reflink=1", image)
        run("mount", "-o", "loop", image, path)
        with _unmounted(path):
            yield path
    finally:
        os.unlink(image)
        path.rmdir()


@contextlib.contextmanager
def _unmounted(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        while os.path.ismount(path):
            _libc.umount2(os.fsencode(path), 2)  # MNT_DETACH: also where somebody still uses it


@contextlib.contextmanager
def serving(tree: Path, *options: str) -> Iterator[Server]:
    """A server that is gone when the body ends: before what it serves is unmounted."""
    server = Server(tree, *options)
    try:
        yield server
        server.check_idle()
        server.stop()
    finally:
        server.kill()
