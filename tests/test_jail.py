"""The jail, layer by layer: what `gofer serve` looks like from outside, and what somebody inside cannot do."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import GOFER, PATIENCE, Server, fails_in_one_line, links, over_socket_of, run, serving, wait_until
from prison import NO_SYS_ADMIN, USER, attempt, started

NAMESPACES = ("mnt", "net", "ipc", "uts", "pid")
FILES = sum(
    1 << number for number in (0, 1, 2, 3, 4, 18)
)  # chown dac_override dac_read_search fowner fsetid sys_chroot
IDENTITY = 1 << 6 | 1 << 7  # setgid, setuid
XATTRS = 1 << 21 | 1 << 31  # sys_admin, setfcap
CAPABILITIES = [((), FILES), (("--host-uds=open",), FILES | IDENTITY), (("--xattrs=all",), FILES | XATTRS)]

_libc = ctypes.CDLL(None, use_errno=True)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespace(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


@pytest.fixture
def secret(spot: Path) -> Iterator[Path]:
    """A directory beside the served one, with a file in it."""
    place = spot.with_name("secret")
    place.mkdir()
    (place / "file").write_text("secret")
    yield place
    (place / "file").unlink()
    place.rmdir()


# What the live server looks like from outside


def test_the_server_is_in_namespaces_of_its_own(server: Server) -> None:
    for kind in NAMESPACES:
        assert namespace(server.pid, kind) != namespace(os.getpid(), kind), kind
    assert status(server.pid)["NSpid"].split()[1:] == ["1"]


def test_its_root_is_the_served_tree_and_the_only_mount(server: Server) -> None:
    (server.tree / "here").touch()
    assert os.listdir(f"/proc/{server.pid}/root") == ["here"]
    (line,) = Path(f"/proc/{server.pid}/mountinfo").read_text().splitlines()
    fields = line.split(" ")
    assert fields[4] == "/" and {"nosuid", "nodev"} <= set(fields[5].split(","))


@pytest.mark.serve("--read-only")
def test_what_is_served_read_only_is_mounted_read_only(server: Server) -> None:
    assert "ro" in Path(f"/proc/{server.pid}/mountinfo").read_text().split(" ")[5].split(",")


@pytest.mark.parametrize("options,expected", CAPABILITIES)
def test_its_capabilities_are_those_that_serving_files_takes(
    options: tuple[str, ...], expected: int, start: Start
) -> None:
    found = {name: int(value, 16) for name, value in status(start(*options).pid).items() if name.startswith("Cap")}
    assert found["CapBnd"] == found["CapPrm"] == expected
    assert found["CapEff"] == expected & ~(1 << 4)  # fsetid is raised only where it is needed
    assert found["CapInh"] == found["CapAmb"] == 0


def test_no_new_privs_no_groups_no_core_a_filter_not_dumpable(start: Start) -> None:
    """CVE-2022-0358 for the groups, CVE-2025-2713 for "before the first byte"."""
    server = start("--fd-limit", "500", extra_groups=[7, 8])
    found = status(server.pid)
    assert (found["NoNewPrivs"], found["Seccomp"], found["Groups"]) == ("1", "2", "")
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    rows = {line[:25].strip(): line[25:].split()[:2] for line in limits.splitlines()}
    assert rows["Max core file size"] == ["0", "0"] and rows["Max open files"] == ["500", "500"]


def test_the_supervisor_gives_up_what_it_does_not_need(server: Server) -> None:
    pid = server.process.pid
    found = status(pid)
    kill = 1 << 5
    assert (found["NoNewPrivs"], found["Seccomp"], int(found["CapBnd"], 16)) == ("1", "2", FILES | kill)
    for kind in NAMESPACES[:-1]:
        assert namespace(pid, kind) == namespace(server.pid, kind), kind

    def places() -> set[str]:
        return {link.partition(":[")[0] for fd, link in links(pid).items() if fd > 2}

    own = {"pipe", "anon_inode", "anon_inode:seccomp notify", str(server.place)}
    wait_until(lambda: places() == own, places)


def test_the_posture_is_told_at_start(server: Server) -> None:
    (line,) = [line for line in server.said().splitlines() if "jail:" in line]
    for name in ("root", "network", "ipc", "uts", "pid", "capabilities", "no_new_privs", "groups", "seccomp (kill)"):
        assert name in line


def test_without_a_jail_nothing_changes(start: Start) -> None:
    server = start("--jail=off")
    assert server.pid == server.process.pid
    assert [namespace(server.pid, kind) for kind in NAMESPACES] == [namespace(os.getpid(), k) for k in NAMESPACES]
    assert status(server.pid)["Seccomp"] == "0" and "jail: off" in server.said()


# What somebody inside cannot do; seccomp="off", so that the layer below is what holds


def test_no_path_leads_out_of_the_root(spot: Path, secret: Path) -> None:
    (spot / "link").symlink_to(secret / "file")
    out = os.path.relpath(secret / "file", spot)
    for path in (str(secret / "file"), "/proc/self/status", f"/{out}", "/link", "/../etc/passwd"):
        assert attempt(f"os.open({path!r}, os.O_PATH)", spot, seccomp="off") == "ENOENT", path
    for start in ("root", "procself._proc_fd", "os.open('/', os.O_RDONLY)", "os.open('.', os.O_PATH)"):
        for path in (out, "../" * 9 + "etc/passwd", "../self/root/etc/passwd"):
            assert attempt(f"os.open({path!r}, os.O_PATH, dir_fd={start})", spot, seccomp="off") == "ENOENT", (
                start,
                path,
            )


@pytest.mark.parametrize("start", ["root", "procself._proc_fd", "os.open('.', os.O_PATH)"])
def test_dotdot_stays_where_it_is(start: str, spot: Path) -> None:
    """54a66a663, a8062eab8: also from the directory that fds are reopened through, and from the root a client may get."""
    same = f"[os.stat(p, dir_fd={start}).st_ino for p in ('.', '..', '../..')]"
    assert attempt(f"len(set({same}))", spot, seccomp="off") == "1"


def test_a_served_file_has_no_neighbours(spot: Path, secret: Path) -> None:
    (spot / "file").write_text("shown")
    (spot / "other").write_text("hidden")
    assert attempt("os.read(fds.reopen(root, os.O_RDONLY), 9)", spot / "file") == "b'shown'"
    assert attempt("os.open('/other', os.O_PATH)", spot / "file") == "ENOENT"
    assert attempt("os.open('/new', os.O_CREAT)", spot / "file") == "EROFS"
    with started("(os.write(1, b'ready'), os.read(0, 1))[0]", spot / "file") as process:
        assert process.stdout and process.stdout.read(5) == "ready"
        assert os.listdir(f"/proc/{serving(process.pid)}/root") == ["file"]


def test_a_user_serves_a_file_without_its_neighbours_too(spot: Path) -> None:
    (spot / "file").write_text("shown")
    for path in (spot, spot / "file"):
        os.chown(path, USER, USER)
    read = "(os.read(fds.reopen(root, os.O_RDONLY), 9), len(posture.missing()), os.getpid())"
    assert attempt(read, spot / "file", user=USER) == "(b'shown', 0, 1)"


def test_a_file_whose_directory_is_gone_is_served_without_a_new_root(spot: Path) -> None:
    (spot / "dir").mkdir()
    (spot / "dir/file").write_text("shown")
    remove = "os.unlink({0!r} + '/file'); os.rmdir({0!r})".format(str(spot / "dir"))
    read = "(os.read(fds.reopen(root, os.O_RDONLY), 9), [layer.name for layer in posture.missing()])"
    assert attempt(read, spot / "dir/file", before=remove) == "(b'shown', ['root'])"


def test_a_device_in_the_tree_cannot_be_opened(spot: Path) -> None:
    """573a9e73c, CVE-2026-96812: nodev, unless --char-devices allows it."""
    os.mknod(spot / "null", 0o20666, os.makedev(1, 3))
    assert attempt("os.open('/null', os.O_RDONLY)", spot) == "EACCES"
    assert attempt("os.open('/null', os.O_RDONLY) > 0", spot, char_devices="open") == "True"


def test_a_directory_outside_that_is_open_already_leads_to_no_file(spot: Path, secret: Path) -> None:
    """Landlock: the root does not stop an fd from before, and nothing but it stops one with a hijacked server."""
    leak = f"outside = os.open({str(secret)!r}, os.O_PATH)"
    for call, expected in (
        ("os.open('file', os.O_RDONLY, dir_fd=outside)", "EACCES"),
        ("os.open('file', os.O_WRONLY, dir_fd=outside)", "EACCES"),
        ("os.open('new', os.O_CREAT, dir_fd=outside)", "EACCES"),
        ("os.unlink('file', dir_fd=outside)", "EACCES"),
        ("os.mkdir('new', dir_fd=outside)", "EACCES"),
        ("os.rename('file', 'gofer', src_dir_fd=outside, dst_dir_fd=root)", "EXDEV"),
    ):
        assert attempt(call, spot, before=leak) == expected, call
    assert (secret / "file").read_text() == "secret"


def test_a_program_in_the_tree_cannot_be_run(spot: Path) -> None:
    (spot / "program").write_text("#!/program\n")
    (spot / "program").chmod(0o4755)
    assert attempt("os.execv('/program', ['program'])", spot, seccomp="off") == "EACCES"


def test_read_only_is_the_kernels_word(spot: Path) -> None:
    (spot / "file").touch()
    assert attempt("os.open('/file', os.O_RDWR)", spot, read_only=True) == "EROFS"
    assert attempt("os.chmod('file', 0, dir_fd=root)", spot, read_only=True) == "EROFS"


def test_abstract_sockets_of_the_host_are_out_of_reach(spot: Path) -> None:
    name = f"gofer-test-{os.getpid()}"  # the machine's, and another run of the suite may have one
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0" + name)
        listener.listen()
        call = f"socket.socket(socket.AF_UNIX).connect('\\0{name}')"
        assert attempt(call, spot, mode="off") == "None"
        assert attempt(call, spot, host_uds="all") == "ECONNREFUSED"


def test_system_v_memory_of_the_host_is_out_of_reach(spot: Path) -> None:
    key = 0x60FE0000 + os.getpid() % 0x10000
    shm = _libc.shmget(key, 4096, 0o1666)
    assert shm >= 0
    try:
        find = f"call(29, {key}, 0, 0)"
        assert attempt(find, spot, mode="off") == "done"
        assert attempt(find, spot, seccomp="off") == "ENOENT"
    finally:
        _libc.shmctl(shm, 0, None)


def test_processes_of_the_host_are_out_of_reach(spot: Path) -> None:
    assert attempt("os.getpid()", spot) == "1"
    assert attempt(f"os.kill({os.getpid()}, 0)", spot, seccomp="off") == "ESRCH"


@pytest.mark.parametrize(
    "call",
    [
        "socket.sethostname('x')",
        "call(165, b'none', b'/', b'tmpfs', 0, None)",
        "call(272, 0x20000)",
        "os.mknod('x', 0o60666, os.makedev(7, 0), dir_fd=root)",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        "os.setuid(1)",
        "os.setgroups([1])",
        "os.nice(-1)",
        "call(169, 0, 0, 0)",
    ],
)
def test_capabilities_that_went_are_missed(call: str, spot: Path) -> None:
    assert attempt(call, spot, seccomp="off") == "EPERM"


def test_limits_cannot_be_raised_again(spot: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    lower = "fds.set_fd_limit(100)"
    # No OSError: Python makes EPERM a ValueError here, whose text ends the run.
    for limit, value in (("RLIMIT_NOFILE", hard), ("RLIMIT_CORE", 1)):
        said = attempt(f"resource.setrlimit(resource.{limit}, ({value},) * 2)", spot, before=lower, seccomp="off")
        assert said == "ValueError: not allowed to raise maximum limit"


def test_groups_are_gone(spot: Path) -> None:
    assert attempt("os.getgroups()", spot, groups=[7, 8], seccomp="off") == "[]"
    assert attempt("os.getgroups()", spot, groups=[7, 8], mode="off") == "[7, 8]"


# Who is not root


def test_a_user_gets_there_by_a_user_namespace_with_his_own_id(spot: Path) -> None:
    os.chown(spot, USER, USER)
    assert attempt("[layer.name for layer in posture.missing()]", spot, user=USER) == "[]"
    assert (
        attempt("(os.getuid(), os.getgid(), os.getpid(), os.listdir('/'))", spot, user=USER)
        == f"({USER}, {USER}, 1, [])"
    )
    assert attempt("caps.effective_set()", spot, user=USER) == "frozenset()"
    assert attempt("os.open('/etc/passwd', os.O_PATH)", spot, user=USER) == "ENOENT"


WORK = """
def result(call, *args, **kwargs):
    try:
        return call(*args, **kwargs)
    except OSError as e:
        return errno.errorcode[e.errno]

def work():
    here = {"dir_fd": root}
    two = {"src_dir_fd": root, "dst_dir_fd": root}
    own = os.getuid(), os.getgid()
    fd = os.open("file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640, **here)
    return [
        os.write(fd, b"12345"),
        os.fstat(fd)[4:7],
        result(os.chown, "file", *own, **here),
        result(os.chmod, "file", 0o4711, **here),
        result(os.utime, "file", (1, 2), **here),
        result(os.setxattr, str(fd), "user.x", b"1"),
        result(os.getxattr, str(fd), "user.x"),
        result(os.setxattr, str(fd), "trusted.x", b"1"),
        result(os.mkdir, "dir", **here),
        result(os.symlink, "file", "link", **here),
        result(os.link, "file", "dir/two", **two),
        result(os.rename, "dir/two", "three", **two),
        result(os.mknod, "white", 0o20600, 0, **here),
        result(os.mknod, "null", 0o20600, os.makedev(1, 3), **here),
        result(os.truncate, fd, 2),
        sorted((name, os.stat(name, follow_symlinks=False, **here)[:7]) for name in os.listdir(fds.reopen(root, 0)))[0][0],
        result(os.open, "closed", os.O_RDWR, **here),
        result(os.rmdir, "dir", **here),
        result(os.unlink, "white", **here),
        [oct(os.stat(name, follow_symlinks=False, **here).st_mode) for name in ("file", "link", "three")],
    ]
"""


def test_a_user_does_in_the_jail_what_he_does_without(spot: Path) -> None:
    results = []
    for mode in ("off", "auto", "require"):
        tree = spot / mode
        tree.mkdir()
        (tree / "closed").touch(0)
        for path in (tree, tree / "closed"):
            os.chown(path, USER, USER)
        results.append(attempt("work()", tree, before=WORK, user=USER, mode=mode, seccomp="errno"))
    assert results[0].startswith("[5, (54321, 54321, 5)") and "EACCES" in results[0]
    assert results[0] == results[1] == results[2]


def test_another_process_of_the_same_user_cannot_look_into_it(spot: Path) -> None:
    """Not dumpable: neither /proc/PID/mem nor ptrace(2). `auto` with a group, so that no user namespace is what forbids it."""
    os.chown(spot, USER, USER)
    look = "open('/proc/{}/mem', 'rb').close() or 'seen'"
    for mode, expected in (("off", "seen"), ("auto", "EACCES")):
        ready = "(os.write(1, b'ready'), os.read(0, 1))[0]"
        with started(ready, spot, user=USER, groups=[7], mode=mode) as process:
            assert process.stdout and process.stdout.read(5) == "ready"
            assert attempt(look.format(serving(process.pid)), spot, user=USER, mode="off") == expected


def test_a_user_keeps_his_view_of_ids_where_a_user_namespace_would_change_it(spot: Path) -> None:
    """His own tree and no other groups: then there is nothing to change. --jail=require enters it all the same."""
    lacks = "[layer.name for layer in posture.missing()]"
    namespaces = "['root', 'network', 'ipc', 'uts', 'pid']"
    os.chown(spot, USER, USER)
    assert attempt(lacks, spot, user=USER) == "[]"
    assert attempt(lacks, spot, user=USER, others_connect=True) == namespaces
    assert (
        attempt("posture.lines()[1][:40]", spot, user=USER, groups=[7])
        == "jail: missing: root, network, ipc, uts, pid"[:40]
    )
    os.chown(spot, USER, 7)
    assert attempt(lacks, spot, user=USER) == namespaces
    assert attempt(f"({lacks}, os.fstat(root)[4:6])", spot, user=USER, mode="require") == f"([], ({USER}, 65534))"


def test_landlock_and_the_filter_hold_where_the_namespaces_are_left_out(spot: Path, secret: Path) -> None:
    os.chmod(secret, 0o755)
    (secret / "file").chmod(0o644)
    os.chown(spot, USER, 7)
    read = f"os.read(os.open({str(secret / 'file')!r}, os.O_RDONLY), 9)"
    assert attempt(read, spot, user=USER, mode="off") == "b'secret'"
    assert attempt(read, spot, user=USER) == "EACCES"
    assert attempt("os.fork()", spot, user=USER) == f"killed by {int(signal.SIGSYS)}"
    assert attempt("os.write(os.open('new', os.O_CREAT | os.O_RDWR, dir_fd=root), b'xyz')", spot, user=USER) == "3"


def test_root_is_told_from_other_users_by_the_sockets_mode(spot: Path) -> None:
    """In a user namespace both read as 65534; a socket of mode 0600 lets in nobody but its owner and root."""
    os.chown(spot, USER, USER)
    assert attempt("posture.overflow_is_root", spot, user=USER) == "True"
    assert attempt("posture.overflow_is_root", spot, user=USER, others_connect=True, mode="require") == "False"
    assert attempt("posture.overflow_is_root", spot) == "False"


# Where something is missing


def test_require_refuses_to_serve_and_names_what_is_missing(spot: Path) -> None:
    command = [*NO_SYS_ADMIN, *GOFER, "serve", str(spot), "--socket", f"{spot}.sock", "--jail=require"]
    done = subprocess.run(command, capture_output=True, text=True)
    fails_in_one_line(done, "--jail=require", "network (Operation not permitted)")
    assert not os.path.exists(f"{spot}.sock")


def test_without_the_right_to_make_namespaces_auto_serves_behind_chroot(start: Start) -> None:
    """As root in a container without CAP_SYS_ADMIN."""
    server = start(wrap=NO_SYS_ADMIN)
    lines = [line for line in server.said().splitlines() if "jail:" in line]
    assert len(lines) == 2
    assert "root (by chroot, which is less: there can be no mounts of its own: Operation not permitted)" in lines[0]
    assert "missing: network, ipc, uts, pid: Operation not permitted" in lines[1]
    (server.tree / "file").write_text("x")
    with server.peer("channel") as peer:
        assert peer.pread(peer.openat(peer.walk_to("file")).fd, 0, 9) == b"x"
    assert os.readlink(f"/proc/{server.pid}/root") == str(server.tree)


def test_a_refused_filter_action_is_a_wrong_option() -> None:
    assert run("serve", ".", "--seccomp=trap").returncode == 2


# The supervisor


def test_a_signal_to_the_supervisor_stops_the_server(start: Start) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        server = start()
        server.process.send_signal(number)
        assert server.wait() == 0 and not server.path.exists()


def test_the_supervisor_dies_of_what_the_server_died_of_and_removes_the_socket(start: Start) -> None:
    server = start()
    os.kill(server.pid, signal.SIGKILL)
    assert server.wait() == -signal.SIGKILL
    assert not server.path.exists()


def test_a_crash_of_process_1_is_a_crash(spot: Path) -> None:
    """The kernel drops signals to the first process of a pid namespace, but not those that the process brought on itself."""
    assert attempt("ctypes.string_at(0)", spot) == f"killed by {int(signal.SIGSEGV)}"
    assert attempt("os.abort()", spot).startswith("killed by")


def test_the_server_dies_with_its_supervisor(start: Start) -> None:
    server = start()
    with server.peer("channel") as peer:
        peer.fstat(peer.root)
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{server.pid}"), "the server ends")
    assert server.wait() == -signal.SIGKILL


@pytest.mark.parametrize("ignored", [(), (signal.SIGTERM,), (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)])
def test_it_does_so_after_it_has_been_somebody_else(start: Start, ignored: "tuple[int, ...]") -> None:
    """A change of the thread's user makes the kernel forget PR_SET_PDEATHSIG: the hang-up of a pipe takes its place. Whatever
    signals it was started to ignore."""
    server = start("--host-uds=open", preexec_fn=lambda: [signal.signal(number, signal.SIG_IGN) for number in ignored])
    with socket.socket(socket.AF_UNIX) as host, server.peer() as peer:
        host.bind(str(server.tree / "sock"))
        host.listen()
        os.chmod(server.tree / "sock", 0o777)
        for fd in peer.disown(peer.connectwithcreds(peer.walk_to("sock"), 5, 5)):
            os.close(fd)
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: not os.path.exists(f"/proc/{server.pid}"), "the server ends")
    assert server.wait() == -signal.SIGKILL
    with contextlib.suppress(FileNotFoundError):
        os.unlink(server.tree / "sock")


def test_a_terminals_ctrl_c_stops_the_server_once(start: Start) -> None:
    """It goes to the whole foreground group; a second one would stop the server at once, with status 1."""
    server = start(start_new_session=True)
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.wait() == 0


def cpu_of_children() -> float:
    """Of those that have ended, and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow
def test_the_jail_costs_less_than_thirty_milliseconds_at_start(spot: Path) -> None:
    """CPU time from exec to the end, of the quickest of ten starts each way, taken in turns."""
    quickest = {"auto": 1e9, "off": 1e9}
    for _ in range(10):
        for mode in quickest:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                options = [f"--jail={mode}", "--quiet", "--fd", str(theirs.fileno())]
                before = cpu_of_children()
                server = subprocess.Popen([*GOFER, "serve", str(spot), *options], pass_fds=[theirs.fileno()])
                theirs.close()
                with over_socket_of(ours.dup) as peer:
                    ours.close()
                    assert peer.fstat(peer.root).ino == os.stat(spot).st_ino
                assert server.wait(PATIENCE) == 0
                quickest[mode] = min(quickest[mode], cpu_of_children() - before)
    assert quickest["auto"] - quickest["off"] < 0.030
