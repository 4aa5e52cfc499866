#!/usr/bin/env python3
"""How long do `gofer get` and `gofer put` take beside cp, on the same trees: many small files, and one large?

Rounds are interleaved: each does the same copy to a place of its own, removed outside the clock. A copy of ours is on the
disk when it ends; so there is cp as it is, against which `--no-sync` stands, and cp followed by a sync of what it made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence

import servers

SMALL = 2000  # files, of 2 to 4 KiB, in 20 directories
LARGE = 1 << 30
Table = dict[str, dict[str, list[float]]]  # what is copied -> who copies -> seconds, one value per round
TARGET = {"small": 4.0, "large": 1.1}


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    found: dict[str, Table] = {}
    for directory in args.directory or ["/dev/shm", tempfile.gettempdir()]:
        found[directory] = measure(pathlib.Path(directory), args)
    json.dump(found, sys.stdout, indent=1) if args.json else show(found)
    return 0


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--rounds", type=int, default=5)
    it.add_argument("--directory", action="append", help="where; repeatable (default: /dev/shm and the temporary directory)")
    it.add_argument("--small", type=int, default=SMALL, help="number of small files")
    it.add_argument("--large", type=int, default=LARGE, help="bytes of the large file")
    it.add_argument("--options", default="", help="further words for the server")
    it.add_argument("--json", action="store_true")
    return it


def measure(directory: pathlib.Path, args: argparse.Namespace) -> Table:
    table: Table = {"small": {}, "large": {}}
    with tempfile.TemporaryDirectory(prefix="gofer-bench-", dir=directory) as name:
        place = pathlib.Path(name)
        fill(place / "small", args.small)
        (place / "large").write_bytes(b"")
        with open(place / "large", "wb") as large:
            for _ in range(args.large >> 20):
                large.write(os.urandom(1 << 20))
        (place / "to").mkdir()
        os.sync()
        with served(place, args.options.split()) as socket:
            for number in range(args.rounds + 1):
                for what in table:
                    for who, commands in copies(place, socket, what).items():
                        seconds = timed(commands)
                        if number:  # the first fills the page cache
                            table[what].setdefault(who, []).append(seconds)
                        remove(place / "to" / what)
    return table


def fill(tree: pathlib.Path, count: int) -> None:
    for number in range(count):
        directory = tree / f"d{number // 100}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"f{number}").write_bytes(os.urandom(2048 + number % 2048))


def copies(place: pathlib.Path, socket: pathlib.Path, what: str) -> dict[str, list[list[str]]]:
    source, target = str(place / what), str(place / "to" / what)
    far, there = f"{socket}:/{what}", f"{socket}:/to/{what}"
    ours = servers.ours()
    cp, sync = ["cp", "-a", source, target], ["sync", "-f", target] if what == "small" else ["sync", target]
    return {
        "cp": [cp],
        "get --no-sync": [[*ours, "get", "-rq", "--no-sync", far, target]],
        "put --no-sync": [[*ours, "put", "-rq", "--no-sync", source, there]],
        "cp, sync": [cp, sync],
        "get": [[*ours, "get", "-rq", far, target]],
        "put": [[*ours, "put", "-rq", source, there]],
    }


def timed(commands: list[list[str]]) -> float:
    began = time.monotonic()
    for command in commands:
        subprocess.run(command, check=True)
    return time.monotonic() - began


def remove(path: pathlib.Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    os.sync()


@contextlib.contextmanager
def served(place: pathlib.Path, options: list[str]) -> Iterator[pathlib.Path]:
    socket = place / "socket"
    argv = [*servers.ours(), "serve", str(place), "--quiet", "--socket", str(socket), *options]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        while not socket.exists():
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(argv)}: exit status {process.returncode}")
            time.sleep(0.01)
        yield socket
    finally:
        process.terminate()
        process.wait()


def show(found: dict[str, Table]) -> None:
    for directory, table in found.items():
        print(f"\n{directory}: medians, seconds; ratios within a round\n")
        print("| copy | who | s | to cp | asked for |\n|---|---|--:|--:|--:|")
        for what, rows in table.items():
            for who, values in rows.items():
                base = rows["cp, sync" if who in ("get", "put") else "cp"]
                ratio = statistics.median(mine / theirs for mine, theirs in zip(values, base))
                asked = "" if who.startswith("cp") else f"{TARGET[what]}"
                print(f"| {what} | {who} | {statistics.median(values):.3f} | {ratio:.2f} | {asked} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
