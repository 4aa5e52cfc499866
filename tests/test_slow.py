"""--slow: a request that hangs in a system call is warned of while it hangs, once; what only waits, or works, is not."""

import re
import struct
import time
from pathlib import Path

import pytest
from conftest import Start
from faulty import LOOKUP, faulty
from hosts import TRANSPORTS, wait_until

from gofer.conform.peer import Mid

WARNING = re.compile(r"warning: client (\d+): (\w+) has been in one system call for (\d+) s")


@pytest.mark.parametrize("way", TRANSPORTS)
def test_a_request_that_hangs_is_warned_of_once_while_it_hangs(way: str, start: Start) -> None:
    walk = struct.pack("<QHH", 1, 1, 4) + b"none"
    with faulty() as broken:
        server = start("--slow=0.3", tree=broken.path)
        with server.peer(way) as peer, server.peer() as idle:
            broken.hang(LOOKUP)
            if way == "socket":
                peer.transport.send(struct.pack("<IHH", len(walk), Mid.WALK, 0) + walk)  # type: ignore[union-attr]
            else:
                peer.transport.hand_over(struct.pack("<HBB", Mid.WALK, 0, 0) + walk)  # type: ignore[union-attr]
            wait_until(lambda: WARNING.search(server.said()), "it is warned of")
            time.sleep(1)  # more than three times as long: long enough to be warned of again, or of who waits
            assert [match[2] for match in WARNING.finditer(server.said())] == ["Walk"]
            idle.fstat(idle.root)
            broken.vanish()
            assert peer.transport.receive().mid == Mid.ERROR  # type: ignore[union-attr]


def test_who_waits_for_its_next_request_is_not_warned_of_and_what_it_closes_is_closed_at_once(start: Start) -> None:
    server = start("--slow=0.05")
    (server.tree / "file").touch()
    with server.peer("channel") as peer, server.peer():
        for _ in range(40):
            file = peer.walk_to("file")
            time.sleep(0.02)
            peer.close(file)
            assert server.holds(server.tree / "file") == 0, "to look at a thread is to hold nothing of its files"
    assert not WARNING.search(server.said()), server.said()


def test_nobody_looks_where_nobody_is_connected_or_where_it_is_off(start: Start) -> None:
    server = start("--slow=3600")
    tasks = Path(f"/proc/{server.pid}/task")
    with server.peer():
        wait_until(lambda: len([*tasks.iterdir()]) == server.threads + 2, "the client's thread, and the one that looks")
    wait_until(lambda: len([*tasks.iterdir()]) == server.threads, "it ends with the last client, and not an hour later")
    off = start("--slow=0")
    with off.peer() as peer:
        peer.fstat(peer.root)
        assert len([*Path(f"/proc/{off.pid}/task").iterdir()]) == off.threads + 1
