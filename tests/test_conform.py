"""`gofer conform` as a command: whom it asks, what it says, and what it does with servers that are worse than ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import GOFER, Server, fails_in_one_line, run

from gofer.conform.cases import CASES
from gofer.conform.codec import Mid

OPEN = ["--host-uds=all", "--host-fifo=open", "--char-devices=open", "--xattrs=all"]
LATER = [mid for mid in Mid if mid > Mid.FREMOVEXATTR]
ABSENT_2021 = ("the server has no bind", *(f"the server does not offer {mid.name}" for mid in LATER))
OURS = [*GOFER, "serve", "DIR", "--quiet", "--workers=1", *OPEN]


def conform(*words: str) -> "subprocess.CompletedProcess[str]":
    return run("conform", *words)


@pytest.mark.slow
@pytest.mark.parametrize(("dialect", "way"), [("today", "socket"), ("2021", "channel")])
def test_our_server_conforms_started_by_the_command(dialect: str, way: str) -> None:
    words = ["--json", "--dialect", dialect, "--way", way, "--connections", "3"]
    done = conform(*words, "--", *OURS, "--fd=3", "--fd=4", "--fd=5")
    report = json.loads(done.stdout)
    assert [row for row in report["cases"] if row["result"] == "fail"] == []
    assert (done.returncode, done.stderr, report["conforms"]) == (0, "", True)
    skipped = {row["case"]: row["detail"] for row in report["cases"] if row["result"] == "skip"}
    closed = {case.name for case in CASES if any(need.startswith("no-") for need in case.needs)}
    asked = {name for name, why in skipped.items() if dialect != "2021" or why not in ABSENT_2021}
    assert asked == closed & {row["case"] for row in report["cases"]}, skipped


@pytest.mark.serve(*OPEN)
def test_a_server_that_listens_is_asked_through_its_own_messages_where_its_tree_is_not_at_hand(server: Server) -> None:
    done = conform("--only", "walk", str(server.path))
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert lines[0] == "TAP version 14" and lines[-1] == "# conforms"
    results = [line for line in lines if line.startswith(("ok ", "not ok "))]
    assert lines[1] == f"1..{len(results)}" and len(results) > 100
    assert sum("# SKIP the served directory is not at hand" in line for line in results) > 4
    assert os.listdir(server.tree) == []
    with_tree = conform("--only", "walk", "--tree", str(server.tree), str(server.path))
    assert with_tree.returncode == 0 and "not at hand" not in with_tree.stdout
    assert os.listdir(server.tree) == []


def test_the_list_names_each_case_with_its_level_and_asks_nobody() -> None:
    done = conform("--list")
    names = [line.split()[1] for line in done.stdout.splitlines()]
    assert names == [case.name for case in CASES]
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"wire", "semantics", "safety"}
    only = conform("--list", "--only", "walk.walkstat_*", "--level", "safety").stdout
    assert only and all("safety    walk.walkstat_" in line for line in only.splitlines())


def test_a_server_that_dies_costs_a_case_and_is_started_again(spot: Path) -> None:
    """A relay that ends at the first Walk whose reply would be too large."""
    script = spot / "dies"
    script.write_text(
        f"#!{sys.executable}\nimport os, socket, sys\n"
        "theirs = socket.socket(fileno=3); ours, other = socket.socketpair()\n"
        "os.set_inheritable(other.fileno(), True)\n"
        f"if os.fork() == 0: os.execv({GOFER[0]!r}, [*{GOFER!r}, 'serve', sys.argv[1], '--quiet', f'--fd={{other.fileno()}}'])\n"
        "other.close()\n"
        "while True:\n"
        "    head = theirs.recv(8, socket.MSG_WAITALL)\n"
        "    if len(head) < 8: break\n"
        "    size = int.from_bytes(head[:4], 'little')\n"
        "    body = theirs.recv(size, socket.MSG_WAITALL) if size else b''\n"
        "    if size > 20000: print('panic: too long', flush=True); os._exit(7)\n"
        "    ours.sendall(head + body)\n"
        "    reply = ours.recv(8, socket.MSG_WAITALL)\n"
        "    rest = int.from_bytes(reply[:4], 'little')\n"
        "    theirs.sendall(reply + (ours.recv(rest, socket.MSG_WAITALL) if rest else b''))\n"
    )
    script.chmod(0o755)
    done = conform("--way", "socket", "--only", "walk.of_*", "--", str(script), "DIR")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith(("ok", "not ok"))]
    assert [line.split(" - ")[0][:3] for line in lines] == ["ok ", "ok ", "not"]
    assert "the server ended with exit status 7: panic: too long" in done.stdout
    assert done.stdout.splitlines()[-1] == "# does not conform"


def test_a_server_that_never_answers_is_given_up() -> None:
    done = conform("--timeout", "0.2", "--", "sleep", "1000")
    fails_in_one_line(done, "cannot speak to the server", "does not answer")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], ["which server?"]),
        (["/nowhere"], ["cannot connect to /nowhere", "No such file"]),
        (["--", "/nowhere/program"], ["cannot start /nowhere/program"]),
        (["--", "false"], ["cannot speak to the server", "exit status 1"]),
        (["--only", "nothing.like_it", "/nowhere"], ["--only nothing.like_it", "--list"]),
        (["--known", "/nowhere/known", "/nowhere"], ["cannot read /nowhere/known"]),
        (["--tree", "/nowhere/tree", "/nowhere"], ["--tree /nowhere/tree"]),
        (["--timeout", "0", "/nowhere"], ["--timeout 0"]),
        (["/nowhere", "--", "true"], ["not both"]),
    ],
)
def test_what_cannot_be_asked_is_one_line(words: list[str], told: list[str]) -> None:
    fails_in_one_line(conform(*words), *told)


@pytest.mark.serve("--xattrs", "none")
def test_a_known_fault_is_no_failure_and_one_that_has_gone_is(server: Server, spot: Path) -> None:
    known = spot / "known"
    known.write_text("# what is wrong\nwalk.of_nothing_succeeds_with_nothing  # it used to be\n")
    words = ["--known", str(known), "--only", "walk.of_*", str(server.path)]
    done = conform(*words)
    assert done.returncode == 1
    assert "# no longer a fault, though the file says so: walk.of_nothing_succeeds_with_nothing" in done.stdout
    known.write_text("walk.of_nothing_succeeds_with_nothing\n")
    fails_in_one_line(conform(*words), "say why it is known")
