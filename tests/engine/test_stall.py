"""How many prompt tokens streams are made to wait for: bounds, and what simulated machines make of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.stall import LEAST_CHUNK, TickTimes, chunk_size, observed

MOST = 0.1  # seconds a stream may wait, in the simulations
BATCH = 2048

seconds = st.floats(0.0, 1e6)
times = st.builds(TickTimes, seconds, seconds)
decodes = st.lists(st.tuples(st.integers(0, 64), st.integers(0, 4096), seconds), max_size=30)


class Machine:
    """A decode costs `fixed` seconds and `each` for every prompt token; the chunk follows what was observed."""

    def __init__(self, fixed: float, each: float) -> None:
        self.fixed = fixed
        self.each = each
        self.times = TickTimes()

    @property
    def chunk(self) -> int:
        return chunk_size(self.times, MOST, BATCH)

    def decode(self, prompt_tokens: int, slower: float = 1.0, rows: int = 1) -> float:
        took = (self.fixed + prompt_tokens * self.each) * slower
        self.times = observed(self.times, rows, prompt_tokens, took)
        return took

    def settle(self, count: int) -> float:
        """Decodes with full chunks; what the last one took."""
        for _ in range(count):
            took = self.decode(self.chunk)
        return took

    @property
    def fills_the_wait(self) -> bool:
        """Whether prompts get what is free: four fifths of the best chunk, or a wait so nearly full that a ninth more,
        one token on top of the least chunk, would be too long."""
        best = min(BATCH, (MOST - self.fixed) / self.each)
        wait = self.fixed + self.chunk * self.each
        return self.chunk >= 0.8 * best - 1 or wait >= MOST * LEAST_CHUNK / (LEAST_CHUNK + 1)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Machines that can keep to the wait with the least chunk, from slow processors to fast accelerators."""
    fixed = MOST * draw(st.floats(0.0, 0.8))
    within_reach = (MOST - fixed) / LEAST_CHUNK
    return Machine(fixed, within_reach * draw(st.floats(0.0001, 1.0)))


@given(decodes, st.floats(0.0, 100.0), st.integers(1, 4096))
def test_a_chunk_stays_between_its_bounds(history: list[tuple[int, int, float]], longest: float, n_batch: int) -> None:
    """Whatever was measured: not below the least chunk, unless a batch is smaller, and not above a batch."""
    now = TickTimes()
    for rows, prompt_tokens, took in history:
        now = observed(now, rows, prompt_tokens, took)
        assert now.row_seconds >= 0.0
        assert now.token_seconds >= 0.0
    assert min(LEAST_CHUNK, n_batch) <= chunk_size(now, longest, n_batch) <= n_batch


@given(times, seconds, seconds, st.integers(1, 4096))
def test_whoever_may_wait_longer_gets_no_smaller_chunk(now: TickTimes, one: float, other: float, n_batch: int) -> None:
    """The chunk never falls as the longest wait grows."""
    assert chunk_size(now, min(one, other), n_batch) <= chunk_size(now, max(one, other), n_batch)


@given(times, st.floats(0.001, 100.0))
def test_a_chunk_fits_into_the_wait_as_far_as_is_known(now: TickTimes, longest: float) -> None:
    """By the measured times no chunk but the least takes longer than allowed."""
    chunk = chunk_size(now, longest, BATCH)
    if chunk > LEAST_CHUNK and now.token_seconds > 0.0:
        assert now.row_seconds + chunk * now.token_seconds <= longest * (1 + 1e-9)


def test_before_a_prompt_was_measured_the_chunk_is_the_least() -> None:
    """Whatever it costs is known after one decode."""
    assert chunk_size(TickTimes(), MOST, BATCH) == LEAST_CHUNK
    assert chunk_size(TickTimes(row_seconds=0.01), MOST, BATCH) == LEAST_CHUNK
    assert chunk_size(TickTimes(row_seconds=0.2), MOST, BATCH) == LEAST_CHUNK


def test_tokens_that_cost_next_to_nothing_get_the_whole_batch() -> None:
    """Down to the smallest number that a float can hold."""
    assert chunk_size(TickTimes(token_seconds=5e-324), MOST, BATCH) == BATCH


def test_the_first_measurements_count_in_full() -> None:
    """Rows alone give their own time; together with a prompt, what is beyond that. A prompt alone says nothing."""
    assert observed(TickTimes(), 0, 200, 1.0) == TickTimes()
    assert observed(TickTimes(), 3, 0, 0.05) == TickTimes(row_seconds=0.05)
    assert observed(TickTimes(row_seconds=0.05), 3, 100, 0.15).token_seconds == pytest.approx(0.001)


def test_a_few_prompt_tokens_say_little_of_what_one_costs() -> None:
    """Ten milliseconds more than expected are an uneven row beside one token, and news beside hundreds."""
    now = TickTimes(row_seconds=0.05, token_seconds=0.001)
    assert observed(now, 1, 1, 0.061).token_seconds < 0.00115
    assert observed(now, 1, 500, 0.05 + 500 * 0.011).token_seconds > 0.0014


@given(times, seconds, st.integers(1, 4096))
def test_what_says_nothing_changes_nothing(now: TickTimes, took: float, prompt_tokens: int) -> None:
    """No tokens at all; or a prompt alone, faster than rows were, which tells of neither."""
    assert observed(now, 0, 0, took) == now
    if took <= now.row_seconds:
        assert observed(now, 0, prompt_tokens, took) == now


@given(machines(), st.booleans())
def test_decodes_soon_last_as_long_as_they_may(machine: Machine, rows_first: bool) -> None:
    """Within 10 % of the longest wait after some decodes, and not much less either: prompts get what is free.

    Where rows are never decoded alone and cost most of the wait, the last part of the way is slow.
    """
    if rows_first:
        machine.decode(0)
    assert machine.settle(30) <= 1.1 * MOST
    assert machine.settle(1 if rows_first else 100) <= 1.1 * MOST
    assert machine.fills_the_wait


@given(machines(), machines(), st.booleans())
def test_the_chunk_follows_costs_that_change(machine: Machine, later: Machine, rows_alone: bool) -> None:
    """More rows, a longer context, another process: the same holds again, though a token become 10,000 times dearer."""
    machine.decode(0)
    machine.settle(20)
    machine.fixed, machine.each = later.fixed, later.each
    for _ in range(60):
        if rows_alone:
            machine.decode(0)
        machine.decode(machine.chunk)
    assert machine.settle(1) <= 1.1 * MOST
    assert machine.settle(1 if rows_alone else 150) <= 1.1 * MOST
    assert machine.fills_the_wait


@given(machines(), st.booleans())
def test_one_slow_decode_is_soon_forgotten(machine: Machine, prompt: bool) -> None:
    """Fifty times slower, once, with a prompt or without: a dozen decodes later most of the chunk is back."""
    machine.decode(0)
    machine.settle(20)
    before = machine.chunk
    machine.decode(machine.chunk if prompt else 0, slower=50.0)
    machine.decode(0)
    machine.settle(11)
    assert machine.chunk >= 0.6 * before - 1


@given(machines())
def test_slow_first_decodes_do_not_stay_in_the_way(machine: Machine) -> None:
    """The first decodes read the weights from disk: 50 times slower, and yet the chunk is right soon after."""
    machine.decode(100, slower=50.0, rows=0)
    machine.decode(0, slower=50.0)
    for _ in range(60):
        machine.decode(0)
        machine.decode(machine.chunk)
    assert machine.fills_the_wait


@given(machines(), st.integers(0, 2**32), st.sampled_from([0.05, 0.1, 0.2]))
def test_on_an_uneven_machine_few_decodes_are_too_long(machine: Machine, seed: int, deviation: float) -> None:
    """Times scatter around what they should be: one decode of ten at most goes beyond the wait, and none far."""
    chance = random.Random(seed)
    machine.decode(0)
    machine.settle(60)
    least = machine.fixed + LEAST_CHUNK * machine.each
    took = [machine.decode(machine.chunk, slower=max(0.3, chance.gauss(1.0, deviation))) for _ in range(400)]
    if 1.5 * least < MOST:  # else it is the least chunk that is too long
        assert sum(seconds > MOST for seconds in took) <= 40
        assert sorted(took)[-4] < 1.5 * MOST
        assert sum(took) / len(took) > 0.6 * MOST or machine.chunk == BATCH


@given(machines(), st.lists(st.floats(0.0, 1.0), min_size=40, max_size=40))
def test_slices_smaller_than_the_chunk_teach_the_same(machine: Machine, parts: list[float]) -> None:
    """Prompts end, and cuts fall on a grid: decodes with less than the chunk lead to no longer waits."""
    machine.decode(0)
    machine.settle(5)
    for part in parts:
        machine.decode(1 + int(part * (machine.chunk - 1)))
    assert machine.settle(1) <= 1.1 * MOST
