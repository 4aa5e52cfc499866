"""Every operation there is, by the kernel's number. What is not here is ENOSYS: the kernel then does it itself, or without."""

from __future__ import annotations

from gofer.fuse import attributes, contents, directories, names
from gofer.fuse.kernel import OPCODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.fuse.state import FileSystem, Reply, Request

    Operation = Callable[[FileSystem, Request], Reply]

OPERATIONS: dict[int, Operation] = {
    OPCODES[operation.__name__.upper()]: operation
    for operation in (
        names.lookup, names.forget, names.batch_forget, names.readlink, names.symlink, names.mknod, names.mkdir, names.link,
        names.unlink, names.rmdir, names.rename, names.rename2,
        attributes.getattr, attributes.statx, attributes.access, attributes.setattr, attributes.statfs, attributes.getxattr,
        attributes.listxattr, attributes.setxattr, attributes.removexattr,
        contents.open, contents.create, contents.release, contents.read, contents.write, contents.flush, contents.fsync,
        contents.fallocate, contents.lseek, contents.copy_file_range,
        directories.opendir, directories.readdir, directories.readdirplus, directories.releasedir, directories.fsyncdir,
    )
}  # fmt: skip
# What changes something: what it is asked of; or what that is cannot be told.
OF_ONE = frozenset(
    OPCODES[name]
    for name in ("SETATTR", "SYMLINK", "MKNOD", "MKDIR", "WRITE", "CREATE", "SETXATTR", "REMOVEXATTR", "FALLOCATE", "TMPFILE")
)
CHANGES = OF_ONE | {OPCODES[name] for name in ("UNLINK", "RMDIR", "RENAME", "RENAME2", "LINK", "COPY_FILE_RANGE")}
