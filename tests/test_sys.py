"""gofer.sys: layouts and numbers against a C program built here, and what the wrappers do on the real kernel."""

import ctypes
import errno
import fcntl
import os
import re
import socket
import stat as modes
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from hosts import fails

from gofer import sys
from gofer.server import donation
from gofer.server.channel import FutexWord

# our structure: (the C type, {our field: the C field} where they differ)
STRUCTURES: dict[type[ctypes.Structure], tuple[str, dict[str, str]]] = {
    sys.Statx: ("struct statx", {"_pad1": "", "stx_times": "stx_atime", "_spare": ""}),
    sys.Statfs: ("struct statfs", {}),
    donation.Iovec: ("struct iovec", {}),
    donation.Msghdr: ("struct msghdr", {}),
    donation.Cmsghdr: ("struct cmsghdr", {}),
    sys.CapHeader: ("struct __user_cap_header_struct", {}),
    sys.CapData: ("struct __user_cap_data_struct", {}),
}
HEADERS = """
#define _GNU_SOURCE
#include <stddef.h>
#include <stdio.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <linux/memfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
"""
CONSTANTS = [
    name for name in vars(sys) if re.match(r"(AT|CAP|F_ADD|F_SEAL|FUTEX|O|RENAME|STATX|UTIME)_[A-Z]", name)
]


def c_fields(structure: type[ctypes.Structure]) -> list[tuple[str, str]]:
    """(our field, the C field) for each that has a name in C."""
    renamed = STRUCTURES[structure][1]
    pairs = [(field[0], renamed.get(field[0], field[0])) for field in structure._fields_]
    return [(ours, theirs) for ours, theirs in pairs if theirs]


@pytest.fixture(scope="module")
def from_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the C compiler and the kernel's headers say, by name."""
    lines = []
    for structure, (c_name, _) in STRUCTURES.items():
        lines.append(f'printf("sizeof {c_name} %zu\\n", sizeof({c_name}));')
        for _, field in c_fields(structure):
            lines.append(f'printf("{c_name}.{field} %zu\\n", offsetof({c_name}, {field}));')
            size = f"sizeof((({c_name} *)0)->{field})"
            lines.append(f'printf("sizeof {c_name}.{field} %zu\\n", {size});')
    lines += [f'printf("{name} %lld\\n", (long long)({name}));' for name in CONSTANTS]
    lines += [f'printf("SYS_{name} %d\\n", SYS_{name});' for name in sys._NUMBERS if name != "fchmodat2"]
    place = Path(tmp_path_factory.mktemp("c"))
    (place / "ask.c").write_text(HEADERS + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")
    subprocess.run(["gcc", "-Wall", "-Werror", "-o", "ask", "ask.c"], cwd=place, check=True)
    answers = subprocess.run([str(place / "ask")], capture_output=True, text=True, check=True).stdout
    found = {}
    for line in answers.splitlines():
        name, _, value = line.rpartition(" ")
        found[name] = int(value)
    return found


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda structure: structure.__name__)
def test_a_structure_is_laid_out_as_in_c(from_c: dict[str, int], structure: type[ctypes.Structure]) -> None:
    c_name = STRUCTURES[structure][0]
    assert ctypes.sizeof(structure) == from_c[f"sizeof {c_name}"]
    for ours, theirs in c_fields(structure):
        field = getattr(structure, ours)
        assert field.offset == from_c[f"{c_name}.{theirs}"], ours
        if ours != "stx_times":
            assert field.size == from_c[f"sizeof {c_name}.{theirs}"], ours


def test_every_structure_is_compared() -> None:
    values = [*vars(sys).values(), *vars(donation).values()]
    ours = {value for value in values if isinstance(value, type) and issubclass(value, ctypes.Structure)}
    assert ours - {ctypes.Structure} == set(STRUCTURES)


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_is_what_the_kernels_headers_say(from_c: dict[str, int], name: str) -> None:
    assert getattr(sys, name) in (from_c[name], from_c[name] & 0xFFFFFFFF)  # a negative one is written as C's unsigned int


def test_the_system_call_numbers_of_this_machine_are_those_of_the_headers(from_c: dict[str, int]) -> None:
    for name in sys._NUMBERS:
        if name != "fchmodat2":  # newer than many headers
            assert sys._number(name) == from_c[f"SYS_{name}"], name


def test_the_protocols_statx_is_a_prefix_of_the_kernels(from_c: dict[str, int]) -> None:
    """The first 144 bytes end with the device numbers."""
    assert from_c["struct statx.stx_dev_minor"] + 4 == 144
    assert from_c["struct statx.stx_atime"] == 64


def test_a_function_the_c_library_lacks_is_called_by_number(spot: Path) -> None:
    (spot / "file").write_bytes(b"hello")
    function, first = sys._function("statx", prefer_libc=False)
    assert first
    by_number, by_libc = ctypes.create_string_buffer(256), ctypes.create_string_buffer(256)
    arguments = (sys.AT_FDCWD, os.fsencode(spot / "file"), 0, sys.STATX_BASIC_STATS)
    assert function(*first, *arguments, by_number) == 0
    assert sys.statx(*arguments, by_libc) == 0
    assert by_number.raw == by_libc.raw


def test_an_error_is_an_oserror_with_its_errno(spot: Path) -> None:
    fd = os.open(spot, os.O_RDONLY)
    try:
        with fails(errno.ENOENT):
            sys.renameat2(fd, b"missing", fd, b"new", 0)
        with fails(errno.EBADF):
            sys.fallocate(-1, 0, 0, 1)
        with fails(errno.ENOENT):
            sys.fchownat(fd, b"missing", -1, -1, 0)
    finally:
        os.close(fd)


def test_offsets_beyond_32_bits_arrive_whole(spot: Path) -> None:
    with open(spot / "file", "w+b") as file:
        sys.fallocate(file.fileno(), 0, (1 << 33) + 5, 10)
        assert os.fstat(file.fileno()).st_size == (1 << 33) + 15


def test_minus_one_leaves_an_owner_alone(spot: Path) -> None:
    (spot / "file").touch()
    os.chown(spot / "file", 12, 34)
    fd = os.open(spot / "file", os.O_RDONLY)
    try:
        sys.fchownat(fd, b"", -1, 56, sys.AT_EMPTY_PATH)
        assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (12, 56)
        sys.fchownat(fd, b"", 2**31, -1, sys.AT_EMPTY_PATH)
        assert (os.fstat(fd).st_uid, os.fstat(fd).st_gid) == (2**31, 56)
    finally:
        os.close(fd)


def test_times_are_set_through_an_o_path_fd(spot: Path) -> None:
    os.mkfifo(spot / "fifo")
    fd = os.open(spot / "fifo", os.O_PATH)
    try:
        assert sys.utimensat(fd, b"", sys.timespecs(5, 6, -7, 8), sys.AT_EMPTY_PATH) == 0
    finally:
        os.close(fd)
    assert (os.stat(spot / "fifo").st_atime_ns, os.stat(spot / "fifo").st_mtime_ns) == (5_000_000_006, -6_999_999_992)


def test_an_fd_sender_carries_data_and_fds_and_can_be_used_again() -> None:
    near, far = socket.socketpair()
    with near, far:
        sender = donation.FDSender(3)
        buffer = ctypes.create_string_buffer(b"payload")
        for count in (1, 3, 2, 0):
            fds = tuple(os.dup(near.fileno()) for _ in range(count))
            assert sender.send(near.fileno(), ctypes.addressof(buffer), 7, fds, 0) == 7
            data, got, _, _ = socket.recv_fds(far, 100, 8)
            assert data == b"payload" and len(got) == count
            for fd in got:
                assert modes.S_ISSOCK(os.fstat(fd).st_mode)
            for fd in (*fds, *got):
                os.close(fd)


def test_an_fd_sender_sends_one_fd_alone_between_other_messages() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far, open(os.devnull) as null:
        sender = donation.FDSender(2)
        buffer = ctypes.create_string_buffer(b"payload")
        for fds in ((near.fileno(), null.fileno()), (near.fileno(),)):
            assert sender.send(near.fileno(), ctypes.addressof(buffer), 7, fds, 0) == 7
            for _ in range(2):
                sender.send_alone(near.fileno(), null.fileno())
            received = [socket.recv_fds(far, 100, 8) for _ in range(3)]
            assert [(data, len(got)) for data, got, _, _ in received] == [(b"payload", len(fds)), (b"", 1), (b"", 1)]
            assert all(os.path.sameopenfile(got[0], null.fileno()) for _, got, _, _ in received[1:])
            for _, got, _, _ in received:
                for fd in got:
                    os.close(fd)
        far.shutdown(socket.SHUT_RD)
        with pytest.raises(BrokenPipeError):
            sender.send_alone(near.fileno(), null.fileno())


def test_ids_are_changed_for_the_calling_thread_only() -> None:
    """setresuid(3) of the C library changes all threads; ConnectWithCreds must not."""
    seen: dict[str, tuple[int, int]] = {}

    def change() -> None:
        sys.thread_setgroups((11, 22))
        sys.thread_setresgid(-1, 5678, -1)
        sys.thread_setresuid(-1, 1234, -1)
        seen["thread"] = os.geteuid(), os.getegid()

    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    assert seen["thread"] == (1234, 5678)
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_a_futex_word_is_handed_over_only_from_one_and_ends_at_two() -> None:
    memory = (ctypes.c_uint32 * 1)()
    word = FutexWord(ctypes.addressof(memory))
    for before, after in ((1, 0), (0, 0), (2, 2), (3, 2)):
        memory[0] = before
        word.clear_bit0_and_wake()
        assert memory[0] == after
    for before in (0, 1, 2, 7):
        memory[0] = before
        word.set_two_and_wake_all()
        assert memory[0] == 2
    word.wait_while_zero()  # not zero: returns


def test_a_sleeper_on_a_futex_word_is_woken_by_either_call() -> None:
    for wake in ("clear_bit0_and_wake", "set_two_and_wake_all"):
        memory = (ctypes.c_uint32 * 1)(0)
        word = FutexWord(ctypes.addressof(memory))
        woken = threading.Event()

        def sleep(word: FutexWord = word, woken: threading.Event = woken) -> None:
            word.wait_while_zero()
            woken.set()

        sleeper = threading.Thread(target=sleep)
        sleeper.start()
        while not woken.wait(0.005):
            getattr(word, wake)()
        sleeper.join()


def test_xattr_calls_pass_nul_bytes_in_values(spot: Path) -> None:
    (spot / "file").touch()
    path = os.fsencode(spot / "file")
    sys.setxattr(path, b"user.a", b"a\0b\0", 0)
    buffer = ctypes.create_string_buffer(100)
    assert sys.getxattr(path, b"user.a", buffer, 100) == 4 and buffer.raw[:4] == b"a\0b\0"
    assert sys.listxattr(path, ctypes.addressof(buffer), 100) == 7
    sys.removexattr(path, b"user.a")
    assert os.listxattr(path) == []


def test_getdents_reads_what_listdir_lists(spot: Path) -> None:
    for i in range(20):
        (spot / f"{i}").touch()
    fd = os.open(spot, os.O_RDONLY)
    buffer = ctypes.create_string_buffer(4096)
    try:
        size = sys.getdents64(fd, ctypes.addressof(buffer), 4096)
        assert sys.getdents64(fd, ctypes.addressof(buffer), 4096) == 0
    finally:
        os.close(fd)
    names, at = [], 0
    while at < size:
        length = struct.unpack_from("<H", buffer.raw, at + 16)[0]
        names.append(buffer.raw[at + 19 : at + length].split(b"\0")[0])
        at += length
    assert sorted(names) == sorted([b".", b".."] + [str(i).encode() for i in range(20)])


def test_seals_are_those_fcntl_reports() -> None:
    memfd = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    try:
        fcntl.fcntl(memfd, sys.F_ADD_SEALS, sys.F_SEAL_SHRINK | sys.F_SEAL_SEAL)
        assert fcntl.fcntl(memfd, 1034) == sys.F_SEAL_SHRINK | sys.F_SEAL_SEAL
    finally:
        os.close(memfd)
