"""The expression of `gofer find`, read into one function of a file: as find(1) has it, operators, tests and actions.

    test = Expression(words, context); test.matches(file)
"""

from __future__ import annotations

from gofer import Failure
from gofer.commands import attrs, findrun
from gofer.commands.findtests import Context, File, Tests

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.commands.findtests import Test

__all__ = ["ARITY", "Context", "Expression", "File", "span"]

_NEWER = [f"-newer{x}{y}" for x in "aBcm" for y in "aBcmt"]
# How many words stand behind each.
ARITY = {
    **dict.fromkeys(
        ("-name", "-iname", "-path", "-wholename", "-ipath", "-iwholename", "-lname", "-ilname", "-type", "-size", "-newer",
         "-anewer", "-cnewer", "-mtime", "-atime", "-ctime", "-mmin", "-amin", "-cmin", "-perm", "-user", "-group", "-uid",
         "-gid", "-links", "-inum", "-maxdepth", "-mindepth", "-samefile", "-regex", "-iregex", "-regextype", "-xtype", "-printf",
         *_NEWER), 1,
    ),
    **dict.fromkeys(
        ("-empty", "-print", "-print0", "-delete", "-prune", "-quit", "-true", "-false", "-depth", "-d", "-xdev", "-mount",
         "-nouser", "-nogroup", "-ls", "-daystart", "-follow", "-noleaf", "-warn", "-nowarn", "-ignore_readdir_race",
         "-noignore_readdir_race", "-not", "!", "-a", "-and", "-o", "-or", ",", "(", ")"), 0,
    ),
    **dict.fromkeys(findrun.RUNS, 0),  # and what `span` says
}  # fmt: skip


def span(words: list[str], at: int) -> int:
    """How many words belong to the one there, with it."""
    if words[at] in findrun.RUNS:
        return 1 + findrun.length(words[at + 1 :])
    return 1 + ARITY.get(words[at], 0)


class Expression(Tests):
    """leaving: whether directories come after what is in them; follow: all links; acts: it prints where that is wanted."""

    def __init__(self, words: list[str], context: Context) -> None:
        super().__init__(context)
        self.leaving = self.one_device = self.acts = self.follow = False
        self.deepest, self.least = -1, 0
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
        if word in findrun.RUNS:
            return self._run(word)
        value = ""
        if ARITY[word]:
            if not self._words:
                raise Failure(f"find: {word} needs a word behind it")
            value = self._words.pop()
        made = getattr(self, "_" + _METHODS.get(word, word.lstrip("-")))
        test: Test = made(word, value)
        return test

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
        elif word == "-follow":
            self.follow = True
        elif word == "-daystart":
            self._now = attrs.next_midnight(self._now)
        elif word == "-regextype":
            from gofer.commands.regexes import TYPES

            if value not in TYPES:
                raise Failure(f"find: -regextype {value}: one of {' '.join(TYPES)}")
            self.regextype = value
        return lambda file: True

    def _false(self, word: str, value: str) -> Test:
        return lambda file: False

    # Actions

    def _print(self, word: str, value: str) -> Test:
        self.acts = True
        show, end = self._context.print, b"\0" if word == "-print0" else b"\n"
        return lambda file: show(file.path, end)

    def _printf(self, word: str, value: str) -> Test:
        from gofer.commands.findprint import Format

        form = Format(value, self._context)
        self.stats |= form.stats
        return self._writing(form.made)

    def _ls(self, word: str, value: str) -> Test:
        from gofer.commands.findprint import Lines

        self.stats = True
        return self._writing(Lines(self._context).made)

    def _writing(self, made: Callable[[File], bytes]) -> Test:
        self.acts = True
        write = self._context.write

        def test(file: File) -> bool:
            write(made(file))
            return True

        return test

    def _run(self, word: str) -> Test:
        self.acts = True
        count = findrun.length(self._words[::-1])
        words = [self._words.pop() for _ in range(count)]
        command = self._context.command(word, words)
        return lambda file: command(file.path)

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
    **dict.fromkeys(("-iregex",), "regex"),
    **dict.fromkeys(_NEWER, "newer_xy"),
    **dict.fromkeys(
        ("-true", "-maxdepth", "-mindepth", "-xdev", "-mount", "-depth", "-d", "-follow", "-daystart", "-regextype", "-noleaf",
         "-warn", "-nowarn", "-ignore_readdir_race", "-noignore_readdir_race"), "always",
    ),
    **dict.fromkeys(("-print0",), "print"),
}  # fmt: skip


def _each(left: Test, right: Test) -> Test:
    return lambda file: left(file) and right(file)


def _either(left: Test, right: Test) -> Test:
    return lambda file: left(file) or right(file)


def _both(left: Test, right: Test) -> Test:
    def test(file: File) -> bool:
        left(file)
        return right(file)

    return test
