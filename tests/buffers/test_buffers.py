"""Memory for KV bytes: never over its budget, never lent twice, back by itself when the last view is gone."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py import shared_memory
from erllama_py.buffers import GRAIN, BufferPool


def address(view: memoryview) -> int:
    """Where the view's bytes begin."""
    return int(numpy.frombuffer(view, numpy.uint8).ctypes.data)


def blocks(nbytes: int) -> int:
    """The bytes of the whole blocks that `nbytes` need."""
    return max(GRAIN, -(-nbytes // GRAIN) * GRAIN)


def taken(pool: BufferPool, nbytes: int) -> memoryview:
    """A lease that the budget must allow."""
    view = pool.take(nbytes)
    assert view is not None
    return view


@pytest.mark.parametrize("nbytes", [0, 1, GRAIN - 1, GRAIN, GRAIN + 1, 3 * GRAIN])
def test_a_lease_has_exactly_the_size_that_was_asked_for(nbytes: int) -> None:
    """However large its block is: whole MiB."""
    pool = BufferPool(8 * GRAIN)
    view = taken(pool, nbytes)
    assert (view.nbytes, view.format, view.readonly) == (nbytes, "B", False)
    assert pool.leased == blocks(nbytes)


def test_a_negative_size_is_refused() -> None:
    """It would be a slice from the other end."""
    with pytest.raises(ValueError, match="no negative size"):
        BufferPool(GRAIN).take(-1)


def test_where_the_system_has_no_memory_nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the budget is used up: no error, and nothing is counted."""

    def full(*_: object) -> None:
        raise MemoryError

    pool = BufferPool(3 * GRAIN)
    with monkeypatch.context() as system:
        system.setattr(shared_memory, "allocate", full)
        assert pool.take(GRAIN) is None
        pool.warm(2, GRAIN)
    assert pool.leased == 0
    first = taken(pool, 3 * GRAIN)
    assert pool.leased == first.nbytes


def test_what_goes_over_the_budget_is_not_lent() -> None:
    """The answer is None at once; what is out stays out, and what fits is still lent."""
    pool = BufferPool(3 * GRAIN)
    first = taken(pool, 2 * GRAIN)
    assert pool.take(GRAIN + 1) is None
    assert pool.take(4 * GRAIN) is None
    second = taken(pool, GRAIN)
    assert pool.leased == 3 * GRAIN
    assert pool.take(0) is None
    del first, second
    assert pool.leased == 0


def test_a_budget_below_one_block_lends_nothing() -> None:
    """Not even a byte."""
    assert BufferPool(GRAIN - 1).take(1) is None


VIEWS: dict[str, Callable[[memoryview], object]] = {
    "the lease itself": lambda view: view,
    "a slice": lambda view: view[10:20],
    "an empty slice": lambda view: view[5:5],
    "a read-only view": lambda view: view.toreadonly(),
    "a cast": lambda view: view.cast("I"),
    "a view of a view": lambda view: memoryview(view)[::2],
    "an array": lambda view: numpy.frombuffer(view, numpy.uint8)[3:],
    "a slice of a read-only cast": lambda view: view.toreadonly().cast("I")[1:],
}


@pytest.mark.parametrize("kind", VIEWS)
def test_a_lease_lasts_as_long_as_its_last_view(kind: str) -> None:
    """Whatever kind of view it is, and however long the lease itself is gone."""
    pool = BufferPool(GRAIN)
    view: memoryview | None = taken(pool, 4096)
    last = VIEWS[kind](view)  # type: ignore[arg-type]  # it is None only further down
    view = None
    assert pool.leased == GRAIN
    assert pool.take(1) is None
    del last
    assert pool.leased == 0
    assert pool.take(1) is not None


def test_a_released_view_gives_its_block_back() -> None:
    """Without waiting for the object to go."""
    pool = BufferPool(GRAIN)
    with taken(pool, 100) as view:
        assert pool.leased == GRAIN
    assert pool.leased == 0
    with pytest.raises(ValueError, match="released"):
        view[0]


def test_an_exception_gives_the_block_back() -> None:
    """No crash leaks one."""
    pool = BufferPool(GRAIN)

    def fail() -> None:
        view = taken(pool, 100)
        view[0] = 300

    with pytest.raises(ValueError, match="format"):
        fail()
    assert pool.leased == 0


def test_memory_is_used_again() -> None:
    """The second lease lies where the first one did: no page is fresh."""
    pool = BufferPool(8 * GRAIN)
    view = taken(pool, 2 * GRAIN)
    view[:3] = b"abc"
    where = address(view)
    del view
    again = taken(pool, GRAIN + 7)
    assert (address(again), bytes(again[:3])) == (where, b"abc")


def test_the_smallest_block_that_fits_is_taken() -> None:
    """A large one is kept for rows that need it."""
    pool = BufferPool(16 * GRAIN)
    leases = [taken(pool, size * GRAIN) for size in (5, 2, 3)]
    where = [address(lease) for lease in leases]
    leases.clear()
    assert address(taken(pool, 2 * GRAIN)) == where[1]
    small, middle = taken(pool, 2 * GRAIN), taken(pool, 2 * GRAIN)
    assert [address(small), address(middle)] == [where[1], where[2]]


def test_idle_blocks_that_are_too_small_make_room() -> None:
    """Rows of another size are lent too, once those of the old size are back."""
    pool = BufferPool(4 * GRAIN)
    small = [taken(pool, GRAIN) for _ in range(4)]
    assert pool.take(3 * GRAIN) is None
    small.clear()
    large = taken(pool, 3 * GRAIN)
    assert pool.leased == large.nbytes == 3 * GRAIN


def test_idle_blocks_that_are_far_too_large_make_room() -> None:
    """They count as a whole: small rows would find the budget used up by a few of them."""
    pool = BufferPool(16 * GRAIN)
    large = [taken(pool, 4 * GRAIN) for _ in range(4)]
    large.clear()
    small = [taken(pool, GRAIN) for _ in range(16)]
    assert pool.leased == sum(lease.nbytes for lease in small) == pool.budget


def test_a_lease_that_cannot_be_given_costs_no_warm_memory() -> None:
    """Idle blocks are not dropped for something that does not fit even without them."""
    pool = BufferPool(4 * GRAIN)
    held, idle = taken(pool, GRAIN), taken(pool, GRAIN)
    where = address(idle)
    del idle
    assert pool.take(4 * GRAIN) is None
    assert address(taken(pool, GRAIN)) == where
    del held


def test_warming_leaves_the_blocks_idle() -> None:
    """They are there for the next leases, as many as the budget allows."""
    pool = BufferPool(3 * GRAIN)
    pool.warm(5, GRAIN)
    assert pool.leased == 0
    assert "0 MiB leased, 3 held, of 3" in repr(pool)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5 * GRAIN)), max_size=30), st.integers(0, 8))
def test_the_budget_is_never_exceeded_and_no_block_is_lent_twice(steps: list[tuple[bool, int]], budget: int) -> None:
    """Whatever is taken and given back, in any order: leases never overlap and never add up to more."""
    pool, leases = BufferPool(budget * GRAIN), list[memoryview]()
    for take, number in steps:
        if take:
            lease = pool.take(number)
            if lease is not None:
                leases.append(lease)
            del lease
        elif leases:
            leases.pop(number % len(leases))
        assert pool.leased >= sum(blocks(one.nbytes) for one in leases)
        assert pool.leased <= pool.budget
        spans = sorted((address(one), address(one) + one.nbytes) for one in leases if one.nbytes)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    leases.clear()
    assert pool.leased == 0


def test_threads_never_share_a_block() -> None:
    """Each writes its number all over its lease and finds nothing but it there, while others come and go."""
    pool, problems = BufferPool(6 * GRAIN), list[str]()
    begin, passed_on = threading.Barrier(5), list[memoryview]()

    def work(number: int) -> None:
        begin.wait()
        for turn in range(60):
            view = pool.take(4096 + (turn % 3) * GRAIN)
            if pool.leased > pool.budget:
                problems.append("over the budget")
            if view is None:
                continue
            mark = bytes([number]) * 64
            view[:64] = view[-64:] = mark
            passed_on.append(view[32:])  # another thread lets go of it
            if bytes(view[:64]) != mark or bytes(view[-64:]) != mark:
                problems.append(f"another thread wrote into the lease of {number}")
            del view
            if passed_on:
                passed_on.pop(0)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    passed_on.clear()
    assert problems == []
    assert pool.leased == 0


def test_a_pool_that_is_over_holds_no_descriptor() -> None:
    """Somebody may refer to it for long; what is leased comes back all the same."""
    pool = BufferPool(8 * GRAIN)
    ledger, view = pool.share(), taken(pool, 3)
    os.fstat(ledger.fd)
    pool.close()
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(ledger.fd)
    del view
    assert pool.leased == 0
    assert "0 MiB leased, 0 held" in repr(pool)
