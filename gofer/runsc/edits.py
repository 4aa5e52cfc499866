"""Adding one entry to a file that is somebody else's, and taking it out again: JSON and TOML, as text.

Nothing is parsed and written anew: comments, order and layout stay. What comes out is read again and compared with what
was meant before anybody sees it; a text in which that cannot be done is refused.

JSON: the entry becomes the first member of its object. TOML: a block between two comments, at the end of the file or,
where its table stands there already, right below that table's header.
"""

from __future__ import annotations

import json
import re
from importlib import import_module
from typing import Any, NamedTuple

from gofer.runsc.tracer import Refusal

Table = dict[str, Any]
_UNSAFE = "is laid out in a way that this program cannot change without harm"
FRESH = "version = 2\n"  # containerd's config.toml, with nothing in it


class Member(NamedTuple):
    """Of a JSON object: where its name begins, and its value, and where that ends."""

    name: str
    begin: int
    value: int
    end: int


def read_json(text: str) -> Table:
    """An object, in which no name stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> Table:
        names = dict(pairs)
        if len(names) < len(pairs):
            raise Refusal("a name stands twice in one object")
        return names

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise Refusal(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise Refusal("is not a JSON object")
    return value


def add_member(text: str, table: str, name: str, value: Table) -> str:
    """With {table: {name: value}} in it. The table is an object, if it is there, and has no such member."""
    wanted = read_json(text)
    if table in wanted:
        brace = next(member.value for member in _members(text, text.index("{")) if member.name == table)
        new = _insert(text, brace, f"{json.dumps(name)}: {json.dumps(value)}")
    else:
        new = _insert(text, text.index("{"), f"{json.dumps(table)}: {json.dumps({name: value})}")
    wanted.setdefault(table, {})[name] = value
    return _same(new, read_json(new), wanted)


def remove_member(text: str, table: str, name: str) -> str:
    """Without table.name, which is there, and without the table, if that was all it had."""
    wanted = read_json(text)
    outer = _members(text, text.index("{"))
    place = next(i for i, member in enumerate(outer) if member.name == table)
    inner = _members(text, outer[place].value)
    if len(inner) == 1:
        new = _cut(text, outer, place)
        del wanted[table]
    else:
        new = _cut(text, inner, next(i for i, member in enumerate(inner) if member.name == name))
        del wanted[table][name]
    return _same(new, read_json(new), wanted)


def _members(text: str, brace: int) -> list[Member]:
    """Those of the object that begins there, in a text that has been read."""

    def skip(at: int) -> int:
        while text[at] in " \t\r\n":
            at += 1
        return at

    found, decoder, at = [], json.JSONDecoder(), skip(brace + 1)
    while text[at] != "}":
        begin = at
        name, at = decoder.raw_decode(text, at)
        value = skip(skip(at) + 1)
        _, end = decoder.raw_decode(text, value)
        found.append(Member(name, begin, value, end))
        at = skip(end)
        if text[at] == ",":
            at = skip(at + 1)
    return found


def _insert(text: str, brace: int, member: str) -> str:
    members = _members(text, brace)
    if members:
        lead = text[brace + 1 : members[0].begin]
        return f"{text[: brace + 1]}{lead}{member},{text[brace + 1 :]}"
    line = text[text.rfind("\n", 0, brace) + 1 : brace]
    indent = line[: len(line) - len(line.lstrip(" \t"))]
    rest = text[text.index("}", brace) :]
    return f"{text[: brace + 1]}\n{indent}  {member}\n{indent}{rest}"


def _cut(text: str, members: list[Member], place: int) -> str:
    member = members[place]
    if place + 1 < len(members):
        return text[: member.begin] + text[members[place + 1].begin :]
    if place:
        return text[: members[place - 1].end] + text[member.end :]
    return text[: member.begin].rstrip(" \t\r\n") + text[member.end :].lstrip(" \t\r\n")


def add_block(text: str, name: str, header: str, lines: str, meaning: Table) -> str:
    """With `lines` below `[header]`, if one is given, in a block of that name. meaning: the whole block's.

    The same text, where all of that stands there already without a block.
    """
    text = remove_block(text, name)
    before = read_toml(text)
    if _holds(before, meaning):
        return text
    wanted = _merged(before, meaning)
    block = _block(name, f"[{header}]\n{lines}" if header else lines)
    table = re.search(rf"(?m)^[ \t]*\[[ \t]*{re.escape(header)}[ \t]*\][ \t]*(#.*)?\n", text) if header else None
    if table:
        new = text[: table.end()] + _block(name, lines) + text[table.end() :]
    else:
        new = text + "\n" * (text[-1:] not in ("", "\n")) + block
    if not _toml_reader():
        return new  # what was read without one is nobody else's
    try:
        return _same(new, read_toml(new), wanted)
    except Refusal:
        raise Refusal(_UNSAFE) from None


def remove_block(text: str, name: str) -> str:
    """Without the block of that name; the same text where there is none."""
    begin, end = _marks(name)
    if begin not in text:
        return text
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found or begin in rest:
        raise Refusal(f"{begin.strip()!r} stands there without an end, or twice")
    read_toml(before + after)
    return before + after


def read_toml(text: str) -> Table:
    """What it means. Of what `install` makes itself, where there was no file, every Python knows that."""
    if text.strip() in ("", FRESH.strip()):
        return {"version": 2} if text.strip() else {}
    reader = _toml_reader()
    if reader is None:
        raise Refusal("is TOML, of which this Python has no reader (3.11 has): what stands there cannot be kept safe")
    try:
        value: Table = reader(text)
    except ValueError as error:
        raise Refusal(f"is not TOML: {error}") from None
    return value


def _toml_reader() -> Any:
    try:
        return import_module("tomllib").loads
    except ImportError:
        return None


def _holds(table: Table, part: Table) -> bool:
    for name, value in part.items():
        there = table.get(name)
        if there != value and not (isinstance(there, dict) and isinstance(value, dict) and _holds(there, value)):
            return False
    return True


def _merged(table: Table, more: Table, where: str = "") -> Table:
    result = dict(table)
    for name, value in more.items():
        there = result.get(name)
        if there is None:
            result[name] = value
        elif isinstance(there, dict) and isinstance(value, dict):
            result[name] = _merged(there, value, f"{where}{name}.")
        else:
            raise Refusal(f"has another {where}{name} already")
    return result


def _same(text: str, meaning: Table, wanted: Table) -> str:
    if meaning != wanted:
        raise Refusal(_UNSAFE)
    return text


def _block(name: str, lines: str) -> str:
    begin, end = _marks(name)
    return begin + lines + end


def _marks(name: str) -> tuple[str, str]:
    return f"# begin of {name}, written by `gofer runsc install`\n", f"# end of {name}\n"
