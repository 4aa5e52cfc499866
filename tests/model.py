"""A file system as Linux promises it, small enough to be right: what tests/test_model.py compares the server with.

One function per change. Each raises OSError with the errno that Linux gives, and else has made the change. Permissions do
not occur, as the server under test is root.
"""

import errno
import os
from typing import Optional, Union

NOREPLACE, EXCHANGE = 1, 2
CREATE, REPLACE = 1, 2


class Node:
    """A file. xattrs and mode as Linux has them."""

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.xattrs: dict[bytes, bytes] = {}


class File(Node):
    def __init__(self, mode: int) -> None:
        super().__init__(mode)
        self.data = b""
        self.links = 1

    def write(self, offset: int, data: bytes) -> None:
        if data:
            padded = self.data.ljust(offset, b"\0")
            self.data = padded[:offset] + data + padded[offset + len(data) :]


class Link(Node):
    def __init__(self, target: bytes) -> None:
        super().__init__(0o777)
        self.target = target
        self.links = 1


class Directory(Node):
    """removed: it has no name any more, and can get no entries."""

    def __init__(self, mode: int, parent: "Optional[Directory]" = None) -> None:
        super().__init__(mode)
        self.entries: dict[bytes, Entry] = {}
        self.parent = parent
        self.removed = False

    def is_below(self, other: "Entry") -> bool:
        """Whether other is this directory or one above it."""
        here: Optional[Directory] = self
        while here is not None:
            if here is other:
                return True
            here = here.parent
        return False


Entry = Union[File, Link, Directory]


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def lookup(directory: Directory, name: bytes) -> Entry:
    if directory.removed or name not in directory.entries:
        raise error(errno.ENOENT)
    return directory.entries[name]


def make(directory: Directory, name: bytes, node: Entry) -> None:
    if name in directory.entries:
        raise error(errno.EEXIST)
    if directory.removed:
        raise error(errno.ENOENT)
    directory.entries[name] = node
    if isinstance(node, Directory):
        node.parent = directory


def link(directory: Directory, name: bytes, node: Entry) -> None:
    if isinstance(node, Directory):
        raise error(errno.EPERM)
    if not node.links and name not in directory.entries:
        raise error(errno.ENOENT)
    make(directory, name, node)
    node.links += 1


def _drop(node: Entry) -> None:
    """It has lost a name."""
    if isinstance(node, Directory):
        node.removed = True
    else:
        node.links -= 1


def unlink(directory: Directory, name: bytes) -> None:
    node = lookup(directory, name)
    if isinstance(node, Directory):
        raise error(errno.EISDIR)
    _drop(directory.entries.pop(name))


def rmdir(directory: Directory, name: bytes) -> None:
    node = lookup(directory, name)
    if not isinstance(node, Directory):
        raise error(errno.ENOTDIR)
    if node.entries:
        raise error(errno.ENOTEMPTY)
    _drop(directory.entries.pop(name))


def rename(old_dir: Directory, old: bytes, new_dir: Directory, new: bytes, flags: int) -> None:
    """rename(2); the order of the checks is that of the kernel's do_renameat2 and vfs_rename."""
    source = lookup(old_dir, old)
    target = None if new_dir.removed else new_dir.entries.get(new)
    if target is None and (flags & EXCHANGE or new_dir.removed):
        raise error(errno.ENOENT)
    if target is not None and flags & NOREPLACE:
        raise error(errno.EEXIST)
    if new_dir.is_below(source):
        raise error(errno.EINVAL)
    if target is not None and old_dir.is_below(target):
        raise error(errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY)
    if source is target:
        return
    if target is not None and not flags & EXCHANGE:
        _check_replaced(source, target)
        _drop(target)
    old_dir.entries.pop(old)
    new_dir.entries[new] = source
    if isinstance(source, Directory):
        source.parent = new_dir
    if flags & EXCHANGE and target is not None:
        old_dir.entries[old] = target
        if isinstance(target, Directory):
            target.parent = old_dir


def _check_replaced(source: Entry, target: Entry) -> None:
    if isinstance(source, Directory):
        if not isinstance(target, Directory):
            raise error(errno.ENOTDIR)
        if target.entries:
            raise error(errno.ENOTEMPTY)
    elif isinstance(target, Directory):
        raise error(errno.EISDIR)


def set_xattr(node: Entry, name: bytes, value: bytes, flags: int) -> None:
    if isinstance(node, Link):
        raise error(errno.EPERM)
    if name in node.xattrs and flags & CREATE:
        raise error(errno.EEXIST)
    if name not in node.xattrs and flags & REPLACE:
        raise error(errno.ENODATA)
    node.xattrs[name] = value


def remove_xattr(node: Entry, name: bytes) -> None:
    if isinstance(node, Link):
        raise error(errno.EPERM)
    if name not in node.xattrs:
        raise error(errno.ENODATA)
    del node.xattrs[name]
