"""The table of handlers for clients of 2021: index is the message id. Handlers are as those of today's table.

Each reads its own record, has the work done by what today's handler has it done by, and writes its own reply. What is the
same to the byte but for a record is today's handler, given that record. Messages that came later are unknown here.
"""

from __future__ import annotations

from gofer import wire
from gofer.handlers import HANDLERS as TODAYS
from gofer.handlers import session as todays_session
from gofer.handlers2021 import files, names, session

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.handlers import Handler

_REGISTER: tuple[tuple[int, Handler], ...] = (
    (wire.ERROR, todays_session.error),
    (wire.MOUNT, session.mount),
    (wire.CHANNEL, session.channel),
    (wire.FSTAT, files.fstat),
    (wire.SETSTAT, files.setstat),
    (wire.WALK, names.walk),
    (wire.WALKSTAT, names.walkstat),
    (wire.OPENAT, files.openat),
    (wire.OPENCREATEAT, names.opencreateat),
    (wire.CLOSE, session.close),
    (wire.FSYNC, files.fsync),
    (wire.PWRITE, files.pwrite),
    (wire.PREAD, files.pread),
    (wire.MKDIRAT, names.mkdirat),
    (wire.MKNODAT, names.mknodat),
    (wire.SYMLINKAT, names.symlinkat),
    (wire.LINKAT, names.linkat),
    (wire.FSTATFS, files.fstatfs),
    (wire.FALLOCATE, files.fallocate),
    (wire.READLINKAT, files.readlinkat),
    (wire.FLUSH, files.flush),
    (wire.CONNECT, files.connect),
    (wire.UNLINKAT, names.unlinkat),
    (wire.RENAMEAT, names.renameat),
    (wire.GETDENTS64, files.getdents64),
    (wire.FGETXATTR, files.fgetxattr),
    (wire.FSETXATTR, files.fsetxattr),
    (wire.FLISTXATTR, files.flistxattr),
    (wire.FREMOVEXATTR, files.fremovexattr),
)

# As long as today's, because what is beyond that is told by its length (dispatch.refuse).
_LATER = (session.unknown,) * (len(TODAYS) - len(_REGISTER))
HANDLERS: tuple[Handler, ...] = tuple(handler for _, handler in _REGISTER) + _LATER

if [mid for mid, _ in _REGISTER] != list(range(session.MESSAGES)):
    raise ImportError("a message id is missing, doubled or out of place in the table of handlers")
