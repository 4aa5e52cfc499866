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

The allow-list is what the C libraries' sources say of each function that the server, or the interpreter beneath it, uses:
glibc 2.31 to 2.43 and musl 1.2.2 to 1.2.6, on CPython 3.9 to 3.15. It holds what each of them calls, so that no filter has to be
made for one of them. strace of the test suite is the check of that list, not its source: it shows what one C library calls
on one kernel. Whatever maps executable memory must have been done before: making ctypes callbacks, and loading libgcc_s,
which glibc does when a thread ends (`prepare`).
"""

from __future__ import annotations

import os
import struct
from errno import EAGAIN, EINVAL, ENOENT, ENOSYS, EPERM

from gofer.cdata import (
    FUNCFLAG_CDECL,
    Library,
    Structure,
    addressof,
    byref,
    c_char,
    c_long,
    c_uint,
    c_ulong,
    c_ushort,
    c_void_p,
)  # fmt: skip
from gofer.jail import callnames
from gofer.sys import MACHINE, get_errno, libc, raise_errno

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Optional

    Instruction = tuple[int, int, int, int]  # struct sock_filter: code, jt, jf, k
    Rule = list[Instruction]
    Rules = dict[str, Optional[Rule]]  # by the call's name; None: allowed whatever its arguments are

ACTIONS = ("kill", "errno", "log", "off")

KILL_PROCESS, LOG, ALLOW, ERRNO, ASK = 0x80000000, 0x7FFC0000, 0x7FFF0000, 0x00050000, 0x7FC00000

# AUDIT_ARCH_*: the ELF machine, | 64 bit | little endian
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_X32_BIT = 0x40000000

# Allowed to the server whatever the arguments, because every C library makes them, or one of them, in its place.
_RUNTIME = (
    # memory: malloc's heap, its large blocks, and giving both back. What maps is judged below
    *("munmap", "mremap", "madvise", "brk"),
    # glibc and musl start and end a thread so; mimalloc, which free-threaded CPython has, asks for a cpu's memory node
    *("exit", "exit_group", "set_robust_list", "rseq", "gettid", "getpid", "sched_getaffinity", "getcpu"),
    # clocks, where there is no vDSO to read them from, and time.sleep (select(2) before CPython 3.11)
    *("clock_gettime", "clock_getres", "gettimeofday", "time", "nanosleep", "clock_nanosleep", "sched_yield"),
    # signals: handlers, and the masks that C libraries set around what must not be interrupted
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall"),
)
_PLAIN = (
    # futex is the hottest call, and its operations are not told apart: what is allowed whatever its arguments the
    # kernel finds in a bitmap (Linux 5.11), without running the filter
    "futex",
    # file data and the transports; the vectors are musl's stdio
    *("pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "statx", "openat", "close", "sendmsg"),
    # the top of what is mounted on a served directory, in the place of what was the top (mounts.py)
    *("openat2", "dup3"),
    *("recvfrom", "sendto", "shutdown", "read", "write", "readv", "writev", "lseek"),
    # waiting for fds: C libraries put the newer in the older one's place, or the other way round
    *("poll", "ppoll", "epoll_ctl", "epoll_wait", "epoll_pwait", "select", "pselect6"),
    # files, by an fd and one name
    *("getdents64", "readlinkat", "mkdirat", "symlinkat", "linkat", "unlinkat", "renameat", "renameat2"),
    *("fchmodat", "fchmodat2", "fchmod", "fchownat", "utimensat", "ftruncate", "fallocate", "fsync", "fdatasync"),
    *("fstatfs", "getxattr", "setxattr", "listxattr", "removexattr"),
    # stat(3), open(3) and their kin by a path, which leads nowhere but into the tree: glibc before 2.33 and musl have
    # calls of their own for it. The interpreter does so where it reports an error, glibc's strftime for /etc/localtime
    *("fstat", "newfstatat", "stat", "lstat", "open", "readlink", "access", "faccessat", "getcwd"),
    # accept is what musl's accept4 tries where that is EINVAL: on a socket that does not listen
    *("accept4", "accept", "getsockopt", "getsockname", "getpeername"),
    *("memfd_create", "getrandom", "getuid", "geteuid", "getgid", "getegid"),
    # a thread's capability while it works for a client; waiting for workers
    *("capget", "capset", "wait4"),
    *_RUNTIME,
)
_OF_SOCKETS = ("socket", "bind", "listen", "connect")
_OF_CREDENTIALS = ("setresuid", "setresgid", "getgroups", "setgroups")
# Answered ENOSYS, see above.
_TRY_ANOTHER = (
    *("clone3", "faccessat2", "futex_waitv", "map_shadow_stack", "futex_wake", "futex_wait", "futex_requeue", "mseal"),
)  # fmt: skip
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
# isatty(3), which whatever opens a file to read it calls, by TCGETS, or TCGETS2 (glibc 2.42), or TIOCGWINSZ (musl); FIONBIO,
# FIONCLEX and FIOCLEX; of sockets TIOCOUTQ and FIONREAD
_IOCTL = (0x5401, 0x802C542A, 0x5413, 0x5421, 0x5450, 0x5451, 0x5411, 0x541B)
_NOTIF_RECV, _SIGKILL = 0xC0502100, 9
_MEMBARRIER = (8, 16)  # PRIVATE_EXPEDITED and its registration, which is how musl's first pthread_create begins
_PRCTL = (15, 0x53564D41)  # SET_NAME, SET_VMA: newer C libraries name threads and their stacks


def server_rules(refuse: int, sockets: bool, credentials: bool, splices: bool = False) -> Rules:
    """What the server may call.

    refuse: the verdict on what is not allowed. sockets: it makes, binds and connects some. credentials: it switches a
    thread's ids for that. splices: it hands file data to stdout (pipes.py).
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
        membarrier=_one_of(refuse, 0, _MEMBARRIER),
        prlimit64=_null(refuse, 2),
        sched_setaffinity=_one_of(refuse, 0, (0,)),  # the calling thread's (busypoll.py)
        socketpair=_one_of(refuse, 0, (_AF_UNIX,)),
        tgkill=_one_of(refuse, 0, me),  # how glibc raises a signal in its own process, for abort(3)
        # and musl, where no thread but the first can be told from another process: then abort(3) goes on, and crashes
        tkill=_one_of(ERRNO | EPERM, 0, me),
    )
    if sockets:
        rules.update(dict.fromkeys(_OF_SOCKETS))
        rules["socket"] = _one_of(refuse, 0, (_AF_UNIX,))
    if credentials:
        rules.update(dict.fromkeys(_OF_CREDENTIALS))
    if splices:
        rules["splice"] = None
    return rules


def supervisor_rules(refuse: int, processes: Iterable[int]) -> Rules:
    """What the supervisor may call; processes: those it may signal, itself aside. It may kill any that its rights allow,
    as it learns only from the kernel which of the server's has to be (witness.py).
    """
    me = (os.getpid(),)
    names = (
        *("poll", "ppoll", "read", "recvmsg", "sendto", "wait4", "write", "close", "unlinkat", "newfstatat", "fstat", "futex"),
        *_RUNTIME,
    )
    rules: Rules = dict.fromkeys(names)
    rules.update(
        clone=[(_RET, 0, 0, ERRNO | EAGAIN)],  # its log may want a thread (sink.py), and does without
        ioctl=_one_of(refuse, 1, (_NOTIF_RECV,)),
        kill=[_load(1), (_JEQ, 0, 1, _SIGKILL), (_RET, 0, 0, ALLOW), *_one_of(refuse, 0, (*me, *processes))],
        mmap=_without(refuse, 2, _PROT_EXEC),
        mprotect=_without(refuse, 2, _PROT_EXEC),
        tgkill=_one_of(refuse, 0, me),
        tkill=_one_of(ERRNO | EPERM, 0, me),
    )
    return rules


def relay_rules(refuse: int, child: int) -> Rules:
    """What the process may call that carries bytes between ssh and a server, its child."""
    me = (os.getpid(),)
    rules: Rules = dict.fromkeys((
        "read", "write", "recvfrom", "sendto", "shutdown", "close", "poll", "ppoll", "futex", "wait4", *_RUNTIME,
    ))  # fmt: skip
    # malloc, in a second thread, counts the cpus in /sys: and does without
    rules.update(dict.fromkeys(("openat", "open"), [(_RET, 0, 0, ERRNO | ENOENT)]))
    rules.update(
        kill=_one_of(refuse, 0, (*me, child)),
        mmap=_without(refuse, 2, _PROT_EXEC),
        mprotect=_without(refuse, 2, _PROT_EXEC),
        tgkill=_one_of(refuse, 0, me),
        tkill=_one_of(ERRNO | EPERM, 0, me),
    )
    return rules


def mount_rules(refuse: int, ioctls: Iterable[int]) -> Rules:
    """What the mount process may call (fuse/): it opens nothing and names nothing, all it works with are fds that it is given.

    ioctls: those of /dev/fuse.
    """
    me = (os.getpid(),)
    rules: Rules = dict.fromkeys((
        "futex",
        *("read", "readv", "write", "writev", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "lseek"),
        *("ftruncate", "fallocate", "fsync", "fdatasync", "copy_file_range", "statx", "fstat", "newfstatat", "close"),
        *("recvmsg", "recvfrom", "sendmsg", "sendto", "shutdown", "getsockopt", "setsockopt", "getsockname", "poll", "ppoll"),
        *("select", "pselect6", "getrandom", "getuid", "geteuid", "getgid", "getegid"),
        *_RUNTIME,
    ))  # fmt: skip
    # malloc, in a further thread, counts the cpus in /sys: and does without
    rules.update(dict.fromkeys(("openat", "open"), [(_RET, 0, 0, ERRNO | ENOENT)]))
    rules.update(
        clone=_thread_only(refuse),
        fcntl=_one_of(refuse, 1, _FCNTL),
        ioctl=_one_of(refuse, 1, (*_IOCTL, *ioctls)),
        kill=_one_of(refuse, 0, me),
        mmap=_without(refuse, 2, _PROT_EXEC),
        mprotect=_without(refuse, 2, _PROT_EXEC),
        prctl=_one_of(refuse, 0, _PRCTL),
        membarrier=_one_of(refuse, 0, _MEMBARRIER),
        prlimit64=_null(refuse, 2),
        tgkill=_one_of(refuse, 0, me),
        tkill=_one_of(ERRNO | EPERM, 0, me),
    )
    return rules


def refusal(action: str) -> int:
    """The filter's verdict on what is not allowed; action: "kill", "errno" or "log"."""
    return {"kill": KILL_PROCESS, "errno": ERRNO | EPERM, "log": LOG}[action]


def assemble(rules: Rules, refuse: int, machine: str = MACHINE) -> bytes:
    """The program, as an array of struct sock_filter."""
    numbers = callnames.numbers(machine)
    code: list[Instruction] = [(_LD, 0, 0, _DATA_ARCH), (_JEQ, 1, 0, AUDIT_ARCH[machine]), (_RET, 0, 0, refuse)]
    code.append((_LD, 0, 0, _DATA_NR))
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32_BIT), (_RET, 0, 0, refuse)]
    rules = {**rules, **{name: [(_RET, 0, 0, ERRNO | ENOSYS)] for name in _TRY_ANOTHER}}
    for name, rule in rules.items():
        if name in numbers:  # the generic table lacks what a newer call does as well
            rule = rule or [(_RET, 0, 0, ALLOW)]
            code += [(_JEQ, 0, len(rule), numbers[name]), *rule]
    code += [(_JGT, 0, 1, _NEWEST), (_RET, 0, 0, ERRNO | ENOSYS), (_RET, 0, 0, refuse)]
    pack = struct.Struct("<HBBI").pack
    return b"".join([pack(*instruction) for instruction in code])


def install(program: bytes, listen: bool = False) -> int:
    """Put every thread of the process under the program, for good. Needs no_new_privs (or CAP_SYS_ADMIN).

    listen: the verdict on what is not allowed is ASK (SECCOMP_RET_USER_NOTIF), and the fd to read that from is returned;
    OSError where the kernel is older than 5.7, or has given such an fd to somebody who confined this process before.

    SPEC_ALLOW: before Linux 5.16 a filter also turned speculation off, which costs an interpreter dearly; it guards
    secrets inside one process from code in the same process, and here there is no such code.
    """
    text = (c_char * len(program)).from_buffer_copy(program)
    header = _Program(len(program) // 8, addressof(text))
    flags = _TSYNC | _SPEC_ALLOW | (_NEW_LISTENER | _TSYNC_ESRCH if listen else 0)
    result = _seccomp(_SET_MODE_FILTER, flags, byref(header))
    if result == -1 and get_errno() == EINVAL and not listen:  # Linux before 4.17
        result = _seccomp(_SET_MODE_FILTER, _TSYNC, byref(header))
    if result < 0 or result > 0 and not listen:  # above 0: the thread that could not follow
        raise_errno()
    return result


def available(action: str) -> bool:
    """Whether this kernel has filters with that action (kill-process and log: Linux 4.14)."""
    if MACHINE not in AUDIT_ARCH:
        return False
    return _seccomp(_GET_ACTION_AVAIL, 0, byref(c_uint(refusal(action) & 0xFFFF0000))) == 0


def prepare() -> None:
    """Load what glibc would load, and map executable, when a thread ends: afterwards the filter forbids it."""
    try:
        Library("libgcc_s.so.1", FUNCFLAG_CDECL)
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


class _Program(Structure):
    """struct sock_fprog."""

    _fields_ = [("len", c_ushort), ("filter", c_void_p)]


_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2
_TSYNC, _SPEC_ALLOW, _NEW_LISTENER, _TSYNC_ESRCH = 1, 4, 8, 16


def _seccomp(operation: int, flags: int, argument: object) -> int:
    function = libc["syscall"]
    function.restype = c_long
    number = _SECCOMP[MACHINE != "x86_64"]
    result: int = function(c_long(number), c_uint(operation), c_ulong(flags), argument)
    return result
