"""Docker, with our gofer installed by `gofer runsc install docker`."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from engine_checks import CHECKS
from engines import SOON, VARIANTS_OF_ENGINES, Box, Engine, check_in
from hosts import children, wait_until
from runsc import Variant

pytestmark = pytest.mark.slow


class Docker(Engine):
    name = "docker"

    @property
    def config(self) -> Path:
        return self.place / "daemon.json"

    def start(self) -> None:
        config = json.loads(self.config.read_text())
        config.update({"iptables": False, "ip6tables": False, "bridge": "none", "log-level": "warn"})
        self.config.write_text(json.dumps(config))
        words = ["dockerd", f"--config-file={self.config}", f"--pidfile={self.place}/pid", f"--host={self.host}"]
        words += [f"--data-root={self.place}/data", f"--exec-root={self.place}/exec"]
        with open(self.place / "dockerd.log", "wb") as log:
            self.daemon = subprocess.Popen(
                self.cell.enter(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env()
            )
        wait_until(lambda: self.call("version").status == 0, self.said, patience=SOON)
        assert self.call("import", str(self.tar()), "box").status == 0

    def said(self) -> str:
        return "dockerd is up: " + (self.place / "dockerd.log").read_text()[-4000:]

    @property
    def host(self) -> str:
        return f"unix://{self.place}/socket"

    def command(self, *words: str) -> "list[str]":
        return ["/usr/bin/docker", f"--host={self.host}", *words]

    def on_host(self, user: int, group: int) -> "tuple[int, int]":
        return user, group

    def stop(self) -> None:
        (pid,) = children(self.daemon.pid)
        os.kill(pid, signal.SIGTERM)
        self.daemon.wait(SOON)


@pytest.fixture(scope="module")
def docker() -> Iterator[Docker]:
    docker = Docker(VARIANTS_OF_ENGINES)
    yield docker
    docker.close()


@pytest.mark.parametrize("variant", VARIANTS_OF_ENGINES, ids=lambda variant: variant.name)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_of_a_container(docker: Docker, variant: Variant, check: "Callable[[Box], None]") -> None:
    check_in(docker, variant, check)
