"""What a trace comes to: by message, by path, by connection."""

from __future__ import annotations

from gofer.watch.lines import quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.watch.paths import Seen

_HOTTEST = 10  # files and directories
_MOST_PATHS = 100_000  # that are kept apart


class Tally:
    """A number of requests. took: of each, in ns."""

    __slots__ = ("bytes", "errors", "took")

    def __init__(self) -> None:
        self.took: list[int] = []
        self.errors = 0
        self.bytes = 0

    def add(self, seen: Seen) -> None:
        entry = seen.entry
        self.took.append(entry.took)
        self.errors += bool(entry.errno)
        self.bytes += entry.asked + entry.answered

    def row(self, whole: int) -> dict[str, Any]:
        """In microseconds. whole: ns of all together."""
        self.took.sort()
        total = sum(self.took)
        return {
            "count": len(self.took),
            "errors": self.errors,
            "bytes": self.bytes,
            **{f"p{part}_us": self._part(part) / 1000 for part in (50, 90, 99)},
            "max_us": self.took[-1] / 1000,
            "share": total / whole if whole else 0.0,
        }

    def _part(self, part: int) -> int:
        return self.took[min(len(self.took) - 1, len(self.took) * part // 100)]


class Summary:
    def __init__(self) -> None:
        self._messages: dict[str, Tally] = {}
        self._paths: dict[bytes, list[int]] = {}  # count, ns
        self._directories: dict[bytes, list[int]] = {}
        self._conns: dict[str, Tally] = {}
        self.lost = 0
        self._whole = 0

    def add(self, seen: Seen) -> None:
        self._whole += seen.entry.took
        self._messages.setdefault(seen.name, Tally()).add(seen)
        self._conns.setdefault(str(seen.entry.conn), Tally()).add(seen)
        for path in seen.paths[:1]:
            _count(self._paths, path, seen.entry.took)
            _count(self._directories, path.rpartition(b"/")[0] or b"/", seen.entry.took)

    def object(self) -> dict[str, Any]:
        return {
            "messages": self._rows(self._messages),
            "connections": self._rows(self._conns),
            "files": self._hottest(self._paths),
            "directories": self._hottest(self._directories),
            "lost": self.lost,
        }

    def _rows(self, tallies: dict[str, Tally]) -> dict[str, dict[str, Any]]:
        rows = {name: tally.row(self._whole) for name, tally in tallies.items()}
        return dict(sorted(rows.items(), key=lambda row: -row[1]["share"]))

    def _hottest(self, found: dict[bytes, list[int]]) -> list[dict[str, Any]]:
        first = sorted(found.items(), key=lambda each: -each[1][1])[:_HOTTEST]
        return [
            {"path": quoted(path), "count": count, "share": ns / self._whole if self._whole else 0.0}
            for path, (count, ns) in first
        ]

    def text(self) -> str:
        all_of_it = self.object()
        lines = [table("message", all_of_it["messages"]), table("connection", all_of_it["connections"])]
        for title in ("files", "directories"):
            lines.append("\n".join([f"hottest {title}", *(
                f"{each['count']:>10} {each['share']:>6.1%}  {each['path']}" for each in all_of_it[title]
            )]))  # fmt: skip
        if self.lost:
            lines.append(f"{self.lost} records were lost: they came faster than they could be written")
        return "\n\n".join(lines)


def table(title: str, rows: dict[str, dict[str, Any]]) -> str:
    head = f"{title:<18}{'count':>10}{'errors':>8}{'bytes':>14}{'p50 us':>9}{'p90 us':>9}{'p99 us':>9}{'max us':>11}{'time':>8}"
    lines = [head]
    for name, row in rows.items():
        times = "".join(f"{row[f'p{part}_us']:>9.0f}" for part in (50, 90, 99))
        counts = f"{row['count']:>10}{row['errors']:>8}{row['bytes']:>14}"
        lines.append(f"{name:<18}{counts}{times}{row['max_us']:>11.0f}{row['share']:>8.1%}")
    return "\n".join(lines)


def _count(found: dict[bytes, list[int]], path: bytes, ns: int) -> None:
    if path not in found and len(found) >= _MOST_PATHS:
        return
    counted = found.setdefault(path, [0, 0])
    counted[0] += 1
    counted[1] += ns
