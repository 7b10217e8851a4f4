"""Which tokens go into a decode: the laws of `plan_tick`, for any needs and over many ticks."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
import pytest
from helpers.tick_needs import batches, chunks, needs, prompts, rows, structured
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.tick_plan import PATIENCE, Need, Portion, patience_of, plan_tick


def prompt_portions(wanted: Sequence[Need], portions: Sequence[Portion]) -> list[Portion]:
    return [portion for portion in portions if not wanted[portion.index].decoding]


def budget(wanted: Sequence[Need], n_batch: int, chunk: int | None) -> int:
    """What prompts may have of a tick, written down a second time."""
    decoding = sum(need.decoding for need in wanted)
    room = max(0, n_batch - decoding)
    return room if chunk is None or not decoding else min(room, chunk)


@given(needs, batches, batches, chunks)
def test_a_decode_never_takes_more_than_n_batch(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """The tokens of all portions together fit into one decode."""
    assert sum(portion.tokens for portion in plan_tick(wanted, n_batch, n_ubatch, chunk)) <= n_batch


@given(needs, batches, batches, st.integers(1, 3000))
def test_prompts_never_take_more_than_the_chunk_from_a_stream(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int
) -> None:
    """Where someone is decoding, the prompt tokens together stay inside the chunk, whoever they belong to."""
    portions = plan_tick(wanted, n_batch, n_ubatch, chunk)
    if any(need.decoding for need in wanted):
        assert sum(portion.tokens for portion in prompt_portions(wanted, portions)) <= chunk


@given(needs, batches, batches, chunks)
def test_something_is_planned_whenever_something_is_needed(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """No tick is idle while a sequence has tokens to decode."""
    assert bool(plan_tick(wanted, n_batch, n_ubatch, chunk)) == bool(wanted)


@given(needs, batches, batches, chunks)
def test_each_sequence_gets_one_portion_of_what_it_needs(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """Portions name different sequences, are not empty and never exceed the need."""
    portions = plan_tick(wanted, n_batch, n_ubatch, chunk)
    assert len({portion.index for portion in portions}) == len(portions)
    assert all(1 <= portion.tokens <= wanted[portion.index].tokens for portion in portions)


@given(needs, batches, batches, chunks)
def test_decode_rows_come_before_prompts(wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None) -> None:
    """As many rows as fit are in, first in the order; prompts follow, one at least where the rows leave room."""
    portions = plan_tick(wanted, n_batch, n_ubatch, chunk)
    decoding = sum(need.decoding for need in wanted)
    first, rest = portions[: min(decoding, n_batch)], portions[min(decoding, n_batch) :]
    assert all(wanted[portion.index].decoding for portion in first)
    assert not any(wanted[portion.index].decoding for portion in rest)
    assert bool(rest) == (decoding < n_batch and decoding < len(wanted))


@given(structured, batches, batches, chunks)
def test_forced_tokens_take_of_what_prompts_would_have(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """All of it, or half where there are prompts; rows before their forced tokens, in their order."""
    portions = plan_tick(wanted, n_batch, n_ubatch, chunk)
    of_rows = [portion for portion in portions if wanted[portion.index].decoding]
    room, beside = budget(wanted, n_batch, chunk), sum(portion.tokens - 1 for portion in of_rows)
    assert len(of_rows) == min(n_batch, sum(need.decoding for need in wanted))
    assert beside == min(
        room // 2 if any(not need.decoding for need in wanted) else room,
        sum(wanted[portion.index].tokens - 1 for portion in of_rows),
    )
    cut = [place for place, portion in enumerate(of_rows) if portion.tokens < wanted[portion.index].tokens]
    assert all(portion.tokens == 1 for portion in (of_rows[cut[0] + 1 :] if cut else []))
    assert sum(portion.tokens for portion in prompt_portions(wanted, portions)) <= room - beside


@given(structured, batches, batches, chunks)
def test_forced_tokens_leave_the_other_laws_as_they_are(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """What fits, each once, and a prompt wherever rows and chunk leave room for one."""
    portions = plan_tick(wanted, n_batch, n_ubatch, chunk)
    assert sum(portion.tokens for portion in portions) <= n_batch
    assert len({portion.index for portion in portions}) == len(portions)
    assert all(1 <= portion.tokens <= wanted[portion.index].tokens for portion in portions)
    waiting = any(not need.decoding for need in wanted)
    assert bool(prompt_portions(wanted, portions)) == (waiting and budget(wanted, n_batch, chunk) > 0)


@given(st.lists(rows, max_size=12), st.integers(1, 12))
def test_of_too_many_rows_those_that_waited_longest_go(wanted: list[Need], n_batch: int) -> None:
    """No row is left out for one that waited less."""
    planned = {portion.index for portion in plan_tick(wanted, n_batch, 512)}
    left = [need.waited for index, need in enumerate(wanted) if index not in planned]
    assert max(left, default=0) <= min((wanted[index].waited for index in planned), default=0)


@given(needs, batches, batches, chunks)
def test_slices_end_their_need_or_fill_the_room_or_end_on_the_micro_batch(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """Nothing else cuts a prompt: what is allowed is used."""
    room = budget(wanted, n_batch, chunk)
    for portion in prompt_portions(wanted, plan_tick(wanted, n_batch, n_ubatch, chunk)):
        need = wanted[portion.index]
        on_grid = room >= n_ubatch and (need.position + portion.tokens) % n_ubatch == 0
        assert portion.tokens in (need.tokens, room) or on_grid
        room -= portion.tokens


@given(needs, batches, batches, chunks)
def test_a_prompt_after_the_first_gets_a_quarter_or_its_end(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """No crumbs; and more than a quarter of the room stays unused only where a whole micro-batch does not fit in."""
    room = left = budget(wanted, n_batch, chunk)
    portions = prompt_portions(wanted, plan_tick(wanted, n_batch, n_ubatch, chunk))
    for place, portion in enumerate(portions):
        assert place == 0 or 4 * portion.tokens >= room or portion.tokens == wanted[portion.index].tokens
        left -= portion.tokens
    if len(portions) < sum(not need.decoding for need in wanted) and room < n_ubatch:
        assert left == 0 or 4 * left < room


@given(needs, batches, batches, chunks)
def test_a_higher_priority_has_its_budget_first(
    wanted: list[Need], n_batch: int, n_ubatch: int, chunk: int | None
) -> None:
    """The first by priority and arrival gets what it would alone, unless others have waited for too long: then the
    one of them that has waited longest does."""
    asked = [need for need in wanted if not need.decoding]
    overdue = [need for need in asked if need.waited >= patience_of(len(asked))]
    longest = max((need.waited for need in overdue), default=0)
    line = [need for need in overdue if need.waited == longest] or asked
    first = min(line, key=lambda n: (-n.priority, n.arrival), default=None)
    portions = prompt_portions(wanted, plan_tick(wanted, n_batch, n_ubatch, chunk))
    if first is not None and portions:
        others = [need for need in wanted if need.decoding]
        assert wanted[portions[0].index] == first
        assert portions[0].tokens == plan_tick([*others, first], n_batch, n_ubatch, chunk)[-1].tokens


@given(prompts, batches, st.integers(1, 3000))
def test_alone_a_prompt_has_the_whole_batch(need: Need, n_batch: int, chunk: int) -> None:
    """The chunk is for the sake of streams: without one, all that fits goes in."""
    alone = msgspec.structs.replace(need, position=0)
    assert plan_tick([alone], n_batch, n_batch, chunk) == [Portion(0, min(alone.tokens, n_batch))]


def test_a_prompt_that_has_waited_long_goes_before_a_higher_priority() -> None:
    """After `PATIENCE` ticks for each other prompt the order is by waiting; before that it is by priority, then by
    arrival."""
    wanted = [
        Need(0, 100, False, priority=5, arrival=3),
        Need(0, 100, False, priority=0, arrival=4, waited=4 * PATIENCE),
        Need(0, 100, False, priority=5, arrival=2, waited=1),
        Need(0, 100, False, priority=-5, arrival=1, waited=4 * PATIENCE + 1),
        Need(0, 100, False, priority=0, arrival=0, waited=4 * PATIENCE - 1),
    ]
    assert [portion.index for portion in plan_tick(wanted, 512, 512)] == [3, 1, 2, 0, 4]


def test_a_prefix_is_cut_alike_cold_after_a_reuse_and_beside_streams() -> None:
    """Wherever a whole micro-batch is allowed, at the same positions; below that, in slices as large as allowed."""

    def cuts(position: int, *streams: Need, n_batch: int = 512, chunk: int | None = None) -> list[int]:
        ends = []
        while position < 2900:
            need = Need(position, 2900 - position, False)
            position += plan_tick([*streams, need], n_batch, 512, chunk)[-1].tokens
            ends.append(position)
        return ends

    row = Need(0, 1, True)
    assert cuts(0) == [512, 1024, 1536, 2048, 2560, 2900]
    assert cuts(700) == [1024, 1536, 2048, 2560, 2900]
    assert cuts(700, row, n_batch=2048, chunk=600) == [1024, 1536, 2048, 2560, 2900]
    assert cuts(2500, row, row, chunk=100) == [2600, 2700, 2800, 2900]
    assert cuts(2000, row, chunk=211) == [2211, 2422, 2633, 2844, 2900]


def test_a_decode_can_be_left_to_the_rows() -> None:
    """A chunk of nothing: the prompts have to wait. Where there are no rows, it means nothing."""
    assert plan_tick([Need(9, 1, True), Need(0, 700, False)], 512, 512, 0) == [Portion(0, 1)]
    assert plan_tick([Need(0, 700, False)], 512, 512, 0) == [Portion(0, 512)]


def test_what_the_first_prompt_leaves_is_not_given_out_in_crumbs() -> None:
    """Of 100 tokens the first takes all. Where it ends after 60, the second has the rest; after 80, it has nothing,
    but one that ends within what is left does go in."""
    row, long, short = Need(9, 1, True), Need(0, 700, False), Need(0, 3, False)
    assert plan_tick([row, long, long], 512, 512, 100) == [Portion(0, 1), Portion(1, 100)]
    ends = Need(640, 60, False)
    assert plan_tick([row, ends, long], 512, 512, 100) == [Portion(0, 1), Portion(1, 60), Portion(2, 40)]
    ends = Need(640, 80, False)
    assert plan_tick([row, ends, long, short], 512, 512, 100) == [Portion(0, 1), Portion(1, 80), Portion(3, 3)]


def read_in(prompts: dict[int, Need], late: Need | None = None) -> dict[int, int]:
    """The ticks after which prompts beside a stream are in, 64 tokens a tick, by arrival; `late` comes at the 20th."""
    done: dict[int, int] = {}
    tick = 0
    while prompts:
        tick += 1
        if late is not None and tick == 20:
            prompts[late.arrival] = late
        needs = list(prompts.values())
        planned = {p.index: p.tokens for p in plan_tick([Need(0, 1, True), *needs], 512, 512, 64)}
        for index, need in enumerate(needs, 1):
            got = planned.get(index, 0)
            if got == need.tokens:
                done[need.arrival] = tick
                del prompts[need.arrival]
                continue
            prompts[need.arrival] = msgspec.structs.replace(
                need, position=need.position + got, tokens=need.tokens - got, waited=0 if got else need.waited + 1
            )
    return done


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 8, 16, 64, 250])
def test_a_crowd_is_read_by_priority_and_in_order(count: int) -> None:
    """Prompts of ten slices each: a higher priority among many lower ones is in after its ten, and few more for who
    is overdue; equals come one after the other, and not all together at the end."""
    crowd = {number: Need(0, 640, False, arrival=number) for number in range(1, count + 1)}
    assert read_in(dict(crowd), Need(0, 640, False, priority=1000, arrival=999))[999] - 19 <= 12
    times = list(read_in(crowd).values())
    assert times == sorted(times)
    assert times[count // 2] <= 10 * (count // 2 + 1) * 9 / 8 + 1


def ticks(random: Random, n_batch: int, n_ubatch: int, most: int, count: int = 150) -> tuple[int, int]:
    """Run `count` ticks with up to `most` requests that come and go; the longest waits of a row and of a prompt."""
    live: list[tuple[Need, int]] = []  # each with the tokens of its reply that are still to come
    arrival = row_wait = prompt_wait = 0
    for _ in range(count):
        while len(live) < most and random.random() < 0.6:
            arrival += 1
            tokens = random.choice([1, 5, 60, 700, random.randrange(1, 3000)])
            live.append((Need(0, tokens, False, random.choice([0, 0, 3, 9]), arrival), random.randrange(30)))
        chunk = random.choice([None, 8, 32, 100, random.randrange(1, 2 * n_batch)])
        planned = {p.index: p.tokens for p in plan_tick([need for need, _ in live], n_batch, n_ubatch, chunk)}
        after = []
        for index, (need, reply) in enumerate(live):
            got = planned.get(index, 0)
            waited = 0 if got else need.waited + 1
            if need.decoding:
                row_wait = max(row_wait, waited)
                reply -= bool(got)
            else:
                prompt_wait = max(prompt_wait, waited)
            left = max(1, need.tokens - got)
            generating = need.decoding or got == need.tokens
            need = msgspec.structs.replace(
                need, position=need.position + got, tokens=left, decoding=generating, waited=waited
            )
            if reply >= 0:
                after.append((need, reply))
        live = after
    return row_wait, prompt_wait


@pytest.mark.slow
@given(st.randoms(use_true_random=False), st.integers(1, 16), st.integers(0, 600), batches)
def test_no_prompt_starves(random: Random, most: int, spare: int, n_ubatch: int) -> None:
    """Whatever arrives, with whatever priority: each prompt goes on within the patience and a tick for each other, and
    no stream waits at all."""
    row_wait, prompt_wait = ticks(random, most + spare, n_ubatch, most)
    assert row_wait == 0
    assert prompt_wait <= PATIENCE * most + most


@pytest.mark.slow
@given(st.randoms(use_true_random=False), st.integers(1, 12))
def test_a_decode_row_waits_at_most_one_tick(random: Random, n_batch: int) -> None:
    """With twice as many sequences as a decode has room for, each row is in every second decode at least."""
    row_wait, _ = ticks(random, n_batch, n_batch, 2 * n_batch)
    assert row_wait <= 1
