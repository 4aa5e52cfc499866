"""Lanes: what `serve --stdio` offers in place of channels, spoken by hand as docs/lisafs.md has it."""

import contextlib
import errno
import os
import random
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import faulty
import pytest
from hosts import CALM, GOFER, children, run, wait_until
from mounting import mounted

from gofer.conform.peer import Mid
from gofer.conform.transport import PATIENCE

LANES = 72
PAGE = 4096
MIB = 1 << 20
ROOT = 1
IN_VAIN = 1.0  # seconds in which nobody reads: too short a time takes less to be bounded than there is
FSTAT = struct.pack("<Q", ROOT)


class Line:
    """A client that has lanes. errors: what the server says in the end. blocking: whether what the server gets is."""

    def __init__(self, tree: Path, *options: str, blocking: bool = True) -> None:
        self.sock, theirs = socket.socketpair()
        theirs.setblocking(blocking)
        with theirs:
            self._start(tree, options, theirs.fileno(), theirs.fileno())

    def _start(self, tree: Path, options: "tuple[str, ...]", stdin: int, stdout: int) -> None:
        argv = [*GOFER, "serve", "--stdio", str(tree), *options]
        self.process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE)
        self.sock.settimeout(CALM)
        self._came = b""
        self.send(LANES, 0)
        assert self.answer() == (LANES, 0, struct.pack("<H", 64))
        self.send(Mid.MOUNT, 0)
        assert self.answer()[0] == Mid.MOUNT

    def send(self, mid: int, lane: int, body: bytes = b"") -> None:
        self.sock.sendall(message(mid, lane, body))

    def answer(self) -> "tuple[int, int, bytes]":
        """(message id, lane, payload) of the next one."""
        size, mid, lane = struct.unpack("<IHH", self._take(8))
        return mid, lane, self._take(size)

    def _take(self, size: int) -> bytes:
        while len(self._came) < size:
            more = self.receive()
            assert more, "the server hung up"
            self._came += more
        taken, self._came = self._came[:size], self._came[size:]
        return taken

    def receive(self) -> bytes:
        return self.sock.recv(MIB)

    def end(self) -> None:
        """Say nothing more."""
        with contextlib.suppress(OSError):  # it has hung up
            self.sock.shutdown(socket.SHUT_WR)

    def made(self, name: bytes, flags: int = os.O_RDWR) -> "tuple[int, int]":
        """A new file's control FD and open FD."""
        request = struct.pack("<QIIH6xI", ROOT, 0xFFFFFFFF, 0xFFFFFFFF, 0o600, flags)
        self.send(Mid.OPENCREATEAT, 0, request + struct.pack("<H", len(name)) + name)
        mid, _, payload = self.answer()
        assert mid == Mid.OPENCREATEAT, payload
        return struct.unpack_from("<Q144xQ", payload)

    def hangs(self, slow: faulty.Faulty, lane: int) -> bytes:
        """A request that will, and that it does."""
        slow.hang(faulty.LOOKUP)
        name = slow.path.name.encode()
        return message(Mid.WALKSTAT, lane, struct.pack("<QHH", ROOT, 2, len(name)) + name + struct.pack("<H", 4) + b"none")


class PipeLine(Line):
    """By two pipes, as ssh's server has it. The socket is for what is sent: a thread of the test's, cat(1), hands that on."""

    def __init__(self, tree: Path, *options: str, blocking: bool = True) -> None:
        self.sock, theirs = socket.socketpair()
        stdin, to_server = os.pipe()
        self.come, stdout = os.pipe()
        os.set_blocking(stdin, blocking)
        os.set_blocking(stdout, blocking)
        with theirs:
            self._cat = subprocess.Popen(["cat"], stdin=theirs.fileno(), stdout=to_server)
        os.close(to_server)
        try:
            self._start(tree, options, stdin, stdout)
        finally:
            os.close(stdin)
            os.close(stdout)

    def receive(self) -> bytes:
        return os.read(self.come, MIB)

    def end(self) -> None:
        super().end()
        self._cat.wait(PATIENCE)


def message(mid: int, lane: int, body: bytes = b"") -> bytes:
    return struct.pack("<IHH", len(body), mid, lane) + body


def write(fd: int, data: bytes) -> bytes:
    return struct.pack("<QQI", 0, fd, len(data)) + data


@contextlib.contextmanager
def line(tree: Path, *options: str, kind: "type[Line]" = Line, blocking: bool = True) -> Iterator[Line]:
    """It ends in order, with nothing to say but what was asked for."""
    it = kind(tree, *options, blocking=blocking)
    with it.process, it.sock, contextlib.ExitStack() as stack:
        if isinstance(it, PipeLine):
            stack.callback(os.close, it.come)
        stack.callback(it.process.kill)
        yield it
        it.end()
        assert it.process.stderr
        assert (it.process.wait(PATIENCE), it.process.stderr.read()) == (0, b"")


def processes(client: Line) -> list[int]:
    """All of what runs there."""
    found = [client.process.pid]
    for pid in found:
        found += children(pid)
    return found


def figure(pid: int, name: str) -> int:
    """Of what a process has read and written, as the kernel counts it."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def test_a_reply_does_not_wait_for_the_request_that_came_with_its_own_and_hangs(spot: Path) -> None:
    """It would go with the next one's, if that were quick."""
    with faulty.faulty(spot) as slow, line(spot) as client:
        hanging = client.hangs(slow, 7)
        client.sock.sendall(message(Mid.FSTAT, 5, FSTAT) + hanging + message(Mid.FSTAT, 6, FSTAT))
        assert [client.answer()[:2] for _ in range(2)] == [(Mid.FSTAT, 5), (Mid.FSTAT, 6)]
        wait_until(lambda: slow.hangs(faulty.LOOKUP), "it hangs")
        client.send(Mid.FSTAT, 7, FSTAT)
        client.send(Mid.FSTAT, 8, FSTAT)
        assert client.answer()[:2] == (Mid.FSTAT, 8), "lane 7 has to wait"
        slow.vanish()
        assert [client.answer()[1] for _ in range(2)] == [7, 7]


def test_many_small_requests_are_answered_together_and_in_the_order_of_their_lanes(spot: Path) -> None:
    asked = [(1 + number % 3, Mid.FSTAT if number // 3 % 5 else Mid.FSTATFS) for number in range(3000)]
    with line(spot) as client:
        there = processes(client)
        before = sum(figure(pid, "syscw") for pid in there)
        client.sock.sendall(b"".join([message(mid, lane, FSTAT) for lane, mid in asked]))
        came = bytearray()
        answered: dict[int, list[int]] = {1: [], 2: [], 3: []}
        while sum(map(len, answered.values())) < len(asked):
            came += client.sock.recv(MIB)
            while len(came) >= 8 and len(came) >= 8 + (head := struct.unpack_from("<IHH", came))[0]:
                answered[head[2]].append(head[1])
                del came[: 8 + head[0]]
        assert sum(figure(pid, "syscw") for pid in there) - before < len(asked) / 4, "writes"
        assert answered == {of: [mid for lane, mid in asked if lane == of] for of in answered}


def test_what_is_kept_for_a_lane_that_hangs_is_bounded_and_done_in_the_end(spot: Path) -> None:
    with faulty.faulty(spot) as slow, line(spot) as client:
        _, fd = client.made(b"file")
        client.sock.sendall(client.hangs(slow, 9))
        wait_until(lambda: slow.hangs(faulty.LOOKUP), "it hangs")
        left = memoryview(message(Mid.PWRITE, 9, write(fd, bytes(MIB))) * 40)
        while select.select([], [client.sock], [], IN_VAIN)[1]:
            left = left[client.sock.send(left[:MIB], socket.MSG_DONTWAIT) :]
        taken = 40 - len(left) / MIB
        assert 4 < taken < 16, taken
        sender = threading.Thread(target=client.sock.sendall, args=[left])
        sender.start()
        slow.vanish()
        assert client.answer()[:2] == (Mid.ERROR, 9)
        assert [client.answer() for _ in range(40)] == [(Mid.PWRITE, 9, struct.pack("<Q", MIB))] * 40
        sender.join()


@pytest.mark.parametrize(
    "bad",
    [
        struct.pack("<IHH", 0xFFFFFFFF, Mid.FSTAT, 3),
        struct.pack("<IHH", 2 * MIB, Mid.FSTAT, 3) + bytes(100),
        struct.pack("<IHH", 50, Mid.FSTAT, 3) + bytes(10),
        b"\0\0\0",
    ],
    ids=["too long", "just too long", "cut off", "half a header"],
)
def test_a_header_that_lies_ends_the_connection_and_the_server_in_order(spot: Path, bad: bytes) -> None:
    with line(spot, "--log-level=error") as client:
        client.sock.sendall(message(Mid.FSTAT, 1, FSTAT) + bad)
        client.sock.shutdown(socket.SHUT_WR)
        assert client.answer()[:2] == (Mid.FSTAT, 1)
        assert client.sock.recv(1) == b""


def test_whatever_a_hostile_client_sends_in_lanes_is_answered_and_the_next_as_well(spot: Path) -> None:
    """Every lane there is, messages that there are not, Lanes and Mount again, bodies of noise: one answer each, in its lane."""
    chance = random.Random(72)
    with line(spot) as client:
        for number in range(60):
            sent = []
            for _ in range(40):
                mid = chance.choice([LANES, Mid.MOUNT, Mid.CHANNEL, 0xFFFF, 0, chance.randrange(80), chance.randrange(1 << 16)])
                sent.append((mid, chance.choice([0, 1, 0xFFFF, chance.randrange(1 << 16)])))
            bodies = [chance.randbytes(chance.choice([0, 1, 8, 20, 200])) for _ in sent]
            client.sock.sendall(b"".join([message(mid, lane, body) for (mid, lane), body in zip(sent, bodies)]))
            lanes = sorted(client.answer()[1] for _ in sent)
            assert lanes == sorted(lane for _, lane in sent), number
        client.send(Mid.FSTAT, 3, FSTAT)
        assert client.answer()[:2] == (Mid.FSTAT, 3)


def test_requests_in_lanes_are_traced_and_one_that_hangs_is_warned_of(spot: Path) -> None:
    said: list[bytes] = []
    with faulty.faulty(spot) as slow, contextlib.ExitStack() as stack:
        it = Line(spot, "--trace", "--slow=0.2", "--log-level=warning")
        stack.enter_context(it.process)
        stack.enter_context(it.sock)
        stack.callback(it.process.kill)
        assert it.process.stderr
        lines = it.process.stderr
        reader = threading.Thread(target=lambda: said.extend(lines))
        reader.start()
        it.sock.sendall(it.hangs(slow, 4))
        wait_until(lambda: b"WalkStat has been in one system call" in b"".join(said), "it is warned of")
        it.send(Mid.FSTAT, 5, FSTAT)
        assert it.answer()[:2] == (Mid.FSTAT, 5)
        slow.vanish()
        assert it.answer()[1] == 4
        it.sock.shutdown(socket.SHUT_WR)
        assert it.process.wait(PATIENCE) == 0
        reader.join()
    names = [name for line in said for name in (b"WalkStat(", b"FStat(") if name in line]
    assert sorted(names) == [b"FStat(", b"WalkStat("], said


BOTH = pytest.mark.parametrize("kind", [Line, PipeLine])


def read(fd: int, offset: int, count: int) -> bytes:
    return struct.pack("<QQI4x", offset, fd, count)


@BOTH
@pytest.mark.parametrize("blocking", [True, False], ids=["blocking", "not"])
def test_a_read_is_what_is_in_the_file_wherever_it_begins_and_ends(spot: Path, kind: "type[Line]", blocking: bool) -> None:
    """Large ones are spliced, between small replies that are kept back; what cannot be is read, or told."""
    with line(spot, kind=kind, blocking=blocking) as client:
        _, fd = client.made(b"file")
        _, deaf = client.made(b"written", os.O_WRONLY)
        with open(spot / "file", "r+b") as file:
            file.write(os.urandom(3 * MIB + 77))
            file.seek(5 * MIB)
            file.write(os.urandom(MIB))
        data = (spot / "file").read_bytes()
        places = [(0, MIB), (1, MIB), (PAGE - 1, MIB - PAGE), (MIB - 7, MIB + 5), (2 * MIB, PAGE), (3 * MIB + 70, MIB)]
        places += [(5 * MIB, 2 * MIB - PAGE - 8), (6 * MIB - 5, MIB), (6 * MIB, MIB), (9 * MIB, MIB), (0, 0), (3, 1 << 16)]
        for _ in range(3):
            for offset, count in places:
                client.send(Mid.FSTAT, 4, FSTAT)
                client.send(Mid.PREAD, 5, read(fd, offset, count))
                client.send(Mid.PREAD, 5, read(deaf, offset, MIB))
                client.send(Mid.PREAD, 5, read(99, offset, MIB))
                client.send(Mid.FSTAT, 5, FSTAT)
                # Between lanes there is no order: where the reader was held up, another thread has gone on.
                answers = sorted([client.answer() for _ in range(5)], key=lambda answer: answer[1])
                assert [mid for mid, _, _ in answers] == [Mid.FSTAT, Mid.PREAD, Mid.ERROR, Mid.ERROR, Mid.FSTAT]
                assert [lane for _, lane, _ in answers] == [4, 5, 5, 5, 5]
                expected = data[offset : offset + count]
                assert answers[1][2] == struct.pack("<Q", len(expected)) + expected, (offset, count)
                assert [struct.unpack("<I", payload)[0] for _, _, payload in answers[2:4]] == [errno.EBADF] * 2


@BOTH
def test_nobody_copies_what_is_read_of_a_file(spot: Path, kind: "type[Line]") -> None:
    """By the kernel's count of what each process there has read and written."""
    with line(spot, kind=kind) as client:
        _, fd = client.made(b"file")
        (spot / "file").write_bytes(os.urandom(MIB))
        there = processes(client)
        before = sum(map(moved, there))
        for _ in range(16):
            client.send(Mid.PREAD, 5, read(fd, 0, MIB))
            assert len(client.answer()[2]) == 8 + MIB
        assert len(there) == 3 and sum(map(moved, there)) - before < MIB


def moved(pid: int) -> int:
    return figure(pid, "rchar") + figure(pid, "wchar")


def test_a_read_that_hangs_or_fails_keeps_no_other_waiting_nor_from_what_it_reads(spot: Path) -> None:
    """One pipe is there for splicing, and it is in it."""
    with faulty.faulty(spot) as slow, line(spot, kind=PipeLine) as client:
        name = slow.path.name.encode()
        client.send(Mid.WALK, 0, struct.pack("<QHH", ROOT, 2, len(name)) + name + struct.pack("<H", 4) + b"file")
        _, _, payload = client.answer()
        (control,) = struct.unpack_from("<Q", payload, len(payload) - 152)
        client.send(Mid.OPENAT, 0, struct.pack("<QI4x", control, os.O_RDONLY))
        (bad,) = struct.unpack("<Q", client.answer()[2])
        _, fd = client.made(b"good")
        data = os.urandom(MIB)
        (spot / "good").write_bytes(data)
        slow.fail(faulty.READ, errno.EIO)
        client.send(Mid.PREAD, 7, read(bad, 0, MIB))
        assert client.answer() == (Mid.ERROR, 7, struct.pack("<I", errno.EIO))
        slow.hang(faulty.READ)
        client.send(Mid.PREAD, 7, read(bad, 0, MIB))
        wait_until(lambda: slow.hangs(faulty.READ), "it hangs")
        for _ in range(3):
            client.send(Mid.PREAD, 8, read(fd, 0, MIB))
            assert client.answer() == (Mid.PREAD, 8, struct.pack("<Q", MIB) + data)
        slow.vanish()
        mid, lane, _ = client.answer()
        assert (mid, lane) == (Mid.ERROR, 7)


@BOTH
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["told", "killed"])
def test_a_server_with_lanes_ends_with_the_process_that_ssh_knows(spot: Path, kind: "type[Line]", how: int) -> None:
    it = kind(spot)
    with it.process, it.sock, contextlib.ExitStack() as stack:
        if isinstance(it, PipeLine):
            stack.callback(os.close, it.come)
        (supervisor,) = children(it.process.pid)
        below = [supervisor, *children(supervisor)]
        it.process.send_signal(how)
        assert it.receive() == b""
        assert it.process.wait(PATIENCE) == (0 if how == signal.SIGTERM else -how)
        wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in below), "the server ends")
        it.end()


@BOTH
def test_a_server_ends_though_nobody_takes_what_it_reads(spot: Path, kind: "type[Line]") -> None:
    it = kind(spot)
    with it.process, it.sock:
        _, fd = it.made(b"file")
        (spot / "file").write_bytes(bytes(MIB))
        it.sock.sendall(message(Mid.PREAD, 5, read(fd, 0, MIB)) * 20)
        if isinstance(it, PipeLine):
            os.close(it.come)
        it.sock.close()
        assert it.process.wait(PATIENCE) == 0
        it.end()


def test_a_far_server_that_has_no_lanes_is_mounted_and_answers_in_order(spot: Path) -> None:
    """As one of before: here, one to which stdin is a socket like any other."""
    (spot / "tree").mkdir()
    (spot / "here").mkdir()
    older = f"sh -c 'exec {' '.join(GOFER)} serve --quiet --fd 0 {spot}/tree' --"
    done = run("mount", "--ssh", older, "--remote-command", "gofer", f"far:{spot}/tree", str(spot / "here"))
    assert (done.returncode, done.stderr) == (0, "")
    try:
        data = os.urandom(3_000_000)
        for number in range(20):
            (spot / f"here/{number}").write_bytes(data)
        threads = [threading.Thread(target=(spot / f"here/{number}").read_bytes) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all((spot / f"tree/{number}").read_bytes() == data for number in range(20))
        assert sorted(os.listdir(spot / "here")) == sorted(map(str, range(20)))
    finally:
        assert run("umount", str(spot / "here")).returncode == 0
    assert not mounted(spot / "here")
