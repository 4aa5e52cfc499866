"""The process that makes an unmodified runsc start our gofer instead of its own. ptrace(2); x86_64 and aarch64, Linux 5.3.

Theory of operation
-------------------
runsc starts its gofer by fork and execve("/proc/self/exe", ["runsc-gofer", ...]); no flag names another program. The tracer
seizes runsc's threads (from before its exec, so none is missed), and through them every process they make. A new
process is stepped from system call to system call until it enters execve; there its arguments can be read:

*   argv[0] is "runsc-gofer": the register with the path is pointed at our file's path. That lies in memory already, as
    the value of an environment variable which redirect.py has set and runsc hands to what it starts. Then the end of the
    execve is awaited: if it failed (the container's user may not run our file) runsc gives up by itself, and we say why.
*   it is runsc running itself again (rootless): followed as runsc.
*   anything else (the sandbox, newuidmap): let go, before the kernel looks at the file, so that set-user-ID works.

In every environment that leaves runsc's own processes the variable is blanked. Once the gofer has started, everything is let
go, and this process ends: nothing stays behind.

It never ends otherwise without taking runsc with it. PTRACE_O_EXITKILL kills all tracees if the tracer dies, killed or
by a fault of ours: a container would else run with runsc's own gofer, and nobody would know.
"""

from __future__ import annotations

import os
import stat
from ctypes import addressof, c_long, c_size_t, c_uint64, c_void_p, create_string_buffer
from struct import unpack_from

from gofer.sys import MACHINE, libc, raise_errno

# machine: (number of execve, of ptrace, size of the register set, offset in it of a call's first argument)
MACHINES = {"x86_64": (59, 101, 27 * 8, 14 * 8), "aarch64": (221, 117, 34 * 8, 0)}
VARIABLE = b"_GOFER_RUNSC_TARGET"

_GOFER, _SANDBOX, _SELF = b"runsc-gofer", b"runsc-sandbox", b"/proc/self/exe"
_PEEKDATA, _POKEDATA, _CONT, _DETACH, _SYSCALL, _SETREGSET, _GETREGSET = 2, 5, 7, 17, 24, 0x4205, 0x4204
_SEIZE, _INTERRUPT, _LISTEN, _GET_SYSCALL_INFO = 0x4206, 0x4207, 0x4208, 0x420E
_OPTIONS = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x100000  # SYSGOOD, FORK, VFORK, CLONE, EXEC, EXITKILL
_EVENT_EXEC, _EVENT_STOP = 4, 128
_ENTRY, _EXIT = 1, 2
_NT_PRSTATUS = 1
_WALL = 0x40000000
_SIGTRAP, _GROUP_STOPS = 5, (19, 20, 21, 22)  # STOP, TSTP, TTIN, TTOU
_MOST_VARIABLES = 1 << 16


class Refusal(Exception):
    """Why the redirection cannot be: shown as it is, and runsc goes down with the tracer."""


class Tracer:
    """Traces one runsc. leader: its pid; target: the absolute path of the gofer to be."""

    def __init__(self, leader: int, target: bytes) -> None:
        self._target = target
        self._resume = {leader: _CONT}  # how each tracee goes on
        self._gofer = 0  # the process in the middle of its redirected execve
        self._leaving = False
        self.failure = ""  # why the gofer could not be run, if it could not
        try:
            ptrace(_SEIZE, leader, 0, _OPTIONS)
        except OSError as error:
            raise Refusal(f"ptrace is not permitted here: {error.strerror}") from None

    def run(self) -> None:
        """Until the gofer runs, or runsc has ended without starting one. Refusal, OSError: the caller must exit at once."""
        while True:
            try:
                tid, status = os.waitpid(-1, _WALL)
            except ChildProcessError:
                return
            if not os.WIFSTOPPED(status):
                self._resume.pop(tid, None)
                continue
            try:
                self._on_stop(tid, os.WSTOPSIG(status), status >> 16)
            except ProcessLookupError:
                pass  # killed meanwhile; its end will be reported

    def _on_stop(self, tid: int, signal: int, event: int) -> None:
        if tid not in self._resume:
            self._resume[tid] = _SYSCALL if _is_process(tid) else _CONT
        deliver = signal if not event and signal != _SIGTRAP | 0x80 else 0
        if self._leaving:
            self._let_go(tid, deliver)
        elif signal == _SIGTRAP | 0x80:
            self._on_syscall(tid)
        elif event == _EVENT_EXEC and tid == self._gofer:
            self._leave(tid)
        elif event == _EVENT_STOP and signal in _GROUP_STOPS:
            ptrace(_LISTEN, tid)
        else:
            ptrace(self._resume[tid], tid, 0, deliver)

    def _on_syscall(self, tid: int) -> None:
        op, sp, words = _syscall_info(tid)
        if self._resume[tid] != _SYSCALL:
            ptrace(_CONT, tid)
        elif tid == self._gofer and op == _EXIT:
            self.failure = self.failure or (
                f"{os.strerror(-words[0])}: the container's user must be able to execute it, "
                "and to search every directory above it"
            )
            self._leave(tid)
        elif op == _ENTRY and words[0] == MACHINES[MACHINE][0]:
            self._on_execve(tid, *words[1:4])
        else:
            ptrace(_SYSCALL, tid)

    def _on_execve(self, tid: int, path: int, argv: int, envp: int) -> None:
        name = _string(tid, _word(tid, argv), 64) if argv else b""
        if name == _GOFER:
            variable = _find(tid, envp)
            if not variable:
                raise Refusal("runsc gives its gofer an environment of its own, in which our file's path is missing")
            _blank(tid, variable)
            self.failure = _unreadable(tid, self._target)
            # An empty path where it would be of no use: runsc is told that there is no such file, and tidies up.
            _set_first_argument(tid, variable if self.failure else variable + len(VARIABLE) + 1)
            self._gofer = tid
            ptrace(_SYSCALL, tid)
        elif name != _SANDBOX and _string(tid, path, 64) == _SELF:
            self._resume[tid] = _CONT
            ptrace(_CONT, tid)
        else:
            variable = _find(tid, envp)
            if variable:
                _blank(tid, variable)
            self._let_go(tid, 0)

    def _leave(self, tid: int) -> None:
        """Let go of this one now, of each of the others when it has stopped."""
        self._leaving = True
        self._let_go(tid, 0)
        for other in self._resume:
            try:
                ptrace(_INTERRUPT, other)
            except ProcessLookupError:
                pass

    def _let_go(self, tid: int, signal: int) -> None:
        ptrace(_DETACH, tid, 0, signal)
        del self._resume[tid]


def ptrace(request: int, tid: int, address: int = 0, data: int = 0) -> None:
    """ptrace(2) as the kernel has it: what is peeked goes to where data points. OSError."""
    function = libc["syscall"]
    function.argtypes, function.restype = (c_long, c_long, c_long, c_void_p, c_void_p), c_long
    if function(MACHINES[MACHINE][1], request, tid, address, data) == -1:
        raise_errno()


def _syscall_info(tid: int) -> tuple[int, int, tuple[int, ...]]:
    """(op, stack pointer, words): at entry the number and six arguments, at exit the return value."""
    info = create_string_buffer(88)
    ptrace(_GET_SYSCALL_INFO, tid, 88, addressof(info))
    op, sp = unpack_from("<B15xQ", info)
    return op, sp, unpack_from("<7Q" if op == _ENTRY else "<q", info, 24)


def _set_first_argument(tid: int, value: int) -> None:
    _, _, size, offset = MACHINES[MACHINE]
    registers = create_string_buffer(size)
    iovec = (c_size_t * 2)(addressof(registers), size)
    ptrace(_GETREGSET, tid, _NT_PRSTATUS, addressof(iovec))
    c_uint64.from_buffer(registers, offset).value = value
    ptrace(_SETREGSET, tid, _NT_PRSTATUS, addressof(iovec))


def _word(tid: int, address: int) -> int:
    word = c_uint64()
    ptrace(_PEEKDATA, tid, address, addressof(word))
    return word.value


def _string(tid: int, address: int, limit: int) -> bytes:
    """The C string at address, or its first `limit` bytes."""
    out = b""
    while address and len(out) < limit and b"\0" not in out:
        out += _word(tid, address + len(out)).to_bytes(8, "little")
    return out.split(b"\0")[0][:limit]


def _find(tid: int, envp: int) -> int:
    """The address of our variable's entry in an environment, 0 if it is not there."""
    for _ in range(_MOST_VARIABLES if envp else 0):
        entry = _word(tid, envp)
        if not entry:
            break
        start = _word(tid, entry).to_bytes(8, "little")
        if VARIABLE.startswith(start) and _string(tid, entry, len(VARIABLE) + 1) == VARIABLE + b"=":
            return entry
        envp += 8
    return 0


def _blank(tid: int, entry: int) -> None:
    """Make the entry an empty string. Its value stays in memory, where the path register may point."""
    ptrace(_POKEDATA, tid, entry, _word(tid, entry) & ~0xFF)


def _unreadable(tid: int, target: bytes) -> str:
    """Python must read the file that the kernel only needs to execute: why the process's user may not, or ""."""
    uid, gid = (int(line.split()[4]) for line in _status(tid) if line.startswith(("Uid:", "Gid:")))
    info = os.stat(target)
    bit = stat.S_IRUSR if uid == info.st_uid else stat.S_IRGRP if gid == info.st_gid else stat.S_IROTH
    return "" if uid == 0 or info.st_mode & bit else f"not readable by user {uid}, as whom it would run"


def _is_process(tid: int) -> bool:
    """Whether tid is a process of its own, and not a thread of another."""
    return f"Tgid:\t{tid}" in _status(tid)


def _status(tid: int) -> list[str]:
    try:
        with open(f"/proc/{tid}/status") as file:
            return file.read().splitlines()
    except FileNotFoundError:
        raise ProcessLookupError from None
