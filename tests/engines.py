"""Docker, podman and containerd of the tests' own, and what they run containers with: our gofer, or plain runsc.

An engine lives in a cell: namespaces that take with them, when they end, every process and mount of it, so that neither a
failed test nor a killed engine leaves anything. Its images, state, sockets and configuration lie in one folder.

What works is tried with our gofer only. What fails, or is known to (FAULTS), is tried with plain runsc as well: what fails
there too is not ours.
"""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
from hosts import PATIENCE, children, wait_until
from runsc import FLAGS, VARIANTS, Variant, bundle, gofer_logs, one_file_gofer, served_by_us

SOON = 3 * PATIENCE  # what an engine does is several processes one after the other
# /run is where shims have their sockets, whatever an engine is told. Who ignores SIGCHLD has no zombies.
INIT = 'mount -t tmpfs -o mode=755 none /run && trap "" CHLD && echo && exec sleep 2147483647'


class Cell:
    """Namespaces of an engine's own, with an init that waits for its end."""

    def __init__(self) -> None:
        words = "unshare --mount --pid --net --ipc --fork --kill-child=KILL --mount-proc sh -c".split()
        self._process = subprocess.Popen([*words, INIT], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert self._process.stdout and self._process.stdout.read(1) == b"\n"
        self._process.stdout.close()
        self.init = children(self._process.pid)[0]

    def enter(self, *words: str) -> list[str]:
        return ["nsenter", f"--target={self.init}", "--mount", "--pid", "--net", "--ipc", "--", *words]

    def run(self, *words: str) -> None:
        subprocess.run(self.enter(*words), stdin=subprocess.DEVNULL, check=True, timeout=SOON)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


class Done(NamedTuple):
    status: int
    out: str
    err: str


class Engine:
    """What all engines have. A subclass says how it is started, and how called."""

    name = ""
    box: "type[Box]"

    def __init__(self, variants: Sequence[Variant]) -> None:
        self.place = Path(tempfile.mkdtemp(prefix=f"{self.name[:3]}-"))
        self.place.chmod(0o755)
        self.runtimes = {(variant, ours): self._install(variant, ours) for variant in variants for ours in (True, False)}
        self.cell = Cell()
        try:
            self.start()
            self.probe(self.runtimes[variants[0], False])
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """In order, before the cell ends: what is outside of namespaces (cgroups) is the engine's to remove."""

    def remove_all(self) -> None:
        """Whatever a check has left, in whatever state."""
        left = self.call("ps", "--all", "--quiet").out.split()
        if left:
            self.call("rm", "--force", "--volumes", *left)

    def command(self, *words: str) -> list[str]:
        """The engine's own command line."""
        raise NotImplementedError

    def probe(self, runtime: "Runtime") -> None:
        """With plain runsc: where that cannot run, a machine cannot do it, and the reason stands in the summary."""
        done = self.box(self, runtime).run("/bin/true")
        if done.status != 0:
            pytest.skip(f"{self.name} cannot run plain runsc on this machine: {done.err.strip()}")

    def call(self, *words: str, stdin: str = "", timeout: float = SOON) -> Done:
        done = subprocess.run(
            self.command(*words), input=stdin, capture_output=True, text=True, timeout=timeout, env=self.env()
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.place), "TMPDIR": str(self.place)}

    def image(self) -> Path:
        """The root file system of all containers, made once."""
        folder = self.place / "image"
        if not folder.exists():
            root = bundle(folder, "") / "rootfs"
            for name in ("stty", "id", "kill", "tr", "wc", "env"):
                if not (root / "bin" / name).exists():
                    (root / "bin" / name).symlink_to("busybox")
            for name in ("etc", "tmp", "proc", "sys", "dev"):
                (root / name).mkdir()
        return folder / "rootfs"

    def tar(self) -> Path:
        path = self.place / "image.tar"
        with tarfile.open(path, "w") as tar:
            tar.add(self.image(), ".")
        return path

    def close(self) -> None:
        try:
            self.stop()
        finally:
            self.cell.close()
            shutil.rmtree(self.place)

    # Runtimes

    def install(self, name: str, script: Path, runsc: str, flags: Sequence[str]) -> None:
        """By `gofer runsc install`, into the engine's configuration here."""
        words = [f"--name={name}", f"--script={script}", f"--config={self.config}", f"--runsc={runsc}", "--", *flags]
        done = subprocess.run(
            [one_file_gofer(), "runsc", "install", self.name.split()[0], *words], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done

    @property
    def config(self) -> Path:
        raise NotImplementedError

    def _install(self, variant: Variant, ours: bool) -> "Runtime":
        name = f"{'ours' if ours else 'plain'}-{variant.name}"
        logs, script = self.place / f"logs-{name}", self.place / name
        logs.mkdir()
        logs.chmod(0o1777)
        flags = [*FLAGS, *variant.flags, f"--debug-log={logs}/"]
        self.install(name, script, variant.program(), flags)
        if not ours:
            script.write_text(f'#!/bin/sh\nexec {variant.program()} {" ".join(flags)} "$@"\n')
        return Runtime(name, variant, ours, script, logs)


class Runtime(NamedTuple):
    name: str
    variant: Variant
    ours: bool
    script: Path
    logs: Path


_numbers = count(1)


class Box:
    """What one check runs in: an engine, one of its runtimes, a folder that host and containers share."""

    def __init__(self, engine: Engine, runtime: Runtime) -> None:
        self.engine, self.runtime = engine, runtime
        self.folder = Path(tempfile.mkdtemp(prefix="box-", dir=engine.place))
        self.folder.chmod(0o777)

    def name(self) -> str:
        """No other container has it, nor one that begins with it: either is ambiguous to runsc, which keeps some by host."""
        return f"box{os.getpid()}x{next(_numbers):04}"

    def run(self, *words: str, options: Sequence[str] = (), stdin: str = "") -> Done:
        """A container that is gone afterwards."""
        return self.engine.call(*self.line(*words, options=["--rm", *options]), stdin=stdin)

    def line(self, *words: str, options: Sequence[str] = ()) -> list[str]:
        """What makes a container: the engine's words."""
        return ["run", "--network=none", f"--runtime={self.runtime.name}", *options, "box", *words]

    def call(self, *words: str, stdin: str = "") -> str:
        """The engine does this, and says so by its status; what it printed."""
        done = self.engine.call(*words, stdin=stdin)
        assert done.status == 0, f"{words}: {done}"
        return done.out

    def start(self, *words: str, options: Sequence[str] = ()) -> str:
        """A container in the background, whose script has said that it is up, by the file /out/up; its name."""
        name = self.name()
        out = self._out(name)
        out.mkdir()
        out.chmod(0o777)
        self.call(*self.line(*words, options=["--detach", f"--name={name}", f"--volume={out}:/out", *options]))
        self._wait_for(name)
        return name

    def restart(self, name: str, *words: str) -> None:
        (self._out(name) / "up").unlink()
        self.call("restart", *words, name)
        self._wait_for(name)

    def _out(self, name: str) -> Path:
        return self.folder / f"out-{name}"

    def _wait_for(self, name: str) -> None:
        wait_until((self._out(name) / "up").exists, lambda: f"it is up: {self.engine.call('logs', name)}", patience=SOON)

    def state(self, name: str) -> Any:
        return json.loads(self.call("inspect", name))[0]["State"]

    def wait_for(self, name: str, status: int) -> None:
        """The container ends with this exit status."""
        wait_until(lambda: self.state(name)["Status"] == "exited", f"{name} ends", patience=SOON)
        assert self.state(name)["ExitCode"] == status, self.engine.call("logs", name)




Engine.box = Box
VARIANTS_OF_ENGINES = [v for v in VARIANTS if v.name in ("2022", "2024-directfs", "2024-gofer-plain")]
_SELF = {"2024-directfs": "--overlay2=root:self: the overlay is inside the sandbox, and goes with it"}


def _in_all(why: str) -> dict[str, str]:
    return {variant.name: why for variant in VARIANTS_OF_ENGINES}


# Of (engine, check), by variant: what fails with plain runsc as well, and why. It must fail with both.
FAULTS: dict[tuple[str, str], dict[str, str]] = {
    ("docker", "what_it_wrote_is_there_after_a_restart"): _SELF,
    ("docker", "files_are_copied_out_and_in"): _SELF,
    ("docker", "files_are_copied_out_of_a_running_one"): _SELF,
    ("docker", "its_changes_are_told"): _SELF,
}
for _podman in ("podman", "podman rootless"):
    FAULTS[_podman, "what_it_wrote_is_there_after_a_restart"] = _SELF
    FAULTS[_podman, "files_are_copied_out_and_in"] = _SELF
    FAULTS[_podman, "its_changes_are_told"] = _SELF
    FAULTS[_podman, "files_are_copied_out_of_a_running_one"] = _in_all("podman enters the namespaces of the sandbox")
    FAULTS[_podman, "a_second_command_at_a_terminal"] = _in_all("`runsc exec` does not know --tty, which podman gives")
    FAULTS[_podman, "its_processes_are_listed"] = _in_all("podman looks for them in the pid namespace of the sandbox")


def check_in(engine: Engine, variant: Variant, check: Callable[[Box], None]) -> None:
    """With our gofer; and with plain runsc where that fails, or is known to."""
    fault = FAULTS.get((engine.name, check.__name__), {}).get(variant.name)
    if fault is None:
        try:
            _in_time(lambda: _check(engine, engine.runtimes[variant, True], check))
        except AssertionError as ours:
            try:
                _check(engine, engine.runtimes[variant, False], check)
            except AssertionError as plain:
                raise AssertionError(f"plain runsc fails as well (FAULTS has no such line): {plain}") from ours
            raise
        return
    for is_ours in (True, False):
        try:
            _check(engine, engine.runtimes[variant, is_ours], check)
        except AssertionError:
            continue
        raise AssertionError(f"works with {'our gofer' if is_ours else 'plain runsc'}: {fault}")


def _in_time(check: Callable[[], None]) -> None:
    """Three times where runsc itself gave up: it gives a container 5 s to be gone, however busy the machine is."""
    for _ in range(2):
        try:
            return check()
        except AssertionError as error:
            if "stopping container: context deadline exceeded" not in str(error):
                raise
    return check()


def _check(engine: Engine, runtime: Runtime, check: Callable[[Box], None]) -> None:
    for log in runtime.logs.iterdir():
        log.unlink()
    box = engine.box(engine, runtime)
    try:
        check(box)
        if runtime.ours:
            assert served_by_us(runtime.logs) > 0
        else:
            assert gofer_logs(runtime.logs) and not any("] gofer 0." in log for log in gofer_logs(runtime.logs))
    finally:
        engine.remove_all()
        shutil.rmtree(box.folder)
        if runtime.ours:
            _no_other_has(runtime.logs)


def _no_other_has(logs: Path) -> None:
    """Not an AssertionError: that may be what is expected."""
    try:
        served_by_us(logs)
    except AssertionError as error:
        raise RuntimeError(f"{error}") from None
