"""A sampler that stands where another one stood draws as that one does, whatever the options are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.draws import Draws
from helpers.ways_to_draw import SIZES, bans, rows_of, samplings
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.banned import Banned
from erllama_py.options.sampling import Sampling

MANY = 24
COMMON: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "repetition_penalty": 1.3},
    "plain": {"temperature": 0.0},
    "usual": {},
    "all": {"top_k": 0, "top_p": 1.0, "min_p": 0.0},
    "one is left": {"top_k": 1},
    "few are left": {"min_p": 0.4, "temperature": 0.6},
    "dynamic temperature": {"dynatemp_range": 0.5},
    "penalties": {"repetition_penalty": 1.5, "frequency_penalty": 0.5, "penalty_last_n": 8},
    "dry": {"dry_multiplier": 1.5},
    "xtc": {"xtc_probability": 0.5, "xtc_threshold": 0.02},
    "xtc alone": {"xtc_probability": 0.5, "xtc_threshold": 0.02, "samplers": ("xtc",)},
    "xtc last": {"xtc_probability": 0.5, "xtc_threshold": 0.02, "samplers": ("top_k", "temperature", "xtc")},
    "mirostat": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2, "mirostat_tau": 2.0},
    "a low mirostat": {"mirostat": 2, "mirostat_tau": 0.1},
    "adaptive-p": {"adaptive_p": 0.3, "min_p": 0.02},
    "a slow adaptive-p": {"adaptive_p": 0.7, "adaptive_p_decay": 0.99},
}  # fmt: skip


def rows(seed: int, n_vocab: int, shape: str) -> Any:
    """As many as a short reply has tokens."""
    return np.concatenate([rows_of(seed + part, n_vocab, shape) for part in range(MANY // 6)])


def check(world: Draws, sampling: Sampling, banned: Banned, history: list[int], cut: int) -> None:
    """One that draws all of them, and one that goes on after the first `cut`."""
    one = world.sampler(sampling, history, banned)
    drawn, used = [], [one.used]
    for index in range(MANY):
        drawn.append(one.sample(index))
        used.append(one.used)
    other = world.sampler(sampling, history, banned)
    other.replay(drawn[:cut], used[cut])
    assert other.used == used[cut]
    assert [other.sample(index) for index in range(cut, MANY)] == drawn[cut:]
    assert other.used == used[-1]
    one.close()
    other.close()


@pytest.mark.parametrize("name", COMMON)
@pytest.mark.parametrize("cut", [0, 1, 7, MANY - 1])
def test_a_reply_goes_on_with_the_draws_of_an_undisturbed_one(draws: dict[int, Draws], name: str, cut: int) -> None:
    """Each kind of sampler: random numbers, what is looked back on, and what the draws before have led to."""
    for shape in ("flat", "peaked"):
        world = draws[300]
        world.decoded.show(rows(5, 300, shape))
        sampling = Sampling(**({"seed": 11} | COMMON[name]))
        check(world, sampling, Banned(frozenset(), frozenset({3}), 9), [1, 2, 3, 1, 2, 3], cut)


@given(
    n_vocab=st.sampled_from(SIZES), sampling=samplings(), banned=bans(), seed=st.integers(0, 2**32 - 100),
    shape=st.sampled_from(["flat", "even", "wide", "peaked", "ruled out"]), cut=st.integers(0, MANY),
    history=st.lists(st.integers(0, 11), max_size=20),
)  # fmt: skip
def test_any_way_to_draw_goes_on_at_any_token(
    draws: dict[int, Draws], n_vocab: int, sampling: Sampling, banned: Banned, seed: int, shape: str, cut: int,
    history: list[int],
) -> None:  # fmt: skip
    """All options and orders, biases, bans and histories."""
    world = draws[n_vocab]
    world.decoded.show(rows(seed, n_vocab, shape))
    check(world, sampling, banned, history, cut)
