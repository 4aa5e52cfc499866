"""containerd, by `ctr`, with the script that `gofer runsc install containerd` makes in the place of runc."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest
from engine_checks import FOREVER, UP
from engines import SOON, VARIANTS_OF_ENGINES, Box, Engine, check_in
from hosts import children, wait_until
from runsc import Variant, one_file_gofer
from terminal import Terminal

pytestmark = pytest.mark.slow

CONFIG = """# of the tests
version = 2
root = "{place}/data"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{place}/socket"
[ttrpc]
  address = "{place}/socket.ttrpc"
"""


class Containerd(Engine):
    name = "containerd"

    @property
    def config(self) -> Path:
        path = self.place / "config.toml"
        if not path.exists():
            path.write_text(CONFIG.format(place=self.place))
        return path

    def start(self) -> None:
        self.image()
        with open(self.place / "log", "wb") as log:
            words = self.cell.enter("containerd", f"--config={self.config}")
            self.daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env())
        wait_until(lambda: self.call("version").status == 0, lambda: (self.place / "log").read_text(), patience=SOON)

    def command(self, *words: str) -> "list[str]":
        return self.cell.enter("ctr", f"--address={self.place}/socket", *words)

    def remove_all(self) -> None:
        for line in self.call("task", "list").out.splitlines()[1:]:
            self.call("task", "delete", "--force", line.split()[0])
        for name in self.call("container", "list", "--quiet").out.split():
            self.call("container", "delete", name)

    def stop(self) -> None:
        (pid,) = children(self.daemon.pid)
        os.kill(pid, signal.SIGTERM)
        self.daemon.wait(SOON)


class Task(Box):
    """As `ctr` has it: a container's root is a folder, and its name is the caller's."""

    def line(self, *words: str, options: Sequence[str] = ()) -> "list[str]":
        name = next((word[7:] for word in options if word.startswith("--name=")), self.name())
        options = [word for word in options if not word.startswith("--name=")]
        runtime = ["--runtime=io.containerd.runc.v2", f"--runc-binary={self.runtime.script}", "--env=PATH=/bin"]
        runtime.append(f"--runc-root={self.engine.place}/runc")  # else one that all containerds of a host share
        return ["run", *runtime, *options, "--rootfs", str(self.engine.image()), name, *words]


Containerd.box = Task


def mount(source: Path, destination: str, *options: str) -> str:
    return f"--mount=type=bind,src={source},dst={destination},options={':'.join(['rbind', *options])}"


def start(box: Box, script: str, *options: str) -> "tuple[str, Path]":
    """A container in the background that has said that it is up, by /out/up; its name, and what it printed."""
    name, log, out = box.name(), box.folder / "log", box.folder / "out"
    out.mkdir()
    out.chmod(0o777)
    background = ["--detach", f"--name={name}", f"--log-uri=file://{log}", mount(out, "/out", "rw"), *options]
    box.call(*box.line("/bin/sh", "-c", script, options=background))
    wait_until((out / "up").exists, lambda: f"it is up: {log.read_text()}", patience=SOON)
    return name, log


def wait_for_stop(box: Box, name: str) -> None:
    def is_stopped() -> bool:
        return any(line.split()[::2] == [name, "STOPPED"] for line in box.call("task", "list").splitlines())

    wait_until(is_stopped, f"{name} stops", patience=SOON)


def its_exit_status_and_stdin(box: Box) -> None:
    """`ctr run` does not hand on the end of its stdin."""
    done = box.run("/bin/sh", "-c", "read line; echo got $line; echo to stderr >&2; exit 7", stdin="hello\n")
    assert (done.status, done.out) == (7, "got hello\n") and "to stderr" in done.err, done


def what_is_bound_is_the_hosts(box: Box) -> None:
    (box.folder / "rw").mkdir()
    (box.folder / "ro").mkdir()
    (box.folder / "ro/given").write_text("ro")
    (box.folder / "file").write_text("of the host")
    mounts = [mount(box.folder / "rw", "/rw", "rw"), mount(box.folder / "ro", "/ro", "ro")]
    mounts.append(mount(box.folder / "file", "/etc/file", "rw"))
    script = """
        cat /ro/given /etc/file; ls /ro; echo made > /rw/made; echo no > /ro/given || echo refused; rm /ro/given || echo refused
        printf changed > /etc/file; cat /etc/file"""
    done = box.run("/bin/sh", "-c", script, options=mounts)
    assert (done.status, done.out) == (0, "roof the hostgiven\nrefused\nrefused\nchanged"), done
    assert (box.folder / "rw/made").read_text() == "made\n" and (box.folder / "file").read_text() == "changed"
    assert (box.folder / "ro/given").read_text() == "ro"


def a_tmpfs_is_its_own(box: Box) -> None:
    tmpfs = "--mount=type=tmpfs,src=tmpfs,dst=/t,options=nosuid"
    done = box.run("/bin/sh", "-c", "echo x > /t/x; cat /t/x; grep -c ' /t tmpfs' /proc/mounts", options=[tmpfs])
    assert (done.status, done.out) == (0, "x\n1\n"), done


def a_read_only_root_takes_no_writes(box: Box) -> None:
    done = box.run("/bin/sh", "-c", "echo x > /made || echo refused; mkdir /etc/d || echo refused", options=["--read-only"])
    assert (done.status, done.out) == (0, "refused\nrefused\n"), done
    assert not (box.engine.image() / "made").exists()


def it_is_run_in_the_background_and_ends_when_told(box: Box) -> None:
    name, log = start(box, f'trap "echo stopped; exit 3" TERM; echo up; {UP}{FOREVER}')
    execute = ["task", "exec", "--exec-id=one", name, "/bin/sh", "-c"]
    assert box.engine.call(*execute, "id -u; exit 5")[:2] == (5, "0\n")
    assert box.call(*execute, "tr a b", stdin="abba") == "bbbb"
    execute[2:2] = ["--user=1234:55"]
    assert box.call(*execute, "id -u; id -g; echo x > /out/made") == "1234\n55\n"
    about = (box.folder / "out/made").stat()
    assert (about.st_uid, about.st_gid) == (1234, 55)
    box.call("task", "kill", "--signal=SIGTERM", name)
    wait_for_stop(box, name)
    assert log.read_text() == "up\nstopped\n"
    assert "exit code 3" in box.engine.call("task", "delete", name).err
    box.call("container", "delete", name)


def a_folder_is_shared_by_two(box: Box) -> None:
    (box.folder / "shared").mkdir()
    shared = mount(box.folder / "shared", "/shared", "rw")
    script = f"until [ -s /shared/asked ]; do {UP}sleep 0.1; done; echo answer > /shared/answer"
    name, _ = start(box, script, shared)
    script = "echo question > /shared/asked; until [ -s /shared/answer ]; do sleep 0.1; done; cat /shared/answer"
    done = box.run("/bin/sh", "-c", script, options=[shared])
    assert (done.status, done.out) == (0, "answer\n"), done
    wait_for_stop(box, name)


def a_terminal_has_its_size_and_its_ctrl_c(box: Box) -> None:
    script = 'trap "echo interrupted; exit 9" INT; until [ "$(stty size)" = "33 77" ]; do sleep 0.1; done; echo sized; ' + FOREVER
    line = box.line("/bin/sh", "-c", script, options=["--rm", "--tty"])
    with Terminal(*box.engine.command(*line), size=(33, 77), env=box.engine.env()) as terminal:
        terminal.wait_for("sized", SOON)
        terminal.type("\x03")
        terminal.wait_for("interrupted", SOON)
    assert terminal.close() == 9


def a_second_command_at_a_terminal(box: Box) -> None:
    name, _ = start(box, f"{UP}{FOREVER}")
    script = "[ -t 1 ] && echo tty; read line; echo got $line; exit 4"
    words = box.engine.command("task", "exec", "--tty", "--exec-id=two", name, "/bin/sh", "-c", script)
    with Terminal(*words, env=box.engine.env()) as terminal:
        terminal.wait_for("tty", SOON)
        terminal.type("typed\r")
        terminal.wait_for("got typed", SOON)
    assert terminal.close() == 4


def twenty_starts_four_at_a_time(box: Box) -> None:
    (box.folder / "file").write_text("of the host\n")

    def run(number: int) -> "tuple[int, str]":
        options = [mount(box.folder / "file", "/etc/file", "ro")]
        return box.run("/bin/sh", "-c", f"cat /etc/file; exit {number}", options=options)[:2]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(20))) == [(number, "of the host\n") for number in range(20)]
    assert box.call("container", "list", "--quiet") == ""


CHECKS: "list[Callable[[Box], None]]" = [
    its_exit_status_and_stdin,
    what_is_bound_is_the_hosts,
    a_tmpfs_is_its_own,
    a_read_only_root_takes_no_writes,
    it_is_run_in_the_background_and_ends_when_told,
    a_folder_is_shared_by_two,
    a_terminal_has_its_size_and_its_ctrl_c,
    a_second_command_at_a_terminal,
    twenty_starts_four_at_a_time,
]


@pytest.fixture(scope="module")
def containerd() -> Iterator[Containerd]:
    containerd = Containerd(VARIANTS_OF_ENGINES)
    yield containerd
    containerd.close()


@pytest.mark.parametrize("variant", VARIANTS_OF_ENGINES, ids=lambda variant: variant.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_of_a_container(containerd: Containerd, variant: Variant, check: "Callable[[Box], None]") -> None:
    check_in(containerd, variant, check)


def test_the_entry_for_kubernetes_is_one_that_containerd_reads(containerd: Containerd, spot: Path) -> None:
    (spot / "config.toml").write_text("# nothing but\nversion = 2\n")
    command = [one_file_gofer(), "runsc", "install", "containerd", f"--config={spot}/config.toml", f"--script={spot}/x"]
    subprocess.run(command, stdout=subprocess.PIPE, check=True)
    dump = ["containerd", f"--config={spot}/config.toml", "config", "dump"]
    said = subprocess.run(dump, stdout=subprocess.PIPE, text=True, check=True).stdout
    table = said.partition('[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc-gofer]')[2]
    assert 'runtime_type = "io.containerd.runsc.v1"' in table.partition("\n\n")[0]
    assert f'ConfigPath = "{spot}/runsc-gofer.toml"' in table.partition("runsc-gofer.options]")[2].partition("\n\n")[0]
