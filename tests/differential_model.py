"""What the runner knows about the FDs it got, and a mirror of the tree of nodes that the Go gofer keeps.

Theory of operation
-------------------
A Go gofer remembers for each control FD a node: a name in a parent node. It refuses with EINVAL what it would
do with a node whose name was removed or replaced through it, and it goes by the node's path where it should go by the
file. Ours knows no names, so it differs exactly there, and the table of allowed differences needs to know where "there"
is. So the mirror repeats what Go does with nodes, its mistakes included:

- a node lives as long as it has references: one of each control FD, one of each child;
- when it dies it removes *whatever* has its name now from its parent, also a node that came after it;
- LinkAt of 2022 keeps a reference to the target for ever, Listen and Accept one to the bound-socket FD;
- a rename of one hard link onto another of the same file changes nothing on disk, but moves the node all the same.
"""

import dataclasses
import errno
import socket
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple, Optional, Union

from gofer.conform.codec import Created, Inode, Mounted, Opened

MOST_WAITING = 1000  # in a backlog; the kernel's own bound (net.core.somaxconn) is above


class Ref(NamedTuple):
    """One of the FDs that a step made: what it is called before it has a number, and on both servers."""

    step: int
    which: int

    def __repr__(self) -> str:
        return f"#{self.step}.{self.which}"


Operand = Union[Ref, int]  # an FD, or the number of none


class Step(NamedTuple):
    """One request. args: keyword arguments of the peer's method, with Refs for FDs; `cut` and `extra` mangle it."""

    number: int
    connection: int
    transport: str
    method: str
    args: dict[str, Any]

    def __repr__(self) -> str:
        args = ", ".join(f"{name}={_brief(value)}" for name, value in self.args.items())
        return f"#{self.number} connection {self.connection} over {self.transport}: {self.method}({args})"


def _brief(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    return f"{value[:20]!r}... of {len(value)} bytes" if isinstance(value, bytes) and len(value) > 40 else repr(value)


class Node:
    """A name in the Go gofer's tree."""

    def __init__(self, name: bytes, parent: "Optional[Node]") -> None:
        self.name, self.parent = name, parent
        self.children: dict[bytes, Node] = {}
        self.references = 0
        self.deleted = False
        if parent:
            parent.references += 1
            parent.children[name] = self

    def path(self) -> bytes:
        """Where Go would look for it."""
        return (self.parent.path() + b"/" if self.parent else b"") + self.name

    def depth(self) -> int:
        return self.parent.depth() + 1 if self.parent else 0

    def release(self) -> None:
        self.references -= 1
        if not self.references and self.parent:
            self.parent.children.pop(self.name, None)
            self.parent.release()

    def delete(self) -> None:
        self.deleted = True
        for child in self.children.values():
            child.delete()


@dataclasses.dataclass
class FD:
    """One FD on both servers. kind: control, open or bound. type: S_IFMT of its file."""

    ref: Ref
    connection: int
    kind: str
    ids: tuple[int, int]  # Go's, ours
    inos: tuple[int, int]
    type: int
    node: Node
    control: "Optional[FD]" = None  # the control FD that an open or bound one keeps alive
    from_bind: bool = False
    references: int = 1
    closed: bool = False


@dataclasses.dataclass
class Socket:
    """A host socket that a step bound. waiting: connections that nobody has accepted, on Go's side."""

    backlog: int = 0
    waiting: int = 0
    closed: bool = False


Made = tuple[str, int, Optional[Inode]]  # kind, id, and the inode of a control FD


def made(value: Any) -> list[Made]:
    """The FDs in a reply."""
    if isinstance(value, Mounted):
        return [("control", value.root.fd, value.root)]
    if isinstance(value, Inode):
        return [("control", value.fd, value)]
    if isinstance(value, Opened):
        return [("open", value.fd, None)]
    if isinstance(value, Created):
        return [("control", value.inode.fd, value.inode), ("second", value.fd, None)]
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], list):  # Walk
        return [("control", inode.fd, inode) for inode in value[1]]
    return []


class Model:
    def __init__(self, leaks_links: bool) -> None:
        self.leaks_links = leaks_links
        self.root = Node(b"", None)
        self.root.references = 1
        self.fds: dict[Ref, FD] = {}
        self._live: dict[int, dict[Ref, FD]] = {}  # by connection
        self.sockets: dict[int, Socket] = {}  # by Go's inode number

    def operands(self, step: Step) -> "Optional[list[FD]]":
        """The FDs that a step names, closed ones included; None where one was never made (a step was left out)."""
        refs = list(refs_of(step))
        return [self.fds[ref] for ref in refs] if all(ref in self.fds for ref in refs) else None

    def live(self, connection: int) -> list[FD]:
        return list(self._live.get(connection, {}).values())

    def add(self, step: Step, operands: list[FD], go: list[Made], ours: list[Made]) -> None:
        """The FDs both servers made."""
        base = operands[0] if operands else None
        node = base.node if base else self.root
        control: Optional[FD] = None
        for index, ((kind, go_id, go_inode), (_, our_id, our_inode)) in enumerate(zip(go, ours)):
            ref, ids = Ref(step.number, index), (go_id, our_id)
            if kind == "control" and go_inode and our_inode:
                node = self._step_down(node, step, index)
                node.references += 1
                inos = (go_inode.stat.ino, our_inode.stat.ino)
                kind_of_file = stat.S_IFMT(go_inode.stat.mode)
                control = FD(ref, step.connection, "control", ids, inos, kind_of_file, node)
                control.from_bind = step.method == "bindat"
                self._enter(control)
                continue
            owner = control or base
            assert owner
            owner.references += 1
            kind = "bound" if step.method == "bindat" else "open"
            self._enter(FD(ref, step.connection, kind, ids, owner.inos, owner.type, owner.node, owner))
            if kind == "bound":
                self.sockets[owner.inos[0]] = Socket()

    def _enter(self, fd: FD) -> None:
        self.fds[fd.ref] = self._live.setdefault(fd.connection, {})[fd.ref] = fd

    def _step_down(self, node: Node, step: Step, index: int) -> Node:
        if step.method == "mount":
            return self.root
        name = step.args["path"][index] if step.method == "walk" else step.args["name"]
        return node.children.get(name) or Node(name, node)

    def follow(self, step: Step, fds: list[FD], error: int) -> None:
        """What the request did beside making FDs. error: Go's errno, or 0."""
        if not error and fds:
            self._done(step, fds)
        if step.method in ("listen", "accept") and fds and fds[0].kind == "bound" and not fds[0].closed:
            fds[0].references += 1
        if self.leaks_links and step.method == "linkat" and len(fds) == 2 and error not in (errno.EIO, errno.EROFS):
            found = not any(fd.closed or fd.kind != "control" for fd in fds) and fds[0].type == stat.S_IFDIR
            if found and step.args["name"] not in (b"", b".", b"..") and b"/" not in step.args["name"]:
                fds[1].references += 1

    def _done(self, step: Step, fds: list[FD]) -> None:
        sock = self.sockets.get(fds[0].inos[0], Socket())
        if step.method == "close":
            for fd in fds:
                self.close(fd)
        elif step.method == "unlinkat":
            self.unlinked(fds[0], step.args["name"])
        elif step.method == "renameat":
            self.renamed(fds[0], step.args["old_name"], fds[1], step.args["new_name"])
        elif step.method == "connect":
            sock.waiting += step.args["sock_type"] != socket.SOCK_DGRAM
        elif step.method == "accept":
            sock.waiting -= 1
        elif step.method == "listen":
            sock.backlog = step.args["backlog"] if 0 <= step.args["backlog"] < MOST_WAITING else MOST_WAITING

    def close(self, fd: FD) -> None:
        if fd.closed:
            return
        fd.closed = True
        del self._live[fd.connection][fd.ref]
        if fd.kind == "bound" and fd.inos[0] in self.sockets:
            self.sockets[fd.inos[0]].closed = True
        self.release(fd)

    def release(self, fd: FD) -> None:
        fd.references -= 1
        if not fd.references:
            if fd.control:
                self.release(fd.control)
            else:
                fd.node.release()

    def unlinked(self, directory: FD, name: bytes) -> None:
        child = directory.node.children.pop(name, None)
        if child:
            child.delete()

    def renamed(self, old: FD, old_name: bytes, new: FD, new_name: bytes) -> None:
        if (old.node, old_name) == (new.node, new_name):
            return
        self.unlinked(new, new_name)
        node = old.node.children.pop(old_name, None)
        if node:
            assert node.parent
            node.parent.release()
            node.parent, node.name = new.node, new_name
            new.node.references += 1
            new.node.children[new_name] = node


def refs_of(step: Step) -> Iterator[Ref]:
    for value in step.args.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Ref):
                yield each


def with_ids(args: dict[str, Any], fds: dict[Ref, FD], side: int) -> dict[str, Any]:
    """The arguments for one server: numbers for Refs."""

    def number(value: Any) -> Any:
        return fds[value].ids[side] if isinstance(value, Ref) else value

    return {
        name: [number(each) for each in value] if isinstance(value, list) else number(value)
        for name, value in args.items()
    }
