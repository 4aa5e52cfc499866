"""FGetXattr, FSetXattr, FListXattr and FRemoveXattr."""

from __future__ import annotations

import errno
import os

from gofer.conform.case import expect, fails, may_fail, same, semantics, wire
from gofer.conform.stand import Stand

CREATE, REPLACE = 1, 2
USER = "writable xattrs"


def _file(t: Stand) -> int:
    t.ground.file("file")
    return t.walk("file")


@semantics(needs=USER, each={"empty": b"", "short": b"v", "binary": b"\0binary\0\xff", "long": b"x" * 3000})
def a_value_is_set_read_and_removed(t: Stand, value: bytes) -> None:
    file = _file(t)
    t.peer.fsetxattr(file, "user.a", value)
    same(t.peer.fgetxattr(file, "user.a"), value)
    same(t.peer.flistxattr(file), [b"user.a"])
    t.peer.fremovexattr(file, "user.a")
    same(t.peer.flistxattr(file), [])
    with fails(errno.ENODATA):
        t.peer.fgetxattr(file, "user.a")
    with fails(errno.ENODATA):
        t.peer.fremovexattr(file, "user.a")


@semantics(needs="writable xattrs host")
def a_value_is_the_hosts(t: Stand) -> None:
    file = _file(t)
    t.peer.fsetxattr(file, "user.a", b"\0value")
    same(os.getxattr(t.tree / "file", "user.a"), b"\0value")
    os.setxattr(t.tree / "file", "user.b", b"other")
    same(t.peer.fgetxattr(file, "user.b"), b"other")


@semantics(needs=USER, each={"zero": 0, "exact": 5, "more": 6, "65536": 65536, "largest": 2**32 - 1})
def a_size_that_is_enough_gets_the_value_and_zero_means_all(t: Stand, size: int) -> None:
    """6e5b602ee, 81fa2013f: a size of 0 gave nothing."""
    file = _file(t)
    t.peer.fsetxattr(file, "user.a", b"hello")
    same(t.peer.fgetxattr(file, "user.a", size), b"hello")


@semantics(needs=USER, each=(1, 4))
def a_size_below_the_value_is_erange(t: Stand, size: int) -> None:
    file = _file(t)
    t.peer.fsetxattr(file, "user.a", b"hello")
    with fails(errno.ERANGE):
        t.peer.fgetxattr(file, "user.a", size)


@semantics(needs=USER)
def a_list_size_below_the_list_is_erange_and_zero_means_all(t: Stand) -> None:
    file = _file(t)
    for name in ("user.a", "user.bb"):
        t.peer.fsetxattr(file, name, b"")
    for size in (0, 15, 4096, 2**32):  # each name and its NUL
        same(sorted(t.peer.flistxattr(file, size)), [b"user.a", b"user.bb"], f"size {size}")
    for size in (1, 14):
        with fails(errno.ERANGE, of=size):
            t.peer.flistxattr(file, size)


@semantics(needs=USER)
def create_and_replace_are_what_they_say(t: Stand) -> None:
    file = _file(t)
    with fails(errno.ENODATA):
        t.peer.fsetxattr(file, "user.a", b"1", REPLACE)
    t.peer.fsetxattr(file, "user.a", b"1", CREATE)
    with fails(errno.EEXIST):
        t.peer.fsetxattr(file, "user.a", b"2", CREATE)
    t.peer.fsetxattr(file, "user.a", b"3", REPLACE)
    same(t.peer.fgetxattr(file, "user.a"), b"3")


@semantics(needs=USER, each={f"{flags:#x}": flags for flags in (4, 8, 1 << 31, 2**32 - 1)})
def other_flags_are_einval(t: Stand, flags: int) -> None:
    file = _file(t)
    with fails(errno.EINVAL):
        t.peer.fsetxattr(file, "user.a", b"1", flags)


NAMES = {
    "empty": (b"", errno.ERANGE), "256": (b"user." + b"n" * 251, errno.ERANGE), "nul": (b"user.a\0b", errno.EINVAL),
    "no-namespace": (b"nonsense", errno.EOPNOTSUPP), "65535": (b"x" * 65535, errno.ERANGE), "user.": (b"user.", errno.EINVAL),
}  # fmt: skip


@semantics(needs=USER, each=NAMES)
def a_name_that_linux_does_not_take_is_refused(t: Stand, name: bytes, number: int) -> None:
    file = _file(t)
    for call in (
        lambda: t.peer.fgetxattr(file, name), lambda: t.peer.fsetxattr(file, name, b"1"), lambda: t.peer.fremovexattr(file, name),
    ):  # fmt: skip
        with fails(number):
            call()
    same(t.peer.flistxattr(file), [])


@semantics(needs="writable xattrs host")
def a_value_the_file_system_does_not_hold_is_its_own_error(t: Stand) -> None:
    file, number = _file(t), 0
    try:
        os.setxattr(t.tree / "file", "user.a", b"x" * 65535)
        os.removexattr(t.tree / "file", "user.a")
    except OSError as native:
        number = native.errno or 0
    with may_fail(*[number] * bool(number)):
        t.peer.fsetxattr(file, "user.a", b"x" * 65535)
        same(number, 0, "success; errno of the file system")


@semantics(needs="writable xattrs no-all-xattrs owners host", each=("security.conform", "trusted.conform"))
def privileged_names_do_not_pass(t: Stand, name: str) -> None:
    """e7b59aa1b, 4e559c2af: security.* shown to a sandbox broke its overlays."""
    file = _file(t)
    os.setxattr(t.tree / "file", name, b"hidden")
    os.setxattr(t.tree / "file", "user.a", b"seen")
    for call in (
        lambda: t.peer.fgetxattr(file, name), lambda: t.peer.fsetxattr(file, name, b"1"), lambda: t.peer.fremovexattr(file, name),
    ):  # fmt: skip
        with fails(errno.EOPNOTSUPP, errno.EPERM):
            call()
    same(t.peer.flistxattr(file), [b"user.a"])
    same(os.getxattr(t.tree / "file", name), b"hidden")


@semantics(needs="writable all-xattrs", each=("security.conform", "trusted.conform"))
def privileged_names_pass_where_they_are_open(t: Stand, name: str) -> None:
    file = _file(t)
    t.peer.fsetxattr(file, name, b"value")
    same(t.peer.fgetxattr(file, name), b"value")
    same(t.peer.flistxattr(file), [os.fsencode(name)])
    t.peer.fremovexattr(file, name)
    same(t.peer.flistxattr(file), [])


@semantics(needs="writable no-xattrs host")
def where_there_are_none_none_is_seen_or_set(t: Stand) -> None:
    file = _file(t)
    os.setxattr(t.tree / "file", "user.a", b"hidden")
    for call in (
        lambda: t.peer.fgetxattr(file, "user.a"), lambda: t.peer.fsetxattr(file, "user.b", b"1"),
        lambda: t.peer.fremovexattr(file, "user.a"),
    ):  # fmt: skip
        with fails(errno.EOPNOTSUPP):
            call()
    with may_fail(errno.EOPNOTSUPP):
        same(t.peer.flistxattr(file), [])
    same(os.listxattr(t.tree / "file"), ["user.a"])


@semantics(needs="writable all-xattrs", each=("fifo", "link", "dir", "file"))
def every_type_of_file_has_xattrs_where_linux_gives_it_some(t: Stand, name: str) -> None:
    """711940335: those of symlinks and FIFOs could not be reached by an O_PATH fd."""
    t.ground.file("file")
    t.ground.mkdir("dir")
    t.ground.symlink("file", "link")
    if name == "fifo":
        os.mkfifo(t.tree / name)
    fd = t.walk(name)
    for space in ("trusted.conform", "security.conform"):
        t.peer.fsetxattr(fd, space, b"here")
        same(t.peer.fgetxattr(fd, space), b"here")
    same(sorted(t.peer.flistxattr(fd)), [b"security.conform", b"trusted.conform"])
    if name != "file":
        same(t.peer.flistxattr(t.walk("file")), [], "those of what a link leads to")
    t.peer.fremovexattr(fd, "trusted.conform")
    same(t.peer.flistxattr(fd), [b"security.conform"])


@semantics(needs="writable all-xattrs bind", dialects=("today",))
def a_bound_socket_has_xattrs(t: Stand) -> None:
    fd = t.peer.bindat(t.dir, "sock").inode.fd
    t.peer.fsetxattr(fd, "trusted.conform", b"value")
    same(t.peer.fgetxattr(fd, "trusted.conform", 0), b"value")


@semantics(needs=USER)
def an_unlinked_file_keeps_its_xattrs(t: Stand) -> None:
    file = _file(t)
    t.peer.fsetxattr(file, "user.a", b"1")
    t.ground.remove("file")
    same(t.peer.fgetxattr(file, "user.a"), b"1")
    t.peer.fsetxattr(file, "user.b", b"2")
    same(sorted(t.peer.flistxattr(file)), [b"user.a", b"user.b"])


@wire(needs=USER)
def xattrs_need_a_control_fd(t: Stand) -> None:
    file = _file(t)
    opened = t.peer.openat(file).fd
    for fd, number in ((opened, errno.EINVAL), (99999999, errno.EBADF)):
        for call in (
            lambda fd=fd: t.peer.fgetxattr(fd, "user.a"), lambda fd=fd: t.peer.fsetxattr(fd, "user.a", b""),
            lambda fd=fd: t.peer.fremovexattr(fd, "user.a"), lambda fd=fd: t.peer.flistxattr(fd),
        ):  # fmt: skip
            with fails(number):
                call()


@wire(needs="writable all-xattrs host")
def a_value_that_a_u16_cannot_tell_is_an_error_and_no_wrapped_length(t: Stand) -> None:
    file = _file(t)
    try:
        os.setxattr(t.tree / "file", "trusted.large", b"x" * 65536)
    except OSError:
        return  # most file systems hold less
    if t.dialect == "2021":  # whose lengths have 4 bytes
        expect(len(t.peer.fgetxattr(file, "trusted.large")) in (0, 65536), "another length")
        return
    with fails(errno.E2BIG, errno.ERANGE):
        t.peer.fgetxattr(file, "trusted.large")


@semantics(needs="writable all-xattrs owners")
def file_capabilities_do_not_survive_a_write(t: Stand) -> None:
    """CVE-2021-20263 (virtiofsd)."""
    t.ground.file("file", b"program")
    capability = bytes.fromhex("0100000200040000000000000000000000000000")  # VFS_CAP_REVISION_2, net_bind_service
    fd = t.walk("file")
    t.peer.fsetxattr(fd, "security.capability", capability)
    t.peer.pwrite(t.peer.openat(fd, os.O_WRONLY).fd, 0, b"evil")
    with fails(errno.ENODATA):
        t.peer.fgetxattr(fd, "security.capability")
