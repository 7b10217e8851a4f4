"""Payloads across processes: seen where they lie, kept as long as anybody looks, and copied where that cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import msgspec
import numpy
import pytest
from helpers.leftovers import open_files
from helpers.wire import no_descriptors

from erllama_py.buffers import GRAIN, BufferPool
from erllama_py.engine.jobs import Cancel, Captured, Job, Outcome, Restore, Text
from erllama_py.engine.process.wire.channel import BlockingChannel, socketpair
from erllama_py.engine.process.wire.descriptors import NO_DESCRIPTORS, Descriptors
from erllama_py.engine.process.wire.frames import Jobs, Outcomes, Released
from erllama_py.engine.process.wire.payloads import IN_FRAME_BYTES, Packer, Payloads
from erllama_py.shared_memory.arena import Arena
from erllama_py.shared_memory.ledger import Ledger

NBYTES = 3 * GRAIN + 5


def restore(payload: memoryview | None, request_id: int = 1) -> Restore:
    """A job with a payload."""
    return Restore(request_id=request_id, seq_id=0, start=0, end=8, payload=payload)


def captured(payload: memoryview | None) -> Captured:
    """An outcome with a payload."""
    return Captured(
        request_id=1, start=0, end=8, reason="cold", payload=payload, skipped=None, seconds=0.1, compute_seconds=0.2,
        generated=[],
    )  # fmt: skip


class Sides:
    """Two processes in one: `ours` lends, `theirs` borrows, on sockets between them."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.arena.share()
        self.ours = Payloads(lambda frame: self.told.append(frame), self.arena)
        self.theirs = Payloads(self.tell)
        self.told: list[Released] = []
        self.released: list[Released] = []
        self.packers: list[tuple[Packer, BlockingChannel, BlockingChannel]] = []
        self.more_sockets()

    def more_sockets(self) -> None:
        """Another engine in the same child."""
        mine, other = socketpair()
        self.packers.append(
            (self.ours.packer(), BlockingChannel(mine, "ours"), BlockingChannel(other, "theirs", posts=False))
        )

    def tell(self, frame: Released) -> None:
        """What they say of what they have let go of."""
        self.released.append(frame)
        self.ours.released(frame)

    def jobs(self, *jobs: Job, socket: int = 0, receive: Callable[..., object] | None = None) -> list[Job]:
        """Send jobs, and open them there."""
        packer, channel, other = self.packers[socket]
        frame, fds = packer.jobs(jobs)
        channel.post(frame, fds, kept=True)
        got = other.receive()
        assert got is not None
        assert isinstance(got[0], Jobs)
        with got[1] as descriptors:
            return self.theirs.open_jobs(got[0], descriptors)

    def outcomes(self, *outcomes: Outcome) -> list[Outcome]:
        """Post outcomes, and open them there."""
        packer, channel, other = self.packers[0]
        frame, fds = packer.outcomes(outcomes)
        channel.post(frame, fds, kept=True)
        got = other.receive()
        assert got is not None
        assert isinstance(got[0], Outcomes)
        with got[1] as descriptors:
            return self.theirs.open_outcomes(got[0], descriptors)

    def row(self, nbytes: int = NBYTES) -> memoryview:
        """A payload in shared memory."""
        array = self.arena.allocate(nbytes)
        array[:] = numpy.arange(nbytes) % 251
        return array.data

    def close(self) -> None:
        """End both."""
        for _, channel, other in self.packers:
            channel.close()
            other.close()
            assert channel._writer is not None
            channel._writer.join()


@pytest.fixture
def sides() -> Iterator[Sides]:
    """Both; and nothing is left at the end."""
    before = open_files()
    sides = Sides()
    yield sides
    sides.close()
    sides.theirs.end()
    sides.theirs.close()
    sides.ours.end()
    assert not sides.arena.segments
    assert not open_files() - before


def test_a_payload_in_shared_memory_is_seen_where_it_lies(sides: Sides) -> None:
    """No byte is copied: what is written after it was sent is seen too. It can only be read."""
    row = sides.row()
    first, second, third = sides.jobs(Cancel(1), restore(row), Cancel(2))
    assert (first, third) == (Cancel(1), Cancel(2))
    assert isinstance(second, Restore)
    assert second == restore(row)
    assert second.payload is not None
    assert second.payload.readonly
    row[5] = 99
    assert second.payload[5] == 99
    del first, second, third, row


def test_a_row_that_is_posted_is_seen_where_it_lies(sides: Sides) -> None:
    """As a job's; beside texts, and ranges that were not copied."""
    row = sides.row()
    got = sides.outcomes(Text(1, "a", [1]), captured(None), captured(row), captured(row))
    assert got == [Text(1, "a", [1]), captured(None), captured(row), captured(row)]
    del got, row


def test_a_lease_ends_when_the_other_side_has_let_go(sides: Sides) -> None:
    """Not before, though nobody on this side looks at it any more; however the views there were made."""
    pool = BufferPool(GRAIN)
    lease = pool.take(GRAIN)
    assert lease is not None
    private = sides.jobs(restore(lease))  # copied: a pool is of the whole process's memory
    del private
    row: memoryview | None = sides.row()
    assert row is not None
    (got,) = sides.jobs(restore(row))
    assert isinstance(got, Restore)
    assert got.payload is not None
    last = numpy.frombuffer(got.payload, numpy.uint8)[7:]
    row = None
    del got
    assert sides.arena.segments
    assert last[0] == 7
    del last
    assert [one.lost for one in sides.released] == [[], []]
    assert not sides.arena.segments
    del lease


def test_a_segment_is_sent_once_on_each_socket(sides: Sides) -> None:
    """And mapped once, whichever frame is read first."""
    sides.more_sockets()
    rows = [sides.row() for _ in range(3)]
    before = open_files()
    for socket in (0, 1, 0, 1):
        got = sides.jobs(*map(restore, rows), socket=socket)
        assert got == [*map(restore, rows)]
        del got
    assert len(open_files() - before) == 1  # the mapping's
    frame, fds = sides.packers[0][0].jobs([restore(rows[0])])
    assert fds == []
    sides.ours.released(Released([slot.ticket for slot in frame.slots if slot is not None]))
    del rows


def test_segments_that_are_gone_are_let_go_of(sides: Sides) -> None:
    """With the next frame; and a new one is sent as the first was."""
    for _ in range(3):
        row = sides.row()
        got = sides.jobs(restore(row))
        assert got == [restore(row)]
        del got, row
        assert not sides.arena.segments
    before = open_files()
    assert sides.jobs(Cancel(1)) == [Cancel(1)]
    assert not open_files() - before
    assert before - open_files()


def test_short_payloads_go_in_the_frame(sides: Sides) -> None:
    """Nothing is lent for them."""
    row = memoryview(bytes(range(100)))
    got = sides.jobs(restore(row), restore(sides.row(IN_FRAME_BYTES)))
    assert isinstance(got[0], Restore)
    assert got[0].payload == row
    del got
    assert sides.released == []


def test_private_memory_is_copied_once(sides: Sides) -> None:
    """As rows that were stored before the first child came; the original need not be kept."""
    row = memoryview(bytes(range(256)) * (NBYTES // 256))
    (got,) = sides.jobs(restore(row))
    assert got == restore(row)
    assert len(sides.arena.segments) == 1
    del got
    assert not sides.arena.segments


def test_without_descriptors_here_a_payload_goes_in_the_frame(sides: Sides) -> None:
    """In parts: it is copied, and that is all."""
    row = memoryview(bytes(range(256)) * 400)
    with no_descriptors():
        (got,) = sides.jobs(restore(row))
    assert got == restore(row)
    assert not sides.arena.segments


def test_without_descriptors_there_a_payload_is_not_there(sides: Sides) -> None:
    """The job is done without it, and the outcome says that there was no buffer; later it works again."""
    row = sides.row()
    packer, channel, other = sides.packers[0]
    for job in (True, False):
        frame, fds = packer.jobs([restore(row)]) if job else packer.outcomes([captured(row)])
        channel.post(frame, fds, kept=True)
        with no_descriptors():
            got = other.receive()
            assert got is not None
            with got[1] as descriptors:
                if isinstance(got[0], Jobs):
                    assert sides.theirs.open_jobs(got[0], descriptors) == [restore(None)]
                else:
                    assert isinstance(got[0], Outcomes)
                    (outcome,) = sides.theirs.open_outcomes(got[0], descriptors)
                    assert isinstance(outcome, Captured)
                    assert (outcome.payload, outcome.skipped) == (None, "no_buffer")
        assert len(sides.released[-1].tickets) == len(sides.released[-1].lost) == 1
    again = sides.jobs(restore(row))
    assert again == [restore(row)]
    del again, row


def test_a_slot_beyond_its_segment_is_not_looked_at(sides: Sides) -> None:
    """A side that has gone wrong does not make the other read what is not there."""
    row = sides.row()
    packer, channel, other = sides.packers[0]
    frame, fds = packer.outcomes([captured(row)])
    assert frame.slots[0] is not None
    far = Outcomes(frame.outcomes, [type(frame.slots[0])(1, frame.slots[0].segment, 1 << 40, 10, frame.slots[0].size)])
    channel.post(far, fds, kept=True)
    got = other.receive()
    assert got is not None
    assert isinstance(got[0], Outcomes)
    with got[1] as descriptors:
        (outcome,) = sides.theirs.open_outcomes(got[0], descriptors)
    assert isinstance(outcome, Captured)
    assert outcome.payload is None
    del row


def test_what_is_looked_at_of_a_dead_process_stays(sides: Sides) -> None:
    """And counts as this process's own until it is let go of."""
    ledger = Ledger()
    pool = BufferPool(8 * GRAIN, ledger.own)
    seat = ledger.enter()
    row: memoryview | None = sides.row()
    got = sides.outcomes(captured(row))
    row = None
    seat.note(5 * GRAIN, 0)
    assert pool.take(4 * GRAIN) is None
    sides.theirs.end(ledger, seat)
    assert isinstance(got[0], Captured)
    assert got[0].payload is not None
    assert got[0].payload[250] == 250
    assert pool.take(5 * GRAIN) is None
    assert pool.take(4 * GRAIN) is not None
    del got
    assert pool.take(8 * GRAIN) is not None
    assert sides.released == []
    ledger.close()


def test_what_came_twice_of_a_dead_process_is_given_back_once(sides: Sides) -> None:
    """A process that has gone wrong does not raise the budget of the others."""
    ledger = Ledger()
    pool = BufferPool(8 * GRAIN, ledger.own)
    seat = ledger.enter()
    frame, fds = sides.packers[0][0].outcomes([captured(sides.row())])
    with Descriptors(map(os.dup, fds)) as descriptors:
        got = [sides.theirs.open_outcomes(frame, descriptors)]
    slots = [slot and msgspec.structs.replace(slot, size=0) for slot in frame.slots]
    got.append(sides.theirs.open_outcomes(msgspec.structs.replace(frame, slots=slots), NO_DESCRIPTORS))
    sides.theirs.end(ledger, seat)
    got.clear()
    assert pool.take(9 * GRAIN) is None
    ledger.close()


def test_a_process_that_is_forked_off_says_nothing(sides: Sides) -> None:
    """It is not the one that borrowed."""
    got = sides.jobs(restore(sides.row()))
    pid = os.fork()
    if pid == 0:
        del got
        os._exit(len(sides.released))
    assert os.waitpid(pid, 0)[1] == 0
    assert got == [restore(sides.row())]
    del got
