"""Below PATH lies what the kernel makes up for whoever opens it: a procfs with the server's own memory, a cgroup, a namespace.

The attack read another client's bytes out of `proc/<the server's pid>/mem`, and wrote there: the kernel always lets a
process at its own memory, so no jail helps.
"""

import contextlib
import errno
import fcntl
import os
import pty
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from conftest import Start
from disks import run, unmount
from faulty import STATFS, faulty
from hosts import fails, fails_in_one_line
from hosts import run as program
from prison import USER, served
from runsc import Runsc, Variant, bind, bundle, container, one_file_gofer

from gofer.conform.peer import Peer

MODE, UID = 0x2, 0x8  # of a SetStat mask
Mount = Callable[..., Path]

OF_A_PROCESS = ["mem", "maps", "environ", "auxv", "fd", "fd/0", "root", "exe", "cwd", "ns/net", "map_files", "attr/current"]
# They store files, so they are served; all others that the kernel mounts without a device must be refused.
STORING = {"tmpfs", "devtmpfs", "ramfs", "hugetlbfs", "overlay", "devpts"}


@pytest.fixture
def mount(spot: Path) -> Iterator[Mount]:
    """mount(name, type) mounts on a new directory of that name in `spot`, mount(name, bind=PATH) binds a file or directory."""
    mounted: list[Path] = []

    def mount(name: str, kind: str = "", *options: str, bind: str = "") -> Path:
        place = spot / name
        if not bind or os.path.isdir(bind):
            place.mkdir(exist_ok=True)
        else:
            place.touch()
        run("mount", *(("--rbind", bind) if bind else ("-t", kind, *options, "none")), place)
        mounted.append(place)
        return place

    yield mount
    for place in reversed(mounted):
        if os.path.ismount(place):
            unmount(place)


# A process's own


@pytest.mark.parametrize("kernel_files", ["none", "read"])
@pytest.mark.parametrize("jail", ["auto", "off"])
@pytest.mark.parametrize("user", [0, USER])
def test_nothing_of_a_process_is_reached_through_a_proc_below_path(
    user: int, jail: str, kernel_files: str, spot: Path, mount: Mount
) -> None:
    os.chown(spot, user, user)
    mount("proc", "proc")
    with served(spot, f"--jail={jail}", f"--kernel-files={kernel_files}", user=user) as (peer, pids):
        assert jail == "off" or len(pids) > 1
        _, (proc,) = peer.walk(peer.root, "proc")
        for owner in ["self", "thread-self", *map(str, pids), *(f"{pid}/task/{pid}" for pid in pids)]:
            for name in OF_A_PROCESS:
                path = [*owner.split("/"), *Path(name).parts]
                for attack in (peer.walk, peer.walkstat):
                    with fails(errno.EPERM):
                        attack(peer.root, "proc", *path)
                    with fails(errno.EPERM):
                        attack(proc.fd, *path)
            with fails(errno.EPERM):
                peer.walk(proc.fd, owner.split("/")[0])


@pytest.mark.parametrize("what", ["", "/task", "/fd", "/maps", "/mem", "/environ", "/ns/net"])
def test_nor_where_a_part_of_a_proc_is_mounted_by_itself(what: str, spot: Path, start: Start, mount: Mount) -> None:
    server = start("--jail=off", "--kernel-files=read")
    bound = mount("bound", bind=f"/proc/{server.pid}{what}")
    with server.peer() as peer:
        fd = peer.walk_to("bound")
        with fails(errno.EPERM):
            peer.openat(fd)
        if bound.is_dir():
            for name in ("mem", "maps", "0", str(server.pid)):
                for attack in (peer.walk, peer.walkstat):
                    with fails(errno.EPERM):
                        attack(fd, name)


@pytest.mark.parametrize("kernel_files", ["none", "read"])
@pytest.mark.parametrize("path", ["/proc/self", "/proc/self/fd", "/proc/thread-self", "/proc/self/maps", "/proc/self/mem"])
def test_path_itself_cannot_be_a_process(path: str, kernel_files: str) -> None:
    fails_in_one_line(program("serve", path, f"--kernel-files={kernel_files}"), path, "--kernel-files")


def test_path_itself_is_a_proc_only_where_the_option_says_so() -> None:
    fails_in_one_line(program("serve", "/proc"), "/proc", "--kernel-files")
    with served(Path("/proc"), "--kernel-files=read") as (peer, pids):
        assert peer.pread(peer.openat(peer.walk_to("version")).fd, 0, 4096) == Path("/proc/version").read_bytes()
        for name in ("self", str(os.getpid()), *map(str, pids)):
            with fails(errno.EPERM):
                peer.walk(peer.root, name)


def test_a_proc_that_takes_the_device_number_of_a_tmpfs_is_a_proc(spot: Path, start: Start, mount: Mount) -> None:
    """The kernel gives the number that was freed last: an answer remembered by it would be stale."""
    server = start("--jail=off")
    numbers = [0, 1]
    while numbers[0] != numbers[1]:  # another process may mount something in between
        place = mount("m", "tmpfs")
        (place / "file").write_text("x")
        numbers[0] = os.stat(place).st_dev
        with server.peer() as peer:
            assert peer.pread(peer.openat(peer.walk_to("m", "file")).fd, 0, 9) == b"x"
        unmount(place)
        mount("m", "proc")
        numbers[1] = os.stat(place).st_dev
        with server.peer() as peer:
            with fails(errno.EPERM):
                peer.walk(peer.root, "m", str(server.pid))
        unmount(place)


# What else the kernel makes up


def file_systems() -> list[str]:
    """Those that this kernel mounts without a device."""
    lines = Path("/proc/filesystems").read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith("nodev")]


def test_every_file_system_that_stores_nothing_is_closed(spot: Path, start: Start, mount: Mount) -> None:
    seen = set()
    for kind in file_systems():
        with contextlib.suppress(OSError):  # not to be mounted, or not so
            mount(kind, kind, *(["-o", f"lowerdir=/etc:{spot}"] if kind == "overlay" else []))
            seen.add(kind)
    assert seen >= {"proc", "sysfs", "mqueue", "tmpfs", "overlay", "devpts"}
    made_up = [spot / kind for kind in seen - STORING]
    made_up += [mount("net", bind="/proc/self/ns/net"), mount("sysctl", bind="/proc/sys")]
    made_up += [mount("groups", bind="/sys/fs/cgroup") / group for group in cgroups()]
    server = start()
    with server.peer("channel") as peer:
        for kind in seen & STORING:
            listed = peer.listdir(peer.openat(peer.walk_to(kind)).fd)
            assert {entry.name.decode() for entry in listed} == set(os.listdir(spot / kind)), kind
        for place in made_up:
            closed(peer, place, *place.relative_to(spot).parts)


def cgroups() -> list[str]:
    """Where they are below /sys/fs/cgroup: there itself ("."), or each hierarchy by itself."""
    place = "/sys/fs/cgroup"
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    mounts = [line[1] for line in lines if line[2] in ("cgroup", "cgroup2") and f"{line[1]}/".startswith(f"{place}/")]
    assert mounts, "no cgroups are mounted"
    return [os.path.relpath(mount, place) for mount in mounts]


def closed(peer: Peer, place: Path, *path: str) -> None:
    """The root of a file system can be looked at, and that is all. path: its names for the peer."""
    fd = peer.walk_to(*path)
    assert peer.fstat(fd).ino == os.stat(place).st_ino
    attacks: list[Callable[[], object]] = [
        lambda: peer.openat(fd),
        lambda: peer.openat(fd, os.O_RDWR),
        lambda: peer.setstat(fd, MODE, mode=0o777),
        lambda: peer.setstat(fd, UID, uid=1),
        lambda: peer.fsetxattr(fd, "user.x", b""),
        lambda: peer.fremovexattr(fd, "user.x"),
    ]
    if place.is_dir():
        for name in [*os.listdir(place)[:3], "gofer-test"]:
            attacks += [
                lambda name=name: peer.walk(fd, name),
                lambda name=name: peer.walkstat(fd, name),
                lambda name=name: peer.unlinkat(fd, name),
                lambda name=name: peer.unlinkat(fd, name, 0x200),
                lambda name=name: peer.renameat(fd, name, peer.root, "gofer-test"),
                lambda name=name: peer.renameat2(peer.root, "none", fd, name, 2),
            ]
        attacks += [
            lambda: peer.opencreateat(fd, "gofer-test"),
            lambda: peer.mkdirat(fd, "gofer-test"),
            lambda: peer.mknodat(fd, "gofer-test"),
            lambda: peer.symlinkat(fd, "gofer-test", "x"),
            lambda: peer.linkat(fd, peer.root, "gofer-test"),
        ]
    else:
        attacks += [lambda: peer.linkat(peer.root, fd, "gofer-test")]
    for attack in attacks:
        with fails(errno.EPERM):
            attack()


def test_the_terminal_that_the_server_was_started_on_is_no_file(spot: Path) -> None:
    """/dev/tty is another device for each process that opens it."""
    os.mknod(spot / "tty", 0o20666, os.makedev(5, 0))
    os.mknod(spot / "null", 0o20666, os.makedev(1, 3))
    ours, terminal = pty.openpty()

    def on_a_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    try:
        with served(spot, "--jail=off", "--char-devices=open", preexec_fn=on_a_terminal) as (peer, _):
            assert len(peer.openat(peer.walk_to("null")).donated) == 1
            with fails(errno.ENXIO):
                peer.openat(peer.walk_to("tty"), os.O_RDWR)
    finally:
        os.close(ours)
        os.close(terminal)


def test_a_file_system_that_does_not_say_what_it_is_is_an_ordinary_one(spot: Path, start: Start) -> None:
    """statfs(2) of the kernel's own never fails; a FUSE server may not know it."""
    with faulty() as broken:
        broken.fail(STATFS, errno.ENOSYS)
        for options in ((), ("--jail=off",), ("--read-only", "--jail=off")):
            server = start(*options, tree=broken.path)
            with server.peer() as peer:
                opened = peer.openat(peer.walk_to("file"))
                assert peer.pread(opened.fd, 0, 9) == b"hello"
                assert len(opened.donated) == ("--read-only" not in options)
            server.stop()


# --kernel-files=read


@pytest.fixture
def reader(spot: Path, start: Start, mount: Mount) -> Iterator[Peer]:
    """A client of a server that lets read a procfs, a sysfs and cgroups."""
    mount("proc", "proc")
    mount("sys", "sysfs")
    mount("groups", bind="/sys/fs/cgroup")
    with start("--kernel-files=read").peer("channel") as peer:
        yield peer


def test_what_everybody_may_read_is_read_where_the_option_says_so(reader: Peer) -> None:
    for name in ("proc/version", "proc/sys/kernel/ostype", "sys/kernel/fscaps", f"groups/{cgroups()[0]}/cgroup.procs"):
        path = Path(name).parts
        assert len(reader.walkstat(reader.root, *path)) == len(path)
        opened = reader.openat(reader.walk_to(*path))
        assert opened.donated == [], "the client could open it anew for writing"
        what = Path("/sys/fs/cgroup", *path[1:]) if path[0] == "groups" else Path("/", name)
        assert path[0] == "groups" or reader.pread(opened.fd, 0, 4096) == what.read_bytes()
        reader.pread(opened.fd, 0, 4096)
    for name in ("proc", "proc/sys/kernel", "sys", "sys/kernel"):
        listed = reader.listdir(reader.openat(reader.walk_to(*Path(name).parts)).fd)
        assert {"version", "ostype", "kernel", "fscaps"} & {entry.name.decode() for entry in listed}, name
    assert reader.readlinkat(reader.walk_to("proc", "mounts")) == b"self/mounts"


def test_what_only_root_may_read_is_not(reader: Peer) -> None:
    for name in ("proc/kmsg", "proc/kcore", "proc/sysrq-trigger", "sys/kernel/vmcoreinfo", "sys/kernel/uevent_helper"):
        if os.path.exists(f"/{name}") and not os.stat(f"/{name}").st_mode & 0o4:
            with fails(errno.EPERM):
                reader.openat(reader.walk_to(*Path(name).parts))


def test_nothing_there_is_written_made_or_removed(reader: Peer) -> None:
    for name in ("proc/sys/kernel/hostname", "sys/kernel/fscaps", f"groups/{cgroups()[0]}/cgroup.procs"):
        fd = reader.walk_to(*Path(name).parts)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_TRUNC):
            with fails(errno.EPERM):
                reader.openat(fd, flags)
        with fails(errno.EPERM):
            reader.setstat(fd, MODE, mode=0o666)
    for name in ("proc", "sys", f"groups/{cgroups()[0]}"):
        fd = reader.walk_to(*Path(name).parts)
        for attack in (reader.mkdirat, reader.opencreateat, reader.mknodat, reader.unlinkat):
            with fails(errno.EPERM):
                attack(fd, "gofer-test")  # type: ignore[operator]


def test_other_kernel_files_stay_closed(spot: Path, start: Start, mount: Mount) -> None:
    place = mount("mqueue", "mqueue")
    with start("--kernel-files=read").peer() as peer:
        closed(peer, place, "mqueue")


# A container of the real runsc


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.mark.slow
def test_a_container_with_the_hosts_proc_reads_no_gofers_memory(variant: Variant, spot: Path, one_file: Path) -> None:
    """An ordinary program in it could, and become the gofer. A directfs sandbox opens the files itself: they are its own."""
    the_gofers = variant.does("a kernel's file is the gofer's to open")
    script = f"""
        cat /host/version
        for process in /host/[0-9]* /host/self /host/thread-self; do
            cat $process/maps $process/task/*/maps && echo read $process
            {"echo x > $process/mem && echo wrote $process" * the_gofers}
        done 2>/dev/null
        {"echo evil > /host/sys/kernel/hostname ||" * the_gofers} echo refused
    """
    (spot / "bundle").mkdir()
    bundle(spot / "bundle", script, bind("/host", "/proc", "rbind", "rw"))
    runsc = Runsc(spot, one_file, variant)
    done = runsc.run("run", f"--bundle={spot}/bundle", container())
    said, version = done.stdout, Path("/proc/version").read_text()
    if the_gofers:
        assert said == f"{version}refused\n"
    else:
        assert said.startswith(version) and "read /host/self" in said and "python" not in said
    assert ("--directfs=false keeps it out" in runsc.gofer_log()) != the_gofers
    assert runsc.served_by_us() == 1
