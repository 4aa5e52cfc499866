"""gofer.server.fds: who owns a host fd, and when it is closed."""

import errno
import gc
import os
import resource
import socket
import stat as modes
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import fails

from gofer.server import fds
from gofer.server.fds import BoundSocketFD, ControlFD, FDTable, HostFD

pytestmark = pytest.mark.usefixtures("as_in_a_server")


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is closed in these tests is closed by reference counts alone."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def limits() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    fds.set_fd_limit(before[0])
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def control(path: Path) -> ControlFD:
    node = ControlFD()
    node.host, node.kind = os.open(path, fds.O_PATH_FLAGS), modes.S_IFMT(os.lstat(path).st_mode)
    return node


def test_a_host_fd_closes_with_its_last_reference(spot: Path, no_collector: None) -> None:
    one = HostFD(os.open(spot, os.O_RDONLY))
    number, other = one.host, one
    del one
    assert is_open(number)
    del other
    assert not is_open(number)


def test_an_owner_of_nothing_closes_nothing() -> None:
    HostFD(-1)


def test_an_fd_that_is_closed_already_is_no_error_at_the_end(spot: Path) -> None:
    owner = HostFD(os.open(spot, os.O_RDONLY))
    os.close(owner.host)
    del owner


def test_close_frees_at_once_unless_a_call_is_running(spot: Path, no_collector: None) -> None:
    table = FDTable()
    fdid = table.next_id()
    table.control[fdid] = control(spot)
    running = table.control[fdid]  # what a handler's local variable is
    number = running.host
    table.close(fdid)
    assert is_open(number)
    with fails(errno.EBADF):
        table.control[fdid]
    del running
    assert not is_open(number)


def test_an_open_fd_keeps_the_file_it_was_opened_from(spot: Path, no_collector: None) -> None:
    (spot / "file").touch()
    node = control(spot / "file")
    number = node.host
    opened = fds.opened_fd(fds.reopen(node.host, os.O_RDONLY), node, os.O_RDONLY)
    del node
    assert is_open(number) and is_open(opened.host)
    del opened
    assert not is_open(number)


def test_ids_count_up_from_one_through_all_kinds(spot: Path) -> None:
    table = FDTable()
    assert [table.next_id() for _ in range(3)] == [1, 2, 3]
    table.close(3)
    assert table.next_id() == 4


def test_an_id_of_another_kind_is_einval_and_an_unknown_one_ebadf(spot: Path) -> None:
    table = FDTable()
    table.control[1] = control(spot)
    table.opened[2] = fds.opened_fd(-1, table.control[1], os.O_RDONLY)
    table.bound[3] = BoundSocketFD(socket.socket(socket.AF_UNIX))
    for kind, own in ((table.control, 1), (table.opened, 2), (table.bound, 3)):
        for fdid in (1, 2, 3):
            if fdid == own:
                assert kind[fdid] is not None
            else:
                with fails(errno.EINVAL):
                    kind[fdid]
        for fdid in (0, 4, 2**64 - 1):
            with fails(errno.EBADF):
                kind[fdid]
    assert table.held() == 3


def test_clearing_a_table_closes_also_what_is_still_referred_to(spot: Path) -> None:
    """As it is for a while in a free-threaded Python, when no call runs any more."""
    table = FDTable()
    node = control(spot)
    opened = fds.opened_fd(os.open(spot, os.O_RDONLY), node, os.O_RDONLY)
    bound = BoundSocketFD(socket.socket(socket.AF_UNIX))
    table.control[1], table.opened[2], table.bound[3] = node, opened, bound
    hosts = node.host, opened.host, bound.host
    table.clear()
    assert not any(map(is_open, hosts)) and node.host == opened.host == bound.host == -1


def test_clearing_a_table_closes_everything_without_the_collector(spot: Path, no_collector: None) -> None:
    table = FDTable()
    table.control[1] = control(spot)
    table.bound[2] = BoundSocketFD(socket.socket(socket.AF_UNIX))
    numbers = table.control[1].host, table.bound[2].host
    table.clear()
    del table
    assert not any(is_open(number) for number in numbers)


@pytest.mark.parametrize("flags,readable,writable", [
    (os.O_RDONLY, True, False), (os.O_WRONLY, False, True), (os.O_RDWR, True, True), (3, False, False),
    (os.O_RDONLY | os.O_TRUNC, True, False),
])  # fmt: skip
def test_access_is_told_by_the_flags(spot: Path, flags: int, readable: bool, writable: bool) -> None:
    opened = fds.opened_fd(-1, control(spot), flags)
    assert (opened.readable, opened.writable) == (readable, writable)


def test_reopen_reaches_the_inode_whatever_became_of_its_name(spot: Path) -> None:
    (spot / "file").write_bytes(b"right")
    node = control(spot / "file")
    (spot / "file").rename(spot / "elsewhere")
    os.symlink("/etc/passwd", spot / "file")
    opened = HostFD(fds.reopen(node.host, os.O_RDONLY))
    assert os.read(opened.host, 10) == b"right"
    (spot / "elsewhere").unlink()
    again = HostFD(fds.reopen(node.host, os.O_RDWR))
    assert os.fstat(again.host).st_nlink == 0
    assert not os.get_inheritable(again.host)


def test_open_path_names_one_entry_and_never_follows_a_link(spot: Path) -> None:
    os.symlink("/etc/passwd", spot / "link")
    directory = control(spot)
    link = HostFD(fds.open_path(directory.host, b"link"))
    assert modes.S_ISLNK(os.fstat(link.host).st_mode)
    with fails(errno.ENOENT):
        fds.open_path(directory.host, b"missing")


def test_a_limit_is_set_and_told(limits: None) -> None:
    assert fds.set_fd_limit(300) == 300
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300


def test_near_the_limit_a_connection_may_hold_eight_times_what_is_still_free(spot: Path, limits: None) -> None:
    fds.set_fd_limit(400)
    ceiling = fds.MARKS[1]
    table, newcomer = FDTable(), FDTable()
    node = control(spot)
    for i in range(ceiling * 2 // 3):
        table.control[i] = node
    fds.admit(10, table)  # far from the limit nobody counts
    fds.admit(ceiling - 1, newcomer)
    with fails(errno.EMFILE):
        fds.admit(ceiling * 3 // 4 - 10, table)
    with fails(errno.EMFILE):
        fds.admit(ceiling, newcomer)  # the reserve is for nobody


def test_the_only_connection_there_can_be_has_the_whole_range(spot: Path, limits: None) -> None:
    fds.set_fd_limit(400, 1)
    table, node = FDTable(), control(spot)
    for i in range(fds.MARKS[1]):
        table.control[i] = node
    fds.admit(fds.MARKS[1] - 1, table)
    with fails(errno.EMFILE):
        fds.admit(fds.MARKS[1], table)
