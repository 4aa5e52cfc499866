"""What the kernel knows of: nodes, and the control FDs that are held for some of them.

Theory of operation
-------------------
The kernel keeps each node it has been told of until its memory is short, and a control FD is one of the server's fds: so a
node is not an FD. It is where it was last seen (parent and name) and what was seen there (inode number, device, time of
birth, type). A control FD is held for what is in use, and for the latest `budget` others; the clock hand that goes around
them takes the FD of one that was not used since it came by last. What has lost its FD is walked to from its parent when it is
needed again, and compared: ESTALE where something else is there now, never another file.

One inode is one node, whatever names it has, as the kernel's page cache must be one. A number that was given anew, which
the time of birth or the type tells, is another node; the old one is `stale` and keeps its FD, if it has one.

A request `pins` a node whose FD it uses until it is answered; such an FD is neither taken nor closed. FDs are closed in
batches, one message for many. `lock` guards all of this; no request is sent while it is held.

Most of what the kernel is told of it never asks for: such a one is what a Node would be made of, `Told`, until it does.
"""

from __future__ import annotations

import _thread
from collections import deque
from errno import EMFILE, ENFILE, ESTALE

from gofer.fuse.identity import Identities
from gofer.fuse.kernel import ROOT_ID
from gofer.fuse.node import Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable, TypeVar, Union

    from gofer.client.pool import Pool
    from gofer.fuse.identity import Identity
    from gofer.fuse.node import Held

    T = TypeVar("T")
    Told = tuple[int, Node, bytes, Identity]  # of which the kernel was told once
    Known = Union[Node, Told]

_CLOSES = 32  # FDs that are closed by one message
_LEAST = 8  # FDs, whatever the budget


class Nodes:
    """root: that of the tree, which always has an FD. It is made of (control FD, struct statx)."""

    def __init__(self, pool: Pool, budget: int, root: tuple[int, bytes]) -> None:
        self.lock = _thread.allocate_lock()
        self._pool = pool
        self._budget = max(budget, _LEAST)
        self._sheds = 0  # how often the server had too few fds, and got some back
        self._shedding = _thread.allocate_lock()
        self._by_id: list[Known | None] = [None]
        self._free: list[int] = []
        self._by_ino: dict[int, Known] = {}
        self.identity = Identities().of
        self._held: deque[Node] = deque()
        self._closing: list[int] = []
        self._hand = ROOT_ID
        fd, raw = root
        self.root = self.seen(None, b"", raw, fd)
        assert self.root.id == ROOT_ID
        self._held.clear()

    def __len__(self) -> int:
        return len(self._by_ino)

    @property
    def held(self) -> int:
        """How many control FDs there are."""
        return sum(1 for node in list(self._held) if node.fd) + 1

    def by_id(self, number: int) -> Node:
        try:
            known = self._by_id[number]
        except IndexError:
            known = None
        if isinstance(known, tuple):
            with self.lock:
                known = self._node(self._by_id[number])
        if known is None:  # 0 is none, either
            raise OSError(ESTALE, "no such node")
        return known

    def _node(self, known: Known | None) -> Node | None:
        """lock is held."""
        if not isinstance(known, tuple):
            return known
        number, parent, name, identity = known
        node = Node(number, parent, name, *identity)
        node.known = 1
        self._by_id[number] = node
        if self._by_ino.get(node.ino) is known:
            self._by_ino[node.ino] = node
        return node

    def seen(self, parent: Node | None, name: bytes, raw: bytes | memoryview, fd: int = 0) -> Node:
        """The node of what was found there; the kernel will know of it once more. fd: a control FD on it, ours from now on."""
        node = self.seen_as(parent, name, self.identity(raw))
        if fd:
            with self.lock:
                self._give(node, fd)
            self._settle()
        return node

    def seen_as(self, parent: Node | None, name: bytes, identity: Identity) -> Node:
        """As `seen`, of what has been read already."""
        with self.lock:
            return self._seen(parent, name, identity)

    def tell(self, parent: Node, name: bytes, identity: Identity) -> int:
        """As `seen_as`, of what is not open; its number, 0: it is open."""
        ino = identity[0]
        with self.lock:
            known = self._by_ino.get(ino)
            if known is None:
                number = self._number()
                self._by_id[number] = self._by_ino[ino] = (number, parent, name, identity)
                return number
            return 0 if isinstance(known, Node) and known.use is not None else self._seen(parent, name, identity).id

    def _seen(self, parent: Node | None, name: bytes, identity: Identity) -> Node:
        """lock is held."""
        ino, born, mode = identity
        node = self._node(self._by_ino.get(ino))
        if node is None or node.born != born or (node.mode ^ mode) & 0o170000:
            node = Node(self._number(), parent, name, ino, born, mode)
            self._by_id[node.id] = self._by_ino[ino] = node
        elif node.parent is not None:
            node.parent, node.name, node.mode = parent, name, mode
        node.known += 1
        return node

    def is_open(self, ino: int) -> bool:
        node = self._by_ino.get(ino)
        return isinstance(node, Node) and node.use is not None

    def moved(self, parent: Node, name: bytes, raw: bytes) -> None:
        """What is there now may be a node that was elsewhere."""
        ino, born, mode = self.identity(raw)
        with self.lock:
            node = self._node(self._by_ino.get(ino))
            if node is not None and node.born == born and node.parent is not None:
                node.parent, node.name, node.mode = parent, name, mode

    def forget_by_id(self, number: int, times: int) -> None:
        with self.lock:
            known = self._by_id[number] if 0 < number < len(self._by_id) else None
            if isinstance(known, tuple) and times > 0:
                ino = known[3][0]
                if self._by_ino.get(ino) is known:
                    del self._by_ino[ino]
                self._by_id[number] = None
                self._free.append(number)
                return
        self.forget(self.by_id(number), times)

    def forget(self, node: Node, times: int) -> None:
        with self.lock:
            node.known -= times
            if node.known > 0 or node is self.root:
                return
            if self._by_ino.get(node.ino) is node:
                del self._by_ino[node.ino]
            if self._by_id[node.id] is node:
                self._by_id[node.id] = None
                self._free.append(node.id)
            if not node.pins and not node.use:
                self._drop(node)

    def forget_all(self, nodes: list[Node]) -> None:
        """Each once."""
        for node in nodes:
            self.forget(node, 1)

    def to_forget(self, many: int) -> list[Node]:
        """So many that the kernel could do without, the next ones in turn: who is in use it keeps anyway."""
        found: list[Node] = []
        with self.lock:
            for _ in range(len(self._by_id)):
                self._hand = self._hand + 1 if self._hand + 1 < len(self._by_id) else ROOT_ID + 1
                node = self._node(self._by_id[self._hand]) if self._hand < len(self._by_id) else None
                if node is not None and not node.use and not node.pins:
                    found.append(node)
                    if len(found) >= many:
                        break
        return found

    def _number(self) -> int:
        if self._free:
            return self._free.pop()
        self._by_id.append(None)
        return len(self._by_id) - 1

    # The connection

    def is_root(self, raw: bytes) -> bool:
        ino, born, _ = self.identity(raw)
        return (ino, born) == (self.root.ino, self.root.born)

    def take_up(self, pool: Pool, root_fd: int) -> None:
        """Another connection to the same tree: no FD of the old one is any. No request may be under way."""
        with self.lock:
            for node in self._by_id:
                if isinstance(node, Node):
                    node.fd = 0
            self._held.clear()
            self._closing.clear()
            self.root.fd = root_fd
            self._pool = pool

    # Control FDs

    def fd(self, node: Node, held: Held) -> int:
        """The control FD of a node, pinned until `unpin(held)`."""
        with self.lock:
            node.pins += 1
            held.append(node)
            node.touched = True
            if node.fd:
                return node.fd
        return self._walk_again(node, held)

    def way_into(self, node: Node, held: Held) -> tuple[int, bytes]:
        """An FD, pinned, and the name below it that is that directory; b"": it is its own."""
        with self.lock:
            parent = node.parent
            if not node.fd and parent is not None and parent.fd:
                parent.pins += 1
                held.append(parent)
                parent.touched = True
                return parent.fd, node.name
        return self.fd(node, held), b""

    def found(self, node: Node, fd: int, raw: bytes) -> None:
        """A control FD on what is where the node was seen: ESTALE where that is something else."""
        ino, born, mode = self.identity(raw)
        with self.lock:
            same = ino == node.ino and born == node.born and not (mode ^ node.mode) & 0o170000
            if same:
                self._give(node, fd)
            else:
                self._closing.append(fd)
        self._settle()
        if not same:
            raise OSError(ESTALE, "something else is there now")

    def unpin(self, held: Held) -> None:
        with self.lock:
            for node in held:
                node.pins -= 1
                if not node.pins and node.known <= 0 and not node.use:
                    self._drop(node)
        held.clear()

    def _walk_again(self, node: Node, held: Held) -> int:
        """Down from the nearest that has an FD; each on the way is compared, and gets one."""
        way = [node]
        while True:
            top = way[-1].parent
            if top is None:
                raise OSError(ESTALE, "its place is not known any more")
            with self.lock:
                top.pins += 1
                held.append(top)
                top.touched = True
                from_fd = top.fd
            if from_fd:
                break
            way.append(top)
        way.reverse()
        _, found = self.with_room(lambda: self._pool.walk_raw(from_fd, [each.name for each in way]))
        stale = len(found) < len(way)
        with self.lock:
            for each, (fdid, raw) in zip(way, found):
                ino, born, mode = self.identity(raw)
                if stale or ino != each.ino or born != each.born or (mode ^ each.mode) & 0o170000:
                    stale = True
                    self._closing.append(fdid)
                else:
                    self._give(each, fdid)
            fd = node.fd
        self._settle()
        if not fd:
            raise OSError(ESTALE, "something else is there now")
        return fd

    def _give(self, node: Node, fd: int) -> None:
        """lock is held."""
        if node.fd:
            self._closing.append(fd)
            return
        node.fd = fd
        node.touched = True
        self._held.append(node)

    def _drop(self, node: Node) -> None:
        """lock is held."""
        if node.fd and node is not self.root:
            self._closing.append(node.fd)
            node.fd = 0

    def _settle(self) -> None:
        """Keep to the budget, and send what is to be closed."""
        if len(self._held) > self._budget:
            with self.lock:
                self._turn(len(self._held) - self._budget)
        if len(self._closing) >= _CLOSES:
            self.close_now()

    def _turn(self, many: int) -> int:
        """Take so many FDs, of those not used for longest; returns how many. lock is held."""
        taken = 0
        for _ in range(2 * len(self._held)):
            if taken >= many:
                break
            node = self._held.popleft()
            if not node.fd:
                taken += 1  # its place in the line was all that was left
            elif node.pins or node.use or node.touched:
                node.touched = False
                self._held.append(node)
            else:
                self._drop(node)
                taken += 1
        return taken

    def with_room(self, ask: Callable[[], T]) -> T:
        """What a request that makes FDs brings, asked again as long as the server has none left and we have some to spare."""
        while True:
            before = self._sheds
            try:
                return ask()
            except OSError as error:
                if error.errno not in (EMFILE, ENFILE) or not self._shed(before):
                    raise

    def _shed(self, before: int) -> bool:
        """Give half of what we hold back, and hold no more than that from now on; False where there is nothing.

        So the budget finds what the server allows. before: `_sheds` of when it was asked: others may have given back since.
        """
        with self._shedding:
            if self._sheds != before:
                return True
            with self.lock:
                had = len(self._held)
                self._budget = max(_LEAST, min(self._budget, had) // 2)
                for node in self._held:
                    node.touched = False
                gave = self._turn(had - self._budget) if had > self._budget else 0
                waiting = bool(self._closing)
            if waiting:
                self.close_now()
            if gave or waiting:
                self._sheds += 1
            return bool(gave or waiting)

    def close_later(self, fdid: int) -> None:
        """By the thread that tidies: whoever calls this may not wait for the server."""
        with self.lock:
            self._closing.append(fdid)

    def close_now(self) -> None:
        """Whatever is to be closed. Errors are of no use to anybody."""
        with self.lock:
            closing, self._closing = self._closing, []
        for at in range(0, len(closing), 1000):
            try:
                self._pool.close_fds(*closing[at : at + 1000])
            except OSError:
                return

    @property
    def to_close(self) -> int:
        return len(self._closing)
