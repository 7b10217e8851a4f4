"""Each draw gives the token that llama.cpp's own chain draws from all tokens, whatever the options are."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from helpers.draws import Draws
from helpers.ways_to_draw import DRAWS, SIZES, bans, rows_of, samplings
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.banned import Banned
from erllama_py.engine.llama.dry import MOST_KEPT
from erllama_py.engine.llama.native import library
from erllama_py.options.sampling import SAMPLERS, Sampling


@st.composite
def close_calls(draw: st.DrawFn) -> Sampling:
    """Few tokens of which some are changed."""
    orders = st.sampled_from(["penalties min_p", "penalties temperature min_p", "penalties top_k"])
    biases: st.SearchStrategy[dict[Any, float]] = st.just({}) | st.just({1: -6.0, 2: -6.0})
    return msgspec.convert({
        "temperature": draw(st.sampled_from([0.0, 1.0, 3.0])), "top_k": draw(st.integers(1, 3)),
        "min_p": draw(st.sampled_from([0.1, 0.5])), "frequency_penalty": draw(st.sampled_from([0.0, 4.0])),
        "penalty_last_n": 8, "seed": draw(st.integers(0, 99)), "logit_bias": draw(biases),
        "samplers": draw(orders).split(),
    }, Sampling)  # fmt: skip


@pytest.mark.slow
@given(
    n_vocab=st.sampled_from(SIZES), sampling=samplings(), banned=bans(), seed=st.integers(0, 2**32 - 1),
    shape=st.sampled_from(["flat", "even", "wide", "peaked", "ruled out"]), pattern=st.integers(0, 60),
    kept=st.booleans(), data=st.data(),
)  # fmt: skip
def test_a_draw_is_that_of_llama_cpps_chain_over_all_tokens(
    draws: dict[int, Draws], n_vocab: int, sampling: Sampling, banned: Banned, seed: int, shape: str, pattern: int,
    kept: bool, data: st.DataObject,
) -> None:  # fmt: skip
    """All options, orders, biases, banned tokens and histories; from a decode and from kept logits."""
    world, rows = draws[n_vocab], rows_of(seed, n_vocab, shape)
    world.decoded.show(rows)
    history = data.draw(st.lists(st.integers(0, min(n_vocab, 12) - 1), max_size=12)) * (1 + pattern // 12)
    ours, theirs = world.sampler(sampling, history, banned), world.chain(sampling, history, banned)
    drawn = [ours.sample_from(rows[i].tobytes()) if kept else ours.sample(i) for i in range(DRAWS)]
    ours.close()
    expected = [theirs.sample(i) for i in range(DRAWS)]
    theirs.close()
    assert drawn == expected


@given(
    sampling=close_calls(), seed=st.integers(0, 2**32 - 1), banned=bans(),
)  # fmt: skip
def test_tokens_that_give_way_let_the_next_ones_in(
    draws: dict[int, Draws], sampling: Sampling, seed: int, banned: Banned
) -> None:
    """Where what is penalised, biased or banned are just the likeliest, and others stand close to the border."""
    world, random = draws[5003], np.random.default_rng(seed)
    rows = random.normal(0, 0.3, (DRAWS, 5003)).astype("f4")
    rows[:, :10] += np.linspace(5, 4, 10, dtype="f4")  # the likeliest
    world.decoded.show(rows)
    ours, theirs = world.sampler(sampling, range(8), banned), world.chain(sampling, range(8), banned)
    assert [ours.sample(i) for i in range(DRAWS)] == [theirs.sample(i) for i in range(DRAWS)]
    ours.close()
    theirs.close()


@given(
    seed=st.integers(0, 2**32 - 1), temperature=st.sampled_from([0.0, 0.8]), bias=st.booleans(), banned=bans(),
    n_vocab=st.sampled_from(SIZES),
)  # fmt: skip
def test_equal_logits_are_drawn_as_by_llama_cpp_where_it_has_an_order(
    draws: dict[int, Draws], seed: int, temperature: float, bias: bool, banned: Banned, n_vocab: int
) -> None:
    """Without a sort: the lowest of equals is the likeliest, and `min_p` keeps all of them in their order."""
    rows = np.random.default_rng(seed).integers(0, 3, (DRAWS, n_vocab)).astype("f4")
    world = draws[n_vocab]
    world.decoded.show(rows)
    biases: dict[int | str, float] = {36: 1.0, 39: 1.0} if bias else {}
    sampling = Sampling(temperature=temperature, samplers=("min_p", "temperature"), min_p=0.3, logit_bias=biases)
    ours, theirs = world.sampler(sampling, (), banned), world.chain(sampling, (), banned)
    assert [ours.sample(i) for i in range(DRAWS)] == [theirs.sample(i) for i in range(DRAWS)]
    ours.close()
    theirs.close()


def test_what_is_slow_to_make_is_made_once(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request with the same options gets a copy, in the state of a new one; few are kept."""
    world, c, made = Draws(library(), 300, words), library().c, list[float]()
    make = c.llama_sampler_init_dry

    def counted(*given: Any) -> Any:
        made.append(given[1])
        return make(*given)

    monkeypatch.setattr(c, "llama_sampler_init_dry", counted)
    world.decoded.show(rows_of(3, 300, "peaked"))
    said = []
    for multiplier in (1.0, 2.0, 1.0, *range(3, MOST_KEPT + 2), 2.0, 1.0):
        sampler = world.sampler(Sampling(seed=1, dry_multiplier=multiplier, dry_allowed_length=0), [1, 2, 1, 2, 1])
        said.append([sampler.sample(i) for i in range(DRAWS)])
        sampler.close()
    assert made == [1, 2, *range(3, MOST_KEPT + 2), 2, 1]
    assert said[0] == said[2] == said[-1]
    world.making.dry.close()


EXTREME = st.sampled_from([1.2e-38, 1e-20, 1e-6, 1.0, 1e6, 3.4e38])


@given(
    temperature=EXTREME, dynatemp_range=EXTREME, dynatemp_exponent=EXTREME, repetition_penalty=EXTREME,
    frequency_penalty=EXTREME, presence_penalty=EXTREME, dry_multiplier=EXTREME, mirostat_tau=EXTREME,
    top_n_sigma=EXTREME, mirostat=st.sampled_from([0, 1, 2]), adaptive_p=st.sampled_from([None, 0.0, 1.0]),
    sign=st.sampled_from([1, -1]), used=st.permutations(SAMPLERS), count=st.integers(0, 9),
)  # fmt: skip
def test_values_at_the_bounds_draw_a_token_or_fail_the_request(
    draws: dict[int, Draws], temperature: float, dynatemp_range: float, dynatemp_exponent: float, sign: int,
    repetition_penalty: float, frequency_penalty: float, presence_penalty: float, dry_multiplier: float,
    mirostat_tau: float, top_n_sigma: float, mirostat: Any, adaptive_p: float | None, used: list[Any], count: int,
) -> None:  # fmt: skip
    """What is not a number any more after the samplers never ends the process."""
    sampling = Sampling(
        temperature=temperature, dynatemp_range=dynatemp_range, dynatemp_exponent=dynatemp_exponent, mirostat=mirostat,
        repetition_penalty=repetition_penalty, frequency_penalty=sign * frequency_penalty, adaptive_p=adaptive_p,
        presence_penalty=sign * presence_penalty, dry_multiplier=dry_multiplier, mirostat_tau=mirostat_tau,
        top_n_sigma=top_n_sigma, samplers=tuple(used[:count]), seed=1,
    )  # fmt: skip
    world = draws[300]
    world.decoded.show(rows_of(1, 300, "peaked"))
    sampler = world.sampler(sampling, [1, 2, 3, 1, 2, 3, 1, 2])
    for i in range(DRAWS):
        assert 0 <= sampler.sample(i) < 300
    sampler.close()
