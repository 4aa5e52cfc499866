#!/usr/bin/env python3
"""conformance.py [--write]: ask our server and gVisor's of 2022 and 2024 everything, for docs/conformance.md.

By `gofer conform --json`. It takes some minutes. Without --write the page goes to stdout.
"""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs/conformance.md"
GOFER = [sys.executable, str(CHECKOUT)]
OPEN = ["--host-uds=all", "--host-fifo=open", "--char-devices=open", "--xattrs=all", "--quiet"]
LEVELS = ("wire", "semantics", "safety")


def ours(*more: str) -> list[str]:
    return [*GOFER, "serve", "DIR", "--fd=3", "--fd=4", "--fd=5", *OPEN, *more]


def gvisors(year: str) -> list[str]:
    return [sys.executable, str(CHECKOUT / "tests/runsc_alone.py"), year, "DIR", "2"]


# A column of the page: its name, options of conform, the command.
SERVERS: dict[str, tuple[list[str], list[str]]] = {
    "gofer": (["--connections=3"], ours()),
    "gofer, read-only": (["--connections=3"], ours("--read-only")),
    "gofer, 2021": (["--connections=3", "--dialect=2021"], ours()),
    "runsc 2022": (["--connections=2", f"--known={CHECKOUT}/docs/conformance/runsc-2022.known"], gvisors("2022")),
    "runsc 2024": (["--connections=2", f"--known={CHECKOUT}/docs/conformance/runsc-2024.known"], gvisors("2024")),
}


def ask(options: Sequence[str], command: Sequence[str]) -> dict[str, Any]:
    argv = [*GOFER, "conform", "--json", "--timeout=40", *options, "--", *command]
    run = subprocess.run(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    told: dict[str, Any] = json.loads(run.stdout)
    return told


def cell(cases: Sequence[dict[str, Any]]) -> str:
    """Passed of asked."""
    asked = [case for case in cases if case["result"] != "skip"]
    passed = sum(case["result"] == "pass" for case in asked)
    return f"{passed} of {len(asked)}" if asked else "-"


HEAD = """# Which server conforms

`gofer conform` {version} has {cases} cases for what [lisafs.md](lisafs.md) says a server must do, asked over the socket and a
channel. This page is made by `tests/conformance.py --write`; a number is the cases passed of those asked (what a server says
it does not have is not asked of it), over both. Measured on Linux {kernel}, {machine}.

The servers: this project's `gofer serve`, with everything open, then read-only, then in the dialect of 2021; `runsc gofer` of
Debian's runsc 0.0~20221219 and 0.0~20240729 (`--directfs=false`), by themselves (`tests/runsc_alone.py`).
"""
TAIL = """
What gVisor's servers fail at is known, case by case, with the reason: [runsc-2022.known](conformance/runsc-2022.known) and
[runsc-2024.known](conformance/runsc-2024.known), in the form that `--known` takes. CI asks both servers every case over both
transports, and any other failure, or one that is no longer one, fails it (`tests/test_conform_runsc.py`).

To judge a server of your own:

    gofer conform --tree /srv/data /run/its.socket      # it listens, and serves that directory
    gofer conform -- ./server --fd 3 DIR                # or is started, with a connected socket as fd 3

`--tree`, or DIR in the command, lets the suite lay out devices, FIFOs and sockets, and look behind the server's back;
`--connections 3` gives the command fds 3 to 5, for what takes a bystander. `--only`, `--level` and `--list` choose; `--json` is
for programs.
"""


def page(told: dict[str, dict[str, Any]]) -> str:
    every = [case for report in told.values() for case in report["cases"]]
    groups = list(dict.fromkeys(case["group"] for case in every))
    top = ["", f"| | {' | '.join(told)} |", "|---" * (1 + len(told)) + "|"]

    def rows(what: str, names: Sequence[str]) -> list[str]:
        lines = []
        for name in names:
            cells = [cell([case for case in report["cases"] if case[what] == name]) for report in told.values()]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        return lines

    verdicts = ["no" if {"fail", "known"} & {case["result"] for case in r["cases"]} else "yes" for r in told.values()]
    head = HEAD.format(
        version=told["gofer"]["gofer"],
        cases=len({case["case"] for case in every}),
        kernel=os.uname().release.split("-")[0],
        machine=platform.machine(),
    )
    levels = [*top, f"| conforms | {' | '.join(verdicts)} |", *rows("level", LEVELS)]
    return head + "\n".join([*levels, "", "By group:", *top, *rows("group", groups), ""]) + TAIL


def unknown(told: dict[str, dict[str, Any]]) -> list[str]:
    """What failed and is not known to."""
    return [
        f"{name}: {case['way']} {case['case']}: {case['detail']}"
        for name, report in told.items()
        for case in report["cases"]
        if case["result"] == "fail"
    ]


if __name__ == "__main__":
    answers = {name: ask(*how) for name, how in SERVERS.items()}
    if "--write" in sys.argv:
        PAGE.write_text(page(answers))
    else:
        print(page(answers))
    if unknown(answers):
        sys.exit("\n".join(unknown(answers)))
