"""How likely the tokens of a prompt are: on every backend, and on the thread, slice by slice."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
from helpers.backends import ON_LLAMA
from helpers.engine import generate
from helpers.worker import Bench, bench, prompt

from erllama_py.engine import prompt_scores
from erllama_py.engine.backend import Backend, BackendFailure, DecodeStatus, Slice
from erllama_py.engine.jobs import Cancel, Finished, Park, Report, Resume, Text
from erllama_py.errors import SamplerFailed
from erllama_py.results import TokenLogprob

PROMPT = [ord(letter) for letter in "Once upon a time there was a user who"]
SCORED: Any = {"report": Report(prompt_logprobs=2), "max_new_tokens": 2}


def log_softmax(logits: bytes) -> Any:
    """In 64 bits, by its definition."""
    wide = numpy.frombuffer(logits, "f4").astype("f8")
    return wide - numpy.log(numpy.exp(wide - wide.max()).sum()) - wide.max()


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
