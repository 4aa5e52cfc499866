"""A command as somebody at a terminal has it."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from typing import Optional

from gofer.conform.transport import PATIENCE

__all__ = ["Terminal"]


class Terminal:
    """A command on a pty. What it says is read as it comes."""

    def __init__(
        self, *argv: str, size: "tuple[int, int]" = (25, 80), env: "Optional[dict[str, str]]" = None, **environment: str
    ) -> None:
        """size: lines, columns. env: all of its environment, in place of this process's."""
        self.said = ""
        env = env or {**os.environ, "TERM": "dumb", "INPUTRC": "/dev/null", **environment}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("4H", *size, 0, 0))
            os.execvpe(argv[0], argv, env)

    def __enter__(self) -> "Terminal":
        """Until its end, of which `close` tells; a test that fails does not wait for that."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.close()

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def interrupt(self, pattern: str) -> None:
        """Ctrl-C, again where it was in vain: Python's readline does not see one that comes while it draws."""
        for _ in range(int(PATIENCE)):
            self.type("\x03")
            with contextlib.suppress(AssertionError):
                self.wait_for(pattern, 1.0)
                return
        self.wait_for(pattern)

    def wait_for(self, pattern: str, patience: float = PATIENCE) -> str:
        """What was said up to there; the next wait begins behind it."""
        deadline = time.monotonic() + patience
        while not (found := re.search(pattern, self.said)):
            assert select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0], f"{pattern!r}: {self.said!r}"
            try:
                self.said += os.read(self.fd, 65536).decode("utf-8", "replace")
            except OSError:  # EIO: it has ended
                raise AssertionError(f"ended without {pattern!r}: {self.said!r}") from None
        before, self.said = self.said[: found.end()], self.said[found.end() :]
        return before

    def close(self) -> int:
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status
