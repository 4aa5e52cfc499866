"""What is made of dist/gofer for those who distribute it: make.py deb|oci|man|all. Run by build.sh.

Everything goes to dist/, with a bill of materials (CycloneDX) for each artifact and SHA256SUMS of all. Times are
$SOURCE_DATE_EPOCH, and nothing is fetched: two builds of one commit on machines with the same packages are byte-identical.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import deb
import oci
import sbom

CHECKOUT = Path(__file__).resolve().parent.parent
DIST = CHECKOUT / "dist"


def main(args: list[str]) -> int:
    wanted = ("man", "deb", "oci") if args == ["all"] else tuple(args)
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    program = DIST / "gofer"
    sbom.write(DIST / "gofer.cdx.json", program, [], epoch)
    man = DIST / "man"
    subprocess.run([sys.executable, CHECKOUT / "onefile/man.py", man], check=True)
    made = []
    if "deb" in wanted:
        path = deb.build(program, man, DIST, epoch)
        sbom.write(path.with_suffix(".cdx.json"), path, [], epoch)
        made.append(path)
    if "oci" in wanted:
        path, packages = oci.build(program, DIST, epoch)
        sbom.write(path.with_suffix(".cdx.json"), path, packages, epoch)
        made.append(path)
    sums()
    for path in made:
        print(path.relative_to(CHECKOUT))
    return 0


def sums() -> None:
    """Of all that is in dist/, as sha256sum --check reads it."""
    files = sorted(path for path in DIST.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(DIST)}\n" for path in files]
    (DIST / "SHA256SUMS").write_text("".join(lines))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
