"""What is to be sent on a socket and does not fit into it yet: kept in order, with the descriptors that go along.

Nothing here waits. One thread at a time may use an `Outbox`.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from collections import deque
from collections.abc import Sequence

from erllama_py.engine.process.wire.descriptors import close_all
from erllama_py.engine.process.wire.packets import packets_of

Packet = tuple[bytes, bytes | memoryview]

# Of one frame.
MOST_FDS = 64
_AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
# What the kernel says where it can hold no more now: of packets; of memory for them, of descriptors on their way.
_NO_ROOM, _SHORT = errno.EAGAIN, frozenset({errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})
SHORT_SECONDS = 0.02  # until it is tried again: the socket is writable meanwhile, which tells nothing


class Outbox:
    """See the module."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._packets: deque[tuple[Packet, Sequence[int], bool]] = deque()  # and whether they are ours
        self._over = False
        self.is_short = False  # what is left waits for the kernel to have something again, and not for room

    def __repr__(self) -> str:
        return f"<Outbox of {len(self._packets)} packets>"

    def __len__(self) -> int:
        return len(self._packets)

    def push(self, data: bytes, fds: Sequence[int] = (), *, give: bool = False, kept: bool = False) -> None:
        """Send a frame, or keep it until `flush` can.

        The caller's descriptors in `fds` are copied where they have to wait; raises `OSError` where that cannot be, and
        nothing is sent then. Those that it gives away (`give`) are closed here, once they are sent or cannot be; those
        that are `kept` stay open at the caller until it knows that they were sent.
        """
        packets = packets_of(data)
        at_once = not self._packets and len(packets) == 1 and not self._over
        if (at_once and self._sent(packets[0], fds)) or self._over:
            close_all(fds if give else ())
            return
        if not give and not kept:
            fds = _copies(fds)
        self._packets.extend((packet, (), False) for packet in packets[:-1])
        self._packets.append((packets[-1], tuple(fds), not kept))
        self.flush()

    def flush(self) -> bool:
        """Send what can be sent; whether nothing is left."""
        while self._packets and self._sent(*self._packets[0][:2]):
            _, fds, owned = self._packets.popleft()
            close_all(fds if owned else ())
        return not self._packets

    def close(self) -> None:
        """Give up what is left, and whatever is pushed from now on."""
        self._over = True
        packets, self._packets = self._packets, deque()
        for _, fds, owned in packets:
            close_all(fds if owned else ())

    def _sent(self, packet: Packet, fds: Sequence[int]) -> bool:
        self.is_short = False
        try:
            refused = send_packet(self._socket, packet, fds)
        except OSError:  # the other side is gone: its end is for the reader to tell
            self.close()
            return False
        self.is_short = refused in _SHORT
        return refused is None


def send_packet(sock: socket.socket, packet: Packet, fds: Sequence[int] = ()) -> int | None:
    """Send a packet at once; None, or the error number of what there is too little of now. Raises `OSError` where the
    other side is gone.

    Any thread may call it at any moment.
    """
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else ()
    for _ in range(2):
        try:
            sock.sendmsg(packet, rights, _AT_ONCE)
        except ConnectionResetError:  # said once, of what the other side has not read: it may be gone, or not
            continue
        except OSError as error:
            if error.errno != _NO_ROOM and error.errno not in _SHORT:
                raise
            return error.errno
        return None
    raise BrokenPipeError("the other side is gone")


def _copies(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))
    except OSError:
        close_all(copies)
        raise
    return copies
