"""The filter: what the server has no use for gets the chosen action, and the numbers are the kernel's."""

import platform
import re
import signal
import subprocess
from pathlib import Path

import pytest
from prison import attempt, run

from gofer.jail import callnames, seccomp

# What a client that has taken over the server would try. The numbers are those of x86_64.
FORBIDDEN = {
    "another process": "os.fork()",
    "vfork": "call(58)",
    "a process by clone": "call(56, signal.SIGCHLD, 0, 0, 0, 0)",
    "a thread in a new mount namespace": "call(56, 0x50f00 | 0x20000, 0, 0, 0, 0)",
    "a program": "os.execv('/file', ['file'])",
    "a program by fd": "call(322, root, b'', 0, 0, 0x1000)",
    "executable memory": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "making memory executable": "call(10, ctypes.c_void_p(page), 4096, 5)",
    "an Internet socket": "socket.socket(socket.AF_INET)",
    "a netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a vsock": "socket.socket(socket.AF_VSOCK)",
    "a pair that is not AF_UNIX": "call(53, socket.AF_INET, 1, 0, ctypes.create_string_buffer(8))",
    "receiving fds": "socket.socket(fileno=pair.fileno()).recvmsg(1, 100)",
    "changing a socket's options": "pair.setsockopt(1, 7, 4096)",
    "ptrace": "call(101, 0, 0, 0, 0)",
    "reading another process's memory": "call(310, 1, 0, 0, 0, 0, 0)",
    "a signal to another process": "os.kill(2, 0)",
    "a signal to every process": "os.kill(-1, 0)",
    "a signal by tgkill": "call(234, 2, 2, 0)",
    "another process's cpu": "call(203, 1, 8, ctypes.create_string_buffer(8))",
    "a barrier in all processes": "call(324, 1, 0)",
    "a pidfd": "call(434, 1, 0)",
    "new namespaces": "call(272, 0x20000)",
    "entering namespaces": "call(308, root, 0)",
    "a mount": "call(165, b'none', b'/', b'tmpfs', 0, None)",
    "a mount by the newer calls": "call(428, root, b'', 1)",
    "leaving the root": "os.chroot('.')",
    "another working directory": "os.chdir('/')",
    "opening by handle": "call(304, root, ctypes.create_string_buffer(64), 0)",
    "a device node": "os.mknod('x', 0o20666, os.makedev(1, 3), dir_fd=root)",
    "dumpable again": "call(157, 4, 1, 0, 0, 0)",
    "keeping capabilities": "call(157, 8, 1, 0, 0, 0)",
    "another limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))",
    "another user": "os.setuid(1)",
    "a terminal's input": "call(16, 0, 0x5412, b'x')",
    "any ioctl": "fcntl.ioctl(0, 0x6601, bytes(8))",
    "a lease": "fcntl.fcntl(root, 1024, 0)",
    "signals by fcntl": "fcntl.fcntl(root, 8, 1)",
    "io_uring": "call(425, 1, ctypes.create_string_buffer(120))",
    "bpf": "call(321, 0, 0, 0)",
    "perf": "call(298, 0, 0, 0, 0, 0)",
    "userfaultfd": "call(323, 1)",
    "keys": "call(248, b'user', b'x', b'y', 1, -3)",
    "System V memory": "call(29, 0, 4096, 0o1600)",
    "the other architecture's numbers (x32)": "call(0x40000000 + 39)",
    "another filter": "call(317, 1, 0, 0)",
    "inotify": "call(294, 0)",
    "fanotify": "call(300, 0, 0)",
    "splice": "call(275, 0, 0, 0, 0, 0, 0)",
    "kernel modules": "call(313, 0, b'', 0)",
    "the clock": "call(227, 0, ctypes.create_string_buffer(16))",
    "the host's name": "socket.sethostname('x')",
    "swap": "call(167, b'/file', 0)",
    "rebooting": "call(169, 0, 0, 0)",
}
BEFORE = """
pair, other = socket.socketpair()
memory = mmap.mmap(-1, 4096)
page = ctypes.addressof(ctypes.c_char.from_buffer(memory))
"""
# What this machine's C library does not call, in a server, and others do.
OTHER_LIBRARIES = {
    "musl starts its first thread": "call(324, 16, 0)",
    "musl's accept4 of what does not listen": "call(43, pair.fileno(), 0, 0)",
    "musl aborts": "call(200, os.getpid(), 0)",
    "stat by a path in musl and old glibc": "call(4, b'file', ctypes.create_string_buffer(144))",
    "lstat by a path": "call(6, b'file', ctypes.create_string_buffer(144))",
    "open by a path in musl": "call(2, b'file', 0)",
    "access": "call(21, b'file', 0)",
    "access by an fd": "call(269, root, b'file', 0)",
    "isatty in glibc 2.42": "call(16, pair.fileno(), 0x802C542A, ctypes.create_string_buffer(64))",
    "isatty in older glibc": "call(16, pair.fileno(), 0x5401, ctypes.create_string_buffer(64))",
    "isatty in musl": "call(16, pair.fileno(), 0x5413, ctypes.create_string_buffer(64))",
    "time without a vDSO": "call(201, 0) and 0",
    "a clock without a vDSO": "call(228, 1, ctypes.create_string_buffer(16))",
    "the memory node in free-threaded CPython": "call(309, 0, 0, 0)",
    "the working directory": "call(79, ctypes.create_string_buffer(64), 64)",
}
# As an older kernel answers, so that a C library falls back.
UNKNOWN = {"clone3": "call(435, 0, 0)", "faccessat2": "call(439, 0, b'', 0, 0)", "a call yet to be made": "call(1000)"}

x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the calls are made by their numbers on x86_64")


@x86_64
@pytest.mark.slow
@pytest.mark.parametrize("what", FORBIDDEN)
def test_what_the_server_has_no_use_for_kills_it(what: str, spot: Path) -> None:
    (spot / "file").touch(0o755)
    assert attempt(FORBIDDEN[what], spot, before=BEFORE) == f"killed by {int(signal.SIGSYS)}"


@x86_64
def test_what_killed_the_server_is_said(spot: Path) -> None:
    done = run("os.fork()", spot)
    assert done.returncode == -signal.SIGSYS
    assert "gofer: the server made a system call that its filter forbids" in done.stderr


@x86_64
@pytest.mark.parametrize("what", ["another process", "an Internet socket", "a mount", "ptrace", "another filter"])
def test_with_errno_it_is_eperm(what: str, spot: Path) -> None:
    assert attempt(FORBIDDEN[what], spot, before=BEFORE, seccomp="errno") == "EPERM"


@x86_64
@pytest.mark.parametrize("what", OTHER_LIBRARIES)
def test_what_other_c_libraries_and_interpreters_call_does_not_kill(what: str, spot: Path) -> None:
    answer = attempt(OTHER_LIBRARIES[what], spot, before=BEFORE)
    assert answer in ("done", "0", "EINVAL", "ENOENT", "ENOTTY")


@x86_64
def test_a_signal_by_tkill_to_what_may_be_another_process_is_eperm(spot: Path) -> None:
    """Not death: musl's abort(3) has other ways to end, and what is said must not be that this call was the reason."""
    assert attempt("call(200, 2, 0)", spot) == "EPERM"


@x86_64
@pytest.mark.parametrize("what", UNKNOWN)
def test_calls_with_an_older_way_and_calls_not_known_are_enosys(what: str, spot: Path) -> None:
    assert attempt(UNKNOWN[what], spot) == "ENOSYS"


@x86_64
def test_the_32_bit_entry_is_another_architecture_and_kills(spot: Path) -> None:
    """By `int 0x80` the number 20 is getpid, which is allowed as 39 by the other entry."""
    source, library = spot / "old.c", spot / "old.so"
    source.write_text(
        'int old(void) { int r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20) : "memory"); return r; }'
    )
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    load = f"old = ctypes.CDLL({str(library)!r}).old"
    assert int(attempt("old()", spot, before=load, seccomp="off")) >= 1
    assert attempt("old()", spot, before=load) == f"killed by {int(signal.SIGSYS)}"


@x86_64
def test_a_thread_started_later_is_under_the_filter_and_takes_the_process_along(spot: Path) -> None:
    start = "_thread.start_new_thread(socket.socket, (socket.AF_INET,)) and time.sleep(20)"
    assert attempt(start, spot) == f"killed by {int(signal.SIGSYS)}"


def test_threads_memory_and_unix_socket_pairs_are_the_servers_daily_bread(spot: Path) -> None:
    work = """
def work():
    thread = threading.Thread(target=lambda: bytearray(1 << 26))
    thread.start()
    thread.join()
    memfd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(memfd, 4096)
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    window, (one, two) = mmap.mmap(memfd, 4096), socket.socketpair()
    time.sleep(0.001)
    return one.send(b"x") + len(two.recv(1)) + len(window)
"""
    assert attempt("work()", spot, before=work) == "4098"


def test_log_lets_it_pass_and_off_has_no_filter(spot: Path) -> None:
    there = "socket.socket(socket.AF_INET).family.name + str([layer.name for layer in posture.missing()])"
    assert attempt(there, spot, seccomp="log") == "AF_INET[]"
    assert attempt(there, spot, seccomp="off") == "AF_INET['seccomp']"


@pytest.mark.parametrize(
    "call", ["socket.socket(socket.AF_UNIX).close()", "pair.bind('1/s')", "pair.connect('1')", "pair.listen()"]
)
def test_sockets_are_made_only_for_host_uds(call: str, spot: Path) -> None:
    assert attempt(call, spot, before=BEFORE).startswith("killed")
    assert not attempt(call, spot, before=BEFORE, host_uds="all").startswith("killed")


def test_ids_are_switched_only_for_host_uds(spot: Path) -> None:
    switch = "(os.setresgid(-1, 5, -1), os.setresuid(-1, 5, -1), os.geteuid())[2]"
    for allowed in ("open", "all"):
        assert attempt(switch, spot, host_uds=allowed) == "5"
    for allowed in ("none", "create"):
        assert attempt(switch, spot, host_uds=allowed).startswith("killed")


@pytest.mark.parametrize("machine", ["x86_64", "generic"])
def test_the_numbers_are_the_kernels(machine: str) -> None:
    """As its headers have them, which may be older or newer than the table."""
    if machine == "x86_64" and platform.machine() != "x86_64":
        pytest.skip("the headers are another machine's")
    ours = callnames.numbers(machine)
    kernels = _numbers("asm/unistd.h" if machine == "x86_64" else "asm-generic/unistd.h")
    for no_call in ("arch_specific_syscall", "syscalls"):
        kernels.pop(no_call, None)
    known = {name: number for name, number in kernels.items() if number <= max(ours.values())}
    assert {name: ours.get(name) for name in known} == known
    newer = {name: number for name, number in ours.items() if name not in known}
    not_in_headers = {335, 336} if machine == "x86_64" else {258, 259}  # Linux 6.11 and 6.16; riscv64
    assert {number for number in newer.values() if number <= max(known.values())} <= not_in_headers


def _numbers(header: str) -> dict[str, int]:
    """The system calls of a header, as a 64-bit machine has them that wants all the calls there are."""
    wanted = [
        f"-D__ARCH_WANT_{what}" for what in ("NEW_STAT", "RENAMEAT", "SET_GET_RLIMIT", "SYS_CLONE3", "MEMFD_SECRET")
    ]
    command = ["gcc", "-E", "-dM", *wanted, "-include", header, "-"]
    text = subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout
    values = dict(re.findall(r"#define (__NR\w+) (\S+)$", text, re.MULTILINE))
    calls = {name[5:]: values.get(value, value) for name, value in values.items() if name.startswith("__NR_")}
    return {name: int(value) for name, value in calls.items() if value.isdigit()}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
@pytest.mark.parametrize("sockets", [False, True])
def test_a_program_is_one_that_the_kernel_takes(machine: str, sockets: bool) -> None:
    """bpf(2), SECCOMP_SET_MODE_FILTER: 1 to 4096 instructions; jumps go forward and stay inside; the last one returns."""
    refuse = seccomp.refusal("kill")
    program = seccomp.assemble(seccomp.server_rules(refuse, sockets, sockets), refuse, machine)
    code = [program[i : i + 8] for i in range(0, len(program), 8)]
    assert 1 <= len(code) <= 4096 and len(program) % 8 == 0
    for at, (opcode, high, jt, jf, *_) in enumerate(code):
        assert high == 0
        if opcode & 7 == 5:
            assert at + 1 + max(jt, jf) < len(code)
    assert code[-1][0] == 6


def test_the_filter_does_not_make_the_process_slower_to_speculate(spot: Path) -> None:
    """SPEC_ALLOW, see `install`: the state of speculative store bypass is what it was before."""
    state = "libc.prctl(52, 0, 0, 0, 0)"
    before = attempt(state, spot, seccomp="off")
    assert attempt("speculation", spot, before=f"speculation = {state}") == before


def test_every_action_is_known_to_this_kernel() -> None:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail").read_text().split()
    assert {"kill_process", "errno", "log"} <= set(actions)
    assert all(seccomp.available(action) for action in seccomp.ACTIONS if action != "off")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_call_that_a_rule_names_is_one_of_the_kernels(machine: str) -> None:
    """Those that the generic table lacks have a newer one in their place, which is allowed as well."""
    rules = {**seccomp.server_rules(0, True, True), **seccomp.supervisor_rules(0, ())}
    known = callnames.numbers(machine)
    lacking = {name for name in (*rules, *seccomp._TRY_ANOTHER) if name not in known}
    replaced = {"poll", "epoll_wait", "select", "open", "stat", "lstat", "readlink", "access", "time"}
    assert lacking == (replaced if machine == "aarch64" else set())
