"""A shared-memory channel ("flipcall"): requests and replies in a window of a memfd, hand-over by futex.

Theory of operation
-------------------
The window begins with a word, `state`: 0 while the client is active, 1 while the server is, 2 for good once either has shut
the channel down. Whoever is active owns the rest of the window; it hands over by changing the word and waking the other,
who sleeps on the word. Python has no compare-and-swap, and needs none: FUTEX_WAKE_OP with ANDN 1 is one atomic step of
the kernel's that turns 1 into 0, leaves a 2 that came meanwhile, and wakes the client.

The server's side is one thread a channel. After a hand-over it looks at the word before it sleeps "while the word is 0": where
both share a cpu the kernel lets the client run as soon as it is woken, and the next request is there before we get to sleep.
Where each has one, it goes on looking for a while, or goes to where the client is (busypoll.py). On machines that may load
the rest of the window before the word, the call to sleep comes all the same, before anything is read: it returns at once, and
entering and leaving the kernel orders our loads.

The client is not to be trusted, and can write to the window at any time, also while we work on it:

*   every header field is copied out once, and the copy is checked; a handler reads each field of its request once;
*   the request's and the reply's memory are the same, and the client may change either: at worst it spoils its own data;
*   it cannot shrink or grow the memfd under us (sealed), so our mapping never faults;
*   a state other than 0 and 1 ends the channel; a word put back from 2 to 0 does not keep it alive, as `_closing` is what
    we look at ourselves. A client that puts back 0 in the moment between that look and our sleep can make us miss the wake,
    and one that moves us to a futex of its own (FUTEX_REQUEUE) makes us miss all: so `join` wakes again, and from the second
    time on by a signal to the thread, which no client can divert (`SIGNAL`: whoever serves has a handler for it).
"""

from __future__ import annotations

import _thread
import mmap
import os
from _signal import SIGURG
from errno import EIO
from fcntl import fcntl
from time import sleep

from gofer import sys
from gofer.cdata import addressof, byref, c_char, c_uint32
from gofer.server.busypoll import BusyPoll, apart, change_cpu, dear
from gofer.server.dispatch import IDLE
from gofer.server.donation import Donor, can_do_without, errno_without, most_unread
from gofer.server.fds import HostFD
from gofer.wire import CHANNEL, ERROR, MAX_MESSAGE_SIZE, ErrorResp, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from typing import Any, Callable

    from gofer.log import Log
    from gofer.server.comm import Communicator
    from gofer.server.dispatch import Table

# Window     state[4] data_len[4] reserved[8] mid[2] num_fds[1] zero[1]
_Header = Record("Window", state="I", data_len="I", _reserved="8x", mid="H", _rest="2x")
_LENGTH, _HEAD = 1, 4  # data_len, and mid with num_fds and zero, as words of 32 bits (little-endian, as the wire is)
_DATA = 16  # where data begins, which data_len counts
_MIDS = 0xFFFF
_PAYLOAD = _Header.size
_RPC_HEAD = _PAYLOAD - _DATA
_CLIENT, _SERVER = 0, 1  # who is active
_LOADS_IN_ORDER = sys.MACHINE == "x86_64"
_HANDSHAKE = b"{}\n"
_LENGTHS = 64  # of requests whose memoryviews are kept: most have one of few lengths
_GRACE = 0.5  # seconds a client has, on a busy machine, to wake up and see its last reply: a shutdown seen first would lose it
_NAG = 0.25, 0.5  # seconds between two wakes of a thread that is to end: at first, at most

SIGNAL = SIGURG  # ignored by default, and of no other use here
WINDOW_SIZE = (_PAYLOAD + MAX_MESSAGE_SIZE + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
_MFD_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_SEALS = 0x1 | 0x2 | 0x4  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


class Windows:
    """The memfd of a connection and our mapping of it: one window per channel. The pages exist once they are touched."""

    def __init__(self, count: int) -> None:
        self.memfd = HostFD(os.memfd_create("gofer", _MFD_FLAGS))
        os.ftruncate(self.memfd.host, count * WINDOW_SIZE)
        fcntl(self.memfd.host, sys.F_ADD_SEALS, _SEALS)
        self._memory = mmap.mmap(self.memfd.host, count * WINDOW_SIZE)

    def window(self, index: int) -> tuple[memoryview, int]:
        """The memory of window `index` and its address."""
        view = memoryview(self._memory)[index * WINDOW_SIZE : (index + 1) * WINDOW_SIZE]
        return view, addressof(c_char.from_buffer(view))

    def close(self) -> None:
        """Unmap it, close the memfd; no window may be in use. Not left to the last reference, which is late on some Pythons."""
        self._memory.close()
        self.memfd.shut()


class Channel:
    """The server's side of one channel.

    offset, length: of the window in the memfd. fd_socket: our end of the SEQPACKET pair; the channel owns it.
    busy_poll: microseconds to look for a request before sleeping. table: what it serves by.
    """

    def __init__(
        self,
        windows: Windows,
        index: int,
        fd_socket: socket,
        comm: Communicator,
        log: Log,
        client: int,
        busy_poll: int,
        table: Table,
    ) -> None:
        self.offset, self.length = index * WINDOW_SIZE, WINDOW_SIZE
        self.ended = False
        self._view, address = windows.window(index)
        self._word, self._address = FutexWord(address), address
        self._fd_socket = fd_socket
        self._donor = Donor(fd_socket.fileno(), 1)
        self._comm = comm
        self._log = log
        self._client = client
        self._busy_poll = busy_poll
        self._table = table
        self._closing: list[bool] = []  # not empty: it is to end. A list, as a local variable of who serves can be one
        self.thread = self.ident = 0  # its ids, the kernel's and the interpreter's, once it runs
        self._over = _thread.allocate_lock()  # until the thread has ended
        self._over.acquire()

    def start(self) -> None:
        """Serve from now on, on a thread of its own."""
        _thread.start_new_thread(self._run, ())

    def shut_down(self) -> None:
        """End the channel, from any thread and as often as needed; a request being served is answered first. `join` follows.

        Where the server is active, so that there may be one, its thread ends the channel: woken in case the client has
        written that word without a wake.
        """
        self._closing.append(True)
        if self.ended:
            return
        if _Header.read(self._view)[0] == _SERVER:
            self._word.wake_all()
        else:
            self._word.set_two_and_wake_all()

    def cut_off(self) -> None:
        """Let the client know that no reply will come: the process is about to end, in the middle of its request."""
        self._word.set_two_and_wake_all()

    def join(self, gone: Callable[[], bool]) -> None:
        """Wait until its thread, told by `shut_down`, has ended, and tell it again meanwhile; then give the window back.

        A signal breaks off the call that the thread is in: where the client is `gone`, or has not asked for any.
        """
        pause, longest = _NAG
        while not self._over.acquire(timeout=pause):
            self.shut_down()
            if self.thread and (gone() or _Header.read(self._view)[0] != _SERVER):
                try:
                    sys.tgkill(os.getpid(), self.thread, SIGNAL)
                except OSError:  # it has just ended
                    pass
            pause = min(2 * pause, longest)
        self._view.release()

    def _run(self) -> None:
        self.thread, self.ident = _thread.get_native_id(), _thread.get_ident()
        try:
            if self._handshake():
                self._serve()
        except Exception as error:  # not a handler's: dispatch has those
            self._log.limited("error", "channel", f"client {self._client}: channel failed: {type(error).__name__}")
        finally:
            self._word.set_two_and_wake_all()
            self._comm.donated.clear()
            self._comm.window = None
            self._fd_socket.close()
            self.ended = True
            self._over.release()

    def _wait(self) -> bool:
        """Sleep until the server is active; False where the channel is over."""
        read, view, word = _Header.read, self._view, self._word
        while True:
            word.wait_while_zero()
            state = read(view)[0]
            if self._closing or state != _CLIENT:
                return state == _SERVER and not self._closing

    def _handshake(self) -> bool:
        """The client's JSON object without a header, answered likewise. Returns whether it came."""
        if not self._wait():
            return False
        size = _Header.read(self._view)[1]
        hello = bytes(self._view[_DATA : _DATA + min(size, 64)]).strip()
        if not (hello.startswith(b"{") and hello.endswith(b"}")):
            return False
        self._view[_DATA : _DATA + len(_HANDSHAKE)] = _HANDSHAKE
        self._hand_over(len(_HANDSHAKE))
        return True

    def _hand_over(self, data_len: int) -> None:
        self._view[4:8] = data_len.to_bytes(4, "little")
        self._word.clear_bit0_and_wake()

    def _serve(self) -> None:
        """Until the channel is over. What each request passes is written out, and touches as few objects as it can."""
        comm, view, donated, closing = self._comm, self._view, self._comm.donated, self._closing
        words, in_order = view.cast("I"), _LOADS_IN_ORDER
        wait, wait_args, hand_over, hand_over_args, counting = self._word.hot()
        table, idle = self._table, IDLE
        handlers, refuse, left, plain, moved, now = (
            table.handlers, table.refuse, table.left, table.plain, table.moved, table.now,
        )  # fmt: skip
        server, length, head, rpc_head = _SERVER, _LENGTH, _HEAD, _RPC_HEAD  # cheaper so
        reply = view[_PAYLOAD : _PAYLOAD + MAX_MESSAGE_SIZE]
        comm.lend(reply, self._address + _PAYLOAD)
        requests: dict[int, memoryview] = {}  # by data_len
        kept: Callable[..., Any] = requests.get
        look = BusyPoll(self._busy_poll).look if self._busy_poll else None
        least = most = apart()
        far, slept = 0, False
        while True:
            if words[0] != server:
                if words[0] > server:
                    return
                if look is None or not look(words):
                    slept = True
                    wait(*wait_args)
                if closing:
                    return
                continue
            if not in_order:
                wait(*wait_args)  # returns at once
            data_len, mid, request = words[length], words[head], reply
            if mid > _MIDS:  # with num_fds, which is nothing in a request. Else the reply has it already
                mid &= _MIDS
                words[head] = mid
            try:
                request = kept(data_len)
                if request is None:  # its truth would be its length: more to look at
                    request = self._request(data_len, requests)
                if left is None or not left[mid]:
                    size = handlers[mid](comm, request, reply)
                else:  # dispatch.Table says what
                    now[0] = mid
                    size = plain[mid](comm, request, reply)
                    left[mid] -= 1
                    moved[mid] += size + data_len - rpc_head
                    now[0] = idle
            except Exception as error:
                size = refuse(comm, mid, error, request, reply, self._log, self._client)
                words[head] = mid = ERROR
            if donated:
                words[head], size = self._donate(mid, size, reply)
            words[length] = rpc_head + size
            if not slept:
                hand_over(*hand_over_args)
                far = 0
                if most > least:
                    most -= 1
            else:
                slept = False
                if far >= most:
                    far = 0
                    if dear(counting, hand_over_args):
                        most = change_cpu(most)
                elif counting(*hand_over_args):  # and it woke the client
                    far += 1
                else:
                    far = 0
                    if most > least:
                        most -= 1
            if closing:  # another thread has set it since the check above
                sleep(_GRACE)
                return

    def _request(self, data_len: int, kept: dict[int, memoryview]) -> memoryview:
        """The request's payload in the window, to be kept as well. EIO where data_len cannot be."""
        if not _RPC_HEAD <= data_len <= _RPC_HEAD + MAX_MESSAGE_SIZE:
            raise OSError(EIO, "data_len beyond the window")
        request = self._view[_PAYLOAD : _DATA + data_len]
        if len(kept) < _LENGTHS:
            kept[data_len] = request
        return request

    def _donate(self, mid: int, size: int, reply: memoryview) -> tuple[int, int]:
        """Send what the handler donates, one message each; returns the reply's mid, with the number sent, and its size.

        A client that does not take them loses them, and the reply where it would be of no use without them.
        """
        donated, donor, sent = self._comm.donated, self._donor, 0
        try:
            for each in donated:
                if donor.unread >= most_unread[0]:
                    donor.look()
                donor.send_alone(donor.fileno, each.host)
                donor.unread += 1
                sent += 1
        except OSError as error:
            self._log.debug(f"client {self._client}: fd not donated: errno {error.errno}")
            if not can_do_without(donated):
                ErrorResp.pack(reply, 0, errno_without(mid == CHANNEL))
                mid, size = ERROR, ErrorResp.size
        donated.clear()
        return mid | sent << 16, size


class FutexWord:
    """A futex(2) word in shared memory, with the operations a channel needs, arguments prebuilt.

    Shared futexes, not PRIVATE ones: the peer is another process. No errno is looked at, so they are called without the
    copying of it; those that only wake cannot block, and keep the interpreter's lock.
    """

    def __init__(self, address: int) -> None:
        # Plain ints and a finished reference: what ctypes takes as it is, where a c_int or c_void_p costs an object a call.
        number, word = sys.futex_number(), byref(c_uint32.from_address(address))
        # val (how many to wake at word), then val2 (how many more at the second word, the same one: none)
        hand_over = sys.FUTEX_OP_ANDN << 28 | 1 << 12
        close = sys.FUTEX_OP_SET << 28 | 2 << 12
        self._wait = sys.plain_call, (number, word, sys.FUTEX_WAIT, 0, None)
        self._hand_over = sys.unlocked_call, (number, word, sys.FUTEX_WAKE_OP, 1, 0, word, hand_over)
        self._wake = sys.unlocked_call, (number, word, sys.FUTEX_WAKE, 0x7FFFFFFF)
        self._close = sys.unlocked_call, (number, word, sys.FUTEX_WAKE_OP, 0x7FFFFFFF, 0, word, close)

    def wait_while_zero(self) -> None:
        """Sleep while the word is 0. Returns on a wake, a signal, or another value: the caller looks again."""
        function, args = self._wait
        function(*args)

    def clear_bit0_and_wake(self) -> None:
        """Atomically word &= ~1, and wake one waiter: 1 becomes 0, 2 stays."""
        function, args = self._hand_over
        function(*args)

    def wake_all(self) -> None:
        """Wake every waiter; the word stays as it is."""
        function, args = self._wake
        function(*args)

    def set_two_and_wake_all(self) -> None:
        """Atomically word = 2, and wake every waiter."""
        function, args = self._close
        function(*args)

    def hot(self) -> tuple[Any, ...]:
        """`wait_while_zero` and `clear_bit0_and_wake` as function and arguments each, for a loop that counts its calls; and a
        function for the latter's arguments that returns how many were woken."""
        return (*self._wait, *self._hand_over, sys.counting_call)
