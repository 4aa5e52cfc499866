"""gofer.server.dispatch: the one place where an error becomes a reply."""

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from gofer import wire
from gofer.conform.codec import Mid
from gofer.log import Log
from gofer.server import dispatch
from gofer.server.comm import Communicator, Export, Options
from gofer.server.fds import O_PATH_FLAGS, FDTable

pytestmark = pytest.mark.usefixtures("as_in_a_server")


@pytest.fixture
def comm(spot: Path) -> Iterator[Communicator]:
    export = Export(os.open(spot, O_PATH_FLAGS), Options())
    table = FDTable()
    yield Communicator(table, export, lambda message: None, lambda: None, lambda seconds: False)
    table.clear()
    os.close(export.root.host)
    export.root.host = -1


@pytest.fixture
def log() -> Iterator[tuple[Log, int]]:
    """A log at debug, and the fd from which it can be read."""
    reader, writer = os.pipe()
    told = Log("debug", "text", writer)
    yield told, reader
    del told._out  # closes what it held; pytest still refers to the log itself
    os.close(writer)
    os.close(reader)


def served(comm: Communicator, log: Log, mid: int, request: bytes) -> tuple[int, bytes]:
    """As both transports do it."""
    reply = bytearray(4096)
    try:
        used = dispatch.HANDLERS[mid](comm, memoryview(request), memoryview(reply))
    except Exception as error:
        used = dispatch.refuse(comm, mid, error, memoryview(request), memoryview(reply), log, 7)
        mid = 0
    return mid, bytes(reply[:used])


def test_a_fault_inside_is_eremoteio_logged_with_its_place_and_the_next_request_is_served(
    comm: Communicator, log: tuple[Log, int]
) -> None:
    """f3ff82093: a fault in a handler killed the server, or was hidden. Here: a table that holds what it must not."""
    assert served(comm, log[0], Mid.MOUNT, b"")[0] == Mid.MOUNT
    comm.control[99] = "no control FD"  # type: ignore[assignment]
    request = struct.pack("<Q", 99)
    assert served(comm, log[0], Mid.FSTAT, request) == (Mid.ERROR, struct.pack("<I", errno.EREMOTEIO))
    del comm.control[99]
    said = os.read(log[1], 65536).decode()
    assert "FStat" in said and ".py:" in said and "no control FD" not in said
    mid, reply = served(comm, log[0], Mid.FSTAT, struct.pack("<Q", 1))
    assert mid == Mid.FSTAT and len(reply) == 144


@pytest.mark.parametrize(
    "mid,request_,code",
    [
        (0, b"", errno.EINVAL),
        (34, b"", errno.EOPNOTSUPP),
        (Mid.DIRREAD - 1, b"", errno.EOPNOTSUPP),
        (Mid.DIRSTAT + 1, b"", errno.EOPNOTSUPP),
        (65535, b"xxxx", errno.EOPNOTSUPP),
        (Mid.FSTAT, b"", errno.EIO),
        (Mid.FSTAT, bytes(9), errno.EIO),
        (Mid.FSTAT, bytes(8), errno.EBADF),
    ],
)
def test_an_error_is_told_once_at_debug_with_message_and_errno(
    comm: Communicator, log: tuple[Log, int], mid: int, request_: bytes, code: int
) -> None:
    assert served(comm, log[0], mid, request_) == (Mid.ERROR, struct.pack("<I", code))
    lines = os.read(log[1], 65536).decode().splitlines()
    assert len(lines) == 1
    assert str(wire.NAMES.get(mid, mid)) in lines[0] and f"errno {code} " in lines[0]


def test_the_table_has_one_handler_for_each_message_under_its_name() -> None:
    names = {**wire.NAMES, **wire.OWN_NAMES}
    assert len(dispatch.HANDLERS) == max(names) + 1
    for mid, handler in enumerate(dispatch.HANDLERS):
        assert handler.__name__ == names.get(mid, "unknown").lower()
