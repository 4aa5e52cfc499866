"""Programs that are hard on a file system, in a mount: whatever they check of it holds."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CALM, Server
from mounting import Mount, mount

pytestmark = pytest.mark.slow
TESTS = Path(__file__).resolve().parent


@pytest.fixture(params=[(), ("--no-passthrough", "--cache=none"), ("--writeback",)], ids=["default", "plain", "writeback"])
def there(request: pytest.FixtureRequest, server: Server) -> Iterator[Mount]:
    with mount(server, *request.param) as made:
        yield made


def does(*argv: "str | Path", at: Path, **more: object) -> str:
    environment = {**os.environ, "HOME": "/nowhere", "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(argv, cwd=at, env=environment, capture_output=True, text=True, timeout=CALM, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return str(done.stdout)


def test_git_clones_checks_and_packs(there: Mount, spot: Path) -> None:
    git = ("git", "-c", "user.name=n", "-c", "user.email=e", "-c", "safe.directory=*")
    origin = spot / "origin"
    shutil.copytree(TESTS, origin, ignore=shutil.ignore_patterns("__pycache__"))
    does(*git, "init", "-q", at=origin)
    does(*git, "add", ".", at=origin)
    does(*git, "commit", "-qm", "all", at=origin)
    does(*git, "clone", "-q", "--no-hardlinks", origin, there.path / "clone", at=spot)
    clone = there.path / "clone"
    does(*git, "fsck", "--strict", at=clone)
    does(*git, "gc", "-q", at=clone)
    does(*git, "checkout", "-qb", "other", at=clone)
    (clone / "new").write_text("new")
    does(*git, "add", "new", at=clone)
    does(*git, "commit", "-qm", "new", at=clone)
    assert does(*git, "status", "--porcelain", at=clone) == ""
    does(*git, "fsck", "--strict", at=there.tree / "clone")
    assert does(*git, "status", "--porcelain", at=there.tree / "clone") == ""


def test_what_tar_and_rsync_bring_is_what_they_were_given(there: Mount, spot: Path) -> None:
    source = spot / "source"
    shutil.copytree(TESTS, source, ignore=shutil.ignore_patterns("__pycache__"))
    os.symlink("run", source / "link")
    os.link(source / "run", source / "hard")
    os.chmod(source / "run", 0o4755)
    with open(source / "holes", "wb") as file:
        file.truncate(3 << 20)
    does("tar", "-C", spot, "-cf", spot / "in.tar", "source", at=spot)
    does("tar", "-C", there.path, "-xpf", spot / "in.tar", at=spot)
    does("diff", "-r", source, there.tree / "source", at=spot)
    assert os.stat(there.path / "source/run").st_ino == os.stat(there.path / "source/hard").st_ino
    does("tar", "-C", there.path, "-df", spot / "in.tar", at=spot)
    rsync = ("rsync", "-aHX", "--itemize-changes", f"{source}/")
    assert does(*rsync, f"{there.path}/synced", at=spot) != ""
    assert does(*rsync, f"{there.path}/synced", at=spot) == ""
    assert does(*rsync, "--checksum", f"{there.tree}/synced", at=spot) == ""


def test_fio_finds_what_it_has_written(there: Mount, spot: Path) -> None:
    job = ("--rw=randwrite", "--bs=4k", "--size=4m", "--numjobs=2", "--verify=crc32c", "--verify_fatal=1", "--randseed=3")
    for engine in ("psync", "mmap"):
        name = (f"--name={engine}", f"--directory={there.path}", f"--ioengine={engine}", "--fallocate=none")
        does("fio", *name, *job, "--end_fsync=1", "--verify_state_save=0", at=spot)


def test_a_c_project_is_built_and_runs(there: Mount, spot: Path) -> None:
    at = there.path / "project"
    at.mkdir()
    for i in range(8):
        (at / f"part{i}.c").write_text(f"int part{i}(void) {{ return {i}; }}\n")
    calls = " + ".join(f"part{i}()" for i in range(8))
    declared = "".join(f"int part{i}(void);" for i in range(8))
    (at / "main.c").write_text(f"{declared} int main(void) {{ return {calls} == 28 ? 0 : 1; }}\n")
    objects = " ".join(f"part{i}.o" for i in range(8))
    (at / "Makefile").write_text(f"program: main.o {objects}\n\t$(CC) -o $@ $^\n")
    does("make", "-j3", at=at)
    does("./program", at=at)
    assert "up to date" in does("make", at=at)


def test_what_stress_ng_does_to_a_file_system_it_finds_done(there: Mount, spot: Path) -> None:
    """All at once; each checks what it has done."""
    stressors = (
        *("access", "chdir", "chmod", "chown", "copy-file", "dentry", "dir", "dirdeep", "fallocate", "filename", "flock"),
        *("fpunch", "fstat", "getdent", "hdd", "iomix", "link", "locka", "lockf", "lockofd", "mknod", "mmap", "open", "rename"),
        *("seek", "sendfile", "symlink", "sync-file", "touch", "utime", "xattr"),
    )
    small = [f"--{name}-bytes=4m" for name in ("hdd", "iomix", "fallocate", "mmap", "sync-file")]
    small += ["--mmap-file", "--seek-size=2m", "--dentries=64", "--dirdeep-dirs=2", "--dirdeep-inodes=100"]
    each = [f"--{name}=1" for name in stressors]
    does("stress-ng", "--temp-path", there.path, "--timeout=1s", "--verify", "--quiet", *small, *each, at=spot)
    assert os.listdir(there.path) == os.listdir(there.tree) == []
