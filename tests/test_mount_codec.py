"""The codec of FUSE, against the kernel's own header and its own comments."""

import random
import re
import struct
import subprocess
from pathlib import Path

import pytest

from gofer.fuse import kernel
from gofer.fuse.node import Node
from gofer.fuse.nodes import Nodes
from gofer.fuse.scan import Part
from gofer.fuse.state import Options
from gofer.fuse.table import CHANGES, OPERATIONS
from gofer.fuse.view import View
from gofer.wire import Record

RECORDS = {record.name: record for record in vars(kernel).values() if isinstance(record, Record)}
NOTATION = re.compile(r"^# (\w+) +(\(?\w+\[\d+\].*)$")
# Later than the header may be: what the kernel of a test's machine speaks is tried by mounting.
SINCE = {"statx_out": 39, "statx_in": 39, "backing_map": 40, "notify_prune_out": 45}
# What an older kernel's record has under another name, or not at all.
OTHER_NAMES = {("open_out", "backing_id"): ("padding", 40), ("init_out", "max_stack_depth"): ("unused", 40)}


def compiled(body: str) -> list[str]:
    source = f"#include <stdio.h>\n#include <stddef.h>\n#include <linux/fuse.h>\nint main(void) {{ {body} return 0; }}"
    program = Path("/tmp") / f"fuse-{struct.calcsize('P')}"
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        program = Path(place) / "program"
        subprocess.run(["gcc", "-Wall", "-Werror", "-x", "c", "-", "-o", str(program)], input=source, text=True, check=True)
        return subprocess.run([str(program)], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def minor() -> int:
    return int(compiled('printf("%d\\n", FUSE_KERNEL_MINOR_VERSION);')[0])


def offsets(record: Record) -> dict[str, int]:
    """Where each named field is."""
    found, at = {}, 0
    for field, code in record.codes.items():
        if not field.startswith("_"):
            found[field] = at
        at += struct.calcsize("<" + code)
    return found


def test_sizes_and_offsets_are_those_of_the_kernels_header() -> None:
    known = minor()
    body, expected = [], []
    for name, record in RECORDS.items():
        if SINCE.get(name, 0) > known:
            continue
        exact = name not in ("setxattr_in", "init_in")  # of which we read the old part
        if exact:
            body.append(f'printf("{name} %zu\\n", sizeof(struct fuse_{name}));')
            expected.append(f"{name} {record.size}")
        for field, at in offsets(record).items():
            other, since = OTHER_NAMES.get((name, field), (field, 0))
            if since > known and other == "unused":
                continue
            there = other if since > known else field
            body.append(f'printf("{name}.{field} %zu\\n", offsetof(struct fuse_{name}, {there}));')
            expected.append(f"{name}.{field} {at}")
    assert compiled("\n".join(body)) == expected
    assert len(expected) > 150


def test_the_numbers_are_those_of_the_kernels_header() -> None:
    header = Path("/usr/include/linux/fuse.h").read_text()
    for name, number in kernel.OPCODES.items():
        match = re.search(rf"\bFUSE_{name}\s*=\s*(\d+)", header)
        assert match is None or int(match[1]) == number, name
    values = {name: value for name, value in vars(kernel).items() if isinstance(value, int) and name.isupper()}
    checked = 0
    for name, value in values.items():
        match = re.search(rf"#define (?:FUSE_)?{name}\s+\((1U?L*) << (\d+)\)", header)
        if match:
            assert 1 << int(match[2]) == value, name
            checked += 1
    assert checked > 25
    for opcode in OPERATIONS.keys() | CHANGES:
        assert opcode in kernel.OPCODES.values()


def notation() -> dict[str, str]:
    lines = Path(kernel.__file__).read_text().splitlines()
    return {match[1]: match[2] for match in map(NOTATION.match, lines) if match}


@pytest.mark.parametrize("name", RECORDS)
def test_the_notation_above_a_record_says_what_the_record_says(name: str) -> None:
    told = [(field, int(size)) for field, size in re.findall(r"(\w+)\[(\d+)\]", notation()[name])]
    record = RECORDS[name]
    ours = [(field.strip("_2"), struct.calcsize("<" + code)) for field, code in record.codes.items()]
    sizes = [size for _, size in ours]
    assert sum(sizes) == record.size
    if name not in ("statx_out", "init_in", "notify_prune_out", "dirent", "notify_inval_entry_out", "setxattr_in"):
        assert [size for _, size in told] == sizes
        assert [field for field, _ in told] == [field.strip("_") for field in record.codes]


@pytest.mark.parametrize(
    ("major", "minor", "packed"), [(1, 3, 0x103), (8, 256, 0x100800), (4095, 0xFFFFF, 0xFFFFFFFF), (0, 0, 0)]
)
def test_a_device_number_is_packed_as_the_kernel_does(major: int, minor: int, packed: int) -> None:
    assert kernel.device_number(major, minor) == packed


def statx(rng: random.Random, **given: int) -> bytes:
    """A regular file's, on device 8:1; what is given is so, the rest is at random."""
    fields = {"mask": 0xFFF, "blksize": 4096, "mode": 0o100644, "rdev": 0, "minor": 1, **given}
    times = [number for _ in range(4) for number in (rng.randrange(-(2**40), 2**40), rng.randrange(10**9))]
    return struct.pack(
        "<IIQIIIHHQQQQ" + "qI4x" * 4 + "IIII",
        fields["mask"], fields["blksize"], 0, rng.randrange(2**32), rng.randrange(2**32), rng.randrange(2**32), fields["mode"],
        rng.randrange(2**16), rng.randrange(2**48), rng.randrange(2**63), rng.randrange(2**40), 0, *times, 0, fields["rdev"], 8,
        fields["minor"],
    )  # fmt: skip


@pytest.mark.parametrize(
    "odd", [{}, {"mode": 0o40755}, {"blksize": 3}, {"rdev": 5, "mode": 0o20600}, {"minor": 2}, {"uid": 7}, {"umask": 0o27}]
)
def test_attributes_of_many_files_are_those_of_each(odd: dict[str, int]) -> None:
    """One that is not like the others among them is looked at by itself, and then they all are."""
    rng = random.Random(3)
    shown = {name: value for name, value in odd.items() if name in ("uid", "umask")}
    view = View(Options(**shown), statx(rng))  # type: ignore[arg-type]
    raws = [statx(rng) for _ in range(100)]
    raws[40] = statx(rng, **{name: value for name, value in odd.items() if name not in shown})
    assert bool(view.all_of(b"".join(raws))) == (odd in ({}, {"mode": 0o40755}))
    part = Part([b"%d" % i for i in range(100)], b"".join(raws))
    for i, raw in enumerate(raws):
        node = Node(i + 2, None, part.names[i], int.from_bytes(raw[32:40], "little"), 0, 0o100644)
        assert view.entry_at(node, part, i, 0) == view.entry(node, raw)
        assert view.told(9, node.id, node.ino, part, i, 0.25)[16:] == view.entry(node, raw, 0.25)


@pytest.mark.parametrize("odd", [{}, {"minor": 2}, {"mask": 0x7FF}])
def test_what_is_told_of_at_once_is_known_until_it_is_forgotten(odd: dict[str, int]) -> None:
    rng = random.Random(5)
    nodes = Nodes(None, 100, (1, statx(rng, mode=0o40755)))  # type: ignore[arg-type]  # it is asked for nothing
    raws = [statx(rng) for _ in range(50)]
    raws[20] = statx(rng, **odd)
    for i, identity in enumerate(map(nodes.identity, raws)):
        number = nodes.tell(nodes.root, b"%d" % i, identity)
        if i % 3 == 0:
            assert nodes.tell(nodes.root, b"again", identity) == number and nodes.by_id(number).name == b"again"
            nodes.forget_by_id(number, 1)
        node = nodes.by_id(number) if i % 3 != 1 else None
        assert node is None or (node.known, node.ino, node.born, node.mode) == (1, *identity)
        nodes.forget_by_id(number, 1)
        with pytest.raises(OSError, match="no such node"):
            nodes.by_id(number)
        assert len(nodes) == 1
