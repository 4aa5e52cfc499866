"""The colors of `gofer ls`, by kind of file and by ending of its name."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.client.replies import Stat


class Colors:
    """Those of LS_COLORS (dircolors(1)): two letters or `*ENDING`, `=` and a number, between colons."""

    _DEFAULT = {
        "di": "01;34", "ln": "01;36", "pi": "33", "so": "01;35", "bd": "01;33", "cd": "01;33", "ex": "01;32", "su": "37;41",
        "sg": "30;43", "tw": "30;42", "ow": "34;42", "st": "37;44",
    }  # fmt: skip

    def __init__(self, told: str) -> None:
        self._codes = dict(self._DEFAULT)
        self._endings: list[tuple[bytes, str]] = []
        self._used = False
        for pair in told.split(":"):
            key, equals, value = pair.partition("=")
            if not equals or not all(c.isdigit() or c == ";" for c in value) and value != "target":
                continue
            if key.startswith("*"):
                self._endings.insert(0, (os.fsencode(key[1:]).lower(), value))
            else:
                self._codes[key] = value

    def follows(self, long: bool) -> bool:
        """Whether the color of a link depends on what it leads to."""
        codes = self._codes
        as_target = codes["ln"] == "target" and _is_one(codes["ex"])
        return as_target or _is_one(codes.get("or", "")) or long and _is_one(codes.get("mi", ""))

    def painted(
        self, text: bytes, name: bytes, kind: int, found: Stat | None, behind: Stat | None, target: bytes | None
    ) -> bytes:
        code = self._code(name, kind, found)
        if kind == stat.S_IFLNK:
            if target is not None and behind is None and _is_one(self._codes.get("or", "")):
                code = self._codes["or"]
            elif code == "target":
                code = self._code(name, stat.S_IFMT(behind.mode), behind) if behind else ""
        return self._in(code, text)

    def painted_target(self, text: bytes, target: bytes, behind: Stat | None) -> bytes:
        if behind is None:
            missing = self._codes.get("mi", "")
            return self._in(missing if _is_one(missing) else self._codes.get("or", ""), text)
        return self._in(self._code(target, stat.S_IFMT(behind.mode), behind), text)

    def _code(self, name: bytes, kind: int, found: Stat | None) -> str:
        mode, codes = found.mode if found else 0, self._codes
        if kind == stat.S_IFREG:
            specials = ("su", mode & stat.S_ISUID), ("sg", mode & stat.S_ISGID), ("ex", mode & 0o111)
            for key, is_it in specials:
                if is_it and _is_one(codes.get(key, "")):
                    return codes[key]
            lower = name.lower()
            return next((code for ending, code in self._endings if lower.endswith(ending)), codes.get("fi", ""))
        if kind == stat.S_IFDIR:
            sticky, others = mode & stat.S_ISVTX, mode & 0o002
            specials = ("tw", sticky and others), ("ow", others), ("st", sticky)
            return next((codes[key] for key, is_it in specials if is_it and _is_one(codes.get(key, ""))), codes.get("di", ""))
        letters = {stat.S_IFLNK: "ln", stat.S_IFIFO: "pi", stat.S_IFSOCK: "so", stat.S_IFBLK: "bd", stat.S_IFCHR: "cd"}
        return codes.get(letters.get(kind, ""), "")

    def _in(self, code: str, text: bytes) -> bytes:
        if not _is_one(code):
            return text
        begin = b"" if self._used else b"\033[0m"
        self._used = True
        return begin + b"\033[" + code.encode() + b"m" + text + b"\033[0m"


def _is_one(code: str) -> bool:
    return code not in ("", "0", "00")
