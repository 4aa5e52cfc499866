"""A seccomp(2) filter that lets the server make the system calls it makes, and no others.

Theory of operation
-------------------
The filter is a list of classic BPF instructions over `struct seccomp_data`. It looks at the architecture first (a number
means another call under another architecture's table), on x86_64 then for the x32 bit, and then at the call's number,
one comparison after the other, the calls of the data path first: newer kernels (5.11) work out once which numbers pass
whatever their arguments are, and never run the program for those.

A call is allowed as it is, or by its arguments: a `Rule` is the piece of program that judges them and ends in a verdict of
its own. Only 32-bit words are compared, which is what the kernel takes of an int. Memory behind pointers cannot be seen: that
is why no path is judged here, but by the root and by Landlock.

What is refused gets the chosen action, with two exceptions that answer ENOSYS, as an older kernel would: a call that a C
library tries before one that is allowed (`_TRY_ANOTHER`), and any number above `_NEWEST`, of which this file cannot
know what it is. Neither lets anything through, and a newer C library falls back instead of dying.

The allow-list is what strace shows of the whole test suite on CPython 3.9 to 3.13 with glibc, and what musl's and newer
glibc's sources use for the same functions. Two things must be done before, because they map executable memory: ctypes
callbacks, and loading libgcc_s, which glibc wants for the end of a thread (`prepare`).
"""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import c_long, c_uint, c_ulong, c_void_p
from errno import EPERM, ENOSYS

from gofer.sys import MACHINE, libc, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, Iterable, List, Optional, Tuple

    Instruction = Tuple[int, int, int, int]  # struct sock_filter: code, jt, jf, k
    Rule = List[Instruction]
    Rules = Dict[str, Optional[Rule]]  # by the call's name; None: allowed whatever its arguments are

ACTIONS = ("kill", "errno", "log", "off")

KILL_PROCESS, LOG, ALLOW, ERRNO = 0x80000000, 0x7FFC0000, 0x7FFF0000, 0x00050000

# AUDIT_ARCH_*: the ELF machine, | 64 bit | little endian
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_X32_BIT = 0x40000000

# System call numbers: (x86_64, the generic table of aarch64 and riscv64); -1: there is none.
# What the data path uses comes first.
NUMBERS = {
    "futex": (202, 98), "pread64": (17, 67), "preadv": (295, 69), "pwrite64": (18, 68), "pwritev": (296, 70),
    "statx": (332, 291), "openat": (257, 56), "close": (3, 57), "sendmsg": (46, 211), "recvmsg": (47, 212),
    "recvfrom": (45, 207), "sendto": (44, 206), "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1), "pselect6": (270, 72),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, -1), "epoll_pwait": (281, 22),
    "getdents64": (217, 61), "lseek": (8, 62), "fstat": (5, 80), "newfstatat": (262, 79), "readlinkat": (267, 78),
    "mkdirat": (258, 34), "mknodat": (259, 33), "symlinkat": (266, 36), "linkat": (265, 37), "unlinkat": (263, 35),
    "renameat": (264, 38), "renameat2": (316, 276), "fchmodat": (268, 53), "fchmod": (91, 52), "fchownat": (260, 54),
    "fchown": (93, 55), "utimensat": (280, 88), "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82),
    "fdatasync": (75, 83), "fstatfs": (138, 44),
    "getxattr": (191, 8), "fgetxattr": (193, 10), "setxattr": (188, 5), "fsetxattr": (190, 7), "listxattr": (194, 11),
    "flistxattr": (196, 13), "removexattr": (197, 14), "fremovexattr": (199, 16),
    "socket": (41, 198), "socketpair": (53, 199), "bind": (49, 200), "listen": (50, 201), "connect": (42, 203),
    "accept": (43, 202), "accept4": (288, 242), "getsockopt": (55, 209), "setsockopt": (54, 208),
    "getsockname": (51, 204), "getpeername": (52, 205), "shutdown": (48, 210),
    "mmap": (9, 222), "munmap": (11, 215), "mprotect": (10, 226), "mremap": (25, 216), "madvise": (28, 233),
    "brk": (12, 214), "memfd_create": (319, 279),
    "clone": (56, 220), "exit": (60, 93), "exit_group": (231, 94), "set_robust_list": (273, 99), "rseq": (334, 293),
    "gettid": (186, 178), "getpid": (39, 172), "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176),
    "getegid": (108, 177), "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "prctl": (157, 167),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "gettimeofday": (96, 169), "getrandom": (318, 278),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigtimedwait": (128, 137),
    "sigaltstack": (131, 132), "restart_syscall": (219, 128), "tgkill": (234, 131), "kill": (62, 129), "wait4": (61, 260),
    "dup": (32, 23), "dup3": (292, 24), "fcntl": (72, 25), "ioctl": (16, 29), "pipe2": (293, 59), "umask": (95, 166),
    "prlimit64": (302, 261),
    "capget": (125, 90), "capset": (126, 91), "setresuid": (117, 147), "setresgid": (119, 149), "setgroups": (116, 159),
    "seccomp": (317, 277),
    "clone3": (435, 435), "faccessat2": (439, 439), "futex_waitv": (449, 449), "fchmodat2": (452, 452),
    "map_shadow_stack": (453, 453), "futex_wake": (454, 454), "futex_wait": (455, 455), "futex_requeue": (456, 456),
    "mseal": (462, 462),
}  # fmt: skip

_NEWEST = 462
_TRY_ANOTHER = (
    "clone3", "faccessat2", "futex_waitv", "fchmodat2", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue",
    "mseal",
)  # fmt: skip

_DATA_NR, _DATA_ARCH = 0, 4  # offsets in struct seccomp_data
_LD, _JEQ, _JGT, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x25, 0x35, 0x45, 0x54, 0x06  # BPF opcodes, on 32-bit words and constants

PROT_EXEC = 0x4
AF_UNIX = 1
_CLONE_THREAD = 0x10000
_CLONE_NEW = 0x7E020000  # every CLONE_NEW* that clone(2) takes: namespaces



_FUTEX_OPS = (0, 1, 3, 4, 5, 9, 10)  # WAIT, WAKE, REQUEUE, CMP_REQUEUE, WAKE_OP, WAIT_BITSET, WAKE_BITSET: no priority inheritance
_FUTEX_COMMAND = 0x7F  # without FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME
_FCNTL = (0, 1, 2, 3, 4, 1030, 1033, 1034)  # DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC, ADD_SEALS, GET_SEALS
_IOCTL = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX
_PRCTL = (15, 0x53564D41)  # SET_NAME, SET_VMA: newer C libraries name threads and their stacks

_PLAIN = (
    "pread64", "preadv", "pwrite64", "pwritev", "statx", "openat", "close", "sendmsg", "recvmsg", "recvfrom", "sendto",
    "read", "write", "readv", "writev", "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait",
    "epoll_pwait", "getdents64", "lseek", "fstat", "newfstatat", "readlinkat", "mkdirat", "mknodat", "symlinkat",
    "linkat", "unlinkat", "renameat", "renameat2", "fchmodat", "fchmod", "fchownat", "fchown", "utimensat", "ftruncate",
    "fallocate", "fsync", "fdatasync", "fstatfs", "getxattr", "fgetxattr", "setxattr", "fsetxattr", "listxattr",
    "flistxattr", "removexattr", "fremovexattr", "bind", "listen", "connect", "accept", "accept4", "getsockopt",
    "setsockopt", "getsockname", "getpeername", "shutdown", "munmap", "mremap", "madvise", "brk", "memfd_create", "exit",
    "exit_group", "set_robust_list", "rseq", "gettid", "getpid", "getuid", "geteuid", "getgid", "getegid", "sched_yield",
    "sched_getaffinity", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "getrandom",
    "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "wait4", "dup", "dup3", "pipe2",
    "umask", "capget", "capset",
)  # fmt: skip


def server_rules(refuse: int, credentials: bool) -> Rules:
    """What the server may call. credentials: ConnectWithCreds switches a thread's ids."""
    me = (os.getpid(),)
    rules: Rules = {"futex": _one_of(refuse, 1, _FUTEX_OPS, _FUTEX_COMMAND)}
    rules.update(dict.fromkeys(_PLAIN))
    rules.update(
        clone=_thread_only(refuse),
        fcntl=_one_of(refuse, 1, _FCNTL),
        ioctl=_one_of(refuse, 1, _IOCTL),
        kill=_one_of(refuse, 0, me),
        mmap=_without(refuse, 2, PROT_EXEC),
        mprotect=_without(refuse, 2, PROT_EXEC),
        prctl=_one_of(refuse, 0, _PRCTL),
        prlimit64=_null(refuse, 2),
        socket=_one_of(refuse, 0, (AF_UNIX,)),
        socketpair=_one_of(refuse, 0, (AF_UNIX,)),
        tgkill=_one_of(refuse, 0, me),
    )
    if credentials:
        rules.update(setresuid=None, setresgid=None, setgroups=None)
    return rules


_SUPERVISOR_PLAIN = (
    "rt_sigtimedwait", "wait4", "write", "close", "unlinkat", "exit_group", "munmap", "mremap", "madvise", "brk",
    "getpid", "gettid", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "fstat", "newfstatat",
)  # fmt: skip


def supervisor_rules(refuse: int, processes: Iterable[int]) -> Rules:
    """What the supervisor may call; processes: those it may signal, itself aside."""
    me = (os.getpid(),)
    rules: Rules = dict.fromkeys(_SUPERVISOR_PLAIN)
    rules.update(
        futex=_one_of(refuse, 1, _FUTEX_OPS, _FUTEX_COMMAND),
        kill=_one_of(refuse, 0, (*me, *processes)),
        mmap=_without(refuse, 2, PROT_EXEC),
        mprotect=_without(refuse, 2, PROT_EXEC),
        tgkill=_one_of(refuse, 0, me),
    )
    return rules


def refusal(action: str) -> int:
    """The filter's verdict on what is not allowed; action: "kill", "errno" or "log"."""
    return {"kill": KILL_PROCESS, "errno": ERRNO | EPERM, "log": LOG}[action]


def assemble(rules: Rules, refuse: int, machine: str = MACHINE) -> bytes:
    """The program, as an array of struct sock_filter."""
    column = int(machine != "x86_64")
    code: list[Instruction] = [
        (_LD, 0, 0, _DATA_ARCH), (_JEQ, 1, 0, _AUDIT_ARCH[machine]), (_RET, 0, 0, refuse), (_LD, 0, 0, _DATA_NR),
    ]  # fmt: skip
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, refuse)]
    again: Rules = dict.fromkeys(_TRY_ANOTHER, [(_RET, 0, 0, ERRNO | ENOSYS)])
    for name, rule in {**rules, **again}.items():
        number = NUMBERS[name][column]
        if number >= 0:
            rule = rule or [(_RET, 0, 0, ALLOW)]
            code += [(_JEQ, 0, len(rule), number), *rule]
    code += [(_JGT, 0, 1, _NEWEST), (_RET, 0, 0, ERRNO | ENOSYS), (_RET, 0, 0, refuse)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def _load(argument: int, word: int = 0) -> Instruction:
    """Load a 32-bit half of an argument; little-endian, so word 0 is the low half."""
    return (_LD, 0, 0, 16 + 8 * argument + 4 * word)


def _one_of(refuse: int, argument: int, values: Iterable[int], mask: int = 0xFFFFFFFF) -> Rule:
    """The argument, cut to mask, must be one of values."""
    rule = [_load(argument)]
    if mask != 0xFFFFFFFF:
        rule.append((_AND, 0, 0, mask))
    for value in values:
        rule += [(_JEQ, 0, 1, value), (_RET, 0, 0, ALLOW)]
    return [*rule, (_RET, 0, 0, refuse)]


def _without(refuse: int, argument: int, bits: int) -> Rule:
    """None of bits may be set in the argument."""
    return [_load(argument), (_JSET, 0, 1, bits), (_RET, 0, 0, refuse), (_RET, 0, 0, ALLOW)]


def _thread_only(refuse: int) -> Rule:
    """clone(2) of a thread, in no new namespace. clone3 hides its flags behind a pointer, hence ENOSYS."""
    return [
        _load(0),
        (_JSET, 0, 1, _CLONE_NEW), (_RET, 0, 0, refuse),
        (_JSET, 0, 1, _CLONE_THREAD), (_RET, 0, 0, ALLOW),
        (_RET, 0, 0, refuse),
    ]  # fmt: skip


def _null(refuse: int, argument: int) -> Rule:
    """The pointer must be NULL, in both halves."""
    return [
        _load(argument), (_JEQ, 1, 0, 0), (_RET, 0, 0, refuse),
        _load(argument, 1), (_JEQ, 1, 0, 0), (_RET, 0, 0, refuse),
        (_RET, 0, 0, ALLOW),
    ]  # fmt: skip


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", c_void_p)]


_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC, _SPEC_ALLOW = 1, 4


def install(program: bytes) -> None:
    """Put every thread of the process under the program, for good. Needs no_new_privs (or CAP_SYS_ADMIN).

    SPEC_ALLOW: before Linux 5.16 a filter also turned speculation off, which costs an interpreter dearly; it guards
    secrets inside one process from code in the same process, and here there is no such code.
    """
    text = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(text))
    if _seccomp(_SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, ctypes.byref(header)) != 0:
        raise_errno()


def available(action: str) -> bool:
    """Whether this kernel has filters with that action (kill-process and log: Linux 4.14)."""
    if MACHINE not in _AUDIT_ARCH:
        return False
    return _seccomp(_GET_ACTION_AVAIL, 0, ctypes.byref(c_uint(refusal(action) & 0xFFFF0000))) == 0


def _seccomp(operation: int, flags: int, argument: object) -> int:
    function = libc["syscall"]
    function.restype = c_long
    result: int = function(c_long(NUMBERS["seccomp"][MACHINE != "x86_64"]), c_uint(operation), c_ulong(flags), argument)
    return result


def prepare() -> None:
    """Load what glibc would load, and map executable, when a thread ends: afterwards the filter forbids it."""
    try:
        ctypes.CDLL("libgcc_s.so.1")
    except OSError:
        pass  # musl: it has its own
