"""Asking a server's watcher: the other end of control.py's socket."""

from __future__ import annotations

import os
import socket
from errno import EACCES, EPERM

from gofer import Failure

_PATIENCE = 10.0  # seconds
_WHO = "only root and the server's user may ask"
_REMEDY = "give the control socket, or the process id, of a server that was started with --control PATH"


def ask(where: str, word: bytes) -> bytes:
    """where: a socket's path, or a process id. Failure: in one line, why not."""
    path = _socket_of(where) if where.isascii() and where.isdigit() else where
    found = bytearray()
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            try:
                sock.sendall(word)
                sock.shutdown(socket.SHUT_WR)  # who waits for more, as a server of files does, hangs up
                while part := sock.recv(1 << 16):
                    found += part
            except (BrokenPipeError, ConnectionResetError):  # it has hung up without a word
                found.clear()
    except OSError as e:
        why = e.strerror or str(e)
        remedy = _WHO if e.errno in (EACCES, EPERM) else _REMEDY
        raise Failure(f"cannot ask {path}: {why}; {remedy}") from None
    if not found:
        raise Failure(f"{path}: no answer: it is not the socket of a --control, the server is ending, or {_WHO}")
    return bytes(found)


def _socket_of(pid: str) -> str:
    """From the process's command line, or environment."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError as e:
        raise Failure(f"process {pid}: {e.strerror}; {_REMEDY}") from None
    found = b""
    for variable in variables:
        if variable.startswith(b"GOFER_SERVE_CONTROL="):
            found = variable.partition(b"=")[2]
    for word, following in zip(words, [*words[1:], b""]):
        if word == b"--":
            break
        if word == b"--control":
            found = following
        elif word.startswith(b"--control="):
            found = word.partition(b"=")[2]
    if not found.startswith(b"/"):
        raise Failure(f"process {pid} does not tell the path of its control socket; {_REMEDY}")
    return os.fsdecode(found)
