"""Random operations on a mount and on a plain directory beside what is served: same results, same errors, same trees, each step.

GOFER_MOUNT_STEPS=20000 GOFER_MOUNT_SEED=7 tries more, and others.
"""

import ctypes
import errno
import os
import random
import stat as modes
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from hosts import Server
from mounting import Mount, mount

pytestmark = pytest.mark.slow
STEPS = int(os.environ.get("GOFER_MOUNT_STEPS", "300"))
SEED = int(os.environ.get("GOFER_MOUNT_SEED", "1"))
WAYS = {
    "passthrough, auto": (),
    "passthrough, none": ("--cache=none",),
    "fd, auto": ("--no-passthrough",),
    "fd, few FDs": ("--no-passthrough", "--cache=none", "--fd-budget=8", "--node-budget=4"),
    "message, auto": ("--no-passthrough",),
    "message, none": ("--cache=none",),
    "passthrough, always": ("--cache=always",),
    "writeback": ("--writeback",),
}
ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
CREAT = os.O_CREAT
MORE = (
    0,
    0,
    CREAT,
    CREAT,
    CREAT | os.O_EXCL,
    CREAT | os.O_TRUNC,
    os.O_TRUNC,
    os.O_APPEND,
    os.O_DIRECTORY,
    os.O_NOFOLLOW,
)
XATTRS = ("user.a", "user.b")
KEEP_SIZE, PUNCH_HOLE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)
Step = Callable[["Side"], Any]


class Side:
    """One of the two trees: by paths below `at`, and by fds, which have the same index on both sides."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.fds: list[int] = []

    def path(self, name: str) -> str:
        return f"{self.at}/{name}"

    def close(self, index: int) -> None:
        os.close(self.fds.pop(index))

    def does(self, step: Step) -> Any:
        """What it returns, or the errno's name."""
        try:
            return step(self)
        except OSError as error:
            return errno.errorcode[error.errno or 0]

    def tree(self) -> dict[str, Any]:
        """All that does not differ between two file systems: of names for one file it is told that they are."""
        found: dict[str, Any] = {}
        first: dict[int, str] = {}
        for name in ("", *sorted(self._names(""))):
            path = self.path(name)
            stat = os.lstat(path)
            kind = modes.S_IFMT(stat.st_mode)
            inside: Any = None
            if kind == modes.S_IFREG:
                with open(path, "rb") as file:
                    inside = file.read()
            elif kind == modes.S_IFLNK:
                inside = os.readlink(path)
            names = [] if kind == modes.S_IFLNK else sorted(os.listxattr(path))
            xattrs = {each: os.getxattr(path, each) for each in names}
            size = stat.st_size if kind == modes.S_IFREG else -1
            same = first.setdefault(stat.st_ino, name)
            found[name] = (stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, size, same, inside, xattrs)
        return found

    def _names(self, below: str) -> Iterator[str]:
        for entry in os.scandir(self.path(below)):
            yield below + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from self._names(f"{below}{entry.name}/")


def renameat2(old: str, new: str, flags: int) -> None:
    if _libc.renameat2(-100, old.encode(), -100, new.encode(), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


class Walk:
    """Chooses steps: so that they often meet what is there, and sometimes what is not."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.open = 0  # fds there are, on each side
        self.tree: dict[str, Any] = {}  # as it is

    def name(self) -> str:
        """One that is there, or would be below one that is: most often below a directory."""
        if self.tree and self.rng.random() < 0.5:
            return self.rng.choice(list(self.tree)) or "."
        folders = [each for each, found in self.tree.items() if modes.S_ISDIR(found[0])]
        above = self.rng.choice(folders if folders and self.rng.random() < 0.9 else list(self.tree) or [""])
        return f"{above}/{self.rng.choice('abcd')}".lstrip("/") if above.count("/") < 2 else above

    def at(self) -> int:
        return self.rng.choice((0, 0, self.rng.randrange(100), self.rng.randrange(10_000), self.rng.randrange(90_000)))

    def data(self) -> bytes:
        size = self.rng.choice((0, 1, self.rng.randrange(100), self.rng.randrange(9000)))
        return bytes([self.rng.randrange(256)]) * size

    def step(self) -> tuple[str, Step]:
        rng = self.rng
        kinds = ("make", "make", "move", "attributes", "look", "open", "fd", "fd", "fd")
        kind = rng.choice(kinds)
        if kind == "fd" and not self.open:
            kind = "open"
        chosen: tuple[str, Step] = getattr(self, f"_{kind}")()
        return chosen

    def _make(self) -> tuple[str, Step]:
        name, other, mode = self.name(), self.name(), self.rng.choice((0o600, 0o644, 0o755, 0o700, 0o1777))
        return self.rng.choice((
            (f"mkdir {name} {mode:o}", lambda side: os.mkdir(side.path(name), mode)),
            (f"mkdir {name} {mode:o}", lambda side: os.mkdir(side.path(name), mode)),
            (f"mknod {name} {mode:o}", lambda side: os.mknod(side.path(name), mode)),
            (f"symlink {name} -> {other}", lambda side: os.symlink(other, side.path(name))),
            (f"link {other} {name}", lambda side: os.link(side.path(other), side.path(name), follow_symlinks=False)),
        ))  # fmt: skip

    def _move(self) -> tuple[str, Step]:
        name, other, flags = self.name(), self.name(), self.rng.choice((0, 0, 1, 2, 2, 3))
        return self.rng.choice((
            (f"rename {name} {other} {flags}", lambda side: renameat2(side.path(name), side.path(other), flags)),
            (f"rename {name} {other} {flags}", lambda side: renameat2(side.path(name), side.path(other), flags)),
            (f"unlink {name}", lambda side: os.unlink(side.path(name))),
            (f"rmdir {name}", lambda side: os.rmdir(side.path(name))),
        ))  # fmt: skip

    def _attributes(self) -> tuple[str, Step]:
        name, xattr, value, size = self.name(), self.rng.choice(XATTRS), self.data()[:300], self.at()
        mode, owner = self.rng.choice((0o600, 0o4755, 0o2770, 0o000, 0o1777)), self.rng.choice((0, 12, -1))
        return self.rng.choice((
            (f"chmod {name} {mode:o}", lambda side: _chmod(side.path(name), mode)),
            (f"lchown {name} {owner}", lambda side: os.lchown(side.path(name), owner, 34)),
            (f"truncate {name} {size}", lambda side: os.truncate(side.path(name), size)),
            (f"utime {name} {size}", lambda side: _utime(side.path(name), size)),
            (f"setxattr {name} {xattr}", lambda side: os.setxattr(side.path(name), xattr, value, size % 3)),
            (f"removexattr {name} {xattr}", lambda side: os.removexattr(side.path(name), xattr)),
        ))  # fmt: skip

    def _look(self) -> tuple[str, Step]:
        name = self.name()
        return self.rng.choice((
            (f"listdir {name}", lambda side: sorted(os.listdir(side.path(name)))),
            (f"readlink {name}", lambda side: os.readlink(side.path(name))),
            (f"stat {name}", lambda side: os.stat(side.path(name)).st_mode),
            (f"access {name}", lambda side: os.access(side.path(name), os.X_OK)),
            (f"listxattr {name}", lambda side: sorted(os.listxattr(side.path(name)))),
        ))  # fmt: skip

    def _open(self) -> tuple[str, Step]:
        if self.open >= 6:
            index = self.rng.randrange(self.open)
            self.open -= 1
            return f"close {index}", lambda side: side.close(index)
        name, flags = self.name(), self.rng.choice(ACCESS) | self.rng.choice(MORE)
        return f"open {name} {flags:o}", lambda side: side.fds.append(os.open(side.path(name), flags, 0o640))

    def _fd(self) -> tuple[str, Step]:
        rng, i, at, data = self.rng, self.rng.randrange(self.open), self.at(), self.data()
        size, mode = rng.randrange(20_000), rng.choice((0, KEEP_SIZE, KEEP_SIZE | PUNCH_HOLE))
        j, allocated = rng.randrange(self.open), rng.randrange(1, 20_000)
        return rng.choice((
            (f"pwrite {i} {at} {len(data)}", lambda side: os.pwrite(side.fds[i], data, at)),
            (f"write {i} {len(data)}", lambda side: os.write(side.fds[i], data)),
            (f"pread {i} {at} {size}", lambda side: os.pread(side.fds[i], size, at)),
            (f"read {i} {size}", lambda side: os.read(side.fds[i], size)),
            (f"ftruncate {i} {at}", lambda side: os.ftruncate(side.fds[i], at)),
            (f"fstat {i}", lambda side: _seen(os.fstat(side.fds[i]))),
            (f"fchmod {i} {mode}", lambda side: os.fchmod(side.fds[i], 0o640 + mode)),
            (f"fsync {i}", lambda side: os.fsync(side.fds[i])),
            (f"fallocate {i} {mode} {at} {allocated}", lambda side: _fallocate(side.fds[i], mode, at, allocated)),
            (f"copy {i} {j} {size}", lambda side: os.copy_file_range(side.fds[i], side.fds[j], size, at, at + 1)),
            (f"listdir {i}", lambda side: sorted(os.listdir(side.fds[i]))),
            (f"create at {i}", lambda side: side.fds.append(os.open("a", os.O_RDWR | os.O_CREAT, dir_fd=side.fds[i]))),
        ))  # fmt: skip


def _seen(stat: os.stat_result) -> tuple[int, ...]:
    kind = modes.S_IFMT(stat.st_mode)
    return stat.st_mode, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size if kind == modes.S_IFREG else -1


def _chmod(path: str, mode: int) -> None:
    """Set-id bits for directories alone: of files they go when they are written, which root's own writes keep."""
    os.chmod(path, mode if os.path.isdir(path) else mode & 0o1777)


def _utime(path: str, when: int) -> "tuple[int, int]":
    os.utime(path, ns=(when, when + 5 * 10**9), follow_symlinks=False)
    return os.lstat(path).st_atime_ns, os.lstat(path).st_mtime_ns


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


@pytest.fixture
def there(way: str, start: "Callable[..., Server]", spot: Path) -> Iterator[Mount]:
    for name in ("tree", "plain"):
        (spot / name).mkdir(mode=0o755)
    with mount(start(*(("--donate=no",) if "message" in way else ()), tree=spot / "tree"), *WAYS[way]) as made:
        yield made


@pytest.mark.parametrize("way", WAYS)
def test_random_operations_do_what_they_do_in_a_plain_directory(there: Mount, way: str, spot: Path) -> None:
    ours, theirs, walk = Side(there.path), Side(spot / "plain"), Walk(SEED)
    done: list[str] = []
    try:
        for number in range(STEPS):
            told, step = walk.step()
            mine, wanted = ours.does(step), theirs.does(step)
            done.append(f"{number}: {told}: {wanted!r:.60}")
            last = "\n".join(done[-40:])
            assert mine == wanted, last
            assert len(ours.fds) == len(theirs.fds)
            walk.open = len(ours.fds)
            walk.tree = theirs.tree()
            assert ours.tree() == walk.tree, last
            differing = None if way == "writeback" else unlike(there)
            assert differing is None, f"{differing}\n{last}"
        for fd in ours.fds:
            os.fsync(fd)
        assert Side(there.tree).tree() == theirs.tree()
    finally:
        for side in (ours, theirs):
            while side.fds:
                side.close(0)


def unlike(there: Mount) -> Optional[str]:
    """What the mount and the served directory tell differently of one file, whatever the kernel has cached."""
    for folder, _, names in os.walk(there.tree):
        for name in ("", *names):
            below = os.path.relpath(os.path.join(folder, name), there.tree)
            one, other = os.lstat(there.path / below), os.lstat(there.tree / below)
            for field in ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns"):
                if getattr(one, field) != getattr(other, field):
                    return f"{field} of {below}: {getattr(one, field)}, on the host {getattr(other, field)}"
    return None
