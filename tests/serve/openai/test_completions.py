"""`/v1/completions` as OpenAI's clients see it."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.checkpoints import turns
from helpers.scripted import Script
from helpers.served import Served, events, served
from openai.types import Completion

pytestmark = pytest.mark.anyio

PATH = "/v1/completions"
ASK: dict[str, Any] = {"model": "tiny", "prompt": "Once", "max_tokens": 6, "temperature": 0}


async def whole_of(at: Served, change: dict[str, Any]) -> Completion:
    """The whole reply, as the SDK's type."""
    answer = await at.client.post(PATH, json=ASK | change)
    assert answer.status_code == 200, answer.text
    return Completion.model_validate(answer.json(), strict=True)


async def texts_of(at: Served, change: dict[str, Any], count: int = 1) -> list[str]:
    """The texts that a stream makes; each of its choices ends with a reason."""
    answer = await at.client.post(PATH, json=ASK | change | {"stream": True})
    assert answer.status_code == 200, answer.text
    *chunks, end = events(answer.text)
    assert end == "[DONE]"
    texts, reasons = [""] * count, []
    for chunk in chunks:
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
            reasons += [choice["index"]] if choice["finish_reason"] else []
    assert sorted(reasons) == list(range(count))
    return texts


async def test_a_prompt_is_continued() -> None:
    """As text or as tokens; a request that does not say gets 16 tokens."""
    async with served() as at:
        whole = await whole_of(at, {})
        assert whole.usage is not None
        assert (whole.usage.completion_tokens, whole.choices[0].finish_reason) == (6, "length")
        assert await texts_of(at, {}) == [whole.choices[0].text]
        tokens = await at.model.tokenize("Once")
        assert (await whole_of(at, {"prompt": tokens})).choices[0].text == whole.choices[0].text
        more = await whole_of(at, {"max_tokens": None, "ignore_eos": True})
        assert more.usage is not None
        assert more.usage.completion_tokens == 16


async def test_prompts_beside_each_other() -> None:
    """Each with its replies, by their indices; the counts are of all together."""
    async with served() as at:
        alone = [(await whole_of(at, {"prompt": one})).choices[0].text for one in ("a", "bc", "def")]
        whole = await whole_of(at, {"prompt": ["a", "bc", "def"]})
        assert [choice.text for choice in whole.choices] == alone
        assert [choice.index for choice in whole.choices] == [0, 1, 2]
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 18
        assert await texts_of(at, {"prompt": ["a", "bc", "def"]}, 3) == alone
        several = {"prompt": ["a", [98, 99]], "n": 2, "temperature": 1, "seed": 5}
        whole = await whole_of(at, several)
        assert await texts_of(at, several, 4) == [choice.text for choice in whole.choices]


async def test_many_prompts_wait_for_room() -> None:
    """More than the queue takes: the first decides whether the request is let in."""
    async with served({"scheduler": {"max_pending": 1}, "context_opts": {"n_ctx": 512, "n_seq_max": 1}}) as at:
        whole = await whole_of(at, {"prompt": [f"p{number}" for number in range(20)], "max_tokens": 2})
        assert len(whole.choices) == 20


async def odds_of(at: Served, change: dict[str, Any]) -> tuple[str, dict[str, list[Any]]]:
    """The text and its log-probabilities; of the first token OpenAI's own API tells none, and its SDK has no type."""
    answer = await at.client.post(PATH, json=ASK | change)
    (choice,) = answer.json()["choices"]
    return choice["text"], choice["logprobs"]


async def test_odds_of_a_prompt_and_its_reply() -> None:
    """With `echo` both; the texts of the tokens are the text."""
    async with served() as at:
        asked = {"echo": True, "logprobs": 2}
        text, odds = await odds_of(at, asked)
        assert (text[:4], "".join(odds["tokens"])) == ("Once", text)
        assert odds["text_offset"] == list(range(10))
        assert odds["token_logprobs"][0] is None
        assert all(one <= 0 for one in odds["token_logprobs"][1:])
        assert [len(top) for top in odds["top_logprobs"][1:]] == [2] * 3 + [
            len(top) for top in odds["top_logprobs"][4:]
        ]
        text, scored = await odds_of(at, asked | {"max_tokens": 0})
        assert (text, scored["tokens"]) == ("Once", odds["tokens"][:4])
        assert scored["token_logprobs"][1:] == pytest.approx(odds["token_logprobs"][1:4])
        _, by_tokens = await odds_of(at, asked | {"prompt": [79, 110, 99, 101]})
        assert by_tokens["tokens"] == odds["tokens"]
        assert (await texts_of(at, {"echo": True, "n": 2, "temperature": 1}, 2))[1].startswith("Once")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": []}, "prompt"), ({"prompt": ["a", 1]}, "prompt"), ({"prompt": None}, "prompt"),
        ({"prompt": ["x"] * 129}, "prompt"), ({"prompt": [[]]}, None), ({"prompt": [70_000]}, None),
        ({"suffix": "end"}, "suffix"), ({"best_of": 3}, "best_of"), ({"max_tokens": 0}, "max_tokens"),
        ({"model": ""}, "model"), ({"echo": True, "logprobs": 1, "stream": True}, "echo"),
        ({"logprobs": 21}, "logprobs"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(change: dict[str, Any], param: str | None) -> None:
    """Before anything is computed."""
    async with served() as at:
        for stream in (False, True):
            answer = await at.client.post(PATH, json=ASK | {"stream": stream} | change)
            assert answer.status_code in (400, 413)
            assert answer.json()["error"]["param"] == param


async def test_one_of_several_fails() -> None:
    """Then the request does, and the others end."""
    async with served(script=Script("a")) as at:
        for stream in (False, True):
            answer = await at.client.post(PATH, json=ASK | {"prompt": ["a", [300_000]], "stream": stream})
            assert "error" in answer.text
            while at.model.queue_depth:
                await turns(1)


@pytest.mark.anyio
@pytest.mark.parametrize("prompt", [[65, "a"], ["a", 65], [65, [66]], [[65], 66], [[65], "a", 7], [True], []])
async def test_tokens_and_texts_are_not_mixed(prompt: list[Any]) -> None:
    """A list of tokens has tokens alone."""
    async with served() as at:
        answer = await at.client.post(PATH, json=ASK | {"prompt": prompt})
        assert answer.status_code == 400, answer.text
