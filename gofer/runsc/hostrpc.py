"""Asking runsc to open a mount's source for us (from 2024-11 on, --rpc-fd).

A gofer in a user namespace may not reach a source that the user who started the container can reach; and only the
host's root can make an id-mapped mount. runsc serves one call for both: `goferToHostRPC.OpenMount`, one JSON object each
way on a stream socket, the fd with the answer's first byte. Facts: gVisor's pkg/urpc and
runsc/container/gofer_to_host_rpc.go.
"""

from __future__ import annotations

from gofer.jail.kernel import MS_BIND
from gofer.runsc.errors import Fault
from gofer.runsc.gojson import decode
from gofer.runsc.spec import Mount

MAX_ANSWER = 1 << 16


def open_mount(rpc_fd: int, mount: Mount) -> int:
    """An O_PATH fd on the mount's source, or a detached, id-mapped mount of it; the caller owns it. Fault."""
    import socket  # most containers never get here

    # Until 20260525 the argument was the mount itself. Go leaves out what it does not know: this is both.
    mount_json = mount.as_json()
    argument = f'{mount_json[:-1]},"Mount":{mount_json},"Flags":{mount.flags() | MS_BIND}}}'
    call = f'{{"method":"goferToHostRPC.OpenMount","arg":{argument}}}'
    fds: list[int] = []
    try:
        with socket.socket(fileno=rpc_fd) as sock:
            try:
                sock.sendall(call.encode())
                fds, answer = _receive(sock)
            finally:
                sock.detach()
    except OSError as error:
        raise Fault(f"mount {mount.destination}: asking runsc to open {mount.source}: {error.strerror}") from None
    if not answer.get("success") or len(fds) != 1:
        _close(fds)
        reason = answer.get("err") or f"{len(fds)} files came with the answer"
        raise Fault(f"mount {mount.destination}: runsc cannot open {mount.source}: {reason}")
    return fds[0]


def _receive(sock: object) -> tuple[list[int], dict[str, object]]:
    import socket

    assert isinstance(sock, socket.socket)
    data, fds, _, _ = socket.recv_fds(sock, MAX_ANSWER, 4, socket.MSG_CMSG_CLOEXEC)
    while data and len(data) < MAX_ANSWER:
        try:
            answer = decode(data, "runsc's answer")
        except Fault:
            more = sock.recv(MAX_ANSWER)  # it came in pieces
            if not more:
                break
            data += more
            continue
        if isinstance(answer, dict):
            return list(fds), answer
        break
    _close(list(fds))
    raise OSError(0, "no complete answer")


def _close(fds: list[int]) -> None:
    import os

    for fd in fds:
        os.close(fd)
