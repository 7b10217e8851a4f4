"""The pure parts of scores: tokens, requests, sums and odds."""

from __future__ import annotations

import math

import pytest
from helpers.requests import PROMPT, submit
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.handle.scores import chosen, first_of, other_of
from erllama_py.results import CacheDelta, Score, Scores

LOGPROBS = st.lists(st.floats(-700.0, 0.0), min_size=1, max_size=6)


def scores_of(all_logprobs: list[list[float]]) -> Scores:
    scores = [
        Score(logprob=math.fsum(one), token_ids=list(range(len(one))), token_logprobs=one) for one in all_logprobs
    ]
    return Scores(scores=tuple(scores), prompt_tokens=1, prefill_tokens=1, cache_delta=CacheDelta(0, 0))


@given(st.lists(LOGPROBS, min_size=1, max_size=40), st.booleans())
def test_odds_add_up_to_one_and_have_the_order_of_the_scores(all_logprobs: list[list[float]], by_length: bool) -> None:
    """However small the probabilities are; by length, the order of the means."""
    scores = scores_of(all_logprobs)
    choice = chosen([str(n) for n in range(len(all_logprobs))], scores, by_length=by_length)
    assert math.fsum(choice.probabilities) == pytest.approx(1.0)
    logs = [one.logprob / (len(one.token_ids) if by_length else 1) for one in scores.scores]
    for log, share in zip(logs, choice.probabilities, strict=True):
        for other, its in zip(logs, choice.probabilities, strict=True):
            assert log <= other or share >= its
    assert choice.index == logs.index(max(logs))
    assert (choice.option, choice.probability) == (str(choice.index), max(choice.probabilities))


def test_options_that_cannot_come_are_equally_likely_or_never() -> None:
    """Logits of minus infinity: where there is another, it has all."""
    none = chosen(["a", "b"], scores_of([[-math.inf], [-math.inf]]), by_length=False)
    assert none.probabilities == (0.5, 0.5)
    one = chosen(["a", "b"], scores_of([[-math.inf], [-5.0]]), by_length=True)
    assert (one.option, one.probabilities) == ("b", (0.0, 1.0))


def test_each_request_asks_for_what_no_other_tells() -> None:
    """The prompt's for first tokens, each once; a continuation's for those after its first, without computing its
    last. What comes after the prompt is neither saved nor left behind."""
    request = submit(1, PROMPT).request
    first = first_of(request, [[5, 6], [7], [5], [8, 9, 10, 11]])
    assert (first.report.scored_from, first.report.next_tokens) == (len(PROMPT), (5, 7, 8))
    other = other_of(first, 2, [8, 9, 10, 11], None)
    assert other.tokens == [*PROMPT, 8, 9, 10]
    assert (other.report.scored_from, other.report.next_tokens) == (len(PROMPT) + 1, (11,))
    assert other.key == submit(1, other.tokens).request.key
    assert other.packed == submit(1, other.tokens).request.packed
    assert other.lasting == len(PROMPT)
    assert other.plan is not None
    assert other.plan.prompt_only
    assert other.queue_wait == math.inf
    assert request.lasting is None
