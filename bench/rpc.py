#!/usr/bin/env python3
"""Latency of each RPC: the floor, Debian's `runsc gofer` and this project, one C client, rounds interleaved.

Everything is pinned to one cpu, so that what is measured is work, not the scheduler's luck. Each round measures every
server once for each operation; the table shows medians over rounds, and the median of each round's ratio. Hosts are busy:
with --beside each other cpu copies memory all the time, and on ours a process wakes up again and again and copies as much as the
cpu's own cache holds: the floor's FStat takes twice as long then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

import servers

# operation -> repetitions per round (enough for some 50 ms), and the name the issue and the table give it
OPERATIONS = {
    "FStat": ("FStat", 4000),
    "Walk 1": ("Walk:1", 3000),
    "Walk 5": ("Walk:5", 1000),
    "Walk missing": ("WalkMissing", 3000),
    "WalkStat 2": ("WalkStat:2", 2000),
    "OpenAt+Close": ("OpenAt+Close", 1000),
    "OpenCreateAt+Unlink+Close": ("OpenCreateAt+Unlink+Close", 500),
    "Mkdir+Rmdir+Close": ("Mkdir+Rmdir+Close", 500),
    "PRead 4 KiB": ("PRead:4096", 4000),
    "PWrite 4 KiB": ("PWrite:4096", 3000),
    "PRead 1 MiB": ("PRead:1048576", 300),
    "PWrite 1 MiB": ("PWrite:1048576", 300),
    "SetStat": ("SetStat", 2000),
    "ReadLinkAt": ("ReadLinkAt", 3000),
    "FGetXattr": ("FGetXattr", 3000),
    "Getdents64 of 1000": (f"Getdents64:{servers.NAMES}", 30),
    "RenameAt": ("RenameAt", 1500),
    "FStatFS": ("FStatFS", 4000),
}
FLOOR = ("FStat", "PRead 4 KiB", "PWrite 4 KiB", "PRead 1 MiB", "PWrite 1 MiB")
Fleet = dict[str, servers.Served]
Row = dict[str, list[float]]  # server -> ns of each round; empty where it does not offer the operation
Rounds = dict[str, Row]  # by operation


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    chosen = choose(args.ops) if args.ops else list(OPERATIONS)
    cpus = servers.available_cpus()
    both = args.two or args.apart
    if (both or args.beside) and len(cpus) < 2:
        sys.exit("rpc.py: --two, --apart and --beside need two cpus")
    os.sched_setaffinity(0, cpus[-2:] if both else cpus[-1:])
    command = args.command.split() if args.command else servers.ours(args.interpreter)
    report: dict[str, object] = {"machine": servers.machine(command)}
    if not args.json:
        print(f"{report['machine']}; ours: {' '.join(command)}")
    measure = throughput if args.two else latency
    with servers.workplace(args.directory) as place, contextlib.ExitStack() as stack:
        if args.beside:
            stack.enter_context(neighbours(cpus[-1], cpus[:-1]))
        running: Fleet = {}
        for kind in [*args.servers.split(","), *(["more"] if args.more else [])]:
            if args.two and kind == "floor":  # it serves one client only
                continue
            tree = servers.make_tree(place / f"tree-{kind}")
            options = [*args.options.split(), *(args.more.format(place).split() if kind == "more" else ())]
            running[kind] = servers.serve(kind, place, tree, 2 if args.two else 1, command=command, options=options)
            stack.callback(running[kind].close)
            if args.apart:
                running[kind].part(*cpus[-2:])
        for transport in args.transport.split(","):
            report[transport] = rounds = measure(running, transport, chosen, args)
            if not args.json:
                show(transport, rounds, args.two)
    if args.json:
        json.dump(report, sys.stdout, indent=1)
    return 0


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--transport", default="channel,socket", help="channel, socket, or both with a comma (default)")
    it.add_argument("--ops", help="operations with commas, by name or any part of it (default: all)")
    it.add_argument("--rounds", type=int, default=7)
    it.add_argument("--scale", type=float, default=1.0, help="repetitions per round, times this")
    it.add_argument("--servers", default="floor,go,ours", help="which of floor, go, ours")
    cpus = it.add_mutually_exclusive_group()
    cpus.add_argument("--two", action="store_true", help="two clients on two cpus at once: total operations per second")
    cpus.add_argument("--beside", action="store_true", help="with work on all cpus that takes the caches")
    cpus.add_argument("--apart", action="store_true", help="the server's threads on one cpu, the client on another")
    it.add_argument("--seconds", type=float, default=0.3, help="with --two: how long a measurement lasts")
    it.add_argument("--interpreter", help="the Python that runs our server (default: as dist/gofer says)")
    it.add_argument("--command", help="our server's command line instead, up to the word serve")
    it.add_argument("--options", default="", help="further words for our server's command line")
    it.add_argument("--more", default="", help="a second server of ours with these words, too; {}: a directory of its own")
    it.add_argument("--directory", help="where the trees are made (default: the temporary directory)")
    it.add_argument("--json", action="store_true", help="every round's numbers")
    return it


def choose(words: str) -> list[str]:
    """The operations so named, or else all whose name has the word in it."""
    chosen = []
    for word in words.split(","):
        found = [word] if word in OPERATIONS else [name for name in OPERATIONS if word.lower() in name.lower()]
        if not found:
            sys.exit(f"rpc.py: no operation matches {word!r}; there are: {', '.join(OPERATIONS)}")
        chosen += found
    return list(dict.fromkeys(chosen))


@contextlib.contextmanager
def neighbours(ours: int, others: Sequence[int]) -> Iterator[None]:
    """A process on each cpu. On the others it does nothing but copy: 64 MiB, more than any cache holds. On ours it copies 2 MiB,
    which is what a core has for itself these days, and sleeps for 200 us, in turns."""
    loads = [(ours, 1 << 21, 200e-6), *((cpu, 1 << 26, 0) for cpu in others)]
    copy = "from time import sleep\na, b = bytearray({0}), bytearray({0})\nwhile True:\n a[:] = b\n if {1}: sleep({1})"
    busy = [
        subprocess.Popen(["taskset", "-c", str(cpu), sys.executable, "-c", copy.format(size, pause)])
        for cpu, size, pause in loads
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def latency(running: Fleet, transport: str, chosen: Sequence[str], args: argparse.Namespace) -> Rounds:
    """ns per operation. One short run of each warms it up, unrecorded."""
    rounds: Rounds = {name: {kind: [] for kind in running} for name in chosen}
    for name in chosen:
        op, count = OPERATIONS[name]
        for number in range(args.rounds + 1):
            for kind, served in running.items():
                if kind == "floor" and name not in FLOOR:
                    continue
                ns = served.client.run(transport, op, max(1, int(count * args.scale / (1 if number else 4))))
                if number and ns:
                    rounds[name][kind].append(ns)
    return rounds


def throughput(running: Fleet, transport: str, chosen: Sequence[str], args: argparse.Namespace) -> Rounds:
    """Operations per second of both clients together."""
    rounds: Rounds = {name: {kind: [] for kind in running} for name in chosen}
    for name in chosen:
        for _ in range(args.rounds):
            for kind in rounds[name]:
                clients = running[kind].clients
                for client in clients:
                    client.tell(f"during {transport} {OPERATIONS[name][0]} {args.seconds}")
                answers = [client.answer() for client in clients]
                if all(failed == "0" for _, failed, _ in answers):  # FGetXattr is beyond Go's server of 2022
                    rounds[name][kind].append(sum(float(speed) for speed, _, _ in answers))
    return rounds


def ratio(row: Row, above: str, below: str) -> float | None:
    """Median over rounds of above/below, None where either was not measured."""
    found = [a / b for a, b in zip(row.get(above, []), row.get(below, []))]
    return statistics.median(found) if found else None


def show(transport: str, rounds: Rounds, two: bool) -> None:
    kinds = [kind for kind in servers.KINDS if any(kind in row for row in rounds.values())]
    compared = ("ours", "go"), ("more", "ours"), ("ours", "floor"), ("go", "floor")
    pairs = [(a, b) for a, b in compared if a in kinds and b in kinds]
    heads = [f"{kind:>8}" for kind in kinds] + [f"{a}/{b}" for a, b in pairs]
    print(f"\n### Over the {transport}, {'operations/s, two clients' if two else 'µs'}\n")
    print(f"| {'operation':26} | {' | '.join(heads)} |")
    print("|---|" + "--:|" * len(heads))
    for name, row in rounds.items():
        cells = [cell(middle(row.get(kind, [])), "8.0f" if two else "8.2f", 1 if two else 1000) for kind in kinds]
        cells += [cell(ratio(row, a, b), f"{len(a + b) + 1}.2f") for a, b in pairs]
        print(f"| {name:26} | {' | '.join(cells)} |")
    for a, b in (("ours", "go"), ("more", "ours")):
        found = [value for row in rounds.values() if (value := ratio(row, a, b))]
        if found:
            mean = statistics.geometric_mean(found)
            print(f"\n{a}/{b}: geometric mean {mean:.3f}, lowest {min(found):.2f}, highest {max(found):.2f}")
    sys.stdout.flush()


def middle(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def cell(value: float | None, form: str, unit: float = 1) -> str:
    width = int(form.split(".")[0])
    return " " * width if value is None else format(value / unit, form)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
