"""FGetXattr, FSetXattr, FListXattr and FRemoveXattr."""

import errno
import os
from pathlib import Path

import pytest
from hosts import fails
from peer import Peer

CREATE, REPLACE = 1, 2
EVERY = pytest.mark.serve("--xattrs", "all")


@pytest.fixture
def file(peer: Peer, tree: Path) -> int:
    (tree / "file").touch()
    return peer.walk_to("file")


@pytest.mark.parametrize("value", [b"", b"v", b"\0binary\0\xff", b"x" * 3000])
def test_a_value_is_set_read_and_removed(peer: Peer, tree: Path, file: int, value: bytes) -> None:
    peer.fsetxattr(file, "user.a", value)
    assert os.getxattr(tree / "file", "user.a") == value
    assert peer.fgetxattr(file, "user.a") == value
    assert peer.flistxattr(file) == [b"user.a"]
    peer.fremovexattr(file, "user.a")
    assert peer.flistxattr(file) == []
    with fails(errno.ENODATA):
        peer.fgetxattr(file, "user.a")
    with fails(errno.ENODATA):
        peer.fremovexattr(file, "user.a")


def test_a_size_below_the_value_is_erange_and_zero_means_all(peer: Peer, tree: Path, file: int) -> None:
    os.setxattr(tree / "file", "user.a", b"hello")
    for size in (0, 5, 6, 65536, 2**32 - 1):
        assert peer.fgetxattr(file, "user.a", size) == b"hello"
    for size in (1, 4):
        with fails(errno.ERANGE):
            peer.fgetxattr(file, "user.a", size)


def test_a_list_size_below_the_list_is_erange_and_zero_means_all(peer: Peer, tree: Path, file: int) -> None:
    for name in ("user.a", "user.bb"):
        os.setxattr(tree / "file", name, b"")
    for size in (0, 15, 4096, 2**64 - 1):  # each name and its NUL
        assert sorted(peer.flistxattr(file, size)) == [b"user.a", b"user.bb"]
    for size in (1, 14):
        with fails(errno.ERANGE):
            peer.flistxattr(file, size)


def test_create_and_replace_are_what_they_say(peer: Peer, file: int) -> None:
    with fails(errno.ENODATA):
        peer.fsetxattr(file, "user.a", b"1", REPLACE)
    peer.fsetxattr(file, "user.a", b"1", CREATE)
    with fails(errno.EEXIST):
        peer.fsetxattr(file, "user.a", b"2", CREATE)
    peer.fsetxattr(file, "user.a", b"3", REPLACE)
    assert peer.fgetxattr(file, "user.a") == b"3"


@pytest.mark.parametrize("flags", [4, 8, 1 << 31, 2**32 - 1])
def test_other_flags_are_einval(peer: Peer, file: int, flags: int) -> None:
    with fails(errno.EINVAL):
        peer.fsetxattr(file, "user.a", b"1", flags)


@pytest.mark.parametrize(
    "name,number",
    [
        (b"", errno.ERANGE), (b"user." + b"n" * 251, errno.ERANGE), (b"user.a\0b", errno.EINVAL),
        (b"nonsense", errno.EOPNOTSUPP), (b"x" * 65535, errno.ERANGE), (b"user.", errno.EINVAL),
    ],
)  # fmt: skip
def test_a_name_linux_does_not_take_is_refused(peer: Peer, tree: Path, file: int, name: bytes, number: int) -> None:
    for call in (
        lambda: peer.fgetxattr(file, name),
        lambda: peer.fsetxattr(file, name, b"1"),
        lambda: peer.fremovexattr(file, name),
    ):
        with fails(number):
            call()
    assert os.listxattr(tree / "file") == []


def test_a_value_the_file_system_does_not_hold_is_its_own_error(peer: Peer, tree: Path, file: int) -> None:
    with pytest.raises(OSError) as native:
        os.setxattr(tree / "file", "user.a", b"x" * 65535)
    with fails(native.value.errno or 0):
        peer.fsetxattr(file, "user.a", b"x" * 65535)


@pytest.mark.parametrize("space", ["security.gofer", "trusted.gofer"])
def test_privileged_names_do_not_pass_without_the_option(peer: Peer, tree: Path, file: int, space: str) -> None:
    os.setxattr(tree / "file", space, b"hidden")
    os.setxattr(tree / "file", "user.a", b"seen")
    for call in (
        lambda: peer.fgetxattr(file, space),
        lambda: peer.fsetxattr(file, space, b"1"),
        lambda: peer.fremovexattr(file, space),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno in (errno.EOPNOTSUPP, errno.EPERM)
    assert peer.flistxattr(file) == [b"user.a"]
    assert os.getxattr(tree / "file", space) == b"hidden"


@EVERY
@pytest.mark.parametrize("space", ["security.gofer", "trusted.gofer"])
def test_privileged_names_pass_by_option(peer: Peer, tree: Path, file: int, space: str) -> None:
    peer.fsetxattr(file, space, b"value")
    assert os.getxattr(tree / "file", space) == b"value"
    assert peer.fgetxattr(file, space) == b"value"
    assert peer.flistxattr(file) == [os.fsencode(space)]
    peer.fremovexattr(file, space)
    assert os.listxattr(tree / "file") == []


@pytest.mark.serve("--xattrs", "none")
def test_without_xattrs_none_is_seen_or_set(peer: Peer, tree: Path, file: int) -> None:
    os.setxattr(tree / "file", "user.a", b"hidden")
    for call in (
        lambda: peer.fgetxattr(file, "user.a"),
        lambda: peer.fsetxattr(file, "user.b", b"1"),
        lambda: peer.fremovexattr(file, "user.a"),
    ):
        with fails(errno.EOPNOTSUPP):
            call()
    try:
        assert peer.flistxattr(file) == []
    except OSError as e:
        assert e.errno == errno.EOPNOTSUPP
    assert os.listxattr(tree / "file") == ["user.a"]


@EVERY
@pytest.mark.parametrize("name", ["fifo", "link", "dir", "file"])
def test_every_type_of_file_has_xattrs_where_linux_gives_it_some(peer: Peer, tree: Path, name: str) -> None:
    (tree / "file").touch()
    (tree / "dir").mkdir()
    os.mkfifo(tree / "fifo")
    os.symlink("file", tree / "link")
    fd = peer.walk_to(name)
    peer.fsetxattr(fd, "trusted.gofer", b"here")
    assert os.getxattr(tree / name, "trusted.gofer", follow_symlinks=False) == b"here"
    assert peer.flistxattr(fd) == [b"trusted.gofer"]
    assert name == "file" or os.listxattr(tree / "file") == []
    peer.fremovexattr(fd, "trusted.gofer")


def test_an_unlinked_file_keeps_its_xattrs(peer: Peer, tree: Path, file: int) -> None:
    os.setxattr(tree / "file", "user.a", b"1")
    (tree / "file").unlink()
    assert peer.fgetxattr(file, "user.a") == b"1"
    peer.fsetxattr(file, "user.b", b"2")
    assert sorted(peer.flistxattr(file)) == [b"user.a", b"user.b"]


def test_xattrs_need_a_control_fd(peer: Peer, file: int) -> None:
    opened = peer.openat(file).fd
    for fd, number in ((opened, errno.EINVAL), (777, errno.EBADF)):
        for call in (
            lambda fd=fd: peer.fgetxattr(fd, "user.a"),
            lambda fd=fd: peer.fsetxattr(fd, "user.a", b""),
            lambda fd=fd: peer.fremovexattr(fd, "user.a"),
            lambda fd=fd: peer.flistxattr(fd),
        ):
            with fails(number):
                call()
