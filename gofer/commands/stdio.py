"""`gofer serve --stdio`: one client, over this process's stdin and stdout, which may be two pipes: how ssh has it.

Theory of operation
-------------------
The server is a child, as it always is, of a socket; this process carries bytes between that and fds 0 and 1, a thread each way,
as either may have to wait while the other must not: a client sends on while it takes replies. It knows nothing of messages, holds
no files, and confines itself. No fd can cross, so the server donates none and has no channels.

The end goes as it does for sockets. The client closes its end: the server sees a hang-up, ends, and so does the other direction.
Nobody takes replies any more: likewise. This process is killed: likewise, as its end of the socket closes. Signals that stop a
server are handed on to it, and the exit status is its own.
"""

from __future__ import annotations

import _thread
import os
from _signal import signal
from _socket import AF_UNIX, SHUT_RDWR, SHUT_WR, SOCK_STREAM, socket, socketpair
from fcntl import fcntl

from gofer import Failure, failure, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

_AT_ONCE = 1 << 20  # bytes; a pipe has 64 KiB, or more where its user has asked for it: so that fewer turns are taken for more
_SET_PIPE_SIZE = 1031  # fcntl(2)


def settle(options: Any) -> None:
    """Make the options of `serve` those of a server over pipes. Failure where they ask for something else, too."""
    for name, value in (("--socket", options.socket), ("--fd", options.fd), ("a COMMAND", options.command)):
        if value:
            raise Failure(f"--stdio serves one client, on stdin and stdout; leave {name} away")
    options.donate, options.channels, options.workers, options.busy_poll = "no", 0, 1, 0
    options.lanes = True
    if options.log_level == "info":  # stderr is seen by whoever typed a command on another host
        options.log_level = "error"


def relay(options: Any, serve: Callable[[], int]) -> int:
    """Serve stdin and stdout; returns the exit status. serve(): called in the child, options.fd then names its socket."""
    # Now: run from memory (client/remote.py), this program is gone when strays are closed.
    if options.jail != "off":
        from gofer.jail import enter
    from gofer.server import lanes  # noqa: F401
    try:
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        child = os.fork()
    except OSError as error:
        raise failure("cannot serve stdin and stdout", error) from None
    if child == 0:
        ours.close()
        _let_go_of_stdio()
        options.fd = [theirs.detach()]
        return serve()
    theirs.close()
    for fd in (0, 1):
        try:
            fcntl(fd, _SET_PIPE_SIZE, _AT_ONCE)
        except OSError:  # no pipe, or more than this user may have
            pass
    for number in signals.heeded():
        signal(number, lambda number, _: _pass_on(child, number))
    done = _thread.allocate_lock()
    done.acquire()
    _thread.start_new_thread(_to_server, (ours,))
    _thread.start_new_thread(_from_server, (ours, done))
    if options.jail != "off":
        try:
            enter.confine_relay(options.seccomp, child)
        except OSError as error:
            raise failure("cannot confine what carries stdin to the server", error, "--jail=off serves without") from None
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done.acquire()  # the last reply is on its way
    return status if status >= 0 else 128 - status


def _to_server(sock: socket) -> None:
    try:
        while data := os.read(0, _AT_ONCE):
            sock.sendall(data)
    except OSError:
        pass
    _shut(sock, SHUT_WR)


def _from_server(sock: socket, done: Any) -> None:
    try:
        while data := sock.recv(_AT_ONCE):
            while data:
                data = data[os.write(1, data) :]
    except OSError:
        pass
    _shut(sock, SHUT_RDWR)
    os.close(1)  # whoever reads there is told, though this process may still wait for the server
    done.release()


def _shut(sock: socket, how: int) -> None:
    try:
        sock.shutdown(how)
    except OSError:  # it is
        pass


def _let_go_of_stdio() -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1):
        os.dup2(null, number)
    os.close(null)


def _pass_on(child: int, number: int) -> None:
    try:
        os.kill(child, number)
    except OSError:  # it has ended
        pass
