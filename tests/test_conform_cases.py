"""Every case of `gofer conform` against our server, over both transports and in both dialects.

What the cases ask is in gofer/conform/cases/. Here each is a test of its own, with a connection of its own, and after it the
server holds nothing of it (conftest.py). The ways in which a server is started are those that the cases tell apart.
"""

import pytest
from hosts import PATIENCE, Server
from looks import names_in

from gofer.conform.case import DIALECTS, WAYS, Case
from gofer.conform.cases import CASES, readonly
from gofer.conform.codec import OWN, Mid
from gofer.conform.runner import PASSED, Runner
from gofer.conform.target import Listening

OPEN = ("--host-uds", "all", "--host-fifo", "open", "--char-devices", "open", "--xattrs", "all")
NO_XATTRS = ("--xattrs", "none")
NOT_DONATING = ("--donate", "no", "--host-fifo", "open", "--char-devices", "open")
READ_ONLY = ("--read-only", "--host-uds", "all", "--xattrs", "all")
LATER = [mid for mid in Mid if mid > Mid.FREMOVEXATTR]
ABSENT_2021 = ("the server has no bind", *(f"the server does not offer {mid.name}" for mid in LATER))
_features: dict[tuple[tuple[str, ...], str], frozenset[str]] = {}


def options(case: Case) -> tuple[str, ...]:
    if "no-writable" in case.needs:
        return READ_ONLY
    if "no-donates" in case.needs:
        return NOT_DONATING
    if "no-xattrs" in case.needs:
        return NO_XATTRS
    return () if any(need.startswith("no-") for need in case.needs) else OPEN


def params() -> "list[object]":
    found: list[object] = []
    for dialect in DIALECTS:
        for way in WAYS:
            for case in CASES:
                if way in case.ways and dialect in case.dialects:
                    marks = [pytest.mark.serve(*options(case))] + ([pytest.mark.slow] if dialect == "2021" else [])
                    found.append(pytest.param(case, way, dialect, marks=marks, id=f"{dialect}-{way}-{case.name}"))
    return found


@pytest.mark.parametrize(("case", "way", "dialect"), params())
def test_our_server_does_what_the_case_asks(server: Server, case: Case, way: str, dialect: str) -> None:
    with Runner(Listening(str(server.path), server.tree), dialect, PATIENCE) as runner:
        key = options(case), dialect
        if key not in _features:
            runner.probe()
            _features[key] = runner.features
        runner.features = _features[key]
        (result,) = runner.run([case], [way])
    if dialect == "2021" and result.detail in ABSENT_2021:
        return
    assert result.outcome == PASSED, f"{result.outcome}: {result.detail}"
    assert names_in(server.tree) == []


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_every_message_that_can_change_anything_is_tried_where_nothing_may_be_changed() -> None:
    reading = {
        Mid.ERROR, Mid.MOUNT, Mid.CHANNEL, Mid.FSTAT, Mid.WALK, Mid.WALKSTAT, Mid.CLOSE, Mid.FSYNC, Mid.PREAD,
        Mid.FSTATFS, Mid.READLINKAT, Mid.FLUSH, Mid.CONNECT, Mid.GETDENTS64, Mid.FGETXATTR, Mid.FLISTXATTR,
        Mid.LISTEN, Mid.ACCEPT, Mid.CONNECTWITHCREDS, *OWN,
    }  # fmt: skip
    assert {name.split("-")[0].upper() for name in readonly.CHANGES} == {mid.name for mid in set(Mid) - reading}
