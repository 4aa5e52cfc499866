"""What a runsc of 2026-08 asks of its gofer and one of 2022-12 does not; see also test_runsc_rootless.py."""

import errno
import json
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from hosts import fails
from runsc import Started, bind, directory, spec_of, starting

Start = Callable[..., Started]


@pytest.fixture
def gofer(spot: Path) -> Iterator[Start]:
    with starting(spot) as start:
        yield start


def test_mount_confs_say_what_is_served_and_what_is_read_only(gofer: Start, spot: Path) -> None:
    mounts = bind("/a", directory(spot / "a")), bind("/b", directory(spot / "b")), bind("/c", directory(spot / "c"))
    confs = "lisafs:none,lisafs:memory,none:memory,lisafs:none"
    g = gofer(spec_of(*mounts), f"--gofer-mount-confs={confs}", "id", io=3)
    assert g.destinations() == ["/a", "/b", "/c"]
    assert set(g.mount_flags()) == {"/", "/a", "/c"}
    a, c = g.peer(1), g.peer(2)
    with fails(errno.EROFS):
        a.mkdirat(a.root, "x")
    c.mkdirat(c.root, "x")
    assert (spot / "c/x").is_dir()


def test_a_root_that_is_not_ours_is_an_empty_tmpfs_for_our_mounts(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m/n", directory(spot / "s", f=""))), "--gofer-mount-confs=erofs:memory,lisafs:none", "id")
    assert g.destinations() == ["/m/n"]
    assert g.peer(0).walk_to("f")
    assert os.listdir(spot / "rootfs") == [], "nothing is made in the root of the spec"
    assert os.listdir(f"/proc/{g.pid}/root") == ["m"]


@pytest.mark.parametrize("words,donated", [(["--gofer-mount-confs=lisafs:none"], 1), ([], 0)])
def test_mount_donates_the_root_under_directfs_which_2026_has(gofer: Start, words: "list[str]", donated: int) -> None:
    g = gofer(spec_of(), *words)
    g.mount_list()
    assert len(g.peer().mount().donated) == donated


def test_without_directfs_mount_donates_nothing(gofer: Start) -> None:
    g = gofer(spec_of(), "--gofer-mount-confs=lisafs:none", flags=["--directfs=false"])
    g.mount_list()
    assert g.peer().mount().donated == []


def test_the_device_connection_opens_devices_that_the_others_do_not(gofer: Start, spot: Path) -> None:
    (spot / "rootfs/dev").mkdir()
    os.mknod(spot / "rootfs/dev/zero", 0o666 | stat.S_IFCHR, os.makedev(1, 5))
    ours, theirs = socket.socketpair()
    g = gofer(spec_of(), "--gofer-mount-confs=lisafs:none", more={"dev-io-fd": theirs.detach()})
    g.mount_list()
    g.add(ours)
    dev, root = g.peer(1), g.peer(0)
    assert os.read(dev.openat(dev.walk_to("zero")).donated[0], 3) == b"\0\0\0"
    with fails(errno.EPERM):
        root.openat(root.walk_to("dev", "zero"))


def test_the_device_connection_has_a_dev_of_its_own_even_where_the_root_has_none(gofer: Start, spot: Path) -> None:
    ours, theirs = socket.socketpair()
    g = gofer(spec_of(), "--gofer-mount-confs=none:memory", io=0, more={"dev-io-fd": theirs.detach()})
    assert g.wait() == 128 and "--io-fds is required" in g.errors()[0]["msg"]
    ours.close()


def test_no_mount_is_made_before_the_chroot_fd_is_closed(gofer: Start, spot: Path) -> None:
    ours, theirs = socket.socketpair()
    more = {"sync-chroot-fd": theirs.detach()}
    g = gofer(
        spec_of(bind("/m", directory(spot / "s"))), "--gofer-mount-confs=lisafs:none,lisafs:none", io=2, more=more
    )
    time.sleep(0.3)
    assert os.listdir(spot / "rootfs") == [] and g.process.poll() is None
    ours.close()
    assert g.destinations() == ["/m"]


def test_data_where_only_the_end_is_expected_is_refused(gofer: Start) -> None:
    ours, theirs = socket.socketpair()
    ours.send(b"x")
    g = gofer(spec_of(), "--gofer-mount-confs=lisafs:none", more={"sync-chroot-fd": theirs.detach()})
    assert g.wait() == 128 and "--sync-chroot-fd" in g.errors()[0]["msg"]
    ours.close()


def test_hooks_run_before_the_root_changes_and_what_they_mount_is_served(gofer: Start, spot: Path) -> None:
    hook = spot / "hook"
    hook.write_text(
        f"""#!/bin/sh -e
        cat > {spot}/state; echo "$1 $A" > {spot}/words; ls {spot}/rootfs/m > {spot}/seen
        mkdir {spot}/rootfs/late; mount --bind {spot}/t {spot}/rootfs/late
        """
    )
    hook.chmod(0o755)
    hooks = {
        "createContainer": [{"path": str(hook), "args": ["hook", "arg"], "env": ["A=b", f"PATH={os.environ['PATH']}"]}]
    }
    directory(spot / "t", g="")
    spec = spec_of(bind("/m", directory(spot / "s", f="")), hooks=hooks, annotations={"k": "v"})
    g = gofer(spec, "--gofer-mount-confs=lisafs:none,lisafs:none", "container-1", io=2)
    assert g.destinations() == ["/m"]
    state = json.loads((spot / "state").read_text())
    assert (state["id"], state["status"], state["bundle"], state["annotations"]) == (
        "container-1",
        "creating",
        str(spot),
        {"k": "v"},
    )
    assert ((spot / "words").read_text(), (spot / "seen").read_text()) == ("arg b\n", "f\n")
    peer = g.peer()
    assert peer.walk_to("late", "g") and peer.walk_to("m", "f")


@pytest.mark.parametrize(
    "hook,says",
    [
        ({"path": "/bin/sh", "args": ["sh", "-c", "echo it broke; exit 3"]}, "exit status 3: it broke"),
        ({"path": "/bin/sleep", "args": ["sleep", "9"], "timeout": 1}, "not done after 1 seconds"),
        ({"path": "/nowhere/hook"}, "No such file"),
        ({"path": "relative"}, "absolute path"),
        ("text", "absolute path"),
    ],
)
def test_a_hook_that_fails_fails_the_start(gofer: Start, hook: object, says: str) -> None:
    g = gofer(spec_of(hooks={"createContainer": [hook]}), "--gofer-mount-confs=lisafs:none", "id")
    assert g.wait() == 128 and says in g.errors()[0]["msg"]


def test_hooks_are_left_alone_where_runsc_runs_them_itself(gofer: Start, spot: Path) -> None:
    hooks = {"createContainer": [{"path": "/bin/touch", "args": ["touch", str(spot / "made")]}]}
    gofer(spec_of(hooks=hooks)).mount_list()
    assert not (spot / "made").exists()


def test_the_file_system_below_a_mount_adds_options_that_the_sandbox_must_know(gofer: Start, spot: Path) -> None:
    from ctypes import CDLL, c_char_p, c_ulong

    for name in ("l", "u", "w", "merged"):
        (spot / name).mkdir()
    libc = CDLL(None, use_errno=True)
    data = f"lowerdir={spot}/l,upperdir={spot}/u,workdir={spot}/w".encode()
    target = c_char_p(str(spot / "merged").encode())
    assert libc.mount(b"overlay", target, b"overlay", c_ulong(0), data) == 0
    try:
        g = gofer(spec_of(bind("/m", str(spot / "merged"), "rw")), io=2)
        assert json.loads(g.mount_list())[0]["options"] == ["rw", "overlayfs_stale_read"]
        g.close()
    finally:
        assert libc.umount2(target, 0) == 0
