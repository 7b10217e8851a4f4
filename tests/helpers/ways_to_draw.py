"""Any way to draw, as strategies: the options of samplers, what is banned, and rows of logits of many shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from erllama_py.engine.banned import Banned
from erllama_py.options.sampling import SAMPLERS, Sampling
from helpers.draws import NOTHING

SIZES = (40, 128, 300, 5003)  # fewer tokens than groups have, whole groups, and some left over
DRAWS = 6


def off_or(*values: Any) -> st.SearchStrategy[Any]:
    """The first, which is off, half of the time."""
    return st.just(values[0]) | st.sampled_from(values[1:])


@st.composite
def samplings(draw: st.DrawFn) -> Sampling:
    """Any way to draw that the door lets in, and some that it does not."""
    order = draw(st.just(list(SAMPLERS)) | st.permutations(SAMPLERS).map(list))
    bias = st.sampled_from([5.0, -5.0, 0.5, 1e4, -1e4])
    biases: st.SearchStrategy[dict[Any, float]] = st.just({}) | st.dictionaries(st.integers(0, 39), bias, max_size=5)
    return Sampling(
        temperature=draw(st.sampled_from([0.0, 0.5, 0.8, 1.0, 1.7])),
        dynatemp_range=draw(off_or(0.0, 0.4)), dynatemp_exponent=draw(st.sampled_from([1.0, 2.0])),
        top_k=draw(st.sampled_from([0, 1, 5, 40, 200, 10**6])), top_p=draw(off_or(1.0, 0.95, 0.5)),
        min_p=draw(off_or(0.0, 0.05, 0.3, 0.999)), typical_p=draw(off_or(1.0, 0.9, 0.2)),
        top_n_sigma=draw(off_or(0.0, 1.0, 2.0)), xtc_probability=draw(off_or(0.0, 0.5, 1.0)),
        xtc_threshold=draw(st.sampled_from([0.1, 0.01])), repetition_penalty=draw(off_or(1.0, 1.2, 0.8)),
        frequency_penalty=draw(off_or(0.0, 0.5, -0.5)), presence_penalty=draw(off_or(0.0, 0.7, -2.0)),
        penalty_last_n=draw(st.sampled_from([-1, 0, 5, 64])), dry_multiplier=draw(off_or(0.0, 0.8, 3.0)),
        dry_allowed_length=draw(st.sampled_from([0, 1, 2])), dry_penalty_last_n=draw(st.sampled_from([-1, 0, 16])),
        dry_sequence_breakers=draw(st.sampled_from([(), ("\n", "a"), ("th",)])), mirostat=draw(off_or(0, 1, 2)),
        mirostat_tau=draw(st.sampled_from([2.0, 5.0])), adaptive_p=draw(off_or(None, 0.3, 0.9)),
        logit_bias=draw(biases), seed=draw(st.integers(0, 2**32 - 1)), samplers=tuple(order),
    )  # fmt: skip


@st.composite
def bans(draw: st.DrawFn) -> Banned:
    """Nothing, or some of the tokens that there are in every vocabulary, more of them at first; never all."""
    some = st.frozensets(st.integers(0, 35), max_size=20)
    always, at_first = draw(some), draw(some)
    return draw(st.just(NOTHING) | st.just(Banned(always, always | at_first, draw(st.integers(0, 5)))))


def rows_of(seed: int, n_vocab: int, shape: str) -> Any:
    """Rows as models give them: spread evenly, with few tokens far above the others, or with some ruled out."""
    random = np.random.default_rng(seed)
    rows = random.normal(0, {"flat": 0.5, "wide": 8.0}.get(shape, 3.0), (DRAWS, n_vocab))
    if shape == "peaked":
        rows[:, random.integers(0, n_vocab, 12)] += random.exponential(6.0, 12)
    if shape == "ruled out":
        rows[random.random(rows.shape) < 0.4] = -math.inf
        rows[:, [36, 37, 38, 39]] = random.normal(0, 3.0, 4)  # what `bans` never bans
    return rows.astype("f4")
