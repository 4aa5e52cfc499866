"""Fixtures. A server is shared by all tests that ask for the same options, a connection and a tree by none.

`peer` runs a test once over the socket and once over a channel. `server` is the shared server of the options in
`@pytest.mark.serve(...)`; `tree` the (empty) directory it serves; `start` starts a server of the test's own. `variant` runs a
test once for each way to run runsc.
After every test `nothing_leaks` compares this process, and what its servers hold, with what was there before.
"""

import gc
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

pytest.register_assert_rewrite("hosts", "runsc", "engines", "engine_checks", "copies")
HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from hosts import TRANSPORTS, Server, empty, wait_until  # noqa: E402
from runsc import VARIANTS, Variant  # noqa: E402

from gofer.conform.peer import Peer  # noqa: E402

Start = Callable[..., Server]
_servers: dict[tuple[str, ...], Server] = {}
_scratch = ""


def pytest_configure(config: pytest.Config) -> None:
    global _scratch
    config.addinivalue_line("markers", "serve(*options): options of the server that `server`, `tree` and `peer` use")
    config.addinivalue_line("markers", "slow: run on one interpreter only")
    # Short, so that sockets fit below it; one place, so that a file left behind is noticed.
    _scratch = tempfile.tempdir = os.environ["TMPDIR"] = tempfile.mkdtemp(prefix="gofer-", dir="/tmp")
    os.chmod(_scratch, 0o755)
    # What a shell starts with `&`, or nohup, ignores some, and so would all that is started here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def pytest_unconfigure(config: pytest.Config) -> None:
    tempfile.tempdir = None
    os.environ.pop("TMPDIR", None)
    shutil.rmtree(_scratch, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def shared_servers() -> Iterator[None]:
    yield
    for server in _servers.values():
        server.stop()
        shutil.rmtree(server.tree)
    _servers.clear()


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The shared server of this test's options, with an empty tree and nobody connected."""
    marker = request.node.get_closest_marker("serve")
    options = marker.args if marker else ()
    if options not in _servers:
        tree = Path(tempfile.mkdtemp(prefix="tree-"))
        try:
            _servers[options] = Server(tree, *options)
        except BaseException:
            shutil.rmtree(tree)
            raise
    server = _servers[options]
    empty(server.tree)
    try:
        yield server
        server.check_idle()
    except BaseException:
        del _servers[options]  # the next test gets a fresh one
        server.kill()
        shutil.rmtree(server.tree)
        raise


@pytest.fixture
def tree(server: Server) -> Path:
    return server.tree


@pytest.fixture(params=TRANSPORTS)
def peer(request: pytest.FixtureRequest, server: Server) -> Iterator[Peer]:
    with server.peer(request.param) as peer:
        yield peer


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory beside what is served."""
    yield from _directory("place-")


@pytest.fixture
def spot() -> Iterator[Path]:
    """An empty directory that no server knows of, under a short path."""
    yield from _directory("spot-")


def _directory(prefix: str) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=prefix))
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module", params=VARIANTS, ids=[variant.name for variant in VARIANTS])
def variant(request: pytest.FixtureRequest) -> Variant:
    variant: Variant = request.param
    variant.program()  # made before a test's own files are counted
    return variant


@pytest.fixture
def as_in_a_server() -> Iterator[None]:
    """For tests that call gofer.server.fds in this process: a server's working directory is /proc/self/fd."""
    before = os.open(".", os.O_PATH)
    os.chdir("/proc/self/fd")
    yield
    os.fchdir(before)
    os.close(before)


@pytest.fixture
def start(spot: Path) -> Iterator[Start]:
    """start(*options, tree=...) starts a server of this test's own; it is stopped, or was, by the end."""
    started: list[Server] = []

    def start(*options: str, tree: Path = spot, **how: Any) -> Server:
        started.append(Server(tree, *options, **how))
        return started[-1]

    yield start
    try:
        for server in started:
            if server.process.poll() is None:
                server.check_idle()
                server.stop()
    finally:
        for server in started:
            server.kill()


@pytest.fixture
def told(start: Start, spot: Path) -> tuple[Server, Path]:
    """A server that tells how often it was asked for what, and whom to ask for that."""
    (spot / "tree").mkdir()
    return start(f"--control={spot}/control", tree=spot / "tree"), spot / "control"


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Fails any test that leaves an fd, a thread, a child process, a mount or a file behind."""
    before = _belongings()
    yield
    if _belongings() == before:
        return
    gc.collect()  # dear with pytest's heap, so only now
    wait_until(lambda: _belongings() == before, lambda: _difference(before, _belongings()))


def _belongings() -> dict[str, list[str]]:
    fds = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            fds.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            pass  # the one that listed the directory
    shared = {str(server.process.pid) for server in _servers.values()}
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    places = {server.place.name for server in _servers.values()} | {server.tree.name for server in _servers.values()}
    return {
        "fds": sorted(fds),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "children": [child for child in children if child not in shared],
        "mounts": [line for line in Path("/proc/self/mounts").read_text().splitlines() if _scratch in line],
        "files": sorted(name for name in os.listdir(_scratch) if name not in places),
    }


def _difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> str:
    return "; ".join(
        f"{kind}: left {sorted(set(after[kind]) - set(before[kind]))}, lost {sorted(set(before[kind]) - set(after[kind]))}"
        for kind in before
        if before[kind] != after[kind]
    )
