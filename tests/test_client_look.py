"""Looking for an answer before sleeping on it: not for longer than it pays, and not beside another."""

import array
import threading
import time
from collections.abc import Iterator

import pytest

from gofer.client import look
from gofer.client.look import Look


@pytest.fixture
def words() -> Iterator[memoryview]:
    with memoryview(array.array("I", [1, 0])) as view:
        yield view


def test_a_look_ends_with_the_answer(words: memoryview) -> None:
    it = Look(60.0)
    it.while_one(words)  # another was asked before: so this is not a look, but the next is
    answer = threading.Timer(0.01, words.__setitem__, (0, 0))
    answer.start()
    while words[0] == 1:  # whatever takes the cpu from us ends a look, which is begun again
        it.rest = 0
        it.while_one(words)
    answer.join()
    assert words[0] == 0


def test_a_look_in_vain_ends_soon_and_the_next_answers_are_slept_on_at_once(words: memoryview) -> None:
    it = Look(0.0)
    it.while_one(words)
    rests = []
    for _ in range(12):
        it.while_one(words)
        rests.append(it.rest)
        it.rest = 0
    assert rests == [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1023, 1023]
    it.rest = 5
    before = time.monotonic()
    it.most = 60.0
    it.while_one(words)
    assert it.rest == 4 and time.monotonic() - before < 30


def test_each_answer_that_is_found_halves_the_pause_after_the_next_look_in_vain(words: memoryview) -> None:
    it = Look(0.0)
    it.while_one(words)
    for _ in range(5):
        it.rest = 0
        it.while_one(words)
    assert it.rest == 31
    words[0], it.rest = 0, 0
    for _ in range(3):
        it.while_one(words)
    words[0] = 1
    it.while_one(words)
    assert it.rest == 7


def test_who_is_asked_by_turns_with_another_is_not_looked_at(words: memoryview) -> None:
    one, other = Look(60.0), Look(60.0)
    for _ in range(3):
        one.while_one(words)
        other.while_one(words)
    assert look._last[0] is other
