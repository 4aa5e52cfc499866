"""The stand-in for the gofer of a runsc of 2021-09 to 2022-01, started as that runsc/container/container.go starts it."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hosts import fails
from runsc import Started, bind, directory, spec_of, starting

from gofer.conform.peer2021 import Peer2021
from gofer.conform.transport import SocketTransport
from gofer.runsc.check import _cannot_speak

Start = Callable[..., Started]
LISAFS = ["--lisafs=true"]  # only what is not the default is passed


def unmounted(g: Started, number: int) -> Peer2021:
    """A client on the io-fd of that number."""
    sock = g._ends[number]
    assert sock, "in use already"
    g._ends[number] = None
    g._peers.append(Peer2021(SocketTransport(sock)))
    peer = g._peers[-1]
    assert isinstance(peer, Peer2021)
    return peer


@pytest.fixture
def gofer(spot: Path) -> Iterator[Start]:
    with starting(spot) as start:
        yield start


def test_a_container_has_its_root_and_its_mounts_by_their_names(gofer: Start, spot: Path) -> None:
    source = directory(spot / "s", inside="x")
    (spot / "rootfs/real").mkdir(parents=True)
    os.symlink("real", spot / "rootfs/link")
    g = gofer(spec_of(bind("/link/m", source)), io=2, flags=LISAFS)
    assert g.destinations() == ["/real/m"]
    root = g.peer(0, Peer2021)
    assert root.walk(root.root, "real", "m")[0] == 0
    mount = unmounted(g, 1)
    for path, number in (
        ("/real", errno.ENOENT), ("/real/m/inside", errno.ENOENT), ("/etc", errno.ENOENT), ("real/m", errno.EINVAL),
        ("/real/m/..", errno.EINVAL), ("/link/..", errno.EINVAL), ("", errno.EINVAL),
    ):  # fmt: skip
        with fails(number):
            mount.mount(path)
    mounted = mount.mount("/real/m")
    assert mounted.root.stat.ino == os.stat(source).st_ino and not mounted.donated
    with fails(errno.EBUSY):
        mount.mount("/real/m")
    assert mount.pread(mount.openat(mount.walk_to("inside")).fd, 0, 10) == b"x"


@pytest.mark.parametrize("path", ["/", "/m", "/link/m", "//m/"])
def test_a_mount_may_be_called_by_its_destination_as_written_or_as_found_or_the_root(
    gofer: Start, spot: Path, path: str
) -> None:
    source = directory(spot / "s", inside="x")
    (spot / "rootfs").mkdir(exist_ok=True)
    os.symlink(".", spot / "rootfs/link")
    g = gofer(spec_of(bind("/link/m", source)), io=2, flags=LISAFS)
    assert g.destinations() == ["/m"]
    assert unmounted(g, 1).mount(path).root.stat.ino == os.stat(source).st_ino


def test_it_ends_when_the_last_connection_has_ended(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2, flags=LISAFS)
    g.mount_list()
    peers = [g.peer(number, Peer2021) for number in (0, 1)]
    peers[0].disconnect()
    assert peers[1].fstat(peers[1].root)
    peers[1].disconnect()
    assert g.wait() == 0


def test_an_overlay_has_the_host_only_read(gofer: Start) -> None:
    g = gofer(spec_of(), flags=[*LISAFS, "--overlay=true"])
    g.mount_list()
    root = g.peer(0, Peer2021)
    with fails(errno.EROFS):
        root.mkdirat(root.root, "made")


@pytest.mark.parametrize("allowed", [True, False])
def test_fsgofer_host_uds_lets_connect(gofer: Start, spot: Path, allowed: bool) -> None:
    (spot / "rootfs").mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(spot / "rootfs/sock"))
        listener.listen(1)
        g = gofer(spec_of(), flags=[*LISAFS, f"--fsgofer-host-uds={allowed}"])
        g.mount_list()
        root = g.peer(0, Peer2021)
        if allowed:
            assert len(root.connect(root.walk_to("sock"))) == 1
        else:
            with fails(errno.ECONNREFUSED):
                root.connect(root.walk_to("sock"))


@pytest.mark.parametrize("flag", ["--lisafs=false", "--vfs2=false"])
def test_a_runsc_that_speaks_9p_is_told_so_before_anything_is_mounted(gofer: Start, spot: Path, flag: str) -> None:
    g = gofer(spec_of(bind("/new", directory(spot / "s"))), io=2, flags=[flag])
    assert g.wait() == 128
    (line,) = g.errors()
    assert "9P" in line["msg"] and "--lisafs" in line["msg"] and "\n" not in line["msg"]
    assert not (spot / "rootfs/new").exists()


@pytest.mark.parametrize("tag", [0, 1, 0xFFFF])
def test_what_no_flag_tells_the_first_message_does(gofer: Start, tag: int) -> None:
    """A runsc of 2021 without --lisafs passes what one of 2022-12 passes."""
    g = gofer(spec_of())
    g.mount_list()
    transport = unmounted(g, 0).transport
    assert isinstance(transport, SocketTransport)
    version = b"9P2000.L"
    transport.send(struct.pack("<IBHIH", 13 + len(version), 100, tag, 1 << 20, len(version)) + version)
    assert transport.ended()
    assert g.wait() == 128
    assert ["9P" in line["msg"] for line in g.errors()] == [True]


@pytest.mark.parametrize(
    ("known", "flags", "says"),
    [
        ("  -vfs2\n    \tenables VFSv2.\n", [], "older than LISAFS"),
        ("  -lisafs\n    \tEnables lisafs protocol instead of 9P. This is only effective with VFS2.\n", [], "--lisafs"),
        ("  -lisafs\n    \tEnables lisafs protocol instead of 9P.\n", ["--lisafs=false"], "--lisafs"),
        ("  -lisafs\n    \tEnables lisafs protocol instead of 9P.\n", ["--lisafs", "--debug"], ""),
        ("  -lisafs\n    \tEnables lisafs protocol instead of 9P. (default true)\n", [], ""),
        ("  -lisafs\n    \tEnables lisafs protocol instead of 9P. (default true)\n", ["-lisafs=0"], "--lisafs"),
        ("  -lisafs\n    \tDEPRECATED: this flag has no effect. (default true)\n", ["--lisafs=false"], ""),
        ("  -directfs\n    \tdirectly access the container filesystems from the sentry. (default true)\n", [], ""),
    ],
)
def test_check_knows_by_the_list_of_flags_whether_a_runsc_can_speak_lisafs(
    known: str, flags: "list[str]", says: str
) -> None:
    why_not = _cannot_speak(known, flags)
    assert says in why_not and bool(says) == bool(why_not)


def test_a_second_connection_may_speak_today_while_the_first_does_not(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2, flags=LISAFS)
    g.mount_list()
    old, today = g.peer(0, Peer2021), g.peer(1)
    assert old.fstat(old.root).ino != today.fstat(today.root).ino
