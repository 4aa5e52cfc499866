"""What build.sh makes for those who distribute it: the Debian package, the image, bills of materials, checksums."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Cell
from hosts import CHECKOUT
from runsc import one_file_gofer
from test_engine_podman import Podman

from gofer import __version__, cli

pytestmark = pytest.mark.slow
EPOCH = "1700000000"


def built(place: Path) -> Path:
    """A copy of the checkout in which all is made of the one file, as `./build.sh all` does; its dist/."""
    left_out = shutil.ignore_patterns(".git", ".venv*", ".runsc", "dist", "__pycache__", ".*_cache", "tests")
    shutil.copytree(CHECKOUT, place, symlinks=True, ignore=left_out)
    (place / "tests").mkdir()
    shutil.copy(CHECKOUT / "tests/requirements.txt", place / "tests")
    (place / "dist").mkdir()
    shutil.copy(one_file_gofer(), place / "dist/gofer")
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH}
    done = subprocess.run(["python3", place / "release/make.py", "all"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done
    return place / "dist"


@pytest.fixture(scope="module")
def dist() -> Iterator[Path]:
    one_file_gofer()  # made before a test's own files are counted
    place = Path(tempfile.mkdtemp(prefix="release-"))
    place.chmod(0o755)
    yield built(place / "one")
    shutil.rmtree(place)


def only(dist: Path, pattern: str) -> Path:
    (found,) = dist.glob(pattern)
    return found


def test_two_builds_of_all_are_byte_identical_and_their_checksums_are_right(dist: Path, spot: Path) -> None:
    before = os.umask(0o077)
    try:
        again = built(spot / "another place")
    finally:
        os.umask(before)
    assert (again / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
    names = [line.split()[1] for line in (dist / "SHA256SUMS").read_text().splitlines()]
    files = {path.relative_to(dist).as_posix() for path in dist.rglob("*") if path.is_file()}
    assert set(names) == files - {"SHA256SUMS"} and "gofer" in names
    subprocess.run(["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=dist, check=True)


def test_lintian_finds_nothing_in_the_debian_package(dist: Path, spot: Path) -> None:
    argv = ["lintian", "--allow-root", "--display-info", "--display-experimental", "--pedantic", "--fail-on=info"]
    env = {**os.environ, "TMPDIR": str(spot)}  # it leaves something there
    done = subprocess.run([*argv, only(dist, "*.deb")], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_debian_package_brings_a_program_its_pages_completions_and_units(dist: Path, spot: Path) -> None:
    subprocess.run(["dpkg-deb", "--extract", only(dist, "*.deb"), spot / "root"], check=True)
    root = spot / "root"
    assert (root / "usr/bin/gofer").read_bytes() == (dist / "gofer").read_bytes()
    told = subprocess.run([root / "usr/bin/gofer", "--version"], capture_output=True, text=True)
    assert told.stdout == f"gofer {__version__}\n"
    pages = {path.name for path in (root / "usr/share/man/man1").iterdir()}
    assert pages == {"gofer.1.gz", *(f"gofer-{command}.1.gz" for command in cli.COMMANDS)}
    completions = (root / "usr/share/bash-completion/completions/gofer", root / "usr/share/zsh/vendor-completions/_gofer")
    assert all(path.read_text().count("completions --reply") for path in completions)
    assert {path.name for path in (root / "lib/systemd/system").iterdir()} == {
        path.name for path in (CHECKOUT / "systemd").glob("*@.*")
    }
    owners = subprocess.run(["dpkg-deb", "--contents", only(dist, "*.deb")], capture_output=True, text=True).stdout
    assert {line.split()[1] for line in owners.splitlines()} == {"root/root"}


def test_dpkg_installs_it_and_takes_it_away(dist: Path, spot: Path) -> None:
    """Into a root of its own; what it depends on is this machine's."""
    (spot / "var/lib/dpkg/info").mkdir(parents=True)
    (spot / "var/lib/dpkg/status").touch()
    dpkg = ["dpkg", f"--root={spot}", "--force-depends", "--no-triggers"]
    subprocess.run([*dpkg, "--install", only(dist, "*.deb")], check=True, capture_output=True)
    assert (spot / "usr/bin/gofer").exists()
    subprocess.run([*dpkg, "--purge", "gofer"], check=True, capture_output=True)
    assert [path for path in spot.rglob("*") if "gofer" in path.name] == []


VALIDATOR = "cyclonedx-python-lib[json-validation]==11.12.0"  # has CycloneDX's own schema in it; of no use to other tests
VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
for path in sys.argv[1:]:
    wrong = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(path).read())
    print("valid" if wrong is None else repr(str(wrong))[:200])
"""


def test_the_bills_of_materials_are_what_cyclonedxs_schema_says(dist: Path, spot: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", spot / "env"], check=True)
    python = spot / "env/bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--quiet", VALIDATOR], check=True, capture_output=True)
    boms = sorted(dist.glob("*.cdx.json"))
    (spot / "wrong").write_text(boms[0].read_text().replace('"name": "gofer"', '"name": 5'))
    done = subprocess.run([python, "-c", VALIDATE, *boms, spot / "wrong"], check=True, stdout=subprocess.PIPE, text=True)
    *said, wrong = done.stdout.splitlines()
    assert said == ["valid"] * 3 and wrong != "valid", done.stdout


@pytest.mark.parametrize("pattern", ["gofer.cdx.json", "*_all.cdx.json", "*.oci.cdx.json"])
def test_a_bill_of_materials_names_the_artifact_and_what_is_inside(dist: Path, pattern: str) -> None:
    path = only(dist, pattern)
    bom = json.loads(path.read_text())
    names = [path.name.replace(".cdx.json", end) for end in ("", ".deb", ".tar")]
    (artifact,) = [file for file in dist.iterdir() if file.name in names]
    ours = bom["metadata"]["component"]
    assert (bom["bomFormat"], bom["specVersion"], bom["metadata"]["timestamp"]) == ("CycloneDX", "1.5", "2023-11-14T22:13:20Z")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"])
    assert ours["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(artifact.read_bytes()).hexdigest()}]
    refs = [component["bom-ref"] for component in bom["components"]]
    assert bom["dependencies"] == [{"ref": ours["bom-ref"], "dependsOn": refs}] and len(set(refs)) == len(refs)
    if pattern == "*.oci.cdx.json":
        purls = [component["purl"] for component in bom["components"]]
        assert any(re.match(r"pkg:deb/debian/libpython3\.\d+-stdlib@", purl) for purl in purls)
        assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)


def test_the_image_is_a_layout_whose_every_blob_is_what_its_name_says(dist: Path, spot: Path) -> None:
    with tarfile.open(only(dist, "*.oci.tar")) as archive:
        archive.extractall(spot)
    for blob in (spot / "blobs/sha256").iterdir():
        assert hashlib.sha256(blob.read_bytes()).hexdigest() == blob.name
    index = json.loads((spot / "index.json").read_text())
    manifest = json.loads((spot / "blobs/sha256" / index["manifests"][0]["digest"].partition(":")[2]).read_text())
    config = json.loads((spot / "blobs/sha256" / manifest["config"]["digest"].partition(":")[2]).read_text())
    (layer,) = manifest["layers"]
    with tarfile.open(spot / "blobs/sha256" / layer["digest"].partition(":")[2]) as root:
        members = root.getmembers()
    assert config["created"] == "2023-11-14T22:13:20Z" and {member.mtime for member in members} == {int(EPOCH)}
    assert {(member.uid, member.gid) for member in members} == {(0, 0)} and not any(member.mode & 0o6000 for member in members)
    names = [member.name for member in members]
    assert names == sorted(names) and len(set(names)) == len(names) and "usr/bin/gofer" in names
    assert not any(name.endswith(".pyc") or "/man/" in name for name in names)


class Plain(Podman):
    """podman with its own runtime, and no image but what is loaded."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="pod-"))
        self.place.chmod(0o755)
        self.cell = Cell()


@pytest.fixture
def podman() -> Iterator[Plain]:
    engine = Plain()
    yield engine
    engine.close()


def test_podman_loads_the_image_and_it_serves_what_is_mounted(dist: Path, podman: Plain) -> None:
    loaded = podman.call("load", "--quiet", f"--input={only(dist, '*.oci.tar')}")
    assert loaded.status == 0 and f"localhost/gofer:{__version__}" in loaded.out, loaded
    (podman.place / "tree").mkdir()
    (podman.place / "tree/some file").touch()
    run = ["run", "--rm", "--network=none", f"--volume={podman.place}/tree:/data", f"localhost/gofer:{__version__}"]
    done = podman.call(*run, "serve", "--", "gofer", "ls")
    assert done.status == 0 and "some file" in done.out and "serves the directory /data read-write" in done.err, done
    tested = podman.call(*run, "doctor", "--self-test", "/tmp")
    assert tested.status == 0 and "failed" not in tested.out, tested
