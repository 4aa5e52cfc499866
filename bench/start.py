#!/usr/bin/env python3
"""What a server costs before its first request: exec to the first Mount reply, resident memory, memory per control FD.

Go's server and ours, rounds interleaved, pinned to one cpu.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import servers

SOCKET = 60  # the fd number that a started server finds its connection on
Table = dict[str, dict[str, list[float]]]  # quantity -> server -> one value per round


def main(argv: Sequence[str]) -> int:
    args = parser().parse_args(argv)
    if args.imports:
        show_imports(args.imports)
        return 0
    os.sched_setaffinity(0, servers.available_cpus()[-1:])
    commands = {"go": [], "ours": args.command.split() if args.command else servers.ours(args.interpreter)}
    kinds = {kind: commands[kind] for kind in args.servers.split(",")}
    table: Table = {}
    with servers.workplace(args.directory) as place:
        tree = servers.make_tree(place / "tree", many=args.held)
        for number in range(args.rounds + 1):
            for kind, command in kinds.items():
                values = start(kind, place, tree, command, args.options.split())
                if number:  # the first of each fills the page cache
                    record(table, kind, values)
        for kind, command in kinds.items():
            if args.held:
                record(table, kind, held(kind, place, tree, command, args.held))
    json.dump(table, sys.stdout, indent=1) if args.json else show(table, list(kinds))
    return 0


def parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--rounds", type=int, default=15)
    it.add_argument("--held", type=int, default=19000, help="control FDs to open when measuring memory per FD; 0: skip")
    it.add_argument("--servers", default="go,ours")
    it.add_argument("--interpreter", help="the Python that runs our server (default: as dist/gofer says)")
    it.add_argument("--command", help="our server's command line instead, up to the word serve")
    it.add_argument("--options", default="", help="further words for our server's command line")
    it.add_argument("--directory", help="where the tree is made (default: the temporary directory)")
    it.add_argument("--json", action="store_true")
    it.add_argument(
        "--imports", metavar="PYTHON", help="list instead what `serve` imports under this Python, and what each costs"
    )
    return it


def record(table: Table, kind: str, values: dict[str, float]) -> None:
    for name, value in values.items():
        table.setdefault(name, {}).setdefault(kind, []).append(value)


def start(
    kind: str, place: pathlib.Path, tree: pathlib.Path, command: Sequence[str], options: Sequence[str]
) -> dict[str, float]:
    """Start a server once. The clock runs in client.c, from just before its fork to the Mount reply."""
    argv, files = servers.server_command(kind, place, tree, [SOCKET], command, options)
    program = [str(place / "client"), "--exec", str(SOCKET), *argv]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=files) as client:
        for fd in files:
            os.close(fd)
        assert client.stdout
        word, *values = client.stdout.readline().split()
        if word != "ok":
            raise RuntimeError(f"{' '.join(argv)}: {word} {' '.join(values)}")
        found = servers.memory(int(values[1]))
    return {
        "start to Mount reply, ms": float(values[0]) / 1e6,
        "RSS of the largest process, MiB": found["RSS"] / 2**20,
        "PSS of all its processes, MiB": found["PSS"] / 2**20,
    }


def held(kind: str, place: pathlib.Path, tree: pathlib.Path, command: Sequence[str], count: int) -> dict[str, float]:
    """Growth of the server's memory per control FD, `count` of them open, each on a file of its own."""
    with contextlib.closing(servers.serve(kind, place, tree, command=command)) as served:
        before = servers.memory(served.process.pid)
        opened, error = map(int, served.client.ask(f"hold f 0 {count}"))
        after = servers.memory(served.process.pid)
        if opened < count:
            print(f"{kind}: {opened} control FDs opened of {count}: {os.strerror(error)}", file=sys.stderr)
    return {"memory per control FD, bytes": (after["PSS"] - before["PSS"]) / max(1, opened)}


def show(table: Table, kinds: Sequence[str]) -> None:
    both = {"go", "ours"} <= set(kinds)
    print(f"| {'':40} |" + "".join(f" {kind:>8} |" for kind in kinds) + (" ours/go |" if both else ""))
    print("|---|" + "--:|" * (len(kinds) + both))
    for name, row in table.items():
        cells = "".join(f" {statistics.median(row[kind]):8.1f} |" for kind in kinds)
        if both:
            cells += f" {statistics.median(a / b for a, b in zip(row['ours'], row['go'])):7.2f} |"
        print(f"| {name:40} |{cells}")


def show_imports(python: str) -> None:
    """Every module on the way to the first reply: microseconds of its own, the least of some runs."""
    bare, without_jail = loaded(python, "-c", "pass"), loaded_serving(python, "--jail=off")
    least: dict[str, int] = {}
    for _ in range(7):
        for name, own in loaded_serving(python).items():
            least[name] = min(least.get(name, own), own)
    groups: dict[str, list[str]] = {
        "a bare `python3 -IS` too": [name for name in least if name in bare],
        "more of the standard library": [name for name in least if name not in bare and not is_gofer(name)],
        "gofer": [name for name in least if is_gofer(name) and name in without_jail],
        "gofer, not with `--jail off`": [name for name in least if is_gofer(name) and name not in without_jail],
    }
    print("| imported | ms | modules, with µs |\n|---|--:|---|")
    for group, names in groups.items():
        each = ", ".join(f"{name} {least[name]}" for name in sorted(names, key=lambda name: -least[name]))
        print(f"| {group} | {sum(least[name] for name in names) / 1000:.1f} | {each} |")


def is_gofer(name: str) -> bool:
    return name.split(".")[0] == "gofer"


def loaded_serving(python: str, *options: str) -> dict[str, int]:
    """`loaded` by a server whose only client is gone when it looks."""
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, tempfile.TemporaryDirectory() as tree:
        # As dist/gofer starts, and not by `python3 DIRECTORY`, which imports runpy and what that needs.
        code = (
            f"import sys; sys.path.insert(0, {str(servers.PROJECT)!r}); from gofer.cli import main; main(sys.argv[1:])"
        )
        served = ["-c", code, "serve", tree, "--quiet", "--fd", str(theirs.fileno()), *options]
        return loaded(python, *served, pass_fds=[theirs.fileno()])


def loaded(python: str, *words: str, pass_fds: Sequence[int] = ()) -> dict[str, int]:
    """Microseconds by module, as -X importtime has them: without what it imports itself."""
    argv = [python, "-IS", "-X", "importtime", *words]
    run = subprocess.run(argv, stderr=subprocess.PIPE, check=True, text=True, pass_fds=pass_fds)
    rows = [line.removeprefix("import time:").split("|") for line in run.stderr.splitlines()[1:]]
    return {name.strip(): int(own) for own, _, name in rows}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
