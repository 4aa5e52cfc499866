"""What a server sees of the host's mounts below PATH after its start: where they are shared, where private, and in a chroot.

Each test has a host of its own: a mount namespace, in which the server is started and things are mounted.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from disks import run
from hosts import CALM, GOFER, TRANSPORTS, Server, children, over_socket_of, wait_until
from prison import USER, as_user
from runsc import Runsc, Variant, bind, bundle, one_file_gofer

from gofer.conform.peer import Peer

FOLLOWED = "mounts below it come and go with the host's"


class Host:
    """A mount namespace, with a tmpfs at `place` of the given propagation; nothing of it is left when its process ends."""

    def __init__(self, place: Path, propagation: str) -> None:
        script = "echo ready; exec sleep 1000"
        argv = ["unshare", "-m", "--propagation", "private", "sh", "-c", script]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None and self.process.stdout.readline() == b"ready\n"
        self.enter = ["nsenter", f"--target={self.process.pid}", "--mount"]
        self.place = place
        self.run("mount", "-t", "tmpfs", "gofer-test", place)
        self.run("mount", f"--make-{propagation}", place)
        self.run("mkdir", place / "tree")

    def run(self, *argv: "str | Path") -> None:
        run(*self.enter, *argv)

    def mount(self, where: str, *names: str) -> None:
        """A tmpfs, with files of these names."""
        path = self.place / "tree" / where
        self.run("mkdir", "-p", path)
        self.run("mount", "-t", "tmpfs", "gofer-test", path)
        for name in names:
            self.run("touch", path / name)

    def unmount(self, where: str, *options: str) -> None:
        self.run("umount", *options, self.place / "tree" / where)

    def unmount_soon(self, where: str) -> None:
        """As soon as the server has closed what clients had there that are gone."""

        def is_done() -> bool:
            try:
                self.unmount(where)
            except OSError as error:
                assert "busy" in str(error)
                return False
            return True

        wait_until(is_done, f"{where} is not busy any more")

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture
def host(request: pytest.FixtureRequest, spot: Path) -> Iterator[Host]:
    host = Host(spot, request.param)
    yield host
    host.end()


def names(server: Server, *path: str) -> "set[bytes]":
    """What a new client finds there."""
    with over_socket_of(server.connect) as peer:
        return listed(peer, peer.walk_to(*path) if path else peer.root)


def listed(peer: Peer, fd: int) -> "set[bytes]":
    opened = peer.openat(fd).fd
    found = {entry.name for entry in peer.listdir(opened)}
    peer.close(opened)
    return found


def mount_points(server: Server) -> "list[set[str]]":
    """Of the supervisor and each worker."""
    pids = [server.process.pid]
    for pid in pids:
        pids += children(pid)
    return [{line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()} for pid in pids]


def root_line(server: Server) -> str:
    found = re.search(r"root \((.*?before the start\)|.*?)\)", server.said())
    assert found, server.said()
    return found[0]


@pytest.mark.parametrize("host", ["shared"], indirect=True)
def test_where_the_mount_is_shared_all_workers_follow_the_host(start: Start, host: Host) -> None:
    host.mount("first", "in-first")
    host.mount("first/nested", "in-nested")
    server = start("--workers", "2", tree=host.place / "tree", wrap=host.enter)
    assert FOLLOWED in root_line(server) and "stays in use" not in server.said()
    assert all(points == {"/", "/first", "/first/nested"} for points in mount_points(server))
    for _ in range(3):  # clients of either worker
        assert names(server, "first", "nested") == {b"in-nested"}
    host.unmount_soon("first/nested")
    host.mount("later", "in-later")
    host.mount("later/deep", "in-deep")
    for _ in range(3):
        assert names(server, "first") == {b"in-first", b"nested"} and names(server, "first", "nested") == set()
        assert names(server, "later", "deep") == {b"in-deep"}
    host.unmount_soon("first")
    assert all(points == {"/", "/later", "/later/deep"} for points in mount_points(server))


@pytest.mark.parametrize("host", ["private"], indirect=True)
def test_where_it_is_private_the_first_lines_say_what_that_means_and_how_to_change_it(start: Start, host: Host) -> None:
    host.mount("first", "in-first")
    server = start(tree=host.place / "tree", wrap=host.enter)
    assert (
        f"stay as they are: {host.place} is private (`mount --make-rshared {host.place}` before the start)"
        in server.said()
    )
    (warning,) = [line for line in server.said().splitlines() if "warning" in line]
    assert f"{host.place}/tree/first: if the host unmounts" in warning and "stays in use" in warning
    host.unmount("first")
    host.mount("later", "in-later")
    assert names(server, "first") == {b"in-first"} and names(server, "later") == set()
    server.stop()
    host.run("mount", "--make-rshared", host.place)  # the advice
    server = start(tree=host.place / "tree", wrap=host.enter)
    assert FOLLOWED in root_line(server) and "warning" not in server.said()
    host.mount("much-later", "in-much-later")
    assert names(server, "much-later") == {b"in-much-later"} and names(server, "later") == {b"in-later"}


@pytest.mark.parametrize("host", ["private"], indirect=True)
def test_a_private_mount_below_a_shared_one_is_named_and_goes_all_the_same(start: Start, host: Host) -> None:
    """What is told of an unmount is the mount around."""
    host.run("mount", "--make-shared", host.place)
    host.mount("inner")
    host.run("mount", "--make-private", host.place / "tree/inner")
    server = start(tree=host.place / "tree", wrap=host.enter)
    assert f"{host.place}/tree/inner is private" in root_line(server) and "warning" not in server.said()
    host.mount("inner/later", "in-later")
    assert names(server, "inner", "later") == set()
    host.unmount("inner/later")
    host.unmount("inner")
    assert all(points == {"/"} for points in mount_points(server))


@pytest.mark.parametrize("host", ["private"], indirect=True)
def test_without_a_jail_the_mounts_are_the_hosts_own(start: Start, host: Host) -> None:
    host.mount("first", "in-first")
    server = start("--jail=off", tree=host.place / "tree", wrap=host.enter)
    host.unmount("first")
    host.mount("later", "in-later")
    assert names(server, "first") == set() and names(server, "later") == {b"in-later"}


@pytest.mark.parametrize("host", ["shared"], indirect=True)
def test_a_user_in_a_namespace_of_his_own_follows_the_host_as_well(host: Host) -> None:
    tree = host.place / "tree"
    host.run("chown", f"{USER}:{USER}", tree)
    switch = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    with as_user(USER) as (command, how):
        script = 'read line; "$@" ls "$GOFER_SOCKET" later'
        argv = [*host.enter, *switch, *command, "serve", str(tree), "--socket", f"/dev/shm/gofer-{os.getpid()}"]
        argv += ["--jail=require", "--", "sh", "-c", script, "sh", *command]
        pipe = subprocess.PIPE
        with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=how["cwd"]) as process:
            assert process.stderr is not None
            line = process.stderr.readline() + process.stderr.readline()
            assert FOLLOWED in line, line
            host.mount("later", "in-later")
            out, err = process.communicate("go\n", timeout=CALM)
    assert process.returncode == 0 and "in-later" in out, err


@pytest.mark.parametrize("host", ["private"], indirect=True)
def test_doctor_says_what_holds_where_it_looks(host: Host) -> None:
    for propagation, said in (("private", "stay as they are"), ("shared", FOLLOWED)):
        host.run("mount", f"--make-{propagation}", host.place)
        environment = {**os.environ, "TMPDIR": str(host.place)}
        argv = [*host.enter, *GOFER, "doctor"]
        done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        assert said in next(line for line in done.stdout.splitlines() if line.lstrip().startswith("root ")), done.stdout


@pytest.mark.parametrize("host", ["shared", "private"], indirect=True)
def test_in_a_chroot_there_is_a_root_of_its_own_too(host: Host) -> None:
    """The chroot's root is no mount, which pivot_root(2) asks for, and what is mounted around it must not stay either."""
    inside = host.place / "inside"
    for name in ("usr", "proc", "dev", "tmp/tree", "work"):
        host.run("mkdir", "-p", inside / name)
    for name in ("bin", "lib", "lib64"):
        host.run("ln", "-s", f"usr/{name}", inside / name)
    for name in ("usr", "proc", "dev"):
        host.run("mount", "--rbind", f"/{name}", inside / name)
    host.run("mount", "--bind", GOFER[1], inside / "work")
    if sys.base_prefix != "/usr":
        host.run("mkdir", "-p", f"{inside}{sys.base_prefix}")
        host.run("mount", "--rbind", sys.base_prefix, f"{inside}{sys.base_prefix}")
    host.run("touch", inside / "tmp/tree/file")
    python = os.path.realpath(sys.executable)
    look = """"$0" /work ls | wc -l
for pid in $PPID $(cat /proc/$PPID/task/$PPID/children); do
    [ $pid = $$ ] || { ls /proc/$pid/root; cut -d' ' -f5 /proc/$pid/mountinfo; }
done"""
    argv = [
        *host.enter,
        "chroot",
        str(inside),
        python,
        "/work",
        "serve",
        "/tmp/tree",
        "--socket",
        "/tmp/s",
        "--workers",
        "1",
    ]
    done = subprocess.run([*argv, "--", "sh", "-c", look, python], capture_output=True, text=True, timeout=CALM)
    private = any(word in done.stderr for word in (f"{host.place} is private", f"{host.place}/inside"))
    assert "root (nosuid,nodev; mounts below it " in done.stderr and private != (FOLLOWED in done.stderr), done.stderr
    assert done.stdout.split() == ["1", *["file", "/"] * 2], (
        "the supervisor and the server have the tree, and no other mount"
    )


# Over the served directory itself


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("host", ["shared"], indirect=True)
def test_what_is_mounted_over_the_served_directory_is_what_clients_get(start: Start, host: Host, transport: str) -> None:
    """google/gvisor#14854. Also those that were there before; what they have walked to stays what it is."""
    host.run("touch", host.place / "tree/under")
    server = start("--jail=off", tree=host.place / "tree", wrap=host.enter)
    with server.peer(transport) as peer:
        below = peer.walk_to("under")
        host.mount("", "over")
        wait_until(lambda: listed(peer, peer.root) == {b"over"}, "the client's root is what was mounted")
        assert names(server) == {b"over"}
        peer.mkdirat(peer.root, "made")
        host.run("test", "-d", host.place / "tree/made")
        assert peer.walk(peer.root, "under") == (1, [])
        for fd in peer.disown(peer.openat(below, os.O_RDWR).donated):
            os.close(fd)
        with pytest.raises(OSError, match="busy"):
            host.unmount("")
        host.unmount("", "--lazy")
        wait_until(lambda: listed(peer, peer.root) == {b"under"}, "it is what it was")
        for number in range(10):  # whatever it looks at meanwhile, the last word is the last mount's
            host.mount("", f"number-{number}")
            host.unmount("", "--lazy")
        host.mount("", "again")
        wait_until(lambda: listed(peer, peer.root) == {b"again"}, "the client's root is what was mounted")
    server.check_idle()
    host.unmount("")  # nobody has it: not busy


@pytest.mark.parametrize("host", ["shared"], indirect=True)
def test_in_a_jail_the_root_stays_below_what_is_mounted_over_it(start: Start, host: Host) -> None:
    """Landlock would not let it open anything there: see mounts.py. Without that the client's root goes with the host."""
    host.run("touch", host.place / "tree/under")
    server = start(tree=host.place / "tree", wrap=host.enter)
    expected = {b"under"} if "landlock (" in server.said() else {b"over"}
    with server.peer() as peer:
        host.mount("", "over")
        wait_until(lambda: listed(peer, peer.root) == expected, "it is what it is to be")
        assert names(server) == expected
        host.unmount("", "--lazy")
        wait_until(lambda: listed(peer, peer.root) == {b"under"}, "it is what it was")


@pytest.mark.parametrize("host", ["shared"], indirect=True)
def test_what_the_kernel_makes_up_is_not_followed(start: Start, host: Host) -> None:
    host.run("touch", host.place / "tree/under")
    server = start(tree=host.place / "tree", wrap=host.enter)
    with server.peer() as peer:
        host.run("mount", "-t", "proc", "gofer-test", host.place / "tree")
        host.mount("../beside", "x")  # one more change, which the server sees after that one
        assert listed(peer, peer.root) == {b"under"}
        host.run("umount", "--lazy", host.place / "tree")


@pytest.mark.parametrize("host", ["private"], indirect=True)
def test_a_file_that_is_served_stays_that_file(start: Start, host: Host) -> None:
    host.run("mount", "--make-shared", host.place)
    host.run("cp", "/etc/hostname", host.place / "tree/file")
    host.run("touch", host.place / "tree/other")
    server = start(tree=host.place / "tree/file", wrap=host.enter)
    with server.peer() as peer:
        size = peer.fstat(peer.root).size
        host.run("mount", "--bind", host.place / "tree/other", host.place / "tree/file")
        assert peer.fstat(peer.root).size == size != 0


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [False, True], ids=["root rw", "root ro"])
@pytest.mark.parametrize("host", ["shared"], indirect=True)
def test_a_container_sees_what_the_host_mounts_over_its_bind(
    host: Host, variant: Variant, read_only: bool, one_file: Path
) -> None:
    """Under a root that is read-only, or has an overlay, for reading only: Landlock looks for rights from there on."""
    tree, seen = host.place / "tree", variant.does("what the host mounts over a bind's own directory is seen")
    writable = not read_only and variant.does("the root's changes are seen on the host")
    host.run("touch", tree / "under")
    host.run("mkdir", host.place / "flag")
    wait = "until [ -e /data/over ]" if seen else "until [ -e /flag/over ]"
    script = f"echo ready; {wait}; do sleep 0.1; done; ls /data; echo x 2>/dev/null > /data/made && echo made || echo refused"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        binds = [bind(f"/{path.name}", str(path), "rbind", "rslave", "rw") for path in (tree, host.place / "flag")]
        binds[0]["destination"] = "/data"
        bundle(place / "b", script, *binds, root={"path": "rootfs", "readonly": read_only})
        runsc = Runsc(place, one_file, variant)
        argv = [*host.enter, *runsc.argv("run", f"--bundle={place}/b", f"over-{os.getpid()}")]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n", runsc.gofer_log()
            host.mount("", "over")
            host.run("touch", host.place / "flag/over")
            out, _ = process.communicate(timeout=CALM)
        expected = ("over\nmade\n" if writable else "over\nrefused\n") if seen else "under\nmade\n"
        assert (out, process.returncode) == (expected, 0)
        assert runsc.served_by_us() == 1
    host.run("test", *([] if seen and writable else ["!"]), "-e", tree / "made")


# Where nothing can be mounted

NO_MOUNT = """
import ctypes, os, struct, sys
number = 165 if os.uname().machine == "x86_64" else 40
deny = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x5000D), (0x06, 0, 0, 0x7FFF0000)]  # EACCES, as from AppArmor
program = b"".join(struct.pack("<HBBI", *each) for each in deny)
text = ctypes.create_string_buffer(program, len(program))
header = ctypes.create_string_buffer(struct.pack("@HxxxxxxQ", len(deny), ctypes.addressof(text)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(22, ctypes.c_ulong(2), header) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("host", ["private"], indirect=True)
def test_where_a_namespace_is_given_and_no_mount_in_it_the_server_stays_in_the_hosts(start: Start, host: Host) -> None:
    """As AppArmor has it in a container with CAP_SYS_ADMIN. What the host unmounts would else stay, and for nothing."""
    host.mount("first", "in-first")
    server = start("--workers", "2", tree=host.place / "tree", wrap=[*host.enter, sys.executable, "-c", NO_MOUNT])
    assert "root (by chroot" in server.said() and "Permission denied" in server.said()
    pids = [server.process.pid]
    for pid in pids:
        pids += children(pid)
    namespaces = {os.readlink(f"/proc/{pid}/ns/mnt") for pid in pids}
    assert namespaces == {os.readlink(f"/proc/{host.process.pid}/ns/mnt")}
    host.unmount("first")
    host.mount("later", "in-later")
    assert names(server, "first") == set() and names(server, "later") == {b"in-later"}
