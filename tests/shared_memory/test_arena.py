"""Memory that processes share: slots that never overlap, back by themselves, and nothing left of them."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator

import numpy
import pytest
from helpers.leftovers import open_files
from helpers.wire import no_descriptors
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.shared_memory.arena import LEAST_BYTES, WARM_BYTES, Arena
from erllama_py.shared_memory.free_ranges import FreeRanges
from erllama_py.shared_memory.segment import PAGE, Array, Attached, NotShareable, Segment, sealed

MIB = 1 << 20


@pytest.fixture
def arena() -> Iterator[Arena]:
    """One that shares; at the end all that it took is given back, descriptors too."""
    before = open_files()
    arena = Arena()
    arena.share()
    yield arena
    assert not arena.segments
    assert not open_files() - before


def resident(segment: Segment) -> int:
    """Bytes of memory that a segment takes."""
    return os.stat(segment.fd).st_blocks * 512


# --- which parts are free -----------------------------------------------------------------------------------


@given(st.integers(1, 50), st.lists(st.tuples(st.booleans(), st.integers(1, 20)), max_size=60))
def test_ranges_never_overlap_and_are_joined_again(size: int, steps: list[tuple[bool, int]]) -> None:
    """Whatever is taken and given back: each unit is either in one taken range or in one free one."""
    free, taken = FreeRanges(size), list[tuple[int, int]]()
    for take, number in steps:
        if take:
            longest = max((end - start for start, end in free.ranges), default=0)
            start = free.take(number)
            assert (start is not None) == (number <= longest)
            if start is not None:
                taken.append((start, start + number))
        elif taken:
            start, end = taken.pop(number % len(taken))
            free.give(start, end - start)
        spans = sorted([*taken, *free.ranges])
        assert [spans[0][0], spans[-1][1]] == [0, size]
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))
        assert all(end < start for (_, end), (start, _) in itertools.pairwise(free.ranges))
        assert free.free == size - sum(end - start for start, end in taken)
    for start, end in taken:
        free.give(start, end - start)
    assert free.ranges == [(0, size)]


# --- slots --------------------------------------------------------------------------------------------------


def test_until_there_is_somebody_to_share_with_memory_is_private() -> None:
    """A process without children pays nothing for them."""
    before = open_files()
    arena = Arena()
    array = arena.allocate(5 * MIB)
    assert arena.locate(array.data) is None
    assert arena.segments == ()
    assert not open_files() - before
    arena.share()
    assert arena.locate(array.data) is None


@pytest.mark.parametrize("nbytes", [0, 1, PAGE, PAGE + 1, 3 * MIB, LEAST_BYTES, LEAST_BYTES + 1])
def test_a_slot_has_exactly_the_size_that_was_asked_for(arena: Arena, nbytes: int) -> None:
    """And lies in a segment that others can map; larger ones than usual have a larger one."""
    array = arena.allocate(nbytes)
    assert (array.nbytes, array.dtype.name, array.flags.writeable) == (nbytes, "uint8", True)
    array[:] = 7
    if nbytes:
        place = arena.locate(array.data)
        assert place is not None
        assert place.offset + nbytes <= place.segment.size


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 5 * MIB)), max_size=30))
def test_slots_never_overlap(steps: list[tuple[bool, int]]) -> None:
    """Whatever is allocated and let go of, in any order; and all of it is given back in the end."""
    arena, slots = Arena(), list[Array]()
    arena.share()
    for take, number in steps:
        if take:
            slots.append(arena.allocate(number))
            slots[-1][:1] = slots[-1][-1:] = len(slots)
        elif slots:
            slots.pop(number % len(slots))
        places = [(place.segment.number, place.offset, slot.nbytes) for slot in slots if (place := arena.locate(slot))]
        assert len(places) == len(slots)
        for (segment, offset, nbytes), (other, start, _) in itertools.pairwise(sorted(places)):
            assert segment != other or offset + nbytes <= start
    slots.clear()
    assert not arena.segments


VIEWS = {
    "an array of it": lambda array: array[3:10],
    "a memoryview": lambda array: array.data[5:],
    "an array of a view": lambda array: numpy.frombuffer(array.data.toreadonly(), numpy.uint8)[1:],
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_slot_lasts_as_long_as_its_last_view(arena: Arena, kind: str) -> None:
    """Whatever kind of view it is."""
    array: Array | None = arena.allocate(MIB)
    last = VIEWS[kind](array)  # type: ignore[no-untyped-call]  # a lambda
    array = None
    assert len(arena.segments) == 1
    assert arena.locate(last) is not None
    del last
    assert not arena.segments


def test_memory_that_nobody_looks_at_goes_back_to_the_system() -> None:
    """At once, and while other slots of its segment are in use."""
    arena = Arena(warm_bytes=0)
    arena.share()
    kept, other = arena.allocate(MIB), arena.allocate(8 * MIB)
    kept[:], other[:] = 1, 2
    (segment,) = arena.segments
    assert resident(segment) == 9 * MIB
    del other
    assert resident(segment) == MIB
    assert kept.min() == kept.max() == 1


def test_some_free_slots_stay_warm(arena: Arena) -> None:
    """For what is allocated next, if it needs half of them at least; the oldest go back to the system."""
    kept, slots = arena.allocate(MIB), [arena.allocate(16 * MIB) for _ in range(6)]
    for slot in slots:
        slot[:] = 1
    where = [arena.locate(slot) for slot in slots]
    (segment, second) = arena.segments
    del slot
    slots.clear()
    assert resident(segment) + resident(second) == WARM_BYTES
    small, large = arena.allocate(MIB), arena.allocate(15 * MIB)
    assert arena.locate(large) in where[2:]
    assert arena.locate(small) not in where[2:]
    assert large.min() == 1
    del kept, small, large
    assert not arena.segments


def test_slots_are_used_again(arena: Arena) -> None:
    """What was let go of is taken before a segment grows."""
    kept, first = arena.allocate(MIB), arena.allocate(30 * MIB)
    where = arena.locate(first)
    del first
    second = arena.allocate(30 * MIB)
    assert arena.locate(second) == where
    assert len(arena.segments) == 1
    del kept


def test_many_slots_take_few_descriptors(arena: Arena) -> None:
    """A process may have 1024 of them: rows of eight gigabytes take some forty."""
    before = open_files()
    slots = [arena.allocate(32 * MIB) for _ in range(256)]
    assert len(open_files() - before) <= 45
    del slots


def test_without_descriptors_memory_is_private() -> None:
    """It works all the same: what crosses is copied."""
    arena = Arena()
    arena.share()
    with no_descriptors():
        array = arena.allocate(MIB)
    array[:] = 1
    assert arena.locate(array) is None
    assert not arena.segments


def test_threads_never_share_a_slot(arena: Arena) -> None:
    """While finalizers give slots back in all of them."""
    problems, begin = list[str](), threading.Barrier(4)

    def work(number: int) -> None:
        begin.wait()
        for turn in range(300):
            array = arena.allocate(PAGE * (1 + (turn + number) % 7))
            array[:] = number
            if array.min() != number or array.max() != number:
                problems.append("another thread wrote into it")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_process_that_is_forked_off_gives_nothing_back(arena: Arena) -> None:
    """The memory is still this one's: there it is only forgotten, and what is allocated there is its own."""
    kept = arena.allocate(MIB)
    kept[:] = 9
    where = [kept]
    pid = os.fork()
    if pid == 0:
        where.clear()
        del kept
        other = arena.allocate(MIB)
        other[:] = 1
        os._exit(0 if len(arena.segments) == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert kept.min() == kept.max() == 9
    del kept
    where.clear()


# --- other processes ----------------------------------------------------------------------------------------


def test_who_has_a_segment_mapped_sees_what_is_written(arena: Arena) -> None:
    """And can write nothing, neither by the mapping nor by the descriptor."""
    array = arena.allocate(MIB)
    place = arena.locate(array)
    assert place is not None
    fd = os.dup(place.segment.fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(fd, b"x", 0)
    attached = Attached(fd, place.segment.size)
    seen = attached.array(place.offset, MIB)
    array[:] = 5
    assert seen.min() == seen.max() == 5
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1
    with pytest.raises(NotShareable):
        attached.array(place.segment.size - 1, 2)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_what_is_looked_at_stays_when_its_owner_is_gone(arena: Arena) -> None:
    """The segment and its descriptor too: the mapping is enough."""
    array = arena.allocate(MIB)
    array[:] = 6
    place = arena.locate(array)
    assert place is not None
    seen = Attached(os.dup(place.segment.fd), place.segment.size).array(place.offset, MIB)
    place.segment.close()
    assert seen.min() == seen.max() == 6
    del seen, place


def test_a_file_that_is_no_segment_is_refused() -> None:
    """It could be cut, and end whoever has it mapped; or it is of another size than was said."""
    before = open_files()
    for fd in (os.memfd_create("loose"), sealed(PAGE), os.open("/dev/null", os.O_RDONLY)):
        with pytest.raises(OSError, match=r"size|Invalid"):
            Attached(fd, 2 * PAGE)
    assert not open_files() - before
    fd = sealed(PAGE)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)
