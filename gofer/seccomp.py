"""A seccomp(2) filter that lets the server make the system calls it makes, and no others.

Theory of operation
-------------------
The filter is a list of classic BPF instructions over `struct seccomp_data`. It looks at the architecture first (a number
means another call under another architecture's table), on x86_64 then for the x32 bit, and then compares the call's number,
one after the other, the calls of the data path first. (Newer kernels, from 5.11 on, work out once which numbers pass
whatever their arguments are, and never run the program for those.)

A call is allowed as it is, or by its arguments: a `Rule` is the piece of program that judges them and ends in a verdict.
Only 32-bit words are compared, which is what the kernel takes of an int. What a pointer points to cannot be seen: so no
path is judged here, that is what the root and Landlock are for.

What is refused gets the chosen action, with two exceptions that answer ENOSYS, as an older kernel would: a call that a C
library tries before one that is allowed (`_TRY_ANOTHER`), and any number above `_NEWEST`, which is a call that this file
does not know. Neither lets anything through, and a newer C library falls back instead of dying.

The allow-list is what strace shows of the test suite on CPython 3.9 to 3.13, and what newer and other C libraries use for
the same functions. Whatever maps executable memory must have been done before: making ctypes callbacks, and loading
libgcc_s, which glibc does when a thread ends (`prepare`).
"""

from __future__ import annotations

import ctypes
import os
import struct
from ctypes import c_long, c_uint, c_ulong, c_void_p
from errno import EINVAL, ENOSYS, EPERM

from gofer.sys import MACHINE, get_errno, libc, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Optional

    Instruction = tuple[int, int, int, int]  # struct sock_filter: code, jt, jf, k
    Rule = list[Instruction]
    Rules = dict[str, Optional[Rule]]  # by the call's name; None: allowed whatever its arguments are

ACTIONS = ("kill", "errno", "log", "off")

KILL_PROCESS, LOG, ALLOW, ERRNO = 0x80000000, 0x7FFC0000, 0x7FFF0000, 0x00050000

# AUDIT_ARCH_*: the ELF machine, | 64 bit | little endian
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_X32_BIT = 0x40000000

# System calls and their numbers: (x86_64, the generic table of aarch64 and riscv64); -1: there is none.
# Allowed to the server whatever the arguments.
_PLAIN = {
    # data and waiting
    # futex is the hottest call, and its operations are not told apart: what is allowed whatever its arguments the
    # kernel finds in a bitmap (Linux 5.11), without running the filter
    "futex": (202, 98), "pread64": (17, 67), "preadv": (295, 69), "preadv2": (327, 286), "pwrite64": (18, 68),
    "pwritev": (296, 70), "pwritev2": (328, 287), "statx": (332, 291), "openat": (257, 56),
    "close": (3, 57), "sendmsg": (46, 211), "recvfrom": (45, 207),
    "sendto": (44, 206), "shutdown": (48, 210), "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66),
    "poll": (7, -1), "ppoll": (271, 73), "epoll_ctl": (233, 21), "epoll_wait": (232, -1),
    "epoll_pwait": (281, 22), "select": (23, -1), "pselect6": (270, 72),
    # files
    "getdents64": (217, 61), "lseek": (8, 62), "fstat": (5, 80), "newfstatat": (262, 79),
    "readlink": (89, -1), "readlinkat": (267, 78), "mkdirat": (258, 34),
    "symlinkat": (266, 36), "linkat": (265, 37), "unlinkat": (263, 35), "renameat": (264, 38),
    "renameat2": (316, 276), "fchmodat": (268, 53), "fchmodat2": (452, 452), "fchmod": (91, 52), "fchownat": (260, 54),
    "utimensat": (280, 88), "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82),
    "fdatasync": (75, 83), "fstatfs": (138, 44), "getxattr": (191, 8), "setxattr": (188, 5),
    "listxattr": (194, 11), "removexattr": (197, 14),
    # sockets
    "accept4": (288, 242), "getsockopt": (55, 209), "getsockname": (51, 204), "getpeername": (52, 205),
    # memory, threads, time, signals
    "munmap": (11, 215), "mremap": (25, 216), "madvise": (28, 233), "brk": (12, 214),
    "memfd_create": (319, 279), "exit": (60, 93), "exit_group": (231, 94), "set_robust_list": (273, 99),
    "rseq": (334, 293), "gettid": (186, 178), "getpid": (39, 172), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "getrandom": (318, 278), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "capget": (125, 90), "capset": (126, 91), "wait4": (61, 260),
}  # fmt: skip
# Allowed with some arguments.
_JUDGED = {
    "clone": (56, 220), "fcntl": (72, 25), "ioctl": (16, 29), "kill": (62, 129), "mknodat": (259, 33),
    "mmap": (9, 222), "mprotect": (10, 226), "prctl": (157, 167), "prlimit64": (302, 261),
    "socketpair": (53, 199), "tgkill": (234, 131),
}  # fmt: skip
_OF_SOCKETS = {"socket": (41, 198), "bind": (49, 200), "listen": (50, 201), "connect": (42, 203)}
_OF_CREDENTIALS = {
    "setresuid": (117, 147), "setresgid": (119, 149), "getgroups": (115, 158), "setgroups": (116, 159),
}  # fmt: skip
_OF_SUPERVISOR = {"rt_sigtimedwait": (128, 137)}
# Answered ENOSYS, see above; from 424 on there is one table for all.
_TRY_ANOTHER = {
    "clone3": 435, "faccessat2": 439, "futex_waitv": 449, "map_shadow_stack": 453,
    "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "mseal": 462,
}  # fmt: skip
NUMBERS = {**_PLAIN, **_JUDGED, **_OF_SOCKETS, **_OF_CREDENTIALS, **_OF_SUPERVISOR}
_NEWEST = 462
_SECCOMP = (317, 277)

_DATA_NR, _DATA_ARCH = 0, 4  # offsets in struct seccomp_data
_LD, _JEQ, _JGT, _JGE, _JSET, _AND, _RET = (
    0x20,
    0x15,
    0x25,
    0x35,
    0x45,
    0x54,
    0x06,
)  # BPF, on 32-bit words and constants

_PROT_EXEC = 0x4
_AF_UNIX = 1
_CLONE_THREAD = 0x10000
_CLONE_NEW = 0x7E020000  # every CLONE_NEW* that clone(2) takes: namespaces
_FCNTL = (0, 1, 2, 3, 4, 1030, 1033, 1034)  # DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC, ADD_SEALS, GET_SEALS
_IOCTL = (0x5401, 0x5413, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONBIO, FIONCLEX, FIOCLEX
_PRCTL = (15, 0x53564D41)  # SET_NAME, SET_VMA: newer C libraries name threads and their stacks


def server_rules(refuse: int, sockets: bool, credentials: bool) -> Rules:
    """What the server may call.

    refuse: the verdict on what is not allowed. sockets: it makes, binds and connects some. credentials: it switches a
    thread's ids for that.
    """
    me = (os.getpid(),)
    rules: Rules = {}
    rules.update(dict.fromkeys(_PLAIN))
    rules.update(
        clone=_thread_only(refuse),
        fcntl=_one_of(refuse, 1, _FCNTL),
        ioctl=_one_of(refuse, 1, _IOCTL),
        kill=_one_of(refuse, 0, me),
        mknodat=_one_of(refuse, 3, (0,)),  # no device but the overlay whiteout, 0:0
        mmap=_without(refuse, 2, _PROT_EXEC),
        mprotect=_without(refuse, 2, _PROT_EXEC),
        prctl=_one_of(refuse, 0, _PRCTL),
        prlimit64=_null(refuse, 2),
        socketpair=_one_of(refuse, 0, (_AF_UNIX,)),
        tgkill=_one_of(refuse, 0, me),
    )
    if sockets:
        rules.update(dict.fromkeys(_OF_SOCKETS))
        rules["socket"] = _one_of(refuse, 0, (_AF_UNIX,))
    if credentials:
        rules.update(dict.fromkeys(_OF_CREDENTIALS))
    return rules


def supervisor_rules(refuse: int, processes: Iterable[int]) -> Rules:
    """What the supervisor may call; processes: those it may signal, itself aside."""
    me = (os.getpid(),)
    names = (
        "write", "close", "unlinkat", "newfstatat", "fstat", "exit_group", "munmap", "mremap", "madvise", "brk", "getpid",
        "gettid", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "wait4", *_OF_SUPERVISOR,
    )  # fmt: skip
    rules: Rules = dict.fromkeys(names)
    rules.update(
        kill=_one_of(refuse, 0, (*me, *processes)),
        mmap=_without(refuse, 2, _PROT_EXEC),
        mprotect=_without(refuse, 2, _PROT_EXEC),
        tgkill=_one_of(refuse, 0, me),
    )
    return rules


def refusal(action: str) -> int:
    """The filter's verdict on what is not allowed; action: "kill", "errno" or "log"."""
    return {"kill": KILL_PROCESS, "errno": ERRNO | EPERM, "log": LOG}[action]


def assemble(rules: Rules, refuse: int, machine: str = MACHINE) -> bytes:
    """The program, as an array of struct sock_filter."""
    column = int(machine != "x86_64")
    code: list[Instruction] = [(_LD, 0, 0, _DATA_ARCH), (_JEQ, 1, 0, _AUDIT_ARCH[machine]), (_RET, 0, 0, refuse)]
    code.append((_LD, 0, 0, _DATA_NR))
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, refuse)]
    judged = [(NUMBERS[name][column], rule or [(_RET, 0, 0, ALLOW)]) for name, rule in rules.items()]
    judged += [(number, [(_RET, 0, 0, ERRNO | ENOSYS)]) for number in _TRY_ANOTHER.values()]
    for number, rule in judged:
        if number >= 0:
            code += [(_JEQ, 0, len(rule), number), *rule]
    code += [(_JGT, 0, 1, _NEWEST), (_RET, 0, 0, ERRNO | ENOSYS), (_RET, 0, 0, refuse)]
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def install(program: bytes) -> None:
    """Put every thread of the process under the program, for good. Needs no_new_privs (or CAP_SYS_ADMIN).

    SPEC_ALLOW: before Linux 5.16 a filter also turned speculation off, which costs an interpreter dearly; it guards
    secrets inside one process from code in the same process, and here there is no such code.
    """
    text = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(text))
    result = _seccomp(_SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, ctypes.byref(header))
    if result == -1 and get_errno() == EINVAL:  # Linux before 4.17
        result = _seccomp(_SET_MODE_FILTER, _TSYNC, ctypes.byref(header))
    if result != 0:  # above 0: the thread that could not follow
        raise_errno()


def available(action: str) -> bool:
    """Whether this kernel has filters with that action (kill-process and log: Linux 4.14)."""
    if MACHINE not in _AUDIT_ARCH:
        return False
    return _seccomp(_GET_ACTION_AVAIL, 0, ctypes.byref(c_uint(refusal(action) & 0xFFFF0000))) == 0


def prepare() -> None:
    """Load what glibc would load, and map executable, when a thread ends: afterwards the filter forbids it."""
    try:
        ctypes.CDLL("libgcc_s.so.1")
    except OSError:
        pass  # musl: it has its own


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
    rule = [_load(0), (_JSET, 0, 1, _CLONE_NEW), (_RET, 0, 0, refuse)]
    return [*rule, (_JSET, 0, 1, _CLONE_THREAD), (_RET, 0, 0, ALLOW), (_RET, 0, 0, refuse)]


def _null(refuse: int, argument: int) -> Rule:
    """The pointer must be NULL, in both halves."""
    halves = [_load(argument), (_JEQ, 1, 0, 0), (_RET, 0, 0, refuse), _load(argument, 1), (_JEQ, 1, 0, 0)]
    return [*halves, (_RET, 0, 0, refuse), (_RET, 0, 0, ALLOW)]


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("len", ctypes.c_ushort), ("filter", c_void_p)]


_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC, _SPEC_ALLOW = 1, 4


def _seccomp(operation: int, flags: int, argument: object) -> int:
    function = libc["syscall"]
    function.restype = c_long
    number = _SECCOMP[MACHINE != "x86_64"]
    result: int = function(c_long(number), c_uint(operation), c_ulong(flags), argument)
    return result
