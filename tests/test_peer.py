"""The tests' own codec against the golden vectors: the peer that judges the server is judged first."""

import socket
from typing import Any, Callable

import pytest
from vectors import BY_NAME, VECTORS

from gofer.conform.codec import Mid, Reader
from gofer.conform.peer import Peer
from gofer.conform.transport import Reply, SocketTransport

PATH = ["usr", "lib", "x"]
CREATE = {"uid": 10, "gid": 20}
# vector: the call that must put its bytes on the wire
CALLS: dict[str, Callable[[Peer], Any]] = {
    "StatReq": lambda p: p.fstat(7),
    "SetStatReq": lambda p: p.setstat(7, 45, mode=493, uid=10, gid=20, size=4097, atime=(1, 2), mtime=(3, 4)),
    "WalkReq": lambda p: p.walk(1, *PATH),
    "OpenAtReq": lambda p: p.openat(7, 2),
    "OpenCreateAtReq": lambda p: p.opencreateat(3, "hello.txt", flags=2, mode=420, **CREATE),
    "CloseReq": lambda p: p.close(1, 2, 300),
    "FsyncReq": lambda p: p.fsync(5),
    "PReadReq": lambda p: p.pread(9, 4096, 512),
    "PWriteReq": lambda p: p.pwrite(9, 4096, b"hello"),
    "MkdirAtReq": lambda p: p.mkdirat(3, "d", mode=493, **CREATE),
    "MknodAtReq": lambda p: p.mknodat(3, "n", mode=33152, major=2, minor=1, **CREATE),
    "SymlinkAtReq": lambda p: p.symlinkat(3, "l", "../t", **CREATE),
    "LinkAtReq": lambda p: p.linkat(3, 7, "hl"),
    "FStatFSReq": lambda p: p.fstatfs(7),
    "FAllocateReq": lambda p: p.fallocate(9, 1, 10, 20),
    "ReadLinkAtReq": lambda p: p.readlinkat(7),
    "FlushReq": lambda p: p.flush(7),
    "ConnectReq": lambda p: p.connect(7, 1),
    "BindAtReq": lambda p: p.bindat(3, "s.sock", sock_type=5, mode=49645, **CREATE),
    "ListenReq": lambda p: p.listen(44, 128),
    "AcceptReq": lambda p: p.accept(44),
    "UnlinkAtReq": lambda p: p.unlinkat(3, "d", 512),
    "RenameAtReq": lambda p: p.renameat(3, "a", 4, "bb"),
    "Getdents64Req": lambda p: p.getdents64(9, -8192),
    "FGetXattrReq": lambda p: p.fgetxattr(7, "user.a", 64),
    "FSetXattrReq": lambda p: p.fsetxattr(7, "user.a", b"vv", 1),
    "FListXattrReq": lambda p: p.flistxattr(7, 256),
    "FRemoveXattrReq": lambda p: p.fremovexattr(7, "user.a"),
}


class Captured(Exception):
    pass


class Capture(SocketTransport):
    """Keeps what is sent, and gives the reply it was made with."""

    def __init__(self, reply: bytes = b"", stop: bool = True) -> None:
        self.reply, self.stop = reply, stop

    def exchange(self, mid: int, payload: bytes = b"") -> Reply:
        self.mid, self.payload = mid, payload
        if self.stop:
            raise Captured
        return Reply(mid, self.reply, [])


def replied(name: str) -> Peer:
    return Peer(Capture(BY_NAME[name].raw, stop=False))


@pytest.mark.parametrize("name", CALLS)
def test_a_call_sends_the_golden_bytes(name: str) -> None:
    capture = Capture()
    with pytest.raises(Captured):
        CALLS[name](Peer(capture))
    assert capture.payload == BY_NAME[name].raw
    assert capture.mid == BY_NAME[name].mid


def test_every_golden_request_is_sent_by_some_call() -> None:
    assert {vector.message for vector in VECTORS if vector.is_request} == set(CALLS)


def test_a_golden_stat_is_read_field_by_field() -> None:
    r = Reader(BY_NAME["Statx"].raw)
    stat, fields = r.stat(), BY_NAME["Statx"].fields
    r.done()
    for name in ("mask", "blksize", "nlink", "uid", "gid", "mode", "size", "blocks", "attributes_mask"):
        assert getattr(stat, name) == fields[name]
    for name in ("atime", "btime", "ctime", "mtime"):
        assert list(getattr(stat, name)) == fields[name]
    assert (stat.ino, stat.attributes) == (0x0102030405060708, 0x1122334455667788)
    assert (stat.rdev, stat.dev) == ((5, 6), (7, 8))
    assert not any(stat.pads)


def test_golden_replies_are_read() -> None:
    mounted = replied("MountResp").mount()
    assert (mounted.root.fd, mounted.max_message_size, mounted.supported) == (42, 2093056, [1, 2, 3, 31])
    status, inodes = replied("WalkResp").walk(1, "a", "b")
    assert status == 1 and [inode.fd for inode in inodes] == [42, 42]
    assert len(replied("WalkStatResp").walkstat(1, "a", "b")) == 2
    assert replied("SetStatResp").setstat(7, 45) == (1, 13)
    assert replied("OpenAtResp").openat(7).fd == 9
    assert replied("OpenCreateAtResp").opencreateat(1, "a").fd == 43
    assert replied("BindAtResp").bindat(1, "a").fd == 44
    assert replied("PReadResp").pread(9, 0, 3) == b"abc"
    assert replied("PWriteResp").pwrite(9, 0, b"hello") == 5
    assert replied("ReadLinkAtResp").readlinkat(7) == b"../t"
    assert replied("AcceptResp").accept(44) == (b"peer", [])
    assert replied("FGetXattrResp").fgetxattr(7, "user.a") == b"v"
    assert replied("FListXattrResp").flistxattr(7) == [b"user.a", b"user.b"]
    assert replied("StatFS").fstatfs(7) == (0xEF53, 4096, 1, 2, 3, 4, 5, 255)
    names = [(entry.name, entry.type, entry.dev, entry.off) for entry in replied("Getdents64Resp").getdents64(9)]
    assert names == [(b"file", 8, (8, 1), 99), (b"dir", 4, (8, 1), 100)]


@pytest.mark.parametrize("change", [lambda raw: raw[:-1], lambda raw: raw + b"\0", lambda raw: b""])
def test_a_malformed_reply_is_noticed(change: Callable[[bytes], bytes]) -> None:
    for name, call in (("MountResp", Peer.mount), ("Getdents64Resp", lambda p: p.getdents64(9))):
        with pytest.raises(AssertionError):
            call(Peer(Capture(change(BY_NAME[name].raw), stop=False)))


def test_an_answer_to_another_request_is_noticed() -> None:
    with pytest.raises(AssertionError):
        Peer.check(Mid.FSTAT, Reply(Mid.WALK, b"", []))


def test_donated_fds_are_closed_with_the_peer() -> None:
    near, far = socket.socketpair()
    with far:
        other = socket.socket()
        socket.send_fds(far, [b"\0\0\0\0\x02\0\0\0"], [other.fileno(), other.fileno()])
        other.close()
        peer = Peer(SocketTransport(near))
        assert len(peer.exchange(Mid.CHANNEL).fds) == 2
        assert far.recv(100) == b"\0\0\0\0\x02\0\0\0"
        peer.disconnect()
