"""How much of a live sequence a new prompt may keep: laws and the traps of each kind of memory."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from helpers.rows import IDENTITY
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.keys import Identity, common_prefix, pack_tokens
from erllama_py.engine.backend import MemoryKind
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.reuse import Reuse, reusable

tokens = st.lists(st.integers(0, 2), max_size=40)
kinds = st.sampled_from(["full", "window", "recurrent", "hybrid"])


def slot_with(held: Sequence[int], first_held: int = 0) -> Slot:
    """An idle sequence."""
    return Slot(0, pack_tokens(held), first_held)


@given(tokens, st.integers(0, 39), tokens.filter(bool), kinds, st.integers(0, 30))
def test_what_is_kept_is_held_and_leaves_a_token_to_compute(
    held: list[int], first: int, prompt: list[int], kind: MemoryKind, n_swa: int
) -> None:
    """Kept tokens begin both held tokens and prompt, and the prompt's last token is never among them."""
    keep = reusable(slot_with(held, first), pack_tokens(prompt), kind, n_swa).keep
    assert held[:keep] == prompt[:keep]
    assert keep <= len(prompt) - 1


@given(tokens, tokens.filter(bool), st.sampled_from(["recurrent", "hybrid"]))
def test_a_recurrent_state_is_kept_whole_or_not_at_all(held: list[int], prompt: list[int], kind: MemoryKind) -> None:
    """It cannot be cut back, so a prompt either goes on at its end or starts from nothing."""
    assert reusable(slot_with(held), pack_tokens(prompt), kind, 0).keep in (0, len(held))


@pytest.mark.parametrize(("first_held", "keep"), [(0, 100), (36, 100), (37, 0), (90, 0)])
def test_a_sliding_window_is_cut_only_where_its_window_is_whole(first_held: int, keep: int) -> None:
    """Cut back to 100 with a window of 64, the cells from 36 on must be there; else the output is silently wrong."""
    slot, prompt = slot_with(range(200), first_held), pack_tokens([*range(100), 7, 8])
    assert reusable(slot, prompt, "window", 64).keep == keep


def test_a_sliding_window_that_is_only_extended_keeps_everything() -> None:
    """Nothing is cut, so what the window forgot does not matter."""
    assert reusable(slot_with(range(200), 136), pack_tokens(range(201)), "window", 64).keep == 200


@given(tokens, st.integers(0, 39), tokens.filter(bool), kinds, st.integers(0, 30))
def test_logits_at_the_prompts_end_let_all_of_it_be_kept(
    held: list[int], first: int, prompt: list[int], kind: MemoryKind, n_swa: int
) -> None:
    """Never less than without them, and the whole prompt only if it is all held."""
    slot, packed = slot_with(held, first), pack_tokens(prompt)
    without = reusable(slot, packed, kind, n_swa).keep
    keep = reusable(slot, packed, kind, n_swa, with_logits=True).keep
    assert held[:keep] == prompt[:keep]
    assert keep == len(prompt) or keep == without
    if kind == "full":
        assert keep == common_prefix(slot.packed, packed)


@pytest.mark.parametrize("kind", ["full", "window", "recurrent", "hybrid"])
def test_a_repeated_prompt_that_stands_at_its_end_is_kept_whole_with_its_logits(kind: MemoryKind) -> None:
    """Nothing is cut, so every memory can; without the logits only one that can be cut back by a token."""
    slot = slot_with([1, 2, 3])
    assert reusable(slot, slot.packed, kind, 64, with_logits=True) == Reuse(3, None)
    assert reusable(slot, slot.packed, kind, 64).keep == (2 if kind in ("full", "window") else 0)


@pytest.mark.parametrize(("captured_to", "identity"), [(0, None), (2, None), (3, IDENTITY)])
def test_whose_the_cells_are_and_what_is_saved_changes_nothing(captured_to: int, identity: Identity | None) -> None:
    """Whether they may be lent at all is decided before."""
    slot = Slot(0, pack_tokens([1, 2, 3]), identity=identity, captured_to=captured_to)
    assert reusable(slot, pack_tokens([1, 2, 3, 4]), "full", 0) == Reuse(3, None)


def test_a_miss_says_where_the_prompt_parts() -> None:
    """The reason names the first differing token."""
    held = slot_with([1, 2, 3])
    assert "token 2" in str(reusable(held, pack_tokens([1, 2, 4, 5]), "full", 0).miss_reason)
    assert reusable(Slot(0), pack_tokens([1]), "full", 0).miss_reason == "nothing is live"
    assert reusable(held, held.packed, "full", 0).miss_reason is None


def test_a_sequence_is_free_kept_or_at_work() -> None:
    """Exactly one of them, whatever it holds."""
    assert [Slot(0).is_free, Slot(0).is_idle] == [True, False]
    assert [slot_with([1]).is_free, slot_with([1]).is_idle] == [False, True]
    for held in (b"", pack_tokens([1])):
        working = Slot(0, held, request_id=1)
        assert [working.is_free, working.is_idle] == [False, False]
