"""Names: which may be, which are left out, and those of files that are not complete yet."""

from __future__ import annotations

import fnmatch
import os
import re
from _blake2 import blake2b  # hashlib's, without OpenSSL, which takes 3 ms to load
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gofer.client.replies import Stat

WORTH = 1 << 20  # bytes from which on an interrupted file is kept, for --resume
_NO_VERSION = b"0" * 12
_LONGEST = 255  # NAME_MAX of every file system of Linux
_own = count(int.from_bytes(os.urandom(5), "little"))  # of this run, as far as chance goes
_PART = re.compile(rb"\.gofer-([0-9a-f]{12})-([0-9a-f]{12})-[0-9a-f]{12}\.part")


def possible(name: bytes) -> bool:
    """Whether an entry may have that name: what a server says is not believed."""
    return 0 < len(name) <= _LONGEST and name not in (b".", b"..") and 47 not in name and 0 not in name


def part_name(name: bytes, stat: Stat) -> bytes:
    """A name, new each time, under which a file is made that is to get that one.

    It tells by itself what it was to become, and of which version of what file: who finds it later may go on with it.
    """
    of = version(stat) if stat.size >= WORTH else _NO_VERSION
    return b".gofer-%b-%b-%012x.part" % (_hash(name), of, next(_own))


def part_of(name: bytes) -> tuple[bytes, bytes] | None:
    """What to compare with `mark(name)` and with `version(stat)`, if this is such a name."""
    found = _PART.fullmatch(name)
    return (found[1], found[2]) if found else None


def mark(name: bytes) -> bytes:
    return _hash(name)


def version(stat: Stat) -> bytes:
    return _hash(b"%d %d %d" % (stat.size, *stat.mtime))


def _hash(text: bytes) -> bytes:
    return blake2b(text, digest_size=6).hexdigest().encode()


class Exclude:
    """Patterns of a shell: one without `/` is compared with an entry's name, one with `/` inside with the end of its path, one
    that begins with `/` with the whole path below what is copied. What matches is left out, with all that is in it.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._tests = [_test(os.fsencode(pattern)) for pattern in patterns]

    def __call__(self, path: bytes) -> bool:
        return any(test.fullmatch(path) for test in self._tests)


def _test(pattern: bytes) -> re.Pattern[bytes]:
    anchored, stripped = pattern.startswith(b"/"), pattern.strip(b"/")
    text = os.fsencode(fnmatch.translate(os.fsdecode(stripped)))
    return re.compile(text if anchored else b"(?s:.*/)?" + text)
