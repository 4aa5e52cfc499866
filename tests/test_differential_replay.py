"""A real container, its start and a `git status`, recorded, and played again to Go's gofers and to ours (`gofer replay`)."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Start
from differential_compare import compare_trees
from differential_servers import RELEASES, Release
from differential_table import TABLE
from hosts import CHECKOUT, GOFER, run, wait_until
from runsc import OLDER, Runsc, bundle, container, one_file_gofer, pids_named
from tracelines import parse

from gofer.conform.corpus import session

pytestmark = pytest.mark.slow

C = container("replay")
FILES = 60
SCRIPT = "git -C /repository status --porcelain; ls -l /repository/d0; mkdir /made; mv /made /moved; rm /repository/d1/new"
# At the end runsc kills its gofer, with whatever has not been written of the trace for a tenth of a second.
SCRIPT += "; sleep 2"
# A message that is answered otherwise, and the line of the table that says why.
WHY = {
    **dict.fromkeys(("FListXattr", "FRemoveXattr", "ConnectWithCreds", "RenameAt2"), "Go supports fewer messages"),
    **dict.fromkeys(("DirRead", "DirRename", "DirStat", "DirWalk"), "Go supports fewer messages"),
    **dict.fromkeys(("FSetXattr", "FGetXattr"), "Go of 2024 sets no xattr"),
}
OURS = ("--host-uds=all", "--host-fifo=open", "--char-devices=open", "--xattrs=all", "--quiet")


@pytest.fixture(scope="module")
def one_file() -> Path:
    return one_file_gofer()


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True)


def with_git(rootfs: Path) -> None:
    """git with what it is linked to, and a repository of which a file is not in git, and one is not as git has it."""
    program = shutil.which("git")
    assert program, "apt-get install git"
    linked = subprocess.run(["ldd", program], stdout=subprocess.PIPE, text=True, check=True).stdout
    for path in (program, *re.findall(r"(/\S+) \(", linked)):
        target = rootfs / ("bin/git" if path == program else path[1:])
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    repository = rootfs / "repository"
    for i in range(FILES):
        path = repository / f"d{i % 6}/f{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{i}\n" * i)
    git("-C", str(repository), "init", "-q")
    git("-C", str(repository), "add", ".")
    git("-C", str(repository), "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "all")
    (repository / "d1/new").touch()
    (repository / "d2/f2").write_text("changed")


def record(spot: Path, rootfs: Path, one_file: Path) -> Path:
    """The trace of the container; rootfs is as it was before."""
    for name in ("bundles", "traces"):
        (spot / name).mkdir()
    made = bundle(spot / "bundles", SCRIPT)
    with_git(made / "rootfs")
    subprocess.run(["cp", "-a", made / "rootfs", rootfs], check=True)
    runsc = Runsc(spot, one_file, OLDER)
    argv = runsc.argv("run", "--bundle", str(made), C)
    at = argv.index("--")
    argv[at:at] = [f"--trace-dir={spot / 'traces'}"]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=spot)
    assert " M d2/f2\n?? d1/new\n" in done.stdout, done
    wait_until(lambda: not pids_named(str(runsc.state)), "nothing of it runs any more")
    (trace,) = (spot / "traces").glob("*.trace")
    return trace


def command(server: str, tree: Path, connections: int = 1) -> list[str]:
    if server == "ours":
        return [*GOFER, "serve", str(tree), "--fd=3", *OURS]
    return [sys.executable, str(CHECKOUT / "tests/runsc_alone.py"), server, str(tree), str(connections)]


def test_a_recorded_container_is_answered_by_gos_gofers_and_by_ours_as_it_was(spot: Path, one_file: Path) -> None:
    trace = record(spot, spot / "before", one_file)
    asked = {line.message for line in map(parse, run("replay", str(trace)).stdout.splitlines()) if line}
    assert asked >= {"Mount", "Walk", "OpenAt", "Getdents64", "MkdirAt", "RenameAt", "UnlinkAt", "Close"}, asked
    for server in ("2022", "2024", "ours"):
        tree = spot / server
        subprocess.run(["cp", "-a", spot / "before", tree], check=True)
        done = run("replay", str(trace), "--", *command(server, tree))
        assert done.returncode == 0 and ", 0 answered otherwise" in done.stdout, (server, done)
        assert (tree / "moved").is_dir() and not (tree / "repository/d1/new").exists()
        assert not compare_trees(tree, spot / "2022")


@pytest.mark.parametrize("go", RELEASES.values(), ids=RELEASES)
def test_what_gos_gofers_answer_otherwise_to_every_message_is_in_the_table(go: Release, spot: Path, start: Start) -> None:
    for name in ("tree", "again"):
        (spot / name).mkdir()
    server = start(f"--trace-out={spot / 'trace'}", "--host-uds=all", *go.ours, tree=spot / "tree")
    with server.peer() as peer:
        session(peer)
    server.stop()
    connections = 2  # the first is that of `start`, which asks whether the server is there
    done = run("replay", str(spot / "trace"), "--", *command(go.year, spot / "again", connections))
    *told, last = done.stdout.splitlines()
    differ = {match[1] for match in (re.search(r" (\w+)\(.*: recorded ", line) for line in told) if match}
    of = {line.name: line.of.split() for line in TABLE}
    allowed = {message for message, line in WHY.items() if go.year in of[line]}
    assert allowed - {"FRemoveXattr"} <= differ <= allowed, done  # that one: where there are no xattrs, both refuse it
    assert done.returncode == 1 and f", {len(told)} answered otherwise" in last
