"""The one-file program that build.sh makes, run with an empty environment and a HOME that takes no file."""

import dis
import importlib.util
import json
import marshal
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import CodeType

import pytest
from hosts import CHECKOUT, wait_until

sys.path.insert(0, str(CHECKOUT / "onefile"))
import bundle
import pythons

from gofer import __version__, cli

pytestmark = pytest.mark.slow

PYTHONS = pythons.find()
OLD_PYTHONS = {minor: path for minor, path in pythons.find(oldest=4).items() if minor < pythons.OLDEST}
EPOCH = "1700000000"  # 2023-11-14 22:13:20 UTC
NO_HOME = "/proc"  # exists, is a directory, and not even root can make a file in it
NOBODY = 65534
EVIL = "import os; os.write(1, b'EVIL'); os._exit(66)\n"
VERSION = f"gofer {__version__}\n"
# With each of these shiv's own bootstrap, or Python, runs other code than the program's, or fails, or talks.
HOSTILE = {
    "SHIV_INTERPRETER": "1",
    "SHIV_ENTRY_POINT": "evil:main",
    "SHIV_MODULE": "evil:main",
    "SHIV_CONSOLE_SCRIPT": "evil",
    "SHIV_ROOT": "{folder}/cache",
    "SHIV_PREPEND_PYTHONPATH": "{folder}",
    "HOME": "{folder}/home",
    "PYTHONPATH": "{folder}",
    "PYTHONHOME": "{folder}",
    "PYTHONUSERBASE": "{folder}/userbase",
    "PYTHONINSPECT": "1",
    "PYTHONVERBOSE": "1",
    "PYTHONPROFILEIMPORTTIME": "1",
    "PYTHONPLATLIBDIR": "evil",
}


def build(output: Path, checkout: Path = CHECKOUT, **env: str) -> Path:
    env = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, **env}
    run = subprocess.run([checkout / "build.sh", output], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    return output


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="build-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    return build(folder / "gofer", SHIV=sys.executable)


@pytest.fixture(params=PYTHONS.values(), ids=[f"3.{minor}" for minor in PYTHONS])
def on_each(request: pytest.FixtureRequest, program: Path, spot: Path) -> Path:
    """The program with each CPython of this machine in its `#!` line."""
    return for_python(program, request.param, spot / "gofer")


def for_python(program: Path, python: str, copy: Path) -> Path:
    data = program.read_bytes()
    assert data.startswith(b"#!/usr/bin/python3 ")
    copy.write_bytes(b"#!" + python.encode() + data[len("#!/usr/bin/python3") :])
    copy.chmod(0o755)
    return copy


def edited(program: Path, copy: Path, change: "dict[str, bytes | None]") -> Path:
    """A copy in which the members that match these patterns have other contents, or (None) are gone."""
    line = program.read_bytes().partition(b"\n")[0]
    with zipfile.ZipFile(program) as old, open(copy, "wb") as file:
        file.write(line + b"\n")
        with zipfile.ZipFile(file, "w") as new:
            for name in old.namelist():
                data = next((new for like, new in change.items() if fnmatch(name, like)), old.read(name))
                if data is not None:
                    new.writestr(name, data)
    copy.chmod(0o755)
    return copy


def output(*argv: "str | Path", status: int = 0, **how: object) -> str:
    how = {"env": {"HOME": NO_HOME}, "cwd": "/", **how}
    how.update(stdin=subprocess.DEVNULL, capture_output=True, text=True)
    run = subprocess.run(argv, **how)  # type: ignore[call-overload]
    assert (run.returncode, run.stderr if status == 0 else "") == (status, ""), (run.stdout, run.stderr)
    return str(run.stdout + run.stderr)


# What it is


def test_it_is_one_executable_file_with_a_first_line_every_linux_takes(program: Path) -> None:
    assert program.stat().st_mode == 0o100755
    first = program.read_bytes().partition(b"\n")[0]
    assert first.startswith(b"#!/usr/bin/python3 -BISc")
    assert len(first) < 127


@pytest.mark.parametrize(
    "interpreter",
    ["python3", "/usr/" + "long/" * 10 + "bin/python3", "/opt/my python/python3", ""],
)
def test_an_interpreter_that_the_first_line_cannot_hold_is_refused(interpreter: str, spot: Path) -> None:
    how = {"env": {**os.environ, "SHIV": sys.executable}}
    text = output(CHECKOUT / "build.sh", spot / "gofer", interpreter, status=1, **how)
    assert text.startswith(f"build.sh: {interpreter}: an absolute path of") and text.count("\n") == 1
    assert list(spot.iterdir()) == []


@pytest.mark.parametrize(
    "argv,said",
    [
        (["--output", "x"], "no such option"),
        (["-x"], "no such option"),
        (["a", "b", "c"], "too many"),
        (["deb", "a"], "too many"),
        ([""], "not be empty"),
    ],
    ids=str,
)
def test_wrong_usage_of_the_build_is_told_and_makes_nothing(argv: "list[str]", said: str, spot: Path) -> None:
    text = output(CHECKOUT / "build.sh", *argv, status=2, cwd=spot, env={**os.environ, "SHIV": sys.executable})
    assert text.startswith("build.sh: ") and said in text and "usage: ./build.sh" in text and text.count("\n") == 1
    assert list(spot.iterdir()) == []


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_the_build_helps(option: str, spot: Path) -> None:
    text = output(CHECKOUT / "build.sh", option, cwd=spot)
    assert text.startswith("usage: ./build.sh [OUTPUT [INTERPRETER]]\n") and "SOURCE_DATE_EPOCH=SECONDS" in text
    assert list(spot.iterdir()) == []


def test_an_output_that_is_a_directory_is_told(spot: Path) -> None:
    (spot / "gofer").mkdir()
    text = output(CHECKOUT / "build.sh", spot / "gofer", status=1, env={**os.environ, "SHIV": sys.executable})
    assert "is a directory" in text and list((spot / "gofer").iterdir()) == []


@pytest.mark.parametrize("owner", [0, NOBODY, None], ids=["ours", "another's", "no checkout"])
def test_the_time_stamp_is_the_commits_or_it_is_said_that_it_is_not(owner: "int | None", spot: Path) -> None:
    """git tells nothing of a checkout that belongs to somebody else (safe.directory)."""
    for name in ("gofer", "onefile", "build.sh", "__main__.py"):
        copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
        copy(CHECKOUT / name, spot / name)  # type: ignore[operator]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "SUDO_"))}
    env.update(SHIV=sys.executable, HOME=str(spot), GIT_CONFIG_NOSYSTEM="1")
    env.pop("SOURCE_DATE_EPOCH", None)
    if owner is not None:
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        stamps = {"GIT_AUTHOR_DATE": f"@{EPOCH} +0000", "GIT_COMMITTER_DATE": f"@{EPOCH} +0000"}
        subprocess.run(["git", "init", "-q", spot], env=env, check=True)
        commit = ["git", "-C", spot, *identity, "commit", "-q", "--allow-empty", "-m", "x"]
        subprocess.run(commit, env={**env, **stamps}, check=True)
        for path in (spot, *spot.rglob("*")):
            os.chown(path, owner, owner)
    done = subprocess.run([spot / "build.sh", spot / "made"], env=env, capture_output=True, text=True)
    if owner == NOBODY:
        assert done.returncode == 1 and "safe.directory" in done.stderr and "SOURCE_DATE_EPOCH" in done.stderr
        assert not (spot / "made").exists()
        return
    assert done.returncode == 0, done.stderr
    year = 2023 if owner == 0 else 1980
    assert {info.date_time[0] for info in zipfile.ZipFile(spot / "made").infolist()} == {year}
    assert ("no git checkout" in done.stderr) == (owner is None)


def test_it_holds_nothing_but_our_sources_and_their_parts_for_each_python(program: Path) -> None:
    names = zipfile.ZipFile(program).namelist()
    rest = set(names) - {"__main__.py", "environment.json", "site-packages/source"}
    assert len(names) == len(set(names)) == len(rest) + 3
    by_python: dict[str, set[str]] = {}
    for name in rest:
        version, _, part = name.rpartition("/")[2].partition(".")
        by_python.setdefault(version, set()).add(part)
    parts = {"launch", "start", "core", "serve", "stand_in", "client", "copy", "commands", "rest"}
    assert list(by_python.values()) == [parts] * len(PYTHONS)
    assert b"SHIV_" not in program.read_bytes()


def test_the_source_in_it_is_the_checkouts(program: Path) -> None:
    loader, main, _, _, _, modules = marshal.loads(zipfile.ZipFile(program).read("site-packages/source"))
    assert loader == (CHECKOUT / "onefile/loader.py").read_text() and main == (CHECKOUT / "gofer/__main__.py").read_text()
    ours = {".".join(path.relative_to(CHECKOUT).with_suffix("").parts): path for path in CHECKOUT.glob("gofer/**/*.py")}
    wanted = {name.replace(".__init__", ""): path.read_text() for name, path in ours.items() if path.name != "__main__.py"}
    assert {name: text for name, _, text in modules} == wanted


def test_its_short_tables_tell_the_same_line_of_each_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    before = after = 0
    for file in sorted(CHECKOUT.glob("gofer/server/*.py")):
        words = str(CHECKOUT), str(file.relative_to(CHECKOUT))
        with monkeypatch.context() as without:
            without.setattr(bundle, "with_short_tables", lambda code: code)
            long = bundle._compile(*words)
        pairs = [(long, bundle._compile(*words))]
        for one, other in pairs:
            assert list(dis.findlinestarts(one)) == list(dis.findlinestarts(other)), one
            pairs += zip(*([each for each in code.co_consts if isinstance(each, CodeType)] for code in (one, other)))
            before += sum(byte >> 7 for byte in one.co_linetable)  # of each entry the first byte
            after += sum(byte >> 7 for byte in other.co_linetable)
    assert after < 0.7 * before


def test_members_carry_the_time_of_source_date_epoch(program: Path) -> None:
    assert {info.date_time for info in zipfile.ZipFile(program).infolist()} == {(2023, 11, 14, 22, 13, 20)}


def test_a_build_elsewhere_with_a_shiv_of_its_own_is_byte_identical(program: Path, spot: Path) -> None:
    for name in ("gofer", "onefile", "build.sh", "__main__.py", "tests/requirements.txt"):
        (spot / "other/tests").mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
        copy(CHECKOUT / name, spot / "other" / name)  # type: ignore[operator]
    before = os.umask(0o077)
    try:
        strange = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "SHIV_ROOT": "/nonexistent"}
        second = build(spot / "dist/gofer", spot / "other", **strange)
    finally:
        os.umask(before)
    assert second.read_bytes() == program.read_bytes()
    assert second.stat().st_mode == program.stat().st_mode


# That it runs


def test_it_runs_on_each_python_without_environment(on_each: Path) -> None:
    assert output(on_each, "--version", env={}) == VERSION
    assert output(on_each, "--version") == VERSION


def test_it_serves_and_lists_on_each_python(on_each: Path, spot: Path) -> None:
    (spot / "tree").mkdir()
    (spot / "tree/some file").write_text("x")
    serve = (on_each, "serve", "--quiet", spot / "tree", "--socket", spot / "s", "--")
    assert "some file" in output(*serve, on_each, "ls")


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_starts_from_inside_it(program: Path, command: str) -> None:
    """Whatever of the archive's parts it reads first."""
    assert "usage: " in output(program, command, "--help")


def test_the_doctor_runs_from_inside_it(program: Path) -> None:
    assert "seccomp" in output(program, "doctor")


@pytest.mark.parametrize("python", PYTHONS.values(), ids=[f"3.{minor}" for minor in PYTHONS])
def test_it_runs_when_python_is_given_the_file(program: Path, python: str) -> None:
    assert output(python, "-IS", program, "--version") == VERSION


def test_it_runs_by_relative_path_link_path_search_and_under_any_argv0(program: Path, spot: Path) -> None:
    path = {"PATH": f"{program.parent}:/usr/bin:/bin"}
    (spot / "link").symlink_to(program)
    assert output("./gofer", "--version", cwd=program.parent) == VERSION
    assert output(spot / "link", "--version") == VERSION
    assert output("/usr/bin/env", "gofer", "--version", env=path) == VERSION
    assert output("runsc-gofer", "--version", executable=program) == VERSION


def test_it_runs_in_a_new_user_namespace(program: Path) -> None:
    assert output("/usr/bin/unshare", "--user", "--map-root-user", program, "--version") == VERSION


def test_it_runs_as_a_user_who_can_write_nowhere(program: Path) -> None:
    assert output(program, "--version", user=NOBODY, group=NOBODY, extra_groups=[]) == VERSION


def test_arguments_arrive_as_they_were(program: Path, spot: Path) -> None:
    odd = ["", " ", "a  b", "-c", "--", "*", "$HOME", "new\nline", "\udcff", "'\""]
    show = (sys.executable, "-c", "import sys, json; print(json.dumps(sys.argv[1:]))")
    text = output(program, "serve", "--quiet", spot, "--socket", spot / "s", "--", *show, *odd)
    assert json.loads(text) == odd


def test_a_server_lives_on_when_its_file_is_replaced(program: Path, spot: Path) -> None:
    copy = shutil.copy(program, spot / "gofer")
    (spot / "tree").mkdir()
    (spot / "tree/name").touch()
    argv = [copy, "serve", "--quiet", spot / "tree", "--socket", spot / "s"]
    with subprocess.Popen(argv, env={}, cwd="/") as server:
        try:
            wait_until((spot / "s").exists, lambda: "no socket")
            copy.write_bytes(EVIL.encode())
            assert "name" in output(program, "ls", spot / "s")
        finally:
            server.terminate()
    assert server.returncode == 0


# That it runs nothing else, and writes nothing


@pytest.fixture(scope="module")
def stock(folder: Path) -> Path:
    """What shiv makes of the same package left to itself: shows that the traps below work."""
    (folder / "stage").mkdir()
    shutil.copytree(CHECKOUT / "gofer", folder / "stage/gofer")
    (folder / "stage/entry.py").write_text(
        "import sys\nfrom gofer.cli import main as real\ndef main(): sys.exit(real(sys.argv[1:]))\n"
    )
    shiv = [sys.executable, "-W", "ignore", "-m", "shiv", "-p", "/usr/bin/python3", "-e", "entry:main"]
    subprocess.run([*shiv, "--site-packages", folder / "stage", "-o", folder / "stock"], check=True)
    return folder / "stock"


def trap(folder: Path, program: Path) -> None:
    """Puts evil wherever a variable of HOSTILE, or the current directory, could find it."""
    build_id = json.loads(zipfile.ZipFile(program).read("environment.json"))["build_id"]
    left_over = f"{program.name}_{build_id}/site-packages"  # as shiv names what it unpacks
    places = [folder, folder / "cache" / left_over, folder / "home/.shiv" / left_over]
    places += [folder / f"userbase/lib/python3.{minor}/site-packages" for minor in PYTHONS]
    names = ["evil", "argparse", "ctypes/__init__", "gofer/__init__", "sitecustomize", "usercustomize"]
    for place in places:
        for name in names:
            file = place / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(EVIL)


def look(path: Path) -> "list[tuple[str, int]]":
    return sorted((str(entry), entry.lstat().st_mtime_ns) for entry in path.rglob("*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_no_variable_has_an_effect(name: str, program: Path, stock: Path, spot: Path) -> None:
    def differs(file: Path, place: Path) -> bool:
        trap(place, file)
        env = {"HOME": str(spot / "shiv-home"), name: HOSTILE[name].format(folder=place)}
        before = look(place)
        null = subprocess.DEVNULL
        run = subprocess.run([file, "--version"], env=env, cwd=place, stdin=null, capture_output=True)
        return (run.returncode, run.stdout, run.stderr, look(place)) != (0, VERSION.encode(), b"", before)

    assert not differs(program, spot / "ours")
    assert not (spot / "shiv-home").exists()
    assert differs(stock, spot / "theirs"), "the trap does not work"


def test_the_current_directory_is_not_searched_for_modules(on_each: Path, spot: Path) -> None:
    trap(spot / "trap", on_each)
    assert output(on_each, "--version", cwd=spot / "trap") == VERSION
    assert "EVIL" in output(PYTHONS[max(PYTHONS)], "-c", "import argparse", cwd=spot / "trap", status=66)


def test_nothing_is_written_anywhere(on_each: Path, spot: Path) -> None:
    (spot / "home").mkdir()
    calls = "trace=%file,ftruncate,memfd_create,write"
    strace = ["/usr/bin/strace", "-f", "-qq", "-e", calls, "-o", spot / "trace"]
    output(*strace, on_each, "--version", env={"HOME": str(spot / "home")})
    trace = (spot / "trace").read_text().splitlines()
    harmless = "execve|open(at)?|l?stat|newfstatat|statx|access|readlink|getcwd|write(?=.1,)"
    writing = "O_WRONLY|O_RDWR|O_CREAT|O_TRUNC"
    assert [line for line in trace if not re.match(rf"\d+ +(({harmless})\(|[-+]{{3}} )", line)] == []
    assert [line for line in trace if re.search(writing, line)] == []
    assert any(str(on_each) in line for line in trace)
    assert list((spot / "home").iterdir()) == []


# Byte code


def test_start_up_compiles_none_of_our_modules(on_each: Path, spot: Path) -> None:
    no_source = edited(on_each, spot / "no-source", {"*/source": None})
    assert output(no_source, "--version") == VERSION
    (spot / "tree").mkdir()
    assert output(no_source, "serve", "--quiet", spot / "tree", "--socket", spot / "s", "--", no_source, "ls") == ""


def test_a_python_that_is_not_in_the_file_imports_the_source(on_each: Path, spot: Path) -> None:
    parts = {"site-packages/*.*": None}
    only_source = edited(on_each, spot / "only-source", parts)
    assert output(only_source, "--version") == VERSION
    assert output(only_source, "runsc", "--runsc", "/bin/echo", "--", "run", "c") == "run c\n"
    (spot / "tree").mkdir()
    assert output(only_source, "serve", "--quiet", spot / "tree", "--socket", spot / "s", "--", only_source, "ls") == ""
    loader, main, index, at_once, stamp, modules = marshal.loads(zipfile.ZipFile(on_each).read("site-packages/source"))
    modules = [(name, package, EVIL if name == "gofer.cli" else text) for name, package, text in modules]
    evil = marshal.dumps((loader, main, index, at_once, stamp, modules), 2)
    assert output(edited(on_each, spot / "evil", {**parts, "*/source": evil}), "--version", status=66) == "EVIL"


def test_a_part_of_another_build_is_refused_in_one_line(program: Path, spot: Path) -> None:
    """Each is read when it is needed first; an upgrade may replace the file in between."""
    core = f"site-packages/{int.from_bytes(importlib.util.MAGIC_NUMBER[:2], 'little')}.core"
    stamp, modules = marshal.loads(zipfile.ZipFile(program).read(core))
    mixed = edited(program, spot / "mixed", {core: marshal.dumps((stamp[::-1], modules))})
    said = output(sys.executable, "-IS", mixed, "serve", "--quiet", spot, "--", "true", status=1)
    assert said.startswith("gofer: ") and "replaced while it started" in said and said.count("\n") == 1


@pytest.mark.parametrize("word", ["run", "list", "--unknown-flag list"])
def test_what_starts_containers_needs_nothing_but_its_own_bundle(on_each: Path, spot: Path, word: str) -> None:
    others = {f"*.{part}": None for part in ("start", "core", "serve", "stand_in", "rest")}
    only = edited(on_each, spot / "only", {"*/source": None, **others})
    assert output(only, "runsc", "--runsc", "/bin/echo", "--", *word.split()) == word + "\n"
    # runsc that starts itself again, as a rootless one: the tracer reads its command line
    again = "import os, sys; os.fork() or os.execv('/proc/self/exe', ['exe', '-c', 'print(1)']); os.wait()"
    assert output(only, "runsc", "--runsc", on_each_python(on_each), "--", "-c", again) == "1\n"


def on_each_python(program: Path) -> str:
    """The interpreter that the program's first line names, as a program that can be run in runsc's place."""
    return os.path.realpath(program.read_bytes().partition(b"\n")[0].split()[0][2:].decode())


def test_other_words_after_runsc_find_the_rest(on_each: Path) -> None:
    assert "usage: gofer runsc" in output(on_each, "runsc", "--help")
    assert "nothing to run" in output(on_each, "runsc", status=2)


@pytest.mark.parametrize("python", OLD_PYTHONS.values(), ids=[f"3.{minor}" for minor in OLD_PYTHONS])
def test_an_old_python_says_so_in_one_line(python: str, program: Path, spot: Path) -> None:
    by_line = output(for_python(program, python, spot / "gofer"), "--version", status=1)
    for text in (by_line, output(python, program, status=1), output(python, CHECKOUT, status=1)):
        assert text.startswith("gofer: needs Python 3.9 or newer, this is 3.") and text.count("\n") == 1


def test_a_python_that_reports_an_old_version_is_refused_before_our_modules_load(program: Path) -> None:
    code = zipfile.ZipFile(program).read("__main__.py").decode()
    lie = f"import sys; sys.version_info = (3, 8, 0); sys.argv = [{str(program)!r}]; exec({code!r})"
    text = output(sys.executable, "-IS", "-c", lie, status=1)
    assert text == f"gofer: needs Python 3.9 or newer, this is 3.8: run it as `python3.N -IS {program}`\n"
