"""docs/lisafs.md says what the code does: its notation, its differences, and what it names."""

import re

from hosts import CHECKOUT
from lisafs_page import PAGE, made, notation

from gofer.conform.codec import Mid

TEXT = PAGE.read_text()


def test_the_page_has_the_notation_of_the_code_and_the_differences_of_the_differential_test() -> None:
    assert made(TEXT) == TEXT, "run tests/lisafs_page.py --write"


def test_every_message_of_both_dialects_has_its_line() -> None:
    def ids(module: str) -> list[int]:
        return [int(line[4:6]) for line in notation(module) if line[4:6].strip()]

    assert ids("wire.py") == list(range(34))
    assert ids("wire2021.py") == list(range(1, Mid.FREMOVEXATTR + 1))


def test_what_the_page_links_to_is_there() -> None:
    for page in (PAGE, CHECKOUT / "docs/vectors/README.md", CHECKOUT / "docs/conformance.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
