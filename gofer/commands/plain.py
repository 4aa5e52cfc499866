"""Command lines that are plain and right, read without argparse: to load that takes 10 ms, a third of a command's start.

A command's `add` tells its options to what takes them as argparse's parser does. `Plain` only remembers them; it reads what needs
no second thought, and leaves the rest, as help, mistakes and what looks like one of the two, to argparse.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_FLAGS = {"store_true": True, "store_false": False}
_READ = (*_FLAGS, "store", "append", "store_const")  # the actions that are known here


class Options:
    """What argparse would have returned."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


class _Action:
    """An option, or a positional word. group: of which only one may be given, 0 where it is in none."""

    def __init__(self, names: Sequence[str], spec: dict[str, Any], group: int) -> None:
        longest = next((name for name in names if name.startswith("--")), names[0])
        self.dest = spec.get("dest") or longest.lstrip("-").replace("-", "_")
        self.does = spec.get("action", "store")
        self.nargs = spec.get("nargs", 0 if self.does in ("store_true", "store_false", "store_const") else None)
        self.value = _FLAGS.get(self.does, spec.get("const"))
        self.default = spec.get("default", not self.value if self.does in _FLAGS else None)
        self.required = spec.get("required", False)
        self.group = group
        self.plain = self.does in _READ and (self.nargs in (0, None) or not names[0].startswith("-"))
        self._type, self._choices = spec.get("type"), spec.get("choices")

    def read(self, word: str) -> Any:
        """The value that the word tells. ValueError, or another that a type raises: it is wrong."""
        value = self._type(word) if self._type else word
        if self._choices is not None and value not in self._choices:
            raise ValueError
        return value

    def unsaid(self) -> Any:
        return self.read(self.default) if isinstance(self.default, str) and self._type else self.default


class Plain:
    """A parser, as far as `add` of a command knows it."""

    usage: str | None = None
    description = epilog = ""

    def __init__(self, defaults: dict[str, Any]) -> None:
        self._defaults = defaults
        self._option_string_actions: dict[str, _Action] = {}  # under argparse's name, which `find` asks for
        self._positionals: list[_Action] = []
        self._groups = 0
        self._needed: set[int] = set()  # groups

    def get_default(self, name: str) -> Any:
        return self._defaults.get(name)

    def set_defaults(self, **defaults: Any) -> None:
        self._defaults.update(defaults)

    def add_argument(self, *names: str, **spec: Any) -> None:
        self._add(names, spec, 0)

    def add_argument_group(self, title: str) -> Plain:
        return self

    def add_mutually_exclusive_group(self, required: bool = False) -> _Group:
        self._groups += 1
        if required:
            self._needed.add(self._groups)
        return _Group(self, self._groups)

    def _add(self, names: Sequence[str], spec: dict[str, Any], group: int) -> None:
        action = _Action(names, spec, group)
        if names[0].startswith("-"):
            self._option_string_actions.update(dict.fromkeys(names, action))
        else:
            self._positionals.append(action)

    def read(self, words: Sequence[str]) -> Options | None:
        """None: argparse has to look."""
        try:
            return Options(self._read(list(words)))
        except Exception:  # a type may raise what it likes; argparse calls it again, and tells
            return None

    def _read(self, words: list[str]) -> dict[str, Any]:
        said: dict[str, Any] = {}
        given: set[_Action] = set()
        positionals: list[str] = []
        while words:
            word = words.pop(0)
            if word[:1] != "-" or word == "-":
                positionals.append(word)
                continue
            for action, text in self._options(word, words):
                given.add(action)
                value = action.value if action.nargs == 0 else action.read(text)
                said[action.dest] = [*said.get(action.dest, action.default or ()), value] if action.does == "append" else value
        groups = [action.group for action in given if action.group]
        options = set(self._option_string_actions.values())
        if len(groups) > len(set(groups)) or self._needed.difference(groups) or any(o.required for o in options - given):
            raise ValueError
        said.update(self._placed(positionals))
        return {**self._defaults, **self._unsaid(), **said}

    def _options(self, word: str, words: list[str]) -> list[tuple[_Action, str]]:
        """What one word says, with the next ones where an option has its value there: --name, --name=value, -ab, -n5."""
        long = word.startswith("--")
        if " " in word.partition("=")[0] or "=" in word and not long:
            raise ValueError
        name, equals, value = word.partition("=") if long else (word[:2], word[2:], word[2:])
        action = self._option_string_actions[name]
        if not action.plain:
            raise ValueError
        if action.nargs is None:
            value = value if equals else words.pop(0)
            if not equals and value.startswith("-"):
                raise ValueError
            return [(action, value)]
        if not equals:
            return [(action, "")]
        if long or not value.isalnum():
            raise ValueError
        return [(action, ""), *self._options(f"-{value}", words)]

    def _placed(self, words: list[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for action in self._positionals:
            if not action.plain or action.nargs not in (None, "?", "*", "+"):
                raise ValueError
            if action.nargs is None:
                found[action.dest] = action.read(words.pop(0))
            elif action is not self._positionals[-1] or action.nargs == "+" and not words:
                raise ValueError  # how many each gets is argparse's to find out
            elif action.nargs == "?":
                found[action.dest] = action.read(words.pop(0)) if words else action.unsaid()
            else:
                found[action.dest] = [*map(action.read, words)]
                words = []
        if words:
            raise ValueError
        return found

    def _unsaid(self) -> dict[str, Any]:
        """The first that is declared says what it is."""
        found: dict[str, Any] = {}
        for action in self._option_string_actions.values():
            if action.dest not in found:
                found[action.dest] = action.unsaid()
        return found


class _Group:
    def __init__(self, parser: Plain, number: int) -> None:
        self._parser, self._number = parser, number

    def add_argument(self, *names: str, **spec: Any) -> None:
        self._parser._add(names, spec, self._number)
