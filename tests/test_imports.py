"""Which module may import which: lower layers know nothing of upper ones. Read from the syntax trees."""

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import CHECKOUT

# From the bottom up, by room: `jail: caps` is jail/caps.py. A module imports from lines above its own only.
LAYERS = """
    sink
    cdata
    wire sys log output signals
    procself
    conform: codec
    conform: transport
    conform: caller
    conform: many
    conform: peer
    conform: peer2021 corpus
    conform: case ground
    conform: stand target
    conform: runner looks
    conform: report
    conform.cases: *
    conform.cases
    conform
    jail: callnames posture kernel
    jail: caps seccomp landlock namespaces
    jail: witness
    jail: supervisor
    jail: enter
    jail
    wire2021
    server: places slots busypoll kernelfs sockets listening admission
    server: fds
    server: donation mounts attrs workers
    server: comm
    handlers: *
    handlers
    handlers2021: *
    handlers2021
    server: dispatch
    server: channel slow
    server: pipes
    server: lanes
    server: connection
    server: loop
    server
    watch: messages record counters ask
    watch: ring paths
    watch: lines hook files
    watch: control
    watch: watcher summary
    watch: start
    client: look
    client: transport replies
    client: client
    client: client2021 ahead pool
    client: reach
    watch: player
    watch
    client: address remote
    client: way
    client: tree
    client: walk content stream
    client
    fuse: kernel
    fuse: identity node
    fuse: nodes notices scan changes view pending
    fuse: kept
    fuse: ahead below fresh
    fuse: state
    fuse: names attributes directories
    fuse: contents
    fuse: table
    fuse: crew
    fuse: device again
    fuse: process
    fuse: guard
    fuse
    copy: sides
    copy: names pair progress
    copy: data
    copy: commit places posts settle
    copy: small
    copy: local files archive
    copy: messages
    copy: together
    copy: remote
    copy: remove transfer measure special
    copy: links mend pack prune unpack
    copy: engine
    copy
    runsc: errors calls
    runsc: flags gojson guard
    runsc: features logs tracer
    runsc: spec redirect edits
    runsc: resolve hostrpc hooks check install
    runsc: rootfs
    runsc: gofer
    runsc
    commands: notify options stdio runsc given
    commands: charge
    commands: config common attrs names patterns lscolors
    commands: modes xattr rm typed pieces dates
    commands: make
    commands: mv edit
    commands: regexes findrun
    commands: findtests
    commands: findprint
    commands: serve lslines stat cat mount copy tar replay top metrics findexpr head du df links sum tree sides
    commands: ls find tail diff cp
    commands: selftest conform candidates
    commands: doctor completions topics
    commands: prompt help
    commands: shell
    commands
    cli
"""


def _names(line: str) -> list[str]:
    assert line[:7] not in ("<<<<<<<", "=======", ">>>>>>>"), "a conflict that nobody has resolved"
    room, colon, names = line.rpartition(":")
    return [f"{room.strip()}.{name}" if colon else name for name in names.split()]


LINES = [_names(line) for line in LAYERS.strip().splitlines()]
MODULES = {
    ".".join(path.relative_to(CHECKOUT / "gofer").with_suffix("").parts).replace(".__init__", ""): path
    for path in sorted(CHECKOUT.glob("gofer/**/*.py"))
}
del MODULES["__init__"]  # the version, which anyone may read
del MODULES["__main__"]  # the start, which nobody imports
SEARCH = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); "


def layer(module: str) -> int:
    for number, line in enumerate(LINES):
        if module in line:
            return number
    for number, line in enumerate(LINES):
        if f"{module.rpartition('.')[0]}.*" in line:
            return number
    raise AssertionError(f"gofer/{module}: say in LAYERS where it stands")


def statements(path: Path) -> "list[ast.Import | ast.ImportFrom]":
    """All import statements, wherever they stand, but for those that only the type checker reads."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported(path: Path) -> set[str]:
    """Full names of the modules a file imports; `from gofer import sys` is gofer.sys."""
    names = set()
    for node in statements(path):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        else:
            assert node.level == 0, f"{path}: relative import"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in inner if name.startswith("gofer.") and name[6:] in MODULES}
            names.update(modules or {str(node.module)})
    return names


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_layers_below_its_own(module: str) -> None:
    for name in imported(MODULES[module]):
        if name.startswith("gofer."):
            assert layer(name[6:]) < layer(module), f"gofer/{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_inside_the_package_sys_is_ours(module: str) -> None:
    assert "sys" not in imported(MODULES[module])


def test_the_start_of_the_program_imports_the_standard_sys_and_main_and_no_more() -> None:
    assert imported(CHECKOUT / "gofer/__main__.py") == {"sys", "gofer.cli", "gofer.runsc.redirect"}


def test_every_module_imports_without_site_packages_and_without_a_warning() -> None:
    """What is deprecated today is an error in a later CPython."""
    names = ["gofer." + name for name in MODULES]
    code = f"{SEARCH}[__import__(name) for name in {names!r}]"
    run = subprocess.run([sys.executable, "-BISW", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_no_message_meets_a_warning(spot: Path) -> None:
    argv = [sys.executable, "-W", "error", str(CHECKOUT), "doctor", "--self-test", str(spot)]
    run = subprocess.run(argv, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_serving_loads_none_of_the_slow_modules_of_the_standard_library() -> None:
    """Each costs 1 to 7 ms of a start of 25, and memory."""
    slow = {"asyncio", "collections", "dataclasses", "inspect", "json", "logging", "runpy", "subprocess", "typing"}
    ours = "gofer.cli, gofer.commands.serve, gofer.jail.enter, gofer.runsc.gofer"
    code = f"{SEARCH}import {ours}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-BIS", "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    assert slow & set(run.stdout.split()) == set()


def test_the_launcher_of_containers_loads_nothing_it_can_do_without() -> None:
    """All of a container's start waits for it: os is 1.1 ms of 10, ctypes 1.3."""
    code = f"{SEARCH}import gofer.runsc.redirect, gofer.runsc.guard; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-BIS", "-c", code], stdout=subprocess.PIPE, check=True, text=True)
    loaded = set(run.stdout.split())
    assert {"os", "ctypes", "struct", "signal", "gofer.cli", "gofer.sys"} & loaded == set()


@pytest.mark.parametrize(("jail", "needed"), [("auto", True), ("off", False)])
def test_the_layers_of_the_jail_are_imported_only_where_there_is_one(spot: Path, jail: str, needed: bool) -> None:
    layers = {"gofer.jail.enter", "gofer.jail.caps", "gofer.jail.landlock", "gofer.jail.namespaces", "gofer.jail.seccomp"}
    ours, theirs = socket.socketpair()
    ours.close()  # the server ends as soon as it looks
    argv = [sys.executable, "-ISX", "importtime", str(CHECKOUT), "serve", str(spot), f"--jail={jail}"]
    with theirs:
        fd = theirs.fileno()
        run = subprocess.run([*argv, "--fd", str(fd)], pass_fds=[fd], stderr=subprocess.PIPE, check=True, text=True)
    loaded = {line.rpartition("|")[2].strip() for line in run.stderr.splitlines()}
    assert "gofer.server.loop" in loaded and layers & loaded == (layers if needed else set())


@pytest.mark.parametrize("jail", ["auto", "off"])
def test_garbage_is_collected_while_it_serves_and_not_while_it_starts(spot: Path, jail: str) -> None:
    code = (
        f"{SEARCH}import gc; from gofer import cli; from gofer.server.loop import Server; "
        "say = lambda *_: print(gc.isenabled(), flush=True); gc.freeze = Server.run = say; "
        f"cli.main(['serve', {str(spot)!r}, '--quiet', '--workers=1', '--socket={spot}/socket', '--jail={jail}'])"
    )
    run = subprocess.run([sys.executable, "-BISc", code], stdout=subprocess.PIPE, check=True, text=True)
    assert run.stdout == "False\nTrue\n"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("conform.")])
def test_what_judges_servers_shares_nothing_with_ours(module: str) -> None:
    names = {name for name in imported(MODULES[module]) if name.startswith("gofer")}
    assert {name for name in names if not name.startswith("gofer.conform")} <= {"gofer", "gofer.output"}
