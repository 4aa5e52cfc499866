"""How a name is shown: in a pipe byte for byte; to a terminal, which a name must not speak to, as a shell would read it.

The latter is what ls(1) does there since 2016: quotes where a shell needs them, $'\\n' for what is not to be seen. `printable` of
output.py is for lines that nobody reads back.
"""

from __future__ import annotations

_PLAIN = frozenset(b"%+,-./:]_@" + bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)))
_SPECIAL = frozenset(b"!\"$&()*;<=>[^`|\\?")  # anywhere
_FIRST = frozenset(b"#~")  # at the beginning
_ESCAPES = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r"}


def shell(name: bytes, always: bool = False) -> bytes:
    """The name, quoted where a shell needs that, or always; as `ls --quoting-style=shell-escape` and `shell-escape-always`."""
    if _PLAIN.issuperset(name) and name and not always:
        return name
    text = name.decode("utf-8", "surrogateescape")
    if all(map(_seen, text)):
        if not always and not _needs_quotes(text):
            return name
        if "'" not in text:
            return b"'" + name + b"'"
        if _fits_double_quotes(text):
            return b'"' + name + b'"'
    return _escaped(text)


def _seen(c: str) -> bool:
    return c.isprintable() or c in "\u00a0\u3000"


def _needs_quotes(text: str) -> bool:
    if text in ("", "{", "}"):
        return True
    return ord(text[0]) in _FIRST or any(c in " '" or ord(c) in _SPECIAL for c in text)


def _fits_double_quotes(text: str) -> bool:
    """Whether all of it means itself there, to any shell, and to C."""
    return all(c in " '" or ord(c) > 127 or ord(c) in _PLAIN or (ord(c) in _FIRST and i == 0) for i, c in enumerate(text))


def _escaped(text: str) -> bytes:
    parts, plain = [b"'"], True
    for c in text:
        seen = _seen(c)
        if seen != plain:
            parts.append(b"''" if seen else b"'$'")
            plain = seen
        if not seen:
            parts.append(b"".join(_octal(byte) for byte in c.encode("utf-8", "surrogateescape")))
        else:
            parts.append(b"'\\''" if c == "'" else c.encode("utf-8", "surrogateescape"))
    return b"".join(parts) + b"'"


def _octal(byte: int) -> bytes:
    return f"\\{_ESCAPES[byte]}".encode() if byte in _ESCAPES else b"\\%03o" % byte


def width(shown: bytes) -> int:
    """Columns that it takes on a terminal."""
    if shown.isascii() and shown.decode().isprintable():
        return len(shown)
    from unicodedata import combining, east_asian_width

    text = shown.decode("utf-8", "replace")
    return sum(0 if c < " " or c == "\x7f" or combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
