"""Requests whose logits are read: how much they may begin with, and what they leave behind."""

from __future__ import annotations

import msgspec
import pytest
from helpers.requests import IDLE, PROMPT, finished, found, generate_of, hit_of, run, submit
from hypothesis import given
from hypothesis import strategies as st
from scheduler.test_reuse import KINDS, cases, check_cut

from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.messages import Hit
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.jobs import Drop, Report
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.messages import ReadRows, SendJob, Submit
from erllama_py.scheduler.reuse import choose_start, reusable
from erllama_py.scheduler.state import Limits, State, changed, solid

LENGTH = len(PROMPT)


def scored(request_id: int, scored_from: int, *, lasting: int | None = None, tokens: list[int] = PROMPT) -> Submit:
    one = submit(request_id, tokens)
    report = Report(prompt_logprobs=0, scored_from=scored_from, next_tokens=(1,))
    return Submit(msgspec.structs.replace(one.request, report=report, lasting=lasting, max_new_tokens=0))


@given(cases(), st.integers(0, 80))
def test_no_more_is_kept_than_a_request_may_begin_with(
    case: tuple[Slot, list[int], MemoryKind, int, Hit | None, bool], limit: int
) -> None:
    """Of live cells and rows, cut only where they can be; from where it is not below the prompt's length, any limit is
    as none."""
    slot, prompt, memory, n_swa, hit, live_logits = case
    packed = pack_tokens(prompt)
    start = choose_start(slot, packed, memory, n_swa, hit, live_logits, limit=limit)
    assert start.keep <= limit
    assert start.live <= start.keep
    assert not start.by_logits or limit >= len(prompt)
    assert reusable(slot, packed, memory, n_swa, limit=limit).keep <= limit
    if start.rows:
        check_cut(start, memory, n_swa)
    without = choose_start(slot, packed, memory, n_swa, hit, live_logits)
    if limit >= len(prompt):
        assert start == without
    if memory == "full" and not start.rows and not without.rows:
        assert start.keep == min(without.keep, limit)


@pytest.mark.parametrize(("scored_from", "keep"), [(0, 0), (1, 0), (2, 1), (31, 30), (59, 58), (LENGTH, 60)])
def test_what_is_before_the_first_score_may_be_live(scored_from: int, keep: int) -> None:
    """Up to the token whose logits it needs; where none but the last are needed, all of which the logits are kept."""
    state, _ = run(IDLE, submit(9, PROMPT), found(9), finished(9, [], held=LENGTH))
    _, effects = run(state, scored(1, scored_from), found(1, logits=b"logits"))
    assert generate_of(effects).keep == keep


@pytest.mark.parametrize(("scored_from", "keep"), [(0, 0), (20, 0), (21, 20), (41, 40), (59, 40), (61, 60)])
def test_what_is_before_the_first_score_may_come_from_rows(scored_from: int, keep: int) -> None:
    """Whole ones, where the memory cannot be cut back."""
    state = changed(IDLE, limits=changed(IDLE.limits, memory="recurrent"))
    tokens = [*PROMPT, 7, 8]
    hit = hit_of(tokens, 20, 40, 60)
    _, effects = run(state, scored(1, scored_from, tokens=tokens), found(1, hit))
    rows = [row.meta.end for effect in effects if isinstance(effect, ReadRows) for row in effect.rows]
    assert max(rows, default=0) == keep
    assert keep or generate_of(effects).keep == 0


def left(memory: MemoryKind, lasting: int | None, first: int = 0) -> tuple[State, list[object]]:
    """What a request leaves that has read all of its prompt."""
    state = changed(IDLE, limits=changed(IDLE.limits, memory=memory, n_swa=16))
    state, _ = run(state, scored(1, 51, lasting=lasting), found(1))
    state, effects = run(state, finished(1, [], held=LENGTH, first_held=first))
    return state, [effect.job for effect in effects if isinstance(effect, SendJob)]


@pytest.mark.parametrize(("memory", "first", "length"), [
    ("full", 0, 50), ("window", 34, 50), ("window", 35, 0), ("recurrent", 0, 0), ("hybrid", 0, 0),
])  # fmt: skip
def test_what_is_not_to_last_is_forgotten_at_the_end(memory: MemoryKind, first: int, length: int) -> None:
    """The rest stays, where the memory can be cut back to it: so nothing of the end is ever saved."""
    state, jobs = left(memory, 50, first)
    assert state.slots[0].length == length
    assert jobs[:1] == [Drop(0, length)]
    state, jobs = left(memory, None, first)
    assert (state.slots[0].length, jobs) == (LENGTH, [])


@given(st.sampled_from(KINDS), st.integers(0, 200), st.integers(0, 200), st.integers(0, 200), st.integers(0, 64))
def test_no_more_is_left_than_lasts(memory: MemoryKind, held: int, lasting: int, first: int, n_swa: int) -> None:
    """All that lasts, or nothing."""
    limits = Limits(memory=memory, n_swa=n_swa)
    length = solid(limits, 200, held, lasting=lasting, first=min(first, held))
    assert length in (0, min(held, lasting))
    assert memory != "full" or length == min(held, lasting)
    assert held > lasting or length == held
