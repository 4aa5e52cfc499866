#!/usr/bin/env python3
"""lisafs_page.py [--write]: what docs/lisafs.md has from elsewhere, notation of wire.py and differences of the differential test.

Without --write it says whether the page is as it should be; a test does the same.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
sys.path[:0] = [str(HERE), str(CHECKOUT)]

from differential_table import TABLE  # noqa: E402

from gofer import wire  # noqa: E402

PAGE = CHECKOUT / "docs/lisafs.md"
STRUCTURES = ("Inode", "Dirent")
NUMBERS = {name: mid for mid, name in wire.NAMES.items()}


def notation(module: str) -> list[str]:
    """The comment lines of a module that are notation, with the messages' ids, as a block of Markdown."""
    lines = []
    for line in (CHECKOUT / "gofer" / module).read_text().splitlines():
        match = re.match(r"# (\w+) +(\S.*)$", line)
        if match and (match[1] in STRUCTURES or (match[1] in NUMBERS and "->" in line)):
            number = str(NUMBERS.get(match[1], ""))
            lines.append(f"    {number:>2} {match[1]:16} {match[2]}")
    return ["", *lines, ""]


def differences() -> list[str]:
    rows = []
    for line in TABLE:
        marks = ["x" if year in line.of.split() else "" for year in ("2022", "2024")]
        rows.append(f"| {line.name.replace('|', '/')} | {' | '.join(marks)} |")
    return ["", "| difference from `gofer serve` | 2022 | 2024 |", "|---|---|---|", *rows, ""]


PARTS = {
    "today": lambda: notation("wire.py"),
    "2021": lambda: notation("wire2021.py"),
    "differences": differences,
}


def made(text: str) -> str:
    """The page with every part as it should be."""
    for name, make in PARTS.items():
        begin, end = f"<!-- {name}: made by tests/lisafs_page.py -->", f"<!-- end of {name} -->"
        head, found, rest = text.partition(begin)
        assert found, f"the page lacks {begin}"
        text = "\n".join([head + begin, *make(), end + rest.partition(end)[2]])
    return text


if __name__ == "__main__":
    before = PAGE.read_text()
    after = made(before)
    if "--write" in sys.argv:
        PAGE.write_text(after)
    elif before != after:
        sys.exit(f"{PAGE}: run {sys.argv[0]} --write")
