"""The OCI image: Debian's python3, as it is installed on this machine, and the one file. Nothing is fetched, no engine is asked.

What goes in is what dpkg says of the packages that the interpreter needs, compared with the packages' own checksums first; no
manual pages, no documents but the copyright files, no parts of the standard library that no server needs. The archive is an image
layout (`podman load`, `docker load`, `skopeo copy oci-archive:...`) with one layer.
"""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import time
from pathlib import Path

import sbom

CHECKOUT = Path(__file__).resolve().parent.parent
USR_MERGED = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
UNUSED = re.compile(
    r"/usr/share/(?!doc/[^/]+/copyright$|doc/[^/]+$)|/usr/lib/python3[^/]*/"
    r"(ensurepip|lib2to3|pydoc_data|idlelib|turtledemo|tkinter|test|unittest|distutils|sqlite3|dbm|xmlrpc|wsgiref|venv|curses|asyncio)/"
)
PASSWD = "root:x:0:0:root:/root:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:x:0:\nnogroup:x:65534:\n"
CONFIG = {
    "Entrypoint": ["/usr/bin/gofer"],
    "Cmd": ["serve"],
    "Env": ["PATH=/usr/bin", "LANG=C.UTF-8", "GOFER_SERVE_PATH=/data", "GOFER_SERVE_SOCKET=/run/gofer/gofer.sock"],
    "Volumes": {"/data": {}, "/run/gofer": {}},
    "StopSignal": "SIGTERM",
}


def build(program: Path, output: Path, epoch: int) -> "tuple[Path, list[sbom.Package]]":
    """The image's archive, and what of Debian's is inside."""
    packages = _packages()
    layer = _layer(program, packages, epoch)
    machine = _run("dpkg", "--print-architecture").strip()
    made = output / f"gofer-{sbom.version()}-{machine}.oci.tar"
    made.write_bytes(_image(layer, machine, epoch))
    return made, packages


def _run(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout


def _packages() -> "list[sbom.Package]":
    """The interpreter's, and those of the libraries that it and its modules load."""
    python = os.path.realpath("/usr/bin/python3")
    name = Path(python).name
    ask = "import _ctypes, mmap, select, _socket, zlib; print(_ctypes.__file__)"
    loaded = _run(python, "-ISc", f"{ask}; print(open('/proc/self/maps').read())")
    libraries = {os.path.realpath(word) for word in re.findall(r"/\S+\.so\S*", loaded)}
    found = {"python3-minimal", f"{name}-minimal", f"lib{name}-minimal", f"lib{name}-stdlib", "libgcc-s1"}
    for library in libraries:
        told = subprocess.run(["dpkg", "-S", library, library.replace("/usr/", "/", 1)], capture_output=True, text=True).stdout
        found.update(line.partition(":")[0] for line in told.splitlines())
    query = "${Package} ${Version} ${Architecture}\n"
    lines = _run("dpkg-query", "--show", f"--showformat={query}", *sorted(found)).splitlines()
    return [sbom.Package(*line.split()) for line in lines]


def _layer(program: Path, packages: "list[sbom.Package]", epoch: int) -> bytes:
    """An uncompressed tar archive of the root, sorted."""
    entries: dict[str, tuple[tarfile.TarInfo, bytes]] = {}

    def add(name: str, kind: bytes, mode: int, data: bytes = b"", target: str = "") -> None:
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.size, info.linkname, info.mtime = kind, mode, len(data), target, epoch
        entries[name] = info, data
        parent = name.rpartition("/")[0]
        if parent and parent not in entries:
            add(parent, tarfile.DIRTYPE, 0o755)

    for path in sorted(_files(packages)):
        name = _place(path)
        if os.path.islink(path):
            add(name, tarfile.SYMTYPE, 0o777, target=os.readlink(path))
        else:
            add(name, tarfile.REGTYPE, os.stat(path).st_mode & 0o755, Path(path).read_bytes())
    add("usr/bin/gofer", tarfile.REGTYPE, 0o755, program.read_bytes())
    add("etc/passwd", tarfile.REGTYPE, 0o644, PASSWD.encode())
    add("etc/group", tarfile.REGTYPE, 0o644, GROUP.encode())
    for name in ("data", "proc", "sys", "dev", "run/gofer"):
        add(name, tarfile.DIRTYPE, 0o755)
    add("tmp", tarfile.DIRTYPE, 0o1777)
    for name in USR_MERGED:
        if f"usr/{name}" in entries:
            add(name, tarfile.SYMTYPE, 0o777, target=f"usr/{name}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for _, (info, data) in sorted(entries.items()):
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _files(packages: "list[sbom.Package]") -> "set[str]":
    """The paths of what is to be copied. Whatever somebody has changed on this machine ends it."""
    names = [package.name for package in packages]
    changed = _run("dpkg", "--verify", *names).splitlines()
    changed = [line for line in changed if " c " not in line and not line.startswith("missing")]
    if changed:
        raise SystemExit(f"build.sh: not as Debian has it, so not for an image: {changed[0]}")
    found = set()
    for name in names:
        for path in _run("dpkg", "-L", name).splitlines():
            if path.startswith("/") and not UNUSED.match(path) and os.path.lexists(path) and not os.path.isdir(path):
                found.add(path)
    return found


def _place(path: str) -> str:
    """Its name in the archive: /lib is usr/lib."""
    first = path.split("/")[1]
    return f"usr{path}" if first in USR_MERGED and os.path.islink(f"/{first}") else path[1:]


def _image(layer: bytes, machine: str, epoch: int) -> bytes:
    """An image layout of one layer, in a tar archive."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    labels = {"org.opencontainers.image.title": "gofer", "org.opencontainers.image.version": sbom.version()}
    config = {
        "created": created, "architecture": machine, "os": "linux", "config": {**CONFIG, "Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": created, "created_by": "build.sh oci"}],
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(_json(config), "config.v1+json"),
        "layers": [blob(gzip.compress(layer, 6, mtime=0), "layer.v1.tar+gzip")],
    }
    entry = {
        **blob(_json(manifest), "manifest.v1+json"),
        "annotations": {"org.opencontainers.image.ref.name": f"localhost/gofer:{sbom.version()}"},
    }
    index = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [entry]}
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    files.update({f"blobs/sha256/{digest}": data for digest, data in sorted(blobs.items())})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.mode, info.size, info.mtime = 0o644, len(data), epoch
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
