"""Sockets between two processes, at an event loop: it gets what comes, waits for nobody, and hears of the end once."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable
from queue import SimpleQueue

import anyio
import anyio.lowlevel
import pytest
from helpers.leftovers import open_files
from helpers.wire import memfd, read, text

from erllama_py.engine.jobs import Generate, Text
from erllama_py.engine.process.wire.channel import BlockingChannel, LoopChannel, socketpair
from erllama_py.engine.process.wire.descriptors import Descriptors
from erllama_py.engine.process.wire.frames import BadFrame, Frame, Jobs, Outcomes, Ping, Pong, Released, encode
from erllama_py.options.sampling import Sampling


class Heard:
    """What a channel on a loop has delivered."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.ends: list[BadFrame | None] = []
        self.news = anyio.Event()
        self.after: Callable[[], None] = lambda: None

    def frame(self, frame: Frame, descriptors: Descriptors) -> None:
        """`on_frame`."""
        self.frames.append(frame)
        self._tell()
        self.after()

    def end(self, problem: BadFrame | None) -> None:
        """`on_end`."""
        self.ends.append(problem)
        self._tell()

    def _tell(self) -> None:
        self.news.set()
        self.news = anyio.Event()

    async def until(self, frames: int = 0, ends: int = 0) -> None:
        """Wait for so many."""
        while len(self.frames) < frames or len(self.ends) < ends:
            await self.news.wait()


async def on_loop(heard: Heard) -> tuple[LoopChannel, socket.socket]:
    """A channel on this loop, and the bare socket at its other end."""
    mine, other = socketpair()
    return LoopChannel(mine, asyncio.get_running_loop(), heard.frame, heard.end), other


@pytest.mark.anyio
async def test_a_loop_gets_frames_in_order_and_the_end() -> None:
    """All that was sent before the end, and the end once."""
    heard = Heard()
    channel, other = await on_loop(heard)
    channel.send(Ping(0))  # not read: the kernel reports that before the frames
    sender = BlockingChannel(other, "sender")
    sent = [text(number, 10 ** (number % 6)) for number in range(60)]
    for frame in sent:
        sender.post(frame)
    await heard.until(frames=60)
    sender.close()
    await heard.until(ends=1)
    assert heard.frames == sent
    assert heard.ends == [None]
    channel.close()


@pytest.mark.anyio
async def test_a_loop_hears_of_a_death_though_others_have_the_socket() -> None:
    """As a process that was forked off: what had been sent is delivered first, in as many turns as it takes."""
    heard = Heard()
    channel, other = await on_loop(heard)
    sent = [text(number) for number in range(100)]
    for frame in sent:
        other.send(b"\0" + encode(frame))
    with other:
        channel.is_dead()
        await heard.until(ends=1)
    assert heard.frames == sent
    assert heard.ends == [None]
    channel.is_dead()  # it is closed by now


@pytest.mark.anyio
async def test_a_close_is_heard_though_others_have_the_socket() -> None:
    """What was sent is read first."""
    channel, other = await on_loop(Heard())
    with channel._socket.dup(), other:
        channel.send(Ping(1))
        channel.close()
        assert [*read(other)] == [Ping(1)]


@pytest.mark.anyio
async def test_descriptors_given_away_with_what_cannot_be_sent_are_closed() -> None:
    """Nobody else would."""
    channel, other = await on_loop(Heard())
    before = open_files()
    with other, pytest.raises(BadFrame):
        channel.send(Outcomes([Text(1, "\ud800", [])]), [memfd(b"given")], give=True)
    assert not open_files() - before
    channel.close()


@pytest.mark.anyio
async def test_a_loop_does_not_wait_for_a_reader_that_has_stopped() -> None:
    """What finds no room is sent once there is some."""
    heard = Heard()
    channel, other = await on_loop(heard)
    reader = BlockingChannel(other, "reader", posts=False)
    job = Generate(
        request_id=1, seq_id=0, tokens=[*range(100_000)], keep=0, limit=1, max_new_tokens=1, sampling=Sampling()
    )
    channel.send(Jobs([job]))
    channel.send(Released([1]))
    got: SimpleQueue[Frame] = SimpleQueue()

    def receive() -> None:
        while (found := reader.receive()) is not None:
            got.put(found[0])
            reader_sock.send(b"\0" + encode(Pong(1)))

    reader_sock = other
    receiving = threading.Thread(target=receive)
    receiving.start()
    await heard.until(frames=2)
    channel.close()
    receiving.join()
    assert got.get() == Jobs([job])
    assert got.get() == Released([1])
    reader.close()


@pytest.mark.anyio
async def test_a_loop_is_told_of_what_is_no_frame() -> None:
    """Once, and nothing is delivered after it."""
    heard = Heard()
    channel, other = await on_loop(heard)
    other.sendall(b"\0" + encode(Pong(1)))
    other.sendall(b"\0no frame")
    other.sendall(b"\0" + encode(Pong(2)))
    await heard.until(ends=1)
    assert heard.frames == [Pong(1)]
    assert isinstance(heard.ends[0], BadFrame)
    channel.close()
    other.close()


@pytest.mark.anyio
async def test_a_channel_that_is_closed_while_it_delivers_delivers_no_more() -> None:
    """Who closes it has heard enough; and its end is not told."""
    heard = Heard()
    channel, other = await on_loop(heard)
    heard.after = channel.close
    for number in range(3):
        other.sendall(b"\0" + encode(Pong(number)))
    await heard.until(frames=1)
    channel.send(Ping(1))
    await anyio.lowlevel.checkpoint()
    assert heard.frames == [Pong(0)]
    assert heard.ends == []
    other.close()


@pytest.mark.anyio
async def test_a_loop_closes_all_descriptors() -> None:
    """Those that came, those that wait to be sent, and its own."""
    before = open_files()
    heard = Heard()
    channel, other = await on_loop(heard)
    fd = memfd(b"unwanted")
    socket.send_fds(other, [b"\0" + encode(Pong(1))], [fd])
    os.close(fd)
    await heard.until(frames=1)
    for _ in range(40):
        channel.send(text(1, 20_000))
    channel.send(Ping(1), [memfd(b"given")], give=True)
    channel.close()
    other.close()
    assert not open_files() - before
