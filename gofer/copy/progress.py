"""What a person sees of a copy: on a terminal one line that is written over, else a line now and then; and one at the end.

12 files, 3.4 GiB of 9.1 GiB, 512 MiB/s, 0:11 left
"""

from __future__ import annotations

import os
import time

from gofer.output import tell

_EVERY = 0.2  # seconds between two of them on a terminal
_RARELY = 10.0  # and where each is a line of a log
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class Progress:
    """Each call may raise KeyboardInterrupt: see `interrupt`."""

    def __init__(self, quiet: bool) -> None:
        self.total: int | None = 0  # bytes that there are to copy, where that is known
        self.files = self.bytes = self.equals = 0
        self.interrupted = False
        self._quiet = quiet
        self._terminal = os.isatty(2)
        self._began = self._next = time.monotonic()
        self._next += _EVERY if self._terminal else _RARELY
        self._before = self._equal_bytes = 0  # bytes of unfinished files, and of whole ones, that were there when it began
        self._shown = False

    def interrupt(self) -> None:
        """End it where nothing is left half done that could not be left so."""
        self.interrupted = True

    @property
    def watched(self) -> bool:
        return self._terminal and not self._quiet

    def expect(self, size: int | None) -> None:
        """So much more is to be copied; None: nobody knows how much."""
        self.total = None if size is None or self.total is None else self.total + size

    def moved(self, count: int) -> None:
        self.bytes += count
        if self.interrupted:
            raise KeyboardInterrupt
        if not self._quiet and time.monotonic() >= self._next:
            self._show()

    def skipped(self, count: int) -> None:
        """Bytes that are there already."""
        self._before += count
        self.moved(count)

    def file(self) -> None:
        self.files += 1
        self.moved(0)

    def equal(self, size: int = 0) -> None:
        """One that is there already, and has so many bytes."""
        self.equals += 1
        self._equal_bytes += size
        self.moved(0)

    def sums(self) -> dict[str, float]:
        """For programs."""
        seconds = round(time.monotonic() - self._began, 3)
        return {"files": self.files, "bytes": self.bytes, "equal": self.equals, "seconds": seconds}

    def line(self) -> str:
        parts = [f"{self.files} file{'s' if self.files != 1 else ''}", size(self.bytes)]
        spent = time.monotonic() - self._began
        rate = (self.bytes - self._before) / spent if spent > 0 else 0.0
        if self.total:
            parts[1] += f" of {size(self.total)}"
        if rate:
            parts.append(f"{size(int(rate))}/s")
        if self.total and rate:
            parts.append(f"{_clock(max(0, self.total - self.bytes - self._equal_bytes) / rate)} left")
        return ", ".join(parts)

    def _show(self) -> None:
        now = time.monotonic()
        self._next = now + (_EVERY if self._terminal else _RARELY)
        if self._terminal:
            self._shown = True
            _write(b"\r\x1b[K" + self.line().encode()[: _columns() - 1])
        else:
            tell(f"gofer: {self.line()}")

    def clear(self) -> None:
        """Before another line is written."""
        if self._shown:
            self._shown = False
            _write(b"\r\x1b[K")

    def end(self) -> None:
        """The last line, which stays."""
        self.clear()
        if not self._quiet:
            seconds = time.monotonic() - self._began
            same = f"; {self.equals} {'are' if self.equals != 1 else 'is'} there already" if self.equals else ""
            tell(
                f"gofer: {self.files} file{'s' if self.files != 1 else ''}, {size(self.bytes)} in {seconds:.1f} s{same}"
            )


def size(count: int) -> str:
    """For people."""
    number = float(count)
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{count} bytes" if unit == "bytes" else f"{number:.1f} {unit}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.999), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _columns() -> int:
    try:
        return os.get_terminal_size(2).columns or 80  # 0: nobody has told it
    except OSError:
        return 80


def _write(data: bytes) -> None:
    try:
        os.write(2, data)
    except OSError:
        pass
