"""`HOST:PATH` in a command: a server on the far side of a real ssh."""

import contextlib
import errno
import hashlib
import importlib.util
import io
import mmap
import os
import py_compile
import subprocess
import zipfile
from collections.abc import Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest
from hosts import CALM, GOFER, ended, fails_in_one_line, run, wait_until
from runsc import one_file_gofer
from sshd import HOST, Sshd, sshd
from terminal import Terminal

from gofer import cli
from gofer.client import remote
from gofer.conform.transport import PATIENCE

from slowline import slow_line  # isort: skip

FAR = "/usr/bin:/bin"  # the PATH of a command there


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


@pytest.fixture
def far(spot: Path) -> Iterator[Sshd]:
    with sshd(spot / "sshd", f"SetEnv PATH={FAR}\n") as server:
        yield server


def there(server: Sshd, *argv: str) -> "subprocess.CompletedProcess[str]":
    return run(argv[0], "--ssh", server.command, *argv[1:])


def test_a_command_reads_what_is_on_a_host_that_has_no_gofer(far: Sshd, spot: Path) -> None:
    (spot / "file").write_text("contents\n")
    os.symlink(spot / "file", spot / "link")
    done = there(far, "cat", f"{HOST}:{spot}/link")
    assert (done.returncode, done.stdout, done.stderr) == (0, "contents\n", "")
    assert there(far, "ls", f"{HOST}:{spot}").stdout.split() != []


def test_large_files_of_a_far_host_come_whole_and_in_few_turns(far: Sshd, spot: Path) -> None:
    """Several pieces are on their way at once: each alone would take a turn, of which there would be some 100."""
    sizes = [0, 1, 70_000, 20 << 20, (3 << 20) + 5]
    files = [spot / str(number) for number in range(len(sizes))]
    for file, size in zip(files, sizes):
        file.write_bytes(os.urandom(size))
    turns = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
    with slow_line(far.port, 25, turns) as port:
        config = spot / "sshd/ssh_config"
        config.write_text(config.read_text().replace(f"Port {far.port}\n", f"Port {port}\n"))
        argv = [*GOFER, "cat", "--ssh", far.command, *(f"{HOST}:{file}" for file in files)]
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=CALM)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"".join(file.read_bytes() for file in files)
        took = turns[0]
        assert took < 60
        done = there(far, "sum", f"{HOST}:{files[3]}")
    assert done.stdout.split()[0] == hashlib.sha256(files[3].read_bytes()).hexdigest()


def test_who_reads_no_more_of_a_far_file_ends_the_command(far: Sshd, spot: Path) -> None:
    (spot / "file").write_bytes(bytes(20 << 20))
    argv = [*GOFER, "cat", "--ssh", far.command, f"{HOST}:{spot}/file"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.read(5) == bytes(5)
        process.stdout.close()
        assert process.wait(CALM) == 141
    wait_until(lambda: not far.sessions(), "ssh's session ends")


def test_nothing_is_written_on_the_host(far: Sshd, spot: Path) -> None:
    home = spot / "home"
    home.mkdir()
    with sshd(spot / "other", f"SetEnv PATH={FAR} HOME={home} TMPDIR={home}\n") as server:
        assert there(server, "cat", f"{HOST}:/etc/hostname").returncode == 0
    assert os.listdir(home) == []


def test_a_path_that_is_relative_begins_where_ssh_does(far: Sshd) -> None:
    name = f"gofer-test-{os.getpid()}"
    path = Path.home() / name
    path.write_text("at home")
    try:
        assert there(far, "cat", f"{HOST}:{name}").stdout == "at home"
    finally:
        path.unlink()


def test_a_gofer_of_the_same_version_that_is_there_is_used(spot: Path, one_file: Path) -> None:
    tools = spot / "tools"
    tools.mkdir()
    (tools / "gofer").write_text(f'#!/bin/sh\necho "$@" >>{spot}/ran\nexec {one_file} "$@"\n')
    (tools / "gofer").chmod(0o755)
    with sshd(spot / "sshd", f"SetEnv PATH={tools}:{FAR}\n") as server:
        assert there(server, "cat", f"{HOST}:/etc/hostname").returncode == 0
        assert (spot / "ran").read_text() == "--version\nserve --stdio --read-only /\n"
        assert there(server, "cat", "--remote-gofer=always", f"{HOST}:/etc/hostname").returncode == 0
        assert there(server, "cat", "--remote-gofer=never", f"{HOST}:/etc/hostname").returncode == 0
        assert there(server, "cat", f"--remote-gofer={tools}/gofer", f"{HOST}:/etc/hostname").returncode == 0
        assert there(server, "cat", f"--remote-command=env A=b {tools}/gofer", f"{HOST}:/etc/hostname").returncode == 0
        assert (spot / "ran").read_text().count("serve --stdio --read-only /\n") == 4


def test_one_of_another_version_is_not_used_unless_it_is_asked_for(spot: Path) -> None:
    tools = spot / "tools"
    tools.mkdir()
    (tools / "gofer").write_text(f'#!/bin/sh\necho "$@" >>{spot}/ran\necho gofer 0.0.1; exit 3\n')
    (tools / "gofer").chmod(0o755)
    with sshd(spot / "sshd", f"SetEnv PATH={tools}:{FAR}\n") as server:
        assert there(server, "cat", f"{HOST}:/etc/hostname").returncode == 0
        assert (spot / "ran").read_text() == "--version\n"
        done = there(server, "cat", "--remote-gofer=never", f"{HOST}:/etc/hostname")
        assert done.returncode == 1 and "gofer: " in done.stderr


def test_a_checkout_sends_what_is_compiled_already_where_that_python_can_run_it() -> None:
    magic = int.from_bytes(importlib.util.MAGIC_NUMBER[:2], "little")
    cached = Path(importlib.util.cache_from_source(cli.__file__))
    py_compile.compile(cli.__file__)
    with zipfile.ZipFile(io.BytesIO(remote.portable(str(magic)))) as sent:
        assert "gofer/cli.py" not in sent.namelist()
        assert sent.read("gofer/cli.pyc") == cached.read_bytes()
    with zipfile.ZipFile(io.BytesIO(remote.portable(str(magic + 1)))) as sent:
        assert sent.read("gofer/cli.py") == Path(cli.__file__).read_bytes()
        assert not [name for name in sent.namelist() if name.endswith(".pyc")]
    older = Path(cli.__file__).stat()
    os.utime(cli.__file__, ns=(older.st_atime_ns, older.st_mtime_ns + 10**10))
    try:
        with zipfile.ZipFile(io.BytesIO(remote.portable(str(magic)))) as sent:
            assert "gofer/cli.py" in sent.namelist()
    finally:
        os.utime(cli.__file__, ns=(older.st_atime_ns, older.st_mtime_ns))


def test_the_one_file_program_sends_itself(far: Sshd, one_file: Path) -> None:
    argv = [str(one_file), "cat", "--ssh", far.command, f"{HOST}:/etc/hostname"]
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr) == (0, Path("/etc/hostname").read_bytes(), b"")


HELLO = f"echo gofer-stage-1 3.9 {MAGIC_NUMBER[0] | MAGIC_NUMBER[1] << 8} -"  # a host that takes this program, but then ...


@pytest.mark.parametrize(
    "options,words",
    [
        (["--ssh", ""], ["--ssh must not be empty"]),
        (["--ssh", "no-such-ssh"], ["cannot run no-such-ssh", "install an ssh client"]),
        (["--ssh", "false"], ["what ran on far ended with status 1"]),
        (["--ssh", "sh -c 'exit 255' --"], ["ssh could not reach far"]),
        (["--ssh", "echo"], ["something there writes to stdout"]),
        (["--ssh", "sh -c 'exit 127' --"], ["far has no python3"]),
        (["--ssh", "sh -c 'exec sleep 1000' --", "--timeout", "0.2"], ["far: no answer within 0.2 s"]),
        (["--ssh", f"sh -c '{HELLO}; exec sleep 1000' --", "--timeout", "0.2"], ["far: no answer within 0.2 s"]),
        (["--ssh", f"sh -c '{HELLO}; exit 4' --"], ["what ran on far ended with status 4", "has to work without a question"]),
    ],
)
def test_a_host_that_is_not_reached_is_told_in_one_line(options: list[str], words: list[str]) -> None:
    fails_in_one_line(run("cat", *options, "far:/etc/hostname"), *words)


def test_a_python_that_is_too_old_is_told(spot: Path) -> None:
    old = "echo gofer-stage-1 3.6 3379 -; cat >/dev/null"
    fails_in_one_line(run("cat", "--ssh", f"sh -c '{old}' --", "far:/x"), "far has Python 3.6", "needs 3.9")


def test_a_host_without_a_gofer_is_told_when_nothing_may_be_sent(far: Sshd) -> None:
    fails_in_one_line(there(far, "cat", "--remote-gofer=never", f"{HOST}:/x"), "has no gofer in its PATH", "auto")


def test_a_key_that_is_refused_is_sshs_own_line_and_ours(far: Sshd, spot: Path) -> None:
    os.unlink(spot / "sshd/user.pub")
    done = there(far, "cat", f"{HOST}:/etc/hostname")
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gofer: ssh could not reach far")


def test_a_session_that_is_cut_ends_the_command(far: Sshd, spot: Path) -> None:
    os.mkfifo(spot / "out")
    (spot / "big").write_bytes(bytes(8 << 20))
    argv = [*GOFER, "cat", "--ssh", far.command, f"{HOST}:{spot}/big"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    with process:
        assert process.stdout and process.stderr
        assert process.stdout.read(1 << 20)
        far.cut()
        while process.stdout.read(1 << 20):
            pass
        assert process.wait(PATIENCE) == 1
        assert process.stderr.read().decode().splitlines()[-1].startswith("gofer: far: ssh could not reach far, or was cut off")


def test_ctrl_c_at_a_terminal_leaves_it_to_the_command_to_end_ssh(far: Sshd, spot: Path) -> None:
    """Both get it. What ends by itself puts in order first what it has begun on either side."""
    with open(spot / "endless", "wb") as file:
        file.truncate(1 << 40)
    with Terminal(*GOFER, "get", "--ssh", far.command, f"{HOST}:{spot}/endless", str(spot / "here")) as shown:
        shown.wait_for("[0-9.]+ MiB/s")
        shown.type("\x03")
        shown.wait_for("gofer: 1 large file is half done: --resume goes on\r\n")
        with pytest.raises(AssertionError, match="ended without"):
            shown.wait_for("gofer: ")
    assert shown.close() == 130


def test_ctrl_c_where_ssh_waits_for_an_answer_ends_both(spot: Path) -> None:
    with Terminal(*GOFER, "ls", "--ssh", f"sh -c 'echo $$ >{spot}/asks; exec sleep 1000' --", "far:/") as shown:
        wait_until(lambda: (spot / "asks").exists() and (spot / "asks").read_text().endswith("\n"), "it asks")
        shown.type("\x03")
    assert shown.close() == 130
    wait_until(lambda: ended(int((spot / "asks").read_text())), "it has ended, too")


def test_the_far_server_ends_with_the_command(far: Sshd, spot: Path) -> None:
    assert there(far, "cat", f"{HOST}:/etc/hostname").returncode == 0
    wait_until(lambda: not far.sessions(), "ssh's session ends, and all that ran in it")


def test_a_command_of_find_does_not_take_a_path_there_for_one_of_the_server_here(far: Sshd, spot: Path) -> None:
    script = ["sh", "-c", "echo ${GOFER_SOCKET-none} $1", "sh", "{}", ";"]
    words = ["find", "--ssh", far.command, f"{HOST}:{spot}/sshd", "-maxdepth", "0", "-exec", *script]
    done = run(*words, env={**os.environ, "GOFER_SOCKET": "/somewhere/else"})
    assert (done.returncode, done.stdout) == (0, f"none {spot}/sshd\n")


# What only looks has a server there that cannot change anything

LOOKING = (
    "ls far:/", "stat far:/", "tree far:/", "cat far:/x", "head far:/x", "tail far:/x", "find far:/ -name x -exec true ;",
    "du far:/", "df far:/", "sum far:/", "diff far:/ .", "readlink far:/x", "realpath far:/x",
    "xattr list far:/x", "xattr get user.x far:/x", "sync far:/x", "get far:/x .", "get -r --delete far:/x .", "put -n . far:/x",
    "tar -c far:/", "mount --read-only far:/ .", "mount -o ro far:/ .",
)  # fmt: skip
CHANGING = (
    "find far:/ -name x -delete", "rm far:/x", "rmdir far:/x", "mkdir far:/x", "mv far:/x far:/y", "cp far:/x far:/y",
    "ln far:/x far:/y", "chmod 0 far:/x", "chown 0 far:/x", "touch far:/x", "truncate -s 0 far:/x", "xattr set user.x 1 far:/x",
    "xattr remove user.x far:/x", "edit far:/x", "put . far:/x", "tar -x far:/", "mount far:/ .", "shell far:/",
)  # fmt: skip


@pytest.mark.parametrize("line", LOOKING + CHANGING)
def test_a_far_server_is_read_only_unless_the_command_is_to_change_something(line: str, spot: Path) -> None:
    only = "--read-only " if line in LOOKING else ""
    assert asked_of_ssh(line, spot) == {f"gofer serve --stdio {only}/"}


def asked_of_ssh(line: str, spot: Path) -> set[str]:
    """What the command, started in spot, has had ssh run on the host."""
    ssh, asked = spot / "ssh", spot / "asked"
    ssh.write_text(f'#!/bin/sh\nfor last; do :; done\necho "$last" >>{asked}\nexit 255\n')
    ssh.chmod(0o755)
    command, *words = line.split()
    argv = [*GOFER, command, "--ssh", str(ssh), "--remote-gofer=gofer", *words]
    with open(spot / "archive", "wb") as out:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, text=True, cwd=spot)
    assert "ssh could not reach far" in done.stderr, done
    return set(asked.read_text().splitlines())


def test_a_path_that_begins_with_a_dash_is_no_option_there(spot: Path) -> None:
    assert asked_of_ssh("mount far:-x .", spot) == {"gofer serve --stdio ./-x"}


def test_every_command_that_takes_a_host_is_in_one_of_the_lists() -> None:
    takes = {command for command in cli.COMMANDS if "--ssh" in cli.parser(command)._option_string_actions}
    assert takes == {line.split()[0] for line in LOOKING + CHANGING}


def test_a_server_for_what_only_looks_refuses_every_change(far: Sshd, spot: Path) -> None:
    (spot / "file").write_text("before")
    tree = str(spot)
    with remote.reach(HOST, tree, PATIENCE, remote.SSH(far.command, read_only=True)) as client:
        node = client.lookup("file")
        for change in (
            lambda: client.mkdirat(client.root.fd, b"new", 0o755),
            lambda: client.unlinkat(client.root.fd, b"file"),
            lambda: client.openat(node.fd, os.O_WRONLY),
            lambda: client.fsetxattr(node.fd, b"user.x", b"y"),
        ):
            with pytest.raises(OSError) as refused:
                change()
            assert refused.value.errno == errno.EROFS
    with remote.reach(HOST, tree, PATIENCE, remote.SSH(far.command)) as client:
        client.unlinkat(client.root.fd, b"file")
    assert not (spot / "file").exists()


def test_a_copy_from_a_host_does_not_touch_the_times_of_access_there(far: Sshd, spot: Path) -> None:
    """Where root or a user namespace gives the server a mount of its own."""
    (spot / "tree").mkdir()
    file = spot / "tree/file"
    file.write_text("contents")
    os.utime(file, ns=(10**18, 2 * 10**18))
    assert there(far, "get", "-r", f"{HOST}:{spot}/tree", str(spot / "copy")).returncode == 0
    assert (spot / "copy/file").read_text() == "contents"
    assert file.stat().st_atime_ns == 10**18
    file.read_text()
    assert file.stat().st_atime_ns > 10**18, "this file system keeps no times of access, so nothing was tested"


@contextlib.contextmanager
def somebody() -> Iterator[str]:
    """An ordinary user who may become root by sudo without being asked: his name."""
    name = f"gofer{os.getpid()}"
    rule = Path(f"/etc/sudoers.d/{name}")
    makes = ["useradd", "--home-dir=/", "--shell=/bin/sh", "--password=*", name]
    # One at a time on a machine, and nobody goes while a process of his is about to end.
    wait_until(lambda: subprocess.run(makes, capture_output=True).returncode == 0, "there is a user")
    try:
        rule.write_text(f"{name} ALL=(root) NOPASSWD: ALL\n")
        rule.chmod(0o440)
        yield name
    finally:
        rule.unlink(missing_ok=True)
        wait_until(lambda: subprocess.run(["userdel", name], capture_output=True).returncode == 0, "the user is gone")


def test_what_only_root_may_read_there_is_served_by_sudo(spot: Path, one_file: Path) -> None:
    """The real sudo; without it, and with one that refuses, nothing of it is."""
    (spot / "tree").mkdir(0o700)
    (spot / "tree/secret").write_text("for root alone\n")
    (spot / "here").mkdir()
    with somebody() as name, sshd(spot / "sshd") as server:
        path, far = f"{name}@{HOST}:{spot}/tree", server.command
        plain = run("cat", "--ssh", far, "--remote-command", str(one_file), f"{path}/secret")
        assert plain.returncode == 1 and "Permission denied" in plain.stderr
        sudo = ["--ssh", far, "--remote-command", f"sudo -n {one_file}"]
        done = run("cat", *sudo, f"{path}/secret")
        assert (done.returncode, done.stdout, done.stderr) == (0, "for root alone\n", "")
        done = run("mount", *sudo, path, str(spot / "here"))
        assert (done.returncode, done.stderr) == (0, "")
        try:
            (spot / "here/new").write_text("by root")
        finally:
            assert run("umount", str(spot / "here")).returncode == 0
        assert (spot / "tree/new").stat().st_uid == 0
        wait_until(lambda: not server.sessions(), "ssh's session ends, and all that ran in it")
        Path(f"/etc/sudoers.d/{name}").write_text("")
        refused = run("cat", *sudo, f"{path}/secret")
        assert refused.returncode == 1 and "sudo: a password is required" in refused.stderr
