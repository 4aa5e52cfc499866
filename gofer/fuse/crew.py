"""The threads that answer the kernel, and what sees to it that each request is answered in time.

Theory of operation
-------------------
One thread at a time reads requests, the `leader`, and serves what it has read itself: handing each to another thread would
cost two switches, and the interpreter runs one thread at a time anyway. Where a request takes long, another thread leads on:
at once where that is known beforehand (`aside`), else as soon as the `sentinel` sees it, which looks every few milliseconds
while there is something to look at. So a request that hangs holds up others for a moment, once.

What takes too long is answered in its thread's place (pending.py). The thread that is at it goes on, and what comes of it is
taken back (`undo`), as the kernel does not know of it.

What may wait for the server is not the sentinel's business: closing FDs is that of a thread of its own (`tidy`).
"""

from __future__ import annotations

import _thread
import os
import select
import struct
import time
from errno import EAGAIN, EINTR, EIO, ENODEV, ENOENT, ENOMEM, ENOSYS, ENOTCONN, EOPNOTSUPP, EROFS

from gofer.client.look import HOLE, Look, pays
from gofer.client.transport import Lost
from gofer.fuse import kernel, notices
from gofer.fuse.pending import Pending
from gofer.fuse.state import Request
from gofer.fuse.table import CHANGES, OF_ONE, OPERATIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from gofer.fuse.state import FileSystem, Reply

MOST = 32  # threads; what hangs beyond that waits in the kernel, where it can be killed
WRITE_SIZE = 1 << 20  # of data in one request
_ROOM = WRITE_SIZE + 4096  # the kernel insists on room for the largest request
_TICK = 0.005  # seconds between two looks of the sentinel
_SLOW = 0.004  # of a request, from when on another thread leads
_LOOK = 60e-6  # seconds to look for the next request before sleeping
_LOOK_AT_ALL = 0.1  # between two looks at all that wait
_DROWSY = 20  # looks at nothing, after which the sentinel sleeps until there is something
_FORGETS = 500  # nodes that the kernel is asked to forget at once
_LAST_ERRNO = 511  # the kernel takes none above
_OPCODE = 4  # where it is in a request; those of a file system are below 256
_LSEEK = kernel.OPCODES["LSEEK"]
_FLUSH, _READ = kernel.OPCODES["FLUSH"], kernel.OPCODES["READ"]
_WITHOUT_SERVER = (kernel.FORGET, kernel.BATCH_FORGET, kernel.OPCODES["RELEASE"], kernel.OPCODES["RELEASEDIR"], _FLUSH)


class Worker:
    """A thread. began: when the request that it is at was read; 0: it is at none. bell: released when it is to lead.

    inside: it may have an FD's number in its hands, or be about to look whether it may.
    """

    __slots__ = ("bell", "began", "inside")

    def __init__(self) -> None:
        self.bell = _thread.allocate_lock()
        self.bell.acquire()
        self.began = 0.0
        self.inside = False


class Crew:
    """log(line): for what goes wrong. finished: released when the file system is unmounted. patient: while it is paused requests
    wait, instead of being refused."""

    patient = False

    def __init__(self, fs: FileSystem, log: Callable[[str], None]) -> None:
        self._fs = fs
        self._device = fs.device
        self._log = log
        self._lock = _thread.allocate_lock()
        self._leader: Worker | None = None
        self._idle: list[Worker] = []
        self._workers = [Worker()]  # the first is the thread that tidies
        self._paused = False
        self._number = 0
        self._pending = Pending(fs.device, fs.options.timeout)
        self._asleep = False
        self._alarm = _thread.allocate_lock()
        self._alarm.acquire()
        self._tidying = _thread.allocate_lock()
        self._tidying.acquire()
        self._over = False
        self._look, self._looks = Look(_LOOK), pays()
        self.finished = _thread.allocate_lock()
        self.finished.acquire()

    def run(self) -> None:
        """Until it is unmounted."""
        os.set_blocking(self._device, False)
        _thread.start_new_thread(self._watch, ())
        _thread.start_new_thread(self._tidy, ())
        self._leader = Worker()
        self._workers.append(self._leader)
        self._number = 1
        self._work(self._leader)
        self.finished.acquire()

    def pause(self) -> None:
        """From now on requests are answered with ENOTCONN. Returns when nobody is in the middle of one."""
        self._paused = True
        while any(worker.inside for worker in self._workers):
            time.sleep(_TICK)

    def resume(self) -> None:
        self._paused = False

    # Threads

    def _work(self, me: Worker) -> None:
        buffer = memoryview(bytearray(_ROOM))
        request = Request(memoryview(bytearray(WRITE_SIZE)), lambda: self._lead_on(me), self._finish_read)
        come = select.poll()
        come.register(self._device, select.POLLIN)
        while self._leader is me or self._leads(me):
            try:
                size = self._read(buffer, come)
            except OSError as error:
                if error.errno in (EINTR, ENOENT, EAGAIN):  # the latter two: it was interrupted before it was read
                    continue
                self._finish(error)
                return
            if buffer[_OPCODE] == kernel.LOOKUP and not self._paused and self._told(buffer[:size]):
                continue
            me.began = time.monotonic()
            if self._asleep:
                self._asleep = False
                self._alarm.release()
            self._serve(me, request, buffer[:size])
            me.began = 0.0

    def _read(self, buffer: memoryview, come: select.poll) -> int:
        """The next request; its size. Who asks one thing after the other need not wait until we are awake again."""
        look, device, parts = self._look, self._device, [buffer]
        try:
            return os.readv(device, parts)
        except BlockingIOError:
            pass
        if look.rest:
            look.rest -= 1
        elif self._looks and not self._pending.waiting:  # else another thread has the interpreter
            before = time.monotonic()
            until = before + look.most
            while True:
                try:
                    size = os.readv(device, parts)
                    look.found()
                    return size
                except BlockingIOError:
                    now = time.monotonic()
                if now > until or now - before > HOLE:
                    look.missed()
                    break
                before = now
        if self._fs.behind is not None:
            self._fs.behind.push()
        come.poll()
        return os.readv(device, parts)

    def _leads(self, me: Worker) -> bool:
        """Wait until it is this thread's turn; False at the end."""
        while True:
            with self._lock:
                if self._over:
                    return False
                if self._leader is None:
                    self._leader = me
                if self._leader is me:
                    return True
                self._idle.append(me)
            me.bell.acquire()

    def _lead_on(self, old: Worker) -> None:
        """Another thread than this one shall read what comes next."""
        with self._lock:
            if self._leader is not old or self._over:
                return
            if self._idle:
                self._leader = self._idle.pop()
                self._leader.bell.release()
                return
            self._leader = None
            if self._number >= MOST:
                return  # whoever is done first
            self._number += 1
            self._leader = new = Worker()
            self._workers.append(new)
        try:
            _thread.start_new_thread(self._work, (new,))
        except RuntimeError:  # no more threads for us: as above
            with self._lock:
                self._number -= 1
                self._workers.remove(new)
                if self._leader is new:
                    self._leader = None

    def _finish(self, error: OSError) -> None:
        if error.errno != ENODEV:
            self._log(f"reading from the kernel failed: {error.strerror}")
        with self._lock:
            self._over = True
            for worker in self._idle:
                worker.bell.release()
            self._idle.clear()
        self.finished.release()

    # Requests

    def _told(self, message: memoryview) -> bool:
        """Answer a LOOKUP that takes no message, nor time in which anybody would have to see to it."""
        try:
            found = self._fs.ahead.at_once(message)
        except Exception:  # whoever asks in the usual way is told why
            return False
        if found is None:
            return False
        try:
            os.write(self._device, found[1])
        except OSError:  # the kernel does not want it any more
            self._fs.nodes.forget_by_id(found[0], 1)
        return True

    def _serve(self, me: Worker, request: Request, message: memoryview) -> None:
        _, opcode, unique, request.nodeid, request.uid, request.gid, _, _ = kernel.InHeader.read(message)
        request.opcode, request.unique, request.body = opcode, unique, message[kernel.InHeader.size :]
        if opcode == kernel.INTERRUPT:
            self._pending.interrupt(kernel.InterruptIn.read(request.body)[0], me.began)
            return
        silent = opcode in (kernel.FORGET, kernel.BATCH_FORGET)
        if not silent:
            self._pending.begin(unique, me.began)
        code: int = ENOTCONN
        reply: Reply = b""
        if self._paused and self.patient and opcode not in _WITHOUT_SERVER:
            self._lead_on(me)
            while self._paused and unique in self._pending:
                time.sleep(_TICK)
        me.inside = True
        if not self._paused or opcode in _WITHOUT_SERVER:
            code, reply = self._outcome(opcode, request)
            if request.held:
                self._fs.nodes.unpin(request.held)
            if opcode in CHANGES:
                self._fs.has_changed(request.nodeid if opcode in OF_ONE else 0)
        if not (silent or reply is None):
            taken = self._pending.answer(unique, code, reply)
            while request.undo:
                undo = request.undo.pop()
                if not taken:
                    undo()
        if request.lent is not None:
            reply = b""  # nothing refers to that memory any more
            self._fs.pool.give_back(request.lent)
            request.lent = None
        me.inside = False

    def _outcome(self, opcode: int, request: Request) -> tuple[int, Reply]:
        operation = OPERATIONS.get(opcode)
        if operation is None or (opcode == _LSEEK and self._fs.options.writeback):  # the kernel may have what we do not
            return ENOSYS, b""
        if opcode == _FLUSH and self._fs.behind is None:  # asked no more: there is never anything to wait for
            return ENOSYS, b""
        if self._fs.options.read_only and opcode in CHANGES:
            return EROFS, b""
        return self._tried(opcode, lambda: operation(self._fs, request))

    def _finish_read(self, unique: int, work: Callable[[], Reply]) -> None:
        """See Request.finish."""
        self._pending.answer(unique, *self._tried(_READ, work))

    def _tried(self, opcode: int, work: Callable[[], Reply]) -> tuple[int, Reply]:
        try:
            return 0, work()
        except Lost:
            return ENOTCONN, b""
        except OSError as error:
            code = error.errno or EIO
            if code == ENOSYS:  # the kernel would never ask again
                code = EOPNOTSUPP
            return (code if 0 < code <= _LAST_ERRNO and code != EINTR else EIO), b""  # EINTR: programs try again, for ever
        except struct.error:  # the server's reply is not what it should be
            return EIO, b""
        except MemoryError:
            return ENOMEM, b""
        except Exception as error:
            self._log(f"fault in {kernel.NAMES.get(opcode, opcode)}: {type(error).__name__}: {error}")
            return EIO, b""

    # Watching

    def _watch(self) -> None:
        fs, looked, quiet = self._fs, 0.0, 0
        while not self._over:
            time.sleep(_TICK)
            now, leader = time.monotonic(), self._leader
            if leader is not None and leader.began and now - leader.began > _SLOW:
                self._lead_on(leader)
            if fs.behind is not None:
                fs.behind.push()
            if now - looked > _LOOK_AT_ALL:
                looked = now
                self._pending.look(now)
                fs.ahead.rest()
                fs.below.rest()
            fs.kept.rest(now)
            crowded = len(fs.nodes) > fs.options.node_budget
            if (fs.nodes.to_close or crowded or fs.kept.expired) and self._tidying.locked():
                self._tidying.release()
            busy = self._pending or fs.kept.pending or fs.ahead.pending or (leader is not None and leader.began)
            quiet = 0 if busy else quiet + 1
            if quiet >= _DROWSY:
                self._sleep()
                quiet = 0

    def _sleep(self) -> None:
        self._asleep = True
        leader = self._leader
        if leader is None or leader.began or self._pending.waiting or self._over:  # it has just read one
            if self._asleep:
                self._asleep = False
                return
        self._alarm.acquire()

    def _tidy(self) -> None:
        nodes, budget, me = self._fs.nodes, self._fs.options.node_budget, self._workers[0]
        while not self._over:
            me.inside = False
            self._tidying.acquire()
            me.inside = True
            if self._paused:
                continue
            if len(nodes) > budget:
                notices.forget(self._device, self._fs.minor, nodes.to_forget(_FORGETS))
            self._fs.kept.drop()
            nodes.close_now()
