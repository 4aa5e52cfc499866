"""`gofer ls`, `gofer cat`, `gofer stat`: look at what a server serves, through its own protocol."""

from __future__ import annotations

import os
import stat
import time
from errno import ELOOP

from gofer import Failure
from gofer.client.reach import is_socket, reach
from gofer.client.transport import Lost
from gofer.commands.options import explaining, seconds
from gofer.output import printable, put, tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.client import Client
    from gofer.client.replies import Dirent, Inode, Stat

_KINDS = {
    stat.S_IFREG: "regular file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device", stat.S_IFBLK: "block device",
}  # fmt: skip
_DT_BLK = 6
_MOST = 1 << 20  # bytes of one read
_OVERHEAD = 64  # at most, of a reply beside its data


_HELP = {"ls": "List a directory", "cat": "Print a file", "stat": "Show a file's attributes"}


def add(parser: ArgumentParser) -> None:
    parser.description = f"{_HELP[parser.get_default('subcommand')]}, through a server's own protocol."
    parser.add_argument("socket", metavar="SOCKET", nargs="?", help="the server's socket (default: $GOFER_SOCKET)")
    parser.add_argument("path", metavar="PATH", nargs="?", default="/", help="inside what is served (default: /)")
    parser.add_argument(
        "--timeout",
        type=explaining(seconds),
        default=30.0,
        metavar="SECONDS",
        help="give up when the server has not answered for so long; 0: never (default: 30)",
    )


def run(options: Any) -> int:
    """Run `options.subcommand`; returns the exit status."""
    socket_path, path = _where(options.socket, options.path)
    with reach(socket_path, options.timeout) as client:
        try:
            return _LOOKS[options.subcommand](client, path)
        except Lost:
            raise
        except OSError as error:
            raise Failure(f"{options.subcommand} {path}: {_why(error)}") from None


def _where(first: str | None, second: str) -> tuple[str, str]:
    """The socket and the path: the socket may stay away where GOFER_SOCKET tells it."""
    known = os.environ.get("GOFER_SOCKET")
    if known and (first is None or (second == "/" and not is_socket(first))):
        return known, first or "/"
    if not first:
        raise Failure("which server? give the path of its socket, or set GOFER_SOCKET")
    return first, second


def _why(error: OSError) -> str:
    if error.errno == ELOOP and isinstance(error.filename, bytes):
        link = printable(error.filename)
        return f"{link} is a symbolic link, and none is followed: give the path that it leads to (gofer stat tells it)"
    return error.strerror or str(error)


def _ls(client: Client, path: str) -> int:
    """One line an entry, sorted: mode, links, owner, group, size, time of change, name. What goes wrong costs one entry."""
    node = client.lookup(path)
    if not stat.S_ISDIR(node.stat.mode):
        put(_line(node.stat, os.fsencode(path.rstrip("/").rpartition("/")[2] or path), _target(client, node)))
        return 0
    entries, status = _entries(client, path, node.fd)
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            line = _entry(client, node.fd, entry.name)
        except Lost:
            raise
        except OSError as error:
            why = "block devices are never served" if entry.type == _DT_BLK else _why(error)
            tell(f"gofer: ls {path.rstrip('/')}/{printable(entry.name)}: {why}")
            line, status = _unknown(entry), 1
        put(line)
    return status


def _entries(client: Client, path: str, fd: int) -> tuple[list[Dirent], int]:
    """As many as can be had, and the exit status for that."""
    entries: list[Dirent] = []
    try:
        for entry in client.listdir(fd):
            entries.append(entry)
    except Lost:
        raise
    except OSError as error:
        if not entries:
            raise
        tell(f"gofer: ls {path}: {_why(error)}: there may be more in it than what is listed")
        return entries, 1
    return entries, 0


def _entry(client: Client, directory: int, name: bytes) -> bytes:
    """Its line; none where it has vanished meanwhile."""
    found = client.walkstat(directory, [name])
    if not found:
        return b""
    if not stat.S_ISLNK(found[0].mode):
        return _line(found[0], name)
    _, nodes = client.walk(directory, [name])  # to read the target, which takes an FD
    if not nodes:
        return b""
    try:
        return _line(nodes[0].stat, name, _target(client, nodes[0]))
    finally:
        if not client.lost:
            client.close_fds(nodes[0].fd)


def _target(client: Client, node: Inode) -> bytes:
    return client.readlinkat(node.fd) if stat.S_ISLNK(node.stat.mode) else b""


def _line(s: Stat, name: bytes, target: bytes = b"") -> bytes:
    size = f"{s.rdev[0]},{s.rdev[1]}" if stat.S_ISCHR(s.mode) else s.size
    when = _when(s.mtime[0], "%Y-%m-%d %H:%M")
    arrow = f" -> {printable(target)}" if target else ""
    line = f"{stat.filemode(s.mode)} {s.nlink:3} {s.uid:5} {s.gid:5} {size:>10} {when:>16} {printable(name)}{arrow}\n"
    return line.encode()


def _unknown(entry: Dirent) -> bytes:
    """The line of what cannot be looked at: its type is told by the directory."""
    kind = stat.filemode(entry.type << 12)[0]
    return f"{kind}????????? {'?':>3} {'?':>5} {'?':>5} {'?':>10} {'?':>16} {printable(entry.name)}\n".encode()


def _cat(client: Client, path: str) -> int:
    node = client.lookup(path)
    if stat.S_ISLNK(node.stat.mode):
        link = f"it is a symbolic link to {printable(client.readlinkat(node.fd))}"
        raise Failure(f"cat {path}: {link}, and none is followed: give the path that it leads to")
    if not stat.S_ISREG(node.stat.mode):
        raise Failure(f"cat {path}: it is a {_kind(node.stat)}, and only regular files are read")
    most = min(_MOST, client.max_message_size - _OVERHEAD)
    with client.opened(node.fd) as fd:
        offset = 0
        while data := client.pread(fd, most, offset):
            offset += len(data)
            put(data)
    return 0


def _stat(client: Client, path: str) -> int:
    node = client.lookup(path)
    s, link = node.stat, stat.S_ISLNK(node.stat.mode)
    lines = [
        ("path", printable(os.fsencode(path))),
        ("type", _kind(s) + (f" to {printable(client.readlinkat(node.fd))}" if link else "")),
        ("mode", f"{stat.S_IMODE(s.mode):04o} {stat.filemode(s.mode)}"),
        ("owner", f"{s.uid}:{s.gid}"),
        ("size", f"{s.size} ({s.blocks * 512} on disk)"),
        ("links", s.nlink),
        ("inode", f"{s.ino} on device {s.dev[0]}:{s.dev[1]}"),
        *((name, _exactly(*getattr(s, name))) for name in ("atime", "mtime", "ctime")),
    ]
    if s.mask & 0x800:
        lines.append(("btime", _exactly(*s.btime)))
    put("".join(f"{name:6} {value}\n" for name, value in lines).encode())
    return 0


def _kind(s: Stat) -> str:
    return _KINDS.get(stat.S_IFMT(s.mode), "file of an unknown type")


def _exactly(seconds: int, nanoseconds: int) -> str:
    return f"{_when(seconds, '%Y-%m-%d %H:%M:%S')}.{nanoseconds:09}"


def _when(seconds: int, form: str) -> str:
    """In local time; in seconds since 1970 what is beyond the years that the C library can count to."""
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OSError, OverflowError, ValueError):
        return str(seconds)


_LOOKS = {"ls": _ls, "cat": _cat, "stat": _stat}
