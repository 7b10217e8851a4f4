"""One budget over several processes: no two lend more than it together, and a dead one's share comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from helpers.leftovers import open_files
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.buffers import GRAIN, BufferPool
from erllama_py.shared_memory import ledger as module
from erllama_py.shared_memory.ledger import Ledger, LedgerFull, take_seat


@pytest.fixture
def pools() -> Iterator[tuple[BufferPool, BufferPool, Ledger]]:
    """A process's pool, and one as a child of it has; four blocks for both."""
    mine = BufferPool(4 * GRAIN)
    ledger = mine.share()
    other = BufferPool(4 * GRAIN, take_seat(os.dup(ledger.fd), ledger.enter().index))
    yield mine, other, ledger
    ledger.close()


def test_a_ledger_ends_with_its_pool() -> None:
    """Its descriptors too, in both processes."""
    before = open_files()
    mine = BufferPool(4 * GRAIN)
    other = BufferPool(4 * GRAIN, take_seat(os.dup(mine.share().fd), mine.share().enter().index))
    assert len(open_files() - before) == 3  # one, and one of each mapping
    del mine, other
    assert not open_files() - before


def test_a_ledger_that_is_closed_has_no_descriptor_whoever_refers_to_it() -> None:
    """Seats are kept by much that is collected late: they count on, for their process alone."""
    before = open_files()
    mine = BufferPool(4 * GRAIN)
    ledger = mine.share()
    seat = ledger.enter()
    assert len(open_files() - before) == 2
    mine.close()
    assert not open_files() - before
    seat.note(3, 4)
    assert ledger.own.others() == (3, 4)
    ledger.leave(seat, kept=2)
    assert ledger.own.others() == (2, 0)


def test_pools_share_a_budget(pools: tuple[BufferPool, BufferPool, Ledger]) -> None:
    """What one has lent the other has not."""
    mine, other, _ = pools
    first = mine.take(3 * GRAIN)
    assert first is not None
    assert other.take(2 * GRAIN) is None
    second = other.take(GRAIN)
    assert second is not None
    assert mine.take(1) is None
    del first
    assert other.take(3 * GRAIN) is not None
    assert (mine.leased, other.leased) == (0, GRAIN)


def test_the_ledger_is_the_same_one_each_time(pools: tuple[BufferPool, BufferPool, Ledger]) -> None:
    """However many children there are."""
    mine, _, ledger = pools
    assert mine.share() is ledger


def test_idle_blocks_make_room_for_another_process(pools: tuple[BufferPool, BufferPool, Ledger]) -> None:
    """They stand in nobody's way, and go when their own process looks next."""
    mine, other, _ = pools
    mine.warm(4, GRAIN)
    lease = other.take(4 * GRAIN)
    assert lease is not None
    assert "0 MiB leased, 4 held" in repr(mine)
    mine.trim()
    assert "0 MiB leased, 0 held" in repr(mine)
    del lease
    assert "0 MiB leased, 4 held" in repr(other)


def test_what_a_dead_process_had_lent_comes_back(pools: tuple[BufferPool, BufferPool, Ledger]) -> None:
    """All of it but what is still looked at here, and that when it is not any more."""
    mine, _, ledger = pools
    seat = ledger.enter()
    seat.note(3 * GRAIN, GRAIN)
    assert mine.take(2 * GRAIN) is None
    ledger.leave(seat, 2 * GRAIN)
    ledger.leave(seat, 2 * GRAIN)
    assert mine.take(3 * GRAIN) is None
    first = mine.take(2 * GRAIN)
    assert first is not None
    ledger.give_back(2 * GRAIN)
    assert mine.take(2 * GRAIN) is not None


def test_seats_are_given_again() -> None:
    """As many children as there are seats, and any number one after the other."""
    ledger = Ledger()
    for _ in range(2 * module.MOST_PROCESSES):
        ledger.leave(ledger.enter())
    seats = [ledger.enter() for _ in range(module.MOST_PROCESSES)]
    with pytest.raises(LedgerFull):
        ledger.enter()
    ledger.leave(seats[7])
    assert ledger.enter().index == seats[7].index
    ledger.close()
    ledger.close()


def test_a_file_of_another_size_is_no_ledger() -> None:
    """Whoever has sent it."""
    before = open_files()
    with pytest.raises(OSError, match="size"):
        take_seat(os.memfd_create("no ledger"), 2)
    assert not open_files() - before


def test_a_process_that_is_forked_off_changes_nothing(pools: tuple[BufferPool, BufferPool, Ledger]) -> None:
    """The leases that are forgotten there are still this one's."""
    mine, other, _ = pools
    lease = mine.take(3 * GRAIN)
    pid = os.fork()
    if pid == 0:
        del lease
        os._exit(mine.leased != 0)
    assert os.waitpid(pid, 0)[1] == 0
    assert other.take(2 * GRAIN) is None
    del lease
    assert other.take(2 * GRAIN) is not None


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(1, 4 * GRAIN)), max_size=40))
def test_no_budget_is_exceeded(steps: list[tuple[int, bool, int]]) -> None:
    """Whatever three pools lend and get back, in any order; and all of it is free in the end."""
    first = BufferPool(6 * GRAIN)
    ledger = first.share()
    pools = [first, *(BufferPool(6 * GRAIN, ledger.enter()) for _ in range(2))]
    leases: list[list[memoryview]] = [[], [], []]
    for which, take, number in steps:
        if take:
            lease = pools[which].take(number)
            leases[which] += [] if lease is None else [lease]
            del lease
        elif leases[which]:
            leases[which].pop(number % len(leases[which]))
        assert sum(pool.leased for pool in pools) <= 6 * GRAIN
    leases.clear()
    assert [pool.leased for pool in pools] == [0, 0, 0]
    assert first.take(6 * GRAIN) is not None
    ledger.close()
