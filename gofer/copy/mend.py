"""Files whose contents are there already: mode, owner and xattrs are made what the source has."""

from __future__ import annotations

import stat as modes

from gofer.copy.sides import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gofer.copy.engine import Copy
    from gofer.copy.places import Place
    from gofer.copy.sides import Listed, Xattrs

    Pair = tuple[Node, Node, bytes]  # what the source has, what the target has, and how it is shown


def mend(copy: Copy, place: Place, pairs: Sequence[Pair]) -> None:
    """All of one directory, as one can be asked for many xattrs at once."""
    regular = [each for each in pairs if modes.S_ISREG(each[0].stat.mode)]
    listed = zip(
        copy.source.listed(place.source, [node for node, _, _ in regular]),
        copy.target.listed(place.target, [old for _, old, _ in regular]),
    )
    for pair in pairs:
        wanted, there = next(listed) if modes.S_ISREG(pair[0].stat.mode) else (None, None)
        try:
            _one(copy, place, pair, wanted, there)
        except OSError as error:
            copy.complain(pair[2], error, True)


def _one(copy: Copy, place: Place, pair: Pair, wanted: Listed, there: Listed) -> None:
    """wanted, there: the xattrs; None: a side does not tell, so they are left as they are."""
    node, old, shown = pair
    gone: list[bytes] = []
    xattrs: Xattrs | None = None
    for found, target in ((wanted, False), (there, True)):
        if isinstance(found, OSError):
            copy.complain(shown, found, target)
            return
    if isinstance(wanted, dict) and isinstance(there, dict):
        wanted = copy.allowed(wanted)
        gone = [name for name in there if name.startswith(b"user.") and name not in wanted]  # of others not all is shown
        if gone or wanted.items() - there.items():
            xattrs = {**{name: value for name, value in there.items() if name not in gone}, **wanted}
    stat = copy.attributes(node.stat)
    owned = (stat.uid, stat.gid) == (old.stat.uid, old.stat.gid)
    if xattrs is None and owned and (stat.mode == old.stat.mode or modes.S_ISLNK(stat.mode)):
        return
    for error in copy.target.settle_node(place.target, old, stat, xattrs, gone):
        copy.complain(shown, error, True)
