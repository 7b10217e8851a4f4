"""On a grid, for reproducible requests: what a prompt starts from ends on it, and what a request leaves does too."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scheduler.test_reuse import KINDS, cases, hit_of

from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.messages import Hit
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.captures import Captures
from erllama_py.engine.jobs import CapturePlan
from erllama_py.engine.stub import StubBackend
from erllama_py.model.request import capture_plan
from erllama_py.options.model import parse_model_config
from erllama_py.options.policy import DEFAULT_POLICY
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.reuse import choose_start
from erllama_py.scheduler.state import Limits, solid

GRIDS = st.sampled_from([1, 2, 4, 8, 16])


@given(cases(), GRIDS)
def test_what_is_kept_ends_on_the_grid_before_the_last_token(
    case: tuple[Slot, list[int], MemoryKind, int, Hit | None, bool], grid: int
) -> None:
    """Kept logits are of no use, and a row that is longer than a window, which brings only a part of it, neither."""
    slot, prompt, memory, n_swa, hit, live_logits = case
    start = choose_start(slot, pack_tokens(prompt), memory, n_swa, hit, live_logits, grid=grid)
    assert start.keep % grid == 0
    assert start.keep <= len(prompt) - 1
    assert not start.by_logits
    assert memory != "window" or all(row.meta.end - row.meta.start <= n_swa for row in start.rows)
    if start.rows:
        last = start.rows[-1].meta
        assert last.start < start.keep <= last.end


@pytest.mark.parametrize("memory", KINDS)
def test_an_exact_repeat_of_whole_slices_computes_the_last_one_again(memory: MemoryKind) -> None:
    """The prompt ends where a row does. Only what can be cut back, or has a row before it, keeps anything."""
    prompt = list(range(32))
    start = choose_start(Slot(0), pack_tokens(prompt), memory, 64, hit_of(prompt, 16, 32, logits=(32,)), True, grid=16)
    assert (start.keep, start.by_logits) == (16, False)


@given(st.sampled_from(KINDS), st.integers(1, 200), st.integers(0, 200), GRIDS)
def test_a_sequence_is_left_with_whole_slices_of_its_prompt(
    memory: MemoryKind, n_prompt: int, held: int, grid: int
) -> None:
    """As many as there are, where the memory can be cut back to them; without a grid, all that it holds."""
    length = solid(Limits(memory=memory, grid=grid), n_prompt, held)
    assert length % grid == 0
    assert length <= min(n_prompt, held)
    assert length in (0, held) or memory in ("full", "window")
    assert memory not in ("full", "window") or length > min(n_prompt, held) - grid
    assert solid(Limits(memory=memory), n_prompt, held) == held


@given(st.integers(1, 4000), st.integers(1, 8), st.lists(st.integers(1, 4000), max_size=4), st.sampled_from(KINDS))
def test_what_is_saved_of_a_prompt_ends_on_the_grid_within_it(
    n_tokens: int, slices: int, anchors: list[int], memory: MemoryKind
) -> None:
    """Wherever conversations diverge, and whatever cannot be cut back."""
    grid = 64
    config = parse_model_config({"backend": "stub", "stub": {"memory": memory, "n_swa": 64 * (memory == "window")}})
    facts = StubBackend("m", config).load(lambda _: True)
    policy = msgspec.structs.replace(DEFAULT_POLICY, boundary_align_tokens=grid * slices)
    plan = capture_plan(n_tokens, policy, facts, sorted(anchors), reproducible=True)
    assert plan is not None
    assert all(end % grid == 0 and end <= n_tokens for end in plan.prompt_ends)


@pytest.mark.parametrize("memory", KINDS)
def test_nothing_that_was_sampled_is_copied_out(memory: MemoryKind) -> None:
    """Not in between, not at its end, and not when it is parked."""
    plan = CapturePlan(captured_to=0, prompt_ends=(64,), interval=10, min_tokens=8, prompt_only=True)
    captures = Captures(plan, 100, 0, memory)
    assert captures.due(64) == (64, "cold")
    captures.settle(64, captured=True)
    for position in (64, 100, 110, 500):
        assert (captures.due(position), captures.last(position), captures.rest(position)) == (None, None, None)
