"""Messages to stderr (or another fd): text lines or JSON objects.

`logging` would cost 6 ms of a start-up that is measured against 20 in all; what is needed of it is a threshold, two formats
and one write(2) a line. A line is bounded, what a client sent is never in it, and a full pipe or a closed stderr is no error.
"""

from __future__ import annotations

import os
import time

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "off": 100}
_MOST = 4096  # bytes of one line: a single write to a pipe that others' lines do not split


class Log:
    """threshold: a name of LEVELS; form: "text" or "json"; fd: where to, borrowed."""

    def __init__(self, threshold: str = "info", form: str = "text", fd: int = 2) -> None:
        self.level = LEVELS[threshold]
        self.debugging = self.level <= LEVELS["debug"]
        self._form = form
        self._fd = fd
        if form == "json":
            import json  # now, not at the first line: by then the file system may be out of reach

            self._json = json.dumps

    def write(self, level: str, message: str) -> None:
        if LEVELS[level] < self.level:
            return
        if self._form == "json":
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            line = self._json({"time": stamp, "level": level, "msg": message[: _MOST // 2]})
        else:
            prefix = "" if level == "info" else f"{level}: "
            line = f"gofer: {prefix}{message}"
        try:
            os.write(self._fd, line.encode("utf-8", "backslashreplace")[: _MOST - 1] + b"\n")
        except OSError:
            pass

    def debug(self, message: str) -> None:
        self.write("debug", message)

    def info(self, message: str) -> None:
        self.write("info", message)

    def warning(self, message: str) -> None:
        self.write("warning", message)

    def error(self, message: str) -> None:
        self.write("error", message)
