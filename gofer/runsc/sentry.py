"""Waiting for the sandbox's end by the pidfd it sends (2026-08, --sync-sentry-exit-fd; gVisor's pkg/pinring)."""

from __future__ import annotations

import os
import select
import socket


def wait_for_exit(sock_fd: int, patience: float) -> bool:
    """False only where a process was named and still runs after `patience` seconds; nothing that goes wrong matters."""
    try:
        if not _readable(sock_fd, patience):
            return True
        sock = socket.socket(fileno=sock_fd)
        _, fds, _, _ = socket.recv_fds(sock, 1, 1, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return True
    if not fds:
        return True
    try:
        return _readable(fds[0], patience)
    finally:
        for fd in fds:
            os.close(fd)


def _readable(fd: int, patience: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(patience * 1000))
