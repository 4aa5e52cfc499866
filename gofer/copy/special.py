"""What is neither directory nor regular file: symbolic links, FIFOs, whiteouts; all else is told."""

from __future__ import annotations

import stat as modes
from errno import EIO, EPERM

from gofer.copy.commit import Complete
from gofer.copy.names import part_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.copy.engine import Copy
    from gofer.copy.places import Place
    from gofer.copy.transfer import Job

_KINDS = {
    modes.S_IFIFO: "FIFO", modes.S_IFSOCK: "socket", modes.S_IFCHR: "character device", modes.S_IFBLK: "block device",
}  # fmt: skip


def special(copy: Copy, place: Place, job: Job) -> None:
    node, kind = job.node, modes.S_IFMT(job.node.stat.mode)
    part = part_name(job.name, node.stat)
    if kind == modes.S_IFLNK:
        text = copy.source.target(place.source, node)
        if not text or b"\0" in text:
            raise OSError(EIO, "the target of a symbolic link that none can have")
        made = copy.target.symlink(place.target, part, text)
    elif kind == modes.S_IFIFO or kind == modes.S_IFCHR and node.stat.rdev == (0, 0):
        try:
            made = copy.target.mknod(place.target, part, node.stat.mode)
        except PermissionError:
            raise OSError(EPERM, f"it is a {_KINDS[kind]}, and that side makes none: not copied") from None
    else:
        raise OSError(EPERM, f"it is a {_KINDS.get(kind, 'file of an unknown type')}: not copied")
    xattrs = copy.listed(copy.source.listing(place.source, [(node, None)]), job.shown)
    for error in copy.target.settle_node(place.target, made, copy.attributes(node.stat), xattrs):
        copy.complain(job.shown, error, True)
    copy.commit.add(Complete(place.target, part, job.name, job.shown, node.stat), None)
