"""Out of the tree: every name field of every message with every name that could lead elsewhere, symlinks, and special files."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat as modes
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from gofer.conform.case import expect, fails, refuses, safety, same
from gofer.conform.looks import Opens, make_device
from gofer.conform.peer import Peer
from gofer.conform.stand import Stand, walked

SECRET = b"outside of the tree"
Send = Callable[[Peer, int, int, bytes], object]
# (message, field): what sends a name there, in a directory d. "dir" and "file" exist; the FD of "file" is f.
FIELDS: dict[str, Send] = {
    "WALK-first": lambda p, d, f, name: p.walk(d, name),
    "WALK-last": lambda p, d, f, name: p.walk(d, "dir", name),
    "WALK-inner": lambda p, d, f, name: p.walk(d, "dir", name, "x"),
    "WALKSTAT-second": lambda p, d, f, name: p.walkstat(d, "", name),
    "WALKSTAT-last": lambda p, d, f, name: p.walkstat(d, "dir", name),
    "WALKSTAT-inner": lambda p, d, f, name: p.walkstat(d, "dir", name, "x"),
    "OPENCREATEAT": lambda p, d, f, name: p.opencreateat(d, name),
    "MKDIRAT": lambda p, d, f, name: p.mkdirat(d, name),
    "MKNODAT": lambda p, d, f, name: p.mknodat(d, name),
    "SYMLINKAT": lambda p, d, f, name: p.symlinkat(d, name, "target"),
    "LINKAT": lambda p, d, f, name: p.linkat(d, f, name),
    "UNLINKAT": lambda p, d, f, name: p.unlinkat(d, name),
    "UNLINKAT-directory": lambda p, d, f, name: p.unlinkat(d, name, 0x200),
    "RENAMEAT-old": lambda p, d, f, name: p.renameat(d, name, d, "new"),
    "RENAMEAT-new": lambda p, d, f, name: p.renameat(d, "file", d, name),
    "RENAMEAT2-old": lambda p, d, f, name: p.renameat2(d, name, d, "dir", 2),
    "RENAMEAT2-new": lambda p, d, f, name: p.renameat2(d, "dir", d, name, 2),
    "BINDAT": lambda p, d, f, name: p.bindat(d, name),
}
LATER = ("RENAMEAT2-old", "RENAMEAT2-new", "BINDAT")  # than 2021
BAD = [
    b"", b".", b"..", b"/", b"//", b"/..", b"../", b"../..", b"../outside", b"./..", b"./", b"/etc/passwd", b"dir/..",
    b"dir/../..", b"dir/../../outside", b"dir//..", b"dir/", b"dir/.", b"link/outside", b"link/", b"/proc/self/root",
    b"/proc/self/cwd", b"/proc/self/fd", b"/dev/fd/0", b"\0", b"..\0", b".\0", b"\0..", b"..\0x", b"dir\0", b"dir\0/..",
    b"\0/../..", b"\n/..", b"..\n/", b"\xff/", b"\xff\0", b"\xc0\xae\xc0\xae/", b"....//", b"..;/", b"..\\../",
    b"file/../../outside", b"../" * 80 + b"etc/passwd", b"/" * 255,
]  # fmt: skip
LONG = [b"n" * 256, b"n" * 65535, b"." * 256, b"\xff" * 300]
ODD = [
    b"...", b"....", b".. ", b" ..", b"..\n", b"\n", b"\n..", b"\r\n", b"\t", b" ", b"-rf", b"~", b"*", b"$(id)", b"`id`",
    b"..\\..", b"%2e%2e%2f", b"..%2f..", b"%00", b"\\0", b"\xff", b"\xff\xfe", b"\xc0\xae\xc0\xae", b"\x80", b"\x1b[2J",
    b"\xed\xa0\x80", b"\xe2\x80\xae", b"\xef\xbb\xbf..", b"CON", b"a:b", b"n" * 255, b"\n" * 255, b"\xff" * 255,
]  # fmt: skip


def _planted(t: Stand) -> int:
    t.ground.mkdir("dir")
    t.ground.file("file", b"inside")
    t.ground.symlink("/", "link")
    return t.walk("file")


def _offers(t: Stand, send: Send, file: int) -> None:
    """Skips the case where the server has no such message, or does not bind: it would be refused for that."""
    if send is FIELDS["BINDAT"]:
        t.need("bind")
    with contextlib.suppress(OSError):
        send(t.peer, t.dir, file, b".")


@safety(needs="writable", dialects=("today",), each=FIELDS)
def no_field_takes_what_is_not_one_component(t: Stand, send: Send) -> None:
    """CVE-2016-7116, CVE-2023-37474, libkrun #329: the escape corpus, all of it refused."""
    _no_field(t, send)


@safety(needs="writable", dialects=("2021",), each={label: send for label, send in FIELDS.items() if label not in LATER})
def no_field_of_2021_takes_what_is_not_one_component(t: Stand, send: Send) -> None:
    _no_field(t, send)


def _no_field(t: Stand, send: Send) -> None:
    file = _planted(t)
    _offers(t, send, file)
    for names, number in ((BAD, errno.EINVAL), (LONG, errno.ENAMETOOLONG)):
        for name in names:
            with fails(number, of=name):
                send(t.peer, t.dir, file, name)
    same((t.ground.names(), t.ground.names("dir")), (["dir", "file", "link"], []))
    same(t.ground.contents("file"), b"inside")


MAKES = {label: FIELDS[label] for label in ("OPENCREATEAT", "MKDIRAT", "MKNODAT", "SYMLINKAT", "LINKAT")}


@safety(needs="writable", each=MAKES)
def a_name_that_only_looks_dangerous_is_taken_byte_by_byte(t: Stand, send: Send) -> None:
    file = _planted(t)
    for name in ODD:
        send(t.peer, t.dir, file, name)
        same(t.peer.walk(t.dir, name)[0], 0, f"status of {name!r}")
        names = {entry.name for entry in t.peer.listdir(t.peer.openat(t.dir).fd)} - {b".", b".."}
        same(names, {b"dir", b"file", b"link", name})
        t.peer.renameat(t.dir, name, t.dir, b"x" + name[:-1])
        t.peer.renameat(t.dir, b"x" + name[:-1], t.dir, name)
        t.peer.unlinkat(t.dir, name, 0x200 if send is FIELDS["MKDIRAT"] else 0)
        same(t.peer.walk(t.dir, name), (1, []))


@safety(needs="writable")
def a_symlinks_target_is_any_text_and_goes_nowhere(t: Stand) -> None:
    targets = [name for name in BAD + ODD if name and b"\0" not in name]
    for at, target in enumerate([*targets, b"x" * 4095]):
        link = t.peer.symlinkat(t.dir, f"l{at}", target).fd
        same(t.peer.readlinkat(link), target)
        same(t.peer.walk(t.dir, f"l{at}", "outside")[0], 2, "status")
        same(len(t.peer.walkstat(t.dir, f"l{at}", "outside")), 1, "stats")
        with fails(errno.ENOTDIR):
            t.peer.walk(link, "outside")
        with fails(errno.EINVAL):
            t.peer.openat(link)


def _attributes(path: Path) -> tuple[int, ...]:
    """But for the time of access, which looking changes."""
    stat = os.lstat(path)
    return stat.st_mode, stat.st_ino, stat.st_nlink, stat.st_uid, stat.st_gid, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@contextlib.contextmanager
def _outside() -> Iterator[Path]:
    """A directory that is not served, with a file in it; what is in it must stay."""
    path = Path(tempfile.mkdtemp(prefix="gofer-conform-outside-"))
    try:
        os.chmod(path, 0o755)
        (path / "file").write_bytes(SECRET)
        before = _attributes(path / "file")
        yield path
        same(sorted(os.listdir(path)), ["file"], "what is outside of the tree")
        same(_attributes(path / "file"), before, "the attributes of a file outside of the tree")
        same((path / "file").read_bytes(), SECRET)
        same(modes.S_IMODE(os.stat(path).st_mode), 0o755, "the mode of a directory outside of the tree")
    finally:
        shutil.rmtree(path)


@safety(needs="writable host", each=("file", "directory"))
def through_a_symlink_nothing_can_be_reached(t: Stand, kind: str) -> None:
    """CVE-2023-37474: a link to the outside is an inode like any other, and that is all."""
    with _outside() as outside:
        os.symlink(outside / "file" if kind == "file" else outside, t.tree / "link")
        fd = t.walk("link")
        for call in (
            lambda: t.peer.openat(fd), lambda: t.peer.openat(fd, os.O_RDWR | os.O_TRUNC), lambda: t.peer.walk(fd, "file"),
            lambda: t.peer.opencreateat(fd, "new"), lambda: t.peer.mkdirat(fd, "new"), lambda: t.peer.unlinkat(fd, "file"),
            lambda: t.peer.symlinkat(fd, "new", "x"), lambda: t.peer.renameat(fd, "file", t.dir, "stolen"),
        ):  # fmt: skip
            with refuses():
                call()
        same(t.peer.setstat(fd, 0x2, mode=0o777)[0], 0x2, "failure_mask of a mode")
        same(t.peer.setstat(fd, 0x200, size=0)[0], 0x200, "failure_mask of a size")
        t.peer.setstat(fd, 0x8 | 0x10 | 0x40, uid=5, gid=6, mtime=(7, 8))


@safety(needs="writable host")
def a_walk_raced_with_a_symlink_never_leaves_the_tree(t: Stand) -> None:
    """65a26689c, a7402ea5d, CVE-2016-9602: every component is opened relative, nofollow, and checked on the fd."""
    (t.tree / "dir").mkdir()
    (t.tree / "dir/file").write_bytes(b"inside")
    inside = os.stat(t.tree / "dir/file").st_ino
    with _outside() as outside:
        os.symlink(outside, t.tree / "swap")
        found = {0: 0, 2: 0}
        with t.during(_exchanging(t.tree / "dir", t.tree / "swap")):
            for _ in range(20000):
                if min(found.values()) >= 100:  # it is to be a race
                    break
                status, inodes = t.peer.walk(t.dir, "dir", "file")
                found[status] = found.get(status, 0) + 1
                if status == 0:
                    same(inodes[1].stat.ino, inside, "inode")
                    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # where names are gone back to
                        opened = t.peer.openat(inodes[1].fd)
                        same(t.peer.pread(opened.fd, 0, 100), b"inside")
                        t.peer.close(opened.fd)
                    with contextlib.suppress(OSError):
                        t.peer.opencreateat(inodes[0].fd, "new")
                        t.peer.unlinkat(inodes[0].fd, "new")
                else:
                    with refuses():
                        t.peer.opencreateat(inodes[0].fd, "new")
                t.peer.close(*(inode.fd for inode in inodes))
        expect(min(found.values()) >= 100, f"it was no race: {found}")


def _exchanging(one: Path, other: Path) -> Callable[[], None]:
    libc, at_fdcwd, exchange = ctypes.CDLL(None), -100, 2
    paths = os.fsencode(one), os.fsencode(other)

    def swap() -> None:
        for _ in range(1000):
            libc.renameat2(at_fdcwd, paths[0], at_fdcwd, paths[1], exchange)

    return swap


@safety(needs="writable")
def creates_walks_and_renames_of_the_same_names_end_in_a_sound_tree(t: Stand) -> None:
    """CVE-2026-93834 (9pfs): create raced with rename."""
    names, other = ("a", "b"), t.base
    for at in range(200):
        for peer, name in ((t.peer, names[at % 2]), (other, names[(at + 1) % 2])):
            for call in range(4):
                with contextlib.suppress(FileExistsError, FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    _make_and_move(peer, t.dir, name, call)
    for name in t.ground.names():
        expect(name in names, f"{name} was made")
        (stat,) = other.walkstat(t.dir, name)
        same(stat.ino, t.peer.fstat(t.walk(name)).ino, "inode")


def _make_and_move(peer: Peer, directory: int, name: str, call: int) -> None:
    if call == 0:
        peer.mkdirat(directory, name)
    elif call == 1:
        peer.renameat(directory, name, directory, "a")
    elif call == 2:
        peer.opencreateat(directory, name)
    else:
        peer.unlinkat(directory, name, 0x200)


@safety(needs="writable host no-devices", each={"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR})
def a_device_is_looked_at_but_never_opened(t: Stand, flags: int) -> None:
    """CVE-2020-35517, CVE-2023-2861, CVE-2026-96812 (573a9e73c)."""
    make_device(t, "char", 1, 5)
    _looked_at_only(t, "char", flags)


@safety(needs="writable host no-fifos", each={"read": os.O_RDONLY, "write": os.O_WRONLY, "both": os.O_RDWR})
def a_fifo_is_looked_at_but_never_opened(t: Stand, flags: int) -> None:
    """ea7cd7184: only open, connect and bind are gated."""
    os.mkfifo(t.tree / "fifo")
    _looked_at_only(t, "fifo", flags)


def _looked_at_only(t: Stand, name: str, flags: int) -> None:
    with Opens(t.tree / name) as opens:
        fd = t.walk(name)
        same(t.peer.walkstat(t.dir, name)[0].ino, t.peer.fstat(fd).ino, "inode")
        with fails(errno.EPERM):
            t.peer.openat(fd, flags)
        t.peer.setstat(fd, 0x2, mode=0o600)
        t.peer.linkat(t.dir, fd, "second")
        same(opens.seen(), 0, "opens")


@safety(needs="writable host owners", each=("char", "fifo"))
def a_walk_opens_nothing(t: Stand, name: str) -> None:
    """CVE-2020-35517: to open a device, or a FIFO, may do something."""
    if name == "char":
        make_device(t, name, 1, 5)
    else:
        os.mkfifo(t.tree / name)
    with Opens(t.tree / name) as opens:
        fd = t.walk(name)
        t.peer.fstat(fd)
        t.peer.walkstat(t.dir, name)
        t.peer.setstat(fd, 0x2 | 0x8 | 0x10 | 0x40, mode=0o600, uid=5, gid=6, mtime=(7, 8))
        t.peer.linkat(t.dir, fd, "second")
        t.peer.renameat(t.dir, name, t.dir, "moved")
        same(opens.seen(), 0, "opens")


@safety(needs="writable host owners")
def block_devices_are_not_served(t: Stand) -> None:
    """c58e543f3: unsupported types were accepted on one of several paths; one check is called from all."""
    make_device(t, "block", 259, 4242, modes.S_IFBLK)
    for call in (lambda: t.peer.walk(t.dir, "block"), lambda: t.peer.walkstat(t.dir, "block")):
        with fails(errno.EPERM):
            call()


@safety(needs="writable")
def no_fd_is_ever_given_that_leads_out_of_the_tree(t: Stand) -> None:
    """54a66a663, a8062eab8: `..` from a donated directory fd, or from the one on /proc/self/fd, reached the host."""
    t.ground.mkdir("dir")
    t.ground.file("file")
    given = list(t.peer.openat(t.root, os.O_DIRECTORY).donated)
    given += t.peer.openat(t.walk("dir")).donated
    given += t.peer.openat(t.walk("file"), os.O_RDWR).donated
    given += t.peer.opencreateat(t.dir, "new").donated
    for fd in given:
        kind = os.fstat(fd).st_mode
        expect(modes.S_ISREG(kind), f"an fd on a file of type {modes.S_IFMT(kind):o}")
        expect(not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH, "an O_PATH fd")


XATTRS: dict[str, Callable[[Peer, int, bytes], object]] = {
    "get": lambda p, f, name: p.fgetxattr(f, name),
    "set": lambda p, f, name: p.fsetxattr(f, name, b"value"),
    "remove": lambda p, f, name: p.fremovexattr(f, name),
}


@safety(needs="writable xattrs", each={label: (label, send) for label, send in XATTRS.items()})
def an_xattrs_name_is_no_path(t: Stand, label: str, send: Callable[[Peer, int, bytes], object]) -> None:
    t.ground.file("file")
    file, p = t.walk("file"), t.peer
    for name in BAD + ODD:
        full = b"user." + name
        try:
            if label != "set" and 0 < len(name) <= 250 and b"\0" not in name:
                p.fsetxattr(file, full, b"value")
            send(t.peer, file, full)
            expect(b"\0" not in name and name, f"success, of {name!r}")
            same(p.flistxattr(file), [] if label == "remove" else [full])
            if label != "remove":
                p.fremovexattr(file, full)
        except OSError as error:
            expect(error.errno in (errno.EINVAL, errno.ERANGE), f"{error}, of {name!r}")
            expect(b"\0" in name or not 0 < len(name) <= 250, f"{error}, of {name!r}")
    same(t.ground.names(), ["file"])


@safety(ways=("socket",), needs="writable")
def the_directory_above_the_root_is_out_of_reach(t: Stand) -> None:
    top = t.peer.fstat(t.root)
    for call in (
        lambda: t.peer.walk(t.root, ".."), lambda: t.peer.walk(t.root, t.name, "..", ".."), lambda: t.peer.walkstat(t.root, ".."),
        lambda: t.peer.walkstat(t.root, "", ".."), lambda: t.peer.mkdirat(t.root, "../new"),
    ):  # fmt: skip
        with fails(errno.EINVAL):
            call()
    entries = t.peer.listdir(t.peer.openat(t.root).fd)
    above = [entry for entry in entries if entry.name == b".." and (entry.ino, entry.dev) != (top.ino, top.dev)]
    if t.dialect == "today":
        same(above, [], "entries for what is above")
    walked(t.peer, t.root, t.name)
