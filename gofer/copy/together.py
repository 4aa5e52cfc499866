"""A server's side of small files: read, made and given their names many at a time, in messages of our own (DirRead, DirWrite,
DirRename). Of a server that does not know them, one by one.
"""

from __future__ import annotations

import os
import struct
from errno import EIO, ENOENT, EOPNOTSUPP
from functools import partial
from stat import S_ISREG

from gofer import wire
from gofer.client.replies import stat_at
from gofer.client.transport import Lost
from gofer.copy.files import payload_of
from gofer.copy.local import FEW, sync_systems
from gofer.copy.messages import name_of, names_of_all, troubles_told
from gofer.copy.posts import Asking
from gofer.copy.sides import SMALL, TOGETHER, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Callable, Union

    from gofer.client.client import Client
    from gofer.client.replies import Stat
    from gofer.copy.files import FD, RemoteFile
    from gofer.copy.posts import Batch, Outcome
    from gofer.copy.sides import Found, New, Xattrs

    Outcomes = list[tuple[Union["MadeFile", RemoteFile, None], list[OSError]]]

_DISK = 1  # flags of a DirWrite
_HEAD = struct.Struct("<II")
_ENTRY = wire.DirReadEntry.size


class MadeFile:
    """A file that a server has made, in that directory, under that name. host: as in sides.File; synced: it is on the disk."""

    __slots__ = ("directory", "name", "synced", "host", "size")

    def __init__(self, directory: FD, name: bytes, synced: bool) -> None:
        self.directory, self.name, self.synced = directory, name, synced
        self.host = -1


class Together(Asking):
    if TYPE_CHECKING:  # what a RemoteTree has

        def look(self, directory: FD, names: Sequence[bytes]) -> list[Found]: ...
        def open(self, directory: FD, nodes: Sequence[Node]) -> Callable[[], list[RemoteFile | OSError]]: ...
        def create(self, directory: FD, names: Sequence[bytes]) -> Callable[[], list[RemoteFile | OSError]]: ...
        def writing(self, items: Sequence[tuple[RemoteFile, bytes]]) -> Callable[[], list[OSError | None]]: ...
        def settle(self, items: Sequence[tuple[RemoteFile, Stat, Xattrs]]) -> Callable[[], list[list[OSError]]]: ...

    _knows = True  # the messages that are about many files, until the server says that it does not
    _knows_dirwalk = True
    _syncs_itself = False  # whether a server is asked to sync what it makes, as it gives no fd by which that could be done here

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self._samples: dict[tuple[int, int], RemoteFile | OSError] = {}  # by device: one that was made there

    def _knowing(self, outcome: Outcome) -> bytes | None:
        """The answer to one of these messages; None where it is asked otherwise, as this has failed."""
        try:
            return payload_of(outcome)
        except Lost:
            raise
        except OSError as error:
            if error.errno == EOPNOTSUPP:
                self._knows = False
            return None

    # Reading

    def _posted_read(self, directory: FD, names: Sequence[bytes]) -> Callable[[], list[Found]]:
        request = wire.DirReadReq.bytes(directory.key, SMALL, TOGETHER) + names_of_all(names)
        posted = self._post([(wire.DIRREAD, request)])

        def read() -> list[Found]:
            (outcome,) = posted()
            payload = self._knowing(outcome)
            if payload is None:
                return self.look(directory, names)
            nodes, closer = self._nodes(names, payload)
            for i, node in zip(closer, self.look(directory, [names[i] for i in closer])):
                nodes[i] = node
            return nodes

        return read

    def _nodes(self, names: Sequence[bytes], payload: bytes) -> tuple[list[Found], list[int]]:
        """What they are, and the numbers of those that are to be looked at by other messages."""
        number, size = wire.DirReadResp.read(payload)
        at = wire.DirReadResp.size + number * _ENTRY
        if number != len(names) or len(payload) != wire.DirReadResp.size + size or len(payload) < at:
            raise self._client.give_up("a DirRead with another number of files than was asked for")
        found: list[Found] = []
        closer = []
        for name, head in zip(names, range(wire.DirReadResp.size, at, _ENTRY)):
            code, length = _HEAD.unpack_from(payload, head)
            if code or length == wire.UNTOLD:
                if code != ENOENT:
                    closer.append(len(found))
                found.append(None)
                continue
            stat = stat_at(payload, head + _HEAD.size)
            if length > SMALL or length != stat.size or not S_ISREG(stat.mode) or at + length > len(payload):
                raise self._client.give_up("a DirRead with more data than was asked for, or less than it says")
            found.append(Node(name, stat, None, payload[at : at + length]))
            at += length
        if at != len(payload):
            raise self._client.give_up("a DirRead with more data than its files have")
        return found, closer

    # Making

    def make(self, directory: FD, items: Sequence[New], sync: bool) -> Callable[[], Outcomes]:
        if not self._knows:
            return lambda: self._one_by_one(directory, items)
        synced = sync and (self._syncs_itself or not self._donates)
        heads = [
            wire.DirWriteEntry.bytes(
                stat.mode & 0o7777, stat.uid, stat.gid, len(content), *stat.atime, *stat.mtime, len(name)
            )
            for name, stat, content in items
        ]
        data = b"".join([*heads, *[each.name for each in items], *[each.content for each in items]])
        request = wire.DirWriteReq.bytes(directory.key, _DISK if synced else 0, len(items), len(data)) + data
        posted = self._post([(wire.DIRWRITE, request)])

        def made() -> Outcomes:
            (outcome,) = posted()
            payload = self._knowing(outcome)
            if payload is None:
                if self._knows and isinstance(outcome, OSError):
                    return [(None, [outcome]) for _ in items]
                return self._one_by_one(directory, items)
            told = self._told(wire.DirWriteDone, payload, len(items), "DirWrite")
            return [
                (None, [OSError(code, os.strerror(code))]) if code else (
                    MadeFile(directory, item.name, synced), troubles_told(mask, failed)
                )
                for item, (code, mask, failed) in zip(items, told)
            ]  # fmt: skip

        return made

    def _told(self, record: wire.Record, payload: bytes, count: int, name: str) -> Iterator[tuple[int, ...]]:
        """What is told of each file."""
        head = wire.DirReadResp
        if len(payload) != head.size + count * record.size or head.read(payload) != (count, count * record.size):
            raise self._client.give_up(f"a {name} with another number of files than was asked for")
        return (record.read(payload, head.size + i * record.size) for i in range(count))

    def _one_by_one(self, directory: FD, items: Sequence[New]) -> Outcomes:
        found: Outcomes = []
        for at in range(0, len(items), self.ahead):
            group = items[at : at + self.ahead]
            files = self.create(directory, [each.name for each in group])()
            there = [(file, item) for file, item in zip(files, group) if not isinstance(file, OSError)]
            written = iter(self.writing([(file, item.content) for file, item in there])())
            settled = iter(self.settle([(file, item.stat, {}) for file, item in there])())
            for file in files:
                if isinstance(file, OSError):
                    found.append((None, [file]))
                    continue
                error, troubles = next(written), next(settled)
                found.append((None, [error]) if error else (file, troubles))
        return found

    # Names

    def sync(self, files: Sequence[RemoteFile | MadeFile]) -> list[OSError | None]:
        made = [each for each in files if isinstance(each, MadeFile) and not each.synced]
        others = [each for each in files if not isinstance(each, MadeFile)]
        told: dict[int, OSError | None] = dict(zip(map(id, others), self._sync_files(others)))
        told.update(zip(map(id, made), self._sync_made(made)))
        return [told.get(id(each)) for each in files]

    def _sync_files(self, files: Sequence[RemoteFile]) -> list[OSError | None]:
        if len(files) > FEW and all(file.host >= 0 for file in files):  # it is on this machine
            return sync_systems([(file.host, -1) for file in files])
        calls = [(wire.FSYNC, struct.pack("<HQ", 1, file.key)) for file in files]
        return [outcome if isinstance(outcome, OSError) else None for outcome in self.ask(calls)]

    def _sync_made(self, files: Sequence[MadeFile]) -> list[OSError | None]:
        """Those of each file system at once, by an fd on one of them, where the server gives one; else each by the server."""
        by_device: dict[tuple[int, int], list[MadeFile]] = {}
        for each in files:
            by_device.setdefault(each.directory.device, []).append(each)
        told: dict[int, OSError | None] = {}
        for device, group in by_device.items():
            if len(group) > FEW:
                if device not in self._samples:
                    (self._samples[device],) = self._reopened(group[:1])
                opened = self._samples[device]
                if not isinstance(opened, OSError) and opened.host >= 0:
                    (error,) = sync_systems([(opened.host, -1)])
                    told.update((id(each), error) for each in group)
                    continue
                del self._samples[device]
                self._syncs_itself = True
            told.update(zip(map(id, group), self._sync_each(group)))
        return [told[id(each)] for each in files]

    def _sync_each(self, files: Sequence[MadeFile]) -> list[OSError | None]:
        told: list[OSError | None] = []
        for at in range(0, len(files), self.ahead):
            opened = self._reopened(files[at : at + self.ahead])
            synced = iter(self._sync_files([each for each in opened if not isinstance(each, OSError)]))
            told += [each if isinstance(each, OSError) else next(synced) for each in opened]
        return told

    def _reopened(self, files: Sequence[MadeFile]) -> list[RemoteFile | OSError]:
        """Each opened for reading."""
        opened: list[RemoteFile | OSError] = []
        for each in files:
            (node,) = self.look(each.directory, [each.name])
            if isinstance(node, Node) and S_ISREG(node.stat.mode):
                opened += self.open(each.directory, [node])()
            else:
                opened.append(node if isinstance(node, OSError) else OSError(EIO, "it was replaced meanwhile"))
        return opened

    def renaming(self, moves: Sequence[tuple[FD, bytes, bytes]]) -> Callable[[], list[OSError | None]]:
        if not self._knows:
            told = self._renamed_each(moves)
            return lambda: told
        groups: list[list[tuple[FD, bytes, bytes]]] = []
        for move in moves:
            if not groups or groups[-1][0][0] is not move[0]:
                groups.append([])
            groups[-1].append(move)
        calls = [
            (wire.DIRRENAME, wire.DirRenameReq.bytes(group[0][0].key) + names_of_all([name for _, *two in group for name in two]))
            for group in groups
        ]
        return partial(self._renamed, groups, self._post(calls))

    def _renamed(self, groups: Sequence[Sequence[tuple[FD, bytes, bytes]]], posted: Batch) -> list[OSError | None]:
        told: list[OSError | None] = []
        for group, outcome in zip(groups, posted()):
            payload = self._knowing(outcome)
            if payload is None:
                told += self._renamed_each(group)
            else:
                told += [
                    OSError(code, os.strerror(code)) if code else None
                    for (code,) in self._told(wire.ErrorResp, payload, len(group), "DirRename")
                ]
        return told

    def _renamed_each(self, moves: Sequence[tuple[FD, bytes, bytes]]) -> list[OSError | None]:
        calls = [
            (wire.RENAMEAT, wire.RenameAtReq.bytes(directory.key, directory.key) + name_of(old) + name_of(new))
            for directory, old, new in moves
        ]
        return [outcome if isinstance(outcome, OSError) else None for outcome in self.ask(calls)]
