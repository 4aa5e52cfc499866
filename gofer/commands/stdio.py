"""`gofer serve --stdio`: one client, over this process's stdin and stdout, which may be two pipes: how ssh has it.

Theory of operation
-------------------
The server is a child, as it always is, of a socket; this process carries bytes between that and fds 0 and 1, a thread each way,
as either may have to wait while the other must not: a client sends on while it takes replies. It knows of one message, holds
no files, and confines itself. No fd can cross, so the server donates none and has no channels.

That message is Lanes, with which a client of ours begins. It is handed on, and nothing after it: from then on the server reads
and writes fds 0 and 1 itself (server/pipes.py), as two more copies of each byte and two more switches cost as much as the rest
of the server does. This process then only tells it by the socket that the client has hung up, in case nobody there is reading.

The end goes as it does for sockets. The client closes its end: the server sees a hang-up, ends, and so does the other direction.
Nobody takes replies any more: likewise. This process is killed: likewise, as its end of the socket closes. Signals that stop a
server are handed on to it, and the exit status is its own.
"""

from __future__ import annotations

import _thread
import os
import select
from _signal import signal
from _socket import AF_UNIX, SHUT_RDWR, SHUT_WR, SOCK_STREAM, socket, socketpair
from fcntl import F_DUPFD_CLOEXEC, fcntl

from gofer import Failure, failure, signals
from gofer.wire import LANES, LaneHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

    from gofer.server.pipes import Ends

_AT_ONCE = 1 << 20  # bytes
_SET_PIPE_SIZE = 1031  # fcntl(2)
_HANG_UP = select.POLLHUP | getattr(select, "POLLRDHUP", 0x2000)


def settle(options: Any) -> None:
    """Make the options of `serve` those of a server over pipes. Failure where they ask for something else, too."""
    for name, value in (("--socket", options.socket), ("--fd", options.fd), ("a COMMAND", options.command)):
        if value:
            raise Failure(f"--stdio serves one client, on stdin and stdout; leave {name} away")
    options.donate, options.channels, options.workers, options.busy_poll = "no", 0, 1, 0
    if options.log_level == "info":  # stderr is seen by whoever typed a command on another host
        options.log_level = "error"


def relay(options: Any, serve: Callable[[], int]) -> int:
    """Serve stdin and stdout; returns the exit status. serve(): called in the child, options.fd and options.lanes then name its
    socket, and the fds that it has besides."""
    # Now: run from memory (client/remote.py), this program is gone when strays are closed.
    if options.jail != "off":
        from gofer.jail import enter
    from gofer.server import lanes  # noqa: F401
    try:
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        ends = _ends()
        child = os.fork()
    except OSError as error:
        raise failure("cannot serve stdin and stdout", error) from None
    if child == 0:
        ours.close()
        _let_go_of_stdio()
        options.fd, options.lanes = [theirs.detach()], ends
        return serve()
    theirs.close()
    for fd in ends.fds:
        os.close(fd)
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


def _ends() -> Ends:
    """What the server has of its own when there is nobody between any more. A pipe has 64 KiB, or more where its user asks for it
    and may have it: so that fewer turns are taken for more."""
    from gofer.server.pipes import WIDE, Ends

    wide = []
    for fd in (0, 1):
        try:
            wide.append(fcntl(fd, _SET_PIPE_SIZE, WIDE) >= WIDE)
        except OSError:  # no pipe, or more than this user may have
            wide.append(False)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl(writer, _SET_PIPE_SIZE, WIDE)
    except OSError:
        os.close(reader)
        os.close(writer)
        reader = writer = -1
    stdin, stdout = (fcntl(fd, F_DUPFD_CLOEXEC, 3) for fd in (0, 1))
    return Ends(stdin, stdout, reader, writer, wide[1])


def _to_server(sock: socket) -> None:
    head = b""
    try:
        while len(head) < LaneHeader.size and (data := _read(LaneHeader.size - len(head))):
            head += data
        sock.sendall(head)
        if len(head) == LaneHeader.size and LaneHeader.read(head)[1] == LANES:
            _wait_for(0, _HANG_UP)
        else:
            while data := _read(_AT_ONCE):
                sock.sendall(data)
    except OSError:
        pass
    _shut(sock, SHUT_WR)


def _read(most: int) -> bytes:
    """From fd 0, which is not ours alone: somebody may have made it non-blocking."""
    while True:
        try:
            return os.read(0, most)
        except BlockingIOError:
            _wait_for(0, select.POLLIN)


def _wait_for(fd: int, events: int) -> None:
    look = select.poll()
    look.register(fd, events)
    look.poll()


def _from_server(sock: socket, done: Any) -> None:
    try:
        while data := sock.recv(_AT_ONCE):
            while data:
                try:
                    data = data[os.write(1, data) :]
                except BlockingIOError:
                    _wait_for(1, select.POLLOUT)
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
