"""What a command says to whoever started it: its output on fd 1, whole or not at all a success, and lines on fd 2."""

from __future__ import annotations

import posix  # and not `os`, which the launcher of containers (runsc/redirect.py) has no time for

from gofer import Failure


class Unread(Exception):
    """Whoever read the output has enough: `gofer cat ... | head`."""


def fill_standard_fds() -> None:
    """Take the numbers 0 to 2 where the caller left them closed (`>&-`), or what is opened next gets them: a connection, to which
    the output would go. What takes them acts as if closed: an end for input, EBADF for output. A program that is
    started finds them closed, as they were: they do not outlive exec(3).
    """
    while True:
        reader, writer = posix.pipe()
        posix.close(writer)
        if reader > 2:
            posix.close(reader)
            return


def put(data: bytes | memoryview) -> None:
    """To fd 1, all of it. Failure where that cannot be, Unread where nobody wants it."""
    while data:
        try:
            data = data[posix.write(1, data) :]
        except BlockingIOError:  # somebody has made the terminal, or the pipe, non-blocking, for us as well
            _wait_for_room()
        except BrokenPipeError:
            raise Unread from None
        except OSError as e:
            raise Failure(f"cannot write the output: {e.strerror}; give it a place that can be written to") from None


def counted(number: int, what: str) -> str:
    """A number of things, by the word for one."""
    many = what[:-1] + "ies" if what.endswith("ry") else what + "s"
    return f"{number} {what if number == 1 else many}"


def say(line: str) -> None:
    """One line, by `put`."""
    put(line.encode("utf-8", "backslashreplace") + b"\n")


def tell(line: str) -> None:
    """One line on fd 2, which may be closed."""
    try:
        posix.write(2, line.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass


def printable(name: bytes) -> str:
    """A name as one line shows it: control characters would let a file speak to the terminal."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _wait_for_room() -> None:
    import select

    select.select([], [1], [])
