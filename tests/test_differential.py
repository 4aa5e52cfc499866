"""Debian's two `runsc gofer`s and ours get the same requests, and differ only as the table allows (differential_table.py)."""

from collections import Counter

import differential
import pytest
from differential import Run, Unlisted, random_run
from differential_directed import SEQUENCES, Script
from differential_servers import OLDER, RELEASES, Match, Probe2021, Release
from differential_table import TABLE

pytestmark = pytest.mark.slow

STEPS, SEED = 10000, 20221219
releases = pytest.mark.parametrize("go", RELEASES.values(), ids=RELEASES)


@releases
def test_both_gofers_answer_10000_random_requests_alike_and_leave_equal_trees(go: Release) -> None:
    """By hand: python3 tests/differential.py --go YEAR --steps N --seed S."""
    fired, sent = random_run(STEPS, SEED, Match(go))
    assert len(fired) > len(TABLE) / 2
    compares_much(sent, STEPS)


def test_in_the_dialect_of_2021_ours_answers_as_the_gofer_of_2022_does_in_todays() -> None:
    """By hand: python3 tests/differential.py --dialect 2021. What was changed by then is what the table allows, and no more."""
    _, sent = random_run(STEPS // 2, SEED, Match(OLDER, Probe2021))
    compares_much(sent, STEPS // 2)


def compares_much(sent: "Counter[str]", steps: int) -> None:
    assert sum(sent.values()) == steps
    never_done = {name.split()[0] for name in sent} - {name.split()[0] for name in sent if name.endswith("done")}
    assert never_done <= {"fgetxattr", "fsetxattr", "unknown"}, "what is always refused compares little"


@releases
def test_every_line_of_the_table_is_a_difference_there_is(go: Release) -> None:
    assert len({line.name for line in TABLE}) == len(TABLE) == len(SEQUENCES)
    with Run(Match(go)) as run:
        script = Script(run)
        shown = {}
        for line, sequence in zip(TABLE, SEQUENCES):
            before = run.fired[line.name]
            sequence(script)
            shown[line.name] = run.fired[line.name] > before
        run.finish()
    assert shown == {line.name: go.year in line.of for line in TABLE}


def test_a_difference_that_no_line_allows_is_told_with_the_seed_and_the_fewest_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(differential, "SHRINK_FOR", 10)
    monkeypatch.setattr(differential, "TABLE", [line for line in TABLE if "count below one entry" not in line.name])
    with pytest.raises(Unlisted) as told:
        random_run(1000, SEED, Match())
    text = str(told.value)
    assert f"seed {SEED}: " in text and "go=0, ours=22" in text
    steps = [line for line in text.splitlines() if line.startswith("#")]
    assert len(steps) < 30 and ": page(" in steps[-1]
