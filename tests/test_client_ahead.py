"""Requests sent ahead of their answers."""

import os
import socket
import struct
import threading
from pathlib import Path

import pytest
from hosts import PATIENCE, Server
from test_client import BOTH, MOUNTED, frame

from gofer import wire
from gofer.client.ahead import many
from gofer.client.client import Client
from gofer.client.transport import HungUp
from gofer.conform.codec import Mid


def walk(fd: int, name: bytes) -> tuple[int, bytes]:
    return wire.WALK, wire.FDID.bytes(fd) + struct.pack("<HH", 1, len(name)) + name


@BOTH
def test_answers_come_in_the_order_of_their_questions_each_with_its_own_fds(server: Server, channel: bool) -> None:
    names = [b"%d" % i for i in range(50)]
    for name in names:
        (server.tree / name.decode()).write_bytes(name * 3)
    with Client.connect(str(server.path), channel, PATIENCE) as client:
        outcomes = list(many(client, [walk(client.root.fd, name) for name in names]))
        controls = [wire.Inode.read(found[0], 3)[0] for found in outcomes if not isinstance(found, OSError)]
        assert len(controls) == 50
        for name, outcome in zip(names, many(client, [(wire.OPENAT, wire.OpenAtReq.bytes(fd, 0)) for fd in controls])):
            assert not isinstance(outcome, OSError)
            _, (host,) = outcome
            assert os.pread(host, 100, 0) == name * 3
            os.close(host)


@BOTH
def test_an_error_is_the_outcome_of_its_question_alone(server: Server, channel: bool) -> None:
    with Client.connect(str(server.path), channel, PATIENCE) as client:
        root = client.root.fd
        first, second, third = many(client, [walk(root, b"a/b"), walk(root, b"none"), walk(1 << 40, b"x")])
        assert isinstance(first, OSError) and first.errno == 22
        assert second == (b"\1\0\0", [])  # WALK_MISSING
        assert isinstance(third, OSError) and third.errno == 9
        client.fstat(root)


def test_who_takes_no_more_answers_leaves_none_to_the_next_question_and_no_fds(server: Server) -> None:
    (server.tree / "file").write_bytes(b"x")
    with Client.connect(str(server.path), timeout=PATIENCE) as client:
        node = client.lookup("file")
        answers = many(client, [(wire.OPENAT, wire.OpenAtReq.bytes(node.fd, 0))] * 16)
        outcome = next(answers)
        assert not isinstance(outcome, OSError)
        os.close(outcome[1][0])
        answers.close()  # type: ignore[attr-defined]
        assert client.fstat(node.fd).size == 1


def test_answers_that_come_in_pieces_or_all_at_once_are_told_apart(spot: Path) -> None:
    """Each fd belongs to the message that was sent with it, wherever the reads end."""
    ours, theirs = socket.socketpair()
    files = [os.open(spot / str(i), os.O_RDWR | os.O_CREAT) for i in range(3)]
    for fd in files:
        os.write(fd, os.fsencode(os.readlink(f"/proc/self/fd/{fd}")))
    opened = [frame(Mid.OPENAT, struct.pack("<Q", i)) for i in range(3)]

    def serve() -> None:
        theirs.sendall(MOUNTED)
        theirs.sendall(frame(Mid.FSTAT, bytes(144)))  # without fds: read together with the next
        socket.send_fds(theirs, [opened[0]], files[:1])
        socket.send_fds(theirs, [opened[1][:3]], files[1:2])
        theirs.sendall(opened[1][3:9])
        theirs.sendall(opened[1][9:] + frame(Mid.FSTAT, bytes(144)))
        socket.send_fds(theirs, [opened[2]], files[2:3])

    thread = threading.Thread(target=serve)
    thread.start()
    with theirs, Client(ours, timeout=PATIENCE) as client:
        stat, opens = (wire.FSTAT, wire.FDID.bytes(1)), (wire.OPENAT, wire.OpenAtReq.bytes(1, 0))
        outcomes = [found for found in many(client, [stat, opens, opens, stat, opens]) if not isinstance(found, OSError)]
        assert [len(fds) for _, fds in outcomes] == [0, 1, 1, 0, 1]
        fds = [fd for _, found in outcomes for fd in found]
        assert [os.path.basename(os.pread(fd, 99, 0)) for fd in fds] == [b"0", b"1", b"2"]
    thread.join(PATIENCE)
    for fd in files + fds:
        os.close(fd)


def test_a_server_that_ends_among_the_answers_is_lost(spot: Path) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(MOUNTED + frame(Mid.FSTAT, bytes(144)))
    theirs.shutdown(socket.SHUT_WR)
    with theirs, Client(ours, timeout=PATIENCE) as client:
        answers = many(client, [(wire.FSTAT, wire.FDID.bytes(1))] * 3)
        next(answers)
        with pytest.raises(HungUp):
            next(answers)
        assert isinstance(client.lost, HungUp)
        with pytest.raises(HungUp):
            list(many(client, [(wire.FSTAT, wire.FDID.bytes(1))]))
        with pytest.raises(HungUp):
            client.fstat(1)
