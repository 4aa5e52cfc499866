"""The root file system a container sees, put together in a mount namespace of our own.

How it is done
--------------
Everything is opened first, by O_PATH fds in a new mount namespace: the root, every mount's source. What is
missing is found out before anything is made. From then on no host path is resolved again: a mount's source is an fd,
its destination an fd reached component by component from the root (`resolve`), and mount(2) gets both as names in
/proc/self/fd, which is the working directory. So a container that shares a volume and swaps a directory for a
symlink at the right moment gains nothing (compare CVE-2021-30465).

/proc/self/fd is kept as the root of a mount that hangs nowhere. `..` from there leads nowhere; through a plain fd on it
(as in the gofer of 2022) all of /proc could be reached after the root has changed.

The tree is built on /proc/fs, which every host has (on /proc itself where it does not). No tmpfs around it, as the Go gofer
needs to find its own executable again: we do not start a second time, so the container's root becomes ours by pivot_root,
and nothing else is left in the namespace.
"""

from __future__ import annotations

import os
import stat
from errno import EACCES, ENOSYS, EPERM

from gofer.cdata import byref
from gofer.jail import kernel
from gofer.log import Log
from gofer.runsc.errors import Fault
from gofer.runsc.resolve import NODE, resolve
from gofer.runsc.spec import Mount, Spec
from gofer.sys import Statfs, fstatfs, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    # Opens a mount's source on our behalf: see hostrpc.py. None: nobody does.
    Opener = Callable[[Mount], int]

_PATH = os.O_PATH | os.O_CLOEXEC

# statfs(2) flags that a remount must repeat: in a user namespace they may be locked (mount_namespaces(7))
_KEPT = (
    (kernel.ST_RDONLY, kernel.MS_RDONLY),
    (kernel.ST_NOEXEC, kernel.MS_NOEXEC),
    (kernel.ST_NODEV, kernel.MS_NODEV),
    (kernel.ST_NOATIME, kernel.MS_NOATIME),
    (kernel.ST_NODIRATIME, kernel.MS_NODIRATIME),
    (kernel.ST_RELATIME, kernel.MS_RELATIME),
)
_REMOUNTABLE = (
    kernel.MS_RDONLY | kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
    | kernel.MS_NOATIME | kernel.MS_NODIRATIME | kernel.MS_RELATIME | kernel.MS_STRICTATIME
)  # fmt: skip


class Builder:
    """The tree while it is built; the methods are called in the order in which they stand.

    The mount namespace is our own from the construction on: also where runsc has made one, because started by hand
    this process would else build in the host's. The working directory is /proc/self/fd, by `pinned`.
    """

    def __init__(self, log: Log) -> None:
        self.log = log
        with naming("a mount namespace"):
            kernel.unshare(kernel.CLONE_NEWNS)
            kernel.mount(b"", b"/", b"", kernel.MS_SLAVE | kernel.MS_REC)
        # Where relative bundles start. Not ".", which takes leave to enter it, and most paths are absolute.
        self.cwd = os.open("/proc/self/cwd", _PATH | os.O_DIRECTORY)
        self.place = b"/proc/fs" if os.path.isdir("/proc/fs") else b"/proc"
        self.pinned = pin_proc_fd()
        self._flags: list[tuple[int, int, list[bytes]]] = []  # of each mount its root, its flags, its place

    def open_sources(self, spec: Spec, own_root: bool, opener: Opener | None) -> list[int]:
        """O_PATH fds on the root (if served) and the served mounts' sources, in the spec's order."""
        fds = []
        if own_root:
            with naming(f"root {spec.root}"):
                fds.append(os.open(spec.root.encode(), _PATH | os.O_DIRECTORY, dir_fd=self.cwd))
        for mount in spec.mounts:
            if mount.served:
                with naming(f"mount {mount.destination}: source {mount.source}"):
                    fds.append(_open_source(mount, self.cwd, opener))
        return fds

    def start(self, spec: Spec, root: int | None) -> None:
        """The tree's own root: a bind of the container's, or an empty tmpfs."""
        with naming(f"root {spec.root}"):
            if root is None:
                flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
                kernel.mount(b"gofer-root", self.place, b"tmpfs", flags)
                return
            kernel.mount(b"%d" % root, self.place, b"", kernel.MS_BIND | kernel.MS_REC)
            os.close(root)
            kernel.mount(b"", self.place, b"", spec.propagation)

    def stage(self) -> int:
        """A new O_PATH fd on the tree's root, as it now is: a mount on "/" lies above the first."""
        return os.open(self.place, _PATH | os.O_DIRECTORY)

    def add(self, mount: Mount, source: int) -> None:
        """Mount one source (the fd is closed) at its resolved destination, which is made if it is missing."""
        stage = self.stage()
        place = resolve(stage, mount.destination)
        try:
            target = place.make(stat.S_ISDIR(os.fstat(source).st_mode))
            flags = mount.flags() | (kernel.MS_RDONLY if mount.read_only else 0)
            self.log.info(f"Mounting src: {mount.source!r}, dst: {place.path!r}, flags: {flags:#x}")
            if mount.id_mapped:
                kernel.move_mount(source, target)
            else:
                kernel.mount(b"%d" % source, b"%d" % target, b"", kernel.MS_BIND | flags & kernel.MS_REC)
            top = os.open(place.names[-1], NODE, dir_fd=place.parent()) if place.names else self.stage()
            self._flags.append((top, flags, list(place.names)))
            if mount.propagation():
                kernel.mount(b"", b"%d" % top, b"", mount.propagation())
        finally:
            os.close(source)
            place.close()
            os.close(stage)

    def bind_device(self, path: str) -> None:
        """A host device in the tree's /dev, at its own path."""
        source = os.open(path.encode(), _PATH)
        stage = self.stage()
        place = resolve(stage, path)
        try:
            kernel.mount(b"%d" % source, b"%d" % place.make(False), b"", kernel.MS_BIND)
        finally:
            place.close()
            os.close(source)
            os.close(stage)

    def make_directory(self, path: str, mode: int) -> None:
        """mkdir -p inside the tree."""
        stage = self.stage()
        place = resolve(stage, path)
        try:
            place.make(True, mode)
        finally:
            place.close()
            os.close(stage)

    def apply_flags(self) -> None:
        """A bind takes no flags of its own; now that every mount point is made, mounts may become read-only.

        A directfs client gets at what is mounted below a mount as well. So what a read-only rbind took along is read-only
        too, where nothing of the spec's lies below it; as far as the container can see it is anyway.
        """
        places = [names for _, _, names in self._flags]
        for fd, flags, names in self._flags:
            with naming("setting mount flags"):
                alone = sum(names == other[: len(names)] for other in places) == 1
                if flags & kernel.MS_RDONLY and flags & kernel.MS_REC and alone:
                    self._read_only_below(fd)
                self.remount(fd, flags)
        self._flags.clear()

    def _read_only_below(self, fd: int) -> None:
        try:
            kernel.read_only_below(fd)
        except OSError as error:
            if error.errno not in (ENOSYS, EPERM):  # before Linux 5.12 there is none; a filter may say EPERM
                raise

    def remount(self, fd: int, flags: int) -> None:
        """Give the mount that fd is on (closed here) these flags, nosuid, and those it has. Not those below it."""
        flags |= kernel.MS_NOSUID  # nothing is executed here
        held = os.fstatvfs(fd).f_flag
        for st, ms in _KEPT:
            if held & st:
                flags |= ms
        if not flags & (kernel.MS_NOATIME | kernel.MS_RELATIME):
            flags |= kernel.MS_STRICTATIME
        kernel.mount(b"", b"%d" % fd, b"", kernel.MS_BIND | kernel.MS_REMOUNT | flags & _REMOUNTABLE)
        os.close(fd)

    def show_at(self, path: str) -> None:
        """Bind the whole tree where the spec says the root is, for hooks that look for it there.

        The working directory is again the one we were started in, until `take_back`.
        """
        with naming("the root for hooks"):
            os.fchdir(self.cwd)
            kernel.mount(self.place, path.encode(), b"", kernel.MS_BIND | kernel.MS_REC)

    def take_back(self, path: str) -> None:
        """What hooks have mounted below that path belongs to the tree."""
        with naming("the root after hooks"):
            kernel.mount(path.encode(), self.place, b"", kernel.MS_BIND | kernel.MS_REC)
        os.fchdir(self.pinned)

    def enter(self) -> int:
        """The tree becomes the root; the old root is gone. Returns an fd on mountinfo as seen from here (proc(5))."""
        os.close(self.cwd)
        own = os.open("/proc/self", _PATH | os.O_DIRECTORY)
        os.chdir(self.place)
        # "." twice: the old root lands on top of the new one and is taken off there (pivot_root(2), NOTES)
        kernel.pivot_root(b".", b".")
        kernel.umount2(b".", kernel.MNT_DETACH)
        os.chdir("/")
        try:
            return os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
        finally:
            os.close(own)


def pin_proc_fd() -> int:
    """An fd on /proc/self/fd from which `..` leads nowhere; becomes the working directory. Needs CAP_SYS_ADMIN."""
    plain = os.open("/proc/self/fd", _PATH | os.O_DIRECTORY)
    os.fchdir(plain)
    kernel.mount(b".", b"/proc", b"", kernel.MS_BIND)
    pinned = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    kernel.umount2(b"/proc", kernel.MNT_DETACH)
    os.fchdir(pinned)
    os.close(plain)
    return pinned


def adjusted_options(fd: int, options: list[str], remote: bool) -> list[str]:
    """The mount's options, and what the sandbox must know of the file system that fd is on; remote: also that it is one."""
    statfs = Statfs()
    if fstatfs(fd, byref(statfs)):
        raise_errno()
    if statfs.f_type == kernel.OVERLAYFS_SUPER_MAGIC:
        # copy-up gives a file another inode: an fd opened for reading goes on showing the old one
        return [*options, "overlayfs_stale_read"]
    if remote and statfs.f_type in (kernel.NFS_SUPER_MAGIC, kernel.FUSE_SUPER_MAGIC):
        return [*options, "disable_file_handle_sharing"]  # their close(2) flushes: it must come through
    return options


def _open_source(mount: Mount, cwd: int, opener: Opener | None) -> int:
    if mount.id_mapped:
        if opener is None:
            raise Fault(f"mount {mount.destination}: id-mapped, and no --rpc-fd to ask runsc for it")
        return opener(mount)
    source = mount.source.encode()
    try:
        fd = os.open(source, _PATH, dir_fd=cwd)
    except OSError as error:
        if opener is None or error.errno not in (EACCES, EPERM):
            raise
        return opener(mount)
    if opener is not None and not os.access(source, os.R_OK, dir_fd=cwd):
        os.close(fd)
        return opener(mount)
    return fd


class naming:
    """Turns an OSError inside into a Fault that says what it was about."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise Fault(f"{self.what}: {error.strerror}") from error
