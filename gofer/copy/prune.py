"""What is at the destination and not at the source: it goes, with --delete; or what is in the way stays, and is told."""

from __future__ import annotations

import stat as modes
from errno import EEXIST, ENOTEMPTY

from gofer.client.address import below
from gofer.copy.names import possible
from gofer.copy.places import some
from gofer.copy.remove import remove
from gofer.copy.sides import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.copy.engine import Copy
    from gofer.copy.places import Place

_KINDS = {
    modes.S_IFDIR: "directory", modes.S_IFLNK: "symbolic link", modes.S_IFIFO: "FIFO", modes.S_IFSOCK: "socket",
    modes.S_IFCHR: "device", modes.S_IFBLK: "device",
}  # fmt: skip
_IN_THE_WAY = "a {} of that name is in its place, and stays: --delete removes it"
_EXCLUDED = "a directory of that name is in its place, and stays: something in it is excluded"


def prune(copy: Copy, place: Place) -> None:
    """Remove what the source does not have. What is excluded stays."""
    copy.transfers.end()
    copy.commit.flush()  # there are names that are to be others yet
    names, trouble = copy.target.names(place.target), None
    chunk = [b""]
    while chunk and not trouble:
        chunk, trouble = some(names, copy.ahead)
        chosen = [
            name for name in chunk if possible(name) and not copy.options.exclude((place.path + b"/" + name)[1:])
        ]
        gone = [name for name, node in zip(chosen, copy.source.look(place.source, chosen)) if node is None]
        for name, old in zip(gone, copy.target.look(place.target, gone)):
            shown = below(place.shown, name)
            error = _removed(copy, place, old, shown) if isinstance(old, Node) else old
            if error and error.strerror != _EXCLUDED:
                copy.complain(shown, error, True)
    if trouble:
        copy.complain(place.shown, trouble, True)


def _removed(copy: Copy, place: Place, old: Node, shown: bytes) -> OSError | None:
    if copy.options.dry_run:
        copy.did("delete", shown, 0)
        return None
    try:
        gone = remove(copy.target, place.target, old, (place.path + b"/" + old.name)[1:], copy.options.exclude)
    except OSError as error:
        return error
    if not gone:
        return OSError(ENOTEMPTY, _EXCLUDED)
    copy.did("deleted", shown, 0)
    return None


def stays(node: Node, old: Node) -> bool:
    """Whether a copy is no reason to replace it: a directory is more than one file, and who copies to /dev/null means that."""
    kind = modes.S_IFMT(old.stat.mode)
    special = kind not in (modes.S_IFREG, modes.S_IFLNK) and not (kind == modes.S_IFCHR and old.stat.rdev == (0, 0))
    return special and kind != modes.S_IFMT(node.stat.mode)


def cleared(copy: Copy, place: Place, old: Node, shown: bytes) -> bool:
    """Whether what is in the way of something else is gone."""
    what = _KINDS.get(modes.S_IFMT(old.stat.mode), "file")
    error = _removed(copy, place, old, shown) if copy.options.delete else OSError(EEXIST, _IN_THE_WAY.format(what))
    if error:
        copy.complain(shown, error, True)
    return not error
