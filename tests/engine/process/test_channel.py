"""Sockets between two processes: what is posted arrives whole, in order and once, and nobody waits who must not."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from queue import SimpleQueue

import pytest
from helpers.leftovers import open_files
from helpers.wire import memfd, no_descriptors, post_all, read, text

from erllama_py.engine.jobs import Text
from erllama_py.engine.process.wire.channel import BlockingChannel, socketpair
from erllama_py.engine.process.wire.descriptors import LostDescriptors
from erllama_py.engine.process.wire.frames import BadFrame, Outcomes, Ping, Pong, encode
from erllama_py.engine.process.wire.packets import PACKET_BYTES

Ends = tuple[BlockingChannel, socket.socket]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A channel and the bare socket at its other end; both are closed at the end, and no descriptor is left."""
    before = open_files()
    mine, other = socketpair()
    channel = BlockingChannel(mine, "test")
    yield channel, other
    channel.close()
    other.close()
    if channel._writer is not None:
        channel._writer.join()
    assert not open_files() - before


# --- threads ------------------------------------------------------------------------------------------------


def test_what_is_posted_arrives_in_order(ends: Ends) -> None:
    """Long frames and short ones, while the other side reads."""
    channel, other = ends
    reader = BlockingChannel(other, "reader", posts=False)
    sent = [text(number, 10 ** (number % 6)) for number in range(60)]
    poster = threading.Thread(target=post_all, args=(channel, sent))
    poster.start()
    got = []
    for _ in sent:
        found = reader.receive()
        assert found is not None
        got.append(found[0])
    poster.join()
    assert got == sent
    reader.close()


def test_a_reader_that_has_stopped_holds_up_nobody(ends: Ends) -> None:
    """What finds no room is kept in order, and sent once there is some."""
    channel, other = ends
    for number in range(5000):
        channel.post(text(number, 300))
    assert not channel.drained(0)
    got = []
    for frame in read(other):
        assert isinstance(frame, Outcomes)
        got.append(frame.outcomes[0])
        if len(got) == 5000:
            break
    assert [one.token_ids[0] for one in got if isinstance(one, Text)] == [*range(5000)]
    assert channel.drained(None)


def test_posts_of_several_threads_arrive_each_in_its_order(ends: Ends) -> None:
    """Log lines come from any thread."""
    channel, other = ends
    reader = BlockingChannel(other, "reader", posts=False)
    threads = [
        threading.Thread(target=post_all, args=(channel, [text(first + number, 2000) for number in range(300)]))
        for first in (0, 1000, 2000)
    ]
    for thread in threads:
        thread.start()
    numbers = []
    for _ in range(900):
        got = reader.receive()
        assert got is not None
        assert isinstance(got[0], Outcomes)
        assert isinstance(got[0].outcomes[0], Text)
        numbers.append(got[0].outcomes[0].request_id)
    for thread in threads:
        thread.join()
    for first in (0, 1000, 2000):
        assert [number for number in numbers if first <= number < first + 1000] == [*range(first, first + 300)]
    reader.close()


def test_a_call_gets_the_next_frame(ends: Ends) -> None:
    """As an embedder's thread asks: it writes, and waits."""
    channel, other = ends
    server = BlockingChannel(other, "server")

    def serve() -> None:
        while (got := server.receive()) is not None:
            assert isinstance(got[0], Ping)
            server.post(Pong(got[0].number))

    serving = threading.Thread(target=serve)
    serving.start()
    for number in range(3):
        got = channel.call(Ping(number))
        assert got is not None
        assert got[0] == Pong(number)
    channel.close()
    serving.join()
    server.close()
    assert channel.call(Ping(4)) is None


def test_what_was_posted_before_a_side_died_is_delivered(ends: Ends) -> None:
    """Also where that side had not read what was sent to it, which the kernel reports as an error first."""
    channel, other = ends
    channel.post(Ping(1))
    other.sendall(b"\0" + encode(text(1)))
    other.sendall(b"\0" + encode(text(2)))
    other.close()
    got = [channel.receive() for _ in range(3)]
    assert [one and one[0] for one in got] == [text(1), text(2), None]


def test_posts_to_a_side_that_is_gone_are_dropped(ends: Ends) -> None:
    """Its end is for who reads to tell; an engine thread goes on to its own."""
    channel, other = ends
    other.close()
    for number in range(100):
        channel.post(text(number, 100_000))
    assert channel.drained(None)
    assert channel.receive() is None


def test_a_side_that_dies_with_a_full_socket_releases_what_waits(ends: Ends) -> None:
    """The thread that sends goes on to the end."""
    channel, other = ends
    while channel.drained(0):
        channel.post(text(1, 20_000))
    other.close()
    assert channel.drained(None)


def test_a_side_that_dies_within_a_long_frame_ends_with_none(ends: Ends) -> None:
    """Half a frame is not one."""
    channel, other = ends
    other.sendall(b"\1" + bytes(PACKET_BYTES - 1))
    other.close()
    assert channel.receive() is None


def test_a_side_that_has_died_ends_though_others_have_its_socket(ends: Ends) -> None:
    """As a process that was forked off: what had been sent is delivered first, and who waits is woken."""
    channel, other = ends
    other.send(b"\0" + encode(Ping(1)))
    got: SimpleQueue[object] = SimpleQueue()

    def receive() -> None:
        while (one := channel.receive()) is not None:
            got.put(one[0])
        got.put(None)

    receiver = threading.Thread(target=receive)
    receiver.start()
    assert got.get() == Ping(1)
    channel.is_dead()  # once it waits, or before
    assert got.get() is None
    receiver.join()
    assert channel.call(Ping(2)) is None


def test_what_was_sent_before_a_death_is_delivered(ends: Ends) -> None:
    """Though nobody had read it by then."""
    channel, other = ends
    other.send(b"\0" + encode(Ping(1)))
    channel.is_dead()
    got = channel.receive()
    assert got is not None
    assert got[0] == Ping(1)
    assert channel.receive() is None


def test_closing_wakes_who_receives(ends: Ends) -> None:
    """From another thread; and more than once."""
    channel, _ = ends
    got: SimpleQueue[object] = SimpleQueue()
    receiving = threading.Thread(target=lambda: got.put(channel.receive()))
    receiving.start()
    channel.close()
    channel.close()
    receiving.join()
    assert got.get() is None
    channel.post(Ping(1))
    assert channel.receive() is None


@pytest.mark.parametrize("packet", [b"\0no frame", b"\7", b"\0" + encode(Ping(1)) + b"more"])
def test_what_is_no_frame_is_an_error(ends: Ends, packet: bytes) -> None:
    """Nothing that follows would count."""
    channel, other = ends
    other.sendall(packet)
    with pytest.raises(BadFrame):
        channel.receive()


def test_a_packet_longer_than_any_is_an_error(ends: Ends) -> None:
    """The kernel would cut it."""
    channel, other = ends
    other.sendall(b"\0" + bytes(PACKET_BYTES + 5))
    with pytest.raises(BadFrame, match="longer"):
        channel.receive()


# --- descriptors --------------------------------------------------------------------------------------------


def test_descriptors_come_with_their_frame(ends: Ends) -> None:
    """With the last packet of a long one; those that are given away are closed by the sender, others are not."""
    channel, other = ends
    reader = BlockingChannel(other, "reader", posts=False)
    mine, given = memfd(b"mine"), memfd(b"given")
    poster = threading.Thread(target=channel.post, args=(text(1, 1 << 20), [mine]))
    poster.start()
    channel.post(Ping(2))
    poster.join()
    channel.post(text(3), [given], give=True)
    contents = []
    for _ in range(3):
        got = reader.receive()
        assert got is not None
        with got[1] as descriptors:
            for _ in range(len(descriptors)):
                fd = descriptors.take()
                contents.append((type(got[0]).__name__, os.pread(fd, 10, 0), os.get_inheritable(fd)))
                os.close(fd)
    assert contents == [("Outcomes", b"mine", False), ("Outcomes", b"given", False)]
    os.close(mine)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(given)
    reader.close()


def test_descriptors_that_had_to_wait_are_closed_once(ends: Ends) -> None:
    """Whether they are sent in the end or not."""
    channel, other = ends
    while channel.drained(0):
        channel.post(text(1, 20_000))
    before = open_files()
    mine = memfd(b"mine")
    channel.post(Ping(1), [mine])
    os.close(mine)  # it is sent all the same
    channel.post(Ping(2), [memfd(b"given")], give=True)
    assert len(open_files() - before) == 2
    other.close()
    assert channel.drained(None)
    assert not open_files() - before
    assert before - open_files()


def test_descriptors_given_away_with_what_cannot_be_sent_are_closed(ends: Ends) -> None:
    """Nobody else would."""
    channel, _ = ends
    before = open_files()
    with pytest.raises(BadFrame):
        channel.post(Outcomes([Text(1, "\ud800", [])]), [memfd(b"given")], give=True)
    assert not open_files() - before


def test_descriptors_that_nobody_takes_are_closed(ends: Ends) -> None:
    """Those of a frame that is no frame too."""
    channel, other = ends
    before = open_files()
    for packet in (b"\0" + encode(Ping(1)), b"\7bad"):
        fd = memfd(b"unwanted")
        socket.send_fds(other, [packet], [fd])
        os.close(fd)
    got = channel.receive()
    assert got is not None
    with got[1] as descriptors:
        assert len(descriptors) == 1
    with pytest.raises(BadFrame):
        channel.receive()
    assert not open_files() - before


def test_descriptors_that_found_no_room_are_missed(ends: Ends) -> None:
    """A process that has no more of them gets the frame without."""
    channel, other = ends
    fd = memfd(b"one too many")
    socket.send_fds(other, [b"\0" + encode(Ping(1))], [fd])
    os.close(fd)
    with no_descriptors():
        got = channel.receive()
    assert got is not None
    with got[1] as descriptors:
        assert descriptors.lost
        with pytest.raises(LostDescriptors):
            descriptors.take()
