"""MkdirAt, MknodAt, SymlinkAt, LinkAt, BindAt, and what all creating messages share."""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import Any, Callable

from gofer.conform.case import expect, fails, refuses, safety, same, semantics
from gofer.conform.codec import NO_ID, Inode
from gofer.conform.looks import BAD_NAMES
from gofer.conform.stand import Stand

Maker = Callable[..., Inode]
# message: (how to make a child of that name, its file type)
MAKERS: dict[str, tuple[Maker, int]] = {
    "OpenCreateAt": (lambda p, d, name, **k: p.opencreateat(d, name, **k).inode, modes.S_IFREG),
    "MkdirAt": (lambda p, d, name, **k: p.mkdirat(d, name, **k), modes.S_IFDIR),
    "MknodAt": (lambda p, d, name, mode=0o644, **k: p.mknodat(d, name, mode=modes.S_IFREG | mode, **k), modes.S_IFREG),
    "BindAt": (
        lambda p, d, name, mode=0o755, **k: p.bindat(d, name, mode=modes.S_IFSOCK | mode, **k).inode,
        modes.S_IFSOCK,
    ),
    "SymlinkAt": (lambda p, d, name, **k: p.symlinkat(d, name, "target", **k), modes.S_IFLNK),
}
WITH_MODE = {name: maker for name, (maker, _) in MAKERS.items() if name != "SymlinkAt"}


def _can(t: Stand, kind: int) -> None:
    """BindAt may be refused."""
    if kind == modes.S_IFSOCK:
        t.need("bind")


@semantics(needs="writable", each=MAKERS)
def what_is_made_has_its_type_and_a_control_fd(t: Stand, make: Maker, kind: int) -> None:
    _can(t, kind)
    inode = make(t.peer, t.dir, "new")
    same(modes.S_IFMT(inode.stat.mode), kind, "type")
    t.ground.expect_stat(inode.stat, "new")
    t.ground.expect_stat(t.peer.fstat(inode.fd), "new")


@semantics(needs="writable owners", each=MAKERS)
def the_owner_is_set(t: Stand, make: Maker, kind: int) -> None:
    _can(t, kind)
    own = t.peer.fstat(t.dir)
    for name, uid, gid in (("both", 1234, 5678), ("user", 1234, NO_ID), ("group", NO_ID, 5678)):
        stat = make(t.peer, t.dir, name, uid=uid, gid=gid).stat
        wanted = own.uid if uid == NO_ID else uid, own.gid if gid == NO_ID else gid
        same((stat.uid, stat.gid), wanted, name)


MODES = (0, 0o777, 0o666, 0o1777, 0o4755, 0o2755, 0o6711)


@semantics(
    needs="writable owners", each={f"{name}-{mode:o}": (make, mode) for name, make in WITH_MODE.items() for mode in MODES}
)
def the_mode_is_exactly_what_was_asked_for(t: Stand, make: Maker, mode: int) -> None:
    _can(t, modes.S_IFSOCK if make is WITH_MODE["BindAt"] else 0)
    inode = make(t.peer, t.dir, "plain", mode=mode)
    same(f"{modes.S_IMODE(inode.stat.mode):o}", f"{mode:o}", "mode")
    inode = make(t.peer, t.dir, "owned", mode=mode, uid=1234, gid=5678)
    same(f"{modes.S_IMODE(inode.stat.mode):o}", f"{mode:o}", "mode where it is given away")
    t.ground.expect_stat(inode.stat, "owned")


@semantics(needs="writable", each=MAKERS)
def what_exists_is_not_made_again(t: Stand, make: Maker, kind: int) -> None:
    _can(t, kind)
    t.ground.file("file", b"kept")
    t.ground.symlink("missing", "dangling")
    for name in ("file", "dangling"):
        with fails(errno.EEXIST, errno.EADDRINUSE):
            make(t.peer, t.dir, name, uid=1234, gid=5678)
    same(t.ground.names(), ["dangling", "file"])
    same(t.ground.contents("file"), b"kept")


@safety(needs="writable", each=MAKERS)
def a_name_that_is_not_one_component_is_refused(t: Stand, make: Maker, kind: int) -> None:
    _can(t, kind)
    for name, number in BAD_NAMES.values():
        with fails(number, of=name):
            make(t.peer, t.dir, name)
    same(t.ground.names(), [])


@semantics(needs="writable", each=MAKERS)
def nothing_is_made_below_a_file(t: Stand, make: Maker, kind: int) -> None:
    _can(t, kind)
    t.ground.file("file")
    t.ground.mkdir("dir")
    t.ground.symlink("dir", "link")
    opened = t.peer.openat(t.dir).fd
    for fd, number in (
        (t.walk("file"), errno.ENOTDIR), (t.walk("link"), errno.ENOTDIR), (opened, errno.EINVAL), (99999999, errno.EBADF),
    ):  # fmt: skip
        with fails(number):
            make(t.peer, fd, "new")
    same(t.ground.names("dir"), [])


@semantics(needs="writable", each=MAKERS)
def nothing_is_made_in_a_removed_directory(t: Stand, make: Maker, kind: int) -> None:
    _can(t, kind)
    t.ground.mkdir("dir")
    fd = t.walk("dir")
    t.ground.remove("dir")
    with fails(errno.ENOENT, errno.EINVAL):
        make(t.peer, fd, "new")


@semantics(needs="writable")
def a_made_directory_can_be_worked_in_at_once(t: Stand) -> None:
    fd = t.peer.mkdirat(t.dir, "dir", mode=0o700).fd
    t.peer.opencreateat(fd, "file")
    same(t.ground.names("dir"), ["file"])


@semantics(needs="writable owners")
def mknod_makes_the_overlay_whiteout(t: Stand) -> None:
    """17294348e: overlay whiteouts could not be made."""
    inode = t.peer.mknodat(t.dir, "whiteout", mode=modes.S_IFCHR | 0o600, major=0, minor=0)
    expect(modes.S_ISCHR(inode.stat.mode), "no device")
    same(inode.stat.rdev, (0, 0), "device")
    t.ground.expect_stat(inode.stat, "whiteout")


NODES = {
    "null": (modes.S_IFCHR, 1, 3), "char-0-1": (modes.S_IFCHR, 0, 1), "block-0-0": (modes.S_IFBLK, 0, 0),
    "block": (modes.S_IFBLK, 8, 0), "fifo": (modes.S_IFIFO, 0, 0), "sock": (modes.S_IFSOCK, 0, 0),
    "dir": (modes.S_IFDIR, 0, 0), "link": (modes.S_IFLNK, 0, 0), "no-type": (0o150000, 0, 0),
    "char-largest": (modes.S_IFCHR, 2**32 - 1, 2**32 - 1), "char-wraps": (modes.S_IFCHR, 2**12, 2**20),
}  # fmt: skip


@safety(needs="writable", each=NODES)
def mknod_makes_nothing_else(t: Stand, kind: int, major: int, minor: int) -> None:
    with fails(errno.EPERM):
        t.peer.mknodat(t.dir, "node", mode=kind | 0o600, major=major, minor=minor)
    same(t.ground.names(), [])


TARGETS = {
    "short": b"x", "absolute": b"/etc/passwd", "up": b"../..", "long": b"t" * 4095, "any-bytes": bytes(range(1, 256)),
}  # fmt: skip


@semantics(needs="writable", each=TARGETS)
def symlink_targets_are_any_bytes(t: Stand, target: bytes) -> None:
    inode = t.peer.symlinkat(t.dir, "link", target)
    same(inode.stat.size, len(target), "size")
    same(t.peer.readlinkat(inode.fd), target)
    same(t.peer.readlinkat(t.walk("link")), target)


@semantics(
    needs="writable",
    each={"empty": (b"", errno.ENOENT), "nul": (b"a\0b", errno.EINVAL), "long": (b"t" * 4096, errno.ENAMETOOLONG)},
)
def a_symlink_target_that_linux_refuses_is_refused(t: Stand, target: bytes, number: int) -> None:
    with fails(number):
        t.peer.symlinkat(t.dir, "link", target)
    same(t.ground.names(), [])


@semantics(needs="writable", each=("file", "link", "fifo"))
def link_gives_a_file_a_second_name(t: Stand, name: str) -> None:
    t.ground.file("file", b"hello")
    t.ground.mkdir("dir")
    t.ground.symlink("file", "link")
    if name == "fifo":
        os.mkfifo(t.tree / "fifo")
    inode = t.peer.linkat(t.walk("dir"), t.walk(name), "hard")
    same(inode.stat.nlink, 2, "nlink")
    t.ground.expect_stat(inode.stat, "dir", "hard")
    t.ground.expect_stat(inode.stat, name)


@semantics(needs="writable")
def link_of_a_directory_is_eperm(t: Stand) -> None:
    t.ground.mkdir("dir")
    fd = t.walk("dir")
    with fails(errno.EPERM):
        t.peer.linkat(t.dir, fd, "hard")
    same(t.ground.names(), ["dir"])


@semantics(needs="writable")
def link_onto_what_exists_is_eexist(t: Stand) -> None:
    t.ground.file("file")
    t.ground.file("other")
    fd = t.walk("file")
    with fails(errno.EEXIST):
        t.peer.linkat(t.dir, fd, "other")


@safety(needs="writable")
def link_to_a_name_that_is_not_one_component_is_refused(t: Stand) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    for name, number in BAD_NAMES.values():
        with fails(number, of=name):
            t.peer.linkat(t.dir, fd, name)
    same(t.ground.names(), ["file"])


@semantics(needs="writable")
def link_needs_a_directory_and_a_control_fd(t: Stand) -> None:
    t.ground.file("file")
    control = t.walk("file")
    opened = t.peer.openat(control).fd
    cases: list[tuple[Any, Any, int]] = [
        (control, control, errno.ENOTDIR), (t.dir, opened, errno.EINVAL), (t.dir, 99999999, errno.EBADF),
        (99999999, control, errno.EBADF),
    ]  # fmt: skip
    for directory, target, number in cases:
        with fails(number):
            t.peer.linkat(directory, target, "hard")


@safety(needs="writable")
def a_file_without_a_name_left_gets_no_new_one(t: Stand) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    t.ground.remove("file")
    with refuses():
        t.peer.linkat(t.dir, fd, "again")
    same(t.ground.names(), [])


@semantics(needs="writable owners host", each={"unset": NO_ID, "root": 0, "the-same": 77, "another": 5678})
def in_a_set_group_id_directory_the_asked_for_group_wins_else_the_directorys(t: Stand, gid: int) -> None:
    """7bf656f4c, CVE-2022-0358: ids are compared with what the file got, not with the server's own."""
    (t.tree / "dir").mkdir()
    os.chown(t.tree / "dir", 0, 77)
    os.chmod(t.tree / "dir", 0o2777)
    directory = t.walk("dir")
    made = {
        "file": t.peer.opencreateat(directory, "file", gid=gid).inode.stat,
        "directory": t.peer.mkdirat(directory, "sub", gid=gid).stat,
        "node": t.peer.mknodat(directory, "node", gid=gid).stat,
        "symlink": t.peer.symlinkat(directory, "link", "x", gid=gid).stat,
    }
    if "bind" in t.features and t.dialect == "today":
        made["socket"] = t.peer.bindat(directory, "sock", gid=gid).inode.stat
    for name, stat in made.items():
        same(stat.gid, 77 if gid == NO_ID else gid, f"group of the {name}")
