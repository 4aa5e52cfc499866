"""A tar stream into a tree. The archive is not trusted: its names are gone through one component after the other.

The directories on the way to the last member stay open; one that is left gets what it is to have itself when all in it has its
name. No link is followed: symbolic ones are made as they are, as nothing is ever reached through one. `..`, and hard links to
what is not below the destination, are told and left out.
"""

from __future__ import annotations

import os
import stat as modes
import tarfile
from contextlib import closing
from errno import EEXIST, EIO, ENOENT, ENOTDIR, EPERM
from functools import partial

from gofer import Failure
from gofer.client.transport import Lost
from gofer.copy.archive import Member, path_of, stat_of_member, xattrs_of_member
from gofer.copy.commit import Commit, Complete
from gofer.copy.data import PIECE, SHORT
from gofer.copy.names import part_name
from gofer.copy.sides import Node
from gofer.output import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Any, Callable

    from gofer.client.replies import Stat
    from gofer.copy.progress import Progress
    from gofer.copy.sides import Tree, Xattrs

_DEEPEST = 2000
_MOST_LINKS = 1000
_PLAIN = 0o755  # of a directory that the archive does not mention


class _Level:
    """An open directory on the way. told: what it is to have, where the archive has said so."""

    __slots__ = ("name", "directory", "shown", "told")

    def __init__(self, name: bytes, directory: Any, shown: bytes) -> None:
        self.name, self.directory, self.shown = name, directory, shown
        self.told: tuple[Stat, Xattrs] | None = None


class Unpack:
    """exclude(path): what is left out. complain and progress: as in engine.Copy."""

    def __init__(
        self, tree: Tree, root: Any, progress: Progress, complain: Callable[[bytes, OSError, bool | None], None],
        exclude: Callable[[bytes], bool], sync: bool,
    ) -> None:  # fmt: skip
        self._tree, self._progress, self._complain, self._exclude = tree, progress, complain, exclude
        self.commit = Commit(tree, complain, lambda _: progress.file(), sync)
        self._way = [_Level(b"", root, b"./")]
        self._links: set[tuple[bytes, ...]] = set()  # names of hard links that are to be made, and of what they are of

    def run(self, stream: Any) -> None:
        """stream: with read(count). What is no archive, or ends early, is a Failure, when all before has its name."""
        try:
            with tarfile.open(fileobj=stream, mode="r|*", tarinfo=Member, encoding="utf-8", errors="surrogateescape") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all
                    self._entry(tar, info)
        except (tarfile.TarError, EOFError, ValueError) as error:
            self.end()
            raise Failure(f"tar: not a tar archive, or a damaged one: {error}") from None
        self.end()

    def end(self) -> None:
        self._leave(0)
        self.commit.flush()

    def _entry(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> None:
        shown = os.fsencode(info.name)
        try:
            path = path_of(info.name)
            if info.size < 0:
                raise tarfile.ReadError("a size below 0")
            if self._exclude(b"/".join(path)):
                return
            if info.isdir():
                self._go(path)
                self._way[-1].told = stat_of_member(info), xattrs_of_member(info)
            elif path:
                self._go(path[:-1])
                self._file(tar, info, path, shown)
        except Lost:
            raise
        except OSError as error:
            self._complain(shown, error, True)

    # Directories

    def _go(self, path: list[bytes]) -> None:
        """Make the way lead there; what is missing is made."""
        same = 0
        while same < min(len(path), len(self._way) - 1) and self._way[same + 1].name == path[same]:
            same += 1
        self._leave(same)
        if len(path) > _DEEPEST:
            raise OSError(EIO, f"more than {_DEEPEST} directories in each other: left out")
        for name in path[same:]:
            above = self._way[-1]
            self._way.append(_Level(name, self._enter(above.directory, name), above.shown + name + b"/"))

    def _enter(self, above: Any, name: bytes) -> Any:
        (found,) = self._tree.look(above, [name])
        if found is None:
            self.commit.flush()  # the name may be about to be given to something else
            (found,) = self._tree.look(above, [name])
        if isinstance(found, OSError):
            raise found
        if found is None:
            made = self._tree.mkdir(above, name)
            (found,) = self._tree.look(above, [name])
            if isinstance(found, Node):
                self._tree.settle_node(above, found, found.stat._replace(mode=modes.S_IFDIR | _PLAIN), None)
            return made
        if not modes.S_ISDIR(found.stat.mode):
            raise OSError(ENOTDIR, f"{printable(name)} on its way is there, and no directory: left out")
        return self._tree.enter(above, found)

    def _leave(self, depth: int) -> None:
        while len(self._way) > depth + 1 or (depth == 0 and len(self._way) == 1):
            level = self._way.pop()
            if level.told:
                self.commit.then(level.shown, partial(self._finish, level, *level.told))
            if not level.name:
                level.told = None
                self._way.append(level)
                return

    def _finish(self, level: _Level, stat: Stat, xattrs: Xattrs) -> None:
        for error in self._tree.settle_directory(level.directory, stat, xattrs):
            self._complain(level.shown, error, True)

    # What is no directory

    def _file(self, tar: tarfile.TarFile, info: tarfile.TarInfo, path: list[bytes], shown: bytes) -> None:
        directory, stat = self._way[-1].directory, stat_of_member(info)
        kind, name = modes.S_IFMT(stat.mode), path[-1]
        (old,) = self._tree.look(directory, [name])
        if isinstance(old, Node) and modes.S_ISDIR(old.stat.mode):
            raise OSError(EEXIST, "a directory of that name is in its place, and stays")
        part = part_name(name, stat)
        if tuple(path) in self._links or len(self._links) > _MOST_LINKS:
            self._links.clear()
            self.commit.flush()  # what comes now would be linked, or be replaced by a link, that came before it
        if info.islnk():
            first = path_of(info.linkname)
            if not first:
                raise OSError(ENOENT, "a hard link to nothing")
            self._links.update((tuple(first), tuple(path)))
            self.commit.then(shown, partial(self._link, first, directory, part, name))
            return
        if kind == modes.S_IFREG:
            self._regular(tar, info, Complete(directory, part, name, shown, stat))
            return
        if kind == modes.S_IFLNK:
            made = self._tree.symlink(directory, part, os.fsencode(info.linkname))
        elif kind == modes.S_IFIFO or kind == modes.S_IFCHR and stat.rdev == (0, 0):
            try:
                made = self._tree.mknod(directory, part, stat.mode)
            except PermissionError:
                raise OSError(EPERM, "it is a FIFO, and a server makes none: left out") from None
        else:
            raise OSError(EPERM, "it is a device, or of a type that is not known: left out")
        for error in self._tree.settle_node(directory, made, stat, xattrs_of_member(info)):
            self._complain(shown, error, True)
        self.commit.add(Complete(directory, part, name, shown, stat), None)

    def _link(self, first: list[bytes], directory: Any, part: bytes, name: bytes) -> None:
        self._tree.link(self._way[0].directory, first, directory, part)
        (error,) = self._tree.renaming([(directory, part, name)])()
        if error:
            self._tree.remove(directory, part, False)
            raise error
        self._progress.file()

    def _regular(self, tar: tarfile.TarFile, info: tarfile.TarInfo, new: Complete) -> None:
        (file,) = self._tree.create(new.directory, [new.part])()
        if isinstance(file, OSError):
            raise file
        self.commit.making[new.part] = new.directory, 0
        try:
            at = 0
            with closing(file.writes(self._pieces(tar, info))) as written:
                for end in written:
                    self._progress.moved(end - at)
                    at = end
            if info.issparse():
                file.truncate(info.size)
        except BaseException:
            self.commit.discard(new.part)
            raise
        for error in self._tree.settle([(file, new.stat, xattrs_of_member(info))])()[0]:
            self._complain(new.shown, error, True)
        self.commit.add(new, file)

    def _pieces(self, tar: tarfile.TarFile, info: tarfile.TarInfo) -> Generator[tuple[int, bytes], None, None]:
        source, at = tar.extractfile(info), 0
        while source and at < info.size:
            data = source.read(min(PIECE, info.size - at))
            if not data:
                raise tarfile.ReadError(SHORT)
            if not (info.issparse() and not data.strip(b"\0")):
                yield at, data
            at += len(data)
