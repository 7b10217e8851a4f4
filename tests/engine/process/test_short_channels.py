"""A kernel that has no memory for packets, or no room for descriptors on their way: the socket is writable all the
time, and nobody asks it all the time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from helpers.wire import read, text

from erllama_py.engine.process.wire import channel as channels
from erllama_py.engine.process.wire.channel import BlockingChannel, LoopChannel, socketpair

LACKS = [errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS]
LONG = 3600.0
TURNS = 100


class Sparing(socket.socket):
    """One that the kernel sends nothing for, so many times."""

    def __init__(self, other: socket.socket, lack: int) -> None:
        super().__init__(fileno=other.detach())
        self.left, self.tries, self._lack = 1_000_000, 0, lack

    def sendmsg(self, *args: Any) -> int:
        """See `socket.socket`."""
        self.tries += 1
        if self.left:
            self.left -= 1
            raise OSError(self._lack, os.strerror(self._lack))
        return super().sendmsg(*args)


def sparing(lack: int) -> tuple[Sparing, socket.socket]:
    """Such a socket, and a plain one at its other end."""
    mine, other = socketpair()
    return Sparing(mine, lack), other


def loop_channel(mine: socket.socket) -> LoopChannel:
    """A channel on this loop, to which nothing comes."""
    return LoopChannel(mine, asyncio.get_running_loop(), lambda frame, fds: None, lambda problem: None)


@pytest.mark.anyio
@pytest.mark.parametrize("lack", LACKS)
async def test_a_loop_does_not_turn_for_it(monkeypatch: pytest.MonkeyPatch, lack: int) -> None:
    """What is sent next takes all that waits along, in order."""
    monkeypatch.setattr(channels, "SHORT_SECONDS", LONG)
    mine, other = sparing(lack)
    channel = loop_channel(mine)
    channel.send(text(1))
    for _ in range(TURNS):
        await anyio.lowlevel.checkpoint()
    assert mine.tries == 2  # at once, and as it was put aside
    mine.left = 0
    channel.send(text(2))
    channel.close()
    assert list(read(other)) == [text(1), text(2)]
    other.close()


@pytest.mark.anyio
async def test_a_loop_tries_again_later() -> None:
    """Without anything else that is to be sent, through times of both kinds."""
    mine, other = sparing(errno.ENOMEM)
    mine.left = 4
    channel = loop_channel(mine)
    with anyio.fail_after(20):
        for number in range(2000):
            channel.send(text(number, 1000))
        received = 0
        while received < 2000:
            await anyio.wait_readable(other)
            other.recv(1 << 20)
            received += 1
    channel.close()
    other.close()


def test_a_thread_does_not_spin_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is woken by the end of its channel."""
    monkeypatch.setattr(channels, "SHORT_SECONDS", LONG)
    mine, other = sparing(errno.ETOOMANYREFS)
    channel = BlockingChannel(mine, "short")
    for number in range(TURNS):
        channel.post(text(number))
    channel.close()
    assert channel._writer is not None
    channel._writer.join()
    assert mine.tries <= 2 + TURNS  # each post is one try, the first two
    other.close()


def test_a_thread_tries_again_later() -> None:
    """All arrives, in order."""
    mine, other = sparing(errno.ENOBUFS)
    mine.left = 4
    channel = BlockingChannel(mine, "short")
    channel.post(text(1))
    channel.post(text(2))
    assert channel.drained(20)
    channel.close()
    assert list(read(other)) == [text(1), text(2)]
    other.close()
