"""The candidates of a request: as few as can be, none missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.draws import NOTHING
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.llama.candidates import Cutter
from erllama_py.engine.llama.dry import DrySamplers
from erllama_py.engine.llama.native import library
from erllama_py.engine.llama.rows import Rows
from erllama_py.engine.llama.steps import Making
from erllama_py.options.sampling import Sampling

N_VOCAB = 640
tokens = st.integers(0, N_VOCAB - 1)
NONE: frozenset[int] = frozenset()


def cutter(history: list[int], **options: Any) -> Cutter:
    return Cutter(Making(library(), N_VOCAB, 512, DrySamplers(library(), None, tuple)), Sampling(**options), history)


def ids(of: Cutter, banned: frozenset[int] = NONE) -> list[int]:
    """What is left of a row in which each token is likelier than the one before."""
    found = of.ids(Rows(np, np.arange(N_VOCAB, dtype="f4").reshape(1, -1)), 0, banned)
    return found.tolist() if found is not None else list(range(N_VOCAB))


@given(
    history=st.lists(tokens, max_size=20), seen=st.lists(tokens, max_size=20), window=st.integers(0, 12),
    biases=st.dictionaries(tokens, st.just(1.0), max_size=4), banned=st.frozensets(tokens, max_size=9),
)  # fmt: skip
def test_what_the_chain_looks_back_on_is_always_there(
    history: list[int], seen: list[int], window: int, biases: dict[int, float], banned: frozenset[int]
) -> None:
    """The tokens of the window as it is now and biased ones, beside the likeliest; none that left it, none banned."""
    found = cutter(history, top_k=1, repetition_penalty=1.1, penalty_last_n=window, logit_bias=biases)
    for token in seen:
        found.saw(token)
    both = [*history, *seen]
    changed = (
        {*both[len(both) - window if window else len(both) :], *biases} if window <= len(both) else {*both, *biases}
    )
    left = ids(found, banned)
    assert left == sorted(set(left))
    assert changed - banned <= set(left)
    assert not banned & set(left)
    free = [token for token in range(N_VOCAB) if token not in changed | banned]
    assert not free or free[-1] in left
    # Beside them no more than as many groups hold as there are tokens that could have given way.
    assert len(left) <= len(changed) + 64 * (1 + len(changed) + len(banned))


@pytest.mark.parametrize(("options", "banned", "expected"), [
    ({"samplers": ["min_p"], "min_p": 0.3}, NONE, [638, 639]),
    ({"samplers": ["min_p"], "min_p": 0.3}, frozenset([639]), [637, 638]),
    ({"samplers": ["min_p"], "min_p": 0.3, "logit_bias": {3: 1.0, 639: -1.0}}, NONE, [3, 637, 638, 639]),
    ({"samplers": ["min_p"], "min_p": 0.3, "logit_bias": {3: 1.0}}, frozenset([3]), [638, 639]),
    ({"samplers": []}, NONE, list(range(N_VOCAB))),
    ({"samplers": []}, frozenset(range(5, N_VOCAB)), [0, 1, 2, 3, 4]),
    ({"samplers": [], "logit_bias": {2: 1.0}}, frozenset(range(5, N_VOCAB)), [0, 1, 2, 3, 4]),
    ({}, frozenset(range(N_VOCAB)), []),
])  # fmt: skip
def test_the_list_is_as_short_as_it_can_be(
    options: dict[str, Any], banned: frozenset[int], expected: list[int]
) -> None:
    """By a distance from the best token that nothing changes."""
    assert ids(cutter([], **options), banned) == expected


def test_bans_may_change_between_draws() -> None:
    """`min_tokens` ends."""
    found = cutter([], samplers=["min_p"], min_p=0.3)
    assert [ids(found, ban)[-1] for ban in (frozenset([639]), frozenset([638, 639]), NONE)] == [638, 637, 639]
    assert NOTHING.after(0) == NONE


def test_a_request_that_changes_nothing_and_takes_the_best_needs_no_list() -> None:
    """The draw of greedy requests."""
    greedy: list[dict[str, Any]] = [{}, {"logit_bias": {1: 1.0}}, {"repetition_penalty": 1.1}, {"dry_multiplier": 1.0}]
    assert [cutter([], temperature=0.0, **options).is_plain for options in greedy] == [True, False, False, False]
    assert not cutter([]).is_plain
