"""The units, and what systemd hears of a server: sd_notify(3), socket activation, and the commands that check units."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hosts import CALM, CHECKOUT, GOFER, PATIENCE, run, serves, serving, stopped, wait_until
from runsc import bundle, one_file_gofer

from gofer import __version__
from gofer.jail import callnames, seccomp
from gofer.sys import MACHINE

UNITS = CHECKOUT / "systemd"


class Manager:
    """A service manager as sd_notify(3) knows it: a socket on which messages come."""

    def __init__(self, spot: Path, abstract: bool) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = f"\0gofer-test-{os.getpid()}-{spot.name}" if abstract else str(spot / "notify")
        self._socket.bind(address)
        self._socket.settimeout(PATIENCE)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.address = address.replace("\0", "@")

    def hears(self) -> tuple[int, dict[str, str]]:
        """Whose message, and what it says."""
        data, ancillary, _, _ = self._socket.recvmsg(4096, 1024)
        pid = int.from_bytes(ancillary[0][2][:4], sys.byteorder)
        return pid, dict(line.split("=", 1) for line in data.decode().splitlines())

    def has_heard(self, within: float) -> bool:
        return bool(select.select([self._socket], [], [], within)[0])

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["a path", "abstract"])
def manager(request: pytest.FixtureRequest, spot: Path) -> Iterator[Manager]:
    made = Manager(spot, request.param == "abstract")
    yield made
    made.close()


def started(manager: Manager, spot: Path, *options: str, **env: str) -> "subprocess.Popen[bytes]":
    (spot / "tree").mkdir()
    argv = [*GOFER, "serve", str(spot / "tree"), "--socket", str(spot / "s"), "--workers=2", *options]
    with open(spot / "log", "wb") as log:
        return subprocess.Popen(argv, stderr=log, env={**os.environ, "NOTIFY_SOCKET": manager.address, **env})


@pytest.mark.parametrize("jail", ["auto", "off"])
def test_a_manager_hears_that_it_serves_that_it_lives_and_that_it_stops(manager: Manager, spot: Path, jail: str) -> None:
    with started(manager, spot, f"--jail={jail}", WATCHDOG_USEC="200000") as server:
        try:
            pid, said = manager.hears()
            assert pid == server.pid, "systemd believes the process that it has started"
            assert said["READY"] == "1" and f"serves the directory {spot}/tree" in said["STATUS"]
            assert serves(spot / "s")
            for _ in range(3):
                assert manager.hears() == (server.pid, {"WATCHDOG": "1"})
            server.terminate()
            while (heard := manager.hears()[1]) == {"WATCHDOG": "1"}:
                pass
            assert heard["STOPPING"] == "1" and "STATUS" in heard
            assert server.wait(PATIENCE) == 0
        finally:
            server.kill()


def test_a_server_that_hangs_gives_no_sign_of_life(spot: Path) -> None:
    manager = Manager(spot, abstract=False)
    with started(manager, spot, WATCHDOG_USEC="100000") as server:
        try:
            manager.hears()
            assert manager.hears()[1] == {"WATCHDOG": "1"}
            with stopped(serving(server.pid)):
                while manager.has_heard(0.5):  # what was said before
                    manager.hears()
            assert manager.hears()[1] == {"WATCHDOG": "1"}
        finally:
            server.terminate()
            server.wait(PATIENCE)
            manager.close()


def test_a_command_is_not_to_speak_for_the_server_and_a_dead_socket_is_told_and_no_more(spot: Path) -> None:
    (spot / "tree").mkdir()
    env = {**os.environ, "NOTIFY_SOCKET": str(spot / "nothing"), "WATCHDOG_USEC": "rubbish"}
    done = run("serve", str(spot / "tree"), "--", "env", env=env)
    assert done.returncode == 0 and "NOTIFY_SOCKET" not in done.stdout and "WATCHDOG" not in done.stdout
    assert f"NOTIFY_SOCKET={spot}/nothing leads nowhere (No such file or directory)" in done.stderr


def test_without_a_manager_nothing_is_loaded_for_it(spot: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    argv = [*GOFER[:-1], "-X", "importtime", GOFER[-1], "serve", str(spot), "--", "true"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "gofer.commands.serve" in done.stderr and "gofer.commands.notify" not in done.stderr


def installed(spot: Path) -> Path:
    """The units as they would be installed, with a program that is there."""
    for unit in UNITS.glob("*@.*"):
        text = unit.read_text().replace("/usr/bin/gofer", "/bin/true")
        (spot / unit.name).write_text(re.sub("^Documentation=.*\n", "", text, flags=re.M))
    return spot


@pytest.mark.slow
@pytest.mark.parametrize("unit", sorted(path.name for path in UNITS.glob("*@.*")))
def test_systemd_finds_nothing_wrong_with_a_unit(unit: str, spot: Path) -> None:
    path = installed(spot) / unit.replace("@.", "@srv-data.")
    path.symlink_to(unit)
    env = {**os.environ, "SYSTEMD_UNIT_PATH": f"{spot}:"}
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True, env=env)
    ours = [line for line in (done.stdout + done.stderr).splitlines() if "gofer" in line]
    assert (done.returncode, ours) == (0, [])


def exposure(text: str, spot: Path) -> float:
    (spot / "gofer@.service").write_text(text)
    argv = ["systemd-analyze", "security", "--offline=yes", spot / "gofer@.service"]
    done = subprocess.run(argv, capture_output=True, text=True)
    (found,) = re.findall(r"exposure level for \S+: ([\d.]+)", done.stdout)
    return float(found)


@pytest.mark.slow
def test_the_exposure_is_what_the_units_say(spot: Path) -> None:
    """2.0 is where `systemd-analyze security` begins to speak of exposure; a jail that starts as root needs more than that."""
    unit, drop_in = (UNITS / "gofer@.service").read_text(), (UNITS / "as-user.conf").read_text()
    told = float(re.findall(r"exposure of ([\d.]+)", unit)[0])  # by that of Debian 12; others weigh a little otherwise
    assert abs(exposure(unit, spot) - told) < 0.3
    head, _, install = unit.partition("\n[Install]")
    as_user = f"{head}\n{drop_in.partition('[Service]')[2]}".replace("User=nobody", "User=daemon")
    told = float(re.findall(r"exposure of ([\d.]+)", drop_in)[0])
    assert abs(exposure(as_user, spot) - told) < 0.3 and told < 1.7


@pytest.mark.slow
def test_what_stands_against_the_unit_is_said_in_it(spot: Path) -> None:
    shutil.copy(UNITS / "gofer@.service", spot)
    argv = ["systemd-analyze", "security", "--offline=yes", "--json=short", spot / "gofer@.service"]
    found = json.loads(subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout)
    told = "\n".join(line for line in (UNITS / "gofer@.service").read_text().splitlines() if line.startswith("#"))
    names = [row["name"] for row in found if float(row["exposure"] or 0)]
    assert len(names) > 10
    for name in names:
        assert any(word in told for word in re.split(r"[\W_]+", name) if len(word) > 3), name


def allowed(text: str) -> set[str]:
    """The system calls that SystemCallFilter= of a unit lets pass."""
    groups = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    members = {block.split()[0]: re.findall(r"^    ([@\w-]+)$", block, re.M) for block in re.split(r"\n(?=@)", groups)}

    def calls(word: str) -> set[str]:
        return set().union(*map(calls, members.get(word, ()))) if word.startswith("@") else {word}

    found = calls("@default")
    for line in re.findall(r"^SystemCallFilter=(.*)$", text, re.M):
        named = set().union(*(calls(word) for word in line.lstrip("~").split()))
        found = found - named if line.startswith("~") else found | named
    return found


@pytest.mark.slow
def test_what_a_start_calls_is_what_the_unit_lets_pass(spot: Path) -> None:
    (spot / "tree").mkdir()
    strace = ["strace", "-f", "-qq", "-o", str(spot / "trace"), "-e", "signal=none"]
    serve = [*GOFER, "serve", "--jail=require", "--seccomp=log", "--workers=2", str(spot / "tree")]
    env = {**os.environ, "GOFER_SERVE_READ_ONLY": "yes"}
    argv = [*strace, *serve, "--", *GOFER, "ls"]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=CALM)
    assert done.returncode == 0, done.stderr
    called = set(re.findall(r"^\d+ +(\w+)\(", (spot / "trace").read_text(), re.M))
    assert {"mount", "pivot_root", "unshare", "seccomp", "landlock_restrict_self"} <= called
    later = {*seccomp.server_rules(0, True, True), *seccomp.supervisor_rules(0, ())} & set(callnames.numbers(MACHINE))
    assert len(later) > 60
    assert (called | later) - allowed((UNITS / "gofer@.service").read_text()) == set()


def activates(argv: Sequence["str | Path"], path: Path) -> "subprocess.Popen[bytes]":
    command = ["systemd-socket-activate", f"--listen={path}", *argv]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_a_socket_that_systemd_holds_starts_the_server_with_its_first_client(spot: Path) -> None:
    assert shutil.which("systemd-socket-activate")
    (spot / "tree").mkdir()
    (spot / "tree/some file").touch()
    with activates([*GOFER, "serve", "--jail=require", spot / "tree"], spot / "s") as server:
        try:
            wait_until((spot / "s").exists, "it listens")
            done = run("ls", str(spot / "s"))
            assert "some file" in done.stdout, done
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(PATIENCE) == 0


@pytest.fixture(scope="module")
def program() -> Path:
    return one_file_gofer()  # made before a test's own files are counted


@pytest.mark.slow
def test_systemd_itself_starts_the_hardened_unit_and_a_container_hears_of_them_and_stops_them(program: Path, spot: Path) -> None:
    """A systemd as process 1 of namespaces of its own, over a layer above this machine's root."""
    words = "unshare --mount --propagation=private --pid --ipc --uts --net --cgroup --fork --kill-child".split()
    (spot / "box").mkdir()
    bundle(spot / "box", "echo up > /made; sleep 1000")
    argv = [*words, CHECKOUT / "tests/inside-systemd.sh", program, UNITS, spot]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALM)
    assert (spot / "out").exists(), done
    said = (spot / "out").read_text().splitlines()
    assert said[0] == "hello", said
    assert [line for line in said if line.startswith("box ")] == ["box is up, active", "box is inactive, leaves"], said
    shown = dict(line.split("=", 1) for line in said[1:] if "=" in line)
    assert shown == {
        "Type": "notify", "NotifyAccess": "main", "WatchdogUSec": "30s", "ActiveState": "active", "Result": "success",
        "ExecMainStatus": "0", "StatusText": f"{__version__} serves the directory /srv/data read-write on 1 inherited socket",
    }  # fmt: skip
