"""The background of `plan_tick`: what the lowest priority has beside others, and what it costs them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
from helpers.tick_needs import batches, chunks, structured
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.tick_plan import OTHERS, SLICE, Need, plan_tick
from erllama_py.options.request import BACKGROUND


def behind(need: Need) -> Need:
    """The same in the background."""
    return msgspec.structs.replace(need, priority=BACKGROUND)


@given(structured, structured, batches, batches, chunks, st.randoms(use_true_random=False))
def test_others_are_planned_as_if_there_were_no_background(
    wanted: list[Need], low: list[Need], n_batch: int, n_ubatch: int, chunk: int | None, random: Random
) -> None:
    """Wherever they stand among the needs. What goes along is an eighth of their tokens, or what one of them may have
    that has waited for it; and the decode is no longer than any. Where some of it has waited for long, prompts may give
    way, but no row does that fits in beside one token."""
    marked = [(need, True) for need in wanted] + [(behind(need), False) for need in low]
    random.shuffle(marked)
    mixed = [need for need, _ in marked]
    portions = plan_tick(mixed, n_batch, n_ubatch, chunk)
    others = [portion for portion in portions if marked[portion.index][1]]
    alone = plan_tick([need for need in mixed if need.priority > BACKGROUND], n_batch, n_ubatch, chunk)
    assert sum(portion.tokens for portion in portions) <= n_batch
    assert bool(portions) == bool(mixed)
    if any(need.waited >= OTHERS * len(low) for need in low):
        there = sum(mixed[portion.index].decoding for portion in others)
        assert there >= min(n_batch - 1, sum(need.decoding for need in wanted))
        return
    if not wanted:
        assert portions == plan_tick([need for need, _ in marked], n_batch, n_ubatch, chunk)
        return
    assert [(mixed[p.index], p.tokens) for p in others] == [
        ([need for need in mixed if need.priority > BACKGROUND][p.index], p.tokens) for p in alone
    ]
    along = sum(portion.tokens for portion in portions) - sum(portion.tokens for portion in others)
    assert along <= max(SLICE, sum(portion.tokens for portion in others) // OTHERS)


@given(structured, batches, batches, chunks)
def test_a_background_alone_is_no_background(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """With nothing else to decode it has all there is."""
    low = [behind(need) for need in wanted]
    assert plan_tick(low, n_batch, n_ubatch, chunk) == plan_tick(
        [msgspec.structs.replace(need, priority=0) for need in wanted], n_batch, n_ubatch, chunk
    )


kinds_behind = st.lists(st.booleans(), min_size=1, max_size=8)  # whether each is a row, or a prompt that never ends
endless = Need(0, 10_000, False)


def beside(
    ticks: Sequence[Sequence[Need]], kinds: Sequence[bool], n_batch: int, chunk: int | None
) -> tuple[int, list[int], int]:
    """What others have that need this in each tick, what each of the background beside them, and the ticks in which the
    others' prompts were left out for it."""
    low = [Need(0, 1 if decoding else 10_000, decoding, BACKGROUND, number) for number, decoding in enumerate(kinds)]
    had, total, left_out = [0] * len(kinds), 0, 0
    for live in ticks:
        portions = plan_tick([*live, *low], n_batch, n_batch, chunk)
        got = {portion.index - len(live): portion.tokens for portion in portions}
        theirs = sum(tokens for index, tokens in got.items() if index < 0)
        total += theirs
        left_out += theirs < sum(portion.tokens for portion in plan_tick(live, n_batch, n_batch, chunk))
        for number, need in enumerate(low):
            had[number] += got.get(number, 0)
            waited, since = (0, 0) if number in got else (need.waited + 1, need.beside + theirs)
            low[number] = msgspec.structs.replace(need, waited=waited, beside=since)
    return total, had, left_out


@given(st.integers(1, 12), kinds_behind, st.none() | st.integers(4, 64), st.integers(1, 40) | st.just(512))
def test_the_background_has_an_eighth_and_goes_on(
    streams: int, kinds: list[bool], chunk: int | None, spare: int
) -> None:
    """Beside streams that never end: an eighth of their tokens at most, and each row and each prompt advances, however
    few tokens a decode has room for beside them."""
    count = 2 * (OTHERS * len(kinds) * SLICE + len(kinds))
    total, had, left_out = beside([[Need(0, 1, True)] * streams] * count, kinds, streams + spare, chunk)
    assert sum(had) <= total / OTHERS
    assert all(had)
    assert sum(had) >= total / OTHERS / 4
    assert not left_out


@given(st.integers(0, 12), kinds_behind, st.none() | st.integers(4, 64), st.integers(1, 40) | st.just(512))
def test_the_background_goes_on_where_others_fill_every_decode(
    streams: int, kinds: list[bool], chunk: int | None, spare: int
) -> None:
    """With prompts of others that never end, too: they leave one decode of eight to it at most, and streams none."""
    count = 2 * (OTHERS * len(kinds) * SLICE + len(kinds))
    live = [*[Need(0, 1, True)] * streams, endless]
    total, had, left_out = beside([live] * count, kinds, streams + spare, chunk)
    assert all(had)
    assert sum(had) <= total / OTHERS
    assert left_out <= count / OTHERS
    assert total >= streams * count


@given(st.lists(st.integers(0, 8), min_size=1, max_size=12), kinds_behind, st.integers(4, 64))
def test_the_background_has_no_more_than_an_eighth_where_others_come_and_go(
    turns: list[int], kinds: list[bool], chunk: int
) -> None:
    """A prompt that comes now and then beside a stream is not paid for with all the ticks that went before it."""
    row = Need(0, 1, True)
    ticks = [[*[row] * (1 + many), *[endless] * (many % 2)] for many in turns] * 40
    total, had, _ = beside(ticks, kinds, 512, chunk)
    assert sum(had) <= total / OTHERS
