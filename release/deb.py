"""The Debian package: the one file, manual pages, completions, units. dpkg-deb makes it; lintian finds nothing in it.

There is nothing to compile and nothing to configure, so there are no maintainer scripts, and debhelper would have nothing to do.
"""

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from email.utils import formatdate
from pathlib import Path

import sbom

CHECKOUT = Path(__file__).resolve().parent.parent
MAINTAINER = os.environ.get("DEBEMAIL", "gofer maintainers <maintainers@gofer.invalid>")
CONTROL = """\
Package: gofer
Version: {version}
Section: admin
Priority: optional
Architecture: all
Installed-Size: {size}
Depends: python3 (>= 3.9)
Suggests: runsc, podman | docker.io, systemd
Maintainer: {maintainer}
Description: file server for sandboxes, gVisor's gofer in Python
 A gofer holds the host's files on behalf of a sandbox: the sandbox (gVisor's
 runsc) is untrusted, and reaches files only by asking the gofer over a Unix
 socket, in the LISAFS protocol. This one confines itself before it serves.
 .
 "gofer serve" serves a directory, other commands look at what is served, and
 "gofer runsc" starts containers of an unmodified runsc with this gofer.
"""
COPYRIGHT = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: gofer

Files: *
Copyright: {year} the gofer maintainers
License: Apache-2.0

License: Apache-2.0
 On Debian systems, the full text of the Apache License version 2.0
 is in the file /usr/share/common-licenses/Apache-2.0.
"""
CHANGELOG = """\
gofer ({version}) unstable; urgency=medium

  * What is new stands in NEWS.md beside this file.

 -- {maintainer}  {date}
"""


def build(program: Path, man: Path, output: Path, epoch: int) -> Path:
    version = sbom.version()  # a native one: there is no archive of sources apart from this
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        _fill(root, program, man, version, epoch)
        size = sum(-(-path.stat().st_size // 1024) for path in root.rglob("*") if path.is_file())
        control = CONTROL.format(version=version, size=size, maintainer=MAINTAINER)
        sums = [
            f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n"
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]
        _write(root / "DEBIAN/control", control.encode())
        _write(root / "DEBIAN/md5sums", "".join(sums).encode())
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path == root / "usr/bin/gofer" else 0o644)
            os.utime(path, (epoch, epoch))
        made = output / f"gofer_{version}_all.deb"
        # -Zxz and one thread: the same bytes everywhere
        argv = ["dpkg-deb", "--root-owner-group", "-Zxz", "--threads-max=1", "--build", str(root), str(made)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)})
    return made


def _fill(root: Path, program: Path, man: Path, version: str, epoch: int) -> None:
    share, doc = root / "usr/share", root / "usr/share/doc/gofer"
    _write(root / "usr/bin/gofer", program.read_bytes())
    for page in sorted(man.iterdir()):
        _compress(share / f"man/man{page.suffix[1:]}/{page.name}.gz", page.read_bytes())
    for shell, place in (
        ("bash", "bash-completion/completions/gofer"),
        ("zsh", "zsh/vendor-completions/_gofer"),
        ("fish", "fish/vendor_completions.d/gofer.fish"),
    ):
        script = subprocess.run([program, "completions", shell], stdout=subprocess.PIPE, check=True).stdout
        _write(share / place, script)
    for unit in sorted((CHECKOUT / "systemd").glob("*@.*")):
        _write(root / "lib/systemd/system" / unit.name, unit.read_bytes())
    _write(doc / "examples/as-user.conf", (CHECKOUT / "systemd/as-user.conf").read_bytes())
    for name in ("README.md", "SECURITY.md", "NEWS.md"):
        _write(doc / name, (CHECKOUT / name).read_bytes())
    shutil.copytree(CHECKOUT / "docs", doc / "docs", ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    year = time.gmtime(epoch).tm_year
    _write(doc / "copyright", COPYRIGHT.format(year=year).encode())
    changes = CHANGELOG.format(version=version, maintainer=MAINTAINER, date=formatdate(epoch))
    _compress(doc / "changelog.gz", changes.encode())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _compress(path: Path, data: bytes) -> None:
    _write(path, gzip.compress(data, 9, mtime=0))
