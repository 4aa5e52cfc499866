"""What a tree looks like to a copy, be it here or a server's: `local.LocalTree` and `remote.RemoteTree`.

Nothing is known by a path. A Directory is an fd of its side, whatever is done is done in one, to one name; no link is followed.
What one entry fails with is a value, an OSError in its place, as there are others beside it; what ends a connection is raised.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from typing import Any, Callable, Protocol, Union

    from gofer.client.replies import Stat

    Xattrs = dict[bytes, bytes]
    Found = Union["Node", OSError, None]  # None: there is nothing of that name
    Listed = Union[Xattrs, OSError, None]  # None: this side does not tell

    class File(Protocol):
        """An open regular file. host: its fd, or -1 where all goes by messages; size: what it had when it was opened.

        key: FD or fd, for its side. It is closed when it is not referred to any more.
        """

        host: int
        size: int
        sparse: bool
        key: Any

        def reads(self, start: int, end: int) -> Generator[tuple[int, bytes], None, None]: ...
        def writes(self, pieces: Iterable[tuple[int, bytes]]) -> Generator[int, None, None]: ...
        def truncate(self, size: int) -> None: ...

    class Tree(Protocol):
        """key: of a Directory or Node: for its side alone. lazy: whether what has begun is done when its outcome is asked for.
        here: whether inodes and devices, as `identity` has them, are those of this machine.

        What ends in -ing, `open`, `create`, `make` and `settle` may have just begun: what they return is called for the outcome,
        once. Of `ahead` at most, but for what is small. `begin`: by now all of them have; `rest`: none is on its way. What is
        written is there for what is asked later.

        looking: with contents of what is small, where asked for: see Node. make: files in a directory that `mkdir` has made, with
        all that they are to have; File None: it is not there, and the error says why. sync: `sync` of it will be asked for.

        reading: contents of those that are small, and to be had by messages only. listing: xattrs that a copy keeps, of what
        is open or is not. writing: all that a
        new file is to have.
        """

        ahead: int
        lazy: bool
        here: bool

        def identity(self, directory: Any) -> tuple[int, tuple[int, int]]: ...
        def look(self, directory: Any, names: Sequence[bytes]) -> list[Found]: ...
        def looking(
            self, directory: Any, names: Sequence[bytes], contents: bool = False
        ) -> Callable[[], list[Found]]: ...
        def names(self, directory: Any) -> Iterator[bytes]: ...
        def enter(self, directory: Any, node: Node) -> Any: ...
        def resolve(self, directory: Any, path: Sequence[bytes]) -> Node: ...
        def target(self, directory: Any, node: Node) -> bytes: ...
        def listed(self, directory: Any, nodes: Sequence[Node]) -> list[Listed]: ...
        def open(self, directory: Any, nodes: Sequence[Node]) -> Callable[[], list[File | OSError]]: ...

        def create(self, directory: Any, names: Sequence[bytes]) -> Callable[[], list[File | OSError]]: ...
        def make(
            self, directory: Any, items: Sequence[New], sync: bool
        ) -> Callable[[], list[tuple[File | None, list[OSError]]]]: ...
        def reopen(self, directory: Any, name: bytes) -> File: ...
        def mkdir(self, directory: Any, name: bytes) -> Any: ...
        def symlink(self, directory: Any, name: bytes, target: bytes) -> Node: ...
        def mknod(self, directory: Any, name: bytes, mode: int) -> Node: ...
        def link(self, root: Any, path: Sequence[bytes], directory: Any, name: bytes) -> None: ...
        def reading(self, files: Sequence[File]) -> Callable[[], list[bytes | OSError | None]]: ...
        def listing(self, directory: Any, files: Sequence[tuple[Node, File | None]]) -> Callable[[], list[Xattrs | OSError]]: ...
        def writing(self, items: Sequence[tuple[File, bytes]]) -> Callable[[], list[OSError | None]]: ...
        def settle(self, items: Sequence[tuple[File, Stat, Xattrs]]) -> Callable[[], list[list[OSError]]]: ...
        def settle_node(
            self, directory: Any, node: Node, stat: Stat, xattrs: Xattrs | None, gone: Sequence[bytes] = ()
        ) -> list[OSError]: ...
        def settle_directory(self, directory: Any, stat: Stat, xattrs: Xattrs) -> list[OSError]: ...
        def sync(self, files: Sequence[File]) -> list[OSError | None]: ...
        def renaming(self, moves: Sequence[tuple[Any, bytes, bytes]]) -> Callable[[], list[OSError | None]]: ...
        def remove(self, directory: Any, name: bytes, is_directory: bool) -> None: ...
        def begin(self) -> None: ...
        def rest(self) -> None: ...


class Node(namedtuple("Node", "name stat key content", defaults=(None, None))):
    """What has that name in a directory. key: its control FD, on a server. content: all that a small file has, where that came
    along; then it has nothing beside that and its attributes, and no key.
    """

    __slots__ = ()
    name: bytes
    stat: Stat
    key: Any
    content: bytes | None


class New(namedtuple("New", "name stat content")):
    """A file that is to be made, without set-id bits."""

    __slots__ = ()
    name: bytes
    stat: Stat
    content: bytes


SET_ID = 0o6000
SMALL = 1 << 16  # bytes of a file whose contents come along with others'
TOGETHER = 1 << 19  # and of all of those
AHEAD = 16  # as many fds as a server donates ahead
FAR = 64  # where no fds come: the way may be long
