"""When a channel's thread looks for its next request, or goes to its client's cpu, when it does not, and that the server does."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Start
from hosts import CHECKOUT, Server, run, wait_until
from watch import traced

from gofer.conform.peer import Peer
from gofer.server import busypoll
from gofer.server.busypoll import BusyPoll

TWO_CPUS = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cpus")
FOREVER = 10**7


class Clock:
    """Stands for the monotonic clock: each look at it takes `step` seconds, and is counted."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.time = 1000.0
        self.looks = 0

    def __call__(self) -> float:
        self.looks += 1
        self.time += self.step
        return self.time

    def looked(self) -> bool:
        """Whether anybody has looked since the last call."""
        looks, self.looks = self.looks, 0
        return looks > 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1e-6)
    monkeypatch.setattr(busypoll, "now", clock)
    return clock


@pytest.fixture(autouse=True)
def _nobody_has_served() -> Iterator[None]:
    busypoll.last[0] = None
    yield
    busypoll.last[0] = None


def window(state: int) -> memoryview:
    return memoryview(bytearray(state.to_bytes(4, "little") + bytes(12))).cast("I")


def served(most: int = 100) -> BusyPoll:
    """One whose channel has just served."""
    poll = BusyPoll(most)
    assert not poll.look(window(0))
    return poll


def waits_without_a_look(poll: BusyPoll, clock: Clock) -> int:
    """How many waits pass until it looks again, in vain."""
    clock.looked()
    for passed in range(5000):
        assert not poll.look(window(0))
        if clock.looked():
            return passed
    raise AssertionError("it never looks again")


def test_what_comes_while_it_looks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busypoll, "_HOLE", 60.0)
    words, poll = window(0), served(FOREVER)
    timer = threading.Timer(0.05, lambda: words.__setitem__(0, 1))
    timer.start()
    assert poll.look(words)
    timer.join()


def test_it_looks_as_long_as_it_was_told(clock: Clock) -> None:
    began = clock.time
    assert not served(250).look(window(0))
    assert 250e-6 < clock.time - began < 255e-6


def test_a_state_that_is_neither_ends_the_look(clock: Clock) -> None:
    assert served().look(window(2))


def test_looks_in_vain_become_rarer_up_to_a_limit(clock: Clock) -> None:
    poll = served()
    assert [waits_without_a_look(poll, clock) for _ in range(12)] == [
        0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1023,
    ]  # fmt: skip


def test_looks_that_find_something_make_them_more_frequent_again(clock: Clock) -> None:
    poll = served()
    for _ in range(3):
        waits_without_a_look(poll, clock)
    assert [poll.look(window(1)) for _ in range(7)] == [False] * 7, "it rests"
    assert poll.look(window(1)) and poll.look(window(1))
    assert [waits_without_a_look(poll, clock) for _ in range(2)] == [0, 3], "7, halved twice, is 1; then 3"


def test_a_cpu_lost_to_somebody_else_counts_as_a_look_in_vain(clock: Clock) -> None:
    poll = served()
    clock.step = 1e-3
    assert not poll.look(window(0))
    assert clock.looks == 3, "one hole is enough; the third tells how long it was in vain"
    assert waits_without_a_look(poll, clock) == 1
    assert waits_without_a_look(poll, clock) == 3


def test_what_came_in_such_a_hole_counts_as_a_look_in_vain(clock: Clock) -> None:
    poll = served()
    clock.step = 1e-3
    poll.look(window(1))
    assert waits_without_a_look(poll, clock) == 1


def test_two_channels_in_turns_do_not_look(clock: Clock) -> None:
    one, other = BusyPoll(100), BusyPoll(100)
    for _ in range(5):
        assert not one.look(window(0))
        assert not other.look(window(0))
    assert not clock.looked()
    other.look(window(0))
    assert clock.looked(), "the same one twice in a row does"


def test_a_request_on_a_socket_is_a_turn_too(clock: Clock) -> None:
    poll = served()
    busypoll.last[0] = None
    assert not poll.look(window(0))
    assert not clock.looked()


def chosen(asked: str, cpus: set[int]) -> str:
    code = f"from gofer.server import busypoll; print(busypoll.microseconds({asked}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, preexec_fn=lambda: os.sched_setaffinity(0, cpus),
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.mark.parametrize("asked", ["None", "200", "0"])
def test_it_is_off_on_one_cpu(asked: str) -> None:
    assert chosen(asked, {min(os.sched_getaffinity(0))}) == "0"


@TWO_CPUS
@pytest.mark.parametrize(("asked", "most"), [("None", str(busypoll.DEFAULT)), ("200", "200"), ("0", "0")])
def test_it_is_as_asked_on_more(asked: str, most: str) -> None:
    assert chosen(asked, os.sched_getaffinity(0)) == most


def test_the_help_names_the_default() -> None:
    assert f"(default: {busypoll.DEFAULT}, and always 0 on one CPU)" in " ".join(run("serve", "--help").stdout.split())


def sleeps(server: Server) -> int:
    """How often the threads of the server have gone to sleep of their own will."""
    total = 0
    for status in Path(f"/proc/{server.pid}/task").glob("*/status"):
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("voluntary_ctxt_switches")]
        total += int(line.split()[1])
    return total


def sleeps_for_requests(server: Server, peer: Peer, requests: int) -> int:
    before = sleeps(server)
    for _ in range(requests):
        peer.fstat(1)
    return sleeps(server) - before


@TWO_CPUS
def test_the_server_sleeps_between_requests_or_looks_as_it_is_told(start: Start) -> None:
    """With a cpu for the client and one for the server, so that nothing but a look can find the next request."""
    cpus = os.sched_getaffinity(0)
    mine, theirs = sorted(cpus)[:2]
    off, on = start("--busy-poll", "0"), start("--busy-poll", "1000")
    with off.peer("channel") as at_off, on.peer("channel") as at_on:
        try:
            os.sched_setaffinity(0, {mine})
            for server in (off, on):
                for task in os.listdir(f"/proc/{server.pid}/task"):
                    os.sched_setaffinity(int(task), {theirs})
            # On a machine that is busy with other things, either can be disturbed; not for ever.
            wait_until(lambda: sleeps_for_requests(off, at_off, 200) > 150, "the one that does not look sleeps")
            wait_until(lambda: sleeps_for_requests(on, at_on, 200) < 50, "the one that looks does not", 60)
        finally:
            os.sched_setaffinity(0, cpus)


def in_a_process(code: str, cpus: set[int]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import os; from gofer.server import busypoll; from gofer.sys import sched_getcpu; {code}"],
        cwd=CHECKOUT, preexec_fn=lambda: os.sched_setaffinity(0, cpus), stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def test_on_one_cpu_nobody_goes_anywhere() -> None:
    code = "print(busypoll.apart() == busypoll.change_cpu(3) == busypoll.NEVER)"
    assert in_a_process(code, {min(os.sched_getaffinity(0))}) == "True"


@TWO_CPUS
def test_a_thread_goes_to_the_other_of_two_cpus_and_may_still_run_on_both() -> None:
    """The kernel may put it back at once, on a busy machine: not each of a thousand times."""
    two = set(sorted(os.sched_getaffinity(0))[:2])
    code = (
        "went = [(sched_getcpu(), busypoll.change_cpu(3), sched_getcpu()) for _ in range(1000)]; "
        "print(any(a != b for a, _, b in went), os.sched_getaffinity(0))"
    )
    assert in_a_process(code, two) == f"True {two}"


@TWO_CPUS
def test_it_goes_ever_more_seldom_up_to_a_limit() -> None:
    code = (
        "apart = [busypoll.apart()]; [apart.append(busypoll.change_cpu(apart[-1])) for _ in range(12)]; print(*apart)"
    )
    expected = "2 4 8 16 32 64 128 256 512 1024 2048 4096 4096"
    assert in_a_process(code, set(sorted(os.sched_getaffinity(0))[:2])) == expected


@pytest.mark.parametrize(
    ("woken", "seconds", "judged"), [(1, 20e-6, True), (1, 8e-6, False), (1, 2e-6, False), (0, 20e-6, False)]
)
def test_a_wake_is_dear_where_it_costs_the_waker_what_a_sleeping_cpu_does(
    monkeypatch: pytest.MonkeyPatch, woken: int, seconds: float, judged: bool
) -> None:
    clock, given = Clock(seconds), []
    monkeypatch.setattr(busypoll, "used", clock)

    def wake(*args: int) -> int:
        given.append(args)
        return woken

    assert busypoll.dear(wake, (1, 2)) is judged
    assert given == [(1, 2)], "whatever it costs, it is called, once"


def calls(log: Path) -> Iterator[str]:
    """What strace has written, those that it began, left and came back to in one piece."""
    begun: dict[str, str] = {}
    for line in log.read_text().splitlines():
        task, text = line.split(maxsplit=1)
        if text.endswith(" <unfinished ...>"):
            begun[task] = text[: -len(" <unfinished ...>")]
        elif text.startswith("<... "):
            yield begun.pop(task, "") + text.partition(" resumed>")[2]
        else:
            yield text


@TWO_CPUS
def test_a_channels_thread_goes_to_the_other_cpu_where_the_wake_was_dear_and_only_there(start: Start) -> None:
    """Behind the filter, too. Where it then is, is the scheduler's business as well: what it asks for is not."""
    cpus = os.sched_getaffinity(0)
    two = set(sorted(cpus)[:2])
    os.sched_setaffinity(0, two)
    try:
        server = start("--busy-poll", "0", "--channels", "1")
        log = server.place / "strace"
        with traced(server, log, "sched_setaffinity,clock_gettime,futex"), server.peer("channel") as peer:

            def looked() -> bool:
                for _ in range(40):
                    peer.fstat(1)
                return log.read_text().count("CLOCK_THREAD_CPUTIME_ID") >= 8

            wait_until(looked, "it times a wake")
        before: int | None = None  # what it had used when it began to time a wake, ns
        asked: list[set[int]] = []
        expected = 0
        for call in calls(log):
            if found := re.search(r"CLOCK_THREAD_CPUTIME_ID, +{tv_sec=(\d+), tv_nsec=(\d+)}", call):
                assert len(asked) == 2 * expected, "it goes before it times another"
                used = int(found[1]) * 10**9 + int(found[2])
                expected += before is not None and used - before > busypoll._DEAR * 1e9
                before = used if before is None else None
            elif call.startswith("futex(") and "FUTEX_WAKE_OP" in call and call.endswith("= 0"):
                before = None  # nobody was woken: what that cost does not matter
            elif found := re.search(r"\[([\d ]+)\]\) += 0", call):
                asked.append({*map(int, found[1].split())})
        assert asked[::2] == [cpu for cpu in asked[::2] if len(cpu) == 1 and cpu < two], log.read_text()
        assert asked[1::2] == [two] * len(asked[1::2]), log.read_text()
        assert 0 <= expected - len(asked[1::2]) <= 1, f"strace may have left before the last: {log.read_text()}"
    finally:
        os.sched_setaffinity(0, cpus)
