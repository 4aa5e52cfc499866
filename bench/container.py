#!/usr/bin/env python3
"""Whole workloads inside a container: a runsc with its own gofer, and with ours in its place; rounds interleaved.

Needs root, runsc, git and a built dist/gofer. The container has the host's /usr (read-only) and a /work of its own, both
bind mounts that a gofer serves. Times are taken inside the container, around the workload, save for `start`, which is
all of `runsc run` for a container that runs `true`: it is short, so each round has several.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence

PROJECT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = "--platform=ptrace --network=none --ignore-cgroups"
STARTS = 5  # a round
IMPORTS = 200
MIB = 256
CHANGING = ("untar", "git", "write")

# name: what sh runs in /work. Each run gets a fresh container, and those that change more than a new file of theirs a fresh copy
# of what `prepare` made.
WORKLOADS = {
    "start": "true",
    "untar 2,000 files": "tar xf files.tar",
    "find over 20,000 files": "find tree -type f | wc -l > found",
    "two finds at once": "find tree -type f > found & find tree -type f > found2; wait",
    "find beside a busy loop": "(while :; do :; done) & find tree -type f > found; kill $!",
    "git status, 2,000 files": "git -C repository status --porcelain > said",
    f"python imports {IMPORTS} modules": "python3 -IS imports.py",
    f"write {MIB} MiB": f"dd if=/dev/zero of=big bs=1M count={MIB} 2> said",
    f"read {MIB} MiB": "dd if=filled of=/dev/null bs=1M 2> said",
}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runsc", default="runsc", help="the runsc to run (default: the first one in $PATH)")
    parser.add_argument("--flags", default=FLAGS, help=f"its flags, as one word (default: {FLAGS})")
    parser.add_argument("--gofer", type=pathlib.Path, default=PROJECT / "dist/gofer", help="our one file")
    parser.add_argument("--only", default="", help="workloads whose name holds this")
    parser.add_argument("--json", action="store_true", help="every round's seconds")
    args = parser.parse_args(argv)
    for program in (args.runsc, "git"):
        if not shutil.which(program):
            parser.error(f"{program} is not installed: apt-get install {program}")
    if not args.gofer.exists():
        parser.error(f"{args.gofer} does not exist: ./build.sh makes it")
    table: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="gofer-bench-") as name:
        place = pathlib.Path(name)
        place.chmod(0o755)
        prepare(place / "prepared")
        for number in range(args.rounds + 1):
            for workload, script in WORKLOADS.items():
                kinds = ("go", "ours") if args.only in workload else ()
                for kind in kinds * (STARTS if workload == "start" else 1):
                    seconds = run(place, workload, script, command(args, kind == "ours"))
                    if number:  # the first round fills the page cache
                        table.setdefault(workload, {}).setdefault(kind, []).append(seconds)
            print(f"round {number} of {args.rounds}", file=sys.stderr)
    if args.json:
        json.dump(table, sys.stdout, indent=1)
    else:
        show(table)
    return 0


def command(args: argparse.Namespace, ours: bool) -> list[str]:
    """runsc up to its own words, with our gofer or its own."""
    runsc = os.path.abspath(shutil.which(args.runsc) or args.runsc)
    return [*([str(args.gofer), "runsc", "--runsc", runsc, "--"] if ours else [runsc]), *args.flags.split()]


def prepare(place: pathlib.Path) -> None:
    """What the workloads find in /work."""
    tree = place / "tree"
    for i in range(20000):
        path = tree / f"d{i % 200}/e{i % 7}/f{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    repository = make_repository(place / "repository")
    with tarfile.open(place / "files.tar", "w") as tar:
        tar.add(repository, "untarred")
    commit_all(repository)
    (place / "filled").write_bytes(os.urandom(1 << 20) * MIB)
    names = [path.stem for path in sorted(pathlib.Path("/usr/lib/python3.11").glob("[a-z]*.py"))]
    unwanted = {"antigravity", "this", "idlelib", "turtle"}
    packages = [
        "email.mime.text",
        "xml.dom.minidom",
        "xml.sax",
        "json.tool",
        "html.parser",
        "http.server",
        "logging.config",
    ]
    packages += [
        "concurrent.futures",
        "multiprocessing.pool",
        "unittest.mock",
        "urllib.request",
        "wsgiref.util",
        "dbm.dumb",
    ]
    wanted = [name for name in names if name not in unwanted and not name.startswith("_")] + packages
    (place / "imports.py").write_text(
        f"import importlib, sys\nfor name in {wanted!r}:\n    if len(sys.modules) < {IMPORTS} + 40:\n        try:\n"
        "            importlib.import_module(name)\n        except ImportError:\n            pass\n"
    )


def make_repository(repository: pathlib.Path, commit: bool = False) -> pathlib.Path:
    """2,000 files. commit: into git."""
    for i in range(2000):
        path = repository / f"d{i % 50}/f{i}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{i}\n" * (i % 50))
    if commit:
        commit_all(repository)
    return repository


def commit_all(repository: pathlib.Path) -> None:
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "all"]):
        subprocess.run(["git", "-C", repository, *words], check=True)


def run(place: pathlib.Path, workload: str, script: str, runsc: Sequence[str]) -> float:
    """Seconds of one run in a fresh container."""
    bundle = place / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    for link in ("bin", "lib", "lib64"):
        (bundle / "rootfs" / link).symlink_to(f"usr/{link}")
    (bundle / "rootfs/dev").mkdir()
    work = place / "prepared"
    if workload.startswith(CHANGING):
        work = place / "work"
        work.mkdir()
        for source in (place / "prepared").iterdir():
            if source.name in script:
                subprocess.run(["cp", "-a", source, work], check=True)
    timed = f"a=$(date +%s%N); {script}; b=$(date +%s%N); echo $((b - a))"
    held = dict.fromkeys(
        ("bounding", "effective", "permitted"), ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"]
    )
    spec = {
        "ociVersion": "1.0.2",
        "process": {
            "args": ["/bin/true"] if workload == "start" else ["/bin/sh", "-ec", timed], "cwd": "/work",
            "env": ["PATH=/usr/bin:/bin", "HOME=/work"], "user": {"uid": 0, "gid": 0}, "capabilities": held,
        },
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            {"destination": "/work", "type": "bind", "source": str(work), "options": ["rbind", "rw"]},
        ],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}]},
    }  # fmt: skip
    (bundle / "config.json").write_text(json.dumps(spec))
    words = [f"--root={place}/state", "run", f"--bundle={bundle}", f"bench-{os.getpid()}"]
    began = time.monotonic()
    done = subprocess.run([*runsc, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    whole = time.monotonic() - began
    shutil.rmtree(bundle)
    shutil.rmtree(place / "work", ignore_errors=True)
    if done.returncode:
        raise RuntimeError(f"{workload}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return whole if workload == "start" else int(done.stdout) / 1e9


def show(table: dict[str, dict[str, list[float]]]) -> None:
    print("| workload | go, s | ours, s | ours/go |\n|---|--:|--:|--:|")
    ratios = []
    for workload, by_kind in table.items():
        ratio = statistics.median(b / a for a, b in zip(by_kind["go"], by_kind["ours"]))
        ratios.append(ratio)
        medians = [statistics.median(by_kind[kind]) for kind in ("go", "ours")]
        print(f"| {workload} | {medians[0]:.3f} | {medians[1]:.3f} | {ratio:.2f} |")
    print(f"\nours/go: geometric mean {statistics.geometric_mean(ratios):.2f}, worst {max(ratios):.2f}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
