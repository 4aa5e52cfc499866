"""What the kernel is told without having asked: to forget nodes, or what it has of a directory. Either may wait for its users."""

from __future__ import annotations

import os
import struct

from gofer.fuse import kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.fuse.node import Node

_PRUNES = 45  # the minor version since which it can be asked to forget
_ID = struct.Struct("<Q").pack


def forget(device: int, minor: int, nodes: list[Node]) -> None:
    """It answers by FORGET, for those that nobody uses."""
    body = kernel.NotifyPruneOut.bytes(len(nodes)) + b"".join([_ID(node.id) for node in nodes])
    if minor >= _PRUNES and _tell(device, kernel.NOTIFY_PRUNE, body):
        return
    for node in nodes:
        if node.parent is not None and len(node.name) <= 255:
            body = kernel.NotifyInvalEntryOut.bytes(node.parent.id, len(node.name), 0) + node.name + b"\0"
            _tell(device, kernel.NOTIFY_INVAL_ENTRY, body)


def drop_listing(device: int, node: Node) -> None:
    _tell(device, kernel.NOTIFY_INVAL_INODE, kernel.NotifyInvalInodeOut.bytes(node.id, 0, 0))


def _tell(device: int, code: int, body: bytes) -> bool:
    """False where the kernel does not know of it any more."""
    try:
        os.writev(device, [kernel.OutHeader.bytes(kernel.OutHeader.size + len(body), code, 0), body])
    except OSError:
        return False
    return True
