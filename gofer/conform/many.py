"""The messages of gofer's own that are about many files of one directory; no server must have them."""

from __future__ import annotations

import os
import struct

from gofer.conform.caller import Caller
from gofer.conform.codec import Mid, Name, Stat, expect, string


class Many(Caller):
    # DirRead: dir_fd[8] each[4] most[4] str* -> n[4] size[4], n times errno[4] size[4] Statx, contents
    def dirread(
        self, dir_fd: int, *names: Name, each: int = 65536, most: int = 1 << 19
    ) -> list[tuple[int, Stat, bytes | None]]:
        """Of each an errno, its Stat, and contents; None: they are not told."""
        payload = struct.pack("<QIIH", dir_fd, each, most, len(names)) + b"".join(map(string, names))
        r = self.read(Mid.DIRREAD, payload)
        entries, _ = r.take("II")
        heads = [(*r.take("II"), r.stat()) for _ in range(entries)]
        rest, at, found = bytes(r.rest()), 0, []
        for code, size, stat in heads:
            told = None if size == 0xFFFFFFFF else rest[at : at + size]
            at += len(told or b"")
            expect(told is None or len(told) == size, "contents that are shorter than told")
            found.append((code, stat, told))
        expect(at == len(rest), "contents of nothing")
        return found

    # DirWrite: dir_fd[8] flags[4] n[4] size[4], n times mode[4] uid[4] gid[4] size[4] atime[16] mtime[16] name_len[2], names,
    #           contents -> n[4] size[4], n times errno[4] failure_mask[4] failure_errno[4]
    def dirwrite(
        self, dir_fd: int, *files: tuple[Name, bytes], flags: int = 0, mode: int = 0o644, owner: tuple[int, int] = (-1, -1),
        times: tuple[int, int, int, int] = (1, 2, 3, 4),
    ) -> list[tuple[int, int, int]]:  # fmt: skip
        names = [os.fsencode(name) for name, _ in files]
        uid, gid = (number & 0xFFFFFFFF for number in owner)
        heads = [struct.pack("<IIIIqqqqH", mode, uid, gid, len(data), *times, len(name)) for name, (_, data) in zip(names, files)]
        data = b"".join([*heads, *names, *(data for _, data in files)])
        r = self.read(Mid.DIRWRITE, struct.pack("<QIII", dir_fd, flags, len(files), len(data)) + data)
        entries, _ = r.take("II")
        return [r.take("III") for _ in range(entries)]

    # DirRename: dir_fd[8] str* -> n[4] size[4], n times errno[4]
    def dirrename(self, dir_fd: int, *moves: tuple[Name, Name]) -> list[int]:
        names = [string(name) for move in moves for name in move]
        r = self.read(Mid.DIRRENAME, struct.pack("<QH", dir_fd, len(names)) + b"".join(names))
        entries, _ = r.take("II")
        return [r.take("I") for _ in range(entries)]
