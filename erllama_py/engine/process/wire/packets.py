"""Frames cut into packets, and put together again. Pure.

A packet is what the kernel delivers whole or not at all, in order. A frame that fits is one; a longer one is several
parts and a last one, between which other whole frames may come: what a finalizer sends does not wait. Descriptors come
with a frame's last packet.
"""

from __future__ import annotations

from erllama_py.engine.process.wire.frames import BadFrame

# Of one packet. The kernel holds some 200 KiB of them for a reader by default, counted with their memory: so several
# wait there, and one that is sent in vain, as the rest of a frame, costs little.
PACKET_BYTES = 32 << 10
# Longest frame that is put together: several times a prompt of a million tokens, or rows that had no shared memory.
MOST_BYTES = 1 << 30

_WHOLE, _PART, _LAST = b"\0", b"\1", b"\2"
_ROOM = PACKET_BYTES - 1


def packets_of(data: bytes) -> list[tuple[bytes, bytes | memoryview]]:
    """What is sent for a frame: the pieces of each packet."""
    if len(data) <= _ROOM:
        return [(_WHOLE, data)]
    view = memoryview(data)
    ends = range(_ROOM, len(data) + _ROOM, _ROOM)
    return [(_PART if end < len(data) else _LAST, view[end - _ROOM : end]) for end in ends]


class Joiner:
    """Puts the packets of one reader together."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._nbytes = 0

    def __repr__(self) -> str:
        return f"<Joiner of {self._nbytes} bytes>"

    @property
    def is_between(self) -> bool:
        """Whether a frame has begun whose end has not come."""
        return bool(self._parts)

    def add(self, packet: bytes) -> bytes | None:
        """A frame that is whole now; None where there is more to come. Raises `BadFrame`."""
        kind, rest = packet[:1], packet[1:]
        if kind == _WHOLE:
            return rest
        if kind not in (_PART, _LAST):
            raise BadFrame(f"a packet of the kind {kind!r}")
        if kind == _PART and len(rest) != _ROOM:  # of short ones there could be any number
            raise BadFrame(f"a part of {len(rest)} bytes")
        self._parts.append(rest)
        self._nbytes += len(rest)
        if self._nbytes > MOST_BYTES:
            raise BadFrame(f"a frame of more than {MOST_BYTES} bytes")
        if kind == _PART:
            return None
        data, self._parts, self._nbytes = b"".join(self._parts), [], 0
        return data
