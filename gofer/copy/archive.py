"""What a tar stream has of a file: tarfile's pax format makes and reads the headers, the rest is ours, in one pass of any size.

What the format has no field for is in pax records: times to the nanosecond, xattrs (SCHILY.xattr.NAME, as GNU tar and bsdtar
have them), names and numbers of any length.
"""

from __future__ import annotations

import os
import stat as modes
import tarfile
from errno import EINVAL, EPERM

from gofer.client.replies import Stat
from gofer.copy.names import possible
from gofer.copy.settle import kept

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from gofer.copy.sides import Xattrs

_XATTR = "SCHILY.xattr."
_TYPES = {
    modes.S_IFREG: tarfile.REGTYPE, modes.S_IFDIR: tarfile.DIRTYPE, modes.S_IFLNK: tarfile.SYMTYPE,
    modes.S_IFIFO: tarfile.FIFOTYPE, modes.S_IFCHR: tarfile.CHRTYPE, modes.S_IFBLK: tarfile.BLKTYPE,
}  # fmt: skip
_KINDS = {kind: mode for mode, kind in _TYPES.items()}
_MOST_TIME = 1 << 63


def header(name: bytes, stat: Stat, size: int, xattrs: Xattrs, target: bytes = b"", hard: bool = False) -> bytes:
    """The blocks before a member's contents. target: of a symbolic link, or with hard the name that the file had before."""
    kind = modes.S_IFMT(stat.mode)
    if kind not in _TYPES:
        raise OSError(EPERM, "it is a socket, which no archive has")
    info = tarfile.TarInfo(os.fsdecode(name))
    info.type, info.mode = tarfile.LNKTYPE if hard else _TYPES[kind], stat.mode & 0o7777
    info.uid, info.gid, info.size, info.linkname = stat.uid, stat.gid, size, os.fsdecode(target)
    info.mtime, (info.devmajor, info.devminor) = max(0, stat.mtime[0]), stat.rdev
    more = {_XATTR + os.fsdecode(key): os.fsdecode(value) for key, value in xattrs.items()}
    if stat.mtime[1] or not 0 <= stat.mtime[0] < 1 << 33:
        more["mtime"] = _decimal(*stat.mtime)
    info.pax_headers = more
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding(size: int) -> bytes:
    """What follows so many bytes of contents, up to the next block."""
    return bytes(-size % tarfile.BLOCKSIZE)


END = bytes(2 * tarfile.BLOCKSIZE)  # of an archive


class Member(tarfile.TarInfo):
    """tarfile takes the end of the stream for that of the archive, which has a mark of its own."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: Any, errors: str) -> Member:
        if len(buf) != tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends before its end")
        return super().frombuf(buf, encoding, errors)


def stat_of_member(info: tarfile.TarInfo) -> Stat:
    kind = _KINDS.get(b"0" if info.isreg() else info.type, 0)
    when = _seconds(info.pax_headers.get("mtime", "") or str(int(info.mtime)))
    return Stat(
        0, 0, 0, 1, info.uid & 0xFFFFFFFF, info.gid & 0xFFFFFFFF, kind | info.mode & 0o7777, 0, info.size, 0, 0,
        when, (0, 0), when, when, (info.devmajor, info.devminor), (0, 0),
    )  # fmt: skip


def xattrs_of_member(info: tarfile.TarInfo) -> Xattrs:
    found = {
        os.fsencode(key[len(_XATTR) :]): os.fsencode(value)
        for key, value in info.pax_headers.items()
        if key.startswith(_XATTR)
    }
    return {name: value for name, value in found.items() if kept(name) and possible(name)}


def path_of(name: str) -> list[bytes]:
    """The components of a member's name. A `/` at its beginning does not count; `..`, or what is no name, is EINVAL."""
    names = [each for each in os.fsencode(name).split(b"/") if each not in (b"", b".")]
    if not all(map(possible, names)):
        raise OSError(EINVAL, "a name that leads out of the destination, or that no file can have: left out")
    return names


def _decimal(seconds: int, nanoseconds: int) -> str:
    """As POSIX has times in pax records: a decimal number, also before 1970."""
    whole = seconds * 10**9 + nanoseconds
    sign, whole = ("-", -whole) if whole < 0 else ("", whole)
    return f"{sign}{whole // 10**9}.{whole % 10**9:09}"


def _seconds(text: str) -> tuple[int, int]:
    number, _, fraction = text.partition(".")
    try:
        whole = abs(int(number)) * 10**9 + int((fraction + "0" * 9)[:9])
    except ValueError:
        return 0, 0
    found = divmod(-whole if number.startswith("-") else whole, 10**9)
    return found if -_MOST_TIME <= found[0] < _MOST_TIME else (0, 0)
