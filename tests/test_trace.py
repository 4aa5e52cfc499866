"""--trace: a line for each request, which says what was sent, which nobody can forge, and for which nobody waits."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start
from hosts import CHECKOUT, TRANSPORTS, Server, children, ended, fails, open_fds, over_socket_of, run, wait_until
from test_wire import NAMES, notation
from tracelines import Line, parse, says

from gofer import wire
from gofer.conform.corpus import recorded
from gofer.conform.peer import Mid, over_channel
from gofer.watch import lines, messages

ALL = ("--host-uds=all", "--kernel-files=none")


def finished(server: Server) -> str:
    """Stop the server; all that it has said."""
    server.process.send_signal(signal.SIGTERM)
    assert server.wait() == 0, server.said()
    server.check_log()
    return server.said()


def traced(server: Server) -> list[Line]:
    """Stop the server; the lines of its requests."""
    return [line for line in map(parse, finished(server).splitlines()) if line]


def connected(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    wait_until(lambda: sock.connect_ex(str(path)) == 0, "it listens")
    return sock


def watcher(server: Server) -> int:
    (found,) = [
        child for child in children(server.process.pid) if Path(f"/proc/{child}/comm").read_text() == "gofer-watch\n"
    ]
    return found


@pytest.mark.parametrize("way", TRANSPORTS)
def test_every_message_is_a_line_that_says_what_was_sent(way: str, start: Start) -> None:
    server = start("--trace", *ALL)
    with server.peer(way) as peer:
        sent = recorded(peer)
    found = [line for line in traced(server) if line.transport == (way == "channel")]
    found = found[len(found) - len(sent) :]
    names = {int(mid): name for mid, name in NAMES.items()}
    assert [line.message for line in found] == [names[mid] for mid, _ in sent]
    for line, (_, payload) in zip(found, sent):
        assert says(line, payload), f"{line} is not {payload.hex()}"


def test_the_table_of_messages_says_what_the_notation_says() -> None:
    """What a message is made of stands once, in wire.py."""
    tails = ("str", "str*", "FDID*", "u16*", "flags[4]", "Inode...", "Statx...", "Dirent...", "DirStatEntry...")
    for mid, name in NAMES.items():
        for record, tail, tokens in zip(messages.SHAPES[mid][::2], messages.SHAPES[mid][1::2], notation()[name]):
            wanted = [token for token in tokens if token in tails or token.startswith("data[")]
            if "max_message_size[4]" in tokens or not record:
                wanted = [token for token in wanted if token != "flags[4]"] if not tail.endswith("flags[4]") else wanted
            words = tail.replace("value", "str").replace("data", next(iter(wanted[-1:]), "")).split()
            fixed = getattr(wire, record).fields if record else ()
            assert words == [word for word in wanted if word.partition("[")[0] not in fixed], name
            assert all(field in " ".join(tokens) for field in fixed if field != "n"), name


def test_what_a_reply_says_is_told(start: Start) -> None:
    server = start("--trace")
    (server.tree / "dir").mkdir()
    (server.tree / "dir/file").write_bytes(b"12345")
    with server.peer("channel") as peer:
        _, nodes = peer.walk(peer.root, "dir", "file")
        opened = peer.openat(nodes[1].fd)
        peer.pread(opened.fd, 0, 100)
        with fails(2):
            peer.unlinkat(peer.root, "none")
        peer.walk(peer.root, "dir", "none")
        peer.fstat(nodes[1].fd)
    said = {(line.message, line.answer): line.paths for line in traced(server)}
    assert said["Walk", "2 inodes [2, 3]"] == [b"/dir/file"]
    assert said["OpenAt", f"open_fd={opened.fd}, 1 fd donated"] == [b"/dir/file"]
    assert said["PRead", "num_bytes=5"] == [b"/dir/file"]
    assert said["UnlinkAt", "ENOENT"] == [b"/none"]
    assert said["Walk", "1 inode [5], missing"] == [b"/dir/none"]
    assert said["FStat", "{file 0644 5 bytes}"] == [b"/dir/file"]


NASTY = (
    b'a\n[1] 00:00:00.000000 Close([1]) = 0 <1 us> "etc"', b'"quoted"', b"\x1b[2J\x07", bytes(range(1, 47)), b"\xff\xfe",
    "\u202eevil".encode(), b"back\\slash", b"[1]", b"= 0 <1 us>",
)  # fmt: skip


def test_a_client_can_name_a_file_as_it_likes_and_forges_no_line(start: Start) -> None:
    server = start("--trace")
    with server.peer() as peer:
        for name in NASTY:
            peer.close(peer.opencreateat(peer.root, name).fd)
            peer.symlinkat(peer.root, b"l" + name[:100], name)
            peer.walk(peer.root, name)
    raw = finished(server).encode()
    found = [line for line in map(parse, raw.decode().splitlines()) if line]
    assert raw.isascii() and set(raw) <= {10, *range(32, 127)}
    for name in NASTY:
        made = [line for line in found if line.message == "OpenCreateAt" and line.rest == [name]]
        assert len(made) == 1 and made[0].paths == [b"/" + name]
        assert [line.rest for line in found if line.message == "SymlinkAt" and line.rest[1] == name] == [
            [b"l" + name[:100], name]
        ]
    assert [line.message for line in found].count("Close") == len(NASTY)


def test_what_is_no_message_and_what_lies_about_its_length_is_a_line_too(start: Start) -> None:
    server = start("--trace")
    with server.peer() as peer:
        assert peer.transport.exchange(500, b"what").mid == Mid.ERROR
        assert peer.transport.exchange(Mid.WALK, b"\1\0\0\0\0\0\0\0\xff\xff").mid == Mid.ERROR
        assert peer.transport.exchange(Mid.SETSTAT, b"short").mid == Mid.ERROR
    said = finished(server)
    assert re.search(r"\] [\d:.]+ message 500\(<4 bytes>\) = EOPNOTSUPP", said)
    assert re.search(r"Walk\(dir_fd=1, \.\.\.\) = EIO", said)
    assert re.search(r"SetStat\(\.\.\.\) = EIO", said)


def test_a_filter_shows_what_it_names_and_no_more(start: Start) -> None:
    server = start("--trace=Walk,FStat,path=/d")
    (server.tree / "d").mkdir()
    (server.tree / "dd").mkdir()
    with server.peer() as peer:
        inside = peer.walk_to("d")
        peer.fstat(inside)
        peer.fstat(peer.walk_to("dd"))
        peer.fstatfs(inside)
    assert [(line.message, line.paths) for line in traced(server)] == [("Walk", [b"/d"]), ("FStat", [b"/d"])]


@pytest.mark.parametrize("word", ["Wolk", "slower=fast", "conn=x", "path="])
def test_a_filter_that_is_none_is_told(word: str, spot: Path) -> None:
    done = run("serve", str(spot), f"--trace={word}")
    assert done.returncode == 2 and "messages by name" in done.stderr + "messages by name" * ("slower" in word)
    assert word in done.stderr


def test_filters() -> None:
    wanted = lines.Filter(r"walk, OpenAt,errors,slower=1.5ms,conn=7,path=/a\,b")
    assert wanted.mids == {wire.WALK, wire.OPENAT} and wanted.errors
    assert (wanted.slower, wanted.conns, wanted.paths) == (1.5e6, {7}, [b"/a,b"])


def test_each_connection_has_a_number_of_its_own_whichever_worker_has_it(start: Start) -> None:
    server = start("--trace", "--workers=3")
    peers = [server.peer("channel") for _ in range(6)]
    for peer in peers:
        peer.__enter__().fstat(1)
    for peer in peers:
        peer.__exit__(None, None, None)
    found = [line for line in traced(server) if line.message == "FStat"]
    assert len({line.conn for line in found}) == 6 and all(line.transport == 1 for line in found)


def test_nobody_waits_for_who_reads_the_lines_and_what_is_lost_is_told(spot: Path) -> None:
    reader, writer = os.pipe()
    (spot / "tree").mkdir()
    argv = [str(CHECKOUT), "serve", str(spot / "tree"), "--quiet", "--workers=1", "--trace", "--socket", str(spot / "s")]
    process = subprocess.Popen([sys.executable, *argv], stderr=writer, stdin=subprocess.DEVNULL)
    os.close(writer)
    try:
        with over_socket_of(lambda: connected(spot / "s")) as base:
            peer = over_channel(base)
            for _ in range(12000):  # a pipe has 64 KiB, a ring 1 MiB
                peer.fstat(peer.root)
            peer.disconnect()
        read = b""
        while b" lost " not in read:
            read += os.read(reader, 65536)
        process.send_signal(signal.SIGTERM)
        while more := os.read(reader, 65536):
            read += more
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()
        os.close(reader)
    lost = sum(int(number) for number in re.findall(rb"\] [\d:.]+ lost (\d+) record", read))
    told = len(re.findall(rb"FStat\(fd=1\) = ", read))
    assert 0 < told < 12000 and told + lost == 12000, (told, lost)


def test_the_watcher_holds_nothing_of_a_clients_and_ends_with_the_server(start: Start) -> None:
    server = start("--trace")
    process = watcher(server)
    with server.peer("channel"):
        assert not any("socket:" in link or "memfd" in link for link in open_fds(process))
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 1 << 1 | 1 << 19 and int(fields["NoNewPrivs"]) == 1
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    wait_until(lambda: ended(process), "it ends as well")


def test_a_killed_watcher_stops_nothing(start: Start) -> None:
    server = start("--trace")
    os.kill(watcher(server), signal.SIGKILL)
    with server.peer("channel") as peer:
        for _ in range(9000):
            peer.fstat(peer.root)
    server.stop()


def test_nothing_of_it_is_imported_where_no_option_asks(spot: Path) -> None:
    argv = ["-X", "importtime", str(CHECKOUT), "serve", str(spot), "--quiet", "--socket", str(spot / "s"), "--", "true"]
    done = subprocess.run([sys.executable, *argv], capture_output=True, text=True)
    assert done.returncode == 0 and "gofer.server.loop" in done.stderr and "gofer.watch" not in done.stderr
