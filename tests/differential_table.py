"""Every difference between Debian's two `runsc gofer`s and ours that is allowed, one entry each.

An entry names the difference and where it is written what is right: "6.4" is section 6, item 4 of the protocol page (what
the Go server of 2022 gets wrong; that of 2024 too, unless the entry says `of`), "4 OpenAt" a rule of its section 4, a
hexadecimal number the commit that mended Go upstream. Then the fields it may be in, a predicate, and what must be done so
that the two trees stay equal.

Not here, of section 6: items 1 and 12 would kill or hang the Go gofer, and 2 is of that kind; 9 and 10 have nothing to
compare, as 2022 has no xattrs, 2024 sets none, and neither has ConnectWithCreds; 11, what a walk opens, is not seen on the wire.
"""

import errno as e
import re
import stat
from collections.abc import Callable
from typing import NamedTuple, Optional

import differential_rules as r
from differential_compare import Difference
from differential_rules import Case, both, errnos, message
from differential_servers import READ_ONLY

from gofer.conform.codec import ATIME, MODE, MTIME, SIZE

BASIC, BTIME = 0x7FF, 0x800
MADE_OR_CHANGED = r"after\.mode|(\.inode)?\.stat\.mode"


class Line(NamedTuple):
    name: str
    source: str
    fields: str  # a pattern for the whole path of the field
    allows: r.Predicate
    heal: Optional[Callable[[Case, Difference], None]] = None
    of: str = "2022 2024"  # the releases that differ so

    def matches(self, case: Case, difference: Difference) -> bool:
        of = case.release.year in self.of.split()
        return of and bool(re.fullmatch(self.fields, difference.field)) and self.allows(case, difference)


# fmt: off
TABLE: list[Line] = [
    # What a reply tells
    Line("Go's statx has no birth time", "4c569980d", r".*\.mask", r.values(BASIC, BASIC | BTIME)),
    Line("Go's statx has zero for a birth time and attributes", "4c569980d",
         r".*\.(btime|attributes|attributes_mask)", r.go_zero),
    Line("Go supports fewer messages", "3", r"\.supported", r.go_fewer),
    Line("Go makes the fds of a channel non-blocking", "1: the client reads them without blocking",
         r"fds", lambda case, d: case.step.method == "channel"),
    # What has lost its name, and what Go looks for by path
    Line("Go refuses what has lost its name", "4: an unlinked file keeps working as it does on Linux",
         r"errno", both(errnos(e.EINVAL, r.ANY), r.nameless), r.remove_xattr),
    Line("Go reads no target from an unlinked symlink", "6.3",
         r"", both(message("readlinkat"), r.values(b"", r.ANY), lambda case, d: case.fd.node.deleted)),
    Line("Go renames a missing name onto itself", "6.4",
         r"errno", both(message("renameat"), errnos(0, (e.ENOENT, e.ENAMETOOLONG, e.EINVAL)), r.onto_itself)),
    Line("Go binds and connects to no path of 108 bytes", "6.13",
         r"errno", both(message("bindat", "connect"), errnos(e.EINVAL, r.UNIX), r.long_path), r.touch_directory),
    Line("Go binds and connects where the name once was", "4: no host path is resolved a second time",
         r"errno", both(message("bindat", "connect"), errnos(r.NOT_THERE, r.UNIX), r.lost_path)),
    Line("Go of 2024 links what is where the name once was", "4: no host path is resolved a second time",
         r"errno", both(message("linkat"), errnos(r.NOT_THERE, (0, e.EEXIST, e.ENOENT)), r.lost_target), of="2024"),
    Line("Go sets a symlink's times where the name once was", "4: no host path is resolved a second time",
         r"\.failure_(mask|errno)|after\.[am]time",
         both(message("setstat"), r.of_type(stat.S_IFLNK), r.sets(ATIME | MTIME), r.lost_path), r.copy_times),
    # Set-id bits
    Line("Go loses set-id bits that were asked for", "6.5",
         MADE_OR_CHANGED, both(r.owner_and_mode, r.go_lacks(r.SET_ID), r.asked_for), r.copy_mode),
    Line("Go calls chown(2) for ids that are both to stay, which clears set-id bits", "84670a4fc",
         r"after\.mode", both(message("setstat"), r.chowns_nothing, r.go_lacks(r.SET_ID)), r.copy_mode),
    Line("Go keeps set-id bits when it writes to a file", "CVE-2021-20263",
         r"after\.mode", both(r.writes, r.ours_lacks(r.SET_ID)), r.copy_mode),
    # Sockets
    Line("Go's socket still accepts when its bound-socket FD is closed", "6.6",
         r"errno", both(message("connect"), errnos((0, e.EPROTOTYPE), e.ECONNREFUSED), r.listener_closed)),
    Line("Go faults at an FStat of a bound-socket FD", "6.7",
         r"errno", both(message("fstat"), errnos(e.EREMOTEIO, e.EINVAL), lambda case, d: case.fd.kind == "bound")),
    Line("Go's control FD from BindAt is the socket, not its name: stat", "ecda53355: one host fd shared by two FDs",
         r"(\.0)?\.(dev|ino|uid|gid|mode|nlink|mtime|blksize|type|files)",
         both(message("fstat", "walkstat", "fstatfs"), lambda case, d: case.fd.from_bind)),
    Line("Go's control FD from BindAt is the socket, not its name: link", "ecda53355: one host fd shared by two FDs",
         r"errno", both(message("linkat"), errnos(e.EXDEV, 0), lambda case, d: case.fds[1].from_bind), of="2022"),
    Line("Go's control FD from BindAt is the socket, not its name: xattrs", "ecda53355: one host fd shared by two FDs",
         r"errno", both(message("fgetxattr"), errnos(e.EOPNOTSUPP, r.XATTRS), lambda case, d: case.fd.from_bind), of="2024"),
    Line("Go cannot set the times of a socket", "4: utimensat by the fd",
         r"\.failure_(mask|errno)|after\.[am]time",
         both(message("setstat"), r.of_type(stat.S_IFSOCK), r.sets(ATIME | MTIME)), r.copy_times),
    Line("Go binds on a read-only connection", "64785c867",
         r"errno", both(message("bindat"), errnos(0, e.EROFS), lambda case, d: case.step.connection == READ_ONLY)),
    # Ranges and flags
    Line("Go answers a count below one entry with no entries", "6.8",
         r"errno", both(message("page"), errnos(0, e.EINVAL), r.below_one_entry)),
    Line("Go takes a count of INT32_MIN for 2^31", "4 Getdents64",
         r"errno", both(message("page"), errnos(0, e.EINVAL), lambda case, d: case.args["count"] == -(1 << 31))),
    Line("Go checks no offset where no bytes are to be read or written", "4 PRead",
         r"errno", both(message("pread", "pwrite"), errnos(0, e.EINVAL), r.no_bytes)),
    Line("Go cuts the mode of an FAllocate to 32 bits", "2a62f4379",
         r"errno", both(message("fallocate"), errnos(0, e.EINVAL), lambda case, d: case.args["mode"] >> 32 > 0)),
    Line("Go opens with access mode 3, neither reading nor writing", "open(2): it is for ioctl(2), which no message does",
         r"errno", both(r.no_access, errnos(r.ANY, e.EINVAL))),
    Line("Go starts a walk whose reply could exceed the message size", "4 Walk",
         r"errno", both(message("walk", "walkstat"), errnos(0, e.EIO), r.walks_far)),
    Line("Go ignores what follows the last field", "3: the lengths are those of the golden vectors",
         r"errno", both(errnos(r.ANY, e.EIO), lambda case, d: "extra" in case.args)),
    # Extended attributes
    Line("Go of 2024 sets no xattr", "4 xattr: all four", r"errno",
         both(message("fsetxattr"), errnos(e.EOPNOTSUPP, r.XATTRS)), r.remove_xattr, of="2024"),
    Line("Go of 2024 gets no xattr of what it has no access to, symlinks and sockets", "4 xattr: works for these too", r"errno",
         both(message("fgetxattr"), r.of_type(*r.BY_PATH), errnos(e.EBADF, r.XATTRS)), of="2024"),
    # Types
    Line("Go also reads, writes and allocates FIFOs and devices itself", "4 OpenAt: these are donated; 38d2b048f",
         r"errno", both(message("pread", "pwrite", "fallocate"), errnos(r.ANY, e.EBADF), r.given_away)),
    Line("Go also syncs FIFOs and devices itself", "4 OpenAt: these are donated",
         r"errno", both(message("fsync"), errnos(e.EINVAL, (0, e.EBADF)), r.given_away)),
    Line("Go makes no overlay whiteouts", "17294348e",
         r"errno", both(message("mknodat"), errnos(e.EPERM, r.ANY), r.whiteout)),
    # Which errno of several
    Line("Go tells ELOOP or ENXIO of a size set on a symlink or socket", "truncate(2): EINVAL, not a regular file",
         r"\.failure_errno", both(r.failed(SIZE), r.of_type(*r.BY_PATH), errnos((e.ELOOP, e.ENXIO), e.EINVAL))),
    Line("Go tells EBADF of a mode set on a symlink", "4: chmod never on a symlink, EOPNOTSUPP; 1a02bb22b",
         r"\.failure_errno", both(r.failed(MODE), r.of_type(stat.S_IFLNK), errnos(e.EBADF, e.EOPNOTSUPP))),
    Line("Go tries the changes of a SetStat in another order", "4 SetStat: size, owner, mode, times; the last errno",
         r"\.failure_errno", r.several_failed),
    Line("Go leaves it to the kernel, and so to the last, that a name is too long", "4 names",
         r"errno", both(errnos(r.ANY, e.ENAMETOOLONG), r.any_name(lambda name: len(name) > 255))),
    Line("Go leaves it to the kernel, and so to the last, that a name or target holds NUL", "4 names",
         r"errno", both(errnos(r.ANY, e.EINVAL), r.any_name(lambda name: b"\0" in name))),
    Line("Go looks up the FD before it says that it has no xattrs", "no rule: two faults in one request",
         r"errno", both(r.sent("fgetxattr", "fsetxattr"), errnos((e.EBADF, e.EINVAL), e.EOPNOTSUPP), r.no_control_fd),
         of="2022"),
]
# fmt: on
