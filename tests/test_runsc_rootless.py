"""The stand-in in a user namespace that is mapped only after it was started, as in a rootless runsc; and what it then
has to ask runsc for. The Debian package runs rootless containers by another way: test_runsc_containers.py."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from ctypes import CDLL, c_uint32, c_ulong
from pathlib import Path
from typing import Any, Optional

import pytest
from runsc import Json, Started, bind, one_file_gofer, spec_of

pytestmark = pytest.mark.slow  # one Python is enough: another user cannot reach the others everywhere

USER = 65534
NEW_USER, NEW_MOUNT = 0x10000000, 0x20000
# chown to fsetid, setgid, setuid, setpcap, sys_chroot, sys_admin: what runsc gives its gofer as ambient capabilities
AMBIENT = (0, 1, 2, 3, 4, 6, 7, 8, 18, 21)


def become_unmapped_root() -> None:
    """In the child, as Go's os/exec does it: another user, a user namespace without a map yet, ambient capabilities."""
    libc = CDLL(None, use_errno=True)
    os.setgroups([])
    os.setgid(USER)
    os.setuid(USER)
    assert libc.unshare(NEW_USER | NEW_MOUNT) == 0
    mask = sum(1 << number for number in AMBIENT)
    header, data = (c_uint32 * 2)(0x20080522, 0), (c_uint32 * 6)(mask, mask, mask)
    assert libc.capset(header, data) == 0
    for number in AMBIENT:
        assert libc.prctl(47, c_ulong(2), c_ulong(number), c_ulong(0), c_ulong(0)) == 0  # PR_CAP_AMBIENT_RAISE


class Rootless(Started):
    """Started, waiting on --sync-userns-fd; `map` gives it its ids."""

    def __init__(self, place: Path, spec: Json, *words: str, more: Optional[dict[str, int]] = None, **how: Any) -> None:
        self._sync, theirs = socket.socketpair()
        fds = {"sync-userns-fd": theirs.detach(), **(more or {})}
        command = [str(one_file_gofer())]
        super().__init__(place, spec, *words, more=fds, command=command, preexec_fn=become_unmapped_root, **how)

    def map(self, inside: int = 0) -> None:
        proc = Path(f"/proc/{self.pid}")
        (proc / "setgroups").write_text("deny")
        (proc / "uid_map").write_text(f"{inside} {USER} 1")
        (proc / "gid_map").write_text(f"{inside} {USER} 1")
        self._sync.close()

    def close(self) -> None:
        self._sync.close()
        super().close()


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    one_file_gofer()  # before a test's own files are counted


@pytest.fixture
def place(spot: Path) -> Path:
    (spot / "rootfs").mkdir()
    os.chown(spot / "rootfs", USER, USER)
    return spot


@pytest.fixture
def started() -> Iterator[list[Started]]:
    """What a test puts here is closed at its end."""
    started: list[Started] = []
    yield started
    for each in started:
        each.close()


def spec(*mounts: Json) -> Json:
    return spec_of(*mounts, process={"args": ["true"], "cwd": "/w"})


def test_nothing_happens_before_the_ids_are_mapped(place: Path, started: "list[Started]") -> None:
    g = Rootless(place, spec())
    started.append(g)
    assert os.listdir(place / "rootfs") == []
    g.map()
    assert g.mount_list() == b"[]"
    peer = g.peer()
    peer.mkdirat(peer.root, "made", 0o700)
    assert sorted(os.listdir(place / "rootfs")) == ["made", "w"]
    assert {os.lstat(place / "rootfs" / name).st_uid for name in ("made", "w")} == {USER}
    assert peer.fstat(peer.root).uid == 0, "the owner as the namespace sees it"
    assert int(g.status("CapBnd"), 16) == int(g.status("CapPrm"), 16) == 0x4001F
    assert int(g.status("CapAmb"), 16) == int(g.status("CapInh"), 16) == 0


def test_the_ids_of_2026_are_the_ones_asked_for(place: Path, started: "list[Started]") -> None:
    g = Rootless(place, spec(), "--gofer-mount-confs=lisafs:none", "--uid=1000", "--gid=1000", "id")
    started.append(g)
    g.map(inside=1000)
    assert g.mount_list() == b"[]"
    peer = g.peer()
    assert (peer.fstat(peer.root).uid, peer.fstat(peer.root).gid) == (1000, 1000)


def test_where_it_was_started_need_not_be_a_place_that_its_user_may_enter(place: Path, started: "list[Started]") -> None:
    """As when root starts a container of another user's in a directory of root's own."""
    (place / "hidden").mkdir(mode=0o700)
    mount = bind("/m", str(place / "rootfs"))
    g = Rootless(place, spec(mount), io=2, cwd=place / "hidden")
    started.append(g)
    g.map()
    assert json.loads(g.mount_list())[0]["destination"] == "/m", g.errors()


def test_an_id_that_is_not_mapped_is_named(place: Path, started: "list[Started]") -> None:
    g = Rootless(place, spec(), "--gofer-mount-confs=lisafs:none", "--uid=5", "id")
    started.append(g)
    g.map()
    assert g.wait() == 128 and "user 5, group 0 in the user namespace: Invalid argument" in g.errors()[0]["msg"]


def test_locked_flags_of_a_source_are_kept_in_the_bind(place: Path, started: "list[Started]") -> None:
    """gVisor c6a1db5ba, 8a1a0408a: /proc is nosuid, nodev, noexec here; without repeating that a remount is EPERM."""
    libc = CDLL(None, use_errno=True)
    target = place / "locked"
    target.mkdir()
    assert libc.mount(b"locked", str(target).encode(), b"tmpfs", c_ulong(2 | 4 | 8 | 1024), None) == 0
    try:
        g = Rootless(place, spec(bind("/m", str(target), "rbind", "ro")), io=2)
        started.append(g)
        g.map()
        assert json.loads(g.mount_list())[0]["destination"] == "/m", g.errors()
        flags = next(
            line.split()[5] for line in Path(f"/proc/{g.pid}/mountinfo").read_text().splitlines() if " /m " in line
        )
        assert set(flags.split(",")) >= {"ro", "nosuid", "nodev", "noexec", "noatime"}
        g.close()
    finally:
        assert libc.umount2(str(target).encode(), 0) == 0


def answer(sock: socket.socket, pid: int, calls: "list[Json]", error: str) -> None:
    """runsc's side of --rpc-fd: opens the source inside the gofer's mount namespace, by a process of its own."""
    with sock:
        calls.append(json.loads(sock.recv(65536)))
        child = os.fork()
        if child == 0:
            try:
                mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
                assert CDLL(None).setns(mounts, NEW_MOUNT) == 0
                fd = os.open(calls[0]["arg"]["Mount"]["source"], os.O_PATH)
                reply = (
                    b'{"success":false,"err":"%s"}' % error.encode()
                    if error
                    else b'{"success":true,"err":"","result":{}}\n'
                )
                socket.send_fds(sock, [reply[:1]], [] if error else [fd])
                sock.send(reply[1:10])
                sock.send(reply[10:])
            finally:
                os._exit(0)
        os.waitpid(child, 0)


@pytest.mark.parametrize("error", ["", "it is not to be"])
def test_a_source_that_only_runsc_can_reach_is_asked_for(place: Path, started: "list[Started]", error: str) -> None:
    (place / "secret").mkdir(mode=0o700)
    (place / "secret/inner").mkdir()
    (place / "secret/inner/f").write_text("found")
    ours, theirs = socket.socketpair()
    mount = bind("/m", str(place / "secret/inner"), "rbind", "ro")
    words = "--gofer-mount-confs=lisafs:none,lisafs:none", "id"
    g = Rootless(place, spec(mount), *words, io=2, more={"rpc-fd": theirs.detach()})
    started.append(g)
    calls: list[Json] = []
    runsc = threading.Thread(target=answer, args=(ours, g.pid, calls, error))
    runsc.start()
    g.map()
    if error:
        assert g.wait() == 128 and g.errors()[0]["msg"].endswith("runsc cannot open " + mount["source"] + ": " + error)
    else:
        assert json.loads(g.mount_list())[0]["destination"] == "/m", g.errors()
        peer = g.peer(1)
        assert peer.fstat(peer.walk_to("f")).size == 5
    runsc.join()
    flags = 0x1000 | 0x4000 | 1  # MS_BIND, MS_REC, MS_RDONLY
    of_2024_11 = mount  # Go takes the members that it knows: from 2026-06 on these are the last two
    argument = {**of_2024_11, "Mount": mount, "Flags": flags}
    assert calls == [{"method": "goferToHostRPC.OpenMount", "arg": argument}]


def test_without_runsc_to_ask_the_source_is_named(place: Path, started: "list[Started]") -> None:
    (place / "secret").mkdir(mode=0o700)
    g = Rootless(place, spec(bind("/m", str(place / "secret/inner"))), io=2)
    started.append(g)
    g.map()
    assert g.wait() == 128 and "secret/inner: Permission denied" in g.errors()[0]["msg"]
