"""Messages to stderr (or another fd): text lines or JSON objects.

`logging` would cost 6 ms of a start-up that is measured against 20 in all; what is needed of it is a threshold, two formats
and one write(2) a line. A line is bounded, what a client sent is never in it, and a full pipe or a closed stderr is no error:
the line is lost, nobody waits (sink.py). Whatever a client can bring about again and again, on one connection or on many, goes
by `limited`: a flood of it cannot fill a disk. (At the level "debug" every refused request is told; that is what it is for.)
"""

from __future__ import annotations

import time

from gofer.sink import Sink

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "off": 100}
_MOST = 4096  # bytes of one line: a single write to a pipe that others' lines do not split
_BURST, _PAUSE = 100, 10.0  # lines of one kind at once, and then one in so many seconds: about a megabyte a day


class Log:
    """threshold: a name of LEVELS; form: "text" or "json"; fd: where to, borrowed.

    To be made before fds are closed and the root changes; what it holds open is in `fds`.
    """

    def __init__(self, threshold: str = "info", form: str = "text", fd: int = 2) -> None:
        self.level = LEVELS[threshold]
        self.debugging = self.level <= LEVELS["debug"]
        self._form = form
        self._out = Sink(fd)
        self.fds = self._out.fds
        self._kinds: dict[str, list[float]] = {}  # of `limited`: lines it has left, since when, and how many it lost
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
        self._put(line)

    def met_9p(self, client: int) -> None:
        self.limited("warning", "9p", f"client {client}: dropped: it speaks 9P, and this server LISAFS")

    def limited(self, level: str, kind: str, message: str) -> None:
        """As `write`, for what a client can repeat. kind: what is counted as the same; not to be made of what a client sent."""
        now = time.monotonic()
        budget = self._kinds.setdefault(kind, [_BURST, now, 0])
        left, since, lost = budget
        left = min(_BURST, left + (now - since) / _PAUSE)
        if left < 1:
            budget[:] = left, now, lost + 1
            return
        budget[:] = left - 1, now, 0
        self.write(level, f"{message} ({lost:.0f} more like it were not logged)" if lost else message)

    def _put(self, line: str) -> None:
        self._out.put(line.encode("utf-8", "backslashreplace")[: _MOST - 1] + b"\n")

    def fatal(self, message: str) -> None:
        """What ends the process: told whatever the threshold is, and as a line of text."""
        self._put(f"gofer: {message}")
        self._out.finish()

    def debug(self, message: str) -> None:
        self.write("debug", message)

    def info(self, message: str) -> None:
        self.write("info", message)

    def warning(self, message: str) -> None:
        self.write("warning", message)

    def error(self, message: str) -> None:
        self.write("error", message)
