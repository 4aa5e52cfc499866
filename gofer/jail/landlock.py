"""Landlock: no file outside the served tree can be opened or made, whatever path or fd a hijacked server finds.

The kernel asks at each open, creation, removal, link and rename whether the file is below an allowed directory; it walks
up from the file itself, so neither a symlink nor a magic link leads around it. O_PATH, stat, chmod, chown, xattrs and
times are not Landlock's business: the new root covers those. The walk goes by the file's place now: a file that the host
moves out of the tree can no longer be opened through an FD that a client still holds on it.

Rights that an older kernel does not know are not asked of it; see landlock(7) for which ABI brought what. ABI 1 (Linux
5.13) refuses every rename and link between two directories, so at least ABI 2 (5.19) is needed.
"""

from __future__ import annotations

import os

from gofer.cdata import Structure, byref, c_int, c_int32, c_long, c_size_t, c_uint32, c_uint64, c_void_p
from gofer.sys import libc, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

LEAST_ABI = 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE, MAKE_CHAR, MAKE_DIR = 1 << 4, 1 << 5, 1 << 6, 1 << 7
MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK = 1 << 8, 1 << 9, 1 << 10, 1 << 11
MAKE_SYM, REFER, TRUNCATE, IOCTL_DEV = 1 << 12, 1 << 13, 1 << 14, 1 << 15

# every right the ABI knows; from 5 on no more that we name
_HANDLED = {2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # the rest is about a directory's entries
_TCP = 0x3  # BIND_TCP | CONNECT_TCP, ABI 4
_SCOPES = 0x3  # abstract Unix sockets and signals stay inside the domain, ABI 6


def rights(read_only: bool, devices: bool) -> int:
    """What the server needs on the tree. devices: it hands out opened ones.

    Never EXECUTE. Every MAKE_*, because a rename or link of a FIFO or device takes the right to make one. An opened file carries
    its rights along, also when it is donated: hence TRUNCATE and IOCTL_DEV.
    """
    allowed = READ_FILE | READ_DIR | (IOCTL_DEV if devices else 0)
    if read_only:
        return allowed
    allowed |= WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | REFER
    return allowed | MAKE_CHAR | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_BLOCK | MAKE_SYM


def abi() -> int:
    """The ABI version of this kernel; 0: no Landlock, or not switched on at boot (lsm=landlock,...)."""
    return max(0, _syscall(_CREATE_RULESET, c_void_p(None), c_size_t(0), c_uint32(1)))


def restrict(trees: Iterable[tuple[int, bool, int]], version: int) -> None:
    """Confine the calling thread, and those it starts, to the trees, for good: (O_PATH fd, is a directory, rights) each.

    version: what `abi` said. Needs no_new_privs. Call it before the first thread starts: it takes no other threads along.
    """
    handled = _HANDLED[min(version, 5)]
    attribute = _RulesetAttr(handled, _TCP if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = _syscall(_CREATE_RULESET, byref(attribute), c_size_t(size), c_uint32(0))
    if ruleset < 0:
        raise_errno()
    try:
        for fd, is_directory, allowed in trees:
            beneath = _PathBeneath(allowed & handled & (-1 if is_directory else _OF_FILES), fd)
            if _syscall(_ADD_RULE, c_int(ruleset), c_int(1), byref(beneath), c_uint32(0)) < 0:
                raise_errno()
        if _syscall(_RESTRICT_SELF, c_int(ruleset), c_uint32(0)) < 0:
            raise_errno()
    finally:
        os.close(ruleset)


class _RulesetAttr(Structure):
    """struct landlock_ruleset_attr."""

    _fields_ = [("handled_access_fs", c_uint64), ("handled_access_net", c_uint64), ("scoped", c_uint64)]


class _PathBeneath(Structure):
    """struct landlock_path_beneath_attr. It is packed, 12 bytes: the kernel does not read the four more that this has."""

    _fields_ = [("allowed_access", c_uint64), ("parent_fd", c_int32)]


_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture


def _syscall(number: int, *arguments: object) -> int:
    function = libc["syscall"]
    function.restype = c_long
    result: int = function(c_long(number), *arguments)
    return result
