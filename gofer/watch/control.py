"""The watcher's own socket: root, and who runs the server, ask there for counters (`gofer top`, `gofer metrics`); and HTTP.

A request is a line, an answer another, of JSON. Nothing here is in the way of a client of the server's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time

from gofer import Failure, failure
from gofer.jail import callnames
from gofer.output import counted
from gofer.server.admission import credentials
from gofer.sys import MACHINE
from gofer.watch.counters import BYTES, CHANNELS, ERRORS, FDS, NS, TOOK, VAIN, Page
from gofer.watch.hook import COUNTERS
from gofer.watch.messages import NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_PATIENCE = 1.0  # seconds that a worker may take to answer, or who asks here to send or take what he wants
_ROWS, _CALLS = 15, 5  # of a summary
_LONGEST = 64  # bytes of a request


def listening(path: str) -> socket.socket:
    """Failure where it cannot be."""
    sock = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        try:
            sock.bind(path)
        except OSError:
            if not abandoned(path):
                raise
            os.unlink(path)
            sock.bind(path)
        sock.listen(8)
    except OSError as e:
        sock.close()
        raise failure(f"cannot listen on {path}", e, "give --control a path that nobody uses, where you may write") from None
    finally:
        os.umask(mask)
    return sock


def abandoned(path: str) -> bool:
    """Whether a server of before has left it."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            pass
    return False


def http_listening(where: str) -> socket.socket:
    """where: PORT on the loopback, or ADDRESS:PORT."""
    address, _, port = where.rpartition(":")
    address = address.strip("[]") or "127.0.0.1"
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, int(port)))
        sock.listen(8)
    except (OSError, OverflowError, ValueError) as e:
        sock.close()
        why = e.strerror if isinstance(e, OSError) else "no such port"
        raise Failure(f"cannot listen on {where}: {why}; give --metrics-listen a free ADDRESS:PORT of this host") from None
    return sock


class Control:
    """pages, asks: of each worker. paths(): the hottest, where somebody traces."""

    def __init__(self, pages: list[Page], asks: list[int], what: bytes, paths: Callable[[], list[dict[str, Any]]]) -> None:
        self._pages, self._asks, self._paths = pages, asks, paths
        self._what = what
        self._began = time.time()
        self._names = {number: name for name, number in callnames.numbers(MACHINE).items()}

    def serve(self, listener: socket.socket) -> None:
        """One who asks: his lines until he has no more for now."""
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(_PATIENCE)
            if credentials(sock)[1] not in (0, os.getuid()):
                return
            with contextlib.suppress(OSError, ValueError):
                word = sock.recv(_LONGEST).strip()
                counters = self.counters()
                answer = prometheus(counters) if word == b"metrics" else json.dumps(counters)
                sock.sendall(answer.encode())

    def counters(self) -> dict[str, Any]:
        """All that is counted, now."""
        stale = self._ask()
        messages: dict[str, dict[str, Any]] = {}
        for page in self._pages:
            for mid, row in page.rows().items():
                told = messages.setdefault(NAMES.get(mid, f"message {mid}"), _nothing())
                told["count"] += sum(row[TOOK:])
                told["errors"] += row[ERRORS]
                told["bytes"] += row[BYTES]
                told["ns"] += row[NS]
                told["log2_ns"] = [*map(sum, zip(told["log2_ns"], row[TOOK:]))]
        calls = [call for page in self._pages for call in page.calls()]
        for call in calls:
            call["message"] = NAMES.get(call["message"], f"message {call['message']}")
        self._name_calls(calls)
        return {
            "served": os.fsdecode(self._what),
            "up_s": time.time() - self._began,
            "workers": len(self._pages),
            "silent_workers": stale,
            "fds": sum(page.number(FDS) for page in self._pages),
            "channels": sum(page.number(CHANNELS) for page in self._pages),
            "vain_s": sum(page.number(VAIN) for page in self._pages) / 1e9,
            "messages": messages,
            "connections": [conn for page in self._pages for conn in page.conns()],
            "under_way": sorted(calls, key=lambda call: -int(call["ns"])),
            "paths": self._paths(),
        }

    def summary(self) -> list[str]:
        """What is counted, in lines for the log: one screen."""
        now = self.counters()
        lines = [
            f"summary: {counted(len(now['connections']), 'connection')}, {counted(now['fds'], 'FD')}, "
            f"{counted(now['channels'], 'channel')}, {counted(now['workers'], 'worker')}, {now['silent_workers']} of them silent"
        ]
        first = sorted(now["messages"].items(), key=lambda row: -int(row[1]["ns"]))[:_ROWS]
        for name, row in first:
            mean = row["ns"] / row["count"] / 1000 if row["count"] else 0.0
            counts = f"{row['count']} requests, {row['errors']} errors, {row['bytes']} bytes"
            lines.append(f"summary: {name}: {counts}, {mean:.0f} us each, {row['ns'] / 1e9:.3f} s in all")
        for call in now["under_way"][:_CALLS]:
            where = f" in {call['call']}" if "call" in call else ""
            lines.append(f"summary: {call['message']} on client {call['fileno']}: {call['ns'] / 1e9:.1f} s{where}")
        return lines

    def _ask(self) -> int:
        """Have the pages written anew; returns how many workers have not done so in time."""
        before = [page.generation for page in self._pages]
        for fd in self._asks:
            with contextlib.suppress(OSError):
                os.write(fd, COUNTERS)
        until = time.monotonic() + _PATIENCE
        while True:
            stale = sum(page.generation == old for page, old in zip(self._pages, before))
            if not stale or time.monotonic() > until:
                return stale
            time.sleep(0.001)

    def _name_calls(self, calls: list[dict[str, Any]]) -> None:
        """The system call that each thread is in, where the kernel tells us: it takes the right to trace the server."""
        if not any(call["ns"] > 1e8 for call in calls):
            return
        tasks = _threads(os.getppid())
        for call in calls:
            for task in tasks.get(call["thread"], ()):
                with contextlib.suppress(OSError, ValueError):
                    with open(f"/proc/{task}/syscall", "rb") as file:
                        number = int(file.read().split()[0])
                    call["call"] = self._names.get(number, str(number))


def _threads(top: int) -> dict[int, list[str]]:
    """By thread id, as a thread knows itself: where the threads are below /proc that a process has, or one that it started."""
    found: dict[int, list[str]] = {}
    todo = [top]
    while todo:
        process = todo.pop()
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{process}/task"):
                with contextlib.suppress(OSError, ValueError, IndexError):
                    with open(f"/proc/{process}/task/{task}/status") as file:
                        ids = next(line.split()[1:] for line in file if line.startswith("NSpid:"))
                    found.setdefault(int(ids[-1]), []).append(f"{process}/task/{task}")
                    with open(f"/proc/{process}/task/{task}/children") as file:
                        todo += [int(word) for word in file.read().split() if int(word) != os.getpid()]
    return found


def _nothing() -> dict[str, Any]:
    return {"count": 0, "errors": 0, "bytes": 0, "ns": 0, "log2_ns": [0] * 48}


_METRICS = (
    ("count", "gofer_requests_total", "counter", "Requests served."),
    ("errors", "gofer_request_errors_total", "counter", "Requests that were refused."),
    ("bytes", "gofer_request_bytes_total", "counter", "Bytes of requests and replies."),
)
_BUCKETS = range(10, 36)  # from 1 us to half a minute


def prometheus(counters: dict[str, Any]) -> str:
    """In its text format, version 0.0.4."""
    lines = []
    for key, name, kind, text in _METRICS:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f'{name}{{message="{message}"}} {row[key]}' for message, row in counters["messages"].items()]
    name = "gofer_request_duration_seconds"
    lines += [f"# HELP {name} Time from a request's arrival to its reply.", f"# TYPE {name} histogram"]
    for message, row in counters["messages"].items():
        for bits in _BUCKETS:
            count = sum(row["log2_ns"][: bits + 1])
            lines.append(f'{name}_bucket{{message="{message}",le="{2**bits / 1e9:g}"}} {count}')
        lines.append(f'{name}_bucket{{message="{message}",le="+Inf"}} {row["count"]}')
        lines.append(f'{name}_sum{{message="{message}"}} {row["ns"] / 1e9:.9f}')
        lines.append(f'{name}_count{{message="{message}"}} {row["count"]}')
    longest = max((call["ns"] for call in counters["under_way"]), default=0) / 1e9
    for name, kind, text, value in (
        ("gofer_connections", "gauge", "Clients connected.", len(counters["connections"])),
        ("gofer_fds", "gauge", "FDs that clients hold.", counters["fds"]),
        ("gofer_channels", "gauge", "Shared-memory channels.", counters["channels"]),
        ("gofer_workers", "gauge", "Processes that serve.", counters["workers"]),
        ("gofer_silent_workers", "gauge", "Those that did not answer within a second.", counters["silent_workers"]),
        ("gofer_longest_request_seconds", "gauge", "Age of the oldest request under way.", longest),
        ("gofer_busy_poll_vain_seconds_total", "counter", "Time that was looked for requests in vain.", counters["vain_s"]),
    ):
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"


class Metrics:
    """GET /metrics, by http.server: one request at a time, and for none longer than `_PATIENCE`."""

    def __init__(self, sock: socket.socket, control: Control) -> None:
        from http.server import BaseHTTPRequestHandler, HTTPServer

        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE
            server_version, sys_version = "gofer", ""

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] in ("/", "/metrics")
                body = prometheus(control.counters()).encode() if found else b"no such page: /metrics\n"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                pass

        self._server = HTTPServer(sock.getsockname()[:2], Handler, bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = sock
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._server.timeout = 0

    def serve(self, listener: socket.socket) -> None:
        self._server.handle_request()
