"""What keeps a runsc that runs without a tracer from starting a gofer: the kernel, by a seccomp(2) filter.

runsc starts a gofer as the first process of a pid namespace of its own. The filter refuses that, and lets all else pass:
clone and unshare with CLONE_NEWPID get EPERM, and clone3, whose arguments no filter can see, ENOSYS, as from an older
kernel. So a command that is believed to start no gofer cannot start one. Children inherit this: that is why it is for
commands only that run no hooks.
"""

from __future__ import annotations

from gofer.runsc.calls import MACHINE, Byte, addressof, prctl

# machine: AUDIT_ARCH_*, and the numbers of clone, unshare and clone3
_MACHINES = {"x86_64": (0xC000003E, 56, 272, 435), "aarch64": (0xC00000B7, 220, 97, 435)}
_NEW_PID = 0x20000000
_LOAD, _IF_EQUAL, _IF_SET, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the lower half, of little-endian machines
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def forbid_gofers() -> bool:
    """Put the filter on this process for good. False where this kernel has none."""
    if MACHINE not in _MACHINES:
        return False
    filter = b"".join(_instructions(*_MACHINES[MACHINE]))
    program = (Byte * len(filter)).from_buffer_copy(filter)
    words = (len(filter) // 8).to_bytes(8, "little") + addressof(program).to_bytes(8, "little")  # struct sock_fprog
    header = (Byte * len(words)).from_buffer_copy(words)
    try:
        prctl(_PR_SET_SECCOMP, _FILTER, addressof(header))
    except OSError:
        try:  # without CAP_SYS_ADMIN; no command that comes here runs a set-user-ID program
            prctl(_PR_SET_NO_NEW_PRIVS, 1)
            prctl(_PR_SET_SECCOMP, _FILTER, addressof(header))
        except OSError:
            return False
    return True


def _instructions(arch: int, clone: int, unshare: int, clone3: int) -> list[bytes]:
    """struct sock_filter: what to do, how many instructions to skip if true and if false, and an operand."""
    lines = [
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 0, 6, arch),  # a call by another table is refused
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, 5, 0, clone3),
        (_IF_EQUAL, 1, 0, clone),
        (_IF_EQUAL, 0, 4, unshare),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_SET, 0, 2, _NEW_PID),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ENOSYS),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return [
        code.to_bytes(2, "little") + bytes((true, false)) + operand.to_bytes(4, "little")
        for code, true, false, operand in lines
    ]
