"""The expression of `gofer find`, read into one function of a file: as find(1) has it, operators, tests and actions.

    test = Expression(words, context); test.matches(file)
"""

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
_UNITS = {"c": 1, "w": 2, "b": 512, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}
# How many words stand behind each.
ARITY = {
    **dict.fromkeys(
        ("-name", "-iname", "-path", "-wholename", "-ipath", "-iwholename", "-lname", "-ilname", "-type", "-size", "-newer",
         "-anewer", "-cnewer", "-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin", "-perm", "-user", "-group", "-uid",
         "-gid", "-links", "-inum", "-maxdepth", "-mindepth", "-samefile"), 1,
    ),
    **dict.fromkeys(
        ("-empty", "-print", "-print0", "-delete", "-prune", "-quit", "-true", "-false", "-depth", "-d", "-xdev", "-mount",
         "-nouser", "-nogroup", "-not", "!", "-a", "-and", "-o", "-or", ",", "(", ")"), 0,
    ),
}  # fmt: skip


class File:
    """What is looked at: one object for all, as there are many. stat: None where it was not asked for, or is not to be had."""

    __slots__ = ("path", "name", "kind", "stat", "depth")
    path: bytes
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

    def reference(self, word: str) -> Stat:
        raise NotImplementedError


class Expression:
    """stats: whether it needs more of a file than its name and type; leaving: whether directories come after what is in them."""

    def __init__(self, words: list[str], context: Context) -> None:
        self.stats = self.leaving = self.one_device = self.acts = False
        self.deepest, self.least = -1, 0
        self._context = context
        self._words = words[::-1]
        self.matches: Test = self._list() if words else (lambda file: True)
        if self._words:
            raise Failure(f"find: {self._words[-1]!r} where the expression should have ended; put what belongs together in ( )")

    def _list(self) -> Test:
        left = self._or()
        while self._next(","):
            left = _both(left, self._or())
        return left

    def _or(self) -> Test:
        left = self._and()
        while self._next("-o", "-or"):
            left = _either(left, self._and())
        return left

    def _and(self) -> Test:
        left = self._not()
        while self._next("-a", "-and") or self._words and self._words[-1] not in ("-o", "-or", ",", ")"):
            left = _each(left, self._not())
        return left

    def _not(self) -> Test:
        if self._next("!", "-not"):
            inner = self._not()
            return lambda file: not inner(file)
        if self._next("("):
            inner = self._list()
            if not self._next(")"):
                raise Failure("find: a ( without its ); both are words of their own, quoted for the shell")
            return inner
        return self._primary()

    def _next(self, *words: str) -> bool:
        if self._words and self._words[-1] in words:
            self._words.pop()
            return True
        return False

    def _primary(self) -> Test:
        if not self._words:
            raise Failure("find: the expression ends where a test should be")
        word = self._words.pop()
        if ARITY.get(word, -1) < 0 or word in (")", ",", "-o", "-or", "-a", "-and"):
            raise Failure(f"find: {word}: no such test or action here; `gofer find --help` lists those that there are")
        value = ""
        if ARITY[word]:
            if not self._words:
                raise Failure(f"find: {word} needs a word behind it")
            value = self._words.pop()
        made = getattr(self, "_" + _METHODS.get(word, word.lstrip("-")))
        test: Test = made(word, value)
        return test

    # Tests of the name

    def _name(self, word: str, value: str) -> Test:
        match = matcher(value, word.startswith("-i"))
        return lambda file: match(file.name)

    def _path(self, word: str, value: str) -> Test:
        match = matcher(value, word.startswith("-i"))
        return lambda file: match(file.path)

    def _lname(self, word: str, value: str) -> Test:
        match, target = matcher(value, word.startswith("-i")), self._context.target
        return lambda file: file.kind == stat.S_IFLNK and match(target(file) or b"")

    def _type(self, word: str, value: str) -> Test:
        kinds = {_KINDS.get(letter, -1) for letter in value.split(",")}
        if -1 in kinds:
            raise Failure(f"find: -type {value}: letters of f d l p s c b, with commas between them")
        return lambda file: file.kind in kinds

    # Tests of attributes

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
        now = int(self._context.now * attrs.BILLION)
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

    def _samefile(self, word: str, value: str) -> Test:
        other = self._context.reference(value)
        return self._of_stat(lambda found: (found.ino, found.dev) == (other.ino, other.dev))

    def _perm(self, word: str, value: str) -> Test:
        how = value[:1] if value[:1] in ("-", "/") else ""
        digits = value[len(how) :]
        if not digits or set(digits) - set("01234567") or int(digits, 8) > 0o7777:
            raise Failure(f"find: -perm {value}: an octal mode, with - (all of these bits) or / (any of them) before it")
        bits = int(digits, 8)
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

    # What is true of the whole

    def _always(self, word: str, value: str) -> Test:
        if word in ("-maxdepth", "-mindepth"):
            if not value.isdigit():
                raise Failure(f"find: {word} {value}: must be a number of levels")
            if word == "-maxdepth":
                self.deepest = int(value)
            else:
                self.least = int(value)
        elif word in ("-xdev", "-mount"):
            self.one_device = True
        elif word in ("-depth", "-d"):
            self.leaving = True
        return lambda file: True

    def _false(self, word: str, value: str) -> Test:
        return lambda file: False

    # Actions

    def _print(self, word: str, value: str) -> Test:
        self.acts = True
        show, end = self._context.print, b"\0" if word == "-print0" else b"\n"
        return lambda file: show(file.path, end)

    def _delete(self, word: str, value: str) -> Test:
        self.acts = self.leaving = True
        return self._context.delete

    def _prune(self, word: str, value: str) -> Test:
        prune = self._context.prune
        return lambda file: prune()

    def _quit(self, word: str, value: str) -> Test:
        self.acts = True
        stop = self._context.stop
        return lambda file: stop()


_METHODS = {
    **dict.fromkeys(("-iname",), "name"),
    **dict.fromkeys(("-wholename", "-ipath", "-iwholename"), "path"),
    **dict.fromkeys(("-ilname",), "lname"),
    **dict.fromkeys(("-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin"), "time"),
    **dict.fromkeys(("-anewer", "-cnewer"), "newer"),
    **dict.fromkeys(("-uid", "-gid", "-links", "-inum"), "counted"),
    **dict.fromkeys(("-true", "-maxdepth", "-mindepth", "-xdev", "-mount", "-depth", "-d"), "always"),
    **dict.fromkeys(("-print0",), "print"),
}


def _each(left: Test, right: Test) -> Test:
    return lambda file: left(file) and right(file)


def _either(left: Test, right: Test) -> Test:
    return lambda file: left(file) or right(file)


def _both(left: Test, right: Test) -> Test:
    def test(file: File) -> bool:
        left(file)
        return right(file)

    return test


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


