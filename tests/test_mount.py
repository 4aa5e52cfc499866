"""`gofer mount`: what programs do in a mounted tree, and what becomes of it."""

import contextlib
import errno
import os
import resource
import signal
import stat as modes
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hosts import CALM, CHECKOUT, Server, children, ended, fails, fails_in_one_line, run, wait_until
from mounting import Mount, mount, mounted
from prison import as_user


@pytest.fixture
def there(server: Server) -> Iterator[Mount]:
    with mount(server) as made:
        yield made


@contextlib.contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Somebody has it open; at the end there may be nobody any more who would say that it can be closed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.close(fd)


def git(*words: str, at: Path) -> str:
    environment = {**os.environ, "HOME": str(at), "GIT_CONFIG_NOSYSTEM": "1"}
    names = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=main"]
    return subprocess.run(
        ["git", *names, *words], cwd=at, env=environment, stdout=subprocess.PIPE, check=True, text=True, timeout=CALM
    ).stdout


def test_what_is_served_is_a_directory_like_any_other(there: Mount) -> None:
    (there.tree / "dir/sub").mkdir(parents=True)
    (there.tree / "dir/file").write_bytes(bytes(range(256)) * 1000)
    os.symlink("dir/file", there.tree / "link")
    assert sorted(os.listdir(there.path)) == ["dir", "link"]
    assert (there.path / "link").read_bytes() == bytes(range(256)) * 1000
    assert os.readlink(there.path / "link") == "dir/file"
    ours, theirs = os.lstat(there.path / "dir/file"), os.lstat(there.tree / "dir/file")
    for field in ("st_ino", "st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_blocks"):
        assert getattr(ours, field) == getattr(theirs, field), field


def test_what_is_written_here_is_there(there: Mount) -> None:
    (there.path / "new").write_bytes(b"x" * 100_000)
    os.mkdir(there.path / "dir", 0o700)
    os.link(there.path / "new", there.path / "dir/hard")
    os.rename(there.path / "new", there.path / "dir/moved")
    os.symlink("t" * 300, there.path / "dir/link")
    os.chmod(there.path / "dir/moved", 0o4751)
    os.chown(there.path / "dir/moved", 12, 34)
    os.utime(there.path / "dir/moved", ns=(5, 7 * 10**9 + 9))
    os.truncate(there.path / "dir/moved", 7)
    found = os.stat(there.tree / "dir/moved")
    assert (found.st_size, found.st_nlink, found.st_uid, found.st_gid) == (7, 2, 12, 34)
    assert os.readlink(there.tree / "dir/link") == "t" * 300
    assert modes.S_IMODE(os.stat(there.tree / "dir").st_mode) == 0o700
    os.unlink(there.path / "dir/hard")
    os.unlink(there.path / "dir/link")
    os.unlink(there.path / "dir/moved")
    os.rmdir(there.path / "dir")
    assert os.listdir(there.tree) == []


def test_cp_and_git_work_in_it(there: Mount) -> None:
    subprocess.run(["cp", "-a", str(Path(__file__).parent / "fuzz"), there.path / "copy"], check=True)
    assert subprocess.run(["diff", "-r", Path(__file__).parent / "fuzz", there.tree / "copy"]).returncode == 0
    repository = there.path / "copy"
    git("init", "-q", at=repository)
    git("add", ".", at=repository)
    git("commit", "-q", "-m", "all", at=repository)
    assert "nothing to commit" in git("status", at=repository)
    git("fsck", "--strict", at=repository)
    git("gc", "-q", at=repository)
    git("fsck", "--strict", at=repository)
    assert git("status", "--porcelain", at=there.tree / "copy") == ""


@pytest.mark.serve("--donate", "no")
def test_its_table_of_fds_is_large_before_there_are_threads(there: Mount) -> None:
    """As that of the server, and for the same reason: each open file is one here, too."""
    os.listdir(there.path)
    found = dict(line.split(":", 1) for line in Path(f"/proc/{there.pid}/status").read_text().splitlines())
    assert int(found["FDSize"]) >= min(4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def test_a_server_that_gives_no_fds_is_read_and_written_by_messages(there: Mount) -> None:
    data = os.urandom(5 << 20)
    (there.path / "file").write_bytes(data)
    assert (there.tree / "file").read_bytes() == data
    assert (there.path / "file").read_bytes() == data
    with open(there.path / "file", "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"changed", 3_000_000)
        os.fsync(file.fileno())
    assert (there.tree / "file").read_bytes() == data[:3_000_000] + b"changed" + data[3_000_007:]


def test_more_names_than_fds_are_walked_and_each_is_still_the_same_file(start: "object", server: Server) -> None:
    """A trial with one FD for each node died of EMFILE."""
    for i in range(400):
        (server.tree / f"d{i % 20}").mkdir(exist_ok=True)
        (server.tree / f"d{i % 20}" / str(i)).write_text(str(i))
    before = len(server.open_fds())
    with mount(server, "--fd-budget", "32", "--cache=none") as there:
        for _ in range(2):
            for i in range(400):
                assert (there.path / f"d{i % 20}" / str(i)).read_text() == str(i)
        wait_until(lambda: len(server.open_fds()) <= before + 32 + 10, lambda: f"FDs are given back: {len(server.open_fds())}")


def test_a_file_whose_place_was_taken_is_stale_and_its_path_means_the_new_one(server: Server) -> None:
    for name in ("a", "b"):
        (server.tree / name).mkdir()
        (server.tree / name / "file").write_text(name)
    with mount(server, "--fd-budget", "8", "--cache=always") as there:
        held = os.open(there.path / "a/file", os.O_PATH)
        try:
            for i in range(40):  # until no FD is left on it
                os.mkdir(there.path / f"{i}")
            os.rename(server.tree / "a", server.tree / "old")
            os.rename(server.tree / "b", server.tree / "a")
            with fails(errno.ESTALE):
                os.chmod(f"/proc/self/fd/{held}", 0o600)
            os.chmod(there.path / "a/file", 0o640)  # the kernel looks it up again
        finally:
            os.close(held)
    found = [modes.S_IMODE(os.stat(server.tree / name / "file").st_mode) for name in ("a", "old")]
    assert found == [0o640, 0o644]


def test_a_file_that_was_removed_while_open_stays_what_it_is(there: Mount) -> None:
    (there.path / "file").write_bytes(b"contents")
    with open(there.path / "file", "r+b", buffering=0) as file:
        os.unlink(there.path / "file")
        (there.path / "file").write_bytes(b"another")
        assert os.fstat(file.fileno()).st_nlink == 0
        file.write(b"CON")
        assert os.pread(file.fileno(), 100, 0) == b"CONtents"
        os.ftruncate(file.fileno(), 3)
        os.fchmod(file.fileno(), 0o600)
        assert os.fstat(file.fileno()).st_size == 3
    assert (there.tree / "file").read_bytes() == b"another"


def test_a_path_below_the_root_can_be_mounted(server: Server) -> None:
    (server.tree / "dir/sub").mkdir(parents=True)
    (server.tree / "dir/sub/file").write_text("deep")
    os.symlink("dir/sub", server.tree / "link")
    with mount(server, sub="link") as there:
        assert os.listdir(there.path) == ["file"]
        assert (there.path / "file").read_text() == "deep"


def test_read_only_refuses_every_change(server: Server) -> None:
    (server.tree / "file").write_text("kept")
    with mount(server, "--read-only") as there:
        assert (there.path / "file").read_text() == "kept"
        for change in (
            lambda: os.open(there.path / "file", os.O_RDWR),
            lambda: os.open(there.path / "file", os.O_RDONLY | os.O_TRUNC),
            lambda: os.mkdir(there.path / "dir"),
            lambda: os.unlink(there.path / "file"),
            lambda: os.chmod(there.path / "file", 0),
            lambda: os.truncate(there.path / "file", 0),
        ):
            with fails(errno.EROFS):
                change()
    assert (server.tree / "file").read_text() == "kept"


def test_in_the_background_it_returns_when_it_can_be_used_and_umount_ends_it(server: Server, spot: Path) -> None:
    (server.tree / "file").write_text("there")
    done = run("mount", str(server.path), str(spot))
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert (spot / "file").read_text() == "there"
    finally:
        done = run("umount", str(spot))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert os.listdir(spot) == []
    wait_until(lambda: len(server.open_fds()) == server.fds, "the mount process ends")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_also_while_it_is_in_use(server: Server, number: int) -> None:
    (server.tree / "file").write_text("there")
    with mount(server) as there, in_use(there.path / "file"):
        there.process.send_signal(number)
        assert there.process.wait() == 0
        assert not mounted(there.path)
        wait_until(lambda: ended(there.pid), "the mount process ends")


def test_a_mount_process_that_is_killed_leaves_nothing_mounted(server: Server) -> None:
    (server.tree / "file").write_text("there")
    with mount(server) as there:
        with in_use(there.path / "file"):
            os.kill(there.pid, signal.SIGKILL)
            assert there.process.wait() == 1
        assert not mounted(there.path)
        assert "killed" in there.said()


def test_a_server_that_is_gone_is_an_error_at_once_and_the_place_can_be_unmounted(start: "object", spot: Path) -> None:
    """In a trial whoever used the mount then could not even be killed."""
    tree = spot / "tree"
    tree.mkdir()
    (tree / "file").write_text("there")
    server = Server(tree)
    try:
        with mount(server, "--cache=none") as there:
            assert (there.path / "file").read_text() == "there"
            for pid in (server.pid, server.process.pid):
                os.kill(pid, signal.SIGKILL)
            server.process.wait()
            for _ in range(3):
                with fails(errno.ENOTCONN):
                    os.stat(there.path / "file")
            done = run("umount", str(there.path))
            assert (done.returncode, done.stderr) == (0, "")
            assert there.process.wait() == 0
    finally:
        server.kill()


def test_what_cannot_be_mounted_is_one_line_and_leaves_nothing(server: Server, spot: Path) -> None:
    socket = str(server.path)
    (spot / "file").touch()
    (spot / "full").mkdir()
    (spot / "full/file").touch()
    (spot / "empty").mkdir()
    for address, place, *words in (
        (socket, "file", "not a directory"),
        (socket, "nowhere", "No such file"),
        (socket, "full", "not empty"),
        (socket + ":/nowhere", "empty", "No such file"),
        (str(spot / "no.sock") + ":", "empty", "cannot connect"),
        (str(spot / "file") + ":", "empty", "not a socket"),
    ):
        fails_in_one_line(run("mount", address, str(spot / place)), *words)
        fails_in_one_line(run("mount", "--foreground", address, str(spot / place)), *words)
    assert str(spot) not in Path("/proc/self/mountinfo").read_text()
    with mount(server) as there:
        fails_in_one_line(run("mount", socket, str(there.path)), "mounted there already")
    fails_in_one_line(run("umount", str(spot / "empty")), "nothing that gofer has mounted")
    fails_in_one_line(run("mount", "-o", "nonsense", socket, str(spot / "empty")), "nonsense")


@pytest.mark.parametrize("limit", range(6, 12))
def test_too_few_fds_for_what_is_asked_are_named_and_nothing_else_is(server: Server, spot: Path, limit: int) -> None:
    """A channel is two fds from the server: those that have no place here do not come."""
    (server.tree / "file").touch()
    (spot / "m").mkdir()
    few = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, limit))
    mounts = run("mount", str(server.path), str(spot / "m"), preexec_fn=few)
    if mounts.returncode:
        fails_in_one_line(mounts, "Too many open files; raise the limit of open files")
    else:
        assert os.listdir(spot / "m") == ["file"]
        assert run("umount", str(spot / "m")).returncode == 0
    lists = run("ls", f"{server.path}:", preexec_fn=few)
    assert (lists.returncode, lists.stdout, lists.stderr) == (0, "file\n", ""), lists
    assert limit > 6 or mounts.returncode == 1


NOBODY = 65534  # fusermount3 asks for the user's name


@pytest.fixture
def user_place(spot: Path) -> Iterator[Path]:
    """tree, and m, a user's. And /dev/fuse is everybody's, as udev has it; in many containers it is root's."""
    before = modes.S_IMODE(os.stat("/dev/fuse").st_mode)
    os.chmod("/dev/fuse", before | 0o666)
    for name in ("tree", "m"):
        (spot / name).mkdir()
        os.chown(spot / name, NOBODY, NOBODY)
    os.chown(spot, NOBODY, NOBODY)
    (spot / "tree/file").write_text("there")
    yield spot
    os.chmod("/dev/fuse", before)


def test_an_ordinary_user_mounts_by_fusermount3(user_place: Path) -> None:
    with as_user(NOBODY) as (command, who):
        socket = f"{user_place}/socket"
        server = subprocess.Popen([*command, "serve", f"{user_place}/tree", "--quiet", "--socket", socket], **who)
        try:
            wait_until(lambda: os.path.exists(socket), "the server listens")
            argv = [*command, "mount", socket, f"{user_place}/m"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=CALM, **who)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            code = "import os, sys; os.chdir(sys.argv[1]); print(open('file').read()); open('new', 'w').write('x' * 99999)"
            argv = [command[0], "-c", code, f"{user_place}/m"]
            assert subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True, **who).stdout == "there\n"
            with fails(errno.EACCES):  # root is somebody else here
                os.listdir(user_place / "m")
            argv = [*command, "umount", f"{user_place}/m"]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=CALM, **who)
            assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
            found = os.stat(user_place / "tree/new")
            assert (found.st_size, found.st_uid) == (99999, NOBODY)
        finally:
            server.terminate()
            server.wait()
            while mounted(user_place / "m"):
                subprocess.run(["umount", "-l", user_place / "m"], check=True)


def test_a_users_mount_process_that_is_killed_is_unmounted(user_place: Path) -> None:
    with as_user(NOBODY) as (command, who):
        socket = f"{user_place}/socket"
        server = subprocess.Popen([*command, "serve", f"{user_place}/tree", "--quiet", "--socket", socket], **who)
        try:
            wait_until(lambda: os.path.exists(socket), "the server listens")
            argv = [*command, "mount", "--foreground", socket, f"{user_place}/m"]
            guard = subprocess.Popen(argv, stderr=subprocess.PIPE, **who)
            with guard:
                wait_until(lambda: mounted(user_place / "m") or guard.poll() is not None, "it is mounted")
                wait_until(lambda: bool(children(guard.pid)), "there is a mount process")
                os.kill(children(guard.pid)[0], signal.SIGKILL)
                assert guard.wait() == 1
            assert not mounted(user_place / "m")
        finally:
            server.terminate()
            server.wait()


def test_a_user_without_fusermount3_is_told_what_to_install(server: Server, user_place: Path) -> None:
    with as_user(NOBODY) as (command, who):
        socket = f"{user_place}/socket"
        served = subprocess.Popen([*command, "serve", f"{user_place}/tree", "--quiet", "--socket", socket], **who)
        try:
            wait_until(lambda: os.path.exists(socket), "the server listens")
            argv = [*command, "mount", socket, f"{user_place}/m"]
            environment = {**os.environ, "PATH": "/nowhere"}
            done = subprocess.run(argv, capture_output=True, text=True, timeout=CALM, env=environment, **who)
        finally:
            served.terminate()
            served.wait()
    fails_in_one_line(done, "fusermount3", "install fuse3")
    assert not mounted(user_place / "m")


def test_mount_and_fstab_know_the_type_where_the_program_has_its_name(server: Server, spot: Path) -> None:
    """As mount(8) calls it: mount.gofer SOURCE DIR -o OPTIONS."""
    (spot / "m").mkdir()
    (server.tree / "file").write_text("there")
    os.chmod(server.tree / "file", 0o666)
    program = spot / "mount.gofer"
    start = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\nfrom gofer.__main__ import main\nsys.exit(main())\n"
    program.write_text(f"#!{sys.executable}\n{start}")
    program.chmod(0o755)
    options = "rw,noatime,_netdev,cache=always,allow_other,uid=7,umask=022,name=some name"
    done = subprocess.run([program, f"{server.path}:/", spot / "m", "-o", options], capture_output=True, text=True, timeout=CALM)
    try:
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        line = next(line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {spot}/m " in line)
        assert line.startswith(f"some\\040name {spot}/m fuse.gofer rw,nosuid,nodev,noatime,") and "allow_other" in line
        found = os.stat(spot / "m/file")
        assert (found.st_uid, modes.S_IMODE(found.st_mode)) == (7, 0o644)
    finally:
        done = run("umount", str(spot / "m"))
    assert (done.returncode, done.stderr) == (0, "")
    wait_until(lambda: len(server.open_fds()) == server.fds, "the mount process ends")
