"""`gofer runsc install` and `uninstall`: the files of Docker, podman and containerd. The engines themselves:
test_engine_*.py."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hosts import CHECKOUT
from hypothesis import given, settings
from hypothesis import strategies as st
from prison import USER, as_user

from gofer.runsc.edits import add_member, read_json, remove_member

ENGINES = ("docker", "podman", "containerd")
NO_TOML = sys.version_info < (3, 11)  # then nobody can say whether somebody else's TOML was changed without harm
DOCKER = """{
    "log-driver": "json-file",\t"é": [1.50, 1e3],
    "runtimes": {
        "other": { "path": "/usr/bin/other" }
    }
}"""
PODMAN = """# the cluster's
[engine]
cgroup_manager = "cgroupfs"   # v1

[engine.runtimes] # two
crun = ["/usr/bin/crun"]
"""
CONTAINERD = """version = 2
# by hand
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "pause"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
[debug]
  level = "info"
"""
THERE = {"docker": DOCKER, "podman": PODMAN, "containerd": CONTAINERD}


class Installer:
    """Of one engine, with files of its own."""

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.config, self.script = folder / "etc/config", folder / "bin/runsc-gofer"

    def run(self, action: str, *more: str, wrap: "tuple[str, ...]" = ()) -> "subprocess.CompletedProcess[str]":
        command = [*wrap, sys.executable, CHECKOUT, "runsc", action, self.engine, f"--config={self.config}"]
        install = ["--gofer=/bin/true", "--runsc=/bin/sh"] if action == "install" else []
        command += [f"--script={self.script}", *install, *more]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)

    def done(self, action: str, *more: str) -> str:
        done = self.run(action, *more)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def refused(self, action: str, says: str, *more: str, wrap: "tuple[str, ...]" = ()) -> None:
        """With exit status 1 and one line, and nothing is changed."""
        before = self.files()
        done = self.run(action, *more, wrap=wrap)
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
        assert says in done.stderr, done.stderr
        assert self.files() == before

    def write(self, text: str) -> None:
        self.config.parent.mkdir(exist_ok=True)
        self.config.write_bytes(text.encode())

    def files(self) -> "dict[str, tuple[bytes, int, int, int]]":
        """Everything there, as it is: content, mode, inode, time."""
        found = {}
        for path in self.folder.rglob("*"):
            about = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = content, about.st_mode, about.st_ino, about.st_mtime_ns if path.is_file() else 0
        return found


@pytest.fixture(params=ENGINES)
def installer(request: pytest.FixtureRequest, spot: Path) -> Installer:
    return Installer(request.param, spot)


def needs_toml(engine: str) -> bool:
    return NO_TOML and engine != "docker"


def meaning(engine: str, text: str) -> Any:
    if engine == "docker":
        return json.loads(text)
    tomllib = pytest.importorskip("tomllib", reason="no reader of TOML before Python 3.11")
    return tomllib.loads(text)


def entry(engine: str, script: Path, config: Path) -> Any:
    """What an engine must find."""
    if engine == "docker":
        return {"runtimes": {"runsc-gofer": {"path": str(script)}}}
    if engine == "podman":
        return {"engine": {"runtimes": {"runsc-gofer": [str(script)]}}}
    options = {"TypeUrl": "io.containerd.runsc.v1.options", "ConfigPath": str(config.with_name("runsc-gofer.toml"))}
    runtimes = {"runsc-gofer": {"runtime_type": "io.containerd.runsc.v1", "options": options}}
    return {"plugins": {"io.containerd.grpc.v1.cri": {"containerd": {"runtimes": runtimes}}}}


def merged(one: Any, two: Any) -> Any:
    if not isinstance(one, dict):
        return two
    return {key: merged(one.get(key), two[key]) if key in two else one[key] for key in {**one, **two}}


def test_where_nothing_is_all_files_are_made_and_removed_again(installer: Installer) -> None:
    said = installer.done("install", "--", "--platform=systrap", "a b")
    assert f"wrote {installer.script}\n" in said and f"wrote {installer.config}\n" in said
    assert ("systemctl re" in said) == (installer.engine != "podman"), "podman reads its configuration at each start"
    script = installer.script.read_text().splitlines()
    assert script[0] == "#!/bin/sh"
    assert script[-1] == "exec /bin/true runsc --runsc /bin/sh -- --platform=systrap 'a b' \"$@\""
    assert installer.script.stat().st_mode & 0o777 == 0o755 and installer.config.stat().st_mode & 0o777 == 0o644
    assert installer.done("install", "--", "--platform=systrap", "a b") == "nothing to change\n"
    installer.done("uninstall")
    left = {"docker": {"config": "{}\n"}, "podman": {}, "containerd": {"config": "version = 2\n"}}[installer.engine]
    assert {path.name: path.read_text() for path in installer.folder.rglob("*") if path.is_file()} == left
    assert installer.done("uninstall") == "nothing to change\n"


def test_the_script_is_run_with_what_the_engine_says(spot: Path) -> None:
    installer = Installer("docker", spot)
    (spot / "echo").write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    (spot / "echo").chmod(0o755)
    installer.done("install", f"--gofer={spot}/echo", "--", "--a=b c", "$HOME")
    done = subprocess.run([installer.script, "run", "x y"], stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.splitlines() == ["runsc", "--runsc", "/bin/sh", "--", "--a=b c", "$HOME", "run", "x y"]


def test_what_stands_there_stays_to_the_byte(installer: Installer) -> None:
    installer.write(THERE[installer.engine])
    installer.config.chmod(0o640)
    os.chown(installer.config, 1234, 4321)
    if needs_toml(installer.engine):
        installer.refused("install", "this Python has no reader")
        return
    installer.done("install")
    text, before = installer.config.read_text(), THERE[installer.engine]
    wanted = merged(meaning(installer.engine, before), entry(installer.engine, installer.script, installer.config))
    assert meaning(installer.engine, text) == wanted
    lines = iter(text.split("\n"))
    assert all(line in lines for line in before.split("\n")), "every line is still there, in its order"
    about = installer.config.stat()
    assert (about.st_mode & 0o777, about.st_uid, about.st_gid) == (0o640, 1234, 4321)
    installer.done("uninstall")
    assert installer.config.read_text() == before
    about = installer.config.stat()
    assert (about.st_mode & 0o777, about.st_uid, about.st_gid) == (0o640, 1234, 4321)


def test_two_names_are_two_runtimes(installer: Installer) -> None:
    if needs_toml(installer.engine):
        pytest.skip("no reader of TOML before Python 3.11")
    installer.done("install")
    one = installer.config.read_text()
    other = f"--script={installer.folder}/bin/other"
    installer.done("install", "--name=other", other, "--", "--host-uds=all")
    assert "--host-uds" in (installer.folder / "bin/other").read_text()
    installer.done("uninstall", "--name=other", other)
    assert installer.config.read_text() == one and "--host-uds" not in installer.script.read_text()


def test_other_flags_change_the_script_only(installer: Installer) -> None:
    installer.done("install")
    said = installer.done("install", "--", "--host-uds=all")
    assert f"wrote {installer.script}\n" in said and f"wrote {installer.config}\n" not in said
    assert "-- --host-uds=all" in installer.script.read_text()


def test_a_dry_run_shows_the_change_and_makes_none(installer: Installer) -> None:
    before = installer.files()
    said = installer.done("install", "--dry-run")
    assert installer.files() == before == {}
    assert f"+++ {installer.script}" in said and f"+++ {installer.config}" in said and "+exec" in said
    installer.done("install")
    before = installer.files()
    said = installer.done("uninstall", "--dry-run")
    assert f"--- {installer.script}" in said and f"--- {installer.config}" in said and "-exec" in said
    assert installer.files() == before


@pytest.mark.parametrize(
    "engine,text,says",
    [
        ("docker", '{"runtimes": {', "is not JSON: Expecting"),
        ("docker", "[]", "is not a JSON object"),
        ("docker", '{"a": 1, "a": 2}', "a name stands twice"),
        ("docker", '{"runtimes": []}', "has runtimes that are not an object"),
        ("docker", '{"runtimes": {"runsc-gofer": {"path": "/theirs"}}}', "has another runtime of the name runsc-gofer"),
        ("podman", "[engine\n", "is not TOML"),
        ("podman", '[engine.runtimes]\nrunsc-gofer = ["/theirs"]\n', "has another engine.runtimes.runsc-gofer already"),
        ("podman", '[engine]\nruntimes = {crun = ["/c"]}\n', "cannot change without harm"),
        ("containerd", "version = \n", "is not TOML"),
        ("containerd", "[plugins]\n", "is of version 1, not 2 or 3: see `containerd config migrate`"),
        ("containerd", CONTAINERD + "# begin of runsc-gofer, written by `gofer runsc install`\n", "without an end"),
    ],
)
def test_a_broken_or_foreign_configuration_is_left_alone(spot: Path, engine: str, text: str, says: str) -> None:
    installer = Installer(engine, spot)
    installer.write(text)
    if needs_toml(engine) and "without an end" not in says:
        says = "this Python has no reader"
    installer.refused("install", f"{installer.config} ")
    installer.refused("install", says)
    if engine == "docker":
        installer.refused("uninstall", says)


def test_bytes_that_are_no_text_are_left_alone(installer: Installer) -> None:
    installer.config.parent.mkdir()
    installer.config.write_bytes(b"\xff{}")
    installer.refused("install", f"{installer.config} is not UTF-8")
    installer.refused("uninstall", f"{installer.config} is not UTF-8")


def test_a_foreign_script_is_left_alone(installer: Installer) -> None:
    installer.script.parent.mkdir()
    installer.script.write_text('#!/bin/sh\nexec gofer runsc -- "$@"\n')
    for action in ("install", "uninstall"):
        installer.refused(action, "was not written by `gofer runsc install`")


def test_a_foreign_configuration_of_the_shim_is_left_alone(spot: Path) -> None:
    installer = Installer("containerd", spot)
    installer.write("")
    (spot / "etc/runsc-gofer.toml").write_text('binary_name = "/theirs"\n')
    says = "this Python has no reader" if NO_TOML else "has another binary_name already"
    installer.refused("install", says)


def test_where_a_file_cannot_be_written_none_is(installer: Installer) -> None:
    installer.config.mkdir(parents=True)
    installer.refused("install", "Is a directory")
    installer.config.rmdir()
    installer.write("")
    installer.script.parent.mkdir()
    installer.refused("install", "File too large", wrap=("prlimit", "--fsize=50"))
    if installer.engine == "docker":
        installer.write(json.dumps({"a": "x" * 400}))
        installer.refused("install", "File too large", wrap=("prlimit", "--fsize=400"))  # room for the script


def test_a_default_runtime_of_docker_is_not_taken_away(spot: Path) -> None:
    installer = Installer("docker", spot)
    installer.done("install")
    config = json.loads(installer.config.read_text())
    installer.write(json.dumps({**config, "default-runtime": "runsc-gofer"}))
    installer.refused("uninstall", "Docker could not start without it")


def test_a_link_to_the_configuration_stays_one(spot: Path) -> None:
    installer = Installer("docker", spot)
    installer.write("{}")
    real = installer.config.rename(installer.config.with_name("real"))
    installer.config.symlink_to("real")
    installer.done("install")
    assert installer.config.is_symlink() and "runsc-gofer" in real.read_text()


def test_a_script_that_another_engine_names_stays(spot: Path) -> None:
    """Both with the places of a user of their own."""
    os.chown(spot, USER, USER)
    env = {"PATH": os.environ["PATH"], "HOME": str(spot)}

    def run(*words: str) -> None:
        with as_user(USER) as (command, who):
            done = subprocess.run([*command, "runsc", *words], env=env, capture_output=True, text=True, **who)
        assert done.returncode == 0, done.stderr

    for engine in ("docker", "podman"):
        run("install", engine, "--gofer=/bin/true", "--runsc=/bin/true")
    script = spot / ".local/bin/runsc-gofer"
    assert str(script) in (spot / ".config/containers/containers.conf.d/runsc-gofer.conf").read_text()
    run("uninstall", "docker")
    assert (spot / ".config/docker/daemon.json").read_text() == "{}\n" and script.exists()
    run("uninstall", "podman")
    assert not script.exists() and not list((spot / ".config/containers/containers.conf.d").iterdir())


@pytest.mark.parametrize(
    "words,says",
    [
        (["install"], "ENGINE"),
        (["install", "lxc"], "invalid choice"),
        (["install", "docker", "--name=a b"], "may have letters"),
        (["uninstall", "docker", "--", "--debug"], "takes no flags for runsc"),
        (["install", "docker", "--runsc"], "expected one argument"),
    ],
)
def test_wrong_options_end_with_2_and_the_usage(words: "list[str]", says: str) -> None:
    done = subprocess.run([sys.executable, CHECKOUT, "runsc", *words], capture_output=True, text=True)
    assert done.returncode == 2 and says in done.stderr and "usage: gofer runsc install" in done.stderr


def test_a_runsc_that_is_not_there_is_named(installer: Installer) -> None:
    installer.refused("install", "/nowhere: no such program", "--runsc=/nowhere")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.text().filter(lambda name: name != "ours")


@settings(deadline=None)  # whatever else the machine does
@given(
    st.dictionaries(NAMES.filter(lambda name: name != "runtimes"), VALUES, min_size=1, max_size=4),
    st.none() | st.dictionaries(NAMES, VALUES, min_size=1, max_size=3),
    st.sampled_from([None, 0, 2, "\t"]),
    st.booleans(),
    st.randoms(),
)
def test_any_json_comes_back_as_it_was(
    config: "dict[str, Any]", runtimes: Any, indent: Any, is_ascii: bool, random: Any
) -> None:
    if runtimes is not None:
        config = {**config, "runtimes": runtimes}
        names = list(config)
        random.shuffle(names)
        config = {name: config[name] for name in names}
    text = json.dumps(config, indent=indent, ensure_ascii=is_ascii)
    added = add_member(text, "runtimes", "ours", {"path": "/x"})
    assert read_json(added) == {**config, "runtimes": {**(runtimes or {}), "ours": {"path": "/x"}}}
    assert remove_member(added, "runtimes", "ours") == text
