"""Containers of a real directfs sandbox, line by line of the table in docs/runsc.md; and, as the control, of one that is none.

A directfs sandbox opens nearly all files itself, from what its gofer donates. As a client of our own sees it:
test_runsc_directfs.py.
"""

import errno
import json
import os
import select
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CALM, wait_until
from runsc import Json, Runsc, Variant, bind, bundle, busybox, container, directory, one_file_gofer, pids_named

pytestmark = pytest.mark.slow

C = container()


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture
def runsc(one_file: Path, variant: Variant, spot: Path) -> Iterator[Runsc]:
    runsc = Runsc(spot, one_file, variant)
    yield runsc
    try:
        wait_until(lambda: not pids_named(str(runsc.state)), "all processes end")
    finally:
        for pid in pids_named(str(runsc.state)):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def src(spot: Path) -> Path:
    """What the binds of a test are of."""
    return Path(directory(spot / "src"))


@pytest.fixture
def place(spot: Path) -> Path:
    """Where a test makes its bundle."""
    return Path(directory(spot / "b"))


def contained(runsc: Runsc, place: Path, script: str, *mounts: Json, flags: "tuple[str, ...]" = (), **spec: object) -> str:
    """What the script prints; it must have been served by us."""
    bundle(place, script, *mounts, **spec)
    done = runsc.run("run", f"--bundle={place}", C, flags=list(flags))
    assert runsc.served_by_us() == 1
    return done.stdout


def python(place: Path) -> "tuple[Json, ...]":
    """Mounts by which a container of the bundle at `place` has the host's Python."""
    (place / "rootfs").mkdir()
    for library in ("lib", "lib64"):
        (place / "rootfs" / library).symlink_to(f"usr/{library}")
    return (bind("/usr", "/usr", "rbind", "ro"),)


# Mount and OpenAt of a mount point


def test_do_lists_the_hosts_root(runsc: Runsc) -> None:
    done = runsc.run("do", busybox(), "ls", "/")
    assert {name for name in os.listdir("/") if name[0] != "."} <= set(done.stdout.split())
    assert runsc.served_by_us() == 1


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_a_bind_of_each_kind_is_what_it_is_on_the_host(runsc: Runsc, place: Path, src: Path, mode: str) -> None:
    directory(src / "dir", f="")
    (src / "file").write_text("text")
    os.mkfifo(src / "fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(src / "sock"))
    os.mknod(src / "dev", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    names = {"dir": "d", "file": "f", "fifo": "p", "sock": "S", "dev": "c"}
    script = "".join(f"[ -{letter} /m/{name} ] && stat -c '%a %s' /m/{name};" for name, letter in names.items())
    said = contained(runsc, place, script, *(bind(f"/m/{name}", str(src / name), mode) for name in names))
    info = [os.stat(src / name) for name in names]
    assert said.splitlines() == [f"{stat.S_IMODE(each.st_mode):o} {each.st_size}" for each in info]


def test_files_that_are_mount_points_are_read_and_written_on_the_host(runsc: Runsc, place: Path, src: Path) -> None:
    """As /etc/hosts of every engine."""
    for name in ("cut", "more", "old"):
        (src / name).write_text("from the host\n")
    script = """cat /m/old; echo new > /m/cut; echo more >> /m/more; cat /m/cut /m/more; chmod 640 /m/old
        touch -d '2001-02-03 04:05:06' /m/old; wc -c < /m/more; ls /m"""
    said = contained(runsc, place, script, *(bind(f"/m/{name}", str(src / name)) for name in ("cut", "more", "old")))
    assert said == "from the host\nnew\nfrom the host\nmore\n19\ncut\nmore\nold\n"
    assert [(src / name).read_text() for name in ("cut", "more")] == ["new\n", "from the host\nmore\n"]
    info = os.stat(src / "old")
    assert (stat.S_IMODE(info.st_mode), info.st_mtime) == (0o640, 981173106)


def test_a_directory_that_is_a_mount_point_is_listed_and_changed(runsc: Runsc, place: Path, src: Path) -> None:
    for number in range(300):
        (src / f"entry{number}").touch()
    script = "ls /m | wc -l; rm /m/entry1*; ls /m | wc -l; mkdir /m/made; mv /m/entry2 /m/made/; ls -a /m/made; ls / | grep m"
    said = contained(runsc, place, script, bind("/m", str(src), "rw"))
    left = 300 - sum(str(number)[0] == "1" for number in range(300))
    assert said.split() == ["300", str(left), ".", "..", "entry2", "m", "tmp"]
    assert os.listdir(src / "made") == ["entry2"] and len(os.listdir(src)) == left


def test_a_read_only_mount_is_not_changed_on_the_host(runsc: Runsc, place: Path, src: Path) -> None:
    """runsc's own gofer of 2024 truncates the host's files here while it answers EROFS."""
    directory(src / "dir", f="kept")
    (src / "file").write_text("kept")
    attempts = ["echo x > {}", "echo x >> {}", "rm {}", "chmod 777 {}", "touch {}", "mv {} {}2", "ln {} {}2"]
    script = "".join(f"({attempt.format(*['/ro/f'] * 2)}) 2>/dev/null && echo done {attempt};" for attempt in attempts)
    script += "".join(f"({attempt.format('/rof')}) 2>/dev/null && echo done {attempt};" for attempt in attempts[:5])
    mounts = bind("/ro", str(src / "dir"), "ro"), bind("/rof", str(src / "file"), "ro")
    before = [os.stat(src / name) for name in ("dir", "dir/f", "file")]
    assert contained(runsc, place, script + "cat /ro/f /rof", *mounts) == "keptkept"
    for then, name in zip(before, ("dir", "dir/f", "file")):
        now = os.stat(src / name)
        assert (now.st_mode, now.st_size, now.st_mtime_ns) == (then.st_mode, then.st_size, then.st_mtime_ns), name


def test_the_working_directory_that_an_image_lacks_is_there(runsc: Runsc, place: Path) -> None:
    process = {"args": ["/bin/sh", "-c", "pwd; ls -ld /not/there"], "cwd": "/not/there", "env": ["PATH=/bin"]}
    said = contained(runsc, place, "", process={**process, "user": {"uid": 0, "gid": 0}})
    assert said.startswith("/not/there\ndrwxr-xr-x")
    assert stat.S_IMODE((place / "rootfs/not/there").stat().st_mode) == 0o755, "the gofer made it, until 2025-06"


# FIFOs


def started(runsc: Runsc, place: Path, script: str, *mounts: Json, flags: "tuple[str, ...]" = ()) -> "subprocess.Popen[str]":
    bundle(place, script, *mounts)
    process = runsc.start("run", f"--bundle={place}", C, flags=list(flags))
    assert process.stdout is not None and select.select([process.stdout], [], [], CALM)[0], "the container says nothing"
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("at_the_mount_point", [True, False])
def test_a_fifo_joins_container_and_host_both_ways(
    runsc: Runsc, place: Path, src: Path, at_the_mount_point: bool
) -> None:
    for name in ("to", "fro"):
        os.mkfifo(src / name)
    script = "echo ready; read line < /m/to; echo got $line > /m/fro; chmod 606 /m/to; echo done"
    mounts = [bind(f"/m/{name}", str(src / name)) for name in ("to", "fro")]
    mounts = mounts if at_the_mount_point else [bind("/m", str(src))]
    fro = os.open(src / "fro", os.O_RDONLY | os.O_NONBLOCK)
    try:
        process = started(runsc, place, script, *mounts, flags=("--host-fifo=open",))
        # Waits until the container, or its sandbox, has opened it; what is written and closed before the container has
        # is lost in one of five cases under directfs, whatever the gofer.
        with open(src / "to", "w", buffering=1) as to:
            to.write("from the host\n")
            assert select.select([fro], [], [], CALM)[0] and os.read(fro, 100) == b"got from the host\n"
        out, err = process.communicate(timeout=CALM)
    finally:
        os.close(fro)
    assert (out, process.returncode) == ("done\n", 0), err
    assert stat.S_IMODE(os.stat(src / "to").st_mode) == 0o606
    assert runsc.served_by_us() == 1


def test_a_container_that_has_not_opened_its_fifo_is_no_reader_of_it(runsc: Runsc, place: Path, src: Path) -> None:
    """Under runsc's own gofer it is: a writer on the host does not wait, and what it wrote is lost with the container."""
    for name in ("fifo", "go"):
        os.mkfifo(src / name)
    mounts = bind("/m/fifo", str(src / "fifo")), bind("/go", str(src / "go"))
    process = started(runsc, place, "echo ready; read go < /go", *mounts, flags=("--host-fifo=open",))
    try:
        os.close(os.open(src / "fifo", os.O_WRONLY | os.O_NONBLOCK))
        waits = False
    except OSError as error:
        assert error.errno == errno.ENXIO
        waits = True
    (src / "go").write_text("on\n")
    process.communicate(timeout=CALM)
    assert waits == runsc.variant.does("a container is no reader of a FIFO that it has not opened")
    assert process.returncode == 0 and runsc.served_by_us() == 1


def test_a_fifo_is_not_opened_where_no_option_allows_it(runsc: Runsc, place: Path, src: Path) -> None:
    os.mkfifo(src / "fifo")
    script = "cat /m/fifo; echo $?; echo x > /m/fifo; echo $?"
    assert contained(runsc, place, script, bind("/m/fifo", str(src / "fifo"))) == "1\n1\n"


# Sockets

CONNECT = r"""
import socket, sys
for path in sys.argv[1:]:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.connect(path); sock.sendall(b"hello"); print(sock.recv(100).decode())
    except OSError as error:
        print(error.errno)
"""
LISTEN = r"""
import os, socket
server = socket.socket(socket.AF_UNIX); server.bind("/m/deep/made"); os.chmod("/m/deep/made", 0o606); server.listen()
print("ready", flush=True)
conn, _ = server.accept(); conn.sendall(conn.recv(100).upper())
"""


def args(script: str, *words: str) -> Json:
    command = ["/usr/bin/python3", "-IS", "-c", script, *words]
    return {"args": command, "cwd": "/", "env": ["PATH=/bin:/usr/bin"], "user": {"uid": 0, "gid": 0}}


@pytest.mark.parametrize("option", ["open", "none"])
def test_sockets_of_the_host_are_connected_to(runsc: Runsc, place: Path, src: Path, option: str) -> None:
    """One that is a mount point, one below a mount point, and one that nobody listens to."""
    mounts = [*python(place), bind("/m", str(src)), bind("/sock", str(src / "sock"))]
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as deaf:
        server.bind(str(src / "sock"))
        server.listen()
        deaf.bind(str(src / "deaf"))
        bundle(place, "", *mounts, process=args(CONNECT, "/sock", "/m/sock", "/m/deaf"))
        process = runsc.start("run", f"--bundle={place}", C, flags=[f"--host-uds={option}"])
        for _ in range(2 if option == "open" else 0):
            server.settimeout(CALM)
            conn, _ = server.accept()
            with conn:
                conn.sendall(b"host heard " + conn.recv(100))
        out, err = process.communicate(timeout=CALM)
    refused = f"{errno.ECONNREFUSED}\n"
    assert out == ("host heard hello\n" * 2 if option == "open" else refused * 2) + refused, err
    assert runsc.served_by_us() == 1


def test_a_socket_bound_in_a_mount_is_one_of_the_host(runsc: Runsc, place: Path, src: Path) -> None:
    """Its directory is not the mount point: the sandbox walks there first."""
    directory(src / "deep")
    mounts = [*python(place), bind("/m", str(src))]
    bundle(place, "", *mounts, process=args(LISTEN))
    process = runsc.start("run", f"--bundle={place}", C, flags=["--host-uds=all"])
    assert process.stdout is not None and select.select([process.stdout], [], [], CALM)[0]
    assert process.stdout.readline() == "ready\n"
    made = os.stat(src / "deep/made")
    assert stat.S_ISSOCK(made.st_mode) and stat.S_IMODE(made.st_mode) == 0o606
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(CALM)
        client.connect(str(src / "deep/made"))
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
    assert (process.communicate(timeout=CALM), process.returncode) == (("", ""), 0)
    assert runsc.served_by_us() == 1


def test_the_mode_of_a_socket_that_is_a_mount_point_is_changed(runsc: Runsc, place: Path, src: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(src / "sock"))
    contained(runsc, place, "chmod 604 /sock", bind("/sock", str(src / "sock")))
    assert stat.S_IMODE(os.stat(src / "sock").st_mode) == 0o604


# The rest


def test_a_restored_container_mounts_again(runsc: Runsc, place: Path, src: Path, spot: Path) -> None:
    """And goes on with the files that it had open, a file that is a mount point among them."""
    (src / "log").touch()
    directory(src / "dir")
    script = "exec 3>> /m/log; echo began >&3; until [ -e /d/go ]; do sleep 0.1; done; echo went on >&3; ls /d"
    bundle(place, script, bind("/m/log", str(src / "log")), bind("/d", str(src / "dir")))
    runsc.run("create", f"--bundle={place}", C, quiet=True)
    runsc.run("start", C)
    wait_until(lambda: (src / "log").read_text() == "began\n", "the container has begun", CALM)
    runsc.run("checkpoint", f"--image-path={spot}/image", C)
    runsc.run("delete", "--force", C)
    (src / "dir/go").touch()
    done = runsc.run("restore", f"--image-path={spot}/image", f"--bundle={place}", C)
    assert done.returncode == 0 and (src / "log").read_text() == "began\nwent on\n"
    assert runsc.served_by_us() == 2


def test_a_profiled_start_is_served(runsc: Runsc, place: Path, spot: Path) -> None:
    """Every such start has the gofer's fds for Go's profiler among the flags; there is no Go here to be profiled."""
    flags = ("--profile", f"--trace={spot}/trace", f"--profile-cpu={spot}/cpu")
    assert contained(runsc, place, "echo served", flags=flags) == "served\n"


def test_a_runsc_that_is_too_new_starts_nothing(runsc: Runsc, place: Path, one_file: Path, spot: Path) -> None:
    """Made so by a gofer between: it hands on one more fd than this runsc would."""
    newer = spot / "newer"
    newer.write_text(
        f"""#!/usr/bin/python3
import os, sys
at = sys.argv.index("gofer") + 1
os.execv("{one_file}", ["{one_file}", *sys.argv[1:at], "--sync-new-fd=2", *sys.argv[at:]])
"""
    )
    newer.chmod(0o755)
    bundle(place, "echo started")
    argv = runsc.argv("run", f"--bundle={place}", C, flags=[f"--log={spot}/log", "--log-format=json"])
    argv[1:2] = ["runsc", f"--gofer={newer}"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM)
    assert done.returncode == 128 and done.stdout == ""
    messages = [json.loads(line)["msg"] for line in (spot / "log").read_text().replace("}{", "}\n{").splitlines()]
    told = [message for message in messages if "-sync-new-fd" in message]
    assert told and "--directfs=false" in told[0] and "runsc's own gofer" in told[0], messages
    wait_until(lambda: not pids_named(str(runsc.state)), "nothing goes on running")
    assert os.listdir(runsc.state) == [] and sorted(os.listdir(place / "rootfs")) == ["bin"]
