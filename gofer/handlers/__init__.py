"""The table of handlers: index is the message id. Those of the protocol come first; then a gap, and messages of our own.

A handler takes (comm, req, reply): the communicator, the request's payload cut to its length, and the reply's buffer of
MAX_MESSAGE_SIZE bytes; it returns the size of the reply it wrote, or raises OSError, or struct.error for a request that
is not as long as it says. req and reply may be the same memory: read all of the request before the reply is written.
"""

from __future__ import annotations

from gofer import wire
from gofer.handlers import (
    attributes,
    create,
    data,
    directory,
    dirfiles,
    dirwalk,
    names,
    open,
    session,
    unix,
    walk,
    xattr,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.server.comm import Communicator

    Handler = Callable[[Communicator, memoryview, memoryview], int]

_REGISTER: tuple[tuple[int, Handler], ...] = (
    (wire.ERROR, session.error),
    (wire.MOUNT, session.mount),
    (wire.CHANNEL, session.channel),
    (wire.FSTAT, attributes.fstat),
    (wire.SETSTAT, attributes.setstat),
    (wire.WALK, walk.walk),
    (wire.WALKSTAT, walk.walkstat),
    (wire.OPENAT, open.openat),
    (wire.OPENCREATEAT, create.opencreateat),
    (wire.CLOSE, session.close),
    (wire.FSYNC, data.fsync),
    (wire.PWRITE, data.pwrite),
    (wire.PREAD, data.pread),
    (wire.MKDIRAT, create.mkdirat),
    (wire.MKNODAT, create.mknodat),
    (wire.SYMLINKAT, create.symlinkat),
    (wire.LINKAT, create.linkat),
    (wire.FSTATFS, attributes.fstatfs),
    (wire.FALLOCATE, data.fallocate),
    (wire.READLINKAT, names.readlinkat),
    (wire.FLUSH, data.flush),
    (wire.CONNECT, unix.connect),
    (wire.UNLINKAT, names.unlinkat),
    (wire.RENAMEAT, names.renameat),
    (wire.GETDENTS64, directory.getdents64),
    (wire.FGETXATTR, xattr.fgetxattr),
    (wire.FSETXATTR, xattr.fsetxattr),
    (wire.FLISTXATTR, xattr.flistxattr),
    (wire.FREMOVEXATTR, xattr.fremovexattr),
    (wire.BINDAT, unix.bindat),
    (wire.LISTEN, unix.listen),
    (wire.ACCEPT, unix.accept),
    (wire.CONNECTWITHCREDS, unix.connectwithcreds),
    (wire.RENAMEAT2, names.renameat2),
)

_OWN: tuple[tuple[int, Handler], ...] = (
    (wire.DIRREAD, dirfiles.dirread),
    (wire.DIRWRITE, dirfiles.dirwrite),
    (wire.DIRRENAME, dirfiles.dirrename),
    (wire.DIRWALK, dirwalk.dirwalk),
    (wire.DIRSTAT, directory.dirstat),
)

_GAP = (session.unknown,) * (_OWN[0][0] - len(_REGISTER))
HANDLERS: tuple[Handler, ...] = (
    *(handler for _, handler in _REGISTER), *_GAP, *(handler for _, handler in _OWN),
)  # fmt: skip

if [mid for mid, _ in _REGISTER] != list(range(len(wire.NAMES))) or [mid for mid, _ in _OWN] != [*wire.OWN_NAMES]:
    raise ImportError("a message id is missing, doubled or out of place in the table of handlers")
