"""Several workers serve as one does: they share the clients, are confined alike, and live and die together."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import (
    GOFER,
    PATIENCE,
    TRANSPORTS,
    Server,
    children,
    connects,
    empty,
    ended,
    fails,
    open_fds,
    run,
    wait_until,
)

from gofer.conform.corpus import session
from gofer.conform.peer import Peer, over_socket

JAILS = ("auto", "off")


def crew(server: Server) -> list[int]:
    """The workers' pids, the first one first."""
    return [server.pid, *children(server.pid)]


def connections(pid: int) -> int:
    """A worker's connected sockets: all but the one it listens on."""
    return sum(link.startswith("socket:") for link in open_fds(pid)) - 1


@contextlib.contextmanager
def clients(server: Server, count: int) -> Iterator[list[Peer]]:
    """Mounted clients, all connected at once."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.peer()) for _ in range(count)]


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("count", [2, 3, 7])
def test_connections_are_spread(start: Start, count: int) -> None:
    server = start("--workers", "3")
    workers = crew(server)
    wait_until(lambda: not any(map(connections, workers)), "nobody is connected any more")
    with clients(server, count):
        assert len(workers) == 3
        assert sorted(map(connections, workers)) == sorted(len(range(number, count, 3)) for number in range(3))
    wait_until(lambda: not any(map(connections, workers)), "each worker sees that its clients are gone")
    with clients(server, 3):
        assert [*map(connections, workers)] == [1, 1, 1]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("jail", JAILS)
def test_every_worker_serves_every_message(start: Start, transport: str, jail: str) -> None:
    server = start("--workers", "3", "--jail", jail, "--host-uds", "all", "--xattrs", "all")
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(server.peer(transport)) for _ in range(3)]
        for peer in peers:
            session(peer)
            empty(server.tree)


def test_clients_of_different_workers_see_the_same_files(start: Start) -> None:
    server = start("--workers", "2")
    with clients(server, 2) as (one, two):
        fd = one.opencreateat(one.root, "shared").fd
        one.pwrite(fd, 0, b"hello")
        assert two.pread(two.openat(two.walk_to("shared")).fd, 0, 10) == b"hello"
        with fails(errno.EBADF):
            two.pread(fd + 10, 0, 1)


def test_all_workers_are_confined_alike(start: Start) -> None:
    server = start("--workers", "3", "--fd-limit", "500", extra_groups=[7, 8])
    (server.tree / "here").touch()
    first, *others = crew(server)
    for kind in ("net", "ipc", "uts", "pid", "user"):
        assert len({os.readlink(f"/proc/{pid}/ns/{kind}") for pid in (first, *others)}) == 1, kind
    assert len({os.readlink(f"/proc/{pid}/ns/mnt") for pid in (first, *others)}) == 3
    same = ("Seccomp", "NoNewPrivs", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")

    def held(pid: int) -> dict[str, str]:
        found = status(pid)
        return {name: found[name] for name in same}

    with clients(server, 3) as peers:  # one of each worker: it is confined before it serves
        assert [peer.fstat(peer.root).ino for peer in peers] == [os.stat(server.tree).st_ino] * 3
        wait_until(lambda: all(held(pid) == held(first) for pid in others), lambda: [held(pid) for pid in crew(server)])
    assert held(first)["Seccomp"] == "2"
    for pid in others:
        assert Path(f"/proc/{pid}/limits").read_text() == Path(f"/proc/{first}/limits").read_text()
        assert os.listdir(f"/proc/{pid}/root") == ["here"]
        assert len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) == 1
    assert server.said().count("jail:") == 1


def test_the_tables_of_fds_are_large_before_there_are_threads(start: Start) -> None:
    """The kernel has whoever opens the file for which one grows wait some 10 ms, where there are threads."""
    server = start("--workers", "2", "--fd-limit", "3000")
    with clients(server, 2) as peers:  # one of each worker
        for peer in peers:
            peer.fstat(peer.root)
        assert [int(status(pid)["FDSize"]) >= 3000 for pid in crew(server)] == [True, True]


@pytest.mark.parametrize("first_to_go", [0, 1])
def test_with_inherited_sockets_the_server_lives_until_every_worker_is_done(spot: Path, first_to_go: int) -> None:
    pairs = [socket.socketpair() for _ in range(2)]
    words = [word for _, theirs in pairs for word in ("--fd", str(theirs.fileno()))]
    passed = [theirs.fileno() for _, theirs in pairs]
    server = subprocess.Popen([*GOFER, "serve", str(spot), "--quiet", "--workers", "2", *words], pass_fds=passed)
    for _, theirs in pairs:
        theirs.close()
    peers = [over_socket(ours) for ours, _ in pairs]
    peers.pop(first_to_go).disconnect()
    time.sleep(0.1)
    assert peers[0].fstat(peers[0].root).ino == os.stat(spot).st_ino
    assert server.poll() is None
    peers[0].disconnect()
    assert server.wait(PATIENCE) == 0


def test_there_are_no_more_workers_than_clients_there_may_be(spot: Path, start: Start) -> None:
    assert len(crew(start("--workers", "9", "--max-connections", "2"))) == 2


def test_the_limit_of_connections_is_that_of_all_workers(start: Start) -> None:
    server = start("--workers", "3", "--max-connections", "4")
    wait_until(lambda: not any(map(connections, crew(server))), "nobody is connected any more")
    with clients(server, 3) as peers:
        with server.peer() as fourth:
            fourth.fstat(fourth.root)
            with server.connect() as fifth:
                assert fifth.recv(1) == b""
            assert [peer.fstat(peer.root).ino for peer in peers]
        wait_until(lambda: sum(map(connections, crew(server))) == 3, "the place is free again")
        with server.peer() as again:
            again.fstat(again.root)
    assert server.said().count("4 are open already (--max-connections)") == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_a_worker_that_is_held_up_keeps_no_newcomer_waiting(start: Start, victim: int) -> None:
    server = start("--workers", "2")
    stopped = crew(server)[victim]
    os.kill(stopped, signal.SIGSTOP)
    try:
        with clients(server, 3) as peers:
            assert [peer.fstat(peer.root).ino for peer in peers] == [os.stat(server.tree).st_ino] * 3
    finally:
        os.kill(stopped, signal.SIGCONT)


@pytest.mark.parametrize("jail", JAILS)
def test_when_one_worker_dies_all_do_and_it_is_told(start: Start, jail: str) -> None:
    server = start("--workers", "3", "--jail", jail)
    workers = crew(server)
    with clients(server, 3):
        os.kill(workers[2], signal.SIGKILL)
        assert server.wait() == 1
    assert "gofer: worker 2 was killed by signal 9\n" in server.said()
    wait_until(lambda: all(map(ended, workers)), "the workers end")
    assert not server.path.exists()


@pytest.mark.parametrize("jail", JAILS)
def test_the_others_die_with_the_first(start: Start, jail: str) -> None:
    server = start("--workers", "3", "--jail", jail)
    workers = crew(server)
    with clients(server, 3):
        os.kill(workers[0], signal.SIGKILL)
        assert server.wait() == -signal.SIGKILL
        wait_until(lambda: all(map(ended, workers)), "the workers end")


@pytest.mark.parametrize("jail", JAILS)
def test_a_worker_that_has_been_somebody_else_still_ends_with_the_first(start: Start, jail: str) -> None:
    """A change of the thread's user makes the kernel forget PR_SET_PDEATHSIG: the hang-up of the lifeline takes its place."""
    server = start("--workers", "2", "--host-uds=open", "--jail", jail)
    workers = crew(server)
    with socket.socket(socket.AF_UNIX) as host, clients(server, 2) as peers:
        host.bind(str(server.tree / "sock"))
        host.listen()
        os.chmod(server.tree / "sock", 0o777)
        for peer in peers:
            for fd in peer.disown(peer.connectwithcreds(peer.walk_to("sock"), 5, 5)):
                os.close(fd)
        os.kill(workers[0], signal.SIGKILL)
        wait_until(lambda: all(map(ended, workers)), "the workers end")
    server.wait()
    os.unlink(server.tree / "sock")


@pytest.mark.parametrize("jail", JAILS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_all_workers_in_order(start: Start, jail: str, number: int) -> None:
    server = start("--workers", "3", "--jail", jail, start_new_session=True)
    workers = crew(server)
    replies = [0] * 3

    def load(peer: Peer, at: int) -> None:
        with contextlib.suppress(ConnectionError, EOFError, OSError):
            while True:
                peer.fstat(peer.root)
                replies[at] += 1

    with clients(server, 3) as peers:
        threads = [threading.Thread(target=load, args=(peer, at)) for at, peer in enumerate(peers)]
        for thread in threads:
            thread.start()
        wait_until(lambda: min(replies) > 10, "all are served")
        # As a terminal does: the signal goes to the whole group.
        os.killpg(server.process.pid, number) if number == signal.SIGINT else server.process.send_signal(number)
        assert server.wait() == 0
        for thread in threads:
            thread.join()
    wait_until(lambda: all(map(ended, workers)), "the workers end")
    assert not server.path.exists() and not connects(server.path)
    server.check_log()


def test_clients_that_come_and_go_leave_nothing_in_any_worker(start: Start) -> None:
    server = start("--workers", "2")
    workers = crew(server)

    def held() -> list[tuple[int, int]]:
        return [(len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))) for pid in workers]

    with clients(server, 4):
        pass
    wait_until(lambda: not any(map(connections, workers)), "they are gone")
    wait_until(lambda: all(tasks == 1 for _, tasks in held()), "whoever looks for slow requests has seen it")
    before = held()
    for _ in range(20):
        with clients(server, 4), server.peer("channel") as peer:
            peer.fstat(peer.root)
    wait_until(lambda: held() == before, lambda: f"all is closed: {before} before, now {held()}")


@pytest.mark.parametrize("number", ["0", "-1", "x"])
def test_a_number_of_workers_that_cannot_be_is_wrong_usage(spot: Path, number: str) -> None:
    done = run("serve", str(spot), f"--workers={number}")
    assert done.returncode == 2 and "--workers" in done.stderr


def test_one_is_enough_where_there_is_one_cpu(spot: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        done = run("serve", str(spot), "--jail=off", "--", "sh", "-c", "cat /proc/$PPID/task/$PPID/children | wc -w")
    finally:
        os.sched_setaffinity(0, before)
    assert (done.returncode, done.stdout.strip()) == (0, "1")  # the command itself
