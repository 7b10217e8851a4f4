"""How many prompt tokens streams are made to wait for: bounds, and what simulated machines make of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.stall import GRAIN, GRAIN_FROM, LEAST_CHUNK, ROWS_ALONE_EVERY, TickTimes, chunk_size, observed

MOST = 0.1  # seconds a stream may wait, in the simulations
BATCH = 2048

seconds = st.floats(0.0, 1e6)
rows = st.integers(0, 64)
decodes = st.lists(st.tuples(rows, st.integers(0, 4096), seconds), max_size=30)


def after(history: list[tuple[int, int, float]]) -> TickTimes:
    """What is known after decodes of so many rows and prompt tokens that took so many seconds."""
    now = TickTimes()
    for n_rows, prompt_tokens, took in history:
        now = observed(now, n_rows, prompt_tokens, took)
    return now


class Machine:
    """A decode costs `fixed` seconds and `each` for every prompt token, `small` times more in tiny slices.

    The chunk follows what was observed.
    """

    def __init__(self, fixed: float, each: float, small: float = 0.0) -> None:
        self.fixed, self.each, self.small = fixed, each, small
        self.slow = 1.0
        self.times = TickTimes()

    @property
    def bound(self) -> float:
        """What the longest decode may take."""
        return max(MOST, 2.0 * self.fixed * self.slow)

    @property
    def chunk(self) -> int:
        return chunk_size(self.times, 1, MOST, BATCH)

    def cost(self, prompt_tokens: int) -> float:
        each = self.each * (1.0 + self.small * LEAST_CHUNK / (prompt_tokens + LEAST_CHUNK))
        return (self.fixed + prompt_tokens * each) * self.slow

    def decode(self, prompt_tokens: int, slower: float = 1.0, rows: int = 1) -> float:
        took = self.cost(prompt_tokens) * slower
        self.times = observed(self.times, rows, prompt_tokens, took)
        return took

    def settle(self, count: int) -> float:
        """Decodes with full chunks; what the last one took that was not of rows alone."""
        took = 0.0
        for _ in range(count):
            last = self.decode(chunk := self.chunk)
            took = last if chunk else took
        return took

    def read(self, prompt_tokens: int, slower: list[float] | None = None) -> list[float]:
        """A prompt beside a stream: what each decode took."""
        took: list[float] = []
        while prompt_tokens > 0:
            tokens = min(prompt_tokens, self.chunk)
            took.append(self.decode(tokens, slower[len(took) % len(slower)] if slower else 1.0))
            prompt_tokens -= tokens
        return took

    @property
    def fills_the_wait(self) -> bool:
        """Whether prompts get what is free: four fifths of the best chunk, whole fours and a few, or a wait so nearly
        full that a fifth more would be too long."""
        best = next(size for size in range(BATCH - 1, 0, -1) if size <= LEAST_CHUNK or self.cost(size) <= self.bound)
        if not self.chunk:
            self.decode(0)
        chunk = self.chunk
        return chunk >= 0.8 * best - GRAIN or 1.2 * self.cost(chunk) >= self.bound


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """From fast accelerators to decodes of 5 s a row; a token costs from a 500th to the half of a row."""
    fixed = 0.005 * 1000.0 ** draw(st.floats(0.0, 1.0))
    each = fixed / 500.0 * 250.0 ** draw(st.floats(0.0, 1.0))
    return Machine(fixed, each, draw(st.floats(0.0, 1.0)))


def fits(machine: Machine) -> bool:
    """Whether the least chunk is no more than is allowed: nothing smaller is ever tried."""
    return 1.1 * machine.cost(LEAST_CHUNK) <= machine.bound


# --- bounds ------------------------------------------------------------------------------------------------------


@given(decodes, rows, st.floats(0.0, 100.0), st.integers(1, 4096))
def test_a_chunk_stays_between_its_bounds(
    history: list[tuple[int, int, float]], n_rows: int, longest: float, n_batch: int
) -> None:
    """Whatever was measured: not below the least chunk, unless it is nothing or the batch has no room for it."""
    now = after(history)
    assert min((*now.rows, *now.tokens, now.beyond)) >= 0.0
    chunk, room = chunk_size(now, n_rows, longest, n_batch), max(0, n_batch - n_rows)
    assert chunk == 0 or min(LEAST_CHUNK, room) <= chunk <= room


@given(decodes, rows, seconds, seconds, st.integers(1, 4096))
def test_a_longer_allowed_wait_gives_no_smaller_chunk(
    history: list[tuple[int, int, float]], n_rows: int, one: float, other: float, n_batch: int
) -> None:
    """The chunk never falls as the longest wait grows."""
    now = after(history)
    assert chunk_size(now, n_rows, min(one, other), n_batch) <= chunk_size(now, n_rows, max(one, other), n_batch)


@given(decodes, rows, st.floats(0.001, 100.0))
def test_a_chunk_fits_into_the_wait_as_far_as_is_known(
    history: list[tuple[int, int, float]], n_rows: int, longest: float
) -> None:
    """By the measured times no chunk but the least takes longer than allowed, or twice as long as the rows."""
    now = after(history)
    chunk = chunk_size(now, n_rows, longest, BATCH)
    if chunk > LEAST_CHUNK:
        each = now.token_seconds(n_rows + chunk)
        assert now.row_seconds + chunk * each <= max(longest, 2.0 * now.row_seconds) * (1 + 1e-9)


@given(decodes, rows, st.floats(0.001, 100.0))
def test_rows_and_chunk_are_whole_fours(history: list[tuple[int, int, float]], n_rows: int, longest: float) -> None:
    """Unless they are few, the chunk is the least, or the batch full."""
    chunk = chunk_size(after(history), n_rows, longest, BATCH)
    few = n_rows + chunk < GRAIN_FROM
    assert few or chunk in (0, LEAST_CHUNK, BATCH - n_rows) or (n_rows + chunk) % GRAIN == 0


def test_a_tile_of_attention_is_not_begun_for_a_few_tokens() -> None:
    """64 in total where 72 would fit, and 76 where 76 do."""
    now = TickTimes(rows=(0.01,), tokens=(0.001,) * 13)
    assert chunk_size(now, 1, 0.0815, BATCH) == 63
    assert chunk_size(now, 1, 0.0855, BATCH) == 75


def test_rows_are_measured_first_and_then_the_least_chunk() -> None:
    """Whatever these cost is known after one decode of each."""
    assert chunk_size(TickTimes(), 1, MOST, BATCH) == 0
    assert chunk_size(TickTimes(rows=(0.01,)), 1, MOST, BATCH) == LEAST_CHUNK
    assert chunk_size(TickTimes(rows=(0.2,)), 1, MOST, BATCH) == LEAST_CHUNK


def test_tokens_that_cost_next_to_nothing_get_the_whole_batch() -> None:
    """Down to the smallest number that a float can hold."""
    assert chunk_size(TickTimes(rows=(0.01,), tokens=(5e-324,) * 13), 1, MOST, BATCH) == BATCH - 1


# --- measurements ------------------------------------------------------------------------------------------------


def test_the_first_measurements_count_in_full() -> None:
    """Rows alone give their own time; together with a prompt, what is beyond that. A prompt alone says nothing."""
    assert observed(TickTimes(), 0, 200, 1.0) == TickTimes()
    now = observed(TickTimes(), 3, 0, 0.05)
    assert (now.row_seconds, now.token_seconds(100)) == (0.05, 0.0)
    assert observed(now, 3, 100, 0.15).token_seconds(103) == pytest.approx(0.001)


def test_a_few_prompt_tokens_say_little_of_what_one_costs() -> None:
    """Ten milliseconds more than expected are an uneven row beside one token, and news beside hundreds."""
    now = TickTimes(rows=(0.05,), tokens=(0.001,) * 13)
    assert observed(now, 1, 1, 0.061).token_seconds(2) < 0.0012
    assert observed(now, 1, 500, 0.05 + 500 * 0.0018).token_seconds(501) > 0.00115


@given(decodes, seconds, st.integers(0, 4096))
def test_a_prompt_that_no_stream_waits_for_changes_nothing(
    history: list[tuple[int, int, float]], took: float, prompt_tokens: int
) -> None:
    """A token of a large batch costs less than one of a chunk."""
    now = after(history)
    assert observed(now, 0, prompt_tokens, took) == now


def test_sizes_have_costs_of_their_own() -> None:
    """A slice of 200 tokens costs half as much for each as one of 8; both are known, and a size that is not is taken to
    cost what the next smaller one does."""
    machine = Machine(0.01, 0.0)
    for _ in range(30):
        machine.times = observed(machine.times, 1, 0, 0.01)
        machine.times = observed(machine.times, 1, 7, 0.01 + 7 * 0.002)
        machine.times = observed(machine.times, 1, 200, 0.01 + 200 * 0.001)
    times = machine.times
    assert times.token_seconds(8) == pytest.approx(0.002, rel=0.05)
    assert times.token_seconds(201) == pytest.approx(0.001, rel=0.05)
    assert times.token_seconds(64) == times.token_seconds(8)
    assert times.token_seconds(2048) == times.token_seconds(201)


def test_larger_slices_are_tried_one_size_at_a_time() -> None:
    """Four tokens that seemed to cost nothing say nothing of 500: each size is at most twice one that was measured."""
    now = observed(TickTimes(rows=(0.01,)), 1, LEAST_CHUNK, 0.01 + 1e-9)
    chunks = []
    for _ in range(9):
        chunks.append(chunk_size(now, 1, MOST, BATCH))
        now = observed(now, 1, chunks[-1], 0.01 + chunks[-1] * 1e-9)
    assert chunks == [14, 27, 59, 123, 251, 507, 1019, 2043, 2047]


def test_two_surprises_in_a_row_are_believed() -> None:
    """Rows and tokens cost ten times more: one decode shows little, and the second all, with the one of rows in
    between."""
    now = TickTimes(rows=(0.01,) * 3, tokens=(0.001,) * 13, row_then=0.01)
    once = observed(now, 1, 90, 1.0)
    assert once.token_seconds(91) <= 0.0016
    assert chunk_size(once, 1, MOST, BATCH) == 0
    twice = observed(observed(once, 1, 0, 0.1), 1, 90, 1.0)
    assert twice.row_seconds == 0.1
    assert twice.token_seconds(91) == pytest.approx(0.01)


def test_a_bad_estimate_for_large_slices_is_forgotten() -> None:
    """It is not tried while it says that it costs too much; decodes of smaller ones bring it down."""
    now = TickTimes(rows=(0.01,), tokens=tuple(0.001 if size < 7 else 0.1 for size in range(13)), row_then=0.01)
    assert chunk_size(now, 1, 0.2, BATCH) == 59
    for _ in range(120):
        now = observed(observed(now, 1, 0, 0.01), 1, 59, 0.069)
    assert chunk_size(now, 1, 0.2, BATCH) > 150


@pytest.mark.slow
@given(machines())
def test_now_and_then_a_decode_is_left_to_the_rows(machine: Machine) -> None:
    """However many prompts follow each other: what rows cost is known, and not guessed from the sum."""
    chunks = []
    for _ in range(10 * ROWS_ALONE_EVERY):
        chunks.append(machine.chunk)
        machine.decode(chunks[-1])
    assert 9 <= chunks.count(0) <= 14
    assert machine.times.row_seconds == pytest.approx(machine.fixed)


# --- machines ----------------------------------------------------------------------------------------------------


@given(machines())
def test_decodes_soon_last_as_long_as_they_may(machine: Machine) -> None:
    """Within 10 % of what is allowed after some decodes, and not much less either: prompts get what is free."""
    took = machine.settle(40)
    assert took <= 1.1 * machine.bound or not fits(machine)
    assert machine.fills_the_wait


@given(machines(), st.integers(1, 3000))
def test_a_prompt_is_read_in_a_small_multiple_of_its_time_alone(machine: Machine, prompt_tokens: int) -> None:
    """And some decodes, whatever one costs: three times is two for what the rows take, and what small slices cost."""
    machine.decode(0)
    took = machine.read(prompt_tokens)
    alone = prompt_tokens * machine.each * (1.0 + machine.small)
    assert sum(took) <= 3.0 * alone + 6 * machine.bound
    assert max(took) <= 1.1 * machine.bound or not fits(machine)


@given(machines(), st.integers(0, 2**32), st.sampled_from([0.02, 0.05, 0.1]))
def test_a_prompt_does_not_crawl_on_an_uneven_machine(machine: Machine, seed: int, deviation: float) -> None:
    """The same where times scatter; the room that is left for that is paid by the prompt, and is less than its half."""
    chance = random.Random(seed)
    machine.decode(0)
    took = machine.read(1500, [max(0.3, chance.gauss(1.0, deviation)) for _ in range(997)])
    assert sum(took) <= 4.0 * 1500 * machine.each * (1.0 + machine.small) + 12 * machine.bound


@pytest.mark.slow
@pytest.mark.parametrize(("fixed", "each"), [(0.5, 0.005), (3.0, 0.05), (3.0, 0.01)])
@pytest.mark.parametrize("decodes", [1, 2])
@pytest.mark.parametrize("slower", [2.0, 3.0])
def test_a_prompt_does_not_crawl_where_neighbours_come_and_go(
    fixed: float, each: float, decodes: int, slower: float
) -> None:
    """Rows that are slow anyway, and every few decodes two or three times slower: that is not put down to the prompt's
    tokens. Of twenty prompts, a few times what they take alone in the mean."""
    took = 0.0
    for seed in range(20):
        chance, machine = random.Random(seed), Machine(fixed, each)
        machine.decode(0)
        times = [chance.choice([1.0, slower]) for _ in range(997)]
        took += sum(machine.read(3000, [time for time in times for _ in range(decodes)]))
    assert took <= 9.0 * 20 * 3000 * each * (1.0 + slower) / 2


@pytest.mark.slow
@given(machines(), st.booleans(), st.sampled_from([10.0, 100.0]))
def test_a_slow_spell_is_followed_and_forgotten(machine: Machine, mixed: bool, spell: float) -> None:
    """Ten or a hundred times slower, in the middle of a prompt or between two, and back again: after some decodes,
    the same holds as ever."""
    machine.decode(0)
    for slow in (1.0, spell, 1.0):
        machine.slow = slow
        for _ in range(0 if mixed else 3):
            machine.decode(0)
        machine.settle(40)
        assert machine.settle(2) <= 1.1 * machine.bound or not fits(machine)
        assert machine.fills_the_wait


@given(machines(), st.sampled_from([10.0, 100.0]))
def test_few_decodes_are_too_long_when_a_machine_slows_down(machine: Machine, spell: float) -> None:
    """Those in which it is noticed, and two more."""
    machine.decode(0)
    machine.settle(40)
    machine.slow = spell
    took = [machine.decode(machine.chunk) for _ in range(60)]
    if fits(machine):
        assert sum(one > 1.1 * machine.bound for one in took) <= 4


@pytest.mark.slow
@given(machines(), machines(), st.booleans())
def test_the_chunk_follows_costs_that_change(machine: Machine, later: Machine, rows_alone: bool) -> None:
    """More rows, a longer context, another process: the same holds again, whatever costs more now."""
    machine.decode(0)
    machine.settle(20)
    machine.fixed, machine.each, machine.small = later.fixed, later.each, later.small
    for _ in range(60):
        if rows_alone:
            machine.decode(0)
        machine.decode(machine.chunk)
    assert machine.settle(2) <= 1.1 * machine.bound or not fits(machine)
    machine.settle(60)
    assert machine.fills_the_wait


@given(machines(), st.booleans())
def test_one_slow_decode_is_soon_forgotten(machine: Machine, prompt: bool) -> None:
    """Fifty times slower, once, with a prompt or without: a dozen decodes later most of the chunk is back."""
    machine.decode(0)
    machine.settle(20)
    before = machine.chunk or LEAST_CHUNK
    machine.decode(before if prompt else 0, slower=50.0)
    machine.decode(0)
    machine.settle(11)
    assert machine.chunk >= 0.6 * before - GRAIN


@given(machines())
def test_slow_first_decodes_do_not_stay_in_the_way(machine: Machine) -> None:
    """The first decodes read the weights from disk: 50 times slower, and yet the chunk is right soon after."""
    machine.decode(100, slower=50.0, rows=0)
    machine.decode(0, slower=50.0)
    machine.settle(40)
    assert machine.fills_the_wait


@pytest.mark.slow
@given(machines(), st.integers(0, 2**32), st.sampled_from([0.05, 0.1, 0.2]))
def test_on_an_uneven_machine_few_decodes_are_too_long(machine: Machine, seed: int, deviation: float) -> None:
    """Times scatter around what they should be: one decode of ten at most goes beyond the bound, and one of
    fifty far."""
    chance = random.Random(seed)
    machine.decode(0)
    machine.settle(60)
    took = [machine.decode(machine.chunk, slower=max(0.3, chance.gauss(1.0, deviation))) for _ in range(400)]
    if 1.5 * machine.cost(LEAST_CHUNK) < machine.bound:  # else it is the least chunk that is too long
        allowed = max(MOST, 2.0 * machine.fixed * (1.0 + 3.0 * deviation))
        assert sum(seconds > allowed for seconds in took) <= 40
        assert sorted(took)[-4] < 1.75 * allowed
        assert sum(took) / len(took) > 0.5 * machine.bound or machine.cost(BATCH) < machine.bound / 1.5


@given(machines(), st.lists(st.floats(0.0, 1.0), min_size=40, max_size=40))
def test_slices_smaller_than_the_chunk_teach_the_same(machine: Machine, parts: list[float]) -> None:
    """Prompts end: decodes with less than the chunk lead to no longer waits."""
    machine.decode(0)
    machine.settle(5)
    for part in parts:
        machine.decode(int(part * machine.chunk))
    assert machine.settle(2) <= 1.1 * machine.bound or not fits(machine)


@pytest.mark.slow
def test_a_small_slice_never_seems_to_cost_more_than_a_large_one() -> None:
    """What four tokens cost once, in a slow spell, does not stand between 500 tokens and 250."""
    machine = Machine(0.0056, 0.00015)
    machine.decode(0)
    machine.decode(4, slower=100.0)
    machine.settle(60)
    assert machine.times.token_seconds(4) * 4 <= 1.5 * (machine.cost(machine.chunk) - machine.fixed)
    for seed in range(200):
        chance = random.Random(seed)
        chunks = []
        for _ in range(60):
            chunks.append(machine.chunk)
            machine.decode(chunks[-1], slower=max(0.3, chance.gauss(1.0, 0.2)))
        assert min(chunk for chunk in chunks if chunk) > 32
