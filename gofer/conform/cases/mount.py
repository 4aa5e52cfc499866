"""Mount, and what FDs there are after it."""

from __future__ import annotations

import errno
import os
import stat as modes

from gofer.conform.case import expect, fails, may_fail, refuses, safety, same, semantics, wire
from gofer.conform.codec import MAX_MESSAGE, Mid
from gofer.conform.peer import Peer
from gofer.conform.peer2021 import Peer2021
from gofer.conform.stand import Stand, socket_of, unmounted_2021, walked
from gofer.conform.transport import HEADER

ONE = ("socket",)


@semantics()
def the_root_is_a_directory_or_a_file(t: Stand) -> None:
    kind = modes.S_IFMT(t.peer.fstat(t.root).mode)
    expect(kind in (modes.S_IFDIR, modes.S_IFREG), f"a root of type {kind:o}")


@wire(dialects=("today",), ways=ONE, fresh=True)
def the_reply_tells_the_largest_message_and_the_messages_there_are(t: Stand) -> None:
    mounted = t.peer.mount()
    expect(mounted.root.fd != 0, "the root's FD is 0")
    same(mounted.max_message_size, MAX_MESSAGE, "max_message_size")
    same(len(set(mounted.supported)), len(mounted.supported), "ids, each once")
    needed: set[int] = {Mid.MOUNT, Mid.CHANNEL, Mid.FSTAT, Mid.SETSTAT, Mid.WALK, Mid.WALKSTAT, Mid.OPENAT, Mid.CLOSE}
    same(sorted(needed - set(mounted.supported)), [], "messages without which there is no file system")


@semantics(dialects=("today",), fresh=True)
def mount_again_makes_another_root_and_leaves_the_first(t: Stand) -> None:
    first = t.root
    second = t.peer.mount().root.fd
    expect(first != second, "the same FD")
    t.peer.close(second)
    expect(modes.S_ISDIR(t.peer.fstat(first).mode), "the first root is no directory")


@semantics(dialects=("2021",), fresh=True)
def a_second_mount_of_2021_is_ebusy(t: Stand) -> None:
    with fails(errno.EBUSY):
        t.peer.mount()


@semantics(dialects=("today",), fresh=True)
def the_root_may_be_closed_like_any_other_fd(t: Stand) -> None:
    t.peer.close(t.root)
    with fails(errno.EBADF):
        t.peer.fstat(t.root)
    expect(modes.S_ISDIR(t.peer.mount().root.stat.mode), "the new root is no directory")


@semantics(needs="writable")
def fd_ids_count_up_and_are_not_used_again(t: Stand) -> None:
    t.ground.file("file")
    ids = []
    for _ in range(5):
        ids.append(t.walk("file"))
        t.peer.close(ids[-1])
    same(sorted(set(ids)), ids, "ids in order, each once")


@safety(needs="writable connections")
def an_fd_of_another_connection_is_unknown(t: Stand) -> None:
    t.ground.file("file")
    other = t.connect()
    fd = t.walk("file")
    for _ in range(20):
        fd = t.walk("file")  # further than the other has counted
    with fails(errno.EBADF):
        other.fstat(fd)
    expect(modes.S_ISREG(t.peer.fstat(fd).mode), "no regular file")


@safety(ways=ONE, dialects=("today",), fresh=True, each=("/", "/etc", ".."))
def the_client_cannot_choose_what_is_mounted(t: Stand, path: str) -> None:
    """3f42b2da9: the server fixes it at start."""
    before = t.peer.fstat(t.root)
    raw = os.fsencode(path)
    for length in (2, 4):
        with may_fail(errno.EIO):
            t.peer.call(Mid.MOUNT, len(raw).to_bytes(length, "little") + raw)
    same(t.peer.mount().root.stat.ino, before.ino, "the root's inode")


@wire(ways=ONE, dialects=("today",), needs="connections")
def before_mount_there_is_no_fd(t: Stand) -> None:
    peer = t.unmounted()
    for fd in (0, 1, 2):
        with fails(errno.EBADF):
            peer.fstat(fd)
    expect(peer.mount().root.fd > 0, "the root's FD is 0")


PATHS_2021 = {
    "empty": ("", errno.EINVAL), "relative": ("dir", errno.EINVAL), "dot": ("./dir", errno.EINVAL),
    "dotdot": ("/..", errno.EINVAL), "up": ("/dir/../../outside", errno.EINVAL), "nul": ("/dir\0", errno.EINVAL),
    "missing": ("/missing", errno.ENOENT), "long": ("/" + "n" * 256, errno.ENAMETOOLONG),
}  # fmt: skip


@safety(ways=ONE, dialects=("2021",), needs="connections", each=PATHS_2021)
def a_mount_path_that_leads_nowhere_is_refused(t: Stand, path: str, number: int) -> None:
    peer = unmounted_2021(t)
    with fails(number):
        peer.mount(path)
    with refuses():
        peer.walk(1, "dir")
    mounted = peer.mount("/")
    same(mounted.root.stat.ino, t.base.fstat(t.base.root).ino, "the root's inode")


@safety(ways=ONE, dialects=("2021",), needs="connections writable")
def a_mount_path_does_not_go_through_a_symlink(t: Stand) -> None:
    t.ground.mkdir("dir")
    t.ground.symlink("dir", "link")
    peer = unmounted_2021(t)
    with refuses():
        peer.mount(f"/{t.name}/link")
    same(peer.mount(f"/{t.name}/dir").root.stat.ino, t.peer.fstat(t.walk("dir")).ino, "the root's inode")


@wire(ways=ONE, dialects=("today",), needs="connections writable")
def requests_of_2021_after_todays_mount_are_errors_and_never_misread(t: Stand) -> None:
    today = t.connect()
    old = Peer2021(today.transport)
    start = walked(today, today.root, t.name)
    for call in (
        lambda: old.fstat(start), lambda: old.walk(start, "a", "b"), lambda: old.mkdirat(start, "made"),
        lambda: old.close(start),
    ):  # fmt: skip
        with refuses():
            call()
    expect(modes.S_ISDIR(today.fstat(start).mode), "the connection does not go on")
    same(t.ground.names(), [])


@wire(ways=ONE, dialects=("2021",), needs="connections writable")
def todays_requests_after_a_mount_of_2021_are_errors_and_never_misread(t: Stand) -> None:
    old = t.connect()
    today = Peer(old.transport)
    start = walked(old, old.root, t.name)
    for call in (
        today.mount, lambda: today.fstat(start), lambda: today.walk(start, "a", "b"), lambda: today.mkdirat(start, "made"),
        lambda: today.unlinkat(start, "made"), lambda: today.close(start),
    ):  # fmt: skip
        with refuses():
            call()
    expect(modes.S_ISDIR(old.fstat(start).mode), "the connection does not go on")
    same(t.ground.names(), [])


@wire(ways=ONE, dialects=("2021",), needs="connections", each=range(1, 13))
def the_dialect_of_2021_is_told_however_its_mount_is_cut(t: Stand, size: int) -> None:
    peer = t.unmounted()
    transport = socket_of(peer)
    message = HEADER.pack(5, Mid.MOUNT, 0) + b"\x01\0\0\0/"
    transport.send(message[:size])
    transport.send(message[size:])
    Peer2021.check(Mid.MOUNT, transport.receive())
