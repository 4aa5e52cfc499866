"""podman, as root and as a user without rights, with our gofer installed by `gofer runsc install podman`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from engine_checks import CHECKS
from engines import VARIANTS_OF_ENGINES, Box, Engine, check_in
from runsc import Variant

pytestmark = pytest.mark.slow

USER = 23456  # nobody that this machine knows
SUBORDINATE = 300000  # the first of the ids that this user may map, from 1 on
CONFIG = """# of the tests
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"  # crun, the default, refuses cgroups of version 1 without systemd
[containers]
log_driver = "k8s-file"
"""


class Podman(Engine):
    name = "podman"

    @property
    def config(self) -> Path:
        path = self.place / "containers.conf"
        if not path.exists():
            path.write_text(CONFIG)
        return path

    def start(self) -> None:
        assert self.call("import", str(self.tar()), "box").status == 0

    def command(self, *words: str) -> "list[str]":
        places = [f"--root={self.place}/data", f"--runroot={self.place}/run", f"--tmpdir={self.place}/tmp"]
        return self.enter("podman", *places, *words)

    def enter(self, *words: str) -> "list[str]":
        return self.cell.enter(*words)

    def env(self) -> "dict[str, str]":
        return {**super().env(), "CONTAINERS_CONF": str(self.config), "PODMAN_IGNORE_CGROUPSV1_WARNING": "1"}

    def on_host(self, user: int, group: int) -> "tuple[int, int]":
        return user, group

    def stop(self) -> None:
        self.remove_all()
        for folder in sorted(Path("/sys/fs/cgroup").glob("*/libpod_parent/**/"), reverse=True):
            with contextlib.suppress(OSError):  # somebody else's, and in use
                folder.rmdir()


class Rootless(Podman):
    """In the cell that user has ids to map, and a home."""

    name = "podman rootless"

    def start(self) -> None:
        self.place.chmod(0o777)
        for name, line in {
            "passwd": f"boxer:x:{USER}:{USER}::{self.place}:/bin/sh",
            "group": f"boxer:x:{USER}:",
            "subuid": f"boxer:{SUBORDINATE}:65536",
            "subgid": f"boxer:{SUBORDINATE}:65536",
        }.items():
            there = Path("/etc", name)
            ours = self.place / name
            ours.write_text((there.read_text() if there.exists() else "") + line + "\n")
            if not there.exists():
                pytest.skip(f"podman cannot be rootless on this machine: there is no {there} (package uidmap)")
            self.cell.run("mount", "--bind", str(ours), str(there))
        super().start()

    def enter(self, *words: str) -> "list[str]":
        demoted = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--inh-caps=-all"]
        return self.cell.enter(*demoted, *words)

    def env(self) -> "dict[str, str]":
        run = self.place / "xdg"
        if not run.exists():
            run.mkdir(mode=0o700)
            os.chown(run, USER, USER)
        return {**super().env(), "XDG_RUNTIME_DIR": str(run)}

    def on_host(self, user: int, group: int) -> "tuple[int, int]":
        return SUBORDINATE + user - 1, SUBORDINATE + group - 1


@pytest.fixture(scope="module", params=[Podman, Rootless], ids=["as-root", "rootless"])
def podman(request: pytest.FixtureRequest) -> Iterator[Podman]:
    podman = request.param(VARIANTS_OF_ENGINES)
    yield podman
    podman.close()


@pytest.mark.parametrize("variant", VARIANTS_OF_ENGINES, ids=lambda variant: variant.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_of_a_container(podman: Podman, variant: Variant, check: "Callable[[Box], None]") -> None:
    check_in(podman, variant, check)
