"""How likely the tokens of a prompt are: on every backend, and on the thread, slice by slice."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from helpers.backends import ON_LLAMA
from helpers.by_logits import log_softmax
from helpers.engine import generate
from helpers.worker import Bench, bench, prompt
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine import prompt_scores
from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, Slice
from erllama_py.engine.jobs import Cancel, Finished, Park, PromptLogits, Report, Resume, Text
from erllama_py.errors import SamplerFailed
from erllama_py.options.request import BACKGROUND
from erllama_py.results import TokenLogprob

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]
SCORED: Any = {"report": Report(prompt_logprobs=2), "max_new_tokens": 2}


# --- backends ----------------------------------------------------------------------------------------------------


def test_the_rows_of_a_slice_are_those_of_its_tokens(backend: Backend) -> None:
    """The last one is what `logits` gives; so each row is held against a decode that ends there.

    Decodes of other sizes round differently: a hundredth with flash attention.
    """
    expected = []
    for end in range(1, len(PROMPT)):
        assert backend.decode([Slice(0, 0, PROMPT[:end], True, every=True)]) is DecodeStatus.DONE
        logprobs = log_softmax(backend.logits(0))
        [last] = backend.likeliest(0, end - 1, [PROMPT[end]], 3)
        best = sorted(range(len(logprobs)), key=lambda token: (-logprobs[token], token))[:3]
        assert [token for token, _ in last.top] == best
        assert numpy.allclose([value for _, value in last.top], logprobs[best], atol=1e-5)
        assert abs(last.logprob - logprobs[PROMPT[end]]) < 1e-5
        expected.append(last.logprob)
        assert backend.remove(0, 0, -1)
    backend.decode([Slice(0, 0, PROMPT, False, every=True)])
    whole = backend.likeliest(0, 0, PROMPT[1:], 0)
    assert numpy.allclose([one.logprob for one in whole], expected, atol=0.05)
    assert [one.top for one in whole] == [[]] * (len(PROMPT) - 1)
    assert backend.likeliest(0, 5, PROMPT[6:9], 0) == whole[5:8]


def test_slices_of_all_sorts_share_a_decode(backend: Backend) -> None:
    """Without logits, with those of the last token, with those of every one: each has its own."""
    backend.decode([Slice(0, 0, PROMPT, True)])
    alone = backend.logits(0)
    backend.remove(0, 0, -1)
    parts = [Slice(1, 0, [1, 2, 3], False), Slice(2, 0, PROMPT[:9], True, every=True), Slice(3, 0, PROMPT, True)]
    backend.decode(parts)
    logprobs = log_softmax(backend.logits(1))
    assert abs(backend.likeliest(1, 8, [7], 0)[0].logprob - logprobs[7]) < 1e-5
    assert numpy.allclose(log_softmax(backend.logits(2)), log_softmax(alone), atol=0.05)


@ON_LLAMA
def test_rows_that_were_not_wanted_are_not_there(backend: Backend) -> None:
    """A mistake of ours is said, and reads no other's memory. The stub has every row at any time."""
    backend.decode([Slice(0, 0, PROMPT, False)])
    with pytest.raises(BackendFailure, match="slice 0 of the last decode has no logits"):
        backend.likeliest(0, 0, PROMPT[1:], 0)


# --- the thread --------------------------------------------------------------------------------------------------


def found(one: Bench, request_id: int = 1) -> list[TokenLogprob | None]:
    end = one.ended(request_id)
    assert isinstance(end, Finished)
    assert end.prompt_logprobs is not None
    return end.prompt_logprobs


def whole(tokens: list[int]) -> list[TokenLogprob | None]:
    """The scores of a prompt that is read at once."""
    one = bench(context_opts={"n_batch": 512, "n_ubatch": 512})
    one.do(generate(1, tokens, **SCORED))
    one.run()
    assert len(one.decodes) == 2
    return found(one)


def test_each_token_but_the_first_has_its_score() -> None:
    """In the order of the prompt; the reply is what it is without them."""
    tokens, one, plain = prompt(1, 50), bench(), bench()
    one.do(generate(1, tokens, **SCORED))
    plain.do(generate(1, tokens, max_new_tokens=2))
    one.run()
    plain.run()
    first, *others = found(one)
    assert first is None
    assert [score.token_id for score in others if score] == tokens[1:]
    assert [len(score.top_logprobs) for score in others if score] == [2] * 49
    assert len({tuple(end.token_ids) for end in (*one.of(Finished), *plain.of(Finished))}) == 1


@pytest.mark.parametrize("rows", [1, 3, 8, 31])
def test_no_decode_has_more_rows_than_fit(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power of two of them, on its grid; what was found does not depend on it."""
    tokens = prompt(1, 50)
    expected = whole(tokens)
    one = bench()
    monkeypatch.setattr(prompt_scores, "ROWS_BYTES", rows * 4 * one.facts.n_vocab)
    one.do(generate(1, tokens, **SCORED))
    one.run()
    assert found(one) == expected
    most = {1: 1, 3: 2, 8: 8, 31: 16}[rows]
    prompts = [count for [(_, count)] in one.decodes[:-1]]
    assert prompts == [most] * (50 // most) + [50 % most] * (50 % most > 0)


def test_prompts_are_scored_one_after_the_other_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Together their rows would take twice the memory; streams go on beside them."""
    one, expected = bench(), [whole(prompt(n, 32)) for n in (1, 2)]
    monkeypatch.setattr(prompt_scores, "ROWS_BYTES", 8 * 4 * one.facts.n_vocab)
    one.do(generate(3, prompt(3), seq_id=2, max_new_tokens=12))
    one.tick()
    one.do(generate(1, prompt(1, 32), **SCORED), generate(2, prompt(2, 32), seq_id=1, **SCORED))
    one.tick(8)
    assert one.decodes[1:8] == [[(2, 1), (k % 2, 8)] for k in range(7)]
    one.run()
    assert [found(one, n) for n in (1, 2)] == expected


@pytest.mark.parametrize("after", [1, 2, 5])
def test_a_prompt_that_was_parked_is_scored_once(after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed again is not read again."""
    tokens, one = prompt(1, 40), bench()
    expected = whole(tokens)
    monkeypatch.setattr(prompt_scores, "ROWS_BYTES", 8 * 4 * one.facts.n_vocab)
    one.do(generate(1, tokens, **SCORED))
    one.tick(after)
    one.do(Park(1))
    one.run()
    one.do(Resume(request_id=1, seq_id=2, keep=0, limit=1 << 30))
    one.run()
    assert found(one) == expected


def test_a_prompt_that_is_cancelled_has_what_was_read_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of the first slices."""
    one = bench()
    monkeypatch.setattr(prompt_scores, "ROWS_BYTES", 8 * 4 * one.facts.n_vocab)
    one.do(generate(1, prompt(1, 40), **SCORED))
    one.tick(2)
    one.do(Cancel(1))
    one.run()
    assert len(found(one)) == 17


def test_a_prompt_without_a_reply_is_scored_too() -> None:
    """Nothing is drawn for it; a prompt of one token has nothing to tell."""
    one = bench()
    one.do(generate(1, prompt(1, 40), report=Report(prompt_logprobs=2), max_new_tokens=0))
    one.do(generate(2, [7], seq_id=1, report=Report(prompt_logprobs=2), max_new_tokens=0))
    one.run()
    assert found(one) == whole(prompt(1, 40))
    assert found(one, 2) == [None]


def test_rows_that_fail_fail_their_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With text of others on its way."""
    one = bench()

    def fail(*_: object) -> Any:
        raise SamplerFailed("not a number")

    monkeypatch.setattr(one.backend, "likeliest", fail)
    one.do(generate(1, prompt(1, 20), **SCORED), generate(2, prompt(2), seq_id=1, stream=True))
    one.run()
    assert not isinstance(one.ended(1), Finished)
    assert isinstance(one.ended(2), Finished)
    assert one.of(Text, 2)


# --- of the end of a prompt ----------------------------------------------------------------------------------------


def ends(tokens: list[int], start: int, *following: int, keep: int = 0, **fields: Any) -> Any:
    """A request that scores its prompt from `start` on, and what could follow it."""
    report = Report(prompt_logprobs=0, scored_from=start, next_tokens=following)
    return generate(1, tokens, report=report, max_new_tokens=0, keep=keep, **fields)


def values(scores: list[TokenLogprob | None]) -> list[tuple[int, float]]:
    return [(one.token_id, one.logprob) for one in scores if one is not None]


@pytest.mark.parametrize("rows", [1, 4, 64])
@pytest.mark.parametrize("start", [1, 2, 20, 39, 40])
def test_only_the_end_is_scored(start: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each token as where all are; what follows by the last row. What comes before is computed in slices of any
    length, and of no row of it the logits are read."""
    tokens, one = prompt(1, 40), bench()
    expected = values(whole([*tokens, 9]))[max(0, start - 1) :]
    monkeypatch.setattr(prompt_scores, "ROWS_BYTES", rows * 4 * one.facts.n_vocab)
    read: list[int] = []
    likeliest = one.backend.likeliest

    def counted(index: int, offset: int, given: Any, count: int) -> Any:
        read.append(len(given))
        return likeliest(index, offset, given, count)

    monkeypatch.setattr(one.backend, "likeliest", counted)
    one.do(ends(tokens, start, 9))
    one.run()
    assert values(found(one)) == expected
    assert sum(read) == 40 - start
    assert max(read, default=0) <= rows
    if start > rows:
        assert one.decodes[0][0][1] > min(rows, start - 2)


def test_what_could_follow_is_scored_by_kept_logits() -> None:
    """No decode is needed where they are there; each in the order that was asked."""
    tokens, one = prompt(1, 40), bench()
    one.do(ends(tokens, 40, 9, 5, 9, keep_logits=True))
    one.run()
    [kept] = one.of(PromptLogits)
    decodes = len(one.decodes)
    again = bench()
    again.do(generate(2, tokens, max_new_tokens=0))
    again.run()
    before = len(again.decodes)
    again.do(ends(tokens, 40, 9, 5, 9, keep=40, logits=kept.logits))
    again.run()
    assert (decodes, len(again.decodes) - before) == (1, 0)
    assert values(found(again)) == values(found(one))
    assert [token for token, _ in values(found(one))] == [9, 5, 9]


@pytest.mark.parametrize("logits", [b"\0\0\xc0\x7f" * 320, b"\0\0\x80\xff" * 320, b"\0\0\x80\x7f" * 320])
def test_kept_logits_that_are_no_numbers_fail_the_request_alone(logits: bytes) -> None:
    """NaN, and nothing that can come; others go on."""
    tokens, one = prompt(1, 40), bench()
    one.do(generate(2, tokens, max_new_tokens=0))
    one.run()
    one.do(ends(tokens, 40, 9, keep=40, logits=logits))
    one.do(generate(3, prompt(2), seq_id=1, max_new_tokens=2))
    one.run()
    assert not isinstance(one.ended(1), Finished)
    assert isinstance(one.ended(3), Finished)


def test_short_ends_are_scored_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many in one decode as its rows allow; those that waited go first."""
    one = bench()
    monkeypatch.setattr(prompt_scores, "ROWS_BYTES", 8 * 4 * one.facts.n_vocab)
    for number in range(4):
        report = Report(prompt_logprobs=0, scored_from=1, next_tokens=(9,))
        one.do(generate(number + 1, prompt(number, 4), seq_id=number, report=report, max_new_tokens=0))
    one.run()
    assert one.decodes == [[(0, 4), (1, 4)], [(2, 4), (3, 4)]]
    for number in range(4):
        assert values(found(one, number + 1)) == values(whole([*prompt(number, 4), 9]))


def test_scores_in_the_background_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside a stream they have an eighth of a decode, and so those of a live request do not wait for their logits."""

    def ticks(*, beside: bool) -> int:
        one = bench()
        monkeypatch.setattr(prompt_scores, "ROWS_BYTES", 32 * 4 * one.facts.n_vocab)
        one.do(generate(1, prompt(1), max_new_tokens=500))
        if beside:
            one.do(generate(2, prompt(2, 400), seq_id=1, priority=BACKGROUND, **SCORED))
        one.tick(3)
        one.do(generate(3, prompt(3, 200), seq_id=2, **SCORED))
        while not one.of(Finished, 3):
            one.tick()
        return len(one.decodes)

    assert ticks(beside=True) == ticks(beside=False)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(0, 9)), min_size=1), st.integers(1, 30))
def test_rows_of_one_decode_fit(given_rows: list[tuple[int, int]], most: int) -> None:
    """One is taken in any case; who is left has not waited longer than who is taken."""
    scoring = [(place, rows, waited) for place, (rows, waited) in enumerate(given_rows)]
    chosen = prompt_scores.as_many_as_fit(scoring, most)
    assert chosen
    assert len(chosen) == 1 or sum(given_rows[place][0] for place in chosen) <= most
    left = [waited for place, _, waited in scoring if place not in chosen]
    assert max(left, default=0) <= min(given_rows[place][1] for place in chosen)
