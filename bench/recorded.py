#!/usr/bin/env python3
"""A container's requests, recorded once and played again: `git status` of 2,000 files under a real runsc, against our server.

Needs root, runsc, git and a built dist/gofer. What is compared with is the recorded time: how long the server took for the same
requests then. A reply that differs from the recorded one is an error, exit status 1.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import container

WORKLOAD, SCRIPT = "git status", "git -C repository status --porcelain > said"


def main(argv: Sequence[str]) -> int:
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--rounds", type=int, default=5)
    it.add_argument("--runsc", default="runsc", help="the runsc to record with (default: the first one in $PATH)")
    it.add_argument("--flags", default=container.FLAGS, help=f"its flags, as one word (default: {container.FLAGS})")
    it.add_argument("--gofer", type=pathlib.Path, default=container.PROJECT / "dist/gofer", help="our one file")
    it.add_argument("--keep", type=pathlib.Path, metavar="FILE", help="leave the trace there")
    args = it.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="gofer-bench-") as name:
        place = pathlib.Path(name)
        place.chmod(0o755)
        (place / "prepared").mkdir()
        container.make_repository(place / "prepared/repository", commit=True)
        trace = record(args, place)
        if args.keep:
            args.keep.write_bytes(trace.read_bytes())
        return play(args, place, trace)


def record(args: argparse.Namespace, place: pathlib.Path) -> pathlib.Path:
    (place / "traces").mkdir()
    command = container.command(args, ours=True)
    at = command.index("--")
    container.run(place, WORKLOAD, SCRIPT, [*command[:at], f"--trace-dir={place / 'traces'}", *command[at:]])
    (trace,) = (place / "traces").glob("*.trace")
    return trace


def play(args: argparse.Namespace, place: pathlib.Path, trace: pathlib.Path) -> int:
    replay = [str(args.gofer), "replay", str(trace)]
    found = subprocess.run([*replay, "path=/repository", "--summary", "--json"], stdout=subprocess.PIPE, check=True)
    (conn,) = list(json.loads(found.stdout)["connections"])[:1]
    summary = subprocess.run([*replay, f"conn={conn}", "--summary", "--json"], stdout=subprocess.PIPE, check=True)
    row = json.loads(summary.stdout)["connections"][conn]
    times, status = [], 0
    for _ in range(args.rounds):
        copy = place / "copy"
        subprocess.run(["cp", "-a", place / "prepared", copy], check=True)
        server = [str(args.gofer), "serve", str(copy), "--quiet", "--", *replay, f"conn={conn}", "--against", ":"]
        done = subprocess.run(server, stdout=subprocess.PIPE, text=True)
        status |= done.returncode
        last = done.stdout.splitlines()[-1]
        match = re.match(r"(\d+) requests in ([\d.]+) s", last)
        if match is None or done.returncode:
            print(done.stdout[-2000:])
        else:
            times.append(float(match[2]) / int(match[1]))
        subprocess.run(["rm", "-r", copy], check=True)
    print(f"{row['count']} requests of `{SCRIPT}`, {row['p50_us']:.0f} us each in the server (median)")
    if times:
        print(f"played: {statistics.median(times) * 1e6:.1f} us each, client and all (median of {len(times)} rounds)")
    return int(bool(status))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
