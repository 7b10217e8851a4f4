"""The rule that says which copies are worth their time: its laws, for copies of any cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.rates import (
    CREDIT,
    GRACE,
    SHARE,
    SHORT,
    Rates,
    computed,
    copied_into,
    copied_out,
    copies_out,
    estimate,
    is_worth,
    limits,
    may_try,
    piece,
    puts_back,
    saves,
    why_not_saved,
)

BATCH = 512
ROW = 256
# Seconds of an 8B model on an H200: a token, and of a copy its fixed part and that of a token.
EIGHT_B, FLASH, NO_FLASH = 0.000105, (0.0002, 0.000019), (0.34, 0.000012)

seconds = st.floats(1e-7, 10.0)
lengths = st.integers(1, 1 << 17)
copies = st.lists(st.tuples(lengths, seconds), max_size=20)


def rates_of(out: list[tuple[int, float]], into: list[tuple[int, float]] | None = None, each: float = 0.001) -> Rates:
    """Rates after these copies, of an engine that computes a token in `each` seconds."""
    rates = computed(Rates(), BATCH, BATCH, BATCH * each)
    for tokens, took in out:
        rates = copied_out(rates, tokens, took)
    for tokens, took in into or []:
        rates = copied_into(rates, tokens, took)
    return rates


class Prompts:
    """An engine that reads prompts and saves them by the rule; a copy of `n` tokens takes `cost(n)` seconds."""

    def __init__(self, each: float, cost: Callable[[int], float], longest: int = 1 << 17) -> None:
        self.rates = Rates(longest=longest)
        self.each, self.cost = each, cost
        self.computing = self.copying = 0.0
        self.saved: list[int] = []  # the lengths of what was copied

    def read(self, tokens: int) -> None:
        start = end = 0
        while end < tokens:
            self.computing += ROW * self.each
            self.rates = computed(self.rates, ROW, ROW, ROW * self.each)
            end += ROW
            if copies_out(self.rates, end - start):
                took = self.cost(end - start)
                self.copying += took
                self.rates = copied_out(self.rates, end - start, took)
                self.saved.append(end - start)
                start = end


def line(fixed: float, each: float) -> Callable[[int], float]:
    return lambda tokens: fixed + each * tokens


# --- estimates ---------------------------------------------------------------------------------------------------


@given(copies, lengths, lengths)
def test_a_longer_copy_is_never_taken_to_be_cheaper(out: list[tuple[int, float]], one: int, other: int) -> None:
    """Nor is one of no tokens taken to cost anything."""
    rates = rates_of(out)
    low, high = estimate(rates.out, min(one, other)), estimate(rates.out, max(one, other))
    assert (low is None) == (high is None) == (not out)
    assert low is None or high is None or 0 <= low <= high * (1 + 1e-9)


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.001), st.lists(lengths, min_size=1, max_size=16), lengths)
def test_costs_that_lie_on_a_line_are_never_overrated(fixed: float, each: float, known: list[int], asked: int) -> None:
    """So nothing is left out that would be worth it; within what was measured, the estimate is the line."""
    cost = line(fixed, each)
    rates = rates_of([(tokens, cost(tokens)) for tokens in known])
    told = estimate(rates.out, asked)
    assert told is not None
    assert told <= cost(asked) * (1 + 1e-9) + 1e-12


@given(st.floats(0.001, 1.0), st.integers(64, 4096), st.lists(st.floats(1.0, 1000.0), max_size=3), st.integers(0, 3))
def test_a_single_fast_copy_outweighs_slow_ones(real: float, tokens: int, slower: list[float], place: int) -> None:
    """A neighbour makes copies slower, and never faster."""
    took = [real * factor for factor in slower]
    took.insert(place, real)
    assert estimate(rates_of([(tokens, one) for one in took]).out, tokens) == pytest.approx(real)


def test_what_has_become_slow_is_noticed() -> None:
    """Also where longer ranges, which are not copied any more, were fast."""
    rates = rates_of([(8192, 0.01), *[(ROW, 0.001)] * 8])
    assert saves(rates, ROW)
    for _ in range(16):
        rates = copied_out(rates, ROW, 1.0)
    assert not saves(rates, ROW)


@given(st.lists(st.tuples(st.integers(16, 2048), seconds), min_size=1, max_size=20))
def test_a_token_takes_as_long_as_in_one_of_the_decodes(decodes: list[tuple[int, float]]) -> None:
    """It is a median, so that no single decode decides, however slow it was."""
    rates = Rates()
    for tokens, took in decodes:
        rates = computed(rates, tokens, tokens, took)
    assert rates.token_seconds is not None
    each = [took / tokens for tokens, took in decodes[-8:]]
    assert max(min(each), 0.00002) <= rates.token_seconds <= max(*each, 0.00002)


# --- the rule ----------------------------------------------------------------------------------------------------


def test_nothing_known_means_that_everything_is_saved() -> None:
    """And put back: a new engine has the cache on."""
    assert copies_out(Rates(), ROW)
    assert puts_back(Rates(), [ROW] * 100, 25_600, 0.0)
    assert limits(Rates()) is None
    assert piece(Rates(), 10_000, 512) == 512


@given(seconds, st.floats(0.0, 1.0), st.floats(0.0, 0.001), lengths)
def test_more_tokens_are_never_less_worth(each: float, fixed: float, more: float, tokens: int) -> None:
    """A fixed part is shared by more tokens."""
    cost = line(fixed, more)
    rates = rates_of([(ROW, cost(ROW)), (4096, cost(4096))], each=each)
    assert is_worth(rates, tokens) <= is_worth(rates, tokens * 2)


@given(seconds, seconds, st.floats(1.0, 100.0), st.integers(64, 4096))
def test_slower_copies_are_never_more_worth(each: float, took: float, factor: float, tokens: int) -> None:
    """And slower computing never makes them less so."""
    assert is_worth(rates_of([(tokens, took * factor)], each=each), tokens) <= is_worth(
        rates_of([(tokens, took)], each=each), tokens
    )
    assert is_worth(rates_of([(tokens, took)], each=each), tokens) <= is_worth(
        rates_of([(tokens, took)], each=each * factor), tokens
    )


@given(copies, st.floats(1e-6, 0.1), lengths, st.floats(0.0, 10.0))
def test_what_is_not_saved_has_a_reason_in_words(
    out: list[tuple[int, float]], each: float, tokens: int, computing: float
) -> None:
    """What is saved has none."""
    rates = computed(rates_of(out, each=each), BATCH, BATCH, computing)
    assert (why_not_saved(rates, tokens) is None) == saves(rates, tokens)
    assert (piece(rates, tokens, 512) is None) <= (not saves(rates, tokens))


@given(copies, st.floats(1e-6, 0.1), lengths)
def test_a_reason_names_times_that_are_one(out: list[tuple[int, float]], each: float, tokens: int) -> None:
    """Where copies of a length may be worth it, it is not said that they take too long, nor that nothing is saved."""
    rates = rates_of(out, each=each)
    why = why_not_saved(rates, tokens) or ""
    assert ("takes" in why) == (not is_worth(rates, tokens))
    assert limits(rates) is None or not is_worth(rates, ROW)


def test_a_reason_has_the_time_that_is_too_long() -> None:
    """A copy that takes less than computing is told with the share that it may take; what is slow to put back, with
    that."""
    slow_out = why_not_saved(rates_of([(ROW, 0.3 * ROW * 0.001)], each=0.001), ROW) or ""
    assert "may take 25%" in slow_out
    slow_in = why_not_saved(rates_of([(ROW, 0.01)], [(ROW, ROW * 0.001)], each=0.001), ROW) or ""
    assert "putting them back 256 ms" in slow_in
    assert "25%" not in slow_in


def test_rows_that_are_all_short_say_nothing_of_longer_ones() -> None:
    """A stub's rows of two tokens."""
    rates = rates_of([(2, 0.00003)] * 8, each=0.00002)
    assert saves(rates, 2)
    assert copies_out(rates, ROW)
    assert limits(rates) is None
    assert "may take 3.84 ms" in (why_not_saved(rates, ROW) or "")


@pytest.mark.parametrize(
    ("each", "cost", "rows"),
    [
        (0.004, line(0.0006, 2e-6), {ROW}),  # SmolLM2 on two cores
        (0.004, line(0.0026, 2e-6), {ROW}),  # without flash attention
        (EIGHT_B, line(*FLASH), {ROW}),
        (4.0, line(0.5, 0.001), {ROW}),  # a model of 70B on a laptop
        (0.0, line(0.00003, 1e-7), {ROW}),  # a stub
    ],
)
def test_ordinary_engines_save_every_row(each: float, cost: Callable[[int], float], rows: set[int]) -> None:
    """From the first prompt on."""
    engine = Prompts(each, cost)
    for _ in range(4):
        engine.read(8192)
    assert set(engine.saved) == rows
    assert limits(engine.rates) is None


def test_a_gpu_without_flash_attention_loses_next_to_nothing() -> None:
    """Copies of 256 tokens take thirteen times as long as computing them: the first costs half a second, all others a
    part of the time."""
    engine = Prompts(EIGHT_B, line(*NO_FLASH), longest=8192)
    engine.read(4096)
    assert engine.copying <= 2 * GRACE
    for _ in range(100):
        engine.read(4096)
    assert engine.copying <= 2 * GRACE + engine.computing * CREDIT
    assert "nothing is saved: copying 256 tokens" in (limits(engine.rates) or "")
    assert "ms" in (why_not_saved(engine.rates, 4096) or "")


def test_where_long_ranges_are_worth_it_they_are_found() -> None:
    """Rows grow to where their fixed part is a quarter of the computing time at most."""
    engine = Prompts(EIGHT_B, line(*NO_FLASH))
    for _ in range(12):
        engine.read(65_536)
    long = [tokens for tokens in engine.saved if tokens > 20_000]
    assert len(long) > 8
    assert all(engine.cost(tokens) <= SHARE * tokens * EIGHT_B * 1.1 for tokens in long)
    assert "only rows of about 32768 tokens or more are saved" in (limits(engine.rates) or "")


@pytest.mark.slow
@given(st.floats(2e-5, 0.1), st.floats(0.0, 2.0), st.floats(0.0, 0.01), st.lists(st.integers(1, 32), max_size=12))
def test_copies_never_take_more_than_their_share(each: float, fixed: float, more: float, reads: list[int]) -> None:
    """Whatever they cost: a quarter where they are worth it, a small share where not, and some at the beginning, as far
    as a range is tried that is longer than all before."""
    engine = Prompts(each, line(fixed, more))
    worst = 0.0
    for rows in reads:
        before = engine.copying
        engine.read(rows * ROW)
        worst = max(worst, engine.copying - before)
    short = SHORT * len(engine.saved)
    single = max((engine.cost(tokens) for tokens in engine.saved), default=0.0)
    assert engine.copying <= 2 * GRACE + 2 * single + short + engine.computing * (SHARE + CREDIT)


@pytest.mark.parametrize("each", [EIGHT_B, 0.004])
def test_a_busy_first_second_does_not_switch_saving_off_for_long(each: float) -> None:
    """Copies are slow for the first prompt, because something else runs: they come back within a minute of computing,
    however short prompts are."""
    for length in (512, 4096):
        engine = Prompts(each, line(2.0, 0.0))
        engine.read(length)
        assert not saves(engine.rates, ROW)
        slow, before = engine.copying, engine.computing
        engine.cost = line(*FLASH)
        while not saves(engine.rates, ROW):
            engine.read(length)
            assert engine.computing - before <= (slow + 2 * GRACE) / CREDIT
        engine.saved.clear()
        engine.read(length)
        assert set(engine.saved) == {ROW}


@pytest.mark.parametrize("slow", [0.0024, 0.01, 0.05])
def test_one_slow_copy_does_not_stop_the_next(slow: float) -> None:
    """Another process had the CPU for some milliseconds: the next row is copied, and shows it."""
    rates = rates_of([(64, slow)], each=0.0)
    assert not saves(rates, 64)
    assert copies_out(rates, 64)
    assert saves(copied_out(rates, 64, 0.00005), 64)


def test_an_engine_that_computes_nothing_tries_nothing() -> None:
    """Credit comes from computing alone."""
    rates = rates_of([(ROW, 5.0)])
    assert not copies_out(rates, ROW)
    assert not may_try(rates, ROW)


# --- restoring ---------------------------------------------------------------------------------------------------


def test_rows_are_put_back_where_that_is_faster() -> None:
    """Without flash attention 16 rows of 256 tokens take 4.6 seconds, computing them half a second."""
    slow = rates_of([], [(ROW, 0.29)], each=EIGHT_B)
    assert not puts_back(slow, [ROW] * 16, 4096, 0.004)
    assert puts_back(slow, [8192], 8192, 0.0)
    assert puts_back(rates_of([], [(ROW, 0.007)], each=EIGHT_B), [ROW] * 16, 4096, 0.0)


def test_what_was_not_measured_yet_is_taken_from_the_copies_out() -> None:
    """Or from what the rows themselves took to compute, on whatever machine that was."""
    assert not puts_back(rates_of([(ROW, 0.34)], each=EIGHT_B), [ROW] * 16, 4096, 0.0)
    rates = copied_into(Rates(), ROW, 0.29)
    assert not puts_back(rates, [ROW] * 16, 4096, EIGHT_B)
    assert puts_back(rates, [ROW] * 16, 4096, 0.004)


def test_what_a_new_engine_puts_back_before_it_computes_is_charged() -> None:
    """So that a try of all rows ends with the first, where each takes long."""
    rates = copied_into(Rates(), ROW, 0.3)
    assert not may_try(rates, ROW)
    assert may_try(copied_into(Rates(), ROW, 0.003), ROW)


@given(st.lists(st.integers(1, 4096), min_size=1, max_size=20), st.integers(1, 8192), seconds, seconds)
def test_more_rows_for_the_same_tokens_are_never_better(rows: list[int], tokens: int, took: float, each: float) -> None:
    """Nor are fewer tokens for the same rows."""
    rates = rates_of([], [(512, took)], each=each)
    assert puts_back(rates, [*rows, 512], tokens, 0.0) <= puts_back(rates, rows, tokens, 0.0) or took <= SHORT
    assert puts_back(rates, rows, tokens, 0.0) <= puts_back(rates, rows, tokens + 100, 0.0)


def test_rows_that_are_slow_to_put_back_are_not_saved() -> None:
    """What is never read need not be written; a try shows when it has become fast."""
    rates = rates_of([(ROW, 0.002)], [(ROW, 1.0)], each=EIGHT_B)
    assert not saves(rates, ROW)
    assert not may_try(rates, ROW)
    for _ in range(20):
        rates = computed(rates, BATCH, BATCH, 5.0)
    rates = computed(rates, BATCH, BATCH, BATCH * EIGHT_B)
    assert may_try(rates, ROW)
    rates = copied_into(rates, ROW, 0.002)
    for _ in range(8):
        rates = computed(rates, BATCH, BATCH, BATCH * EIGHT_B)
    assert saves(rates, ROW)
