#!/usr/bin/env python3
"""Does it stay flat? Latency and memory against open FDs, directory size, path depth, connections and channels.

Go's server and ours are measured in turn at each point, over a channel, pinned to one cpu. A point is the fastest of a
few short runs: what disturbs one only ever adds to it. Tables on stdout, the numbers as JSON, a plot as SVG.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import pathlib
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Callable

import servers
from plot import Panel, svg

RUNS = 9
RESERVE = 600  # fds that a server needs beside the control FDs a client holds
Fleet = dict[str, servers.Served]
Start = Callable[..., "contextlib.AbstractContextManager[Fleet]"]


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    os.sched_setaffinity(0, servers.available_cpus()[-1:])
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    command = args.command.split() if args.command else servers.ours(args.interpreter)
    panels: list[Panel] = []
    with servers.workplace(args.directory) as place:
        start = starter(place, command)
        for name in args.what.split(","):
            print(f"scale.py: {name}", file=sys.stderr)
            tree = place / f"tree-{name}"
            panels += SCALES[name](start, tree, args)
            servers.remove_tree(tree)
    for panel in panels:
        show(panel)
    if args.json:
        numbers = {f"{panel.title}, by {panel.x_label}": panel.lines for panel in panels}
        pathlib.Path(args.json).write_text(json.dumps(numbers, indent=1))
    if args.svg:
        pathlib.Path(args.svg).write_text(svg(panels, servers.machine(command)))
    return 0


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--what", default=",".join(SCALES), help=f"some of {','.join(SCALES)}")
    it.add_argument("--most", type=float, default=1, help="the largest point, times this: 0.1 for a quick look")
    it.add_argument("--svg", help="write the plot here")
    it.add_argument("--json", help="write the numbers here")
    it.add_argument("--interpreter", help="the Python that runs our server (default: as dist/gofer says)")
    it.add_argument("--command", help="our server's command line instead, up to the word serve")
    it.add_argument("--directory", help="where the trees are made (default: the temporary directory)")
    return it


def starter(place: pathlib.Path, command: Sequence[str]) -> Start:
    @contextlib.contextmanager
    def start(tree: pathlib.Path, connections: int = 1, options: Sequence[str] = ()) -> Iterator[Fleet]:
        """Both servers on one tree, which nothing here changes."""
        with contextlib.ExitStack() as stack:
            fleet = {}
            for kind in ("go", "ours"):
                fleet[kind] = servers.serve(kind, place, tree, 1, connections, command, options)
                stack.callback(fleet[kind].close)
            yield fleet

    return start


def fastest(fleet: Fleet, op: str, count: int) -> dict[str, float]:
    """Microseconds per operation of each server, their runs interleaved."""
    found: dict[str, list[float]] = {kind: [] for kind in fleet}
    for _ in range(RUNS):
        for kind, served in fleet.items():
            ns = served.client.run("channel", op, count)
            assert ns is not None
            found[kind].append(ns / 1000)
    return {kind: min(values) for kind, values in found.items()}


def points(first: int, last: float) -> list[int]:
    """1, 3, 10, 30... from first; the last as it is."""
    found = [value * 10**power for power in range(7) for value in (1, 3) if first <= value * 10**power < last]
    return [*found, int(last)]


def resident(served: servers.Served) -> float:
    return servers.memory(served.process.pid)["PSS"] / 2**20


def open_fds(start: Start, tree: pathlib.Path, args: argparse.Namespace) -> list[Panel]:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    most = min(200_000, limit - RESERVE) * args.most
    servers.make_tree(tree, many=int(most))
    label = "open control FDs, each of its own file"
    latency, walk = Panel("FStat, µs", label), Panel("Walk of one name, µs", label)
    memory = Panel("Resident memory (PSS), MiB", label)
    with start(tree) as fleet:
        held = dict.fromkeys(fleet, 1)  # the root
        for wanted in points(1, most):
            for kind in [kind for kind in fleet if held[kind] < wanted]:
                more, error = map(int, fleet[kind].client.ask(f"hold f {held[kind] - 1} {wanted - held[kind]}"))
                held[kind] += more
                if error:
                    print(f"scale.py: {kind}: {os.strerror(error)} at {held[kind]} control FDs", file=sys.stderr)
            for panel, op in ((latency, "FStat"), (walk, "Walk:1")):
                full = {kind: served for kind, served in fleet.items() if held[kind] == wanted}
                for kind, value in fastest(full, op, 1000).items():
                    panel.add(kind, wanted, value)
            for kind in full:
                memory.add(kind, wanted, resident(fleet[kind]))
            if len(full) < len(fleet):
                fleet = full
    return [latency, walk, memory]


def directory_size(start: Start, tree: pathlib.Path, args: argparse.Namespace) -> list[Panel]:
    servers.make_tree(tree, names=10)
    panel = Panel("Getdents64 of a whole directory, µs per entry", "names in the directory")
    sizes = [10, *(size for size in points(100, 1_000_000 * args.most) if str(size)[0] == "1")]
    for size in sizes[1:]:
        servers.make_files(tree / f"names{size}", "entry-", size)
    with start(tree) as fleet:
        for size in sizes:
            for kind, value in fastest(fleet, f"Getdents64:{size}", max(1, 20_000 // size)).items():
                panel.add(kind, size, value / size)
            panel.add("kernel", size, bare_getdents64(tree / f"names{size}") / size)
    return [panel]


def bare_getdents64(path: pathlib.Path) -> float:
    """Microseconds that getdents64(2) alone takes for a whole directory, the fastest of some runs."""
    getdents64, buffer = ctypes.CDLL(None).getdents64, ctypes.create_string_buffer(32768)
    fd, found = os.open(path, os.O_RDONLY), []
    for _ in range(RUNS):
        os.lseek(fd, 0, os.SEEK_SET)
        began = time.perf_counter_ns()
        while getdents64(fd, buffer, len(buffer)):
            pass
        found.append((time.perf_counter_ns() - began) / 1000)
    os.close(fd)
    return min(found)


def path_depth(start: Start, tree: pathlib.Path, args: argparse.Namespace) -> list[Panel]:
    depths = points(1, 1000 * args.most)
    servers.make_tree(tree, depth=depths[-1])
    panel = Panel("Walk of a deep path, µs per component", "components of the path")
    with start(tree) as fleet:
        for depth in depths:
            for kind, value in fastest(fleet, f"Walk:{depth}", max(10, 2000 // depth)).items():
                panel.add(kind, depth, value / depth)
    return [panel]


def connections(start: Start, tree: pathlib.Path, args: argparse.Namespace) -> list[Panel]:
    servers.make_tree(tree)
    label = "connections, all but one idle"
    latency, memory = Panel("FStat, µs", label), Panel("Resident memory (PSS), MiB", label)
    for count in points(1, 200 * args.most):
        with start(tree, connections=count) as fleet:
            for kind, value in fastest(fleet, "FStat", 1000).items():
                latency.add(kind, count, value)
                memory.add(kind, count, resident(fleet[kind]))
    return [latency, memory]


def channels(start: Start, tree: pathlib.Path, args: argparse.Namespace) -> list[Panel]:
    """Go's server has a limit of its own, which depends on the number of cpus: its line ends there."""
    servers.make_tree(tree)
    label = "channels, all but one idle"
    latency, memory = Panel("FStat, µs", label), Panel("Resident memory (PSS), MiB", label)
    with start(tree, options=("--channels", "16")) as fleet:
        for count in (1, 2, 4, 8, 16):
            opened = {kind: int(served.client.ask(f"channels {count}")[0]) for kind, served in fleet.items()}
            fleet = {kind: served for kind, served in fleet.items() if opened[kind] == count}
            for kind, value in fastest(fleet, "FStat", 2000).items():
                latency.add(kind, count, value)
                memory.add(kind, count, resident(fleet[kind]))
    return [latency, memory]


SCALES: dict[str, Callable[[Start, pathlib.Path, argparse.Namespace], list[Panel]]] = {
    "fds": open_fds,
    "directory": directory_size,
    "depth": path_depth,
    "connections": connections,
    "channels": channels,
}


def show(panel: Panel) -> None:
    print(f"\n### {panel.title}, by {panel.x_label}\n")
    print(f"| {'':>9} |" + "".join(f" {kind:>8} |" for kind in panel.lines))
    print("|--:|" + "--:|" * len(panel.lines))
    lines = {kind: dict(line) for kind, line in panel.lines.items()}
    for x in sorted({x for line in lines.values() for x in line}):
        print(
            f"| {x:9,.0f} |" + "".join(f" {line[x]:8.2f} |" if x in line else f" {'':8} |" for line in lines.values())
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
