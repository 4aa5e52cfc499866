"""The process that makes an unmodified runsc start our gofer instead of its own. ptrace(2); x86_64 and aarch64.

Theory of operation
-------------------
runsc starts its gofer by fork and execve("/proc/self/exe", ["runsc-gofer", ...]); no flag names another program. The tracer
seizes runsc before its exec, and the kernel then hands over every thread and process that runsc makes, from its birth on.
They run freely until one has done an execve: there it stops, before the first instruction of its new program, and /proc tells
what it has become:

*   the gofer: two instructions in place of the program's first make it execute our file, with the arguments and the
    environment it has. When that has been done it is let go. Where it fails (the container's user may not run our file), it is
    killed, runsc gives up by itself, and we say why.
*   runsc, started again by itself (rootless; `exec --detach`): traced on.
*   the sandbox, or another program (a hook, newuidmap): let go. Traced, a set-user-ID program would be without its rights;
    where that is so it is made to execute itself once more, and let go before it does.

runsc is traced until it ends. Which of its commands start a gofer, how many and when, need not be known.

The tracer never ends before without taking runsc with it. PTRACE_O_EXITKILL kills all tracees if the tracer dies, killed or
by a fault of ours: a container would else run with runsc's own gofer, and nobody would know.
"""

from __future__ import annotations

import posix

from gofer.runsc.calls import MACHINE, Byte, addressof, ptrace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

_PEEKDATA, _POKEDATA, _CONT, _DETACH, _SETREGSET, _GETREGSET = 2, 5, 7, 17, 0x4205, 0x4204
_SEIZE, _LISTEN = 0x4206, 0x4208
_OPTIONS = 0x02 | 0x04 | 0x08 | 0x10 | 0x100000  # FORK, VFORK, CLONE, EXEC, EXITKILL
_EVENT_EXEC, _EVENT_STOP = 4, 128
_NT_PRSTATUS = 1
_WALL = 0x40000000
_SIGILL, _SIGKILL, _GROUP_STOPS = 4, 9, (19, 20, 21, 22)  # STOP, TSTP, TTIN, TTOU
_CAP_SYS_PTRACE = 19
_SET_ID = 0o6000  # S_ISUID, S_ISGID
_MOST_WORDS = 1 << 20  # of a command line, bytes that are looked at

_GOFER, _SANDBOX = b"runsc-gofer", b"runsc-sandbox"


class Refusal(Exception):
    """Why the redirection cannot be: shown as it is, and runsc goes down with the tracer."""


# machine: the size of the register set, where in it some registers are, and the two instructions. The system call execve(path,
# argv, envp), and a fault where it returns. At the stop after an execve the kernel has yet to write its result, 0, into the
# result's register: on aarch64 that is the first argument's, so the path waits in another.
MACHINES: dict[str, tuple[int, dict[str, int], bytes]] = {
    "x86_64": (
        27 * 8,
        {"pc": 16 * 8, "sp": 19 * 8, "result": 10 * 8, "path": 14 * 8, "argv": 13 * 8, "envp": 12 * 8},
        b"\xb8\x3b\0\0\0\x0f\x05\x0f\x0b",  # mov $59, %eax; syscall; ud2
    ),
    "aarch64": (
        34 * 8,
        {"pc": 32 * 8, "sp": 31 * 8, "result": 0, "path": 9 * 8, "argv": 1 * 8, "envp": 2 * 8},
        b"\xe0\x03\x09\xaa\xa8\x1b\x80\xd2\x01\0\0\xd4\0\0\0\0",  # mov x0, x9; mov x8, #221; svc #0; udf #0
    ),
}


class Tracer:
    """Traces one runsc. leader: its pid; runsc: its file; target: the absolute path of the gofer to be.

    say: told why the gofer could not be run, where it could not.
    """

    def __init__(self, leader: int, runsc: str, target: str, say: Callable[[str], object]) -> None:
        self._leader, self._target, self._say = leader, target, say
        self._named = _identity(posix.stat(runsc))
        self._runsc = self._named  # what the leader now is: of a script, first its shell
        self._redirected: set[int] = set()  # processes in the middle of their redirected execve
        try:
            ptrace(_SEIZE, leader, 0, _OPTIONS)
        except OSError as error:
            other = _number(leader, "TracerPid", 10)
            raise Refusal(
                f"this process is being traced by process {other} already, and only one can: "
                "run it without strace or a debugger (if it is `gofer runsc` itself, --runsc names a wrapper of it)"
                if other
                else f"ptrace is not permitted here: {error.strerror}"
            ) from None

    def run(self) -> None:
        """Until runsc has ended. Refusal, OSError: the caller must exit at once."""
        while True:
            try:
                tid, status = posix.waitpid(-1, _WALL)
            except ChildProcessError:
                return
            if not posix.WIFSTOPPED(status):
                self._redirected.discard(tid)
                continue
            try:
                self._on_stop(tid, posix.WSTOPSIG(status), status >> 16)
            except (ProcessLookupError, FileNotFoundError):
                pass  # killed meanwhile, and gone from /proc; its end will be reported

    def _on_stop(self, tid: int, signal: int, event: int) -> None:
        if event == _EVENT_EXEC:
            self._on_exec(tid)
        elif event == _EVENT_STOP and signal in _GROUP_STOPS:
            ptrace(_LISTEN, tid)
        elif not event and signal == _SIGILL and tid in self._redirected:
            self._on_failure(tid)
        else:
            ptrace(_CONT, tid, 0, 0 if event else signal)

    def _on_exec(self, tid: int) -> None:
        if tid in self._redirected:
            self._redirected.remove(tid)
            ptrace(_DETACH, tid)
            return
        exe = _exe(tid)
        if tid == self._leader:
            self._runsc = _identity(exe)
            ptrace(_CONT, tid)
            return
        what = self._judge(tid, exe)
        if what == "gofer":
            self._redirect(tid)
        elif what == "runsc":
            ptrace(_CONT, tid)
        else:
            if what == "other" and _gains_rights(tid, exe) and not _may_trace_anything():
                _execute(tid, "/proc/self/exe")
            ptrace(_DETACH, tid)

    def _judge(self, tid: int, exe: posix.stat_result) -> str:
        """What tid has become: "gofer", "sandbox", "runsc" (or what might start one), or "other"."""
        with open(f"/proc/{tid}/cmdline", "rb") as file:
            words = file.read(_MOST_WORDS).split(b"\0")
        if words[0] in (_GOFER, _SANDBOX):
            return "gofer" if words[0] == _GOFER else "sandbox"
        if _identity(exe) == self._runsc or posix.readlink(f"/proc/{tid}/exe").rpartition("/")[2].startswith("runsc"):
            from gofer.runsc.flags import command_of  # seldom: rootless, and `exec --detach`

            command = command_of([word.decode("utf-8", "replace") for word in words[1:]])
            return "gofer" if command == "gofer" else "sandbox" if command == "boot" else "runsc"
        # A script in runsc's place: whatever it runs may be runsc.
        return "other" if self._runsc == self._named else "runsc"

    def _redirect(self, tid: int) -> None:
        why_not = _unreadable(tid, self._target)
        if why_not:
            self._say(why_not)
            posix.kill(tid, _SIGKILL)
            return
        self._redirected.add(tid)
        _execute(tid, self._target)
        ptrace(_CONT, tid)

    def _on_failure(self, tid: int) -> None:
        result = int.from_bytes(_register(_registers(tid), "result"), "little", signed=True)
        self._say(
            f"{posix.strerror(-result)}: the container's user must be able to execute it, "
            "and to search every directory above it"
        )
        ptrace(_CONT, tid, 0, _SIGKILL)


def _execute(tid: int, path: str) -> None:
    """Have tid, stopped after an execve, execute path before anything else, with the same arguments and environment."""
    word = path.encode("utf-8", "surrogateescape") + b"\0"
    _, offsets, instructions = MACHINES[MACHINE]
    registers = _registers(tid)
    pc, sp = (int.from_bytes(_register(registers, name), "little") for name in ("pc", "sp"))
    place = (sp - 1024 - len(word)) & ~15  # below is room: the kernel begins with 128 KiB of stack
    _poke(tid, pc, instructions)
    _poke(tid, place, word)
    for name, value in (("path", place), ("argv", sp + 8), ("envp", sp + 8 * (_peek(tid, sp) + 2))):
        registers[offsets[name] : offsets[name] + 8] = value.to_bytes(8, "little")
    _registers(tid, registers)


def _register(registers: bytearray, name: str) -> bytearray:
    offset = MACHINES[MACHINE][1][name]
    return registers[offset : offset + 8]


def _registers(tid: int, new: bytearray | None = None) -> bytearray:
    """The registers of a stopped tracee; new: set them."""
    registers = new or bytearray(MACHINES[MACHINE][0])
    memory = (Byte * len(registers)).from_buffer(registers)
    words = addressof(memory).to_bytes(8, "little") + len(registers).to_bytes(8, "little")
    iovec = (Byte * 16).from_buffer_copy(words)
    ptrace(_SETREGSET if new else _GETREGSET, tid, _NT_PRSTATUS, addressof(iovec))
    return registers


def _peek(tid: int, address: int) -> int:
    word = (Byte * 8)()
    ptrace(_PEEKDATA, tid, address, addressof(word))
    return int.from_bytes(bytes(word), "little")


def _poke(tid: int, address: int, data: bytes) -> None:
    """Write data, in whole words. Into a program's text too: the process gets a copy of its own."""
    try:
        for offset in range(0, len(data), 8):
            ptrace(_POKEDATA, tid, address + offset, int.from_bytes(data[offset : offset + 8], "little"))
    except ProcessLookupError:
        raise
    except OSError as error:
        name = posix.readlink(f"/proc/{tid}/exe")
        raise Refusal(f"{name} cannot be traced ({error.strerror}): who runs it must be able to read it") from None


def _identity(file: posix.stat_result) -> tuple[int, int]:
    return file.st_dev, file.st_ino


def _exe(tid: int) -> posix.stat_result:
    try:
        return posix.stat(f"/proc/{tid}/exe")
    except PermissionError:
        raise Refusal("runsc is or runs a program that its user may not read, so that it cannot be traced") from None


def _gains_rights(tid: int, exe: posix.stat_result) -> bool:
    """Whether what tid executes is set-user-ID or the like."""
    if exe.st_mode & _SET_ID:
        return True
    try:
        return bool(posix.getxattr(f"/proc/{tid}/exe", "security.capability"))
    except OSError:
        return False


def _may_trace_anything() -> bool:
    return bool(_number("self", "CapEff", 16) >> _CAP_SYS_PTRACE & 1)


def _unreadable(tid: int, target: str) -> str:
    """Python must read the file that the kernel only needs to execute: why the process's user may not, or ""."""
    uid, gid = (_number(tid, name, 10, 3) for name in ("Uid", "Gid"))  # those of file accesses
    try:
        info = posix.stat(target)
    except OSError as error:
        return str(error.strerror)
    bit = 0o400 if uid == info.st_uid else 0o040 if gid == info.st_gid else 0o004
    return "" if uid == 0 or info.st_mode & bit else f"not readable by user {uid}, as whom it would run"


def _number(tid: int | str, name: str, base: int, which: int = 0) -> int:
    """One of the numbers on a line of /proc/TID/status."""
    with open(f"/proc/{tid}/status") as file:
        return next(int(line.split()[1 + which], base) for line in file if line.startswith(name + ":"))
