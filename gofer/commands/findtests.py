"""The tests of `gofer find`, each a function of a file: what find(1) asks of names and attributes."""

from __future__ import annotations

import stat

from gofer import Failure
from gofer.commands import attrs
from gofer.commands.patterns import matcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.client.replies import Stat

    Test = Callable[["File"], bool]

_DAY, _MINUTE = 86400, 60
_KINDS = {
    "f": stat.S_IFREG, "d": stat.S_IFDIR, "l": stat.S_IFLNK, "p": stat.S_IFIFO, "s": stat.S_IFSOCK, "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
}  # fmt: skip
_TIMES = {"a": "atime", "B": "btime", "c": "ctime", "m": "mtime"}
_UNITS = {"c": 1, "w": 2, "b": 512, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class File:
    """What is looked at: one object for all, as there are many. stat: None where it was not asked for, or is not to be had."""

    __slots__ = ("path", "name", "kind", "stat", "depth", "start")
    path: bytes
    start: bytes  # the operand that it is below, as it is shown
    name: bytes
    kind: int
    stat: Stat | None
    depth: int


class Context:
    """What find.py does for the expression."""

    now: float

    def print(self, path: bytes, end: bytes) -> bool:
        raise NotImplementedError

    def delete(self, file: File) -> bool:
        raise NotImplementedError

    def prune(self) -> bool:
        raise NotImplementedError

    def stop(self) -> bool:
        raise NotImplementedError

    def is_empty(self, file: File) -> bool:
        raise NotImplementedError

    def target(self, file: File) -> bytes | None:
        raise NotImplementedError

    def kind_behind(self, file: File) -> tuple[bytes, OSError | None]:
        """The letter of what a symbolic link leads to. N: nothing, L: a loop, ?: why it cannot be had."""
        raise NotImplementedError

    def bad(self, file: File, error: OSError) -> None:
        """Tell of it."""
        raise NotImplementedError

    def seen(self, name: bytes) -> bytes:
        """As it may be shown."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        raise NotImplementedError

    def command(self, action: str, words: list[str]) -> Callable[[bytes], bool]:
        """Runs it for a path; see findrun.py."""
        raise NotImplementedError

    def reference(self, word: str) -> Stat:
        raise NotImplementedError


class Tests:
    """stats: whether one of them needs more of a file than its name and type."""

    def __init__(self, context: Context) -> None:
        self.stats = False
        self.regextype = "findutils-default"
        self._context = context
        self._now = context.now

    # Of the name

    def _name(self, word: str, value: str) -> Test:
        match = matcher(value, word.startswith("-i"))
        return lambda file: match(file.name)

    def _path(self, word: str, value: str) -> Test:
        match = matcher(value, word.startswith("-i"))
        return lambda file: match(file.path)

    def _regex(self, word: str, value: str) -> Test:
        from gofer.commands import regexes

        match = regexes.matcher(value, self.regextype, word == "-iregex")
        return lambda file: match(file.path)

    def _lname(self, word: str, value: str) -> Test:
        match, target = matcher(value, word.startswith("-i")), self._context.target
        return lambda file: file.kind == stat.S_IFLNK and match(target(file) or b"")

    def _type(self, word: str, value: str) -> Test:
        kinds = {_KINDS.get(letter, -1) for letter in value.split(",")}
        if -1 in kinds:
            raise Failure(f"find: -type {value}: letters of f d l p s c b, with commas between them")
        return lambda file: file.kind in kinds

    def _xtype(self, word: str, value: str) -> Test:
        """The type of what a link leads to; with l that of those that lead to nothing."""
        if set(value.split(",")) - set(_KINDS):
            raise Failure(f"find: -xtype {value}: letters of f d l p s c b, with commas between them")
        kinds, letters = {_KINDS[letter] for letter in value.split(",")}, {letter.encode() for letter in value.split(",")}
        if b"l" in letters:
            letters.add(b"N")
        context = self._context

        def test(file: File) -> bool:
            if file.kind != stat.S_IFLNK:
                return file.kind in kinds
            letter, error = context.kind_behind(file)
            if error and letter != b"N":
                context.bad(file, error)
            return letter in letters

        return test

    # Of attributes

    def _of_stat(self, test: Callable[[Stat], bool]) -> Test:
        self.stats = True
        return lambda file: file.stat is not None and test(file.stat)

    def _size(self, word: str, value: str) -> Test:
        unit = _UNITS.get(value[-1:], 0)
        compare = _number(word, value[:-1] if unit else value)
        size = unit or 512
        return self._of_stat(lambda found: compare(-(-found.size // size)))

    def _time(self, word: str, value: str) -> Test:
        """In whole days or minutes, rounded as find(1) does: 2 are from 2 to 3 days, and from 1 to 2 minutes."""
        which = word[1] + "time"
        unit = _MINUTE if word.endswith("min") else _DAY
        sign, number = _signed(word, value, fraction=True)
        now = int(self._now * attrs.BILLION)
        n, unit = int(number * unit * attrs.BILLION), unit * attrs.BILLION
        most = n + unit if unit > _MINUTE * attrs.BILLION else n

        def test(found: Stat) -> bool:
            age = now - attrs.nanoseconds(getattr(found, which))
            return age > most if sign == "+" else age < n if sign == "-" else most - unit <= age < most

        return self._of_stat(test)

    def _newer(self, word: str, value: str) -> Test:
        which = {"-anewer": "atime", "-cnewer": "ctime"}.get(word, "mtime")
        than = attrs.nanoseconds(self._context.reference(value).mtime)
        return self._of_stat(lambda found: attrs.nanoseconds(getattr(found, which)) > than)

    def _newer_xy(self, word: str, value: str) -> Test:
        """-newerXY: the X of a file is after the Y of another one, or after the time that is given."""
        from gofer.commands.dates import moment

        which, other = _TIMES[word[6]], word[7]
        than = attrs.nanoseconds(moment(value) if other == "t" else getattr(self._context.reference(value), _TIMES[other]))
        return self._of_stat(lambda found: attrs.nanoseconds(getattr(found, which)) > than)

    def _samefile(self, word: str, value: str) -> Test:
        other = self._context.reference(value)
        return self._of_stat(lambda found: (found.ino, found.dev) == (other.ino, other.dev))

    def _perm(self, word: str, value: str) -> Test:
        how = value[:1] if value[:1] in ("-", "/") else ""
        bits = _mode(value[len(how) :])
        if bits < 0:
            why = "a mode, octal or as in u+w,g=r, with - (all of these bits) or / (any of them) before it"
            raise Failure(f"find: -perm {value}: {why}")
        if how == "-":
            return self._of_stat(lambda found: found.mode & bits == bits)
        if how == "/":
            return self._of_stat(lambda found: not bits or bool(found.mode & bits))
        return self._of_stat(lambda found: stat.S_IMODE(found.mode) == bits)

    def _user(self, word: str, value: str) -> Test:
        from gofer.commands.options import user

        try:
            uid = user(value)
        except ValueError as error:
            raise Failure(f"find: -user {value}: {error}") from None
        return self._of_stat(lambda found: found.uid == uid)

    def _group(self, word: str, value: str) -> Test:
        import grp

        try:
            gid = int(value) if value.isdigit() else grp.getgrnam(value).gr_gid
        except KeyError:
            raise Failure(f"find: -group {value}: must be the name of a group, or a number") from None
        return self._of_stat(lambda found: found.gid == gid)

    def _counted(self, word: str, value: str) -> Test:
        compare = _number(word, value)
        which = {"-links": "nlink", "-inum": "ino"}.get(word) or word[1:]
        return self._of_stat(lambda found: compare(getattr(found, which)))

    def _nouser(self, word: str, value: str) -> Test:
        return self._of_stat(lambda found: not attrs.user(found.uid))

    def _nogroup(self, word: str, value: str) -> Test:
        return self._of_stat(lambda found: not attrs.group(found.gid))

    def _empty(self, word: str, value: str) -> Test:
        self.stats = True
        is_empty = self._context.is_empty
        return lambda file: is_empty(file) if file.kind == stat.S_IFDIR else bool(
            file.kind == stat.S_IFREG and file.stat and not file.stat.size
        )


def _mode(text: str) -> int:
    """That of what had none before; -1 where it is no mode."""
    from gofer.commands.modes import permissions

    try:
        return permissions(text)(0, False)
    except Failure:
        return -1


def _signed(word: str, value: str, fraction: bool = False) -> tuple[str, float]:
    sign = value[:1] if value[:1] in ("+", "-") else ""
    digits = value[len(sign) :]
    try:
        number = float(digits) if fraction else int(digits)
        if not digits[:1].isdigit() or not 0 <= number < 1 << 63:
            raise ValueError
    except ValueError:
        raise Failure(f"find: {word} {value}: must be a number, with + (more than) or - (less than) before it") from None
    return sign, number


def _number(word: str, value: str) -> Callable[[int], bool]:
    sign, number = _signed(word, value)
    if sign == "+":
        return lambda found: found > number
    if sign == "-":
        return lambda found: found < number
    return lambda found: found == number


