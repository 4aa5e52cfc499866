"""What pip makes of this: the source archive, complete, passing its tests; the command, the module, the library."""

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import CHECKOUT, serves, wait_until

from gofer import __version__

pytestmark = pytest.mark.slow
NOT_OURS = (".git", ".venv*", ".runsc", "dist", "build", "__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "site")
BUILD = "from setuptools import build_meta as b; import sys; getattr(b, sys.argv[1])(sys.argv[2])"


def done(*argv: "str | Path", **how: object) -> str:
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **how}
    run = subprocess.run(argv, **how)  # type: ignore[call-overload]
    assert run.returncode == 0, run.stdout
    return str(run.stdout)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="package-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    """The source archive, unpacked."""
    shutil.copytree(CHECKOUT, folder / "copy", symlinks=True, ignore=shutil.ignore_patterns(*NOT_OURS))
    said = done(sys.executable, "-W", "error", "-c", BUILD, "build_sdist", folder, cwd=folder / "copy")
    assert "Deprecat" not in said and "warn" not in said.lower().replace("warning: no previously-included files", ""), said
    with tarfile.open(folder / f"gofer-{__version__}.tar.gz") as archive:
        archive.extractall(folder)
    return folder / f"gofer-{__version__}"


@pytest.fixture(scope="module")
def installed(folder: Path, source: Path) -> Path:
    """The directory of commands of an environment in which the archive was installed."""
    done(sys.executable, "-m", "venv", "--without-pip", folder / "env")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    done(*pip, "wheel", "--quiet", "--no-build-isolation", "--no-index", "--wheel-dir", folder, source, cwd="/")
    (wheel,) = folder.glob("*.whl")
    done(*pip, "--python", folder / "env", "install", "--quiet", "--no-index", wheel, cwd="/")
    return folder / "env/bin"


def test_the_source_archive_holds_every_file_of_the_checkout(source: Path, folder: Path) -> None:
    def files(path: Path) -> set[str]:
        made = {"PKG-INFO", "setup.cfg"}  # by the build
        found = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
        return {name for name in found - made if ".egg-info/" not in name and "__pycache__" not in name}

    assert files(source) == files(folder / "copy")
    assert os.access(source / "build.sh", os.X_OK) and os.access(source / "tests/run", os.X_OK)


def test_the_metadata_has_links_a_license_and_nothing_that_is_deprecated(source: Path) -> None:
    facts = email.message_from_string((source / "PKG-INFO").read_text())
    assert (facts["Name"], facts["Version"], facts["License-Expression"]) == ("gofer", __version__, "Apache-2.0")
    assert facts["License"] is None and facts["Requires-Dist"] is None and facts["Home-page"] is None
    assert not any(line.startswith("License ::") for line in facts.get_all("Classifier", []))
    assert all(" https://" in link for link in facts.get_all("Project-URL", [])) and facts["Project-URL"]


def test_the_source_archive_builds_and_passes_its_tests(source: Path) -> None:
    """Some of them, which between them use everything that only an archive could lack."""
    some = ["test_wire.py", "test_imports.py", "test_build.py::test_the_build_helps"]
    pytest_ = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *(f"tests/{name}" for name in some)]
    env = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    assert " passed" in done(*pytest_, cwd=source, env=env)


def test_pip_installs_a_command_that_serves_and_looks(installed: Path, spot: Path) -> None:
    (spot / "tree").mkdir()
    (spot / "tree/some file").touch()
    gofer, socket = installed / "gofer", spot / "s"
    assert done(gofer, "--version", cwd="/") == f"gofer {__version__}\n"
    with open(spot / "log", "wb") as log, subprocess.Popen(
        [gofer, "serve", spot / "tree", "--socket", socket], stderr=log, cwd="/"
    ) as server:
        try:
            wait_until(lambda: serves(socket), "it serves")
            assert "some file" in done(gofer, "ls", socket, cwd="/")
            assert f"look at it with: {gofer} ls {socket}\n" in (spot / "log").read_text()
        finally:
            server.terminate()
    assert server.returncode == 0


def test_pipx_installs_the_command_and_takes_it_away(installed: Path, folder: Path, spot: Path) -> None:
    """Debian's pipx, which gets a pip for itself from the index that pip uses here."""
    (wheel,) = folder.glob("*.whl")
    env = {**os.environ, "PIPX_HOME": str(spot / "home"), "PIPX_BIN_DIR": str(spot / "bin"), "PIPX_MAN_DIR": str(spot / "man")}
    done("/usr/bin/pipx", "install", wheel, env=env, cwd="/")
    assert done(spot / "bin/gofer", "--version", cwd="/") == f"gofer {__version__}\n"
    (spot / "tree").mkdir()
    (spot / "tree/some file").touch()
    serve = [spot / "bin/gofer", "serve", spot / "tree", "--socket", spot / "s", "--", spot / "bin/gofer", "ls"]
    assert "some file" in done(*serve, cwd="/")
    done("/usr/bin/pipx", "uninstall", "gofer", env=env, cwd="/")
    assert not (spot / "bin/gofer").exists()


def test_the_module_is_the_same_command(installed: Path, spot: Path) -> None:
    python = [installed / "python", "-Im", "gofer"]
    assert done(*python, "--version", cwd="/") == f"gofer {__version__}\n"
    said = done(*python, "serve", spot, "--socket", spot / "s", "--", *python, "ls", cwd="/")
    assert f"look at it with: {python[0]} " in said and f"-{'I' * (sys.version_info > (3, 10))}m gofer ls" in said


def test_what_pip_has_installed_is_no_gofer_for_containers_and_says_so(installed: Path) -> None:
    argv = [installed / "gofer", "runsc", "--runsc", "/bin/true", "--", "run", "c"]
    run = subprocess.run(argv, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("\n") == 1 and "./build.sh" in run.stderr


def test_the_library_is_typed_for_who_imports_it(installed: Path, spot: Path) -> None:
    (spot / "uses.py").write_text("from gofer.client.client import Client\nreveal_type(Client.connect('s').pread(1, 2, 3))\n")
    python = f"--python-executable={installed / 'python'}"
    said = done(sys.executable, "-m", "mypy", python, "--strict", "--cache-dir=/dev/null", "uses.py", cwd=spot)
    assert 'Revealed type is "builtins.bytes"' in said or 'Revealed type is "bytes"' in said
