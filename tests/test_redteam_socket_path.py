"""Somebody who may write to the socket's directory, or listens there, against a start. strace's delays give him the time
that he would otherwise have to be lucky for."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import CALM, GOFER, PATIENCE, children, fails_in_one_line, open_fds, run, serves, wait_until

GROUP = 4321
CALLS = "%file,listen,fchmod,fchown,fchownat,fchmodat,linkat,renameat2,unlinkat"


def slowly(*calls: str, milliseconds: int = 50) -> list[str]:
    """A wrap in which these system calls of the start wait before they are made."""
    delay = f"inject={','.join(calls)}:delay_enter={milliseconds * 1000}"
    return ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={','.join(calls)}", "-e", delay]


@contextlib.contextmanager
def thief(place: Path, loot: Path, vault: Path) -> Iterator[None]:
    """Takes whatever appears in `place` away at once, and puts a symlink in its stead: to `vault` for a directory, and to
    the file of the same name in `vault` for anything else."""
    stop = threading.Event()

    def steal() -> None:
        number = 0
        while not stop.is_set():
            for entry in os.scandir(place):
                with contextlib.suppress(OSError):
                    if not entry.is_symlink():
                        target = vault if entry.is_dir() else vault / "s"
                        os.rename(entry.path, loot / str(number))
                        number += 1
                        os.symlink(target, entry.path)

    thread = threading.Thread(target=steal)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("call", ["chown", "fchownat", "lchown", "fchmodat", "chmod", "listen", "renameat2"])
def test_a_symlink_put_in_the_sockets_place_leads_no_call_outside(call: str, spot: Path) -> None:
    place, loot, vault, tree = (spot / name for name in ("place", "loot", "vault", "tree"))
    for folder in (place, loot, vault, tree):
        folder.mkdir()
    (vault / "s").write_text("precious")
    before = [(path.stat(), sorted(os.listdir(vault))) for path in (vault, vault / "s")]
    argv = [
        *slowly(call),
        *GOFER,
        "serve",
        str(tree),
        "--socket",
        str(place / "s"),
        "--group",
        str(GROUP),
        "--mode",
        "0660",
    ]
    with thief(place, loot, vault):
        done = subprocess.run(
            [*argv, "--quiet", "--", "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=CALM
        )
    assert [(path.stat(), sorted(os.listdir(vault))) for path in (vault, vault / "s")] == before
    assert done.returncode in (0, 1) and b"Traceback" not in done.stderr and done.stderr.count(b"\n") <= 1


def test_the_sockets_group_and_mode_are_there_before_its_name_is(spot: Path) -> None:
    """Nobody can connect, or see it, in a state in between; and the name never stands for a socket that does not listen."""
    (spot / "tree").mkdir()
    argv = [*GOFER, "serve", str(spot / "tree"), "--socket", str(spot / "s"), "--group", str(GROUP), "--mode", "0620"]
    calls = "trace=bind,listen,chmod,fchmodat,chown,fchownat,lchown,rename,renameat,renameat2,link,linkat"
    subprocess.run(["strace", "-f", "-qqq", "-o", spot / "trace", "-e", calls, *argv, "--", "true"], check=True)
    calls_made = [line.split(maxsplit=1)[1] for line in (spot / "trace").read_text().splitlines()]
    names = [
        call.partition("(")[0]
        for call in calls_made
        if "gofer" in call or '/s"' in call or "listen(" in call or '"s"' in call
    ]
    assert names == ["bind", "fchownat", "fchmodat", "listen", "renameat2"], calls_made


@pytest.mark.parametrize("stale", [False, True], ids=["on nothing", "on a dead socket"])
def test_of_several_starts_on_one_path_one_serves_and_the_others_say_so(stale: bool, spot: Path) -> None:
    (spot / "tree").mkdir()
    path = spot / "s"
    if stale:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    argv = [
        *slowly("listen", "renameat2", milliseconds=300),
        *GOFER,
        "serve",
        str(spot / "tree"),
        "--socket",
        str(path),
    ]
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    starts = [subprocess.Popen([*argv, "--workers=1", "--quiet"], stdin=null, stderr=pipe) for _ in range(4)]
    try:
        wait_until(lambda: sum(each.poll() is not None for each in starts) == 3, "all but one give up")
        wait_until(lambda: serves(path), "the one that is left serves")
        (winner,) = [each for each in starts if each.poll() is None]
        for each in starts:
            if each is not winner:
                said = each.stderr.read() if each.stderr else b""
                assert each.returncode == 1 and said.count(b"\n") == 1 and b"is in use" in said, said
        (gofer,) = children(winner.pid)
        os.kill(gofer, signal.SIGTERM)
        assert winner.wait(PATIENCE) == 0
        assert sorted(os.listdir(spot)) == ["tree"]
    finally:
        for each in starts:
            for child in children(each.pid) if each.poll() is None else []:
                os.kill(child, signal.SIGKILL)
            each.wait()
            if each.stderr:
                each.stderr.close()


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS"])
@pytest.mark.parametrize("place", ["free", "dead", "alive"])
def test_it_comes_to_its_place_where_the_file_system_or_the_kernel_knows_no_such_rename(
    place: str, error: str, spot: Path
) -> None:
    """As NFS, and Linux before 3.15: by a hard link, which replaces nothing either."""
    (spot / "tree").mkdir()
    inject = [
        "strace",
        "-f",
        "-qqq",
        "-o",
        "/dev/null",
        "-e",
        "trace=renameat2",
        "-e",
        f"inject=renameat2:error={error}",
    ]
    argv = [*inject, *GOFER, "serve", str(spot / "tree"), "--socket", str(spot / "s"), "--quiet", "--", *GOFER, "stat"]
    with socket.socket(socket.AF_UNIX) as other:
        if place != "free":
            other.bind(str(spot / "s"))
        if place == "alive":
            other.listen()
        else:
            other.close()
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM)
    if place == "alive":
        fails_in_one_line(done, "in use")
    else:
        assert done.returncode == 0 and "directory" in done.stdout, done.stderr
    assert sorted(os.listdir(spot)) == (["s", "tree"] if place == "alive" else ["tree"])


def test_a_listener_whose_queue_is_full_does_not_hold_up_a_start(spot: Path) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(spot / "s"))
        listener.listen(0)
        waiting = 0
        while True:
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            try:
                sock.connect(str(spot / "s"))
            except BlockingIOError:
                break
            waiting += 1
        assert waiting
        fails_in_one_line(run("serve", str(spot), "--socket", str(spot / "s")), "in use", "another --socket")


def test_a_socket_of_another_kind_is_not_replaced(spot: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(spot / "s"))
        fails_in_one_line(run("serve", str(spot), "--socket", str(spot / "s")), "in use")
        other.connect(str(spot / "s"))


def test_a_directory_whose_default_acl_names_others_gives_them_nothing(start: Start, spot: Path) -> None:
    """An ACL takes the place of the umask: the socket has the mode asked for all the same, and was never open to more."""
    (spot / "place").mkdir()
    subprocess.run(["setfacl", "-d", "-m", "u:54321:rwx,o:rwx", spot / "place"], check=True)
    (spot / "tree").mkdir()
    path = spot / "place/s"
    argv = [*GOFER, "serve", str(spot / "tree"), "--socket", str(path), "--quiet", "--", "getfacl", "-cp", str(path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert {"user::rw-", "mask::---", "other::---"} <= set(done.stdout.split("\n"))
    shutil.rmtree(spot / "place")


def test_what_cannot_be_tried_is_left_alone(spot: Path) -> None:
    """One that another user has closed to us: whether somebody listens there is not to be told, so it stays."""
    from test_cli import as_nobody

    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(spot / "s"))
        os.chmod(spot / "s", 0o600)
        os.chmod(spot, 0o777)
        (spot / "tree").mkdir()
        fails_in_one_line(as_nobody("serve", str(spot / "tree"), "--socket", str(spot / "s")), "cannot be tried")
        assert (spot / "s").is_socket()
    assert not [name for name in open_fds(os.getpid()) if str(spot) in name]
