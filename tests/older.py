"""older.py COMMAND...: run a command as on a kernel before Linux 6.16, which has no SO_PASSRIGHTS."""

import errno
import os
import struct
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from gofer.jail import seccomp

_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_SETSOCKOPT, _SO_PASSRIGHTS = 54 if os.uname().machine == "x86_64" else 208, 83
_THIRD_ARGUMENT = 32  # in struct seccomp_data

if __name__ == "__main__":
    program = [
        (_LOAD, 0, 0, 0),
        (_EQUAL, 0, 3, _SETSOCKOPT),
        (_LOAD, 0, 0, _THIRD_ARGUMENT),
        (_EQUAL, 0, 1, _SO_PASSRIGHTS),
        (_RETURN, 0, 0, seccomp.ERRNO | errno.ENOPROTOOPT),
        (_RETURN, 0, 0, seccomp.ALLOW),
    ]
    seccomp.install(b"".join(struct.pack("<HBBI", *instruction) for instruction in program))
    os.execv(sys.argv[1], sys.argv[1:])
