"""Linux capabilities: giving them up. capabilities(7), capset(2), PR_CAPBSET_DROP in prctl(2)."""

from __future__ import annotations

from errno import EINVAL

from gofer.cdata import c_int, c_uint32, c_ulong
from gofer.sys import get_errno, libc, raise_errno

CHOWN = 0
DAC_OVERRIDE = 1
DAC_READ_SEARCH = 2
FOWNER = 3
FSETID = 4
KILL = 5
SETGID = 6
SETUID = 7
SETPCAP = 8
SYS_CHROOT = 18
SYS_PTRACE = 19
SYS_ADMIN = 21
SETFCAP = 31

NAMES = {
    CHOWN: "chown",
    DAC_OVERRIDE: "dac_override",
    DAC_READ_SEARCH: "dac_read_search",
    FOWNER: "fowner",
    FSETID: "fsetid",
    KILL: "kill",
    SETGID: "setgid",
    SETUID: "setuid",
    SYS_CHROOT: "sys_chroot",
    SYS_PTRACE: "sys_ptrace",
    SYS_ADMIN: "sys_admin",
    SETFCAP: "setfcap",
}

# What acting on any file of any owner takes, and (for connecting to a socket as somebody) becoming anybody.
FILES = frozenset((CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SYS_CHROOT))
IDENTITY = frozenset((SETUID, SETGID))
# What xattr(7) asks for to see and set trusted.* and security.*, security.capability with them.
XATTRS = frozenset((SYS_ADMIN, SETFCAP))

_VERSION_3 = 0x20080522
_PR_CAPBSET_DROP = 24
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

_prctl = libc["prctl"]
_prctl.argtypes = (c_int, *[c_ulong] * 4)


def limit(keep: frozenset[int]) -> frozenset[int]:
    """Give up all capabilities of this thread but `keep`; returns those it has now.

    Bounding, effective and permitted become `keep` as far as they held it, inheritable and ambient empty. The
    bounding set stays as it is where the thread has no CAP_SETPCAP. Only the calling thread changes: call it before
    others start. OSError where the kernel refuses.
    """
    effective, permitted = _capget()
    if effective & 1 << SETPCAP:
        _limit_bounding(keep)
    mask = sum(1 << cap for cap in keep) & permitted
    _capset(mask)
    # Ambient capabilities went with the inheritable ones; kernels before 4.3 have none.
    if _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) == -1:
        if get_errno() != EINVAL:
            raise_errno()
    return effective_set()


def effective_set() -> frozenset[int]:
    """The calling thread's effective capabilities, by number."""
    effective, _ = _capget()
    return frozenset(number for number in range(64) if effective & 1 << number)


def describe(held: frozenset[int]) -> str:
    """ "chown,fowner", or "none"."""
    return ",".join(NAMES.get(number, str(number)) for number in sorted(held)) or "none"


def _limit_bounding(keep: frozenset[int]) -> None:
    for number in range(64):
        if number not in keep and _prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == -1:
            if get_errno() == EINVAL:  # past the last one this kernel knows
                return
            raise_errno()


def _capget() -> tuple[int, int]:
    """(effective, permitted) as masks."""
    data = (c_uint32 * 6)()  # twice effective, permitted, inheritable: the low halves first
    if libc["capget"]((c_uint32 * 2)(_VERSION_3, 0), data) == -1:
        raise_errno()
    return data[0] | data[3] << 32, data[1] | data[4] << 32


def _capset(mask: int) -> None:
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (c_uint32 * 6)(low, low, 0, high, high, 0)
    if libc["capset"]((c_uint32 * 2)(_VERSION_3, 0), data) == -1:
        raise_errno()
