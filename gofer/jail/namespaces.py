"""Namespaces of the server's own, and the new root: a mount namespace in which the served tree is all there is.

How the root changes without resolving a host path again
--------------------------------------------------------
The served tree is known by an O_PATH fd. Mounts of another namespace cannot be bound, so the fd itself is of no use
once there is a new one; but the working directory is carried over into it. So: `fchdir` to the tree, `unshare`, and "."
is the same directory in the new namespace. Mount propagation is set to "slave": what the host mounts below the
tree later still appears, what it unmounts goes away here too, and nothing of ours appears there. That is as far as the kernel
goes: where the host's mount is private it tells nobody, a slave of it has no master, and what was mounted there at the start
stays in the new namespace (`Propagation`). It could be made shared, but in the host's namespace, and all of the host's later
binds of it would be shared as well: that is left to the host.

pivot_root(2) wants a root that is a mount, and it must be that of the namespace, or what lies above it would stay. In a chroot
it is neither; so the root of the new namespace is made ours first (`leave_chroot`).

The new root needs a place to be built on; `/proc` is a directory that must exist anyway. First `/proc/self/fd` itself is
bound there, opened, and taken away again: that fd is the root of a mount that hangs nowhere, so `..` from it stays where it
is, and it is how fds are reopened from then on (fds.py). Then the tree is bound on `/proc`, with everything mounted below it,
`pivot_root` makes it the root, and the old root is detached. A served file is bound to a name in an empty, read-only tmpfs.
Neither the client nor a hijacked server then has a name, or a `..`, that leads anywhere else.

A user who is not root may do this only in a user namespace of his own, in which he may map one uid and one gid: his.
See enter.py for what that changes and when it is done.
"""

from __future__ import annotations

import os
import stat
from errno import ENOSYS, ESTALE

from gofer.cdata import Structure, byref, c_long, c_size_t, c_uint, c_uint64, sizeof
from gofer.jail import kernel
from gofer.sys import AT_EMPTY_PATH, O_PATH, get_errno, libc

USER = 0x10000000
MOUNT = 0x00020000
# in the order they are reported
KINDS = {"mount": MOUNT, "network": 0x40000000, "ipc": 0x08000000, "uts": 0x04000000, "pid": 0x20000000}

_DIRECTORY = O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def enter_directory_of(root: int) -> bytes:
    """Make the tree that `root` (an O_PATH fd) is the working directory, to be carried into a new mount namespace.

    For a file, its directory; returns then the file's name, else b"".
    """
    if stat.S_ISDIR(os.fstat(root).st_mode):
        os.fchdir(root)
        return b""
    directory, name = os.path.split(os.readlink(b"/proc/self/fd/%d" % root))
    os.chdir(directory)
    if not _same(root, name):
        raise OSError(ESTALE, "the served file was replaced while the server started")
    return name


def unshare(flags: int) -> dict[str, str]:
    """Leave the namespaces that flags name, all at once or, where that fails, one by one.

    With USER among them: in a user namespace of our own, with our uid and gid mapped to themselves; all or nothing.
    Returns by kind, for those asked for, "" or why it failed.
    """
    uid, gid = os.geteuid(), os.getegid()
    asked = {kind: flag for kind, flag in KINDS.items() if flags & flag}
    try:
        kernel.unshare(flags)
    except OSError as error:
        if flags & USER:
            return dict.fromkeys(asked, os.strerror(error.errno or 0))
        return {kind: _unshare_one(flag) for kind, flag in asked.items()}
    if flags & USER:
        # The kernel wants the answer to setgroups before it lets an unprivileged process map its gid.
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{uid} {uid} 1"),
            ("gid_map", f"{gid} {gid} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    return dict.fromkeys(asked, "")


def leave_chroot() -> bool:
    """Make the root of this mount namespace, which is our own and new, that of this process; the working directory stays.

    Where we may not, or there is no /proc there, things are as they were. Returns whether the root is another one now.
    """
    here, before = os.open(".", _DIRECTORY), os.open("/", _DIRECTORY)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        kernel.setns(namespace, MOUNT)
        if not os.path.isdir("/proc/self/fd"):
            os.fchdir(before)
            os.chroot(".")
    except OSError:
        pass
    os.fchdir(here)
    left = not _same(before, b"/")
    for fd in (here, before, namespace):
        os.close(fd)
    return left


class WayBack:
    """To the mount namespace, root and working directory of now: a namespace in which nothing can be mounted only keeps what
    the host has mounted, from being unmounted for good."""

    def __init__(self) -> None:
        self._namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        self._root, self._here = os.open("/", _DIRECTORY), os.open(".", _DIRECTORY)

    def go(self) -> None:
        kernel.setns(self._namespace, MOUNT)
        os.fchdir(self._root)
        os.chroot(".")
        os.fchdir(self._here)

    def close(self) -> None:
        for fd in (self._namespace, self._root, self._here):
            os.close(fd)


def become_slave() -> str:
    """Of the host, in a mount namespace of our own; "" or why nothing can be mounted there, nor a root be had by it."""
    try:
        kernel.mount(b"none", b"/", b"", kernel.MS_REC | kernel.MS_SLAVE)
        return ""
    except OSError as error:
        return error.strerror or str(error)


class Propagation:
    """What a mount namespace of our own will see of the host's mounts in and below a tree (mount_namespaces(7)).

    A mount tells of what is mounted on it, or taken off it, where it is shared, and only then. private: mount points of those
    that are not. stuck: of what is mounted on these now.
    """

    def __init__(self, root: int) -> None:
        """root: an fd on the tree, in the host's namespace or one that is a copy of it still."""
        with open(f"/proc/self/fdinfo/{root}", "rb") as file:
            (top,) = [int(line.split()[1]) for line in file if line.startswith(b"mnt_id:")]
        below = _as_in_mountinfo(os.readlink(b"/proc/self/fd/%d" % root).rstrip(b"/") + b"/")
        with open("/proc/self/mountinfo", "rb") as file:
            lines = [line.split(b" ") for line in file]
        parents = {int(fields[0]): int(fields[1]) for fields in lines if fields[4].startswith(below)}
        points: dict[int, str] = {}
        shared = set()
        for fields in lines:
            number = above = int(fields[0])
            while above != top and above in parents:
                above = parents[above]
            if above == top:
                points[number] = os.fsdecode(fields[4])
                if any(field.startswith(b"shared:") for field in fields[6 : fields.index(b"-")]):
                    shared.add(number)
        if top not in points:  # in a chroot, the mount around it
            points[top] = "/"
        self.private = [point for number, point in points.items() if number not in shared]
        self.stuck = [point for number, point in points.items() if number != top and parents[number] not in shared]

    def describe(self) -> str:
        """What holds, and how to have it otherwise."""
        if not self.private:
            return "mounts below it come and go with the host's"
        where = min(self.private, key=len)
        return f"mounts below it stay as they are: {where} is private (`mount --make-rshared {where}` before the start)"


def _as_in_mountinfo(path: bytes) -> bytes:
    for char in b"\\ \t\n":
        path = path.replace(bytes((char,)), b"\\%03o" % char)
    return path


def user_namespace_trouble(root: int) -> str:
    """Try, in a process of its own, whether an unprivileged user gets a new root here; "" or what stops him.

    A distribution may allow the namespace and then no mount in it (AppArmor), and there is no way back out of one.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, b"." + _attempt(root).encode())
        finally:  # whatever happens, this process goes no further
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said[1:] if said else "the attempt failed"


def _attempt(root: int) -> str:
    try:
        name = enter_directory_of(root)
        trouble = next(filter(None, unshare(USER | sum(KINDS.values())).values()), "")
        if not trouble:
            new_root(root, name, read_only=False, devices=False)
    except OSError as error:
        return error.strerror or str(error)
    return trouble


def new_root(root: int, name: bytes, read_only: bool, devices: bool) -> tuple[int, int, int, str]:
    """Make the served tree the root of this mount namespace; the working directory is as enter_directory_of left it.

    Returns an O_PATH fd on the tree as it now is, an fd on /proc/self/fd that leads nowhere else, one on mountinfo as seen
    from the new root, and "" or why the new mounts could not be given the flags asked for (nosuid; nodev unless
    devices; read-only).
    """
    here = os.open(name or ".", _FILE if name else _DIRECTORY)
    if not _same(root, here):
        raise OSError(ESTALE, "the served tree was replaced while the server started")
    kernel.mount(b"none", b"/", b"", kernel.MS_REC | kernel.MS_SLAVE)
    own = os.open("/proc/self", _DIRECTORY)
    proc = os.open("/proc/self/fd", _DIRECTORY)
    os.fchdir(proc)
    kernel.mount(b".", b"/proc", b"", kernel.MS_BIND)
    pinned = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    kernel.umount2(b"/proc", kernel.MNT_DETACH)
    if name:
        kernel.mount(b"gofer", b"/proc", b"tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
        os.close(os.open("/proc/file", os.O_CREAT | os.O_CLOEXEC, 0o600))
        kernel.mount(b"%d" % here, b"/proc/file", b"", kernel.MS_BIND)
        kernel.mount(b"", b"/proc", b"", kernel.MS_REMOUNT | kernel.MS_BIND | kernel.MS_RDONLY | kernel.MS_NODEV)
    else:
        kernel.mount(b"%d" % here, b"/proc", b"", kernel.MS_BIND | kernel.MS_REC)
    os.close(here)
    os.close(proc)
    os.chdir("/proc")
    kernel.pivot_root(b".", b".")
    kernel.umount2(b".", kernel.MNT_DETACH)
    os.chdir("/")
    mountinfo = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=own)
    os.close(own)
    tree = os.open("/file" if name else "/", _FILE if name else _DIRECTORY)
    return tree, pinned, mountinfo, _restrict_mounts(tree, read_only, devices)


def _unshare_one(flag: int) -> str:
    try:
        kernel.unshare(flag)
    except OSError as error:
        return os.strerror(error.errno or 0)
    return ""


def _same(root: int, other: int | bytes) -> bool:
    """Whether both are one inode; other: an fd, or a name in the working directory, not followed."""
    one = os.fstat(root)
    two = os.fstat(other) if isinstance(other, int) else os.stat(other, follow_symlinks=False)
    return (one.st_dev, one.st_ino) == (two.st_dev, two.st_ino)


class _MountAttr(Structure):
    """struct mount_attr."""

    _fields_ = [
        ("attr_set", c_uint64),
        ("attr_clr", c_uint64),
        ("propagation", c_uint64),
        ("userns_fd", c_uint64),
    ]


_MOUNT_SETATTR = 442  # the same on every architecture; Linux 5.12
_RDONLY, _NOSUID, _NODEV = 1, 2, 4
_AT_RECURSIVE = 0x8000


def _restrict_mounts(tree: int, read_only: bool, devices: bool) -> str:
    """Flags on the tree's mount and all below. Not noexec: a sandbox maps the donated fds of its programs executable."""
    attribute = _MountAttr(_NOSUID | (0 if devices else _NODEV) | (_RDONLY if read_only else 0), 0, 0, 0)
    function = libc["syscall"]
    function.restype = c_long
    flags = c_uint(AT_EMPTY_PATH | _AT_RECURSIVE)
    if (
        function(
            c_long(_MOUNT_SETATTR),
            tree,
            b"",
            flags,
            byref(attribute),
            c_size_t(sizeof(attribute)),
        )
        == 0
    ):
        return ""
    return "Linux 5.12 has it" if get_errno() == ENOSYS else os.strerror(get_errno())
