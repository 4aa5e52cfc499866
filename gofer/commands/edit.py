"""`gofer edit`: a file of a served tree in $EDITOR, put back whole, if it changed and nobody else has changed it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import stat
import subprocess
import tempfile
from errno import EINVAL, ENOTSUP

from gofer import Failure, sys
from gofer.commands.common import Session, add_common, operands
from gofer.commands.modes import set_stat, umask
from gofer.commands.xattr import LARGEST
from gofer.output import printable, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Iterator
    from typing import Any

    from gofer.client.address import Address
    from gofer.client.replies import Inode, Stat
    from gofer.client.tree import Tree

_MOST = 1 << 20  # bytes of one read or write
_OVERHEAD = 64


def add(parser: ArgumentParser) -> None:
    parser.description = (
        "Edit files of a served tree: each is copied here, $VISUAL, $EDITOR or vi is run on the copy, and when that has changed "
        "it takes the file's place, whole, with its owner, permissions and attributes. Where somebody else has changed the "
        "file meanwhile, or it cannot be put back, the copy is kept, and its name told. A file that is not there is made."
    )
    parser.add_argument("addresses", metavar="SERVER:PATH", nargs="+", help="the file")
    add_common(parser)


def run(options: Any) -> int:
    with Session("edit", options, changes=True) as session:
        for address in operands(options.addresses):
            with session.each(address.shown):
                _edit(session, address)
    return session.status


def _edit(session: Session, address: Address) -> None:
    tree = session.tree(address)
    path, node = _found(tree, address.path)
    if not stat.S_ISREG(node.stat.mode) if node else path.endswith(b"/"):
        raise OSError(EINVAL, "only regular files are edited")
    name = os.fsdecode(path.rpartition(b"/")[2])
    folder = tempfile.mkdtemp(prefix="gofer-edit-")
    copy = os.path.join(folder, name)
    try:
        with open(copy, "xb", opener=_privately) as file:
            if node is not None:
                for data in read(tree, node):
                    file.write(data)
        before = _state(copy)
        _run_editor(copy)
        if _state(copy) == before:
            _discard(folder)
            return
        now = _found(tree, path)[1]
        if _identity(now) != _identity(node):
            raise Failure("somebody else has changed it meanwhile")
        _put_back(tree, path, node, copy)
    except (Failure, OSError) as error:
        if os.path.exists(copy) and (not isinstance(error, OSError) or error.errno is not None):
            why = error.strerror if isinstance(error, OSError) else error
            session.complain(address.shown, f"{why}; what was edited is kept in {copy}")
            return
        _discard(folder)
        raise
    _discard(folder)


def _found(tree: Tree, path: bytes) -> tuple[bytes, Inode | None]:
    """The path with the links at its end followed, and what is there."""
    for _ in range(40):
        try:
            directory, name = tree.parent(path)
        except OSError as error:
            if error.errno == EINVAL:
                return path, tree.resolve(path)
            raise
        try:
            node = tree.child(directory.fd, name)
        except FileNotFoundError:
            return path, None
        finally:
            tree.drop(directory.fd)
        if not stat.S_ISLNK(node.stat.mode):
            return path, node
        target = tree.target(node)
        tree.drop(node.fd)
        path = target if target.startswith(b"/") else path.rstrip(b"/").rpartition(b"/")[0] + b"/" + target
    return path, tree.resolve(path)


def _identity(node: Inode | None) -> tuple[Any, ...]:
    if node is None:
        return ()
    s: Stat = node.stat
    return s.ino, s.dev, s.size, s.mtime, s.ctime


def read(tree: Tree, node: Inode) -> Iterator[bytes]:
    most = min(_MOST, tree.client.max_message_size - _OVERHEAD)
    with tree.client.opened(node.fd) as fd:
        offset = 0
        while data := tree.client.pread(fd, most, offset):
            offset += len(data)
            yield data


def _run_editor(copy: str) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the editor's, and what it has is not to be lost
    try:
        restore = lambda: signal.signal(signal.SIGINT, before)  # noqa: E731
        status = subprocess.run([*shlex.split(editor), copy], preexec_fn=restore).returncode
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Failure(f"cannot run {editor}: {why}; set $EDITOR to one that is here") from None
    finally:
        signal.signal(signal.SIGINT, before)
    if status:
        raise Failure(f"{editor} ended with status {status}, so nothing is put back")


def _state(copy: str) -> tuple[int, ...]:
    found = os.stat(copy)
    return found.st_ino, found.st_size, found.st_mtime_ns


def _put_back(tree: Tree, path: bytes, old: Inode | None, copy: str) -> None:
    """Under another name first, and in the file's place when it is complete, and on its disk."""
    client = tree.client
    directory, name = tree.parent(path)
    spare = b".gofer-" + os.urandom(8).hex().encode()
    mode = 0o600 if old else 0o666 & ~umask()
    node, opened, host = client.opencreateat(directory.fd, spare, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    if host >= 0:
        os.close(host)
    try:
        most, offset = min(_MOST, client.max_message_size - _OVERHEAD), 0
        with open(copy, "rb") as file:
            while data := file.read(most):
                while data:
                    done = client.pwrite(opened, data, offset)
                    offset, data = offset + done, data[done:]
        if old:
            _dress(tree, node, old)
        client.fsync(opened)
        client.renameat(directory.fd, spare, directory.fd, name)
    except BaseException:
        with contextlib.suppress(OSError):
            client.unlinkat(directory.fd, spare)
        raise
    finally:
        if not client.lost:
            tree.drop(opened, node.fd, directory.fd)


def _dress(tree: Tree, new: Inode, old: Inode) -> None:
    """Owner, attributes and permissions of the file whose place it takes."""
    client = tree.client
    if (new.stat.uid, new.stat.gid) != (old.stat.uid, old.stat.gid):
        set_stat(tree, new, sys.STATX_UID | sys.STATX_GID, uid=old.stat.uid, gid=old.stat.gid)
    try:
        names = client.flistxattr(old.fd, LARGEST)
    except OSError as error:
        if error.errno not in (ENOTSUP, EINVAL):
            raise
        names = []
    for name in names:
        client.fsetxattr(new.fd, name, client.fgetxattr(old.fd, name, LARGEST))
    set_stat(tree, new, sys.STATX_MODE, mode=stat.S_IMODE(old.stat.mode))


def _privately(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _discard(folder: str) -> None:
    """The copy, and what an editor leaves beside it."""
    import shutil

    shutil.rmtree(folder, onerror=lambda _, path, __: tell(f"gofer: edit: {printable(os.fsencode(path))} could not be removed"))
