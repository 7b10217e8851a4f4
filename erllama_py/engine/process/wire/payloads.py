"""Payloads of jobs and outcomes across processes: where their bytes lie, instead of the bytes.

What lies in this process's shared memory is lent to the other side, which maps it, and says `Released` on the socket of
the child when it has let go of the last view. What lies elsewhere is copied into shared memory first; short ones, and
those for which there is none, go in the frame itself. One `Payloads` serves a child and all of its sockets.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec
import numpy

from erllama_py.buffers import block_bytes
from erllama_py.engine.jobs import Captured, Job, Outcome, Restore
from erllama_py.engine.process.wire.descriptors import Descriptors, LostDescriptors
from erllama_py.engine.process.wire.frames import Jobs, Outcomes, Released, Slot
from erllama_py.engine.rates import Rates
from erllama_py.shared_memory.arena import ARENA, Arena
from erllama_py.shared_memory.ledger import Ledger, Seat
from erllama_py.shared_memory.returns import TakesBack
from erllama_py.shared_memory.segment import Attached

T = TypeVar("T", Job, Outcome)

# A payload of up to so many bytes goes in the frame: that takes less time than to lend it and to get it back.
IN_FRAME_BYTES = 4096

_replace = msgspec.structs.replace


class Payloads:
    """Both directions. `tell` sends a frame on the child's own socket, from any thread at any moment.

    Threads: packers and `open_…` on those of their sockets; `released` and `end` on any.
    """

    def __init__(self, tell: Callable[[Released], object], arena: Arena = ARENA) -> None:
        self._lent, self._borrowed = _Lent(arena), _Borrowed(tell)

    def __repr__(self) -> str:
        return f"<Payloads: {len(self._lent.held)} lent, {len(self._borrowed.held)} borrowed>"

    def packer(self) -> Packer:
        """For what is sent on another socket to the same child."""
        return Packer(self._lent)

    def open_jobs(self, frame: Jobs, descriptors: Descriptors) -> list[Job]:
        """The jobs that were sent, in their order. The payload of one whose memory cannot be mapped here is None."""
        self._borrowed.forget(frame.gone)
        if not frame.slots:
            return frame.jobs
        slots = iter(frame.slots)
        return [self._open_job(job, slots, descriptors) for job in frame.jobs]

    def open_outcomes(self, frame: Outcomes, descriptors: Descriptors) -> list[Outcome]:
        """The outcomes that were posted, in their order. One whose memory cannot be mapped here has found no buffer."""
        self._borrowed.forget(frame.gone)
        if not frame.slots:
            return frame.outcomes
        slots = iter(frame.slots)
        return [self._open_outcome(outcome, slots, descriptors) for outcome in frame.outcomes]

    def released(self, frame: Released) -> None:
        """The other side has let go."""
        self._lent.released(frame)

    def end(self, ledger: Ledger | None = None, seat: Seat | None = None) -> None:
        """The other side is dead: it holds nothing any more. What is looked at here of its memory stays there until
        that ends, and counts as this process's in the `ledger`, which the `seat` of the dead one leaves.

        A child does not call this: its parent may look at rows of an engine that is over."""
        self._lent.held.clear()
        self._borrowed.end(ledger, seat)

    def close(self) -> None:
        """After `end`: no frame will be opened any more. What is looked at still stays."""
        self._borrowed.forget_all()

    def _open_job(self, job: Job, slots: Iterator[Slot | None], descriptors: Descriptors) -> Job:
        if isinstance(job, Restore) and (slot := next(slots, None)) is not None:
            return _replace(job, payload=self._borrowed.take(slot, descriptors))
        return job

    def _open_outcome(self, outcome: Outcome, slots: Iterator[Slot | None], fds: Descriptors) -> Outcome:
        if isinstance(outcome, Captured) and (slot := next(slots, None)) is not None:
            payload = self._borrowed.take(slot, fds)
            return _replace(outcome, payload=payload, skipped="no_buffer" if payload is None else None)
        return outcome


class Packer:
    """What goes out on one socket, counted: the descriptor of a segment is sent once on each. For one thread at a
    time."""

    def __init__(self, lent: _Lent) -> None:
        self._lent, self._total = lent, 0
        self._sent: set[int] = set()
        lent.sent.append(self._sent)

    def jobs(self, jobs: Sequence[Job]) -> tuple[Jobs, list[int]]:
        """The frame of these jobs, and the descriptors that go with it; they stay open until the frame is sent."""
        packed, slots, fds = self._packed(jobs)
        return Jobs(packed, slots, self._lent.gone(), self._total), fds

    def outcomes(self, outcomes: Sequence[Outcome], rates: Rates | None = None) -> tuple[Outcomes, list[int]]:
        """As `jobs`, for what an engine posts, with what it has measured."""
        packed, slots, fds = self._packed(outcomes)
        return Outcomes(packed, slots, self._lent.gone(), rates, self._total), fds

    def _packed(self, ones: Sequence[T]) -> tuple[list[T], list[Slot | None], list[int]]:
        """Without the payloads that are lent, the slot of each, and the descriptors that go along."""
        self._total += len(ones)
        packed, slots, fds = list[T](), list[Slot | None](), list[int]()
        for one in ones:
            if isinstance(one, Restore | Captured):
                slot = None if one.payload is None else self._lent.lend(one.payload, self._sent, fds)
                slots.append(slot)
                one = one if slot is None else _replace(one, payload=None)
            packed.append(one)
        return packed, slots, fds


class _Lent:
    """What the other side may look at: kept until it has let go."""

    def __init__(self, arena: Arena) -> None:
        self.held: dict[int, object] = {}
        self.sent: list[set[int]] = []  # the segments that the other side has got, by socket
        self._arena = arena
        self._tickets = itertools.count(1)
        self._generation, self._segments = -1, set[int]()

    def lend(self, payload: memoryview, sent: set[int], fds: list[int]) -> Slot | None:
        """Where a payload lies; None where it is to go in the frame. The descriptor is added to `fds` where it is
        needed."""
        nbytes, kept, arena = payload.nbytes, payload, self._arena
        if nbytes <= IN_FRAME_BYTES or not arena.is_shared:
            return None
        place = arena.locate(payload)
        if place is None:
            copy = arena.allocate(nbytes)
            place, kept = arena.locate(copy), copy.data
            if place is None:
                return None
            numpy.copyto(copy, numpy.frombuffer(payload, numpy.uint8))
        ticket, segment = next(self._tickets), place.segment
        self.held[ticket] = kept
        size = 0
        if segment.number not in sent:
            sent.add(segment.number)
            fds.append(segment.fd)
            size = segment.size
        return Slot(ticket, segment.number, place.offset, nbytes, size)

    def released(self, frame: Released) -> None:
        for sent in self.sent:
            sent.difference_update(frame.lost)
        for ticket in frame.tickets:
            self.held.pop(ticket, None)

    def gone(self) -> list[int]:
        """Segments that the other side has mapped and that are there no more."""
        if self._generation == self._arena.generation:
            return []
        self._generation = self._arena.generation
        now = {segment.number for segment in self._arena.segments}
        gone, self._segments = [*(self._segments - now)], now
        for sent in self.sent:
            sent.difference_update(gone)
        return gone


class _Borrowed(TakesBack[int]):
    """What is looked at here of the other side's memory."""

    def __init__(self, tell: Callable[[Released], object]) -> None:
        self.held: dict[int, int] = {}  # bytes by ticket
        self._tell = tell
        self._pid = os.getpid()
        self._segments: dict[int, Attached] = {}
        self._ledger: Ledger | None = None
        self._ended = False
        super().__init__()

    def take(self, slot: Slot, descriptors: Descriptors) -> memoryview | None:
        """The bytes of a slot, read-only; None where they cannot be had."""
        try:
            fd = descriptors.take() if slot.size else None
            with self._held():
                segment = self._segments.get(slot.segment)
                if segment is not None and fd is not None:  # it came on another socket before
                    os.close(fd)
                elif fd is not None:
                    segment = self._segments[slot.segment] = Attached(fd, slot.size)
                elif segment is None:
                    raise LostDescriptors("the segment was never sent")
                array = segment.array(slot.offset, slot.nbytes)
                self.held[slot.ticket] = slot.nbytes
                if self._ledger is not None:  # it was sent before the other side died
                    self._ledger.give_back(-block_bytes(slot.nbytes))
        except (OSError, LostDescriptors):
            self._tell(Released([slot.ticket], [slot.segment]))
            return None
        weakref.finalize(array, self._put, slot.ticket).atexit = False
        return array.data

    def forget(self, segments: Sequence[int]) -> None:
        if segments:
            with self._held():
                for segment in segments:
                    self._segments.pop(segment, None)

    def forget_all(self) -> None:
        with self._held():
            self._segments.clear()

    def end(self, ledger: Ledger | None, seat: Seat | None) -> None:
        with self._held():
            self._ended, self._ledger = True, ledger
            if ledger is not None and seat is not None:
                ledger.leave(seat, sum(map(block_bytes, self.held.values())))

    def _take_back(self, ticket: int) -> None:
        nbytes = self.held.pop(ticket, None)
        if nbytes is None or self._pid != os.getpid():  # forked off: it is for the other process to say
            return
        if not self._ended:
            self._tell(Released([ticket]))
        elif self._ledger is not None:
            self._ledger.give_back(block_bytes(nbytes))
