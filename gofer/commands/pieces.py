"""Contents as --json tells them, whatever their size: an object for each piece, with its file and where in that it begins.

    {"path": "log", "offset": 0, "text": "one\\ntwo\\n"}
    {"path": "log", "offset": 8, "base64": "/wA="}

A piece that is UTF-8 is text, with each letter whole; another is base64. An empty file is one piece of no text.
"""

from __future__ import annotations

import contextlib
from binascii import b2a_base64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Callable

    from gofer.commands.common import Session

_CUT = "unexpected end of data"  # as the decoder calls a letter whose end is missing


@contextlib.contextmanager
def told(session: Session, json: bool, path: bytes) -> Iterator[Callable[[bytes | memoryview], None]]:
    """What writes the contents of that file, from its beginning: as they are, or as pieces."""
    if not json:
        yield session.write
        return
    pieces = Pieces(session, path)
    yield pieces.write
    pieces.close()


class Pieces:
    """Of one file. `write` what comes next in it; `close` when no more comes."""

    def __init__(self, session: Session, path: bytes, offset: int = 0) -> None:
        self._session = session
        self._path = path
        self._offset = offset
        self._rest = b""  # the beginning of a letter
        self._told = False

    def write(self, data: bytes | memoryview) -> None:
        data, self._rest = self._rest + data, b""
        try:
            self._tell(data, text=data.decode())
        except UnicodeDecodeError as error:
            if error.reason != _CUT:
                self._tell(data, base64=b2a_base64(data, newline=False).decode())
                return
            self._rest = data[error.start :]
            if error.start:
                self._tell(data[: error.start], text=data[: error.start].decode())

    def go_to(self, offset: int) -> None:
        """What comes next begins there."""
        self._flush()
        self._offset = offset

    def close(self) -> None:
        self._flush()
        if not self._told:
            self._tell(b"", text="")

    def _flush(self) -> None:
        rest, self._rest = self._rest, b""
        if rest:
            self._tell(rest, base64=b2a_base64(rest, newline=False).decode())

    def _tell(self, data: bytes, **shown: str) -> None:
        self._session.write_json({"path": self._path, "offset": self._offset, **shown})
        self._offset += len(data)
        self._told = True
