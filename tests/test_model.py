"""Random sequences of operations, on the server and on a model of a file system: same results, same errors, same tree.

GOFER_EXAMPLES=20000 in the environment tries other sequences, and more of them (fuzz/README.md).
"""

import errno
import os
import stat as modes
from pathlib import Path
from typing import Any, Callable, Optional, Union

import model
import pytest
from hosts import CALM, WAYS, Server, empty
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from model import Directory, Entry, File, Link

from gofer.conform.codec import MODE, SIZE, Mid
from gofer.conform.peer import Peer

NAMES = st.sampled_from([b"a", b"b", b"c", b"\xff\n"])
MODES = st.sampled_from([0o600, 0o644, 0o755, 0o700, 0o1777, 0o000])
OFFSETS = st.one_of(st.integers(0, 200), st.integers(0, 70_000))
DATA = st.one_of(st.binary(max_size=50), st.integers(0, 5000).map(lambda size: b"x" * size))
XATTRS = st.sampled_from([b"user.a", b"user.b"])
TYPES = {File: modes.S_IFREG, Directory: modes.S_IFDIR, Link: modes.S_IFLNK}
EXAMPLES = int(os.environ.get("GOFER_EXAMPLES", "0"))


class Opened:
    """What an open FD is to the model."""

    def __init__(self, node: Entry, flags: int) -> None:
        access = flags & os.O_ACCMODE
        self.node = node
        self.readable, self.writable = access != os.O_WRONLY, access != os.O_RDONLY


Meaning = Union[Entry, Opened]


class Machine(RuleBasedStateMachine):
    """The bundles hold FDs as numbers, those of closed ones too; `fds` says what they mean to the model."""

    controls: "Bundle[int]" = Bundle("controls")
    opens: "Bundle[int]" = Bundle("opens")

    def __init__(self, server: Server, transport: str) -> None:
        super().__init__()
        empty(server.tree)
        self.tree = server.tree
        self.context = server.peer(transport)
        self.peer: Peer = self.context.__enter__()
        self.root = Directory(0o755)
        self.fds: dict[int, Meaning] = {self.peer.root: self.root}

    def teardown(self) -> None:
        try:
            assert self.on_host(self.tree) == self.in_model(self.root)
        finally:
            self.context.__exit__(None, None, None)
            for name in os.listxattr(self.tree):  # the tree itself is used again
                os.removexattr(self.tree, name)

    def both(self, call: Callable[[], Any], change: Callable[[], Any]) -> Any:
        """The result of call, which must succeed, or else fail with the same errno, as change does."""
        expected: Optional[OSError] = None
        try:
            change()
        except OSError as e:
            expected = e
        try:
            result = call()
        except OSError as e:
            assert expected is not None, f"the server fails with {errno.errorcode.get(e.errno or 0)}"
            assert e.errno == expected.errno, f"{errno.errorcode[e.errno or 0]}, not {expected}"
            return None
        assert expected is None, f"the server does not fail with {expected}"
        return result

    def node(self, fd: int) -> Entry:
        meaning = self.fds.get(fd)
        if meaning is None:
            raise model.error(errno.EBADF)
        if isinstance(meaning, Opened):
            raise model.error(errno.EINVAL)
        return meaning

    def directory(self, fd: int) -> Directory:
        node = self.node(fd)
        if not isinstance(node, Directory):
            raise model.error(errno.ENOTDIR)
        return node

    def opened(self, fd: int) -> Opened:
        meaning = self.fds.get(fd)
        if meaning is None:
            raise model.error(errno.EBADF)
        if not isinstance(meaning, Opened):
            raise model.error(errno.EINVAL)
        return meaning

    def kept(self, fd: int, meaning: Meaning) -> int:
        assert fd not in self.fds
        self.fds[fd] = meaning
        for donated in self.peer.disown(self.peer.owned[:]):
            os.close(donated)
        return fd

    def made(self, inode: Any, node: Entry) -> Any:
        """The new control FD, for the bundle, where there is one."""
        if inode is None:
            return multiple()
        self.agrees(inode.stat, node)
        return self.kept(inode.fd, node)

    def agrees(self, stat: Any, node: Entry) -> None:
        assert modes.S_IFMT(stat.mode) == TYPES[type(node)]
        if isinstance(node, Link):
            assert stat.size == len(node.target) and stat.nlink == node.links
            return
        assert stat.mode & 0o7777 == node.mode
        if isinstance(node, File):
            assert stat.size == len(node.data) and stat.nlink == node.links

    @initialize(target=controls)
    def start(self) -> int:
        return self.peer.root

    # Names

    @rule(target=controls, fd=controls, name=NAMES, mode=MODES)
    def mkdir(self, fd: int, name: bytes, mode: int) -> Any:
        node = Directory(mode)
        call = lambda: self.peer.mkdirat(fd, name, mode)  # noqa: E731
        return self.made(self.both(call, lambda: model.make(self.directory(fd), name, node)), node)

    @rule(target=controls, fd=controls, name=NAMES, mode=MODES)
    def mknod(self, fd: int, name: bytes, mode: int) -> Any:
        node = File(mode)
        call = lambda: self.peer.mknodat(fd, name, modes.S_IFREG | mode)  # noqa: E731
        return self.made(self.both(call, lambda: model.make(self.directory(fd), name, node)), node)

    @rule(target=controls, fd=controls, name=NAMES, target_=st.sampled_from([b"a", b"../..", b"/etc/passwd"]))
    def symlink(self, fd: int, name: bytes, target_: bytes) -> Any:
        node = Link(target_)
        call = lambda: self.peer.symlinkat(fd, name, target_)  # noqa: E731
        return self.made(self.both(call, lambda: model.make(self.directory(fd), name, node)), node)

    @rule(target=opens, fd=controls, name=NAMES, mode=MODES, access=st.sampled_from([0, 1, 2]))
    def create(self, fd: int, name: bytes, mode: int, access: int) -> Any:
        node = File(mode)
        call = lambda: self.peer.opencreateat(fd, name, access, mode)  # noqa: E731
        created = self.both(call, lambda: model.make(self.directory(fd), name, node))
        if created is None:
            return multiple()
        self.made(created.inode, node)
        return self.kept(created.fd, Opened(node, access))

    @rule(target=controls, fd=controls, name=NAMES, old=controls)
    def link(self, fd: int, name: bytes, old: int) -> Any:
        def change() -> None:
            directory = self.directory(fd)
            model.link(directory, name, self.node(old))

        inode = self.both(lambda: self.peer.linkat(fd, old, name), change)
        return multiple() if inode is None else self.made(inode, self.node(old))

    @rule(fd=controls, name=NAMES, directory=st.booleans())
    def unlink(self, fd: int, name: bytes, directory: bool) -> None:
        change = model.rmdir if directory else model.unlink
        self.both(lambda: self.peer.unlinkat(fd, name, 0x200 * directory), lambda: change(self.directory(fd), name))

    @rule(old=controls, old_name=NAMES, new=controls, new_name=NAMES, flags=st.sampled_from([None, 0, 1, 2]))
    def rename(self, old: int, old_name: bytes, new: int, new_name: bytes, flags: Optional[int]) -> None:
        if Mid.RENAMEAT2 > self.peer.last_mid:
            flags = None

        def change() -> None:
            first, second = self.directory(old), self.directory(new)
            model.rename(first, old_name, second, new_name, flags or 0)

        def call() -> None:
            if flags is None:
                self.peer.renameat(old, old_name, new, new_name)
            else:
                self.peer.renameat2(old, old_name, new, new_name, flags)

        self.both(call, change)

    @rule(target=controls, fd=controls, names=st.lists(NAMES, min_size=1, max_size=4))
    def walk(self, fd: int, names: list[bytes]) -> Any:
        found: list[Entry] = []

        def change() -> None:
            here: Entry = self.directory(fd)
            for name in names:
                if isinstance(here, Link):
                    break
                if not isinstance(here, Directory):
                    raise model.error(errno.ENOTDIR)
                if name not in here.entries:
                    break
                here = here.entries[name]
                found.append(here)

        stats = self.both(lambda: self.peer.walkstat(fd, *names), change) if fd in self.fds else None
        found.clear()
        walked = self.both(lambda: self.peer.walk(fd, *names), change)
        if walked is None:
            return multiple()
        status, inodes = walked
        whole = len(found) == len(names)
        assert status == (0 if whole else 2 if found and isinstance(found[-1], Link) else 1)
        assert len(inodes) == len(found)
        assert stats is None or [stat.ino for stat in stats] == [inode.stat.ino for inode in inodes]
        return multiple(*(self.made(inode, node) for inode, node in zip(inodes, found)))

    @rule(fd=controls)
    def look(self, fd: int) -> None:
        stat = self.both(lambda: self.peer.fstat(fd), lambda: self.node(fd))
        if stat is not None:
            self.agrees(stat, self.node(fd))

    @rule(fd=controls)
    def readlink(self, fd: int) -> None:
        def change() -> None:
            if not isinstance(self.node(fd), Link):
                raise model.error(errno.EINVAL)

        target = self.both(lambda: self.peer.readlinkat(fd), change)
        if target is not None:
            assert target == self.node(fd).target  # type: ignore[union-attr]

    @rule(fd=controls, count=st.sampled_from([100, 4096]))
    def list_directory(self, fd: int, count: int) -> None:
        opened = self.fds.get(fd)
        if isinstance(opened, Directory) and not opened.removed:
            listing = self.peer.openat(fd).fd
            assert {entry.name for entry in self.peer.listdir(listing, count)} == set(opened.entries)
            self.peer.close(listing)

    # Contents and attributes

    @rule(target=opens, fd=controls, access=st.sampled_from([0, 1, 2]), truncate=st.booleans())
    def open(self, fd: int, access: int, truncate: bool) -> Any:
        flags = access | os.O_TRUNC * truncate

        def change() -> None:
            node = self.node(fd)
            if isinstance(node, Link):
                raise model.error(errno.EINVAL)
            if isinstance(node, Directory) and flags:
                raise model.error(errno.EISDIR)
            if isinstance(node, File) and truncate:
                node.data = b""

        got = self.both(lambda: self.peer.openat(fd, flags), change)
        return multiple() if got is None else self.kept(got.fd, Opened(self.node(fd), flags))

    @rule(fd=opens, offset=OFFSETS, count=st.integers(1, 6000))
    def read(self, fd: int, offset: int, count: int) -> None:
        def change() -> None:
            opened = self.opened(fd)
            if not opened.readable:
                raise model.error(errno.EBADF)
            if isinstance(opened.node, Directory):
                raise model.error(errno.EISDIR)

        data = self.both(lambda: self.peer.pread(fd, offset, count), change)
        if data is not None:
            assert data == self.opened(fd).node.data[offset : offset + count]  # type: ignore[union-attr]

    @rule(fd=opens, offset=OFFSETS, data=DATA)
    def write(self, fd: int, offset: int, data: bytes) -> None:
        def change() -> None:
            opened = self.opened(fd)
            if not opened.writable:
                raise model.error(errno.EBADF)
            assert isinstance(opened.node, File)
            opened.node.write(offset, data)

        count = self.both(lambda: self.peer.pwrite(fd, offset, data), change)
        assert count in (None, len(data))

    @rule(fd=controls, size=OFFSETS)
    def truncate(self, fd: int, size: int) -> None:
        node = self.fds.get(fd)
        if isinstance(node, File):
            assert self.peer.setstat(fd, SIZE, size=size) == (0, 0)
            node.data = node.data[:size].ljust(size, b"\0")
        elif isinstance(node, (Directory, Link)):
            number = errno.EISDIR if isinstance(node, Directory) else errno.EINVAL
            assert self.peer.setstat(fd, SIZE, size=size) == (SIZE, number)

    @rule(fd=controls, mode=MODES)
    def chmod(self, fd: int, mode: int) -> None:
        node = self.fds.get(fd)
        if isinstance(node, Link):
            assert self.peer.setstat(fd, MODE, mode=mode) == (MODE, errno.EOPNOTSUPP)
        elif isinstance(node, (Directory, File)):
            assert self.peer.setstat(fd, MODE, mode=mode) == (0, 0)
            node.mode = mode

    @rule(fd=controls, name=XATTRS, value=st.binary(max_size=40), flags=st.sampled_from([0, 1, 2]))
    def set_xattr(self, fd: int, name: bytes, value: bytes, flags: int) -> None:
        self.both(
            lambda: self.peer.fsetxattr(fd, name, value, flags),
            lambda: model.set_xattr(self.node(fd), name, value, flags),
        )

    @rule(fd=controls, name=XATTRS)
    def remove_xattr(self, fd: int, name: bytes) -> None:
        self.both(lambda: self.peer.fremovexattr(fd, name), lambda: model.remove_xattr(self.node(fd), name))

    @rule(fd=controls)
    def list_xattrs(self, fd: int) -> None:
        names = self.both(lambda: self.peer.flistxattr(fd), lambda: self.node(fd))
        if names is not None:
            assert {name for name in names if name.startswith(b"user.")} == set(self.node(fd).xattrs)
            for name, value in self.node(fd).xattrs.items():
                assert self.peer.fgetxattr(fd, name) == value

    # FDs

    @rule(fd=st.one_of(controls, opens))
    def close(self, fd: int) -> None:
        if fd != self.peer.root:
            self.peer.close(fd)
            self.fds.pop(fd, None)

    @rule(fds=st.lists(opens, max_size=3))
    def fsync(self, fds: list[int]) -> None:
        def change() -> None:
            for fd in fds:
                self.opened(fd)

        self.both(lambda: self.peer.fsync(*fds), change)

    @invariant()
    def donated_fds_are_closed(self) -> None:
        for fd in self.peer.disown(self.peer.owned[:]):
            os.close(fd)

    # The tree, in comparable form

    def on_host(self, path: Path) -> Any:
        if path.is_symlink():
            return "link to", os.readlink(os.fsencode(path))
        if path.is_dir():
            return {os.fsencode(entry.name): self.on_host(entry) for entry in path.iterdir()}
        return path.read_bytes()

    def in_model(self, node: Entry) -> Any:
        if isinstance(node, Link):
            return "link to", node.target
        if isinstance(node, Directory):
            return {name: self.in_model(each) for name, each in node.entries.items()}
        return node.data


@pytest.mark.parametrize("transport", WAYS)
@pytest.mark.timeout(0 if EXAMPLES else CALM)
def test_the_server_does_what_a_file_system_does(server: Server, transport: str) -> None:
    run_state_machine_as_test(
        lambda: Machine(server, transport),
        settings=settings(
            max_examples=EXAMPLES or 80,
            stateful_step_count=40,
            deadline=None,
            derandomize=not EXAMPLES,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
