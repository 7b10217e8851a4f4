"""What tests of channels between processes share: frames that can be told apart."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from erllama_py.engine.jobs import Text
from erllama_py.engine.process.wire.channel import BlockingChannel
from erllama_py.engine.process.wire.frames import Frame, Outcomes, decode
from erllama_py.engine.process.wire.packets import PACKET_BYTES


def text(number: int, length: int = 4) -> Outcomes:
    """A batch that can be told from others."""
    return Outcomes([Text(number, "x" * length, [number])])


def post_all(channel: BlockingChannel, frames: list[Outcomes]) -> None:
    """What a thread posts."""
    for frame in frames:
        channel.post(frame)


def read(sock: socket.socket) -> Iterator[Frame]:
    """The frames that wait at a plain socket, of one packet each, until its end."""
    while packet := sock.recv(PACKET_BYTES):
        yield decode(packet[1:])


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process gets no more of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memfd(content: bytes) -> int:
    """A descriptor of a file with these bytes."""
    fd = os.memfd_create("test")
    os.pwrite(fd, content, 0)
    return fd
