"""Connect, ConnectWithCreds, BindAt, Listen and Accept."""

from __future__ import annotations

import errno
import os
import socket
import stat as modes
import struct

from gofer.conform.case import expect, fails, refuses, safety, same, semantics, wire
from gofer.conform.codec import Mid
from gofer.conform.looks import bound
from gofer.conform.stand import Stand

STREAM, DGRAM, SEQPACKET = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET
KINDS = {"stream": STREAM, "seqpacket": SEQPACKET}
CONNECT, BIND = "writable host connect", "writable bind"
TODAY = ("today",)
SO_PEERGROUPS = 59
NO_TYPES = {"0": 0, "raw": 3, "4": 4, "6": 6, "non-blocking": 1 | socket.SOCK_NONBLOCK, "largest": 2**32 - 1}


def _listener(t: Stand, kind: int = STREAM) -> socket.socket:
    sock = bound(t, "sock", kind)
    sock.listen()
    return sock


def _adopt(t: Stand, fds: list[int]) -> socket.socket:
    """The one socket that was donated."""
    same(len(fds), 1, "donated fds")
    return t.keep(socket.socket(fileno=t.peer.disown(fds)[0]))


def _client(t: Stand, kind: int = STREAM) -> socket.socket:
    """The host's own, connected to `new`."""
    sock = t.keep(socket.socket(socket.AF_UNIX, kind))
    directory = os.open(t.tree, os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{directory}/new")
    finally:
        os.close(directory)
    return sock


def _credentials(sock: socket.socket) -> tuple[int, int]:
    _, uid, gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return uid, gid


def _speak(one: socket.socket, other: socket.socket) -> None:
    one.send(b"ping")
    same(other.recv(10), b"ping")
    other.send(b"pong")
    same(one.recv(10), b"pong")


@semantics(needs=CONNECT, each=KINDS)
def connect_donates_a_connected_socket(t: Stand, kind: int) -> None:
    host = _listener(t, kind)
    client = _adopt(t, t.peer.connect(t.walk("sock"), kind))
    same(client.type & 0xF, kind, "type")
    _speak(client, t.keep(host.accept()[0]))


@semantics(needs=CONNECT)
def connect_to_a_datagram_socket(t: Stand) -> None:
    host = bound(t, "sock", DGRAM)
    _adopt(t, t.peer.connect(t.walk("sock"), DGRAM)).send(b"ping")
    same(host.recv(10), b"ping")


@semantics(needs=CONNECT)
def connect_with_another_type_than_the_sockets_is_eprototype(t: Stand) -> None:
    _listener(t)
    fd = t.walk("sock")
    with fails(errno.EPROTOTYPE):
        t.peer.connect(fd, DGRAM)


@semantics(needs=CONNECT, each=NO_TYPES)
def connect_with_a_type_that_is_none_is_enxio(t: Stand, kind: int) -> None:
    _listener(t)
    fd = t.walk("sock")
    with fails(errno.ENXIO):
        t.peer.connect(fd, kind)


@semantics(needs=CONNECT)
def connect_to_what_is_no_socket_is_an_error(t: Stand) -> None:
    t.ground.file("file")
    fd = t.walk("file")
    with fails(errno.ENOTSOCK, errno.ECONNREFUSED):
        t.peer.connect(fd)


@semantics(needs=CONNECT)
def connect_where_nobody_listens_is_econnrefused(t: Stand) -> None:
    bound(t, "sock")
    fd = t.walk("sock")
    with fails(errno.ECONNREFUSED):
        t.peer.connect(fd)
    with fails(errno.EBADF):
        t.peer.connect(99999999)


@semantics(needs=CONNECT)
def connect_to_an_unlinked_socket_still_works(t: Stand) -> None:
    host = _listener(t)
    fd = t.walk("sock")
    t.ground.remove("sock")
    client = _adopt(t, t.peer.connect(fd))
    _speak(client, t.keep(host.accept()[0]))


@safety(needs=CONNECT)
def connect_never_goes_through_a_symlink(t: Stand) -> None:
    _listener(t)
    t.ground.symlink("sock", "link")
    fd = t.walk("link")
    with refuses():
        t.peer.connect(fd)


@semantics(needs=CONNECT)
def connect_goes_to_a_path_of_any_length(t: Stand) -> None:
    deep = "d" * 120
    t.ground.mkdir(deep)
    host = t.keep(socket.socket(socket.AF_UNIX))
    directory = os.open(t.tree / deep, os.O_PATH)
    try:
        host.bind(f"/proc/self/fd/{directory}/sock")
    finally:
        os.close(directory)
    host.listen()
    _speak(_adopt(t, t.peer.connect(t.walk(deep, "sock"))), t.keep(host.accept()[0]))


@safety(needs=CONNECT)
def connect_to_a_full_queue_does_not_hold_up_the_server(t: Stand) -> None:
    host = bound(t, "sock")
    host.listen(0)
    fd = t.walk("sock")
    for _ in range(4):
        try:
            t.peer.connect(fd)
        except OSError as error:
            if error.errno is None:
                raise
            same(error.errno, errno.EAGAIN, "errno")
    expect(modes.S_ISDIR(t.base.fstat(t.dir).mode), "no directory")


CREDS = {"user": (1234, 5678), "group": (0, 5678), "user-only": (1234, 0), "root": (0, 0)}


@semantics(needs="writable host connect owners", dialects=TODAY, each=CREDS)
def connect_with_creds_shows_the_host_those_ids(t: Stand, uid: int, gid: int) -> None:
    """c4f686f4e (#11291): a peer on a Unix socket saw root."""
    host = _listener(t)
    os.chmod(t.tree / "sock", 0o777)
    fd = t.walk("sock")
    _adopt(t, t.peer.connectwithcreds(fd, uid, gid))
    served = t.keep(host.accept()[0])
    same(_credentials(served), (uid, gid))
    groups = served.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 400)
    expect(set(struct.unpack(f"{len(groups) // 4}I", groups)) <= {gid}, "supplementary groups")


@safety(needs="writable host connect owners", dialects=TODAY)
def connect_with_creds_has_the_rights_of_those_ids_and_gives_them_back(t: Stand) -> None:
    _listener(t)
    os.chown(t.tree / "sock", 1234, 5678)
    os.chmod(t.tree / "sock", 0o700)
    fd = t.walk("sock")
    own = t.peer.fstat(t.dir)
    with fails(errno.EACCES):
        t.peer.connectwithcreds(fd, 4321, 5678)
    _adopt(t, t.peer.connectwithcreds(fd, 1234, 1))
    stat = t.peer.opencreateat(t.dir, "after").inode.stat
    same((stat.uid, stat.gid), (own.uid, own.gid), "owner of what is made afterwards")


NO_IDS = {"uid": (2**32 - 1, 0), "gid": (0, 2**32 - 1), "both": (2**32 - 1, 2**32 - 1)}


@safety(needs="writable host connect owners", dialects=TODAY, each=NO_IDS)
def connect_with_an_id_that_is_none_fails_and_never_connects_as_root(t: Stand, uid: int, gid: int) -> None:
    host = _listener(t)
    fd = t.walk("sock")
    with refuses():
        t.peer.connectwithcreds(fd, uid, gid)
    host.setblocking(False)
    try:
        host.accept()[0].close()
    except BlockingIOError:
        return
    expect(False, "there was a connection")


@semantics(needs="writable bind host", dialects=TODAY, each=KINDS)
def bind_listen_accept_and_speak(t: Stand, kind: int) -> None:
    created = t.peer.bindat(t.dir, "new", kind)
    expect(modes.S_ISSOCK(created.inode.stat.mode), "no socket")
    t.ground.expect_stat(created.inode.stat, "new")
    same(len(created.donated), 1, "donated fds")
    t.peer.listen(created.fd, 5)
    with fails(errno.EAGAIN):
        t.peer.accept(created.fd)
    client = _client(t, kind)
    _, fds = t.peer.accept(created.fd)
    _speak(client, _adopt(t, fds))
    with fails(errno.EAGAIN):
        t.peer.accept(created.fd)


@semantics(needs=BIND, dialects=TODAY, each={"short": "short", "255": "l" * 255})
def bind_to_a_name_that_exists_is_eaddrinuse_whatever_its_length(t: Stand, name: str) -> None:
    t.ground.file(name, b"kept")
    with fails(errno.EADDRINUSE):
        t.peer.bindat(t.dir, name)
    same((t.ground.names(), t.ground.contents(name)), ([name], b"kept"))


@semantics(needs="writable bind host", dialects=TODAY)
def a_bound_datagram_socket_receives_by_the_donated_fd(t: Stand) -> None:
    server = _adopt(t, t.peer.bindat(t.dir, "new", DGRAM).donated)
    _client(t, DGRAM).send(b"ping")
    same(server.recv(10), b"ping")


@safety(needs="writable bind host", dialects=TODAY)
def the_address_of_a_client_is_never_told(t: Stand) -> None:
    listening = t.peer.bindat(t.dir, "new").fd
    t.peer.listen(listening)
    client = bound(t, "a-path-of-the-hosts")
    directory = os.open(t.tree, os.O_PATH)
    try:
        client.connect(f"/proc/self/fd/{directory}/new")
    finally:
        os.close(directory)
    same(t.peer.accept(listening)[0], b"")


@semantics(needs="writable bind connect", dialects=TODAY)
def connect_to_what_was_bound_here(t: Stand) -> None:
    created = t.peer.bindat(t.dir, "new")
    with fails(errno.ECONNREFUSED):
        t.peer.connect(created.inode.fd)
    t.peer.listen(created.fd)
    client = _adopt(t, t.peer.connect(created.inode.fd))
    _speak(client, _adopt(t, t.peer.accept(created.fd)[1]))


@semantics(needs=BIND, dialects=TODAY, each=NO_TYPES)
def bind_with_a_type_that_is_none_is_enxio_and_makes_nothing(t: Stand, kind: int) -> None:
    with fails(errno.ENXIO):
        t.peer.bindat(t.dir, "new", kind)
    same(t.ground.names(), [])


@semantics(needs="writable bind host", dialects=TODAY, each=(-1, 0, 1, 2**31 - 1, -(2**31)))
def any_backlog_is_taken_as_the_kernel_takes_it(t: Stand, backlog: int) -> None:
    t.peer.listen(t.peer.bindat(t.dir, "new").fd, backlog)
    _client(t)


@wire(needs=BIND, dialects=TODAY)
def listen_and_accept_need_a_bound_socket(t: Stand) -> None:
    created = t.peer.bindat(t.dir, "new")
    opened = t.peer.openat(t.dir).fd
    for wrong, number in ((created.inode.fd, errno.EINVAL), (opened, errno.EINVAL), (99999999, errno.EBADF)):
        with fails(number):
            t.peer.listen(wrong)
        with fails(number):
            t.peer.accept(wrong)
    with fails(errno.EINVAL):
        t.peer.accept(created.fd)  # does not listen


@wire(needs=BIND, dialects=TODAY, each=("openat", "readlinkat", "connect", "fstat"))
def a_bound_sockets_fd_where_another_is_meant_is_einval(t: Stand, message: str) -> None:
    created = t.peer.bindat(t.dir, "new")
    with fails(errno.EINVAL):
        getattr(t.peer, message)(created.fd)


@semantics(needs="writable bind host", dialects=TODAY)
def closing_the_bound_fd_closes_the_socket(t: Stand) -> None:
    """ecda53355, 0479a6302: one host fd was shared by two FDs."""
    created = t.peer.bindat(t.dir, "new")
    t.peer.listen(created.fd)
    for fd in t.peer.disown(created.donated):
        os.close(fd)
    t.peer.close(created.fd)
    try:
        _client(t)
        expect(False, "the socket still listens")
    except ConnectionRefusedError:
        pass
    with fails(errno.EBADF):
        t.peer.listen(created.fd)
    expect(modes.S_ISSOCK(t.peer.fstat(created.inode.fd).mode), "the control FD went too")


@semantics(needs="writable bind host", dialects=TODAY)
def closing_the_control_fd_leaves_the_socket(t: Stand) -> None:
    created = t.peer.bindat(t.dir, "new")
    t.peer.close(created.inode.fd)
    t.peer.listen(created.fd)
    _client(t)


@semantics(needs="writable host connect")
def opening_a_socket_gives_no_open_fd(t: Stand) -> None:
    _listener(t)
    fd = t.walk("sock")
    with fails(errno.ENXIO, errno.EPERM):
        t.peer.openat(fd, os.O_RDONLY)


@semantics(needs="writable host no-connect")
def where_connecting_is_closed_it_is_refused_and_looking_is_not(t: Stand) -> None:
    _listener(t)
    fd = t.walk("sock")
    with fails(errno.EPERM, errno.ECONNREFUSED):
        t.peer.connect(fd)
    expect(modes.S_ISSOCK(t.peer.fstat(fd).mode), "no socket")


@semantics(needs="writable no-bind", dialects=TODAY)
def where_binding_is_closed_it_is_eperm_and_makes_nothing(t: Stand) -> None:
    with fails(errno.EPERM):
        t.peer.bindat(t.dir, "new")
    same(t.ground.names(), [])


@wire(needs=BIND, dialects=TODAY, each={"none": b"", "cut": b"\x05\x00new", "more": b"\x03\x00newer"})
def a_bind_with_a_lying_name_is_eio(t: Stand, tail: bytes) -> None:
    head = struct.pack("<QIIH6xI", t.dir, 0, 0, 0o755, 1)
    with fails(errno.EIO):
        t.peer.call(Mid.BINDAT, head + tail)
    same(t.ground.names(), [])
