"""What a gofer got wrong once: semantics. The docstrings name the fix in gVisor's repository, or the advisory."""

import errno
import os
import signal
from pathlib import Path

import pytest
from conftest import Start
from hosts import TRANSPORTS, Server, fails

from gofer.conform.codec import SIZE, Mid

ALL = pytest.mark.serve("--host-uds", "all")


@pytest.mark.parametrize("jail", ["auto", "off"])
def test_the_server_has_no_supplementary_groups(start: Start, jail: str) -> None:
    """CVE-2022-0358: kept groups gave rights, and files, of a group nobody asked for."""
    server = start("--jail", jail, extra_groups=[4, 24, 27])
    status = Path(f"/proc/{server.pid}/status").read_text()
    (groups,) = (line.split(":")[1].split() for line in status.splitlines() if line.startswith("Groups:"))
    assert set(groups) <= {str(os.getgid())}


@ALL
def test_the_two_fds_of_a_bound_socket_are_closed_one_by_one(server: Server) -> None:
    """ecda53355, 0479a6302: BindAt leaked fds, and shared one host fd between two FDs."""
    with server.peer() as peer:
        before = len(server.open_fds())
        created = peer.bindat(peer.root, "sock")
        peer.close(created.inode.fd)
        peer.listen(created.fd)
        assert peer.walk(peer.root, "sock")[0] == 0
        peer.close(created.fd)
        for fd in peer.disown(created.donated):
            os.close(fd)
        assert len(server.open_fds()) == before + 1  # what the walk found
        with fails(errno.EADDRINUSE):
            peer.bindat(peer.root, "sock")
        assert len(server.open_fds()) == before + 1


def test_a_hard_link_works_without_capabilities_in_the_first_user_namespace(start: Start, spot: Path) -> None:
    """acf460d0d (#8688): AT_EMPTY_PATH asks for CAP_DAC_READ_SEARCH there; the magic link does not."""
    (spot / "file").write_bytes(b"hello")
    server = start(wrap=("unshare", "--user", "--map-root-user"))
    with server.peer() as peer:
        inode = peer.linkat(peer.root, peer.walk_to("file"), "hard")
        assert inode.stat.nlink == 2 and (spot / "hard").read_bytes() == b"hello"


@pytest.mark.parametrize("jail", ["auto", "off"])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_set_id_bits_do_not_survive_a_change_of_the_contents(
    start: Start, spot: Path, transport: str, jail: str
) -> None:
    """CVE-2021-20263 (virtiofsd): a set-user-id program could be rewritten and stay set-user-id.

    On a server that has served nothing else, as what it does for chmod lasts.
    """
    with start("--jail", jail).peer(transport) as peer:
        for change in (
            lambda fd: peer.pwrite(peer.openat(fd, os.O_WRONLY).fd, 0, b"evil"),
            lambda fd: peer.setstat(fd, SIZE, size=3),
            lambda fd: peer.openat(fd, os.O_WRONLY | os.O_TRUNC),
        ):
            for bits in (0o4755, 0o6755):
                (spot / "file").write_bytes(b"program")
                os.chmod(spot / "file", bits)
                fd = peer.walk_to("file")
                change(fd)
                assert peer.fstat(fd).mode & 0o7777 == 0o755


def test_a_failed_walk_keeps_no_host_fd(server: Server) -> None:
    """ddaa36bde (#5982), 2b0615c76: closed on every path out."""
    (server.tree / "a/b").mkdir(parents=True)
    (server.tree / "a/b/file").touch()
    os.symlink("b", server.tree / "a/link")
    with server.peer() as peer:
        before = len(server.open_fds())
        for _ in range(20):
            for path in (("a", "b", "file", "x"), ("a", "b", ".."), ("a", "b" * 256), ("a", "b", "\0")):
                with pytest.raises(OSError):
                    peer.walk(peer.root, *path)
            peer.walkstat(peer.root, "a", "b", "file")
            with fails(errno.EEXIST):
                peer.opencreateat(peer.root, "a")
        assert len(server.open_fds()) == before


def test_the_log_tells_of_no_payload_even_at_debug(start: Start) -> None:
    """0c3abacb1, 49d88e92e, 26a5961d4: lengths only."""
    server = start("--log-level", "debug")
    with server.peer() as peer:
        fd = peer.opencreateat(peer.root, "SecretName", mode=0o640).fd
        peer.pwrite(fd, 0, b"SecretContents")
        peer.symlinkat(peer.root, "link", "SecretTarget")
        with fails(errno.EEXIST):
            peer.mkdirat(peer.root, "SecretName")
        with fails(errno.ENOENT):
            peer.unlinkat(peer.root, "SecretOther")
        with fails(errno.ENODATA):
            peer.fgetxattr(peer.walk_to("SecretName"), "user.Secret")
        with fails(errno.EOPNOTSUPP):
            peer.call(99, b"SecretPayload")
    said = server.said()
    assert "Secret" not in said
    for mid, number in ((Mid.MKDIRAT, "17"), (Mid.UNLINKAT, "2"), (Mid.FGETXATTR, "61")):
        assert any(mid.name in line.upper() and number in line for line in said.splitlines()), mid.name
    assert any("99" in line and "95" in line for line in said.splitlines())


def test_a_client_learns_of_the_servers_end_as_end_of_file(start: Start) -> None:
    """54dafa76c: nothing special: the server just goes."""
    server = start()
    with server.peer() as peer:
        server.process.send_signal(signal.SIGKILL)
        server.wait()
        with pytest.raises(ConnectionError):
            peer.fstat(peer.root)


def test_close_frees_the_host_fd_at_once(server: Server) -> None:
    """492ea1a04, 38a3c98a0, 848cd6f0f, e60464fdf: NFS and FUSE need the real close, not a later one."""
    (server.tree / "file").touch()

    def held() -> int:
        return sum(place.endswith("/file") for place in server.open_fds())

    for transport in ("socket", "channel"):
        with server.peer(transport) as peer:
            opened = peer.openat(peer.walk_to("file"), os.O_RDWR)
            for fd in peer.disown(opened.donated):
                os.close(fd)
            assert held() == 2
            peer.close(opened.fd)
            assert held() == 1


def test_no_byte_of_the_servers_memory_reaches_a_client(server: Server) -> None:
    """CVE-2016-9103: pads are zero, and what follows a reply in the window was never written."""
    (server.tree / "file").touch()
    with server.peer("channel") as peer:
        window = peer.transport.window  # type: ignore[union-attr]
        stat = peer.fstat(peer.root)
        assert not any(stat.pads)
        assert not any(window[16 + 4 + 144 :])
        status, inodes = peer.walk(peer.root, "file")
        assert not any(inodes[0].stat.pads)
        assert not any(window[16 + 4 + 3 + 152 :])
