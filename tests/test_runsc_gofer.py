"""The stand-in for `runsc gofer`, started as runsc starts it, with a client of our own on each io-fd.

Needs root: it builds a root file system in a mount namespace. As the real runsc does it: test_runsc_containers.py.
"""

import errno
import json
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from hosts import CHECKOUT, fails, open_fds, wait_until
from runsc import Json, Started, bind

Start = Callable[..., Started]


@pytest.fixture
def gofer(spot: Path) -> Iterator[Start]:
    """gofer(spec, *words, ...) starts one whose bundle is `spot`, with an empty rootfs in it."""
    started: list[Started] = []
    (spot / "rootfs").mkdir()

    def start(spec: Any, *words: str, **how: Any) -> Started:
        started.append(Started(spot, spec, *words, **how))
        return started[-1]

    yield start
    for each in started:
        each.close()


def spec_of(*mounts: Json, **changes: Any) -> Json:
    spec: Json = {"process": {"args": ["true"], "cwd": "/"}, "root": {"path": "rootfs"}, "mounts": list(mounts)}
    spec.update(changes)
    return spec


def directory(path: Path, **files: str) -> str:
    path.mkdir(parents=True)
    for name, text in files.items():
        (path / name).write_text(text)
    return str(path)


def destinations(started: Started) -> list[str]:
    return [mount["destination"] for mount in json.loads(started.mount_list())]


def mount_flags(pid: int) -> dict[str, list[str]]:
    """By mount point in the process's namespace, the per-mount options of the topmost mount."""
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return {line[4]: line[5].split(",") for line in lines}


# The root file system


def test_each_io_fd_serves_its_mount_in_the_specs_order_and_the_first_serves_the_root(gofer: Start, spot: Path) -> None:
    one, two = directory(spot / "one", f="1"), directory(spot / "two", f="22")
    g = gofer(
        spec_of(bind("/m/one", one), {"destination": "/proc", "type": "proc", "source": "proc"}, bind("/two", two)),
        io=3,
    )
    assert destinations(g) == ["/m/one", "/proc", "/two"]
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
    assert destinations(g) == [real]
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
    assert destinations(g) == ["/d/link", "/d"]


def test_a_mount_on_the_root_itself_covers_it(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/", directory(spot / "s", f="covers")), bind("/sub", directory(spot / "t", g=""))), io=3)
    assert destinations(g) == ["/", "/sub"]
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
    flags = mount_flags(g.pid)
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
    assert "ro" in mount_flags(g.pid)["/"]
    with fails(errno.EROFS):
        peer.mkdirat(peer.root, "x")


def test_under_an_overlay_on_all_mounts_no_mount_takes_writes(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"), "rw")), io=2, flags=["--overlay2=all:memory"])
    g.mount_list()
    assert "ro" in mount_flags(g.pid)["/m"]
    peer = g.peer(1)
    with fails(errno.EROFS):
        peer.mkdirat(peer.root, "x")


def test_binds_of_directories_with_mounts_below_take_them_along_only_with_rbind(gofer: Start, spot: Path) -> None:
    """/dev/shm is a mount of its own below /dev on every host."""
    g = gofer(spec_of(bind("/r", "/dev", "rbind"), bind("/b", "/dev", "bind")), io=3)
    g.mount_list()
    assert "/r/shm" in mount_flags(g.pid) and "/b/shm" not in mount_flags(g.pid)


def test_nothing_but_the_root_file_system_can_be_reached(gofer: Start, spot: Path) -> None:
    (spot / "rootfs/only").write_text("")
    g = gofer(spec_of())
    g.mount_list()
    g.peer()
    assert set(mount_flags(g.pid)) == {"/"}
    assert os.listdir(f"/proc/{g.pid}/root") == ["only"]
    for fd in os.listdir(f"/proc/{g.pid}/fd"):
        path = f"/proc/{g.pid}/fd/{fd}"
        if os.path.isdir(path):
            same = os.path.samestat(os.stat(path), os.stat(path + "/.."))
            assert same, f"fd {fd} leads up, to {os.listdir(path + '/..')[:5]}"


def test_the_hosts_mounts_stay_as_they_are_even_where_nobody_made_a_namespace(gofer: Start, spot: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2)
    g.mount_list()
    g.peer(0)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert os.readlink(f"/proc/{g.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")


# What it keeps, and what it gives up


def test_capabilities_umask_groups_and_filter_are_as_a_gofers_should_be(gofer: Start) -> None:
    g = gofer(spec_of())
    g.mount_list()
    g.peer()
    assert int(g.status("CapBnd"), 16) == int(g.status("CapPrm"), 16) == 0x4001F  # chown to fsetid, sys_chroot
    assert int(g.status("CapEff"), 16) & ~0x4001F == 0
    assert int(g.status("CapInh"), 16) == int(g.status("CapAmb"), 16) == 0
    assert (g.status("Umask"), g.status("NoNewPrivs"), g.status("Seccomp")) == ("0000", "1", "2")
    assert Path(f"/proc/{g.pid}/status").read_text().count("Groups:\t \n") == 1


@pytest.mark.parametrize("host_uds,more", [("open", 0xC0), ("all", 0xC0), ("create", 0), ("none", 0)])
def test_connecting_as_another_user_takes_two_more_capabilities(gofer: Start, host_uds: str, more: int) -> None:
    g = gofer(spec_of(), flags=[f"--host-uds={host_uds}"])
    g.mount_list()
    g.peer()
    assert int(g.status("CapPrm"), 16) == 0x4001F | more


def test_the_fd_limit_is_the_one_given_or_else_the_hard_limit(gofer: Start) -> None:
    g = gofer(spec_of(), flags=["--fdlimit=321"])
    g.mount_list()
    g.peer()
    limits = Path(f"/proc/{g.pid}/limits").read_text()
    assert re.search(r"Max open files +321 +321 ", limits)


def test_an_fd_limit_above_the_hard_one_is_only_warned_of(gofer: Start) -> None:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    g = gofer(spec_of(), flags=["--fdlimit=99999999999"])
    g.mount_list()
    g.peer()
    granted = int(re.search(r"Max open files +(\d+) ", Path(f"/proc/{g.pid}/limits").read_text()).group(1))  # type: ignore[union-attr]
    assert granted >= hard and (granted > hard or "above the hard limit" in g.said())


def test_inherited_fds_that_nobody_named_are_closed(gofer: Start) -> None:
    """gVisor d5e8d33af (#10232); runsc of 2022 leaks some."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    g = gofer(spec_of(), stray=[writer])
    os.close(writer)
    assert select.select([reader], [], [], 10)[0] and os.read(reader, 1) == b""
    os.close(reader)
    g.mount_list()
    g.peer()
    assert "/config.json" not in " ".join(open_fds(g.pid))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signals_meant_for_the_container_do_not_end_its_gofer(gofer: Start, number: int) -> None:
    g = gofer(spec_of())
    g.mount_list()
    peer = g.peer()
    os.kill(g.pid, number)
    assert peer.fstat(peer.root).ino


# The end


def test_it_ends_with_status_0_when_the_last_connection_has_ended_and_not_before(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2)
    g.mount_list()
    peer = g.peer(0)
    g.hang_up(1)
    time.sleep(0.1)
    assert peer.fstat(peer.root).ino and g.process.poll() is None
    peer.disconnect()
    assert g.wait() == 0
    assert "all connections have ended" in g.said()


def test_killed_it_leaves_a_hang_up_on_every_connection_and_no_mount(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m", directory(spot / "s"))), io=2)
    g.mount_list()
    sock = g.peer(0).transport.sock  # type: ignore[union-attr]
    os.kill(g.pid, signal.SIGKILL)
    assert sock.recv(1) == b""
    os.rmdir(spot / "s")  # nothing pins it


# 2026


def test_mount_confs_say_what_is_served_and_what_is_read_only(gofer: Start, spot: Path) -> None:
    mounts = bind("/a", directory(spot / "a")), bind("/b", directory(spot / "b")), bind("/c", directory(spot / "c"))
    confs = "lisafs:none,lisafs:memory,none:memory,lisafs:none"
    g = gofer(spec_of(*mounts), f"--gofer-mount-confs={confs}", "id", io=3)
    assert destinations(g) == ["/a", "/b", "/c"]
    assert set(mount_flags(g.pid)) == {"/", "/a", "/c"}
    a, c = g.peer(1), g.peer(2)
    with fails(errno.EROFS):
        a.mkdirat(a.root, "x")
    c.mkdirat(c.root, "x")
    assert (spot / "c/x").is_dir()


def test_a_root_that_is_not_ours_is_an_empty_tmpfs_for_our_mounts(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(bind("/m/n", directory(spot / "s", f=""))), "--gofer-mount-confs=erofs:memory,lisafs:none", "id")
    assert destinations(g) == ["/m/n"]
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
    assert destinations(g) == ["/m"]


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
    assert destinations(g) == ["/m"]
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


def test_a_start_loads_none_of_the_slow_modules_of_the_standard_library() -> None:
    """Each costs 1 to 7 ms of a start of 25."""
    slow = {"argparse", "enum", "json", "logging", "re", "signal", "socket", "subprocess", "threading", "typing"}
    code = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import gofer.cli, gofer.runsc.gofer; print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-BIS", "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    assert slow & set(run.stdout.split()) == set()


# Prepared roots: what benches and the differential test use


def test_a_root_that_is_prepared_already_is_served_as_it_is(gofer: Start, spot: Path) -> None:
    (spot / "rootfs/f").write_text("")
    words = "--setup-root=false", "--apply-caps=false"
    g = gofer(spec_of(), *words, flags=["--TESTONLY-unsafe-nonroot=true"])
    assert g.mount_list() == b"[]"
    assert g.peer().walk_to("f")
    assert os.listdir(f"/proc/{g.pid}/root") == ["f"], "it is chrooted all the same"
    assert os.listdir(spot / "rootfs") == ["f"]


# Logs


def test_the_debug_log_tells_version_and_posture_in_gos_format(gofer: Start) -> None:
    g = gofer(spec_of())
    g.mount_list()
    g.peer().disconnect()
    g.wait()
    lines = g.said().splitlines()
    form = r"[DIW]\d{4} \d\d:\d\d:\d\d\.\d{6} {1,7}\d+ \w+\.py:\d+\] \S"
    assert all(re.match(form, line) for line in lines), lines
    assert re.search(rf"I\d{{4}} .* {g.pid} gofer\.py:\d+\] gofer 0\.", lines[0])
    assert any("] jail: " in line and "seccomp (kill)" in line for line in lines)


@pytest.mark.parametrize("form,key", [("json", "msg"), ("json-k8s", "log")])
def test_the_debug_log_in_json(gofer: Start, form: str, key: str) -> None:
    g = gofer(spec_of(), flags=[f"--debug-log-format={form}"])
    g.mount_list()
    g.peer()
    lines = [json.loads(line) for line in g.said().splitlines()]
    assert all(list(line) == [key, "level", "time"] for line in lines)
    assert lines[0]["level"] == "info" and re.match(r"gofer\.py:\d+\] gofer 0", lines[0][key])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", lines[0]["time"])


def test_debug_lines_come_only_with_debug(gofer: Start) -> None:
    g = gofer(spec_of(), flags=["--debug"])
    g.mount_list()
    g.peer().disconnect()
    g.wait()
    assert any(line.startswith("D") for line in g.said().splitlines())


def test_the_error_log_may_be_named_by_path(gofer: Start, spot: Path) -> None:
    g = gofer(spec_of(root={}), flags=[f"--log={spot}/by-path"], logs=[])
    assert g.wait() == 128
    assert json.loads((spot / "by-path").read_text())["level"] == "error"


# Bad input

MOUNTS = [bind("/made", "/usr")]


@pytest.mark.parametrize(
    "spec,io,says",
    [
        (b"", 1, "not JSON"),
        (spec_of(root=None), 1, "root.path"),
        (spec_of(process={"args": []}), 1, "process.args"),
        (spec_of(*MOUNTS, bind("relative", "/usr")), 3, "absolute path: 'relative'"),
        (spec_of(*MOUNTS, bind("/x", "/usr", "nonsense")), 3, "unknown option 'nonsense'"),
        (spec_of(*MOUNTS, bind("/x", "/nowhere/at/all")), 3, "/nowhere/at/all: No such file"),
        (spec_of(*MOUNTS, root={"path": "missing"}), 2, "/missing: No such file"),
        (spec_of(*MOUNTS, root={"path": "config.json"}), 2, "Not a directory"),
        (spec_of(*MOUNTS), 1, "too few"),
        (spec_of(*MOUNTS), 3, "too many"),
    ],
)
def test_bad_input_ends_with_128_a_json_line_and_one_clear_line_and_nothing_made(
    gofer: Start, spot: Path, spec: object, io: int, says: str
) -> None:
    g = gofer(spec, io=io, logs=["log"])
    assert g.wait() == 128
    said = g.process.stderr.read().decode()  # type: ignore[union-attr]
    assert said.startswith("gofer: ") and says in said and said.count("\n") == 1
    (error,) = g.errors()
    assert list(error) == ["msg", "level", "time"] and error["level"] == "error" and says in error["msg"]
    assert os.listdir(spot / "rootfs") == []
    assert g.mount_list() == b""


@pytest.mark.parametrize(
    "destination,says",
    [("/loop/x", "Too many levels"), ("/file/x", "Not a directory"), ("/file", "Not a directory")],
)
def test_a_destination_that_cannot_be_reached_is_named(gofer: Start, spot: Path, destination: str, says: str) -> None:
    (spot / "rootfs/loop").symlink_to("loop")
    (spot / "rootfs/file").write_text("")
    g = gofer(spec_of(bind(destination, directory(spot / "s"))), io=2)
    assert g.wait() == 128
    assert says in g.errors()[0]["msg"] and destination in g.errors()[0]["msg"]


@pytest.mark.parametrize(
    "words,says",
    [
        (["--io-fds=200"], "--io-fds=200: no such file descriptor"),
        (["--spec-fd=99"], "--spec-fd=99: no such file descriptor"),
        (["--sync-chroot-fd=99999999999"], "no such file descriptor"),
        (["--io-fds=2"], "--io-fds=2: not a Unix stream socket"),
        (["--new-fd=3"], "flag provided but not defined: -new-fd"),
        (["--bundle="], "--bundle is required"),
    ],
)
def test_wrong_fds_and_flags_are_named(gofer: Start, words: "list[str]", says: str) -> None:
    g = gofer(spec_of(bind("/x", "/usr")), *words, logs=["log"])
    assert g.wait() == 128
    assert says in g.errors()[0]["msg"]


def test_one_fd_for_two_purposes_is_refused(gofer: Start, spot: Path) -> None:
    log = os.open(spot / "log2", os.O_CREAT | os.O_RDWR)
    os.set_inheritable(log, True)
    g = gofer(spec_of(), f"--rpc-fd={log}", f"--pin-ring-fd={log}", stray=[log])
    os.close(log)
    assert g.wait() == 128 and "also given as" in g.errors()[0]["msg"]


def test_a_fault_of_our_own_is_told_too(gofer: Start, spot: Path) -> None:
    """A full pipe that nobody reads, whose other end closes: the mount list cannot be written."""
    mounts = [{"destination": f"/{i}", "type": "tmpfs"} for i in range(20000)]
    g = gofer(spec_of(*mounts))
    wait_until(lambda: "Serving" in g.said(), "it is about to write the list")
    g.drop_mount_list()
    assert g.wait() == 128 and "--mounts-fd: Broken pipe" in g.errors()[0]["msg"]
