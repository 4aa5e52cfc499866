"""What differs between releases of runsc, and that the stand-in tells and follows it: gofer/runsc/features.py.

The command lines are those that runsc/container/container.go of each release puts together.
"""

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest
from hosts import CHECKOUT, wait_until
from runsc import Json, Started, bind, directory, spec_of, starting

from gofer.runsc.features import TABLE, Features
from gofer.runsc.flags import GOFER_FLAGS, parse_globals, parse_gofer

Start = Callable[..., Started]

BEFORE, FDS = "--log-fd=3 --debug-log-fd=4", "--spec-fd=5 --mounts-fd=6 --io-fds=7 --io-fds=8"
RELEASES = {
    "20211115": f"--lisafs=true {BEFORE} gofer --bundle b {FDS}",
    "20221219": f"{BEFORE} gofer --bundle b {FDS}",
    "20230306": f"{BEFORE} --directfs=true gofer --bundle b {FDS}",
    "20230320": f"{BEFORE} --overlay2=none gofer --bundle b {FDS}",
    "20230508": f"{BEFORE} gofer --bundle b --overlay-mediums=2,0 {FDS}",
    "20230522": f"{BEFORE} gofer --bundle b --overlay-mediums=2,0 {FDS}",
    "20230724": f"{BEFORE} gofer --bundle b --overlay-mediums=0,1 {FDS} --sync-nvproxy-fd=9",
    "20231016": f"{BEFORE} gofer --bundle b --gofer-mount-confs=0,3 {FDS} --sync-nvproxy-fd=9",
    "20231120": f"{BEFORE} gofer --bundle b --gofer-mount-confs=lisafs:self,lisafs:none {FDS} --dev-io-fd=9",
    "20240729": f"{BEFORE} --directfs=false gofer --bundle b --gofer-mount-confs=lisafs:none,lisafs:none {FDS}",
    "20241118": f"{BEFORE} gofer --bundle b --gofer-mount-confs=lisafs:none,lisafs:none {FDS} --rpc-fd=9",
    "20250611": f"{BEFORE} gofer --bundle b --gofer-mount-confs=lisafs:self:size=1g,lisafs:none {FDS} --sync-chroot-fd=9",
    "20250915": f"{BEFORE} gofer --bundle b --gofer-mount-confs=lisafs:none,lisafs:none {FDS} --uid=1000 --gid=1000",
    "20260817": f"{BEFORE} gofer --bundle b --gofer-mount-confs=lisafs:none,lisafs:none {FDS} --rpc-fd=9 c1",
}
NEW_CONFS = {release for release in RELEASES if release >= "20230508"}
EXPECTED = {
    "speaks_2021": {"20211115"},
    "overlay_by_flags": set(RELEASES) - NEW_CONFS,
    "directfs": NEW_CONFS - {"20240729"} | {"20230306"},
    "makes_cwd": {release for release in RELEASES if release < "20250707"},
    "checks_options": set(RELEASES) - NEW_CONFS,
    "told_of_remote_files": {release for release in RELEASES if release >= "20231120"},
    "runs_hooks": {"20260817"},
}


@pytest.fixture
def gofer(spot: Path) -> Iterator[Start]:
    with starting(spot) as start:
        yield start


@pytest.mark.parametrize("feature", sorted(TABLE))
def test_the_command_line_of_a_release_tells_which_features_it_has(feature: str) -> None:
    for release, line in RELEASES.items():
        flags, words = parse_globals(line.split())
        assert bool(getattr(Features(flags, parse_gofer(words)), feature)) == (release in EXPECTED[feature]), release


def test_the_documentation_lists_the_same_features_and_flags() -> None:
    text = (CHECKOUT / "docs/runsc.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line[:1] == "|"]
    listed = {cells[0].strip("`"): cells[1:3] for cells in rows if len(cells) == 4}
    for name, (first, last, _) in TABLE.items():
        assert listed[name] == [first or "before 2022-12", last], name
    for name, (_, first, last) in GOFER_FLAGS.items():
        if first:
            assert listed[f"--{name}"] == [first, last], name


# As it is served


@pytest.mark.parametrize(
    "words,read_only",
    [
        (["--overlay-mediums=0,0"], (False, False)),
        (["--overlay-mediums=2,0"], (True, False)),
        (["--overlay-mediums=0,3"], (False, True)),
        (["--gofer-mount-confs=1,0"], (True, False)),
    ],
)
def test_a_mount_with_an_overlay_medium_is_only_read(
    gofer: Start, spot: Path, words: "list[str]", read_only: "tuple[bool, bool]"
) -> None:
    source = directory(spot / "s")
    g = gofer(spec_of(bind("/m", source)), *words, io=2, flags=["--overlay2=all:memory"])
    assert g.destinations() == ["/m"]
    for number, place in ((0, "rootfs"), (1, "s")):
        peer = g.peer(number)
        try:
            peer.mkdirat(peer.root, "made")
        except OSError:
            pass
        assert (spot / place / "made").exists() != read_only[number]
        assert len(peer.mount().donated) == 1, "directfs is on by default"


def test_a_mount_that_the_sandbox_replaces_by_a_tmpfs_of_its_own_has_no_connection(gofer: Start, spot: Path) -> None:
    mounts = bind("/t", directory(spot / "t")), bind("/m", directory(spot / "s", f=""))
    g = gofer(spec_of(*mounts), "--gofer-mount-confs=0,4,0", io=2)
    assert g.destinations() == ["/t", "/m"]
    assert g.peer(1).walk_to("f")
    assert set(g.mount_flags()) == {"/", "/m"}


def test_directfs_by_its_flag_alone_donates(gofer: Start) -> None:
    g = gofer(spec_of(), flags=["--directfs=true"])
    g.mount_list()
    assert len(g.peer().mount().donated) == 1


@pytest.mark.parametrize("name", ["sync-nvproxy-fd", "sync-chroot-fd"])
def test_what_is_to_be_waited_for_is_waited_for(gofer: Start, spot: Path, name: str) -> None:
    """What runsc does meanwhile in our mount namespace must be in the tree: here it is a file that appears."""
    ours, theirs = socket.socketpair()
    g = gofer(spec_of(bind("/m", str(spot / "late"))), "--gofer-mount-confs=0,0", io=2, more={name: theirs.detach()})
    wait_until(lambda: "PID" in g.said(), "it has begun")
    directory(spot / "late", f="")
    ours.close()
    assert g.destinations() == ["/m"]
    assert g.peer(1).walk_to("f")


def test_what_the_profiler_of_go_would_write_to_is_closed(gofer: Start, spot: Path) -> None:
    """`runsc --profile --trace=FILE`."""
    reader, writer = os.pipe()
    g = gofer(spec_of(), more={"trace-fd": writer})
    g.mount_list()
    g.peer()
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.parametrize("words,made", [([], True), (["--uid=0", "id"], False), (["id"], False)])
def test_the_working_directory_is_made_where_the_sandbox_does_not(
    gofer: Start, spot: Path, words: "list[str]", made: bool
) -> None:
    process = {"args": ["true"], "cwd": "/not/in/the/image"}
    gofer(spec_of(process=process), "--gofer-mount-confs=lisafs:none", *words).mount_list()
    path = spot / "rootfs/not/in/the/image"
    assert path.is_dir() == made
    assert not made or stat.S_IMODE(path.stat().st_mode) == 0o755


def erofs() -> Json:
    return {"destination": "/e", "type": "erofs", "source": "/image"}


@pytest.mark.parametrize("confs", ["lisafs:none,lisafs:none", "lisafs:none,erofs:none,lisafs:none"])
def test_an_erofs_mount_has_a_conf_of_its_own_from_2026_on(gofer: Start, spot: Path, confs: str) -> None:
    mounts = erofs(), bind("/m", directory(spot / "s", f=""))
    g = gofer(spec_of(*mounts), f"--gofer-mount-confs={confs}", io=2)
    assert g.destinations() == ["/e", "/m"]
    assert g.peer(1).walk_to("f")


@pytest.mark.parametrize("version", ["1.0.2", None])
def test_a_hook_is_told_the_version_of_the_spec(gofer: Start, spot: Path, version: Optional[str]) -> None:
    words = ["sh", "-c", f"cat > {spot}/state"]
    spec = spec_of(hooks={"createContainer": [{"path": "/bin/sh", "args": words}]})
    if version:
        spec["ociVersion"] = version
    gofer(spec, "--gofer-mount-confs=lisafs:none", "id").mount_list()
    assert json.loads((spot / "state").read_text())["ociVersion"] == (version or "1.2.1")


def test_devices_that_the_host_lacks_are_left_out_and_no_path_leads_elsewhere(gofer: Start, spot: Path) -> None:
    (spot / "secret").write_text("")
    absent = ["/dev/accel987", "/dev/nvidia987", "/dev/vfio/987987", "/dev/infiniband/uverbs987"]
    devices = [*absent, f"/dev/vfio/../..{spot}/secret"]
    ours, theirs = socket.socketpair()
    spec = spec_of(linux={"devices": [{"path": path, "type": "c", "major": 1, "minor": 3} for path in devices]})
    g = gofer(spec, "--gofer-mount-confs=lisafs:none", more={"dev-io-fd": theirs.detach()})
    assert g.mount_list() == b"[]"
    g.add(ours)
    peer = g.peer(1)
    (donated,) = peer.mount().donated
    assert os.listdir(donated) == [] and g.said().count("not on this host") == 4


# A runsc that is too new


@pytest.mark.parametrize(
    "words,says",
    [
        (["--new-sync-fd={fd}"], "-new-sync-fd"),
        (["--gofer-mount-confs=lisafs:none,virtiofs:none"], "-gofer-mount-confs"),
        (["--gofer-mount-confs=lisafs:compressed,lisafs:none"], "-gofer-mount-confs"),
    ],
)
def test_a_runsc_that_is_too_new_is_told_what_to_do_and_nothing_is_begun(
    gofer: Start, spot: Path, words: "list[str]", says: str
) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    words = [word.format(fd=writer) for word in words]
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), *words, "id", io=2, stray=[writer], logs=["log"])
    os.close(writer)
    assert g.wait() == 128
    (error,) = g.errors()
    assert says in error["msg"] and "--directfs=false" in error["msg"] and "runsc's own gofer" in error["msg"]
    assert g.mount_list() == b"" and os.listdir(spot / "rootfs") == [] and os.read(reader, 1) == b""
    os.close(reader)
