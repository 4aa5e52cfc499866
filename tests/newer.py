"""The newer of the two runscs the tests use: that of Debian's next release, one static file, beside the installed one.

Pinned: a gofer is tried against what this says, and nothing else. The package comes from the mirror that apt uses
anyway, apt's own downloader compares the checksum, and nothing is installed: the file lies in the checkout.
"""

import os
import platform
import shutil
import subprocess
from pathlib import Path

PACKAGE, VERSION = "golang-gvisor-gvisor", "0.0~20240729.0-4+b7"
# Of the package; by the kernel's name for the machine, Debian's name for it.
PINNED = {
    "x86_64": ("amd64", "3c25a5130dfac2f71237d5baad56ac86a255de87a0400f11b36a555156dc325a"),
    "aarch64": ("arm64", "8e13e0625a094f962da3edcaf81ab0ed779726b6335e385a8148919f2c217c8e"),
}
FOLDER = Path(__file__).resolve().parent.parent / ".runsc" / VERSION
NAME = f"runsc={VERSION}"  # as apt-get would have it
RUNSC = FOLDER / "usr/bin/runsc"
_APT_HELPER = "/usr/lib/apt/apt-helper"


def fetch() -> None:
    """Makes RUNSC, with apt's configuration as it is; `apt-get update` must have been run. Not again where it is there."""
    if RUNSC.exists():
        return
    if platform.machine() not in PINNED:
        raise SystemExit(f"tests/run: there is no runsc {VERSION} for {platform.machine()}")
    architecture, checksum = PINNED[platform.machine()]
    name = f"runsc_{VERSION}_{architecture}.deb"
    unpacked = FOLDER.with_name(f"{VERSION}.{os.getpid()}")
    unpacked.mkdir(parents=True)
    try:
        url = f"{mirror()}pool/main/g/{PACKAGE}/{name}"
        subprocess.run([_APT_HELPER, "download-file", url, unpacked / name, f"SHA256:{checksum}"], check=True)
        subprocess.run(["dpkg", "--extract", unpacked / name, unpacked], check=True)
        (unpacked / name).unlink()
        shutil.rmtree(FOLDER, ignore_errors=True)
        unpacked.rename(FOLDER)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def mirror() -> str:
    """Of Debian's own packages, ending in a slash: all its releases share one pool of files."""
    form = "--format=$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)"
    query = ["apt-get", "indextargets", form, "Identifier: Packages"]
    told = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout
    for line in told.splitlines():
        uri, _, rest = line.partition(" ")
        if rest == "Debian Debian main":  # the label of the security archive, which has a pool of its own, is another
            return uri
    raise SystemExit(f"tests/run: apt knows no mirror of Debian to get runsc {VERSION} from, only:\n{told}")
