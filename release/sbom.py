"""A bill of materials: CycloneDX 1.5, JSON. What is inside an artifact, and what it needs beside itself."""

import hashlib
import json
import re
import time
import uuid
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
_NAMESPACE = uuid.UUID("6b0a4a0e-8a5e-5a0f-9d55-2d1f2c3b7c11")  # of our serial numbers


class Package(NamedTuple):
    """One of Debian's."""

    name: str
    version: str
    architecture: str

    @property
    def purl(self) -> str:
        version = self.version.replace("+", "%2B").replace(":", "%3A").replace("~", "~")
        return f"pkg:deb/debian/{self.name}@{version}?arch={self.architecture}"


def version() -> str:
    """Ours, read without an import: this runs on whatever Python builds."""
    found = re.search(r'^__version__ = "([^"]+)"$', (CHECKOUT / "gofer/__init__.py").read_text(), re.M)
    assert found
    return found.group(1)


def write(path: Path, artifact: Path, packages: list[Package], epoch: int) -> None:
    digest = hashlib.sha256(artifact.read_bytes()).hexdigest()
    ours = {
        "type": "application",
        "bom-ref": "gofer",
        "name": "gofer",
        "version": version(),
        "description": "a file server for sandboxes (gVisor's gofer)",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "purl": f"pkg:generic/gofer@{version()}?file_name={artifact.name}&checksum=sha256:{digest}",
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }
    needs = [_python()] if not packages else [_component(package) for package in packages]
    bom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
            "tools": {"components": [{"type": "application", "name": "shiv", "version": _shiv()}]},
            "component": ours,
        },
        "components": needs,
        "dependencies": [{"ref": "gofer", "dependsOn": [need["bom-ref"] for need in needs]}],
    }
    path.write_text(json.dumps(bom, indent=2) + "\n")


def _python() -> dict[str, object]:
    """What the program needs and does not contain: an interpreter with its standard library."""
    return {
        "type": "platform", "bom-ref": "cpython", "name": "CPython", "version": "3.9 or newer", "scope": "excluded",
        "description": "not contained: the interpreter, with its standard library, that the first line names",
    }  # fmt: skip


def _component(package: Package) -> dict[str, object]:
    return {
        "type": "library", "bom-ref": package.purl, "name": package.name, "version": package.version, "purl": package.purl,
        "publisher": "Debian",
    }  # fmt: skip


def _shiv() -> str:
    found = re.search(r"^shiv==(\S+)$", (CHECKOUT / "tests/requirements.txt").read_text(), re.M)
    assert found
    return found.group(1)
