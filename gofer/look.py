"""`gofer ls`, `gofer cat`, `gofer stat`: look at what a server serves, through its own protocol."""

from __future__ import annotations

import os
import stat
import time

from gofer import Failure
from gofer.client import Client, Inode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_KINDS = {
    stat.S_IFREG: "regular file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symbolic link", stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket", stat.S_IFCHR: "character device",
}  # fmt: skip


def run(options: Any) -> int:
    """Run `options.subcommand`; returns the exit status."""
    socket_path, path = _where(options.socket, options.path)
    try:
        client = Client.connect(socket_path)
    except OSError as e:
        raise Failure(
            f"cannot connect to {socket_path}: {e.strerror or e}; is the server running (gofer serve)?"
        ) from None
    with client:
        try:
            _LOOKS[options.subcommand](client, path)
        except BrokenPipeError:
            raise
        except OSError as e:
            raise Failure(f"{options.subcommand} {path}: {e.strerror or e}") from None
    return 0


def _where(first: str | None, second: str) -> tuple[str, str]:
    """The socket and the path: the socket may stay away where GOFER_SOCKET tells it."""
    known = os.environ.get("GOFER_SOCKET")
    if known and (first is None or (second == "/" and not _is_socket(first))):
        return known, first or "/"
    if first is None:
        raise Failure("which server? give the path of its socket, or set GOFER_SOCKET")
    return first, second


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _ls(client: Client, path: str) -> None:
    """One line an entry, sorted: mode, links, owner, group, size, time of change, name."""
    node = client.lookup(path)
    if not stat.S_ISDIR(node.stat.mode):
        _print(_line(client, node, os.fsencode(path.rstrip("/").rpartition("/")[2] or path)))
        return
    for name in sorted(entry.name for entry in client.listdir(node.fd)):
        _, found = client.walk(node.fd, [name])
        if found:  # else it vanished meanwhile
            _print(_line(client, found[0], name))
            client.close_fds(found[0].fd)


def _line(client: Client, node: Inode, name: bytes) -> bytes:
    s = node.stat
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(s.mtime[0]))
    size = f"{s.rdev[0]},{s.rdev[1]}" if stat.S_ISCHR(s.mode) else s.size
    line = f"{stat.filemode(s.mode)} {s.nlink:3} {s.uid:5} {s.gid:5} {size:>10} {when} ".encode() + _printable(name)
    if stat.S_ISLNK(s.mode):
        line += b" -> " + _printable(client.readlinkat(node.fd))
    return line


def _cat(client: Client, path: str) -> None:
    node = client.lookup(path)
    with client.opened(node.fd) as fd:
        offset = 0
        while data := client.pread(fd, 1 << 20, offset):
            offset += len(data)
            while data:
                data = data[os.write(1, data) :]


def _stat(client: Client, path: str) -> None:
    s = client.lookup(path).stat
    lines = [
        ("path", os.fsencode(path).decode("utf-8", "backslashreplace")),
        ("type", _KINDS.get(stat.S_IFMT(s.mode), "unknown")),
        ("mode", f"{stat.S_IMODE(s.mode):04o} {stat.filemode(s.mode)}"),
        ("owner", f"{s.uid}:{s.gid}"),
        ("size", f"{s.size} ({s.blocks * 512} on disk)"),
        ("links", s.nlink),
        ("inode", f"{s.ino} on device {s.dev[0]}:{s.dev[1]}"),
        *((name, _when(*getattr(s, name))) for name in ("atime", "mtime", "ctime")),
    ]
    if s.mask & 0x800:
        lines.append(("btime", _when(*s.btime)))
    for name, value in lines:
        _print(f"{name:6} {value}".encode())


def _when(seconds: int, nanoseconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{nanoseconds:09}"


def _printable(name: bytes) -> bytes:
    """A name as one line shows it: control characters would let a file speak to the terminal."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text).encode()


def _print(line: bytes) -> None:
    os.write(1, line + b"\n")


_LOOKS = {"ls": _ls, "cat": _cat, "stat": _stat}
