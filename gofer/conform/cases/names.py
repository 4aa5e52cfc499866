"""UnlinkAt, RenameAt and RenameAt2."""

from __future__ import annotations

import errno
import os
import stat as modes
from typing import Any, Callable

from gofer.conform.case import expect, fails, safety, same, semantics
from gofer.conform.looks import BAD_NAMES
from gofer.conform.stand import Stand

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
REMOVEDIR = 0x200
Rename = Callable[..., None]
RENAMES: dict[str, Rename] = {
    "RenameAt": lambda p, *names: p.renameat(*names),
    "RenameAt2": lambda p, *names: p.renameat2(*names, 0),
}
BOTH = {"needs": "writable", "each": RENAMES}
TODAY = ("today",)


@semantics(needs="writable")
def unlink_removes_a_file_and_a_symlink_and_not_what_it_leads_to(t: Stand) -> None:
    t.ground.file("file", b"kept")
    t.ground.symlink("file", "link")
    t.peer.unlinkat(t.dir, "link")
    same(t.ground.contents("file"), b"kept")
    t.peer.unlinkat(t.dir, "file")
    same(t.ground.names(), [])


@semantics(needs="writable host")
def unlink_removes_a_fifo(t: Stand) -> None:
    os.mkfifo(t.tree / "fifo")
    t.peer.unlinkat(t.dir, "fifo")
    same(t.ground.names(), [])


@semantics(needs="writable")
def unlink_of_a_directory_needs_the_flag_and_the_flag_a_directory(t: Stand) -> None:
    t.ground.mkdir("dir")
    t.ground.file("file")
    t.ground.symlink("dir", "link")
    with fails(errno.EISDIR):
        t.peer.unlinkat(t.dir, "dir")
    for name in ("file", "link"):
        with fails(errno.ENOTDIR, of=name):
            t.peer.unlinkat(t.dir, name, REMOVEDIR)
    t.peer.unlinkat(t.dir, "dir", REMOVEDIR)
    same(t.ground.names(), ["file", "link"])


@semantics(needs="writable")
def a_directory_that_is_not_empty_stays(t: Stand) -> None:
    t.ground.mkdir("dir")
    t.ground.mkdir("dir", "sub")
    with fails(errno.ENOTEMPTY):
        t.peer.unlinkat(t.dir, "dir", REMOVEDIR)


@semantics(needs="writable", each={f"{flags:#x}": flags for flags in (1, 0x100, 0x201, 0x1000, 2**32 - 1)})
def unlink_with_other_flags_is_einval(t: Stand, flags: int) -> None:
    t.ground.file("file")
    with fails(errno.EINVAL):
        t.peer.unlinkat(t.dir, "file", flags)
    same(t.ground.names(), ["file"])


@safety(needs="writable")
def unlink_of_a_name_that_is_not_one_component_is_refused(t: Stand) -> None:
    t.ground.mkdir("a")
    for name, number in BAD_NAMES.values():
        for flags in (0, REMOVEDIR):
            with fails(number, of=name):
                t.peer.unlinkat(t.dir, name, flags)
    same(t.ground.names(), ["a"])


@semantics(**BOTH)
def rename_moves_a_file_and_what_is_open_stays_open(t: Stand, rename: Rename) -> None:
    t.ground.file("file", b"hello")
    t.ground.mkdir("dir")
    fd = t.walk("file")
    rename(t.peer, t.dir, "file", t.walk("dir"), "moved")
    same((t.ground.names(), t.ground.names("dir")), (["dir"], ["moved"]))
    t.ground.expect_stat(t.peer.fstat(fd), "dir", "moved")
    same(t.peer.pread(t.peer.openat(fd).fd, 0, 5), b"hello")


@semantics(**BOTH)
def rename_replaces_what_has_the_new_name(t: Stand, rename: Rename) -> None:
    t.ground.file("file", b"new")
    t.ground.file("target", b"old")
    replaced = t.walk("target")
    rename(t.peer, t.dir, "file", t.dir, "target")
    same((t.ground.names(), t.ground.contents("target")), (["target"], b"new"))
    same(t.peer.fstat(replaced).nlink, 0, "nlink")


@safety(**BOTH)
def rename_does_not_follow_symlinks(t: Stand, rename: Rename) -> None:
    t.ground.file("file", b"kept")
    t.ground.symlink("file", "link")
    t.ground.file("other")
    rename(t.peer, t.dir, "other", t.dir, "link")
    same((t.ground.names(), t.ground.contents("file")), (["file", "link"], b"kept"))
    expect(modes.S_ISREG(t.peer.fstat(t.walk("link")).mode), "the link is there")


@semantics(**BOTH)
def rename_has_the_errors_of_the_kernel(t: Stand, rename: Rename) -> None:
    for path in (("dir",), ("dir", "sub"), ("full",), ("full", "x")):
        t.ground.mkdir(*path)
    t.ground.file("file")
    directory, file = t.walk("dir"), t.walk("file")
    opened = t.peer.openat(t.dir).fd
    cases: list[tuple[Any, ...]] = [
        (t.dir, "missing", t.dir, "new", errno.ENOENT),
        (t.dir, "file", t.dir, "dir", errno.EISDIR),
        (t.dir, "dir", t.dir, "file", errno.ENOTDIR),
        (t.dir, "dir", t.dir, "full", errno.ENOTEMPTY),
        (t.dir, "dir", directory, "inside", errno.EINVAL),
        (file, "x", t.dir, "y", errno.ENOTDIR),
        (t.dir, "file", file, "y", errno.ENOTDIR),
        (opened, "file", t.dir, "y", errno.EINVAL),
        (t.dir, "file", 99999999, "y", errno.EBADF),
        (99999999, "file", t.dir, "y", errno.EBADF),
    ]
    for *arguments, number in cases:
        with fails(number, of=arguments):
            rename(t.peer, *arguments)
    same(t.ground.names(), ["dir", "file", "full"])


@semantics(**BOTH)
def rename_onto_itself_is_nothing_where_it_exists(t: Stand, rename: Rename) -> None:
    t.ground.file("file", b"kept")
    rename(t.peer, t.dir, "file", t.dir, "file")
    same(t.ground.contents("file"), b"kept")


@semantics(**BOTH)
def rename_of_a_missing_name_onto_itself_is_enoent(t: Stand, rename: Rename) -> None:
    with fails(errno.ENOENT):
        rename(t.peer, t.dir, "missing", t.dir, "missing")


@safety(**BOTH)
def rename_refuses_a_name_that_is_not_one_component(t: Stand, rename: Rename) -> None:
    t.ground.mkdir("a")
    for name, number in BAD_NAMES.values():
        with fails(number, of=name):
            rename(t.peer, t.dir, name, t.dir, "b")
        with fails(number, of=name):
            rename(t.peer, t.dir, "a", t.dir, name)
    same(t.ground.names(), ["a"])


@semantics(needs="writable", dialects=TODAY)
def noreplace_keeps_what_is_there(t: Stand) -> None:
    t.ground.file("a")
    t.ground.file("b")
    with fails(errno.EEXIST):
        t.peer.renameat2(t.dir, "a", t.dir, "b", NOREPLACE)
    t.peer.renameat2(t.dir, "a", t.dir, "c", NOREPLACE)
    same(t.ground.names(), ["b", "c"])


@semantics(needs="writable", dialects=TODAY)
def exchange_swaps_two_names_of_any_type(t: Stand) -> None:
    """2c1c4a551 (#7895): RENAME_EXCHANGE was refused."""
    t.ground.file("file", b"hello")
    t.ground.mkdir("dir")
    t.ground.mkdir("dir", "sub")
    file, directory = t.walk("file"), t.walk("dir")
    t.peer.renameat2(t.dir, "file", t.dir, "dir", EXCHANGE)
    same((t.ground.contents("dir"), t.ground.names("file")), (b"hello", ["sub"]))
    same((t.peer.walk(directory, "sub")[0], t.peer.fstat(file).size), (0, 5))
    with fails(errno.ENOENT):
        t.peer.renameat2(t.dir, "file", t.dir, "missing", EXCHANGE)


@semantics(needs="writable owners", dialects=TODAY)
def whiteout_leaves_one_behind_as_the_kernel_does(t: Stand) -> None:
    t.ground.file("file", b"hello")
    t.peer.renameat2(t.dir, "file", t.dir, "moved", WHITEOUT)
    left = t.peer.fstat(t.walk("file"))
    expect(left.rdev == (0, 0) and modes.S_ISCHR(left.mode), f"{left.mode:o}, {left.rdev}")
    same(t.ground.contents("moved"), b"hello")


FLAGS = (8, 0x10, 1 << 31, NOREPLACE | EXCHANGE, 2**32 - 1)


@semantics(needs="writable", dialects=TODAY, each={f"{flags:#x}": flags for flags in FLAGS})
def rename_flags_that_linux_does_not_take_are_einval(t: Stand, flags: int) -> None:
    t.ground.file("a")
    t.ground.file("b")
    with fails(errno.EINVAL):
        t.peer.renameat2(t.dir, "a", t.dir, "b", flags)
    same(t.ground.names(), ["a", "b"])


# 2021 renames a file by its own FD.


@semantics(needs="writable", dialects=("2021",))
def a_file_is_renamed_by_its_fd_wherever_it_went_meanwhile(t: Stand) -> None:
    for name in ("a", "b"):
        t.ground.mkdir(name)
    t.ground.file("file", b"hello")
    peer = t.old
    file, a, b = t.walk("file"), t.walk("a"), t.walk("b")
    peer.rename_fd(file, a, "moved")
    peer.rename_fd(a, b, "deeper")
    peer.rename_fd(file, t.dir, "back")
    same((t.ground.names(), t.ground.contents("back")), (["b", "back"], b"hello"))


@safety(needs="writable", dialects=("2021",))
def a_rename_of_what_is_no_longer_there_moves_nothing_else(t: Stand) -> None:
    t.ground.file("file", b"old")
    fd = t.walk("file")
    t.ground.rename("file", "elsewhere")
    t.ground.file("file", b"new")
    with fails(errno.ENOENT):
        t.old.rename_fd(fd, t.dir, "taken")
    same(t.ground.names(), ["elsewhere", "file"])
    same(t.ground.contents("file"), b"new")


@semantics(dialects=("2021",))
def the_root_is_not_renamed(t: Stand) -> None:
    with fails(errno.EBUSY):
        t.old.rename_fd(t.root, t.dir, "x")
