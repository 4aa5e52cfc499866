"""runsc's two logs, both handed over as fds: --log-fd for what users and container engines see, --debug-log-fd for us.

Formats as gVisor's pkg/log and runsc/cmd/util write them. Nothing here opens a path once the root has changed: times are
local, so the zone is read at once. Nothing here waits for whoever reads them: see gofer/sink.py.
"""

from __future__ import annotations

import os
import time

from gofer.log import Log
from gofer.runsc.errors import Fault
from gofer.runsc.gojson import encode_string, go_string
from gofer.sink import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.runsc.flags import Globals

_LETTERS = {"debug": "D", "info": "I", "warning": "W", "error": "W"}  # Go's log has no level above warning
_NAMES = {"D": "debug", "I": "info", "W": "warning"}
_MOST = 16384  # characters of one line; more is cut, lest a client of many words fill the host's disk with few


SPEAKS_9P = "this runsc speaks 9P to its gofer, and this one LISAFS: start it with --lisafs (2021-09 or later; and with --vfs2)"


class RunscLog(Log):
    """The debug log, and the way a start ends. error_fd, debug_fd: -1 where there is none, borrowed.

    own_fd: where error_fd was opened by us.
    """

    def __init__(self, debug: bool, form: str, debug_fd: int, error_fd: int, own_fd: int = -1) -> None:
        super().__init__("debug" if debug else "info", fd=debug_fd)
        time.localtime()  # reads /etc/localtime, which has another meaning in the new root
        self._format = form
        self._debug_fd = debug_fd
        self._errors, self._stderr = Sink(error_fd), Sink(2)
        self.fds += (*self._errors.fds, *self._stderr.fds, own_fd)

    def write(self, level: str, message: str) -> None:
        if self._debug_fd < 0 or (level == "debug" and not self.debugging):
            return
        now, letter = time.time_ns(), _LETTERS[level]
        text = f"{_caller()}] {message[:_MOST]}"
        if self._format == "text":
            stamp = time.strftime("%m%d %H:%M:%S", time.localtime(now // 10**9))
            line = f"{letter}{stamp}.{now // 1000 % 10**6:06d} {os.getpid():7d} {text}\n"
        else:
            key = "msg" if self._format == "json" else "log"
            members = f'"{key}":{encode_string(go_string(text))},"level":"{_NAMES[letter]}","time":"{_rfc3339(now)}"'
            line = "{" + members + "}\n"
        self._out.put(_encoded(line))

    def met_9p(self, client: int) -> None:
        """At once: runsc kills a gofer whose sandbox has ended."""
        self.fatal(SPEAKS_9P)

    def fatal(self, text: str) -> None:
        """The end of a start, in one line to each: the debug log, stderr, and what the container engine reads."""
        text = " ".join(text.split("\n"))[:_MOST]
        self.write("warning", "FATAL ERROR: " + text)
        if not _same_file(2, self._debug_fd):
            self._stderr.put(_encoded(f"gofer: {text}\n"))
        members = f'"msg":{encode_string(go_string(text))},"level":"error","time":"{_rfc3339(time.time_ns())}"'
        self._errors.put(_encoded("{" + members + "}\n"))
        for output in (self._out, self._stderr, self._errors):
            output.finish()

    def trace(self, error: BaseException) -> None:
        """Where it happened, innermost last. The module `traceback` may be out of reach by now, and its source lines too."""
        step = error.__traceback__
        while step:
            code = step.tb_frame.f_code
            self.info(f"  {code.co_filename}:{step.tb_lineno} {code.co_name}")
            step = step.tb_next


def open_logs(flags: Globals) -> RunscLog:
    """As runsc's own flags say. Fault: where they cannot be."""
    error_fd, own_fd = flags.log_fd, -1
    if error_fd < 0 and flags.log:
        # started by hand: runsc hands over the fd
        try:
            error_fd = own_fd = os.open(flags.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise Fault(f"--log={flags.log}: {error.strerror}") from None
    if flags.debug_log_fd >= 0:
        try:
            os.dup2(flags.debug_log_fd, 2, inheritable=False)  # where a traceback, if it comes to that, can be found
        except OSError:
            raise Fault(f"--debug-log-fd={flags.debug_log_fd}: no such file descriptor is open") from None
    return RunscLog(flags.debug, flags.debug_log_format, flags.debug_log_fd, error_fd, own_fd)


def _encoded(line: str) -> bytes:
    return line.encode("utf-8", "replace")


def _same_file(one: int, other: int) -> bool:
    """stderr is the debug log where runsc gave us one (see gofer.py): say it there once."""
    try:
        return other >= 0 and os.path.sameopenfile(one, other)
    except OSError:
        return False


class _Here(Exception):
    """Raised to look at the stack: that way is open without the standard sys module."""


def _caller() -> str:
    """ "file.py:123", of the innermost caller that is not a logging module."""
    try:
        raise _Here
    except _Here as here:
        assert here.__traceback__ is not None
        frame = here.__traceback__.tb_frame.f_back
    while frame and frame.f_code.co_filename.endswith(("/log.py", "/logs.py")):
        frame = frame.f_back
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else "???:0"


def _rfc3339(ns: int) -> str:
    """A time as Go writes it: nanoseconds without trailing zeros, Z or the zone's offset."""
    seconds, rest = divmod(ns, 10**9)
    local = time.localtime(seconds)
    offset = local.tm_gmtoff // 60
    sign, minutes = ("-", -offset) if offset < 0 else ("+", offset)
    zone = f"{sign}{minutes // 60:02d}:{minutes % 60:02d}" if offset else "Z"
    fraction = f".{rest:09d}".rstrip("0").rstrip(".")
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + fraction + zone
