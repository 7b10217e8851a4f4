"""Options that name tokens, from the caller to the engine."""

from __future__ import annotations

import math
from typing import Any

import pytest
from helpers.runtime import stub_runtime
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.stub import StubVocabulary
from erllama_py.errors import InvalidOption
from erllama_py.handle.token_options import by_id
from erllama_py.options.request import parse_request_options
from erllama_py.options.sampling import MAX_BIASES

WORDS = StubVocabulary("m", 2000)


def biases(given: dict[Any, float]) -> dict[Any, float]:
    return by_id(parse_request_options({"logit_bias": given}), WORDS).logit_bias


def test_a_text_means_each_token_of_it() -> None:
    """What several entries say of a token is added up, and a control token may be named."""
    assert biases({"aba": 2.0, 98: 3.0, "<|end|>": -math.inf}) == {97: 4.0, 98: 5.0, 256: -math.inf}
    assert biases({97: -math.inf, "a": 5.0}) == {97: -math.inf}


@pytest.mark.parametrize(("given_biases", "problem"), [
    ({2000: 1.0}, "token 2000 is not in the vocabulary of 2000 tokens"),
    ({-1: 1.0}, "token -1 is not in the vocabulary of 2000 tokens"),
    ({1 << 70: 1.0}, f"token {1 << 70} is not in the vocabulary of 2000 tokens"),
    ({"aa": 9000.0}, "expected at most 10000 either way, got 18000 for token 97"),
])  # fmt: skip
def test_what_the_vocabulary_does_not_have_is_refused(given_biases: dict[Any, float], problem: str) -> None:
    """With the facts."""
    with pytest.raises(InvalidOption) as caught:
        biases(given_biases)
    assert (caught.value.option, caught.value.problem) == ("logit_bias", problem)


def test_texts_of_too_many_tokens_are_refused() -> None:
    """The bound is that of tokens, however they are named."""
    assert len(biases(dict.fromkeys(range(MAX_BIASES), 1.0))) == MAX_BIASES
    with pytest.raises(InvalidOption, match=f"at most {MAX_BIASES} tokens, got {MAX_BIASES + 1}"):
        biases({**dict.fromkeys(range(500, 500 + MAX_BIASES - 1), 1.0), "ab": 1.0})


class NoWords(StubVocabulary):
    """A vocabulary that has no tokens for some texts."""

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        return []


def test_a_text_without_tokens_is_refused() -> None:
    """It would change nothing."""
    with pytest.raises(InvalidOption, match="the text ' ' has no tokens in this model's vocabulary"):
        by_id(parse_request_options({"logit_bias": {" ": 1.0}}), NoWords("m", 300))


@given(st.dictionaries(st.integers(0, 255) | st.text("abc", min_size=1, max_size=4), st.integers(-100, 100)))
def test_biases_add_up(given_biases: dict[Any, float]) -> None:
    """Each token has the sum of what each entry says of it, as often as the entry has it."""
    expected: dict[int, float] = {}
    for name, bias in given_biases.items():
        for token in name.encode() if isinstance(name, str) else (name,):
            expected[token] = expected.get(token, 0.0) + bias
    assert biases(given_biases) == expected


@pytest.mark.anyio
async def test_a_reply_is_as_long_as_it_must_be() -> None:
    """Alone and in a session: `min_tokens` counts what is drawn for this reply, `ignore_eos` lets it run to its end."""
    async with stub_runtime() as (_, model):
        ends: Any = {"logit_bias": {"<|end|>": 1000.0}}
        assert len((await model.complete("hello", min_tokens=9, **ends)).generated) == 9
        assert (await model.complete("hello", **ends)).generated == []
        done = await model.complete("hello", ignore_eos=True, response_tokens=20, **ends)
        assert (len(done.generated), done.finish_reason) == (20, "length")
        session = model.session()
        assert [len((await session.chat("hi", min_tokens=n, **ends)).generated) for n in (3, 5)] == [3, 5]
        with pytest.raises(InvalidOption, match="token 999999 is not in the vocabulary"):
            await model.complete("hello", logit_bias={999999: 1.0})
