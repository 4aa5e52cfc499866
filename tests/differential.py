#!/usr/bin/env python3
"""The same requests to a `runsc gofer` of Debian's and to ours, the replies compared field by field, then the two trees.

  python3 tests/differential.py [--steps N] [--seed S] [--go 2024] [--dialect 2021]

Random steps, from the seed alone. Exit status 0: no difference but those of the table (differential_table.py); how often
each line of it was needed is printed. Otherwise 1: the seed, the step, and the shortest list of steps found that shows the
same difference on new trees.
"""

import argparse
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Optional

from differential_compare import Inodes, Outcome, changes, compare_trees, differences, perform
from differential_generate import Generator
from differential_model import Model, Step, made, refs_of, with_ids
from differential_rules import Case
from differential_servers import RELEASES, Match, Pair, Probe, Probe2021
from differential_table import TABLE

CREATING = ("opencreateat", "mkdirat", "mknodat", "symlinkat", "linkat", "bindat")
READS = "fstat walkstat pread listing page readlinkat fstatfs fsync unknown fgetxattr fsetxattr channel".split()
NOT_IN_2021 = ("mount", "bindat", "listen", "accept")  # a second Mount is an error there
MOST_STEPS = 50000  # of one run: each LinkAt leaks an fd of the Go gofer of 2022; the next run has the next seed
SHOWN = 60  # steps
SHRINK_FOR = 40.0  # seconds


class Unlisted(Exception):
    """A difference that no line of the table allows."""

    def __init__(self, step: Optional[Step], what: str, kind: str = "") -> None:
        super().__init__(f"{step}\n{what}" if step else what)
        self.step, self.kind = step, kind


class Run:
    """Steps on one pair of servers; a context manager. fired counts how often each line of the table was needed."""

    def __init__(self, match: Match) -> None:
        self.release = match.release
        self.pair = Pair(match)
        self.model = Model(leaks_links=not match.release.links_by_path)
        self.inodes = Inodes()
        self.fired: Counter[str] = Counter()
        self.steps: list[Step] = []

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.pair.__exit__(*exception)

    def do(self, step: Step) -> Optional[Case]:
        """Send it to both; Unlisted where they differ in another way than the table allows. None: it cannot be sent."""
        fds = self.model.operands(step)
        if fds is None:
            return None
        self.steps.append(step)
        go, ours = (self._perform(side, step) for side in (0, 1))
        case = Case(step, fds, go, ours, self.model, self.pair.sides, self.release)
        for difference in differences(go, ours, step.args, self.inodes):
            line = next((line for line in TABLE if line.matches(case, difference)), None)
            if line is None:
                raise Unlisted(step, f"{difference}\ngo:   {go}\nours: {ours}", difference.field)
            self.fired[line.name] += 1
            if line.heal:
                line.heal(case, difference)
        self._keep_books(case)
        return case

    def _perform(self, side: int, step: Step) -> Outcome:
        peer = self.pair.sides[side].peers[step.connection][step.transport]
        try:
            outcome = perform(peer, step.method, with_ids(step.args, self.model.fds, side))
            if step.method == "connect":
                self.pair.sides[side].accept_all()
            if not outcome.errno and changes(step.method, step.args):
                after = perform(peer, "fstat", with_ids({"fd": step.args["fd"]}, self.model.fds, side))
                outcome = outcome._replace(after=after.value)
            return outcome
        except (AssertionError, OSError) as error:
            side_ = self.pair.sides[side]
            raise Unlisted(step, f"{side_.name}: {type(error).__name__}: {error}\n{side_.said()}") from error

    def _keep_books(self, case: Case) -> None:
        """Follow what Go did in the model; undo what only one server did."""
        step, fds, model = case.step, case.fds, self.model
        go, ours = (made(outcome.value) for outcome in (case.go, case.ours))
        model.add(step, fds, go, ours)
        for side, more in ((0, go[len(ours) :]), (1, ours[len(go) :])):
            if more:
                self.pair.sides[side].peers[step.connection]["socket"].close(*(fdid for _, fdid, _ in more))
        if step.method in CREATING and bool(case.go.errno) != bool(case.ours.errno):
            self._remove(1 if case.go.errno else 0, case)
        model.follow(step, fds, case.go.errno)

    def _remove(self, side: int, case: Case) -> None:
        """What only one side has made; the directory's time changed with that, so it becomes now on both."""
        directories = [each.find(ino) for each, ino in zip(self.pair.sides, case.fd.inos)]
        path = directories[side] / os.fsdecode(case.step.args["name"])
        path.rmdir() if case.step.method == "mkdirat" else path.unlink()
        for directory in directories:
            os.utime(directory)

    def finish(self) -> None:
        """Compare the trees that they leave."""
        go, ours = self.pair.sides
        left = compare_trees(go.tree, ours.tree)
        if left:
            raise Unlisted(None, "the trees differ:\n" + "\n".join(left[:20]))


def random_run(steps: int, seed: int, match: Match) -> "tuple[Counter[str], Counter[str]]":
    """How often each line of the table was needed, and how often each message was (sent, refused by both).

    Unlisted, with the shortest list of steps found that shows the difference, where there is one."""
    sent: Counter[str] = Counter()
    refused: set[int] = set()
    history: list[Step] = []
    try:
        with Run(match) as run:
            limits = (NOT_IN_2021, 0xFFFFFFFF) if match.ours is Probe2021 else ()
            generator = Generator(seed, run.model, run.pair.sides[0], match.release, *limits)
            history = run.steps
            for number in range(1, steps + 1):
                case = run.do(generator.step(number))
                assert case
                sent[f"{case.step.method} {'refused' if case.go.errno else 'done'}"] += 1
                generator.done(case.step, not case.go.errno)
                if case.go.errno and case.ours.errno:
                    refused.add(number)
            run.finish()
            return run.fired, sent
    except Unlisted as unlisted:
        fewest = shrink(history, refused, unlisted, match)
        text = "\n".join(map(repr, fewest[-SHOWN:]))
        told = f"seed {seed}: {unlisted}\n{len(fewest)} steps show it, the last:\n{text}"
        raise Unlisted(None, told) from None


def shows(steps: Iterable[Step], match: Match) -> Optional[Unlisted]:
    """The difference that these steps show on new trees."""
    try:
        with Run(match) as run:
            for step in steps:
                run.do(step)
            run.finish()
    except Unlisted as unlisted:
        return unlisted
    return None


def shrink(steps: list[Step], refused: set[int], first: Unlisted, match: Match) -> list[Step]:
    """The fewest steps found, in SHRINK_FOR seconds, that show a difference at the same step (or of the trees at the end).

    Without those that changed nothing; of these the shortest tail (with the steps that made its FDs), by doubling; then
    that, less what can be left out, by halves. refused: the numbers of the steps that both servers refused."""
    deadline = time.monotonic() + SHRINK_FOR
    quiet = [step for step in steps if step == first.step or not idle(step, refused)]
    found = quiet if shows_same(quiet, first, match) else steps
    size = 8
    while size < len(found) and time.monotonic() < deadline:
        tail = with_makers(found, size)
        if shows_same(tail, first, match):
            found = tail
            break
        size *= 2
    size = len(found) // 2
    while size and time.monotonic() < deadline:
        at = 0
        while at < len(found) and time.monotonic() < deadline:
            less = found[:at] + found[at + size :]
            if shows_same(less, first, match):
                found = less
            else:
                at += size
        size //= 2
    return found


def idle(step: Step, refused: set[int]) -> bool:
    """Whether it left everything as it was (Go of 2022 keeps a reference after a LinkAt, even when it refuses it)."""
    return step.method in READS or step.number in refused and step.method != "linkat"


def with_makers(steps: list[Step], size: int) -> list[Step]:
    """The last `size` steps, and those that made the FDs they name."""
    wanted = {step.number for step in steps[-size:]}
    for step in reversed(steps):
        if step.number in wanted:
            wanted |= {ref.step for ref in refs_of(step)}
    return [step for step in steps if step.number in wanted]


def shows_same(steps: list[Step], first: Unlisted, match: Match) -> bool:
    found = shows(steps, match)
    return found is not None and found.step == first.step and found.kind == first.kind


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20000, help="how many requests (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a new one each time")
    parser.add_argument("--go", choices=RELEASES, default="2022", help="whose gofer (default: %(default)s)")
    parser.add_argument("--dialect", choices=("today", "2021"), default="today", help="what is spoken with ours")
    options = parser.parse_args()
    match = Match(RELEASES[options.go], Probe2021 if options.dialect == "2021" else Probe)
    print(f"seed {options.seed}, {options.steps} steps", flush=True)
    began = time.monotonic()
    fired: Counter[str] = Counter()
    sent: Counter[str] = Counter()
    try:
        for seed, begun in enumerate(range(0, options.steps, MOST_STEPS), options.seed):
            more = random_run(min(MOST_STEPS, options.steps - begun), seed, match)
            fired, sent = fired + more[0], sent + more[1]
    except Unlisted as unlisted:
        print(unlisted)
        return 1
    for line in TABLE:
        print(f"{fired[line.name]:7} {line.name} ({line.source})")
    print(", ".join(f"{name} {count}" for name, count in sorted(sent.items())))
    print(f"no other difference, in {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
