"""The root file system that the stand-in builds, seen by a client on each io-fd. Needs root."""

import errno
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from hosts import fails
from runsc import Json, Started, bind, directory, host_mounts, newer_runsc, spec_of, starting

Start = Callable[..., Started]


@pytest.fixture
def gofer(spot: Path) -> Iterator[Start]:
    with starting(spot) as start:
        yield start


def test_each_io_fd_serves_its_mount_in_the_specs_order_and_the_first_serves_the_root(gofer: Start, spot: Path) -> None:
    one, two = directory(spot / "one", f="1"), directory(spot / "two", f="22")
    g = gofer(
        spec_of(bind("/m/one", one), {"destination": "/proc", "type": "proc", "source": "proc"}, bind("/two", two)),
        io=3,
    )
    assert g.destinations() == ["/m/one", "/proc", "/two"]
    sizes = []
    for number in (1, 2):
        peer = g.peer(number)
        sizes.append(peer.fstat(peer.walk_to("f")).size)
    assert sizes == [1, 2]
    root = g.peer(0)
    assert root.fstat(root.walk_to("m", "one", "f")).size == 1, "the root shows what is mounted in it"


def test_missing_mount_points_are_made_in_the_root_and_stay(gofer: Start, spot: Path) -> None:
    (spot / "file").write_text("x")
    g = gofer(spec_of(bind("/a/b/c", directory(spot / "s")), bind("/d/file", str(spot / "file"))), io=3)
    g.mount_list()
    modes = {name: os.lstat(spot / "rootfs" / name).st_mode for name in ("a", "a/b", "a/b/c", "d", "d/file")}
    assert [stat.filemode(mode) for mode in modes.values()] == ["drwxr-xr-x"] * 4 + ["-rwxr-xr-x"]
    assert (spot / "rootfs/d/file").read_text() == ""
    peer = g.peer(2)
    assert stat.S_ISREG(peer.fstat(peer.root).mode) and peer.fstat(peer.root).size == 1


def test_the_working_directory_is_made_inside_the_root(gofer: Start, spot: Path) -> None:
    (spot / "rootfs/link").symlink_to("/real")
    gofer(spec_of(process={"args": ["x"], "cwd": "/link/../link/work"})).mount_list()
    assert (spot / "rootfs/real/work").is_dir()
    assert stat.S_IMODE(os.stat(spot / "rootfs/real/work").st_mode) == 0o755


@pytest.mark.parametrize(
    "destination,real",
    [
        ("/absolute/sub", "/real/sub"),
        ("/relative/sub", "/real/sub"),
        ("/escape/sub", "/etc/sub"),
        ("/chain/sub", "/real/sub"),
        ("/dangling", "/not/there"),
        ("/../../real/./x", "/real/x"),
        ("/deep/dots/x", "/deep/x"),
        ("/missing/../real/y", "/real/y"),
    ],
)
def test_symlinks_in_a_destination_are_followed_inside_the_root(
    gofer: Start, spot: Path, destination: str, real: str
) -> None:
    rootfs = spot / "rootfs"
    (rootfs / "real").mkdir()
    (rootfs / "deep/er").mkdir(parents=True)
    links = {
        "absolute": "/real",
        "relative": "../../real",
        "escape": "../../../../../../etc",
        "chain": "absolute/../chain2",
        "chain2": "/chain3",
        "chain3": "real/",
        "dangling": "/not/there",
        "deep/dots": "er/..",
    }
    for name, target in links.items():
        (rootfs / name).symlink_to(target)
    g = gofer(spec_of(bind(destination, directory(spot / "s", f="served"))), io=2)
    assert g.destinations() == [real]
    peer = g.peer(1)
    assert peer.fstat(peer.walk_to("f")).size == 6
    assert not (spot / "etc").exists() and (rootfs / real[1:]).is_dir()


def test_a_destination_is_told_as_it_is_once_all_mounts_are_in_place(gofer: Start, spot: Path) -> None:
    """The second mount covers the link by which the first found its place."""
    (spot / "rootfs/d").mkdir()
    (spot / "rootfs/d/link").symlink_to("/real")
    over = directory(spot / "over")
    (spot / "over/link").mkdir()
    g = gofer(spec_of(bind("/d/link", directory(spot / "s", f="")), bind("/d", over)), io=3)
    assert g.destinations() == ["/d/link", "/d"]


def test_a_mount_on_the_root_itself_covers_it(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/", directory(spot / "s", f="covers")), bind("/sub", directory(spot / "t", g=""))), io=3)
    assert g.destinations() == ["/", "/sub"]
    peer = g.peer(0)
    assert peer.fstat(peer.walk_to("f")).size == 6
    assert sorted(os.listdir(spot / "s")) == ["f", "sub"]


def test_read_only_binds_are_read_only_on_the_host_side_too(gofer: Start, spot: Path) -> None:
    """The gofer of 2022 asked for it in a call that ignores it: mount(2), MS_BIND."""
    mounts = (
        bind("/ro", directory(spot / "a"), "rbind", "ro"),
        bind("/rw", directory(spot / "b"), "rbind", "noexec", "nodev"),
    )
    g = gofer(spec_of(*mounts), io=3)
    g.mount_list()
    flags = g.mount_flags()
    assert {"ro", "nosuid"} <= set(flags["/ro"]) and {"rw", "nosuid", "nodev", "noexec"} <= set(flags["/rw"])
    assert "rw" in flags["/"]
    peer = g.peer(1)
    with fails(errno.EROFS):
        peer.mkdirat(peer.root, "x")
    peer = g.peer(2)
    peer.mkdirat(peer.root, "x")


@pytest.mark.parametrize(
    "spec,flags",
    [
        ({"root": {"path": "rootfs", "readonly": True}}, []),
        ({}, ["--overlay2=root:memory"]),
        ({}, ["--overlay=true"]),
    ],
)
def test_a_root_that_takes_no_writes_is_mounted_and_served_read_only(
    gofer: Start, spec: Json, flags: "list[str]"
) -> None:
    g = gofer(spec_of(**spec), flags=flags)
    g.mount_list()
    peer = g.peer()
    assert "ro" in g.mount_flags()["/"]
    with fails(errno.EROFS):
        peer.mkdirat(peer.root, "x")


def test_under_an_overlay_on_all_mounts_no_mount_takes_writes(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"), "rw")), io=2, flags=["--overlay2=all:memory"])
    g.mount_list()
    assert "ro" in g.mount_flags()["/m"]
    peer = g.peer(1)
    with fails(errno.EROFS):
        peer.mkdirat(peer.root, "x")


def test_binds_of_directories_with_mounts_below_take_them_along_only_with_rbind(gofer: Start, spot: Path) -> None:
    """/dev/shm is a mount of its own below /dev on every host."""
    g = gofer(spec_of(bind("/r", "/dev", "rbind"), bind("/b", "/dev", "bind")), io=3)
    g.mount_list()
    assert "/r/shm" in g.mount_flags() and "/b/shm" not in g.mount_flags()


@pytest.mark.parametrize(
    "options,inside,read_only",
    [
        (("rbind", "ro"), [], True),
        (("rbind", "rw"), [], False),
        (("rbind", "ro"), [("/m/in", ("bind", "rw"))], False),
        (("rbind", "ro"), [("/m2", ("bind", "rw"))], True),
    ],
)
def test_what_a_read_only_rbind_takes_along_is_read_only_where_no_other_mount_lies_below(
    gofer: Start, spot: Path, options: "tuple[str, ...]", inside: "list[tuple[str, tuple[str, ...]]]", read_only: bool
) -> None:
    """A directfs client gets there from the directory that it is donated. The host's own mount stays as it is."""
    others = [bind(place, directory(spot / "s"), *how) for place, how in inside]
    tree = Path(directory(spot / "tree"))
    for name in ("sub", "in"):
        (tree / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "below", tree / "sub"], check=True)
    try:
        io = 2 + len(others)
        g = gofer(spec_of(bind("/m", str(tree), *options), *others), f"--gofer-mount-confs=0{',0' * (io - 1)}", io=io)
        g.mount_list()
        (root,) = g.peer(1).mount().donated
        try:
            os.mkdir("sub/made", dir_fd=root)
        except OSError as error:
            assert error.errno == errno.EROFS
        assert (tree / "sub/made").exists() != read_only
        for number in range(len(others)):
            os.mkdir("made", dir_fd=g.peer(2 + number).mount().donated[0])
        (tree / "sub/by-the-host").touch()
        g.close()
    finally:
        subprocess.run(["umount", tree / "sub"], check=True)


def test_nothing_but_the_root_file_system_can_be_reached(gofer: Start, spot: Path) -> None:
    (spot / "rootfs/only").write_text("")
    g = gofer(spec_of())
    g.mount_list()
    g.peer()
    assert set(g.mount_flags()) == {"/"}
    assert os.listdir(f"/proc/{g.pid}/root") == ["only"]
    for fd in os.listdir(f"/proc/{g.pid}/fd"):
        path = f"/proc/{g.pid}/fd/{fd}"
        if os.path.isdir(path):
            same = os.path.samestat(os.stat(path), os.stat(path + "/.."))
            assert same, f"fd {fd} leads up, to {os.listdir(path + '/..')[:5]}"


def test_the_hosts_mounts_stay_as_they_are_even_where_nobody_made_a_namespace(gofer: Start, spot: Path) -> None:
    before = host_mounts()
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2)
    g.mount_list()
    g.peer(0)
    assert host_mounts() == before
    assert os.readlink(f"/proc/{g.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")


# Beside Debian's own gofer, on a root that is prepared already: there it makes no mounts

PREPARED = ["--setup-root=false", "--apply-caps=false"]


def both(newer: bool) -> "dict[str, dict[str, Any]]":
    """The own gofer of one of the two runscs, and ours."""
    return {"own": {"command": [str(newer_runsc()) if newer else shutil.which("runsc") or ""]}, "ours": {}}


def words(newer: bool, io: int) -> "list[str]":
    """What that runsc says behind the word `gofer`."""
    confs = [f"--gofer-mount-confs={','.join(['lisafs:none'] * io)}"] if newer else []
    return [*PREPARED, *confs]


@pytest.fixture(scope="module", params=[False, True], ids=["2022", "2024"])
def newer(request: pytest.FixtureRequest) -> bool:
    if request.param:
        newer_runsc()  # made before a test's own files are counted
    return bool(request.param)


@pytest.mark.slow
def test_the_mount_list_is_byte_for_byte_that_of_runscs_own_gofer(newer: bool, spot: Path) -> None:
    mounts = [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"options": ["nosuid", "noexec"], "source": "sysfs", "type": "sysfs", "destination": "//sys/."},
        bind("/link/sub", "src", "rbind", "rw"),
        bind("/deep/dots/../../real/sub", "/usr/../usr", "bind", "ro", "nodev"),
        {"destination": '/r<é>&"\\ \u2028\t', "type": "none", "source": "x//y", "options": ["rbind"], "unknown": 1},
        {"destination": "/none", "type": "", "options": []},
        {"destination": "/tmp", "type": "tmpfs"},
    ]
    lists, before = [], os.getcwd()
    for name, how in both(newer).items():
        place = spot / name
        for folder in ("rootfs/real/sub", "rootfs/deep/er", 'rootfs/r<é>&"\\ \u2028\t'):
            (place / folder).mkdir(parents=True)
        for link, target in (("link", "/real"), ("deep/dots", "er")):
            (place / "rootfs" / link).symlink_to(target)
        os.chdir(place)  # so that the bundle's own path is not in the list
        try:
            g = Started(Path(), spec_of(*mounts), *words(newer, 4), io=4, flags=["--TESTONLY-unsafe-nonroot=true"], **how)
            lists.append(g.mount_list())
            g.close()
        finally:
            os.chdir(before)
    assert lists[1] == lists[0]
    assert b'"destination":"/real/sub","type":"bind","source":"src","options":["rbind","rw"]' in lists[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        b"",
        spec_of(root=None),
        spec_of(process=None),
        spec_of(process={"args": []}),
        spec_of({"destination": "relative"}),
        spec_of(bind("/usr", "/usr", "nonsense")),
        spec_of(bind("/usr", "/usr", "shared")),
        spec_of(linux={"rootfsPropagation": "shared"}),
        spec_of(windows={}),
        spec_of(mounts=[1]),
        spec_of({"destination": "/usr", "type": "tmpfs", "options": ["nonsense"]}),
        spec_of(linux={"rootfsPropagation": "rprivate"}),
    ],
)
def test_what_runscs_own_gofer_refuses_is_refused_and_nothing_else(newer: bool, spot: Path, spec: object) -> None:
    statuses = []
    for name, how in both(newer).items():
        (spot / name / "rootfs/usr").mkdir(parents=True)
        io = 1 + (b"bind" in json.dumps(spec if isinstance(spec, dict) else "").encode())
        g = Started(spot / name, spec, *words(newer, io), io=io, flags=["--TESTONLY-unsafe-nonroot=true"], **how)
        g.mount_list()
        g.close()
        statuses.append(g.wait())
    assert statuses[0] in (0, 128) and statuses[1] == statuses[0]
