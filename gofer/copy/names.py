"""Names: which may be, which are left out, and those of files that are not complete yet."""

from __future__ import annotations

import os
from _blake2 import blake2b  # hashlib's, without OpenSSL, which takes 3 ms to load
from itertools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Sequence

    from gofer.client.replies import Stat

WORTH = 1 << 20  # bytes from which on an interrupted file is kept, for --resume
_NO_VERSION = b"0" * 12
_LONGEST = 255  # NAME_MAX of every file system of Linux
_own = count(int.from_bytes(os.urandom(5), "little"))  # of this run, as far as chance goes
_END = b".part"
_HEX = b"0123456789abcdef"


def possible(name: bytes) -> bool:
    """Whether an entry may have that name: what a server says is not believed."""
    return 0 < len(name) <= _LONGEST and name not in (b".", b"..") and 47 not in name and 0 not in name


def part_name(name: bytes, stat: Stat) -> bytes:
    """A name, new each time, under which a file is made that is to get that one.

    It tells by itself what it was to become, and of which version of what file: who finds it later may go on with it.
    """
    of = version(stat) if stat.size >= WORTH else _NO_VERSION
    return b".gofer-%b-%b-%012x%b" % (_hash(name), of, next(_own), _END)


def part_of(name: bytes) -> tuple[bytes, bytes] | None:
    """What to compare with `mark(name)` and with `version(stat)`, if this is such a name."""
    head, *hashes = name[: -len(_END)].split(b"-")
    right = head == b".gofer" and name.endswith(_END) and [len(each) for each in hashes] == [12] * 3
    return (hashes[0], hashes[1]) if right and not b"".join(hashes).strip(_HEX) else None


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
    import fnmatch  # and re: 6 ms of a start that has no use for them
    import re

    anchored, stripped = pattern.startswith(b"/"), pattern.strip(b"/")
    text = os.fsencode(fnmatch.translate(os.fsdecode(stripped)))
    return re.compile(text if anchored else b"(?s:.*/)?" + text)
