"""Every name field of every message, with every name that could lead elsewhere, and with those that only look so.

The server runs without a jail here: what is tested is what the handlers do, not what a root of its own forgives them.
"""

import errno
import os
import shutil
import stat as modes
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hosts import WAYS, Server, fails

from gofer.conform.codec import Mid
from gofer.conform.peer import Peer

pytestmark = pytest.mark.serve("--jail", "off", "--host-uds", "all", "--xattrs", "all")

# (message, field): what sends a name there. "dir" and "file" exist; the FD of "file" is passed.
FIELDS: dict[tuple[Mid, str], Callable[[Peer, int, bytes], object]] = {
    (Mid.WALK, "first"): lambda p, f, name: p.walk(p.root, name),
    (Mid.WALK, "last"): lambda p, f, name: p.walk(p.root, "dir", name),
    (Mid.WALK, "inner"): lambda p, f, name: p.walk(p.root, "dir", name, "x"),
    (Mid.WALKSTAT, "second"): lambda p, f, name: p.walkstat(p.root, "", name),
    (Mid.WALKSTAT, "last"): lambda p, f, name: p.walkstat(p.root, "dir", name),
    (Mid.WALKSTAT, "inner"): lambda p, f, name: p.walkstat(p.root, "dir", name, "x"),
    (Mid.OPENCREATEAT, "name"): lambda p, f, name: p.opencreateat(p.root, name),
    (Mid.MKDIRAT, "name"): lambda p, f, name: p.mkdirat(p.root, name),
    (Mid.MKNODAT, "name"): lambda p, f, name: p.mknodat(p.root, name),
    (Mid.SYMLINKAT, "name"): lambda p, f, name: p.symlinkat(p.root, name, "target"),
    (Mid.LINKAT, "name"): lambda p, f, name: p.linkat(p.root, f, name),
    (Mid.UNLINKAT, "name"): lambda p, f, name: p.unlinkat(p.root, name),
    (Mid.UNLINKAT, "directory"): lambda p, f, name: p.unlinkat(p.root, name, 0x200),
    (Mid.RENAMEAT, "old_name"): lambda p, f, name: p.renameat(p.root, name, p.root, "new"),
    (Mid.RENAMEAT, "new_name"): lambda p, f, name: p.renameat(p.root, "file", p.root, name),
    (Mid.RENAMEAT2, "old_name"): lambda p, f, name: p.renameat2(p.root, name, p.root, "dir", 2),
    (Mid.RENAMEAT2, "new_name"): lambda p, f, name: p.renameat2(p.root, "dir", p.root, name, 2),
    (Mid.BINDAT, "name"): lambda p, f, name: p.bindat(p.root, name),
}
XATTRS: dict[Mid, Callable[[Peer, int, bytes], object]] = {
    Mid.FGETXATTR: lambda p, f, name: p.fgetxattr(f, name),
    Mid.FSETXATTR: lambda p, f, name: p.fsetxattr(f, name, b"value"),
    Mid.FREMOVEXATTR: lambda p, f, name: p.fremovexattr(f, name),
}
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


@pytest.fixture(autouse=True)
def outside(server: Server) -> Iterator[Path]:
    """A directory beside the tree, which a link in the tree leads to; as it was, when the test is over."""
    path = server.tree.parent / "outside"
    path.mkdir()
    (path / "outside").write_bytes(b"secret")
    os.symlink(path, server.tree / "link")
    before = seen_at(path)
    yield path
    after = seen_at(path)
    shutil.rmtree(path)
    assert after == before


def unknown(peer: Peer, mid: Mid) -> bool:
    """Whether the peer's dialect has no such message: then the server says so."""
    if mid <= peer.last_mid:
        return False
    with fails(errno.EOPNOTSUPP):
        peer.call(mid, b"")
    return True


def seen_at(path: Path) -> list[object]:
    directory = os.lstat(path)  # but for its time of access, which the listing here changes
    return [directory[:7], directory[8:], *((name, os.lstat(path / name)) for name in sorted(os.listdir(path)))]


@pytest.fixture(params=WAYS)
def peer(request: pytest.FixtureRequest, server: Server) -> Iterator[Peer]:
    (server.tree / "dir").mkdir()
    (server.tree / "file").write_bytes(b"inside")
    with server.peer(request.param) as peer:
        yield peer


def test_every_message_with_a_name_is_tried() -> None:
    with_names = set(range(1, 34)) - {
        Mid.MOUNT, Mid.CHANNEL, Mid.FSTAT, Mid.SETSTAT, Mid.OPENAT, Mid.CLOSE, Mid.FSYNC, Mid.PWRITE, Mid.PREAD,
        Mid.FSTATFS, Mid.FALLOCATE, Mid.READLINKAT, Mid.FLUSH, Mid.CONNECT, Mid.GETDENTS64, Mid.FLISTXATTR, Mid.LISTEN,
        Mid.ACCEPT, Mid.CONNECTWITHCREDS,
    }  # fmt: skip
    assert with_names == {mid for mid, _ in FIELDS} | set(XATTRS)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: f"{field[0].name}-{field[1]}")
def test_no_field_takes_what_is_not_one_component(peer: Peer, tree: Path, field: tuple[Mid, str]) -> None:
    """CVE-2016-7116, CVE-2023-37474: the escape corpus."""
    if unknown(peer, field[0]):
        return
    send, file = FIELDS[field], peer.walk_to("file")
    for names, number in ((BAD, errno.EINVAL), (LONG, errno.ENAMETOOLONG)):
        for name in names:
            with fails(number):
                send(peer, file, name)
    assert sorted(os.listdir(tree)) == ["dir", "file", "link"] and os.listdir(tree / "dir") == []
    assert (tree / "file").read_bytes() == b"inside" and modes.S_ISLNK(os.lstat(tree / "link").st_mode)


MAKES = [field for field in FIELDS if field[1] == "name" and field[0] != Mid.UNLINKAT]


@pytest.mark.parametrize("field", MAKES, ids=lambda field: field[0].name)
def test_a_name_that_only_looks_dangerous_is_taken_byte_by_byte(peer: Peer, tree: Path, field: tuple[Mid, str]) -> None:
    if unknown(peer, field[0]):
        return
    send, file = FIELDS[field], peer.walk_to("file")
    for name in ODD:
        send(peer, file, name)
        assert set(os.listdir(os.fsencode(tree))) == {b"dir", b"file", b"link", name}
        assert peer.walk(peer.root, name)[0] == 0 and len(peer.walkstat(peer.root, name)) == 1
        assert name in {entry.name for entry in peer.listdir(peer.openat(peer.root).fd)}
        peer.renameat(peer.root, name, peer.root, b"x" + name[:-1])
        peer.renameat(peer.root, b"x" + name[:-1], peer.root, name)
        peer.unlinkat(peer.root, name, 0x200 if field[0] == Mid.MKDIRAT else 0)
        assert peer.walk(peer.root, name) == (1, [])
        for fd in peer.disown(peer.owned[:]):
            os.close(fd)


def test_a_symlinks_target_is_any_text_and_goes_nowhere(peer: Peer, tree: Path, outside: Path) -> None:
    targets = [name for name in BAD + ODD if name and b"\0" not in name]
    for i, target in enumerate([*targets, os.fsencode(outside), b"x" * 4095]):
        link = peer.symlinkat(peer.root, f"l{i}", target).fd
        assert peer.readlinkat(link) == target == os.readlink(os.fsencode(tree / f"l{i}"))
        assert peer.walk(peer.root, f"l{i}", "outside")[0] == 2
        assert len(peer.walkstat(peer.root, f"l{i}", "outside")) == 1
        with fails(errno.ENOTDIR):
            peer.walk(link, "outside")
        with fails(errno.EINVAL):
            peer.openat(link)
    for target, number in ((b"", errno.ENOENT), (b"a\0b", errno.EINVAL), (b"x" * 4096, errno.ENAMETOOLONG)):
        with fails(number):
            peer.symlinkat(peer.root, "no", target)


@pytest.mark.parametrize("mid", XATTRS, ids=lambda mid: mid.name)
def test_an_xattrs_name_is_no_path(peer: Peer, tree: Path, mid: Mid) -> None:
    file = peer.walk_to("file")
    for name in BAD + ODD:
        full = b"user." + name
        if b"\0" in name:
            with fails(errno.EINVAL):
                XATTRS[mid](peer, file, full)
            assert os.listxattr(tree / "file") == []
        elif 0 < len(name) <= 250:
            if mid != Mid.FSETXATTR:
                os.setxattr(tree / "file", full, b"value")
            XATTRS[mid](peer, file, full)
            assert os.listxattr(tree / "file") == ([] if mid == Mid.FREMOVEXATTR else [os.fsdecode(full)])
            if mid != Mid.FREMOVEXATTR:
                os.removexattr(tree / "file", full)
        else:
            with fails(errno.ERANGE if name else errno.EINVAL):
                XATTRS[mid](peer, file, full)
    for name, number in ((b"", errno.ERANGE), (b"\0", errno.EINVAL), (b"nonamespace", errno.EOPNOTSUPP)):
        with fails(number):
            XATTRS[mid](peer, file, name)
