"""What our server's Mount tells; Walk, WalkStat and FStat are in gofer/conform/cases/walk.py."""

import errno
from pathlib import Path

import pytest
from hosts import Server, fails
from looks import assert_stat_is

from gofer.conform.codec import OWN, Mid
from gofer.conform.peer import Peer


def test_mount_tells_the_root_the_largest_message_and_every_message_there_is(peer: Peer, tree: Path) -> None:
    mounted = peer.mount()
    assert_stat_is(mounted.root.stat, tree)
    assert mounted.max_message_size == 2 * 1024 * 1024 - 4096
    unoffered = (Mid.ERROR, Mid.FLUSH, *OWN)  # none; which would only cost a call; which are ours alone
    assert mounted.supported == [mid for mid in Mid if mid not in unoffered]
    assert mounted.donated == []


def test_fd_ids_count_from_one(server: Server) -> None:
    with server.peer() as peer:
        assert peer.root == 1
        assert peer.mount().root.fd == 2


@pytest.mark.parametrize(("call", "names"), [(Peer.walk, 13800), (Peer.walkstat, 14600)])
def test_a_walk_whose_reply_could_be_too_large_is_refused_before_it_starts(peer: Peer, call: object, names: int) -> None:
    with fails(errno.EIO):
        call(peer, peer.root, *["d"] * names)  # type: ignore[operator]
