"""Copies from and to a server that is an attacker: nothing is made outside of the destination, nothing waits for ever."""

import os
import signal
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from conftest import Start
from copies import copy, parts
from hostile_server import Hostile, Node
from hosts import CALM, GOFER, PATIENCE, fails_in_one_line, run, wait_until

from gofer.client.client import Client
from gofer.conform.codec import Mid
from gofer.copy import remote, sides
from gofer.copy.local import Fd, LocalTree

pytestmark = pytest.mark.slow

SHORT = "it ended before the size that it was said to have: it was changed meanwhile, or the server lies"
WHOLE = b"what the file has, whoever carries it"


@pytest.fixture
def here(spot: Path) -> Path:
    """The destination, beside what must stay as it is."""
    (spot / "out").mkdir()
    (spot / "out/precious").write_text("mine")
    (spot / "here").mkdir()
    return spot / "here"


@pytest.fixture
def untouched(here: Path) -> Iterator[None]:
    yield
    out = here.parent / "out"
    assert os.listdir(out) == ["precious"] and (out / "precious").read_text() == "mine"
    assert not parts(here.parent)


NAMES = [b"", b".", b"..", b"/", b"a/b", b"../out/precious", b"/etc/passwd", b"nul\0name", b"n" * 256, b"n" * 5000]


def test_a_name_that_no_file_can_have_is_told_and_leads_nowhere(here: Path, untouched: None) -> None:
    root = Node(entries={**{name: Node(WHOLE) for name in NAMES}, b"good": Node(WHOLE)})
    with Hostile(here.parent / "s", root) as server:
        done = copy("get", "-r", f"{server.path}:/.", here, status=1)
    assert done.stderr.count(": a name that no file can have: not copied\n") == len(NAMES) == done.stderr.count("\n")
    assert os.listdir(here) == ["good"]


def test_a_name_that_is_a_link_first_and_a_directory_then_leads_nowhere(here: Path, untouched: None) -> None:
    directory = Node(entries={b"precious": Node(WHOLE)})
    link = Node(target=bytes(here.parent / "out"))
    root = Node(entries=lambda: iter([b"a"] * 2 + [b"x"] * 400 + [b"a"] * 2))
    answers = iter([link, link, *[Node(WHOLE)] * 400, *[directory] * 10])

    root.child = lambda name: next(answers)  # type: ignore[method-assign]
    with Hostile(here.parent / "s", root) as server:
        copy("get", "-r", f"{server.path}:/.", here, status=1)
    assert (here / "a").is_symlink()


def test_a_link_at_the_destination_is_replaced_or_told_and_never_followed(here: Path, untouched: None) -> None:
    os.symlink("../out", here / "d")
    os.symlink("../out/precious", here / "f")
    os.symlink("../out/new", here / "dangling")
    nodes = {b"d": Node(entries={b"precious": Node(WHOLE)}), b"f": Node(WHOLE), b"dangling": Node(WHOLE)}
    with Hostile(here.parent / "s", Node(entries=nodes)) as server:
        done = copy("get", "-r", f"{server.path}:/.", here, status=1)
        assert done.stderr == "gofer: get /d: a symbolic link of that name is in its place, and stays: --delete removes it\n"
        assert (here / "f").read_bytes() == (here / "dangling").read_bytes() == WHOLE and not (here / "f").is_symlink()
        copy("get", "-r", "--delete", f"{server.path}:/.", here)
    assert (here / "d/precious").read_bytes() == WHOLE


def test_a_directory_that_is_swapped_for_a_link_while_it_is_filled_leads_nowhere(here: Path, untouched: None) -> None:
    def swap() -> "list[int]":
        os.rename(here / "d", here / "moved")
        os.symlink("../out", here / "d")
        return []

    inner = Node(entries={b"precious": Node(WHOLE, fds=swap), b"sub": Node(entries={b"f": Node(WHOLE)})})
    with Hostile(here.parent / "s", Node(entries={b"d": inner})) as server:
        copy("get", "-r", f"{server.path}:/.", here)
    assert (here / "moved/precious").read_bytes() == WHOLE and (here / "moved/sub/f").read_bytes() == WHOLE


def test_a_size_that_is_not_reached_is_told_and_leaves_nothing(here: Path, untouched: None) -> None:
    sizes = [len(WHOLE) + 1, 10 * 1024**3, 2**63 - 1, 2**64 - 1]
    nodes = {b"liar%d" % size: Node(WHOLE, size=size) for size in sizes}
    with Hostile(here.parent / "s", Node(entries={**nodes, b"good": Node(WHOLE)})) as server:
        done = copy("get", "-r", f"{server.path}:/.", here, status=1)
    assert sorted(done.stderr.splitlines()) == sorted(f"gofer: get /liar{size}: {SHORT}" for size in sizes)
    assert os.listdir(here) == ["good"]


def test_no_more_is_taken_than_the_size_says_and_without_one_no_more_than_sense_does(here: Path, untouched: None) -> None:
    endless = Node()
    nodes = {b"short": Node(WHOLE, size=4), b"none": Node(WHOLE, size=0), b"endless": endless}
    with Hostile(here.parent / "s", Node(entries=nodes)) as server:
        copy("get", f"{server.path}:/short", f"{server.path}:/none", here)
        assert (here / "short").read_bytes() == WHOLE[:4] and (here / "none").read_bytes() == WHOLE
        server.answers[Mid.PREAD] = lambda payload: _zeros(payload)
        done = copy("get", f"{server.path}:/endless", here, status=1)
    assert done.stderr == "gofer: get /endless: it has size 0, and no end\n"


def _zeros(payload: bytes) -> "tuple[bytes, list[int]]":
    _, _, count = struct.unpack_from("<QQI", payload)
    return struct.pack("<Q", count) + b"x" * count, []


def test_more_data_than_was_asked_for_ends_the_connection(here: Path, untouched: None) -> None:
    with Hostile(here.parent / "s", Node(entries={b"f": Node(WHOLE)})) as server:
        server.answers[Mid.PREAD] = lambda payload: (struct.pack("<Q", 100000) + bytes(100000), [])
        done = run("get", "-q", f"{server.path}:/f", str(here))
    fails_in_one_line(done, "does not speak LISAFS", "a PRead with more data than was asked for")
    assert os.listdir(here) == []


def _pipe() -> "list[int]":
    reader, writer = os.pipe()
    return [reader, writer]


def _of(path: str, flags: int) -> "Callable[[], list[int]]":
    return lambda: [os.open(path, flags)]


def _socket() -> "list[int]":
    return [socket.socket(socket.AF_UNIX).detach()]


def _file(flags: int) -> "Callable[[], list[int]]":
    def make() -> "list[int]":
        memory = os.memfd_create("x")
        os.write(memory, WHOLE)
        opened = os.open(f"/proc/self/fd/{memory}", flags)
        os.close(memory)
        return [opened]

    return make


ODD = {
    "a pipe": _pipe, "a device": _of("/dev/zero", os.O_RDWR), "a terminal": _of("/dev/ptmx", os.O_RDWR | os.O_NOCTTY),
    "a directory": _of("/", os.O_RDONLY), "a path": _of("/etc/passwd", os.O_PATH), "a socket": _socket,
    "an event": lambda: [os.pidfd_open(os.getpid())], "a file for writing": _file(os.O_WRONLY), "a file of proc": _of(
        "/proc/self/environ", os.O_RDONLY), "a file": _file(os.O_RDONLY), "many": lambda: [*_pipe(), *_pipe()],
}  # fmt: skip


def test_a_donated_fd_that_is_none_of_a_file_is_not_read(here: Path, untouched: None) -> None:
    nodes = {what.encode(): Node(WHOLE, fds=fds) for what, fds in ODD.items()}
    with Hostile(here.parent / "s", Node(entries=nodes)) as server:
        copy("get", "-r", f"{server.path}:/.", here)
        assert {path.name: path.read_bytes() for path in here.iterdir()} == dict.fromkeys(ODD, WHOLE)
        assert server.asked.count(Mid.PREAD) == len(ODD) - 1  # all but the one that is


def test_a_donated_fd_that_is_none_of_a_new_file_is_not_written(here: Path, untouched: None) -> None:
    full = _of(str(here.parent / "out/precious"), os.O_RDWR)
    fds = [full, *(fds for what, fds in ODD.items() if what != "a file")]
    for number in range(len(fds)):
        (here / f"{number}").write_bytes(WHOLE)
    made, wrote, new = iter(fds), [0], Node()

    def pwrite(payload: bytes) -> "tuple[bytes, list[int]]":
        wrote[0] += len(payload) - 20
        return struct.pack("<Q", len(payload) - 20), []

    with Hostile(here.parent / "s", Node(entries={})) as server:
        server.answers[Mid.OPENCREATEAT] = lambda _: (struct.pack("<Q144sQ", 1, new.statx(), 2), next(made)())
        server.answers[Mid.PWRITE] = pwrite
        server.answers[Mid.SETSTAT] = lambda _: (bytes(8), [])
        for mid in (Mid.FSYNC, Mid.RENAMEAT):
            server.answers[mid] = lambda _: (b"", [])
        copy("put", "-r", f"{here}/.", f"{server.path}:/")
    assert wrote == [len(WHOLE) * len(fds)]


def test_directories_in_each_other_without_an_end_are_told(here: Path, untouched: None) -> None:
    endless = Node(entries={})
    endless.entries[b"d"] = endless
    with Hostile(here.parent / "s", endless) as server:
        done = run("get", "-n", "-r", f"{server.path}:/.", str(here))
    assert done.returncode == 1 and done.stdout.count("\n") == 2000
    assert done.stderr.endswith(": more than 2000 directories in each other: they may have no end\n"), done.stderr[-200:]


def test_a_directory_without_an_end_takes_no_memory_and_can_be_interrupted(here: Path) -> None:
    root = Node(entries=lambda: iter(lambda: b"x", None))
    root.every = Node(b"data")
    with Hostile(here.parent / "s", root) as server:
        words = [*GOFER, "get", "-r", f"{server.path}:/.", str(here)]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: server.asked.count(Mid.GETDENTS64) > 30, "3000 names are listed")
        peak = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=CALM)[1]
    assert process.returncode == 130 and not said, said
    assert int(peak.split()[1]) < 64 << 10
    assert set(os.listdir(here)) <= {"x"} and not parts(here)


def test_what_would_give_rights_is_left_out_unless_the_server_is_trusted(here: Path, untouched: None) -> None:
    xattrs = {b"user.a": b"1", b"trusted.b": b"2", b"security.capability": bytes.fromhex("01000002" + "00" * 16), b"odd": b"3"}
    nodes = {b"set": Node(WHOLE, mode=stat.S_IFREG | 0o6755), b"x": Node(WHOLE, xattrs=xattrs)}
    with Hostile(here.parent / "s", Node(entries=nodes)) as server:
        done = run("get", "-r", f"{server.path}:/.", str(here))
        assert "gofer: 1 file is here without a set-user-id or set-group-id bit that the server has: --set-id" in done.stderr
        assert (here / "set").stat().st_mode & 0o7777 == 0o755
        assert os.listxattr(here / "x") == ["user.a"]
        subprocess.run(["rm", "-rf", str(here / "set"), str(here / "x")], check=True)
        copy("get", "-r", "--set-id", f"{server.path}:/.", here)
        assert (here / "set").stat().st_mode & 0o7777 == 0o6755
        assert sorted(os.listxattr(here / "x")) == ["security.capability", "trusted.b", "user.a"]


ENTRIES = [
    (Node(target=b"a\0b"), "the target of a symbolic link that none can have"),
    (Node(mode=stat.S_IFLNK | 0o777), "the target of a symbolic link that none can have"),
    (Node(target=b"x" * 5000), "File name too long"),
    (Node(mode=stat.S_IFSOCK | 0o777), "it is a socket: not copied"),
    (Node(mode=0o777), "it is a file of an unknown type: not copied"),
    (Node(WHOLE, mtime=(1, 10**9)), "a time that is none"),
    (Node(WHOLE, mtime=(1, (1 << 30) - 2)), "a time that is none"),
]


def test_an_entry_that_cannot_be_so_is_told_and_costs_no_other(here: Path, untouched: None) -> None:
    nodes = {b"%d" % number: node for number, (node, _) in enumerate(ENTRIES)}
    with Hostile(here.parent / "s", Node(entries={**nodes, b"good": Node(WHOLE)})) as server:
        done = copy("get", "-r", f"{server.path}:/.", here, status=1)
    told = [f"gofer: get /{number}: {words}" for number, (_, words) in enumerate(ENTRIES)]
    assert sorted(done.stderr.splitlines()) == told
    assert (here / "good").read_bytes() == WHOLE


def test_owners_and_times_at_the_ends_of_their_range_are_no_matter(here: Path, untouched: None) -> None:
    nodes = {
        b"%d %d" % (owner, seconds): Node(WHOLE, uid=owner, gid=owner, mtime=(seconds, 999_999_999))
        for owner in (0xFFFFFFFF, 0xFFFFFFFE)
        for seconds in (2**63 - 1, -(2**63))
    }
    with Hostile(here.parent / "s", Node(entries=nodes)) as server:
        copy("get", "-r", f"{server.path}:/.", here)
    assert sorted(path.stat().st_uid for path in here.iterdir()) == [0, 0, 0xFFFFFFFE, 0xFFFFFFFE]


@pytest.mark.parametrize(
    "mid, answer",
    [(Mid.WALK, b""), (Mid.OPENAT, b"\1"), (Mid.GETDENTS64, b"\xff" * 40), (Mid.PREAD, b"\1"), (Mid.PREAD, b"\xff" * 40),
     (Mid.FLISTXATTR, b"\xff" * 40)],
    ids=str,
)  # fmt: skip
def test_a_reply_that_is_none_is_one_line(here: Path, untouched: None, mid: Mid, answer: bytes) -> None:
    with Hostile(here.parent / "s", Node(entries={b"f": Node(WHOLE), b"d": Node(entries={})})) as server:
        server.answers[mid] = lambda _: (answer, [])
        done = run("get", "-q", "-r", f"{server.path}:/.", str(here))
    fails_in_one_line(done, "does not speak LISAFS")


def dirread(*told: "tuple[int, int, Node]", data: bytes = b"", number: int = -1, size: int = -1) -> bytes:
    heads = b"".join(struct.pack("<II", code, length) + node.statx() for code, length, node in told)
    size = len(heads) + len(data) if size < 0 else size
    return struct.pack("<II", len(told) if number < 0 else number, size) + heads + data


LONG = 65537
UNTOLD = 2**32 - 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"\1", dirread(), dirread((0, 4, Node(b"four")), (0, 4, Node(b"four")), data=b"fourfour"),
     dirread((0, 4, Node(b"four")), data=b"fou"), dirread((0, 4, Node(b"four")), data=b"fours"),
     dirread((0, 4, Node(b"four", size=5)), data=b"four"), dirread((0, 4, Node(b"four", entries={})), data=b"four"),
     dirread((0, 4, Node(target=b"four")), data=b"four"), dirread((0, LONG, Node(size=LONG)), data=bytes(LONG)),
     dirread((0, 4, Node(b"four")), data=b"four", number=2), dirread((0, 4, Node(b"four")), data=b"four", size=3),
     dirread((0, 4, Node(b"four")), data=b"four", number=2**32 - 1), dirread((5, 4, Node(b"four")), data=b"four"),
     dirread((0, UNTOLD, Node(b"four")), data=b"four"), struct.pack("<II", 1, 4) + b"four"],
    ids=range(16),
)  # fmt: skip
def test_contents_that_come_along_otherwise_than_they_may_end_the_connection(here: Path, untouched: None, answer: bytes) -> None:
    with Hostile(here.parent / "s", Node(entries={b"d": Node(entries={b"f": Node(WHOLE)})})) as server:
        server.answers[Mid.DIRREAD] = lambda _: (answer, [])
        done = run("get", "-q", "-r", f"{server.path}:/d", str(here))
    fails_in_one_line(done, "does not speak LISAFS")
    assert not [name for _, _, names in os.walk(here) for name in names]


@pytest.mark.parametrize("head, names", [(b"", b""), ((2, 4), b"\0\0a\0"), ((1, 2), b"\0a")], ids=str)
def test_a_list_of_names_that_is_none_ends_the_connection(
    here: Path, untouched: None, head: "tuple[int, ...]", names: bytes
) -> None:
    answer = struct.pack("<QQ144xII", 0, 0, *head) + names if head else b""
    with Hostile(here.parent / "s", Node(entries={b"d": Node(entries={b"f": Node(WHOLE)})})) as server:
        server.answers[Mid.DIRWALK] = lambda _: (answer, [])
        fails_in_one_line(run("get", "-q", "-r", f"{server.path}:/d", str(here)), "does not speak LISAFS")


def test_names_that_come_in_one_list_lead_nowhere(here: Path, untouched: None) -> None:
    names = [name for name in NAMES if b"\0" not in name] + [b"f"]
    with Hostile(here.parent / "s", Node(entries={b"d": Node(entries={b"f": Node(WHOLE)})})) as server:
        data = bytes(len(names)) + b"\0".join([*names, b""])
        server.answers[Mid.DIRWALK] = lambda _: (struct.pack("<QQ144xII", 0, 0, len(names), len(data)) + data, [])
        done = copy("get", "-r", f"{server.path}:/d", here, status=1)
    assert done.stderr.count(": a name that no file can have: not copied\n") == len(names) - 1 == done.stderr.count("\n")
    assert os.listdir(here / "d") == ["f"] and (here / "d/f").read_bytes() == WHOLE


@pytest.mark.parametrize("answer", [dirread((13, UNTOLD, Node())), dirread((0, UNTOLD, Node(size=7))), 1, 5, 95], ids=range(5))
def test_what_does_not_come_along_is_asked_for_by_itself(here: Path, untouched: None, answer: "bytes | int") -> None:
    with Hostile(here.parent / "s", Node(entries={b"d": Node(entries={b"f": Node(WHOLE)})})) as server:
        server.answers[Mid.DIRREAD] = answer if isinstance(answer, int) else lambda _: (answer, [])
        copy("get", "-r", f"{server.path}:/d", here)
    assert (here / "d/f").read_bytes() == WHOLE and Mid.PREAD in server.asked


def test_what_comes_along_is_not_asked_for_again(here: Path, untouched: None) -> None:
    node = Node(WHOLE, uid=7, gid=8, mode=stat.S_IFREG | 0o640)
    with Hostile(here.parent / "s", Node(entries={b"d": Node(entries={b"f": node})})) as server:
        server.answers[Mid.DIRREAD] = lambda _: (dirread((0, len(WHOLE), node), data=WHOLE), [])
        copy("get", "-r", f"{server.path}:/d", here)
    found = os.stat(here / "d/f")
    assert (here / "d/f").read_bytes() == WHOLE and Mid.DIRREAD in server.asked and Mid.PREAD not in server.asked
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns) == (0o640, 7, 8, 10**18 + 5)


def putting(here: Path, written: object, renamed: object) -> "subprocess.CompletedProcess[str]":
    """Of two small files to a new directory of a server that says this to DirWrite and DirRename."""
    for name in ("one", "two"):
        (here / name).write_bytes(WHOLE)
    made, path = Node(entries={}), here.parent / f"s{len(os.listdir(here.parent))}"
    with Hostile(path, Node(entries={})) as server:
        server.answers[Mid.MKDIRAT] = lambda _: (struct.pack("<Q", 1) + made.statx(), [])
        server.answers[Mid.SETSTAT] = lambda _: (bytes(8), [])
        server.answers[Mid.UNLINKAT] = lambda _: (b"", [])
        for mid, answer in ((Mid.DIRWRITE, written), (Mid.DIRRENAME, renamed)):
            server.answers[mid] = answer if isinstance(answer, int) else lambda _, answer=answer: (answer, [])
        return run("put", "-q", "-r", str(here), f"{server.path}:/d")


def dones(*told: "tuple[int, ...]") -> bytes:
    data = b"".join(struct.pack(f"<{len(each)}I", *each) for each in told)
    return struct.pack("<II", len(told), len(data)) + data


FINE = dones((0, 0, 0), (0, 0, 0)), dones((0,), (0,))


def test_what_becomes_of_each_file_is_told(here: Path, untouched: None) -> None:
    assert putting(here, *FINE).returncode == 0
    done = putting(here, dones((28, 0, 0), (0, 0x60, 22)), dones((13,)))
    lines = sorted(line.rpartition("/here/")[2] for line in done.stderr.splitlines())
    assert done.returncode == 1 and {line[:3] for line in lines} == {"one", "two"}, done.stderr
    assert sorted(line[3:].partition(" (")[0].partition(";")[0] for line in lines) == [
        ": Invalid argument", ": No space left on device", ": Permission denied",
    ]  # fmt: skip
    done = putting(here, 13, FINE[1])
    assert done.returncode == 1 and done.stderr.count("Permission denied") == 2 == done.stderr.count("\n")


@pytest.mark.parametrize(
    "written, renamed",
    [(b"", FINE[1]), (dones((0, 0, 0)), FINE[1]), (FINE[0] + b"x", FINE[1]), (FINE[0][:-1], FINE[1]), (FINE[0], b""),
     (FINE[0], dones((0,))), (FINE[0], dones((0,), (0,), (0,)))],
    ids=range(7),
)  # fmt: skip
def test_what_is_told_of_other_files_than_were_sent_ends_the_connection(
    here: Path, untouched: None, written: bytes, renamed: bytes
) -> None:
    fails_in_one_line(putting(here, written, renamed), "does not speak LISAFS")


def test_every_message_may_fail_and_costs_no_more_than_its_entry(here: Path, untouched: None) -> None:
    with Hostile(here.parent / "s", Node(entries={b"f": Node(WHOLE), b"l": Node(target=b"t")})) as server:
        for mid in (Mid.WALK, Mid.OPENAT, Mid.GETDENTS64, Mid.PREAD, Mid.FLISTXATTR, Mid.READLINKAT):
            server.answers = {mid: 5}
            done = copy("get", "-r", f"{server.path}:/.", here, status=1)
            assert all(line.endswith("Input/output error") for line in done.stderr.splitlines()), (mid, done.stderr)


def test_a_server_of_one_file_needs_a_name_for_the_copy(here: Path, untouched: None) -> None:
    with Hostile(here.parent / "s", Node(WHOLE)) as server:
        done = copy("get", server.path, here, status=1)
        assert done.stderr == "gofer: get /: it is all that this server has: give its copy a name\n"
        copy("get", server.path, here / "named")
    assert (here / "named").read_bytes() == WHOLE


def test_verify_tells_of_a_server_that_says_one_thing_and_then_another(here: Path, untouched: None) -> None:
    answers = iter([WHOLE, WHOLE[::-1]])

    def pread(_: bytes) -> "tuple[bytes, list[int]]":
        data = next(answers)
        return struct.pack("<Q", len(data)) + data, []

    with Hostile(here.parent / "s", Node(entries={b"f": Node(WHOLE)})) as server:
        server.answers[Mid.PREAD] = pread
        done = copy("get", "--verify", f"{server.path}:/f", here, status=1)
    assert done.stderr.startswith("gofer: get /f: the two sides differ after the copy") and os.listdir(here) == []


def test_an_xattr_that_the_server_does_not_take_is_told_and_the_file_is_there(start: Start, spot: Path) -> None:
    (spot / "to").mkdir()
    (spot / "f").write_bytes(WHOLE)
    os.setxattr(spot / "f", "trusted.a", b"1")
    server = start(tree=spot / "to")
    done = copy("put", spot / "f", f"{server.path}:/", status=1)
    assert done.stderr.startswith(f"gofer: put {spot}/f: xattr trusted.a: Operation not supported; ")
    assert (spot / "to/f").read_bytes() == WHOLE


def test_a_listing_is_given_up_where_no_directory_ends(spot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_MOST_NAMES", 1000)
    root = Node(entries=lambda: iter(lambda: b"x", None))
    with Hostile(spot / "s", root) as server, Client.connect(str(server.path), timeout=PATIENCE) as client:
        tree = remote.RemoteTree(client)
        with pytest.raises(OSError, match="a directory without an end"):
            list(tree.names(tree.root.key))


def test_what_has_become_something_else_meanwhile_is_neither_opened_for_long_nor_changed(spot: Path) -> None:
    tree, directory = LocalTree(), Fd(os.open(spot, os.O_RDONLY))
    (spot / "f").write_text("x")
    (node,) = tree.look(directory, [b"f"])
    assert isinstance(node, sides.Node)
    (spot / "f").rename(spot / "g")
    os.mkfifo(spot / "f")
    (opened,) = tree.open(directory, [node])()
    assert isinstance(opened, OSError) and opened.strerror == "it was replaced meanwhile"
    with pytest.raises(OSError, match="it was replaced meanwhile"):
        tree.settle_node(directory, node, node.stat, None)
