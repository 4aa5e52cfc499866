#!/usr/bin/env python3
"""What a mounted tree costs beside bindfs on the same tree, beside sshfs, and beside the tree itself (native). As root.

ours: a server here; plain: without passthrough; far: over ssh, as sshfs is, by an sshd of this program's own on 127.0.0.1, which
--delay puts further away; cat: no file system, but `ssh HOST cat FILE`, and `ssh HOST 'cat >FILE'`.
Each work is done in all places by turns, round after round, so that what else the machine does falls on all alike.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Callable

import plot
from farhost import HOST, sshd

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20
GIT = ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false"]
Table = dict[str, dict[str, list[float]]]  # work -> place -> seconds, one for each round
KINDS = {"ours": (), "plain": ("--no-passthrough",), "far": (), "bindfs": (), "sshfs": (), "cat": (), "native": ()}
FAR = {"far", "sshfs", "cat"}
RATIOS = (("ours", "bindfs"), ("ours", "native"), ("ours", "sshfs"), ("far", "sshfs"), ("far", "cat"))


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    sizes = Sizes(args)
    table: Table = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        measure(args, sizes, table)
    finally:  # also of what was stopped
        json.dump(table, sys.stdout, indent=1) if args.json else show(table)
        if args.plot:
            medians = {name: {kind: statistics.median(each) for kind, each in row.items()} for name, row in table.items()}
            drawn = {name: row for name, row in medians.items() if "bindfs" in row and "mount" not in name}
            pathlib.Path(args.plot).write_text(plot.bars(drawn, "bindfs", "bench/mount.py: time, in multiples of bindfs's"))
    return 0


def measure(args: argparse.Namespace, sizes: Sizes, table: Table) -> None:
    with tempfile.TemporaryDirectory(prefix="mount-bench-", dir=args.directory) as name:
        tree, source = pathlib.Path(name) / "tree", pathlib.Path(name) / "source"
        fill(tree, source, sizes)
        kinds = args.kinds.split(",")
        with ExitStack() as stack:
            ssh = stack.enter_context(sshd(pathlib.Path(name) / "sshd", args.delay)) if FAR & set(kinds) else None
            for kind in [kinds[(number + i) % len(kinds)] for number in range(args.rounds) for i in range(len(kinds))]:
                course(kind, pathlib.Path(name), tree, ssh, sizes, table)
        if args.memory:
            table["memory of 100,000 nodes, MiB"] = {"ours": [memory(pathlib.Path(name))]}


class Sizes:
    """What is done, and how much of it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.data, self.names, self.files, self.made = args.mib * MIB, args.names, args.files, args.made
        self.only = args.works.split(",") if args.works else [""]


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--rounds", type=int, default=5)
    it.add_argument("--kinds", default="ours,plain,bindfs,native", help=f"of {', '.join(KINDS)}")
    it.add_argument("--works", help="only those whose names begin so, by comma")
    it.add_argument("--delay", type=float, default=0, metavar="MS", help="how far away sshd is: milliseconds, each way")
    it.add_argument("--mib", type=int, default=1024)
    it.add_argument("--names", type=int, default=20000)
    it.add_argument("--files", type=int, default=2000)
    it.add_argument("--made", type=int, default=5000)
    it.add_argument("--memory", action="store_true", help="of the mount process that knows 100,000 files, too")
    it.add_argument("--directory", help="where the tree is made (default: the temporary directory)")
    it.add_argument("--json", action="store_true")
    it.add_argument("--plot", metavar="FILE.svg", help="draw it, too")
    return it


def fill(tree: pathlib.Path, source: pathlib.Path, sizes: Sizes) -> None:
    (tree / "names").mkdir(parents=True)
    for i in range(sizes.names):
        os.mknod(tree / "names" / f"name-{i:06}")
    with open(tree / "data", "wb") as file:
        for _ in range(sizes.data // MIB):
            file.write(os.urandom(MIB))
    source.mkdir()
    for i in range(sizes.files):
        place = source / "files" / f"d{i % 50}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{i}").write_bytes(os.urandom(200 + i % 8000))
    subprocess.run(["tar", "-C", source, "-cf", source / "files.tar", "files"], check=True)
    git = ["git", "-C", source / "files", "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)


@contextmanager
def mounted(
    kind: str, place: pathlib.Path, tree: pathlib.Path, ssh: pathlib.Path | None = None
) -> Iterator[tuple[pathlib.Path, float]]:
    """Where the tree is seen, and when it was begun to mount it."""
    if kind == "native":
        yield tree, time.monotonic()
        return
    at = place / kind
    at.mkdir(exist_ok=True)
    gofer = [sys.executable, "-IS", str(HERE.parent)]
    with ExitStack() as stack:
        began = time.monotonic()
        if kind == "bindfs":
            subprocess.run(["bindfs", tree, at], check=True)
        elif kind == "sshfs":
            subprocess.run(["sshfs", "-F", f"{ssh}", f"{HOST}:{tree}", at], check=True)
        elif kind == "far":
            words = ["--ssh", f"ssh -F {ssh}", "--remote-gofer", "always"]
            subprocess.run([*gofer, "mount", *words, f"{HOST}:{tree}", at], check=True)
        else:
            server = subprocess.Popen([*gofer, "serve", tree, "--quiet", "--workers=1", "--socket", place / "socket"])
            stack.callback(server.wait)
            stack.callback(server.terminate)
            while not (place / "socket").exists():
                time.sleep(0.01)
            began = time.monotonic()
            subprocess.run([*gofer, "mount", *KINDS[kind], f"{place}/socket:", at], check=True)
        stack.callback(subprocess.run, ["umount", at], check=True)
        yield at, began


def course(kind: str, place: pathlib.Path, tree: pathlib.Path, ssh: pathlib.Path | None, sizes: Sizes, table: Table) -> None:
    """All works in one place, each that is said to be cold by a mount of its own: neither kernel nor file system knows a name."""
    source = place / "source"
    if kind == "cat":
        assert ssh is not None
        for name, work in piped(ssh, tree, sizes).items():
            if any(name.startswith(word) for word in sizes.only):
                os.sync()
                began = time.monotonic()
                work()
                table.setdefault(name, {}).setdefault(kind, []).append(time.monotonic() - began)
        return
    names = [name for name in works(tree, source, sizes) if any(name.startswith(word) for word in sizes.only)]
    with ExitStack() as stack:
        for name in names:
            if name == names[0] or "cold" in name:
                stack.close()
                at, began = stack.enter_context(mounted(kind, place, tree, ssh))
                os.listdir(at)
                table.setdefault("mount to first listing", {}).setdefault(kind, []).append(time.monotonic() - began)
            os.sync()
            began = time.monotonic()
            works(at, source, sizes)[name]()
            table.setdefault(name, {}).setdefault(kind, []).append(time.monotonic() - began)
            if name == "git clone":
                settle(at)
        for name in ("new", "copy", "untarred", "clone"):
            shutil.rmtree(at / name, ignore_errors=True)
        (at / "written").unlink(missing_ok=True)


def works(at: pathlib.Path, source: pathlib.Path, sizes: Sizes) -> dict[str, Callable[[], object]]:
    run = quiet
    return {
        "stat of each name, cold": lambda: [os.stat(at / "names" / f"name-{i:06}") for i in range(sizes.names)],
        "find -ls, cold": lambda: run("find", at / "names", "-ls"),
        "find -ls, again": lambda: run("find", at / "names", "-ls"),
        "read": lambda: run("dd", f"if={at}/data", "of=/dev/null", "bs=1M"),
        "read again": lambda: run("dd", f"if={at}/data", "of=/dev/null", "bs=1M"),
        "write": lambda: run("dd", "if=/dev/zero", f"of={at}/written", "bs=1M", f"count={sizes.data // MIB}", "conv=fsync"),
        "random 4 KiB reads": lambda: fio(at / "data", sizes),
        "mmap, a byte of each page": lambda: mapped(at / "data"),
        "create and unlink": lambda: created(at / "new", sizes.made),
        "untar": lambda: (os.mkdir(at / "untarred"), run("tar", "-C", at / "untarred", "-xf", source / "files.tar")),
        "cp -a": lambda: run("cp", "-a", source / "files", at / "copy"),
        "git clone": lambda: run(*GIT, "clone", "-q", "--no-hardlinks", source / "files", at / "clone"),
        "git status, cold": lambda: run(*GIT, "-C", at / "clone", "status"),
    }


def piped(ssh: pathlib.Path, tree: pathlib.Path, sizes: Sizes) -> dict[str, Callable[[], object]]:
    """What `works` calls so, of one file, without a file system."""
    far, written = ["ssh", "-F", f"{ssh}", HOST], tree / "written"
    source = f"dd if=/dev/zero bs=1M count={sizes.data // MIB}"
    return {
        "read": lambda: quiet(*far, f"cat {tree}/data"),
        "write": lambda: quiet("sh", "-c", f"{source} | {' '.join(far)} 'cat >{written}; sync {written}; rm {written}'"),
    }


def settle(at: pathlib.Path) -> None:
    """Have git read what it wrote within the second of its index, whatever that took: how much that is is chance.

    The index that says so must be of a later second than all files, or the next status reads them again.
    """
    time.sleep(1.1)
    quiet(*GIT, "-C", at / "clone", "status")


def quiet(*argv: str | os.PathLike[str]) -> None:
    subprocess.run(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)


def fio(path: pathlib.Path, sizes: Sizes) -> None:
    argv = ["fio", "--name=x", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k", "--ioengine=psync"]
    quiet(*argv, f"--io_size={min(sizes.data, 128 * MIB)}", "--randseed=1", "--invalidate=0")


def mapped(path: pathlib.Path) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        sum(view[:: mmap.PAGESIZE])


def created(at: pathlib.Path, many: int) -> None:
    at.mkdir()
    for i in range(many):
        path = at / str(i)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.unlink(path)


def memory(place: pathlib.Path) -> float:
    """MiB of the mount process, once the kernel knows 100,000 files."""
    tree = place / "many"
    for i in range(100_000):
        (tree / f"{i % 100}").mkdir(parents=True, exist_ok=True)
        os.mknod(tree / f"{i % 100}" / f"name-{i}")
    with mounted("ours", place, tree) as (at, _):
        quiet("find", at, "-ls")
        found = subprocess.run(["pgrep", "-f", f"mount {place}/socket:"], capture_output=True, text=True, check=True).stdout
        return max(map(status, found.split())) / 1024  # that of the guard is small


def status(pid: str) -> int:
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def show(table: Table) -> None:
    kinds = [kind for kind in KINDS if any(kind in row for row in table.values())]
    ratios = [(one, other) for one, other in RATIOS if one in kinds and other in kinds]
    print("| | " + " | ".join([*kinds, *(f"{one} / {other}" for one, other in ratios)]) + " |")
    print("|---|" + "--:|" * (len(kinds) + len(ratios)))
    for name, row in table.items():
        cells = [f"{statistics.median(row[kind]):.3f}" if kind in row else "" for kind in kinds]
        for one, other in ratios:
            both = [a / b for a, b in zip(row.get(one, []), row.get(other, []))]
            cells.append(f"{statistics.median(both):.2f}" if both else "")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
