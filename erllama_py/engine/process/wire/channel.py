"""A socket between a parent and its child that carries frames and descriptors, for threads and for an event loop.

Packets are delivered whole, in order, and once: `socketpair` makes a pair of such sockets. Whoever sends never waits
for the other side: what finds no room is kept in order. `BlockingChannel` is for threads: any may post, one receives,
and a thread of its own sends what had to wait. `LoopChannel` is for an event loop and its thread. Both end when the
other side does, however that ended: what it had sent before is delivered first.
"""

from __future__ import annotations

import array
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING

from erllama_py.engine.process.wire.descriptors import NO_DESCRIPTORS, Descriptors, close_all
from erllama_py.engine.process.wire.frames import BadFrame, Frame, decode, encode
from erllama_py.engine.process.wire.outbox import MOST_FDS, SHORT_SECONDS, Outbox, send_packet
from erllama_py.engine.process.wire.packets import PACKET_BYTES, Joiner, packets_of
from erllama_py.stacks import begin_thread

if TYPE_CHECKING:
    import asyncio

_ANCILLARY_BYTES = socket.CMSG_SPACE(MOST_FDS * array.array("i").itemsize)
# As plain numbers: those of the library are enums, whose `|` and `&` take longer than to send a packet does.
_CLOEXEC, _DONTWAIT = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_DONTWAIT)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_CTRUNC, _TRUNC = int(socket.MSG_CTRUNC), int(socket.MSG_TRUNC)
# Packets that one turn of the loop takes in: half a millisecond of texts, after which others have theirs.
PACKETS_A_TURN = 32


def socketpair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a new connection; no child inherits them."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _encoded(frame: Frame, given: Sequence[int]) -> bytes:
    """The bytes of a frame. Raises `BadFrame`, and closes what was given away with it."""
    try:
        return encode(frame)
    except BadFrame:
        close_all(given)
        raise


def _no_more(sock: socket.socket) -> None:
    """Have a connection end, on both sides, after what has come: a process that was forked off may have either end
    open, and know nothing of it. Whoever waits for room is told, too."""
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


class _Reader:
    """Takes packets from a socket and puts them together."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._joiner = Joiner()

    def next(self, flags: int) -> tuple[Frame | None, Descriptors] | None:
        """The next packet: the frame that ends with it, if one does; None at the end. Raises `BlockingIOError` and
        `BadFrame`."""
        while True:
            try:
                packet, ancillary, how, _ = self._socket.recvmsg(PACKET_BYTES + 1, _ANCILLARY_BYTES, flags | _CLOEXEC)
                break
            except ConnectionResetError:  # said once, before what the other side had sent
                continue
            except BlockingIOError:
                raise
            except OSError:  # closed here
                return None
        descriptors = _descriptors(ancillary, how) if ancillary or how & _CTRUNC else NO_DESCRIPTORS
        if not packet:
            descriptors.close()
            return None
        try:
            if how & _TRUNC:
                raise BadFrame("a packet that is longer than any")
            frame = self._joiner.add(packet)
            return None if frame is None else decode(frame), descriptors
        except BaseException:
            descriptors.close()
            raise


def _descriptors(ancillary: list[tuple[int, int, bytes]], how: int) -> Descriptors:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) // fds.itemsize * fds.itemsize])
    return Descriptors(fds, lost=bool(how & _CTRUNC))


class BlockingChannel:
    """For threads. `posts` begins the thread that sends what has to wait; without it `call` alone may send."""

    def __init__(self, sock: socket.socket, name: str, *, posts: bool = True) -> None:
        sock.setblocking(True)
        self._socket, self._name = sock, name
        self._reader = _Reader(sock)
        self._lock = threading.Lock()
        self._outbox = Outbox(sock)
        self._wakes: SimpleQueue[None] = SimpleQueue()  # `put` may be called in a finalizer
        self._late: deque[Frame] = deque()  # of those
        self._emptied = threading.Event()
        self._emptied.set()
        self._closed, self._users = False, 0
        self._writer = threading.Thread(target=self._write, name=f"{name}-send", daemon=True) if posts else None
        if self._writer is not None:
            begin_thread(self._writer)

    def __repr__(self) -> str:
        return f"<BlockingChannel {self._name!r}, {len(self._outbox)} packets wait>"

    def post(self, frame: Frame, fds: Sequence[int] = (), *, give: bool = False, kept: bool = False) -> None:
        """Send a frame, at once or as soon as there is room: never waits. Of `fds` see `Outbox.push`. What is posted
        after the end is dropped. Raises `BadFrame`."""
        data = _encoded(frame, fds if give else ())
        with self._lock:
            self._outbox.push(data, fds, give=give, kept=kept)
            if not self._outbox or not self._emptied.is_set():
                return
            self._emptied.clear()
        self._wakes.put(None)

    def tell(self, frame: Frame) -> None:
        """Send a short frame beside all others, from any thread at any moment: also from a finalizer, which may run in
        one that is posting."""
        packet = packets_of(encode(frame))[0]
        with suppress(OSError):  # there is nobody to whom it matters
            if send_packet(self._socket, packet) is not None:
                self._late.append(frame)
                self._wakes.put(None)

    def drained(self, seconds: float | None) -> bool:
        """Wait until all that was posted is with the kernel, at most so long; whether it is."""
        return self._emptied.wait(seconds)

    def receive(self) -> tuple[Frame, Descriptors] | None:
        """The next frame, waited for; None at the end. One thread calls this. Raises `BadFrame`."""
        open_still = self._enter()
        try:
            while open_still and (got := self._reader.next(0)) is not None:
                frame, descriptors = got
                if frame is not None:
                    return frame, descriptors
                descriptors.close()
        finally:
            self._leave()
        return None

    def call(self, frame: Frame) -> tuple[Frame, Descriptors] | None:
        """Send a frame and wait for the next one that comes; None where the other side is gone. Raises `BadFrame`."""
        packets = packets_of(encode(frame))
        open_still = self._enter()
        try:
            for packet in packets if open_still else ():
                self._socket.sendmsg(packet, (), _NOSIGNAL)
        except OSError:
            return None
        finally:
            self._leave()
        return self.receive()

    def is_dead(self) -> None:
        """The other side has died, which its socket may not say: see `_no_more`. From any thread."""
        if self._enter():
            _no_more(self._socket)
        self._leave()

    def close(self) -> None:
        """End the connection; whoever receives here gets None. Any thread may, more than once."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._outbox.close()
            self._emptied.set()
        with suppress(OSError):  # wakes the threads that wait for the socket
            self._socket.shutdown(socket.SHUT_RDWR)
        self._wakes.put(None)
        self._enter()
        self._leave()

    def _enter(self) -> bool:
        """A thread begins to wait for the socket, which another may close meanwhile: its number could be that of
        another file by then, so the last one that leaves closes it. False where it is closed already."""
        with self._lock:
            self._users += 1
            return not self._closed

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._closed and not self._users:
                self._socket.close()

    def _write(self) -> None:
        open_still = self._enter()
        try:
            poll = select.poll()
            if open_still:
                poll.register(self._socket, select.POLLOUT)
            while open_still:
                self._wakes.get()
                while self._late:
                    self.post(self._late.popleft())
                while not self._emptied.is_set():  # it is set when the channel is closed too
                    if self._outbox.is_short:
                        self._emptied.wait(SHORT_SECONDS)
                    poll.poll()
                    with self._lock:
                        if self._outbox.flush():
                            self._emptied.set()
                open_still = not self._closed
        finally:
            self._leave()


class LoopChannel:
    """For an event loop, on its thread. `on_frame` gets each frame and its descriptors, and whatever of these it does
    not take is closed; `on_end` is called once, when nothing more will come: with what was no frame, if that is why."""

    def __init__(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, on_frame: Callable[[Frame, Descriptors], object],
        on_end: Callable[[BadFrame | None], object],
    ) -> None:  # fmt: skip
        sock.setblocking(False)
        self._socket, self._loop = sock, loop
        self._on_frame, self._on_end = on_frame, on_end
        self._reader, self._outbox = _Reader(sock), Outbox(sock)
        self._writes = self._closed = False
        self._later: asyncio.TimerHandle | None = None
        loop.add_reader(sock.fileno(), self._read)

    def __repr__(self) -> str:
        return f"<LoopChannel {'closed' if self._closed else 'open'}, {len(self._outbox)} packets wait>"

    def send(self, frame: Frame, fds: Sequence[int] = (), *, give: bool = False, kept: bool = False) -> None:
        """Send a frame, at once or as soon as there is room. Of `fds` see `Outbox.push`. What is sent after the end is
        dropped. Raises `BadFrame`."""
        self._outbox.push(_encoded(frame, fds if give else ()), fds, give=give, kept=kept)
        if self._outbox and not self._writes and self._later is None:
            self._await_room()

    def tell(self, frame: Frame) -> None:
        """Send a short frame beside all others, from any thread at any moment, also from a finalizer."""
        packet = packets_of(encode(frame))[0]
        with suppress(OSError, RuntimeError):  # the other side or the loop has ended: it matters to nobody
            if send_packet(self._socket, packet) is not None:
                self._loop.call_soon_threadsafe(self.send, frame)

    def is_dead(self) -> None:
        """The other side has died, which its socket may not say: see `_no_more`. `on_end` comes after what it had
        sent."""
        if not self._closed:
            _no_more(self._socket)

    def close(self) -> None:
        """End the connection; nothing is delivered any more, and `on_end` is not called. Allowed twice."""
        if self._closed:
            return
        self._closed = True
        self._outbox.close()
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        _no_more(self._socket)
        self._socket.close()

    def _read(self) -> None:
        for _ in range(PACKETS_A_TURN):
            if self._closed:  # by who got the last one
                return
            try:
                got = self._reader.next(_DONTWAIT)
            except BlockingIOError:
                return
            except BadFrame as problem:
                self._ended(problem)
                return
            if got is None:
                self._ended(None)
                return
            frame, descriptors = got
            with descriptors:
                if frame is not None:
                    self._on_frame(frame, descriptors)

    def _write(self) -> None:
        self._later = None
        if self._outbox.flush() or self._outbox.is_short:
            self._writes = False
            self._loop.remove_writer(self._socket.fileno())
        if self._outbox and not self._writes:
            self._await_room()

    def _await_room(self) -> None:
        if self._outbox.is_short:
            self._later = self._loop.call_later(SHORT_SECONDS, self._write)
        else:
            self._writes = True
            self._loop.add_writer(self._socket.fileno(), self._write)

    def _ended(self, problem: BadFrame | None) -> None:
        self.close()
        self._on_end(problem)
