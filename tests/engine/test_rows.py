"""Rows of logits against sorting them, and what is cut off them against the options of the draw."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.llama.rows import WIDTH, Rows
from erllama_py.engine.llama.steps import Cut, cut
from erllama_py.options.sampling import SAMPLERS, Sampling

logits = st.floats(-50, 50, width=32) | st.sampled_from([-math.inf, math.inf, 0.0, 1.0])
# Also fewer tokens than a group has, and some more than fill the groups.
some_rows = st.lists(logits, min_size=1, max_size=4 * WIDTH + 7)


def rows_of(values: list[float]) -> Rows:
    """The values as the second of three rows."""
    others = [7.0] * len(values)
    return Rows(np, np.array([others, values, others], dtype="f4"))


@given(values=some_rows, count=st.integers(1, 5 * WIDTH))
def test_the_top_holds_the_likeliest(values: list[float], count: int) -> None:
    """Each of them once, ascending; none that is left out is as likely as any of them."""
    row = np.array(values, dtype="f4")
    ids = rows_of(values).top(1, count)
    assert list(ids) == sorted(set(ids.tolist()))
    assert len(ids) >= min(count, len(values))
    left_out = np.delete(row, ids)
    assert not len(left_out) or left_out.max() < row[ids].min()


@given(size=st.integers(1, 9 * WIDTH), count=st.integers(1, 8), seed=st.integers(0, 2**32 - 1))
def test_the_top_is_short(size: int, count: int, seed: int) -> None:
    """Few of many: no more than as many groups have, where all logits differ."""
    values = np.random.default_rng(seed).permutation(size)
    assert len(rows_of(values.tolist()).top(1, count)) <= max(count * WIDTH, size if count >= size // WIDTH else 0)


@given(values=some_rows, least=logits)
def test_all_tokens_from_a_logit_on_are_found(values: list[float], least: float) -> None:
    """Those that are just as likely too; also none, and all."""
    rows = rows_of(values)
    assert rows.from_logit(1, least).tolist() == np.flatnonzero(np.array(values, "f4") >= np.float32(least)).tolist()
    assert rows.from_logit(1, -math.inf).tolist() == list(range(len(values)))


@given(values=some_rows)
def test_the_best_is_the_first_of_the_likeliest(values: list[float]) -> None:
    """As in llama.cpp's greedy sampler."""
    assert rows_of(values).best(1) == values.index(max(values))
    assert rows_of(values).is_valid(1)


@given(values=some_rows, data=st.data())
def test_what_is_no_number_is_seen_wherever_it_is(values: list[float], data: st.DataObject) -> None:
    """In a group and beside the groups; the rows next to it are not touched by it."""
    values[data.draw(st.integers(0, len(values) - 1))] = math.nan
    rows = rows_of(values)
    assert (rows.is_valid(0), rows.is_valid(1), rows.is_valid(2)) == (True, False, True)
    assert rows.best(1) == -1


@given(
    size=st.integers(1, 400), spread=st.sampled_from([0.1, 2.0, 9.0]), seed=st.integers(0, 99), mass=st.floats(0.01, 1)
)
def test_the_nucleus_is_the_likeliest_that_reach_a_probability(
    size: int, spread: float, seed: int, mass: float
) -> None:
    """In their order, and no longer than it must be; none where all are ruled out."""
    row = np.random.default_rng(seed).normal(0, spread, size).astype("f4")
    row[::3] = -math.inf if size > 3 else row[::3]
    ids = rows_of(row.tolist()).nucleus(1, mass)
    shares = np.exp(row.astype("f8") - row.max())
    reached = shares[ids].cumsum() / shares.sum()
    assert ids.tolist() == np.argsort(-row, kind="stable")[: len(ids)].tolist()
    assert reached[-1] >= mass - 1e-5
    assert len(ids) == 1 or reached[-2] <= mass + 1e-5
    assert rows_of([-math.inf] * size).nucleus(1, mass).tolist() == []
    assert rows_of([1.0, math.inf] * size).nucleus(1, mass).tolist() == [1]


EVEN: Any = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
CUTS: list[tuple[dict[str, Any], Cut]] = [
    ({}, Cut(top=40)),
    ({"temperature": 0.0}, Cut(top=1)),
    ({"temperature": 0.0, "top_n_sigma": 1.0, "samplers": ("typical_p", "top_p"), "mirostat": 2}, Cut(top=1)),
    ({"repetition_penalty": 1.1, "dry_multiplier": 1.0, "logit_bias": {1: 2.0}}, Cut(top=40)),
    ({"top_n_sigma": 1.0}, Cut()),
    ({"top_n_sigma": 1.0, "samplers": ("top_k", "top_n_sigma")}, Cut(top=40)),
    ({"samplers": ("temperature", "top_k")}, Cut(top=40)),
    ({"samplers": ("min_p", "top_k"), "min_p": 0.5}, Cut(near=math.log(2))),
    ({"samplers": ("temperature", "min_p"), "min_p": 0.5, "temperature": 3.0}, Cut(near=3 * math.log(2))),
    ({"samplers": ("temperature", "min_p"), "dynatemp_range": 0.5}, Cut()),
    ({"samplers": ("xtc", "top_k"), "xtc_probability": 0.5}, Cut()),
    ({"samplers": ("xtc", "top_k")}, Cut(top=40)),
    ({"mirostat": 1}, Cut()),
    ({"mirostat": 2}, Cut()),
    ({"adaptive_p": 0.5}, Cut(top=40)),
    ({"typical_p": 0.9}, Cut(top=40)),
    ({"typical_p": 0.9, "top_k": 0}, Cut()),
    (EVEN, Cut()),
    (EVEN | {"samplers": ()}, Cut()),
]


@pytest.mark.parametrize(("given_options", "expected"), CUTS, ids=str)
def test_a_row_is_cut_by_the_first_sampler_that_drops_tokens(given_options: dict[str, Any], expected: Cut) -> None:
    """If it stands behind samplers that would do the same to fewer tokens."""
    found = cut(Sampling(**given_options))
    assert found.top == expected.top
    assert found.near == pytest.approx(expected.near)


def test_the_samplers_are_in_the_order_of_llama_cpp() -> None:
    """The default is its own."""
    assert Sampling().samplers == SAMPLERS
