"""`gofer df`: the room on the file systems that are served, as df(1) shows it."""

from __future__ import annotations

from gofer.commands.attrs import human
from gofer.commands.common import Session, add_addresses, add_common, operands
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from typing import Any

    from gofer.client.replies import StatFS

_TYPES = {
    0xEF53: "ext2/ext3", 0x01021994: "tmpfs", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x794C7630: "overlayfs", 0x6969: "nfs",
    0x65735546: "fuseblk", 0xFF534D42: "cifs", 0x2FC12FC1: "zfs", 0x01021997: "v9fs", 0x9FA0: "proc", 0x62656572: "sysfs",
    0xF2F52010: "f2fs", 0x73717368: "squashfs", 0xE0F5E1E2: "erofs", 0x4D44: "msdos", 0x27E0EB: "cgroup", 0x63677270: "cgroup2",
    0x858458F6: "ramfs", 0x00C36400: "ceph", 0xCA451A4E: "bcachefs", 0x9660: "isofs",
}  # fmt: skip


def add(parser: ArgumentParser) -> None:
    parser.description = (
        "Show the room on the file systems that are served, as df(1) does: in KiB. The first column names the server, as nothing "
        "tells a client what is mounted there."
    )
    add_addresses(parser, "the root of $GOFER_SOCKET")
    parser.add_argument("-h", "--human-readable", dest="human", action="store_true", help="1.5K, 23M, 2G")
    parser.add_argument("-i", "--inodes", action="store_true", help="inodes, not blocks")
    parser.add_argument("-T", "--print-type", action="store_true", help="with the type of the file system")
    parser.add_argument("-k", dest="kib", action="store_true", help="in KiB (the default)")
    parser.add_argument("-m", dest="mib", action="store_true", help="in MiB")
    add_common(parser, json="operand")


def run(options: Any) -> int:
    rows: list[list[str]] = []
    with Session("df", options) as session:
        for address in operands(options.addresses):
            with session.each(address.shown):
                tree = session.tree(address)
                node = tree.resolve(address.path)
                found = tree.client.fstatfs(node.fd)
                tree.drop(node.fd)
                if options.json:
                    session.write_json({"path": address.shown, "server": address.server, **_told(found)})
                else:
                    rows.append(_row(options, address.server, address.path or b"/", found))
        if rows:
            session.write(_table([_head(options), *rows], 2 if options.print_type else 1))
    return session.status


def _told(found: StatFS) -> dict[str, Any]:
    unit = found.bsize
    return {
        "type": _TYPES.get(found.type, hex(found.type)), "bytes": found.blocks * unit, "free": found.bfree * unit,
        "available": found.bavail * unit, "inodes": found.files, "inodes_free": found.ffree,
    }  # fmt: skip


def _head(options: Any) -> list[str]:
    first = ["Filesystem", "Type"] if options.print_type else ["Filesystem"]
    if options.inodes:
        return [*first, "Inodes", "IUsed", "IFree", "IUse%", "Mounted on"]
    if options.human:
        return [*first, "Size", "Used", "Avail", "Use%", "Mounted on"]
    return [*first, "1M-blocks" if options.mib else "1K-blocks", "Used", "Available", "Use%", "Mounted on"]


def _row(options: Any, server: str, path: bytes, found: StatFS) -> list[str]:
    first = [server, _TYPES.get(found.type, hex(found.type))] if options.print_type else [server]
    if options.inodes:
        all_, free, left = found.files, found.ffree, found.ffree
        unit = 1
    else:
        all_, free, left = found.blocks, found.bfree, found.bavail
        unit = found.bsize
    used = all_ - free
    usable = used + left
    share = f"{-(-100 * used // usable)}%" if usable else "-"
    if options.human:
        amounts = [human(number * unit) for number in (all_, used, left)]
    else:
        size = 1 if options.inodes else 1 << 20 if options.mib else 1 << 10
        amounts = [str(-(-number * unit // size)) for number in (all_, used, left)]
    return [*first, *amounts, share, printable(path)]


def _table(rows: list[list[str]], names: int) -> bytes:
    """names: columns to the left, as the last; the others stand to the right."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    least = [14, *[4] * (names - 1), 5, 5, 5, 4]  # as df(1) has them
    widths = [max(pair) for pair in zip(widths, [*least, 0])]
    lines = []
    for row in rows:
        cells = [f"{text:{width}}" if i < names else f"{text:>{width}}" for i, (text, width) in enumerate(zip(row, widths))]
        lines.append(" ".join([*cells[:-1], row[-1]]))
    return "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape")
