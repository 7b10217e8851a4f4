"""The scripted stub says what its script says."""

from __future__ import annotations

import pytest
from helpers.runtime import drain
from helpers.scripted import scripted

pytestmark = pytest.mark.anyio


async def test_a_scripted_model_says_the_replies_in_order() -> None:
    """Each request gets the next reply, the last one again and again; a function sees the prompt."""
    async with scripted("first é", lambda prompt: f"you said {prompt[-5:]!r}") as (_, model, script):
        assert (await model.complete("hello")).reply == "first é"
        assert (await model.complete("good bye")).reply == "you said 'd bye'"
        assert (await model.complete("other")).reply == "you said 'other'"
    assert script.prompts == ["hello", "good bye", "other"]


async def test_controls_are_hidden_and_words_are_seen() -> None:
    """As with control tokens and user-defined tokens of real models."""
    async with scripted("<c>a<w>b", controls=("<c>",), words=("<w>",)) as (_, model, _script):
        completion = await model.complete("hello")
        assert completion.reply == "a<w>b"
        assert await model.detokenize(completion.generated) == "<c>a<w>b"
        _, _, word, _ = completion.generated
        assert await model.tokenize("<c><w>", special=False) == [*b"<c>", word]


async def test_a_structure_is_stronger_than_the_script() -> None:
    """What it does not allow is not said; what it leaves no choice about is taken to be of the script."""
    async with scripted('{"a": true}', controls=("<c>",)) as (_, model, _script):
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        assert (await model.complete("hello", json_schema=schema)).parsed == {"a": True}
        assert (await model.complete("hello", choice=["no", "never"])).reply in ("no", "never")


async def test_a_scripted_stream() -> None:
    """Token by token, as a model's."""
    async with scripted("some text") as (_, model, _script):
        events = await drain(model.stream("hello"))
    assert [event.text for event in events if hasattr(event, "text")] == [*"some text"]
