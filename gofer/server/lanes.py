"""A connection whose answers need not keep to the order of its requests: what `serve --stdio` has in place of channels.

Theory of operation
-------------------
A client that begins with Lanes puts a number, the lane, where other headers have zeros. What has the same lane is done, and
answered, in its order; between lanes there is none. So one that hangs holds up its own lane, over a single stream of bytes.

One thread, the leader, reads and serves, as handing on each request would cost two switches. Where one takes long, the sentinel
has another thread lead, with what was read already. Then the lane is `busy`: what comes for it is kept for the thread that is at
it. What is kept is bounded; beyond that nobody reads. A leader that waits for its reply to be taken is not relieved, so a client
that takes none gets no more threads at work either.

A reply is kept back while the next request is there already: many small ones go as one. Who has nothing to do sends what is
kept, and so does who takes the lead, as then something takes long.

Nobody but a client over stdin and stdout can ask for this (Options.lanes): there is one, and it has come by ssh.
"""

from __future__ import annotations

import _thread
import os
from collections import deque
from time import monotonic, sleep

from gofer import sys
from gofer.server import dispatch
from gofer.server.channel import SIGNAL
from gofer.server.pipes import Pipes
from gofer.wire import ERROR, MAX_MESSAGE_SIZE, PREAD, Count, LaneHeader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gofer.server.comm import Communicator
    from gofer.server.connection import Buffers, Connection
    from gofer.server.pipes import Ends

MOST = 64  # threads: more than a client of ours has requests that it waits for
_SLOW = 0.01  # seconds at one request, after which another thread leads
_DROWSY = 20  # looks at nothing, after which the sentinel sleeps until there is something
_KEPT = 8 << 20  # bytes of requests that wait for their lane
_NAG = 0.05
_SMALL = 1 << 14  # bytes of replies that are kept back
_HEAD = LaneHeader.size


class Worker:
    """A thread. began: when the request that it is at was read, 0: it is at none; lane: its lane; at, have: what it has read
    beyond that; bell: released when it is to lead."""

    __slots__ = ("buffers", "comm", "table", "bell", "began", "lane", "at", "have", "thread", "ident", "takes_over")

    def __init__(self, buffers: Buffers, comm: Communicator, table: dispatch.Table) -> None:
        self.buffers, self.comm, self.table = buffers, comm, table
        self.bell = _thread.allocate_lock()
        self.bell.acquire()
        self.began = 0.0
        self.lane = self.at = self.have = self.thread = self.ident = 0
        self.takes_over = False


class Lanes:
    """Of one connection, once it has begun with Lanes."""

    def __init__(self, conn: Connection, buffers: Buffers, have: int, ends: Ends) -> None:
        """have: bytes that were read by the connection's socket, the beginning of the first message; ends: by which all else
        comes and goes."""
        self._conn = conn
        self._pipes = Pipes(ends, conn.socket)
        self._lock = _thread.allocate_lock()  # over the following
        first = Worker(buffers, conn.communicator(), conn.table_for(0, False))
        first.have = have
        self._plain = type(first.table) is dispatch.Table  # nobody looks on
        self.workers = [first]
        self._leader: Worker | None = first
        self._idle: list[Worker] = []
        self._busy: dict[int, deque[bytes]] = {}
        self._kept = 0
        self._over = False
        self._sending = _thread.allocate_lock()
        self._replies: list[bytes] = []  # that are kept back
        self._replies_size = 0
        self._asleep = False
        self._alarm = _thread.allocate_lock()
        self._alarm.acquire()

    def run(self) -> None:
        """Until the client has gone, and nobody is at anything any more."""
        (first,) = self.workers
        if not self._fetch(first):
            return
        size, mid, lane = LaneHeader.read(first.buffers.request, first.at)
        first.at += size + _HEAD
        first.have -= size + _HEAD
        Count.pack(first.buffers.payload, 0, MOST)
        if not self._send(first, Count.size, mid, lane):
            return
        _thread.start_new_thread(self._watch, ())
        self._work(first)
        pause = 0.001
        while len(self.workers) > 1:
            sleep(pause)
            pause = min(2 * pause, _NAG)
            self.interrupt()

    def interrupt(self) -> None:
        """Break off the calls that threads are in, where the kernel does so for a signal: the client has gone."""
        for worker in [*self.workers]:
            if worker.thread and worker.began:
                try:
                    sys.tgkill(os.getpid(), worker.thread, SIGNAL)
                except OSError:  # it has just ended
                    pass

    # Threads

    def _start(self, me: Worker) -> None:
        try:
            self._work(me)
        except Exception as error:  # not a handler's: dispatch has those
            self._conn.drop("failed", type(error).__name__)
            self._end()
        finally:
            with self._lock:
                self.workers.remove(me)

    def _work(self, me: Worker) -> None:
        me.thread, me.ident = _thread.get_native_id(), _thread.get_ident()
        while self._leads(me):
            if me.takes_over:
                me.takes_over = False
                self._push()
            if not self._fetch(me):
                self._end()
                return
            request = me.buffers.request
            size, mid, lane = LaneHeader.read(request, me.at)
            start = me.at + _HEAD
            me.at = start + size
            me.have -= size + _HEAD
            if self._busy and self._keep(lane, request[start - _HEAD : start + size]):
                continue
            me.lane = lane
            me.began = monotonic()
            if self._asleep:
                self._asleep = False
                self._alarm.release()
            self._serve(me, mid, lane, request[start : start + size])
            with self._lock:  # whoever relieves us has done so by now, or sees that we are at nothing
                leads = self._leader is me
            if not leads:
                self._rest_of_lane(me, lane)

    def _leads(self, me: Worker) -> bool:
        """Wait until it is this thread's turn; False at the end, or where there are enough that wait."""
        with self._lock:
            if self._over:
                return False
            if self._leader is None:
                self._leader = me
            if self._leader is me:
                return True
            if len(self._idle) > 1 and me is not self.workers[0]:
                return False
            self._idle.append(me)
        me.bell.acquire()
        return not self._over

    def _end(self) -> None:
        with self._lock:
            self._over = True
            for worker in self._idle:
                worker.bell.release()
            self._idle.clear()
            if self._asleep:
                self._asleep = False
                self._alarm.release()

    # Requests

    def _keep(self, lane: int, message: memoryview) -> bool:
        """Whether somebody is at that lane: it is for him, then. Waits where too much is kept."""
        with self._lock:
            queue = self._busy.get(lane)
            if queue is None:
                return False
            queue.append(bytes(message))
            self._kept += len(message)
        while self._kept > _KEPT and not self._over:
            sleep(0.001)
        return True

    def _rest_of_lane(self, me: Worker, lane: int) -> None:
        """Somebody else leads: what was kept for this lane is ours to do."""
        while True:
            with self._lock:
                queue = self._busy[lane]
                if not queue or self._over:
                    del self._busy[lane]
                    return
                message = queue.popleft()
                self._kept -= len(message)
            me.began = monotonic()
            self._serve(me, LaneHeader.read(message)[1], lane, memoryview(message)[_HEAD:])

    def _serve(self, me: Worker, mid: int, lane: int, request: memoryview) -> None:
        comm, payload = me.comm, me.buffers.payload
        if mid == PREAD and self._plain:
            count = self._pipes.fill(comm, request)
            if count > 0:
                me.began = 0.0
                if not self._send_filled(mid, lane, count):
                    self._conn.close()
                return
        try:
            size = me.table.handlers[mid](comm, request, payload)
        except Exception as error:
            size = me.table.refuse(comm, mid, error, request, payload, self._conn.log, self._conn.fileno)
            mid = ERROR
        comm.donated.clear()  # nothing can be
        me.began = 0.0
        if not self._send(me, size, mid, lane):
            self._conn.close()

    def _send(self, me: Worker, size: int, mid: int, lane: int) -> bool:
        LaneHeader.pack(me.buffers.reply, 0, size, mid, lane)
        reply = me.buffers.reply[: _HEAD + size]
        with self._sending:
            if size < _SMALL and self._replies_size < _SMALL and self._has_another(me):
                self._replies.append(bytes(reply))
                self._replies_size += len(reply)
                return True
            return self._send_all(reply)

    def _push(self) -> bool:
        """Send what is kept back."""
        if not self._replies:
            return True
        with self._sending:
            return self._send_all(None)

    def _send_all(self, reply: memoryview | None) -> bool:
        """What is kept, and that. _sending is held."""
        try:
            self._pipes.send(self._take_kept(), reply or b"")
        except OSError:
            return False
        return True

    def _send_filled(self, mid: int, lane: int, count: int) -> bool:
        with self._sending:
            try:
                self._pipes.send_filled(self._take_kept(), lane, mid, count)
            except OSError:
                return False
        return True

    def _take_kept(self) -> bytes:
        kept = b"".join(self._replies)
        self._replies.clear()
        self._replies_size = 0
        return kept

    def _has_another(self, me: Worker) -> bool:
        """Whether it leads, and has read all of the next request."""
        if self._leader is not me or me.have < _HEAD:
            return False
        return me.have >= _HEAD + int(LaneHeader.read(me.buffers.request, me.at)[0])

    def _fetch(self, me: Worker) -> bool:
        """Read until a whole message lies at `at`; False: it is over."""
        request = me.buffers.request
        wanted = _HEAD
        while True:
            if me.have >= wanted:
                size = LaneHeader.read(request, me.at)[0]
                if size > MAX_MESSAGE_SIZE:
                    self._conn.drop("too long", f"a message of {size} bytes: {MAX_MESSAGE_SIZE} are the most")
                    return False
                wanted = size + _HEAD
                if me.have >= wanted:
                    return not self._conn.table.closing
            if not self._push():
                return False
            if me.at:
                request[: me.have] = request[me.at : me.at + me.have]
                me.at = 0
            try:
                got = self._pipes.receive(request[me.have : max(wanted, len(me.buffers.first))])
            except OSError:
                return False
            if not got:
                return False
            me.have += got

    # The sentinel

    def _watch(self) -> None:
        quiet = 0
        while not self._over:
            sleep(_SLOW / 2)
            leader = self._leader
            began = leader.began if leader is not None else 0.0
            if leader is not None and began and monotonic() - began > _SLOW and not self._relieve(leader):
                self._push()
            quiet = 0 if began else quiet + 1
            if quiet >= _DROWSY:
                quiet = 0
                self._asleep = True
                leader = self._leader
                if self._over or (leader is not None and leader.began):
                    if self._asleep:
                        self._asleep = False
                        continue
                self._alarm.acquire()

    def _relieve(self, old: Worker) -> bool:
        """Somebody else leads from now on, unless the leader has just finished, or there is nobody else."""
        with self._lock:
            if self._leader is not old or not old.began or self._over or len(self.workers) >= MOST:
                return False
            new = self._idle.pop() if self._idle else None
            if new is None:
                try:
                    new = self._new()
                    _thread.start_new_thread(self._start, (new,))
                except (OSError, RuntimeError):  # no memory, no thread
                    return False
                self.workers.append(new)
            else:
                new.bell.release()
            self._busy.setdefault(old.lane, deque())
            new.buffers.request[: old.have] = old.buffers.request[old.at : old.at + old.have]
            new.at, new.have, old.have = 0, old.have, 0
            new.takes_over = True
            self._leader = new
            return True

    def _new(self) -> Worker:
        buffers = type(self.workers[0].buffers)()
        return Worker(buffers, self._conn.communicator(), self._conn.table_for(len(self.workers), False))
