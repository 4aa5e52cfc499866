"""`gofer doctor`: the table, and the self-test on file systems of several kinds."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosts import GOFER, fails_in_one_line, run
from prison import NO_SYS_ADMIN, USER, as_user

from gofer.conform.codec import Mid

LAYERS = [
    *("root", "network", "ipc", "uts", "pid", "fd limit", "no core files", "no groups", "capabilities"),
    *("no_new_privs", "not dumpable", "landlock", "seccomp"),
]
FEATURES = [
    *("/proc", "statx", "utimensat by fd", "memfd sealing", "futex", "renameat2", "user namespaces", "seccomp"),
    *("landlock", "fd limit", "ptrace"),
]


@contextmanager
def mounted(place: Path, kind: str, options: str = "") -> Iterator[Path]:
    subprocess.run(["mount", "-t", kind, *(["-o", options] if options else []), "none", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def report(*options: str, command: Any = GOFER, **popen: Any) -> dict[str, Any]:
    done = subprocess.run([*command, "doctor", "--json", *options], capture_output=True, text=True, **popen)
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    found["status"] = done.returncode
    return found


def states(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["name"]: row["state"] for row in rows}


def test_root_on_this_host_has_every_layer_in_force_and_every_feature() -> None:
    found = report()
    assert states(found["jail"]) == dict.fromkeys(LAYERS, "in force")
    assert states(found["host"]) == dict.fromkeys(FEATURES, "present")
    assert found["status"] == 0 and found["kernel"] == os.uname().release
    assert all(row["lost"] for row in found["jail"] + found["host"])


def test_a_user_has_them_too() -> None:
    with as_user(USER) as (command, popen):
        found = report(command=command, **popen)
    assert states(found["jail"]) == dict.fromkeys(["user namespace", *LAYERS], "in force")
    assert found["uid"] == USER and found["status"] == 0
    assert [row["detail"] for row in found["jail"] if row["name"] == "capabilities"] == ["none"]


def test_what_is_missing_is_told_with_what_is_lost() -> None:
    done = subprocess.run([*NO_SYS_ADMIN, *GOFER, "doctor"], capture_output=True, text=True)
    lines = [line.split(maxsplit=2) for line in done.stdout.splitlines()]
    at = lines.index(["network", "missing", "Operation not permitted"])
    assert lines[at + 1] == ["without", "it:", "it can reach abstract Unix sockets of the host"]
    assert done.returncode == 0  # it serves all the same


@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_the_self_test_sends_every_message_and_leaves_nothing(kind: str, spot: Path) -> None:
    with mounted(spot, kind):
        found = report("--self-test", str(spot))
        assert os.listdir(spot) == []
    missing = {"FGetXattr", "FSetXattr", "FListXattr", "FRemoveXattr"} if kind == "ramfs" else set()
    missing |= {"FAllocate"} if kind == "ramfs" else set()
    told = states(found["self-test"])
    assert len(told) == len(Mid)
    assert {name for name, state in told.items() if state == "missing"} == missing
    assert set(told.values()) <= {"ok", "missing"} and found["status"] == 0


def test_the_self_test_of_a_user_is_all_right(spot: Path) -> None:
    os.chown(spot, USER, USER)
    with as_user(USER) as (command, popen):
        found = report("--self-test", str(spot), command=command, **popen)
    assert set(states(found["self-test"]).values()) == {"ok"}


def test_a_message_that_fails_is_told_and_makes_the_exit_status(spot: Path) -> None:
    with mounted(spot, "tmpfs", "size=16k"):
        found = report("--self-test", str(spot))
    rows = {row["name"]: row for row in found["self-test"]}
    assert rows["FAllocate"]["state"] == "failed" and "No space left on device" in rows["FAllocate"]["detail"]
    assert found["status"] == 1


def test_a_directory_that_cannot_be_written_is_one_line(spot: Path) -> None:
    fails_in_one_line(run("doctor", "--self-test", str(spot / "missing")), "missing", "give a directory")


def test_the_jail_of_a_path_is_what_a_server_of_it_says(spot: Path) -> None:
    """The tree is somebody else's: a user namespace would change what clients see of its owner, so a server does without."""
    (spot / "tree").mkdir()
    os.chmod(spot, 0o777)
    for owner, missing in ((USER, []), (0, ["root", "network", "ipc", "uts", "pid"])):
        os.chown(spot / "tree", owner, owner)
        with as_user(USER) as (command, popen):
            found = report(str(spot / "tree"), command=command, **popen)
            argv = [*command, "serve", str(spot / "tree"), "--socket", str(spot / "s"), "--", "true"]
            said = subprocess.run(argv, capture_output=True, text=True, check=True, **popen).stderr
        told = states(found["jail"])
        assert told.pop("tree") == "present"
        assert [name for name, state in told.items() if state == "missing"] == missing
        assert (f"jail: missing: {', '.join(missing)}: " in said) == bool(missing)
        (held,) = [line.partition("jail: ")[2] for line in said.splitlines() if "; jail: " in line]
        for row in found["jail"]:
            assert (row["state"] != "in force") or f"{row['name']}" in held


def test_the_tables_heading_says_whose_jail_it_is(spot: Path) -> None:
    assert f"The jail of a server of {spot} that this user starts" in run("doctor", str(spot)).stdout
    assert "for a directory of his own" in run("doctor").stdout


def test_what_can_be_done_to_a_tree_is_told(spot: Path) -> None:
    with mounted(spot, "tmpfs", "ro"):
        (tree,) = [row for row in report(str(spot))["jail"] if row["name"] == "tree"]
    assert tree["detail"] == "directory, read-only, as it is mounted"
    (tree,) = [row for row in report(str(GOFER[1]) + "/__main__.py")["jail"] if row["name"] == "tree"]
    assert tree["detail"] == "file, read-write"


def test_a_path_that_cannot_be_served_is_told_as_serve_tells_it(spot: Path) -> None:
    for path in (str(spot / "missing"), "/dev/null", ""):
        asked = run("doctor", path)
        fails_in_one_line(asked, "cannot serve")
        assert asked.stderr == run("serve", path).stderr


@pytest.mark.parametrize("inodes", [1, 2, 3])
def test_a_self_test_on_a_full_file_system_is_one_line(inodes: int, spot: Path) -> None:
    with mounted(spot, "tmpfs", f"nr_inodes={inodes}"):
        fails_in_one_line(run("doctor", "--self-test", str(spot)), "No space left on device", "make room")
        assert os.listdir(spot) == []


def test_without_a_place_for_temporary_files_that_is_said() -> None:
    """Everything read-only, the working directory too, where Python would look last; the checkout may lie in any of it."""
    read_only = "mount --bind $d $d && mount -o remount,bind,ro $d"
    script = f"mount -o remount,bind,ro /; for d in /tmp /var/tmp /usr/tmp; do test -d $d && {read_only}; done; :"
    argv = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        f'{script}; cd / && exec "$@"',
        "sh",
        *GOFER,
        "doctor",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    fails_in_one_line(done, "cannot make a temporary directory", "TMPDIR")


def test_an_empty_directory_for_the_self_test_is_wrong_usage() -> None:
    done = run("doctor", "--self-test", "")
    assert done.returncode == 2 and "must not be empty" in done.stderr
