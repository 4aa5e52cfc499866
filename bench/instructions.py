#!/usr/bin/env python3
"""Instructions the server executes in user space for each RPC, counted by valgrind's callgrind: the same on a busy machine.

Each operation is done some times and then three times as often; the difference, divided, is one operation. Beside it
stands what budget.json allows for this Python; more than a tenth above it, each time that it is counted again, is an error,
exit status 1. After a change that is worth its price, or that makes the server cheaper: --write. PWrite 4 KiB over the
channel has two counts, a tenth apart, from one server to the next: its budget is the higher.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import product

import rpc
import servers

BUDGET = servers.HERE / "budget.json"
TOLERANCE = 1.10
AGAIN = 3  # times that what is above it is counted anew
PAUSE = 1000  # microseconds between requests over a channel, so that each finds the server's thread asleep
TIMES = 40  # small: valgrind makes everything fifty times as slow; a count needs no average
SLOW = {"PRead 1 MiB": 4, "PWrite 1 MiB": 4, "Getdents64 of 1000": 4}
LEFT_OUT = {"socket": ("PRead 1 MiB", "PWrite 1 MiB")}  # in how many pieces they pass is the scheduler's choice
# And what others have mounted for a while is theirs to unmount: a copy of it would keep it in use.
ALONE = 'cut -d " " -f 5 /proc/self/mountinfo | grep "^/tmp/" | tac | xargs -r umount --lazy; exec "$@"'
Counts = dict[str, dict[str, float]]  # transport -> operation -> instructions


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    version = python_version(args.interpreter)
    budgets: dict[str, Counts] = json.loads(args.budget.read_text()) if args.budget.exists() else {}
    if version not in budgets and not args.write:
        sys.exit(f"instructions.py: {args.budget} has no budget for CPython {version}; --write would make one")
    chosen = rpc.choose(args.ops) if args.ops else list(rpc.OPERATIONS)
    transports = args.transport.split(",")
    counts = dict(measured(args.interpreter, transports, chosen))
    if args.write:  # a budget is for long: the median of several, as on a busy machine each is some per cent too high or too low
        several = [counts, *(dict(measured(args.interpreter, transports, chosen)) for _ in range(AGAIN - 1))]
        counts = {
            transport: {name: statistics.median(each[transport][name] for each in several) for name in row}
            for transport, row in counts.items()
        }
        for transport, row in counts.items():
            budgets.setdefault(version, {}).setdefault(transport, {}).update(row)
        args.budget.write_text(json.dumps(budgets, indent=1, sort_keys=True) + "\n")
    # What a busy machine adds, a thread that had to be woken once more, is not there each time; what a change adds is.
    for transport, _ in product(counts, range(AGAIN)):
        dear = over(counts[transport], budgets[version].get(transport, {}))
        for _, row in measured(args.interpreter, [transport], dear) if dear else ():
            counts[transport].update((name, min(count, counts[transport][name])) for name, count in row.items())
    return show(counts, budgets[version])


def over(row: dict[str, float], budget: dict[str, float]) -> list[str]:
    """The operations that are above their budget, by more than is tolerated."""
    return [name for name, count in row.items() if count > budget.get(name, 0) * TOLERANCE]


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--transport", default="channel,socket", help="channel, socket, or both with a comma (default)")
    it.add_argument("--ops", help="operations with commas, by name or any part of it (default: all)")
    it.add_argument("--interpreter", default="/usr/bin/python3", help="default: that of dist/gofer, /usr/bin/python3")
    it.add_argument("--budget", type=pathlib.Path, default=BUDGET, metavar="FILE", help=f"default: {BUDGET.name}")
    it.add_argument("--write", action="store_true", help="make what is counted the budget")
    return it


def python_version(interpreter: str) -> str:
    """As 3.11: the interpreter's own instructions change with it, within one hardly."""
    said = [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    return subprocess.run(said, stdout=subprocess.PIPE, check=True, text=True).stdout.strip()


def measured(
    interpreter: str, transports: Sequence[str], chosen: Sequence[str]
) -> Iterator[tuple[str, dict[str, float]]]:
    """(transport, instructions by operation). A server of its own for each transport."""
    for transport in transports:
        with servers.workplace() as place:
            out = place / "callgrind.out"
            tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--log-file={place / 'valgrind'}"]
            # A fixed hash seed: dicts then probe the same way each time.
            # One cpu: a thread that has two may go to where its client is.
            one = ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))]
            # What others mount meanwhile would be the server's to look at.
            alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", ALONE, "sh"] if os.geteuid() == 0 else []
            command = [*one, *alone, "env", "PYTHONHASHSEED=0", *tool, interpreter, "-Is", str(servers.PROJECT)]
            # How often one looks for a request, or at one that is slow, is the clock's business.
            options = ["--jail=off", "--busy-poll=0", "--slow=0"]
            served = servers.serve("ours", place, servers.make_tree(place / "tree"), command=command, options=options)
            try:
                served.client.ask(f"pause {PAUSE}")
                names = [name for name in chosen if name not in LEFT_OUT.get(transport, ())]
                yield transport, {name: one_operation(served, out, transport, name) for name in names}
            finally:
                served.close()


def one_operation(served: servers.Served, out: pathlib.Path, transport: str, name: str) -> float:
    op, few = rpc.OPERATIONS[name][0], SLOW.get(name, TIMES)
    counts = []
    for times in (few, few, 3 * few):  # the first fills caches, the interpreter's too
        served.client.run(transport, op, times)
        counts.append(counted(served.process.pid, out))
    return round((counts[2] - counts[1]) / (2 * few))


def counted(pid: int, out: pathlib.Path) -> int:
    """Instructions of the process since the last call."""
    null = subprocess.DEVNULL
    subprocess.run(["callgrind_control", "--dump", str(pid)], stdout=null, stderr=null, check=True)
    (dump,) = map(pathlib.Path, glob.glob(f"{out}.*"))
    found = re.search(r"^summary: (\d+)", dump.read_text(), re.MULTILINE)
    dump.unlink()
    if found is None:
        raise RuntimeError("callgrind's dump has no summary")
    return int(found.group(1))


def show(counts: Counts, budget: Counts) -> int:
    """Print the table; returns the exit status."""
    dear = []
    for transport, row in counts.items():
        print(f"\n### Over the {transport}\n")
        print(f"| {'operation':26} | {'instructions':>12} | {'budget':>9} | of it |")
        print("|---|--:|--:|--:|")
        for name, count in row.items():
            allowed = budget.get(transport, {}).get(name, 0)
            print(f"| {name:26} | {count:12,.0f} | {allowed:9,.0f} | {count / allowed if allowed else 0:5.2f} |")
        dear += [f"{name} over the {transport}" for name in over(row, budget.get(transport, {}))]
    if dear:
        print(f"\nmore than a tenth above budget: {', '.join(dear)}")
    return int(bool(dear))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
