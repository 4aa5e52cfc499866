"""JSON without the `json` package: that imports `re`, and both together cost a quarter of a start.

The scanner and the string encoder are the C ones that `json` itself uses (module _json, the same in
CPython 3.9 to 3.15); where they are missing, `json` serves. Strings are written as Go's encoding/json writes
them: compact, UTF-8, with < > & and the two line separators escaped.
"""

from __future__ import annotations

from gofer.runsc.errors import Fault

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Context:
    """What the C scanner asks of a decoder."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None  # the last: CPython 3.15
    parse_float = float
    parse_int = int

    @staticmethod
    def parse_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")


try:
    from _json import encode_basestring, make_scanner  # type: ignore[import-not-found, unused-ignore]

    _scan: Any = make_scanner(_Context)  # type: ignore[arg-type, unused-ignore]
except ImportError:
    import json
    from json.encoder import encode_basestring

    _scan = json.decoder.JSONDecoder(strict=True).scan_once  # type: ignore[attr-defined]

_BLANK = " \t\r\n"


def decode(data: bytes, what: str) -> Any:
    """The value that data holds; Fault, naming `what`, where it is not one JSON text. Bytes that are not UTF-8 become
    U+FFFD, as in Go."""
    text = data.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(_BLANK))
    try:
        value, end = _scan(text, start)
        if not text[end:].strip(_BLANK):
            return value
    except Exception:  # the bare scanner says StopIteration or SystemError, and not why
        pass
    import json

    try:
        return json.loads(text, parse_constant=_Context.parse_constant)
    except RecursionError:
        raise Fault(f"{what}: not JSON that can be read: nested too deep") from None
    except ValueError as error:
        raise Fault(f"{what}: not JSON: {error}") from None


def go_string(text: str) -> str:
    """text as Go would have read it: half a surrogate pair, which UTF-8 cannot hold, is U+FFFD."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode_string(text: str) -> str:
    """A JSON string as Go writes it."""
    out: str = encode_basestring(text)
    for character, escape in _ESCAPES:
        if character in out:
            out = out.replace(character, escape)
    return out


_ESCAPES = tuple((character, f"\\u{ord(character):04x}") for character in "<>&\u2028\u2029")
